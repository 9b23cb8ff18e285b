# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of unequal size, isolated pCPUs, cores of several kinds, iothreads beside vCPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.distribution import (
    apportion,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import GuestOf, planned, refusal, topology_of

GIB = 1 << 20


def _host(*nodes: tuple[int, int], threads: int = 1, isolated: tuple[int, ...] = ()) -> Host:
    """Nodes of so many cores and GiB."""
    made, first = [], 0
    for number, (cores, gib) in enumerate(nodes):
        cpus = tuple(range(first, first + cores * threads))
        siblings = tuple(cpus[start : start + threads] for start in range(0, len(cpus), threads))
        made.append(Node(number, cpus, gib * GIB, cores=siblings))
        first += len(cpus)
    return Host(tuple(made), arch="x86_64", isolated_cpus=isolated)


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1, 1], [4, 3, 3]),
        (16, [12, 4], [12, 4]),
        (8, [12, 4], [6, 2]),
        (7, [12, 4], [5, 2]),
        (4, [60, 1, 1, 1], [1, 1, 1, 1]),
        (5, [60, 1, 1], [3, 1, 1]),
        (5, [0, 0], [3, 2]),
        (6, [4, 0, 4], [3, 1, 2]),
    ],
)
def test_apportion(total: int, weights: list[int], parts: list[int]) -> None:
    """By largest remainder, the first of equals first, and at least one each."""
    assert apportion(total, weights) == parts


def test_in_proportion_to_the_nodes(guest: GuestOf) -> None:
    """vCPUs by cores and memory by memory, where even cells would crowd the small node."""
    host = _host((12, 96), (4, 32))
    even = planned(guest(memory_kib=96 * GIB), host)
    assert [len(cell.vcpus) for cell in even.cells] == [8, 8]
    assert even.warnings == (
        "cell 1 has 8 vCPUs on the 4 pCPUs of host node 1, which they share; set split to "
        "'proportional', or use more nodes.",
        "50331648 KiB of its memory would be bound to host node 1, which has 33554432 KiB in "
        "total; reduce its memory, use more nodes, or set memory_mode to 'preferred'.",
    )
    layout = planned(guest(memory_kib=96 * GIB), host, split="proportional", pinning="core")
    assert [len(cell.vcpus) for cell in layout.cells] == [12, 4]
    assert [cell.memory_kib for cell in layout.cells] == [72 * GIB, 24 * GIB]
    assert layout.warnings == ()
    shape = topology_of(layout)
    assert (shape.sockets, shape.cores) == (4, 4)


def test_in_proportion_with_several_cells_a_node(guest: GuestOf) -> None:
    """The cells of a node share what it has."""
    layout = planned(
        guest(vcpus=12, memory_kib=12 * GIB), _host((8, 8), (4, 4)), split="proportional", cells=4
    )
    assert [len(cell.vcpus) for cell in layout.cells] == [4, 2, 4, 2]
    assert [cell.memory_kib // GIB for cell in layout.cells] == [4, 2, 4, 2]


def test_in_proportion_goes_with_contiguous_alone(guest: GuestOf) -> None:
    """It needs whole cores in a row."""
    host = _host((12, 96), (4, 32))
    assert "split 'proportional' conflicts with distribution 'interleave'" in refusal(
        guest(), host, split="proportional", distribution="interleave"
    )


def test_isolated_pcpus(guest: GuestOf) -> None:
    """Left to guests with pCPUs of their own, who take them first."""
    host = _host((16, 64), (16, 64), isolated=(*range(2, 16), *range(18, 32)))
    small = guest(vcpus=4, memory_kib=4 * GIB)
    assert planned(small, host, nodes="0").vcpu_pins == ((0, 1),) * 4
    layout = planned(small, host, nodes="0", pinning="core", emulator_pinning="nodes")
    assert layout.vcpu_pins == ((2,), (3,), (4,), (5,))
    assert layout.emulator_pins == (0, 1)
    large = planned(guest(vcpus=16, memory_kib=4 * GIB), host, nodes="0", pinning="core")
    assert large.warnings == (
        "its vCPUs are on isolated pCPUs and on others (0-1), where the host's own threads run "
        "too; isolate more pCPUs, or reserve those that are not.",
    )
    few = refusal(small, host, nodes="0", pinning="core", reserved_cpus="isolated,0")
    assert "needs 4 cores with 1 free thread on host node 0, which has 1 left" in few
    assert planned(small, host, nodes="0", pinning="cpu", reserved_cpus="0").vcpu_pins[0] == (2,)


def test_a_node_of_isolated_pcpus(guest: GuestOf) -> None:
    """Nothing spreads vCPUs over them; who knows nothing of the host says so."""
    host = _host((4, 64), isolated=(0, 1, 2, 3))
    said = refusal(guest(vcpus=4, memory_kib=GIB), host)
    assert "the pCPUs of host node 0 that are not reserved are isolated: 0-3" in said
    assert "set pinning to 'core' or 'cpu'" in said
    unknown = replace(host, isolated_cpus=None)
    assert planned(guest(vcpus=4, memory_kib=GIB), unknown).vcpu_pins == ((0, 1, 2, 3),) * 4
    said = refusal(guest(vcpus=4, memory_kib=GIB), unknown, reserved_cpus="isolated")
    assert "reserved_cpus 'isolated' cannot be used: which pCPUs are isolated is read on" in said


def test_iothreads_beside_vcpus(guest: GuestOf) -> None:
    """They get what no vCPU owns, the reserved pCPUs included."""
    host = _host((8, 64), (8, 64))
    one = guest(vcpus=8, memory_kib=GIB, iothread_ids=(1, 2, 3))
    options = {"pinning": "cpu", "reserved_cpus": "0,8", "iothread_pinning": "nodes"}
    layout = planned(one, host, **options)
    assert layout.vcpu_pins[0] == (1,)
    assert layout.iothread_pins == {1: (0, 5, 6, 7), 2: (8, 13, 14, 15), 3: (0, 5, 6, 7)}
    shared = planned(one, host, **{**options, "pinning": "node"})
    assert shared.iothread_pins is not None
    assert shared.iothread_pins[1] == (1, 2, 3, 4, 5, 6, 7)
    named = planned(one, host, **{**options, "iothread_pinning": "0,8"})
    assert named.iothread_pins is not None
    assert set(named.iothread_pins.values()) == {(0, 8)}
    full = guest(vcpus=16, memory_kib=GIB, iothread_ids=(1,))
    said = refusal(full, host, pinning="cpu", iothread_pinning="nodes")
    assert said == (
        "guest anuma: its vCPUs would take the last pCPUs of host node 1 that its iothreads may "
        "run on; reduce the guest's vCPUs, or free pCPUs there."
    )
    assert "iothread_pinning '99' names pCPU 99" in refusal(full, host, iothread_pinning="99")


def test_a_newcomer_leaves_iothreads_their_pcpu(guest: GuestOf) -> None:
    """Who was there first keeps what its iothreads run on."""
    host, policy = (
        _host((8, 64)),
        policy_from_options({"pinning": "cpu", "iothread_pinning": "nodes"}),
    )
    first = guest(vcpus=4, memory_kib=GIB, name="m", iothread_ids=(1,))
    (alone,) = plan_guests([(first, policy)], host)
    assert isinstance(alone, Layout)
    seated = replace(first, vcpu_pins=tuple(enumerate(alone.vcpu_pins)))
    for name in "az":
        newcomer = guest(vcpus=4, memory_kib=GIB, name=name)
        stays, refused = plan_guests([(seated, policy), (newcomer, policy)], host)
        assert stays == alone
        assert str(refused) == (
            f"guest {name}: its vCPUs would take the last pCPUs of host node 0 that guest m (its "
            "iothreads) may run on; reduce the guest's vCPUs, or free pCPUs there."
        )


def _hybrid() -> Host:
    """Eight cores of two threads, sixteen of one."""
    cores = [(cpu, cpu + 1) for cpu in range(0, 16, 2)] + [(cpu,) for cpu in range(16, 32)]
    return Host((Node(0, tuple(range(32)), 64 * GIB, cores=tuple(cores)),), arch="x86_64")


def test_cores_of_one_kind(guest: GuestOf) -> None:
    """Those that are enough; the fast ones first; mixed where none are, and that is said."""
    options = {"pinning": "core", "threads": 1}
    eight = planned(guest(vcpus=8, memory_kib=GIB), _hybrid(), **options)
    assert eight.vcpu_pins[:2] == ((0, 1), (2, 3))
    twelve = planned(guest(vcpus=12, memory_kib=GIB), _hybrid(), **options)
    assert twelve.vcpu_pins == tuple((cpu,) for cpu in range(16, 28))
    assert (eight.warnings, twelve.warnings) == ((), ())
    mixed = planned(guest(vcpus=20, memory_kib=GIB), _hybrid(), **options)
    assert mixed.vcpu_pins[7:9] == ((14, 15), (16,))
    assert mixed.warnings == (
        "cell 0 has cores of 2 kinds of host node 0, which differ in speed and in threads, because "
        "no kind has enough of them left; reduce its vCPUs to keep to one kind.",
    )
    said = refusal(guest(vcpus=20, memory_kib=GIB), _hybrid(), pinning="core")
    assert "needs 10 cores with 2 free threads on host node 0, which has 8 left" in said
    assert "and 16 of its cores have fewer threads" in said


def test_kinds_that_only_the_host_can_tell(guest: GuestOf) -> None:
    """Cores of one thread all of them, of which the last four are the fast ones."""
    host = replace(_host((12, 64)), cpu_kinds=((8, 9, 10, 11), tuple(range(8))))
    options = {"pinning": "cpu", "threads": 1}
    four = planned(guest(vcpus=4, memory_kib=GIB), host, **options)
    assert four.vcpu_pins == ((8,), (9,), (10,), (11,))
    six = planned(guest(vcpus=6, memory_kib=GIB), host, **options)
    assert six.vcpu_pins == ((0,), (1,), (2,), (3,), (4,), (5,))


def test_few_cache_domains(guest: GuestOf) -> None:
    """Whole domains first, then the tightest that holds the rest; who sits well stays."""
    cells = (0, 8), (8, 12), (12, 16)
    (node,) = _host((16, 64)).nodes
    host = Host((replace(node, cache_domains=tuple(tuple(range(*one)) for one in cells)),))
    policy = policy_from_options({"pinning": "core"})

    def ask(name: str, vcpus: int, pins: tuple[tuple[int, ...], ...] = ()) -> Guest:
        return guest(vcpus=vcpus, memory_kib=GIB, name=name, vcpu_pins=tuple(enumerate(pins)))

    def pins(*guests: Guest) -> list[tuple[int, ...]]:
        layouts = plan_guests([(one, policy) for one in guests], host)
        assert not [one for one in layouts if not isinstance(one, Layout)]
        return [
            tuple(cpu for cpus in layout.vcpu_pins for cpu in cpus)
            for layout in layouts
            if isinstance(layout, Layout)
        ]

    assert pins(ask("a", 4), ask("b", 3), ask("c", 8)) == [
        (8, 9, 10, 11),
        (12, 13, 14),
        (0, 1, 2, 3, 4, 5, 6, 7),
    ]
    assert pins(ask("a", 12)) == [(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    seated = ask("m", 2, ((0,), (12,)))
    assert pins(seated, ask("a", 8)) == [(0, 12), (1, 2, 3, 4, 5, 6, 7, 13)]
