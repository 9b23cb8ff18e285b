# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How memory is split over cells, which node each is bound to, and how far apart they are."""

from __future__ import annotations

from collections.abc import Sequence

from .._cpuset import Ids
from .._errors import LayoutError, RoomError
from .._model.guest import Guest, HugepageUse
from .._model.host import (
    DISTANCE_HIGHEST,
    DISTANCE_LOCAL,
    DISTANCE_REMOTE,
    DISTANCE_SAME_NODE,
    Host,
    Node,
)
from .._policy import Matrix, Policy
from .._size import granule_kib, show_size
from .distribution import apportion, node_weights

#: The largest ordinary page of an architecture, that of aarch64 and ppc64.
LARGEST_ORDINARY_KIB = 64


def memory_node(host: Host, node: Node) -> Node:
    """Return the host node that memory is bound to for vCPUs on a node.

    That is the node itself, or the nearest that has memory where it has none.
    """
    if node.memory_kib > 0:
        return node
    return min(
        host.eligible,
        key=lambda other: (node.distance_to(other.id) or DISTANCE_REMOTE, other.id),
    )


def hugepage_uses(guest: Guest, nodes: Sequence[Node | None]) -> tuple[HugepageUse, ...]:
    """Return the uses of real hugepages.

    libvirt takes the host's ordinary page too, and means no hugepages by it (since 1.2.6,
    docs/formatdomain); it is the one that is smaller than every pool.
    """
    pools = {pool.size_kib for node in nodes if node is not None for pool in node.hugepages}
    smallest = min(pools, default=LARGEST_ORDINARY_KIB + 1)
    return tuple(
        use
        for use in guest.hugepages
        if use.size_kib > LARGEST_ORDINARY_KIB or use.size_kib >= smallest
    )


def hugepage_sizes(guest: Guest, nodes: Sequence[Node | None]) -> tuple[int | None, dict[int, int]]:
    """Return the size of a guest's hugepages in KiB, and of its cells that have another.

    None, and cells that are named by neither, have ordinary pages.
    """
    uses = hugepage_uses(guest, nodes)
    default_kib = next((use.size_kib for use in uses if use.cells is None), None)
    return default_kib, {cell: use.size_kib for use in uses for cell in use.cells or ()}


def split_memory(
    guest: Guest, arch: str, backing: Sequence[Node | None], policy: Policy
) -> list[int]:
    """Split the memory over the cells in granules, and return the KiB of each.

    *backing* is the host node that the memory of each cell is bound to.

    Raises:
        LayoutError: when it does not make what the policy asks for.
    """
    count = len(backing)
    # Page sizes are powers of two, so the largest is a multiple of all the others.
    page = max((use.size_kib for use in hugepage_uses(guest, backing)), default=0)
    granule = max(page, granule_kib(arch))
    if policy.granule_kib is not None:
        if policy.granule_kib % granule:
            raise LayoutError(
                f"granule {show_size(policy.granule_kib)} is not a multiple of "
                f"{show_size(granule)}, the smallest unit that its memory can be split in; change "
                "granule."
            )
        granule = policy.granule_kib
    unit_name = f"{'hugepage' if page == granule else 'granule'} of {granule} KiB"
    units, rest = divmod(guest.memory_kib, granule)
    if units < count:
        raise RoomError(
            f"{guest.memory_kib} KiB of memory cannot give {count} cells one {unit_name} each",
            f"give it at least {granule * count} KiB, or use fewer cells or nodes",
        )
    if rest and page:
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory is not a multiple of its {unit_name}; set it to "
            f"{guest.memory_kib - rest} or {guest.memory_kib - rest + granule} KiB."
        )
    weights = [1] * count
    if policy.split == "proportional":
        weights = node_weights(backing, lambda node: _granules(node, page, granule))
    if policy.split == "equal" and (rest or units % count):
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory does not divide evenly over {count} cells in "
            f"granules of {granule} KiB; use a multiple of {granule * count} KiB, or set split to "
            "'even'."
        )
    memory = [size * granule for size in apportion(units, weights)]
    memory[-1] += rest
    return memory


def _granules(node: Node, page_kib: int, granule: int) -> int:
    """Return how many granules a node has: of its pool where there is one of that page."""
    pool_kib = sum(
        pool.total * pool.size_kib for pool in node.hugepages if pool.size_kib == page_kib
    )
    return (pool_kib or node.memory_kib) // granule


def distance_matrix(
    backing: Sequence[Node | None], memory_backing: Sequence[Node | None]
) -> list[Ids]:
    """Return the distance from every cell to every cell: the full matrix, in rows.

    From a cell's vCPUs to another cell's memory, which lies on another node than that cell's vCPUs
    where their node has none.
    """
    # Without topology there is one cell, whose only distance is to itself.
    return [
        tuple(
            DISTANCE_LOCAL
            if row == column or origin is None or target is None
            else _distance(origin, target)
            for column, target in enumerate(memory_backing)
        )
        for row, origin in enumerate(backing)
    ]


def given_distances(distances: str | Matrix, count: int) -> Matrix | None:
    """Return the matrix that a policy gives, None where it gives none.

    Raises:
        LayoutError: when it is for another number of cells.
    """
    if isinstance(distances, str):
        return None
    if len(distances) != count:
        raise LayoutError(
            f"distances has {len(distances)} rows, and the guest gets {count} "
            f"cell{'s' if count != 1 else ''}; give a row for each cell, or set cells to "
            f"{len(distances)}."
        )
    return distances


def check_asymmetry(arch: str, matrix: Sequence[Sequence[int]]) -> None:
    """Refuse distances that differ by direction, where QEMU does.

    A pseries machine ends with "Asymmetrical NUMA topologies aren't supported", at its start or as
    soon as its guest asks for FORM1 affinity (hw/ppc/spapr_numa.c).

    Raises:
        LayoutError: with the remedy.
    """
    if arch.startswith("ppc64") and [*map(tuple, matrix)] != [*zip(*matrix)]:
        raise LayoutError(
            "the distances between its host nodes differ by direction, which QEMU does not "
            f"support for {arch} guests; set distances to 'none'."
        )


def _distance(origin: Node, target: Node) -> int:
    if origin.id == target.id:
        return DISTANCE_SAME_NODE
    value = origin.distance_to(target.id)
    return DISTANCE_REMOTE if value < DISTANCE_SAME_NODE else min(value, DISTANCE_HIGHEST)
