# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets which pCPUs where pins are exclusive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .._cpuset import show_cpuset
from .._errors import LayoutError
from .._model.host import Host, Node
from .._policy import Policy

#: Pins that give a guest pCPUs of its own.
EXCLUSIVE = ("core", "cpu")


@dataclass(frozen=True)
class CoreDemand:
    """One guest core that wants pCPUs of its own.

    Attributes:
        node: the host node that backs its cell.
        vcpus: its threads, ascending.
    """

    node: Node
    vcpus: tuple[int, ...]


def exclusive_cpus(host: Host, pins: Iterable[tuple[int, ...]]) -> frozenset[int]:
    """Return the pCPUs that some pins take for themselves.

    A vCPU that is held to one pCPU, or to the threads of one core, was put there on purpose: no
    other guest may have those. A pin to anything wider shares.

    Args:
        host: whose cores they are.
        pins: the pCPUs of each pinned vCPU.
    """
    taken: set[int] = set()
    for cpus in pins:
        if cpus and (len(cpus) == 1 or set(cpus).issubset(host.core(cpus[0]))):
            taken.update(cpus)
    return frozenset(taken)


class CpuAllocator:
    """The pCPUs of one host while guests are given exclusive pins.

    Args:
        in_use: pCPUs that guests outside of this call own.
    """

    def __init__(self, in_use: frozenset[int]) -> None:
        self._in_use = set(in_use)
        self._cores: dict[int, dict[int, tuple[int, ...]]] = {}
        self._kept: dict[int, dict[tuple[int, ...], tuple[int, ...]]] = {}
        self._holders: dict[int, int] = {}
        # By node and reserved pCPUs: the first core that has one left. The others fill up from
        # there, so that nobody has to look at all of them again.
        self._first_open: dict[tuple[int, frozenset[int]], int] = {}

    def reserve_current(
        self,
        owner: int,
        current: Sequence[tuple[int, tuple[int, ...]]],
        demands: Sequence[CoreDemand],
        policy: Policy,
    ) -> None:
        """Let a guest keep the guest cores that are already pinned as the policy asks.

        Adding a guest to a host must not move, and so restart, the ones that are there.
        """
        now = dict(current)
        reserved = frozenset(policy.reserved_cpus)
        kept = self._kept.setdefault(owner, {})
        for demand in demands:
            seat = tuple(now.get(vcpu, ()) for vcpu in demand.vcpus)
            cpus = self._fits(seat, demand, policy, reserved)
            if cpus and not self._in_use.intersection(cpus):
                self._in_use.update(cpus)
                self._holders.update(dict.fromkeys(cpus, owner))
                kept[demand.vcpus] = cpus

    def allocate(
        self, owner: int, demands: Sequence[CoreDemand], policy: Policy
    ) -> dict[int, tuple[int, ...]]:
        """Give every guest core of one guest its pCPUs, or take none for it.

        Returns:
            The pCPUs of every vCPU.

        Raises:
            LayoutError: when a node has too few left.
        """
        kept = self._kept.get(owner, {})
        seats = dict(kept)
        reserved = frozenset(policy.reserved_cpus)
        given: list[int] = []
        by_node: dict[int, list[CoreDemand]] = {}
        for demand in demands:
            if demand.vcpus not in kept:
                by_node.setdefault(demand.node.id, []).append(demand)
        for waiting in by_node.values():
            node, width = waiting[0].node, len(waiting[0].vcpus)
            free = list(islice(self._free_seats(node, width, policy, reserved), len(waiting)))
            if len(free) < len(waiting):
                self._in_use.difference_update(given)
                raise LayoutError(self._too_few(node, width, demands, len(free), kept, policy))
            for demand, cpus in zip(waiting, free):
                seats[demand.vcpus] = cpus
                self._in_use.update(cpus)
                given += cpus
        self._holders.update(dict.fromkeys(given, owner))
        return {
            vcpu: cpus if policy.pinning == "core" else (cpus[thread],)
            for vcpus, cpus in seats.items()
            for thread, vcpu in enumerate(vcpus)
        }

    def hold(self, owner: int, owned: frozenset[int]) -> bool:
        """Let a guest that was given no pins stay where it is.

        Args:
            owner: the guest.
            owned: the pCPUs that it has for itself now.

        Returns:
            False where others were given some of these already.
        """
        if any(self._holders.get(cpu, owner) != owner for cpu in owned):
            return False
        self._in_use.update(owned)
        return True

    def _free_seats(
        self, node: Node, width: int, policy: Policy, reserved: frozenset[int]
    ) -> Iterator[tuple[int, ...]]:
        """Yield what a guest core of *width* threads could have on the node, best first."""
        in_use = self._in_use
        open_cores = self._open_cores(node, reserved)
        if policy.pinning == "core":
            for core in open_cores:
                usable = _open_threads(core, reserved)
                if len(usable) >= width and in_use.isdisjoint(usable):
                    yield usable
            return
        threads = (
            tuple(cpu for cpu in core if cpu not in in_use and cpu not in reserved)
            for core in open_cores
        )
        if width > 1:
            for free in threads:
                for start in range(0, len(free) - width + 1, width):
                    yield free[start : start + width]
            return
        # Cores of their own first: two vCPUs that the guest takes for cores share one last.
        free_threads = list(threads)
        for turn in range(max((len(free) for free in free_threads), default=0)):
            for free in free_threads:
                if turn < len(free):
                    yield (free[turn],)

    def _open_cores(self, node: Node, reserved: frozenset[int]) -> Iterator[tuple[int, ...]]:
        """Yield the node's cores, without those at the beginning that are full."""
        key = (node.id, reserved)
        first = self._first_open.get(key, 0)
        while first < len(node.cores) and self._in_use.issuperset(
            _open_threads(node.cores[first], reserved)
        ):
            first += 1
        self._first_open[key] = first
        return (node.cores[number] for number in range(first, len(node.cores)))

    def _fits(
        self,
        seat: tuple[tuple[int, ...], ...],
        demand: CoreDemand,
        policy: Policy,
        reserved: frozenset[int],
    ) -> tuple[int, ...]:
        """Return the pCPUs of a seat that is as the policy would have it, else ()."""
        if not seat[0]:
            return ()
        usable = _open_threads(self._core(demand.node, seat[0][0]), reserved)
        if policy.pinning == "core":
            fits = len(usable) >= len(seat) and all(pins == usable for pins in seat)
            return usable if fits else ()
        cpus = tuple(pins[0] for pins in seat if len(pins) == 1)
        whole = len(set(cpus)) == len(seat) and set(usable).issuperset(cpus)
        return cpus if whole else ()

    def _core(self, node: Node, cpu: int) -> tuple[int, ...]:
        """Return the core of the node that a pCPU is a thread of, () for another node's."""
        if node.id not in self._cores:
            self._cores[node.id] = {thread: core for core in node.cores for thread in core}
        return self._cores[node.id].get(cpu, ())

    def _too_few(
        self,
        node: Node,
        width: int,
        demands: Sequence[CoreDemand],
        free: int,
        kept: dict[tuple[int, ...], tuple[int, ...]],
        policy: Policy,
    ) -> str:
        wanted = [demand for demand in demands if demand.node.id == node.id]
        own = [kept[demand.vcpus] for demand in wanted if demand.vcpus in kept]
        free += len(own)
        unit = (
            f"cores with {width} free thread{'s' if width > 1 else ''}"
            if policy.pinning == "core" or width > 1
            else "pCPUs of their own"
        )
        barred = frozenset(policy.reserved_cpus)
        narrow = sum(0 < len(_open_threads(core, barred)) < width for core in node.cores)
        hint = (
            f"{narrow} of its cores {'have' if narrow > 1 else 'has'} fewer threads, which threads "
            "1 can use; set that, "
            if narrow
            else ""
        )
        held = self._in_use.difference(*own).union(policy.reserved_cpus).intersection(node.cpus)
        return (
            f"pinning '{policy.pinning}' needs {len(wanted)} {unit} on host node {node.id}, which "
            f"has {free} left (pCPUs reserved or used by other guests: "
            f"{show_cpuset(held)}); {hint}reduce the guest's vCPUs, use more nodes, or set pinning "
            "to 'node'."
        )


def _open_threads(core: tuple[int, ...], reserved: frozenset[int]) -> tuple[int, ...]:
    return tuple(cpu for cpu in core if cpu not in reserved) if reserved else core
