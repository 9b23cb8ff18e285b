# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets which pCPUs where pins are exclusive."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .._cpuset import show_cpuset
from .._errors import LayoutError
from .._model.host import Host, Node
from .._model.layout import Ids
from .._policy import Policy
from .caches import Chooser, Seat
from .cores import balanced_cpus, open_threads


@dataclass(frozen=True)
class CoreDemand:
    """One guest core that wants pCPUs of its own.

    Attributes:
        cell: id of its cell.
        node: the host node that backs the cell.
        vcpus: its threads, ascending.
        die: number of the guest's die that is to be within one cache domain, None for no such die.
    """

    cell: int
    node: Node
    vcpus: tuple[int, ...]
    die: int | None = None


@dataclass(frozen=True)
class Pins:
    """The pCPUs that a guest was given.

    Attributes:
        vcpu_pins: of every vCPU.
        warnings: sentences for the user.
    """

    vcpu_pins: tuple[Ids, ...]
    warnings: tuple[str, ...] = ()


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


def _by_die(demands: Sequence[CoreDemand]) -> list[list[CoreDemand]]:
    """Return guest cores by their dies; none for cores that are in no die."""
    dies: dict[int, list[CoreDemand]] = {}
    for demand in demands:
        if demand.die is not None:
            dies.setdefault(demand.die, []).append(demand)
    return list(dies.values())


class CpuAllocator:
    """The pCPUs of one host while guests are given exclusive pins.

    Args:
        host: the host.
        in_use: pCPUs that guests outside of this call own.
    """

    def __init__(self, host: Host, in_use: frozenset[int]) -> None:
        self._host = host
        self._in_use = set(in_use)
        self._cores: dict[int, dict[int, tuple[int, ...]]] = {}
        self._kept: dict[int, dict[tuple[int, ...], tuple[int, ...]]] = {}
        self._holders: dict[int, int] = {}
        self._choosers: dict[int, Chooser] = {}

    def has_moved(self, owner: int, demands: Sequence[CoreDemand]) -> bool:
        """Tell whether any guest core of a guest was given pCPUs that it did not have."""
        kept = self._kept.get(owner, {})
        return any(demand.vcpus not in kept for demand in demands)

    @property
    def in_use(self) -> frozenset[int]:
        """The pCPUs that some guest owns."""
        return frozenset(self._in_use)

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
        for waiting in _by_die(demands):
            self._leave_broken(owner, waiting)

    def allocate(self, owner: int, demands: Sequence[CoreDemand], policy: Policy) -> Pins:
        """Give every guest core of one guest its pCPUs, or take none for it.

        Raises:
            LayoutError: when a node has too few left.
        """
        kept = self._kept.get(owner, {})
        seats = dict(kept)
        given: list[int] = []
        by_node: dict[int, dict[int, list[CoreDemand]]] = {}
        for demand in demands:
            if demand.vcpus not in kept:
                by_node.setdefault(demand.node.id, {}).setdefault(demand.cell, []).append(demand)
        for cells in by_node.values():
            missing = self._missing(cells, demands, kept, policy)
            if missing:
                self._in_use.difference_update(given)
                raise LayoutError(missing)
            for cell, waiting in cells.items():
                node, width = waiting[0].node, len(waiting[0].vcpus)
                beside = [
                    kept[one.vcpus] for one in demands if one.cell == cell and one.vcpus in kept
                ]
                free = self._free_seats(node, width, policy)
                dies = _by_die(waiting)
                if dies:
                    chosen = self._chooser(node).choose_dies(free, len(dies[0]), len(dies), beside)
                else:
                    chosen = self._chooser(node).choose(free, len(waiting), beside)
                if len(chosen) < len(waiting):
                    self._in_use.difference_update(given)
                    raise LayoutError(self._no_die(dies, free, policy))
                for demand, cpus in zip(waiting, chosen):
                    seats[demand.vcpus] = cpus
                    self._in_use.update(cpus)
                    given += cpus
        self._holders.update(dict.fromkeys(given, owner))
        pins = {
            vcpu: cpus if policy.pinning == "core" else (cpus[thread],)
            for vcpus, cpus in seats.items()
            for thread, vcpu in enumerate(vcpus)
        }
        return Pins(
            tuple(pins[vcpu] for vcpu in sorted(pins)),
            (*self._mixed_kinds(demands, seats), *self._mixed_isolation(seats)),
        )

    def _leave_broken(self, owner: int, die: Sequence[CoreDemand]) -> None:
        """Let a guest leave what it has of a die that is not whole, or in several cache domains."""
        kept = self._kept[owner]
        seats = {one.vcpus: kept[one.vcpus] for one in die if one.vcpus in kept}
        domains = self._chooser(die[0].node).domains(seats.values())
        if seats and (len(seats) < len(die) or len(domains) > 1 or -1 in domains):
            for vcpus, cpus in seats.items():
                del kept[vcpus]
                self._in_use.difference_update(cpus)
                for cpu in cpus:
                    del self._holders[cpu]

    def _no_die(
        self, dies: Sequence[Sequence[CoreDemand]], free: Sequence[Sequence[Seat]], policy: Policy
    ) -> str:
        """Return which cache domains of a node have too few free cores together."""
        node, size = dies[0][0].node, len(dies[0])
        room = self._chooser(node).room_for_dies(free)
        held = self._in_use.union(policy.reserved_cpus).intersection(node.cpus)
        return (
            f"dies 'host' needs {len(dies)} die{'s' if len(dies) > 1 else ''} of {size} "
            f"core{'s' if size > 1 else ''} for cell {dies[0][0].cell}, each in one cache domain "
            f"of host node {node.id}, whose domains have {', '.join(map(str, room))} left (pCPUs "
            f"reserved or used by guests: {show_cpuset(held)}); use other nodes, or set dies to "
            "'none'."
        )

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

    def _free_seats(self, node: Node, width: int, policy: Policy) -> list[list[Seat]]:
        """Return what a guest core of *width* threads could have on the node, in layers.

        Isolated cores come first: they are set aside for guests like this one. Then seats on cores
        of their own: two vCPUs that the guest takes for cores share one last.
        """
        isolated = frozenset(self._host.isolated_cpus or ())
        apart = [core for core in node.cores if not isolated.isdisjoint(core)]
        others = [core for core in node.cores if isolated.isdisjoint(core)]
        return [
            layer
            for cores in (apart, others)
            for layer in self._layers(cores, width, policy)
            if layer
        ]

    def _layers(self, cores: Sequence[Ids], width: int, policy: Policy) -> list[list[Seat]]:
        reserved = frozenset(policy.reserved_cpus)
        if policy.pinning == "core":
            opened = (open_threads(core, reserved) for core in cores)
            return [
                [cpus for cpus in opened if len(cpus) >= width and self._in_use.isdisjoint(cpus)]
            ]
        barred = reserved.union(self._in_use)
        threads = [open_threads(core, barred) for core in cores]
        if width > 1:
            return [
                [
                    free[start : start + width]
                    for free in threads
                    for start in range(0, len(free) - width + 1, width)
                ]
            ]
        turns = range(max((len(free) for free in threads), default=0))
        return [[(free[turn],) for free in threads if turn < len(free)] for turn in turns]

    def _chooser(self, node: Node) -> Chooser:
        if node.id not in self._choosers:
            self._choosers[node.id] = Chooser(self._host, node)
        return self._choosers[node.id]

    def _mixed_kinds(
        self, demands: Sequence[CoreDemand], seats: dict[tuple[int, ...], Seat]
    ) -> list[str]:
        """Say which cells have cores of more than one kind."""
        by_cell: dict[int, list[CoreDemand]] = {}
        for demand in demands:
            by_cell.setdefault(demand.cell, []).append(demand)
        found = []
        for cell, wanted in by_cell.items():
            node = wanted[0].node
            kinds = self._chooser(node).kinds([seats[demand.vcpus] for demand in wanted])
            if len(kinds) > 1:
                found.append(
                    f"cell {cell} has cores of {len(kinds)} kinds of host node {node.id}, which "
                    "differ in speed and in threads, because no kind has enough of them left; "
                    "reduce its vCPUs to keep to one kind."
                )
        return found

    def _mixed_isolation(self, seats: dict[tuple[int, ...], Seat]) -> list[str]:
        """Say where vCPUs are on isolated pCPUs and on others."""
        owned = tuple(sorted({cpu for cpus in seats.values() for cpu in cpus}))
        balanced = balanced_cpus(self._host, owned)
        if not balanced or len(balanced) == len(owned):
            return []
        return [
            f"its vCPUs are on isolated pCPUs and on others ({show_cpuset(balanced)}), where the "
            "host's own threads run too; isolate more pCPUs, or reserve those that are not."
        ]

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
        usable = open_threads(self._core(demand.node, seat[0][0]), reserved)
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

    def _missing(
        self,
        cells: dict[int, list[CoreDemand]],
        demands: Sequence[CoreDemand],
        kept: dict[tuple[int, ...], tuple[int, ...]],
        policy: Policy,
    ) -> str:
        """Return what a node has too few of, '' where it has enough.

        Args:
            cells: guest cores that wait for their pCPUs, by cell; all on one node.
            demands: of the guest.
            kept: pCPUs of the guest cores that stay.
            policy: of the guest.
        """
        waiting = [demand for one in cells.values() for demand in one]
        node, width = waiting[0].node, len(waiting[0].vcpus)
        free = sum(map(len, self._free_seats(node, width, policy)))
        if free >= len(waiting):
            return ""
        wanted = [demand for demand in demands if demand.node.id == node.id]
        own = [kept[demand.vcpus] for demand in wanted if demand.vcpus in kept]
        free += len(own)
        unit = (
            f"cores with {width} free thread{'s' if width > 1 else ''}"
            if policy.pinning == "core" or width > 1
            else "pCPUs of their own"
        )
        barred = frozenset(policy.reserved_cpus)
        narrow = sum(0 < len(open_threads(core, barred)) < width for core in node.cores)
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
