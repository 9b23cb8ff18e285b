# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random hosts whose guests are planned, and a judge of the definitions that come out.

    python tests/lab/books.py [--count 400] [--from 0] [--small] [--refused]

Says in how many cases which rule is broken and by what; with --small also the smallest case that
was found of each kind. With --refused most of the guests ask for something odd, and rule (e) is
what is looked at. The rules are those of bookjudge.py:

a) What a guest owns, nothing else of the call is pinned to, unless a warning says so by name.
b) What is bound to a node strictly is there, or the plan names a guest that has too much.
c) Guest cores fit the host's where nodes were chosen.
d) Exclusive pins avoid guests that are confined while other cores are free.
e) A way out that an error names works.
f) Where a guest is no longer confined, the plan says so.
g) No two guests own threads of one core while another core of the node is whole.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import bookways
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import Case, GuestSpec, HostSpec, case
from bookjudge import Fault, verdict
from bookways import Texts, entry, refused


def definitions(made: Case) -> Texts:
    """Return the definitions that the call finds: some were planned before, one by one."""
    texts = {guest.name: guest.xml() for guest in made.guests}
    facts = made.host.facts()
    for guest in made.guests:
        if guest.earlier:
            result = plan_host(list(texts.values()), facts, guests=[entry(guest)])
            texts.update({one["name"]: one["definition"] for one in result["guests"]})
    return texts


def settled(made: Case, texts: Texts) -> Case:
    """Return the case with guests that an earlier plan refused as what they are: not ours."""
    guests = tuple(
        replace(guest, earlier=guest.earlier and texts[guest.name] != guest.xml())
        for guest in made.guests
    )
    return replace(made, guests=guests)


def faults(made: Case) -> list[Fault]:
    """Plan a case, and return what is wrong with the answer."""
    try:
        texts = definitions(made)
        called = [guest for guest in made.guests if guest.in_call]
        entries = [entry(guest) for guest in called]
        if not entries:
            return []
        result = plan_host(list(texts.values()), made.host.facts(), guests=entries)
    except AnsibleFilterError as error:
        return [Fault("x", "the whole call is refused", str(error))]
    except Exception as error:
        return [Fault("x", f"{type(error).__name__}", str(error))]
    judged = verdict(settled(made, texts), texts, result)
    return [*judged.faults(), *bookways.faults(made, texts, result)]


def smaller(made: Case) -> Iterator[Case]:
    """Yield cases that are a step simpler, the largest steps first."""
    for number in range(len(made.guests)):
        yield replace(made, guests=made.guests[:number] + made.guests[number + 1 :])
    for host in _smaller_hosts(made.host):
        yield replace(made, host=host)
    for number, guest in enumerate(made.guests):
        for one in _smaller_guests(guest):
            yield replace(made, guests=(*made.guests[:number], one, *made.guests[number + 1 :]))


def _smaller_hosts(host: HostSpec) -> Iterator[HostSpec]:
    if len(host.cores) > 1:
        yield replace(
            host, cores=host.cores[:-1], memory_gib=host.memory_gib[:-1], pools=host.pools[:-1]
        )
    plain: dict[str, Any] = {"offline": (), "isolated": 0, "domain_cores": 0, "pools": ()}
    for name, value in plain.items():
        if getattr(host, name) != value:
            yield replace(host, **{name: value})
    if host.step > 1:
        yield replace(host, step=1)
    if host.threads > 1:
        yield replace(host, threads=host.threads // 2)
    if max(host.cores) > 2:
        yield replace(host, cores=tuple(max(2, one // 2) for one in host.cores))
        yield replace(host, cores=tuple(max(2, one - 2) for one in host.cores))
    if host.near:
        yield replace(host, near=False)


def _smaller_guests(guest: GuestSpec) -> Iterator[GuestSpec]:
    plain = GuestSpec("", 1, 1024)
    for one in fields(guest):
        if one.name not in ("name", "vcpus", "memory_mib", "in_call", "options"):
            value = getattr(plain, one.name)
            if getattr(guest, one.name) != value:
                yield replace(guest, **{one.name: value})
    for option, value in guest.options:
        if option != "nodes" and value != "node":
            yield replace(
                guest,
                options=tuple(
                    (name, "node" if name == "pinning" else old)
                    for name, old in guest.options
                    if name != option or name == "pinning"
                ),
            )
    for vcpus in sorted({1, 2, guest.vcpus // 2, guest.vcpus - 1}):
        if 0 < vcpus < guest.vcpus and vcpus % max(1, guest.threads) == 0:
            pins = guest.pins[:vcpus]
            online = guest.online if guest.online < vcpus else 0
            yield replace(guest, vcpus=vcpus, pins=pins, online=online)
    if guest.memory_mib > 1024:
        yield replace(guest, memory_mib=max(1024, guest.memory_mib // 2048 * 1024))
    for name in ("cpuset", "emulator", "iothread_pins"):
        if len(getattr(guest, name)) > 1:
            yield replace(guest, **{name: getattr(guest, name)[:-1]})


def shrunk(made: Case, holds: Callable[[Case], bool], most: int = 1000) -> Case:
    """Return the smallest case that is found for which something still holds."""
    tried = 0
    again = True
    while again:
        again = False
        for one in smaller(made):
            tried += 1
            if tried > most:
                return made
            if _is_whole(one) and holds(one):
                made, again = one, True
                break
    return made


def _is_whole(made: Case) -> bool:
    """Tell whether everything that a case names is there."""
    cpus = {cpu for every in made.host.node_cpus.values() for cpu in every}
    for guest in made.guests:
        pinned = {*guest.cpuset, *guest.emulator, *guest.iothread_pins, *sum(guest.pins, ())}
        nodes = {*guest.bound, *(node for _size, node in guest.dimms if node >= 0)}
        named = guest.policy().get("nodes", "auto")
        if named not in ("auto", "all"):
            nodes |= {int(one) for one in named.split(",")}
        if pinned - cpus or nodes - {*made.host.node_cpus}:
            return False
    return all(made.host.node_cpus.values())


def has(rule: str, kind: str) -> Callable[[Case], bool]:
    """Return whether a case has a fault of a kind."""
    return lambda made: any((one.rule, one.kind) == (rule, kind) for one in faults(made))


def described(made: Case, rule: str, kind: str) -> str:
    """Return a case and its fault of a kind, as a person reads it."""
    found = next(one for one in faults(made) if (one.rule, one.kind) == (rule, kind))
    default = GuestSpec("", 0, 0)
    lines = [f"   host: {made.host}"]
    for guest in made.guests:
        keys = ", ".join(
            f"{one.name}={getattr(guest, one.name)}"
            for one in fields(guest)
            if getattr(guest, one.name) != getattr(default, one.name) and one.name != "options"
        )
        lines.append(f"   guest: {keys} {guest.policy()}")
    return "\n".join([*lines, f"   {found.text}"])


def main(argv: list[str]) -> int:
    """Judge, and print the table; 1 where a rule is broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--refused", action="store_true")
    chosen = parser.parse_args(argv)
    make = refused if chosen.refused else case
    by_rule: Counter[str] = Counter()
    by_kind: Counter[tuple[str, str]] = Counter()
    seeds: dict[tuple[str, str], int] = {}
    broken = 0
    for seed in range(chosen.first, chosen.first + chosen.count):
        found = faults(make(seed))
        broken += bool(found)
        by_rule.update({one.rule for one in found})
        kinds = {(one.rule, one.kind) for one in found}
        by_kind.update(kinds)
        for one in kinds:
            seeds.setdefault(one, seed)
    print(f"{broken} of {chosen.count} cases break a rule")
    print(", ".join(f"{rule}: {count}" for rule, count in sorted(by_rule.items())))
    for (rule, kind), count in sorted(by_kind.items(), key=lambda one: (one[0][0], -one[1])):
        seed = seeds[rule, kind]
        print(f"{count:4} {rule}) {kind} (first: {seed})")
        if chosen.small:
            print(described(shrunk(make(seed), has(rule, kind)), rule, kind))
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
