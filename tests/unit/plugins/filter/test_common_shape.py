# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of a group from facts and a definition, and what other filters make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.common_shape import common_shape
from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_to_facts
from lxml import etree

HOSTS = Path(__file__).resolve().parents[3] / "hosts"
NAMES = {"kvm1": "rfc-8n240c", "kvm2": "two-socket-2n32c"}
GUEST = (
    "<domain type='kvm'><name>anuma</name><memory unit='GiB'>8</memory><vcpu>16</vcpu>"
    "<os><type arch='x86_64'>hvm</type></os>"
    "<devices><graphics type='vnc' passwd='s3cr3tvn'/></devices></domain>"
)
#: What a guest's kernel sees.
SEEN = ("cpu/numa", "cpu/topology")


def _facts(**names: str) -> dict[str, Any]:
    texts = {name: (HOSTS / f"{spec}.xml").read_text() for name, spec in names.items()}
    return {name: host_to_facts(parse_capabilities(text)) for name, text in texts.items()}


def _seen(text: str) -> list[bytes]:
    root = etree.fromstring(text)
    return [etree.tostring(root.find(path), method="c14n") for path in SEEN]


def test_a_shape_and_its_nodes() -> None:
    """As JSON, the same for facts and capabilities; its options make equal guests on both."""
    facts = _facts(**NAMES)
    found = common_shape(facts, GUEST)
    assert found["errors"] == []
    assert found["nodes"] == {"kvm1": "0-7", "kvm2": "0-1"}
    assert (found["shape"]["cells"], found["shape"]["threads"]) == (8, 1)
    assert found["shape"]["distances"][0][1] == 21
    assert found["shape"]["migration_group"] == ["kvm1", "kvm2"]
    assert "s3cr3tvn" not in json.dumps(found)
    texts = {name: (HOSTS / f"{spec}.xml").read_text() for name, spec in NAMES.items()}
    assert common_shape(texts, GUEST) == found
    one, other = (partition_domain(GUEST, facts[name], **found["shape"]) for name in NAMES)
    assert _seen(one) == _seen(other)
    assert one.count("nodeset='0-7'") == other.count("nodeset='0-1'") == 1
    # By the facts of the group it is the same, in both filters.
    assert partition_domain(GUEST, facts["kvm1"], facts, migration_group=list(facts)) == one
    plan = plan_host([GUEST], facts["kvm2"], topologies=facts, migration_group=list(facts))
    assert plan["guests"][0]["definition"] == other


def test_who_cannot() -> None:
    """Is named, and there is no shape."""
    found = common_shape(_facts(kvm1="rfc-8n240c", kvm2="tiny-2n2c"), GUEST)
    assert found["shape"] is None
    assert [error["name"] for error in found["errors"]] == ["kvm2"]
    assert found["errors"][0]["msg"].rstrip(".") in found["msg"]


@pytest.mark.parametrize(
    ("hosts", "definition", "sentence"),
    [
        ([], GUEST, "common_shape takes a dictionary of hosts"),
        ({}, GUEST, "common_shape takes a dictionary of hosts"),
        ({"a": {}}, 5, "the domain definition must be text, not int"),
        ({"a": 5}, GUEST, "topology of a: topology must be ansible_facts.vnuma_host"),
        ({"a": {"nodes": []}}, GUEST, "a: the host has no NUMA node"),
        ({"a": {"nodes": []}}, "<x/>", "must start with <domain>"),
    ],
)
def test_refuses(hosts: Any, definition: Any, sentence: str) -> None:
    """One sentence each, in the result where it is about a host of the group."""
    try:
        said = common_shape(hosts, definition)["msg"]
    except AnsibleFilterError as error:
        said = str(error)
    assert sentence in said
