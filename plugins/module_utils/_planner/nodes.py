# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host nodes a guest mirrors, in how many cells, and the size that it is to have.

What libvirt refuses, or cuts to size without a word, is refused here with the figures: a guest's
cells decide how much memory it has, and edits of ``<memory>`` beside them are lost.
"""

from __future__ import annotations

from dataclasses import replace

from .._cpuset import format_cpuset
from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import MemorySize, Topology, VcpuCount
from .._policy import AUTO, MAX_CELLS, Policy
from .._size import show_size


def chosen_nodes(
    host: Host,
    eligible: tuple[Node, ...],
    policy: Policy,
    placed: tuple[int, ...] | None,
    warnings: list[str],
) -> tuple[Node, ...]:
    """Return the host nodes that a guest is to mirror, in the policy's order.

    *placed* are ids of the nodes that it was given, None where nobody chose for it. A sentence for
    each node that is left out is added to *warnings*.

    Raises:
        LayoutError: when a node that was named cannot be had, or there is none at all.
    """
    if policy.nodes == AUTO and placed is None:
        raise LayoutError(
            "nodes 'auto' takes all other guests of the host into account, and they are not known "
            "here; use vnuma_partition or the filter plan_host, or name the nodes."
        )
    if not host.nodes:
        if not isinstance(policy.nodes, str):
            raise LayoutError(
                f"nodes '{format_cpuset(policy.nodes)}' is not available: the host reports no NUMA "
                "topology; set nodes to 'all' for a single cell without pins."
            )
        given = "keeps its cells" if leaves_cells(policy, 0) else "gets one cell"
        warnings.append(
            f"the host reports no NUMA topology; the guest {given}, "
            "without pins and without memory binding."
        )
        return ()
    usable = {node.id for node in eligible}
    if placed is not None:
        return tuple(node for node in eligible if node.id in placed)
    if isinstance(policy.nodes, str):
        if not eligible:
            raise LayoutError(
                "no host node has both online pCPUs and memory; bring pCPUs online on a node that "
                "has memory."
            )
        barred = [node for node in host.nodes if node.id not in usable]
        warnings.extend(f"host node {node.id} is not used: {_why_barred(node)}." for node in barred)
        return eligible
    # By name also those whose pCPUs have no memory beside them, where other nodes have some.
    with_cpus = tuple(node for node in host.nodes if node.cpus) if eligible else ()
    return named_nodes(host, with_cpus, policy.nodes, "nodes")


def leaves_cells(policy: Policy, nodes: int) -> bool:
    """Tell whether a guest on so many nodes keeps the cells, or none, that it has by itself.

    A guest that was put on one node gains nothing from a cell: pins and the memory binding do all
    there is to do, and nothing that its kernel sees changes.
    """
    return policy.nodes == AUTO and nodes <= 1 and policy.cells is None


def named_nodes(
    host: Host, usable_nodes: tuple[Node, ...], ids: tuple[int, ...], option: str
) -> tuple[Node, ...]:
    """Return the nodes that an option names.

    Raises:
        LayoutError: when one of them cannot be had.
    """
    usable = {node.id for node in usable_nodes}
    there = format_cpuset(usable) or "none"
    chosen = []
    for node_id in ids:
        node = host.node(node_id)
        if node is None:
            raise LayoutError(
                f"host node {node_id} of {option} '{format_cpuset(ids)}' does not exist; the nodes "
                f"that can be used are {there}."
            )
        if node.id not in usable:
            raise LayoutError(
                f"host node {node_id} of {option} '{format_cpuset(ids)}' cannot be used: "
                f"{_why_barred(node)}; the nodes that can be used are {there}."
            )
        chosen.append(node)
    return tuple(chosen)


def cell_count(guest: Guest, nodes: tuple[Node, ...], policy: Policy, warnings: list[str]) -> int:
    """Return how many cells a guest gets over these nodes.

    Raises:
        LayoutError: when there are more than its vCPUs can fill, or than QEMU starts.
    """
    count = policy.cells if policy.cells is not None else max(1, len(nodes))
    if count > MAX_CELLS:
        raise LayoutError(
            f"{count} cells, one per host node, are more than the {MAX_CELLS} that QEMU supports; "
            f"set cells to at most {MAX_CELLS}, or choose fewer nodes."
        )
    if not nodes and count > 1:
        raise LayoutError(
            f"cells {count} is not possible: the host reports no NUMA topology; remove cells, or "
            "set it to 1."
        )
    if guest.vcpus < count:
        plural = "s" if guest.vcpus > 1 else ""
        raise RoomError(
            f"{guest.vcpus} vCPU{plural} cannot fill {count} cells",
            f"give it at least {count} vCPUs, or reduce nodes or cells to at most {guest.vcpus}",
        )
    if nodes and count < len(nodes):
        idle = format_cpuset(node.id for node in nodes[count:])
        warnings.append(f"cells {count} leaves host nodes {idle} unused.")
    return count


def _why_barred(node: Node) -> str:
    if not node.cpus and node.memory_kib <= 0:
        return "it has neither online pCPUs nor memory"
    return "it has no memory" if node.cpus else "it has no online pCPUs"


def resized(guest: Guest, policy: Policy) -> Guest:
    """Return a guest with the size that its policy asks for.

    Raises:
        LayoutError: when something in its definition does not allow it; with both figures.
    """
    if policy.vcpus is not None and policy.vcpus != guest.vcpus:
        guest = _with_vcpus(guest, policy.vcpus)
    if policy.memory_kib is not None and policy.memory_kib != guest.memory_kib:
        guest = _with_memory(guest, policy.memory_kib)
    return guest


def vcpu_count(guest: Guest) -> VcpuCount:
    """Return how many vCPUs a guest has."""
    return VcpuCount(guest.vcpus, guest.online)


def memory_size(guest: Guest) -> MemorySize:
    """Return how much memory a guest has, memory devices included."""
    total_kib = guest.memory_kib + guest.devices_kib
    return MemorySize(total_kib, total_kib if guest.current_kib is None else guest.current_kib)


def resized_topology(guest: Guest) -> Topology | None:
    """Return the CPU topology of a guest without cells of ours, where it has to change.

    Its sockets are as large as they were, and there are more of them or fewer.

    Raises:
        LayoutError: when its vCPUs do not fill such sockets.
    """
    own = guest.own_topology
    if own is None or own.vcpus == guest.vcpus:
        return None
    per_socket = own.vcpus // own.sockets
    if guest.vcpus % per_socket:
        raise LayoutError(
            f"vcpus {guest.vcpus} does not fill the sockets of its own CPU topology, which have "
            f"{per_socket} vCPUs each; use a multiple of {per_socket}, or set cells to 1 for a CPU "
            "topology that fits."
        )
    return replace(own, sockets=guest.vcpus // per_socket)


def check_own_size(guest: Guest, policy: Policy) -> None:
    """Refuse another size for a guest that keeps cells of its own.

    Raises:
        LayoutError: with the figures of its cells.
    """
    if not guest.own_cells:
        return
    # libvirt takes cells that leave vCPUs out; a CPU topology says how many there were.
    most = 1 + max((vcpu for cell in guest.own_cells for vcpu in cell.vcpus), default=-1)
    vcpus = most if guest.own_topology is None else guest.own_topology.vcpus
    if policy.vcpus is None:
        # libvirt puts the rest into the first cell (virDomainNumaFillCPUsInNode, numa_conf.c).
        vcpus = max(vcpus, guest.vcpus) if guest.own_topology is None else vcpus
    memory_kib = sum(cell.memory_kib for cell in guest.own_cells)
    if (vcpus, memory_kib) != (guest.vcpus, guest.memory_kib):
        raise LayoutError(
            f"on one host node it keeps its own {len(guest.own_cells)} "
            f"cell{'s' if len(guest.own_cells) > 1 else ''}, for {vcpus} "
            f"vCPUs and {show_size(memory_kib)}; set cells for new ones, or leave vcpus and memory "
            "out."
        )


def _with_vcpus(guest: Guest, vcpus: int) -> Guest:
    """Return a guest with so many vCPUs at most.

    Where all were online, all are; where some were not, those that are stay, and new ones are
    offline, since that is how someone wanted it.
    """
    online = guest.online
    named = [one for one in guest.vcpu_references if max(one.vcpus) >= vcpus]
    if named:
        raise LayoutError(
            f"vcpus {vcpus} is too few: its {named[0].subject} names vCPUs "
            f"'{format_cpuset(named[0].vcpus)}'; change that with 'virsh edit', or set vcpus to at "
            f"least {max(named[0].vcpus) + 1}."
        )
    if len(online) == guest.vcpus:
        return replace(guest, vcpus=vcpus, online_vcpus=None)
    if max(online) >= vcpus:
        raise LayoutError(
            f"vcpus {vcpus} is too few: vCPUs '{format_cpuset(online)}' are online at boot; take "
            f"some offline with 'virsh setvcpus --config', or set vcpus to at least "
            f"{max(online) + 1}."
        )
    return replace(guest, vcpus=vcpus, online_vcpus=online)


def _with_memory(guest: Guest, memory_kib: int) -> Guest:
    """Return a guest whose cells share so much memory; its memory devices stay beside that.

    What it was ballooned to stays, and a guest that was not is given all of it.
    """
    before = memory_size(guest)
    total_kib = memory_kib + guest.devices_kib
    devices = f" and the {show_size(guest.devices_kib)} of its memory devices"
    together = f"{devices} are" if guest.devices_kib else " is"
    if guest.most_kib is not None and total_kib > guest.most_kib:
        raise LayoutError(
            f"memory {show_size(memory_kib)}{together} more than its <maxMemory> of "
            f"{show_size(guest.most_kib)}; raise that with 'virsh edit', or set memory to at most "
            f"{show_size(max(0, guest.most_kib - guest.devices_kib))}."
        )
    if before.current_kib >= before.total_kib:
        return replace(guest, memory_kib=memory_kib, current_kib=None)
    if before.current_kib > total_kib:
        raise LayoutError(
            f"memory {show_size(memory_kib)}{together} less than the "
            f"{show_size(before.current_kib)} of its <currentMemory>, which it is ballooned to; "
            f"lower that with 'virsh setmem --config', or set memory to at least "
            f"{show_size(before.current_kib - guest.devices_kib)}."
        )
    return replace(guest, memory_kib=memory_kib)
