# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pCPUs of a host node may be pinned to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .._errors import LayoutError
from .._model.host import Host, Node
from .._model.layout import Ids
from .._policy import Policy

#: Pins that give a guest pCPUs of its own.
EXCLUSIVE = ("core", "cpu")


def follows_domains(policy: Policy) -> bool:
    """Tell whether the pins of a guest keep to cache domains where they can."""
    return policy.pinning in (*EXCLUSIVE, "cache")


def on_host(policy: Policy, host: Host) -> Policy:
    """Return a policy with ``isolated`` among the reserved pCPUs as the pCPUs that it means.

    Raises:
        LayoutError: when nobody knows which they are.
    """
    if not policy.reserves_isolated:
        return policy
    if host.isolated_cpus is None:
        raise LayoutError(
            "reserved_cpus 'isolated' cannot be used: which pCPUs are isolated is read on the host "
            "itself, and is not known here; name them, or give them in host as isolated_cpus."
        )
    reserved = tuple(sorted({*policy.reserved_cpus, *host.isolated_cpus}))
    return replace(policy, reserved_cpus=reserved, reserves_isolated=False)


def open_threads(cpus: Ids, reserved: Collection[int]) -> Ids:
    """Return those of some pCPUs, such as the threads of a core, that are not reserved."""
    return tuple(cpu for cpu in cpus if cpu not in reserved) if reserved else cpus


def open_cpus(node: Node, policy: Policy) -> Ids:
    """Return the pCPUs of a node that are not reserved."""
    return open_threads(node.cpus, frozenset(policy.reserved_cpus))


def balanced_cpus(host: Host, cpus: Ids) -> Ids:
    """Return those of some pCPUs that the kernel balances threads over.

    Nothing is balanced onto an isolated pCPU, nor among several of them: threads that may run on
    all of these pile up on the first (``isolcpus=``, kernel-parameters in Linux).
    """
    return open_threads(cpus, frozenset(host.isolated_cpus or ()))


def usable_cores(node: Node, policy: Policy, threads: int) -> int:
    """Return how many cores of a node could back guest cores of so many threads."""
    width = threads if policy.pinning in EXCLUSIVE else 1
    reserved = frozenset(policy.reserved_cpus)
    return sum(len(open_threads(core, reserved)) >= width for core in node.cores)
