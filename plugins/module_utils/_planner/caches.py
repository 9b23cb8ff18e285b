# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared cache domains: which of them guest cores are pinned to, and which a node has left.

With ``pinning: cache`` a cell goes to the fewest domains of its node that hold its cores, those
with most room. Whoever is pinned to whole domains already stays, so that adding a guest moves
nobody.

Which pCPUs a guest gets is decided once all have their nodes. While guests are placed that is
foreseen, the largest guests first, so that among nodes that hold a guest equally well it gets the
one where its cores share the fewest caches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from .._cpuset import Ids, nodes_text
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Cell, Topology
from .._model.placement import Threads
from .._policy import Policy
from .cores import follows_domains, open_threads
from .distribution import apportion


@dataclass(frozen=True)
class Domain:
    """A cache domain of a host node.

    Attributes:
        all: its pCPUs.
        cpus: those that vCPUs may share.
        cores: the host cores that these are on.
    """

    all: Ids
    cpus: Ids
    cores: int


@dataclass(frozen=True)
class CacheCell:
    """A cell that is to be pinned by cache domains.

    Attributes:
        cores: the vCPUs of each guest core.
        together: how many cores in a row are one guest die, which one domain has to hold.
        domains: of its host node; empty where the host lists none.
        cpus: what its vCPUs are pinned to in that case.
        overcommit: guest cores for each host core.
    """

    cores: tuple[Ids, ...]
    together: int
    domains: tuple[Domain, ...]
    cpus: Ids
    overcommit: Fraction

    def without(self, owned: frozenset[int], host: Host) -> CacheCell:
        """Return it without the pCPUs that guests own, and the domains that have no others."""
        if owned.isdisjoint(self.cpus):
            return self
        domains = []
        for domain in self.domains:
            cpus = open_threads(domain.cpus, owned)
            cores = {core for cpu in cpus if owned.isdisjoint(core := host.core(cpu))}
            if cpus:
                domains.append(Domain(domain.all, cpus, max(1, len(cores))))
        return replace(self, domains=tuple(domains), cpus=open_threads(self.cpus, owned))


class CacheLoad:
    """How many guest cores are on each cache domain of a host, by the definitions of its guests.

    Those that are held to one domain leave less room there. Those that may run elsewhere too, such
    as on all of a node, give way: they only tell which of two domains with as much room is emptier.
    """

    def __init__(self, host: Host, threads: Iterable[Threads]) -> None:
        self._everywhere = tuple(cpu for node in host.nodes for cpu in node.cpus)
        self._host = host
        self._cores: dict[Ids, Fraction] = {}
        self._held: dict[Ids, Fraction] = {}
        for one in threads:
            if one.cores:
                self.add(one.cpus, one.cores)

    def add(self, pins: Ids, cores: Fraction) -> None:
        """Add guest cores that may run on some pCPUs, on any where there are none."""
        cpus = pins or self._everywhere
        counts = Counter(filter(None, map(self._host.cache_domain, cpus)))
        for domain, count in counts.items():
            self._cores[domain] = self.on(domain) + cores * Fraction(count, len(cpus))
            if count == len(cpus):
                self._held[domain] = self.held(domain) + cores

    def on(self, domain: Ids) -> Fraction:
        """Return how many guest cores are on a domain, each as far as it may run there."""
        return self._cores.get(domain, Fraction(0))

    def held(self, domain: Ids) -> Fraction:
        """Return how many guest cores may run on this domain alone."""
        return self._held.get(domain, Fraction(0))


def node_domains(node: Node, shared: Ids) -> tuple[Domain, ...]:
    """Return the cache domains of a node that have pCPUs which vCPUs may share."""
    open_cpus = frozenset(shared)
    core_of = {cpu: core for core in node.cores for cpu in core}
    found = []
    for domain in node.cache_domains:
        cpus = tuple(cpu for cpu in domain if cpu in open_cpus)
        if cpus:
            found.append(Domain(domain, cpus, len({core_of[cpu] for cpu in cpus})))
    return tuple(found)


def cache_cells(
    cells: Sequence[Cell],
    backing: Sequence[Node | None],
    shared: Mapping[int, Ids],
    topology: Topology | None,
    policy: Policy,
    die_vcpus: int = 0,
) -> tuple[CacheCell, ...]:
    """Return the cells of a guest that are to be pinned by cache domains.

    A guest without cells has one for all of it. *shared* has, by host node, the pCPUs that vCPUs
    may share there; *die_vcpus* are those of each die that stands for a cache domain, 0 for those
    of the topology.
    """
    # With round_robin the threads of a guest core, and the cores of a die, are in different cells.
    if topology is None or policy.distribution == "round_robin":
        topology = Topology(1, 1, 1, 1)
    width = topology.threads
    die_cores = topology.cores * topology.clusters if topology.dies > 1 else 1
    together = die_vcpus // width or die_cores
    return tuple(
        CacheCell(
            tuple(cell.vcpus[start : start + width] for start in range(0, len(cell.vcpus), width)),
            together,
            node_domains(node, shared[node.id]),
            shared[node.id],
            policy.cpu_overcommit,
        )
        for cell, node in zip(cells, backing)
        if node is not None
    )


def without_caches(backing: Sequence[Node | None], shared: Mapping[int, Ids]) -> list[str]:
    """Say which of a guest's host nodes have no cache domain to pin to."""
    nodes = {node.id: node for node in backing if node is not None}
    found = sorted(one for one, node in nodes.items() if not node_domains(node, shared[one]))
    if not found:
        return []
    return [
        f"libvirt's capabilities list no L3 cache of {nodes_text(found)}, so its vCPUs there are "
        "pinned as with pinning 'node'; set that, or give cache_domains in topology."
    ]


def pin_by_cache(
    guests: Mapping[int, tuple[Guest, tuple[CacheCell, ...]]], load: CacheLoad
) -> dict[int, tuple[Ids, ...]]:
    """Return the pins of the vCPUs of each guest.

    The answer does not depend on the order of the guests: those that sit well stay, then the
    others are pinned by size and name.

    *load* is what all other guests put on the domains, and takes what these do. Guests and their
    cells are by index.
    """
    pins: dict[int, dict[int, Ids]] = {index: {} for index in guests}
    waiting: list[tuple[int, CacheCell]] = []
    order = sorted(
        guests, key=lambda one: (-guests[one][0].vcpus, guests[one][0].name, guests[one][0].uuid)
    )
    for index in order:
        guest, cells = guests[index]
        now = dict(guest.vcpu_pins)
        for cell in cells:
            kept = _kept(cell, now)
            if kept is None:
                waiting.append((index, cell))
            else:
                _give(pins[index], cell, kept, load)
    for index, cell in waiting:
        _give(pins[index], cell, _chosen(cell, load), load)
    return {
        index: tuple(pins[index].get(vcpu, ()) for vcpu in range(guest.vcpus))
        for index, (guest, _cells) in guests.items()
    }


def _give(pins: dict[int, Ids], cell: CacheCell, counts: Sequence[int], load: CacheLoad) -> None:
    """Pin so many of the cores of a cell to each of its domains, in order."""
    cores = iter(cell.cores)
    for domain, count in zip(cell.domains, counts):
        load.add(domain.all, Fraction(count))
        for _core in range(count):
            pins.update(dict.fromkeys(next(cores), domain.cpus))
    for core in cores:
        pins.update(dict.fromkeys(core, cell.cpus))


def _kept(cell: CacheCell, now: Mapping[int, Ids]) -> list[int] | None:
    """Return how many cores each domain has where a cell sits well, None where it does not.

    It does where its guest cores are on whole domains, in their order, and none has more of them
    than it holds. How full the domains are is of no matter: who is there stays.
    """
    # By the domain that they are in: what others own of it may have been more, or less.
    numbers = {cpu: number for number, domain in enumerate(cell.domains) for cpu in domain.all}
    counts = [0] * len(cell.domains)
    last = 0
    for core in cell.cores:
        inside = {numbers.get(cpu, -1) for vcpu in core for cpu in now.get(vcpu, ()) or (-1,)}
        number = inside.pop()
        if inside or number < last:
            return None
        counts[number] += 1
        last = number
    together = _together(cell)
    limits = [_held(domain, cell.overcommit) // together * together for domain in cell.domains]
    fits = all(count <= limit for count, limit in zip(counts, limits))
    return counts if fits and not any(count % together for count in counts) else None


def _chosen(cell: CacheCell, load: CacheLoad) -> list[int]:
    """Return how many cores of a cell each domain gets."""
    held = [_held(domain, cell.overcommit) for domain in cell.domains]
    if not held:
        return []
    if sum(held) < len(cell.cores):
        # More than the node holds: no choice is left, and all domains share it as they can.
        return apportion(len(cell.cores), held)
    together = _together(cell)
    wanted = len(cell.cores) // together
    loads = [load.on(domain.all) for domain in cell.domains]
    room = [
        max(0, int(domain.cores * cell.overcommit - load.held(domain.all))) // together
        for domain in cell.domains
    ]
    limits = room if sum(room) >= wanted else [one // together for one in held]
    numbers = range(len(limits))
    by_room = sorted(
        numbers, key=lambda one: (-limits[one], loads[one] / cell.domains[one].cores, one)
    )
    fewest = next(
        count for count in numbers if sum(limits[one] for one in by_room[: count + 1]) >= wanted
    )
    counts = [0] * len(limits)
    for _block in range(wanted):
        best = min(
            (one for one in by_room[: fewest + 1] if counts[one] < limits[one]),
            key=lambda one: (
                (loads[one] + (counts[one] + 1) * together) / cell.domains[one].cores,
                one,
            ),
        )
        counts[best] += 1
    return [count * together for count in counts]


def _held(domain: Domain, overcommit: Fraction) -> int:
    """Return how many guest cores a domain without any holds; one at least."""
    return max(1, int(domain.cores * overcommit))


def _together(cell: CacheCell) -> int:
    """Return how many cores go to one domain together: those of a die, where domains hold one."""
    together = cell.together
    blocks = sum(_held(domain, cell.overcommit) // together for domain in cell.domains)
    return 1 if len(cell.cores) % together or blocks * together < len(cell.cores) else together


class _Part(NamedTuple):
    """What a guest takes of a node: the largest first; cores of its own are packed tightly."""

    less_cores: int
    is_shared: bool


class DomainRoom:
    """The cache domains of a host's nodes, and what is taken of them."""

    def __init__(self, nodes: Mapping[int, Node], owned: Mapping[int, frozenset[int]]) -> None:
        self._nodes = {
            node_id: node for node_id, node in nodes.items() if len(node.cache_domains) > 1
        }
        self._owned = {node_id: owned[node_id] for node_id in self._nodes}
        self._parts: dict[int, tuple[_Part, ...]] = dict.fromkeys(self._nodes, ())
        self._left: dict[object, tuple[list[int], list[int]]] = {}

    def copy(self) -> DomainRoom:
        """Return the same, to be filled apart."""
        twin = DomainRoom({}, {})
        twin._nodes, twin._left = self._nodes, self._left
        twin._owned, twin._parts = dict(self._owned), dict(self._parts)
        return twin

    def take(
        self, node: int, policy: Policy, cores: int, seats: frozenset[int] = frozenset()
    ) -> None:
        """Put so many cores of a guest on a node, on these pCPUs if it has some there already."""
        if node not in self._nodes or not follows_domains(policy):
            return
        here = seats.intersection(self._nodes[node].cpus)
        if here:
            self._owned[node] |= here
        else:
            self._parts[node] = tuple(sorted((*self._parts[node], _part(policy, cores))))

    def release(self, node: int, policy: Policy, cores: int) -> None:
        """Take them off again."""
        if node in self._nodes and follows_domains(policy):
            parts = list(self._parts[node])
            parts.remove(_part(policy, cores))
            self._parts[node] = tuple(parts)

    def spread(self, node: int, policy: Policy, width: int, cores: int) -> tuple[int, int]:
        """Return how many domains of a node a guest would be on, and how many of these are whole.

        Nodes with one domain, or none that is known, are as good as any.
        """
        if node not in self._nodes:
            return 1, 0
        left, whole = self._left_on(node, policy, width)
        after = list(left)
        _put(after, _part(policy, cores))
        changed = [number for number, free in enumerate(left) if free != after[number]]
        return len(changed), sum(left[number] == whole[number] for number in changed)

    def _left_on(self, node: int, policy: Policy, width: int) -> tuple[list[int], list[int]]:
        """Return how many guest cores each domain holds yet, and how many it holds when empty."""
        shared = policy.pinning == "cache"
        width = 1 if shared else width
        ratio = policy.cpu_overcommit if shared else Fraction(1)
        parts = self._parts[node]
        key = (node, policy.reserved_cpus, width, ratio, self._owned[node], parts)
        if key not in self._left:
            barred = frozenset(policy.reserved_cpus)
            whole = _open_cores(self._nodes[node], width, barred, frozenset())
            left = _open_cores(self._nodes[node], width, barred, self._owned[node])
            whole, left = ([int(cores * ratio) for cores in one] for one in (whole, left))
            for part in parts:
                _put(left, part)
            self._left[key] = (left, whole)
        return self._left[key]


def _part(policy: Policy, cores: int) -> _Part:
    return _Part(-cores, policy.pinning == "cache")


def _open_cores(
    node: Node, width: int, barred: Collection[int], owned: frozenset[int]
) -> list[int]:
    """Return how many cores of each domain nobody owns, and have so many threads to pin to."""
    counts = [0] * len(node.cache_domains)
    for core in node.cores:
        number = node.domain_numbers.get(core[0])
        if number is not None and owned.isdisjoint(core):
            counts[number] += sum(cpu not in barred for cpu in core) >= width
    return counts


def _put(left: list[int], part: _Part) -> None:
    """Take a part from the domains: from one that holds it, or else from the largest."""
    cores = -part.less_cores
    while cores > 0:
        number = _next(left, cores, part.is_shared)
        if left[number] <= 0:
            return
        taken = min(cores, left[number])
        left[number] -= taken
        cores -= taken


def _next(left: Sequence[int], cores: int, is_shared: bool) -> int:
    numbers = range(len(left))
    holding = [number for number in numbers if left[number] >= cores]
    if holding and not is_shared:
        return min(holding, key=lambda number: (left[number], number))
    return max(numbers, key=lambda number: (left[number], -number))
