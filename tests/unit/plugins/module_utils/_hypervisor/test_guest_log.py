# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the log of a guest says of its starts and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import guest_log
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.guest_log import (
    GuestLog,
    read_guest_log,
)

_LOG = """\
2026-11-30 08:00:00.101+0000: starting up libvirt version: 9.0.0, package: 9.0.0-4, qemu
LC_ALL=C /usr/bin/qemu-system-x86_64 -name guest=anuma
char device redirected to /dev/pts/1 (label charserial0)
2026-11-30T08:10:00.000000Z qemu-system-x86_64: terminating on signal 15 from pid 1
2026-11-30 08:10:01.500+0000: shutting down, reason=destroyed
2026-11-30 09:00:00.000+0000: starting up libvirt version: 9.0.0
2026-11-30 09:30:00.000+0000: shutting down, reason=from snapshot
"""
_NINE = 1796029200.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the logs are."""
    monkeypatch.setattr(guest_log, "_SYSTEM", tmp_path)
    return tmp_path


def test_the_last_start_and_end(folder: Path) -> None:
    """With the reason, in seconds since the epoch."""
    (folder / "anuma.log").write_text(_LOG)
    assert read_guest_log("qemu:///system", "anuma") == GuestLog(
        _NINE, _NINE + 1800, "from_snapshot"
    )


def test_only_what_is_at_hand(folder: Path) -> None:
    """Nothing of other hosts, of guests without a log, of links, or outside the folder."""
    (folder / "anuma.log").write_text(_LOG)
    (folder / "link.log").symlink_to(folder / "anuma.log")
    for uri, name in (
        ("qemu+ssh://kvm7/system", "anuma"),
        ("qemu:///system?socket=/nowhere/libvirt-sock", "anuma"),
        ("test:///default", "anuma"),
        ("qemu:///system", "db"),
        ("qemu:///system", "link"),
        ("qemu:///system", f"../{folder.name}/anuma"),
    ):
        assert read_guest_log(uri, name) == GuestLog()


def test_only_the_end_of_a_long_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that QEMU has filled is not read as a whole."""
    monkeypatch.setattr(guest_log, "_TAIL_BYTES", 100)
    (folder / "anuma.log").write_text(_LOG)
    assert read_guest_log("qemu:///system", "anuma") == GuestLog(
        None, _NINE + 1800, "from_snapshot"
    )
