# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a guest stands still while it migrates, against virsh, which lets libvirt resume it."""

from __future__ import annotations

import json
import subprocess
from statistics import median

import trees
from report import Part, Table, Target
from timing import BenchError
from venvs import PROJECT, controller, venv

_ROUNDS = 10


def measure() -> Part:
    """Measure the handover."""
    chosen = controller()
    environment = venv("controller", chosen.python, chosen.core)
    trees.install(environment / "bin/ansible-galaxy")
    done = subprocess.run(
        [str(environment / "bin/python"), str(PROJECT / "tests/lab/handover.py"), str(_ROUNDS)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(done.stderr.strip()[-600:])
    found: dict[str, list[float]] = json.loads(done.stdout)
    part = Part("handover", "How long a guest stands still while it migrates", raw=found)
    virsh, ours = found["virsh migrate"], found["vnuma_migrate"]
    more = median(one - other for one, other in zip(ours, virsh))
    table = Table(
        "One booted guest that has nothing to do, peer to peer, without a limit of bandwidth",
        ("contestant", "stands still", "least", "most", "to virsh"),
    )
    for name, turns in found.items():
        to_virsh = median(one / other for one, other in zip(turns, virsh))
        cells = (median(turns), min(turns), max(turns))
        table.rows.append([name, *(f"{1000 * one:.0f} ms" for one in cells), f"{to_virsh:.2f}"])
    table.notes.append(
        f"Medians of {len(ours)} migrations each, by the events STOP and RESUME of the two QEMUs. "
        f"vnuma_migrate takes {1000 * more:.0f} ms more (median of the pairs): it waits until the "
        "source is over, writes that down, and resumes the guest by a request to the target."
    )
    part.tables.append(table)
    part.targets.append(Target("standing still, to virsh migrate", part_ratio(ours, virsh), 3.0))
    return part


def part_ratio(ours: list[float], others: list[float]) -> float:
    """Return the median of the ratios of pairs."""
    return median(one / other for one, other in zip(ours, others))
