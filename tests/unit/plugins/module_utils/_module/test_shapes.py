# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest keeps its shape while every host of its group can back it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError, PolicyError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.lay_out import Group
from ansible_collections.kvm.vnuma.plugins.module_utils._module.shapes import in_group
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    Policy,
    policy_from_options,
    policy_to_record,
)
from planning import HostOf, partitioned_text

XML = (
    "<domain type='kvm'>\n  <name>anuma</name>\n  <memory unit='GiB'>8</memory>\n"
    "  <vcpu>16</vcpu>\n  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
)


def _policy(*names: str, **options: Any) -> Policy:
    return policy_from_options({"migration_group": list(names), **options})


def _in(
    policy: Policy, text: str, host: Host, hosts: dict[str, Host], *, anew: bool = False
) -> Policy:
    return in_group(policy, read_definition(text), host, Group(hosts, anew))


def _partitioned(text: str, host: Host, policy: Policy) -> str:
    definition: Definition = read_definition(text)
    return partitioned_text(definition, plan(read_guest(definition, 2048), host, policy), policy)


@pytest.fixture
def hosts(host: HostOf) -> dict[str, Host]:
    """Three that are unlike."""
    return {"a": host("rfc-8n240c"), "b": host("two-socket-2n32c"), "c": host("sparse-ids")}


def test_no_group_is_no_matter(hosts: dict[str, Host]) -> None:
    """The policy is the one that was given; so is one that states the shape itself."""
    for policy in (_policy(), _policy("a", "b", cells=2, threads=1)):
        assert _in(policy, XML, hosts["a"], {}) is policy


def test_its_own_host_belongs_to_it(hosts: dict[str, Host]) -> None:
    """Whether the group names it or not; free memory makes no other host of it."""
    one = hosts["a"]
    busy = replace(one, nodes=tuple(replace(node, free_kib=1) for node in one.nodes))
    for host in (one, busy):
        assert _in(_policy("a", "b"), XML, host, hosts).cells == 8
    alone = _in(_policy("b"), XML, hosts["b"], hosts)
    assert alone.cells == 2
    assert _in(_policy("b"), XML, one, hosts).cells == 8


def test_a_shape_is_kept(hosts: dict[str, Host]) -> None:
    """Where a host is added that can back it, and where one is gone; unless asked for anew."""
    two = _in(_policy("b"), XML, hosts["b"], hosts)
    text = _partitioned(XML, hosts["b"], two)
    more = _in(_policy("a", "b"), text, hosts["b"], hosts)
    assert (more.cells, more.distances) == (two.cells, two.distances) == (2, ((10, 21), (21, 10)))
    assert policy_to_record(more)["migration_group"] == "a,b"
    assert _in(_policy("a", "b"), text, hosts["b"], hosts, anew=True).cells == 8
    assert _in(_policy("a", "b", cells=4), text, hosts["b"], hosts).cells == 4
    assert _in(_policy("a", "b", distances="none"), text, hosts["b"], hosts).cells == 8


def test_a_host_that_is_added_and_cannot(hosts: dict[str, Host]) -> None:
    """It is named with its figures; the others are not."""
    text = _partitioned(XML, hosts["a"], _in(_policy("a", "b"), XML, hosts["a"], hosts))
    with pytest.raises(LayoutError) as raised:
        _in(_policy("a", "b", "c"), text, hosts["a"], hosts)
    assert "its shape of 8 cells does not fit every host" in str(raised.value)
    assert "(c: the host cannot back its cells: spread over 2 of 2 nodes" in str(raised.value)


def test_the_record_alone_gives_the_plan_of_each_host(hosts: dict[str, Host]) -> None:
    """What stands in the definition on one host is enough to plan it on the other."""
    policy = _in(_policy("a", "b"), XML, hosts["a"], hosts)
    recorded = policy_from_options(policy_to_record(policy))
    assert recorded == policy
    guest = read_guest(read_definition(XML), 2048)
    layouts = [plan(guest, hosts[name], recorded) for name in "ab"]
    assert layouts[0].cells == layouts[1].cells
    assert [layout.nodeset for layout in layouts] == [tuple(range(8)), (0, 1)]


def test_unknown_hosts(hosts: dict[str, Host]) -> None:
    """A name without its topology."""
    with pytest.raises(PolicyError, match="migration_group names d, whose topology is not given"):
        _in(_policy("a", "d"), XML, hosts["a"], hosts)
