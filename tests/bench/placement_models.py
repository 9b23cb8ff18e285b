# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How others choose host nodes, as plain models, and the instances that all are given.

A model knows cores and memory of nodes, and how far these are from each other; what else the
originals look at (hugepages, devices, pinned cores) is the same for every guest here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

#: Of each node.
CORES, MEMORY_GIB = 24, 192
Nodes = tuple[int, ...]


@dataclass(frozen=True)
class Demand:
    """A guest: how many nodes it needs, and what of each."""

    nodes: int
    cores: int
    memory_gib: int


class Host:
    """What is left of a host's nodes.

    Attributes:
        cores: by node.
        memory_gib: by node.
    """

    def __init__(self, count: int) -> None:
        self.cores = [CORES] * count
        self.memory_gib = [MEMORY_GIB] * count

    def fits(self, node: int, demand: Demand) -> bool:
        """Tell whether a node holds its part of a guest."""
        return self.cores[node] >= demand.cores and self.memory_gib[node] >= demand.memory_gib

    def sets(self, demand: Demand) -> Iterator[Nodes]:
        """Yield the sets of nodes that hold a guest."""
        able = [node for node in range(len(self.cores)) if self.fits(node, demand)]
        return combinations(able, demand.nodes)

    def take(self, nodes: Nodes, demand: Demand, sign: int = 1) -> None:
        """Put a guest on nodes, or take it off."""
        for node in nodes:
            self.cores[node] -= sign * demand.cores
            self.memory_gib[node] -= sign * demand.memory_gib


def distance(one: int, other: int) -> int:
    """Nodes are near each other in pairs, and in fours, as with four nodes a socket."""
    if one == other:
        return 10
    return 12 if one // 2 == other // 2 else 16 if one // 4 == other // 4 else 32


def mean_distance(nodes: Nodes) -> float:
    """The average distance between nodes; 10 for one."""
    pairs = [distance(one, other) for one, other in combinations(nodes, 2)]
    return sum(pairs) / len(pairs) if pairs else 10.0


def nova_pack(host: Host, demand: Demand) -> Nodes | None:
    """Nova, virt/hardware.py, numa_fit_instance_to_host: the first fit, fullest nodes first."""
    return _first_fit(host, demand, lambda node: (host.cores[node], host.memory_gib[node]))


def nova_spread(host: Host, demand: Demand) -> Nodes | None:
    """The same with packing_host_numa_cells_allocation_strategy off: emptiest nodes first."""
    return _first_fit(host, demand, lambda node: (-host.cores[node], -host.memory_gib[node]))


def kubelet(host: Host, demand: Demand) -> Nodes | None:
    """The kubelet, pkg/kubelet/cm/topologymanager: narrowest, then closest, then lowest ids."""
    return min(host.sets(demand), key=lambda nodes: (mean_distance(nodes), nodes), default=None)


def xapi(host: Host, demand: Demand) -> Nodes | None:
    """xapi, ocaml/xenopsd/lib/softaffinity.ml: the closest, of these those with most left."""

    def rank(nodes: Nodes) -> tuple[float, int, Nodes]:
        return (mean_distance(nodes), -sum(host.memory_gib[node] for node in nodes), nodes)

    return min(host.sets(demand), key=rank, default=None)


def opennebula(host: Host, demand: Demand) -> Nodes | None:
    """OpenNebula, src/host/HostShareNUMA.cc, schedule_nodes: most cores left, cell by cell."""
    nodes = sorted(
        (node for node in range(len(host.cores)) if host.fits(node, demand)),
        key=lambda node: (-host.cores[node], -node),
    )
    return tuple(sorted(nodes[: demand.nodes])) if len(nodes) >= demand.nodes else None


Model = Callable[[Host, Demand], "Nodes | None"]
MODELS: dict[str, Model] = {
    "Nova, pack": nova_pack,
    "Nova, spread": nova_spread,
    "kubelet": kubelet,
    "xapi": xapi,
    "OpenNebula": opennebula,
}


def _first_fit(host: Host, demand: Demand, order: Callable[[int], tuple[int, int]]) -> Nodes | None:
    nodes = sorted(range(len(host.cores)), key=lambda node: (*order(node), node))
    for chosen in combinations(nodes, demand.nodes):
        if all(host.fits(node, demand) for node in chosen):
            return tuple(sorted(chosen))
    return None


def instance(seed: str, count: int, fill: float) -> list[Demand]:
    """Guests that fit by construction: nodes are cut into them, in no order in the end.

    Args:
        seed: what the draw depends on.
        count: number of nodes.
        fill: how much of each node is used.
    """
    draw = random.Random(seed)  # noqa: S311 - sizes, and no secrets
    left = [[int(CORES * fill), int(MEMORY_GIB * fill)] for _node in range(count)]
    demands = []
    for _guest in range(draw.randint(0, count // 2)):
        pair = 2 * draw.randrange(count // 2)
        demand = Demand(2, draw.randint(13, 18), draw.choice((32, 64, 97, 120)))
        both = left[pair : pair + 2]
        if all(one[0] >= demand.cores and one[1] >= demand.memory_gib for one in both):
            demands.append(demand)
            for one in both:
                one[0] -= demand.cores
                one[1] -= demand.memory_gib
    for cores, memory_gib in left:
        if min(cores, memory_gib) > 0:
            parts = draw.randint(1, min(7, cores, memory_gib))
            sizes = zip(_cut(draw, cores, parts), _cut(draw, memory_gib, parts))
            demands += [Demand(1, *size) for size in sizes]
    draw.shuffle(demands)
    return demands


def _cut(draw: random.Random, total: int, parts: int) -> list[int]:
    cuts = [0, *sorted(draw.sample(range(1, total), parts - 1)), total]
    return [after - before for before, after in zip(cuts, cuts[1:])]


def places_all(model: Model, count: int, demands: Sequence[Demand]) -> list[Nodes] | None:
    """Return where a model puts guests in the order of their arrival, None where one is left."""
    host, found = Host(count), []
    for demand in demands:
        nodes = model(host, demand)
        if nodes is None:
            return None
        host.take(nodes, demand)
        found.append(nodes)
    return found


def exists(count: int, demands: Sequence[Demand]) -> bool:
    """Tell by trying everything whether guests can be placed."""
    host = Host(count)
    order = sorted(demands, key=lambda one: (-one.nodes, -one.cores, -one.memory_gib))
    dead: set[tuple[int, tuple[int, ...], tuple[int, ...]]] = set()

    def place(number: int) -> bool:
        if number == len(order):
            return True
        state = (number, tuple(host.cores), tuple(host.memory_gib))
        if state in dead:
            return False
        for nodes in list(host.sets(order[number])):
            host.take(nodes, order[number])
            if place(number + 1):
                return True
            host.take(nodes, order[number], -1)
        dead.add(state)
        return False

    return place(0)
