# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions that no one would write, for the filters: a sentence or an answer, and soon.

    python tests/lab/fuzz.py [--count 10000] [--seed N] [--from NUMBER]

Definitions of the tests are mutated, as trees by the words of libvirt's schema and as bytes. Each
is a process of its own that has a second of processor time and 200 MiB. Those that fail are in
build/fuzz; each has a number, and is made again from that and the seed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_to_facts
from lxml import etree

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests/integration"))

from guests import RICH, anuma
from rules import RULES

_SCHEMAS = Path("/usr/share/libvirt/schemas")
_HOSTS = ("rfc-8n240c", "asym-3n", "hugepages-2n", "1n8c", "gpu-nodes-0-8-252")
SECONDS, BYTES = 1, 200 << 20

#: Where the devices of `_passed_through` are.
_DEVICES = [
    {"device": f"0000:{bus}:00.0", "host_node": node, "root_complex": f"pci0000:{bus[0]}0"}
    for bus, node in (("3b", 0), ("5e", 0), ("af", 1))
]
#: Options of a call; the first is what most users have.
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"nodes": "auto", "pinning": "core"},
    {"cells": 3, "distribution": "interleave"},
    {"distribution": "round_robin", "pinning": "cpu", "memory_mode": "none"},
    {"dies": "host", "sockets": "cells", "pinning": "cache", "split": "proportional"},
    {"emulator_pinning": "nodes", "iothread_pinning": "nodes", "vcpus": 5, "memory": "3 GiB"},
    {"state": "absent"},
    {"devices": "host", "device_nodes": _DEVICES},
)
#: Where the schema is not at hand, and for the unit test, which is the same on every machine.
WORDS = (
    *("domain", "name", "uuid", "metadata", "vcpu", "vcpus", "cputune", "vcpupin", "emulatorpin"),
    *("iothreads", "iothreadpin", "vcpusched", "cachetune", "numatune", "memory", "memnode", "cpu"),
    *("topology", "numa", "cell", "distances", "sibling", "hugepages", "page", "memoryBacking"),
    *("maxMemory", "currentMemory", "target", "node", "size", "os", "type", "devices", "address"),
    *("id", "cpus", "cpuset", "nodeset", "mode", "unit", "value", "placement", "current", "slots"),
    *(
        "sockets",
        "dies",
        "clusters",
        "cores",
        "threads",
        "cellid",
        "iothread",
        "scheduler",
        "model",
    ),
)
_VALUES = (
    *("", " ", "0", "1", "-1", "+1", " 7 ", "1_0", "٣", "0x10", "1.5", "1e9", "nan", "8", "64"),
    *("16383", "16384", "65535", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "9" * 5000),
    *(
        "0-16383",
        "0-4294967295",
        "^0",
        "0-3,^2",
        "3-0",
        "0,,1",
        ",".join(map(str, range(0, 999, 2))),
    ),
    *(
        "strict",
        "preferred",
        "auto",
        "static",
        "kvm",
        "KiB",
        "TiB",
        "EB",
        "no such",
        "yes",
        "x" * 9999,
    ),
    *("naïve", "\u202e\u2066", "\x85\x9b", "{{ 7 * 7 }}", "../../x", "&<>\"'", "\U0001d54f"),
)
_BYTES = (
    *(b"<", b">", b"&", b"'", b"]]>", b"<!--", b"<![CDATA[", b"<?x ?>", b"<?xml version='1.0'?>"),
    *(
        b"<!DOCTYPE domain [<!ENTITY a 'aaaa'>]>",
        b"&a;",
        b"&#0;",
        b"&#x10ffff;",
        b"&#155;",
        b"\x00",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
        b" xmlns='urn:x'",
        b" xmlns:q='urn:q'",
    ),
    *(b"<vcpu>4</vcpu>", b"<cell/>", b"</domain>", b"<domain>"),
)


@dataclass(frozen=True)
class Finding:
    """A case that was neither answered nor refused in a sentence; *what* says what came of it."""

    number: int
    text: str
    what: str


def _passed_through() -> str:
    """Return a guest with devices of the host, each behind a port of its own."""
    devices = "<controller type='pci' index='0' model='pcie-root'/>"
    for index, entry in enumerate(_DEVICES, 1):
        bus = str(entry["device"])[5:7]
        devices += (
            f"<controller type='pci' index='{index}' model='pcie-root-port'/>"
            f"<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x{bus}' "
            "slot='0x00' function='0x0'/></source><address type='pci' domain='0x0000' "
            f"bus='0x{index:02x}' slot='0x00' function='0x0'/></hostdev>"
        )
    return anuma(name="gpu").replace("</devices>", f"{devices}</devices>")


@lru_cache(maxsize=1)
def _seeds() -> tuple[str, ...]:
    """Return definitions of the tests, as they are and partitioned."""
    plain = [
        _passed_through(),
        anuma(),
        anuma(vcpus=4),
        RICH,
        *(rule.definition("kvm") for rule in RULES),
    ]
    found = []
    for text in dict.fromkeys(plain):
        found.append(text)
        try:
            found.append(partition_domain(text, _facts(_HOSTS[0]), **_OPTIONS[-1]))
        except AnsibleFilterError:
            continue
    return tuple(found)


@cache
def _facts(name: str) -> dict[str, Any]:
    text = (PROJECT / f"tests/hosts/{name}.xml").read_text(encoding="utf-8")
    return host_to_facts(parse_capabilities(text))


def schema_words() -> tuple[str, ...]:
    """Return the names of elements and attributes, and the values, that libvirt's schema has."""
    text = "".join(
        (_SCHEMAS / f"{name}.rng").read_text(encoding="utf-8")
        for name in ("domaincommon", "cputypes", "basictypes")
        if (_SCHEMAS / f"{name}.rng").exists()
    )
    names = re.findall(r"<(?:element|attribute) name=['\"]([\w:-]+)", text)
    return tuple(sorted({*WORDS, *names, *re.findall(r"<value>([\w-]+)</value>", text)}))


class _Mutation:
    """One definition that is not as it should be."""

    def __init__(self, chance: random.Random, words: Sequence[str]) -> None:
        self.chance = chance
        self.words = words

    def text(self) -> str:
        """Return it; one in three is not XML any more, as likely as not."""
        seed = self.chance.choice(_seeds())
        root = etree.fromstring(seed)
        for _number in range(self.chance.choice((0, 1, 1, 2, 3, 8))):
            self.chance.choice(
                (
                    *(self._remove, self._repeat, self._set, self._set, self._write, self._write),
                    *(self._rename, self._move, self._add, self._copy),
                )
            )(root)
        data: bytes = etree.tostring(root, encoding="utf-8")
        if self.chance.random() < 0.33:
            for _number in range(self.chance.choice((1, 1, 2, 5))):
                data = self._bytes(data)
        # What is read from a file is text before the filter sees it.
        return data.decode("utf-8", "surrogateescape")

    def _one(self, root: Any) -> Any:
        # Their names are texts; those of comments are functions.
        return self.chance.choice([one for one in root.iter() if isinstance(one.tag, str)])

    def _word(self) -> str:
        return self.chance.choice(self.words).rpartition(":")[2]

    def _value(self) -> str:
        return self.chance.choice((self.chance.choice(_VALUES), self._word()))

    def _remove(self, root: Any) -> None:
        one = self._one(root)
        if one is not root:
            one.getparent().remove(one)

    def _repeat(self, root: Any) -> None:
        one = self._one(root)
        if one is not root:
            text = etree.tostring(one, encoding="utf-8")
            for _number in range(self.chance.choice((1, 1, 1, 9, 300))):
                one.addnext(etree.fromstring(text))

    def _copy(self, root: Any) -> None:
        """Put an element of another definition somewhere."""
        other = etree.fromstring(self.chance.choice(_seeds()))
        self._one(root).append(self._one(other))

    def _set(self, root: Any) -> None:
        one = self._one(root)
        name = self.chance.choice([*one.attrib, self._word()])
        self._try(lambda: one.set(name, self._value()))

    def _write(self, root: Any) -> None:
        one = self._one(root)
        if self.chance.random() < 0.5 and one.attrib:
            name = self.chance.choice(list(one.attrib))
            self._try(lambda: one.set(name, self._value()))
        else:
            self._try(lambda: setattr(one, "text", self._value()))

    def _rename(self, root: Any) -> None:
        one = self._one(root)
        self._try(lambda: setattr(one, "tag", self._word()))

    def _move(self, root: Any) -> None:
        one, to = self._one(root), self._one(root)
        if one is not root and one not in to.iterancestors() and one is not to:
            to.append(one)

    def _add(self, root: Any) -> None:
        def add() -> None:
            one = etree.SubElement(self._one(root), self._word())
            one.set(self._word(), self._value())

        self._try(add)

    @staticmethod
    def _try(change: Callable[[], object]) -> None:
        """Change something; lxml refuses what XML cannot have, which bytes can."""
        try:
            change()
        except ValueError:
            return

    def _bytes(self, data: bytes) -> bytes:
        at, end = sorted(self.chance.randrange(len(data) + 1) for _end in range(2))
        piece = data[at : min(end, at + 2000)]
        return self.chance.choice(
            (
                data[:at] + data[at + len(piece) :],
                data[:at] + piece * self.chance.choice((2, 3, 50)) + data[at:],
                data[:at] + self.chance.choice(_BYTES) + data[at:],
                data[:at] + bytes([self.chance.randrange(256)]) + data[at + 1 :],
                self.chance.choice(_BYTES) + data,
                data + self.chance.choice(_BYTES),
                data[:at],
                data.decode("utf-8", "replace").encode("utf-16"),
            )
        )


def case(seed: str, number: int, words: Sequence[str]) -> tuple[str, Callable[[], object]]:
    """Return a definition, and a call of a filter with it."""
    chance = random.Random(f"{seed}-{number}")  # noqa: S311 - the same again is what is wanted
    text = _Mutation(chance, words).text()
    facts = _facts(chance.choice(_HOSTS))
    options = chance.choice(_OPTIONS)
    if chance.random() < 0.3:
        others = [chance.choice(_seeds()) for _other in range(chance.choice((0, 1, 5)))]
        call: Callable[[], object] = partial(plan_host, [*others, text], facts, **options)
    else:
        call = partial(partition_domain, text, facts, **options)
    return text, call


def tried(call: Callable[[], object]) -> str:
    """Call a filter in a process of its own; return 'answer', 'sentence', or what came of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        # Ansible prints warnings.
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        verdict = _in_child(call)
        os.write(writing, verdict.encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _pid, status = os.waitpid(child, 0)
    return said or f"it was killed by signal {os.WTERMSIG(status)}"


def _in_child(call: Callable[[], object]) -> str:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    taken = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (taken, taken))
    # At the hard limit it would be killed without a name to it.
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        call()
    except AnsibleFilterError as error:
        said = str(error)
        return "sentence" if said.endswith(".") and "\n" not in said else f"no sentence: {said}"
    except BaseException:
        return traceback.format_exc()[-4000:]
    return "answer"


def findings(
    seed: str, numbers: Sequence[int], words: Sequence[str], verdicts: dict[str, int]
) -> Iterator[Finding]:
    """Try cases by their numbers, count their verdicts, and yield those that failed."""
    _seeds()
    for name in _HOSTS:
        _facts(name)
    for number in numbers:
        text, call = case(seed, number, words)
        what = tried(call)
        verdict = what if what in ("answer", "sentence") else "neither"
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        if verdict == "neither":
            yield Finding(number, text, what)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Definitions that no one would write.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--from", type=int, default=0, dest="first")
    options = parser.parse_args()
    print(f"fuzz: --seed {options.seed} --count {options.count} --from {options.first}", flush=True)
    folder = PROJECT / "build/fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, int] = {}
    numbers = range(options.first, options.first + options.count)
    for one in findings(options.seed, numbers, schema_words(), verdicts):
        path = folder / f"{options.seed}-{one.number}.xml"
        path.write_text(one.text, encoding="utf-8", errors="surrogateescape")
        print(f"\n{one.number}, {path}:\n{one.what}", flush=True)
    print("fuzz: " + ", ".join(f"{count} {name}" for name, count in sorted(verdicts.items())))
    return 1 if "neither" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
