# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Splitting whole things over cells, evenly or in proportion to what backs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from .._model.host import Node


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split a number over cells in proportion to their weights; each cell gets at least one.

    By largest remainder: a cell gets its exact part rounded down or up, and of equal remainders the
    first cell gets more. So equal weights differ by at most one, the larger first; and no part is
    above its weight where the weights together are as much as the total, but for a cell that gets
    one because it cannot get none.

    Args:
        total: to split, at least one for each cell.
        weights: of the cells; they count as equal where all are 0.
    """
    if not any(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    exact = [Fraction(total * weight, whole) for weight in weights]
    parts = [max(1, int(part)) for part in exact]
    cells = range(len(parts))
    for _missing in range(total - sum(parts)):
        parts[max(cells, key=lambda cell: (exact[cell] - parts[cell], -cell))] += 1
    # Those that got their one come from whoever has most above its part.
    for _extra in range(sum(parts) - total):
        large = [cell for cell in cells if parts[cell] > 1]
        parts[max(large, key=lambda cell: (parts[cell] - exact[cell], cell))] -= 1
    return parts


def divides(total: int, weights: Sequence[int]) -> bool:
    """Tell whether every cell gets exactly its part."""
    if not any(weights):
        weights = [1] * len(weights)
    return all(total * weight % sum(weights) == 0 for weight in weights)


def node_weights(backing: Sequence[Node | None], size: Callable[[Node], int]) -> list[int]:
    """Return what each cell's node has, shared by the cells that are on it.

    Args:
        backing: the host node of each cell; without one a cell weighs 1.
        size: what a node has, in whole units.
    """
    cells: dict[int, int] = {}
    for node in backing:
        if node is not None:
            cells[node.id] = cells.get(node.id, 0) + 1
    return [1 if node is None else size(node) // cells[node.id] for node in backing]
