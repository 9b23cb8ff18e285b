# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page: how long it takes, what memory, and how large it is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from report import Part, Table, Target
from timing import command
from venvs import controller, venv

_CASE = Path(__file__).resolve().parent / "report_case.py"
#: Hosts, and guests of each.
_CASES = {"one host, 8 nodes, 240 pCPUs": (1, 100), "a fleet": (200, 50)}
_LARGEST_HOST_KB, _FLEET_S, _FLEET_MIB = 400, 20, 300


def measure() -> Part:
    """Measure the page."""
    part = Part("report", "The page")
    chosen = controller()
    python = venv("controller", chosen.python, chosen.core) / "bin/python"
    table = Table(
        "Input read, page written",
        ("case", "hosts", "guests of each", "processor time", "peak memory", "page"),
    )
    found = {}
    with tempfile.TemporaryDirectory(prefix="vnuma-bench-") as folder:
        source, page = Path(folder) / "input.json", Path(folder) / "page.html"
        for what, (hosts, guests) in _CASES.items():
            command([python, _CASE, "make", source, str(hosts), str(guests)])
            one = json.loads(command([python, _CASE, "write", source, page]).output)
            part.raw[what] = found[hosts] = one
            table.rows.append(
                (
                    what,
                    str(hosts),
                    str(guests),
                    f"{one['cpu_s']:.1f} s",
                    f"{one['peak_kib'] / 1024:.0f} MiB",
                    f"{one['bytes'] / 1000:.0f} KB",
                )
            )
    part.tables.append(table)
    fleet = found[200]
    part.targets += [
        Target("KB of the page of one large host", found[1]["bytes"] / 1000, _LARGEST_HOST_KB),
        Target("seconds for 200 hosts", fleet["cpu_s"], _FLEET_S),
        Target("MiB for 200 hosts", fleet["peak_kib"] / 1024, _FLEET_MIB),
    ]
    return part
