# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The computed answer for one guest, and its shape as modules return it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._cpuset import Ids, format_cpuset
from .devices import ExpanderBus


@dataclass(frozen=True)
class VcpuCount:
    """How many vCPUs a guest has.

    Attributes:
        most: vCPUs at most.
        online: ids of those that are there at boot, ascending.
    """

    most: int
    online: Ids


@dataclass(frozen=True)
class MemorySize:
    """How much memory a guest has, in KiB, memory devices included.

    Attributes:
        total_kib: ``<memory>``.
        current_kib: what it has at boot, and is ballooned to: ``<currentMemory>``.
    """

    total_kib: int
    current_kib: int


@dataclass(frozen=True)
class Topology:
    """A guest's CPU topology; the product of all parts is its number of vCPUs."""

    sockets: int
    dies: int
    cores: int
    threads: int
    clusters: int = 1

    @property
    def vcpus(self) -> int:
        """vCPUs that this topology is for."""
        return self.sockets * self.dies * self.clusters * self.cores * self.threads


@dataclass(frozen=True)
class Cell:
    """A NUMA node of the guest, as its definition states it.

    Attributes:
        id: 0 to n-1.
        vcpus: its vCPUs, ascending.
        memory_kib: its memory in KiB, without memory devices.
        distances: distance to every cell by id, itself included, 0 for one that a definition leaves
            out; empty where none are written.
        memory_access: ``shared`` or ``private``, None where the definition does not say.
        discard: ``yes`` or ``no``, None where the definition does not say.
    """

    id: int
    vcpus: Ids
    memory_kib: int
    distances: Ids = ()
    memory_access: str | None = None
    discard: str | None = None


@dataclass(frozen=True)
class Layout:
    """Which vCPUs and how much memory each cell has, what backs it, and what is pinned where.

    Attributes:
        cells: by id.
        host_nodes: the host node that backs each cell; None on a host without topology, and in the
            layout of a definition that does not say.
        topology: CPU topology that fits the cells; None where a definition has none.
        vcpu_pins: pCPUs by vCPU; empty where nothing is pinned.
        memory_nodes: the host node that each cell's memory is bound to: the same, but where that
            node has no memory.
        memory_mode: mode of the memory binding, ``none`` where nothing is bound, ``mixed`` where
            the cells of a definition differ.
        nodeset: host nodes that memory is bound to, ascending.
        vcpus: how many the guest has; None where a definition does not say.
        memory: how much it has, memory devices included; None where a definition does not say.
        memory_kib: what its cells share of that, in KiB.
        emulator_pins: pCPUs for the emulator's threads, None to leave them as they are.
        iothread_pins: pCPUs by iothread id, None to leave them as they are.
        leaves_cells: whether the guest keeps the CPU topology and the cells, or none, that it has
            without a partition; then `cells` is empty, and `topology` is None unless it has to
            change with the number of vCPUs.
        devices: expander buses that put passed-through devices on their cells.
    """

    cells: tuple[Cell, ...]
    host_nodes: tuple[int | None, ...]
    topology: Topology | None
    vcpu_pins: tuple[Ids, ...]
    memory_nodes: tuple[int | None, ...]
    memory_mode: str
    nodeset: Ids
    vcpus: VcpuCount | None
    memory: MemorySize | None
    memory_kib: int
    emulator_pins: Ids | None = None
    iothread_pins: Mapping[int, Ids] | None = None
    leaves_cells: bool = False
    devices: tuple[ExpanderBus, ...] = ()
    warnings: tuple[str, ...] = ()

    def cell_pins(self, cell: Cell) -> Ids:
        """Return the pCPUs that the vCPUs of a cell are pinned to, together."""
        if not self.vcpu_pins:
            return ()
        pins = {self.vcpu_pins[vcpu] for vcpu in cell.vcpus}
        if len(pins) == 1:
            return pins.pop()
        return tuple(sorted({cpu for cpus in pins for cpu in cpus}))


def layout_to_result(layout: Layout, complete: bool = True) -> dict[str, Any]:
    """Return the layout as modules return it: JSON types only, sets as libvirt writes them.

    When *complete* it has the distances of every cell and the pins of every vCPU, which are most of
    a result: for a large fleet Ansible takes longer to hand them on than to plan them.
    """
    topology = layout.topology
    result: dict[str, Any] = {
        "vcpus": None if layout.vcpus is None else layout.vcpus.most,
        "memory_kib": layout.memory_kib,
        "cells": [
            {
                "id": cell.id,
                "host_node": host_node,
                **({} if memory_node == host_node else {"memory_node": memory_node}),
                "vcpus": format_cpuset(cell.vcpus),
                "memory_kib": cell.memory_kib,
                "pins": format_cpuset(layout.cell_pins(cell)),
            }
            for cell, host_node, memory_node in zip(
                layout.cells, layout.host_nodes, layout.memory_nodes
            )
        ],
        "topology": None if topology is None else _topology(topology),
        "memory_mode": layout.memory_mode,
        "nodeset": format_cpuset(layout.nodeset),
        "emulator_pins": None
        if layout.emulator_pins is None
        else format_cpuset(layout.emulator_pins),
        "iothread_pins": None
        if layout.iothread_pins is None
        else {
            str(iothread): format_cpuset(cpus) for iothread, cpus in layout.iothread_pins.items()
        },
    }
    if layout.devices:
        result["devices"] = [
            {"device": device, "cell": bus.cell, "address": address}
            for bus in layout.devices
            for device, address in bus.addresses()
        ]
    if complete:
        for shown, cell in zip(result["cells"], layout.cells):
            shown["distances"] = list(cell.distances)
        result["vcpu_pins"] = [format_cpuset(cpus) for cpus in layout.vcpu_pins]
    return result


def _topology(topology: Topology) -> dict[str, int]:
    """Return a CPU topology; with clusters, which no plan has, only where there are several."""
    clusters = {"clusters": topology.clusters} if topology.clusters > 1 else {}
    return {
        "sockets": topology.sockets,
        "dies": topology.dies,
        **clusters,
        "cores": topology.cores,
        "threads": topology.threads,
    }
