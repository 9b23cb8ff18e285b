# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a run that migrates: which migrations have begun, and how far they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from .._domain.definition import Definition, secrets
from .._domain.xml import copied, etree
from .state_dir import MIGRATION, StateDir


@dataclass(frozen=True)
class MigrationNote:
    """A migration that has begun, so that the next run knows which of two copies is the guest.

    Attributes:
        target: name of the target in the inventory.
        target_uuid: UUID of the target's libvirt host.
        paused: whether the guest was paused by its owner, and has to be so afterwards.
        phase: ``moving``: the copy on the target has not run; ``there``: it may have.
        known_there: whether the target had a definition of it before.
        definition: digest of its persistent definition on the source when it began, '' for none.
    """

    name: str = ""
    since: float = 0.0
    target: str = ""
    target_uuid: str = ""
    paused: bool = False
    phase: str = "moving"
    known_there: bool = True
    definition: str = ""


class MigrationNotes(StateDir):
    """The state folder of one libvirt host, with the notes of migrations away from it."""

    def begin_migration(self, guest_uuid: str, note: MigrationNote) -> None:
        """Note how far a migration is."""
        failing = "the start of its migration cannot be recorded"
        self._write(guest_uuid + MIGRATION, json.dumps(asdict(note)), failing)

    def begun_migration(self, guest_uuid: str) -> MigrationNote | None:
        """Return the note of a migration that has not ended, None where there is none."""
        values = self._read_note(guest_uuid + MIGRATION, MigrationNote)
        return None if values is None else MigrationNote(**values)

    def end_migration(self, guest_uuid: str) -> None:
        """Forget the note, since one copy of the guest is left."""
        self._drop(guest_uuid + MIGRATION)

    def begun_migrations(self) -> tuple[str, ...]:
        """Return the UUIDs of guests whose migration has not ended."""
        return self._guests(MIGRATION)


def digest(definition: Definition) -> str:
    """Return a digest of what a definition says, its passwords left out of it.

    A daemon that has started again indents what others put into <metadata> in another way.
    """
    root = copied(definition.root)
    for element in root.iter():
        if not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    said = etree.tostring(root, method="c14n").decode()
    for secret in sorted(secrets(root), key=len, reverse=True):
        said = said.replace(secret, "")
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
