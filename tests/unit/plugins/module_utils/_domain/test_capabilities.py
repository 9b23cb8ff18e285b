# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Capabilities: what libvirtd says of a host is what the host is, however odd."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HostError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    Node,
    host_from_facts,
    host_to_facts,
)

HOSTS = Path(__file__).resolve().parents[4] / "hosts"
NAMES = sorted(path.stem for path in HOSTS.glob("*.xml"))
SPECS = sorted(path.stem for path in HOSTS.glob("*.json"))


def _node(inside: str) -> Node:
    (node,) = parse_capabilities(
        "<capabilities><host><topology><cells><cell id='5'><memory>1024</memory>"
        f"{inside}</cell></cells></topology></host></capabilities>"
    ).nodes
    return node


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
        shared = [_ids(members) & set(node.cpus) for members in spec.get("l3", ())]
        assert [set(cpus) for cpus in node.cache_domains] == sorted(filter(None, shared), key=min)
        for other, value in zip(spec["nodes"], _row(spec, node.id)):
            # libvirt leaves out a distance of 0.
            assert dict(node.distances).get(other["id"], 0) == value


@pytest.mark.parametrize("name", [name for name in NAMES if name != "edited-no-topology"])
def test_what_newer_libvirt_adds(host: Callable[[str], Host], name: str) -> None:
    """Clusters of pCPUs, caches of memory and interconnects make no other host of it."""
    text = (HOSTS / f"{name}.xml").read_text(encoding="utf-8")
    newer = re.sub(r"(<cpu id='\d+' socket_id='[^']*' die_id='\d+')", r"\1 cluster_id='7'", text)
    for old, new in (
        (
            "<cpus num=",
            "<cache level='1' associativity='direct' policy='writeback'><size value='10' "
            "unit='KiB'/><line value='8' unit='B'/></cache><cpus num=",
        ),
        (
            "</cells>",
            "</cells><interconnects><latency initiator='0' target='0' type='read' value='6'/>"
            "<bandwidth initiator='0' target='0' type='read' cache='1' value='205824' unit='KiB'/>"
            "</interconnects>",
        ),
    ):
        newer = newer.replace(old, new)
    assert newer != text
    assert parse_capabilities(newer) == host(name)


def _banks(*cpusets: str, level: int = 3) -> str:
    return "".join(
        f"<bank id='{number}' level='{level}' type='both' size='16' unit='MiB' cpus='{cpus}'>"
        "<control granularity='768' unit='KiB' type='both' maxAllocs='4'/></bank>"
        for number, cpus in enumerate(cpusets)
    )


@pytest.mark.parametrize(
    ("banks", "domains"),
    [
        ("", [(), ()]),
        (_banks("0-1,4-5", "2-3,6-7"), [((0, 1), (2, 3)), ((4, 5), (6, 7))]),
        # One cache for two nodes: sub-NUMA clustering.
        (_banks("0-7"), [((0, 1, 2, 3),), ((4, 5, 6, 7),)]),
        # A cache that is not told of, and pCPUs that are offline.
        (_banks("0-1", "4-9"), [((0, 1),), ((4, 5, 6, 7),)]),
        (_banks("0-3", level=2), [(), ()]),
        # Caches that are listed once for each of their pCPUs, and some that disagree.
        (_banks("0-1", "0-1", "2-7", "2-7"), [((0, 1), (2, 3)), ((4, 5, 6, 7),)]),
        (_banks("0-1", "1-3"), [((0, 1), (2, 3)), ()]),
        # One node has a list, and the other none.
        (_banks("0-1", "2-3"), [((0, 1), (2, 3)), ()]),
        # pCPUs that no node has any more, and a cache that covers a node in part.
        (_banks("1-5", "64-71"), [((1, 2, 3),), ((4, 5),)]),
        (_banks("0-3", "4-7") + _banks("0-7", level=4), [((0, 1, 2, 3),), ((4, 5, 6, 7),)]),
    ],
)
def test_cache_domains(banks: str, domains: list[tuple[tuple[int, ...], ...]]) -> None:
    """The online pCPUs of each node by the L3 cache that they share."""
    text = (HOSTS / "memless-node.xml").read_text(encoding="utf-8")
    host = parse_capabilities(text.replace("</host>", f"<cache>{banks}</cache></host>"))
    assert [node.cache_domains for node in host.nodes] == domains
    assert host_from_facts(host_to_facts(host)).nodes == host.nodes


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("rome-nps1", {4: 4}),
        ("rome-nps4", {4: 8}),
        ("milan-nps1", {8: 4}),
        ("genoa-nps1", {8: 3}),
        ("epyc9654-nps4", {8: 24}),
        ("l3-numa-4n", {4: 4}),
        ("snc2-4n", {10: 4}),
        ("two-socket-2n32c", {16: 2}),
        ("hybrid-1n12c", {8: 1}),
        ("edited-aarch64-4n", {}),
        ("edited-ppc64-16n", {1: 16}),
    ],
)
def test_the_caches_of_real_machines(
    host: Callable[[str], Host], name: str, counts: dict[int, int]
) -> None:
    """How many domains of how many cores there are, none of them over two nodes."""
    found: dict[int, int] = {}
    for node in host(name).nodes:
        for domain in node.cache_domains:
            assert set(domain) <= set(node.cpus)
            cores = sum(set(core) <= set(domain) for core in node.cores)
            assert sum(map(len, node.cores)) >= len(domain)
            found[cores] = found.get(cores, 0) + 1
    assert found == counts


def test_offline_cpus_are_in_no_cache(host: Callable[[str], Host]) -> None:
    """libvirt lists them in <cells> by their id alone, and a cache may name them."""
    text = (HOSTS / "offline-threads.xml").read_text(encoding="utf-8")
    known = host("offline-threads")
    everything = format_cpuset(range(max(cpu for node in known.nodes for cpu in node.cpus) + 9))
    found = parse_capabilities(
        text.replace("</host>", f"<cache>{_banks(everything)}</cache></host>")
    )
    assert [node.cache_domains for node in found.nodes] == [(node.cpus,) for node in known.nodes]


def _row(spec: dict[str, Any], node_id: int) -> list[int]:
    ids = [node["id"] for node in spec["nodes"]]
    if "distances" not in spec:
        return [10 if node_id == other else 20 for other in ids]
    row: list[int] = spec["distances"][ids.index(node_id)]
    return row


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
        ("<domain/>", "must start with <capabilities>, not <domain>."),
        ("<capabilities/>", "has no <host>"),
        (
            "<capabilities><host><topology><cells><cell id='x'/></cells></topology></host>"
            "</capabilities>",
            "has 'x' as cell id, which must be a number; give the unmodified output of 'virsh "
            "capabilities'.",
        ),
        (
            "<capabilities><host><topology><cells><cell id='16384'/></cells></topology></host>"
            "</capabilities>",
            "has '16384' as cell id, which is over 16383, the highest id that libvirt supports; "
            "give the unmodified output of 'virsh capabilities'.",
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


def test_offline_cpus_are_not_there() -> None:
    """A pCPU without siblings is offline; siblings that are offline are no threads."""
    node = _node(
        "<cpus><cpu id='0' socket_id='0' siblings='0-1'/><cpu id='1'/>"
        "<cpu id='2' socket_id='0' siblings='2-3'/><cpu id='3' socket_id='0' siblings='2-3'/>"
        "</cpus>"
    )
    assert (node.id, node.cpus, node.cores) == (5, (0, 2, 3), ((0,), (2, 3)))
    assert (node.threads, node.socket_ids, node.distances) == (2, (0,), ())


@pytest.mark.parametrize(
    ("siblings", "cores"),
    [
        # Each of two pCPUs is said to be the other's, and one of them a third one's too.
        (("0-1", "0-1", "1-2", "3"), ((0, 1), (2,), (3,))),
        # A pCPU that is not among its own siblings, and siblings that are not there.
        (("2", "1", "0", "7-9"), ((0, 2), (1,), (3,))),
        (("0-3", "1", "2", "3"), ((0, 1, 2, 3),)),
        (("0", "0-1", "2-3", "2-3"), ((0,), (1,), (2, 3))),
    ],
)
def test_siblings_that_disagree(siblings: tuple[str, ...], cores: Any) -> None:
    """Every pCPU is a thread of one core, whatever the kernel was told; facts can be read back."""
    listed = "".join(
        f"<cpu id='{number}' socket_id='0' siblings='{text}'/>"
        for number, text in enumerate(siblings)
    )
    node = _node(f"<cpus>{listed}</cpus>")
    assert node.cpus == (0, 1, 2, 3)
    assert node.cores == cores
    assert host_from_facts(host_to_facts(Host((node,)))).nodes == (node,)


@pytest.mark.parametrize("socket", ["-1", "", "x"])
def test_sockets_without_a_number(socket: str) -> None:
    """Firmware that does not number its sockets leaves the pCPUs as good as others."""
    node = _node(f"<cpus><cpu id='0' socket_id='{socket}' siblings='0'/></cpus>")
    assert (node.cpus, node.socket_ids) == ((0,), ())


@pytest.mark.parametrize(
    ("arch", "sizes", "default"),
    [
        ("x86_64", (4, 2048, 1048576), 2048),
        ("x86_64", (4,), 2048),
        ("x86_64", (4, 1048576), 1048576),
        ("aarch64", (4, 64, 2048, 32768, 1048576), 2048),
        ("aarch64", (16, 2048, 32768, 1048576), 32768),
        ("aarch64", (64, 2048, 524288, 16777216), 524288),
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
