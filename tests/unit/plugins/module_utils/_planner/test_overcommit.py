# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests bind to the same host nodes, added up."""

from __future__ import annotations

from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, HugepagePool, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import (
    Load,
    Need,
    Share,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.books import (
    cannot_start,
    overbooked,
)

GIB = 1 << 20
_HOST = Host(
    (
        Node(0, (0, 1), 16 * GIB, hugepages=(HugepagePool(2048, 64),)),
        Node(1, (2, 3), 16 * GIB),
    )
)


def _bound(guest: str, node: int, *sizes_kib: int) -> Load:
    shares = [Share(Need(1, one), memory_nodes=(node,), is_strict=True) for one in sizes_kib]
    return Load(guest, "", tuple(shares))


def _pages(guest: str, number: int, node: int = 0) -> Load:
    need = Need(1, 0, ((2048, number),))
    return Load(guest, "", (Share(need, memory_nodes=(node,), is_strict=True),))


def test_memory_of_several_guests() -> None:
    """Who binds most is named first; pools are no ordinary memory; one guest is no sum."""
    bound = [_bound("a", 1, 6 * GIB), _bound("b", 1, 5 * GIB, 6 * GIB)]
    assert list(overbooked(_HOST, bound, {"a"})) == [
        "host node 1 has 16 GiB of memory, and guests bind 17 GiB to it (b 11 GiB, a 6 GiB); move "
        "one with nodes, choose nodes 'auto', or set memory_mode to 'preferred'."
    ]
    assert list(overbooked(_HOST, bound, {"c"})) == []
    assert list(overbooked(_HOST, bound[1:], {"b"})) == []
    alone = [_bound("a", 1, 17 * GIB)]
    assert list(overbooked(_HOST, alone, {"a"})) == []
    (said,) = overbooked(_HOST, [_bound(g, 0, 8 * GIB) for g in "ab"], {"a"})
    assert said.startswith("host node 0 has 16256 MiB of memory, and guests bind 16 GiB to it")


def test_many_guests() -> None:
    """A sentence names eight of them."""
    bound = [_bound(f"g{number:02}", 1, 2 * GIB) for number in range(10)]
    (said,) = overbooked(_HOST, bound, {"g03"})
    assert "(g00 2 GiB, g01 2 GiB, " in said
    assert "g07 2 GiB, 2 more)" in said


def test_hugepages_of_several_guests() -> None:
    """Not all of them can run."""
    assert list(overbooked(_HOST, [_pages("small", 8), _pages("large", 60)], {"large"})) == [
        "host node 0 has 64 hugepages of 2048 KiB, and guests need 68 there (large 60, small 8), "
        "so that not all of them can run; enlarge the pool, or move one with nodes."
    ]
    assert list(overbooked(_HOST, [_pages("small", 4), _pages("large", 60)], {"large"})) == []


def test_beside_guests_that_run() -> None:
    """It would not start. A pool that is too small even when empty is told of elsewhere."""
    assert cannot_start(_HOST, _pages("large", 60), [_pages("small", 8)]) == (
        "it needs 60 hugepages of 2048 KiB on host node 0, whose pool has 64, and guests that run "
        "there hold 8 (small 8), so that it would not start; enlarge the pool, or use another "
        "node."
    )
    assert cannot_start(_HOST, _pages("large", 56), [_pages("small", 8)]) is None
    assert cannot_start(_HOST, _pages("large", 60), [_pages("small", 8, node=1)]) is None
    assert cannot_start(_HOST, _pages("large", 65), []) is None
    assert cannot_start(_HOST, _bound("plain", 0, GIB), [_pages("small", 70)]) is None
