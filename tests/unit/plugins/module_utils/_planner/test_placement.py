# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which nodes guests get: by properties, against exhaustive search, and by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import Ids
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    HugepagePool,
    Node,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import (
    Load,
    Need,
    Placement,
    Share,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.books import make_ledger
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import (
    Answer,
    place_guests,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from hypothesis import event, given, settings
from hypothesis import strategies as st

GIB = 1 << 20
#: Together over a thousand examples, where the profile is the whole one.
EXAMPLES = settings(max_examples=settings().max_examples * 6 // 5)
MANY_EXAMPLES = settings(max_examples=settings().max_examples * 5 // 3)


def make_host(
    cores: Sequence[int], memory_gib: Sequence[int], threads: int = 1, step: int = 1, **more: Any
) -> Host:
    """A host whose nodes are near each other in pairs."""
    nodes, first = [], 0
    ids = [number * step for number in range(len(cores))]
    for number, (count, size) in enumerate(zip(cores, memory_gib)):
        siblings = [
            tuple(range(first + core * threads, first + (core + 1) * threads))
            for core in range(count)
        ]
        first += count * threads
        distances = tuple(
            (ids[other], 10 if other == number else 12 if other // 2 == number // 2 else 32)
            for other in range(len(cores))
        )
        cpus = tuple(cpu for core in siblings for cpu in core)
        nodes.append(
            Node(ids[number], cpus, size * GIB, distances=distances, cores=tuple(siblings), **more)
        )
    return Host(tuple(nodes), arch="x86_64")


def asks(
    name: str, vcpus: int, memory_gib: int, current: Ids = (), devices: Ids = (), **options: Any
) -> Applicant:
    """A guest that asks for nodes; the host keeps no memory for itself unless told to."""
    policy = policy_from_options({"nodes": "auto", "reserved_memory": 0, **options})
    guest = Guest(name, f"uuid-of-{name}", "x86_64", vcpus, memory_gib * GIB)
    return Applicant(guest, policy, current, bool(current), devices)


def place(
    host: Host, applicants: Sequence[Applicant], taken: Sequence[Load] = (), **more: Any
) -> list[Answer]:
    """Place guests beside what is taken."""
    return place_guests(applicants, host, taken, **more).answers


def nodes_of(answers: Sequence[Answer]) -> list[Ids | None]:
    """The nodes of each guest, None for one without a place."""
    return [one.nodes if isinstance(one, Placement) else None for one in answers]


def settled(applicants: Sequence[Applicant], answers: Sequence[Answer]) -> list[Applicant]:
    """The guests once the plan is carried out."""
    return [
        replace(one, current=answer.nodes, was_placed=True)
        if isinstance(answer, Placement)
        else one
        for one, answer in zip(applicants, answers)
    ]


OPTIONS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "pinning": st.sampled_from(["node", "node", "core", "none"]),
        "placement": st.sampled_from(["pack", "pack", "spread"]),
        "widen": st.sampled_from([False, False, True]),
        "cpu_overcommit": st.sampled_from([1, 1, 1.5, 2]),
    }
)


@st.composite
def cases(
    draw: st.DrawFn, nodes: int = 8, guests: int = 12, largest: int = 10
) -> tuple[Host, list[Applicant]]:
    """A host, and guests that may fit."""
    count = draw(st.integers(1, nodes))
    size = st.integers(1, 8)
    host = make_host(
        draw(st.lists(size, min_size=count, max_size=count)),
        draw(st.lists(size, min_size=count, max_size=count)),
    )
    options = draw(OPTIONS)
    applicants = []
    for number in range(draw(st.integers(1, guests))):
        vcpus, memory = draw(st.integers(1, largest)), draw(st.integers(1, largest))
        own = draw(OPTIONS) if draw(st.integers(0, 3)) == 0 else options
        applicants.append(asks(f"g{number:02}", vcpus, memory, **own))
    return host, applicants


def demands(applicant: Applicant, count: int) -> list[tuple[int, int]] | None:
    """Cores and memory of each node, worked out apart from the planner; None where impossible."""
    guest = applicant.guest
    if count > guest.vcpus or guest.memory_kib < count * 1024:
        return None
    cores, more = divmod(guest.vcpus, count)
    blocks, rest = divmod(guest.memory_kib // 1024, count)
    return [(cores + (cell < more), (blocks + (cell < rest)) * 1024) for cell in range(count)]


def fits(host: Host, placed: Sequence[tuple[Applicant, Ids]]) -> bool:
    """Whether no node holds more than it has, worked out apart from the planner."""
    for node in host.nodes:
        exclusive, shared, ratios, memory = 0, 0, [], 0
        for applicant, nodes in placed:
            if node.id not in nodes:
                continue
            needed = demands(applicant, len(nodes))
            if needed is None:
                return False
            cores, memory_kib = needed[nodes.index(node.id)]
            memory += memory_kib
            if applicant.policy.pinning == "core":
                exclusive += cores
            else:
                shared += cores
                ratios.append(applicant.policy.cpu_overcommit)
        if memory > node.memory_kib:
            return False
        most = (len(node.cores) - exclusive) * min(ratios, default=1)
        if len(node.cores) < exclusive or shared > most:
            return False
    return True


def fewest(host: Host, applicant: Applicant) -> int | None:
    """The fewest nodes that hold a guest alone."""
    ids = [node.id for node in host.nodes]
    for count in range(1, len(ids) + 1):
        if any(fits(host, [(applicant, nodes)]) for nodes in combinations(ids, count)):
            return count
    return None


@given(cases(), st.randoms(use_true_random=False))
@EXAMPLES
def test_the_order_of_guests_is_irrelevant(case: tuple[Host, list[Applicant]], random: Any) -> None:
    """Each guest has the same answer, wherever it stands in the list."""
    host, applicants = case
    answers = dict(zip((one.guest.name for one in applicants), place(host, applicants)))
    shuffled = list(applicants)
    random.shuffle(shuffled)
    for applicant, answer in zip(shuffled, place(host, shuffled)):
        assert str(answer) == str(answers[applicant.guest.name])


@given(cases())
@EXAMPLES
def test_no_node_holds_more_than_it_has(case: tuple[Host, list[Applicant]]) -> None:
    """Cores, by pins that are exclusive or shared, and memory."""
    host, applicants = case
    answers = place(host, applicants)
    placed = [
        (one, answer.nodes)
        for one, answer in zip(applicants, answers)
        if isinstance(answer, Placement)
    ]
    event(f"{len(placed)} of {len(applicants)} placed")
    assert fits(host, placed)


@given(cases())
@EXAMPLES
def test_the_fewest_nodes_unless_widened(case: tuple[Host, list[Applicant]]) -> None:
    """As many as hold it on an empty host, by trying them all."""
    host, applicants = case
    for applicant, answer in zip(applicants, place(host, applicants)):
        least = fewest(host, applicant)
        if not isinstance(answer, Placement):
            if least is None:
                assert "cannot hold it, even without other guests" in str(answer)
            continue
        assert answer.fewest == least
        assert len(answer.nodes) == least or (
            applicant.policy.widen and len(answer.nodes) > (least or 0)
        )


@given(cases())
@EXAMPLES
def test_who_is_placed_stays(case: tuple[Host, list[Applicant]]) -> None:
    """A second run moves nobody, and neither does one more guest, nor one that goes."""
    host, applicants = case
    answers = place(host, applicants)
    again = settled(applicants, answers)
    second = place(host, again)
    assert nodes_of(second) == nodes_of(answers)
    assert all(one.kept for one in second if isinstance(one, Placement))
    newcomer = asks("a-newcomer", 3, 3)
    assert nodes_of(place(host, [newcomer, *again]))[1:] == nodes_of(answers)
    kept = [(one, old) for one, old in zip(again, nodes_of(answers)) if old is not None]
    without = kept[1:]
    assert nodes_of(place(host, [one for one, _old in without])) == [old for _one, old in without]


@given(cases(nodes=4, guests=8, largest=5))
@MANY_EXAMPLES
def test_no_refusal_where_there_is_room(case: tuple[Host, list[Applicant]]) -> None:
    """Where trying everything finds a plan that holds all guests, so does the search."""
    host, applicants = case
    ids = [node.id for node in host.nodes]
    sizes = [fewest(host, one) for one in applicants]
    if None in sizes:
        return

    def exists(number: int, placed: list[tuple[Applicant, Ids]]) -> bool:
        if number == len(applicants):
            return True
        least = sizes[number]
        most = len(ids) if applicants[number].policy.widen else least
        assert least is not None
        assert most is not None
        return any(
            fits(host, [*placed, (applicants[number], nodes)])
            and exists(number + 1, [*placed, (applicants[number], nodes)])
            for size in range(least, most + 1)
            for nodes in combinations(ids, size)
        )

    possible = exists(0, [])
    event(f"possible: {possible}")
    answers = place(host, applicants)
    assert (None not in nodes_of(answers)) == possible


@given(cases(), st.integers(2, 9))
@EXAMPLES
def test_renumbered_nodes_renumber_the_answer(
    case: tuple[Host, list[Applicant]], step: int
) -> None:
    """Ids may be sparse; nothing but their order is of any meaning."""
    host, applicants = case
    sparse = make_host(
        [len(node.cores) for node in host.nodes],
        [node.memory_kib // GIB for node in host.nodes],
        step=step,
    )
    renumbered = [
        None if nodes is None else tuple(node * step for node in nodes)
        for nodes in nodes_of(place(host, applicants))
    ]
    assert nodes_of(place(sparse, applicants)) == renumbered


def test_near_nodes_first_and_nodes_kept_whole() -> None:
    """A guest of two nodes gets a near pair; small ones share a node."""
    host = make_host([8] * 4, [32] * 4)
    assert len(set(nodes_of(place(host, [asks(f"small{i}", 2, 4) for i in range(3)])))) == 1
    (wide,) = place(host, [asks("wide", 12, 20)])
    assert isinstance(wide, Placement)
    assert wide.nodes in [(0, 1), (2, 3)]
    assert wide.distance == 12
    assert wide.why.startswith("it needs 2 host nodes, and gets host nodes ")


def test_spread_leaves_each_node_as_free_as_it_can() -> None:
    """Four guests on four nodes."""
    host = make_host([8] * 4, [32] * 4)
    answers = place(host, [asks(f"g{i}", 2, 4, placement="spread") for i in range(4)])
    assert sorted(map(str, nodes_of(answers))) == ["(0,)", "(1,)", "(2,)", "(3,)"]


def test_cores_are_counted_and_not_threads() -> None:
    """Eight vCPUs without threads are eight cores, of which a node of four cores has too few."""
    host = make_host([4, 4], [32, 32], threads=2)
    single = asks("single", 8, 8)
    assert nodes_of(place(host, [single])) == [(0, 1)]
    threaded = replace(single, guest=replace(single.guest, own_topology=Topology(1, 1, 4, 2)))
    assert nodes_of(place(host, [threaded])) == [(0,)]


def test_hugepages_are_counted_by_size() -> None:
    """The pool decides, and ordinary memory does not."""
    pools = (HugepagePool(2048, 1024), HugepagePool(1048576, 0))
    host = make_host([8, 8], [32, 32], hugepages=pools)
    from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import HugepageUse

    def huge(name: str, gib: int) -> Applicant:
        one = asks(name, 2, gib)
        return replace(one, guest=replace(one.guest, hugepages=(HugepageUse(2048),)))

    assert nodes_of(place(host, [huge("a", 2), huge("b", 2)])) in [[(0,), (1,)], [(1,), (0,)]]
    answers = place(host, [huge("a", 2), huge("b", 2), huge("c", 1)])
    assert [one for one in answers if isinstance(one, LayoutError)]


def test_what_others_hold_is_not_given_away() -> None:
    """Whether it is bound, pinned for itself, or on no node in particular."""
    host = make_host([8, 8], [32, 32])
    bound = Load("bound", "1", (Share(Need(6, 4 * GIB), (0,), (0,), shared_cores=6),))
    assert nodes_of(place(host, [asks("g", 4, 4)], [bound])) == [(1,)]
    owner = Load("owner", "2", (Share(Need(6, 0), (0,), (0,), owned=frozenset(range(6))),))
    assert nodes_of(place(host, [asks("g", 4, 4)], [owner])) == [(1,)]
    floating = Load("floating", "3", (Share(Need(10, 4 * GIB), shared_cores=10),))
    (answer,) = place(host, [asks("g", 4, 4)], [floating])
    assert "needs 4 cores and 4096 MiB of a host node" in str(answer)
    assert make_ledger(host, [floating]).floating == ("floating",)


def test_devices_decide() -> None:
    """Preferred where there is room, said where there is none, refused where required."""
    host = make_host([8, 8, 8, 8], [32] * 4)
    full = Load("full", "1", (Share(Need(8, GIB), (2,), (2,), shared_cores=8),))
    assert nodes_of(place(host, [asks("g", 2, 4, devices=(3,))])) == [(3,)]
    (missed,) = place(host, [asks("g", 2, 4, devices=(2,))], [full])
    assert isinstance(missed, Placement)
    assert "its devices are on host node 2 too" in missed.why
    (refused,) = place(host, [asks("g", 2, 4, devices=(2,), device_locality="require")], [full])
    assert isinstance(refused, LayoutError)
    ignored = asks("g", 2, 4, devices=(3,), device_locality="ignore")
    assert nodes_of(place(host, [ignored])) == [(0,)]


def test_a_required_device_on_a_node_that_may_not_be_had() -> None:
    """It is named; no set of nodes is tried."""
    host = make_host([8, 8], [32, 32])
    asked = asks("g", 2, 4, devices=(1,), device_locality="require", auto_nodes="0")
    (answer,) = place(host, [asked])
    assert "its passed-through devices are on host node 1, which auto_nodes leaves out" in str(
        answer
    )


def test_hosts_without_topology_and_without_usable_nodes() -> None:
    """Nothing to choose, and nothing to choose from."""
    (answer,) = place(Host(nodes=(), arch="x86_64"), [asks("g", 2, 2)])
    assert isinstance(answer, Placement)
    assert answer.nodes == ()
    (refused,) = place(make_host([8], [0]), [asks("g", 2, 2)])
    assert "no host node has both online pCPUs and memory" in str(refused)


def test_nodes_with_other_threads_are_not_passed_over() -> None:
    """Sixteen vCPUs over two nodes: eight cores each without SMT, four each with."""
    single, double = make_host([6, 6], [32, 32]), make_host([6, 6], [32, 32], threads=2)
    shifted = [
        replace(
            node,
            id=node.id + 2,
            cpus=tuple(cpu + 12 for cpu in node.cpus),
            cores=tuple(tuple(cpu + 12 for cpu in core) for core in node.cores),
            distances=tuple((target + 2, value) for target, value in node.distances),
        )
        for node in double.nodes
    ]
    host = Host((*single.nodes, *shifted), arch="x86_64")
    assert nodes_of(place(host, [asks("g", 16, 16)])) == [(2, 3)]


def test_widen_takes_more_nodes_where_the_fewest_are_not_free() -> None:
    """Where it is asked to."""
    host = make_host([8, 8], [32, 32])
    taken = [
        Load(f"g{node}", str(node), (Share(Need(5, GIB), (node,), (node,), shared_cores=5),))
        for node in (0, 1)
    ]
    (refused,) = place(host, [asks("g", 6, 4)], taken)
    assert "free: node 0: 3 cores and 31744 MiB, node 1: 3 cores and 31744 MiB" in str(refused)
    assert nodes_of(place(host, [asks("g", 6, 4, widen=True)], taken)) == [(0, 1)]


def test_rebalance_moves_only_where_that_is_better() -> None:
    """And says what it brings."""
    host = make_host([8, 8], [32, 32])
    placed = [asks("a", 4, 8, (0,)), asks("b", 4, 8, (1,))]
    wide = asks("c", 8, 8)
    stays = place_guests([*placed, wide], host, ())
    assert nodes_of(stays.answers) == [(0,), (1,), None]
    moved = place_guests([*placed, wide], host, (), rebalance=True)
    assert None not in nodes_of(moved.answers)
    assert len(moved.moves) == 1
    assert moved.gain.startswith("1 more guests fit")
    # More guests would have a place if those that are there had none.
    there = [asks("a", 5, 8, (0,)), asks("b", 5, 8, (1,))]
    small = [asks(f"c{number}", 4, 8) for number in range(4)]
    kept = place_guests([*there, *small], host, (), rebalance=True)
    assert nodes_of(kept.answers)[:2] == [(0,), (1,)]
    assert kept.moves == ()
    alone = place_guests([asks("a", 4, 8, (1,))], host, (), rebalance=True)
    assert nodes_of(alone.answers) == [(1,)]
    assert alone.moves == ()


@pytest.mark.parametrize(
    ("applicant", "sentence"),
    [
        (asks("g", 2, 2, auto_nodes="7"), "host node 7 of auto_nodes '7' does not exist"),
        (asks("g", 40, 2), "cannot hold it, even without other guests: over 2 host nodes"),
        (asks("g", 2, 80), "cannot hold it, even without other guests"),
        (asks("g", 2, 2, reserved_memory="40000 MiB"), "cannot hold it, even without other guests"),
        (asks("g", 2, 2, cells=4), "2 vCPUs with threads 1 are 2 cores, which cannot fill 4 cells"),
    ],
)
def test_refusals(applicant: Applicant, sentence: str) -> None:
    """One sentence that names the guest, the figures and the way out."""
    (answer,) = place(make_host([8, 8], [32, 32]), [applicant])
    assert isinstance(answer, LayoutError)
    assert str(answer).startswith("guest g: ")
    assert sentence in str(answer)


def test_too_large_for_one_node_and_refused_on_more() -> None:
    """What it lacks on the nodes that it may have, and the rule with its own way out."""
    large = asks("g", 10, 2)
    board = replace(large, guest=replace(large.guest, arch="ppc64", machine="powernv9"))
    (answer,) = place(make_host([8, 8], [32, 32]), [board])
    assert str(answer) == (
        "guest g: nodes 'auto' cannot hold it, even without other guests: over 1 host node, host "
        "node 0 has 8 of 10 cores left; over more, guests of machine type powernv9 cannot have "
        "cells: QEMU has no NUMA for them; exclude the guest."
    )
