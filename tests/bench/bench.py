# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark: every figure is measured beside what it is compared with, in the same run.

    /usr/bin/python3 tests/bench/bench.py [PART...]

Without names, every part runs. Tables are printed and written to build/bench.md, and every single
measurement to build/bench.json. It ends with 1 where a part could not be measured; a target that is
missed is named and is no failure, since it may be the machine's.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent / "lab"), str(_HERE.parent / "tools")]

import libvirt
import part_caches
import part_converge
import part_downtime
import part_fleet
import part_handover
import part_locality
import part_nova
import part_placement
import part_plan
import part_report
import report
import trees
from errors import LabError
from timing import BenchError
from venvs import PROJECT, ToolError

PARTS: dict[str, Callable[[], report.Part]] = {
    "plan": part_plan.measure,
    "placement": part_placement.measure,
    "caches": part_caches.measure,
    "nova": part_nova.measure,
    "locality": part_locality.measure,
    "converge": part_converge.measure,
    "scale": part_converge.measure_scale,
    "fleet": part_fleet.measure,
    "downtime": part_downtime.measure,
    "handover": part_handover.measure,
    "report": part_report.measure,
}


def machine() -> dict[str, str]:
    """Describe this machine, and how busy it is."""
    return {
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "commit": _said("git", "-C", str(PROJECT), "describe", "--always", "--dirty"),
        "processors": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        "libvirt": _said("virsh", "--version"),
    }


def main(names: list[str]) -> int:
    """Measure the parts, and print and write what was found."""
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        print(f"bench: there is no part {unknown[0]}; the parts are {', '.join(PARTS)}")
        return 2
    trees.link()
    broken: list[str] = []
    parts: list[report.Part] = []
    for name in names or PARTS:
        print(f"bench: measuring {name}", flush=True)
        before = machine()
        try:
            part = PARTS[name]()
        except (BenchError, LabError, ToolError, libvirt.libvirtError) as error:
            broken.append(f"{name}: {error}")
            print(f"bench: {name} could not be measured: {error}", flush=True)
            continue
        parts.append(part)
        page, data = report.write([part], before, trees.BUILD)
        print(f"\n{part.markdown()}", flush=True)
        print(f"bench: written to {page} and {data}\n", flush=True)
    missed = [target.what for part in parts for target in part.targets if not target.met]
    met = sum(target.met for part in parts for target in part.targets)
    print(f"bench: {len(parts)} parts measured, {met} targets met, {len(missed)} missed")
    for what in missed:
        print(f"bench: missed: {what}")
    for what in broken:
        print(f"bench: not measured: {what}")
    return 1 if broken else 0


def _said(*argv: str) -> str:
    try:
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout.strip()
    except OSError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
