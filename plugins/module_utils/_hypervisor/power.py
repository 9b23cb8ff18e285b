# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shutting guests down and starting them, by a daemon that may end on the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from .._domain.definition import read_definition, secrets
from .._errors import DaemonLostError, HypervisorError, UnsettledError
from .._model.domain import Condition, Domain
from .connection import PATIENCE_S, libvirt, within
from .events import WatchedConnection
from .hypervisor import SETTLING_S, Hypervisor


class Power(Hypervisor):
    """A host whose guests are shut down and started.

    With *watch* it listens to the guests' events, so that `wait` returns as soon as something
    happens.

    Raises:
        HypervisorError: when there is no connection to be had.
    """

    def __init__(self, uri: str, watch: bool = False, patience_s: float = PATIENCE_S) -> None:
        self._watched = WatchedConnection(uri, patience_s, watch)
        super().__init__(uri, patience_s, self._watched)

    def wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Return whether it is done before the deadline, a time of the monotonic clock."""
        return self._watched.wait(is_done, deadline)

    def is_active(self, domain: Domain) -> bool:
        """Tell whether a guest is alive now; one that libvirt no longer knows is not."""
        found = self.find(domain)
        return found is not None and found.active

    def restart_blocker(self, domain: Domain) -> str | None:
        """Say why a live guest must not be shut down now, None where it may be.

        A shutdown that somebody else has asked for is one such reason.
        """
        if self.condition(domain).state == "shutting_down":
            return "it is already being shut down"
        return self.power_blocker(domain)

    def power_blocker(self, domain: Domain) -> str | None:
        """Say why the power of a live guest must not be pulled now, None where it may be.

        Jobs of the guest's memory and jobs of its disks are apart in libvirt: virDomainGetJobInfo
        says nothing of a block copy.
        """
        with self._connection.errors("read its state", domain.name):
            busy = self._handle(domain).jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE
        if busy:
            return "a job such as a migration or a backup is running on it"
        disk = self._busy_disk(domain)
        if disk:
            return f"a block job such as a copy or a commit is running on its disk {disk}"
        return {
            "paused": "it is paused",
            "suspended": "it is suspended to memory",
            "crashed": "it has crashed and is kept for inspection",
        }.get(self.condition(domain).state)

    def _busy_disk(self, domain: Domain) -> str:
        root = read_definition(self.xml_without_secrets(domain, live=True)).root
        with self._connection.errors("look for jobs of its disks", domain.name):
            for disk in root.iterfind("devices/disk"):
                target = disk.find("target")
                name = "" if target is None else str(target.get("dev", ""))
                if disk.find("mirror") is not None or self._has_block_job(domain, name):
                    return name
        return ""

    def _has_block_job(self, domain: Domain, disk: str) -> bool:
        handle = self._handle(domain)
        try:
            return bool(handle.blockJobInfo(disk, 0))
        except libvirt.libvirtError:
            # A drive without a medium has no jobs to ask for.
            if self._connection.answers(handle.connect()):
                return False
            raise

    def shut_down(self, domain: Domain) -> None:
        """Ask a guest to shut down, by its agent or by ACPI as libvirt sees fit."""

        def ask() -> None:
            handle = self._handle(domain)
            if handle.isActive():
                handle.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_DEFAULT)

        with self._connection.errors("shut it down", domain.name):
            try:
                self._connection.with_reconnect(ask)
            except libvirt.libvirtError:
                # It may have gone down, or its agent hung up on the way: only then it is no error.
                if self.is_active(domain):
                    self._connection.with_reconnect(
                        lambda: self._handle(domain).shutdownFlags(
                            libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
                        )
                    )

    def force_off(self, domain: Domain, deadline: float) -> None:
        """Force a guest off, without asking it.

        Raises:
            HypervisorError: when it could not be.
        """
        late = f"libvirt at {self.uri} does not answer the request to force it off."

        def destroy() -> None:
            within(deadline, lambda: self._handle(domain).destroyFlags(0), late)

        with self._connection.errors("force it off", domain.name):
            try:
                self._connection.with_reconnect(destroy, deadline)
            except libvirt.libvirtError:
                if self.is_active(domain):
                    raise

    def start(self, domain: Domain, deadline: float) -> Condition:
        """Start a guest that is off, and return what it does once that is settled.

        libvirt lists a guest as active as soon as it begins to start it, and a daemon that is
        killed then leaves the next one to find out whether there is a process. So a call that
        returned, or an active guest, is not yet one that runs: its state and its process are
        asked for. A start that ended with its daemon is made again.

        One that runs is left alone. *deadline* is of the monotonic clock.

        Raises:
            HypervisorError: when libvirt or QEMU refused, and the guest is off.
            UnsettledError: when it cannot be told whether it runs.
        """
        while True:
            connection = self._connection.raw
            refusal = self._try_to_start(domain, deadline)
            condition = self.settled(domain, deadline)
            same_daemon = self._connection.raw is connection
            if condition.is_starting:
                self._end_half_started(domain, condition, deadline)
            elif condition.state != "off" or (same_daemon and refusal is None):
                return condition
            elif refusal is not None and same_daemon:
                raise refusal
            if time.monotonic() > deadline:
                raise UnsettledError(
                    f"it was started, and it is {condition}: libvirt at {self.uri} ended during "
                    "the start; look at its log, and run again."
                )

    def _try_to_start(self, domain: Domain, deadline: float) -> HypervisorError | None:
        """Ask for the start; return why it was refused, None where it was not."""
        late = f"libvirt at {self.uri} has not started it in time."

        def create() -> None:
            handle = self._handle(domain)
            if not handle.isActive():
                within(deadline, handle.create, late)

        try:
            # QEMU quotes its command line where it does not start.
            hidden = secrets(read_definition(self.persistent_xml(domain)).root)
            with self._connection.errors("start it", domain.name, hidden):
                self._connection.with_reconnect(create, deadline)
        except DaemonLostError as lost:
            raise UnsettledError(
                f"whether it runs cannot be told: {lost.message} Look at it with 'virsh domstate "
                f"{domain.name} --reason' once the daemon is back, and run again."
            ) from None
        except HypervisorError as refusal:
            return refusal
        return None

    def _end_half_started(self, domain: Domain, condition: Condition, deadline: float) -> None:
        # It has not run an instruction yet, and lacks what libvirt sets up last, such as passwords
        # of its displays: it is started from the beginning.
        try:
            self.force_off(domain, min(deadline, time.monotonic() + SETTLING_S))
        except HypervisorError as error:
            raise UnsettledError(
                f"it is {condition}: libvirt at {self.uri} ended while it started it, and cannot "
                f"force it off now ({error.message.rstrip('.')}); end its QEMU process, if it "
                "has one, stop the libvirt daemon, remove "
                f"/run/libvirt/qemu/{domain.name}.xml, start the daemon, and run again."
            ) from None

    def resume(self, domain: Domain) -> None:
        """Let a paused guest run on."""
        with self._connection.errors("resume it", domain.name):
            self._connection.with_reconnect(lambda: self._handle(domain).resume())

    def pause(self, domain: Domain) -> None:
        """Keep a guest from running on; one that is paused, or off, stays so."""
        with self._connection.errors("pause it", domain.name):
            self._connection.with_reconnect(lambda: self._handle(domain).suspend())

    def start_transient(self, domain: Domain, xml: str, secrets: set[str]) -> None:
        """Start a guest that has no persistent definition, with the one that it had.

        *xml* has its passwords; *secrets* must not appear in the sentence, should libvirt quote
        them.
        """
        with self._connection.errors("start it", domain.name, secrets):
            self._connection.raw.createXML(xml, 0)

    def agent_answers(self, domain: Domain) -> bool:
        """Tell whether the guest's agent holds its channel open."""
        root = read_definition(self.xml_without_secrets(domain, live=True)).root
        return any(
            target.get("name") == "org.qemu.guest_agent.0" and target.get("state") == "connected"
            for target in root.iterfind("devices/channel/target")
        )
