# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CPU topology that goes with the cells of a guest: its sockets and its dies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Ids, Topology
from .._policy import AUTO, Policy
from .cores import EXCLUSIVE
from .dies import check_dies, check_support, die_cores, die_warnings, no_dies_warning
from .distribution import HIGHEST_XAPIC_ID, MOST_XAPIC_VCPUS, highest_apic_id, is_x86
from .sockets import licence_warnings, socket_cores


@dataclass(frozen=True)
class Mirrored:
    """A CPU topology, and whether its dies stand for cache domains.

    Attributes:
        topology: the CPU topology.
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

    Args:
        guest: the guest.
        arch: its architecture.
        host: its host.
        policy: how.
        backing: the host node of each cell.
        cells: the vCPUs of each cell.
        plain: its CPU topology by its cells alone, with one die a socket.
        warnings: where to say what the guest would not see, or not use.

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
    if policy.dies == "none":
        return Mirrored(_with_low_ids(plain, guest, arch, policy, per_socket, per_socket))
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
        return Mirrored(_with_low_ids(plain, guest, arch, policy, per_socket, per_socket))
    topology = _with_low_ids(plain, guest, arch, policy, per_socket, per_die)
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
    for size in range(per_socket, 0, -per_die):
        smaller = _of(plain, size, per_die)
        if plain.cores % size == 0 and highest_apic_id(smaller) <= HIGHEST_XAPIC_ID:
            return smaller
    return first


def _of(plain: Topology, per_socket: int, per_die: int) -> Topology:
    return Topology(
        sockets=plain.sockets * plain.cores // per_socket,
        dies=per_socket // per_die,
        cores=per_die,
        threads=plain.threads,
    )
