# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PCI devices of an emulated host that can be passed through: NVMe disks on its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from errors import LabError

#: What the kernel of such a host is told. Debian's has drivers for this IOMMU and no other.
CMDLINE = "intel_iommu=on"
#: Bus numbers of the first root complex; those below are left to the machine's own devices.
_FIRST_BUS = 0x40
#: A root complex has its own bus and that of its one port.
_BUSES = 2
_DISK_BYTES = 1 << 20


def address(number: int) -> str:
    """Return the address on the host of its n-th device, counted from 0."""
    return f"0000:{_FIRST_BUS + _BUSES * number + 1:02x}:00.0"


def content(number: int, node: int) -> str:
    """Return the first line of what is on the n-th disk."""
    return f"disk {number} of host node {node}"


def iommu() -> list[str]:
    """Return the arguments that give QEMU an IOMMU; they come before those of any device."""
    # The emulation has no x2APIC, so interrupts are remapped in xAPIC mode.
    return ["-device", "intel-iommu,intremap=on"]


def disks(nodes: Sequence[int], count: int, folder: Path) -> list[str]:
    """Make disks and return the arguments that give QEMU each behind a root complex of its own.

    Args:
        nodes: the node of each.
        count: of nodes that the host has.
        folder: where the disks are made.

    Raises:
        LabError: when the host has no such node.
    """
    words = []
    for number, node in enumerate(nodes):
        if node not in range(count):
            raise LabError(
                f"a PCI device is on node {node}, and the emulated host has nodes 0-{count - 1}; "
                "change the spec."
            )
        path = folder / f"disk{number}.img"
        with path.open("wb") as disk:
            disk.write(f"{content(number, node)}\n".encode())
            disk.truncate(_DISK_BYTES)
        bus = _FIRST_BUS + _BUSES * number
        words += [
            *("-device", f"pxb-pcie,id=root{number},bus=pcie.0,bus_nr={bus},numa_node={node}"),
            *("-device", f"pcie-root-port,id=port{number},bus=root{number},chassis={number + 1}"),
            *("-drive", f"file={path},format=raw,if=none,id=disk{number}"),
            *("-device", f"nvme,bus=port{number},drive=disk{number},serial=disk{number}"),
        ]
    return words
