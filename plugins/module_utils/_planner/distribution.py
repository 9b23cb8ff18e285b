# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest's vCPUs are assigned to its cells, and the CPU topology that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import gcd

from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import Node
from .._model.layout import Ids, Topology
from .._policy import Policy
from .apportion import apportion, divides, node_weights
from .cores import usable_cores
from .machines import emulates_one_thread
from .sockets import nests

#: Highest id of an xAPIC; 255 is everyone. QEMU refuses what goes beyond ("current -smp
#: configuration requires kernel irqchip and X2APIC API support", hw/i386/x86.c), unless KVM has
#: x2APIC; libvirt wants an IOMMU with interrupt remapping too, but only over 255 vCPUs.
HIGHEST_XAPIC_ID = 254
MOST_XAPIC_VCPUS = 255


def is_x86(arch: str) -> bool:
    """Tell whether an architecture, as libvirt names it, is that of a PC."""
    return arch in ("x86_64", "i686")


def highest_apic_id(topology: Topology) -> int:
    """Return the APIC id of the last vCPU of a PC.

    Threads, cores and dies each take as many bits as their highest number needs
    (include/hw/i386/topology.h in QEMU), so that 33 cores take the room of 64.
    """
    last = 0
    for count in (topology.sockets, topology.dies, topology.cores, topology.threads):
        last = (last << (count - 1).bit_length()) + count - 1
    return last


def assign_vcpus(
    guest: Guest,
    arch: str,
    backing: Sequence[Node | None],
    policy: Policy,
    warnings: list[str],
) -> tuple[list[Ids], Topology]:
    """Assign the vCPUs to the cells, and give the CPU topology that goes with it.

    Args:
        guest: whose vCPUs they are.
        arch: its architecture.
        backing: the host node of each cell.
        policy: how.
        warnings: where to say what the guest's kernel will complain about.

    Raises:
        LayoutError: when the vCPUs cannot form what the policy asks for.
    """
    vcpus, count = guest.vcpus, len(backing)
    nodes = [node for node in backing if node is not None]
    # Where threads of every core are offline there may be three of four: guests get two.
    host_threads = 1 << min((node.threads for node in nodes), default=1).bit_length() - 1
    if emulates_one_thread(guest, arch):
        host_threads = 1
    if policy.split == "proportional" and policy.distribution != "contiguous":
        raise LayoutError(
            f"split 'proportional' conflicts with distribution '{policy.distribution}', which "
            "gives every cell as many vCPUs; set distribution to 'contiguous', or split to 'even'."
        )
    if policy.remainder == "fail" and policy.split == "even" and vcpus % count:
        raise LayoutError(
            f"{vcpus} vCPUs do not divide evenly over {count} cells; use a multiple of "
            f"{count}, or set remainder to 'spread'."
        )
    if policy.distribution == "contiguous":
        assigned, topology = _assign_contiguous(vcpus, backing, policy, host_threads)
        if is_x86(arch) and vcpus <= MOST_XAPIC_VCPUS:
            topology = _with_low_apic_ids(topology)
        return assigned, topology
    if policy.distribution == "interleave":
        if policy.threads not in (None, 1):
            raise LayoutError(
                f"threads {policy.threads} conflicts with distribution 'interleave', where each "
                "vCPU is its own socket; set threads to 1, or distribution to 'contiguous'."
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


def _assign_contiguous(
    vcpus: int, backing: Sequence[Node | None], policy: Policy, host_threads: int
) -> tuple[list[Ids], Topology]:
    threads, count = policy.threads, len(backing)
    if threads is None:
        whole = vcpus % host_threads == 0 and vcpus // host_threads >= count
        threads = host_threads if whole else 1
        sockets = policy.sockets
        if threads > 1 and isinstance(sockets, int):
            # Seen from the sockets that are asked for, whole cores may not fit either.
            weights = _weights(backing, policy, threads)
            threads = threads if _has_sockets(sockets, vcpus // threads, weights) else 1
    if vcpus % threads:
        raise LayoutError(
            f"{vcpus} vCPUs are not a multiple of threads {threads}; change either, or set threads "
            "to 'auto'."
        )
    cores = vcpus // threads
    if cores < count:
        raise RoomError(
            f"{vcpus} vCPU{'s' if vcpus > 1 else ''} with threads {threads} are {cores} "
            f"core{'s' if cores > 1 else ''}, which cannot fill {count} cells",
            f"give it at least {count * threads} vCPUs, or reduce nodes or cells to at most "
            f"{cores}",
        )
    weights = _weights(backing, policy, threads)
    if policy.remainder == "fail" and not divides(cores, weights):
        raise LayoutError(_does_not_divide(cores, threads, count, policy))
    sizes = apportion(cores, weights)
    assigned: list[Ids] = []
    first = 0
    for size in sizes:
        assigned.append(tuple(range(first, first + size * threads)))
        first += size * threads
    # The greatest common divisor keeps every socket inside one cell.
    per_socket = reduce(gcd, sizes)
    return assigned, Topology(
        sockets=cores // per_socket, dies=1, cores=per_socket, threads=threads
    )


def _has_sockets(sockets: int, cores: int, weights: Sequence[int]) -> bool:
    """Tell whether cells of these weights can have so many sockets."""
    return cores % sockets == 0 and nests(apportion(cores, weights), cores // sockets)


def _weights(backing: Sequence[Node | None], policy: Policy, threads: int) -> list[int]:
    """Return how many cores each cell's node has, shared by the cells that are on it."""
    if policy.split == "even":
        return [1] * len(backing)
    return node_weights(backing, lambda node: usable_cores(node, policy, threads))


def _does_not_divide(cores: int, threads: int, count: int, policy: Policy) -> str:
    of = f"{cores} cores of {threads} thread{'s' if threads > 1 else ''}"
    if policy.split == "proportional":
        return (
            f"{of} do not divide over {count} cells in proportion to their nodes; set remainder to "
            "'spread'."
        )
    return (
        f"{of} do not divide evenly over {count} cells; use a multiple of {count * threads} vCPUs, "
        "or set remainder to 'spread'."
    )


def _with_low_apic_ids(topology: Topology) -> Topology:
    """Return a topology of smaller sockets where large ones need ids that an xAPIC lacks.

    A socket that is a part of another one does not straddle cells either.
    """
    cores = topology.sockets * topology.cores
    for per_socket in range(topology.cores, 0, -1):
        smaller = replace(topology, sockets=cores // per_socket, cores=per_socket)
        if topology.cores % per_socket == 0 and highest_apic_id(smaller) <= HIGHEST_XAPIC_ID:
            return smaller
    return topology


def _round_robin_topology(vcpus: int, count: int, policy: Policy, host_threads: int) -> Topology:
    threads = host_threads if policy.threads is None else policy.threads
    if vcpus % (count * threads):
        if policy.threads is not None:
            raise LayoutError(
                f"{vcpus} vCPUs cannot form {count} sockets of threads {threads}; use a multiple "
                f"of {count * threads}, or set threads to 'auto'."
            )
        threads = 1
    if vcpus % count:
        return Topology(sockets=vcpus, dies=1, cores=1, threads=1)
    return Topology(sockets=count, dies=1, cores=vcpus // (count * threads), threads=threads)
