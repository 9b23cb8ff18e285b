# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which guests Nova's own code puts on a host, in the order of their arrival; for part_nova.

Runs in an environment of its own that has ``nova``. Reads the instances of nova_case.py as JSON,
and prints how many guests of each were placed. Guests have dedicated CPUs, and hosts are packed:
``packing_host_numa_cells_allocation_strategy``.
"""

from __future__ import annotations

import json
import logging
import sys
import uuid
from typing import Any

from nova import conf, objects
from nova.virt import hardware

_MIB = 1024
#: Every guest's: two numbers that say that nothing is overcommitted.
_LIMITS: dict[str, float] = {"cpu_allocation_ratio": 1.0, "ram_allocation_ratio": 1.0}


def host(given: dict[str, Any]) -> Any:
    """Return a host as Nova keeps it; what is reserved is not in ``cpu_dedicated_set``."""
    reserved, pinned = set(given["reserved"]), set(given["pinned"])
    cells = []
    for number, cores in enumerate(given["cores"]):
        cpus = {cpu for core in cores for cpu in core} - reserved
        cells.append(
            objects.NUMACell(
                id=number,
                cpuset=set(),
                pcpuset=cpus,
                memory=given["memory_gib"] * _MIB,
                cpu_usage=0,
                memory_usage=0,
                pinned_cpus=cpus & pinned,
                siblings=[set(core) - reserved for core in cores if set(core) - reserved],
                # libvirt always names the ordinary page, of 4 KiB.
                mempages=[
                    objects.NUMAPagesTopology(
                        size_kb=4, total=given["memory_gib"] * _MIB << 8, used=0
                    )
                ],
                socket=number,
            )
        )
    return objects.NUMATopology(cells=cells)


def instance(guest: dict[str, Any]) -> Any:
    """Return a guest as Nova keeps it: a cell for each node that it needs."""
    cells, first = [], 0
    for number in range(guest["nodes"]):
        topology = None
        if guest["threads"]:
            topology = objects.VirtCPUTopology(
                sockets=1, cores=guest["vcpus"] // guest["threads"], threads=guest["threads"]
            )
        cells.append(
            objects.InstanceNUMACell(
                id=number,
                cpuset=set(),
                pcpuset=set(range(first, first + guest["vcpus"])),
                memory=guest["memory_gib"] * _MIB,
                pagesize=None,
                cpu_topology=topology,
                cpu_policy="dedicated",
                cpu_thread_policy=None,
            )
        )
        first += guest["vcpus"]
    return objects.InstanceNUMATopology(instance_uuid=str(uuid.uuid4()), cells=cells)


def placed(given: dict[str, Any]) -> int:
    """Return how many guests found a place."""
    there, found = host(given), 0
    limits = objects.NUMATopologyLimits(**_LIMITS)
    for guest in given["guests"]:
        fitted = hardware.numa_fit_instance_to_host(there, instance(guest), {}, limits)
        if fitted is not None:
            there = hardware.numa_usage_from_instance_numa(there, fitted)
            found += 1
    return found


def main() -> None:
    """Place, and print."""
    logging.disable(logging.CRITICAL)
    conf.CONF([], project="nova", default_config_files=[])
    objects.register_all()
    conf.CONF.set_override("packing_host_numa_cells_allocation_strategy", True, "compute")
    json.dump([placed(given) for given in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
