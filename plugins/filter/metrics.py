# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a host's NUMA figures as Prometheus takes them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: metrics
short_description: Write the NUMA figures of a host as Prometheus takes them
version_added: 2.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Takes what M(kvm.vnuma.vnuma_facts) and M(kvm.vnuma.vnuma_info) returned for a host, and returns
    metrics in Prometheus' text format, for the textfile collector of node_exporter. With the role
    variable C(vnuma_textfile), the role writes it on every host.
  - For each host node its memory and hugepages (C(vnuma_node_memory_bytes), C(_available_bytes),
    C(_taken_bytes), C(_resident_bytes), C(_free_bytes); C(vnuma_node_hugepages), C(_taken),
    C(_free)) and its cores (C(vnuma_node_cores), C(vnuma_node_cores_taken)); for each guest
    C(vnuma_guest_drift) and C(vnuma_guest_restart_required); for each cell
    C(vnuma_cell_resident_bytes) and C(vnuma_cell_local_ratio); and C(vnuma_guests),
    C(vnuma_errors) and C(vnuma_last_success_timestamp_seconds). There is nothing per vCPU.
  - What is not known is left out.
options:
  _input:
    description:
      - A dictionary with C(topology), C(ansible_facts.vnuma_host) as M(kvm.vnuma.vnuma_facts)
        returns it, C(info), what M(kvm.vnuma.vnuma_info) returned, and C(error), as
        P(kvm.vnuma.report#filter) takes them for each host.
    type: dict
    required: true
  time:
    description:
      - When it was gathered, in seconds since 1970. By default the time of the last success is left
        out.
    type: float
  previous:
    description:
      - The metrics of the run before, as text. If something could not be determined this time, the
        time of the last success is taken from there.
    type: str
    default: ""
seealso:
  - module: kvm.vnuma.vnuma_info
  - plugin: kvm.vnuma.report
    plugin_type: filter
  - name: Textfile collector
    description: How node_exporter reads the file.
    link: https://github.com/prometheus/node_exporter#textfile-collector
"""

EXAMPLES = r"""
- name: Gather the host's topology
  kvm.vnuma.vnuma_facts:

- name: Look at every guest
  kvm.vnuma.vnuma_info:
  register: vnuma

- name: Show the metrics
  ansible.builtin.debug:
    msg: "{{ {'topology': ansible_facts.vnuma_host, 'info': vnuma}
      | kvm.vnuma.metrics(time=now().timestamp()) }}"
"""

RETURN = r"""
_value:
  description: The metrics, one a line.
  type: str
"""

import math
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.metrics import render_metrics
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.read import read_or_say


def metrics(host: Any, time: Any = None, previous: str = "") -> str:
    """Return the metrics of a host.

    Args:
        host: what the modules returned for it.
        time: when that was gathered, in seconds since 1970; None to say nothing of it.
        previous: the metrics of the run before.

    Raises:
        AnsibleFilterError: with one sentence, when the input is not what the modules return.
    """
    try:
        seconds = None if time is None else float(time)
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(time)
    except (OverflowError, TypeError, ValueError):
        raise AnsibleFilterError(
            f"metrics: time must be a number of seconds since 1970, not {time!r}."
        ) from None
    try:
        return render_metrics(read_or_say("", host), seconds, str(previous))
    except VnumaError as error:
        # Ansible prints the cause of an error after its message, and here they are the same.
        raise AnsibleFilterError(f"metrics: {error}") from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"metrics": metrics}
