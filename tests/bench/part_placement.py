# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Placement: how many hosts' guests find room, how near, and how long the search takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from report import Part, Table, Target
from timing import command

_CASE = Path(__file__).resolve().parent / "placement_case.py"


def measure() -> Part:
    """Measure placement."""
    part = Part("placement", "Placement: nodes auto")
    found: dict[str, Any] = json.loads(command([sys.executable, _CASE]).output)
    part.raw.update(found)
    wholly = Table(
        "Share of hosts whose guests are all placed; they fit by construction",
        ("nodes, fill", *found["wholly"][0]["share"]),
    )
    for row in found["wholly"]:
        wholly.rows.append(
            (
                f"{row['nodes']} nodes, {row['fill']:.0%}",
                *(f"{share:.2f}" for share in row["share"].values()),
            )
        )
        if row["fill"] == 0.95:
            part.targets.append(
                Target(
                    f"hosts of {row['nodes']} nodes at 95 % whose guests are all placed",
                    row["share"]["kvm.vnuma"],
                    0.95,
                    at_most=False,
                )
            )
    wholly.notes.append(f"{found['hosts']} hosts each, of 24 cores and 192 GiB a node.")
    part.tables.append(wholly)
    small = found["small"]
    part.tables.append(
        Table(
            "Small cases, against trying everything",
            ("hosts", "can be placed", "placed"),
            [(str(small["hosts"]), str(small["possible"]), str(small["placed"]))],
        )
    )
    part.targets.append(
        Target(
            "placed of what exhaustive search places",
            small["placed"] / small["possible"],
            0.98,
            at_most=False,
        )
    )
    near = found["distance"]
    part.tables.append(
        Table(
            "Mean distance of guests on two nodes, eight nodes at 90 %",
            tuple(near),
            [tuple(f"{value:.1f}" if value else "none" for value in near.values())],
        )
    )
    part.targets.append(
        Target("mean distance against the closest set", near["kvm.vnuma"] / near["kubelet"], 1.0)
    )
    online = found["online"]
    part.tables.append(
        Table(
            "Guests that come and go: share that finds a place on arrival, eight nodes",
            tuple(online),
            [tuple(f"{value:.3f}" for value in online.values())],
        )
    )
    part.tables.append(
        Table(
            "Time for 100 guests on eight nodes",
            ("guests that fit", "guests of which some do not"),
            [(f"{found['fitting_ms']:.0f} ms", f"{found['overfull_ms']:.0f} ms")],
        )
    )
    part.targets.append(
        Target("milliseconds for 100 guests on eight nodes", found["fitting_ms"], 150)
    )
    return part
