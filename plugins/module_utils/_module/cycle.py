# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest's power cycle: shut down, start, and the way back where it does not start.

Guests belong to their owners, who go on working while others are restarted. So a guest is looked at
again when it is down, and what is written on the way back is the managed elements alone, into the
definition as it is then.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from .._domain.compare import needs_restart
from .._domain.definition import read_definition, secrets
from .._errors import (
    ChangedMeanwhileError,
    DomainError,
    HypervisorError,
    UnsettledError,
)
from .._hypervisor.guest_log import GuestLog
from .._hypervisor.power import Power
from .._model.domain import Domain
from .decide import ACTIONS, Restart, decide
from .migration_notes import MigrationNotes
from .state_dir import RestartNote, StateDirError
from .turn import LATE_S, forget, keeps_log, whose_turn

#: A shutdown request that a guest missed, say while it booted, is made again.
_ASK_AGAIN_S = 20.0
#: How long libvirt may take to end a QEMU process that it was told to end.
_FORCE_S = 60.0
#: A definition that changes each time while it is edited is left to its owner.
_ATTEMPTS = 5


@dataclass(frozen=True)
class RestartPolicy:
    """How guests are power-cycled.

    Attributes:
        mode: ``graceful`` never forces a guest off, ``force`` does after the timeout.
        timeout_s: how long a guest may take to shut down, and again to start, in seconds.
        agent_timeout_s: how long to wait for the guest's agent after the start, 0 not to.
    """

    mode: str = "graceful"
    timeout_s: float = 300.0
    at_once: int = 1
    agent_timeout_s: float = 0.0


class LateError(HypervisorError):
    """A guest that was asked to shut down still runs when its time is up."""


class Cycle:
    """Takes guests through their power cycle."""

    def __init__(self, power: Power, policy: RestartPolicy, state_dir: MigrationNotes) -> None:
        self._power = power
        self._policy = policy
        self._state_dir = state_dir

    def carry_out(self, restart: Restart) -> None:
        """Decide what a guest needs in its turn, and do it.

        Raises:
            LateError: when it did not shut down in time; it may still do so, see `finish_late`.
            VnumaError: when it is not what it was to be.
        """
        decision = decide(self._power, self._state_dir, restart)
        restart.action = ACTIONS[decision.action]
        if decision.action in ("forget", "unknown"):
            self._forget(restart)
        if decision.action == "unknown":
            raise UnsettledError(decision.why)
        restart.warnings.extend([decision.why] if decision.why else [])
        if decision.action == "start":
            note = self._state_dir.begun_restart(restart.domain.uuid)
            restart.note = note or RestartNote(restart.domain.name)
            self._start(restart)
        elif decision.action == "cycle":
            self._cycle(restart)

    def finish_late(self, restart: Restart, over: threading.Event) -> bool:
        """Watch a guest that was too slow until the run is over; start it where it goes down.

        Returns:
            Whether it went down.

        Raises:
            VnumaError: when it went down and is not what it was to be.
        """
        self._power.wait(lambda: over.is_set() or self._is_down(restart), float("inf"))
        if not self._is_down(restart):
            return False
        restart.warnings.append(
            f"it took longer than {self._policy.timeout_s:g} s to shut down; increase timeout (in "
            "the role, vnuma_restart_timeout)."
        )
        self._bring_up(restart)
        return True

    def _cycle(self, restart: Restart) -> None:
        self._keep_layout(restart.domain)
        now = time.time()
        self._record(restart, RestartNote(restart.domain.name, now, now + self._policy.timeout_s))
        restart.stopped_at = time.monotonic()
        self._stop(restart)
        self._bring_up(restart)

    def _record(self, restart: Restart, note: RestartNote) -> None:
        restart.note = note
        self._state_dir.begin_restart(restart.domain.uuid, note)

    def _keep_layout(self, domain: Domain) -> None:
        """Keep the layout that a guest runs with, where that is not kept already.

        What was kept when it was redefined is the better of two that are alike: it has nothing in
        it that belongs to this run of the guest alone, such as numad's answer.
        """
        from .._domain.edit import keep_layout
        from .._domain.kept import runs_with

        live = read_definition(self._power.xml_without_secrets(domain, live=True))
        kept = self._state_dir.layout(domain.uuid)
        try:
            is_kept = kept is not None and runs_with(live, kept)
        except DomainError:
            is_kept = False
        if not is_kept:
            self._state_dir.keep_layout(domain.uuid, keep_layout(live))

    def _is_down(self, restart: Restart) -> bool:
        """Look whether a guest has gone; keep the definition of one that would be lost with it."""
        now = self._power.find(restart.domain)
        if now is not None and now.active and not now.persistent and not restart.transient_xml:
            restart.transient_xml = self._power.persistent_xml(now)
        return now is None or not now.active

    def _stop(self, restart: Restart) -> None:
        """Shut a guest down, and force it off only if that is allowed."""
        domain, policy = restart.domain, self._policy
        deadline = time.monotonic() + policy.timeout_s
        while time.monotonic() < deadline:
            self._power.shut_down(domain)
            ask_again = min(time.monotonic() + _ASK_AGAIN_S, deadline)
            if self._power.wait(lambda: self._is_down(restart), ask_again):
                return
        blocker = self._power.power_blocker(domain) if policy.mode == "force" else None
        if policy.mode == "force" and blocker is None and self._force_off(restart):
            return
        with suppress(StateDirError):
            self._record(restart, replace(restart.note, phase="late"))
        late = (
            f"it did not shut down within {policy.timeout_s:g} s and keeps running with its old "
            "layout; check why in the guest, increase timeout, or set mode to 'force' (in the "
            "role, vnuma_restart_timeout and vnuma_restart_mode)."
        )
        later = (
            f"If it goes down within {LATE_S / 3600:g} h, the next run starts it."
            if keeps_log(self._power, domain)
            else "If it goes down after this run, it stays off until someone starts it."
        )
        if blocker is not None:
            late = (
                f"it did not shut down within {policy.timeout_s:g} s, and it was not forced off, "
                f"since {blocker}; wait until that is over, and run again."
            )
        raise LateError(f"{late} {later}")

    def _force_off(self, restart: Restart) -> bool:
        """Pull a guest's power; return whether it is down."""
        domain, deadline = restart.domain, time.monotonic() + _FORCE_S
        self._record(restart, replace(restart.note, phase="force"))
        self._power.force_off(domain, deadline)
        restart.forced = True
        return self._power.wait(lambda: self._is_down(restart), deadline)

    def _bring_up(self, restart: Restart) -> None:
        """Start a guest that is down, unless it is its owner who took it down."""
        domain = restart.domain
        condition = self._power.condition(domain)
        if condition.state == "gone":
            self._bring_back(restart)
            return
        turn = whose_turn(restart.note, condition, GuestLog())
        if turn.ours is False:
            self._forget(restart)
            restart.action = "skipped"
            restart.warnings.append(f"while it was shutting down, {turn.why}; it stays off.")
            return
        self._start(restart)

    def _bring_back(self, restart: Restart) -> None:
        """Start a guest that lost its persistent definition on the way, as its owner left it."""
        self._forget(restart)
        restart.action = "skipped"
        if not restart.transient_xml:
            restart.warnings.append("someone else undefined it while it was shutting down.")
            return
        hidden = secrets(read_definition(restart.transient_xml).root)
        self._power.start_transient(restart.domain, restart.transient_xml, hidden)
        restart.warnings.append(
            "someone else undefined it while it was shutting down; the module started it again, as "
            "a transient guest."
        )

    def _start(self, restart: Restart) -> None:
        """Start a guest; where that fails, put its old layout back and start it with that."""
        domain = restart.domain
        with suppress(StateDirError):
            # A guest that is down has to run, whether or not that can be noted.
            self._record(restart, replace(restart.note, phase="start"))
        try:
            condition = self._power.start(domain, time.monotonic() + self._policy.timeout_s)
        except UnsettledError:
            # No rollback: the guest may run.
            raise
        except HypervisorError as reason:
            self._roll_back(restart, reason)
        self._has_started(restart)
        if condition.state != "running":
            self._drop_layout(restart)
            restart.warnings.append(f"it was started, and now it is {condition}; look at it.")
            return
        live = read_definition(self._power.xml_without_secrets(domain, live=True))
        persistent = read_definition(self._power.xml_without_secrets(domain, live=False))
        if needs_restart(live, persistent):
            raise HypervisorError(
                "it was started but does not run with its defined layout; check whether something "
                "else started it from a saved image."
            )
        self._drop_layout(restart)
        self._wait_for_agent(domain)

    def _has_started(self, restart: Restart) -> None:
        if restart.stopped_at is not None:
            restart.downtime_s = round(time.monotonic() - restart.stopped_at, 1)
        with suppress(StateDirError):
            self._state_dir.end_restart(restart.domain.uuid)

    # What cannot be removed is said when the run tidies up, and keeps nothing here from being done.

    def _drop_layout(self, restart: Restart) -> None:
        with suppress(StateDirError):
            self._state_dir.drop_layout(restart.domain.uuid)

    def _forget(self, restart: Restart) -> None:
        with suppress(StateDirError):
            forget(self._state_dir, restart.domain.uuid)

    def _wait_for_agent(self, domain: Domain) -> None:
        wait_s = self._policy.agent_timeout_s
        if wait_s and not self._power.wait(
            lambda: self._power.agent_answers(domain), time.monotonic() + wait_s
        ):
            raise HypervisorError(
                f"it runs with its new layout, but its agent did not answer within {wait_s:g} s; "
                "check its console."
            )

    def _roll_back(self, restart: Restart, reason: HypervisorError) -> None:
        """Put the layout back that the guest ran with, and start it.

        Raises:
            HypervisorError: in any case; the sentence says what the guest is then.
        """
        domain, why = restart.domain, reason.message.rstrip(".")
        kept = self._state_dir.layout(domain.uuid)
        if kept is None:
            raise HypervisorError(
                f"it does not start, and no earlier layout is known: {why}; it is off; correct its "
                "definition and start it."
            )
        try:
            self._put_back(domain, kept)
        except DomainError as misfit:
            raise HypervisorError(
                f"it does not start with its new layout ({why}), and its old one no longer fits, "
                f"since {misfit.message.rstrip('.')}; it is off, and its definition has the new "
                "layout; correct the definition, or change its options, and run again."
            ) from None
        except HypervisorError as second:
            raise HypervisorError(
                f"it does not start with its new layout ({why}), and its old one could not be "
                f"defined ({second.message.rstrip('.')}); it is off, and its definition has the "
                "new layout; fix the cause and run again."
            ) from None
        try:
            self._power.start(domain, time.monotonic() + self._policy.timeout_s)
        except UnsettledError:
            raise
        except HypervisorError as second:
            raise HypervisorError(
                f"it starts neither with its new layout ({why}) nor with its old one "
                f"({second.message.rstrip('.')}); it is off, and its definition has the old "
                "layout; fix the cause and run again, which starts it."
            ) from None
        restart.action = "rolled_back"
        self._has_started(restart)
        self._drop_layout(restart)
        raise HypervisorError(
            "it did not start with its new layout, so the module rolled it back, and it runs with "
            f"its old one: {why}; change its options, or free memory on the host, and run again."
        )

    def _put_back(self, domain: Domain, kept: str) -> None:
        from .._domain.kept import put_back
        from .define import replace_definition

        for attempt in range(_ATTEMPTS):
            before = read_definition(self._power.persistent_xml(domain))
            edit = put_back(before, kept)
            if not edit.changed:
                return
            try:
                replace_definition(self._power, domain, before, edit.definition, validate=False)
                return
            except ChangedMeanwhileError:
                # It is off and has to run: what its owner has just defined is edited instead.
                if attempt == _ATTEMPTS - 1:
                    raise
