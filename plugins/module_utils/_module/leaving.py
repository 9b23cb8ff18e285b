# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a guest on its host, whatever the target."""

from __future__ import annotations

from collections import Counter

from .._domain.compare import needs_restart
from .._domain.definition import read_definition
from .._domain.moving import SHARED_FILE_SYSTEMS, local_disks, passed_through
from .._hypervisor.ends import Source
from .._hypervisor.migration import Transfer
from .._hypervisor.mounts import file_system
from .._model.domain import Domain
from .destination import MovingGuest
from .migration_notes import MigrationNotes


def read_moving_guest(source: Source, domain: Domain) -> MovingGuest:
    """Read both definitions of a guest.

    Raises:
        VnumaError: when one cannot be read.
    """
    live = read_definition(source.migratable_xml(domain))
    persistent = read_definition(source.persistent_xml(domain)) if domain.persistent else live
    return MovingGuest(domain, persistent, live)


def reasons_to_stay(
    source: Source, moving: MovingGuest, transfer: Transfer, state_dir: MigrationNotes
) -> list[str]:
    """Return sentences about what keeps a guest where it is; none where nothing does.

    Raises:
        VnumaError: when that cannot be found out.
    """
    domain = moving.domain
    reasons = []
    if not domain.persistent:
        reasons.append("it is transient, and would be lost where it is undefined; define it.")
    blocker = source.migration_blocker(domain)
    condition = source.condition(domain)
    if blocker is None and condition.state == "paused" and condition.reason == "migration":
        reasons.append(
            "a migration that was cut off has left it paused; if no other host has a copy of it, "
            f"run 'virsh resume {domain.name}' on this one."
        )
    elif blocker is not None:
        reasons.append(f"{blocker}, so that it cannot migrate now; wait until that is over.")
    if needs_restart(moving.live, moving.persistent):
        reasons.append(
            "it runs with another layout than it is defined with; restart it with vnuma_restart."
        )
    elif state_dir.begun_restart(domain.uuid) is not None:
        reasons.append("a restart of it was begun and has not ended; run vnuma_restart.")
    passed = Counter(passed_through(moving.live.root))
    if passed:
        devices = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
        reasons.append(f"devices of its host are passed through to it ({devices}); detach them.")
    return reasons + _storage(source, moving, transfer)


def _storage(source: Source, moving: MovingGuest, transfer: Transfer) -> list[str]:
    """Say which disks only this host has, where they are not to be copied."""
    # Which file system that is can be told on the source itself only.
    if transfer.copy_storage != "none" or not source.is_local():
        return []
    local = [
        f"{disk.target} ({disk.path}, {kind})"
        for disk in local_disks(moving.live.root)
        if (kind := file_system(disk.path)) not in SHARED_FILE_SYSTEMS
    ]
    if not local:
        return []
    return [
        f"its storage is not shared: {', '.join(local)}; put it on storage that both hosts have, "
        "or set copy_storage (in the role, vnuma_migrate_copy_storage) to 'all' or 'incremental'."
    ]
