# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dies and sockets by example: their numbers, who is refused, and who is warned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout, Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.limits import (
    HIGHEST_XAPIC_ID,
    highest_apic_id,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.topology import die_cores
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    Policy,
    policy_from_options,
)
from planning import GuestOf, HostOf, planned, refusal

INTEL: dict[str, Any] = {"cpu_vendor": "Intel", "cpu_model": "Skylake-Server-IBRS"}


def _host(*nodes: Sequence[int], per_socket: int = 1, threads: int = 1, **keys: Any) -> Host:
    """Return a host whose nodes have cache domains of so many cores."""
    made, cpu = [], 0
    for node_id, sizes in enumerate(nodes):
        domains, cores = [], []
        for size in sizes:
            inside = [
                tuple(range(cpu + core * threads, cpu + (core + 1) * threads))
                for core in range(size)
            ]
            cpu += size * threads
            cores += inside
            domains.append(tuple(one for core in inside for one in core))
        cpus = tuple(one for core in cores for one in core)
        made.append(
            Node(
                node_id,
                cpus,
                1 << 26,
                cores=tuple(cores),
                socket_ids=(node_id // per_socket,),
                cache_domains=tuple(domains),
            )
        )
    return Host(tuple(made), arch="x86_64", **keys)


def _topology(layout: Layout) -> tuple[int, int, int, int]:
    shape = layout.topology
    assert shape is not None
    return (shape.sockets, shape.dies, shape.cores, shape.threads)


@pytest.mark.parametrize(
    ("nodes", "vcpus", "topology"),
    [
        # Nodes of 8 cores in one, two and four domains.
        (([8], [8]), 8, (2, 1, 4, 1)),
        (([4, 4], [4, 4]), 8, (2, 1, 4, 1)),
        (([2] * 4, [2] * 4), 8, (2, 2, 2, 1)),
        (([4, 4], [4, 4]), 16, (2, 2, 4, 1)),
        # Dies of three: six cores do not fit one domain of four.
        (([4, 4], [4, 4]), 12, (2, 2, 3, 1)),
        # Two domains of eight hold three dies of four.
        (([8, 8],), 12, (1, 2, 6, 1)),
        # Of unequal domains the small one counts.
        (([6, 2],), 8, (1, 4, 2, 1)),
        (([6, 2],), 6, (1, 1, 6, 1)),
        (([8, 4], [8, 4]), 24, (2, 3, 4, 1)),
    ],
)
def test_the_fewest_dies_that_domains_allow(
    guest: GuestOf, nodes: tuple[list[int], ...], vcpus: int, topology: Any
) -> None:
    """Dies are as large as what divides the cells and fits."""
    layout = planned(guest(vcpus), _host(*nodes), dies="host", pinning="core")
    assert _topology(layout) == topology
    assert layout.warnings == ()


@pytest.mark.parametrize(
    ("nodes", "vcpus", "topology", "figures"),
    [
        (([4, 4],), 7, (1, 1, 7, 1), "its cells of 7 cores"),
        (([4, 4], [4, 4]), 7, (7, 1, 1, 1), "its cells of 4 and 3 cores"),
        (([3, 3],), 4, (1, 2, 2, 1), ""),
        (([1, 1, 1, 1],), 4, (1, 1, 4, 1), "host node 0 has domains of 1, 1, 1, 1 cores"),
    ],
)
def test_cells_that_do_not_split(
    guest: GuestOf, nodes: tuple[list[int], ...], vcpus: int, topology: Any, figures: str
) -> None:
    """One die a socket, and a warning with the figures."""
    layout = planned(guest(vcpus), _host(*nodes), dies="host", pinning="core")
    assert _topology(layout) == topology
    assert [figures in warning for warning in layout.warnings] == [True] * bool(figures)


def test_a_die_is_within_one_domain(guest: GuestOf) -> None:
    """Also where the tightest domains would take it over two; reserved cores are no room."""
    layout = planned(guest(6), _host([4, 4, 4]), dies="host", pinning="cpu", reserved_cpus="1")
    assert _topology(layout) == (1, 2, 3, 1)
    assert [pins[0] for pins in layout.vcpu_pins] == [0, 2, 3, 4, 5, 6]


def _call(host: Host, *guests: Guest, **options: Any) -> dict[str, Layout | VnumaError]:
    policy = policy_from_options({"dies": "host", "pinning": "core", **options})
    answers = plan_guests([(guest, policy) for guest in guests], host)
    return {guest.name: answer for guest, answer in zip(guests, answers)}


def _seated(guest: Guest, cpus: Sequence[int]) -> Guest:
    return replace(guest, vcpu_pins=tuple((vcpu, (cpu,)) for vcpu, cpu in enumerate(cpus)))


def test_a_socket_of_one_die_is_within_one_shared_domain(guest: GuestOf) -> None:
    """Of domains of six and four cores the load alone would give it five and three."""
    layout = planned(guest(8), _host([6, 4]), dies="host", pinning="cache", sockets=2)
    assert _topology(layout) == (2, 1, 4, 1)
    assert layout.vcpu_pins == (tuple(range(6)),) * 4 + (tuple(range(6, 10)),) * 4


def test_who_sits_in_one_domain_stays(guest: GuestOf) -> None:
    """A newcomer whose name comes first moves nobody."""
    old = _seated(guest(4, name="z"), [4, 5, 6, 7])
    found = _call(_host([4, 4]), guest(4, name="a"), old)
    assert isinstance(found["z"], Layout)
    assert found["z"].vcpu_pins == ((4,), (5,), (6,), (7,))
    assert isinstance(found["a"], Layout)
    assert found["a"].vcpu_pins == ((0,), (1,), (2,), (3,))


def test_who_sits_in_two_domains_moves(guest: GuestOf) -> None:
    """Its pins would not deliver what its dies promise."""
    found = _call(_host([4, 4]), _seated(guest(4), [2, 3, 4, 5]))["anuma"]
    assert isinstance(found, Layout)
    assert len({pins[0] // 4 for pins in found.vcpu_pins}) == 1


def test_fragments_are_refused_with_the_figures(guest: GuestOf) -> None:
    """Enough cores are left, and no domain has enough of them."""
    sitting = [_seated(guest(1, name=f"b{cpu}"), [cpu]) for cpu in (0, 4)]
    found = _call(_host([4, 4]), guest(4, name="a"), *sitting)
    said = str(found["a"])
    assert "dies 'host' needs 1 die of 4 cores for cell 0" in said
    assert "host node 0, whose domains have 3, 3 left" in said
    assert isinstance(_call(_host([4, 4]), guest(3, name="a"), *sitting)["a"], Layout)


def test_shared_domains_hold_what_overcommit_allows() -> None:
    """Where pins are shared, guest cores for each host core; where not, one."""
    (node,) = _host([4, 4]).nodes
    shared = Policy(pinning="cache", cpu_overcommit=Fraction(2))
    assert die_cores([16], 16, [node], shared, 1) == 8
    assert die_cores([8], 8, [node], shared, 1) == 8
    once = replace(shared, cpu_overcommit=Fraction(1))
    assert die_cores([16], 16, [node], once, 1) == 0
    assert die_cores([8], 8, [node], once, 1) == 4
    alone = replace(shared, pinning="core")
    assert die_cores([16], 16, [node], alone, 1) == 0
    assert die_cores([8], 8, [node], alone, 1) == 4


def test_threads_and_kinds(guest: GuestOf) -> None:
    """Dies of guest cores with threads; of fast cores where these have room."""
    layout = planned(guest(16), _host([4, 4], threads=2), dies="host", pinning="core")
    assert _topology(layout) == (1, 2, 4, 2)
    assert layout.vcpu_pins[:2] == ((0, 1), (0, 1))
    hybrid = _host([4, 4], cpu_kinds=((4, 5, 6, 7), (0, 1, 2, 3)))
    layout = planned(guest(4), hybrid, dies="host", pinning="cpu")
    assert layout.vcpu_pins == ((4,), (5,), (6,), (7,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pinning": "node"}, "set pinning to 'core', 'cpu' or 'cache', or dies to 'none'."),
        ({"pinning": "none"}, "dies 'host' conflicts with pinning 'none'"),
        ({"distribution": "interleave"}, "dies 'host' conflicts with distribution 'interleave'"),
        (
            {"migration_group": ["kvm1"], "cells": 2},
            "dies 'host' mirrors the caches of one host",
        ),
    ],
)
def test_options_that_conflict(guest: GuestOf, options: dict[str, Any], said: str) -> None:
    """With the way out."""
    asked = {"dies": "host", "pinning": "core", **options}
    assert said in refusal(guest(8), _host([4, 4], [4, 4]), **asked)


@pytest.mark.parametrize(
    ("host_keys", "guest_keys", "said"),
    [
        ({"libvirt_version": "6.0.0"}, {}, "dies came with libvirt 6.1; upgrade libvirt, or "),
        ({"hypervisor_version": "4.0.1"}, {}, "its host has QEMU 4.0.1, and dies came with QEMU"),
        ({}, {"arch": "aarch64"}, "guests of architecture aarch64 cannot have dies"),
        (
            {"hypervisor_version": "9.1.0"},
            {"kind": "qemu"},
            "its host has QEMU 9.1.0, whose emulation",
        ),
    ],
)
def test_who_has_no_dies(
    guest: GuestOf, host_keys: dict[str, Any], guest_keys: dict[str, Any], said: str
) -> None:
    """One sentence, where several dies would not start; one die is none that anybody refuses."""
    asked = {"dies": "host", "pinning": "core"}
    several = _host([4, 4], **host_keys)
    assert said in refusal(guest(8, **guest_keys), several, **asked)
    assert _topology(planned(guest(4, **guest_keys), several, **asked)) == (1, 1, 4, 1)
    for version in ("4.1.0", "9.0.4"):
        able = _host([4, 4], libvirt_version="6.1.0", hypervisor_version=version)
        assert _topology(planned(guest(8, kind="qemu"), able, **asked)) == (1, 2, 4, 1)
    newest = _host([4, 4], libvirt_version="12.8.0", hypervisor_version="11.1.0")
    assert _topology(planned(guest(8, kind="kvm"), newest, **asked)) == (1, 2, 4, 1)


@pytest.mark.parametrize(
    ("host_keys", "guest_keys", "said"),
    [
        ({"cpu_vendor": "AMD"}, {"kind": "kvm", "cpu_mode": "host-passthrough"}, "name='topoext'"),
        ({"cpu_vendor": "AMD"}, {"kind": "kvm", "cpu_model": "Opteron_G5"}, "name='topoext'"),
        ({"cpu_vendor": "AMD"}, {"kind": "kvm", "cpu_model": "EPYC-Rome"}, ""),
        (
            {"cpu_vendor": "AMD"},
            {"kind": "kvm", "cpu_mode": "host-passthrough", "has_topoext": True},
            "",
        ),
        ({}, {"cache_mode": "disable"}, "has <cache mode='disable'/>; remove that"),
        ({}, {"cache_mode": "passthrough"}, "has <cache mode='passthrough'/>"),
        ({}, {"cache_mode": "emulate"}, ""),
        ({}, {"machine": "pc-i440fx-2.7"}, "machine type pc-i440fx-2.7 has no L3 cache"),
        ({}, {"machine": "pc-1.3"}, "machine type pc-1.3"),
        ({}, {"machine": "pc-q35-2.8"}, ""),
        ({}, {"machine": "pc-q35-rhel7.6.0"}, ""),
    ],
)
def test_who_would_not_see_its_dies(
    guest: GuestOf, host_keys: dict[str, Any], guest_keys: dict[str, Any], said: str
) -> None:
    """A warning with the way out; none for a guest that has one die a socket."""
    host = _host([4, 4], **host_keys)
    layout = planned(guest(8, **guest_keys), host, dies="host", pinning="core")
    assert [said in warning for warning in layout.warnings] == [True] * bool(said)
    assert planned(guest(4, **guest_keys), host, dies="host", pinning="core").warnings == ()
    assert planned(guest(8, **guest_keys), host, pinning="core").warnings == ()


@pytest.mark.parametrize(
    ("host_keys", "guest_keys", "sockets"),
    [
        (INTEL, {"kind": "kvm", "cpu_mode": "host-passthrough"}, 2),
        (INTEL, {"kind": "kvm", "cpu_model": "Icelake-Server"}, 2),
        (INTEL, {"kind": "kvm", "cpu_model": "qemu64"}, 4),
        ({**INTEL, "cpu_model": "Haswell-noTSX"}, {"cpu_mode": "host-passthrough"}, 4),
        ({**INTEL, "cpu_model": ""}, {"cpu_mode": "host-model"}, 4),
        ({"cpu_vendor": "AMD"}, {"kind": "kvm", "cpu_model": "Skylake-Server"}, 4),
        ({"cpu_vendor": "AMD"}, {"kind": "qemu", "cpu_model": "Skylake-Server"}, 2),
        (INTEL, {"kind": "qemu", "cpu_model": "EPYC"}, 4),
        (INTEL, {"kind": "qemu", "cpu_mode": "maximum"}, 4),
        (INTEL, {"kind": "kvm", "cpu_model": "Skylake-Server", "arch": "aarch64"}, 4),
    ],
)
def test_sockets_of_the_host(
    guest: GuestOf, host_keys: dict[str, Any], guest_keys: dict[str, Any], sockets: int
) -> None:
    """One for each of the host's, where a kernel was seen to take it; else one for each cell."""
    keys = {"cpu_mode": "custom", **guest_keys}
    host = _host(*[[4]] * 4, per_socket=2, **host_keys)
    assert _topology(planned(guest(16, **keys), host))[0] == sockets
    assert _topology(planned(guest(16, **keys), host, sockets="cells"))[0] == 4


def test_dies_in_the_hosts_sockets(guest: GuestOf) -> None:
    """A socket holds the dies of all its cells, of equal and of unequal ones."""
    model = guest(8, kind="kvm", cpu_model="Skylake-Server")
    asked = {"dies": "host", "pinning": "core"}
    layout = planned(model, _host(*[[2, 2]] * 4, per_socket=2, **INTEL), **asked)
    assert _topology(layout) == (2, 2, 2, 1)
    layout = planned(model, _host(*[[2, 2]] * 2, per_socket=2, **INTEL), **asked)
    assert _topology(layout) == (1, 4, 2, 1)
    unequal = _host([2] * 4, [2, 2], per_socket=2, threads=2, **INTEL)
    layout = planned(replace(model, vcpus=12), unequal, split="proportional", **asked)
    assert _topology(layout) == (1, 3, 2, 2)
    # Where no die fits, a die is not said to span cells.
    layout = planned(replace(model, vcpus=6), _host([2, 2], [2, 2], per_socket=2, **INTEL), **asked)
    assert _topology(layout) == (2, 1, 3, 1)


@pytest.mark.parametrize(
    ("vcpus", "options", "sockets"),
    [
        (8, {"nodes": "0-1"}, 1),
        (8, {"nodes": "0,2"}, 2),
        # Two cells on one socket and one on the other.
        (12, {"nodes": "0-2"}, 3),
        # Cells 0 and 2 are on one socket, and cells 1 and 3 on the other.
        (16, {"nodes": "0,2", "cells": 4}, 4),
        # Unequal cells that fill sockets of equal size.
        (10, {"nodes": "0-3", "cells": 4}, 10),
        (16, {"nodes": "0-3", "distribution": "interleave"}, 16),
        (16, {"nodes": "0-3", "migration_group": ["kvm1"], "cells": 4}, 4),
    ],
)
def test_cells_that_divide_over_the_hosts_sockets(
    guest: GuestOf, vcpus: int, options: dict[str, Any], sockets: int
) -> None:
    """Only where they follow one another and fill each alike."""
    host = _host(*[[4]] * 4, per_socket=2, **INTEL)
    model = guest(vcpus, kind="kvm", cpu_model="Skylake-Server")
    assert _topology(planned(model, host, **options))[0] == sockets


@pytest.mark.parametrize("sockets", [1, 2, 4, 8])
def test_so_many_sockets(guest: GuestOf, sockets: int) -> None:
    """Whole cells in a socket, or whole sockets in a cell."""
    layout = planned(guest(16), _host(*[[4]] * 4), sockets=sockets)
    assert _topology(layout) == (sockets, 1, 16 // sockets, 1)


def test_sockets_that_would_straddle_cells(guest: GuestOf, host: HostOf) -> None:
    """The figures, and those that would not."""
    said = refusal(guest(16), _host(*[[4]] * 4), sockets=3)
    assert said == (
        "guest anuma: sockets 3 is not possible for 16 cores of 1 thread in 4 cells of 4 cores: a "
        "socket holds whole cells, or an equal part of one; set sockets to one of 1, 2, 4, 8, 16, "
        "or change nodes, cells or threads."
    )
    said = refusal(guest(12), _host(*[[4]] * 2, [8]), sockets=3, split="proportional")
    assert "3 cells of 3, 3, 6 cores" in said
    said = refusal(guest(16), _host([4], [4]), sockets=2, distribution="round_robin")
    assert "sockets 2 conflicts with distribution 'round_robin'" in said
    # Whole cores of two threads would not divide: with auto they need not.
    layout = planned(guest(18), host("rfc-8n240c"), sockets=2, nodes="0-1")
    assert _topology(layout) == (2, 1, 9, 1)
    assert "sockets 2" in refusal(guest(18), host("rfc-8n240c"), sockets=2, nodes="0-1", threads=2)


@pytest.mark.parametrize(
    ("os_id", "name"),
    [
        ("http://microsoft.com/win/11", "Windows 11"),
        ("http://microsoft.com/win/7", "Windows 7"),
        ("http://microsoft.com/win/8.1", "Windows 8.1"),
        ("http://microsoft.com/win/2k16", ""),
        ("http://microsoft.com/win/2k22", ""),
        ("http://debian.org/debian/12", ""),
        ("", ""),
    ],
)
def test_windows_clients_use_two_sockets(guest: GuestOf, os_id: str, name: str) -> None:
    """A warning with the figure and the way out; servers use what there is."""
    host = _host(*[[8]] * 4)
    client = guest(16, os_id=os_id)
    warnings = planned(client, host).warnings
    assert [f"it runs {name} by its" in one for one in warnings] == [True] * bool(name)
    assert all("it has 4: " in one and "set sockets to 2." in one for one in warnings)
    assert planned(client, host, sockets=2).warnings == ()
    assert planned(client, host, nodes="0-1").warnings == ()
    (*_others, last) = planned(client, host, distribution="interleave").warnings or ("",)
    assert last.endswith("set distribution to 'contiguous' and sockets to 2.") is bool(name)
    odd = planned(replace(client, vcpus=15), host, nodes="0-2").warnings
    assert all("set sockets to 2, and nodes or cells so that" in one for one in odd)


def test_apic_ids_count_dies(guest: GuestOf) -> None:
    """Sockets become smaller where the ids of their dies would go over what an xAPIC has."""
    assert highest_apic_id(Topology(2, 3, 4, 1)) == 0b11011
    assert highest_apic_id(Topology(1, 1, 8, 2)) == 15
    # Three sockets of five dies of five cores would need ids up to 292.
    host = _host(*[[5] * 5] * 5)
    layout = planned(guest(125), host, dies="host", pinning="core")
    shape = layout.topology
    assert shape is not None
    assert shape.vcpus == 125
    assert shape.cores == 5
    assert highest_apic_id(shape) <= HIGHEST_XAPIC_ID
    assert layout.warnings == ()
