# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system a path of this machine is on."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def file_system(path: str, mounts: Path = _MOUNTS) -> str:
    """Return the type of the file system that a path is on, such as ``ext4``; '' for unknown.

    Args:
        path: absolute; symbolic links are followed.
        mounts: Linux's list of mounts (proc(5), mountinfo).
    """
    real = os.path.realpath(path)
    found = ("", "")
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _dash, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        # What was mounted last over the same place is what is seen there.
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(
            found[0]
        ):
            found = (point, after.split(" ")[0])
    return found[1]


def _unescaped(text: str) -> str:
    """Return a mount point; white space and backslashes are octal numbers in the list."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
