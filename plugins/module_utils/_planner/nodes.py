# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host nodes a guest mirrors, and in how many cells."""

from __future__ import annotations

from .._cpuset import format_cpuset
from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._policy import AUTO, MAX_CELLS, Policy


def chosen_nodes(
    host: Host,
    eligible: tuple[Node, ...],
    policy: Policy,
    placed: tuple[int, ...] | None,
    warnings: list[str],
) -> tuple[Node, ...]:
    """Return the host nodes that a guest is to mirror, in the policy's order.

    Args:
        host: the host.
        eligible: its nodes that have both online pCPUs and memory.
        policy: what is asked for.
        placed: ids of the nodes that it was given; None where nobody chose for it.
        warnings: takes a sentence for each node that is left out.

    Raises:
        LayoutError: when a node that was named cannot be had, or there is none at all.
    """
    if policy.nodes == AUTO and placed is None:
        raise LayoutError(
            "nodes 'auto' chooses beside all the other guests of the host, which are not known "
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

    Args:
        host: the host.
        usable_nodes: its nodes that may be named.
        ids: of those that are.
        option: for the sentence.

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
