# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Partition a domain definition on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: partition_domain
short_description: Let a libvirt domain definition mirror the NUMA topology of a host
version_added: 0.1.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Takes a domain definition and returns it partitioned, as M(kvm.vnuma.vnuma_partition) would
    define it. It is for templates that another module defines.
  - Partitioning the result again changes nothing. With O(state=absent) it returns the definition as
    it was before it was partitioned.
  - The switch of the libvirt RFC of September 2018 in the input, C(check='numa'), is accepted and
    written as C(check='none'), which every libvirt accepts.
requirements:
  - lxml, on the controller
positional: topology
options:
  _input:
    description: The domain definition, as text.
    type: str
    required: true
  topology:
    description:
      - The topology of the host to mirror; C(ansible_facts.vnuma_host) as M(kvm.vnuma.vnuma_facts)
        returns it, or the text of C(virsh capabilities).
    type: raw
    required: true
  device_nodes:
    description:
      - As O(kvm.vnuma.plan_host#filter:device_nodes). O(devices=host) needs it.
    type: list
    elements: dict
    version_added: 2.0.0
extends_documentation_fragment:
  - kvm.vnuma.policy
  - kvm.vnuma.policy.topologies
seealso:
  - module: kvm.vnuma.vnuma_partition
  - module: kvm.vnuma.vnuma_facts
"""

EXAMPLES = r"""
- name: Gather the host's topology
  kvm.vnuma.vnuma_facts:

- name: Partition a template for the host's first two nodes
  ansible.builtin.set_fact:
    definition: "{{ lookup('ansible.builtin.template', 'anuma.xml.j2')
      | kvm.vnuma.partition_domain(ansible_facts.vnuma_host, nodes='0-1') }}"
  # The definition has its passwords.
  no_log: true
"""

RETURN = r"""
_value:
  description: The definition, partitioned; the same text if nothing had to change.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.display import Display
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import read_host
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned, restored
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import LXML_IMPORT_ERROR
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._module.lay_out import Group
from ansible_collections.kvm.vnuma.plugins.module_utils._module.plan_host import (
    devices_from_entries,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.shapes import (
    group_from_facts,
    in_group,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.devices import place_devices
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.nodes import resized
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import HOST, policy_from_options


def partition_domain(
    xml: Any, topology: Any, topologies: Any = None, device_nodes: Any = None, **options: Any
) -> str:
    """Return a domain definition partitioned for a host.

    Args:
        xml: the definition.
        topology: of the host: facts, or the text of the capabilities.
        topologies: those of the hosts of a migration group, by name.
        device_nodes: where passed-through devices are, one entry a device.
        options: policy options.

    Raises:
        AnsibleFilterError: with one sentence, when it cannot be done.
    """
    if LXML_IMPORT_ERROR is not None:
        raise AnsibleFilterError(
            "partition_domain needs lxml on the controller; install it for the Python that runs "
            "Ansible ('pip install lxml', or the package python3-lxml)."
        )
    if not isinstance(xml, str):
        raise AnsibleFilterError(
            f"partition_domain takes a domain definition as text, not {type(xml).__name__}."
        )
    try:
        policy = policy_from_options(options)
        definition = read_definition(xml)
        if policy.state == "absent":
            return restored(definition).definition.text
        host = read_host(topology)
        group = Group(group_from_facts(topologies))
        policy = in_group(policy, definition, host, group)
        guest = resized(read_guest(definition, host.hugepage_default_kib), policy)
        layout, known = plan(guest, host, policy), devices_from_entries(device_nodes)
        if policy.devices == HOST:
            before = layout
            layout = definition.named(
                lambda: place_devices(before, guest, policy, definition.pci, known)
            )
        edit = partitioned(definition, layout, policy)
    except VnumaError as error:
        # Ansible prints the cause of an error after its message, and here they are the same.
        raise AnsibleFilterError(f"partition_domain: {error}") from None
    for sentence in layout.warnings:
        Display().warning(f"guest {guest.name}: {sentence}")
    return edit.definition.text


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"partition_domain": partition_domain}
