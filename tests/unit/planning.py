# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of the planner with options as users write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import Definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned, restored
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout, Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import (
    Load,
    Need,
    Share,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import Policy, policy_from_options

HostOf = Callable[[str], Host]
GuestOf = Callable[..., Guest]


def planned(guest: Guest, host: Host, **options: Any) -> Layout:
    """Return a guest's layout."""
    return plan(guest, host, policy_from_options(options))


def owner(*cpus: int) -> Load:
    """A guest outside of the call that owns pCPUs."""
    return Load("other", "uuid-of-other", (Share(Need(len(cpus), 0), owned=frozenset(cpus)),))


def owned_by(guest: Guest, host: Host) -> set[int]:
    """What the vCPUs of a guest have for themselves: a pCPU, or threads of a core."""
    cores = [set(core) for node in host.nodes for core in node.cores]
    return {
        cpu
        for _vcpu, cpus in guest.vcpu_pins
        if len(cpus) == 1 or any(set(cpus) <= core for core in cores)
        for cpu in cpus
    }


def topology_of(layout: Layout) -> Topology:
    """Return the topology of a layout that has one."""
    assert layout.topology is not None
    return layout.topology


def refusal(guest: Guest, host: Host, **options: Any) -> str:
    """Return the sentence with which the planner refuses a guest."""
    with pytest.raises(LayoutError) as raised:
        planned(guest, host, **options)
    return str(raised.value)


def partitioned_text(definition: Definition, layout: Layout, policy: Policy) -> str:
    """Return a definition with a layout written into it."""
    return partitioned(definition, layout, policy).definition.text


def restored_text(definition: Definition) -> str:
    """Return a definition with its layout taken out."""
    return restored(definition).definition.text
