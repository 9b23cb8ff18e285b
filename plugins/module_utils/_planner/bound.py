# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests bind to the same host nodes, added up.

A strict binding is a promise that libvirt does not check: each guest of three may fit a node, and
the three of them may not. Ordinary memory is taken as it is used, so that the host's kernel ends a
process one day; hugepages are taken at the start, which then fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from .._model.host import Host
from .._size import show_size

#: Modes of memory bindings that let no memory come from elsewhere.
STRICT_MODES = ("strict", "restrictive")
#: Guests that a sentence names.
_MOST_SHOWN = 8


@dataclass(frozen=True)
class BoundMemory:
    """Memory of one guest that is bound to one host node.

    Attributes:
        guest: its name.
        node: id of the node.
        memory_kib: ordinary memory in KiB.
        pages: hugepages, as (size in KiB, number).
    """

    guest: str
    node: int
    memory_kib: int
    pages: tuple[tuple[int, int], ...] = ()


def overbooked(host: Host, bound: Sequence[BoundMemory], planned: Collection[str]) -> Iterator[str]:
    """Yield the nodes to which more is bound than they have, with who binds what.

    Args:
        host: whose nodes they are.
        bound: memory of all guests of the host.
        planned: names of the guests that are planned; of nodes without any nothing is said.
    """
    for node in host.nodes:
        here = [one for one in bound if one.node == node.id]
        if not any(one.guest in planned for one in here):
            continue
        held_kib = _by_guest([(one.guest, one.memory_kib) for one in here])
        has_kib = node.memory_kib - sum(pool.size_kib * pool.total for pool in node.hugepages)
        # Who is alone there is told of by name, as soon as it is planned.
        if sum(held_kib.values()) > has_kib and len(held_kib) > 1:
            yield (
                f"host node {node.id} has {show_size(has_kib)} of memory, and guests bind "
                f"{show_size(sum(held_kib.values()))} to it ({_holders(held_kib, show_size)}); "
                "move one with nodes, choose nodes 'auto', or set memory_mode to 'preferred'."
            )
        for pool in node.hugepages:
            held = _by_guest([(one.guest, _pages(one, pool.size_kib)) for one in here])
            if sum(held.values()) > pool.total and len(held) > 1:
                yield (
                    f"host node {node.id} has {pool.total} hugepages of {pool.size_kib} KiB, and "
                    f"guests need {sum(held.values())} there ({_holders(held, str)}), so that not "
                    "all of them can run; enlarge the pool, or move one with nodes."
                )


def cannot_start(
    host: Host, wanted: Sequence[BoundMemory], running: Sequence[BoundMemory]
) -> str | None:
    """Say why a guest could not start beside guests that run, None where it could.

    Args:
        host: whose pools they are.
        wanted: memory of the guest.
        running: memory of guests that run, and are not planned with it.
    """
    for node in host.nodes:
        for pool in node.hugepages:
            needs = sum(_pages(one, pool.size_kib) for one in wanted if one.node == node.id)
            held = _by_guest(
                [(one.guest, _pages(one, pool.size_kib)) for one in running if one.node == node.id]
            )
            if needs and needs + sum(held.values()) > pool.total >= needs:
                return (
                    f"it needs {needs} hugepages of {pool.size_kib} KiB on host node {node.id}, "
                    f"whose pool has {pool.total}, and guests that run there hold "
                    f"{sum(held.values())} ({_holders(held, str)}), so that it would not start; "
                    "enlarge the pool, or use another node."
                )
    return None


def _pages(bound: BoundMemory, size_kib: int) -> int:
    return dict(bound.pages).get(size_kib, 0)


def _by_guest(parts: Sequence[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for guest, part in parts:
        if part:
            found[guest] = found.get(guest, 0) + part
    return found


def _holders(held: dict[str, int], show: Callable[[int], str]) -> str:
    ranked = sorted(held.items(), key=lambda one: (-one[1], one[0]))
    shown = [f"{guest} {show(part)}" for guest, part in ranked[:_MOST_SHOWN]]
    more = len(ranked) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])
