# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout that a definition amounts to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.effect import (
    cell_placements,
    effective_layout,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.cell_placement import CellPlacement
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import layout_to_result
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text

_BARE = (
    "<domain type='kvm'><name>anuma</name><memory unit='KiB'>16777216</memory>"
    "<vcpu placement='static'>16</vcpu><iothreads>3</iothreads>"
    "<os><type arch='x86_64'>hvm</type></os></domain>"
)


def _domain(inner: str, vcpus: int = 4) -> str:
    return f"<domain><memory>4096</memory><vcpu>{vcpus}</vcpu>{inner}</domain>"


def _result(definition: Definition, host: Host) -> dict[str, Any]:
    return layout_to_result(effective_layout(definition, host))


def _cells(*vcpus: str) -> str:
    cells = "".join(
        f"<cell id='{cell}' cpus='{cpus}' memory='2048'/>" for cell, cpus in enumerate(vcpus)
    )
    return f"<cpu><numa>{cells}</numa></cpu>"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pinning": "core", "emulator_pinning": "nodes", "iothread_pinning": "nodes"},
        {"nodes": "2-5", "distribution": "interleave", "memory_mode": "preferred"},
        {"cells": 16, "pinning": "cpu"},
        {"memory_mode": "none", "distribution": "round_robin"},
        {"distances": "none"},
    ],
)
def test_what_was_planned_is_what_is_read(
    host: Callable[[str], Host], options: dict[str, Any]
) -> None:
    """A plan that was written into a definition is read back as that plan, key by key."""
    rfc = host("rfc-8n240c")
    policy = policy_from_options(options)
    before = read_definition(_BARE)
    layout = plan(read_guest(before, 2048), rfc, policy)
    after = read_definition(partitioned_text(before, layout, policy))
    assert _result(after, rfc) == layout_to_result(layout)


def test_nothing_in_the_definition(host: Callable[[str], Host]) -> None:
    """A guest that nobody touched has no cells, and nothing is made up."""
    assert _result(read_definition(_BARE), host("rfc-8n240c")) == {
        "vcpus": 16,
        "memory_kib": 16777216,
        "cells": [],
        "topology": None,
        "memory_mode": "none",
        "nodeset": "",
        "vcpu_pins": [],
        "emulator_pins": None,
        "iothread_pins": None,
    }


def test_some_pins(host: Callable[[str], Host]) -> None:
    """An unpinned vCPU has an empty cpuset; a cell of which one is unpinned has no host node."""
    pins = "<cputune><vcpupin vcpu='0' cpuset='0-2'/><vcpupin vcpu='3' cpuset='5'/></cputune>"
    layout = _result(
        read_definition(_domain(pins + _cells("0-1", "2-3"))), host("asymmetric-4n16c")
    )
    assert layout["vcpu_pins"] == ["0-2", "", "", "5"]
    assert [cell["host_node"] for cell in layout["cells"]] == [None, None]
    assert [cell["pins"] for cell in layout["cells"]] == ["0-2", "5"]


@pytest.mark.parametrize(
    ("tune", "expected"),
    [
        ("", [("none", (), ()), ("none", (), ())]),
        (
            "<numatune><memory mode='interleave' nodeset='1,3'/></numatune>",
            [("interleave", (1, 3), (1, 3)), ("interleave", (1, 3), (1, 3))],
        ),
        (
            "<numatune><memory mode='strict' nodeset='0'/>"
            "<memnode cellid='1' mode='preferred' nodeset='2'/></numatune>",
            [("strict", (0,), (0,)), ("preferred", (2,), (2,))],
        ),
        (
            "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='4-7'/>"
            "<vcpupin vcpu='2' cpuset='12'/><vcpupin vcpu='3' cpuset='13'/></cputune>",
            [("none", (), (0, 1)), ("none", (), (3,))],
        ),
        (
            "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='0'/></cputune>"
            "<numatune><memnode cellid='0' mode='strict' nodeset='3'/></numatune>",
            [("strict", (3,), (3,)), ("none", (), ())],
        ),
    ],
)
def test_where_memory_belongs(
    host: Callable[[str], Host],
    tune: str,
    expected: list[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """The cell's own binding comes first, then the guest's, then its pins."""
    definition = read_definition(_domain(tune + _cells("0-1", "2-3")))
    found = cell_placements(definition, host("asymmetric-4n16c"))
    assert [(place.mode, place.bound, place.home) for place in found] == expected


def test_mixed_modes(host: Callable[[str], Host]) -> None:
    """Cells that differ in mode are said to."""
    tune = "<numatune><memnode cellid='0' mode='strict' nodeset='1'/></numatune>"
    layout = _result(
        read_definition(_domain(tune + _cells("0-1", "2-3"))), host("asymmetric-4n16c")
    )
    assert layout["memory_mode"] == "mixed"
    assert layout["nodeset"] == "1"


def test_the_whole_of_a_guest_without_cells(host: Callable[[str], Host]) -> None:
    """It is one piece, without what its memory devices have."""
    inner = (
        "<numatune><memory mode='strict' nodeset='2'/></numatune>"
        "<devices><memory model='dimm'><target><size>1024</size></target></memory></devices>"
    )
    found = cell_placements(read_definition(_domain(inner)), host("asymmetric-4n16c"))
    assert found == [CellPlacement(None, (0, 1, 2, 3), 3072, "strict", (2,), (2,), ())]


@pytest.mark.parametrize(
    ("clusters", "shown"),
    [("", {}), ("clusters='1'", {}), ("clusters='2'", {"clusters": 2})],
)
def test_clusters(host: Callable[[str], Host], clusters: str, shown: dict[str, int]) -> None:
    """What libvirt adds since 10.1 does not show; what somebody set does, among its like."""
    inner = f"<cpu><topology sockets='2' dies='1' {clusters} cores='3' threads='1'/></cpu>"
    layout = _result(read_definition(_domain(inner, 12)), host("asymmetric-4n16c"))
    assert layout["topology"] == {"sockets": 2, "dies": 1, **shown, "cores": 3, "threads": 1}


def test_missing_distances(host: Callable[[str], Host]) -> None:
    """What a row lacks is what libvirt and QEMU take for it; no row at all stays empty."""
    inner = _cells("0-1", "2-3").replace(
        "memory='2048'/>",
        "memory='2048'><distances><sibling id='1' value='15'/></distances></cell>",
        1,
    )
    layout = _result(read_definition(_domain(inner)), host("asymmetric-4n16c"))
    assert [cell["distances"] for cell in layout["cells"]] == [[10, 15], []]
