# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the memory of a guest belongs, for those who look whether it is there."""

from __future__ import annotations

from dataclasses import dataclass

from .._cpuset import Ids


@dataclass(frozen=True)
class CellPlacement:
    """Where the memory of one cell belongs, or the whole memory of a guest without cells.

    Attributes:
        cell: id of the cell, None for a guest without.
        vcpus: its vCPUs, ascending.
        memory_kib: its memory in KiB, without memory devices.
        mode: mode of its memory binding, ``none`` where it is not bound.
        bound: host nodes that its memory is bound to.
        home: host nodes where its memory is local: those that it is bound to, else those that its
            vCPUs are pinned to; empty where the definition says neither.
        pinned: host nodes that its vCPUs are pinned to; empty where one may run anywhere.
    """

    cell: int | None
    vcpus: Ids
    memory_kib: int
    mode: str = "none"
    bound: Ids = ()
    home: Ids = ()
    pinned: Ids = ()
