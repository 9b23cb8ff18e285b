# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes: every host of a group backs them, and no larger number of cells would have done.

What a host can back is worked out here a second time, by trying every set of nodes, and shares no
code with the collection.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest, HugepageUse
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    HugepagePool,
    Node,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan, plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.shape import (
    Member,
    Shape,
    ShapeError,
    check_shape,
    common_shape,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    Policy,
    policy_from_options,
)
from planning import GuestOf, HostOf

GROUPS = 300
GIB = 1 << 20
PAGE_KIB = 2048


def _host(draw: random.Random, hugepages: bool) -> Host:
    """A host of one to eight nodes, ids sparse, some without memory, distances of any kind."""
    count = draw.choice((1, 2, 2, 3, 4, 4, 5, 6, 8))
    ids = sorted(draw.sample(range(60), count))
    width = draw.choice((1, 2, 2, 4))
    cores = draw.choice((1, 2, 4, 8))
    even = draw.random() < 0.5
    nodes, cpu = [], 0
    for node in ids:
        size = cores if even else draw.choice((1, 2, 4, 8))
        threads = []
        for _core in range(size):
            threads.append(tuple(range(cpu, cpu + width)))
            cpu += width
        memory = 0 if draw.random() < 0.05 else draw.choice((4, 8, 16, 64)) * GIB
        nodes.append(
            Node(
                id=node,
                cpus=tuple(one for core in threads for one in core),
                memory_kib=memory,
                cores=tuple(threads),
                hugepages=(HugepagePool(PAGE_KIB, draw.choice((0, 1024, 4096))),)
                if hugepages and memory
                else (),
                distances=tuple(
                    (other, 10 if other == node else draw.choice((12, 20, 21, 31, 32)))
                    for other in ids
                ),
            )
        )
    return Host(tuple(nodes), arch="x86_64")


def _sizes(total: int, count: int) -> list[int]:
    return [total // count + (cell < total % count) for cell in range(count)]


class _Checker:
    """What a host can back, by trying all there is.

    Args:
        guest: with memory that is a whole number of hugepages.
        policy: of it.
    """

    def __init__(self, guest: Guest, policy: Policy) -> None:
        self.guest, self.policy = guest, policy

    def threads(self, hosts: Sequence[Host], cells: int) -> int:
        width = min(max(map(len, n.cores)) for h in hosts for n in h.nodes if n.memory_kib)
        fits = self.guest.vcpus % width == 0 and self.guest.vcpus // width >= cells
        return width if fits else 1

    def holds(self, node: Node, cells: Sequence[int], of: int, threads: int) -> bool:
        """Whether a node holds these of so many cells."""
        if not node.memory_kib:
            return False
        need = sum(_sizes(self.guest.vcpus // threads, of)[cell] for cell in cells)
        if self.policy.pinning == "core":
            have = sum(len(core) >= threads for core in node.cores)
        else:
            have = int(len(node.cores) * self.policy.cpu_overcommit)
        unit = PAGE_KIB if self.guest.hugepages else 1024
        memory = sum(_sizes(self.guest.memory_kib // unit, of)[cell] for cell in cells) * unit
        if self.guest.hugepages:
            pages = sum(pool.total for pool in node.hugepages)
            return need <= have and (memory // PAGE_KIB <= pages or not node.hugepages)
        pooled = sum(pool.total * pool.size_kib for pool in node.hugepages)
        return need <= have and memory <= node.memory_kib - pooled - GIB

    def backs(self, host: Host, of: int, threads: int) -> set[tuple[int, ...]]:
        """Every set of nodes that backs so many cells, equal numbers on each."""
        ids = [node.id for node in host.nodes]
        return {
            nodes
            for size in range(1, len(ids) + 1)
            if of % size == 0
            for nodes in combinations(ids, size)
            if all(
                self.holds(host.node(node), range(place, of, size), of, threads)  # type: ignore[arg-type]
                for place, node in enumerate(nodes)
            )
        }


def _largest(hosts: Sequence[Host], matrices: Sequence[list[list[int]]]) -> list[list[int]]:
    if all(matrix == matrices[0] for matrix in matrices):
        return matrices[0]
    cells = range(len(matrices[0]))
    return [
        [max(m[a][b] for m in matrices for a, b in ((row, col), (col, row))) for col in cells]
        for row in cells
    ]


def _matrix(host: Host, nodes: Sequence[int], cells: int) -> list[list[int]]:
    known = {node.id: dict(node.distances) for node in host.nodes}
    on = [nodes[cell % len(nodes)] for cell in range(cells)]
    return [
        [10 if a == b else 11 if on[a] == on[b] else known[on[a]][on[b]] for b in range(cells)]
        for a in range(cells)
    ]


def _groups() -> list[tuple[list[Member], Policy]]:
    draw = random.Random(15)  # noqa: S311 - sizes, and no secrets
    groups = []
    for _number in range(GROUPS):
        hugepages = draw.random() < 0.3
        hosts = [_host(draw, hugepages) for _host_number in range(draw.choice((1, 2, 2, 3, 4)))]
        guest = Guest(
            name="anuma",
            uuid="",
            arch="x86_64",
            vcpus=draw.choice((1, 2, 4, 6, 8, 12, 16, 24)),
            memory_kib=draw.choice((1, 2, 6, 12, 24)) * GIB,
            hugepages=(HugepageUse(PAGE_KIB),) if hugepages else (),
        )
        policy = policy_from_options(
            {"pinning": draw.choice(("node", "core")), "cpu_overcommit": draw.choice((1, 1.5, 4))}
        )
        groups.append(([Member(f"h{i}", host, guest) for i, host in enumerate(hosts)], policy))
    return groups


def _shaped(policy: Policy, members: Sequence[Member], shape: Shape) -> Policy:
    return replace(
        policy,
        cells=shape.cells,
        threads=shape.threads,
        granule_kib=shape.granule_kib,
        distances=shape.distances,
        migration_group=tuple(member.name for member in members),
    )


def test_random_groups() -> None:
    """Every shape is backed, its matrix is the one in common, and it has the most cells."""
    found, refused, several = 0, 0, 0
    for members, policy in _groups():
        hosts, guest = [member.host for member in members], members[0].guest
        checker = _Checker(guest, policy)
        usable = [sum(bool(node.memory_kib) for node in host.nodes) for host in hosts]
        most = min(max(usable), guest.vcpus)
        try:
            shape = common_shape(members, policy)
        except ShapeError as error:
            refused += 1
            names = {member.name for member in members}
            if not error.reasons or not error.reasons.keys() <= names:
                pytest.fail(str(error))
            cells = 0
        else:
            found += 1
            cells = shape.cells or 0
            several += cells > 1 and len(hosts) > 1
            assert cells <= most
            assert shape.threads == checker.threads(hosts, cells)
            for member in members:
                backing = checker.backs(member.host, cells, shape.threads)
                assert shape.nodes[member.name] in backing
                assert len(shape.nodes[member.name]) == max(map(len, backing))
            matrices = [_matrix(one.host, shape.nodes[one.name], cells) for one in members]
            assert [list(row) for row in shape.distances] == _largest(hosts, matrices)
            _same_everywhere(members, policy, shape)
        for larger in range(cells + 1, most + 1):
            width = checker.threads(hosts, larger) if all(usable) else 1
            assert not all(checker.backs(host, larger, width) for host in hosts), (cells, larger)
    assert found > GROUPS // 3, found
    assert refused > GROUPS // 20, refused
    assert several > GROUPS // 10, several


def _same_everywhere(members: Sequence[Member], policy: Policy, shape: Shape) -> None:
    """Plan the guest on each host, and compare what its kernel would see."""
    seen = set()
    for member in members:
        layout = plan(member.guest, member.host, _shaped(policy, members, shape))
        assert layout.nodeset == shape.nodes[member.name]
        seen.add((layout.cells, layout.topology))
    assert len(seen) == 1


def test_order_is_of_no_matter(host: HostOf, guest: GuestOf) -> None:
    """Hosts in any order have one shape."""
    names = ("rfc-8n240c", "two-socket-2n32c", "sparse-ids")
    members = [Member(name, host(name), guest(4, 8 * GIB)) for name in names]
    assert common_shape(members, Policy()) == common_shape(members[::-1], Policy())


def test_equal_matrices_are_copied(host: HostOf, guest: GuestOf) -> None:
    """Two hosts of one kind: every cell and every distance as on each of them, by direction too."""
    one = host("asym-3n")
    shape = common_shape([Member(n, one, guest(12, 3 * GIB)) for n in "ab"], Policy())
    alone = plan(guest(12, 3 * GIB), one, Policy())
    assert shape.cells == len(one.eligible)
    assert shape.distances == tuple(cell.distances for cell in alone.cells)


def test_what_is_set_is_kept(host: HostOf, guest: GuestOf) -> None:
    """Cells, threads and distances that are given."""
    members = [Member(n, host(n), guest(memory_kib=8 * GIB)) for n in ("rfc-8n240c", "nps4-8n")]
    matrix = [[10, 15], [15, 10]]
    shape = common_shape(members, policy_from_options({"distances": matrix, "threads": 1}))
    assert (shape.cells, shape.threads) == (2, 1)
    assert shape.distances == ((10, 15), (15, 10))
    shape = common_shape(members, policy_from_options({"cells": 4, "distances": "none"}))
    assert (shape.cells, shape.distances) == (4, "none")


def test_the_granule_in_common(host: HostOf, guest: GuestOf) -> None:
    """``<hugepages/>`` is 2 MiB on one host and 1 GiB on the other: memory is split in 1 GiB."""
    pools = (HugepagePool(2048, 4096), HugepagePool(GIB, 8))
    recorded = host("two-socket-2n32c")
    one = replace(recorded, nodes=tuple(replace(n, hugepages=pools) for n in recorded.nodes))
    members = [
        Member(name, one, guest(4, 3 * GIB, hugepages=(HugepageUse(size),)))
        for name, size in (("a", 2048), ("b", GIB))
    ]
    shape = common_shape(members, Policy())
    assert shape.granule_kib == GIB
    for member in members:
        layout = plan(member.guest, one, _shaped(Policy(), members, shape))
        assert [cell.memory_kib for cell in layout.cells] == [2 * GIB, GIB]


def test_who_cannot_is_named(host: HostOf, guest: GuestOf) -> None:
    """With the figures, and nobody else."""
    large = guest(16, 64 * GIB)
    members = [Member(n, host(n), large) for n in ("rfc-8n240c", "tiny-2n2c")]
    with pytest.raises(ShapeError) as raised:
        common_shape(members, Policy())
    assert set(raised.value.reasons) == {"tiny-2n2c"}
    assert "over 2 of 2 nodes, each node would need 8 cores" in raised.value.reasons["tiny-2n2c"]
    shaped = replace(Policy(), cells=8, threads=1, migration_group=("rfc-8n240c", "tiny-2n2c"))
    with pytest.raises(ShapeError) as raised:
        check_shape(members, shaped)
    assert set(raised.value.reasons) == {"tiny-2n2c"}
    with pytest.raises(LayoutError, match=r"cannot back its cells: spread over 2 of 2 nodes"):
        plan(large, host("tiny-2n2c"), shaped)


def test_nodes_auto_takes_the_fewest(host: HostOf, guest: GuestOf) -> None:
    """A guest that one node holds everywhere keeps its own; else the fewest cells that all back."""
    auto = policy_from_options({"nodes": "auto"})
    names = ("rfc-8n240c", "two-socket-2n32c")
    small = [Member(name, host(name), guest(2, GIB)) for name in names]
    shape = common_shape(small, auto)
    assert (shape.cells, shape.threads, shape.distances) == (None, None, "host")
    # Twenty guest cores are more than a node of the first has, and fit one of the second.
    wide = [Member(name, host(name), guest(20, 8 * GIB)) for name in names]
    options = {"nodes": "auto", "threads": 1}
    shape = common_shape(wide, policy_from_options(options))
    assert shape.cells == 2
    assert {name: len(nodes) for name, nodes in shape.nodes.items()} == dict(zip(names, (2, 2)))


def test_no_cells_in_a_group_stay_none(host: HostOf, guest: GuestOf) -> None:
    """With ``auto``, a guest without cells is never put on two nodes of one of its hosts."""
    policy = replace(policy_from_options({"nodes": "auto"}), migration_group=("a", "b"))
    from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
    from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import place_guests

    rfc, wide = host("rfc-8n240c"), guest(20, GIB)
    (answer,) = place_guests([Applicant(wide, policy)], rfc, ()).answers
    assert isinstance(answer, LayoutError)
    alone = replace(policy, migration_group=())
    (answer,) = place_guests([Applicant(wide, alone)], rfc, ()).answers
    assert not isinstance(answer, LayoutError)


def test_a_matrix_by_hand(host: HostOf, guest: GuestOf) -> None:
    """It is taken as it is, and refused where it is for other cells."""
    options = {"distances": "10,12;13,10", "nodes": "0-1"}
    layout = plan(guest(), host("rfc-8n240c"), policy_from_options(options))
    assert [cell.distances for cell in layout.cells] == [(10, 12), (13, 10)]
    policy = policy_from_options({**options, "nodes": "all"})
    (answer,) = plan_guests([(guest(), policy)], host("rfc-8n240c"))
    assert "distances has 2 rows, and the guest gets 8 cells" in str(answer)
