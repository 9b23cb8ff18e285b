# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes: the cells that every host of a group can back, so that a guest can move among them.

Cells, their vCPUs and memory, CPU topology and distances are what a guest's kernel was told when it
booted; they have to be the same wherever the guest runs. Which host nodes back the cells may differ
from host to host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .._cpuset import Ids, show_cpuset
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._policy import AUTO, MAX_CELLS, Matrix, Policy
from .._size import granule_kib
from .candidates import Site, need_text
from .limits import emulates_one_thread
from .loads import Demand
from .memory import distance_matrix, hugepage_uses
from .nodes import cell_count, named_nodes


@dataclass(frozen=True)
class Member:
    """A host of a group, and the guest as it is there.

    Attributes:
        guest: with hugepages of the host's default size where it does not name one.
    """

    name: str
    host: Host
    guest: Guest


@dataclass(frozen=True)
class Shape:
    """What a guest is to be on every host of a group.

    Attributes:
        cells: their number; None for a guest that is on one node everywhere, and keeps its own.
        threads: of a guest core; None where it keeps its own.
        granule_kib: what memory is split in, in KiB; None where it is not split.
        distances: the matrix, or ``none``; ``host`` where there is nothing to be in common.
        nodes: the host nodes that back it, by name of the host; with ``nodes: auto`` those that
            would on a host without other guests.
    """

    cells: int | None
    threads: int | None
    granule_kib: int | None
    distances: str | Matrix
    nodes: Mapping[str, Ids]


class ShapeError(LayoutError):
    """No shape suits every host of a group.

    Args:
        reasons: why, by name of the host.
    """

    def __init__(self, message: str, reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reasons = reasons


def common_shape(members: Sequence[Member], policy: Policy) -> Shape:
    """Return the shape that every host of a group can back.

    It has the most cells for which each host has a number of nodes that divides them equally and
    holds them; no more than the widest host has nodes, since more would tell the guest nothing.
    With ``nodes: auto`` it has the fewest instead, as ``auto`` takes the fewest nodes.

    The order of the hosts is of no matter, and what the policy sets is kept.

    Raises:
        ShapeError: when there is none; with each host that cannot, and why.
    """
    members = sorted(members, key=lambda member: member.name)
    policy = replace(policy, migration_group=tuple(member.name for member in members))
    reasons: dict[str, str] = {}
    able: dict[str, list[int]] = {member.name: [] for member in members}
    counts = _counts(members, policy, reasons)
    for count in [] if reasons else counts:
        shaped = _shaped(members, policy, count)
        refused: dict[str, str] = {}
        found = _back(members, shaped, refused)
        if len(found) == len(members):
            return _shape(members, shaped, found)
        for member in members:
            if member.name in found:
                able[member.name].append(count or 1)
            elif (count or 1) <= len(member.host.eligible) or len(counts) == 1:
                # Over all of its nodes each has the least to hold: that figure says most.
                most = policy.nodes != AUTO and member.name in reasons
                reasons[member.name] = reasons[member.name] if most else refused[member.name]
    helpless = {name: why for name, why in reasons.items() if not able.get(name)}
    # Who can back some number of cells stands against the others only where each of them can.
    reasons = helpless or {
        name: f"it can back {show_cpuset(cells)} cells" for name, cells in able.items()
    }
    raise ShapeError(_no_shape(counts, reasons), reasons)


def check_shape(members: Sequence[Member], policy: Policy) -> None:
    """Refuse hosts that cannot back a shape which a guest has already.

    The policy has that shape in it.

    Raises:
        ShapeError: with each host that cannot, and why.
    """
    reasons: dict[str, str] = {}
    _back(members, policy, reasons)
    if reasons:
        raise ShapeError(_no_shape([policy.cells], reasons), reasons)


def backing_nodes(guest: Guest, host: Host, policy: Policy) -> Ids:
    """Return the nodes of a host that back a shape: the most that divide its cells equally.

    With ``nodes: auto`` it is the fewest. Of several sets the nearest is taken.

    The policy has the shape in it.

    Raises:
        LayoutError: when the host cannot; with the figures.
    """
    if policy.split == "proportional":
        raise LayoutError(
            f"split '{policy.split}' sizes cells by the nodes of one host, and other hosts of a "
            "migration group have others; set split to 'even'."
        )
    nodes = _open_nodes(host, policy)
    if policy.cells is not None:
        cell_count(guest, nodes, policy, [])
    demand = Demand(guest, replace(policy, auto_nodes=tuple(node.id for node in nodes)), host)
    site = Site(host)
    cells = policy.cells or 1
    sizes = [size for size in range(1, len(nodes) + 1) if cells % size == 0]
    for size in sizes if policy.nodes == AUTO else reversed(sizes):
        found = _nearest(demand, site, size)
        if found:
            return found
    # Over the most nodes each has the least to hold.
    raise LayoutError(_shortage(demand, site, max(sizes)))


def _counts(
    members: Sequence[Member], policy: Policy, reasons: dict[str, str]
) -> Sequence[int | None]:
    """Return the numbers of cells to try, the best first."""
    if policy.cells is not None:
        return [policy.cells]
    if not isinstance(policy.distances, str):
        return [len(policy.distances)]
    most = 1
    for member in members:
        try:
            most = max(most, len(_open_nodes(member.host, policy)))
        except LayoutError as error:
            reasons[member.name] = error.message
    vcpus = members[0].guest.vcpus if members else 1
    most = min(most, vcpus, MAX_CELLS)
    if policy.nodes == AUTO:
        return [None, *range(2, most + 1)]
    return range(most, 0, -1)


def _open_nodes(host: Host, policy: Policy) -> tuple[Node, ...]:
    """Return the nodes that a policy lets a guest have.

    Raises:
        LayoutError: when there are none, or one that is named cannot be had.
    """
    eligible = host.eligible
    if not eligible:
        raise LayoutError(
            "the host has no NUMA node with both online pCPUs and memory, and cannot back a shape; "
            "take it out of migration_group."
        )
    for option, ids in (("nodes", policy.nodes), ("auto_nodes", policy.auto_nodes)):
        if ids is not None and not isinstance(ids, str):
            return named_nodes(host, eligible, ids, option)
    return eligible


def _shaped(members: Sequence[Member], policy: Policy, count: int | None) -> Policy:
    """Return a policy with a number of cells, and the threads and granule that suit every host."""
    if count is None:
        return policy
    nodes = [node for member in members for node in _open_nodes(member.host, policy)]
    vcpus = members[0].guest.vcpus
    # Where threads of every core are offline there may be three of four: guests get two.
    threads = policy.threads or 1 << min(node.threads for node in nodes).bit_length() - 1
    if policy.threads is None:
        each = count * threads if policy.distribution == "round_robin" else threads
        whole = vcpus % each == 0 and vcpus // threads >= count
        alone = emulates_one_thread(members[0].guest, members[0].guest.arch)
        threads = threads if whole and policy.distribution != "interleave" and not alone else 1
    pages = [
        use.size_kib
        for member in members
        for use in hugepage_uses(member.guest, _open_nodes(member.host, policy))
    ]
    granule = policy.granule_kib or max(granule_kib(members[0].guest.arch), *pages, 0)
    return replace(policy, cells=count, threads=threads, granule_kib=granule)


def _back(members: Iterable[Member], policy: Policy, reasons: dict[str, str]) -> dict[str, Ids]:
    """Return the nodes of each host that backs a shape; of the others, the reason."""
    found = {}
    for member in members:
        try:
            found[member.name] = backing_nodes(member.guest, member.host, policy)
        except LayoutError as error:
            reasons[member.name] = error.message
    return found


def _shape(members: Sequence[Member], policy: Policy, nodes: Mapping[str, Ids]) -> Shape:
    distances = policy.distances
    if distances == "host" and policy.cells is not None:
        distances = _common_distances(
            [
                [
                    member.host.node(nodes[member.name][cell % len(nodes[member.name])])
                    for cell in range(policy.cells)
                ]
                for member in members
            ]
        )
    return Shape(policy.cells, policy.threads, policy.granule_kib, distances, nodes)


def _common_distances(backings: Sequence[Sequence[Node | None]]) -> Matrix:
    """Return distances for cells that are backed so, by one host or another.

    Where the hosts agree theirs are copied. Else each pair gets the largest of them all, both ways:
    a guest that takes near memory for far loses less than one that takes far memory for near.
    """
    matrices = [tuple(distance_matrix(backing, backing)) for backing in backings]
    if len(set(matrices)) == 1:
        return matrices[0]
    cells = range(len(matrices[0]))
    return tuple(
        tuple(max(max(one[row][column], one[column][row]) for one in matrices) for column in cells)
        for row in cells
    )


def _nearest(demand: Demand, site: Site, size: int) -> Ids:
    """Return the nearest nodes, so many, that hold the guest; () where there are none."""
    needs = demand.needs(demand.widest(size))
    room, among = site.empty, sorted(demand.nodes)
    fits = [
        {node for node in among if room.fits(node, demand, needs.width, need)}
        for need in needs.of_nodes
    ]
    found = [
        nodes
        for nodes in site.sets(among, size)
        if all(node in able for node, able in zip(nodes, fits))
    ]
    if found:
        return min(found, key=lambda nodes: (site.distance(nodes), nodes))
    # Of many nodes not every set was looked at; taken in turn, they hold it if any do.
    turn: list[int] = []
    for node in among:
        if len(turn) < size and node in fits[len(turn)]:
            turn.append(node)
    return tuple(turn) if len(turn) == size else ()


def _shortage(demand: Demand, site: Site, size: int) -> str:
    """Say what nodes, so many, have too little of."""
    needs = demand.needs(demand.widest(size))
    need = needs.of_nodes[0]
    short = {
        node: missing
        for node in sorted(demand.nodes)
        if (missing := [*site.empty.shortages(node, demand, needs.width, need)])
    }
    figures = "; ".join(f"node {node} has {' and '.join(one)}" for node, one in short.items())
    return (
        f"the host cannot back its cells: spread over {size} of {len(demand.nodes)} nodes, each "
        f"node would need {need_text(need)}, and {figures}."
    )


def _no_shape(counts: Sequence[int | None], reasons: Mapping[str, str]) -> str:
    if not reasons:
        return "a migration group needs at least one host; name the hosts of the group."
    each = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in sorted(reasons.items()))
    if len(counts) == 1 and counts[0] is not None:
        return (
            f"its shape of {counts[0]} cell{'s' if counts[0] != 1 else ''} does not fit every host "
            f"of its migration group ({each}); take these hosts out of migration_group, or set "
            "cells or rebalance for another shape."
        )
    return (
        f"no number of cells fits every host of its migration group ({each}); take hosts out of "
        "migration_group, reduce the guest's vCPUs or memory, raise cpu_overcommit, or "
        "lower reserved_memory."
    )
