# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nova: how many guests with pCPUs of their own it places, and how many the collection does.

Its own code is run, numa_fit_instance_to_host of virt/hardware.py, on the very same guests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import Part, Table, Target
from timing import command
from venvs import ToolError, controller, interpreter, venv

_CASE = Path(__file__).resolve().parent / "nova_case.py"
#: Those that Nova 34 runs on, the ones of Debian and Ubuntu first.
_PYTHONS = ("3.11", "3.12", "3.13", "3.10")


def nova() -> Path:
    """Return an interpreter that has Nova.

    Raises:
        ToolError: when there is none to make it with.
    """
    found = next(filter(None, map(interpreter, _PYTHONS)), None)
    if found is None:
        raise ToolError(f"nova needs Python {', '.join(_PYTHONS[:-1])} or {_PYTHONS[-1]}.")
    return venv("nova", found) / "bin/python"


def measure() -> Part:
    """Measure."""
    part = Part("nova", "Next to Nova: pinning cpu")
    chosen = controller()
    python = venv("controller", chosen.python, chosen.core) / "bin/python"
    found: dict[str, Any] = json.loads(command([python, _CASE, nova()]).output)
    part.raw.update(found)
    names = list(found["sets"][0]["share"])
    table = Table(
        "Share of guests placed, and of hosts whose guests are all placed; they all fit",
        (
            *("nodes", "threads", "topology", "beforehand", "fill", "guests", *names),
            *(f"all: {name}" for name in names),
        ),
    )
    for row in found["sets"]:
        table.rows.append(
            (
                *(str(row["nodes"]), str(row["threads"]), "yes" if row["topology"] else "no"),
                *(row["before"] or "nothing", f"{row['fill']:.0%}", str(row["guests"])),
                *(f"{row[what][name]:.2f}" for what in ("share", "wholly") for name in names),
            )
        )
    table.notes.append(
        f"{found['hosts']} hosts each. One by one is in the order of arrival, a call each, as Nova "
        "does. Beforehand, threads of three cores a node are pinned by others, or reserved."
    )
    part.tables.append(table)
    part.targets += _targets(found["sets"], *names)
    return part


def _targets(sets: list[dict[str, Any]], pack: str, one_by_one: str, together: str) -> list[Target]:
    """Return what is to be reached in every set."""
    least = {
        "one by one, least share of Nova's": min(
            row["share"][one_by_one] / row["share"][pack] for row in sets
        ),
        "together, least share of Nova's": min(
            row["share"][together] / row["share"][pack] for row in sets
        ),
        "together, least share of guests placed": min(row["share"][together] for row in sets),
    }
    return [Target(what, value, 1.0, at_most=False) for what, value in least.items()]
