# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: host, guests and policies in, layouts out; no XML, no libvirt, no Ansible.

A layout says which vCPUs and how much memory each guest cell has, which host node backs it, what
is pinned where, how far cells are apart, and the CPU topology that goes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._cpuset import format_cpuset, show_cpuset
from .._errors import LayoutError, VnumaError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._policy import Policy
from .distribution import (
    Topology,
    check_pools,
    deal_memory,
    deal_vcpus,
    distance_matrix,
)
from .limits import (
    boot_warnings,
    memory_warnings,
    refuse_asymmetry,
    refuse_foreign,
    topology_warnings,
)
from .nodes import cell_count, chosen_nodes
from .pinning import (
    CoreDemand,
    Pinboard,
    exclusive_cpus,
)


@dataclass(frozen=True)
class Cell:
    """A NUMA node of the guest.

    Attributes:
        id: 0 to n-1.
        host_node: the host node that backs it, None on a host without topology.
        vcpus: its vCPUs, ascending.
        memory_kib: its memory in KiB, without memory devices.
        pins: pCPUs that its vCPUs are pinned to, together; empty where nothing is pinned.
        distances: distance to every cell by id, itself included; empty where none are written.
    """

    id: int
    host_node: int | None
    vcpus: tuple[int, ...]
    memory_kib: int
    pins: tuple[int, ...]
    distances: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The computed answer for one guest.

    Attributes:
        cells: by id.
        topology: CPU topology that fits the cells.
        vcpu_pins: pCPUs by vCPU; empty where nothing is pinned.
        memory_mode: mode of the memory binding, ``none`` where nothing is bound.
        nodeset: host nodes in use, ascending.
        emulator_pins: pCPUs for the emulator's threads, None to leave them as they are.
        iothread_pins: (iothread id, pCPUs), None to leave them as they are.
        warnings: sentences for the user.
    """

    cells: tuple[Cell, ...]
    topology: Topology
    vcpu_pins: tuple[tuple[int, ...], ...]
    memory_mode: str
    nodeset: tuple[int, ...]
    emulator_pins: tuple[int, ...] | None = None
    iothread_pins: tuple[tuple[int, tuple[int, ...]], ...] | None = None
    warnings: tuple[str, ...] = ()


def plan(guest: Guest, host: Host, policy: Policy, taken: frozenset[int] = frozenset()) -> Layout:
    """Plan one guest.

    Args:
        guest: what it has been given.
        host: the topology to mirror.
        policy: how.
        taken: pCPUs that other guests own; they count for ``pinning: core`` and ``cpu`` only.

    Raises:
        LayoutError: when the guest does not fit; the sentence has the figures and the way out.
    """
    (answer,) = plan_guests([(guest, policy)], host, taken)
    if isinstance(answer, VnumaError):
        raise answer
    return answer


def plan_guests(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    taken: frozenset[int] = frozenset(),
    refuse: Callable[[int, Layout], None] | None = None,
) -> list[Layout | VnumaError]:
    """Plan the guests of one host together, so that exclusive pins never collide.

    The answer does not depend on the order of the guests: whoever sits well on pCPUs of its own
    stays there, then the others are placed by name.

    Args:
        guests: the guests, and how each is to be planned.
        host: the topology to mirror.
        taken: pCPUs that other guests own.
        refuse: raises what stands against a layout that lacks only its exclusive pins, given by
            the number of the guest: it stays where it is then, and its pCPUs are not given away.

    Returns:
        For each guest, in the order given, its layout or the error that names it.
    """
    view = _HostView(host)
    failed: dict[int, VnumaError] = {}
    drafts: dict[int, tuple[Layout, list[CoreDemand]]] = {}
    # A fleet has few sizes, and guests of one size are planned alike until pins are exclusive.
    sizes: dict[tuple[Guest, Policy], tuple[Layout, list[CoreDemand]]] = {}
    for index, (guest, policy) in enumerate(guests):
        size = (replace(guest, name="", uuid="", vcpu_pins=()), policy)
        try:
            if size not in sizes:
                sizes[size] = _plan_without_board(guest, view, policy)
            drafts[index] = sizes[size]
            if refuse is not None:
                refuse(index, drafts[index][0])
        except VnumaError as error:
            error.for_guest(guest.name)
            failed[index] = error
    exclusive = sorted(
        (i for i in drafts if drafts[i][1] and i not in failed), key=lambda i: _order(guests[i][0])
    )
    placed: dict[int, Layout] = {}
    # A guest without a plan stays where it is, so what it owns now is taken for the others.
    owned = {
        i: exclusive_cpus(host, (pins for _vcpu, pins in guests[i][0].vcpu_pins))
        for i in (*exclusive, *failed)
        if exclusive
    }
    while exclusive:
        board = Pinboard(taken.union(*(owned[i] for i in failed)))
        waiting = [(i, *guests[i], *drafts[i]) for i in exclusive if i not in failed]
        if _place(waiting, board, owned, placed, failed):
            break
    return [
        failed[index] if index in failed else placed.get(index) or drafts[index][0]
        for index in range(len(guests))
    ]


def _place(
    waiting: Sequence[tuple[int, Guest, Policy, Layout, list[CoreDemand]]],
    board: Pinboard,
    owned: Mapping[int, frozenset[int]],
    placed: dict[int, Layout],
    failed: dict[int, VnumaError],
) -> bool:
    """Place guests with exclusive pins.

    Returns:
        False where one does not fit, and another was given what it owns: to be done over.
    """
    for index, guest, policy, _layout, demands in waiting:
        board.keep(index, guest.vcpu_pins, demands, policy)
    for index, guest, policy, layout, demands in waiting:
        try:
            placed[index] = _pinned(layout, board.place(index, demands, policy))
        except LayoutError as error:
            error.for_guest(guest.name)
            failed[index] = error
            if not board.leave(index, owned[index]):
                return False
    return True


def layout_to_result(layout: Layout) -> dict[str, Any]:
    """Return the layout as modules return it: JSON types only, sets as libvirt writes them."""
    texts: dict[tuple[int, ...], str] = {}

    def text(ids: tuple[int, ...]) -> str:
        if ids not in texts:
            texts[ids] = format_cpuset(ids)
        return texts[ids]

    topology = layout.topology
    return {
        "cells": [
            {
                "id": cell.id,
                "host_node": cell.host_node,
                "vcpus": text(cell.vcpus),
                "memory_kib": cell.memory_kib,
                "pins": text(cell.pins),
                "distances": list(cell.distances),
            }
            for cell in layout.cells
        ],
        "topology": {
            "sockets": topology.sockets,
            "dies": topology.dies,
            "cores": topology.cores,
            "threads": topology.threads,
        },
        "memory_mode": layout.memory_mode,
        "nodeset": text(layout.nodeset),
        "vcpu_pins": [text(pins) for pins in layout.vcpu_pins],
        "emulator_pins": None if layout.emulator_pins is None else text(layout.emulator_pins),
        "iothread_pins": None
        if layout.iothread_pins is None
        else {str(iothread): text(pins) for iothread, pins in layout.iothread_pins},
    }


def _order(guest: Guest) -> tuple[str, str]:
    return (guest.name, guest.uuid)


class _HostView:
    """A host, with what many of its guests have in common worked out once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.eligible = host.eligible
        self._open: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        self._matrices: dict[tuple[int | None, ...], list[tuple[int, ...]]] = {}

    def open_cpus(self, node: Node, reserved: tuple[int, ...]) -> tuple[int, ...]:
        """Return the online pCPUs of a node that are not reserved."""
        if (node.id, reserved) not in self._open:
            barred = frozenset(reserved)
            self._open[node.id, reserved] = tuple(cpu for cpu in node.cpus if cpu not in barred)
        return self._open[node.id, reserved]

    def distances(self, backing: Sequence[Node | None]) -> list[tuple[int, ...]]:
        """Return the distance matrix of cells that are backed so."""
        key = tuple(None if node is None else node.id for node in backing)
        if key not in self._matrices:
            self._matrices[key] = distance_matrix(backing)
        return self._matrices[key]


def _plan_without_board(
    guest: Guest, view: _HostView, policy: Policy
) -> tuple[Layout, list[CoreDemand]]:
    """Plan all but exclusive pins, which need to know of the other guests."""
    warnings: list[str] = []
    host = view.host
    arch = guest.arch or host.arch
    refuse_foreign(guest, arch, policy)
    nodes = chosen_nodes(host, view.eligible, policy, warnings)
    count = cell_count(guest, nodes, policy, warnings)
    backing: list[Node | None] = [
        nodes[cell % len(nodes)] if nodes else None for cell in range(count)
    ]
    dealt, topology = deal_vcpus(guest, arch, nodes, count, policy, warnings)
    memory = deal_memory(guest, arch, backing, policy)
    used = tuple(sorted({node.id for node in backing if node is not None}))
    if nodes and policy.memory_mode in ("strict", "restrictive"):
        check_pools(guest, backing, memory)
        warnings.extend(memory_warnings(backing, memory))
    warnings.extend(topology_warnings(guest, arch, host, policy, topology))
    warnings.extend(boot_warnings(guest, arch, dealt))

    open_cpus = {
        node.id: view.open_cpus(node, policy.reserved_cpus) for node in backing if node is not None
    }
    needs_cpus = policy.pinning != "none" or "nodes" in (
        policy.emulator_pinning,
        policy.iothread_pinning,
    )
    for node_id, cpus in open_cpus.items():
        if not cpus and needs_cpus:
            raise LayoutError(
                f"reserved_cpus '{format_cpuset(policy.reserved_cpus)}' leaves no pCPU of host "
                f"node {node_id} to pin to; reserve fewer, or leave the node out with nodes."
            )
    matrix = view.distances(backing) if policy.distances == "host" else None
    if matrix is not None:
        refuse_asymmetry(arch, matrix)
    to_node = policy.pinning == "node"
    cells = tuple(
        Cell(
            id=cell,
            host_node=None if node is None else node.id,
            vcpus=dealt[cell],
            memory_kib=memory[cell],
            pins=open_cpus[node.id] if node is not None and to_node else (),
            distances=() if matrix is None else matrix[cell],
        )
        for cell, node in enumerate(backing)
    )
    layout = Layout(
        cells=cells,
        topology=topology,
        vcpu_pins=_vcpu_pins(cells, guest.vcpus) if nodes and to_node else (),
        memory_mode=policy.memory_mode if nodes else "none",
        nodeset=used,
        emulator_pins=_emulator_pins(host, policy, open_cpus),
        iothread_pins=tuple(
            (iothread, open_cpus[used[turn % len(used)]])
            for turn, iothread in enumerate(guest.iothread_ids)
        )
        if policy.iothread_pinning == "nodes" and nodes
        else None,
        warnings=tuple(warnings),
    )
    demands = []
    if nodes and policy.pinning in ("core", "cpu"):
        width = topology.threads
        for cell, node in zip(cells, backing):
            if node is None:
                continue
            vcpus = cell.vcpus
            if policy.distribution == "round_robin" and width > 1:
                # The threads of a guest core sit in different cells: no host core can hold them.
                width = 1
            demands += [
                CoreDemand(node, vcpus[start : start + width])
                for start in range(0, len(vcpus), width)
            ]
    return layout, demands


def _emulator_pins(
    host: Host, policy: Policy, open_cpus: dict[int, tuple[int, ...]]
) -> tuple[int, ...] | None:
    if policy.emulator_pinning == "nodes":
        return tuple(sorted({cpu for cpus in open_cpus.values() for cpu in cpus})) or None
    if isinstance(policy.emulator_pinning, str):
        return None
    online = {cpu for node in host.nodes for cpu in node.cpus}
    absent = [cpu for cpu in policy.emulator_pinning if cpu not in online]
    if absent and host.nodes:
        raise LayoutError(
            f"emulator_pinning '{format_cpuset(policy.emulator_pinning)}' names pCPU "
            f"{show_cpuset(absent)}, which the host does not have online; its pCPUs are "
            f"{show_cpuset(online)}."
        )
    return policy.emulator_pinning


def _vcpu_pins(cells: Sequence[Cell], vcpus: int) -> tuple[tuple[int, ...], ...]:
    pins: list[tuple[int, ...]] = [()] * vcpus
    for cell in cells:
        for vcpu in cell.vcpus:
            pins[vcpu] = cell.pins
    return tuple(pins)


def _pinned(layout: Layout, pins: dict[int, tuple[int, ...]]) -> Layout:
    """Return the layout with the pins that the board gave out."""
    return replace(
        layout,
        cells=tuple(
            replace(cell, pins=tuple(sorted({cpu for vcpu in cell.vcpus for cpu in pins[vcpu]})))
            for cell in layout.cells
        ),
        vcpu_pins=tuple(pins[vcpu] for vcpu in sorted(pins)),
    )
