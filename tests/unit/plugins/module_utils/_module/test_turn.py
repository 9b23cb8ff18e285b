# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is with a guest that is off: reason and time against the note."""

from __future__ import annotations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.guest_log import GuestLog
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import RestartNote
from ansible_collections.kvm.vnuma.plugins.module_utils._module.turn import whose_turn

SINCE = 1_000_000.0
NOTES = {
    phase: RestartNote("anuma", SINCE, SINCE + 300, phase)
    for phase in ("shutdown", "late", "force", "start")
}
BEFORE, SOON, LATER, HOURS = SINCE - 9000, SINCE + 60, SINCE + 1200, SINCE + 9000
OURS, OWNERS, UNKNOWN = True, False, None


@pytest.mark.parametrize("phase", NOTES)
@pytest.mark.parametrize("reason", ["migrated", "saved", "from_snapshot"])
@pytest.mark.parametrize("log", [GuestLog(), GuestLog(BEFORE, SOON)])
def test_what_only_an_owner_does(phase: str, reason: str, log: GuestLog) -> None:
    """Never started, whatever the time."""
    assert whose_turn(NOTES[phase], Condition("off", reason), log).ours is OWNERS


@pytest.mark.parametrize(
    ("phase", "reason", "log", "ours"),
    [
        ("shutdown", "shutdown", GuestLog(), OURS),
        ("start", "shutdown", GuestLog(), OURS),
        ("late", "shutdown", GuestLog(), UNKNOWN),
        ("shutdown", "shutdown", GuestLog(BEFORE, SOON), OURS),
        ("shutdown", "shutdown", GuestLog(BEFORE, LATER), OURS),
        ("late", "shutdown", GuestLog(BEFORE, LATER), OURS),
        ("shutdown", "shutdown", GuestLog(BEFORE, HOURS), OWNERS),
        ("late", "shutdown", GuestLog(BEFORE, HOURS), OWNERS),
        # It was started since, by the run that was cut short or by its owner, and went off.
        ("shutdown", "shutdown", GuestLog(SOON, SOON + 1), OWNERS),
        ("start", "shutdown", GuestLog(SOON, HOURS), OWNERS),
        ("start", "destroyed", GuestLog(SOON, HOURS), OWNERS),
        ("start", "crashed", GuestLog(SOON, HOURS), OWNERS),
        ("force", "destroyed", GuestLog(SOON, HOURS), OWNERS),
        # Its start failed, or was cut off with its daemon.
        ("start", "failed", GuestLog(SOON, SOON + 1), OURS),
        ("start", "daemon", GuestLog(SOON, SOON + 1), OURS),
        ("shutdown", "crashed", GuestLog(BEFORE, SOON), OURS),
        ("shutdown", "destroyed", GuestLog(BEFORE, SOON), OWNERS),
        ("late", "destroyed", GuestLog(), OWNERS),
        ("force", "destroyed", GuestLog(), OURS),
        ("force", "destroyed", GuestLog(BEFORE, SOON), OURS),
        # Its power was pulled, and the run was cut off before it was started.
        ("start", "destroyed", GuestLog(), OURS),
        ("start", "destroyed", GuestLog(BEFORE, SOON), OURS),
        ("start", "unknown", GuestLog(BEFORE, SOON, "destroyed"), OURS),
        # A daemon that started since then has forgotten the reason; the log has it.
        ("shutdown", "unknown", GuestLog(), OURS),
        ("shutdown", "unknown", GuestLog(BEFORE, SOON, "shutdown"), OURS),
        ("shutdown", "unknown", GuestLog(BEFORE, HOURS, "shutdown"), OWNERS),
        ("shutdown", "unknown", GuestLog(BEFORE, SOON, "migrated"), OWNERS),
        ("shutdown", "unknown", GuestLog(BEFORE, SOON, "destroyed"), OWNERS),
    ],
)
def test_reason_and_time(phase: str, reason: str, log: GuestLog, ours: bool | None) -> None:
    """A guest is started where nothing tells that its owner has decided otherwise."""
    assert whose_turn(NOTES[phase], Condition("off", reason), log).ours is ours
