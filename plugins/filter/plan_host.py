# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plan all guests of a host on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_host
short_description: Plan all guests of a host from their definitions, without libvirt
version_added: 2.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Takes the definitions of all guests of a host, and returns the plan that
    M(kvm.vnuma.vnuma_partition) would carry out there. It is for capacity planning with
    O(nodes=auto), and for definitions that are kept under version control.
  - Where passed-through PCI devices are, O(device_nodes) says. Without it O(device_locality) has no
    effect, and O(devices=host) refuses guests that have such devices.
requirements:
  - lxml, on the controller
positional: topology
options:
  _input:
    description:
      - The definition of every guest of the host, as a list of texts. All of them count, whether
        they are planned or not.
    type: list
    elements: str
    required: true
  topology:
    description:
      - The topology of the host; C(ansible_facts.vnuma_host) as M(kvm.vnuma.vnuma_facts) returns
        it, or the text of C(virsh capabilities).
    type: raw
    required: true
  guests:
    description:
      - Which guests to plan, as O(kvm.vnuma.vnuma_partition#module:guests). By default all of them.
    type: list
    elements: dict
  device_nodes:
    description:
      - Where passed-through PCI devices are on the host, one entry a device, as
        M(kvm.vnuma.vnuma_info) returns them for each guest.
    type: list
    elements: dict
    version_added: 2.0.0
    suboptions:
      device:
        description: Address of the device on the host, such as V(0000:3b:00.0).
        type: str
        required: true
      host_node:
        description: Its host node; null if it is on none.
        type: int
      root_complex:
        description: Its root complex, such as V(pci0000:3a).
        type: str
  rebalance:
    description:
      - As O(kvm.vnuma.vnuma_partition#module:rebalance).
    type: bool
    default: false
extends_documentation_fragment:
  - kvm.vnuma.policy
  - kvm.vnuma.policy.topologies
seealso:
  - module: kvm.vnuma.vnuma_partition
  - plugin: kvm.vnuma.partition_domain
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Gather the host's topology
  kvm.vnuma.vnuma_facts:

- name: Plan the guests whose definitions are in a folder
  ansible.builtin.set_fact:
    plan: "{{ query('ansible.builtin.file',
      *query('ansible.builtin.fileglob', playbook_dir ~ '/guests/*.xml'))
      | kvm.vnuma.plan_host(ansible_facts.vnuma_host, nodes='auto') }}"
  # The definitions have their passwords.
  no_log: true
"""

RETURN = r"""
_value:
  description:
    - A dictionary. RV(_value) holds the new definitions, with their passwords.
  type: dict
  contains:
    guests:
      description:
        - One entry for each guest that was planned, by name, with C(name), C(changed), C(layout),
          C(placement) and C(warnings) as M(kvm.vnuma.vnuma_partition) returns them, and
          C(definition), its new definition.
      type: list
      elements: dict
    errors:
      description: One entry for each guest without a plan, with C(name) and C(msg).
      type: list
      elements: dict
    warnings:
      description: Sentences about the call, such as a pattern that matched nothing.
      type: list
      elements: str
    ledger:
      description:
        - What all guests take of each host node, as M(kvm.vnuma.vnuma_partition) returns it; null
          if no nodes were chosen.
      type: dict
    rebalance:
      description: Which guests move (C(moves)), and what that brings (C(gain)).
      type: dict
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import read_host
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import LXML_IMPORT_ERROR
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._module.plan_host import (
    plan_host as plan_texts,
)


def plan_host(
    definitions: Any,
    topology: Any,
    guests: Any = None,
    rebalance: bool = False,
    topologies: Any = None,
    device_nodes: Any = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the plan for all guests of a host.

    Args:
        definitions: of every guest of the host.
        topology: of the host: facts, or the text of the capabilities.
        guests: which of them to plan, None for all.
        rebalance: choose nodes as if all guests were new, where that is better.
        topologies: those of the hosts of a migration group, by name.
        device_nodes: where passed-through devices are, one entry a device.
        options: policy options.

    Raises:
        AnsibleFilterError: with one sentence, when it cannot be done.
    """
    if LXML_IMPORT_ERROR is not None:
        raise AnsibleFilterError(
            "plan_host needs lxml on the controller; install it for the Python that runs Ansible "
            "('pip install lxml', or the package python3-lxml)."
        )
    if not isinstance(definitions, list) or not all(isinstance(one, str) for one in definitions):
        raise AnsibleFilterError("plan_host takes a list of domain definitions as text.")
    entries = [{"name": "*"}] if guests is None else guests
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and entry.get("name") for entry in entries
    ):
        raise AnsibleFilterError(
            "plan_host: guests must be a list of dictionaries with a name, as vnuma_partition "
            "takes them."
        )
    try:
        host = read_host(topology)
        return plan_texts(definitions, host, entries, options, rebalance, topologies, device_nodes)
    except VnumaError as error:
        # Ansible prints the cause of an error after its message, and here they are the same.
        raise AnsibleFilterError(f"plan_host: {error}") from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"plan_host": plan_host}
