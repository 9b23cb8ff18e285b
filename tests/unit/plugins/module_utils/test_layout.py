# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner, rule by rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._guest import (
    Guest,
    HugepageUse,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._host import (
    Host,
    host_from_facts,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._layout import (
    Layout,
    plan,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    policy_from_options,
)

HostOf = Callable[[str], Host]
GuestOf = Callable[..., Guest]


def _plan(guest: Guest, host: Host, **options: Any) -> Layout:
    return plan(guest, host, policy_from_options(options))


def _refusal(guest: Guest, host: Host, **options: Any) -> str:
    with pytest.raises(LayoutError) as raised:
        _plan(guest, host, **options)
    return str(raised.value)


def _topology(layout: Layout) -> tuple[int, int, int, int]:
    shape = layout.topology
    return (shape.sockets, shape.dies, shape.cores, shape.threads)


def _vcpus(layout: Layout) -> list[list[int]]:
    return [list(cell.vcpus) for cell in layout.cells]


def test_contiguous_is_the_default(host: HostOf, guest: GuestOf) -> None:
    """Whole cores in order, a node each."""
    layout = _plan(guest(), host("rfc-8n240c"))
    assert _vcpus(layout) == [[2 * cell, 2 * cell + 1] for cell in range(8)]
    assert _topology(layout) == (8, 1, 1, 2)
    assert [cell.host_node for cell in layout.cells] == list(range(8))
    assert [cell.memory_kib for cell in layout.cells] == [8 << 20] * 8
    assert layout.nodeset == tuple(range(8))
    assert layout.memory_mode == "strict"
    assert layout.warnings == ()


@pytest.mark.parametrize(
    ("name", "vcpus", "sizes", "topology"),
    [
        ("rfc-8n240c", 18, [4, 2, 2, 2, 2, 2, 2, 2], (9, 1, 1, 2)),
        ("rfc-8n240c", 32, [4] * 8, (8, 1, 2, 2)),
        ("rfc-8n240c", 24, [4, 4, 4, 4, 2, 2, 2, 2], (12, 1, 1, 2)),
        ("rfc-8n240c", 17, [3, 2, 2, 2, 2, 2, 2, 2], (17, 1, 1, 1)),
        ("rfc-8n240c", 8, [1] * 8, (8, 1, 1, 1)),
        ("rfc-8n240c", 14, [2, 2, 2, 2, 2, 2, 1, 1], (14, 1, 1, 1)),
        ("all-ten-4n16c", 7, [2, 2, 2, 1], (7, 1, 1, 1)),
        ("sparse-ids", 24, [12, 12], (2, 1, 3, 4)),
        ("sparse-ids", 12, [8, 4], (3, 1, 1, 4)),
        ("smt8-4n128c", 64, [16] * 4, (4, 1, 2, 8)),
        ("smt8-4n128c", 24, [6] * 4, (4, 1, 6, 1)),
        ("mixed-smt-2n24c", 8, [4, 4], (2, 1, 4, 1)),
        ("1n8c", 6, [6], (1, 1, 3, 2)),
        ("edited-no-topology", 5, [5], (1, 1, 5, 1)),
    ],
)
def test_contiguous_deals_whole_cores(
    host: HostOf, guest: GuestOf, name: str, vcpus: int, sizes: list[int], topology: Any
) -> None:
    """Cells differ by one core at most, the larger first; no socket straddles cells."""
    layout = _plan(guest(vcpus), host(name))
    assert [len(cell.vcpus) for cell in layout.cells] == sizes
    assert _topology(layout) == topology
    assert [vcpu for cell in layout.cells for vcpu in cell.vcpus] == list(range(vcpus))


def test_interleave(host: HostOf, guest: GuestOf) -> None:
    """vCPU i is in cell i mod n, and a socket of its own."""
    layout = _plan(guest(18), host("rfc-8n240c"), distribution="interleave")
    assert _vcpus(layout) == [[v for v in range(18) if v % 8 == cell] for cell in range(8)]
    assert _topology(layout) == (18, 1, 1, 1)
    assert layout.warnings == ()
    assert "threads 2 does not go with distribution 'interleave'" in _refusal(
        guest(), host("rfc-8n240c"), distribution="interleave", threads=2
    )
    assert _topology(_plan(guest(), host("rfc-8n240c"), distribution="interleave", threads=1)) == (
        16,
        1,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("vcpus", "options", "topology", "warned"),
    [
        (16, {}, (8, 1, 1, 2), True),
        (32, {}, (8, 1, 2, 2), True),
        (24, {}, (8, 1, 3, 1), True),
        (8, {}, (8, 1, 1, 1), False),
        (18, {}, (18, 1, 1, 1), False),
        (16, {"threads": 1}, (8, 1, 2, 1), True),
        (16, {"cells": 1}, (1, 1, 8, 2), False),
        (16, {"cells": 2}, (2, 1, 4, 2), True),
    ],
)
def test_round_robin(
    host: HostOf, guest: GuestOf, vcpus: int, options: Any, topology: Any, warned: bool
) -> None:
    """The RFC's layout; whoever gets a socket that straddles cells is warned."""
    layout = _plan(guest(vcpus), host("rfc-8n240c"), distribution="round_robin", **options)
    assert _topology(layout) == topology
    assert any("not on the same node" in one for one in layout.warnings) is warned
    count = len(layout.cells)
    assert _vcpus(layout) == [[v for v in range(vcpus) if v % count == c] for c in range(count)]


@pytest.mark.parametrize(
    ("vcpus", "options", "sentence"),
    [
        (3, {}, "3 vCPUs cannot fill 8 cells; give it at least 8 vCPUs"),
        (3, {"cells": 4}, "3 vCPUs cannot fill 4 cells"),
        (9, {"threads": 2}, "9 vCPUs are no multiple of threads 2"),
        (14, {"threads": 2}, "14 vCPUs with threads 2 are 7 cores, which cannot fill 8 cells"),
        (18, {"remainder": "fail"}, "18 vCPUs do not divide evenly over 8 cells"),
        (24, {"remainder": "fail"}, "12 cores of 2 threads do not divide evenly over 8 cells"),
        (18, {"distribution": "round_robin", "threads": 2}, "do not make 8 sockets of threads 2"),
        (16, {"nodes": "0,9"}, "host node 9 of nodes '0,9' does not exist; the nodes that can be"),
        (16, {"reserved_cpus": "15-29,135-149"}, "leaves no pCPU of host node 1 to pin to"),
        (16, {"emulator_pinning": "0,240"}, "names pCPU 240, which the host does not have online"),
    ],
)
def test_refusals(
    host: HostOf, guest: GuestOf, vcpus: int, options: dict[str, Any], sentence: str
) -> None:
    """The guest, both figures, and what to change."""
    said = _refusal(guest(vcpus), host("rfc-8n240c"), **options)
    assert said.startswith("guest anuma: ")
    assert sentence in said


@pytest.mark.parametrize(
    ("name", "nodes", "sentence"),
    [
        ("memless-node", "1", "host node 1 of nodes '1' cannot be used: it has no memory;"),
        (
            "cxl-2n-plus-1",
            "0,2",
            "host node 2 of nodes '0,2' cannot be used: it has no online pCPUs",
        ),
        ("offline-node", "1", "it has no online pCPUs; the nodes that can be used are 0."),
        ("edited-no-topology", "0", "the host reports no NUMA topology; use nodes 'all'"),
        ("edited-nothing-usable", "all", "no host node has both pCPUs and memory"),
    ],
)
def test_nodes_that_cannot_be(
    host: HostOf, guest: GuestOf, name: str, nodes: str, sentence: str
) -> None:
    """Asked for by number, an ineligible node is an error that says why."""
    assert sentence in _refusal(guest(), host(name), nodes=nodes)


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("memless-node", ["host node 1 is left out: it has no memory."]),
        ("cxl-2n-plus-1", ["host node 2 is left out: it has no online pCPUs."]),
        (
            "gpu-nodes-0-8-252",
            [f"host node {node} is left out: it has no online pCPUs." for node in (252, 253)],
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
    assert list(_plan(guest(), host(name)).warnings) == warnings


def test_no_topology(host: HostOf, guest: GuestOf) -> None:
    """One cell, nothing pinned, nothing bound."""
    layout = _plan(guest(), host("edited-no-topology"), pinning="core")
    (cell,) = layout.cells
    assert (cell.host_node, cell.pins, cell.distances) == (None, (), (10,))
    assert (layout.vcpu_pins, layout.memory_mode, layout.nodeset) == ((), "none", ())
    assert "cells 2 cannot be had" in _refusal(guest(), host("edited-no-topology"), cells=2)


def test_more_and_fewer_cells_than_nodes(host: HostOf, guest: GuestOf) -> None:
    """Cell i is backed by node i mod n; nodes without a cell are named."""
    layout = _plan(guest(), host("sparse-ids"), cells=4)
    assert [cell.host_node for cell in layout.cells] == [0, 8, 0, 8]
    assert [cell.distances for cell in layout.cells] == [
        (10, 40, 11, 40),
        (40, 10, 40, 11),
        (11, 40, 10, 40),
        (40, 11, 40, 10),
    ]
    layout = _plan(guest(), host("rfc-8n240c"), cells=2)
    assert layout.nodeset == (0, 1)
    assert layout.warnings == ("cells 2 leaves host nodes 2-7 unused.",)
    assert len(_plan(guest(128, 128 << 20), host("sparse-ids"), cells=128).cells) == 128
    many = {"nodes": [{"id": i, "cpus": str(i), "memory_kib": 1 << 20} for i in range(129)]}
    assert "129 cells, one per host node, are more than the 128 that QEMU starts" in _refusal(
        guest(200, 200 << 20), host_from_facts(many)
    )


@pytest.mark.parametrize(
    ("memory_kib", "count", "arch", "cells"),
    [
        (1000001, 3, "x86_64", [333824, 332800, 333377]),
        (3 * 1024, 3, "x86_64", [1024, 1024, 1024]),
        (4 * 1024 + 1023, 3, "x86_64", [2048, 1024, 2047]),
        (64 << 20, 4, "ppc64le", [16 << 20] * 4),
        ((2 << 20) + 262144, 2, "ppc64le", [1310720, 1048576]),
    ],
)
def test_memory_in_granules(
    host: HostOf, guest: GuestOf, memory_kib: int, count: int, arch: str, cells: list[int]
) -> None:
    """Cells differ by a granule at most, and what is under one goes to the last."""
    layout = _plan(guest(16, memory_kib, arch=arch), host("all-ten-4n16c"), cells=count)
    assert [cell.memory_kib for cell in layout.cells] == cells
    assert sum(cells) == memory_kib


@pytest.mark.parametrize(
    ("keys", "options", "sentence"),
    [
        (
            {"memory_kib": 4095},
            {},
            "4095 KiB of memory cannot give 4 cells one granule of 1024 KiB",
        ),
        ({"memory_kib": 4097}, {"remainder": "fail"}, "4097 KiB of memory does not divide evenly"),
        (
            {"memory_kib": 3 << 18, "arch": "ppc64le"},
            {},
            "cannot give 4 cells one granule of 262144 KiB each; give it at least 1048576 KiB",
        ),
        (
            {"memory_kib": 8193, "hugepages": (HugepageUse(2048),)},
            {},
            "8193 KiB of memory is no multiple of its hugepage of 2048 KiB; make it 8192 or 10240",
        ),
        (
            {"memory_kib": 6144, "hugepages": (HugepageUse(2048),)},
            {},
            "cannot give 4 cells one hugepage of 2048 KiB each",
        ),
    ],
)
def test_memory_that_does_not_fit(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    """Figures and the way out."""
    assert sentence in _refusal(guest(**keys), host("all-ten-4n16c"), **options)


def test_hugepage_pools(host: HostOf, guest: GuestOf) -> None:
    """A pool that is too small for what is bound there is refused, with the figures."""
    unequal = host("hugepages-unequal-4n")
    two_mib, one_gib = HugepageUse(2048), HugepageUse(1 << 20)
    fits = guest(4, 1024 * 2048 * 2, hugepages=(two_mib,))
    assert len(_plan(fits, unequal, nodes="0-1").cells) == 2
    assert (
        "host node 2 has 0 hugepages of 2048 KiB, and the guest's memory there needs 512"
        in _refusal(guest(4, 4 << 20, hugepages=(two_mib,)), unequal)
    )
    assert "host node 0 has 4 hugepages of 1048576 KiB, and the guest's memory there needs 5" in (
        _refusal(guest(4, 10 << 20, hugepages=(one_gib,)), unequal, nodes="0-1")
    )
    for mode in ("preferred", "none", "interleave"):
        _plan(guest(4, 4 << 20, hugepages=(two_mib,)), unequal, memory_mode=mode)
    mixed = (HugepageUse(1 << 20, (0,)), HugepageUse(2048, (1,)))
    layout = _plan(guest(4, 4 << 20, hugepages=mixed), unequal, nodes="0-1")
    assert [cell.memory_kib for cell in layout.cells] == [2 << 20, 2 << 20]
    two_cells_one_node = guest(4, 1200 * 2048, hugepages=(two_mib,))
    assert "needs 1200" in _refusal(two_cells_one_node, unequal, nodes="0", cells=2)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        (
            "edited-no-distances",
            [[10, 20, 20, 20], [20, 10, 20, 20], [20, 20, 10, 20], [20, 20, 20, 10]],
        ),
        ("all-ten-4n16c", [[10, 20, 20, 20], [20, 10, 20, 20], [20, 20, 10, 20], [20, 20, 20, 10]]),
        ("zero-distance", [[10, 20], [20, 10]]),
        (
            "asymmetric-4n16c",
            [[10, 16, 22, 28], [17, 10, 18, 24], [23, 19, 10, 20], [29, 25, 21, 10]],
        ),
    ],
)
def test_distances(host: HostOf, guest: GuestOf, name: str, rows: list[list[int]]) -> None:
    """Always the full matrix; what the host does not say is 20, asymmetry is kept."""
    assert [list(cell.distances) for cell in _plan(guest(), host(name)).cells] == rows


def test_distances_at_the_bounds(host: HostOf, guest: GuestOf) -> None:
    """255 means unreachable to a guest's kernel, so that 254 is the most there can be."""
    values = {v for cell in _plan(guest(), host("unreachable-255")).cells for v in cell.distances}
    assert max(values) == 254
    node = {"cpus": "0", "memory_kib": 1 << 20}
    for given, written in (
        (0, 20),
        (9, 20),
        (10, 20),
        (11, 11),
        (254, 254),
        (255, 254),
        (300, 254),
    ):
        made = host_from_facts(
            {"nodes": [{"id": i, **node, "distances": {"0": given, "1": given}} for i in (0, 1)]}
        )
        assert _plan(guest(), made).cells[0].distances == (10, written)
    layout = _plan(guest(), host("rfc-8n240c"), distances="none")
    assert {cell.distances for cell in layout.cells} == {()}


def test_pins(host: HostOf, guest: GuestOf) -> None:
    """Every online, unreserved pCPU of the node; or none."""
    layout = _plan(guest(), host("rfc-8n240c"), reserved_cpus="0,120")
    assert layout.cells[0].pins == (*range(1, 15), *range(121, 135))
    assert layout.vcpu_pins[0] == layout.cells[0].pins
    assert layout.vcpu_pins[15] == (*range(105, 120), *range(225, 240))
    free = _plan(guest(), host("rfc-8n240c"), pinning="none", memory_mode="none")
    assert (free.vcpu_pins, free.cells[0].pins, free.memory_mode) == ((), (), "none")


def test_emulator_and_iothreads(host: HostOf, guest: GuestOf) -> None:
    """The emulator on the chosen nodes or a cpuset, the iothreads on the nodes in turn."""
    threads = guest(iothread_ids=(1, 2, 5))
    layout = _plan(
        threads,
        host("rfc-8n240c"),
        nodes="2-3",
        reserved_cpus="30",
        emulator_pinning="nodes",
        iothread_pinning="nodes",
    )
    second = tuple(cpu for cpu in (*range(30, 45), *range(150, 165)) if cpu != 30)
    third = (*range(45, 60), *range(165, 180))
    assert layout.emulator_pins == tuple(sorted((*second, *third)))
    assert layout.iothread_pins == ((1, second), (2, third), (5, second))
    layout = _plan(threads, host("rfc-8n240c"), emulator_pinning="0-1", reserved_cpus="0-1")
    assert layout.emulator_pins == (0, 1)
    assert layout.iothread_pins is None


def test_amd_guests_are_told_about_topoext(host: HostOf, guest: GuestOf) -> None:
    """Only where the threads would really be hidden."""
    amd = host("edited-amd-2n16c-smt2")
    passing = guest(8, cpu_mode="host-passthrough")
    (warning,) = _plan(passing, amd).warnings
    assert "its threads 2 stay hidden on this AMD host" in warning
    assert _plan(passing, amd, threads=1).warnings == ()
    assert _plan(guest(8, cpu_mode="host-model"), amd).warnings == ()
    assert len(_plan(guest(8, cpu_mode="custom"), amd, cpu_mode="host-passthrough").warnings) == 1
    assert _plan(guest(8, cpu_mode="host-passthrough", has_topoext=True), amd).warnings == ()
    assert _plan(passing, host("rfc-8n240c")).warnings == ()


def test_cells_without_vcpus_at_boot_are_named(host: HostOf, guest: GuestOf) -> None:
    """vCPUs that are plugged later leave cells empty until then."""
    hotplug = guest(16, online_vcpus=tuple(range(8)))
    (warning,) = _plan(hotplug, host("all-ten-4n16c")).warnings
    assert warning.startswith("cells 2-3 have no vCPU at boot, since 8 of 16 vCPUs are online")
    assert _plan(hotplug, host("all-ten-4n16c"), distribution="interleave").warnings == ()


@pytest.mark.parametrize(
    ("distribution", "vcpus", "threads", "topology"),
    [
        ("contiguous", 16, "auto", (4, 1, 2, 2)),
        ("contiguous", 16, 1, (4, 1, 4, 1)),
        ("contiguous", 16, 2, (4, 1, 2, 2)),
        ("contiguous", 16, 4, (4, 1, 1, 4)),
        ("contiguous", 16, 8, None),
        ("contiguous", 18, "auto", (9, 1, 1, 2)),
        ("contiguous", 17, "auto", (17, 1, 1, 1)),
        ("contiguous", 17, 2, None),
        ("contiguous", 6, "auto", (6, 1, 1, 1)),
        ("contiguous", 6, 2, None),
        ("interleave", 16, "auto", (16, 1, 1, 1)),
        ("interleave", 16, 1, (16, 1, 1, 1)),
        ("interleave", 16, 2, None),
        ("interleave", 7, "auto", (7, 1, 1, 1)),
        ("round_robin", 16, "auto", (4, 1, 2, 2)),
        ("round_robin", 16, 1, (4, 1, 4, 1)),
        ("round_robin", 16, 4, (4, 1, 1, 4)),
        ("round_robin", 16, 8, None),
        ("round_robin", 12, "auto", (4, 1, 3, 1)),
        ("round_robin", 12, 2, None),
        ("round_robin", 17, "auto", (17, 1, 1, 1)),
    ],
)
def test_threads(
    host: HostOf,
    guest: GuestOf,
    distribution: str,
    vcpus: int,
    threads: object,
    topology: tuple[int, int, int, int] | None,
) -> None:
    """auto takes the host's two where they fit; a number is taken at its word, or refused."""
    options = {"distribution": distribution, "threads": threads, "nodes": "0-3"}
    if topology is None:
        assert f"threads {threads}" in _refusal(guest(vcpus), host("rfc-8n240c"), **options)
        return
    assert _topology(_plan(guest(vcpus), host("rfc-8n240c"), **options)) == topology


@pytest.mark.parametrize("distribution", ["contiguous", "interleave", "round_robin"])
@pytest.mark.parametrize(("vcpus", "fits"), [(16, True), (15, False), (17, False), (4, True)])
def test_remainder_of_vcpus(
    host: HostOf, guest: GuestOf, distribution: str, vcpus: int, fits: bool
) -> None:
    """fail refuses what spread would spread, and nothing else."""
    options = {"distribution": distribution, "nodes": "0-3", "remainder": "fail"}
    if fits:
        sizes = {len(c.vcpus) for c in _plan(guest(vcpus), host("rfc-8n240c"), **options).cells}
        assert sizes == {vcpus // 4}
        return
    assert f"{vcpus} vCPUs do not divide evenly over 4 cells; make it a multiple of 4" in _refusal(
        guest(vcpus), host("rfc-8n240c"), **options
    )


@pytest.mark.parametrize(
    ("memory_kib", "huge", "count", "fits"),
    [
        (128 * 1024, (), 128, True),
        (128 * 1024 - 1, (), 128, False),
        (4 * 2048, (HugepageUse(2048),), 4, True),
        (4 * 2048 - 1, (HugepageUse(2048),), 4, False),
        (4 * 2048 + 1, (HugepageUse(2048),), 4, False),
        (2 << 20, (HugepageUse(1 << 20),), 2, True),
        ((2 << 20) - 2048, (HugepageUse(1 << 20),), 2, False),
    ],
)
def test_one_granule_short(
    host: HostOf, guest: GuestOf, memory_kib: int, huge: Any, count: int, fits: bool
) -> None:
    """A granule for every cell is enough, a KiB less is not."""
    small = guest(128, memory_kib, hugepages=huge)
    options = {"cells": count, "memory_mode": "none"}
    if fits:
        layout = _plan(small, host("rfc-8n240c"), **options)
        assert {cell.memory_kib for cell in layout.cells} == {memory_kib // count}
        return
    assert f"{memory_kib} KiB of memory" in _refusal(small, host("rfc-8n240c"), **options)


def test_sentences_name_the_guests_own_page(host: HostOf, guest: GuestOf) -> None:
    """On ppc64 cells are dealt in 256 MiB, which is not the size of a hugepage."""
    odd = guest(8, (1 << 20) + 16384, arch="ppc64le", hugepages=(HugepageUse(16384),))
    said = _refusal(odd, host("edited-ppc64-16n"), cells=2, memory_mode="none")
    assert "hugepage of 262144 KiB" not in said


@pytest.mark.parametrize(
    ("options", "emulator", "iothreads"),
    [
        ({}, None, None),
        ({"emulator_pinning": "nodes"}, None, None),
        ({"iothread_pinning": "nodes"}, None, None),
        ({"emulator_pinning": "0-1"}, (0, 1), None),
    ],
)
def test_helpers_without_topology(
    host: HostOf, guest: GuestOf, options: dict[str, Any], emulator: Any, iothreads: Any
) -> None:
    """Without nodes there is nowhere to pin to but a cpuset."""
    layout = _plan(guest(iothread_ids=(1,)), host("edited-no-topology"), **options)
    assert (layout.emulator_pins, layout.iothread_pins) == (emulator, iothreads)


def test_reserved_cpus_matter_only_to_pins(host: HostOf, guest: GuestOf) -> None:
    """A node without an unreserved pCPU still has memory for a guest that is not pinned."""
    options = {"reserved_cpus": "0-14,120-134", "pinning": "none"}
    assert len(_plan(guest(), host("rfc-8n240c"), **options).cells) == 8
    for helper in ("emulator_pinning", "iothread_pinning"):
        assert "leaves no pCPU of host node 0 to pin to" in _refusal(
            guest(), host("rfc-8n240c"), **options, **{helper: "nodes"}
        )
