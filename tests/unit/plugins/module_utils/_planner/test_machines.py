# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which machines QEMU does not start as they would be: refused by name, with a way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest, Partition
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout, Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import GuestOf, HostOf, planned, refusal, topology_of

OURS = Partition(((0,), (1,)), Topology(2, 1, 1, 1))


def _on_one_node(guest: Guest, host: Host, **options: Any) -> Layout | Exception:
    policy = policy_from_options({"nodes": "auto", **options})
    (answer,) = plan_guests([(guest, policy)], host, placed={0: (0,)})
    return answer


@pytest.mark.parametrize(
    ("arch", "machine"),
    [
        *(("ppc64", name) for name in ("powernv9", "powernv", "ppce500", "pseriesx")),
        *(("aarch64", name) for name in ("raspi3b", "xlnx-versal-virt", "none", "virtual")),
        *(("armv7l", name) for name in ("vexpress-a15", "sbsa-ref", "highbank")),
        *(("riscv64", name) for name in ("sifive_u", "microchip-icicle-kit", "pc")),
        *(("x86_64", name) for name in ("none", "xenpv", "x-remote")),
    ],
)
def test_machine_types_without_numa(host: HostOf, guest: GuestOf, arch: str, machine: str) -> None:
    """Refused with cells, whatever the layout; left alone without."""
    one = guest(arch=arch, machine=machine)
    said = refusal(one, host("rfc-8n240c"))
    assert said == (
        f"guest anuma: guests of machine type {machine} cannot have cells: QEMU has no NUMA for "
        "them; set nodes to 'auto', which gives it no cells if it fits on one host node, or "
        "exclude the guest."
    )
    assert isinstance(_on_one_node(one, host("rfc-8n240c")), Layout)


@pytest.mark.parametrize(
    ("arch", "machine"),
    [
        *(("ppc64le", name) for name in ("pseries", "pseries-7.2", "pseries-rhel9.0.0", "")),
        *(("aarch64", name) for name in ("virt", "virt-rhel9.2.0", "virt-10.0", "sbsa-ref")),
        *(("armv7l", name) for name in ("virt", "virt-2.6")),
        *(("riscv64", name) for name in ("virt", "spike")),
        ("loongarch64", "virt"),
        *(("x86_64", name) for name in ("pc", "pc-i440fx-noble", "microvm", "rhel6.6.0", "isapc")),
        ("i686", "pc-q35-10.0"),
        ("", "powernv9"),
    ],
)
def test_machine_types_with_numa(host: HostOf, guest: GuestOf, arch: str, machine: str) -> None:
    """Distributions have names of their own for them; without an architecture nobody can tell."""
    known = replace(host("asymmetric-4n16c"), arch=arch)
    assert planned(guest(arch=arch, machine=machine), known, distances="none").cells


@pytest.mark.parametrize(
    ("keys", "options", "way_out"),
    [
        ({}, {}, "or exclude the guest."),
        ({"partition": OURS}, {}, "or set state to 'absent'."),
        ({}, {"nodes": "auto", "cells": 2}, "; remove cells, or exclude the guest."),
        ({"partition": OURS}, {"nodes": "auto"}, "; set state to 'absent'."),
        ({}, {"nodes": "auto"}, "for them; exclude the guest."),
    ],
)
def test_ways_out(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any], way_out: str
) -> None:
    """None that the policy has taken already, and back for a guest that has cells of ours."""
    one = guest(arch="ppc64", machine="powernv9", **keys)
    policy = policy_from_options(options)
    placed = {0: (0, 1)} if options else None
    (answer,) = plan_guests([(one, policy)], host("rfc-8n240c"), placed=placed)
    assert str(answer).endswith(way_out)
    assert ("nodes to 'auto'" in str(answer)) is not bool(options)


def test_without_a_cpu_driver(host: HostOf, guest: GuestOf) -> None:
    """A guest that has no <cpu> gets none for cells."""
    one = guest(arch="riscv64", machine="virt", takes_cpu=False)
    said = refusal(one, host("rfc-8n240c"))
    assert "architecture riscv64 cannot have cells on this host: its libvirt has no CPU" in said
    assert isinstance(_on_one_node(one, host("rfc-8n240c")), Layout)


@pytest.mark.parametrize(
    ("kind", "arch", "options", "threads"),
    [
        ("qemu", "ppc64", {}, 1),
        ("qemu", "ppc64le", {"distribution": "round_robin"}, 1),
        ("kvm", "ppc64", {}, 2),
        ("qemu", "x86_64", {}, 2),
    ],
)
def test_threads_that_are_emulated(
    host: HostOf, guest: GuestOf, kind: str, arch: str, options: dict[str, Any], threads: int
) -> None:
    """A host with two threads a core is mirrored where QEMU can do it, and the guest gains."""
    layout = planned(guest(arch=arch, kind=kind), host("rfc-8n240c"), nodes="0-1", **options)
    assert topology_of(layout).threads == threads


@pytest.mark.parametrize(
    ("kind", "version", "is_refused"),
    [
        ("qemu", "7.2.22", True),
        ("qemu", "8.0.0", True),
        ("qemu", "", True),
        ("qemu", "8.1.0", False),
        ("qemu", "10.0.2", False),
        ("kvm", "7.2.22", False),
    ],
)
def test_threads_that_are_asked_for(
    host: HostOf, guest: GuestOf, kind: str, version: str, is_refused: bool
) -> None:
    """Refused where QEMU would not start, or is not known."""
    known = replace(host("rfc-8n240c"), hypervisor_version=version)
    one = guest(arch="ppc64le", kind=kind)
    if is_refused:
        assert refusal(one, known, nodes="0-1", threads=2).startswith(
            "guest anuma: threads 2 needs KVM or QEMU 8.1 for ppc64le guests"
        )
    else:
        assert planned(one, known, nodes="0-1", threads=2).cells


@pytest.mark.parametrize(
    ("keys", "options", "is_refused"),
    [
        ({}, {}, True),
        ({}, {"pinning": "core"}, True),
        ({}, {"pinning": "none"}, False),
        ({"vcpus": 1}, {}, False),
        ({"kind": "kvm"}, {}, False),
        ({"arch": "ppc64", "machine": "powernv9"}, {}, False),
    ],
)
def test_vcpus_in_one_thread(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any], is_refused: bool
) -> None:
    """libvirt does not start what is pinned and has no threads of its own."""
    given = {"arch": "ppc", "kind": "qemu", "machine": "ppce500", "vcpus": 4, **keys}
    answer = _on_one_node(guest(**given), host("rfc-8n240c"), **options)
    assert isinstance(answer, Layout) is not is_refused
    assert not is_refused or "cannot be pinned" in str(answer)
