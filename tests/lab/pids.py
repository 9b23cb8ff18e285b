# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Process ids that are kept in files, and never taken for a later process of the same number."""

from __future__ import annotations

from pathlib import Path


def write(path: Path, pid: int) -> None:
    """Keep a process id, with what tells the process from others that get its number later."""
    path.write_text(f"{pid} {_started(pid)}")


def read(path: Path) -> int:
    """Return the process id that *path* keeps.

    Raises:
        ProcessLookupError: when there is none, or that process has ended.
    """
    try:
        pid, started = path.read_text().split()
        if _started(int(pid)) == started and not is_gone(int(pid)):
            return int(pid)
    except (OSError, ValueError):
        pass
    raise ProcessLookupError(str(path))


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; one that nobody has waited for counts as ended."""
    try:
        return _stat(pid)[0] == "Z"
    except OSError:
        return True


def _started(pid: int) -> str:
    # In clock ticks since the machine booted (proc_pid_stat(5), field 22).
    return _stat(pid)[19]


def _stat(pid: int) -> list[str]:
    # From field 3 on: the name before it, in parentheses, may contain anything.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
