# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the threads and the memory of a running guest really are, and which are astray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._cpuset import format_cpuset, nodes_text, numbered
from .._domain.definition import Definition
from .._domain.effect import cell_placements
from .._domain.units import memory_kib
from .._domain.words import PIN_BY_HAND, Drift
from .._hypervisor.hypervisor import Hypervisor
from .._hypervisor.numa_maps import NumaMapsError, Processes
from .._model.cell_placement import CellPlacement
from .._model.domain import Domain
from .._model.host import Host

_NO_MEMORY = "its memory by host node is not available"


@dataclass
class Location:
    """Where a running guest really is.

    Attributes:
        pid: of its QEMU process, None where that is not on this machine.
        affinities: pCPUs that the thread of each vCPU may run on, None where that is not known.
        memory: KiB by host node for each cell, None for one that is not known; None as a whole
            where it could not be read, or was not to be.
        drift: what is elsewhere than the definition has it.
        notes: sentences about what could not be told.
    """

    pid: int | None = None
    affinities: Mapping[int, tuple[int, ...]] | None = None
    memory: list[tuple[CellPlacement, Mapping[int, int] | None]] | None = None
    drift: list[Drift] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def locate_guest(
    domain: Domain,
    live: Definition,
    host: Host,
    hypervisor: Hypervisor,
    processes: Processes | None,
    with_memory: bool,
) -> Location:
    """Find the threads and the memory of a running guest.

    *processes* is None where the hypervisor host is another machine; memory is looked for only
    *with_memory*.

    Raises:
        DomainError: when the definition cannot be read.
    """
    location = Location(affinities=hypervisor.affinities(domain))
    if location.affinities is None:
        location.notes.append(
            "the affinity of its vCPUs is not available: libvirt's driver does not report it."
        )
    else:
        location.drift += _stray_threads(location.affinities, live, host)
    if processes is None:
        location.notes.append(
            f"{_NO_MEMORY} over {hypervisor.uri}; run the module on the hypervisor host itself."
        )
        return location
    location.pid = processes.find(domain.name, domain.uuid)
    if location.pid is None:
        location.notes.append(
            f"{_NO_MEMORY}: its QEMU process is not on the machine that runs the module."
        )
    elif with_memory:
        _find_memory(location, location.pid, cell_placements(live, host), live, processes)
    return location


def location_to_result(location: Location) -> dict[str, Any]:
    """Return a location as the module returns it."""
    affinities, memory = location.affinities, location.memory
    return {
        "pid": location.pid,
        "vcpus": None
        if affinities is None
        else {str(vcpu): format_cpuset(cpus) for vcpu, cpus in sorted(affinities.items())},
        "cells": None
        if memory is None
        else [
            {
                "id": place.cell,
                "nodes": format_cpuset(place.home),
                "kib_by_node": None
                if pages is None
                else {str(node): kib for node, kib in sorted(pages.items())},
                "resident_kib": None if pages is None else sum(pages.values()),
                "local_share": None if pages is None else _local_share(place, pages),
            }
            for place, pages in memory
        ],
    }


def _find_memory(
    location: Location,
    pid: int,
    found: Sequence[CellPlacement],
    live: Definition,
    processes: Processes,
) -> None:
    devices = [memory_kib(size) for size in live.root.iterfind("devices/memory/target/size")]
    try:
        mappings = processes.address_space(pid).locate(found, devices)
    except NumaMapsError as error:
        location.notes.append(f"{_NO_MEMORY}: {error.message}")
        return
    location.memory = []
    lost = []
    for place, mapping in zip(found, mappings):
        location.memory.append((place, None if mapping is None else mapping.kib_by_node))
        if mapping is None:
            lost.append(_place_text(place))
        else:
            location.drift += _stray_memory(place, mapping.kib_by_node)
    if lost:
        location.notes.append(
            f"{_NO_MEMORY} for {', '.join(lost)}: it cannot be distinguished from the other memory "
            "of its QEMU process."
        )


def _stray_threads(
    affinities: Mapping[int, tuple[int, ...]], live: Definition, host: Host
) -> list[Drift]:
    """Return the vCPUs whose threads the kernel lets run elsewhere than the guest has them."""
    online = {cpu for node in host.nodes for cpu in node.cpus}
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for vcpu, pins in live.state.vcpu_pins.items():
        # The kernel's answer lacks pCPUs that are offline, a pin may name them.
        wanted = tuple(cpu for cpu in pins if cpu in online) or pins
        actual = affinities.get(vcpu)
        if actual is not None and actual != wanted:
            alike.setdefault((actual, wanted), []).append(vcpu)
    drift = []
    for (actual, wanted), vcpus in alike.items():
        run, are, them = ("runs", "is", "it") if len(vcpus) == 1 else ("run", "are", "them")
        drift.append(
            Drift(
                "live-actual",
                "vcpu_pins",
                f"{numbered('vCPU', 'vCPUs', vcpus)} {run} on {format_cpuset(actual)} and {are} "
                f"pinned to {format_cpuset(wanted)}, so something other than libvirt moved {them}; "
                f"pin again with {PIN_BY_HAND}.",
            )
        )
    return drift


def _stray_memory(place: CellPlacement, pages: Mapping[int, int]) -> list[Drift]:
    """Return the memory that is on other host nodes than it is bound to."""
    away = {node: kib for node, kib in sorted(pages.items()) if node not in place.bound}
    if not place.bound or not any(away.values()):
        return []
    # migratepages(8) is no way out: it would take along what other cells have there.
    return [
        Drift(
            "live-actual",
            "memory",
            f"{_place_text(place)} has {sum(away.values())} of its {sum(pages.values())} KiB on "
            f"{nodes_text(away)} and is bound {place.mode} to {nodes_text(place.bound)}; check "
            "that there is free memory, then shut the guest down and start it.",
        )
    ]


def _local_share(place: CellPlacement, pages: Mapping[int, int]) -> float | None:
    resident = sum(pages.values())
    if not resident or not place.home:
        return None
    local = sum(kib for node, kib in pages.items() if node in place.home)
    # Rounded down, so that 1 means every page.
    return local * 10000 // resident / 10000


def _place_text(place: CellPlacement) -> str:
    return "the guest" if place.cell is None else f"cell {place.cell}"
