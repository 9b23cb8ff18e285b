# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The size that a guest is to have: vCPUs and memory, where the policy asks for them.

What libvirt refuses, or cuts to size without a word, is refused here with the figures: a guest's
cells decide how much memory it has, and edits of ``<memory>`` beside them are lost.
"""

from __future__ import annotations

from dataclasses import replace

from .._cpuset import format_cpuset
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.layout import Ids, MemorySize, Topology, VcpuCount
from .._policy import Policy
from .._size import show_size


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
    return VcpuCount(guest.vcpus, _online(guest))


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

    Args:
        guest: with the size that it is to have.
        policy: which may ask for that.

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
            f"on one host node it has the {len(guest.own_cells)} "
            f"cell{'s' if len(guest.own_cells) > 1 else ''} of its own, for {vcpus} "
            f"vCPUs and {show_size(memory_kib)}; set cells for new ones, or leave vcpus and memory "
            "out."
        )


def _with_vcpus(guest: Guest, vcpus: int) -> Guest:
    """Return a guest with so many vCPUs at most.

    Where all were online, all are; where some were not, those that are stay, and new ones are
    offline, since that is how someone wanted it.
    """
    online = _online(guest)
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
    beside = f" and its memory devices {show_size(guest.devices_kib)}" if guest.devices_kib else ""
    if guest.most_kib is not None and total_kib > guest.most_kib:
        raise LayoutError(
            f"memory {show_size(memory_kib)}{beside} is more than its <maxMemory> of "
            f"{show_size(guest.most_kib)}; raise that with 'virsh edit', or set memory to at most "
            f"{show_size(max(0, guest.most_kib - guest.devices_kib))}."
        )
    if before.current_kib >= before.total_kib:
        return replace(guest, memory_kib=memory_kib, current_kib=None)
    if before.current_kib > total_kib:
        raise LayoutError(
            f"memory {show_size(memory_kib)}{beside} is less than the "
            f"{show_size(before.current_kib)} of its <currentMemory>, which it is ballooned to; "
            f"lower that with 'virsh setmem --config', or set memory to at least "
            f"{show_size(before.current_kib - guest.devices_kib)}."
        )
    return replace(guest, memory_kib=memory_kib)


def _online(guest: Guest) -> Ids:
    return tuple(range(guest.vcpus)) if guest.online_vcpus is None else guest.online_vcpus
