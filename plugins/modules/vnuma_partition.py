#!/usr/bin/python
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Partition libvirt guests so that each mirrors the NUMA topology of its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vnuma_partition
short_description: Let libvirt guests mirror the NUMA topology of their host
version_added: 0.1.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Splits the vCPUs and the memory of each guest evenly over guest NUMA cells, pins every vCPU to
    the pCPUs of its host node, binds every cell's memory there, copies the distances between the
    nodes, and makes that the guest's persistent definition.
  - B(Basic options) are O(guests), O(state), O(nodes), O(pinning), O(reserved_cpus),
    O(memory_mode), O(vcpus), O(memory) and O(cpu_overcommit). Most plays need no other.
  - B(Common options) are O(device_locality), O(threads), O(dies), O(sockets), O(split),
    O(migration_group), O(emulator_pinning) and O(iothread_pinning). All others are B(advanced).
  - One call handles every guest of a host. A guest that cannot be partitioned is not changed, and
    the error names it. The others are handled and reported, and the task fails at the end.
  - Changes only C(vcpu@placement), C(cputune/vcpupin), C(numatune/memory), C(numatune/memnode),
    C(cpu/topology) and C(cpu/numa). If an option asks for it, also C(cputune/emulatorpin),
    C(cputune/iothreadpin), C(vcpu), C(vcpus), C(memory) and C(currentMemory); and with
    O(devices=host) PCI controllers that it adds, and the PCI addresses of passed-through devices. A
    record in the guest's C(<metadata>) keeps their content from before the first partition, and
    O(state=absent) restores it.
  - Never starts, stops or restarts a guest. The layout of a running guest changes at its next cold
    start; RV(restart_required) names the guests that wait for it. If only pins differ, the module
    changes them in the running guest too, and no restart is needed.
extends_documentation_fragment:
  - kvm.vnuma.attributes
  - kvm.vnuma.attributes.action_group
  - kvm.vnuma.connection
  - kvm.vnuma.policy
  - kvm.vnuma.policy.guests
  - kvm.vnuma.policy.topologies
  - kvm.vnuma.state
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: [Shows the managed elements alone; the rest of a definition may hold passwords.]
options:
  managed_save:
    description:
      - What to do with a guest that is off and has a managed-save image, which would restore its
        old layout at the next start. V(refuse) fails without changing the guest. V(drop) discards
        the image; what the guest had in memory is then lost.
    type: str
    choices: [refuse, drop]
    default: refuse
  rebalance:
    description:
      - With O(nodes=auto) a guest keeps its nodes, even if better ones are free. V(true) plans all
        guests of the call from scratch, and moves a guest if more guests then fit, or if it gets
        fewer or nearer nodes. RV(rebalance) names the guests that move, and says what that brings.
      - A running guest that moves needs a cold start, as for any other change.
    type: bool
    default: false
    version_added: 2.0.0
  planned:
    description:
      - What an earlier run in check mode returned, as C(register) has it, to carry out just that.
      - If a guest has to be redefined and its definition was changed since, the module leaves it as
        it is, and the error names it. A guest that has its layout already is no error.
      - If a guest of the host was defined, changed or removed since, and a guest whose nodes were
        chosen has to be redefined, nothing is written.
    type: dict
  topology:
    description:
      - Topology to plan for, in the shape of C(ansible_facts.vnuma_host). By default it is gathered
        from O(uri).
    type: dict
    version_added: 2.0.0
seealso:
  - module: kvm.vnuma.vnuma_facts
  - plugin: kvm.vnuma.partition_domain
    plugin_type: filter
  - name: libvirt's domain definition
    description: What the elements mean.
    link: https://libvirt.org/formatdomain.html
"""

EXAMPLES = r"""
- name: Let a guest as large as its host mirror it
  kvm.vnuma.vnuma_partition:
    guests:
      - name: anuma

- name: Every database on two nodes with cores of their own, the other guest on other nodes
  kvm.vnuma.vnuma_partition:
    reserved_cpus: "0,15,120,135"
    guests:
      - name: db*
        nodes: "0-1"
        pinning: core
      - name: anuma
        nodes: "2-7"

- name: Give every guest the fewest and nearest nodes that hold it
  kvm.vnuma.vnuma_partition:
    nodes: auto
    guests:
      - name: "*"

- name: More vCPUs and memory for a guest, and otherwise the options that it has
  kvm.vnuma.vnuma_partition:
    reserved_cpus: "0,15,120,135"
    guests:
      - name: db1
        nodes: "0-1"
        pinning: core
        vcpus: 24
        memory: 96 GiB

- name: Cores of its own for a guest, and the reserved ones for its emulator
  kvm.vnuma.vnuma_partition:
    reserved_cpus: "0,120"
    guests:
      - name: anuma
        nodes: "0"
        pinning: core
        emulator_pinning: "0,120"

- name: Plan now
  kvm.vnuma.vnuma_partition:
    guests:
      - name: anuma
        nodes: "0-3"
        memory_mode: preferred
  check_mode: true
  register: plan

- name: Carry out that plan, unless something changed since
  kvm.vnuma.vnuma_partition:
    guests:
      - name: anuma
        nodes: "0-3"
        memory_mode: preferred
    planned: "{{ plan }}"

- name: Undo it
  kvm.vnuma.vnuma_partition:
    state: absent
    guests:
      - name: anuma
      - name: db*
"""

RETURN = r"""
guests:
  description: One entry for every guest that was handled, by name.
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
    changed:
      description: Whether its definition, or its pins while it runs, were changed.
      type: bool
    restart_required:
      description: Whether it runs with another layout than it is defined with.
      type: bool
    placement:
      description: Which host nodes were chosen for it, and why.
      returned: with O(nodes=auto)
      type: dict
      contains:
        nodes:
          description: The host nodes, as a nodeset.
          type: str
          sample: "3"
        kept:
          description: Whether it was on them before.
          type: bool
        fewest:
          description: The fewest nodes that could hold it on a host without other guests.
          type: int
          sample: 1
        distance:
          description: Average distance between its nodes; 10 for a single one.
          type: float
          sample: 10.0
        devices:
          description: Host nodes of its passed-through PCI devices, as a nodeset.
          type: str
        why:
          description: A sentence.
          type: str
          sample: it stays on host node 3, where it is placed.
        candidates:
          description:
            - Nodes that could not hold it, as the plan leaves them; the nearest eight. Empty for a
              guest that stays.
          type: list
          elements: dict
          contains:
            nodes:
              description: Host nodes, as a nodeset.
              type: str
              sample: "0"
            refused:
              description: The figure that refused them.
              type: str
              sample: host node 0 has 2 of 6 cores left
    warnings:
      description: Sentences about this guest.
      type: list
      elements: str
    fingerprint:
      description: Digest of the definition that was planned for, for O(planned).
      type: str
    layout:
      description: The layout; null with O(state=absent).
      type: dict
      contains:
        vcpus:
          description: vCPUs that the guest has at most.
          type: int
          sample: 16
        memory_kib:
          description: Memory that its cells share in KiB, without memory devices.
          type: int
          sample: 67108864
        cells:
          description:
            - The guest's cells, by id; empty if O(nodes=auto) leaves the guest its own cells.
          type: list
          elements: dict
          contains:
            id:
              description: The cell's id, from V(0).
              type: int
            host_node:
              description: The host node that backs it; null on a host without topology.
              type: int
            memory_node:
              description: The host node that its memory is bound to.
              returned: if the host node that backs it has no memory
              type: int
            vcpus:
              description: Its vCPUs as a cpuset.
              type: str
              sample: 0-1
            memory_kib:
              description: Its memory in KiB.
              type: int
              sample: 8388608
            pins:
              description: pCPUs its vCPUs are pinned to, as a cpuset; empty if they are not.
              type: str
              sample: 0-14,120-134
            distances:
              description: Distance to every cell, by cell id; empty if none are written.
              returned: for guests that change
              type: list
              elements: int
              sample: [10, 21, 31, 21, 21, 31, 31, 31]
        topology:
          description:
            - The guest's CPU topology; null if O(nodes=auto) leaves it as it is.
          type: dict
          contains:
            sockets:
              description: Sockets.
              type: int
              sample: 8
            dies:
              description: Dies of a socket.
              type: int
              sample: 1
            cores:
              description: Cores of a die.
              type: int
              sample: 1
            threads:
              description: Threads of a core.
              type: int
              sample: 2
        memory_mode:
          description: Mode of the memory binding, V(none) if nothing is bound.
          type: str
          sample: strict
        nodeset:
          description: Host nodes in use, as a nodeset.
          type: str
          sample: 0-7
        vcpu_pins:
          description: pCPUs of each vCPU as a cpuset, by vCPU; empty if nothing is pinned.
          returned: for guests that change
          type: list
          elements: str
        emulator_pins:
          description: pCPUs of the emulator's threads; null if they are not managed.
          type: str
        iothread_pins:
          description: pCPUs of each iothread, by its id; null if they are not managed.
          type: dict
        devices:
          description: The passed-through PCI devices that are put on cells.
          returned: with O(devices=host), if there are any
          type: list
          elements: dict
          contains:
            device:
              description: Its address on the host.
              type: str
              sample: "0000:3b:00.0"
            cell:
              description: The cell that the guest's kernel is told.
              type: int
            address:
              description: Its address in the guest.
              type: str
              sample: "0000:f8:00.0"
ledger:
  description:
    - What all guests of the host take of each node once the plan is carried out, by their
      definitions, whether they run or are off.
  returned: with O(nodes=auto), unless the task failed as a whole
  type: dict
  contains:
    nodes:
      description: One entry for each host node with pCPUs and memory.
      type: list
      elements: dict
      contains:
        node:
          description: Id of the node.
          type: int
        cores:
          description: Its cores.
          type: int
          sample: 15
        exclusive_cores:
          description: Cores that guests own.
          type: int
        shared_cores:
          description: Guest cores that share the remaining cores.
          type: int
        memory_kib:
          description: Its memory in KiB, without hugepage pools.
          type: int
        bound_kib:
          description: Memory of guests in KiB, without hugepages.
          type: int
        hugepages:
          description:
            - By page size (C(size_kib)), pages in the pool (C(total)) and of guests (C(taken)).
          type: list
          elements: dict
        guests:
          description: Names of the guests that are on it.
          type: list
          elements: str
    floating:
      description: Guests without pins and binding, which are charged to all nodes by size.
      type: list
      elements: str
    reserved_memory_kib:
      description: What O(reserved_memory) leaves to the host on every node, in KiB.
      type: int
    reserved_cpus:
      description: O(reserved_cpus), as a cpuset.
      type: str
    fingerprint:
      description: Digest of every definition of the host that was planned with.
      type: str
rebalance:
  description: Which guests move, and what that brings.
  returned: with O(rebalance=true) and O(nodes=auto)
  type: dict
  contains:
    moves:
      description: Names of the guests that move.
      type: list
      elements: str
    gain:
      description: What that brings, as a sentence; empty if no guest moves.
      type: str
restart_required:
  description: Names of the guests that run with another layout than they are defined with.
  returned: always, unless the task failed as a whole
  type: list
  elements: str
  sample: [anuma]
errors:
  description: What went wrong, guest by guest.
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
from ansible_collections.kvm.vnuma.plugins.module_utils._module.partition import partition
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import argument_spec


def main() -> None:
    """Run the module."""
    spec: dict[str, Any] = {
        "uri": {"type": "str", "default": "qemu:///system"},
        "daemon_timeout": {"type": "float", "default": 60},
        "guests": {
            "type": "list",
            "elements": "dict",
            "required": True,
            # Not checked by Ansible, which would not name the guest, and would end the whole task.
        },
        "topology": {"type": "dict"},
        "topologies": {"type": "dict"},
        "managed_save": {"type": "str", "choices": ["refuse", "drop"], "default": "refuse"},
        "planned": {"type": "dict"},
        "rebalance": {"type": "bool", "default": False},
        "state_dir": {"type": "path"},
        **argument_spec(),
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), partition)


if __name__ == "__main__":
    main()
