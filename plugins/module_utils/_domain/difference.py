# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two definitions differ in, put in words; knows their meaning, not their XML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._cpuset import format_cpuset

_PINS = {"vcpupin": "vcpu_pins", "emulatorpin": "emulator_pins", "iothreadpin": "iothread_pins"}
_CELL_VALUES = ("memAccess", "discard")


@dataclass(frozen=True)
class Difference:
    """One thing that two definitions do not agree on.

    Attributes:
        what: ``cells``, ``topology``, ``distances``, ``vcpu_pins``, ``emulator_pins``,
            ``iothread_pins``, ``memory_binding``, ``cpu_mode`` or ``placement``.
        subject: what it is about, with its verb, such as ``vCPUs 2-3 are``.
        first: how it is in the first definition.
        second: how it is in the second.
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
            ``persistent-saved`` (a managed-save image) or ``live-actual``.
        what: as in Difference of _difference; or ``plan``, ``restart``, ``image``, ``memory``.
        message: a sentence with the way out.
    """

    between: str
    what: str
    message: str


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Return what two definitions differ in.

    Args:
        first: its meaning, as `managed` in _domain gives it; a key that only one of the two has
            is not compared.
        second: of the other.
    """
    shared = min(len(meaning.get("cells", ())) for meaning in (first, second))

    def memnodes(one: Mapping[int, Any], other: Mapping[int, Any]) -> Iterator[Difference]:
        # A cell that only one of the two has is told of by the number of cells.
        return _memnodes(one, other, shared)

    compare: dict[str, Callable[[Any, Any], Iterable[Difference]]] = {
        "cells": _cells,
        "topology": _whole("topology", "its CPU topology is", topology_text),
        **{key: _pins(key) for key in _PINS},
        "memory": _whole("memory_binding", "its memory as a whole is", binding_text),
        "memnode": memnodes,
        "cpu_mode": _whole("cpu_mode", "its CPU mode is", lambda mode: mode or "not set"),
        "placement": _whole("placement", "its vCPU placement is", str),
    }
    return [
        difference
        for key, compared in compare.items()
        if key in first and key in second and first[key] != second[key]
        for difference in compared(first[key], second[key])
    ]


def numbered(one: str, many: str, ids: Iterable[int]) -> str:
    """Return a noun with its numbers, such as ``vCPU 3`` or ``vCPUs 2-3,8``."""
    listed = tuple(ids)
    return f"{one if len(listed) == 1 else many} {format_cpuset(listed)}"


def vcpus_are(vcpus: Iterable[int]) -> str:
    """Return vCPUs with their verb: ``vCPU 3 is``, ``vCPUs 2-3 are``."""
    listed = tuple(vcpus)
    return f"{numbered('vCPU', 'vCPUs', listed)} {'is' if len(listed) == 1 else 'are'}"


def nodes_text(nodes: Iterable[int]) -> str:
    """Return ``host node 3`` or ``host nodes 0-3``."""
    return numbered("host node", "host nodes", nodes)


def topology_text(topology: Mapping[str, int] | None) -> str:
    """Return ``8 sockets, 1 core, 2 threads``; dies and clusters only where there are several."""
    if topology is None:
        return "not set"
    return ", ".join(
        f"{count} {part if count != 1 else part.rstrip('s')}"
        for part, count in topology.items()
        if part not in ("dies", "clusters") or count > 1
    )


def binding_text(binding: tuple[str, str, tuple[int, ...]] | None) -> str:
    """Return ``bound strict to host node 3``."""
    if binding is None:
        return "not bound"
    mode, _placement, nodes = binding
    return f"bound {mode} to {nodes_text(nodes) if nodes else 'the nodes that numad advises'}"


def pinned_text(cpus: tuple[int, ...]) -> str:
    """Return ``pinned to 0-3``, or ``not pinned``."""
    return f"pinned to {format_cpuset(cpus)}" if cpus else "not pinned"


def _whole(
    what: str, subject: str, text: Callable[[Any], str]
) -> Callable[[Any, Any], Iterator[Difference]]:
    def compared(first: Any, second: Any) -> Iterator[Difference]:
        yield Difference(what, subject, text(first), text(second))

    return compared


def _pins(key: str) -> Callable[[Any, Any], Iterator[Difference]]:
    def compared(
        first: Mapping[int, tuple[int, ...]], second: Mapping[int, tuple[int, ...]]
    ) -> Iterator[Difference]:
        alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for number in sorted({*first, *second}):
            both = (first.get(number, ()), second.get(number, ()))
            if both[0] != both[1]:
                alike.setdefault(both, []).append(number)
        for (one, other), numbers in alike.items():
            subject = {
                "vcpupin": vcpus_are(numbers),
                "emulatorpin": "the emulator is",
                "iothreadpin": f"{numbered('iothread', 'iothreads', numbers)} "
                f"{'is' if len(numbers) == 1 else 'are'}",
            }[key]
            yield Difference(_PINS[key], subject, pinned_text(one), pinned_text(other))

    return compared


def _memnodes(
    first: Mapping[int, Any], second: Mapping[int, Any], shared: int
) -> Iterator[Difference]:
    for cell in range(shared):
        one, other = first.get(cell), second.get(cell)
        if one != other:
            subject = f"the memory of cell {cell} is"
            yield Difference("memory_binding", subject, binding_text(one), binding_text(other))


def _cells(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Iterator[Difference]:
    if len(first) != len(second):
        yield Difference("cells", "it has", _counted(first), _counted(second))
    for one, other in zip(first, second):
        cell = one["id"]
        if _content(one) != _content(other):
            yield Difference("cells", f"cell {cell} has", _content(one), _content(other))
        if one["distances"] != other["distances"] and len(first) == len(second):
            subject = f"the distances of cell {cell} are"
            yield Difference(
                "distances",
                subject,
                _distances(one["distances"]),
                _distances(other["distances"]),
            )
        for name in _CELL_VALUES:
            if one[name] != other[name]:
                yield Difference(
                    "cells",
                    f"{name} of cell {cell} is",
                    one[name] or "not set",
                    other[name] or "not set",
                )


def _counted(cells: list[dict[str, Any]]) -> str:
    return f"{len(cells) or 'no'} {'cell' if len(cells) == 1 else 'cells'}"


def _content(cell: dict[str, Any]) -> str:
    vcpus = numbered("vCPU", "vCPUs", cell["cpus"]) if cell["cpus"] else "no vCPUs"
    return f"{vcpus} and {cell['memory_kib']} KiB"


def _distances(distances: Mapping[int, int]) -> str:
    return ",".join(str(value) for _id, value in sorted(distances.items())) or "not set"
