# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of the two hosts that a guest migrates between."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .._domain.definition import Definition
from .._domain.moving import networks
from .._domain.xml import etree
from .._errors import HypervisorError
from .._model.domain import Domain
from .connection import PATIENCE_S, libvirt
from .migration import Progress, progress_from
from .power import Power


class End(Power):
    """One of the two hosts.

    Attributes:
        full_uri: its URI as it was given, for the other daemon; not for sentences.

    Raises:
        HypervisorError: when there is no connection to be had.
    """

    def __init__(self, uri: str, patience_s: float = PATIENCE_S) -> None:
        super().__init__(uri, watch=True, patience_s=patience_s)
        self.full_uri = uri

    def has_job(self, domain: Domain) -> bool:
        """Tell whether a guest is migrating here or away, or in another job of its memory.

        Raises:
            HypervisorError: when its daemon does not come back.
        """

        def ask() -> bool:
            try:
                handle = self._connection.raw.lookupByUUIDString(domain.uuid)
                return bool(handle.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
            except libvirt.libvirtError as error:
                # libvirt tells nothing of a migration to the host on which it arrives, and has no
                # answer while it looks for the process of a guest (qemuDomainGetJobStatsInternal).
                busy = (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, libvirt.VIR_ERR_OPERATION_TIMEOUT)
                if error.get_error_code() in busy:
                    return True
                if error.get_error_code() in (
                    libvirt.VIR_ERR_NO_DOMAIN,
                    libvirt.VIR_ERR_OPERATION_INVALID,
                ):
                    return False
                raise

        with self._connection.errors("ask for its jobs", domain.name):
            return bool(self._connection.with_reconnect(ask))

    def abort_job(self, domain: Domain) -> None:
        """Ask for the end of a guest's migration; it may be too late for that."""
        with suppress(libvirt.libvirtError):
            self._handle(domain).abortJob()

    def undefine(self, domain: Domain) -> None:
        """Remove the definition of a guest that is off here; one that has none is left alone.

        What it wrote into its firmware and its TPM stays: on shared storage it is the same file.

        Raises:
            HypervisorError: when it is alive, or cannot be undefined.
        """

        def ask() -> None:
            try:
                handle = self._connection.raw.lookupByUUIDString(domain.uuid)
                if handle.isActive():
                    raise HypervisorError(
                        "it was started meanwhile, and keeps its definition.", guest=domain.name
                    )
                _undefine(handle)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise

        with self._connection.errors("undefine it", domain.name):
            self._connection.with_reconnect(ask)


class Source(End):
    """The host that guests leave."""

    def migratable_xml(self, domain: Domain) -> str:
        """Return what a guest runs with, passwords included, in the form that a target takes.

        Raises:
            HypervisorError: when it cannot be read.
        """
        flags = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._connection.errors("read the definition", domain.name):
            return str(self._handle(domain).XMLDesc(flags))

    def migration_blocker(self, domain: Domain) -> str | None:
        """Say why a live guest cannot be migrated now, None where it can.

        A paused guest can, and is paused at the target.

        Raises:
            HypervisorError: when its state cannot be read.
        """
        blocker = self.restart_blocker(domain)
        return None if blocker == "it is paused" else blocker


class Target(End):
    """The host that guests go to."""

    def last_progress(self, domain: Domain) -> Progress | None:
        """Return how the migration of a guest that has arrived went, None where nobody knows.

        The source forgets that together with the guest.
        """
        with suppress(libvirt.libvirtError):
            return progress_from(
                self._handle(domain).jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
            )
        return None

    def lacks(self, live: Definition) -> list[str]:
        """Return sentences about what a guest needs and this host does not have."""
        return [*self._lacks_machine(live), *self._lacks_networks(live)]

    def _lacks_machine(self, live: Definition) -> list[str]:
        """Ask for the emulator and the machine type, and then whether its CPU can be had."""
        root = live.root
        kind = root.get("type")
        machine, arch = root.find("os/type").get("machine"), live.arch or None
        emulator = (root.findtext("devices/emulator") or "").strip() or None
        connection = self._connection.raw
        try:
            connection.getDomainCapabilities(emulator, arch, machine, kind, 0)
        except libvirt.libvirtError as error:
            return [
                f"the target cannot run its machine type {machine} with {emulator}: "
                f"{_said(error)}; install the same QEMU there."
            ]
        cpu = root.find("cpu")
        # Other modes name no model of their own (docs/formatdomain, CPU model).
        if cpu is None or cpu.get("mode") != "custom" or cpu.find("model") is None:
            return []
        try:
            text = etree.tostring(cpu, encoding="unicode")
            fits = connection.compareHypervisorCPU(emulator, arch, machine, kind, text, 0)
        except libvirt.libvirtError:
            # A driver that cannot compare leaves it to the migration itself.
            return []
        if fits != libvirt.VIR_CPU_COMPARE_INCOMPATIBLE:
            return []
        return [
            f"the target cannot give it its CPU, model {(cpu.findtext('model') or '').strip()}; "
            "give it a model that every host has, and restart it."
        ]

    def _lacks_networks(self, live: Definition) -> list[str]:
        found = []
        for name in networks(live.root):
            try:
                active = self._connection.raw.networkLookupByName(name).isActive()
            except libvirt.libvirtError:
                active = False
            if not active:
                found.append(
                    f"the target has no active network {name}; define it there and start it."
                )
        return found


def remedy(name: str) -> str:
    """Say what helps where libvirt holds on to a guest without a process.

    A daemon that is killed before it has noted the process of a guest that it starts leaves the
    note of one that has none (pid 0); the next daemon waits for it for ever, and so does whoever
    asks for anything that changes it (seen with libvirt 9.0).
    """
    return (
        "End its QEMU process there, if it has one, stop the libvirt daemon, remove "
        f"/run/libvirt/qemu/{name}.xml, start the daemon, and run again."
    )


def _undefine(handle: Any) -> None:
    keep = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    try:
        # Bindings and daemons before libvirt 8.9 do not know it.
        handle.undefineFlags(keep | getattr(libvirt, "VIR_DOMAIN_UNDEFINE_KEEP_TPM", 64))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
            raise
        handle.undefineFlags(keep)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
