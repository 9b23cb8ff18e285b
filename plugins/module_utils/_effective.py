# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout that a definition amounts to, whoever wrote it; knows no connection and no /proc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._dealing import (
    DISTANCE_LOCAL,
    DISTANCE_REMOTE,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain import (
    Definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._host import Host


@dataclass(frozen=True)
class Room:
    """The memory of one cell, or the whole memory of a guest without cells.

    Attributes:
        cell: id of the cell, None for a guest without.
        vcpus: its vCPUs, ascending.
        memory_kib: its memory in KiB, without memory devices.
        mode: mode of its memory binding, ``none`` where it is not bound.
        bound: host nodes that its memory is bound to.
        home: host nodes where its memory is local: those that it is bound to, else those that its
            vCPUs are pinned to; empty where the definition says neither.
    """

    cell: int | None
    vcpus: tuple[int, ...]
    memory_kib: int
    mode: str
    bound: tuple[int, ...]
    home: tuple[int, ...]


def rooms(definition: Definition, host: Host) -> list[Room]:
    """Return where a definition puts the memory of a guest, cell by cell.

    Args:
        definition: live or persistent.
        host: whose pCPUs the pins mean.

    Raises:
        DomainError: when the definition cannot be read.
    """
    return _rooms(definition.meaning, definition, host)


def effective_layout(definition: Definition, host: Host) -> dict[str, Any]:
    """Return a definition's layout in the shape of `layout_to_result` in _layout.

    What a definition leaves open is null: the CPU topology, and the host node of a cell that is
    neither bound nor pinned to a single one. A guest without cells has none. Clusters, which no
    plan has, are in the CPU topology where there are several.

    Raises:
        DomainError: when the definition cannot be read.
    """
    meaning = definition.meaning
    found = _rooms(meaning, definition, host)
    pins, topology = meaning["vcpupin"], meaning["topology"]
    iothreads = meaning["iothreadpin"]
    modes = {room.mode for room in found}
    vcpus = 1 + max((vcpu for room in found for vcpu in room.vcpus), default=-1)
    return {
        "cells": [
            {
                "id": room.cell,
                "host_node": room.home[0] if len(room.home) == 1 else None,
                "vcpus": format_cpuset(room.vcpus),
                "memory_kib": room.memory_kib,
                "pins": format_cpuset(cpu for vcpu in room.vcpus for cpu in pins.get(vcpu, ())),
                "distances": _distances(cell["distances"], cell["id"], len(meaning["cells"])),
            }
            for room, cell in zip(found, meaning["cells"])
        ],
        "topology": None if topology is None else _topology(topology),
        "memory_mode": modes.pop() if len(modes) == 1 else "mixed",
        "nodeset": format_cpuset(node for room in found for node in room.home),
        "vcpu_pins": [format_cpuset(pins.get(vcpu, ())) for vcpu in range(vcpus)] if pins else [],
        "emulator_pins": format_cpuset(meaning["emulatorpin"][0])
        if meaning["emulatorpin"]
        else None,
        "iothread_pins": {
            str(thread): format_cpuset(iothreads[thread]) for thread in sorted(iothreads)
        }
        if iothreads
        else None,
    }


def _topology(topology: Mapping[str, int]) -> dict[str, int]:
    """Return a CPU topology whose product is the number of vCPUs."""
    return {part: count for part, count in topology.items() if part != "clusters" or count > 1}


def _rooms(meaning: Mapping[str, Any], definition: Definition, host: Host) -> list[Room]:
    node_of = {cpu: node.id for node in host.nodes for cpu in node.cpus}
    cells = [(cell["id"], cell["cpus"], cell["memory_kib"]) for cell in meaning["cells"]]
    if not cells:
        guest = read_guest(definition, host.hugepage_default_kib)
        cells = [(None, tuple(range(guest.vcpus)), guest.memory_kib)]
    found = []
    for cell, vcpus, memory_kib in cells:
        mode, _placement, bound = (
            meaning["memnode"].get(cell) or meaning["memory"] or ("none", "", ())
        )
        pins = [meaning["vcpupin"].get(vcpu, ()) for vcpu in vcpus]
        pinned = {node_of[cpu] for cpus in pins for cpu in cpus if cpu in node_of}
        home = bound or (tuple(sorted(pinned)) if pins and all(pins) else ())
        found.append(Room(cell, vcpus, memory_kib, mode, bound, home))
    return found


def _distances(given: Mapping[int, int], cell: int, count: int) -> list[int]:
    """Return the row of a cell.

    What it lacks is what libvirt puts in (virDomainNumaGetNodeDistance, src/conf/numa_conf.c).
    """
    if not given:
        return []
    return [
        given.get(other, DISTANCE_LOCAL if other == cell else DISTANCE_REMOTE)
        for other in range(count)
    ]
