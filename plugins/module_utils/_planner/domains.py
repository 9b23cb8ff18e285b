# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of the cache domains of nodes while guests are placed on them.

Which pCPUs a guest gets is decided once all have their nodes (caches.py, cache_pins.py). Here it is
foreseen as these choose, the largest guests first, so that among nodes that hold a guest equally
well it gets the one where its cores share the fewest caches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from .._model.host import Node
from .._policy import Policy
from .cores import follows_domains


class _Part(NamedTuple):
    """What a guest takes of a node: the largest first; cores of its own are packed tightly."""

    less_cores: int
    is_shared: bool


class DomainRoom:
    """The cache domains of a host's nodes, and what is taken of them.

    Args:
        nodes: by id.
        owned: pCPUs of each that guests own.
    """

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
