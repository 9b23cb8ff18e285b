# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts: from capabilities, to facts and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HostError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    host_from_facts,
    host_to_facts,
)

HOSTS = Path(__file__).resolve().parents[4] / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.xml"))
SPECS = sorted(path.stem for path in HOSTS.glob("*.json"))


def _ids(text: str) -> set[int]:
    ids: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _dash, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_facts_survive_json(host: Callable[[str], Host], name: str) -> None:
    """What vnuma_facts returns is read back as the same host."""
    facts = json.loads(json.dumps(host_to_facts(host(name))))
    assert host_from_facts(facts) == host(name)


@pytest.mark.parametrize(
    ("name", "eligible", "threads"),
    [
        ("rfc-8n240c", range(8), 2),
        ("sparse-ids", (0, 8), 4),
        ("memless-node", (0,), 1),
        ("cpuless-pmem", (0, 1), 2),
        ("gpu-nodes-0-8-252", (0, 8), 4),
        ("offline-threads", (0, 1), 1),
        ("offline-whole-socket", (0, 2, 3), 1),
        ("smt8-4n128c", range(4), 8),
        ("mixed-smt-2n24c", (0, 1), 1),
        ("hybrid-1n12c", (0,), 2),
        ("edited-no-topology", (), 1),
        ("edited-no-siblings", (0, 1), 1),
        ("edited-overlapping-cpus", (0, 1), 2),
        ("edited-nothing-usable", (), 1),
        ("edited-ppc64-16n", range(16), 8),
    ],
)
def test_eligible_nodes_and_threads(
    host: Callable[[str], Host], name: str, eligible: Any, threads: int
) -> None:
    """Nodes with pCPUs and memory; the SMT width that all of them have."""
    assert [node.id for node in host(name).eligible] == list(eligible)
    assert host(name).threads_per_core == threads


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (None, "topology must be ansible_facts.vnuma_host as vnuma_facts returns it, not None."),
        ([], "topology must be ansible_facts.vnuma_host as vnuma_facts returns it, not []."),
        ({}, "host.nodes must be a list as vnuma_facts returns it, not None."),
        ({"nodes": {}}, "host.nodes must be a list as vnuma_facts returns it, not {}."),
        ({"nodes": [1]}, "host.nodes must hold dictionaries with an 'id', not 1."),
        ({"nodes": [{"id": "x"}]}, "host.nodes[].id must be an integer of at least 0, not 'x'."),
        ({"nodes": [{"id": 0}, {"id": 0}]}, "lists a node id twice"),
        # What is empty and of another type is not the same as what is not there.
        ({"nodes": [{"id": 0, "hugepages": {}}]}, "host node 0: hugepages must be a list, not {}."),
        ({"nodes": [{"id": 0, "socket_ids": ""}]}, "node 0: socket_ids must be a list, not ''."),
        ({"nodes": [{"id": 0, "cores": False}]}, "host node 0: cores must be a list, not False."),
        ({"nodes": [{"id": 0, "distances": []}]}, "distances must be a dictionary by node id, not"),
        ({"nodes": [{"id": 0, "memory_kib": ""}]}, "memory_kib must be an integer of at least 0"),
        ({"nodes": [], "cpu_kinds": ""}, "host.cpu_kinds must be a list, not ''."),
        (
            {"nodes": [{"id": 16384}]},
            "host.nodes[].id must be an integer from 0 to 16383, not 16384.",
        ),
        (
            {"nodes": [{"id": 0, "cpus": [0, 10**12]}]},
            "host node 0: cpus must be an integer from 0 to 16383, not 1000000000000.",
        ),
        ({"nodes": [{"id": 0, "cpus": "0-"}]}, "host node 0: cpus: '0-' is not a set"),
        (
            {"nodes": [{"id": 0, "cpus": "0", "cores": ["0,1"]}]},
            "cores name pCPU 1, which is not in cpus '0'",
        ),
        ({"nodes": [{"id": 0, "cores": "0"}]}, "host node 0: cores must be a list, not '0'."),
        (
            {"nodes": [{"id": 0, "memory_kib": -1}]},
            "host node 0: memory_kib must be an integer of at least 0, not -1.",
        ),
        (
            {"nodes": [{"id": 0, "distances": [10]}]},
            "host node 0: distances must be a dictionary by node id, not [10].",
        ),
        (
            {"nodes": [{"id": 0, "distances": {"a": 1}}]},
            "host node 0: distances must be an integer of at least 0, not 'a'.",
        ),
        (
            {"nodes": [{"id": 0, "hugepages": [1]}]},
            "host node 0: hugepages must have size_kib, total and free, not 1.",
        ),
        (
            {"nodes": [{"id": 0, "hugepages": [{"size_kib": 0}]}]},
            "hugepages[].size_kib must be an integer of at least 1, not 0.",
        ),
        ({"nodes": [{"id": 0, "hugepages": 5}]}, "host node 0: hugepages must be a list, not 5."),
        ({"nodes": [{"id": True}]}, "host.nodes[].id must be an integer of at least 0, not True."),
        ({"nodes": [{"id": -1}]}, "host.nodes[].id must be an integer of at least 0, not -1."),
        ({"nodes": [{"id": None}]}, "host.nodes[].id must be an integer of at least 0, not None."),
        ({"nodes": [{}]}, "host.nodes must hold dictionaries with an 'id', not {}."),
        ({"nodes": [{"id": 0, "cpus": True}]}, "host node 0: cpus: 'True' is not a set"),
        ({"nodes": [{"id": 0, "cpus": "9" * 5000}]}, "host node 0: cpus: "),
        (
            {"nodes": [{"id": 0, "cpus": ["x"]}]},
            "host node 0: cpus must be an integer of at least 0, not 'x'.",
        ),
        (
            {"nodes": [{"id": 0, "memory_kib": 1.5}]},
            "host node 0: memory_kib must be an integer of at least 0, not 1.5.",
        ),
        (
            {"nodes": [{"id": 0, "free_kib": "much"}]},
            "host node 0: free_kib must be an integer of at least 0, not 'much'.",
        ),
        (
            {"nodes": [{"id": 0, "socket_ids": ["x"]}]},
            "host node 0: socket_ids must be an integer of at least 0, not 'x'.",
        ),
        (
            {"nodes": [{"id": 0, "distances": {"0": None}}]},
            "distances[0] must be an integer of at least 0, not None.",
        ),
        (
            {"nodes": [], "hugepage_default_kib": "big"},
            "host.hugepage_default_kib must be an integer of at least 1, not 'big'.",
        ),
        ({"nodes": "x" * 500}, "host.nodes must be a list as vnuma_facts returns it, not 'xxx"),
        # Two guests that were each given a core of their own would share it.
        ({"nodes": [{"id": 0, "cpus": "0-3", "cores": ["0-1", "1-2"]}]}, "host node 0: cores"),
    ],
)
def test_facts_that_are_none(facts: object, sentence: str) -> None:
    """Facts written by hand are checked, key by key."""
    with pytest.raises(HostError) as raised:
        host_from_facts(facts)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_facts_by_hand_need_little() -> None:
    """Three keys a node are enough to plan."""
    made = host_from_facts({"nodes": [{"id": 1, "cpus": "4-7", "memory_kib": 1024}, {"id": 0}]})
    assert [node.id for node in made.nodes] == [0, 1]
    assert made.nodes[1].cores == ((4,), (5,), (6,), (7,))


@pytest.mark.parametrize(
    ("cores", "read"),
    [
        (["2-3", "0-1"], ((0, 1), (2, 3))),
        (["2-3"], ((0,), (1,), (2, 3))),
        ([], ((0,), (1,), (2,), (3,))),
        (["", "1,3"], ((0,), (1, 3), (2,))),
    ],
)
def test_every_pcpu_is_in_a_core(cores: list[str], read: Any) -> None:
    """What facts by hand leave out is a core of its own, so that it can be pinned to."""
    (node,) = host_from_facts({"nodes": [{"id": 0, "cpus": "0-3", "cores": cores}]}).nodes
    assert node.cores == read


def test_facts_in_any_order(host: Callable[[str], Host]) -> None:
    """Neither the order of nodes nor that of keys, nor keys as numbers, make another host."""
    facts = json.loads(json.dumps(host_to_facts(host("asymmetric-4n16c"))))
    turned = {key: facts[key] for key in reversed(facts)}
    turned["nodes"] = [
        {
            **{key: node[key] for key in reversed(node)},
            "distances": {int(key): str(node["distances"][key]) for key in node["distances"]},
            "cpus": [int(cpu) for cpu in _ids(node["cpus"])],
        }
        for node in reversed(facts["nodes"])
    ]
    assert host_from_facts(turned) == host("asymmetric-4n16c")


def test_everything_that_is_known_survives(host: Callable[[str], Host]) -> None:
    """Versions, free memory and free pages too, which capabilities do not have."""
    known = host("hugepages-2n")
    assert (known.arch, known.libvirt_version) == ("x86_64", "")
    nodes = tuple(
        replace(
            node,
            free_kib=5,
            hugepages=tuple(replace(pool, free=3) for pool in node.hugepages),
        )
        for node in known.nodes
    )
    whole = replace(
        known,
        nodes=nodes,
        libvirt_version="9.0.0",
        hypervisor_version="7.2.0",
        cpu_vendor="AMD",
        cpu_model="EPYC-Rome",
        hugepage_default_kib=1048576,
    )
    facts = json.loads(json.dumps(host_to_facts(whole)))
    assert host_from_facts(facts) == whole
    assert facts["libvirt_version"] == "9.0.0"
    assert facts["nodes"][0]["free_kib"] == 5
    assert facts["threads_per_core"] == whole.threads_per_core
