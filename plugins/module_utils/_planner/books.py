# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The books of a host: what it has, and what guests take of it.

A pure function of the host and of every definition on it, whether the guest runs or is off.
Memory that is free at the moment is no input: the page cache would change the plan by the minute.
Sums are exact, so that the order of guests is of no matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from .._model.host import Host, Node
from .._model.layout import Ids
from .._model.placement import Ledger, Load, NodeAccount, Share, Threads


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


class Books:
    """What the guests of a host take.

    Args:
        host: whose nodes they are.
        loads: of guests, whether they run or are off.
    """

    def __init__(self, host: Host, loads: Iterable[Load] = ()) -> None:
        self.host = host
        self.loads: list[Load] = list(loads)

    def owners(self) -> dict[int, str]:
        """Return the names of the guests that own pCPUs, by pCPU."""
        return {cpu: load.name for load in self.loads for cpu in load.owned}

    def threads(self) -> list[tuple[str, Threads]]:
        """Return the pinned threads that own no pCPU, each with the name of its guest."""
        return [(load.name, threads) for load in self.loads for threads in load.threads]

    def ledger(self) -> Ledger:
        """Add up what guests take of each eligible node.

        What floats is shared over the nodes by their size, since it may be anywhere; what is pinned
        or bound to several nodes is shared over those.
        """
        accounts = {node.id: _Account(node) for node in self.host.eligible}
        for load in self.loads:
            for share in load.shares:
                _add(accounts, load.name, share)
        return Ledger(
            tuple(account.closed() for _id, account in sorted(accounts.items())),
            tuple(sorted(load.name for load in self.loads if load.floats)),
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
    for node_id, part in parts(share.cpu_nodes, cores).items():
        account = accounts[node_id]
        account.owned.update(share.owned.intersection(account.node.cpus))
        account.shared += host_cores(share.shared_cores, share.threads, account.node) * part
    sizes = {node_id: ordinary_kib(node) for node_id, node in nodes.items()}
    for node_id, part in parts(share.memory_nodes, sizes).items():
        accounts[node_id].bound_kib += share.need.memory_kib * part
    for size_kib, number in share.need.pages:
        pools = {node_id: pool_pages(node, size_kib) for node_id, node in nodes.items()}
        for node_id, part in parts(share.memory_nodes, pools).items():
            pages = accounts[node_id].pages
            pages[size_kib] = pages.get(size_kib, Fraction(0)) + number * part
    for node_id in {*share.cpu_nodes, *share.memory_nodes}.intersection(accounts):
        accounts[node_id].guests.add(guest)


def parts(nodes: Ids, weights: Mapping[int, int]) -> dict[int, Fraction]:
    """Return which part of a share is on each node: by weight over its nodes, or over all.

    Args:
        nodes: of the share, empty where it may be on any.
        weights: of all nodes, by id.
    """
    among = [node for node in nodes if node in weights] if nodes else list(weights)
    total = sum(weights[node] for node in among)
    if not total:
        return {node: Fraction(1, len(among)) for node in among}
    return {node: Fraction(weights[node], total) for node in among if weights[node]}


def holders(loads: Sequence[Load], node: Node, nodes: Sequence[Node]) -> list[tuple[str, int]]:
    """Return who takes ordinary memory of a node, the most first, in KiB each."""
    weights = {one.id: ordinary_kib(one) for one in nodes}
    found: dict[str, Fraction] = {}
    for load in loads:
        for share in load.shares:
            part = parts(share.memory_nodes, weights).get(node.id, Fraction(0))
            found[load.name] = found.get(load.name, Fraction(0)) + share.need.memory_kib * part
    ranked = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    return [(name, ceil(size_kib)) for name, size_kib in ranked if size_kib]
