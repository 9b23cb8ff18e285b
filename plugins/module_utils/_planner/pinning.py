# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who gets which pCPUs where pins are exclusive."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .._cpuset import Ids, show_cpuset
from .._errors import LayoutError, RoomError
from .._model.host import Host, Node
from .._policy import Policy
from .cores import Chooser, Seat, balanced_cpus, open_threads


@dataclass(frozen=True)
class CoreDemand:
    """One guest core that wants pCPUs of its own.

    Attributes:
        vcpus: its threads, ascending.
        die: number of the guest's die that is to be within one cache domain, None for no such die.
    """

    cell: int
    node: Node
    vcpus: tuple[int, ...]
    die: int | None = None


@dataclass(frozen=True)
class Pins:
    """The pCPUs that a guest was given."""

    vcpu_pins: tuple[Ids, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spared:
    """A pCPU that has to stay for threads which have no other left.

    Attributes:
        threads: such as ``its iothreads``.
        guest: the name of their guest.
        owner: the guest, -1 for one outside of the call.
        is_for_own: whether the guest's own vCPUs may take it all the same.
    """

    threads: str
    guest: str
    owner: int = -1
    is_for_own: bool = False

    def told_to(self, owner: int) -> str:
        """Return whose it is, as a guest is told."""
        return self.threads if owner == self.owner else f"guest {self.guest} ({self.threads})"


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
        in_use: pCPUs that guests outside of this call own.
        held: pCPUs that threads of guests are held to; they are given away last.
        spared: pCPUs that have to stay for threads which have no other left, and for whom.
    """

    def __init__(
        self,
        host: Host,
        in_use: frozenset[int],
        held: frozenset[int] = frozenset(),
        spared: Mapping[int, Spared] | None = None,
    ) -> None:
        self._host = host
        self._in_use = set(in_use)
        self._held = held
        self._spared = dict(spared or {})
        self._barred: frozenset[int] = frozenset()
        self._reserved: frozenset[int] = frozenset()
        self._cores: dict[int, dict[int, tuple[int, ...]]] = {}
        self._kept: dict[int, dict[tuple[int, ...], tuple[int, ...]]] = {}
        self._holders: dict[int, int] = {}
        self._choosers: dict[int, Chooser] = {}

    @property
    def in_use(self) -> frozenset[int]:
        """The pCPUs that some guest owns."""
        return frozenset(self._in_use)

    def owned_by(self, owner: int) -> frozenset[int]:
        """Return the pCPUs that a guest of the call owns."""
        return frozenset(cpu for cpu, holder in self._holders.items() if holder == owner)

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

    def allocate(
        self, owner: int, demands: Sequence[CoreDemand], policy: Policy, remark: str = ""
    ) -> Pins:
        """Give every guest core of one guest its pCPUs, or take none for it.

        *remark* is what is to be known of its cores where there are too few, in brackets.

        Raises:
            LayoutError: when a node has too few left.
        """
        kept = self._kept.get(owner, {})
        seats = dict(kept)
        given: list[int] = []
        self._reserved = frozenset(policy.reserved_cpus)
        self._barred = frozenset(
            cpu
            for cpu, spared in self._spared.items()
            if spared.owner != owner or not spared.is_for_own
        )
        by_node: dict[int, dict[int, list[CoreDemand]]] = {}
        for demand in demands:
            if demand.vcpus not in kept:
                by_node.setdefault(demand.node.id, {}).setdefault(demand.cell, []).append(demand)
        for cells in by_node.values():
            missing = self._missing(owner, cells, demands, kept, policy, remark)
            if missing is not None:
                self._in_use.difference_update(given)
                raise missing
            for cell, waiting in cells.items():
                node, width = waiting[0].node, len(waiting[0].vcpus)
                beside = [
                    kept[one.vcpus] for one in demands if one.cell == cell and one.vcpus in kept
                ]
                dies = _by_die(waiting)
                if dies:
                    free = self._free_seats(node, width, policy)
                    chosen = self._chooser(node).choose_dies(free, len(dies[0]), len(dies), beside)
                    if len(chosen) < len(waiting):
                        self._in_use.difference_update(given)
                        raise LayoutError(self._no_die(dies, free, policy))
                elif policy.pinning == "cpu":
                    own = {cpu for cpus in seats.values() for cpu in cpus}
                    chosen = self._by_whole_cores(node, width, len(waiting), policy, beside, own)
                else:
                    free = self._free_seats(node, width, policy)
                    chosen = self._chooser(node).choose(free, len(waiting), beside)
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

        Returns:
            False where others were given some of these already.
        """
        if any(self._holders.get(cpu, owner) != owner for cpu in owned):
            return False
        self._in_use.update(owned)
        return True

    def _free_seats(self, node: Node, width: int, policy: Policy) -> list[list[Seat]]:
        """Return what a guest core of *width* threads could have on the node, in layers.

        Isolated cores come first: they are set aside for guests like this one. Cores that other
        threads are held to come last.
        """
        return [
            layer
            for cores in self._ranked_cores(node)
            if (layer := [seat for core in cores for seat in self._seats(core, width, policy)])
        ]

    def _ranked_cores(self, node: Node) -> list[list[Ids]]:
        """Return the cores of a node, those to take from first being first."""
        isolated = frozenset(self._host.isolated_cpus or ())
        ranked: dict[tuple[bool, bool], list[Ids]] = {}
        for core in node.cores:
            rank = (not self._held.isdisjoint(core), isolated.isdisjoint(core))
            ranked.setdefault(rank, []).append(core)
        return [ranked[rank] for rank in sorted(ranked)]

    def _seats(self, core: Ids, width: int, policy: Policy) -> list[Seat]:
        """Return what guest cores of so many threads could have of a core."""
        cpus = open_threads(core, self._reserved)
        if policy.pinning == "core":
            whole = self._in_use.isdisjoint(cpus) and self._barred.isdisjoint(cpus)
            return [cpus] if whole and len(cpus) >= width else []
        free = tuple(cpu for cpu in cpus if cpu not in self._barred and cpu not in self._in_use)
        return [free[first : first + width] for first in range(0, len(free) - width + 1, width)]

    def _by_whole_cores(
        self,
        node: Node,
        width: int,
        count: int,
        policy: Policy,
        kept: Collection[Seat],
        own: set[int],
    ) -> list[Seat]:
        """Return seats on cores that the guest has for itself, as far as there are any.

        What is left over on its last core stays idle while other cores are whole: two guests on the
        threads of one core slow each other down. Once none is whole, they share.

        *kept* are seats that the cell has already, *own* pCPUs that the guest has already.
        """
        chosen: list[Seat] = []
        chooser = self._chooser(node)
        others = self._in_use.difference(own)
        for cores in self._ranked_cores(node):
            seats = {core: self._seats(core, width, policy) for core in cores}
            begun = [core for core in cores if not own.isdisjoint(core)]
            whole = [core for core in cores if others.isdisjoint(core) and core not in begun]
            kinds = [*chooser.able_kinds(whole, seats, count - len(chosen), [*kept, *chosen])]
            whole = [core for core in whole if not kinds or chooser.kinds([core]) == {kinds[0]}]
            mine = [core for core in begun if others.isdisjoint(core)]
            rest = [core for core in cores if core not in whole and core not in mine]
            chosen += [seat for core in mine for seat in seats[core]][: count - len(chosen)]
            for size in sorted({len(seats[core]) for core in whole} - {0}, reverse=True):
                able = [core for core in whole if len(seats[core]) == size]
                wanted = min(len(able), -(-(count - len(chosen)) // size))
                taken = chooser.choose([able], wanted, [*kept, *chosen])
                found = [seat for core in taken for seat in seats[core]]
                chosen += found[: count - len(chosen)]
            left = sorted(rest, key=lambda core: (-len(seats[core]), core))
            chosen += [seat for core in left for seat in seats[core]][: count - len(chosen)]
        return chosen

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
        owner: int,
        cells: dict[int, list[CoreDemand]],
        demands: Sequence[CoreDemand],
        kept: dict[tuple[int, ...], tuple[int, ...]],
        policy: Policy,
        remark: str,
    ) -> RoomError | None:
        """Return what a node has too few of, None where it has enough.

        *cells* are guest cores that wait for their pCPUs, by cell and all on one node; *kept* has
        the pCPUs of those that stay.
        """
        waiting = [demand for one in cells.values() for demand in one]
        node, width = waiting[0].node, len(waiting[0].vcpus)
        free = self._count(node, width, policy)
        if free >= len(waiting):
            return None
        barred, self._barred = self._barred.intersection(node.cpus), frozenset()
        if barred and self._count(node, width, policy) >= len(waiting):
            whom = sorted({self._spared[cpu].told_to(owner) for cpu in barred})
            return RoomError(
                f"its vCPUs would take the last pCPUs of host node {node.id} that "
                f"{' and '.join(whom)} may run on{remark}",
                "reduce the guest's vCPUs, or free pCPUs there",
            )
        wanted = [demand for demand in demands if demand.node.id == node.id]
        own = [kept[demand.vcpus] for demand in wanted if demand.vcpus in kept]
        free += len(own)
        unit = (
            f"cores with {width} free thread{'s' if width > 1 else ''}"
            if policy.pinning == "core" or width > 1
            else "pCPUs of their own"
        )
        narrow = sum(0 < len(open_threads(core, self._reserved)) < width for core in node.cores)
        has = "have" if narrow > 1 else "has"
        hint = f", and {narrow} of its cores {has} fewer threads" if narrow else ""
        held = self._in_use.difference(*own).union(policy.reserved_cpus).intersection(node.cpus)
        return RoomError(
            f"pinning '{policy.pinning}' needs {len(wanted)} {unit} on host node {node.id}, which "
            f"has {free} left (pCPUs reserved or used by other guests: {show_cpuset(held)})"
            f"{hint}{remark}",
            "reduce the guest's vCPUs, or free pCPUs there",
        )

    def _count(self, node: Node, width: int, policy: Policy) -> int:
        """Return how many guest cores of so many threads could have pCPUs of their own."""
        return sum(len(self._seats(core, width, policy)) for core in node.cores)
