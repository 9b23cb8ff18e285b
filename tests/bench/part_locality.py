# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of a guest's memory is local, on an emulated KVM host with eight nodes."""

from __future__ import annotations

import json

from report import Part, Table, Target
from timing import BenchError, command
from venvs import PROJECT, controller, venv

_LAYOUTS = {
    "unpartitioned": "no partition",
    "rfc": "the RFC's: cells and pins, memory not bound",
    "partitioned": "ours, by default",
}


def measure() -> Part:
    """Measure locality, by layout."""
    # It plans with the collection's filter, so that it needs Ansible.
    taken = controller()
    python = venv("controller", taken.python, taken.core) / "bin/python"
    said = command([python, PROJECT / "tests/lab/locality.py"]).output
    shares: dict[str, list[float]] = json.loads(said.splitlines()[-1])
    if set(shares) != set(_LAYOUTS):
        raise BenchError(f"locality.py measured {', '.join(shares)}")
    part = Part("locality", "Locality of a guest's memory", raw=dict(shares))
    columns = max(len(found) for found in shares.values())
    table = Table(
        "Share of memory on the host node that a cell mirrors, in %",
        ("layout", *(f"cell {cell}" for cell in range(columns)), "least"),
    )
    for name, title in _LAYOUTS.items():
        found = shares[name]
        cells = [f"{share * 100:.0f}" for share in found]
        cells += [""] * (columns - len(found))
        table.rows.append((title, *cells, f"{min(found) * 100:.0f}"))
    table.notes.append(
        "A guest with 16 vCPUs on KVM, after every vCPU has written to memory of its own node; "
        "/proc/PID/numa_maps of QEMU on the host. Without a partition there are no cells: the "
        "columns are the host nodes, and the share of all its memory that is on each."
    )
    part.tables.append(table)
    part.targets.append(
        Target("least local cell, in %", min(shares["partitioned"]) * 100, 100, at_most=False)
    )
    return part
