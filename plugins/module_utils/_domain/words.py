# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two definitions of a guest differ in, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .._cpuset import Ids, format_cpuset, nodes_text, numbered
from .._model.devices import ExpanderBus
from .._model.domain import Binding, ManagedState
from .._model.layout import Cell, MemorySize, Topology, VcpuCount
from .._size import show_size

#: How an operator pins the vCPUs of a running guest by hand.
PIN_BY_HAND = "'virsh vcpupin --live'"


@dataclass(frozen=True)
class Difference:
    """One thing that two definitions do not agree on.

    Attributes:
        what: ``cells``, ``topology``, ``distances``, ``vcpus``, ``memory_size``, ``vcpu_pins``,
            ``emulator_pins``, ``iothread_pins``, ``memory_binding``,
            ``vcpu_placement`` or ``devices``.
        subject: what it is about, with its verb, such as ``vCPUs 2-3 are``.
    """

    what: str
    subject: str
    first: str
    second: str


@dataclass(frozen=True)
class Drift:
    """One thing that is not as it should be.

    Attributes:
        between: ``planned-persistent``, ``planned-live`` (a transient guest), ``persistent-live``,
            ``persistent-saved`` (a managed-save image), ``live-actual`` or ``topology-pins``.
        what: as in Difference; or ``plan``, ``restart``, ``image``, ``memory``, ``dies``.
        message: a sentence with the remedy.
    """

    between: str
    what: str
    message: str


def differences(first: ManagedState, second: ManagedState) -> list[Difference]:
    """Put into words what two definitions differ in, the weightiest first."""
    # A cell that only one of the two has is told of by the number of cells.
    shared = min(len(first.cells), len(second.cells))
    first, second = (
        replace(
            state,
            cell_bindings={
                cell: binding for cell, binding in state.cell_bindings.items() if cell < shared
            },
        )
        for state in (first, second)
    )
    return [
        difference
        for field, words in WORDS.items()
        if getattr(first, field) != getattr(second, field)
        for difference in words(getattr(first, field), getattr(second, field))
    ]


def _one(
    what: str, subject: str, text: Callable[[Any], str]
) -> Callable[[Any, Any], Iterator[Difference]]:
    """Return the words for a field that is one thing."""

    def words(first: object, second: object) -> Iterator[Difference]:
        yield Difference(what, subject, text(first), text(second))

    return words


def _pins(
    what: str, one: str, many: str, first: Mapping[int, Ids], second: Mapping[int, Ids]
) -> Iterator[Difference]:
    alike: dict[tuple[Ids, Ids], list[int]] = {}
    for number in sorted({*first, *second}):
        both = (first.get(number, ()), second.get(number, ()))
        if both[0] != both[1]:
            alike.setdefault(both, []).append(number)
    for (now, then), numbers in alike.items():
        subject = numbered(one, many, numbers) if many else one
        verb = "are" if many and len(numbers) > 1 else "is"
        yield Difference(what, f"{subject} {verb}", _pinned_text(now), _pinned_text(then))


def _cell_bindings(
    first: Mapping[int, Binding], second: Mapping[int, Binding]
) -> Iterator[Difference]:
    for cell in sorted({*first, *second}):
        now, then = first.get(cell), second.get(cell)
        if now != then:
            subject = f"the memory of cell {cell} is"
            yield Difference("memory_binding", subject, _binding_text(now), _binding_text(then))


def _cells(first: tuple[Cell, ...], second: tuple[Cell, ...]) -> Iterator[Difference]:
    if len(first) != len(second):
        yield Difference("cells", "it has", _cells_text(first), _cells_text(second))
    for now, then in zip(first, second):
        if _cell_text(now) != _cell_text(then):
            yield Difference("cells", f"cell {now.id} has", _cell_text(now), _cell_text(then))
        if now.distances != then.distances and len(first) == len(second):
            yield Difference(
                "distances",
                f"the distances of cell {now.id} are",
                ",".join(map(str, now.distances)) or "not set",
                ",".join(map(str, then.distances)) or "not set",
            )
        for name, before, after in (
            ("memAccess", now.memory_access, then.memory_access),
            ("discard", now.discard, then.discard),
        ):
            if before != after:
                subject = f"{name} of cell {now.id} is"
                yield Difference("cells", subject, before or "not set", after or "not set")


def _devices(
    first: tuple[ExpanderBus, ...], second: tuple[ExpanderBus, ...]
) -> Iterator[Difference]:
    now, then = (
        {device: (bus.cell, address) for bus in buses for device, address in bus.addresses()}
        for buses in (first, second)
    )
    for device in sorted({*now, *then}):
        texts = [_on_cell_text(places.get(device)) for places in (now, then)]
        if texts[0] != texts[1]:
            yield Difference("devices", f"device {device} is", *texts)


def _on_cell_text(place: tuple[int | None, str] | None) -> str:
    return "on no cell" if place is None else f"on cell {place[0]} at {place[1]}"


def _vcpus_text(count: VcpuCount | None) -> str:
    if count is None:
        return "no vCPUs"
    online = len(count.online)
    offline = "" if online == count.most else f", online {format_cpuset(count.online)}"
    return f"{count.most} vCPU{'s' if count.most > 1 else ''}{offline}"


def _memory_text(size: MemorySize | None) -> str:
    if size is None:
        return "no memory"
    held = size.current_kib < size.total_kib
    current = f", ballooned to {show_size(size.current_kib)}" if held else ""
    return f"{show_size(size.total_kib)} of memory{current}"


def _topology_text(topology: Topology | None) -> str:
    """Return ``8 sockets, 1 core, 2 threads``; dies and clusters only where there are several."""
    if topology is None:
        return "not set"
    parts = ("sockets", "dies", "clusters", "cores", "threads")
    counts = [(getattr(topology, part), part) for part in parts]
    return ", ".join(
        f"{count} {part if count != 1 else part.rstrip('s')}"
        for count, part in counts
        if part not in ("dies", "clusters") or count > 1
    )


def _binding_text(binding: Binding | None) -> str:
    """Return ``bound strict to host node 3``."""
    if binding is None:
        return "not bound"
    nodes = nodes_text(binding.nodes) if binding.nodes else "the nodes that numad advises"
    return f"bound {binding.mode} to {nodes}"


def _pinned_text(cpus: Ids) -> str:
    return f"pinned to {format_cpuset(cpus)}" if cpus else "not pinned"


def _cells_text(cells: tuple[Cell, ...]) -> str:
    return f"{len(cells) or 'no'} {'cell' if len(cells) == 1 else 'cells'}"


def _cell_text(cell: Cell) -> str:
    vcpus = numbered("vCPU", "vCPUs", cell.vcpus) if cell.vcpus else "no vCPUs"
    return f"{vcpus} and {cell.memory_kib} KiB"


#: The words for each field of `ManagedState`, in the order in which differences are told. Apart
#: from the managed elements themselves, since a run that partitions has no use for them.
WORDS: Mapping[str, Callable[[Any, Any], Iterator[Difference]]] = {
    "memory": _one("memory_size", "it has", _memory_text),
    "vcpus": _one("vcpus", "it has", _vcpus_text),
    "cells": _cells,
    "topology": _one("topology", "its CPU topology is", _topology_text),
    "vcpu_pins": partial(_pins, "vcpu_pins", "vCPU", "vCPUs"),
    "emulator_pins": partial(_pins, "emulator_pins", "the emulator", ""),
    "iothread_pins": partial(_pins, "iothread_pins", "iothread", "iothreads"),
    "memory_binding": _one("memory_binding", "its memory as a whole is", _binding_text),
    "cell_bindings": _cell_bindings,
    "vcpu_placement": _one("vcpu_placement", "its vCPU placement is", str),
    "devices": _devices,
}
