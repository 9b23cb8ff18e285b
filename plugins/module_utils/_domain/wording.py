# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How figures of a guest are worded in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .._cpuset import format_cpuset
from .._model.domain import Binding
from .._model.layout import Cell, Ids, Topology


@dataclass(frozen=True)
class Difference:
    """One thing that two definitions do not agree on.

    Attributes:
        what: ``cells``, ``topology``, ``distances``, ``vcpus``, ``memory_size``, ``vcpu_pins``,
            ``emulator_pins``, ``iothread_pins``, ``memory_binding``, ``cpu_mode`` or
            ``placement``.
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
            ``persistent-saved`` (a managed-save image), ``live-actual`` or ``topology-pins``.
        what: as in Difference; or ``plan``, ``restart``, ``image``, ``memory``, ``dies``.
        message: a sentence with the remedy.
    """

    between: str
    what: str
    message: str


def numbered(one: str, many: str, ids: Iterable[int]) -> str:
    """Return a noun with its numbers, such as ``vCPU 3`` or ``vCPUs 2-3,8``."""
    listed = tuple(ids)
    return f"{one if len(listed) == 1 else many} {format_cpuset(listed)}"


def nodes_text(nodes: Iterable[int]) -> str:
    """Return ``host node 3`` or ``host nodes 0-3``."""
    return numbered("host node", "host nodes", nodes)


def topology_text(topology: Topology | None) -> str:
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


def binding_text(binding: Binding | None) -> str:
    """Return ``bound strict to host node 3``."""
    if binding is None:
        return "not bound"
    nodes = nodes_text(binding.nodes) if binding.nodes else "the nodes that numad advises"
    return f"bound {binding.mode} to {nodes}"


def pinned_text(cpus: Ids) -> str:
    """Return ``pinned to 0-3``, or ``not pinned``."""
    return f"pinned to {format_cpuset(cpus)}" if cpus else "not pinned"


def cells_text(cells: tuple[Cell, ...]) -> str:
    """Return ``8 cells``, ``1 cell`` or ``no cells``."""
    return f"{len(cells) or 'no'} {'cell' if len(cells) == 1 else 'cells'}"


def cell_text(cell: Cell) -> str:
    """Return ``vCPUs 0-1 and 1048576 KiB``."""
    vcpus = numbered("vCPU", "vCPUs", cell.vcpus) if cell.vcpus else "no vCPUs"
    return f"{vcpus} and {cell.memory_kib} KiB"
