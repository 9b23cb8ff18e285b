# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying a planned migration out, and finding out what came of it.

What is to become of the guest is noted before libvirt is asked, and `ending` says what has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .._domain.definition import read_definition, secrets
from .._domain.words import differences
from .._errors import HypervisorError
from .._hypervisor.ends import Source
from .._hypervisor.migration import Migration, Progress, Transfer, lost_its_reason
from .._model.domain import Domain
from .._size import show_size
from .destination import Arrival, Destination, MovingGuest
from .ending import Ending, Outcome
from .location import locate_guest
from .migration_notes import MigrationNote, MigrationNotes, digest

_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 5.0
_AGENT_PATIENCE_S = 30.0


@dataclass
class Move:
    """One guest on its way.

    Attributes:
        destination: where it is to go, None where it cannot go anywhere.
        arrival: what it is to be there.
        reasons: why it cannot go, sentences by target.
        action: ``none``, ``migrated``, ``refused`` or ``failed``; in check mode, what would be.
        seconds: how long it took, None where it did not go.
        progress: how it went, None where that is not known.
    """

    moving: MovingGuest
    destination: Destination | None = None
    arrival: Arrival | None = None
    reasons: list[str] = field(default_factory=list)
    action: str = "none"
    seconds: float | None = None
    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)


def carry_out(
    source: Source,
    move: Move,
    destination: Destination,
    arrival: Arrival,
    transfer: Transfer,
    state_dir: MigrationNotes,
    say: Callable[[str], None],
) -> None:
    """Migrate a guest, and verify it where it is then.

    What happened is noted in *move*; *say* takes a line about how far it is.

    Raises:
        VnumaError: when it was not migrated, or is not what it was to be.
    """
    moving = move.moving
    domain, began = moving.domain, time.monotonic()
    had_agent = source.agent_answers(domain)
    migration = Migration(source.full_uri, domain, source.patience_s)
    try:
        _check_unchanged(source, moving)
        note = _note(source, moving, destination)
        state_dir.begin_migration(domain.uuid, note)
        watch = _Watch(migration, domain, transfer, say)
        with watch:
            problem = _migrate(migration, destination, arrival, transfer)
        ending = Ending(
            *(source, destination.hypervisor, destination.name, domain),
            *(state_dir, transfer.undefine_source, say),
        )
        outcome = _bring_to_end(ending, note, problem)
        move.progress = watch.progress
    finally:
        migration.close()
    if outcome.place != "target":
        why = _why(problem, watch, transfer)
        raise HypervisorError(
            f"it was not migrated to {destination.name}: {why}. {outcome.sentence}"
        )
    if problem is not None:
        move.warnings.append(
            f"libvirt reported an error, and it has arrived nonetheless: {problem.message}"
        )
    move.seconds = round(time.monotonic() - began, 1)
    move.action = "migrated"
    _verify(move, destination, arrival, had_agent and not note.paused)
    _measure(move, migration.stopped_at, outcome.resumed_at)


def _note(source: Source, moving: MovingGuest, destination: Destination) -> MigrationNote:
    domain = moving.domain
    return MigrationNote(
        name=domain.name,
        since=time.time(),
        target=destination.name,
        target_uuid=destination.hypervisor.host_uuid(),
        paused=source.condition(domain).state == "paused",
        known_there=domain.uuid in destination.domains,
        definition=digest(moving.persistent),
    )


def _measure(move: Move, stopped_at: float | None, resumed_at: float | None) -> None:
    """Note how long it stood still: libvirt's figure ends before the target's copy is resumed."""
    if move.progress is not None and stopped_at is not None and resumed_at is not None:
        stood_ms = round((resumed_at - stopped_at) * 1000)
        move.progress = replace(move.progress, downtime_ms=stood_ms)


def _migrate(
    migration: Migration, destination: Destination, arrival: Arrival, transfer: Transfer
) -> HypervisorError | None:
    """Have libvirt migrate it; return what it said was wrong."""
    try:
        migration.run(
            destination.hypervisor.full_uri,
            destination.data_uri,
            (arrival.live.text, arrival.persistent.text),
            transfer,
            secrets(arrival.live.root) | secrets(arrival.persistent.root),
        )
    except HypervisorError as error:
        return error
    return None


def _bring_to_end(ending: Ending, note: MigrationNote, problem: HypervisorError | None) -> Outcome:
    outcome = ending.hand_over(note) if problem is None else None
    return ending.end(note, time.monotonic()) if outcome is None else outcome


class _Watch:
    """Looks at a migration while it runs: says how far it is, and ends it when its time is up."""

    def __init__(
        self,
        migration: Migration,
        domain: Domain,
        transfer: Transfer,
        say: Callable[[str], None],
    ) -> None:
        self.progress: Progress | None = None
        self.timed_out = False
        self._migration, self._domain, self._transfer = migration, domain, transfer
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        now = time.monotonic()
        deadline, next_word, heard = now + self._transfer.timeout_s, now + _SAY_EVERY_S, False
        while not self._over.wait(_LOOK_EVERY_S):
            self.progress = self._migration.progress() or self.progress
            now = time.monotonic()
            if now >= next_word and self.progress is not None:
                next_word = now + _SAY_EVERY_S
                self._say(f"guest {self._domain.name}: {progress_text(self.progress)}")
            if now >= deadline and not heard:
                self.timed_out = True
                late = self._transfer.post_copy
                heard = self._migration.finish_there() if late else self._migration.abort()


def progress_text(progress: Progress) -> str:
    """Return ``sent 12 MiB, 20 MiB of 32 MiB remain``."""
    sent, left, total = (
        show_size(kib) for kib in (progress.sent_kib, progress.remaining_kib, progress.total_kib)
    )
    return f"sent {sent}, {left} of {total} remain"


def _check_unchanged(source: Source, moving: MovingGuest) -> None:
    """Refuse to migrate what is no longer what was planned.

    Raises:
        HypervisorError: when its definition has changed, or it does not run any more.
    """
    domain = moving.domain
    if (
        source.persistent_xml(domain) != moving.persistent.text
        or read_definition(source.migratable_xml(domain)).state != moving.live.state
    ):
        raise HypervisorError(
            "someone else changed its definition after it was planned; it was not migrated; run "
            "again."
        )


def _why(problem: HypervisorError | None, watch: _Watch, transfer: Transfer) -> str:
    """Say why a guest did not arrive."""
    if watch.timed_out:
        far = "" if watch.progress is None else f" ({progress_text(watch.progress)})"
        return (
            f"it did not finish within {transfer.timeout_s:g} s{far}; raise timeout or "
            "options.bandwidth, set options.auto_converge or options.post_copy (in the role, "
            "vnuma_migrate_timeout and vnuma_migrate_options), or migrate it when it has less to do"
        )
    if problem is None:
        return "libvirt reported no error, and it did not arrive; see its log on both hosts"
    if lost_its_reason(problem):
        return (
            "a libvirt daemon ended its connection and gave no reason; its log on the target and "
            "on the source has one"
        )
    return problem.message.rstrip(".")


def _verify(move: Move, destination: Destination, arrival: Arrival, had_agent: bool) -> None:
    """Compare what runs at the target with what was to run there.

    Raises:
        HypervisorError: when it is another; the guest stays there.
    """
    target, domain = destination.hypervisor, move.moving.domain
    there = target.find(domain)
    if there is None or not there.active or not there.persistent:
        raise HypervisorError(
            f"it was on {destination.name}, and someone else has ended or undefined it there "
            "since; define it there, or start it."
        )
    move.progress = target.last_progress(there) or move.progress
    found = []
    for live, wanted in ((True, arrival.live), (False, arrival.persistent)):
        now = read_definition(target.xml_without_secrets(there, live))
        kind = "live" if live else "persistent"
        found += [
            f"in its {kind} definition {one.subject} {one.second}, not {one.first}"
            for one in differences(wanted.state, now.state)
        ]
        if live:
            location = locate_guest(there, now, destination.host, target, None, with_memory=False)
            found += [drift.message.rstrip(".") for drift in location.drift]
    if found:
        raise HypervisorError(
            f"it runs on {destination.name}, and not as planned: {'; '.join(found)}; run "
            "vnuma_partition there."
        )
    if had_agent and not target.wait(
        lambda: target.agent_answers(there), time.monotonic() + _AGENT_PATIENCE_S
    ):
        move.warnings.append(
            f"its agent answered before, and has not done so on {destination.name} within "
            f"{_AGENT_PATIENCE_S:g} s; check the guest."
        )
