# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes a guest mirrors, and in how many cells: through the planner, whose part it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_from_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.loads import Demand
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import GuestOf, HostOf, planned, refusal


@pytest.mark.parametrize(
    ("name", "nodes", "sentence"),
    [
        (
            "cxl-2n-plus-1",
            "0,2",
            "host node 2 of nodes '0,2' cannot be used: it has no online pCPUs",
        ),
        ("offline-node", "1", "it has no online pCPUs; the nodes that can be used are 0."),
        ("edited-no-topology", "0", "the host reports no NUMA topology; set nodes to 'all'"),
        ("edited-nothing-usable", "all", "no host node has both online pCPUs and memory"),
    ],
)
def test_nodes_that_cannot_be(
    host: HostOf, guest: GuestOf, name: str, nodes: str, sentence: str
) -> None:
    """Asked for by number, an ineligible node is an error that says why."""
    assert sentence in refusal(guest(), host(name), nodes=nodes)


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        (
            "memless-node",
            [
                "host node 1 is not used: it has no memory.",
                "cell 0 has 16 vCPUs on the 4 pCPUs of host node 0, which they share; reduce its "
                "vCPUs, or use more nodes.",
            ],
        ),
        ("cxl-2n-plus-1", ["host node 2 is not used: it has no online pCPUs."]),
        (
            "gpu-nodes-0-8-252",
            [f"host node {node} is not used: it has no online pCPUs." for node in (252, 253)],
        ),
        (
            "edited-no-topology",
            [
                "the host reports no NUMA topology; the guest gets one cell, "
                "without pins and without memory binding."
            ],
        ),
    ],
)
def test_nodes_left_out_are_named(
    host: HostOf, guest: GuestOf, name: str, warnings: list[str]
) -> None:
    """With all of them asked for, the others are named in the warnings."""
    assert list(planned(guest(memory_kib=1 << 20), host(name)).warnings) == warnings


def test_a_node_without_memory(host: HostOf, guest: GuestOf) -> None:
    """By name it backs a cell's pins; the memory is bound to the nearest node that has some."""
    layout = planned(guest(vcpus=8, memory_kib=8 << 20), host("memless-node"), nodes="0-1")
    assert (layout.host_nodes, layout.memory_nodes, layout.nodeset) == ((0, 1), (0, 0), (0,))
    assert layout.vcpu_pins[4] == (4, 5, 6, 7)
    # Its vCPUs are as far from its memory as from that of the other cell.
    assert [cell.distances for cell in layout.cells] == [(10, 11), (20, 10)]
    assert layout.warnings == (
        "host node 1 has pCPUs and no memory; memory of the cell that it backs is bound to host "
        "node 0, the nearest that has some.",
    )
    sentence = "host node 1 of auto_nodes '1' cannot be used: it has no memory;"
    with pytest.raises(LayoutError, match=sentence):
        Demand(guest(), policy_from_options({"auto_nodes": "1"}), host("memless-node"))


def test_more_and_fewer_cells_than_nodes(host: HostOf, guest: GuestOf) -> None:
    """Cell i is backed by node i mod n; nodes without a cell are named."""
    layout = planned(guest(), host("sparse-ids"), cells=4)
    assert list(layout.host_nodes) == [0, 8, 0, 8]
    assert [cell.distances for cell in layout.cells] == [
        (10, 40, 11, 40),
        (40, 10, 40, 11),
        (11, 40, 10, 40),
        (40, 11, 40, 10),
    ]
    layout = planned(guest(), host("rfc-8n240c"), cells=2)
    assert layout.nodeset == (0, 1)
    assert layout.warnings == ("cells 2 leaves host nodes 2-7 unused.",)
    assert len(planned(guest(128, 128 << 20), host("sparse-ids"), cells=128).cells) == 128
    # As libvirt may list it; facts of so many are refused as such.
    most = [{"id": i, "cpus": str(i), "memory_kib": 1 << 20} for i in range(128)]
    many = host_from_facts({"nodes": most})
    many = replace(many, nodes=(*many.nodes, replace(many.nodes[0], id=128, cpus=(128,))))
    assert "129 cells, one per host node, are more than the 128 that QEMU supports" in refusal(
        guest(200, 200 << 20), many
    )
