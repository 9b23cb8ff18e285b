# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape that a guest has on every host of its migration group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._cpuset import format_cpuset
from .._domain.capabilities import read_host
from .._domain.definition import Definition, read_guest
from .._domain.record import recorded_policy
from .._errors import HostError, PolicyError, VnumaError
from .._model.host import Host
from .._planner.nodes import resized
from .._planner.shape import Member, Shape, ShapeError, check_shape, common_shape
from .._policy import AUTO, Policy, policy_from_record
from .._size import show_size
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
    members = _members(definition, hosts, policy)
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


def shape_for(definition: Definition, hosts: Mapping[str, Host], policy: Policy) -> dict[str, Any]:
    """Return the shape that hosts have in common, as the filter returns it: JSON types only."""
    try:
        shape = common_shape(_members(definition, hosts, policy), policy)
    except ShapeError as error:
        reasons = sorted(error.reasons.items())
        return {
            "shape": None,
            "nodes": {},
            "msg": error.message,
            "errors": [{"name": name, "msg": why} for name, why in reasons],
        }
    return {"shape": _shape_to_result(shape), "nodes": _node_texts(shape), "msg": "", "errors": []}


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


def _members(definition: Definition, hosts: Mapping[str, Host], policy: Policy) -> list[Member]:
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


def _shape_to_result(shape: Shape) -> dict[str, Any]:
    distances = shape.distances
    options = {
        "cells": shape.cells,
        "threads": shape.threads,
        "granule": shape.granule_kib and show_size(shape.granule_kib),
        "distances": distances if isinstance(distances, str) else [list(row) for row in distances],
        "migration_group": sorted(shape.nodes),
    }
    return {option: value for option, value in options.items() if value is not None}


def _node_texts(shape: Shape) -> dict[str, str]:
    return {name: format_cpuset(nodes) for name, nodes in sorted(shape.nodes.items())}
