# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of a host's nodes while guests are placed on them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from copy import copy
from math import sqrt
from typing import NamedTuple

from .._cpuset import Ids
from .._model.host import Host, Node
from .._model.placement import Ledger, Need, NodeAccount
from .._policy import Policy
from .books import host_cores
from .caches import DomainRoom
from .cores import follows_domains
from .loads import Demand, Needs


class Taken(NamedTuple):
    """What is taken of one node.

    Attributes:
        guests: how many guests are on it.
        owned: pCPUs that guests own, bit by bit.
        shared: its cores that guests share the others for.
        ratios: what the guests that share allow of overcommit, as (per mille, guests), ascending.
        bound_kib: ordinary memory in KiB.
        pages: hugepages, in the order of the node's pools.
    """

    guests: int
    owned: int
    shared: int
    ratios: tuple[tuple[int, int], ...]
    bound_kib: int
    pages: tuple[int, ...]


class _Seats(NamedTuple):
    """How many guest cores the cores of a node could have pCPUs of their own for.

    Attributes:
        isolated: on isolated cores, which nothing shares.
        partial: on cores of which guests own a part.
        whole: on each of the other cores, ascending.
        most: on any core.
    """

    isolated: int
    partial: int
    whole: tuple[int, ...]
    most: int


class Room:
    """The nodes of a host, and what is left of them.

    Who will own which pCPUs is foreseen as they are given (pinning.py): isolated cores first, then
    whole cores, and threads of cores that others own a part of last.
    """

    def __init__(self, host: Host, ledger: Ledger) -> None:
        self._nodes: dict[int, Node] = {node.id: node for node in host.eligible}
        self._accounts = {account.node: account for account in ledger.accounts}
        self._taken = {account.node: _taken(account) for account in ledger.accounts}
        self._isolated = frozenset(host.isolated_cpus or ())
        self._domains = DomainRoom(
            self._nodes, {account.node: account.owned for account in ledger.accounts}
        )
        self._given: dict[tuple[str, int], int] = {}
        self._kinds: dict[tuple[int, int], int] = {}
        self._numbers: dict[tuple[int, tuple[tuple[bool, int], ...]], int] = {}
        self._seats: dict[tuple[int, int, Ids, int, str], _Seats] = {}

    @property
    def nodes(self) -> list[int]:
        """Ids of the nodes, ascending."""
        return list(self._taken)

    @property
    def state(self) -> tuple[Taken, ...]:
        """What is taken of each node, by id: equal states are equal for everyone to come.

        Of what is owned it says how many threads each core has left, and not which: guests of one
        size make many ways to that.
        """
        return tuple(
            taken._replace(owned=self._alike(node, taken.owned))
            for node, taken in self._taken.items()
        )

    def _alike(self, node: int, owned: int) -> int:
        """Return a number that is the same for pCPUs which leave as much of as many cores."""
        key = (node, owned)
        if key not in self._kinds:
            left = tuple(
                sorted(
                    (self._isolated.isdisjoint(core), [owned >> cpu & 1 for cpu in core].count(0))
                    for core in self._nodes[node].cores
                )
            )
            self._kinds[key] = self._numbers.setdefault((node, left), len(self._numbers))
        return self._kinds[key]

    def copy(self) -> Room:
        """Return the same, to be filled apart."""
        twin = copy(self)
        twin._taken, twin._domains = dict(self._taken), self._domains.copy()
        twin._given = dict(self._given)
        return twin

    def whole_nodes(self) -> list[int]:
        """Return the nodes that no guest is on."""
        return [node for node, taken in self._taken.items() if not taken.guests]

    def take(
        self,
        who: str,
        nodes: Ids,
        demand: Demand,
        needs: Needs,
        seats: frozenset[int] = frozenset(),
    ) -> None:
        """Put a guest on these nodes, whether they have room for it or not.

        *who* tells it from all others, nodes ascend, and *seats* are pCPUs that it owns there
        already.
        """
        for node, need in zip(nodes, needs.of_nodes):
            given = 0
            if demand.is_exclusive:
                here = seats.intersection(self._nodes[node].cpus)
                given = _mask(here) if here else self._foreseen(node, demand, needs.width, need)
                given &= ~self._taken[node].owned
            self._given[who, node] = given
            self._change(node, demand, needs.width, need, 1, given)
            self._domains.take(node, demand.policy, need.cores, seats)

    def release(self, who: str, nodes: Ids, demand: Demand, needs: Needs) -> None:
        """Take a guest off again."""
        for node, need in zip(nodes, needs.of_nodes):
            given = self._given.pop((who, node))
            self._change(node, demand, needs.width, need, -1, given)
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
            self.cores_left(node, demand, width) >= self.cores_needed(node, demand, width, need)
            and (not need.memory_kib or self.memory_left_kib(node, demand) >= need.memory_kib)
            and all(self.pages_left(node, size_kib) >= pages for size_kib, pages in need.pages)
        )

    def cores_needed(self, node: int, demand: Demand, width: int, need: Need) -> int:
        """Return what a need comes to on a node: cores, or seats for pCPUs of its own."""
        if demand.is_exclusive:
            return need.cores
        return host_cores(need.cores, width, self._nodes[node])

    def cores_left(self, node: int, demand: Demand, width: int) -> int:
        """Return how many cores, or seats, are left of a node; below 0 where it is overfull."""
        taken = self._taken[node]
        # Who allows least decides: it was promised that much of a core.
        ratio = taken.ratios[0][0] if taken.ratios else demand.overcommit_per_mille
        seats = self._open_seats(node, demand, width)
        if not demand.is_exclusive:
            return len(seats.whole) * min(ratio, demand.overcommit_per_mille) // 1000 - taken.shared
        # Those that share need so many whole cores; they take what is worth least to others.
        sharing = -(-taken.shared * 1000 // ratio)
        # Where too few are whole, they run on what others own a part of.
        lacking = max(0, sharing - len(seats.whole)) * seats.most
        return seats.isolated + seats.partial + sum(seats.whole[sharing:]) - lacking

    def most_left(self, node: int, demand: Demand) -> int:
        """Return a bound of what a guest could find on a node, whatever else is put there."""
        seats = self._open_seats(node, demand, 1)
        if demand.is_exclusive:
            return seats.isolated + seats.partial + sum(seats.whole)
        return len(seats.whole) * demand.overcommit_per_mille // 1000 - self._taken[node].shared

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
            (
                self.cores_left(node, demand, width),
                self.cores_needed(node, demand, width, need),
                account.cores,
            ),
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
        needed = self.cores_needed(node, demand, width, need)
        shares = [1 - (self.cores_left(node, demand, width) - needed) / max(1, account.cores)]
        if account.memory_kib:
            left_kib = self.memory_left_kib(node, demand) - need.memory_kib
            shares.append(1 - left_kib / account.memory_kib)
        return max(shares)

    def shortages(self, node: int, demand: Demand, width: int, need: Need) -> Iterator[str]:
        """Yield what a node has too little of, with the figures."""
        cores = self.cores_left(node, demand, width)
        needed = self.cores_needed(node, demand, width, need)
        if cores < needed:
            yield f"{max(0, cores)} of {needed} {demand.unit(width)}"
        memory_kib = self.memory_left_kib(node, demand)
        if need.memory_kib and memory_kib < need.memory_kib:
            yield f"{mebibytes(max(0, memory_kib))} of {mebibytes(need.memory_kib)} MiB"
        for size_kib, pages in need.pages:
            left = self.pages_left(node, size_kib)
            if left < pages:
                yield f"{max(0, left)} of {pages} hugepages of {size_kib} KiB"

    def _open_seats(self, node: int, demand: Demand, width: int) -> _Seats:
        """Return what of a node's cores a guest could have, or share, as they are owned now."""
        policy, owned = demand.policy, self._taken[node].owned
        kind = policy.pinning if demand.is_exclusive else "node"
        key = (node, owned, policy.reserved_cpus, width, kind)
        if key not in self._seats:
            isolated = partial = most = 0
            whole = []
            for is_isolated, is_owned, left, free in self._cores(node, policy):
                seats = len(free) // width
                if kind == "core":
                    seats = int(len(left) >= width and len(free) == len(left))
                most = max(most, len(left) // width if kind == "cpu" else 1)
                if is_isolated:
                    isolated += seats if kind != "node" else 0
                elif is_owned:
                    partial += seats if kind == "cpu" else 0
                elif free:
                    whole.append(seats)
            self._seats[key] = _Seats(isolated, partial, tuple(sorted(whole)), most)
        return self._seats[key]

    def _cores(
        self, node: int, policy: Policy
    ) -> Iterator[tuple[bool, bool, list[int], list[int]]]:
        """Yield for each core of a node whether it is isolated, and whether guests own any of it.

        Then the threads that a guest of this policy has left of it, and those that no guest owns.
        """
        owned, reserved = self._taken[node].owned, frozenset(policy.reserved_cpus)
        for core in self._nodes[node].cores:
            left = [cpu for cpu in core if cpu not in reserved]
            yield (
                not self._isolated.isdisjoint(core),
                any(owned >> cpu & 1 for cpu in core),
                left,
                [cpu for cpu in left if not owned >> cpu & 1],
            )

    def _foreseen(self, node: int, demand: Demand, width: int, need: Need) -> int:
        """Return the pCPUs that a guest is going to own on a node, as far as there are any."""
        by_core = demand.policy.pinning == "core"
        ranked = [
            (not is_isolated, is_owned, -len(free), free)
            for is_isolated, is_owned, _left, free in self._cores(node, demand.policy)
            if len(free) >= width and not (by_core and is_owned)
        ]
        given, missing = 0, need.cores
        for _balanced, _owned, _size, free in sorted(ranked):
            if missing <= 0:
                break
            seats = 1 if by_core else min(missing, len(free) // width)
            given |= _mask(free if by_core else free[: seats * width])
            missing -= seats
        return given

    def _change(
        self, node: int, demand: Demand, width: int, need: Need, sign: int, given: int
    ) -> None:
        before = self._taken[node]
        wanted = dict(need.pages)
        ratios, shared = before.ratios, before.shared
        if not demand.is_exclusive:
            ratios = _changed(ratios, demand.overcommit_per_mille, sign)
            shared += sign * host_cores(need.cores, width, self._nodes[node])
        self._taken[node] = Taken(
            before.guests + sign,
            before.owned | given if sign > 0 else before.owned & ~given,
            shared,
            ratios,
            before.bound_kib + sign * need.memory_kib,
            tuple(
                taken + sign * wanted.get(size_kib, 0)
                for size_kib, taken in zip(self._accounts[node].pools, before.pages)
            )
            if wanted
            else before.pages,
        )


def _mask(cpus: Iterable[int]) -> int:
    found = 0
    for cpu in cpus:
        found |= 1 << cpu
    return found


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
        _mask(account.owned),
        account.shared_cores,
        (),
        account.bound_kib,
        tuple(taken for _total, taken in account.pools.values()),
    )
