#!/usr/bin/python
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Power-cycle guests that wait for it, and go back where the new layout does not start."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vnuma_restart
short_description: Restart guests that wait for their new layout
version_added: 0.1.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Shuts down and starts each guest that runs with another layout than the one it is defined with.
    A reboot from inside is not enough, since it keeps the QEMU process.
  - B(Basic options) are O(guests), O(mode) and O(timeout). All others are B(advanced).
  - A guest that ran before runs afterwards, unless its owner turns it off, saves it or migrates it
    away meanwhile. If it does not start with its new layout, the module puts the layout back that
    it ran with and starts it with that, and the task fails and says so. Only the managed elements
    are put back, into the definition as it is then.
  - The module decides what each guest needs when its turn comes, from what libvirt says then. If
    its owner has shut it down, restarted, undefined or paused it since the task began, the module
    leaves it as it is and warns.
  - Guests that are off stay off. The module starts only a guest that an earlier, interrupted run
    had shut down, unless its owner has decided otherwise since.
  - The module does not restart a guest that is paused, suspended or crashed, or that has a job such
    as a migration, a backup or a block job, and warns.
  - The module looks at a guest's state and process to see whether it runs. If that cannot be found
    out, the task fails and says so, and the next run completes the restart.
extends_documentation_fragment:
  - kvm.vnuma.attributes
  - kvm.vnuma.attributes.action_group
  - kvm.vnuma.connection
  - kvm.vnuma.state
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: [No definition is changed.]
options:
  guests:
    description:
      - Names, UUIDs or shell patterns. By default every guest of the host that was partitioned.
      - A guest that is named, or given by UUID, is also restarted if its layout was changed by
        other means. A guest that a pattern matches is restarted only if this collection partitioned
        it.
    type: list
    elements: str
  mode:
    description:
      - V(graceful) asks the guest to shut down, by its agent or by ACPI, and never forces it off.
      - V(force) forces it off after O(timeout), which is like pulling the plug; unsaved data is
        lost.
    type: str
    choices: [graceful, force]
    default: graceful
  timeout:
    description:
      - How long a guest may take to shut down, and again to start, in seconds.
      - The module watches a guest that takes longer as long as it works on other guests, and starts
        it when it goes down.
    type: float
    default: 300
  at_once:
    description:
      - How many guests of the host may be down together.
    type: int
    default: 1
  agent_timeout:
    description:
      - How long to wait after the start until the guest's agent answers, in seconds. With V(0) a
        guest counts as restarted once QEMU runs.
    type: float
    default: 0
seealso:
  - module: kvm.vnuma.vnuma_partition
"""

EXAMPLES = r"""
- name: Bring every partitioned guest to its new layout, one after the other
  kvm.vnuma.vnuma_restart:

- name: The databases, two at a time, each with ten minutes to shut down
  kvm.vnuma.vnuma_restart:
    guests: [db*]
    at_once: 2
    timeout: 600

- name: Guests without data to lose, forced off if they do not shut down in a minute
  kvm.vnuma.vnuma_restart:
    guests: [build*]
    mode: force
    timeout: 60
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
    action:
      description:
        - V(none) if nothing had to be done, V(restarted), V(started) after an interrupted run,
          V(skipped) if it must not be shut down now or its owner took it down, V(rolled_back) if it
          runs with its old layout again, or V(failed). In check mode, what would be done.
      type: str
      sample: restarted
    forced:
      description: Whether it was forced off.
      type: bool
    downtime_s:
      description: How long it was off, in seconds; null if it was not.
      type: float
      sample: 1.4
    warnings:
      description: Sentences about this guest.
      type: list
      elements: str
restarted:
  description: Names of the guests that were, or would be, power-cycled or started.
  returned: always, unless the task failed as a whole
  type: list
  elements: str
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
from ansible_collections.kvm.vnuma.plugins.module_utils._module.restart import restart


def main() -> None:
    """Run the module."""
    spec: dict[str, Any] = {
        "uri": {"type": "str", "default": "qemu:///system"},
        "daemon_timeout": {"type": "float", "default": 60},
        "guests": {"type": "list", "elements": "str"},
        "mode": {"type": "str", "choices": ["graceful", "force"], "default": "graceful"},
        "timeout": {"type": "float", "default": 300},
        "at_once": {"type": "int", "default": 1},
        "agent_timeout": {"type": "float", "default": 0},
        "state_dir": {"type": "path"},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), restart)


if __name__ == "__main__":
    main()
