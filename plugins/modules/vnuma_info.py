#!/usr/bin/python
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tell what is really in effect for the guests of a host, and what has drifted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vnuma_info
short_description: Report the NUMA placement of libvirt guests and what has drifted
version_added: 1.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - For each guest of a host, returns the layout that was planned for it, the one that it is defined
    with, the one that it runs with, the pCPUs that its vCPUs can run on, and the host nodes that
    its memory is on.
  - The only B(basic option) is O(guests). All others are B(advanced).
  - Compares them, and says in one sentence for each difference what differs and what to do.
  - One call handles every guest of a host, partitioned or not, persistent or transient. Changes
    nothing, and works over a read-only connection.
extends_documentation_fragment:
  - kvm.vnuma.attributes
  - kvm.vnuma.attributes.action_group
  - kvm.vnuma.connection
  - kvm.vnuma.state
attributes:
  check_mode:
    support: full
    details: [Never changes anything.]
  diff_mode:
    support: none
    details: [Never changes anything.]
options:
  guests:
    description:
      - Names, UUIDs or shell patterns such as V(db*). By default every guest of the host.
      - A name that matches nothing is an error, a pattern that matches nothing a warning.
    type: list
    elements: str
  measure_memory:
    description:
      - Whether to determine where the memory of running guests is. The kernel walks through every
        page that a guest has touched, which takes about 15 ms for each GiB of ordinary pages, and
        next to nothing for hugepages.
    type: bool
    default: true
notes:
  - The module can tell where memory is only on the hypervisor host itself, as a user who may read
    C(/proc/PID/numa_maps) of the QEMU processes, which is root for C(qemu:///system). Otherwise it
    is null and RV(guests[].notes) says why. Everything else works over a remote O(uri) too.
seealso:
  - module: kvm.vnuma.vnuma_partition
  - module: kvm.vnuma.vnuma_restart
  - name: numa_maps
    description: What the kernel tells of a process's memory by node.
    link: https://man7.org/linux/man-pages/man5/proc_pid_numa_maps.5.html
"""

EXAMPLES = r"""
- name: Look at every guest of the host
  kvm.vnuma.vnuma_info:
  register: vnuma

- name: Fail if anything has drifted
  ansible.builtin.assert:
    that: vnuma.drifted | length == 0
    fail_msg: >-
      {{ vnuma.guests | selectattr('drift') | items2dict('name', 'drift') | to_nice_yaml }}

- name: Look at the databases, without walking through their memory
  kvm.vnuma.vnuma_info:
    guests: [db*]
    measure_memory: false
"""

RETURN = r"""
guests:
  description: One entry for every guest that was looked at, by name.
  returned: always, unless the task failed as a whole
  type: list
  elements: dict
  contains:
    name:
      description: Name of the guest.
      type: str
      sample: anuma
    uuid:
      description: UUID of the guest.
      type: str
      sample: 3f439f5f-1156-4d48-9491-945a2c0abc6d
    state:
      description: V(running), V(paused), V(suspended), V(shutting_down), V(crashed) or V(off).
      type: str
      sample: running
    transient:
      description: Whether it has no persistent definition.
      type: bool
    partitioned:
      description: Whether this collection partitioned it, by the record in its definition.
      type: bool
    policy:
      description:
        - The options of its last partition that differ from their defaults, as text; null if it
          was never partitioned.
      type: dict
      sample: {"pinning": "core"}
    planned:
      description:
        - The layout that RV(guests[].policy) gives on the host as it is now, in the shape of
          RV(kvm.vnuma.vnuma_partition#module:guests[].layout); null if it was never partitioned,
          or if there is no such layout any more.
      type: dict
    persistent:
      description:
        - The layout of its persistent definition, in the same shape; null for a transient guest.
        - What a definition leaves open is null here, C(topology) and the C(host_node) of a cell
          whose memory and vCPUs are not held to a single node among it. C(memory_mode) is V(mixed)
          if the cells differ in it. C(topology) has C(clusters) too (of a die, with the cores in
          them) if there are several, which no plan has.
      type: dict
    live:
      description: The layout that it runs with, in the same shape; null while it is off.
      type: dict
    actual:
      description: Where its threads and memory are; null while it is off.
      type: dict
      contains:
        pid:
          description: Its QEMU process; null if that is not on the machine that the module runs on.
          type: int
        vcpus:
          description:
            - The pCPUs that the kernel lets the thread of each vCPU run on, as a cpuset by vCPU.
              Null if the hypervisor's driver does not report it.
          type: dict
          sample: {"0": "0-14,120-134", "1": "0-14,120-134"}
        cells:
          description:
            - Where the memory of each cell is; null if that cannot be determined, or
              O(measure_memory=false).
            - A guest without cells has one entry, for all of its memory.
          type: list
          elements: dict
          contains:
            id:
              description: The cell's id; null for a guest without cells.
              type: int
            nodes:
              description:
                - Host nodes where its memory is local, as a nodeset. They are those that it is
                  bound to; if it is not bound, those that its vCPUs are pinned to; empty if they
                  are not pinned.
              type: str
              sample: "0"
            kib_by_node:
              description:
                - KiB on each host node, by its id. Memory that the guest has never touched is on
                  none. Null if the cell's memory cannot be distinguished from the rest of the
                  process.
              type: dict
              sample: {"0": 8388608}
            resident_kib:
              description: The sum of RV(guests[].actual.cells[].kib_by_node).
              type: int
            local_share:
              description:
                - The part of it that is local, from V(0) to V(1), rounded down to four digits. Null
                  if nothing is resident, or no host node is local to it.
              type: float
              sample: 1.0
    drift:
      description: What differs, one entry for each difference; empty if all is as planned.
      type: list
      elements: dict
      contains:
        between:
          description:
            - V(planned-persistent) if it is not defined as planned (V(planned-live) for a transient
              guest), V(persistent-live) if it does not run as defined, V(persistent-saved) if its
              managed-save image would bring back another layout, V(live-actual) if its threads or
              its memory are not where its running layout has them, V(topology-pins) if its pins do
              not deliver what its CPU topology tells its kernel.
          type: str
          sample: live-actual
        what:
          description:
            - V(cells), V(topology), V(distances), V(vcpu_pins), V(emulator_pins),
              V(iothread_pins), V(memory_binding), V(vcpu_placement); V(devices) if passed-through
              PCI devices are on another cell than they should be, V(memory) for pages on the wrong
              host node, V(plan) if its options no longer give a valid layout, V(restart)
              if a restart was interrupted, V(dies) if vCPUs that share a die inside may run on more
              than one L3 cache of the host.
          type: str
          sample: vcpu_pins
        msg:
          description: What differs, and what to do.
          type: str
          sample: vCPU 3 is pinned to 0-15 in the running guest and pinned to 0-3 as defined; run
            vnuma_partition, which pins it while it runs.
    restart_required:
      description:
        - Whether it runs with another layout than it is defined with, or is off in the middle of a
          restart.
      type: bool
    devices:
      description: Its passed-through PCI devices, as it runs, or is defined if it is off.
      type: list
      elements: dict
      contains:
        device:
          description: Its address on the host.
          type: str
          sample: "0000:3b:00.0"
        host_node:
          description: The host node that it is on; null if the host does not say.
          type: int
        root_complex:
          description: The root complex that it is under; null if the host does not say.
          type: str
          sample: pci0000:3a
        cell:
          description: The cell that the guest's kernel is told; null for none.
          type: int
    notes:
      description: What could not be determined, and why.
      type: list
      elements: str
drifted:
  description: Names of the guests with any RV(guests[].drift).
  returned: always, unless the task failed as a whole
  type: list
  elements: str
  sample: [anuma]
restart_required:
  description: Names of the guests that wait for a restart.
  returned: always, unless the task failed as a whole
  type: list
  elements: str
  sample: [anuma]
ledger:
  description:
    - What all guests of the host take of each node by their definitions, as
      RV(kvm.vnuma.vnuma_partition#module:ledger).
  returned: always, unless the task failed as a whole
  type: dict
  contains:
    nodes:
      description:
        - One entry for each host node with pCPUs and memory, with C(node), C(cores),
          C(exclusive_cores), C(shared_cores), C(memory_kib), C(bound_kib), C(hugepages) and
          C(guests).
      type: list
      elements: dict
    floating:
      description: Guests without pins and binding, which are charged to all nodes by size.
      type: list
      elements: str
rebalance:
  description:
    - What a fresh plan of the guests with C(nodes=auto) would bring, see
      O(kvm.vnuma.vnuma_partition#module:rebalance).
  returned: always, unless the task failed as a whole
  type: dict
  contains:
    moves:
      description: Names of the guests that it would move.
      type: list
      elements: str
    gain:
      description: What that would bring, as a sentence; empty if it would bring nothing.
      type: str
errors:
  description: What could not be determined, guest by guest.
  returned: failure, unless the task failed as a whole
  type: list
  elements: dict
  contains:
    name:
      description: Name of the guest, or the name that was given.
      type: str
    msg:
      description: What is wrong, and what to do.
      type: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvm.vnuma.plugins.module_utils._module.common import run
from ansible_collections.kvm.vnuma.plugins.module_utils._module.info import info


def main() -> None:
    """Run the module."""
    spec: dict[str, Any] = {
        "uri": {"type": "str", "default": "qemu:///system"},
        "daemon_timeout": {"type": "float", "default": 60},
        "guests": {"type": "list", "elements": "str"},
        "measure_memory": {"type": "bool", "default": True},
        "state_dir": {"type": "path"},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), info)


if __name__ == "__main__":
    main()
