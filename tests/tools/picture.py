# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draw the picture in the README: a plan for the RFC's host, as the filter report draws it.

    ENVIRONMENT/bin/python tests/tools/picture.py

`make picture` does so. A test draws it again and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trees

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(trees.link()), str(_TESTS / "lab")]

import reports
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.page import render_picture
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.read import read_host

PICTURE = _TESTS.parent / "docs/picture.svg"
#: Name, vCPUs, GiB and options.
_GUESTS = (
    ("anuma", 16, 64, {"nodes": "all", "pinning": "core"}),
    ("build1", 8, 16, {"nodes": "4"}),
    ("build2", 8, 16, {"nodes": "4"}),
    ("db1", 16, 96, {"nodes": "0-1", "pinning": "core"}),
    ("db2", 16, 96, {"nodes": "2-3", "pinning": "core"}),
    ("web1", 8, 16, {"nodes": "5", "pinning": "core"}),
    ("web2", 8, 16, {"nodes": "5", "pinning": "core"}),
)


def draw() -> str:
    """Return the picture."""
    entry = reports.planned("rfc-8n240c", _GUESTS)
    if entry["plan"]["errors"]:
        raise SystemExit(f"picture: {entry['plan']['errors']}")
    return render_picture(read_host("the RFC's host", entry))


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
