# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out that refusals name, applied; and hosts whose guests are refused, for books.py.

A refusal may only name what was tried on that guest. Read are options and values whatever they
are, and the few phrases that mean an option without its name.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import Case, GuestSpec, HostSpec
from bookjudge import Fault, Sentence, sentences

Texts = dict[str, str]
_PLAIN = r"true|false|[0-9]+(?:\.[0-9]+)?(?: [KMG]iB)?"
_VALUE = rf"(?:(?:one of|at most|at least) )?(?:'([^']*)'|({_PLAIN}))"
#: "`threads: 1` would fit", and "set threads to 1, or cells to 2".
_WOULD_FIT = re.compile(r"[`']([a-z_]+: ?[^`']+)[`'] would fit")
_SET_TO = re.compile(rf"(?:\bset|\bor|,) ([a-z_]+) to {_VALUE}")
#: Not options of a call, or not options at all.
_OTHER = {"managed_save", "state_dir", "mode", "timeout", "it"}


@dataclass(frozen=True)
class Way:
    """A way out.

    Attributes:
        options: what to set, and to what.
        words: how the refusal says it.
    """

    options: dict[str, Any]
    words: str


def _multiple(figure: str, guest: GuestSpec) -> int:
    return -(-guest.vcpus // int(figure)) * int(figure)


#: Phrases with their option and what it is set to, of the figure in it and the guest.
_PHRASES: tuple[tuple[str, str, Callable[[str, GuestSpec], Any]], ...] = (
    (r"(raise) cpu_overcommit", "cpu_overcommit", lambda _figure, _guest: 64),
    (r"(lower) reserved_memory", "reserved_memory", lambda _figure, _guest: 0),
    (r"reserve (fewer)", "reserved_cpus", lambda _figure, _guest: None),
    (r"at least ([0-9]+) vCPUs", "vcpus", lambda figure, _guest: int(figure)),
    (r"a multiple of ([0-9]+)(?: vCPUs)?[,;.]", "vcpus", _multiple),
    (r"set it to ([0-9]+) or [0-9]+ KiB", "memory", lambda figure, _guest: f"{figure} KiB"),
    (r"at least ([0-9]+) KiB", "memory", lambda figure, _guest: f"{figure} KiB"),
)


def ways(said: Sentence, guest: GuestSpec) -> Iterator[Way]:
    """Yield what a refusal of a guest names."""
    for text in _WOULD_FIT.findall(said.text):
        pairs = (one.partition(":") for one in text.split(", "))
        options = {option: value.strip() for option, _colon, value in pairs}
        yield Way(options, f"`{text}` would fit")
    for option, quoted, plain in _SET_TO.findall(said.text):
        if option not in _OTHER:
            yield Way({option: quoted or plain}, f"set {option} to {quoted or plain}")
    for phrase, option, value_of in _PHRASES:
        for match in re.finditer(phrase, said.text):
            yield Way({option: value_of(match[1], guest)}, match[0].strip(",;."))


def entry(guest: GuestSpec, **more: Any) -> dict[str, Any]:
    """Return a guest as `vnuma_partition` takes it."""
    return {"name": guest.name, **guest.policy(), **more}


def faults(made: Case, texts: Texts, result: dict[str, Any]) -> Iterator[Fault]:
    """(e) Apply each way out that an error of a plan names, one at a time."""
    called = {guest.name: guest for guest in made.guests if guest.in_call}
    _warnings, errors = sentences(result)
    for error in errors:
        for way in ways(error, called[error.about]):
            entries = [
                entry(guest, **(way.options if name == error.about else {}))
                for name, guest in called.items()
            ]
            try:
                again = plan_host(list(texts.values()), made.host.facts(), guests=entries)
                said = [one["msg"] for one in again["errors"] if one["name"] == error.about]
            except AnsibleFilterError as refused:
                said = [str(refused)]
            if said:
                words = re.sub("[0-9]+", "N", way.words)
                verdict = "does not help" if _alike(said[0], error.text) else "is not enough"
                text = f"{error.about}: {error.text} With it: {said[0]}"
                yield Fault("e", f"'{words}' {verdict}", text)


def _alike(one: str, other: str) -> bool:
    """Tell whether two refusals have one reason, whatever the figures."""
    one, other = (re.sub("[0-9]+", "N", text.partition(";")[0]) for text in (one, other))
    return one == other


def refused(seed: int) -> Case:
    """Return a host on which one guest asks for something odd; many are refused."""
    draw = random.Random(f"ways {seed}")  # noqa: S311 - sizes, and no secrets
    count = draw.choice((1, 2, 2, 4))
    cores, memory = draw.choice((2, 4, 8)), draw.choice((8, 16))
    small = draw.random() < 0.4
    pool = ((2048, draw.choice((0, 512, 2048))),)
    host = HostSpec(
        (cores,) * (count - 1) + (max(2, cores // 2) if small else cores,),
        (memory,) * (count - 1) + (memory // 2 if small else memory,),
        threads=draw.choice((1, 2)),
        domain_cores=draw.choice((0, 2)),
        pools=(pool,) * count if draw.random() < 0.4 else (),
    )
    others = [_other(draw, f"old{one}", cores) for one in range(draw.randint(0, 3))]
    return Case(host, (*others, _odd(draw, host)))


def _other(draw: random.Random, name: str, cores: int) -> GuestSpec:
    options = {
        "nodes": "auto",
        "pinning": draw.choice(("node", "core", "cpu")),
        "placement": draw.choice(("pack", "spread")),
        "reserved_memory": 0,
    }
    vcpus, gib = draw.randint(1, cores), draw.choice((1, 1, 4))
    return GuestSpec(
        name, vcpus, gib * 1024, in_call=False, earlier=True, options=tuple(options.items())
    )


def _odd(draw: random.Random, host: HostSpec) -> GuestSpec:
    last = max(host.node_cpus[0])
    odd: dict[str, Any] = draw.choice(
        (
            {},
            {"threads": draw.choice((2, 4))},
            {"cells": draw.choice((2, 3, 4, 8))},
            {"distribution": "interleave", "threads": 2},
            {"distribution": "round_robin", "threads": draw.choice((1, 2))},
            {"distribution": "round_robin", "sockets": 2},
            {"split": "equal"},
            {"split": "proportional"},
            {"split": "proportional", "distribution": "interleave"},
            {"sockets": draw.choice((2, 3))},
            {"dies": "host"},
            {"reserved_cpus": ",".join(map(str, host.node_cpus[0]))},
            {"reserved_cpus": f"0,{last}"},
            {"vcpus": draw.choice((3, 6, 10))},
            {"memory": draw.choice(("1 MiB", "3 GiB", "12 GiB"))},
            {"granule": "1536 KiB"},
            {"reserved_memory": f"{draw.choice((4096, 100000))} MiB"},
            {"emulator_pinning": "0,900"},
            {"auto_nodes": "0"},
        )
    )
    chosen = {
        "nodes": draw.choice(("auto", "auto", "all", "0")),
        "pinning": draw.choice(("node", "node", "cache", "core", "cpu")),
        **odd,
    }
    vcpus = draw.choice((1, 2, 3, 4, 6, 8, 12, 20))
    topology = draw.choice([0, 0, *(one for one in (1, 2, 4) if vcpus % one == 0)])
    memory = draw.choice((1024, 2048, 5 * 1024, 12 * 1024, 40 * 1024))
    page = 2048 if draw.random() < 0.2 else 0
    return GuestSpec(
        "odd", vcpus, memory, threads=topology, page_kib=page, options=tuple(chosen.items())
    )
