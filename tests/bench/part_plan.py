# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning: how long the largest hosts take, and how that grows."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from report import Part, Table, Target
from timing import command

_CASE = Path(__file__).resolve().parent / "plan_case.py"
_ROUNDS = 3
# Twice the size may take this many times as long: linear growth, and quadratic where the distance
# matrix is, with a quarter for what a small case hides in its caches.
_LINEAR, _QUADRATIC = 2.5, 5.0

_LARGEST: dict[str, dict[str, Any]] = {
    "64 nodes x 4096 vCPUs, pinning node": {},
    "64 nodes x 4096 vCPUs, pinning core": {"pinning": "core"},
    "64 nodes x 4096 vCPUs, pinning cpu": {"pinning": "cpu"},
    "64 nodes x 4096 vCPUs, with writing it into the XML": {"edit": True},
    "500 guests of 16 vCPUs, 64 nodes, pinning node": {"guests": 500, "vcpus": 16},
    "500 guests of 16 vCPUs, 64 nodes, pinning core": {
        "guests": 500,
        "vcpus": 16,
        "pinning": "core",
    },
}

_SIZES = (4096, 8192, 16384)
_COUNTS = (125, 250, 500)
# What stays the same is kept small where it would hide the growth of what is doubled.
_FEW = {"vcpus": 128}
_GROWTH: tuple[tuple[str, str, Sequence[int], dict[str, Any], float], ...] = (
    ("vCPUs", "vcpus", _SIZES, {}, _LINEAR),
    ("vCPUs, pinning core", "vcpus", _SIZES, {"pinning": "core", "cpus": 512}, _LINEAR),
    ("vCPUs, with writing it", "vcpus", _SIZES, {"edit": True}, _LINEAR),
    ("cells without distances", "cells", (32, 64, 128), {"distances": "none", **_FEW}, _LINEAR),
    ("cells with their matrix", "cells", (32, 64, 128), _FEW, _QUADRATIC),
    ("guests", "guests", _COUNTS, {"vcpus": 16}, _LINEAR),
    ("guests, pinning core", "guests", _COUNTS, {"vcpus": 16, "pinning": "core"}, _LINEAR),
)


def measure() -> Part:
    """Measure planning."""
    part = Part("plan", "Planning")
    table = Table("The largest hosts", ("case", "processor time", "peak memory"))
    for what, case in _LARGEST.items():
        (one,) = _measured([case])
        part.raw[what] = one
        table.rows.append(
            (what, f"{one['cpu_s'] * 1000:.0f} ms", f"{one['peak_kib'] / 1024:.1f} MiB")
        )
    part.tables.append(table)
    growth = Table(
        "Growth: how many times as long for twice the size",
        ("what is doubled", "sizes", "first doubling", "second doubling"),
    )
    for what, key, sizes, rest, limit in _GROWTH:
        found = _measured([{**rest, key: size} for size in sizes])
        part.raw[f"growth in {what}"] = found
        factors = [after["cpu_s"] / before["cpu_s"] for before, after in zip(found, found[1:])]
        growth.rows.append(
            (what, ", ".join(map(str, sizes)), *(f"{factor:.2f}" for factor in factors))
        )
        part.targets.append(Target(f"twice the {what}", factors[-1], limit))
    part.tables.append(growth)
    return part


def _measured(cases: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Measure cases turn by turn; each is a process of its own, so that its memory is too."""
    turns = [
        [json.loads(command([sys.executable, _CASE, json.dumps(one)]).output) for one in cases]
        for _turn in range(_ROUNDS)
    ]
    return [
        {key: median(turn[index][key] for turn in turns) for key in ("cpu_s", "peak_kib")}
        for index in range(len(cases))
    ]
