# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dealing: vCPUs, topology, memory and distances, rule by rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import (
    HugepageUse,
    MemoryDevice,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_from_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from planning import GuestOf, HostOf, planned, refusal, topology_of


def _topology(layout: Layout) -> tuple[int, int, int, int]:
    shape = topology_of(layout)
    return (shape.sockets, shape.dies, shape.cores, shape.threads)


def _vcpus(layout: Layout) -> list[list[int]]:
    return [list(cell.vcpus) for cell in layout.cells]


def test_contiguous_is_the_default(host: HostOf, guest: GuestOf) -> None:
    """Whole cores in order, a node each."""
    layout = planned(guest(), host("rfc-8n240c"))
    assert _vcpus(layout) == [[2 * cell, 2 * cell + 1] for cell in range(8)]
    assert _topology(layout) == (8, 1, 1, 2)
    assert list(layout.host_nodes) == list(range(8))
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
    layout = planned(guest(vcpus), host(name))
    assert [len(cell.vcpus) for cell in layout.cells] == sizes
    assert _topology(layout) == topology
    assert [vcpu for cell in layout.cells for vcpu in cell.vcpus] == list(range(vcpus))


def test_interleave(host: HostOf, guest: GuestOf) -> None:
    """vCPU i is in cell i mod n, and a socket of its own."""
    layout = planned(guest(18), host("rfc-8n240c"), distribution="interleave")
    assert _vcpus(layout) == [[v for v in range(18) if v % 8 == cell] for cell in range(8)]
    assert _topology(layout) == (18, 1, 1, 1)
    assert layout.warnings == ()
    assert "threads 2 conflicts with distribution 'interleave'" in refusal(
        guest(), host("rfc-8n240c"), distribution="interleave", threads=2
    )
    assert _topology(
        planned(guest(), host("rfc-8n240c"), distribution="interleave", threads=1)
    ) == (
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
    layout = planned(guest(vcpus), host("rfc-8n240c"), distribution="round_robin", **options)
    assert _topology(layout) == topology
    assert any("not on the same node" in one for one in layout.warnings) is warned
    count = len(layout.cells)
    assert _vcpus(layout) == [[v for v in range(vcpus) if v % count == c] for c in range(count)]


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
    layout = planned(guest(16, memory_kib, arch=arch), host("all-ten-4n16c"), cells=count)
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
        ({"memory_kib": 4097}, {"split": "equal"}, "4097 KiB of memory does not divide evenly"),
        (
            {"memory_kib": 3 << 18, "arch": "ppc64le"},
            {},
            "cannot give 4 cells one granule of 262144 KiB each; give it at least 1048576 KiB",
        ),
        (
            {"memory_kib": 8193, "hugepages": (HugepageUse(2048),)},
            {},
            "8193 KiB of memory is not a multiple of its hugepage of 2048 KiB; set it to 8192 or "
            "10240",
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
    assert sentence in refusal(guest(**keys), host("all-ten-4n16c"), **options)


def test_hugepage_pools(host: HostOf, guest: GuestOf) -> None:
    """A pool that is too small for what is bound there is refused, with the figures."""
    unequal = host("hugepages-unequal-4n")
    two_mib, one_gib = HugepageUse(2048), HugepageUse(1 << 20)
    fits = guest(4, 1024 * 2048 * 2, hugepages=(two_mib,))
    assert len(planned(fits, unequal, nodes="0-1").cells) == 2
    assert (
        "host node 2 has 0 hugepages of 2048 KiB, and the guest's memory there needs 512"
        in refusal(guest(4, 4 << 20, hugepages=(two_mib,)), unequal)
    )
    assert "host node 0 has 4 hugepages of 1048576 KiB, and the guest's memory there needs 5" in (
        refusal(guest(4, 10 << 20, hugepages=(one_gib,)), unequal, nodes="0-1")
    )
    for mode in ("preferred", "none"):
        planned(guest(4, 4 << 20, hugepages=(two_mib,)), unequal, memory_mode=mode)
    mixed = (HugepageUse(1 << 20, (0,)), HugepageUse(2048, (1,)))
    layout = planned(guest(4, 4 << 20, hugepages=mixed), unequal, nodes="0-1")
    assert [cell.memory_kib for cell in layout.cells] == [2 << 20, 2 << 20]
    sizes = ((0, 2048 * 24), (1, 2048 * 1024), (7, 1))
    plugged = replace(fits, memory_devices=tuple(MemoryDevice(*one) for one in sizes))
    assert len(planned(plugged, unequal, nodes="0-1", memory_mode="preferred").cells) == 2
    # A DIMM comes from the pool of its cell's node too; one of a cell that is not there is refused
    # by whoever knows where it stands.
    assert (
        "host node 0 has 1024 hugepages of 2048 KiB, and the guest's memory there needs 1048"
        in (refusal(plugged, unequal, nodes="0-1"))
    )
    assert (
        len(
            planned(
                replace(plugged, memory_devices=(MemoryDevice(1, 2048 * 1024),)),
                unequal,
                nodes="0-1",
            ).cells
        )
        == 2
    )
    two_cells_one_node = guest(4, 1200 * 2048, hugepages=(two_mib,))
    assert "needs 1200" in refusal(two_cells_one_node, unequal, nodes="0", cells=2)


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
    assert [list(cell.distances) for cell in planned(guest(), host(name)).cells] == rows


def test_distances_at_the_bounds(host: HostOf, guest: GuestOf) -> None:
    """255 means unreachable to a guest's kernel, so that 254 is the most there can be."""
    values = {v for cell in planned(guest(), host("unreachable-255")).cells for v in cell.distances}
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
        assert planned(guest(), made).cells[0].distances == (10, written)
    layout = planned(guest(), host("rfc-8n240c"), distances="none")
    assert {cell.distances for cell in layout.cells} == {()}


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
        assert f"threads {threads}" in refusal(guest(vcpus), host("rfc-8n240c"), **options)
        return
    assert _topology(planned(guest(vcpus), host("rfc-8n240c"), **options)) == topology


@pytest.mark.parametrize("distribution", ["contiguous", "interleave", "round_robin"])
@pytest.mark.parametrize(("vcpus", "fits"), [(16, True), (15, False), (17, False), (4, True)])
def test_equal_cells(
    host: HostOf, guest: GuestOf, distribution: str, vcpus: int, fits: bool
) -> None:
    """equal refuses what even would spread, and nothing else."""
    options = {"distribution": distribution, "nodes": "0-3", "split": "equal"}
    if fits:
        sizes = {len(c.vcpus) for c in planned(guest(vcpus), host("rfc-8n240c"), **options).cells}
        assert sizes == {vcpus // 4}
        return
    assert f"{vcpus} vCPUs do not divide evenly over 4 cells; use a multiple of 4" in refusal(
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
        layout = planned(small, host("rfc-8n240c"), **options)
        assert {cell.memory_kib for cell in layout.cells} == {memory_kib // count}
        return
    assert f"{memory_kib} KiB of memory" in refusal(small, host("rfc-8n240c"), **options)


def test_sentences_name_the_guests_own_page(host: HostOf, guest: GuestOf) -> None:
    """On ppc64 cells are dealt in 256 MiB, which is not the size of a hugepage."""
    odd = guest(8, (1 << 20) + 16384, arch="ppc64le", hugepages=(HugepageUse(16384),))
    said = refusal(odd, host("edited-ppc64-16n"), cells=2, memory_mode="none")
    assert "hugepage of 262144 KiB" not in said


@pytest.mark.parametrize(
    ("vcpus", "cells", "options", "arch", "topology"),
    [
        # Highest APIC ids: 254, 254, 197, 253; a core count is rounded up to a power of two there.
        (255, 5, {"threads": 1}, "x86_64", (255, 1, 1, 1)),
        (252, 4, {"threads": 1}, "x86_64", (4, 1, 63, 1)),
        (198, 6, {"threads": 1}, "x86_64", (198, 1, 1, 1)),
        (240, 8, {"threads": 2}, "x86_64", (8, 1, 15, 2)),
        (250, 2, {"threads": 1}, "i686", (2, 1, 125, 1)),
        (228, 6, {"threads": 1}, "x86_64", (114, 1, 2, 1)),
        # Not every firmware counts that way, and over 255 vCPUs there is no way round it.
        (255, 5, {"threads": 1}, "aarch64", (5, 1, 51, 1)),
        (300, 5, {"threads": 1}, "x86_64", (5, 1, 60, 1)),
    ],
)
def test_apic_ids_stay_below_255(
    host: HostOf,
    guest: GuestOf,
    vcpus: int,
    cells: int,
    options: dict[str, Any],
    arch: str,
    topology: Any,
) -> None:
    """Smaller sockets, where larger ones would need x2APIC, and the guest itself does not."""
    layout = planned(guest(vcpus, 512 << 20, arch=arch), host("rfc-8n240c"), cells=cells, **options)
    assert _topology(layout) == topology


@pytest.mark.parametrize(("online", "threads"), [(3, 2), (5, 4), (6, 4), (4, 4), (7, 4)])
def test_odd_numbers_of_threads(guest: GuestOf, online: int, threads: int) -> None:
    """Where threads of each core are offline, guests get a power of two of them."""
    facts = {
        "id": 0,
        "cpus": f"0-{online * 4 - 1}",
        "memory_kib": 1 << 30,
        "cores": [f"{core * online}-{core * online + online - 1}" for core in range(4)],
    }
    layout = planned(guest(16), host_from_facts({"nodes": [facts]}))
    assert _topology(layout) == (1, 1, 16 // threads, threads)


@pytest.mark.parametrize(
    ("uses", "memory_kib", "fits"),
    [
        # The ordinary page, named: libvirt takes that for no hugepages at all.
        ((HugepageUse(4),), 4 << 20, True),
        ((HugepageUse(4),), 1000001, True),
        ((HugepageUse(4, (0,)), HugepageUse(2048)), 3 << 20, True),
        ((HugepageUse(64),), 4 << 20, True),
        ((HugepageUse(2048),), (4 << 20) + 1024, False),
    ],
)
def test_ordinary_pages_have_no_pool(
    host: HostOf, guest: GuestOf, uses: tuple[HugepageUse, ...], memory_kib: int, fits: bool
) -> None:
    """Pages smaller than any pool of the host are no hugepages."""
    unequal, fat = host("hugepages-unequal-4n"), guest(4, memory_kib, hugepages=uses)
    if fits:
        assert sum(c.memory_kib for c in planned(fat, unequal, nodes="0-1").cells) == memory_kib
        return
    assert "is not a multiple of its hugepage of 2048 KiB" in refusal(fat, unequal, nodes="0-1")
