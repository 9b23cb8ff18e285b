# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn it is with a guest that a run was restarting, and what is still due of what was kept.

A guest that is off because a run shut it down has to run again. One that its owner has turned off,
saved or migrated away since then is its owner's. libvirt says why a guest is off, and its log since
when; both are held against the note that the run has left.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .._domain.compare import needs_restart
from .._domain.definition import read_definition
from .._errors import VnumaError
from .._hypervisor.guest_log import GuestLog, read_guest_log
from .._hypervisor.hypervisor import SETTLING_S, Hypervisor
from .._model.domain import Condition, Domain
from .state_dir import RestartNote, StateDir

#: A guest that installs updates before it shuts down may take this long after it was asked to, in
#: seconds; one that goes down later does so for a reason of its own.
LATE_S = 3600.0
#: Clocks of log and note are of one machine, and the log has whole seconds.
_ROUNDING_S = 2.0

#: What reasons other than a shutdown say of a guest that is off.
_OWNERS = {
    "destroyed": "it was forced off by someone else",
    "migrated": "it was migrated away by someone else",
    "saved": "it was saved by someone else",
    "from_snapshot": "someone else reverted it to a snapshot",
}


@dataclass(frozen=True)
class Turn:
    """Whose turn it is with a guest that is off.

    Attributes:
        ours: whether a run has shut it down and has to start it; None where that cannot be told.
        why: where it is not ours, what happened to it, a clause.
    """

    ours: bool | None
    why: str = ""


def whose_turn(note: RestartNote, condition: Condition, log: GuestLog) -> Turn:
    """Say whether a guest that is off is off because of the restart that was noted."""
    # A daemon that has started since then does not know the reason; the log still has it.
    reason = log.reason if condition.reason == "unknown" else condition.reason
    # One whose power a run has pulled is in the phase that follows while it is being started.
    forced = reason == "destroyed" and note.phase in ("force", "start")
    if reason in _OWNERS and not forced:
        return Turn(False, _OWNERS[reason])
    began_since = log.started is not None and log.started > note.since + _ROUNDING_S
    if began_since and reason in ("shutdown", "crashed", "destroyed"):
        return Turn(False, "it was started, and went off again, after that")
    if reason != "shutdown":
        # It crashed on its way down, did not start, or its daemon has ended since.
        return Turn(True)
    if log.ended is None:
        late = note.phase == "late"
        return Turn(None, "it shut down after the run that asked it to") if late else Turn(True)
    if log.ended <= max(note.until, note.since + LATE_S) + _ROUNDING_S:
        return Turn(True)
    return Turn(False, "it was shut down by someone else")


def turn_of(hypervisor: Hypervisor, domain: Domain, note: RestartNote) -> Turn:
    """Say whose turn it is with a guest that is off; see `whose_turn`.

    Raises:
        VnumaError: when libvirt cannot be asked.
    """
    if domain.saved:
        # A start would bring back what was saved, the old layout with it.
        return Turn(False, _OWNERS["saved"])
    log = read_guest_log(hypervisor.uri, domain.name)
    return whose_turn(note, hypervisor.condition(domain), log)


def restart_begun(hypervisor: Hypervisor, domain: Domain, state_dir: StateDir) -> bool:
    """Tell whether a guest was restarted by a run that did not see it run again.

    Raises:
        VnumaError: when that cannot be found out.
    """
    note = state_dir.begun_restart(domain.uuid)
    if note is None or not domain.persistent:
        return False
    if domain.active:
        condition = hypervisor.settled(domain, time.monotonic() + SETTLING_S)
        if condition.state != "off":
            return condition.is_starting
    return turn_of(hypervisor, domain, note).ours is not False


def not_due(hypervisor: Hypervisor, domains: list[Domain], state_dir: StateDir) -> list[str]:
    """Return the UUIDs of guests of which something is kept that is no longer needed.

    What cannot be found out stays.
    """
    by_uuid = {domain.uuid: domain for domain in domains}
    found = []
    for uuid in state_dir.kept():
        try:
            if not _is_due(hypervisor, by_uuid.get(uuid), state_dir):
                found.append(uuid)
        except VnumaError:
            continue
    return found


def _is_due(hypervisor: Hypervisor, domain: Domain | None, state_dir: StateDir) -> bool:
    if domain is None or not domain.persistent:
        return False
    if restart_begun(hypervisor, domain, state_dir):
        return True
    if not domain.active:
        return False
    live, persistent = (
        read_definition(hypervisor.xml_without_secrets(domain, live=live)) for live in (True, False)
    )
    return needs_restart(live, persistent)


def tidy(hypervisor: Hypervisor, state_dir: StateDir) -> None:
    """Drop what is no longer needed; the lock must be held.

    Raises:
        VnumaError: when guests cannot be listed, or a file cannot be removed.
    """
    for uuid in not_due(hypervisor, hypervisor.domains(), state_dir):
        forget(state_dir, uuid)
    state_dir.drop_leftovers()


def is_untidy(hypervisor: Hypervisor, domains: list[Domain], state_dir: StateDir) -> bool:
    """Tell whether `tidy` would drop anything."""
    return bool(state_dir.leftovers() or not_due(hypervisor, domains, state_dir))


def forget(state_dir: StateDir, uuid: str) -> None:
    """Drop what is kept of a guest."""
    state_dir.end_restart(uuid)
    state_dir.drop_layout(uuid)


def keeps_log(hypervisor: Hypervisor, domain: Domain) -> bool:
    """Tell whether it can be found out later when a guest went off."""
    return read_guest_log(hypervisor.uri, domain.name).started is not None
