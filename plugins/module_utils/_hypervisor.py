# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to libvirt: the host, its guests, their definitions; knows no policy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._capabilities import parse_capabilities
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HypervisorError
from ansible_collections.kvm.vnuma.plugins.module_utils._host import Host, HugepagePool, Node

try:
    import libvirt

    LIBVIRT_IMPORT_ERROR: str | None = None
except ImportError as error:  # the caller says which package is missing, in one sentence
    libvirt = None
    LIBVIRT_IMPORT_ERROR = str(error)


@dataclass(frozen=True)
class Domain:
    """A guest as libvirt lists it.

    Attributes:
        name: its name.
        uuid: its UUID.
        persistent: False for a transient guest.
        active: True while it runs, is paused, or is otherwise alive.
        handle: libvirt's own object.
    """

    name: str
    uuid: str
    persistent: bool
    active: bool
    handle: Any


class Hypervisor:
    """One connection to a libvirt daemon.

    Args:
        uri: libvirt's connection URI, such as ``qemu:///system``.

    Raises:
        HypervisorError: when there is no connection to be had; the sentence has the way out.
    """

    def __init__(self, uri: str) -> None:
        self.uri = _without_password(uri)
        # Otherwise libvirt's C library prints every error to stderr, besides raising it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise HypervisorError(_no_connection(self.uri, error)) from None

    def close(self) -> None:
        """Close the connection; one that is broken already is let go."""
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def host(self, with_free: bool = False) -> Host:
        """Return the host's topology.

        Args:
            with_free: ask for each node's free memory and free hugepages too.
        """
        with self._errors("read the host's capabilities"):
            host = parse_capabilities(self._connection.getCapabilities())
        default_kib = _local_hugepage_kib() if self._is_local() else None
        nodes = tuple(self._with_free(node) for node in host.nodes) if with_free else host.nodes
        return replace(
            host,
            nodes=nodes,
            hugepage_default_kib=default_kib or host.hugepage_default_kib,
            libvirt_version=self._version(self._connection.getLibVersion),
            hypervisor_version=self._version(self._connection.getVersion),
        )

    def domains(self) -> list[Domain]:
        """Return every guest, by name."""
        with self._errors("list the guests"):
            handles = self._connection.listAllDomains(0)
            persistent = {
                handle.UUIDString()
                for handle in self._connection.listAllDomains(
                    libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT
                )
            }
            active = {
                handle.UUIDString()
                for handle in self._connection.listAllDomains(
                    libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
                )
            }
        found = [
            Domain(
                name=handle.name(),
                uuid=handle.UUIDString(),
                persistent=handle.UUIDString() in persistent,
                active=handle.UUIDString() in active,
                handle=handle,
            )
            for handle in handles
        ]
        return sorted(found, key=lambda domain: (domain.name, domain.uuid))

    def persistent_xml(self, domain: Domain) -> str:
        """Return the persistent definition with its passwords: what a redefine must start from.

        Without VIR_DOMAIN_XML_SECURE the dump lacks them, and defining it would erase them.
        """
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
        with self._errors("read the definition", domain.name):
            return str(domain.handle.XMLDesc(flags))

    def public_xml(self, domain: Domain, live: bool) -> str:
        """Return the live or the persistent definition, without its passwords."""
        with self._errors("read the definition", domain.name):
            return str(domain.handle.XMLDesc(0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE))

    def define(self, name: str, xml: str, secrets: set[str]) -> None:
        """Make a definition the persistent one, after libvirt checked it against its schema.

        Args:
            name: the guest, for the sentence.
            xml: the definition.
            secrets: what must not appear in the sentence, should libvirt quote it.
        """
        with self._errors("define it", name, secrets):
            self._connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def pin(self, domain: Domain, what: str, number: int, cpus: tuple[int, ...]) -> None:
        """Pin a thread of a running guest, in its live state only.

        Args:
            domain: the guest.
            what: ``vcpupin``, ``emulatorpin`` or ``iothreadpin``.
            number: which vCPU or iothread; of no meaning for the emulator.
            cpus: pCPUs.
        """
        members = set(cpus)
        mask = tuple(cpu in members for cpu in range(max(members) + 1))
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        with self._errors("pin it live", domain.name):
            if what == "vcpupin":
                domain.handle.pinVcpuFlags(number, mask, live)
            elif what == "iothreadpin":
                domain.handle.pinIOThread(number, mask, live)
            else:
                domain.handle.pinEmulator(mask, live)

    def _with_free(self, node: Node) -> Node:
        sizes = [pool.size_kib for pool in node.hugepages]
        free_kib, free_pages = None, {}
        # A driver that cannot tell leaves it unknown; topology alone is enough to plan.
        with suppress(libvirt.libvirtError, KeyError):
            free_kib = int(self._connection.getMemoryStats(node.id, 0)["free"])
        if sizes:
            with suppress(libvirt.libvirtError, KeyError):
                free_pages = self._connection.getFreePages(sizes, node.id, 1, 0)[node.id]
        return replace(
            node,
            free_kib=free_kib,
            hugepages=tuple(
                HugepagePool(pool.size_kib, pool.total, free_pages.get(pool.size_kib))
                for pool in node.hugepages
            ),
        )

    def _version(self, ask: Any) -> str:
        with suppress(libvirt.libvirtError):
            number = int(ask())
            return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
        return ""

    def _is_local(self) -> bool:
        with suppress(libvirt.libvirtError):
            return re.match(r"[^:]+:///", self._connection.getURI()) is not None
        return False

    @contextmanager
    def _errors(
        self, doing: str, guest: str | None = None, secrets: set[str] | None = None
    ) -> Iterator[None]:
        """Turn libvirt's exceptions into one sentence."""
        try:
            yield
        except libvirt.libvirtError as error:
            message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
            for secret in secrets or ():
                message = message.replace(secret, "********")
            code = error.get_error_code()
            if code == libvirt.VIR_ERR_OPERATION_DENIED and "read only" in message:
                raise HypervisorError(
                    f"the connection to {self.uri} is read-only, and cannot {doing}; connect as a "
                    "user who may manage guests, through the read-write socket."
                ) from None
            raise HypervisorError(
                f"libvirt at {self.uri} could not {doing}: {message}.", guest=guest
            ) from None


def _no_connection(uri: str, error: Any) -> str:
    message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
    if "Permission denied" in message or "authentication" in message.lower():
        way_out = "use become, or a user who may manage guests (group libvirt on most systems)"
    elif "No such file" in message or "Connection refused" in message:
        way_out = "start libvirtd (or virtqemud) there, or correct uri"
    else:
        way_out = "correct uri, or see that the libvirt daemon there can be reached"
    return f"cannot connect to {uri}: {message}; {way_out}."


def _without_password(uri: str) -> str:
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:********@", uri)


def _local_hugepage_kib() -> int | None:
    """Return this machine's default hugepage size in KiB (Linux, proc(5), meminfo)."""
    with suppress(OSError), open("/proc/meminfo", encoding="ascii", errors="replace") as meminfo:
        found = re.search(r"^Hugepagesize:\s+(\d+) kB", meminfo.read(), re.MULTILINE)
        return int(found.group(1)) if found else None
    return None
