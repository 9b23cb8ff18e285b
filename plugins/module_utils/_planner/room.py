# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of a host's nodes while guests are placed on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import copy
from math import sqrt
from typing import NamedTuple

from .._model.host import Host, Node
from .._model.layout import Ids
from .._model.placement import Ledger, Need, NodeAccount
from .._policy import Policy
from .cores import follows_domains
from .demand import Demand, Needs
from .domains import DomainRoom


class Taken(NamedTuple):
    """What is taken of one node.

    Attributes:
        guests: how many guests are on it.
        pending: cores of which guests will own pCPUs, still to be chosen.
        shared: guest cores that share the others.
        ratios: what the guests that share allow of overcommit, as (per mille, guests), ascending.
        bound_kib: ordinary memory in KiB.
        pages: hugepages, in the order of the node's pools.
    """

    guests: int
    pending: int
    shared: int
    ratios: tuple[tuple[int, int], ...]
    bound_kib: int
    pages: tuple[int, ...]


class Room:
    """The nodes of a host, and what is left of them.

    Args:
        host: whose nodes they are.
        ledger: what is taken already.
    """

    def __init__(self, host: Host, ledger: Ledger) -> None:
        self._nodes: dict[int, Node] = {node.id: node for node in host.eligible}
        self._accounts = {account.node: account for account in ledger.accounts}
        self._taken = {account.node: _taken(account) for account in ledger.accounts}
        self._isolated = frozenset(host.isolated_cpus or ())
        self._domains = DomainRoom(
            self._nodes, {account.node: account.owned for account in ledger.accounts}
        )
        self._usable: dict[tuple[int, Ids, int, bool], int] = {}

    @property
    def nodes(self) -> list[int]:
        """Ids of the nodes, ascending."""
        return list(self._taken)

    @property
    def state(self) -> tuple[Taken, ...]:
        """What is taken of each node, by id: equal states are equal for everyone to come."""
        return tuple(self._taken.values())

    def copy(self) -> Room:
        """Return the same, to be filled apart."""
        twin = copy(self)
        twin._taken, twin._domains = dict(self._taken), self._domains.copy()
        return twin

    def whole_nodes(self) -> list[int]:
        """Return the nodes that no guest is on."""
        return [node for node, taken in self._taken.items() if not taken.guests]

    def take(
        self, nodes: Ids, demand: Demand, needs: Needs, seats: frozenset[int] = frozenset()
    ) -> None:
        """Put a guest on these nodes, whether they have room for it or not.

        Args:
            nodes: ascending.
            demand: of the guest.
            needs: of it, on so many nodes.
            seats: pCPUs that it owns there already.
        """
        for node, need in zip(nodes, needs.of_nodes):
            self._change(node, demand, need, 1)
            self._domains.take(node, demand.policy, need.cores, seats)

    def release(self, nodes: Ids, demand: Demand, needs: Needs) -> None:
        """Take a guest off again."""
        for node, need in zip(nodes, needs.of_nodes):
            self._change(node, demand, need, -1)
            self._domains.release(node, demand.policy, need.cores)

    def domains(self, nodes: Ids, demand: Demand, needs: Needs) -> tuple[int, int]:
        """Return how many cache domains a guest would be on, and how many whole ones it breaks."""
        if not follows_domains(demand.policy):
            return 0, 0
        found = [
            self._domains.spread(node, demand.policy, needs.width, need.cores)
            for node, need in zip(nodes, needs.of_nodes)
        ]
        return sum(used for used, _whole in found), sum(whole for _used, whole in found)

    def fits(self, node: int, demand: Demand, width: int, need: Need) -> bool:
        """Tell whether a node has left what a guest needs of it."""
        return (
            self.cores_left(node, demand, width) >= need.cores
            and (not need.memory_kib or self.memory_left_kib(node, demand) >= need.memory_kib)
            and all(self.pages_left(node, size_kib) >= pages for size_kib, pages in need.pages)
        )

    def cores_left(self, node: int, demand: Demand, width: int) -> int:
        """Return how many guest cores could be put on a node; below 0 where it is overfull."""
        taken = self._taken[node]
        # Who allows least decides: it was promised that much of a core.
        ratio = taken.ratios[0][0] if taken.ratios else demand.overcommit_per_mille
        isolated = self._open_cores(node, demand.policy, 1, isolated=True)
        balanced = self._open_cores(node, demand.policy, 1)
        if not demand.is_exclusive:
            # Guests with cores of their own take the isolated ones first.
            balanced -= max(0, taken.pending - isolated)
            return balanced * min(ratio, demand.overcommit_per_mille) // 1000 - taken.shared
        beside = isolated + balanced - taken.pending + -taken.shared * 1000 // ratio
        wide = sum(self._open_cores(node, demand.policy, width, one) for one in (False, True))
        return min(wide - taken.pending, beside)

    def memory_left_kib(self, node: int, demand: Demand) -> int:
        """Return the ordinary memory that is left, in KiB; below 0 where it is overfull."""
        account = self._accounts[node]
        return account.memory_kib - demand.reserved_kib - self._taken[node].bound_kib

    def pages_left(self, node: int, size_kib: int) -> int:
        """Return how many hugepages of a size are left; no limit where no pools are known."""
        if not self._accounts[node].pools:
            return sys.maxsize
        for (pool, (total, _taken)), taken in zip(
            self._accounts[node].pools.items(), self._taken[node].pages
        ):
            if pool == size_kib:
                return total - taken
        return 0

    def shape(self, node: int, demand: Demand, width: int, need: Need) -> float:
        """Return how well a need has the shape of what is left: 1 where it has the same.

        A node that is full of cores and has memory left over is of no use to anyone. So guests
        that need many cores for their memory go where many cores are left for the memory (the
        cosine of the two vectors; the "dot product" of vector packing).
        """
        account = self._accounts[node]
        pairs = [
            (self.cores_left(node, demand, width), need.cores, account.cores),
            (self.memory_left_kib(node, demand), need.memory_kib, account.memory_kib),
        ]
        wanted = dict(need.pages)
        pairs += [
            (total - taken, wanted.get(size_kib, 0), total)
            for (size_kib, (total, _before)), taken in zip(
                account.pools.items(), self._taken[node].pages
            )
        ]
        product = left_square = need_square = 0.0
        for left, needed, total in pairs:
            if total > 0:
                product += (left / total) * (needed / total)
                left_square += (left / total) ** 2
                need_square += (needed / total) ** 2
        if not left_square or not need_square:
            return 0.0
        return product / sqrt(left_square * need_square)

    def load(self, node: int, demand: Demand, width: int, need: Need) -> float:
        """Return how full a node would be with a guest on it, by what it is fullest of."""
        account = self._accounts[node]
        shares = [1 - (self.cores_left(node, demand, width) - need.cores) / max(1, account.cores)]
        if account.memory_kib:
            left_kib = self.memory_left_kib(node, demand) - need.memory_kib
            shares.append(1 - left_kib / account.memory_kib)
        return max(shares)

    def shortages(self, node: int, demand: Demand, width: int, need: Need) -> Iterator[str]:
        """Yield what a node has too little of, with the figures."""
        cores = self.cores_left(node, demand, width)
        if cores < need.cores:
            yield f"{max(0, cores)} of {need.cores} cores"
        memory_kib = self.memory_left_kib(node, demand)
        if need.memory_kib and memory_kib < need.memory_kib:
            yield f"{mebibytes(max(0, memory_kib))} of {mebibytes(need.memory_kib)} MiB"
        for size_kib, pages in need.pages:
            left = self.pages_left(node, size_kib)
            if left < pages:
                yield f"{max(0, left)} of {pages} hugepages of {size_kib} KiB"

    def _open_cores(self, node: int, policy: Policy, width: int, isolated: bool = False) -> int:
        """Return how many cores nobody owns, and have so many threads that are not reserved.

        Of those that are isolated, or of the others.
        """
        key = (node, policy.reserved_cpus, width, isolated)
        if key not in self._usable:
            barred = frozenset(policy.reserved_cpus)
            owned = self._accounts[node].owned
            self._usable[key] = sum(
                owned.isdisjoint(core)
                and self._isolated.isdisjoint(core) != isolated
                and sum(cpu not in barred for cpu in core) >= width
                for core in self._nodes[node].cores
            )
        return self._usable[key]

    def _change(self, node: int, demand: Demand, need: Need, sign: int) -> None:
        before = self._taken[node]
        cores = sign * need.cores
        wanted = dict(need.pages)
        ratios = before.ratios
        if not demand.is_exclusive:
            ratios = _changed(ratios, demand.overcommit_per_mille, sign)
        self._taken[node] = Taken(
            before.guests + sign,
            before.pending + (cores if demand.is_exclusive else 0),
            before.shared + (0 if demand.is_exclusive else cores),
            ratios,
            before.bound_kib + sign * need.memory_kib,
            tuple(
                taken + sign * wanted.get(size_kib, 0)
                for size_kib, taken in zip(self._accounts[node].pools, before.pages)
            )
            if wanted
            else before.pages,
        )


def _changed(
    ratios: tuple[tuple[int, int], ...], ratio: int, change: int
) -> tuple[tuple[int, int], ...]:
    """Return ratios with one guest more, or one less."""
    counts = dict(ratios)
    counts[ratio] = counts.get(ratio, 0) + change
    return tuple(sorted((one, count) for one, count in counts.items() if count))


def mebibytes(size_kib: int) -> int:
    """Return a size in MiB, rounded down."""
    return size_kib // 1024


def _taken(account: NodeAccount) -> Taken:
    return Taken(
        len(account.guests),
        account.pending_cores,
        account.shared_cores,
        (),
        account.bound_kib,
        tuple(taken for _total, taken in account.pools.values()),
    )
