# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pCPUs of a host node may be pinned to, and which of the free ones a cell takes.

A cell takes pCPUs of one kind, and in the fewest cache domains.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from .._cpuset import Ids, format_cpuset, show_cpuset
from .._errors import LayoutError
from .._model.host import Host, Node
from .._policy import Policy

#: Pins that give a guest pCPUs of its own.
EXCLUSIVE = ("core", "cpu")


def follows_domains(policy: Policy) -> bool:
    """Tell whether the pins of a guest keep to cache domains where they can."""
    return policy.pinning in (*EXCLUSIVE, "cache")


def on_host(policy: Policy, host: Host) -> Policy:
    """Return a policy with ``isolated`` among the reserved pCPUs as the pCPUs that it means.

    Raises:
        LayoutError: when nobody knows which they are.
    """
    if not policy.reserves_isolated:
        return policy
    if host.isolated_cpus is None:
        raise LayoutError(
            "reserved_cpus 'isolated' cannot be used: which pCPUs are isolated is read on the host "
            "itself, and is not known here; name them, or give them in topology as isolated_cpus."
        )
    reserved = tuple(sorted({*policy.reserved_cpus, *host.isolated_cpus}))
    return replace(policy, reserved_cpus=reserved, reserves_isolated=False)


def open_threads(cpus: Ids, reserved: Collection[int]) -> Ids:
    """Return those of some pCPUs, such as the threads of a core, that are not reserved."""
    return tuple(cpu for cpu in cpus if cpu not in reserved) if reserved else cpus


def open_cpus(node: Node, policy: Policy) -> Ids:
    """Return the pCPUs of a node that are not reserved."""
    return open_threads(node.cpus, frozenset(policy.reserved_cpus))


def balanced_cpus(host: Host, cpus: Ids) -> Ids:
    """Return those of some pCPUs that the kernel balances threads over.

    Nothing is balanced onto an isolated pCPU, nor among several of them: threads that may run on
    all of these pile up on the first (``isolcpus=``, kernel-parameters in Linux).
    """
    return open_threads(cpus, frozenset(host.isolated_cpus or ()))


def check_online(host: Host, option: str, cpus: Ids) -> None:
    """Refuse pCPUs that cannot be pinned to.

    Raises:
        LayoutError: with those that the host does not have online.
    """
    online = {cpu for node in host.nodes for cpu in node.cpus}
    absent = [cpu for cpu in cpus if cpu not in online]
    if absent and host.nodes:
        raise LayoutError(
            f"{option} '{format_cpuset(cpus)}' names pCPU {show_cpuset(absent)}, which the host "
            f"does not have online; its pCPUs are {show_cpuset(online)}."
        )


def usable_cores(node: Node, policy: Policy, threads: int) -> int:
    """Return how many cores of a node could back guest cores of so many threads."""
    width = threads if policy.pinning in EXCLUSIVE else 1
    reserved = frozenset(policy.reserved_cpus)
    return sum(len(open_threads(core, reserved)) >= width for core in node.cores)


#: What a guest core can have: the pCPUs of its threads.
Seat = Ids
#: What is taken of cache domains: seats, or dies of them.
_T = TypeVar("_T")
#: Tells kinds of cores apart; the fastest is the smallest.
Kind = tuple[int, int]


def kind_of(host: Host, core: Ids) -> Kind:
    """Return the kind of a core.

    Cores are of one kind where the host says so, and have as many threads: on a hybrid processor
    those with SMT are the fast ones, and nothing else may tell them apart.
    """
    group = next((index for index, cpus in enumerate(host.cpu_kinds) if core[0] in cpus), 0)
    return group, -len(core)


class Chooser:
    """Chooses seats on one node."""

    def __init__(self, host: Host, node: Node) -> None:
        self._cores = {cpu: core for core in node.cores for cpu in core}
        self._kinds = {cpu: kind_of(host, core) for cpu, core in self._cores.items()}
        self._node = node

    def kinds(self, seats: Collection[Seat]) -> set[Kind]:
        """Return the kinds of the cores that some seats are on."""
        return {self._kind(seat) for seat in seats}

    def able_kinds(
        self,
        cores: Collection[Ids],
        seats: Mapping[Ids, Collection[Seat]],
        count: int,
        kept: Collection[Seat],
    ) -> list[Kind]:
        """Return the kinds of cores that have so many seats, the fastest first.

        *kept* are seats that the cell has already.
        """
        found: dict[Kind, int] = {}
        for core in cores:
            found[self._kind(core)] = found.get(self._kind(core), 0) + len(seats[core])
        wanted = self.kinds(kept)
        return [kind for kind in sorted(found) if wanted <= {kind} and found[kind] >= count]

    def choose(
        self, layers: Sequence[Sequence[Seat]], count: int, kept: Collection[Seat]
    ) -> list[Seat]:
        """Return so many of the free seats.

        There are at least as many, in layers, the one to take from first being first. *kept* are
        seats that the cell has already.
        """
        wanted = self.kinds(kept)
        kinds = sorted(self.kinds([seat for layer in layers for seat in layer]))
        found = {
            kind: [[seat for seat in layer if self._kind(seat) == kind] for layer in layers]
            for kind in kinds
        }
        able = [kind for kind in kinds if wanted <= {kind} and sum(map(len, found[kind])) >= count]
        # A core of its own for every vCPU is worth more than a faster one that two share.
        able.sort(key=lambda kind: (self._core_count(found[kind]) < count, kind))
        chosen: list[Seat] = []
        for kind in able[:1] or kinds:
            for layer in found[kind]:
                part = min(len(layer), count - len(chosen))
                chosen += self._in_domains(layer, part, [*kept, *chosen])
        return chosen

    def domains(self, seats: Collection[Seat]) -> set[int]:
        """Return the cache domains that some seats are in, by number; -1 for none that is known."""
        return {self._domain(seat) for seat in seats}

    def choose_dies(
        self, layers: Sequence[Sequence[Seat]], size: int, count: int, kept: Collection[Seat]
    ) -> list[Seat]:
        """Return free seats for dies, each within one cache domain; none where they do not fit.

        *size* is in guest cores. The layer of free seats to take from first is first; *kept* are
        seats that the cell has already.
        """
        inside = self.domains(kept)
        for depth in range(1, len(layers) + 1):
            seats = [seat for layer in layers[:depth] for seat in layer]
            for kinds in (*({kind} for kind in sorted(self.kinds(seats))), self.kinds(seats)):
                found = self._dies([seat for seat in seats if self._kind(seat) in kinds], size)
                if self.kinds(kept) <= kinds and sum(map(len, found.values())) >= count:
                    return [seat for die in _take(found, count, inside) for seat in die]
        return []

    def _dies(self, seats: Sequence[Seat], size: int) -> dict[int, list[list[Seat]]]:
        """Return the dies of so many seats that each cache domain has room for."""
        return {
            domain: [group[first : first + size] for first in range(0, len(group) - size + 1, size)]
            for domain, group in self._by_domain(seats).items()
            if domain >= 0 and len(group) >= size
        }

    def room_for_dies(self, layers: Sequence[Sequence[Seat]]) -> list[int]:
        """Return how many free seats each cache domain has, by its number."""
        free = [self._domain(seat) for layer in layers for seat in layer]
        return [free.count(domain) for domain in range(len(self._node.cache_domains))]

    def _in_domains(
        self, seats: Sequence[Seat], count: int, beside: Collection[Seat]
    ) -> list[Seat]:
        """Return so many seats in few cache domains.

        Those where the cell is already come first; then the tightest that holds the rest, so that
        whole domains are left for guests that fill them; where none does, the largest.
        """
        return _take(self._by_domain(seats), count, {self._domain(seat) for seat in beside})

    def _by_domain(self, seats: Sequence[Seat]) -> dict[int, list[Seat]]:
        groups: dict[int, list[Seat]] = {}
        for seat in seats:
            groups.setdefault(self._domain(seat), []).append(seat)
        return groups

    def _core_count(self, layers: Sequence[Sequence[Seat]]) -> int:
        return len({self._cores[seat[0]] for layer in layers for seat in layer})

    def _kind(self, seat: Seat) -> Kind:
        return self._kinds[seat[0]]

    def _domain(self, seat: Seat) -> int:
        return self._node.domain_numbers.get(seat[0], -1)


def _take(groups: dict[int, list[_T]], count: int, inside: set[int]) -> list[_T]:
    """Take so many: where the cell is already, then from the tightest domain for the rest."""
    chosen: list[_T] = []
    while len(chosen) < count:
        left = count - len(chosen)
        domain = min(groups, key=_order(groups, inside, left))
        chosen += groups.pop(domain)[:left]
    return chosen


def _order(
    groups: Mapping[int, Sequence[object]], inside: set[int], left: int
) -> Callable[[int], tuple[bool, bool, int, int]]:
    def order(domain: int) -> tuple[bool, bool, int, int]:
        free = len(groups[domain])
        holds = free >= left
        return domain not in inside, not holds, free if holds else -free, domain

    return order
