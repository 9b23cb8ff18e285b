# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest needs of the nodes that it is put on, by their number."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import reduce
from operator import add

from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Ids
from .._model.placement import Need
from .._policy import Policy
from .books import check_page_sizes
from .cores import EXCLUSIVE, on_host, open_threads
from .distribution import assign_vcpus
from .limits import check_definition, check_guest, check_kind, check_own_cells
from .loads import CellSize, needs, own_sizes
from .memory import hugepage_uses, split_memory
from .nodes import check_own_size, leaves_cells, named_nodes, resized_topology


@dataclass(frozen=True)
class Needs:
    """What a guest needs of each of its nodes.

    Attributes:
        width: threads of a guest core: where pCPUs are its own, a host core has to have as many.
        of_nodes: by the order of the nodes, which ascend.
    """

    width: int
    of_nodes: tuple[Need, ...]


class Demand:
    """What one guest needs, and of which nodes it may be had.

    Raises:
        LayoutError: when the policy names nodes that cannot be used.
    """

    def __init__(self, guest: Guest, policy: Policy, host: Host) -> None:
        self.guest, self.policy = guest, on_host(policy, host)
        self.is_exclusive = policy.pinning in EXCLUSIVE
        self.overcommit_per_mille = int(policy.cpu_overcommit * 1000)
        self.reserved_kib = policy.reserved_memory_mib * 1024
        self._host = host
        check_page_sizes([use.size_kib for use in hugepage_uses(guest, host.nodes)], host)
        eligible = host.eligible
        chosen = (
            eligible
            if policy.auto_nodes is None
            else named_nodes(host, eligible, policy.auto_nodes, "auto_nodes")
        )
        if not chosen:
            raise LayoutError(
                "no host node has both online pCPUs and memory; bring pCPUs online on a node that "
                "has memory."
            )
        self.nodes: dict[int, Node] = {node.id: node for node in chosen}
        self._by_kinds: dict[Hashable, Needs | LayoutError] = {}
        self._kinds = {node.id: self._kind(node) for node in chosen}
        self._by_nodes: dict[Ids, Needs | LayoutError] = {}

    @property
    def most_nodes(self) -> int:
        """The most nodes that it can be on: each backs a cell, and each cell has a vCPU."""
        # A guest that has no cells on any host of its migration group must not get some on one.
        own = 1 if self.policy.migration_group else len(self.nodes)
        cells = self.policy.cells or own
        return max(1, min(len(self.nodes), cells, self.guest.vcpus))

    def unit(self, width: int) -> str:
        """Return what its cores are counted in, where they have so many threads."""
        return "pCPUs of their own" if self.policy.pinning == "cpu" and width == 1 else "cores"

    def widest(self, count: int) -> Ids:
        """Return so many of its nodes, those with most threads a core: it needs least of them."""
        nodes = sorted(self.nodes.values(), key=lambda node: (-node.threads, node.id))
        return tuple(sorted(node.id for node in nodes[:count]))

    def needs(self, ids: Ids) -> Needs:
        """Return what it needs of each of these nodes.

        Raises:
            LayoutError: when it cannot be split over so many.
        """
        answer = self._by_nodes.get(ids)
        if answer is None:
            nodes = tuple(self.nodes[node] for node in ids)
            # Nodes of one kind get alike parts; in proportion, their sizes decide.
            kinds: Hashable = (len(nodes), min(node.threads for node in nodes))
            if self.policy.split == "proportional":
                kinds = tuple(self._kinds[node] for node in ids)
            if kinds not in self._by_kinds:
                self._by_kinds[kinds] = self._try(nodes)
            answer = self._by_nodes[ids] = self._by_kinds[kinds]
        if isinstance(answer, LayoutError):
            raise answer
        return answer

    def _kind(self, node: Node) -> Hashable:
        """Return what parts in proportion go by."""
        barred = frozenset(self.policy.reserved_cpus)
        cores = tuple(sorted(len(open_threads(core, barred)) for core in node.cores))
        pools = tuple((pool.size_kib, pool.total) for pool in node.hugepages)
        return node.memory_kib, cores, pools

    def as_it_is(self) -> Needs:
        """Return what it needs of one node by its figures alone, whatever speaks against that."""
        guest = self.guest
        whole = CellSize(0, tuple(range(guest.vcpus)), guest.memory_kib)
        width = guest.own_threads
        return Needs(width, needs(guest, self._host, [whole], width, self.is_exclusive))

    def _try(self, nodes: tuple[Node, ...]) -> Needs | LayoutError:
        try:
            return self._needs(nodes)
        except LayoutError as error:
            return error

    def _needs(self, nodes: tuple[Node, ...]) -> Needs:
        guest, policy = self.guest, self.policy
        if leaves_cells(policy, len(nodes)):
            check_kind(guest)
            check_own_cells(guest)
            check_own_size(guest, policy)
            resized_topology(guest)
            sizes, width = own_sizes(guest), guest.own_threads
        else:
            arch = guest.arch or self._host.arch
            check_guest(guest, arch, policy)
            count = policy.cells or len(nodes)
            check_definition(guest, count)
            backing = [nodes[cell % len(nodes)] for cell in range(count)]
            assigned, topology = assign_vcpus(guest, arch, backing, policy, [])
            memory = split_memory(guest, arch, backing, policy)
            sizes = tuple(
                CellSize(cell, vcpus, memory[cell]) for cell, vcpus in enumerate(assigned)
            )
            width = topology.threads
        taken = needs(guest, self._host, sizes, width, self.is_exclusive)
        return Needs(
            1 if policy.distribution == "round_robin" else width,
            tuple(reduce(add, taken[position :: len(nodes)]) for position in range(len(nodes))),
        )
