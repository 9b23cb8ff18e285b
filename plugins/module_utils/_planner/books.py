# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The books of a host: what it has, what guests take of it, and where that is more than it has.

A pure function of the host and of every definition on it, whether the guest runs or is off.
Memory that is free at the moment is no input: the page cache would change the plan by the minute.
Sums are exact, so that the order of guests is of no matter.

A strict binding is a promise that libvirt does not check: each guest of three may fit a node, and
the three of them may not. Ordinary memory is taken as it is used, so that the host's kernel ends a
process one day; hugepages are taken at the start, which then fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from .._cpuset import Ids
from .._errors import LayoutError, RoomError
from .._model.host import Host, Node
from .._model.placement import Ledger, Load, Need, NodeAccount, Share
from .._size import show_size


def ordinary_kib(node: Node) -> int:
    """Return the memory of a node without its hugepage pools, in KiB."""
    return max(0, node.memory_kib - sum(pool.size_kib * pool.total for pool in node.hugepages))


def pool_pages(node: Node, size_kib: int) -> int:
    """Return how many hugepages of a size a node has."""
    return sum(pool.total for pool in node.hugepages if pool.size_kib == size_kib)


def host_cores(cores: int, threads: int, node: Node) -> int:
    """Return how many cores of a node guest cores take, whatever the guest takes them for.

    A guest core takes as many as its threads need there: two threads are two cores without SMT.
    """
    return cores * -(-threads // node.threads)


def make_ledger(host: Host, loads: Sequence[Load]) -> Ledger:
    """Add up what guests take of each eligible node.

    What floats is shared over the nodes by their size, since it may be anywhere; what is pinned or
    bound to several nodes is shared over those.
    """
    accounts = {node.id: _Account(node) for node in host.eligible}
    for load in loads:
        for share in load.shares:
            _add(accounts, load.name, share)
    return Ledger(
        tuple(account.closed() for _id, account in sorted(accounts.items())),
        tuple(sorted(load.name for load in loads if load.floats)),
    )


@dataclass
class _Account:
    """The account of one node while guests are added up."""

    node: Node
    owned: set[int] = field(default_factory=set)
    shared: Fraction = Fraction(0)
    bound_kib: Fraction = Fraction(0)
    pages: dict[int, Fraction] = field(default_factory=dict)
    guests: set[str] = field(default_factory=set)

    def closed(self) -> NodeAccount:
        """Return the account as the result has it."""
        totals = {pool.size_kib: pool.total for pool in self.node.hugepages}
        return NodeAccount(
            node=self.node.id,
            cores=len(self.node.cores),
            owned=frozenset(self.owned),
            owned_cores=sum(not self.owned.isdisjoint(core) for core in self.node.cores),
            shared_cores=ceil(self.shared),
            memory_kib=ordinary_kib(self.node),
            bound_kib=ceil(self.bound_kib),
            pools={
                size_kib: (total, ceil(self.pages.get(size_kib, Fraction(0))))
                for size_kib, total in sorted(totals.items())
            },
            guests=tuple(sorted(self.guests)),
        )


def _add(accounts: Mapping[int, _Account], guest: str, share: Share) -> None:
    nodes = {node_id: account.node for node_id, account in accounts.items()}
    cores = {node_id: len(node.cores) for node_id, node in nodes.items()}
    for node_id, part in _parts(share.cpu_nodes, cores).items():
        account = accounts[node_id]
        account.owned.update(share.owned.intersection(account.node.cpus))
        account.shared += host_cores(share.shared_cores, share.threads, account.node) * part
    sizes = {node_id: ordinary_kib(node) for node_id, node in nodes.items()}
    for node_id, part in _parts(share.memory_nodes, sizes).items():
        accounts[node_id].bound_kib += share.need.memory_kib * part
    for size_kib, number in share.need.pages:
        pools = {node_id: pool_pages(node, size_kib) for node_id, node in nodes.items()}
        for node_id, part in _parts(share.memory_nodes, pools).items():
            pages = accounts[node_id].pages
            pages[size_kib] = pages.get(size_kib, Fraction(0)) + number * part
    for node_id in {*share.cpu_nodes, *share.memory_nodes}.intersection(accounts):
        accounts[node_id].guests.add(guest)


def _parts(nodes: Ids, weights: Mapping[int, int]) -> dict[int, Fraction]:
    """Return which part of a share is on each node: by weight over its nodes, or over all."""
    among = [node for node in nodes if node in weights] if nodes else list(weights)
    total = sum(weights[node] for node in among)
    if not total:
        return {node: Fraction(1, len(among)) for node in among}
    return {node: Fraction(weights[node], total) for node in among if weights[node]}


#: Guests that a sentence names.
_MOST_SHOWN = 8


def check_alone(load: Load, host: Host, is_bound: bool) -> None:
    """Refuse a guest whose hugepages are not there, even for it alone.

    Where no pools are known, nothing is checked.

    Raises:
        LayoutError: with the figures.
    """
    sizes = sorted({size_kib for share in load.shares for size_kib, _pages in share.need.pages})
    check_page_sizes(sizes, host)
    for size_kib in sizes if any(node.hugepages for node in host.nodes) else ():
        for node in host.nodes:
            pages = sum(_pages([load], node, size_kib).values())
            if pages > pool_pages(node, size_kib):
                raise RoomError(
                    f"host node {node.id} has {pool_pages(node, size_kib)} hugepages of {size_kib} "
                    f"KiB, and the guest's memory there needs {pages}",
                    "enlarge the node's pool, reduce the guest's memory, or exclude the node with "
                    "nodes",
                )
        total = sum(pool_pages(node, size_kib) for node in host.nodes)
        needed = sum(dict(share.need.pages).get(size_kib, 0) for share in load.shares)
        if is_bound and needed > total:
            raise RoomError(
                f"the host has {total} hugepages of {size_kib} KiB in all, and the guest needs "
                f"{needed}",
                "enlarge the pools, or reduce the guest's memory",
            )


def check_page_sizes(sizes_kib: Sequence[int], host: Host) -> None:
    """Refuse hugepages of sizes that a host does not have.

    Raises:
        LayoutError: with those that it has.
    """
    there = sorted({pool.size_kib for node in host.nodes for pool in node.hugepages})
    for size_kib in sizes_kib if there else ():
        if size_kib not in there:
            raise LayoutError(
                f"its hugepages of {size_kib} KiB do not exist on the host, which has pages of "
                f"{', '.join(map(str, there))} KiB; change <hugepages>, or start the host with "
                "pages of that size."
            )


def too_large_alone(load: Load, host: Host) -> Iterator[str]:
    """Yield the nodes to which a guest alone binds more than they have."""
    for node in host.nodes:
        wanted_kib = bound_kib([load], node)
        if wanted_kib > ordinary_kib(node):
            pooled_kib = node.memory_kib - ordinary_kib(node)
            beside = f" without its hugepage pools of {pooled_kib} KiB" if pooled_kib else ""
            yield (
                f"{wanted_kib} KiB of its memory would be bound to host node {node.id}, which has "
                f"{ordinary_kib(node)} KiB in total{beside}; reduce its memory, use more nodes, or "
                "set memory_mode to 'preferred'."
            )


def overbooked(host: Host, loads: Sequence[Load], planned: Collection[str]) -> Iterator[str]:
    """Yield the nodes to which more is bound than they have, with who binds what.

    Of nodes without a guest that is planned nothing is said.
    """
    for node in host.nodes:
        held_kib = _ordinary(loads, node)
        # Of one that is alone there its own warning tells.
        if _is_over(held_kib, ordinary_kib(node), planned):
            bound = show_size(sum(held_kib.values()))
            yield (
                f"host node {node.id} has {show_size(ordinary_kib(node))} of memory, and guests "
                f"bind {bound} to it ({_holders(held_kib, show_size)}); "
                "move one with nodes, choose nodes 'auto', or set memory_mode to 'preferred'."
            )
        for pool in node.hugepages:
            held = _pages(loads, node, pool.size_kib)
            if _is_over(held, pool.total, planned):
                yield (
                    f"host node {node.id} has {pool.total} hugepages of {pool.size_kib} KiB, and "
                    f"guests need {sum(held.values())} there ({_holders(held, str)}), so that not "
                    "all of them can run; enlarge the pool, or move one with nodes."
                )


def cannot_start(host: Host, wanted: Load, running: Sequence[Load]) -> str | None:
    """Say why a guest could not start beside guests that run, None where it could.

    None of those that run is planned with it.
    """
    for node in host.nodes:
        for pool in node.hugepages:
            needs = sum(_pages([wanted], node, pool.size_kib).values())
            held = _pages(running, node, pool.size_kib)
            if needs and needs + sum(held.values()) > pool.total >= needs:
                return (
                    f"it needs {needs} hugepages of {pool.size_kib} KiB on host node {node.id}, "
                    f"whose pool has {pool.total}, and guests that run there hold "
                    f"{sum(held.values())} ({_holders(held, str)}), so that it would not start; "
                    "enlarge the pool, or use another node."
                )
    return None


def bound_kib(loads: Sequence[Load], node: Node) -> int:
    """Return the ordinary memory that guests bind to a node alone, in KiB."""
    return sum(_ordinary(loads, node).values())


def _ordinary(loads: Sequence[Load], node: Node) -> dict[str, int]:
    """Return the ordinary memory that each guest binds to a node alone, in KiB."""
    return _bound(loads, node, lambda need: need.memory_kib)


def _pages(loads: Sequence[Load], node: Node, size_kib: int) -> dict[str, int]:
    """Return the hugepages of a size that each guest binds to a node alone."""
    return _bound(loads, node, lambda need: dict(need.pages).get(size_kib, 0))


def _bound(loads: Sequence[Load], node: Node, amount: Callable[[Need], int]) -> dict[str, int]:
    """Return how much of something each guest binds to a node alone, without those of none."""
    found: dict[str, int] = {}
    for load in loads:
        for share in load.shares:
            if share.is_strict and share.memory_nodes == (node.id,) and amount(share.need):
                found[load.name] = found.get(load.name, 0) + amount(share.need)
    return found


def _is_over(held: dict[str, int], has: int, planned: Collection[str]) -> bool:
    return sum(held.values()) > has and len(held) > 1 and not held.keys().isdisjoint(planned)


def _holders(held: dict[str, int], show: Callable[[int], str]) -> str:
    ranked = sorted(held.items(), key=lambda one: (-one[1], one[0]))
    shown = [f"{guest} {show(part)}" for guest, part in ranked[:_MOST_SHOWN]]
    more = len(ranked) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])
