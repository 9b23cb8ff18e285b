# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a guest's pins deliver the dies that it is told of.

To a guest's kernel, the cores of a die share an L3 cache, and it places threads by that.
"""

from __future__ import annotations

from .._cpuset import Ids, numbered
from .._model.domain import ManagedState
from .._model.host import Host
from .words import Drift


def die_drift(state: ManagedState, host: Host) -> list[Drift]:
    """Return which dies of a guest are not within one L3 cache of the host.

    Where the host lists no caches, nothing can be told.
    """
    split = _split_dies(state, host)
    if not split:
        return []
    dies = numbered("vCPU", "vCPUs", split[0])
    if len(split) > 1:
        dies += f" (and those of {len(split) - 1} more di{'es' if len(split) > 2 else 'e'})"
    return [
        Drift(
            "topology-pins",
            "dies",
            f"{dies} share a die inside the guest and are not pinned within one L3 cache of the "
            "host; set pinning to 'cache', 'core' or 'cpu', or remove the dies from its CPU "
            "topology.",
        )
    ]


def _split_dies(state: ManagedState, host: Host) -> list[Ids]:
    """Return the vCPUs of each die that may run beside more than one cache.

    A pCPU whose cache is not listed tells nothing, and is passed over.
    """
    topology = state.topology
    if topology is None or topology.dies < 2:
        return []
    everywhere = tuple(cpu for node in host.nodes for cpu in node.cpus)
    # QEMU numbers vCPUs by thread, core, cluster, die and socket, in this order.
    size = topology.clusters * topology.cores * topology.threads
    found = []
    for first in range(0, topology.vcpus, size):
        vcpus = tuple(range(first, first + size))
        pins = [state.vcpu_pins.get(vcpu, ()) or everywhere for vcpu in vcpus]
        domains = {host.cache_domain(cpu) for cpus in pins for cpu in cpus}
        if len(domains - {()}) > 1:
            found.append(vcpus)
    return found
