# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Draw hosts and their guests as one HTML page."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report
short_description: Draw hosts, nodes and guests as one HTML page
version_added: 2.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Takes what M(kvm.vnuma.vnuma_facts) and M(kvm.vnuma.vnuma_info) returned for any number of
    hosts, and returns an HTML page. What needs attention comes first, then the fleet, then each
    host with its sockets, nodes, cache domains, cores and threads, coloured by guest.
  - With what M(kvm.vnuma.vnuma_partition) returned in check mode, or P(kvm.vnuma.plan_host#filter),
    the page shows the layout of each guest before and after.
  - The page is one file. It loads nothing, has no script, follows the reader's choice of light or
    dark, and prints. Everything in a picture is in a table under it.
  - Nothing of a guest's definition is in it except its name and its NUMA layout. The same input
    gives the same page, byte for byte.
  - The playbook C(kvm.vnuma.report) gathers the input and writes the page.
requirements:
  - lxml, on the controller, if C(topology) is the text of C(virsh capabilities)
options:
  _input:
    description:
      - A dictionary of hosts by name. Each is a dictionary with any of C(topology),
        C(ansible_facts.vnuma_host) as M(kvm.vnuma.vnuma_facts) returns it, or the text of
        C(virsh capabilities); C(info), what M(kvm.vnuma.vnuma_info) returned; C(plan), what
        M(kvm.vnuma.vnuma_partition) returned in check mode, or P(kvm.vnuma.plan_host#filter); and
        C(error), a sentence that says why something is missing.
    type: dict
    required: true
  title:
    description: Title of the page.
    type: str
    default: NUMA placement
  gathered:
    description: When the input was gathered, as text. By default the page does not say.
    type: str
    default: ""
seealso:
  - module: kvm.vnuma.vnuma_info
  - plugin: kvm.vnuma.metrics
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Gather the host's topology
  kvm.vnuma.vnuma_facts:

- name: Look at every guest
  kvm.vnuma.vnuma_info:
  register: vnuma

- name: Write the page
  ansible.builtin.copy:
    content: "{{ {inventory_hostname: {'topology': ansible_facts.vnuma_host, 'info': vnuma}}
      | kvm.vnuma.report }}"
    dest: /tmp/vnuma.html
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The page.
  type: str
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import LXML_IMPORT_ERROR
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    VnumaError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_to_facts
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.page import render_page
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.read import read_fleet


def report(hosts: Any, title: str = "NUMA placement", gathered: str = "") -> str:
    """Return the page.

    Args:
        hosts: by name, what the modules returned.
        title: of the page.
        gathered: when, in words.

    Raises:
        AnsibleFilterError: with one sentence, when the input is not what the modules return.
    """
    try:
        return render_page(read_fleet(_with_facts(hosts)), str(title), str(gathered))
    except VnumaError as error:
        # Ansible prints the cause of an error after its message, and here they are the same.
        raise AnsibleFilterError(f"report: {error}") from None


def _with_facts(hosts: Any) -> Any:
    """Return hosts with facts where they are given as capabilities."""
    if not isinstance(hosts, Mapping):
        return hosts
    found = {}
    for name, entry in hosts.items():
        found[name] = entry
        if isinstance(entry, Mapping) and isinstance(entry.get("topology"), str):
            if LXML_IMPORT_ERROR is not None:
                raise AnsibleFilterError(
                    "report needs lxml on the controller to read capabilities; install it for the "
                    "Python that runs Ansible ('pip install lxml', or the package python3-lxml)."
                )
            try:
                facts = host_to_facts(parse_capabilities(entry["topology"]))
            except VnumaError as error:
                # It hides no other host.
                found[name] = {"error": f"host {name}: {error}"}
            else:
                found[name] = {**entry, "topology": facts}
    return found


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"report": report}
