# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passed-through PCI devices, and the buses of a guest that put them on its cells.

A device is named by its address on the host, such as ``0000:3b:00.0``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

#: Devices at one slot of a guest, each with its function there; '' for one that is not passed
#: through.
Functions = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class HostDevice:
    """Where a device is: its host node, None where that is not known, and ``pci0000:3a``."""

    node: int | None = None
    root_complex: str = ""


@dataclass(frozen=True)
class RootPort:
    """A root port of an expander bus: the index of its controller, its slot, what is behind it."""

    index: int
    slot: int
    devices: Functions = ()


@dataclass(frozen=True)
class ExpanderBus:
    """An expander bus: a root bus of a guest, whose devices are on a cell.

    Attributes:
        index: of its controller.
        number: of its bus in the guest, ``busNr``; its ports have the next ones, by slot.
        cell: None where the definition does not say.
        ports: by slot.
        root_complex: that of its devices on the host, None where it has none or that is not known.
    """

    index: int
    number: int
    cell: int | None
    ports: tuple[RootPort, ...] = ()
    root_complex: str | None = field(default=None, compare=False)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Yield its devices, each with the address that the guest's kernel gives it."""
        for bus, port in enumerate(self.ports, self.number + 1):
            for device, function in port.devices:
                if device:
                    yield device, f"0000:{bus:02x}:00.{function}"


@dataclass(frozen=True)
class DeviceUnit:
    """Devices at one slot of a guest, which move together.

    Attributes:
        devices: each with its function.
        port: index of the controller that they are behind, None where libvirt is to choose.
        fixed: why they cannot be moved, '' where they can.
        refused: what moving them would break, '' where it breaks nothing.
    """

    devices: Functions
    port: int | None
    fixed: str = ""
    refused: str = ""

    @property
    def name(self) -> str:
        """Its first device."""
        return self.devices[0][0]


@dataclass(frozen=True)
class PciTree:
    """What a definition has of PCI.

    Attributes:
        units: its passed-through devices.
        added: the expander buses that this collection has added.
        others: the expander buses that it has besides.
        root_buses: buses of the tree under ``pcie-root``, itself included.
        next_index: the lowest index from which on all are free.
        free_slots: slots of ``pcie-root`` that nothing is in.
    """

    units: tuple[DeviceUnit, ...]
    added: tuple[ExpanderBus, ...] = ()
    others: tuple[ExpanderBus, ...] = ()
    root_buses: int = 1
    next_index: int = 1
    free_slots: int = 30
    boots_by_uefi: bool = False
