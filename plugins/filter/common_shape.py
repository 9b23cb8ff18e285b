# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape that a guest can have on every host of a group."""

from __future__ import annotations

DOCUMENTATION = r"""
name: common_shape
short_description: Find the cells that every host of a group can back
version_added: 2.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Takes the hosts of a group and the definition of a guest, and returns the shape that fits all of
    them, so that the guest can move from one to another while it runs.
  - It is the shape that M(kvm.vnuma.vnuma_partition) gives a guest with O(migration_group).
requirements:
  - lxml, on the controller
positional: definition
options:
  _input:
    description:
      - The hosts, as a dictionary by name; each is C(ansible_facts.vnuma_host) as
        M(kvm.vnuma.vnuma_facts) returns it, or the text of C(virsh capabilities).
    type: dict
    required: true
  definition:
    description: The domain definition, as text.
    type: str
    required: true
extends_documentation_fragment:
  - kvm.vnuma.policy
seealso:
  - module: kvm.vnuma.vnuma_partition
  - plugin: kvm.vnuma.partition_domain
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Gather the topologies of the group
  kvm.vnuma.vnuma_facts:
  delegate_to: "{{ item }}"
  delegate_facts: true
  loop: [kvm1, kvm2]

- name: Find the shape that a guest can have on each of them
  ansible.builtin.set_fact:
    found: "{{ dict(['kvm1', 'kvm2'] | zip(['kvm1', 'kvm2']
      | map('extract', hostvars, ['ansible_facts', 'vnuma_host'])))
      | kvm.vnuma.common_shape(lookup('ansible.builtin.template', 'web.xml.j2')) }}"

- name: Give it that shape on one of them
  ansible.builtin.set_fact:
    definition: "{{ lookup('ansible.builtin.template', 'web.xml.j2')
      | kvm.vnuma.partition_domain(hostvars.kvm2.ansible_facts.vnuma_host, **found.shape) }}"
"""

RETURN = r"""
_value:
  description: A dictionary.
  type: dict
  contains:
    shape:
      description:
        - The shape, as options of M(kvm.vnuma.vnuma_partition) and of
          P(kvm.vnuma.partition_domain#filter); null if there is none.
      type: dict
      contains:
        cells:
          description: Number of cells; missing if the guest keeps its own on every host.
          type: int
        threads:
          description: Threads of a guest core.
          type: int
        granule:
          description: Smallest unit that memory is split in, such as V(1 MiB).
          type: str
        distances:
          description: The matrix, row by row; V(none) or V(host) if it has none of its own.
          type: raw
        migration_group:
          description: Names of the hosts.
          type: list
          elements: str
    nodes:
      description: The host nodes that back it as a nodeset, by name of the host.
      type: dict
    msg:
      description: Why there is no shape; empty if there is one.
      type: str
    errors:
      description: Hosts that no shape fits, with C(name) and C(msg).
      type: list
      elements: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import LXML_IMPORT_ERROR
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._module.common_shape import shape_for
from ansible_collections.kvm.vnuma.plugins.module_utils._module.shapes import group_from_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options


def common_shape(hosts: Any, definition: Any, **options: Any) -> dict[str, Any]:
    """Return the shape that a guest can have on every host, or who cannot and why.

    Args:
        hosts: by name, facts or the text of the capabilities.
        definition: of the guest.
        options: policy options.

    Raises:
        AnsibleFilterError: with one sentence, when it cannot be found out.
    """
    if LXML_IMPORT_ERROR is not None:
        raise AnsibleFilterError(
            "common_shape needs lxml on the controller; install it for the Python that runs "
            "Ansible ('pip install lxml', or the package python3-lxml)."
        )
    if not isinstance(hosts, Mapping) or not hosts:
        raise AnsibleFilterError(
            "common_shape takes a dictionary of hosts: ansible_facts.vnuma_host by name."
        )
    if not isinstance(definition, str):
        raise AnsibleFilterError(
            f"common_shape: the domain definition must be text, not {type(definition).__name__}."
        )
    try:
        policy = policy_from_options(options)
        return shape_for(read_definition(definition), group_from_facts(hosts), policy)
    except VnumaError as error:
        # Ansible prints the cause of an error after its message, and here they are the same.
        raise AnsibleFilterError(f"common_shape: {error}") from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"common_shape": common_shape}
