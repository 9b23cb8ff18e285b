# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one guest is split over its cells: vCPUs, CPU topology, memory, distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from math import gcd

from .._errors import LayoutError
from .._model.guest import Guest, HugepageUse
from .._model.host import Node
from .._model.layout import Ids, Topology
from .._policy import Policy

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

#: Smallest hugepage that is taken for one where the host lists no pools.
SMALLEST_HUGEPAGE_KIB = 2048

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

    Threads and cores each take as many bits as their highest number needs
    (include/hw/i386/topology.h in QEMU), so that 33 cores take the room of 64.
    """
    thread_bits = (topology.threads - 1).bit_length()
    core_bits = (topology.cores - 1).bit_length()
    last_core = (topology.sockets - 1 << core_bits) + topology.cores - 1
    return (last_core << thread_bits) + topology.threads - 1


def assign_vcpus(
    guest: Guest,
    arch: str,
    nodes: tuple[Node, ...],
    count: int,
    policy: Policy,
    warnings: list[str],
) -> tuple[list[Ids], Topology]:
    """Assign the vCPUs to the cells, and give the CPU topology that goes with it.

    Args:
        guest: whose vCPUs they are.
        arch: its architecture.
        nodes: the host nodes chosen.
        count: number of cells.
        policy: how.
        warnings: where to say what the guest's kernel will complain about.

    Raises:
        LayoutError: when the vCPUs cannot form what the policy asks for.
    """
    vcpus = guest.vcpus
    # Where threads of every core are offline there may be three of four: guests get two.
    host_threads = 1 << min((node.threads for node in nodes), default=1).bit_length() - 1
    if policy.remainder == "fail" and vcpus % count:
        raise LayoutError(
            f"{vcpus} vCPUs do not divide evenly over {count} cells; use a multiple of "
            f"{count}, or set remainder to 'spread'."
        )
    if policy.distribution == "contiguous":
        assigned, topology = _assign_contiguous(vcpus, count, policy, host_threads)
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
    vcpus: int, count: int, policy: Policy, host_threads: int
) -> tuple[list[Ids], Topology]:
    threads = policy.threads
    if threads is None:
        whole = vcpus % host_threads == 0 and vcpus // host_threads >= count
        threads = host_threads if whole else 1
    if vcpus % threads:
        raise LayoutError(
            f"{vcpus} vCPUs are not a multiple of threads {threads}; change either, or set threads "
            "to 'auto'."
        )
    cores = vcpus // threads
    if cores < count:
        raise LayoutError(
            f"{vcpus} vCPUs with threads {threads} are {cores} cores, which cannot fill {count} "
            f"cells; give it at least {count * threads} vCPUs, set threads to 'auto', or reduce "
            f"nodes or cells to at most {cores}."
        )
    each, larger = divmod(cores, count)
    if larger and policy.remainder == "fail":
        raise LayoutError(
            f"{cores} cores of {threads} threads do not divide evenly over {count} cells; "
            f"use a multiple of {count * threads} vCPUs, or set remainder to 'spread'."
        )
    sizes = [each + 1] * larger + [each] * (count - larger)
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


def granule_kib(arch: str) -> int:
    """Return what libvirt aligns a cell's memory to when it starts a guest."""
    return GRANULE_PPC64_KIB if arch.startswith("ppc64") else GRANULE_KIB


def hugepage_uses(guest: Guest, nodes: Sequence[Node | None]) -> tuple[HugepageUse, ...]:
    """Return the uses of real hugepages.

    libvirt takes the host's ordinary page too, and means no hugepages by it (since 1.2.6,
    docs/formatdomain); it is the one that is smaller than every pool.
    """
    pools = {pool.size_kib for node in nodes if node is not None for pool in node.hugepages}
    smallest = min(pools, default=SMALLEST_HUGEPAGE_KIB)
    return tuple(use for use in guest.hugepages if use.size_kib >= smallest)


def split_memory(
    guest: Guest, arch: str, backing: Sequence[Node | None], policy: Policy
) -> list[int]:
    """Split the memory over the cells in granules, and return the KiB of each.

    Args:
        guest: whose memory it is.
        arch: its architecture.
        backing: the host node of each cell.
        policy: whether it may be split unevenly.

    Raises:
        LayoutError: when it does not make what the policy asks for.
    """
    count = len(backing)
    # Page sizes are powers of two, so the largest is a multiple of all the others.
    page = max((use.size_kib for use in hugepage_uses(guest, backing)), default=0)
    granule = max(page, granule_kib(arch))
    unit_name = f"{'hugepage' if page == granule else 'granule'} of {granule} KiB"
    units, rest = divmod(guest.memory_kib, granule)
    if units < count:
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory cannot give {count} cells one {unit_name} each; "
            f"give it at least {granule * count} KiB, or use fewer cells or nodes."
        )
    if rest and page:
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory is not a multiple of its {unit_name}; set it to "
            f"{guest.memory_kib - rest} or {guest.memory_kib - rest + granule} KiB."
        )
    each, larger = divmod(units, count)
    if policy.remainder == "fail" and (larger or rest):
        raise LayoutError(
            f"{guest.memory_kib} KiB of memory does not divide evenly over {count} cells in "
            f"granules of {granule} KiB; use a multiple of {granule * count} KiB, "
            "or set remainder to 'spread'."
        )
    memory = [(each + (cell < larger)) * granule for cell in range(count)]
    memory[-1] += rest
    return memory


def check_pools(guest: Guest, backing: Sequence[Node | None], memory: Sequence[int]) -> None:
    """Refuse what cannot start: hugepages bound to a node whose pool is too small for them."""
    uses = hugepage_uses(guest, backing)
    default = next((use.size_kib for use in uses if use.cells is None), None)
    sizes = {cell: use.size_kib for use in uses for cell in use.cells or ()}
    needed: dict[tuple[int, int], int] = {}
    for cell, wanted_kib in (*enumerate(memory), *guest.dimms):
        # A DIMM of a cell that will not be there is refused by whoever edits the definition.
        node = backing[cell] if cell < len(backing) else None
        size_kib = sizes.get(cell, default)
        if size_kib is not None and node is not None and node.hugepages:
            key = (node.id, size_kib)
            needed[key] = needed.get(key, 0) + -(-wanted_kib // size_kib)
    by_id = {node.id: node for node in backing if node is not None}
    for (node_id, size_kib), pages in sorted(needed.items()):
        total = sum(pool.total for pool in by_id[node_id].hugepages if pool.size_kib == size_kib)
        if pages > total:
            raise LayoutError(
                f"host node {node_id} has {total} hugepages of {size_kib} KiB, and the guest's "
                f"memory there needs {pages}; enlarge the node's pool, reduce the guest's memory, "
                "or exclude the node with nodes."
            )


def distance_matrix(backing: Sequence[Node | None]) -> list[Ids]:
    """Return the distance from every cell to every cell: the full matrix, in rows."""
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
