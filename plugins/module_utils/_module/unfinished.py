# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations that an earlier run has begun and not ended: they come first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .._errors import HypervisorError, UnsettledError, VnumaError
from .._hypervisor.ends import Source
from .._model.domain import Domain
from .destination import Destination
from .ending import Ending, Outcome
from .migration_notes import MigrationNote, MigrationNotes


@dataclass
class Unfinished:
    """What came of migrations that were begun by an earlier run.

    Attributes:
        names: what is left of the names that were asked for; None for every guest.
        apart: UUIDs of guests with which nothing more is done in this run.
        arrived: guests that are on their target now, and where that is.
    """

    names: list[str] | None
    apart: set[str] = field(default_factory=set)
    arrived: list[tuple[Domain, Destination]] = field(default_factory=list)
    changed: bool = False
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def finish_begun(
    source: Source,
    destinations: Sequence[Destination],
    names: Sequence[str] | None,
    state_dir: MigrationNotes,
    undefine_source: bool,
    timeout_s: float,
    write: bool,
    say: Callable[[str], None],
) -> Unfinished:
    """End the migrations that were begun, of guests that are asked for.

    The source may not have such a guest any more, so that the notes are gone through, not the
    guests. One that turns out to have stayed is migrated by this run like any other.

    Args:
        source: where they were.
        destinations: the targets of this run.
        names: names, UUIDs or shell patterns; None for every guest.
        state_dir: of the source.
        undefine_source: whether the source forgets a guest that runs at the target.
        timeout_s: how long libvirt may go on with what it has begun, in seconds.
        write: False changes nothing (check mode).
        say: takes a line that must not wait for the result.
    """
    found = Unfinished(None if names is None else list(names))
    for uuid in state_dir.begun_migrations():
        note = state_dir.begun_migration(uuid)
        domain = Domain(_name(source, uuid, note), uuid, True, True)
        if note is None or not _is_meant(domain, names):
            continue
        if not write:
            _leave(found, domain)
            found.warnings.append(
                f"guest {domain.name}: a migration of it to {note.target or 'another host'} was "
                "begun and has not ended; without check mode the run ends it first."
            )
            continue
        try:
            destination = _target_of(note, destinations, state_dir, uuid)
            ending = Ending(
                *(source, destination.hypervisor, destination.name, domain),
                *(state_dir, undefine_source, say),
            )
            outcome = ending.end(note, time.monotonic() + timeout_s)
            _count(found, domain, destination, outcome)
            if outcome.place == "target" and undefine_source:
                state_dir.drop_layout(uuid)
        except VnumaError as error:
            _leave(found, domain)
            found.errors.append(error.for_guest(domain.name))
    return found


def _count(found: Unfinished, domain: Domain, destination: Destination, outcome: Outcome) -> None:
    """Note what came of a migration.

    Raises:
        HypervisorError: when the guest is off.
    """
    found.changed |= outcome.changed
    if outcome.place == "target":
        _leave(found, domain)
        found.arrived.append((domain, destination))
    elif outcome.place == "nowhere":
        raise HypervisorError(
            f"a migration of it to {destination.name} was begun, and it is off since. "
            f"{outcome.sentence} Start it where it is defined, if it should run."
        )


def _name(source: Source, uuid: str, note: MigrationNote | None) -> str:
    """Return a guest's name, also where the note cannot be read."""
    if note is not None and note.name:
        return note.name
    with suppress(VnumaError):
        known = source.find(Domain("", uuid, True, True))
        if known is not None:
            return known.name
    return uuid


def waiting_for(source: Source, state_dir: MigrationNotes, name: str) -> str:
    """Say which guests wait for a target that cannot be reached; '' for none."""
    waiting = []
    for uuid in state_dir.begun_migrations():
        note = state_dir.begun_migration(uuid)
        if note is not None and note.target == name:
            with suppress(VnumaError):
                condition = source.condition(Domain(note.name, uuid, True, True))
                waiting.append(f"guest {note.name}, {condition} on its source")
    if not waiting:
        return ""
    return f"Migrations to it were begun and have not ended: {'; '.join(waiting)}."


def _is_meant(domain: Domain, names: Sequence[str] | None) -> bool:
    return names is None or any(
        name == domain.name or name.lower() == domain.uuid or fnmatchcase(domain.name, name)
        for name in names
    )


def _leave(found: Unfinished, domain: Domain) -> None:
    """Keep the rest of the run from a guest; its name would be one that does not exist here."""
    found.apart.add(domain.uuid)
    if found.names is not None:
        found.names = [
            name for name in found.names if name != domain.name and name.lower() != domain.uuid
        ]


def _target_of(
    note: MigrationNote, destinations: Sequence[Destination], state_dir: MigrationNotes, uuid: str
) -> Destination:
    """Return the target of a migration that was begun.

    Raises:
        UnsettledError: when it is none of this run's.
    """
    for destination in destinations:
        if note.target_uuid and destination.hypervisor.host_uuid() == note.target_uuid:
            return destination
    if not note.target_uuid:
        raise UnsettledError(
            f"a migration of it was begun, and the note of it cannot be read; see which hosts have "
            f"it, end all copies but one, and remove {state_dir.folder}/{uuid}.migration."
        )
    raise UnsettledError(
        f"a migration of it to {note.target} was begun and has not ended, so that it is left "
        f"alone; run again with {note.target} in targets (in the role, vnuma_migrate_to)."
    )
