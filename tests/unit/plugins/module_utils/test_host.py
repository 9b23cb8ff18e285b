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
from ansible_collections.kvm.vnuma.plugins.module_utils._capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HostError
from ansible_collections.kvm.vnuma.plugins.module_utils._host import (
    Host,
    host_from_facts,
    host_to_facts,
)

HOSTS = Path(__file__).resolve().parents[3] / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.xml"))
SPECS = sorted(path.stem for path in HOSTS.glob("*.json"))


def _ids(text: str) -> set[int]:
    ids: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _dash, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


def test_there_are_enough_hosts() -> None:
    """The tables below are not empty by accident."""
    assert len(SPECS) >= 30
    assert set(SPECS) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_facts_survive_json(host: Callable[[str], Host], name: str) -> None:
    """What vnuma_facts returns is read back as the same host."""
    facts = json.loads(json.dumps(host_to_facts(host(name))))
    assert host_from_facts(facts) == host(name)


@pytest.mark.parametrize("name", SPECS)
def test_what_libvirtd_says_is_what_the_host_is(host: Callable[[str], Host], name: str) -> None:
    """Ids, online pCPUs, memory and distances are those that the host was made with."""
    spec = json.loads((HOSTS / f"{name}.json").read_text(encoding="utf-8"))
    offline = _ids(spec.get("offline", ""))
    nodes = {node["id"]: node for node in spec["nodes"]}
    assert [node.id for node in host(name).nodes] == sorted(nodes)
    for node in host(name).nodes:
        made = nodes[node.id]
        assert set(node.cpus) == _ids(made.get("cpus", "")) - offline
        assert node.memory_kib == made["memory_kib"]
        assert sorted(cpu for core in node.cores for cpu in core) == list(node.cpus)
        for other, value in zip(spec["nodes"], _row(spec, node.id)):
            # libvirt leaves out a distance of 0.
            assert dict(node.distances).get(other["id"], 0) == value


def _row(spec: dict[str, Any], node_id: int) -> list[int]:
    ids = [node["id"] for node in spec["nodes"]]
    if "distances" not in spec:
        return [10 if node_id == other else 20 for other in ids]
    row: list[int] = spec["distances"][ids.index(node_id)]
    return row


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


def test_hugepages_leave_the_ordinary_page_out(host: Callable[[str], Host]) -> None:
    """The smallest page is no hugepage, whatever its size."""
    assert [p.size_kib for p in host("edited-ppc64-16n").nodes[0].hugepages] == [2048, 1048576]
    assert [p.size_kib for p in host("edited-aarch64-4n").nodes[0].hugepages] == [
        *(64, 2048, 32768, 1048576)
    ]
    assert host("edited-ppc64-16n").hugepage_default_kib == 2048
    assert [
        [(pool.size_kib, pool.total) for pool in node.hugepages]
        for node in host("hugepages-unequal-4n").nodes
    ] == [
        [(2048, 1024), (1048576, 4)],
        [(2048, 2048), (1048576, 8)],
        [(2048, 0), (1048576, 0)],
        [(2048, 512), (1048576, 2)],
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the capabilities document is not well-formed XML"),
        ("<domain/>", "begins with <domain>, where <capabilities> belongs."),
        ("<capabilities/>", "has no <host>"),
        (
            "<capabilities><host><topology><cells><cell id='x'/></cells></topology></host>"
            "</capabilities>",
            "has 'x' as cell id, where a number belongs.",
        ),
        (
            "<capabilities><host><topology><cells><cell id='0'><cpus><cpu id='0' socket_id='0' "
            "siblings='0-'/></cpus></cell></cells></topology></host></capabilities>",
            "host node 0, pCPU 0: '0-' is not a set of numbers",
        ),
        ("<!DOCTYPE capabilities [<!ENTITY a 'b'>]><capabilities/>", "document type declaration"),
    ],
)
def test_capabilities_that_are_none(text: str, sentence: str) -> None:
    """A sentence, whatever is fed in."""
    with pytest.raises(HostError) as raised:
        parse_capabilities(text)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (None, "host is None; give ansible_facts.vnuma_host"),
        ([], "host is []"),
        ({}, "host.nodes is None; give a list"),
        ({"nodes": {}}, "host.nodes is {}"),
        ({"nodes": [1]}, "host.nodes has 1; each node is a dictionary with an 'id'."),
        ({"nodes": [{"id": "x"}]}, "host.nodes[].id is 'x'; give a whole number from 0 up."),
        ({"nodes": [{"id": 0}, {"id": 0}]}, "lists a node id twice"),
        ({"nodes": [{"id": 0, "cpus": "0-"}]}, "host node 0: cpus: '0-' is not a set"),
        (
            {"nodes": [{"id": 0, "cpus": "0", "cores": ["0,1"]}]},
            "cores name pCPU 1, which cpus '0'",
        ),
        ({"nodes": [{"id": 0, "cores": "0"}]}, "host node 0: cores is '0'; give a list."),
        ({"nodes": [{"id": 0, "memory_kib": -1}]}, "host node 0: memory_kib is -1"),
        ({"nodes": [{"id": 0, "distances": [10]}]}, "host node 0: distances is [10]"),
        ({"nodes": [{"id": 0, "distances": {"a": 1}}]}, "host node 0: distances is 'a'"),
        ({"nodes": [{"id": 0, "hugepages": [1]}]}, "host node 0: hugepages has 1"),
        ({"nodes": [{"id": 0, "hugepages": [{"size_kib": 0}]}]}, "hugepages[].size_kib is 0"),
        ({"nodes": [{"id": 0, "hugepages": 5}]}, "host node 0: hugepages is 5; give a list."),
        ({"nodes": [{"id": True}]}, "host.nodes[].id is True"),
        ({"nodes": [{"id": -1}]}, "host.nodes[].id is -1"),
        ({"nodes": [{"id": None}]}, "host.nodes[].id is None"),
        ({"nodes": [{}]}, "host.nodes has {}; each node is a dictionary with an 'id'."),
        ({"nodes": [{"id": 0, "cpus": True}]}, "host node 0: cpus: 'True' is not a set"),
        ({"nodes": [{"id": 0, "cpus": "9" * 5000}]}, "host node 0: cpus: "),
        ({"nodes": [{"id": 0, "cpus": ["x"]}]}, "host node 0: cpus is 'x'"),
        ({"nodes": [{"id": 0, "memory_kib": 1.5}]}, "host node 0: memory_kib is 1.5"),
        ({"nodes": [{"id": 0, "free_kib": "much"}]}, "host node 0: free_kib is 'much'"),
        ({"nodes": [{"id": 0, "socket_ids": ["x"]}]}, "host node 0: socket_ids is 'x'"),
        ({"nodes": [{"id": 0, "distances": {"0": None}}]}, "distances[0] is None"),
        ({"nodes": [], "hugepage_default_kib": "big"}, "host.hugepage_default_kib is 'big'"),
        ({"nodes": "x" * 500}, "host.nodes is 'xxx"),
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


def test_offline_cpus_are_not_there() -> None:
    """A pCPU without siblings is offline; siblings that are offline are no threads."""
    cpus = (
        "<cpu id='0' socket_id='0' siblings='0-1'/><cpu id='1'/>"
        "<cpu id='2' socket_id='0' siblings='2-3'/><cpu id='3' socket_id='0' siblings='2-3'/>"
    )
    (node,) = parse_capabilities(
        "<capabilities><host><topology><cells><cell id='5'><memory>1024</memory>"
        f"<cpus>{cpus}</cpus></cell></cells></topology></host></capabilities>"
    ).nodes
    assert (node.id, node.cpus, node.cores) == (5, (0, 2, 3), ((0,), (2, 3)))
    assert (node.threads, node.socket_ids, node.distances) == (2, (0,), ())


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
        hugepage_default_kib=1048576,
    )
    facts = json.loads(json.dumps(host_to_facts(whole)))
    assert host_from_facts(facts) == whole
    assert facts["libvirt_version"] == "9.0.0"
    assert facts["nodes"][0]["free_kib"] == 5
    assert facts["threads_per_core"] == whole.threads_per_core


@pytest.mark.parametrize(
    ("arch", "sizes", "default"),
    [
        ("x86_64", (4, 2048, 1048576), 2048),
        ("x86_64", (4,), 2048),
        ("x86_64", (4, 1048576), 1048576),
        ("aarch64", (64, 2048, 524288), 2048),
        ("ppc64le", (64, 16384, 16777216), 16384),
        ("ppc64le", (64, 2048, 1048576), 2048),
        ("ppc64", (), 16384),
        ("s390x", (4, 1024), 1024),
    ],
)
def test_default_hugepage(arch: str, sizes: tuple[int, ...], default: int) -> None:
    """What Linux takes by default, unless the host cannot have it."""
    pages = "".join(f"<pages unit='KiB' size='{size}'/>" for size in sizes)
    made = parse_capabilities(
        f"<capabilities><host><cpu><arch>{arch}</arch>{pages}</cpu></host></capabilities>"
    )
    assert (made.arch, made.hugepage_default_kib, made.nodes) == (arch, default, ())
    if default != 1048576 and 2048 not in sizes:
        assert host_from_facts({"nodes": [], "arch": arch}).hugepage_default_kib == default
