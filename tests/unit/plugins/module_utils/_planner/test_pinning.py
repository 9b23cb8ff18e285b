# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exclusive pins: who sits where, and who stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.loads import exclusive_cpus
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan, plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import owner

HostOf = Callable[[str], Host]
GuestOf = Callable[..., Guest]


def _layouts(host: Host, guests: list[Guest], **options: Any) -> dict[str, Layout]:
    policy = policy_from_options(options)
    answers = plan_guests([(guest, policy) for guest in guests], host)
    layouts = {}
    for guest, answer in zip(guests, answers):
        assert isinstance(answer, Layout), answer
        layouts[guest.name] = answer
    return layouts


def test_core_puts_threads_on_siblings(host: HostOf, guest: GuestOf) -> None:
    """The threads of a guest core share the threads of one host core."""
    layout = plan(guest(32), host("rfc-8n240c"), policy_from_options({"pinning": "core"}))
    assert layout.vcpu_pins[:4] == ((0, 120), (0, 120), (1, 121), (1, 121))
    assert layout.vcpu_pins[30:] == ((106, 226), (106, 226))
    assert layout.cell_pins(layout.cells[0]) == (0, 1, 120, 121)


def test_cpu_is_one_to_one(host: HostOf, guest: GuestOf) -> None:
    """Guest threads on sibling threads; a guest without threads has whole cores all the same."""
    layout = plan(guest(32), host("rfc-8n240c"), policy_from_options({"pinning": "cpu"}))
    assert layout.vcpu_pins[:4] == ((0,), (120,), (1,), (121,))
    options = {"pinning": "cpu", "threads": 1, "nodes": "0"}
    layout = plan(guest(17), host("rfc-8n240c"), policy_from_options(options))
    whole = [cpu for core in range(8) for cpu in (core, core + 120)]
    assert [pins[0] for pins in layout.vcpu_pins] == [*whole, 8]


def test_reserved_cpus_stay_free(host: HostOf, guest: GuestOf) -> None:
    """A core that is reserved in part has too few threads for a guest core with all of them."""
    options: dict[str, Any] = {"pinning": "core", "reserved_cpus": "0", "nodes": "0"}
    layout = plan(guest(2), host("rfc-8n240c"), policy_from_options(options))
    assert layout.vcpu_pins == ((1, 121), (1, 121))
    options["threads"] = 1
    layout = plan(guest(1), host("rfc-8n240c"), policy_from_options(options))
    assert layout.vcpu_pins == ((120,),)


@pytest.mark.parametrize("pinning", ["core", "cpu"])
def test_guests_do_not_share(host: HostOf, guest: GuestOf, pinning: str) -> None:
    """Guests of a call get pCPUs of their own, in order of their names, not of the list."""
    guests = [guest(16, name=name) for name in ("c", "a", "b")]
    layouts = _layouts(host("rfc-8n240c"), guests, pinning=pinning)
    assert layouts == _layouts(host("rfc-8n240c"), guests[::-1], pinning=pinning)
    assert layouts["a"].vcpu_pins[0][0] == 0
    taken = [{cpu for pins in layout.vcpu_pins for cpu in pins} for layout in layouts.values()]
    assert sum(map(len, taken)) == len(set().union(*taken)) == 48


@pytest.mark.parametrize("pinning", ["core", "cpu"])
def test_adding_a_guest_moves_nobody(host: HostOf, guest: GuestOf, pinning: str) -> None:
    """A guest that sits well stays, even if a newcomer's name comes first."""
    first = _layouts(host("rfc-8n240c"), [guest(16, name="m")], pinning=pinning)["m"]
    seated = replace(guest(16, name="m"), vcpu_pins=tuple(enumerate(first.vcpu_pins)))
    layouts = _layouts(host("rfc-8n240c"), [guest(16, name="a"), seated], pinning=pinning)
    assert layouts["m"] == first
    assert not {cpu for pins in layouts["a"].vcpu_pins for cpu in pins}.intersection(
        cpu for pins in first.vcpu_pins for cpu in pins
    )


def test_who_sits_wrong_moves(host: HostOf, guest: GuestOf) -> None:
    """A pin to another node, to a reserved pCPU, or one that two claim is not kept."""
    seats = {0: (15, 135), 1: (15, 135), 2: (16, 136), 3: (16, 136)}
    wrong = guest(4, vcpu_pins=tuple(seats.items()))
    options = {"pinning": "core", "nodes": "0-1"}
    layout = plan(wrong, host("rfc-8n240c"), policy_from_options(options))
    assert layout.vcpu_pins == ((0, 120), (0, 120), (16, 136), (16, 136))
    layout = plan(
        wrong, host("rfc-8n240c"), policy_from_options({**options, "reserved_cpus": "16"})
    )
    assert layout.vcpu_pins[2:] == ((15, 135), (15, 135))
    claims = [guest(2, name=name, vcpu_pins=((0, (3, 123)), (1, (3, 123)))) for name in ("y", "x")]
    layouts = _layouts(host("rfc-8n240c"), claims, pinning="core", nodes="0")
    assert layouts["x"].vcpu_pins[0] == (3, 123)
    assert layouts["y"].vcpu_pins[0] == (0, 120)


@pytest.mark.parametrize(
    ("vcpus", "options", "sentence"),
    [
        (
            62,
            {"pinning": "core"},
            "needs 31 cores with 2 free threads on host node 0, which has 15",
        ),
        (62, {"pinning": "cpu"}, "needs 31 cores with 2 free threads on host node 0, which has 15"),
        (
            31,
            {"pinning": "cpu", "threads": 1},
            "needs 31 pCPUs of their own on host node 0, which has 30",
        ),
        (16, {"pinning": "core", "threads": 1}, "needs 16 cores with 1 free thread on"),
        (
            30,
            {"pinning": "core", "reserved_cpus": "0"},
            "(pCPUs reserved or used by other guests: 0)",
        ),
        (8, {"pinning": "core", "threads": 4}, "needs 2 cores with 4 free threads"),
    ],
)
def test_too_few(
    host: HostOf, guest: GuestOf, vcpus: int, options: dict[str, Any], sentence: str
) -> None:
    """The node, what is needed, what is left, and the way out."""
    with pytest.raises(LayoutError) as raised:
        plan(guest(vcpus), host("rfc-8n240c"), policy_from_options({**options, "nodes": "0"}))
    assert sentence in str(raised.value)
    assert "reduce the guest's vCPUs, or free pCPUs there" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "vcpus", "options", "sentence"),
    [
        (
            "asymmetric-4n16c",
            8,
            {"pinning": "core", "threads": 2},
            "needs 4 cores with 2 free threads on host node 0, which has 0 left (pCPUs reserved or "
            "used by other guests: none), and 4 of its cores have fewer threads; reduce",
        ),
        (
            "hybrid-1n12c",
            20,
            {"pinning": "core", "threads": 2},
            "of its cores have fewer threads; reduce",
        ),
    ],
)
def test_cores_with_too_few_threads(
    host: HostOf, guest: GuestOf, name: str, vcpus: int, options: dict[str, Any], sentence: str
) -> None:
    """Where SMT is off, and on hybrid hosts: the cores are there, and are told of."""
    with pytest.raises(LayoutError) as raised:
        plan(guest(vcpus), host(name), policy_from_options({**options, "nodes": "0"}))
    assert sentence in str(raised.value)


def test_taken_by_others(host: HostOf, guest: GuestOf) -> None:
    """pCPUs that guests outside of the call own are left alone."""
    policy = policy_from_options({"pinning": "core", "nodes": "0"})
    layout = plan(guest(2), host("rfc-8n240c"), policy, [owner(0, 121)])
    assert layout.vcpu_pins[0] == (2, 122)


def test_a_guest_that_fails_keeps_what_it_has(host: HostOf, guest: GuestOf) -> None:
    """It is left as it is, and so its pCPUs are not given to others."""
    policy = policy_from_options({"pinning": "core", "nodes": "0"})
    big = guest(64, name="z", vcpu_pins=((0, (0, 120)), (1, (1,))))
    small = guest(4, name="a")
    answers = plan_guests([(big, policy), (small, policy)], host("rfc-8n240c"))
    assert isinstance(answers[0], LayoutError)
    assert isinstance(answers[1], Layout)
    assert answers[1].vcpu_pins == ((2, 122), (2, 122), (3, 123), (3, 123))


def test_round_robin_threads_cannot_share_a_core(host: HostOf, guest: GuestOf) -> None:
    """They sit in different cells: each vCPU gets a core of its own."""
    policy = policy_from_options({"pinning": "core", "distribution": "round_robin"})
    layout = plan(guest(16), host("rfc-8n240c"), policy)
    assert layout.vcpu_pins[0] == (0, 120)
    assert layout.vcpu_pins[8] == (1, 121)


@pytest.mark.parametrize(
    ("pins", "taken"),
    [
        ([(5,)], {5}),
        ([(0, 120)], {0, 120}),
        ([(0,), (120,)], {0, 120}),
        ([(0, 1)], set()),
        ([tuple(range(15))], set()),
        ([()], set()),
        ([(999,)], {999}),
    ],
)
def test_what_counts_as_exclusive(
    host: HostOf, pins: list[tuple[int, ...]], taken: set[int]
) -> None:
    """One pCPU, or threads of one core; anything wider shares."""
    assert exclusive_cpus(host("rfc-8n240c"), pins) == taken


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_who_does_not_fit_does_not_depend_on_the_order(
    host: HostOf, guest: GuestOf, order: tuple[int, ...]
) -> None:
    """By name the first two get their cores; the third is told with figures, and by its name."""
    policy = policy_from_options({"pinning": "core", "nodes": "0"})
    guests = [guest(14, name=name) for name in "abc"]
    answers = plan_guests([(guests[i], policy) for i in order], host("rfc-8n240c"))
    by_name = dict(zip(("abc"[i] for i in order), answers))
    assert isinstance(by_name["a"], Layout)
    assert isinstance(by_name["b"], Layout)
    assert str(by_name["c"]) == (
        "guest c: pinning 'core' needs 7 cores with 2 free threads on host node 0, which has 1 "
        "left (pCPUs reserved or used by other guests: 0-13,120-133); reduce the guest's vCPUs, or "
        "free pCPUs there."
    )
    assert by_name["b"].vcpu_pins[0] == (7, 127)


@pytest.mark.parametrize("pinning", ["core", "cpu"])
def test_two_names_alike_are_told_apart(host: HostOf, guest: GuestOf, pinning: str) -> None:
    """By UUID, so that the order of the list still does not matter."""
    policy = policy_from_options({"pinning": pinning, "nodes": "0"})
    one, two = (guest(2, name="a", uuid=uuid) for uuid in ("1", "2"))
    first = plan_guests([(one, policy), (two, policy)], host("rfc-8n240c"))
    assert first == plan_guests([(two, policy), (one, policy)], host("rfc-8n240c"))[::-1]


def test_cells_on_one_node_share_its_cores(host: HostOf, guest: GuestOf) -> None:
    """Two cells on one node take cores of that node, and never the same."""
    options = {"pinning": "cpu", "nodes": "0-1", "cells": 4}
    layout = plan(guest(16), host("rfc-8n240c"), policy_from_options(options))
    assert [layout.cell_pins(cell) for cell in layout.cells] == [
        (0, 1, 120, 121),
        (15, 16, 135, 136),
        (2, 3, 122, 123),
        (17, 18, 137, 138),
    ]


def test_pcpus_that_two_nodes_claim_are_given_once(host: HostOf, guest: GuestOf) -> None:
    """A host that counts a core to two nodes still gives it away once."""
    layout = plan(
        guest(6), host("edited-overlapping-cpus"), policy_from_options({"pinning": "core"})
    )
    taken = layout.vcpu_pins[::2]
    assert len(set(taken)) == len(taken) == 3


def test_what_a_guest_has_counts_as_left_for_it(host: HostOf, guest: GuestOf) -> None:
    """A guest that sits on one of its two cores is short of one, and the figures say so."""
    policy = policy_from_options({"pinning": "core", "nodes": "0"})
    seated = guest(4, vcpu_pins=((0, (3, 123)), (1, (3, 123))))
    taken = frozenset({*range(15), *range(120, 135)} - {3, 123})
    with pytest.raises(LayoutError) as raised:
        plan(seated, host("rfc-8n240c"), policy, [owner(*taken)])
    assert "needs 2 cores with 2 free threads on host node 0, which has 1 left" in str(raised.value)
