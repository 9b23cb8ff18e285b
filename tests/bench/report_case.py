# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make input for the page, or write the page of it, and say what that took as JSON.

    python3 report_case.py make FILE HOSTS GUESTS
    python3 report_case.py write FILE PAGE

They are two, so that the memory of making the input is not counted; that of reading it is.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS.parent / "build/collections"), str(_TESTS / "lab")]


def make(path: Path, hosts: int, guests: int) -> None:
    """Write the input for so many hosts with so many guests each."""
    import reports

    entries = {"kvm": reports.large_host(guests)} if hosts == 1 else reports.fleet(hosts, guests)
    path.write_text(json.dumps(entries), encoding="utf-8")


def write(path: Path, page: Path) -> dict[str, float]:
    """Write the page, and return what it took."""
    from ansible_collections.kvm.vnuma.plugins.filter.report import report

    started = time.process_time()
    hosts = json.loads(path.read_bytes())
    page.write_text(report(hosts), encoding="utf-8")
    return {
        "cpu_s": time.process_time() - started,
        "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "bytes": page.stat().st_size,
        "input_bytes": path.stat().st_size,
    }


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        print(json.dumps(write(Path(sys.argv[2]), Path(sys.argv[3]))))
