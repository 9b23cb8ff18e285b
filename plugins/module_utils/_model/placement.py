# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests take of a host's nodes, and which nodes each was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .._cpuset import Ids, format_cpuset


@dataclass(frozen=True)
class Need:
    """What a cell needs of its node, or several cells together.

    Attributes:
        cores: guest cores; threads of one core count once.
        memory_kib: ordinary memory in KiB; hugepages are counted apart.
        pages: hugepages, as (size in KiB, number), ascending.
    """

    cores: int
    memory_kib: int
    pages: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: Need) -> Need:
        """Return what both need together."""
        pages = dict(self.pages)
        for size_kib, number in other.pages:
            pages[size_kib] = pages.get(size_kib, 0) + number
        return Need(
            self.cores + other.cores,
            self.memory_kib + other.memory_kib,
            tuple(sorted(pages.items())),
        )


@dataclass(frozen=True)
class Share:
    """What one cell of a guest takes, or a whole guest without cells, or one memory device.

    Attributes:
        need: how much it takes.
        cpu_nodes: host nodes that its vCPUs are pinned to; empty where they float.
        memory_nodes: host nodes that its memory is bound to, else those of its vCPUs; empty where
            it floats.
        shared_cores: those of its cores that share the pCPUs of their nodes.
        threads: of each of its cores: on a host core with fewer, a guest core takes several.
        owned: the pCPUs that it owns.
        is_strict: whether none of its memory may come from other nodes.
    """

    need: Need
    cpu_nodes: Ids = ()
    memory_nodes: Ids = ()
    shared_cores: int = 0
    threads: int = 1
    owned: frozenset[int] = frozenset()
    is_strict: bool = False


@dataclass(frozen=True)
class Threads:
    """Threads of a guest that may run on the same pCPUs, and own none of these.

    Attributes:
        what: such as ``its vCPUs`` or ``its emulator``.
        cpus: where they may run, empty for anywhere.
        is_held: whether somebody wants them there and nowhere else; others make room when asked.
        cores: how many host cores' worth of vCPUs they are.
    """

    what: str
    cpus: Ids
    is_held: bool = False
    cores: Fraction = Fraction(0)


@dataclass(frozen=True)
class Load:
    """What one guest takes of its host.

    Attributes:
        shares: one for each cell, or one for the guest; and those of memory devices.
        threads: those that are pinned, and own nothing.
    """

    name: str
    uuid: str
    shares: tuple[Share, ...]
    threads: tuple[Threads, ...] = ()

    @property
    def is_on_nodes(self) -> bool:
        """Whether any of it is pinned or bound to nodes."""
        return any(share.cpu_nodes or share.memory_nodes for share in self.shares)

    @property
    def floats(self) -> bool:
        """Whether any of it is on no node in particular."""
        return any(
            (share.need.cores and not share.cpu_nodes) or not share.memory_nodes
            for share in self.shares
        )

    @property
    def owned(self) -> frozenset[int]:
        """The pCPUs that it owns."""
        return frozenset[int]().union(*(share.owned for share in self.shares))


@dataclass(frozen=True)
class NodeAccount:
    """What one host node has, and what guests take of it.

    Attributes:
        cores: its cores with online pCPUs.
        owned_cores: its cores with such pCPUs.
        shared_cores: cores that guests share the others for, rounded up.
        memory_kib: its ordinary memory in KiB, without hugepage pools.
        bound_kib: ordinary memory of guests that is bound there or expected there, rounded up.
        pools: by page size in KiB: pages in the pool, and pages of guests.
        guests: names of the guests that take part of it, sorted, without those that float.
    """

    node: int
    cores: int
    owned: frozenset[int]
    owned_cores: int
    shared_cores: int
    memory_kib: int
    bound_kib: int
    pools: Mapping[int, tuple[int, int]]
    guests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """What every guest of a host takes, node by node.

    Attributes:
        accounts: of the eligible nodes, by id.
        floating: names of guests that are on no node in particular; they are shared over the nodes
            by size.
    """

    accounts: tuple[NodeAccount, ...]
    floating: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """Which nodes one guest was given, and why.

    Attributes:
        nodes: ids, ascending.
        kept: whether it was on them before.
        fewest: the smallest number of nodes that could hold it on an empty host.
        distance: average distance between its nodes; 10 for one.
        device_nodes: nodes of its passed-through devices.
        why: a sentence.
        refused: sets of nodes that came before it by number or distance and could not hold it, as
            (nodes, reason).
    """

    nodes: Ids
    kept: bool
    fewest: int
    distance: float
    device_nodes: Ids = ()
    why: str = ""
    refused: tuple[tuple[Ids, str], ...] = field(default=())


def placement_to_result(placement: Placement) -> dict[str, Any]:
    """Return a placement as modules return it: JSON types only."""
    return {
        "nodes": format_cpuset(placement.nodes),
        "kept": placement.kept,
        "fewest": placement.fewest,
        "distance": placement.distance,
        "devices": format_cpuset(placement.device_nodes),
        "why": placement.why,
        "candidates": [
            {"nodes": format_cpuset(nodes), "refused": reason}
            for nodes, reason in placement.refused
        ],
    }


def ledger_to_result(ledger: Ledger) -> dict[str, Any]:
    """Return a ledger as modules return it: JSON types only."""
    return {
        "nodes": [
            {
                "node": account.node,
                "cores": account.cores,
                "exclusive_cores": account.owned_cores,
                "shared_cores": account.shared_cores,
                "memory_kib": account.memory_kib,
                "bound_kib": account.bound_kib,
                "hugepages": [
                    {"size_kib": size_kib, "total": total, "taken": taken}
                    for size_kib, (total, taken) in sorted(account.pools.items())
                ],
                "guests": list(account.guests),
            }
            for account in ledger.accounts
        ],
        "floating": list(ledger.floating),
    }
