# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The distances between a guest's cells."""

from __future__ import annotations

from collections.abc import Sequence

from .._errors import LayoutError
from .._model.host import (
    DISTANCE_HIGHEST,
    DISTANCE_LOCAL,
    DISTANCE_REMOTE,
    DISTANCE_SAME_NODE,
    Node,
)
from .._model.layout import Ids
from .._policy import Matrix


def distance_matrix(
    backing: Sequence[Node | None], memory_backing: Sequence[Node | None]
) -> list[Ids]:
    """Return the distance from every cell to every cell: the full matrix, in rows.

    From a cell's vCPUs to another cell's memory, which lies on another node than that cell's vCPUs
    where their node has none.

    Args:
        backing: the host node that the vCPUs of each cell are on.
        memory_backing: the host node that the memory of each cell is on.
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


def _distance(origin: Node, target: Node) -> int:
    if origin.id == target.id:
        return DISTANCE_SAME_NODE
    value = origin.distance_to(target.id)
    return DISTANCE_REMOTE if value < DISTANCE_SAME_NODE else min(value, DISTANCE_HIGHEST)
