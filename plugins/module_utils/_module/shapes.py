# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape that a guest has on every host of its migration group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._domain.capabilities import read_host
from .._domain.definition import Definition, read_guest
from .._domain.record import recorded_policy
from .._errors import HostError, PolicyError, VnumaError
from .._model.host import Host
from .._planner.nodes import resized
from .._planner.shape import Member, check_shape, common_shape
from .._policy import AUTO, Policy, policy_from_record
from .lay_out import Group

_OWN = "this host"


def group_from_facts(topologies: Mapping[str, object] | None) -> dict[str, Host]:
    """Return the hosts of migration groups by name; none where no topologies are given.

    Each host has its facts, or the text of its capabilities.

    Raises:
        HostError: when the topology of one cannot be read; the sentence names the host.
    """
    if not isinstance(topologies or {}, Mapping):
        raise HostError("topologies must be a dictionary of ansible_facts.vnuma_host by host.")
    hosts = {}
    for name, topology in (topologies or {}).items():
        try:
            hosts[str(name)] = read_host(topology)
        except VnumaError as error:
            error.message = f"topology of {name}: {error.message}"
            raise
    return hosts


def in_group(policy: Policy, definition: Definition, host: Host, group: Group) -> Policy:
    """Return a policy with the shape that its migration group has in common, if it has a group.

    A guest that has a shape keeps it for as long as every host of the group can back it: another
    one would need a cold start.

    The definition has the guest's record; *group* are the hosts whose topology is given.

    Raises:
        VnumaError: when a host cannot back it; the sentence names the host.
    """
    names = policy.migration_group
    if not names or (not group.hosts and policy.cells is not None):
        # The shape itself may be given, as the filter common_shape returns it.
        return policy
    unknown = [name for name in names if name not in group.hosts]
    if unknown:
        raise PolicyError(
            f"migration_group names {', '.join(unknown)}, whose topology is not given; add it to "
            "topologies, a dictionary of ansible_facts.vnuma_host by host."
        )
    hosts = {name: group.hosts[name] for name in names}
    if not any(_nodes(one) == _nodes(host) for one in hosts.values()):
        hosts[_OWN] = host
    members = members_of(definition, hosts, policy)
    kept = None if group.anew else _kept(policy, definition)
    if kept is not None:
        check_shape(members, kept)
        return kept
    shape = common_shape(members, policy)
    return replace(
        policy,
        cells=shape.cells,
        threads=shape.threads,
        granule_kib=shape.granule_kib,
        distances=shape.distances,
    )


def _kept(policy: Policy, definition: Definition) -> Policy | None:
    """Return a policy with the shape that a guest has already; None where something else is asked.

    Raises:
        VnumaError: when the record cannot be read.
    """
    if definition.record is None:
        return None
    recorded = policy_from_record(recorded_policy(definition.record))
    # ``auto`` takes the fewest cells, and the others the most.
    if not recorded.migration_group or (recorded.nodes == AUTO) != (policy.nodes == AUTO):
        return None
    shape: dict[str, Any] = {
        "cells": recorded.cells,
        "threads": recorded.threads,
        "granule_kib": recorded.granule_kib,
        "distances": recorded.distances,
    }
    for option, value in shape.items():
        if getattr(policy, option) not in (getattr(Policy(), option), value):
            return None
    return replace(policy, **shape)


def members_of(definition: Definition, hosts: Mapping[str, Host], policy: Policy) -> list[Member]:
    """Return the hosts that a guest is to be able to run on, each with its figures there."""
    return [
        Member(name, host, resized(read_guest(definition, host.hugepage_default_kib), policy))
        for name, host in sorted(hosts.items())
    ]


def _nodes(host: Host) -> list[object]:
    """Return what of a host's nodes stays from one minute to the next."""
    return [
        replace(
            node, free_kib=None, hugepages=tuple(replace(one, free=None) for one in node.hugepages)
        )
        for node in host.nodes
    ]
