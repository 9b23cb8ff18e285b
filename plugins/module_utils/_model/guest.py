# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest as the planner sees it: figures only, no XML, no libvirt."""

from __future__ import annotations

from dataclasses import dataclass

from .._cpuset import Ids
from .layout import Cell, Topology


@dataclass(frozen=True)
class HugepageUse:
    """One ``<page>`` of a guest's ``<hugepages>``.

    Attributes:
        cells: guest cells it is for, None for every cell that no other entry names.
    """

    size_kib: int
    cells: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MemoryDevice:
    """A memory device that takes memory of the host: a DIMM, or one of virtio-mem.

    Attributes:
        page_kib: the page size that it asks for itself, None for the pages of its cell.
        nodes: host nodes of its own ``<nodemask>``; empty where it goes with its cell.
    """

    cell: int
    size_kib: int
    page_kib: int | None = None
    nodes: Ids = ()


@dataclass(frozen=True)
class CellReference:
    """Something in a definition that names cells, and would be wrong were they not there.

    Attributes:
        subject: what it is, with its verb, such as ``a memory device is in cell 3``.
        cells: the cells that it names.
        remedy: what to do about it, such as ``move it``.
    """

    subject: str
    cells: tuple[int, ...]
    remedy: str


@dataclass(frozen=True)
class VcpuReference:
    """Something in a definition that names vCPUs, besides pins and cells.

    Attributes:
        subject: what it is, such as ``<vcpusched>``.
    """

    subject: str
    vcpus: Ids


@dataclass(frozen=True)
class Partition:
    """What the last partition of a guest gave it, by its definition, with contiguous vCPUs.

    Attributes:
        cells: the vCPUs of each cell.
    """

    cells: tuple[Ids, ...]
    topology: Topology


@dataclass(frozen=True)
class Guest:
    """What a guest has been given.

    Attributes:
        uuid: its UUID in libvirt's spelling, '' where the definition has none.
        arch: its architecture, such as ``x86_64``.
        vcpus: vCPUs at most, hotpluggable ones included: every one belongs to a cell.
        memory_kib: memory that its cells share, in KiB: ``<memory>`` without memory devices.
        current_kib: what it has of both at boot, in KiB, None for all of it: ``<currentMemory>``.
        most_kib: what both together may grow to while it runs, in KiB, None where the definition
            does not say: ``<maxMemory>``.
        stated_kib: what ``<memory>`` says of that where cells say otherwise, in KiB, None where
            both agree; libvirt goes by the cells, and stores the two alike.
        hugepages: pages backing it; empty for ordinary pages.
        memory_devices: those of them that take memory of the host.
        iothread_ids: ids of its iothreads, ascending.
        vcpu_pins: pins it has now, as (vCPU, pCPUs), ascending.
        thread_pins: pCPUs that its emulator and its iothreads are held to, with whose they are,
            such as ``its iothread 1``.
        cpuset: pCPUs of ``<vcpu cpuset>``, where its threads without pins run; empty for any.
        realtime_vcpus: vCPUs of ``<vcpusched>`` with a real-time scheduler.
        cachetune_vcpus: vCPUs of ``<cachetune>``, which have a part of a cache of the host.
        has_shares: whether it has a weight against others on the same pCPUs (``<shares>``).
        kind: its type, such as ``kvm``, '' where unknown.
        has_topoext: whether its CPU asks for AMD's ``topoext`` feature.
        cache_mode: mode of its CPU's ``<cache>``, '' where the definition does not say.
        machine: its machine type, such as ``pc-q35-7.2``, '' where the definition does not say.
        takes_cpu: whether libvirt on its host starts guests of its architecture whose definition
            has a ``<cpu>``, which cells need.
        os_id: what its metadata for libosinfo says that it runs, '' where there is none.
        has_acpi: whether its firmware tells its kernel by ACPI what there is.
        online_vcpus: vCPUs present at boot; None for all of them.
        cell_count: cells that it has now, 0 for a guest without.
        memory_access: how its cells share their memory, see `Cell` in layout.
        discard: whether its cells' memory is discarded, see `Cell` in layout.
        partition: what its last partition gave it, None for a guest without such cells of ours.
        own_topology: the CPU topology that it has without a partition, None for none.
        cell_references: what in its definition names cells by their ids.
        vcpu_references: what in its definition names vCPUs by their ids.
        conflicts: sentences about what in its definition no new cells can live with.
    """

    name: str
    uuid: str
    arch: str
    vcpus: int
    memory_kib: int
    devices_kib: int = 0
    current_kib: int | None = None
    most_kib: int | None = None
    stated_kib: int | None = None
    hugepages: tuple[HugepageUse, ...] = ()
    memory_devices: tuple[MemoryDevice, ...] = ()
    iothread_ids: tuple[int, ...] = ()
    vcpu_pins: tuple[tuple[int, tuple[int, ...]], ...] = ()
    thread_pins: tuple[tuple[str, Ids], ...] = ()
    cpuset: Ids = ()
    realtime_vcpus: Ids = ()
    cachetune_vcpus: Ids = ()
    has_shares: bool = False
    kind: str = ""
    cpu_mode: str = ""
    cpu_model: str = ""
    has_topoext: bool = False
    cache_mode: str = ""
    machine: str = ""
    takes_cpu: bool = True
    os_id: str = ""
    has_acpi: bool = True
    online_vcpus: tuple[int, ...] | None = None
    cell_count: int = 0
    memory_access: str | None = None
    discard: str | None = None
    partition: Partition | None = None
    own_topology: Topology | None = None
    own_cells: tuple[Cell, ...] = ()
    cell_references: tuple[CellReference, ...] = ()
    vcpu_references: tuple[VcpuReference, ...] = ()
    conflicts: tuple[str, ...] = ()

    @property
    def online(self) -> Ids:
        """The vCPUs that are there at boot; the others are left for hotplug."""
        return tuple(range(self.vcpus)) if self.online_vcpus is None else self.online_vcpus

    @property
    def own_threads(self) -> int:
        """Threads of a core by the CPU topology that it has without a partition."""
        return 1 if self.own_topology is None else self.own_topology.threads
