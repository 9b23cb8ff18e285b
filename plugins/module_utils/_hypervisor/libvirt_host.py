# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of libvirt about the host itself, and of the kernel where libvirt does not say."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._cpuset import Ids, parse_cpuset, whole_number
from .._domain.capabilities import parse_capabilities
from .._errors import CpusetError
from .._model.host import Host, HugepagePool, Node
from .connection import PATIENCE_S, Connection, libvirt

_DEVICES = Path("/sys/devices")


class LibvirtHost:
    """The host that a libvirt daemon manages, without its guests.

    Args:
        uri: libvirt's connection URI, such as ``qemu:///system``.
        patience_s: how long a daemon that is away or silent is waited for, in seconds.
        connection: one that is open already, for this URI.

    Raises:
        HypervisorError: when there is no connection to be had; the sentence has the remedy.
    """

    def __init__(
        self, uri: str, patience_s: float = PATIENCE_S, connection: Connection | None = None
    ) -> None:
        self._connection = connection or Connection(uri, patience_s)
        self._capabilities_xml = ""

    @property
    def uri(self) -> str:
        """Where it is, without a password."""
        return self._connection.uri

    @property
    def patience_s(self) -> float:
        """How long its daemon is waited for, in seconds."""
        return self._connection.patience_s

    def close(self) -> None:
        """Close the connection; one that is broken already is let go."""
        self._connection.close()

    def host(self, with_free: bool = False) -> Host:
        """Return the host's topology.

        Each node's free memory and free hugepages are asked for only *with_free*.
        """
        host = parse_capabilities(self._capabilities())
        is_local = self.is_local()
        default_kib = _local_hugepage_kib() if is_local else None
        nodes = tuple(self._with_free(node) for node in host.nodes) if with_free else host.nodes
        return replace(
            host,
            nodes=nodes,
            hugepage_default_kib=default_kib or host.hugepage_default_kib,
            isolated_cpus=isolated_cpus() if is_local else None,
            cpu_kinds=cpu_kinds() if is_local else (),
            libvirt_version=self._version(self._connection.raw.getLibVersion),
            hypervisor_version=self._version(self._connection.raw.getVersion),
        )

    def host_uuid(self) -> str:
        """Return the UUID of the libvirt host, '' where it has none."""
        found = re.search(r"<uuid>([0-9a-f-]+)</uuid>", self._capabilities())
        return found.group(1) if found else ""

    def is_local(self) -> bool:
        """Tell whether the URI names no other host."""
        with suppress(libvirt.libvirtError):
            return re.match(r"[^:]+:///", self._connection.raw.getURI()) is not None
        return False

    def _capabilities(self) -> str:
        if not self._capabilities_xml:
            with self._connection.errors("read the host's capabilities"):
                self._capabilities_xml = str(self._connection.raw.getCapabilities())
        return self._capabilities_xml

    def _with_free(self, node: Node) -> Node:
        sizes = [pool.size_kib for pool in node.hugepages]
        free_kib, free_pages = None, {}
        # A driver that cannot tell leaves it unknown; topology alone is enough to plan.
        with suppress(libvirt.libvirtError, KeyError):
            free_kib = int(self._connection.raw.getMemoryStats(node.id, 0)["free"])
        if sizes:
            with suppress(libvirt.libvirtError, KeyError):
                free_pages = self._connection.raw.getFreePages(sizes, node.id, 1, 0)[node.id]
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


def _local_hugepage_kib() -> int | None:
    """Return this machine's default hugepage size in KiB (Linux, proc(5), meminfo)."""
    with suppress(OSError):
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^Hugepagesize:\s+(\d+) kB", meminfo, re.MULTILINE)
        return int(found.group(1)) if found else None
    return None


def isolated_cpus(devices: Path = _DEVICES) -> Ids | None:
    """Return the pCPUs that the scheduler balances nothing onto, None where the kernel is silent.

    These are those of ``isolcpus=`` with ``domain``, and of isolated partitions of cpusets
    (Documentation/ABI/testing/sysfs-devices-system-cpu in Linux).
    """
    try:
        text = (devices / "system/cpu/isolated").read_text(encoding="ascii").strip()
        return parse_cpuset(text) if text else ()
    except (OSError, CpusetError):
        return None


def cpu_kinds(devices: Path = _DEVICES) -> tuple[Ids, ...]:
    """Return the pCPUs of a hybrid processor by kind, the fastest first; () where all are alike.

    Linux has a PMU for each kind of core on Intel's (arch/x86/events/intel/core.c), and the
    capacity of each CPU elsewhere (drivers/base/arch_topology.c).
    """
    kinds = []
    for name in ("cpu_core", "cpu_atom"):
        with suppress(OSError, CpusetError):
            kinds.append(parse_cpuset((devices / name / "cpus").read_text(encoding="ascii")))
    if not kinds:
        by_capacity: dict[int, list[int]] = {}
        for path in devices.glob("system/cpu/cpu[0-9]*/cpu_capacity"):
            cpu = whole_number(path.parent.name[3:])
            with suppress(OSError):
                capacity = whole_number(path.read_text(encoding="ascii"))
                if cpu is not None and capacity is not None:
                    by_capacity.setdefault(capacity, []).append(cpu)
        kinds = [tuple(sorted(by_capacity[one])) for one in sorted(by_capacity, reverse=True)]
    return tuple(kinds) if len(kinds) > 1 else ()
