# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Caches: over how many L3 caches the cores of guests are spread."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from report import Part, Table, Target
from timing import command

_CASE = Path(__file__).resolve().parent / "caches_case.py"


def measure() -> Part:
    """Measure pins."""
    part = Part("caches", "Caches: pinning core")
    found: dict[str, Any] = json.loads(command([sys.executable, _CASE]).output)
    part.raw.update(found)
    hosts = found.pop("hosts")
    sizes = [size for size in found["Nova"] if size != "all"]
    table = Table(
        "Share of guests whose cores lie in the fewest L3 caches possible",
        ("", "all", *(f"{size} vCPUs" for size in sizes)),
    )
    for who, share in found.items():
        table.rows.append((who, *(f"{share[size]:.2f}" for size in ("all", *sizes))))
    table.notes.append(
        f"{hosts} hosts of two EPYC with NPS4, a node of three CCX of eight cores, 24 guests each, "
        "none on more than one node."
    )
    part.tables.append(table)
    number_order = max(found["Nova"]["all"], found["kubelet"]["all"])
    for who in ("together", "one by one"):
        share = found[f"kvm.vnuma, {who}"]["all"]
        part.targets.append(
            Target(f"guests in the fewest caches, {who}", share, 0.95, at_most=False)
        )
    part.targets.append(
        Target(
            "the same against number order",
            found["kvm.vnuma, one by one"]["all"] / number_order,
            1.0,
            at_most=False,
        )
    )
    return part
