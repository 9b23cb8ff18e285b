#!/usr/bin/python
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Gather the NUMA topology of a libvirt host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vnuma_facts
short_description: Gather the NUMA topology of a libvirt host
version_added: 0.1.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Reads the host's NUMA topology from libvirt and returns it as C(ansible_facts.vnuma_host).
  - O(kvm.vnuma.vnuma_partition#module:topology) and the filter
    P(kvm.vnuma.partition_domain#filter) accept what it returns.
  - Can be listed in C(FACTS_MODULES) or C(ansible_facts_modules), to run with C(gather_facts).
extends_documentation_fragment:
  - kvm.vnuma.attributes
  - kvm.vnuma.attributes.facts
  - kvm.vnuma.attributes.action_group
  - kvm.vnuma.connection
attributes:
  check_mode:
    support: full
    details: [This module changes nothing.]
  diff_mode:
    support: N/A
    details: [This module changes nothing.]
seealso:
  - module: kvm.vnuma.vnuma_partition
"""

EXAMPLES = r"""
- name: Gather the host's topology
  kvm.vnuma.vnuma_facts:

- name: Show how far the nodes are apart
  ansible.builtin.debug:
    msg: "node {{ item.id }} has pCPUs {{ item.cpus }}; distances {{ item.distances }}"
  loop: "{{ ansible_facts.vnuma_host.nodes }}"
  loop_control:
    label: "{{ item.id }}"
"""

RETURN = r"""
ansible_facts:
  description: Facts to add to the host's.
  returned: success
  type: dict
  contains:
    vnuma_host:
      description: The host's NUMA topology.
      type: dict
      contains:
        nodes:
          description: The host's NUMA nodes, nodes without pCPUs or memory included, by id.
          type: list
          elements: dict
          contains:
            id:
              description: The node's id; ids may be sparse.
              type: int
              sample: 0
            cpus:
              description: Its online pCPUs, as a cpuset. Empty for a node without pCPUs.
              type: str
              sample: 0-14,120-134
            memory_kib:
              description: Its memory in KiB, V(0) for a node without memory.
              type: int
              sample: 134217728
            free_kib:
              description: Its free memory in KiB; null if libvirt's driver does not report it.
              type: int
              sample: 120795955
            hugepages:
              description: Its pools of hugepages.
              type: list
              elements: dict
              contains:
                size_kib:
                  description: Size of one page in KiB.
                  type: int
                  sample: 2048
                total:
                  description: Pages in the pool.
                  type: int
                  sample: 512
                free:
                  description: Pages that are not in use; null if libvirt's driver does not report
                    it.
                  type: int
                  sample: 512
            distances:
              description: Distance to each node, by node id. May be incomplete, as the host's own.
              type: dict
              sample: {"0": 10, "1": 21}
            cores:
              description: The online threads of each of its cores, as cpusets.
              type: list
              elements: str
              sample: ["0,120", "1,121"]
            socket_ids:
              description: The sockets that its pCPUs belong to.
              type: list
              elements: int
              sample: [0]
            cache_domains:
              description: Its online pCPUs by the L3 cache that they share, as cpusets. Empty if
                libvirt does not list caches.
              type: list
              elements: str
              sample: ["0-5,120-125", "6-11,126-131"]
        threads_per_core:
          description: SMT width that all nodes with pCPUs have in common.
          type: int
          sample: 2
        arch:
          description: Architecture of the host, as libvirt names it.
          type: str
          sample: x86_64
        cpu_vendor:
          description: Vendor of the host's CPUs, as libvirt names it. Empty if unknown.
          type: str
          sample: Intel
        cpu_model:
          description: Model of the host's CPUs, as libvirt names it. Empty if unknown.
          type: str
          sample: Skylake-Server-IBRS
        hugepage_default_kib:
          description: Size in KiB of the hugepages of a guest that names no size.
          type: int
          sample: 2048
        isolated_cpus:
          description: pCPUs over which the host's scheduler does not balance threads
            (C(isolcpus=)), as a cpuset. Null over a remote URI, where they are unknown.
          type: str
          sample: 2-15
        cpu_kinds:
          description: pCPUs of a hybrid processor by kind, as cpusets, the fastest kind first.
            Empty if all are alike, and over a remote URI.
          type: list
          elements: str
          sample: ["0-15", "16-31"]
        libvirt_version:
          description: Version of the libvirt daemon.
          type: str
          sample: 9.0.0
        hypervisor_version:
          description: Version of the hypervisor, such as QEMU. Empty if it is unknown.
          type: str
          sample: 7.2.22
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvm.vnuma.plugins.module_utils._module.common import run
from ansible_collections.kvm.vnuma.plugins.module_utils._module.facts import facts


def main() -> None:
    """Run the module."""
    spec: dict[str, Any] = {
        "uri": {"type": "str", "default": "qemu:///system"},
        "daemon_timeout": {"type": "float", "default": 60},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), facts)


if __name__ == "__main__":
    main()
