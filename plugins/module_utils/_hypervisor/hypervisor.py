# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of libvirt about guests and their definitions."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .._cpuset import Ids, format_cpuset, whole_number
from .._domain.pci import device_address
from .._domain.xml import parse_xml
from .._errors import DaemonLostError, HypervisorError, UnsettledError
from .._model.devices import HostDevice
from .._model.domain import Condition, Domain
from .connection import PATIENCE_S, Connection, libvirt
from .daemon_limits import CpuDrivers, Schema
from .libvirt_host import LibvirtHost

#: By the numbers of virDomainState, so that they are there without the bindings too.
#: The first part of a PCI device's path in sysfs.
_ROOT_COMPLEX = re.compile(r"/(pci[0-9a-f]{4,8}:[0-9a-f]{2})/")
_STATES = {
    1: "running",
    2: "running",
    3: "paused",
    4: "shutting_down",
    5: "off",
    6: "crashed",
    7: "suspended",
}
#: By state, the numbers of virDomainRunningReason, virDomainPausedReason, virDomainShutoffReason.
_REASONS = {
    "running": {
        1: "booted",
        2: "migrated",
        3: "restored",
        5: "unpaused",
        6: "migration_canceled",
        10: "post_copy",
    },
    "paused": {
        1: "user",
        2: "migration",
        3: "save",
        4: "dump",
        5: "io_error",
        6: "watchdog",
        7: "from_snapshot",
        8: "shutting_down",
        9: "snapshot",
        10: "crashed",
        11: "starting_up",
        12: "post_copy",
        13: "post_copy_failed",
        14: "api_error",
    },
    "off": {
        1: "shutdown",
        2: "destroyed",
        3: "crashed",
        4: "migrated",
        5: "saved",
        6: "failed",
        7: "from_snapshot",
        8: "daemon",
    },
}
#: How long a daemon that has just come back is given to say what became of a guest's process.
SETTLING_S = 15.0


class Hypervisor(LibvirtHost):
    """The host that a libvirt daemon manages, and its guests.

    Attributes:
        cpu_drivers: of which architectures it starts guests that have a ``<cpu>``.
        schema: what it holds definitions against.
    """

    def __init__(
        self, uri: str, patience_s: float = PATIENCE_S, connection: Connection | None = None
    ) -> None:
        super().__init__(uri, patience_s, connection)
        self.cpu_drivers = CpuDrivers(self._connection)
        self.schema = Schema(self._connection, self._define_validated, self.is_local)
        # libvirt's own object of each guest, by its UUID.
        self._handles: dict[str, Any] = {}
        self._first_validated = threading.Lock()
        self._has_validated: Any = None

    def domains(self) -> list[Domain]:
        """Return every guest, by name."""
        with self._connection.errors("list the guests"):
            handles = self._connection.raw.listAllDomains(0)
            # Asked for the few, not for each: a question for every guest would take as long as
            # reading its definition. The id came with the list.
            transient, saved = (
                {handle.UUIDString() for handle in self._connection.raw.listAllDomains(kind)}
                for kind in (
                    libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT,
                    libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
                )
            )
        self._handles = {handle.UUIDString(): handle for handle in handles}
        found = [
            Domain(
                name=handle.name(),
                uuid=handle.UUIDString(),
                persistent=handle.UUIDString() not in transient,
                active=handle.ID() != -1,
                saved=handle.UUIDString() in saved,
                start=handle.ID(),
            )
            for handle in handles
        ]
        return sorted(found, key=lambda domain: (domain.name, domain.uuid))

    def find(self, domain: Domain) -> Domain | None:
        """Return a guest as it is here now, None where it is not.

        A daemon that went away is waited for.

        Raises:
            HypervisorError: when the daemon does not come back.
        """

        def ask() -> Domain | None:
            try:
                handle = self._connection.raw.lookupByUUIDString(domain.uuid)
                return Domain(
                    name=handle.name(),
                    uuid=domain.uuid,
                    persistent=bool(handle.isPersistent()),
                    active=bool(handle.isActive()),
                    saved=bool(handle.hasManagedSaveImage()),
                    start=handle.ID(),
                )
            except libvirt.libvirtError as error:
                # It may go between the two questions.
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                return None

        with self._connection.errors("find it", domain.name):
            found: Domain | None = self._connection.with_reconnect(ask)
            return found

    def persistent_xml(self, domain: Domain) -> str:
        """Return the persistent definition with its passwords: what a redefine must start from.

        Without VIR_DOMAIN_XML_SECURE the dump lacks them, and defining it would erase them.
        """
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._connection.errors("read the definition", domain.name):
            return str(self._handle(domain).XMLDesc(flags))

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """Return the live or the persistent definition, without its passwords."""
        with self._connection.errors("read the definition", domain.name):
            flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
            return str(self._connection.with_reconnect(lambda: self._handle(domain).XMLDesc(flags)))

    def define(self, name: str, xml: str, secrets: set[str], validate: bool = True) -> None:
        """Make a definition the persistent one.

        libvirt checks it against its schema first, unless *validate* is False: what libvirt itself
        once accepted need not pass, and must be put back all the same. *secrets* must not appear in
        the sentence, should libvirt quote them.
        """

        def ask() -> None:
            if validate:
                self._define_validated(xml)
            else:
                self._connection.raw.defineXMLFlags(xml, 0)

        with self._connection.errors("define it", name, secrets):
            self._connection.with_reconnect(ask)

    def saved_xml(self, domain: Domain) -> str | None:
        """Return the definition inside a guest's managed-save image, None where it has none."""
        with self._connection.errors("check for a managed-save image", domain.name):
            if not self._handle(domain).hasManagedSaveImage():
                return None
            return str(self._handle(domain).managedSaveGetXMLDesc(0))

    def drop_saved(self, domain: Domain) -> None:
        """Remove a guest's managed-save image: its memory is lost, its disks are not."""
        with self._connection.errors("remove its managed-save image", domain.name):
            self._handle(domain).managedSaveRemove()

    def state(self, domain: Domain) -> str:
        """Return a guest's state in one word, ``running`` or ``off`` for most."""
        return self.condition(domain).state

    def condition(self, domain: Domain) -> Condition:
        """Return what a guest is doing; a daemon that went away is waited for."""

        def ask() -> Condition:
            try:
                state, reason = self._connection.raw.lookupByUUIDString(domain.uuid).state()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                    raise
                return Condition("gone")
            word = _STATES.get(state, "unknown")
            return Condition(word, _REASONS.get(word, {}).get(reason, "unknown"))

        with self._connection.errors("read its state", domain.name):
            found: Condition = self._connection.with_reconnect(ask)
            return found

    def settled(self, domain: Domain, deadline: float) -> Condition:
        """Return what a guest is doing once its daemon knows.

        A daemon that has just come back lists guests by what the one before it has written down,
        and finds out one by one which still have a process.

        Raises:
            UnsettledError: when the daemon is not back by then.
        """
        until = min(deadline, time.monotonic() + SETTLING_S)
        try:
            while True:
                condition = self.condition(domain)
                undecided = condition.is_starting or (
                    condition.state in ("running", "paused") and not self._process_answers(domain)
                )
                if not undecided or time.monotonic() > until:
                    return self.condition(domain)
                time.sleep(0.2)
        except DaemonLostError as lost:
            raise UnsettledError(
                f"whether it runs cannot be told: {lost.message} Look at it with 'virsh domstate "
                f"{domain.name} --reason' once the daemon is back, and run again."
            ) from None

    def _process_answers(self, domain: Domain) -> bool:
        """Tell whether a guest's QEMU answers its daemon.

        The request waits for whatever the daemon does with the guest, its search for the process
        of a guest that ran before it came included (qemuProcessReconnect holds a job).
        """
        try:
            self._handle(domain).memoryStats()
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT)
        return True

    def affinities(self, domain: Domain) -> dict[int, tuple[int, ...]] | None:
        """Return the pCPUs that the thread of each vCPU may run on, None where none can tell.

        This is no echo of the definition: the daemon asks the kernel, by sched_getaffinity
        (qemuDomainHelperGetVcpus, src/qemu/qemu_driver.c), whoever pinned the thread.
        """
        with suppress(libvirt.libvirtError):
            threads, masks = self._handle(domain).vcpus()
            return {
                thread[0]: tuple(cpu for cpu, allowed in enumerate(mask) if allowed)
                for thread, mask in zip(threads, masks)
            }
        return None

    def pci_devices(self, devices: Iterable[str]) -> dict[str, HostDevice]:
        """Return where PCI devices of the host are, by their addresses.

        Also over a remote URI: the daemon reads it from its own sysfs. A virtual function that
        does not say is where its physical function is.
        """
        return {device: self._pci_device(device) for device in devices}

    def _pci_device(self, device: str, follow: bool = True) -> HostDevice:
        # One that is unplugged, or that the daemon cannot list, is on no node in particular.
        with suppress(libvirt.libvirtError):
            name = f"pci_{device.replace(':', '_').replace('.', '_')}"
            text = str(self._connection.raw.nodeDeviceLookupByName(name).XMLDesc(0))
            root = parse_xml(text, "device", HypervisorError, "node device")
            complex_ = _ROOT_COMPLEX.search(root.findtext("path") or "")
            numa = root.find("capability[@type='pci']/numa")
            node = None if numa is None else whole_number(numa.get("node", ""))
            parent = root.find("capability[@type='pci']/capability[@type='phys_function']/address")
            if node is None and parent is not None and follow:
                node = self._pci_device(device_address(parent), follow=False).node
            return HostDevice(node, complex_[1] if complex_ else "")
        return HostDevice(None)

    def pin(self, domain: Domain, field: str, number: int, cpus: Ids) -> None:
        """Pin a thread of a running guest, in its live state only.

        *field* is of `ManagedState`; *number* is the vCPU or iothread, of no meaning for the
        emulator.
        """
        members = set(cpus)
        mask = tuple(cpu in members for cpu in range(max(members) + 1))
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        with self._connection.errors("pin it live", domain.name):
            handle = self._handle(domain)
            if field == "vcpu_pins":
                handle.pinVcpuFlags(number, mask, live)
            elif field == "iothread_pins":
                handle.pinIOThread(number, mask, live)
            else:
                handle.pinEmulator(mask, live)

    def move_memory(self, domain: Domain, nodes: Ids) -> None:
        """Move the memory of a running guest to host nodes, in its live state only.

        It was started with a binding of mode ``restrictive``.
        """
        wanted = {libvirt.VIR_DOMAIN_NUMA_NODESET: format_cpuset(nodes)}
        with self._connection.errors("move its memory live", domain.name):
            self._handle(domain).setNumaParameters(wanted, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def _define_validated(self, xml: str) -> None:
        """Define with validation; the first time on a connection, one alone.

        Every validated define reads the schema anew (virXMLValidateAgainstSchema, src/util/virxml.c
        in libvirt). The first in a daemon's life fills libxml2's table of types, and before libxml2
        2.15 no lock keeps a second thread from beginning an empty table meanwhile
        (xmlSchemaInitTypes, xmlschemastypes.c). Whoever looks a type up until that is full is
        refused: "Error type 'int' is not exported by data type library".

        The connection stands for its daemon: it breaks when that ends, and the next daemon has its
        table to fill again. What is defined without validation reads no schema.
        """
        connection = self._connection.raw
        flags = libvirt.VIR_DOMAIN_DEFINE_VALIDATE
        if self._has_validated is not connection:
            with self._first_validated:
                if self._has_validated is not connection:
                    connection.defineXMLFlags(xml, flags)
                    # Not where it was refused: that may have been before the schema was read.
                    self._has_validated = connection
                    return
        connection.defineXMLFlags(xml, flags)

    def _handle(self, domain: Domain) -> Any:
        """Return libvirt's object for a guest on the connection of this moment."""
        handle = self._handles.get(domain.uuid)
        if handle is None or handle.connect() is not self._connection.raw:
            handle = self._connection.raw.lookupByUUIDString(domain.uuid)
            self._handles[domain.uuid] = handle
        return handle
