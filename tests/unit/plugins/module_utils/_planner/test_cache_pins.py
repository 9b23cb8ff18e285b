# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pins by cache: within one L3, the fewest that hold a cell, the emptiest of these; who stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout, Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import Load, Threads
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from hypothesis import given
from hypothesis import strategies as st
from planning import owned_by, planned, refusal

HostOf = Callable[[str], Host]
GuestOf = Callable[..., Guest]
GIB = 1 << 20


def _node(node_id: int, first: int, sizes: list[int], threads: int = 1) -> Node:
    """Return a node with L3 caches of so many cores; its pCPUs follow each other."""
    cores = [
        tuple(range(first + core * threads, first + (core + 1) * threads))
        for core in range(sum(sizes))
    ]
    domains, start = [], 0
    for size in sizes:
        domains.append(tuple(cpu for core in cores[start : start + size] for cpu in core))
        start += size
    return Node(
        id=node_id,
        cpus=tuple(cpu for core in cores for cpu in core),
        memory_kib=64 * GIB,
        cores=tuple(cores),
        cache_domains=tuple(domains),
    )


def _host(*sizes: list[int], threads: int = 1, **keys: Any) -> Host:
    nodes: list[Node] = []
    for node_id, one in enumerate(sizes):
        first = nodes[-1].cpus[-1] + 1 if nodes else 0
        nodes.append(_node(node_id, first, one, threads))
    return Host(tuple(nodes), arch="x86_64", **keys)


def _layouts(
    host: Host,
    guests: list[Guest],
    cores_by_pins: dict[tuple[int, ...], Fraction] | None = None,
    **options: Any,
) -> dict[str, Layout]:
    policy = policy_from_options({"pinning": "cache", **options})
    answers = plan_guests(
        [(guest, policy) for guest in guests],
        host,
        [
            Load("other", "", (), (Threads("its vCPUs", cpus, cores=cores),))
            for cpus, cores in (cores_by_pins or {}).items()
        ],
    )
    layouts = [answer for answer in answers if isinstance(answer, Layout)]
    assert len(layouts) == len(guests), answers
    return {guest.name: layout for guest, layout in zip(guests, layouts)}


def _pins(layout: Layout) -> list[str]:
    return [format_cpuset(cpus) for cpus in layout.vcpu_pins]


def _seated(guest: Guest, layout: Layout) -> Guest:
    return replace(guest, vcpu_pins=tuple(enumerate(layout.vcpu_pins)))


def test_one_domain_holds_a_small_cell(host: HostOf, guest: GuestOf) -> None:
    """Every vCPU may use all of one CCX, and nothing else."""
    layout = planned(guest(8, memory_kib=GIB), host("rome-nps1"), pinning="cache")
    assert _pins(layout) == ["0-3,16-19"] * 8
    assert not layout.warnings


def test_the_fewest_domains_in_whole_cores(host: HostOf, guest: GuestOf) -> None:
    """Twelve vCPUs are six cores: two CCX of four, and three cores in each."""
    layout = planned(guest(12), host("rome-nps1"), pinning="cache")
    assert _pins(layout) == ["0-3,16-19"] * 6 + ["4-7,20-23"] * 6
    whole = planned(guest(32), host("rome-nps1"), pinning="cache")
    assert [len(set(whole.vcpu_pins[first : first + 8])) for first in (0, 8, 16, 24)] == [1] * 4


def test_overcommit_says_how_much_a_domain_holds(host: HostOf, guest: GuestOf) -> None:
    """With two guest cores for each host core a CCX of four holds eight."""
    layout = planned(guest(16), host("rome-nps1"), pinning="cache", cpu_overcommit=2)
    assert set(_pins(layout)) == {"0-3,16-19"}


def test_every_cell_has_its_own(host: HostOf, guest: GuestOf) -> None:
    """Cells on the nodes of NPS4, and two cells on one node."""
    layout = planned(guest(16), host("rome-nps4"), pinning="cache")
    assert [layout.cell_pins(cell) for cell in layout.cells] == [
        parse_cpuset(cpus) for cpus in ("0-3", "8-11", "16-19", "24-27")
    ]
    pair = planned(guest(8), host("rome-nps4"), pinning="cache", nodes="0", cells=2)
    assert _pins(pair) == ["0-3"] * 4 + ["4-7"] * 4


def test_guests_are_spread_by_load(host: HostOf, guest: GuestOf) -> None:
    """Each goes to the emptiest domain, whatever the order that they are given in."""
    guests = [guest(size, name=name) for name, size in (("a", 2), ("b", 8), ("c", 4), ("d", 6))]
    layouts = _layouts(host("rome-nps1"), guests)
    assert layouts == _layouts(host("rome-nps1"), guests[::-1])
    assert {name: layout.vcpu_pins[0][0] for name, layout in layouts.items()} == {
        "b": 0,
        "d": 4,
        "c": 8,
        "a": 12,
    }


def test_who_is_not_in_the_call_counts(host: HostOf, guest: GuestOf) -> None:
    """Cores on a domain, or on a part of it, take room there; what may run elsewhere gives way."""
    taken = {(0, 16): Fraction(1), tuple(range(4, 8)): Fraction(3), (): Fraction(40)}
    layout = _layouts(host("rome-nps1"), [guest(4)], taken)["anuma"]
    assert layout.vcpu_pins[0] == parse_cpuset("8-11,24-27")
    wide = {tuple(range(10)): Fraction(40)}
    layout = _layouts(host("rome-nps1"), [guest(8)], wide)["anuma"]
    assert _pins(layout) == ["12-15,28-31"] * 8
    # Where less room is left, more domains; where there is none, the fewest and emptiest.
    some = {tuple(range(first, first + 4)): Fraction(2) for first in (0, 4, 8, 12)}
    layout = _layouts(host("rome-nps1"), [guest(12)], some)["anuma"]
    assert _pins(layout) == ["0-3,16-19"] * 4 + ["4-7,20-23"] * 4 + ["8-11,24-27"] * 4
    full = {**dict.fromkeys(some, Fraction(4)), (8, 9, 10, 11): Fraction(3)}
    layout = _layouts(host("rome-nps1"), [guest(12)], full)["anuma"]
    assert _pins(layout) == ["0-3,16-19"] * 6 + ["8-11,24-27"] * 6


def test_guests_with_other_pins_count(guest: GuestOf) -> None:
    """One with a core of its own, one that cannot be planned, and one pinned to the node."""
    host = _host([4, 4, 4])
    cache, core, node = (
        policy_from_options({"pinning": pinning, "threads": 1})
        for pinning in ("cache", "core", "node")
    )
    stuck = guest(4, name="stuck", vcpu_pins=tuple((vcpu, (4, 5, 6, 7)) for vcpu in range(4)))
    alone, wide, new = (guest(size, name=name) for name, size in (("a", 2), ("w", 3), ("n", 3)))
    asked = [
        (stuck, policy_from_options({"nodes": "7"})),
        (alone, core),
        (wide, node),
        (new, cache),
    ]
    answers = plan_guests(asked, host)
    assert isinstance(answers[3], Layout)
    assert _pins(answers[3]) == ["8-11"] * 3


def test_adding_a_guest_moves_nobody(host: HostOf, guest: GuestOf) -> None:
    """Who is pinned to whole domains stays, even where they are fuller than others by now."""
    first = guest(8, name="m")
    layout = _layouts(host("rome-nps1"), [first])["m"]
    seated = _seated(first, layout)
    crowd = {layout.vcpu_pins[0]: Fraction(9)}
    assert _layouts(host("rome-nps1"), [seated, guest(8, name="a")], crowd)["m"] == layout


@pytest.mark.parametrize(
    "pins",
    [
        ["0-3,16-19", "0-3,16-19", "4-7,20-23", "8-11,24-27"],
        ["0-7", "0-7", "0-7", "0-7"],
        ["0-2", "0-2", "0-2", "0-2"],
        ["4-7,20-23", "4-7,20-23", "0-3,16-19", "0-3,16-19"],
    ],
)
def test_who_sits_wrong_moves(host: HostOf, guest: GuestOf, pins: list[str]) -> None:
    """A core over two domains, pins that are no domain, and domains in no order are not kept."""
    wrong = guest(4, vcpu_pins=tuple((v, parse_cpuset(cpus)) for v, cpus in enumerate(pins)))
    layout = planned(wrong, host("rome-nps1"), pinning="cache")
    assert _pins(layout) == ["0-3,16-19"] * 4


def test_a_smaller_overcommit_moves_who_is_too_many(host: HostOf, guest: GuestOf) -> None:
    """Eight cores on a domain of four were lawful with two for each, and are not with one."""
    large = guest(16)
    layout = planned(large, host("rome-nps1"), pinning="cache", cpu_overcommit=2)
    again = planned(_seated(large, layout), host("rome-nps1"), pinning="cache")
    assert len(set(again.vcpu_pins)) == 2


def test_reserved_and_isolated_cpus_are_left_out(guest: GuestOf) -> None:
    """As with node; a domain that has none left is not used, and no node may have none."""
    host = _host([4, 4], isolated_cpus=(4,))
    layout = planned(guest(3, memory_kib=GIB), host, pinning="cache", reserved_cpus="0,5")
    assert _pins(layout) == ["1-3"] * 3
    layout = planned(guest(3, memory_kib=GIB), host, pinning="cache", reserved_cpus="0-3")
    assert _pins(layout) == ["5-7"] * 3
    said = refusal(guest(3, memory_kib=GIB), host, pinning="cache", reserved_cpus="0-7")
    assert "leaves no pCPU of host node 0 to pin to" in said
    said = refusal(guest(3, memory_kib=GIB), host, pinning="cache", reserved_cpus="0-3,5-7")
    assert "are isolated: 4" in said


def test_more_cores_than_the_node_has(guest: GuestOf) -> None:
    """All domains have their part of it, and it stays so beside others; a warning has figures."""
    host = _host([4, 8])
    crowded = guest(20, memory_kib=GIB)
    layout = planned(crowded, host, pinning="cache")
    assert _pins(layout) == ["0-3"] * 7 + ["4-11"] * 13
    assert "cell 0 has 20 vCPUs on the 12 pCPUs of host node 0" in layout.warnings[0]
    load: dict[tuple[int, ...], Fraction] = {(0, 1, 2, 3): Fraction(4)}
    assert _layouts(host, [_seated(crowded, layout)], load)["anuma"] == layout


def test_unequal_domains_are_filled_by_what_they_hold(guest: GuestOf) -> None:
    """The large one first; with both, each gets cores in proportion."""
    host = _host([2, 6])
    assert _pins(planned(guest(5, memory_kib=GIB), host, pinning="cache")) == ["2-7"] * 5
    both = planned(guest(8, memory_kib=GIB), host, pinning="cache")
    assert _pins(both) == ["0-1"] * 2 + ["2-7"] * 6


def test_hosts_without_a_list(host: HostOf, guest: GuestOf) -> None:
    """As with node, and a warning says which nodes; a part of them is used where it is listed."""
    bare, with_node = (
        planned(guest(16), host("rfc-8n240c"), pinning=pinning) for pinning in ("cache", "node")
    )
    assert bare.vcpu_pins == with_node.vcpu_pins
    assert bare.warnings == (
        "libvirt's capabilities list no L3 cache of host nodes 0-7, so its vCPUs there are pinned "
        "as with pinning 'node'; set that, or give cache_domains in topology.",
    )
    partial = _host([4, 4])
    some = replace(partial.nodes[0], cache_domains=((0, 1, 2, 3),))
    layout = planned(guest(6, memory_kib=GIB), Host((some,), arch="x86_64"), pinning="cache")
    assert _pins(layout) == ["0-3"] * 6


def test_a_host_without_nodes(host: HostOf, guest: GuestOf) -> None:
    """There is nothing to pin to."""
    assert planned(guest(), host("edited-no-topology"), pinning="cache").vcpu_pins == ()


def test_one_node_without_cells(host: HostOf, guest: GuestOf) -> None:
    """A guest that keeps its own topology has the cores that this says, and its dies together."""
    policy = policy_from_options({"pinning": "cache", "nodes": "auto"})
    own = guest(12, own_topology=Topology(sockets=1, dies=3, cores=2, threads=2))
    (layout,) = plan_guests([(own, policy)], host("rome-nps1"), placed={0: (0,)})
    assert isinstance(layout, Layout)
    assert layout.leaves_cells
    assert _pins(layout) == ["0-3,16-19"] * 8 + ["4-7,20-23"] * 4
    large = replace(own, own_topology=Topology(sockets=1, dies=2, cores=3, threads=2))
    (layout,) = plan_guests([(large, policy)], host("rome-nps1"), placed={0: (0,)})
    assert isinstance(layout, Layout)
    assert _pins(layout) == ["0-3,16-19"] * 6 + ["4-7,20-23"] * 6


@st.composite
def _hosts(draw: st.DrawFn) -> Host:
    threads = draw(st.sampled_from([1, 2]))
    sizes = st.lists(st.integers(1, 8), min_size=1, max_size=4)
    isolated = draw(st.sampled_from([None, (), (0,), (1, 2)]))
    made = draw(st.lists(sizes, min_size=1, max_size=3))
    return _host(*made, threads=threads, isolated_cpus=isolated)


@st.composite
def _guests(draw: st.DrawFn, name: str) -> Guest:
    pins = draw(st.dictionaries(st.integers(0, 5), st.integers(0, 9), max_size=4))
    return Guest(
        name,
        "",
        "x86_64",
        draw(st.integers(3, 24)),
        4 * GIB,
        vcpu_pins=tuple((vcpu, (cpu,)) for vcpu, cpu in sorted(pins.items())),
    )


_OPTIONS = st.fixed_dictionaries(
    {
        "cells": st.sampled_from([None, None, 1, 2]),
        "threads": st.sampled_from(["auto", 1]),
        "distribution": st.sampled_from(["contiguous", "contiguous", "interleave"]),
        "cpu_overcommit": st.sampled_from([1, 1, 1.5, 4]),
        "reserved_cpus": st.sampled_from([None, None, "0", "0-1"]),
    }
)


@given(_hosts(), st.integers(1, 5), st.data())
def test_pins_are_domains(
    count_example: Callable[[], None], host: Host, count: int, data: st.DataObject
) -> None:
    """Each core within one L3 of its cell's node; the same again, in any order; nobody moves."""
    count_example()
    guests = [data.draw(_guests(f"g{number}")) for number in range(count)]
    policies = [
        policy_from_options({"pinning": "cache", **data.draw(_OPTIONS)}) for _guest in guests
    ]
    asked = list(zip(guests, policies))
    answers = plan_guests(asked, host)
    # Sentences are equal as text; two errors never are.
    assert list(map(str, plan_guests(asked[::-1], host))) == list(map(str, answers[::-1]))
    seated = []
    owned = {
        cpu
        for (guest, _policy), answer in zip(asked, answers)
        if not isinstance(answer, Layout)
        for cpu in owned_by(guest, host)
    }
    for (guest, policy), answer in zip(asked, answers):
        if not isinstance(answer, Layout):
            continue
        barred = {*policy.reserved_cpus, *(host.isolated_cpus or ()), *owned}
        threads = answer.topology.threads if answer.topology else 1
        for cell, node_id in zip(answer.cells, answer.host_nodes):
            assert node_id is not None
            node = host.node(node_id)
            assert node is not None
            domains = [tuple(cpu for cpu in one if cpu not in barred) for one in node.cache_domains]
            pins = [answer.vcpu_pins[vcpu] for vcpu in cell.vcpus]
            assert set(pins) <= set(domains)
            for first in range(0, len(pins), threads):
                assert len(set(pins[first : first + threads])) == 1
        seated.append((_seated(guest, answer), policy))
    layouts = [answer for answer in answers if isinstance(answer, Layout)]
    newcomer = (data.draw(_guests("a")), policy_from_options({"pinning": "cache"}))
    refused = [one for one, answer in zip(asked, answers) if not isinstance(answer, Layout)]
    assert plan_guests([*seated, *refused], host)[: len(seated)] == layouts
    assert plan_guests([*seated, *refused, newcomer], host)[: len(seated)] == layouts


@given(_hosts(), st.data())
def test_a_guest_alone_is_on_the_fewest(
    count_example: Callable[[], None], host: Host, data: st.DataObject
) -> None:
    """No smaller number of domains of its node holds a cell."""
    count_example()
    options = {**data.draw(_OPTIONS), "cells": 1, "nodes": "0", "reserved_cpus": None}
    policy = policy_from_options({"pinning": "cache", **options})
    guest = replace(data.draw(_guests("g")), vcpu_pins=())
    (layout,) = plan_guests([(guest, policy)], host)
    if not isinstance(layout, Layout):
        return
    node, threads = host.nodes[0], layout.topology.threads if layout.topology else 1
    isolated = set(host.isolated_cpus or ())
    held = []
    for domain in node.cache_domains:
        inside = set(domain) - isolated
        cores = sum(not inside.isdisjoint(core) for core in node.cores)
        if cores:
            held.append(max(1, int(cores * policy.cpu_overcommit)))
    used = len({layout.vcpu_pins[vcpu] for vcpu in range(guest.vcpus)})
    wanted = guest.vcpus // threads
    if sum(held) >= wanted:
        largest = sorted(held, reverse=True)
        assert used == next(
            count for count in range(1, len(held) + 1) if sum(largest[:count]) >= wanted
        )


@given(_hosts(), st.sampled_from(["node", "cache", "core", "cpu"]), st.data())
def test_without_lists_nothing_is_different(
    count_example: Callable[[], None], host: Host, pinning: str, data: st.DataObject
) -> None:
    """A host that lists no caches is planned as one where all of each node is one cache."""
    count_example()
    one = Host(
        tuple(replace(node, cache_domains=(node.cpus,)) for node in host.nodes),
        arch="x86_64",
        isolated_cpus=host.isolated_cpus,
    )
    none = Host(
        tuple(replace(node, cache_domains=()) for node in host.nodes),
        arch="x86_64",
        isolated_cpus=host.isolated_cpus,
    )
    policy = policy_from_options({"pinning": pinning, **data.draw(_OPTIONS)})
    asked = [(data.draw(_guests(f"g{number}")), policy) for number in range(3)]
    for first, second in zip(plan_guests(asked, one), plan_guests(asked, none)):
        if isinstance(first, Layout) and isinstance(second, Layout):
            said = [text for text in second.warnings if "list no L3 cache" not in text]
            assert replace(second, warnings=tuple(said)) == first
            assert (said != list(second.warnings)) == (pinning == "cache")
        else:
            assert str(first) == str(second)
