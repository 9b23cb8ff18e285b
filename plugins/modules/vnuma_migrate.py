#!/usr/bin/python
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Migrate running guests to other hosts, with the pins and memory bindings of those."""

from __future__ import annotations

DOCUMENTATION = r"""
module: vnuma_migrate
short_description: Migrate running guests to other hosts
version_added: 2.0.0
author:
  - The kvm.vnuma authors (@kvm-vnuma)
description:
  - Migrates guests live from the host that the module runs on. The module plans each guest on its
    target together with the guests of that host. The guest then runs with the target's pins and
    memory bindings, also after its next start. What its kernel sees stays the same.
  - B(Basic options) are O(guests) and O(targets). B(Common options) are O(partial), O(at_once),
    O(timeout), O(copy_storage) and O(undefine_source). All others are B(advanced).
  - All guests are checked and planned before the first one leaves, and all obstacles are reported
    together. In check mode nothing more is done.
  - If several targets can take a guest, it goes to the least loaded of them. Targets are assigned
    to the largest guest first.
  - If a migration fails, the guest continues to run where it was, defined as before. A guest that
    runs on a target already is left alone.
  - The module itself connects to the targets too, as the user that it runs as.
extends_documentation_fragment:
  - kvm.vnuma.attributes
  - kvm.vnuma.attributes.action_group
  - kvm.vnuma.connection
  - kvm.vnuma.state
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  guests:
    description:
      - Names, UUIDs or shell patterns. By default every running guest of the host.
    type: list
    elements: str
  targets:
    description:
      - Hosts that the guests may go to.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the target in results and errors. By default its URI.
        type: str
      uri:
        description:
          - Connection URI of its libvirt daemon, as the source host reaches it, such as
            C(qemu+ssh://root@kvm2/system).
        type: str
        required: true
      data_uri:
        description:
          - Where its QEMU listens, such as C(tcp://10.0.0.2). By default the host name that the
            target has for itself, which the source must be able to resolve.
        type: str
      topology:
        description:
          - Its topology, C(ansible_facts.vnuma_host) as M(kvm.vnuma.vnuma_facts) returns it. By
            default the module asks the target, which does not tell which pCPUs are isolated.
        type: raw
      policy:
        description:
          - Options of M(kvm.vnuma.vnuma_partition) that are this host's own, such as
            C(reserved_cpus) or C(auto_nodes). All other options are the ones stored with the guest.
        type: dict
  partial:
    description:
      - Whether guests that can migrate do so even if others cannot. The others are still errors.
    type: bool
    default: false
  at_once:
    description:
      - How many guests to migrate in parallel.
    type: int
    default: 1
  timeout:
    description:
      - How long the migration of a guest may take, in seconds. A guest that writes to its memory
        faster than that is copied would never arrive. The module then ends its migration, and the
        guest continues to run where it was.
      - See O(options.post_copy) for such guests.
    type: float
    default: 600
  copy_storage:
    description:
      - V(none) refuses guests with disks that are not on shared storage.
      - V(all) copies disks that are not shared, V(incremental) what they have beyond their backing
        files. The files must exist on the target, unless libvirt can make them in a pool. What is
        in them is overwritten.
    type: str
    choices: [none, all, incremental]
    default: none
  undefine_source:
    description:
      - Whether to remove the guest's definition from the source once the guest runs on the target.
      - With V(false), do not start it on the source, and turn its autostart off there. Two guests
        would write to the same disks.
    type: bool
    default: true
    version_added: 2.0.0
  options:
    description:
      - How libvirt carries the migration out.
    type: dict
    version_added: 2.0.0
    suboptions:
      bandwidth:
        description:
          - The most that the migration of a guest may send in a second, as a size with a unit such
            as V(100 MiB). By default there is no limit.
        type: str
      compression:
        description:
          - How to compress memory that is sent.
        type: str
        choices: [none, xbzrle, mt]
        default: none
      auto_converge:
        description:
          - Slow down a guest that writes to its memory faster than that is copied.
        type: bool
        default: false
      post_copy:
        description:
          - After O(timeout), switch to post-copy. The guest continues on the target, which fetches
            the rest of its memory from the source. If the source or the network fails before that
            has ended, the guest is lost.
          - libvirt does not allow the module to keep the copy on the target paused until the one on
            the source is over. If the target's daemon ends in the moment of the handover, both may
            run.
        type: bool
        default: false
      tls:
        description:
          - Encrypt memory and disks that are sent, by the certificates that QEMU is configured with
            on both hosts.
        type: bool
        default: false
      peer_to_peer:
        description:
          - Let the two daemons carry out the migration. It continues if the module ends, and the
            guest is then paused on the target until the module is run again.
          - With V(false) the module carries it out over its own connections to both. If the module
            ends before all memory is sent, the migration fails, and the guest continues to run
            where it was. If it ends in the moment after that, the guest is paused until the module
            is run again.
        type: bool
        default: true
  trust_uris:
    description:
      - Accept URIs of O(targets) that name programs to run or files to read, which libvirt does as
        the user of the module or of the source's daemon. These are the parameters C(command),
        C(netcat), C(keyfile), C(known_hosts) and C(pkipath), and the transport C(ext).
      - By default the module refuses them. Set the option only if the URIs come from the play, the
        inventory or C(--extra-vars), and never from what a host has answered.
    type: bool
    default: false
    version_added: 2.0.0
notes:
  - If an earlier run began a migration and could not end it, the module first brings that to its
    end. See the guide on guests that move.
  - libvirt's log, C(virsh domjobinfo), and the system log on the source say how far a migration is.
seealso:
  - module: kvm.vnuma.vnuma_partition
  - module: kvm.vnuma.vnuma_info
"""

EXAMPLES = r"""
- name: Migrate a guest to another host
  kvm.vnuma.vnuma_migrate:
    guests: [db1]
    targets:
      - name: kvm2
        uri: qemu+ssh://root@kvm2/system

- name: Show which guests could go to which of two hosts, and why others could not
  kvm.vnuma.vnuma_migrate:
    targets:
      - {name: kvm2, uri: qemu+ssh://root@kvm2/system}
      - {name: kvm3, uri: qemu+ssh://root@kvm3/system}
    partial: true
  check_mode: true
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
        - V(migrated), also if an earlier run had begun it; V(none) if it runs on a target already,
          or if other guests were refused; V(refused) if it cannot go to any target; or V(failed).
          In check mode, what would be done.
      type: str
      sample: migrated
    target:
      description: Name of the host that it was, or would be, migrated to; null for none.
      type: str
    reasons:
      description: Why it cannot migrate.
      type: list
      elements: str
    layout:
      description: Its layout on the target, as M(kvm.vnuma.vnuma_partition) returns it.
      type: dict
    duration_s:
      description: How long its migration took, in seconds.
      type: float
      sample: 12.4
    downtime_ms:
      description:
        - How long it stood still, in milliseconds, from libvirt's event that it was stopped on the
          source until it was resumed on the target. If it was paused, or a connection broke, as
          libvirt measured it.
      type: int
      sample: 87
    sent_kib:
      description: How much was sent, in KiB.
      type: int
    warnings:
      description: Sentences about this guest.
      type: list
      elements: str
migrated:
  description: Names of the guests that were, or would be, migrated.
  returned: always, unless the task failed as a whole
  type: list
  elements: str
diff:
  description: Managed elements of the persistent definition, on the source and on the target.
  returned: with C(--diff)
  type: list
  elements: dict
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
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migrate import migrate


def main() -> None:
    """Run the module."""
    spec: dict[str, Any] = {
        "uri": {"type": "str", "default": "qemu:///system"},
        "daemon_timeout": {"type": "float", "default": 60},
        "guests": {"type": "list", "elements": "str"},
        "targets": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "name": {"type": "str"},
                "uri": {"type": "str", "required": True},
                "data_uri": {"type": "str"},
                "topology": {"type": "raw"},
                "policy": {"type": "dict"},
            },
        },
        "partial": {"type": "bool", "default": False},
        "at_once": {"type": "int", "default": 1},
        "timeout": {"type": "float", "default": 600},
        "copy_storage": {
            "type": "str",
            "choices": ["none", "all", "incremental"],
            "default": "none",
        },
        "undefine_source": {"type": "bool", "default": True},
        "options": {
            "type": "dict",
            "apply_defaults": True,
            "options": {
                "bandwidth": {"type": "str"},
                "compression": {
                    "type": "str",
                    "choices": ["none", "xbzrle", "mt"],
                    "default": "none",
                },
                "auto_converge": {"type": "bool", "default": False},
                "post_copy": {"type": "bool", "default": False},
                "tls": {"type": "bool", "default": False},
                "peer_to_peer": {"type": "bool", "default": True},
            },
        },
        "trust_uris": {"type": "bool", "default": False},
        "state_dir": {"type": "path"},
    }
    run(AnsibleModule(argument_spec=spec, supports_check_mode=True), migrate)


if __name__ == "__main__":
    main()
