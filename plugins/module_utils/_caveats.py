# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's own kernel will not show as it was planned; figures only, no XML, no libvirt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._dealing import Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import Policy


def guest_warnings(
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
