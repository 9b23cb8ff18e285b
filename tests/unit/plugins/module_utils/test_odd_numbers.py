# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions come from anybody, and so do the numbers in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "oddnumbers.py"


def test_no_number_takes_memory_or_ends_in_a_traceback() -> None:
    """Each call ends in an answer, or in a sentence of a decent length that names the guest."""
    # glibc reserves 64 MiB of address space for each thread that allocates while others do; how
    # many those are depends on what else the machine does.
    environment = {
        **os.environ,
        "MALLOC_ARENA_MAX": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    run = subprocess.run(
        [sys.executable, str(PROGRAM)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    found = json.loads(run.stdout)
    assert found["failed"] == []
    assert found["calls"] > 10000
    assert 1000 < found["answered"] < found["calls"] - 1000
