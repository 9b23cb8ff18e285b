# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets of host nodes that could hold a guest, and which of them is best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice

from .._cpuset import Ids, format_cpuset
from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import DISTANCE_LOCAL, DISTANCE_REMOTE, Host
from .._model.placement import Load, Need
from .._policy import Policy
from .books import make_ledger
from .loads import Demand, exclusive_cpus
from .room import Room, mebibytes

#: Sets of nodes of one size that are all looked at; where there are more, they are grown from each
#: node by distance.
MOST_SETS = 20000

#: What orders candidates, the best first.
Rank = tuple[object, ...]


@dataclass(frozen=True)
class Applicant:
    """A guest that asks for nodes.

    Attributes:
        policy: with ``nodes`` as ``auto``.
        current: nodes that it is on by its definition, () where it is on none in particular.
        was_placed: whether ``auto`` placed it there, and not someone's choice.
        device_nodes: nodes of its passed-through PCI devices.
    """

    guest: Guest
    policy: Policy
    current: Ids = ()
    was_placed: bool = False
    device_nodes: Ids = ()


@dataclass
class Steps:
    """What is left of the steps that a search may take."""

    left: int


class Site:
    """A host, and what many guests ask about its nodes worked out once."""

    def __init__(self, host: Host, loads: Sequence[Load] = ()) -> None:
        self.host = host
        self.loads = loads
        self.empty = Room(host, make_ledger(host, ()))
        self._distances: dict[Ids, float] = {}
        reported = {node.id: dict(node.distances) for node in host.nodes}
        self._pairs = {
            (one, other): reported[one].get(other) or DISTANCE_REMOTE
            for one in reported
            for other in reported
        }

    def room(self) -> Room:
        """Return what the guests that are there leave of its nodes."""
        return Room(self.host, make_ledger(self.host, self.loads))

    def pair(self, one: int, other: int) -> int:
        """Return the distance between two nodes, both ways together."""
        return self._pairs[one, other] + self._pairs[other, one]

    def distance(self, nodes: Ids) -> float:
        """Return the average distance between nodes; that of a node to itself for one."""
        if len(nodes) == 1:
            return float(DISTANCE_LOCAL)
        if nodes not in self._distances:
            total = sum(self.pair(one, other) for one, other in combinations(nodes, 2))
            self._distances[nodes] = total / (len(nodes) * (len(nodes) - 1))
        return self._distances[nodes]

    def sets(self, among: Sequence[int], size: int) -> Iterator[Ids]:
        """Yield the sets of so many nodes that are worth looking at."""
        found = list(islice(combinations(among, size), MOST_SETS + 1))
        if len(found) <= MOST_SETS:
            yield from found
            return
        seen = set()
        for start in among:
            near = sorted(among, key=lambda node: (node != start, self.pair(start, node), node))
            grown = tuple(sorted(near[:size]))
            if grown not in seen:
                seen.add(grown)
                yield grown


class Case:
    """One guest that asks for nodes, with what is the same for it in every plan.

    Raises:
        LayoutError: when it cannot be on this host, whatever else is on it.
    """

    def __init__(self, applicant: Applicant, demand: Demand, site: Site) -> None:
        self.applicant, self.demand, self.site = applicant, demand, site
        self.who = f"{applicant.guest.name} {applicant.guest.uuid}"
        known = applicant.policy.device_locality != "ignore"
        self.device_nodes = applicant.device_nodes if known else ()
        self.required = frozenset(
            self.device_nodes if applicant.policy.device_locality == "require" else ()
        )
        outside = sorted(self.required.difference(demand.nodes))
        if outside:
            raise LayoutError(
                f"its passed-through devices are on host node {format_cpuset(outside)}, which "
                "auto_nodes leaves out or which cannot be used; add it to auto_nodes, or set "
                "device_locality to 'prefer'."
            )
        self.fewest = self._fewest()

    @property
    def stays(self) -> bool:
        """Whether it is placed, and that is lawful under its policy."""
        current = self.applicant.current
        if not current or not self.required.issubset(current):
            return False
        if len(current) != self.fewest:
            widened = self.applicant.was_placed and self.applicant.policy.widen
            if not widened or not self.fewest < len(current) <= self.demand.most_nodes:
                return False
        if not set(current).issubset(self.demand.nodes):
            return False
        return self._fits(self.site.empty, current)

    @cached_property
    def share(self) -> float:
        """The largest part of the host that it takes, of cores, memory or hugepages."""
        nodes = self.site.host.eligible
        needs = self.demand.needs(self.smallest).of_nodes
        shares = [
            sum(need.cores for need in needs) / max(1, sum(len(node.cores) for node in nodes)),
            sum(need.memory_kib for need in needs) / max(1, sum(node.memory_kib for node in nodes)),
        ]
        pages: dict[int, int] = {}
        for need in needs:
            for size_kib, number in need.pages:
                pages[size_kib] = pages.get(size_kib, 0) + number
        for size_kib, number in pages.items():
            pools = (pool for node in nodes for pool in node.hugepages)
            total = sum(pool.total for pool in pools if pool.size_kib == size_kib)
            shares.append(number / max(1, total))
        return max(shares)

    @cached_property
    def least_cores(self) -> int:
        """The fewest cores that it takes in all, over any number of nodes that it may be given."""
        most = self.demand.most_nodes if self.applicant.policy.widen else self.fewest
        counts = []
        for size in range(self.fewest, most + 1):
            with suppress(LayoutError):
                needs = self.demand.needs(self.demand.widest(size)).of_nodes
                counts.append(sum(need.cores for need in needs))
        return min(counts, default=0)

    @cached_property
    def memory_kib(self) -> int:
        """The ordinary memory that it takes in all, in KiB."""
        return sum(need.memory_kib for need in self.demand.needs(self.smallest).of_nodes)

    def order(self) -> Rank:
        """Return what orders the guests that are placed anew."""
        guest = self.applicant.guest
        return (not self.device_nodes, -self.fewest, -self.share, guest.name, guest.uuid)

    def candidates(self, room: Room, in_shape: bool, steps: Steps) -> Iterator[Ids]:
        """Yield the sets of nodes that hold it now, the best first.

        Between two of them the room has to be as it was.

        With *in_shape* they are ranked by shape before anything else that is for the sake of guests
        to come: more of them fit then, and fewer nodes stay whole. Each set that is looked at takes
        a step.
        """
        sizes = (
            range(self.fewest, self.demand.most_nodes + 1)
            if self.applicant.policy.widen
            else (self.fewest,)
        )
        for size in sizes:
            found = []
            for nodes in self._open_sets(room, size):
                steps.left -= 1
                if self._fits(room, nodes):
                    found.append(nodes)
            whole = room.whole_nodes()
            yield from sorted(found, key=lambda nodes: self._rank(room, nodes, whole, in_shape))

    def take(self, room: Room, nodes: Ids) -> None:
        """Put it on these nodes."""
        room.take(self.who, nodes, self.demand, self.demand.needs(nodes))

    def stay(self, room: Room) -> None:
        """Leave it where it is."""
        pins = (cpus for _vcpu, cpus in self.applicant.guest.vcpu_pins)
        seats = exclusive_cpus(self.site.host, pins) if self.demand.is_exclusive else frozenset()
        current = self.applicant.current
        room.take(self.who, current, self.demand, self.demand.needs(current), seats)

    def release(self, room: Room, nodes: Ids) -> None:
        """Take it off these nodes."""
        room.release(self.who, nodes, self.demand, self.demand.needs(nodes))

    def shortage(self, room: Room, nodes: Ids) -> str:
        """Say why nodes cannot hold it, '' where they can."""
        try:
            needs = self.demand.needs(nodes)
        except LayoutError as error:
            return error.message
        for node, need in zip(nodes, needs.of_nodes):
            missing = list(room.shortages(node, self.demand, needs.width, need))
            if missing:
                return f"host node {node} has {' and '.join(missing)} left"
        return ""

    def _open_sets(self, room: Room, size: int) -> Iterator[Ids]:
        """Yield sets of nodes each of which has room for something of it."""
        among = sorted(self.demand.nodes)
        if len(among) < size:
            return
        try:
            needs = self.demand.needs(self.demand.widest(size))
        except LayoutError:
            return
        # In proportion to the nodes, what one has to hold is known once all of them are.
        is_even = self.demand.policy.split != "proportional"
        least = min(need.cores for need in needs.of_nodes) if is_even else 1
        left = {node: room.cores_left(node, self.demand, 1) for node in among}
        able = [node for node in among if left[node] >= least]
        most = sorted((left[node] for node in able), reverse=True)[:size]
        if sum(most) < sum(need.cores for need in needs.of_nodes):
            return
        for nodes in self.site.sets(able, size):
            if self.required.issubset(nodes):
                yield nodes

    def _fits(self, room: Room, nodes: Ids) -> bool:
        try:
            needs = self.demand.needs(nodes)
        except LayoutError:
            return False
        return all(
            room.fits(node, self.demand, needs.width, need)
            for node, need in zip(nodes, needs.of_nodes)
        )

    def _rank(self, room: Room, nodes: Ids, whole: Sequence[int], in_shape: bool) -> Rank:
        missed = len(set(self.device_nodes).difference(nodes))
        needs = self.demand.needs(nodes)
        parts = [
            (node, self.demand, needs.width, need) for node, need in zip(nodes, needs.of_nodes)
        ]
        shape = -sum(room.shape(*part) for part in parts)
        domains, whole_domains = room.domains(nodes, self.demand, needs)
        later: Rank
        if in_shape:
            later = (shape, domains, whole_domains)
        elif self.applicant.policy.placement == "spread":
            later = (domains, max(room.load(*part) for part in parts), whole_domains, shape)
        else:
            broken = [node for node in nodes if node in whole]
            # The one that is farthest from the others: those stay near each other.
            apart = -sum(self.site.pair(node, other) for node in broken for other in whole)
            later = (domains, len(broken), apart, whole_domains, shape)
        moved = nodes != self.applicant.current
        return (missed, self.site.distance(nodes), *later, moved, nodes)

    @cached_property
    def smallest(self) -> Ids:
        """The first set of the fewest nodes that could hold it on an empty host."""
        return next(
            nodes
            for nodes in self._open_sets(self.site.empty, self.fewest)
            if self._fits(self.site.empty, nodes)
        )

    def _fits_as_it_is(self, room: Room) -> bool:
        """Tell whether one node holds its figures, whatever speaks against that."""
        needs = self.demand.as_it_is()
        return any(
            room.fits(node, self.demand, needs.width, needs.of_nodes[0])
            for node in self.demand.nodes
        )

    def _fewest(self) -> int:
        """Return the fewest nodes that could hold it on an empty host."""
        empty, most = self.site.empty, self.demand.most_nodes
        impossible: list[LayoutError] = []
        able = most
        beyond: LayoutError | None = None
        for size in range(max(1, len(self.required)), most + 1):
            try:
                self.demand.needs(self.demand.widest(size))
            except LayoutError as error:
                if size == 1 and self._fits_as_it_is(empty):
                    # One node has room for it: what speaks against that is no want of room.
                    raise
                impossible.append(error)
                beyond = beyond or error
                continue
            able, beyond = size, None
            if any(self._fits(empty, nodes) for nodes in self._open_sets(empty, size)):
                return size
        if len(impossible) == most:
            raise impossible[0]
        among = self.demand.widest(able)
        figures = self.shortage(empty, among) or "no set of them is large enough"
        over = f"over {able} host node{'s' if able > 1 else ''}, {figures}{self.demand.remark}"
        if beyond is not None:
            # The way out is that of the rule: no room makes a machine have NUMA.
            raise LayoutError(
                f"nodes 'auto' cannot hold it, even without other guests: {over}; over more, "
                f"{beyond.message}"
            )
        raise RoomError(
            f"nodes 'auto' cannot hold it, even without other guests: {over}",
            "reduce its vCPUs or memory, or enlarge the host's hugepage pools"
            if self.applicant.guest.hugepages
            else "reduce its vCPUs or memory",
        )


def need_text(need: Need) -> str:
    """Return ``6 cores and 16384 MiB``."""
    parts = [f"{need.cores} core{'s' if need.cores != 1 else ''}"]
    if need.memory_kib:
        parts.append(f"{mebibytes(need.memory_kib)} MiB")
    parts += [f"{pages} hugepages of {size_kib} KiB" for size_kib, pages in need.pages]
    return " and ".join(parts)
