# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's topology as Ansible facts."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .._hypervisor.libvirt_host import LibvirtHost
from .._model.host import host_to_facts
from .common import patience_s


def facts(module: AnsibleModule) -> dict[str, Any]:
    """Return the host's topology as facts."""
    libvirt_host = LibvirtHost(module.params["uri"], patience_s=patience_s(module))
    try:
        host = libvirt_host.host(with_free=True)
    finally:
        libvirt_host.close()
    return {"changed": False, "ansible_facts": {"vnuma_host": host_to_facts(host)}}
