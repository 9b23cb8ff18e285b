# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout that a definition amounts to, whatever wrote it."""

from __future__ import annotations

from dataclasses import replace

from .._cpuset import Ids
from .._model.cell_placement import CellPlacement
from .._model.domain import Binding
from .._model.host import DISTANCE_LOCAL, DISTANCE_REMOTE, Host
from .._model.layout import Cell, Layout
from .definition import Definition, read_guest


def cell_placements(definition: Definition, host: Host) -> list[CellPlacement]:
    """Return where a definition puts the memory of a guest, cell by cell.

    Raises:
        DomainError: when the definition cannot be read.
    """
    state = definition.state
    if state.cells:
        places = [CellPlacement(cell.id, cell.vcpus, cell.memory_kib) for cell in state.cells]
    else:
        guest = read_guest(definition, host.hugepage_default_kib)
        places = [CellPlacement(None, tuple(range(guest.vcpus)), guest.memory_kib)]
    found = []
    for place in places:
        whole = state.memory_binding or Binding("none", ())
        binding = whole if place.cell is None else state.cell_bindings.get(place.cell, whole)
        pins = [state.vcpu_pins.get(vcpu, ()) for vcpu in place.vcpus]
        on_nodes = host.nodes_of(cpu for cpus in pins for cpu in cpus)
        pinned = tuple(sorted(on_nodes)) if pins and all(pins) else ()
        found.append(
            replace(
                place,
                mode=binding.mode,
                bound=binding.nodes,
                pinned=pinned,
                home=binding.nodes or pinned,
            )
        )
    return found


def effective_layout(definition: Definition, host: Host) -> Layout:
    """Return the layout that a definition amounts to, whoever wrote it.

    What it leaves open is None: the CPU topology, and the host node of a cell that is neither bound
    nor pinned to a single one. A guest without cells has none.

    Raises:
        DomainError: when the definition cannot be read.
    """
    state, found = definition.state, cell_placements(definition, host)
    modes = {place.mode for place in found}
    vcpus = 1 + max((vcpu for place in found for vcpu in place.vcpus), default=-1)
    emulator, iothreads = state.emulator_pins, state.iothread_pins
    return Layout(
        cells=tuple(replace(cell, distances=_distances(cell)) for cell in state.cells),
        host_nodes=tuple(
            _only(place.pinned if len(place.pinned) == 1 else place.home)
            for place, _cell in zip(found, state.cells)
        ),
        topology=state.topology,
        vcpu_pins=tuple(state.vcpu_pins.get(vcpu, ()) for vcpu in range(vcpus))
        if state.vcpu_pins
        else (),
        memory_nodes=tuple(_only(place.home) for place, _cell in zip(found, state.cells)),
        memory_mode=modes.pop() if len(modes) == 1 else "mixed",
        nodeset=tuple(sorted({node for place in found for node in place.home})),
        vcpus=state.vcpus,
        memory=state.memory,
        memory_kib=sum(place.memory_kib for place in found),
        emulator_pins=emulator[0] if emulator else None,
        iothread_pins=dict(sorted(iothreads.items())) if iothreads else None,
        devices=state.devices,
    )


def _only(nodes: Ids) -> int | None:
    """Return a single node, None for none or several."""
    return nodes[0] if len(nodes) == 1 else None


def _distances(cell: Cell) -> Ids:
    """Return the row of a cell, as libvirt fills it (virDomainNumaGetNodeDistance, numa_conf.c)."""
    return tuple(
        value or (DISTANCE_LOCAL if other == cell.id else DISTANCE_REMOTE)
        for other, value in enumerate(cell.distances)
    )
