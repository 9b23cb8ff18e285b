# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest's migration, by libvirt's own means."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from .._errors import HypervisorError
from .._model.domain import Domain
from .connection import PATIENCE_S, Connection, libvirt, within
from .events import WatchedConnection


@dataclass(frozen=True)
class Transfer:
    """How guests are migrated.

    Attributes:
        peer_to_peer: whether the daemons carry it out among themselves, so that it goes on where
            whoever asked for it is gone; else this process does.
        bandwidth_mib: the most that it may take, in MiB a second; 0 for no limit.
        compression: how memory is compressed, such as ``xbzrle``, None for not at all.
        auto_converge: whether a guest that writes faster than it is copied is slowed down.
        post_copy: whether a guest that is not over in time runs on at the target, and fetches the
            rest of its memory as it needs it.
        undefine_source: whether the source forgets the guest once it runs at the target.
        timeout_s: how long it may take, in seconds.
    """

    peer_to_peer: bool = True
    bandwidth_mib: int = 0
    compression: str | None = None
    auto_converge: bool = False
    post_copy: bool = False
    copy_storage: str = "none"
    tls: bool = False
    undefine_source: bool = True
    timeout_s: float = 600.0

    @property
    def flags(self) -> int:
        """Return libvirt's virDomainMigrateFlags.

        The copy at the target does not run until it is told to, which libvirt leaves to the caller
        then: where a daemon ends while it hands a guest over, the other one resumes its own copy,
        whether or not this one runs (doPeer2PeerMigrate3, "small chance that the ddomain is NULL
        due to an RPC failure", src/qemu/qemu_migration.c). Post-copy runs by its nature before all
        memory is there, and libvirt refuses to have it paused.

        The source's definition is removed by `End.undefine`, when the guest is seen to run.
        """
        return int(
            libvirt.VIR_MIGRATE_LIVE
            | libvirt.VIR_MIGRATE_PERSIST_DEST
            | (libvirt.VIR_MIGRATE_PEER2PEER if self.peer_to_peer else 0)
            | (libvirt.VIR_MIGRATE_POSTCOPY if self.post_copy else libvirt.VIR_MIGRATE_PAUSED)
            | (libvirt.VIR_MIGRATE_COMPRESSED if self.compression else 0)
            | (libvirt.VIR_MIGRATE_AUTO_CONVERGE if self.auto_converge else 0)
            | (libvirt.VIR_MIGRATE_TLS if self.tls else 0)
            | {
                "all": libvirt.VIR_MIGRATE_NON_SHARED_DISK,
                "incremental": libvirt.VIR_MIGRATE_NON_SHARED_INC,
            }.get(self.copy_storage, 0)
        )


@dataclass(frozen=True)
class Progress:
    """How far a migration is.

    Attributes:
        total_kib: memory and disks to be copied, in KiB.
        remaining_kib: what is left of it; a guest that runs adds to that.
        sent_kib: what was sent, also more than once.
        downtime_ms: how long the guest stood still, None while that is not known.
    """

    total_kib: int
    remaining_kib: int
    sent_kib: int
    downtime_ms: int | None


class Migration:
    """A guest on its way from one host to another, over a connection of its own.

    A daemon answers five requests of a connection at a time (max_client_requests in libvirtd.conf),
    and a migration is one that lasts.

    Attributes:
        stopped_at: when the source last stopped it, of the monotonic clock; None while it has not.

    Raises:
        HypervisorError: when there is no connection to be had.
    """

    def __init__(self, uri: str, domain: Domain, patience_s: float = PATIENCE_S) -> None:
        self._domain = domain
        self._connection = WatchedConnection(uri, patience_s)
        self._target: Connection | None = None
        self.stopped_at: float | None = None
        with self._connection.errors("find it", domain.name):
            self._guest = self._connection.raw.lookupByUUIDString(domain.uuid)
            self._connection.raw.domainEventRegisterAny(
                self._guest, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note, None
            )

    def _note(self, _connection: Any, _guest: Any, event: int, _why: int, _opaque: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            self.stopped_at = time.monotonic()

    def close(self) -> None:
        """Close what was opened."""
        self._connection.close()
        if self._target is not None:
            self._target.close()

    def run(
        self,
        target_uri: str,
        data_uri: str | None,
        xml: tuple[str, str],
        transfer: Transfer,
        secrets: set[str],
    ) -> None:
        """Migrate the guest; returns when it is over.

        Args:
            target_uri: of the daemon that takes it in.
            data_uri: where that one's QEMU listens, None for what it says itself.
            xml: the definition to run with there, and the persistent one.
            transfer: how.
            secrets: what must not appear in a sentence.

        Raises:
            HypervisorError: when it failed.
        """
        parameters: dict[str, Any] = {
            libvirt.VIR_MIGRATE_PARAM_DEST_XML: xml[0],
            libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: xml[1],
        }
        if data_uri:
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = data_uri
        if transfer.bandwidth_mib:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = transfer.bandwidth_mib
        if transfer.compression:
            parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] = transfer.compression
        with self._connection.errors("migrate it", self._domain.name, secrets):
            ask = self._request(target_uri, parameters, transfer)
            if transfer.post_copy:
                # It may not be given up: each host has a part of its memory.
                ask()
                return
            # By then it was asked to end; one that has all its memory there is over in a moment.
            given_up = time.monotonic() + transfer.timeout_s + 2 * self._connection.patience_s
            within(given_up, ask, "libvirt has neither ended its migration nor given it up.")

    def _request(
        self, target_uri: str, parameters: Mapping[str, Any], transfer: Transfer
    ) -> Callable[[], object]:
        """Return the request: to the source's daemon, or to both."""
        if transfer.peer_to_peer:
            return partial(self._guest.migrateToURI3, target_uri, parameters, transfer.flags)
        self._target = WatchedConnection(target_uri, self._connection.patience_s)
        return partial(self._guest.migrate3, self._target.raw, parameters, transfer.flags)

    def progress(self) -> Progress | None:
        """Return how far it is, None where that cannot be told."""
        with suppress(libvirt.libvirtError):
            return progress_from(self._guest.jobStats())
        return None

    def abort(self) -> bool:
        """Ask for its end; return whether it was heard."""
        with suppress(libvirt.libvirtError):
            self._guest.abortJob()
            return True
        return False

    def finish_there(self) -> bool:
        """Let the guest run on at the target, and fetch the rest; return whether it was heard."""
        with suppress(libvirt.libvirtError):
            self._guest.migrateStartPostCopy()
            return True
        return False


def lost_its_reason(error: HypervisorError) -> bool:
    """Tell whether libvirt lost the reason of a failure: its connection broke on the way."""
    return "End of file while reading data" in error.message


def progress_from(stats: Mapping[str, Any]) -> Progress | None:
    """Return what libvirt's statistics of a job say, None where they say nothing."""
    if "data_total" not in stats:
        return None
    return Progress(
        total_kib=int(stats["data_total"]) // 1024,
        remaining_kib=int(stats.get("data_remaining", 0)) // 1024,
        sent_kib=int(stats.get("data_processed", 0)) // 1024,
        downtime_ms=int(stats["downtime"]) if "downtime" in stats else None,
    )
