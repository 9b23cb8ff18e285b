# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest by itself: its layout, but for the pins that depend on other guests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .._cpuset import Ids, show_cpuset
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Cell, Layout
from .._policy import Policy, reserved_text
from .._size import show_size
from .books import check_alone, too_large_alone
from .caches import CacheCell, cache_cells, without_caches
from .cores import EXCLUSIVE, balanced_cpus, check_online, open_cpus
from .distribution import assign_vcpus, cpu_topology
from .limits import (
    boot_warnings,
    check_definition,
    check_emulated_threads,
    check_guest,
    check_kind,
    check_own_cells,
    check_pins,
    check_split_cores,
    crowded_cells,
    topology_warnings,
)
from .loads import load_by_layout
from .memory import check_asymmetry, distance_matrix, given_distances, memory_node, split_memory
from .nodes import (
    cell_count,
    check_own_size,
    chosen_nodes,
    leaves_cells,
    memory_size,
    resized_topology,
    vcpu_count,
)
from .pinning import CoreDemand


@dataclass(frozen=True)
class Draft:
    """A layout that lacks pins which depend on other guests, and what wants those.

    Attributes:
        demands: the guest cores; none for a guest whose pins are shared, or that has none.
        nodes: the host nodes that its vCPUs are on, in the order of its cells.
        cache_cells: the cells that want cache domains, none for other pins.
    """

    layout: Layout
    demands: tuple[CoreDemand, ...]
    nodes: tuple[Node, ...] = ()
    cache_cells: tuple[CacheCell, ...] = ()


@dataclass(frozen=True)
class _Pinnable:
    """The pCPUs of a node that are not reserved.

    Attributes:
        shared: those that the kernel balances threads over; an isolated one is for one thread.
    """

    all: Ids
    shared: Ids


class HostView:
    """A host, with what many of its guests have in common worked out once."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.eligible = host.eligible
        self._pinnable: dict[tuple[int, Ids], _Pinnable] = {}
        self._matrices: dict[tuple[tuple[int, int] | None, ...], list[Ids]] = {}

    def pinnable(self, node: Node, policy: Policy) -> _Pinnable:
        """Return the pCPUs of a node that may be pinned to."""
        key = (node.id, policy.reserved_cpus)
        if key not in self._pinnable:
            cpus = open_cpus(node, policy)
            self._pinnable[key] = _Pinnable(cpus, balanced_cpus(self.host, cpus))
        return self._pinnable[key]

    def distances(
        self, backing: Sequence[Node | None], memory_backing: Sequence[Node | None]
    ) -> list[Ids]:
        """Return the distance matrix of cells that are backed so."""
        key = tuple(
            None if node is None or bound is None else (node.id, bound.id)
            for node, bound in zip(backing, memory_backing)
        )
        if key not in self._matrices:
            self._matrices[key] = distance_matrix(backing, memory_backing)
        return self._matrices[key]


def draft_guest(guest: Guest, view: HostView, policy: Policy, placed: Ids | None) -> Draft:
    """Plan all but the pins that need to know of the other guests: exclusive ones and by cache.

    The policy has what it says of the host resolved. *placed* are the host nodes that were chosen
    for the guest, None where its policy names them.

    Raises:
        LayoutError: when the guest does not fit.
    """
    warnings: list[str] = []
    if guest.stated_kib is not None and policy.memory_kib is None:
        warnings.append(
            f"its <memory> says {show_size(guest.stated_kib)} and its cells have "
            f"{show_size(guest.memory_kib)}, which is what it gets; set memory for another size."
        )
    nodes = chosen_nodes(view.host, view.eligible, policy, placed, warnings)
    if policy.migration_group and placed is None:
        # Here, since with shapes comes all that chooses nodes, which most runs do not load.
        from .shape import backing_nodes

        backing = backing_nodes(guest, view.host, policy)
        nodes = tuple(node for node in nodes if node.id in backing)
    if leaves_cells(policy, len(nodes)):
        return _draft_without_cells(guest, view, nodes, policy, warnings)
    return _draft_with_cells(guest, view, nodes, policy, warnings)


def _draft_without_cells(
    guest: Guest, view: HostView, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]
) -> Draft:
    """Plan a guest on one node: pins and a memory binding, and nothing that its kernel sees."""
    arch = guest.arch or view.host.arch
    check_kind(guest)
    check_pins(guest, arch, policy)
    check_own_cells(guest)
    check_own_size(guest, policy)
    pinnable = _pinnable(view, nodes, policy)
    used = tuple(node.id for node in nodes)
    resized = resized_topology(guest)
    own = resized or guest.own_topology
    if own is not None:
        warnings.extend(topology_warnings(guest, arch, view.host, policy, own, nodes))
    layout = Layout(
        cells=(),
        host_nodes=(),
        topology=resized,
        vcpu_pins=(pinnable[used[0]].shared,) * guest.vcpus
        if nodes and policy.pinning == "node"
        else (),
        memory_nodes=(),
        memory_mode=policy.memory_mode if nodes else "none",
        nodeset=used,
        vcpus=vcpu_count(guest),
        memory=memory_size(guest),
        memory_kib=guest.memory_kib,
        emulator_pins=_emulator_pins(view.host, policy, pinnable),
        iothread_pins=_iothread_pins(view.host, guest, nodes, policy, pinnable),
        leaves_cells=True,
    )
    warnings.extend(_memory_warnings(guest, layout, view.host))
    layout = replace(layout, warnings=tuple(warnings))
    if policy.pinning == "cache":
        whole = Cell(0, tuple(range(guest.vcpus)), guest.memory_kib, ())
        backing = nodes[:1]
        shared = {node: cpus.shared for node, cpus in pinnable.items()}
        wanted = cache_cells([whole], backing, shared, own, policy)
        layout = replace(layout, warnings=(*warnings, *without_caches(backing, shared)))
        return Draft(layout, (), nodes, wanted)
    if policy.pinning not in EXCLUSIVE or not nodes:
        return Draft(layout, ())
    width = guest.own_threads
    starts = range(0, guest.vcpus, width)
    cores = [tuple(range(start, min(start + width, guest.vcpus))) for start in starts]
    return Draft(layout, tuple(CoreDemand(0, nodes[0], vcpus) for vcpus in cores), nodes)


def _draft_with_cells(
    guest: Guest, view: HostView, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]
) -> Draft:
    """Plan a guest whose cells mirror its nodes."""
    host = view.host
    arch = guest.arch or host.arch
    check_guest(guest, arch, policy)
    count = cell_count(guest, nodes, policy, warnings)
    backing: list[Node | None] = [
        nodes[cell % len(nodes)] if nodes else None for cell in range(count)
    ]
    bound = [None if node is None else memory_node(host, node) for node in backing]
    warnings.extend(_bound_elsewhere(backing, bound))
    assigned, plain = assign_vcpus(guest, arch, backing, policy, warnings)
    mirrored = cpu_topology(guest, arch, host, policy, backing, assigned, plain, warnings)
    topology = mirrored.topology
    memory = split_memory(guest, arch, bound, policy)
    check_definition(guest, count)
    check_split_cores(guest, topology.threads)
    check_emulated_threads(guest, arch, host, topology.threads)
    warnings.extend(topology_warnings(guest, arch, host, policy, topology, nodes))
    warnings.extend(boot_warnings(guest, arch, assigned))
    matrix = (
        view.distances(backing, bound)
        if policy.distances == "host"
        else given_distances(policy.distances, count)
    )
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
    pinnable = _pinnable(view, backing, policy)
    shares = nodes and policy.pinning == "node"
    shared = {node: cpus.shared for node, cpus in pinnable.items()}
    if policy.pinning == "cache":
        warnings.extend(without_caches(backing, shared))
    if nodes and policy.pinning in ("node", "cache"):
        warnings.extend(crowded_cells(guest, cells, backing, shared, policy))
    used = nodes[:count]
    layout = Layout(
        cells=cells,
        host_nodes=_ids(backing),
        topology=topology,
        vcpu_pins=_node_pins(guest, cells, backing, pinnable) if shares else (),
        memory_nodes=_ids(bound),
        memory_mode=policy.memory_mode if nodes else "none",
        nodeset=tuple(sorted({node.id for node in bound if node is not None})),
        vcpus=vcpu_count(guest),
        memory=memory_size(guest),
        memory_kib=guest.memory_kib,
        emulator_pins=_emulator_pins(host, policy, pinnable),
        iothread_pins=_iothread_pins(host, guest, used, policy, pinnable),
    )
    warnings.extend(_memory_warnings(guest, layout, host))
    layout = replace(layout, warnings=tuple(warnings))
    if policy.pinning == "cache":
        wanted = cache_cells(cells, backing, shared, topology, policy, mirrored.die_vcpus)
        return Draft(layout, (), used, wanted)
    if policy.pinning not in EXCLUSIVE:
        return Draft(layout, ())
    demands = _demands(cells, backing, topology.threads, policy, mirrored.die_vcpus)
    return Draft(layout, demands, used)


def _memory_warnings(guest: Guest, layout: Layout, host: Host) -> Iterator[str]:
    """Yield the nodes that the guest alone is too large for.

    Raises:
        LayoutError: when its hugepages are not there, so that it could not start.
    """
    load = load_by_layout(guest, layout, host)
    check_alone(load, host, is_bound=layout.memory_mode != "none")
    yield from too_large_alone(load, host)


def _ids(nodes: Sequence[Node | None]) -> tuple[int | None, ...]:
    return tuple(None if node is None else node.id for node in nodes)


def _bound_elsewhere(backing: Sequence[Node | None], bound: Sequence[Node | None]) -> Iterator[str]:
    """Yield which nodes have no memory for the cells that they back."""
    pairs = {
        (node.id, other.id)
        for node, other in zip(backing, bound)
        if node is not None and other is not None and node is not other
    }
    for node_id, other_id in sorted(pairs):
        yield (
            f"host node {node_id} has pCPUs and no memory; memory of the cell that it backs is "
            f"bound to host node {other_id}, the nearest that has some."
        )


def _pinnable(
    view: HostView, backing: Sequence[Node | None], policy: Policy
) -> dict[int, _Pinnable]:
    """Return the pCPUs of each backing node that may be pinned to."""
    pinnable = {node.id: view.pinnable(node, policy) for node in backing if node is not None}
    shares = policy.pinning in ("node", "cache") or "nodes" in (
        policy.emulator_pinning,
        policy.iothread_pinning,
    )
    for node_id, cpus in pinnable.items():
        if not cpus.all and (shares or policy.pinning in EXCLUSIVE):
            raise LayoutError(
                f"reserved_cpus '{reserved_text(policy)}' leaves no pCPU of host node {node_id} to "
                "pin to; reserve fewer, or exclude the node with nodes."
            )
        if not cpus.shared and policy.pinning in ("node", "cache"):
            raise LayoutError(
                f"the pCPUs of host node {node_id} that are not reserved are isolated: "
                f"{show_cpuset(cpus.all)}, and the host's scheduler does not balance vCPUs over "
                "them; set pinning to 'core' or 'cpu', or exclude the node with nodes."
            )
    return pinnable


def _demands(
    cells: Sequence[Cell],
    backing: Sequence[Node | None],
    threads: int,
    policy: Policy,
    die_vcpus: int,
) -> tuple[CoreDemand, ...]:
    """Return the guest cores that want pCPUs of their own."""
    # With round_robin the threads of a guest core sit in different cells: no host core holds them.
    width = 1 if policy.distribution == "round_robin" else threads
    return tuple(
        CoreDemand(
            cell.id,
            node,
            cell.vcpus[start : start + width],
            cell.vcpus[start] // die_vcpus if die_vcpus else None,
        )
        for cell, node in zip(cells, backing)
        if node is not None
        for start in range(0, len(cell.vcpus), width)
    )


def _node_pins(
    guest: Guest,
    cells: Sequence[Cell],
    backing: Sequence[Node | None],
    pinnable: Mapping[int, _Pinnable],
) -> tuple[Ids, ...]:
    pins: list[Ids] = [()] * guest.vcpus
    for cell, node in zip(cells, backing):
        for vcpu in cell.vcpus:
            pins[vcpu] = () if node is None else pinnable[node.id].shared
    return tuple(pins)


def _emulator_pins(host: Host, policy: Policy, pinnable: Mapping[int, _Pinnable]) -> Ids | None:
    if policy.emulator_pinning == "nodes":
        cpus = {cpu for one in pinnable.values() for cpu in one.shared or one.all}
        return tuple(sorted(cpus)) or None
    if isinstance(policy.emulator_pinning, str):
        return None
    check_online(host, "emulator_pinning", policy.emulator_pinning)
    return policy.emulator_pinning


def _iothread_pins(
    host: Host,
    guest: Guest,
    nodes: Sequence[Node],
    policy: Policy,
    pinnable: Mapping[int, _Pinnable],
) -> dict[int, Ids] | None:
    """Return the pins of iothreads; beside exclusive pins those are chosen last."""
    if policy.iothread_pinning == "nodes" and nodes:
        return {
            iothread: pinnable[node.id].shared or pinnable[node.id].all
            for turn, iothread in enumerate(guest.iothread_ids)
            for node in (nodes[turn % len(nodes)],)
        }
    if isinstance(policy.iothread_pinning, str):
        return None
    check_online(host, "iothread_pinning", policy.iothread_pinning)
    return dict.fromkeys(guest.iothread_ids, policy.iothread_pinning)
