# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest's vCPUs are assigned to its cells, and the CPU topology that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from math import gcd

from .._cpuset import Ids
from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Topology
from .._policy import AUTO, Policy
from .cores import EXCLUSIVE, usable_cores
from .limits import HIGHEST_XAPIC_ID, MOST_XAPIC_VCPUS, emulates_one_thread, highest_apic_id, is_x86
from .topology import (
    check_dies,
    check_support,
    die_cores,
    die_warnings,
    licence_warnings,
    nests,
    no_dies_warning,
    socket_cores,
)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split a number over cells in proportion to their weights; each cell gets at least one.

    By largest remainder: a cell gets its exact part rounded down or up, and of equal remainders the
    first cell gets more. So equal weights differ by at most one, the larger first; and no part is
    above its weight where the weights together are as much as the total, but for a cell that gets
    one because it cannot get none.

    There is at least one to split for each cell. Weights count as equal where all are 0.
    """
    if not any(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    exact = [Fraction(total * weight, whole) for weight in weights]
    parts = [max(1, int(part)) for part in exact]
    cells = range(len(parts))
    for _missing in range(total - sum(parts)):
        parts[max(cells, key=lambda cell: (exact[cell] - parts[cell], -cell))] += 1
    # Those that got their one come from whoever has most above its part.
    for _extra in range(sum(parts) - total):
        large = [cell for cell in cells if parts[cell] > 1]
        parts[max(large, key=lambda cell: (parts[cell] - exact[cell], cell))] -= 1
    return parts


def node_weights(backing: Sequence[Node | None], size: Callable[[Node], int]) -> list[int]:
    """Return what each cell's node has, shared by the cells that are on it.

    Sizes are in whole units; a cell without a node weighs 1.
    """
    cells: dict[int, int] = {}
    for node in backing:
        if node is not None:
            cells[node.id] = cells.get(node.id, 0) + 1
    return [1 if node is None else size(node) // cells[node.id] for node in backing]


def assign_vcpus(
    guest: Guest,
    arch: str,
    backing: Sequence[Node | None],
    policy: Policy,
    warnings: list[str],
) -> tuple[list[Ids], Topology]:
    """Assign the vCPUs to the cells, and give the CPU topology that goes with it.

    What the guest's kernel will complain about is added to *warnings*.

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
    if policy.split == "equal" and vcpus % count:
        raise LayoutError(
            f"{vcpus} vCPUs do not divide evenly over {count} cells; use a multiple of "
            f"{count}, or set split to 'even'."
        )
    if policy.distribution == "contiguous":
        assigned, topology = _assign_contiguous(vcpus, backing, policy, host_threads)
        if is_x86(arch) and vcpus <= MOST_XAPIC_VCPUS:
            topology = _low(topology, range(topology.cores, 0, -1)) or topology
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
    if policy.split == "equal" and cores % count:
        raise LayoutError(
            f"{cores} cores of {threads} thread{'s' if threads > 1 else ''} do not divide evenly "
            f"over {count} cells; use a multiple of {count * threads} vCPUs, or set split to "
            "'even'."
        )
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
    if policy.split != "proportional":
        return [1] * len(backing)
    return node_weights(backing, lambda node: usable_cores(node, policy, threads))


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


@dataclass(frozen=True)
class Mirrored:
    """A CPU topology, and whether its dies stand for cache domains.

    Attributes:
        die_vcpus: vCPUs of each die that is to be pinned within one cache domain, 0 where dies
            stand for none.
    """

    topology: Topology
    die_vcpus: int = 0


def cpu_topology(
    guest: Guest,
    arch: str,
    host: Host,
    policy: Policy,
    backing: Sequence[Node | None],
    cells: Sequence[Ids],
    plain: Topology,
    warnings: list[str],
) -> Mirrored:
    """Return the CPU topology of a guest, with the sockets and dies that its policy asks for.

    *plain* is its CPU topology by its cells alone, with one die a socket. What the guest would not
    see, or not use, is added to *warnings*.

    Raises:
        LayoutError: when the guest cannot have what the policy asks for.
    """
    if policy.dies == "host":
        check_dies(policy)
    if policy.distribution != "contiguous":
        _check_no_count(policy)
        mirrored = Mirrored(plain)
    elif not is_x86(arch or "x86_64") and policy.sockets == AUTO and policy.dies == "none":
        mirrored = Mirrored(plain)
    else:
        mirrored = _mirrored(guest, arch, host, policy, backing, cells, plain, warnings)
    warnings.extend(die_warnings(guest, host, policy, mirrored.topology))
    warnings.extend(licence_warnings(guest, policy, mirrored.topology, cells))
    return mirrored


def _check_no_count(policy: Policy) -> None:
    if isinstance(policy.sockets, int):
        raise LayoutError(
            f"sockets {policy.sockets} conflicts with distribution '{policy.distribution}', which "
            "has sockets of its own; set sockets to 'auto', or distribution to 'contiguous'."
        )


def _mirrored(
    guest: Guest,
    arch: str,
    host: Host,
    policy: Policy,
    backing: Sequence[Node | None],
    cells: Sequence[Ids],
    plain: Topology,
    warnings: list[str],
) -> Mirrored:
    threads = plain.threads
    sizes = [len(vcpus) // threads for vcpus in cells]
    per_socket = socket_cores(guest, host, policy, backing, cells, plain)
    per_die = 0
    if policy.dies != "none":
        pinnable = policy
        if policy.pinning not in EXCLUSIVE:
            # Nothing is shared on an isolated pCPU.
            closed = {*policy.reserved_cpus, *(host.isolated_cpus or ())}
            pinnable = replace(policy, reserved_cpus=tuple(sorted(closed)))
        per_die = die_cores(sizes, gcd(per_socket, *sizes), backing, pinnable, threads)
        if not per_die:
            warnings.append(no_dies_warning(sizes, backing, pinnable, threads))
            lists_caches = all(node is not None and node.cache_domains for node in backing)
            if lists_caches and not isinstance(policy.sockets, int):
                # One die for several cells would tell the guest of a cache that spans nodes.
                return Mirrored(plain)
    topology = _with_low_ids(plain, guest, arch, policy, per_socket, per_die or per_socket)
    if topology.dies > 1:
        check_support(guest, arch, host)
    return Mirrored(topology, per_die * threads)


def _with_low_ids(
    plain: Topology, guest: Guest, arch: str, policy: Policy, per_socket: int, per_die: int
) -> Topology:
    """Return a topology of such sockets and dies, of smaller sockets where an xAPIC asks for it."""
    first = _of(plain, per_socket, per_die)
    fits = not is_x86(arch) or guest.vcpus > MOST_XAPIC_VCPUS
    if fits or isinstance(policy.sockets, int) or highest_apic_id(first) <= HIGHEST_XAPIC_ID:
        return first
    if per_die == per_socket:
        return plain
    return _low(plain, range(per_socket, 0, -per_die), per_die) or first


def _low(plain: Topology, sizes: Iterable[int], per_die: int = 0) -> Topology | None:
    """Return the first topology, of sockets of these cores, whose ids an xAPIC has.

    A socket that is a part of another one does not straddle cells either.
    """
    smaller = (_of(plain, size, per_die or size) for size in sizes if plain.cores % size == 0)
    return next((one for one in smaller if highest_apic_id(one) <= HIGHEST_XAPIC_ID), None)


def _of(plain: Topology, per_socket: int, per_die: int) -> Topology:
    return Topology(
        sockets=plain.sockets * plain.cores // per_socket,
        dies=per_socket // per_die,
        cores=per_die,
        threads=plain.threads,
    )
