# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: host, guests and policies in, layouts out; no XML, no libvirt, no Ansible.

A layout says which vCPUs and how much memory each guest cell has, which host node backs it, what
is pinned where, how far cells are apart, and the CPU topology that goes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._pinning import (
    CoreDemand,
    Pinboard,
    exclusive_cpus,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import MAX_CELLS, Policy

# SLIT values (ACPI 6.4, 5.2.17): 10 means local, 0-9 are reserved, 255 means unreachable.
# libvirt takes 10 to 255, and 10 only on the diagonal (docs/formatdomain, "sibling").
DISTANCE_LOCAL = 10
DISTANCE_SAME_NODE = 11
DISTANCE_REMOTE = 20
DISTANCE_HIGHEST = 254

#: What libvirt aligns a cell's memory to when the guest starts (qemuDomainGetMemorySizeAlignment
#: and qemuDomainAlignMemorySizes, src/qemu/qemu_domain.c): 256 MiB on ppc64, else 1 MiB.
GRANULE_KIB = 1024
GRANULE_PPC64_KIB = 256 * 1024


@dataclass(frozen=True)
class Topology:
    """The guest's CPU topology; the product of the four is its number of vCPUs."""

    sockets: int
    dies: int
    cores: int
    threads: int


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
    if isinstance(answer, LayoutError):
        raise answer
    return answer


def plan_guests(
    guests: Sequence[tuple[Guest, Policy]], host: Host, taken: frozenset[int] = frozenset()
) -> list[Layout | LayoutError]:
    """Plan the guests of one host together, so that exclusive pins never collide.

    The answer does not depend on the order of the guests: whoever sits well on pCPUs of its own
    stays there, then the others are placed by name.

    Returns:
        For each guest, in the order given, its layout or the error that names it.
    """
    failed: dict[int, LayoutError] = {}
    drafts: dict[int, tuple[Layout, list[CoreDemand]]] = {}
    # A fleet has few sizes, and guests of one size are planned alike until pins are exclusive.
    sizes: dict[tuple[Guest, Policy], tuple[Layout, list[CoreDemand]]] = {}
    for index, (guest, policy) in enumerate(guests):
        size = (replace(guest, name="", uuid="", vcpu_pins=()), policy)
        try:
            if size not in sizes:
                sizes[size] = _plan_without_board(guest, host, policy)
            drafts[index] = sizes[size]
        except LayoutError as error:
            error.for_guest(guest.name)
            failed[index] = error
    exclusive = sorted((i for i in drafts if drafts[i][1]), key=lambda i: _order(guests[i][0]))
    placed: dict[int, Layout] = {}
    while True:
        # A guest without a plan stays where it is, so what it owns now is taken for the others.
        owned = exclusive_cpus(
            host, (pins for i in failed for _vcpu, pins in guests[i][0].vcpu_pins)
        )
        refused = _place(
            [(i, *guests[i], *drafts[i]) for i in exclusive if i not in failed],
            Pinboard(taken | owned),
            placed,
        )
        if refused is None:
            break
        index, reason = refused
        reason.for_guest(guests[index][0].name)
        failed[index] = reason
    return [
        failed[index] if index in failed else placed.get(index) or drafts[index][0]
        for index in range(len(guests))
    ]


def _place(
    waiting: Sequence[tuple[int, Guest, Policy, Layout, list[CoreDemand]]],
    board: Pinboard,
    placed: dict[int, Layout],
) -> tuple[int, LayoutError] | None:
    """Place guests with exclusive pins; return the first that does not fit, with why."""
    for index, guest, policy, _layout, demands in waiting:
        board.keep(index, guest.vcpu_pins, demands, policy)
    for index, _guest, policy, layout, demands in waiting:
        try:
            placed[index] = _pinned(layout, board.place(index, demands, policy))
        except LayoutError as error:
            return index, error
    return None


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


def _plan_without_board(
    guest: Guest, host: Host, policy: Policy
) -> tuple[Layout, list[CoreDemand]]:
    """Plan all but exclusive pins, which need to know of the other guests."""
    warnings: list[str] = []
    nodes = _chosen_nodes(host, policy, warnings)
    count = _cell_count(guest, nodes, policy, warnings)
    backing: list[Node | None] = [
        nodes[cell % len(nodes)] if nodes else None for cell in range(count)
    ]
    dealt, topology = _deal_vcpus(guest, nodes, count, policy, warnings)
    memory = _deal_memory(guest, count, policy)
    warnings.extend(_guest_warnings(guest, host, policy, dealt, topology))
    used = tuple(sorted({node.id for node in backing if node is not None}))
    if nodes and policy.memory_mode in ("strict", "restrictive"):
        _check_pools(guest, backing, memory)

    reserved = frozenset(policy.reserved_cpus)
    open_cpus = {
        node.id: tuple(cpu for cpu in node.cpus if cpu not in reserved)
        for node in backing
        if node is not None
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
    matrix = _distance_matrix(backing) if policy.distances == "host" else None
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


def _chosen_nodes(host: Host, policy: Policy, warnings: list[str]) -> tuple[Node, ...]:
    if not host.nodes:
        if policy.nodes is not None:
            raise LayoutError(
                f"nodes '{format_cpuset(policy.nodes)}' cannot be had: the host reports no NUMA "
                "topology; use nodes 'all' for a single cell without pins."
            )
        warnings.append(
            "the host reports no NUMA topology; the guest gets one cell, "
            "without pins and without memory binding."
        )
        return ()
    eligible = host.eligible
    if policy.nodes is None:
        if not eligible:
            raise LayoutError("no host node has both pCPUs and memory; there is nothing to mirror.")
        barred = [node for node in host.nodes if node not in eligible]
        warnings.extend(f"host node {node.id} is left out: {_why_barred(node)}." for node in barred)
        return eligible
    chosen = []
    for node_id in policy.nodes:
        node = host.node(node_id)
        there = format_cpuset(other.id for other in eligible) or "none"
        if node is None:
            raise LayoutError(
                f"host node {node_id} of nodes '{format_cpuset(policy.nodes)}' does not exist; "
                f"the nodes that can be used are {there}."
            )
        if node not in eligible:
            raise LayoutError(
                f"host node {node_id} of nodes '{format_cpuset(policy.nodes)}' cannot be used: "
                f"{_why_barred(node)}; the nodes that can be used are {there}."
            )
        chosen.append(node)
    return tuple(chosen)


def _why_barred(node: Node) -> str:
    if not node.cpus and node.memory_kib <= 0:
        return "it has neither online pCPUs nor memory"
    return "it has no memory" if node.cpus else "it has no online pCPUs"


def _cell_count(guest: Guest, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]) -> int:
    count = policy.cells if policy.cells is not None else max(1, len(nodes))
    if count > MAX_CELLS:
        raise LayoutError(
            f"{count} cells, one per host node, are more than the {MAX_CELLS} that QEMU starts; "
            f"set cells or nodes to at most {MAX_CELLS}."
        )
    if not nodes and count > 1:
        raise LayoutError(
            f"cells {count} cannot be had: the host reports no NUMA topology; leave cells out."
        )
    if guest.vcpus < count:
        raise LayoutError(
            f"{guest.vcpus} vCPUs cannot fill {count} cells; give it at least {count} vCPUs, "
            f"or set cells or nodes so that there are at most {guest.vcpus}."
        )
    if nodes and count < len(nodes):
        idle = format_cpuset(node.id for node in nodes[count:])
        warnings.append(f"cells {count} leaves host nodes {idle} unused.")
    return count


def _deal_vcpus(
    guest: Guest, nodes: tuple[Node, ...], count: int, policy: Policy, warnings: list[str]
) -> tuple[list[tuple[int, ...]], Topology]:
    vcpus = guest.vcpus
    host_threads = min((node.threads for node in nodes), default=1)
    if policy.remainder == "fail" and vcpus % count:
        raise LayoutError(
            f"{vcpus} vCPUs do not divide evenly over {count} cells; make it a multiple of "
            f"{count}, or set remainder to 'spread'."
        )
    if policy.distribution == "contiguous":
        return _deal_contiguous(vcpus, count, policy, host_threads)
    if policy.distribution == "interleave":
        if policy.threads not in (None, 1):
            raise LayoutError(
                f"threads {policy.threads} does not go with distribution 'interleave', where "
                "each vCPU is a socket of its own; use threads 1 or distribution 'contiguous'."
            )
        topology = Topology(sockets=vcpus, dies=1, cores=1, threads=1)
    else:
        topology = _round_robin_topology(vcpus, count, policy, host_threads)
        if topology.sockets < vcpus and count > 1:
            warnings.append(
                "distribution 'round_robin' puts the vCPUs of one guest socket in different "
                "cells: a Linux guest logs 'not on the same node' and ignores its SMT siblings; "
                "use 'contiguous' or 'interleave'."
            )
    return [tuple(range(cell, vcpus, count)) for cell in range(count)], topology


def _deal_contiguous(
    vcpus: int, count: int, policy: Policy, host_threads: int
) -> tuple[list[tuple[int, ...]], Topology]:
    threads = policy.threads
    if threads is None:
        whole = vcpus % host_threads == 0 and vcpus // host_threads >= count
        threads = host_threads if whole else 1
    if vcpus % threads:
        raise LayoutError(
            f"{vcpus} vCPUs are no multiple of threads {threads}; change one of the two, "
            "or set threads to 'auto'."
        )
    cores = vcpus // threads
    if cores < count:
        raise LayoutError(
            f"{vcpus} vCPUs with threads {threads} are {cores} cores, which cannot fill {count} "
            f"cells; give it at least {count * threads} vCPUs, or set threads to 'auto', or "
            f"cells or nodes so that there are at most {cores}."
        )
    each, larger = divmod(cores, count)
    if larger and policy.remainder == "fail":
        raise LayoutError(
            f"{cores} cores of {threads} threads do not divide evenly over {count} cells; "
            f"make the vCPUs a multiple of {count * threads}, or set remainder to 'spread'."
        )
    sizes = [each + 1] * larger + [each] * (count - larger)
    dealt: list[tuple[int, ...]] = []
    first = 0
    for size in sizes:
        dealt.append(tuple(range(first, first + size * threads)))
        first += size * threads
    # The greatest common divisor keeps every socket inside one cell.
    per_socket = reduce(gcd, sizes)
    return dealt, Topology(sockets=cores // per_socket, dies=1, cores=per_socket, threads=threads)


def _round_robin_topology(vcpus: int, count: int, policy: Policy, host_threads: int) -> Topology:
    threads = host_threads if policy.threads is None else policy.threads
    if vcpus % (count * threads):
        if policy.threads is not None:
            raise LayoutError(
                f"{vcpus} vCPUs do not make {count} sockets of threads {threads}; make them a "
                f"multiple of {count * threads}, or set threads to 'auto'."
            )
        threads = 1
    if vcpus % count:
        return Topology(sockets=vcpus, dies=1, cores=1, threads=1)
    return Topology(sockets=count, dies=1, cores=vcpus // (count * threads), threads=threads)


def _guest_warnings(
    guest: Guest, host: Host, policy: Policy, dealt: Sequence[tuple[int, ...]], topology: Topology
) -> Iterator[str]:
    """Yield what the guest's own kernel will not show as planned."""
    mode = guest.cpu_mode if policy.cpu_mode == "keep" else policy.cpu_mode
    if (
        topology.threads > 1
        and host.cpu_vendor == "AMD"
        and mode == "host-passthrough"
        and not guest.has_topoext
    ):
        # QEMU leaves topoext out of "-cpu host" unless it is named (since 3.0, no_autoenable_flags
        # in target/i386/cpu.c), and an AMD CPU without it has no threads.
        yield (
            f"its threads {topology.threads} stay hidden on this AMD host; add <feature "
            "policy='require' name='topoext'/> to its <cpu>, or set threads to 1."
        )
    if guest.online_vcpus is not None and len(guest.online_vcpus) < guest.vcpus:
        online = frozenset(guest.online_vcpus)
        empty = [cell for cell, vcpus in enumerate(dealt) if online.isdisjoint(vcpus)]
        if empty:
            yield (
                f"cells {format_cpuset(empty)} have no vCPU at boot, since {len(online)} of "
                f"{guest.vcpus} vCPUs are online; distribution 'interleave' spreads them."
            )


def _granule_kib(guest: Guest) -> tuple[int, str]:
    """Return the smallest unit of cell memory, and what it is, for sentences."""
    base = GRANULE_PPC64_KIB if guest.arch.startswith("ppc64") else GRANULE_KIB
    pages = [use.size_kib for use in guest.hugepages if use.size_kib is not None]
    # Page sizes are powers of two, so the largest is a multiple of all the others.
    largest = max(pages, default=0)
    if largest >= base:
        return largest, f"hugepage of {largest} KiB"
    return base, f"granule of {base} KiB"


def _deal_memory(guest: Guest, count: int, policy: Policy) -> list[int]:
    granule, unit_name = _granule_kib(guest)
    units, rest = divmod(guest.memory_kib, granule)
    if units < count:
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory cannot give {count} cells one {unit_name} each; "
            f"give it at least {granule * count} KiB, or use fewer cells or nodes."
        )
    if rest and guest.hugepages:
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory is no multiple of its {unit_name}; make it "
            f"{guest.memory_kib - rest} or {guest.memory_kib - rest + granule} KiB."
        )
    each, larger = divmod(units, count)
    if policy.remainder == "fail" and (larger or rest):
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory does not divide evenly over {count} cells in "
            f"granules of {granule} KiB; make it a multiple of {granule * count} KiB, "
            "or set remainder to 'spread'."
        )
    memory = [(each + (cell < larger)) * granule for cell in range(count)]
    memory[-1] += rest
    return memory


def _check_pools(guest: Guest, backing: Sequence[Node | None], memory: Sequence[int]) -> None:
    """Refuse what cannot start: hugepages bound to a node whose pool is too small for them."""
    default = next((use.size_kib for use in guest.hugepages if use.cells is None), None)
    sizes = {cell: use.size_kib for use in guest.hugepages for cell in use.cells or ()}
    needed: dict[tuple[int, int], int] = {}
    for cell, node in enumerate(backing):
        size_kib = sizes.get(cell, default)
        if size_kib is not None and node is not None and node.hugepages:
            key = (node.id, size_kib)
            needed[key] = needed.get(key, 0) + memory[cell] // size_kib
    by_id = {node.id: node for node in backing if node is not None}
    for (node_id, size_kib), pages in sorted(needed.items()):
        total = sum(pool.total for pool in by_id[node_id].hugepages if pool.size_kib == size_kib)
        if pages > total:
            raise LayoutError(
                f"host node {node_id} has {total} hugepages of {size_kib} KiB, and the guest's "
                f"memory there needs {pages}; raise the node's pool, give the guest less memory, "
                "or leave the node out with nodes."
            )


def _distance_matrix(backing: Sequence[Node | None]) -> list[tuple[int, ...]]:
    known: dict[tuple[int, int], int] = {}
    nodes = {node.id: node for node in backing if node is not None}
    for origin, node in nodes.items():
        reported = dict(node.distances)
        for target in nodes:
            value = reported.get(target, 0)
            if origin == target:
                known[origin, target] = DISTANCE_SAME_NODE
            elif value < DISTANCE_SAME_NODE:
                known[origin, target] = DISTANCE_REMOTE
            else:
                known[origin, target] = min(value, DISTANCE_HIGHEST)
    # Without topology there is one cell, whose only distance is to itself.
    return [
        tuple(
            DISTANCE_LOCAL
            if row == column or origin is None or target is None
            else known[origin.id, target.id]
            for column, target in enumerate(backing)
        )
        for row, origin in enumerate(backing)
    ]


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
            f"{format_cpuset(absent)}, which the host does not have online; its pCPUs are "
            f"{format_cpuset(online)}."
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
