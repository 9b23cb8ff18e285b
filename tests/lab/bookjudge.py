# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the plan of a host adds up, by the definitions that it writes, for books.py.

It shares no code with the collection: what both got wrong in the same place would not be seen. It
is lenient where the rules leave something open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from bookcases import GIB, Case, HostSpec
from bookguests import Cpus, Guest, core_of, cores_on, nodes_of, numbers, read

_SET = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*")


@dataclass(frozen=True)
class Fault:
    """A rule that a plan breaks.

    Attributes:
        rule: its letter.
        kind: which sort of breach it is; the same for all examples of it.
        text: this one.
    """

    rule: str
    kind: str
    text: str


@dataclass(frozen=True)
class Sentence:
    """Something that a plan says.

    Attributes:
        about: the guest that it is told of, '' for the call.
        text: what is said.
    """

    about: str
    text: str

    def names(self, guest: str) -> bool:
        """Tell whether a guest is meant."""
        return guest == self.about or re.search(rf"\b{re.escape(guest)}\b", self.text) is not None

    def sets(self) -> Cpus:
        """Return every number that stands in it, those between two ends included."""
        return frozenset().union(*(numbers(found) for found in _SET.findall(self.text)))


@dataclass(frozen=True)
class Verdict:
    """What is looked at: a case, all guests as they are after the call, and all that was said.

    Attributes:
        host: of the case.
        guests: those that the call planned, and the others as they were.
        before: all of them as they were.
        warnings: of the plan.
        errors: of the plan.
    """

    host: HostSpec
    guests: Sequence[Guest]
    before: Sequence[Guest]
    warnings: Sequence[Sentence]
    errors: Sequence[Sentence]

    def faults(self) -> list[Fault]:
        """Return all of them, but for what remedies do."""
        return [
            *self._owned(),
            *self._memory_short(),
            *self._too_many_cores(),
            *self._run_over(),
            *self._let_out(),
            *self._share_a_core(),
        ]

    def _owned(self) -> Iterator[Fault]:
        """(a) What somebody owns, nothing else is pinned to, unless the plan says so by name."""
        for owner in self.guests:
            owned = owner.owned(self.host)
            for user in self.guests:
                if user is owner or not (owner.planned or user.planned):
                    continue
                for what, cpus in user.uses():
                    both = owned & cpus
                    unsaid = sorted(cpu for cpu in both if not self._says(user.name, cpu))
                    if unsaid:
                        by_hand = what != "a vCPU" and user.others.get(what) in (
                            frozenset(user.spec.emulator),
                            frozenset(user.spec.iothread_pins),
                        )
                        yield Fault(
                            "a",
                            f"{what} of {_which(user)}{', by hand,' if by_hand else ''} "
                            f"on pCPUs of {_which(owner)}",
                            f"{owner.name} owns {unsaid}, where {what} of {user.name} may run",
                        )

    def _says(self, guest: str, cpu: int) -> bool:
        return any(
            said.names(guest) and "pCPU" in said.text and cpu in said.sets()
            for said in self.warnings
        )

    def _memory_short(self) -> Iterator[Fault]:
        """(b) What is bound to nodes is there, or the plan names the guests that have too much."""
        nodes = list(self.host.node_cpus)
        bound = [
            (guest, *piece)
            for guest in self.guests
            for piece in guest.memory
            if piece[1] in ("strict", "restrictive") and piece[0]
        ]
        sizes = sorted({page for _guest, _nodes, _mode, _kib, page in bound})
        for size in sizes:
            pieces = [piece for piece in bound if piece[4] == size]
            groups = {piece[1] for piece in pieces} | {frozenset(nodes)}
            groups |= {one | other for one, other in combinations(groups, 2)}
            for group in sorted(groups, key=lambda one: (len(one), sorted(one))):
                inside = [piece for piece in pieces if piece[1] <= group]
                needed = sum(piece[3] for piece in inside)
                there = sum(self._capacity(nodes.index(node), size) for node in group & {*nodes})
                if needed > there and any(piece[0].planned for piece in inside):
                    names = sorted({piece[0].name for piece in inside})
                    if not self._says_memory(names, group):
                        yield _short(size, inside, group, needed, there, self.host)
                    break

    def _capacity(self, number: int, size: int) -> int:
        pools = dict(self.host.pool(number))
        if size:
            return size * pools.get(size, 0)
        return self.host.memory_gib[number] * GIB - sum(one * n for one, n in pools.items())

    def _says_memory(self, names: Sequence[str], group: Cpus) -> bool:
        return any(
            any(said.names(name) for name in names)
            and any(group & numbers(found) for found in _node_sets(said.text))
            and re.search("memory|bind|hugepage|bound", said.text)
            for said in (*self.warnings, *self.errors)
        )

    def _too_many_cores(self) -> Iterator[Fault]:
        """(c) Where `nodes: auto` put a guest just now, the guest cores fit the host's."""
        old = {guest.name: nodes_of(guest, self.host) for guest in self.before}
        for node, cores in self.host.node_cores.items():
            new = [
                guest
                for guest in self.guests
                if guest.planned
                and guest.spec.policy().get("nodes") == "auto"
                and node in nodes_of(guest, self.host) - old[guest.name]
            ]
            taken = {guest.name: cores_on(guest, self.host, node) for guest in self.guests}
            if new and sum(taken.values()) > len(cores):
                figures = ", ".join(f"{name} {float(one):g}" for name, one in taken.items() if one)
                beyond = any(
                    guest.threads > self.host.threads and taken[guest.name] for guest in self.guests
                )
                own = any(guest.pinning in ("core", "cpu") for guest in new)
                yield Fault(
                    "c",
                    "guest cores "
                    + ("of threads beyond the host's " if beyond else "")
                    + f"do not fit where auto put {'an exclusive' if own else 'a shared'} one",
                    f"node {node} has {len(cores)} cores, and guests there have {figures}",
                )

    def _run_over(self) -> Iterator[Fault]:
        """(d) Exclusive pins avoid a guest that is confined while other cores are free."""
        cores, taken = core_of(self.host), self._taken()
        confined = [(guest, guest.confined_to(self.host)) for guest in self.guests]
        for owner in self.guests:
            if not owner.planned or owner.pinning not in ("core", "cpu"):
                continue
            for guest, cpus in confined:
                both = owner.owned(self.host) & cpus
                width = max((len(cores[cpu]) for cpu in both), default=0)
                home = next((node for node in self.host.node_cpus.values() if both & {*node}), ())
                free = [cpu for cpu in home if not cores[cpu] & taken and len(cores[cpu]) >= width]
                if both and free and guest is not owner:
                    yield Fault(
                        "d",
                        f"exclusive pins of pinning {owner.pinning} run over a confined guest",
                        f"{owner.name} owns {sorted(both)}, which {guest.name} is confined to, "
                        f"and the cores of {free} are free",
                    )

    def _taken(self) -> Cpus:
        """Return what exclusive pins would rather not take, or that are some already."""
        return frozenset[int]().union(
            *(guest.confined_to(self.host) for guest in self.guests),
            *(guest.owned(self.host) for guest in self.guests),
            *(cpus for guest in self.guests for cpus in guest.others.values()),
            self.host.isolated_cpus(),
        )

    def _share_a_core(self) -> Iterator[Fault]:
        """(g) No guest that is new owns a thread of a core of another while one is whole."""
        taken = self._taken()
        for node, cores in self.host.node_cores.items():
            whole = [core for core in cores if not taken & {*core}]
            for core in cores:
                owners = [guest for guest in self.guests if guest.owned(self.host) & {*core}]
                new = [guest for guest in owners if guest.planned and not guest.spec.earlier]
                if len(owners) > 1 and new and whole and not {*core} & {*self.host.isolated_cpus()}:
                    yield Fault(
                        "g",
                        "guests own threads of one core while another is whole",
                        f"{' and '.join(guest.name for guest in owners)} share core {core} of node "
                        f"{node}, and {whole[0]} is whole",
                    )
                    break

    def _let_out(self) -> Iterator[Fault]:
        """(f) Where a guest is no longer confined, the plan says so."""
        for old, new in zip(self.before, self.guests):
            cpus = old.confined_to(self.host) if new.planned else frozenset()
            wider = frozenset[int]().union(*new.pins.values()) - cpus
            said = any(
                one.names(new.name) and (cpus <= one.sets() or "confine" in one.text)
                for one in self.warnings
            )
            if cpus and wider and not said:
                yield Fault(
                    "f",
                    "a guest in the call is no longer confined, without a word",
                    f"{new.name} was confined to {sorted(cpus)}, and may run on {sorted(wider)}",
                )


def _which(guest: Guest) -> str:
    if guest.planned:
        return "a guest in the call"
    return "a guest placed earlier" if guest.pinning else "a guest that is not ours"


def _node_sets(text: str) -> list[str]:
    return re.findall(r"nodes? (\d[\d,-]*)", text)


def _short(
    size: int,
    inside: Sequence[tuple[Guest, Cpus, str, int, int]],
    group: Cpus,
    needed: int,
    there: int,
    host: HostSpec,
) -> Fault:
    kind = f"hugepages of {'a size that is there' if there else 'no pool'}" if size else "memory"
    if not size and any(host.pools):
        kind += " next to pools"
    if any(guest.spec.dimms and guest.spec.dimms[0][1] >= 0 for guest, *_rest in inside):
        kind += ", with a nodemask"
    if len({guest.name for guest, *_rest in inside}) == 1:
        kind += ", one guest alone"
    parts = ", ".join(
        f"{guest.name} {kib >> 10} MiB" for guest, _nodes, _mode, kib, _page in inside
    )
    return Fault(
        "b",
        f"{kind} bound beyond what is there, without a word",
        f"nodes {sorted(group)} have {there >> 10} MiB{f' in pages of {size} KiB' if size else ''},"
        f" and {needed >> 10} MiB are bound there ({parts})",
    )


def sentences(result: dict[str, Any]) -> tuple[list[Sentence], list[Sentence]]:
    """Return the warnings and the errors of a plan."""
    warnings = [Sentence("", text) for text in result["warnings"]]
    for guest in result["guests"]:
        warnings += [Sentence(guest["name"], text) for text in guest["warnings"]]
    return warnings, [Sentence(error["name"], error["msg"]) for error in result["errors"]]


def verdict(case: Case, before: dict[str, str], result: dict[str, Any]) -> Verdict:
    """Return what is to be looked at of a call.

    Args:
        case: what was asked.
        before: the definitions by name as the call found them.
        result: what it returned.
    """
    planned = {guest["name"]: guest["definition"] for guest in result["guests"]}
    return Verdict(
        case.host,
        [read(planned.get(g.name, before[g.name]), g, g.name in planned) for g in case.guests],
        [read(before[g.name], g, False) for g in case.guests],
        *sentences(result),
    )
