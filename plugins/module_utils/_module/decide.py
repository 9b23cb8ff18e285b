# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest needs when it is its turn to be restarted.

It may have waited for hours. So nothing is taken from the time when the run began but how libvirt
listed the guest then, to say what its owner has done since.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from .._domain.compare import needs_restart
from .._domain.definition import is_ours, read_definition
from .._hypervisor.hypervisor import SETTLING_S
from .._hypervisor.power import Power
from .._model.domain import Domain
from .migration_notes import MigrationNotes
from .state_dir import RestartNote
from .turn import turn_of


@dataclass
class Restart:
    """One guest on its way through a power cycle.

    Attributes:
        domain: as libvirt listed it when the run began.
        by_name: whether it was named, not matched by a pattern.
        action: what happened: ``none``, ``restarted``, ``started``, ``skipped``, ``rolled_back`` or
            ``failed``; in check mode, what would.
        stopped_at: when it began to go down, of the monotonic clock.
        downtime_s: how long it was off, None where it was not.
        transient_xml: its definition, with passwords, since it has no persistent one any more.
    """

    domain: Domain
    by_name: bool = True
    action: str = "none"
    forced: bool = False
    stopped_at: float | None = None
    downtime_s: float | None = None
    transient_xml: str = ""
    note: RestartNote = field(default_factory=RestartNote)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """What a guest needs.

    Attributes:
        action: ``none``; ``start``, after a restart that was cut short; ``cycle``; ``forget``,
            where what is kept of it is no longer needed; ``skip``; or ``unknown``, where it cannot
            be told whether it has to run.
        why: a sentence, where there is something to say.
    """

    action: str
    why: str = ""


#: What a decision comes to in the result, where it is carried out without an error.
ACTIONS = {
    "none": "none",
    "start": "started",
    "cycle": "restarted",
    "forget": "none",
    "skip": "skipped",
    "unknown": "failed",
}


def decide(power: Power, state_dir: MigrationNotes, restart: Restart) -> Decision:
    """Say what a guest needs now, without touching it or the state folder."""
    listed = restart.domain
    now = power.find(listed)
    if now is None:
        return Decision("forget", "someone else undefined it after this run began.")
    if not now.persistent:
        if not listed.persistent:
            return Decision("none")
        return Decision(
            "forget",
            "someone else undefined it after this run began; it runs on and is left alone.",
        )
    migration = state_dir.begun_migration(now.uuid)
    if migration is not None:
        return Decision(
            "skip",
            f"a migration of it to {migration.target} was begun and has not ended; run "
            "vnuma_migrate, which ends it.",
        )
    note = state_dir.begun_restart(now.uuid)
    if note is not None and now.active:
        # Its daemon may have come back a moment ago, and take it for active still.
        condition = power.settled(now, time.monotonic() + SETTLING_S)
        if condition.is_starting:
            return Decision("start")
        if condition.state == "off":
            now = replace(now, active=False, start=-1)
    if now.active:
        return _decide_active(power, state_dir, restart, now, note)
    return _decide_off(power, listed, now, note)


def _decide_off(power: Power, listed: Domain, now: Domain, note: RestartNote | None) -> Decision:
    if note is None:
        why = "it went off after this run began, and stays off." if listed.active else ""
        return Decision("none", why)
    turn = turn_of(power, now, note)
    if turn.ours:
        return Decision("start")
    if turn.ours is None:
        return Decision(
            "unknown",
            f"{turn.why} had ended; whether that request or its owner turned it off cannot be "
            f"told, so it stays off; start it with 'virsh start {now.name}' if it should run.",
        )
    return Decision("forget", f"a restart of it was begun; since then {turn.why}, so it stays off.")


def _decide_active(
    power: Power, state_dir: MigrationNotes, restart: Restart, now: Domain, note: RestartNote | None
) -> Decision:
    live = read_definition(power.xml_without_secrets(now, live=True))
    persistent = read_definition(power.xml_without_secrets(now, live=False))
    if not needs_restart(live, persistent):
        kept = note is not None or state_dir.layout(now.uuid) is not None
        return Decision("forget" if kept else "none")
    if not (is_ours(live, persistent) or restart.by_name):
        return Decision("none")
    if restart.domain.active and now.start != restart.domain.start:
        return Decision(
            "skip",
            "someone else started it after this run began, and not with the layout that it is "
            "defined with; run again to restart it.",
        )
    blocker = power.restart_blocker(now)
    if blocker:
        return Decision("skip", f"{blocker}; it keeps its old layout until its next cold start.")
    return Decision("cycle")
