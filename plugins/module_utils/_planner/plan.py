# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: host, guests and policies in, layouts out; no XML, no libvirt, no Ansible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .._cpuset import format_cpuset, show_cpuset
from .._errors import LayoutError, VnumaError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Cell, Ids, Layout
from .._policy import Policy
from .distribution import assign_vcpus, check_pools, distance_matrix, split_memory
from .limits import (
    boot_warnings,
    check_asymmetry,
    check_definition,
    check_guest,
    check_kind,
    check_own_cells,
    check_split_cores,
    memory_warnings,
    topology_warnings,
)
from .nodes import cell_count, chosen_nodes, leaves_cells
from .pinning import EXCLUSIVE, CoreDemand, CpuAllocator, exclusive_cpus


@dataclass(frozen=True)
class _Draft:
    """A layout that lacks exclusive pins, and the guest cores that want them."""

    layout: Layout
    demands: tuple[CoreDemand, ...]


def plan(guest: Guest, host: Host, policy: Policy, in_use: frozenset[int] = frozenset()) -> Layout:
    """Plan one guest.

    Args:
        guest: what it has been given.
        host: the topology to mirror.
        policy: how.
        in_use: pCPUs that other guests own; they count for ``pinning: core`` and ``cpu`` only.

    Raises:
        LayoutError: when the guest does not fit; the sentence has the figures and the remedy.
    """
    (answer,) = plan_guests([(guest, policy)], host, in_use)
    if isinstance(answer, VnumaError):
        raise answer
    return answer


def plan_guests(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    in_use: frozenset[int] = frozenset(),
    placed: Mapping[int, Ids] | None = None,
) -> list[Layout | VnumaError]:
    """Plan the guests of one host together, so that exclusive pins never collide.

    The answer does not depend on the order of the guests: a guest whose pins are right already
    stays there, then the others get theirs by name.

    Args:
        guests: the guests, and how each is to be planned.
        host: the topology to mirror.
        in_use: pCPUs that other guests own.
        placed: host nodes of the guests whose policy has them chosen, by their index.

    Returns:
        For each guest, in the order given, its layout or the error that names it.
    """
    view = _HostView(host)
    chosen = placed or {}
    answers: dict[int, Layout | VnumaError] = {}
    drafts: dict[int, _Draft] = {}
    # A fleet has few sizes, and guests of one size are planned alike until pins are exclusive.
    sizes: dict[tuple[Guest, Policy, Ids | None], _Draft] = {}
    for index, (guest, policy) in enumerate(guests):
        nodes = chosen.get(index)
        size = (replace(guest, name="", uuid="", vcpu_pins=()), policy, nodes)
        try:
            if size not in sizes:
                sizes[size] = _draft(guest, view, policy, nodes)
        except VnumaError as error:
            answers[index] = error.for_guest(guest.name)
        else:
            drafts[index] = sizes[size]
            answers[index] = sizes[size].layout
    if any(draft.demands for draft in drafts.values()):
        _pin_exclusively(guests, host, in_use, drafts, answers)
    return [answers[index] for index in range(len(guests))]


def _pin_exclusively(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    in_use: frozenset[int],
    drafts: Mapping[int, _Draft],
    answers: dict[int, Layout | VnumaError],
) -> None:
    """Give guests their exclusive pins, and put the result in *answers*.

    A guest that cannot be planned stays where it is, so what it owns now is in use for the others.
    Where someone was given that before it was known, all is done over without it.
    """
    waiting = sorted(
        (index for index, draft in drafts.items() if draft.demands),
        key=lambda index: (guests[index][0].name, guests[index][0].uuid),
    )
    owned = {
        index: exclusive_cpus(host, (pins for _vcpu, pins in guest.vcpu_pins))
        for index, (guest, _policy) in enumerate(guests)
        if index in waiting or index not in drafts
    }
    while True:
        staying = [index for index in owned if isinstance(answers[index], VnumaError)]
        allocator = CpuAllocator(in_use.union(*(owned[index] for index in staying)))
        moving = [index for index in waiting if index not in staying]
        for index in moving:
            guest, policy = guests[index]
            allocator.reserve_current(index, guest.vcpu_pins, drafts[index].demands, policy)
        for index in moving:
            guest, policy = guests[index]
            try:
                pins = allocator.allocate(index, drafts[index].demands, policy)
            except LayoutError as error:
                answers[index] = error.for_guest(guest.name)
                if not allocator.hold(index, owned[index]):
                    break
            else:
                vcpu_pins = tuple(pins[vcpu] for vcpu in sorted(pins))
                answers[index] = replace(drafts[index].layout, vcpu_pins=vcpu_pins)
        else:
            return


class _HostView:
    """A host, with what many of its guests have in common worked out once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.eligible = host.eligible
        self._open: dict[tuple[int, Ids], Ids] = {}
        self._matrices: dict[tuple[int | None, ...], list[Ids]] = {}

    def open_cpus(self, node: Node, reserved: Ids) -> Ids:
        """Return the online pCPUs of a node that are not reserved."""
        if (node.id, reserved) not in self._open:
            barred = frozenset(reserved)
            self._open[node.id, reserved] = tuple(cpu for cpu in node.cpus if cpu not in barred)
        return self._open[node.id, reserved]

    def distances(self, backing: Sequence[Node | None]) -> list[Ids]:
        """Return the distance matrix of cells that are backed so."""
        key = tuple(None if node is None else node.id for node in backing)
        if key not in self._matrices:
            self._matrices[key] = distance_matrix(backing)
        return self._matrices[key]


def _draft(guest: Guest, view: _HostView, policy: Policy, placed: Ids | None) -> _Draft:
    """Plan all but exclusive pins, which need to know of the other guests."""
    warnings: list[str] = []
    nodes = chosen_nodes(view.host, view.eligible, policy, placed, warnings)
    if leaves_cells(policy, len(nodes)):
        return _draft_without_cells(guest, view, nodes, policy, warnings)
    return _draft_with_cells(guest, view, nodes, policy, warnings)


def _draft_without_cells(
    guest: Guest, view: _HostView, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]
) -> _Draft:
    """Plan a guest on one node: pins and a memory binding, and nothing that its kernel sees."""
    check_kind(guest)
    check_own_cells(guest)
    open_cpus = _open_cpus(view, nodes, policy)
    used = tuple(node.id for node in nodes)
    if nodes and policy.memory_mode in ("strict", "restrictive"):
        warnings.extend(memory_warnings(nodes, [guest.memory_kib]))
    layout = Layout(
        cells=(),
        host_nodes=(),
        topology=None,
        vcpu_pins=(open_cpus[used[0]],) * guest.vcpus if nodes and policy.pinning == "node" else (),
        memory_mode=policy.memory_mode if nodes else "none",
        nodeset=used,
        emulator_pins=_emulator_pins(view.host, policy, open_cpus),
        iothread_pins=dict.fromkeys(guest.iothread_ids, open_cpus[used[0]])
        if policy.iothread_pinning == "nodes" and nodes
        else None,
        leaves_cells=True,
        warnings=tuple(warnings),
    )
    if policy.pinning not in EXCLUSIVE or not nodes:
        return _Draft(layout, ())
    width = guest.own_threads
    starts = range(0, guest.vcpus, width)
    cores = [tuple(range(start, min(start + width, guest.vcpus))) for start in starts]
    return _Draft(layout, tuple(CoreDemand(nodes[0], vcpus) for vcpus in cores))


def _draft_with_cells(
    guest: Guest, view: _HostView, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]
) -> _Draft:
    """Plan a guest whose cells mirror its nodes."""
    host = view.host
    arch = guest.arch or host.arch
    check_guest(guest, arch, policy)
    count = cell_count(guest, nodes, policy, warnings)
    backing: list[Node | None] = [
        nodes[cell % len(nodes)] if nodes else None for cell in range(count)
    ]
    assigned, topology = assign_vcpus(guest, arch, nodes, count, policy, warnings)
    memory = split_memory(guest, arch, backing, policy)
    check_definition(guest, count)
    check_split_cores(guest, topology.threads)
    if nodes and policy.memory_mode in ("strict", "restrictive"):
        check_pools(guest, backing, memory)
        warnings.extend(memory_warnings(backing, memory))
    warnings.extend(topology_warnings(guest, arch, host, policy, topology, nodes))
    warnings.extend(boot_warnings(guest, arch, assigned))
    matrix = view.distances(backing) if policy.distances == "host" else None
    if matrix is not None:
        check_asymmetry(arch, matrix)
    cells = tuple(
        Cell(
            id=cell,
            vcpus=assigned[cell],
            memory_kib=memory[cell],
            distances=() if matrix is None else matrix[cell],
            memory_access=guest.memory_access,
            discard=guest.discard,
        )
        for cell in range(count)
    )
    used = tuple(sorted({node.id for node in backing if node is not None}))
    open_cpus = _open_cpus(view, backing, policy)
    layout = Layout(
        cells=cells,
        host_nodes=tuple(None if node is None else node.id for node in backing),
        topology=topology,
        vcpu_pins=_node_pins(guest, cells, backing, open_cpus)
        if nodes and policy.pinning == "node"
        else (),
        memory_mode=policy.memory_mode if nodes else "none",
        nodeset=used,
        emulator_pins=_emulator_pins(host, policy, open_cpus),
        iothread_pins={
            iothread: open_cpus[used[turn % len(used)]]
            for turn, iothread in enumerate(guest.iothread_ids)
        }
        if policy.iothread_pinning == "nodes" and nodes
        else None,
        warnings=tuple(warnings),
    )
    exclusive = policy.pinning in EXCLUSIVE
    return _Draft(layout, _demands(cells, backing, topology.threads, policy) if exclusive else ())


def _open_cpus(view: _HostView, backing: Sequence[Node | None], policy: Policy) -> dict[int, Ids]:
    """Return the pCPUs of each backing node that may be pinned to."""
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
                f"node {node_id} to pin to; reserve fewer, or exclude the node with nodes."
            )
    return open_cpus


def _demands(
    cells: Sequence[Cell], backing: Sequence[Node | None], threads: int, policy: Policy
) -> tuple[CoreDemand, ...]:
    """Return the guest cores that want pCPUs of their own."""
    # With round_robin the threads of a guest core sit in different cells: no host core holds them.
    width = 1 if policy.distribution == "round_robin" else threads
    return tuple(
        CoreDemand(node, cell.vcpus[start : start + width])
        for cell, node in zip(cells, backing)
        if node is not None
        for start in range(0, len(cell.vcpus), width)
    )


def _node_pins(
    guest: Guest,
    cells: Sequence[Cell],
    backing: Sequence[Node | None],
    open_cpus: Mapping[int, Ids],
) -> tuple[Ids, ...]:
    pins: list[Ids] = [()] * guest.vcpus
    for cell, node in zip(cells, backing):
        for vcpu in cell.vcpus:
            pins[vcpu] = () if node is None else open_cpus[node.id]
    return tuple(pins)


def _emulator_pins(host: Host, policy: Policy, open_cpus: Mapping[int, Ids]) -> Ids | None:
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
