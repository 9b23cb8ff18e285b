# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any host with caches and sockets: dies stand for cache domains, and nothing straddles cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest, Partition
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import (
    Layout,
    layout_to_result,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.topology import possible_sockets
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    Policy,
    policy_from_options,
)
from hypothesis import event, given, reject
from hypothesis import strategies as st

NO_DIES = "have one die each"


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Hosts of one to four sockets, with cache domains of equal and unequal size."""
    smt = draw(st.sampled_from([1, 2]))
    per_socket = draw(st.sampled_from([1, 1, 2, 4]))
    nodes, next_cpu = [], 0
    for node_id in range(per_socket * draw(st.sampled_from([1, 2, 2]))):
        domains = []
        usual = draw(st.sampled_from([3, 4, 8]))
        for _domain in range(draw(st.sampled_from([1, 2, 2, 4]))):
            size = usual if draw(st.integers(0, 5)) else draw(st.integers(1, 8))
            first, next_cpu = next_cpu, next_cpu + size * smt
            domains.append([tuple(range(cpu, cpu + smt)) for cpu in range(first, next_cpu, smt)])
        cores = tuple(core for domain in domains for core in domain)
        listed = draw(st.sampled_from([domains, domains, domains, domains, domains[1:], []]))
        nodes.append(
            Node(
                id=node_id,
                cpus=tuple(cpu for core in cores for cpu in core),
                memory_kib=1 << 24,
                cores=cores,
                socket_ids=draw(
                    st.sampled_from([*[(node_id // per_socket,)] * 6, (node_id % 2,), (0, 1), ()])
                ),
                cache_domains=tuple(
                    tuple(cpu for core in domain for cpu in core) for domain in listed
                ),
            )
        )
    return Host(
        tuple(nodes),
        arch="x86_64",
        cpu_vendor=draw(st.sampled_from(["Intel", "Intel", "AMD"])),
        cpu_model=draw(st.sampled_from(["Skylake-Server", "Broadwell", ""])),
        isolated_cpus=draw(st.sampled_from([None, None, (2, 3)])),
        cpu_kinds=draw(st.sampled_from([(), (), (tuple(range(8)), tuple(range(8, 999)))])),
    )


@st.composite
def guests(draw: st.DrawFn, name: str = "anuma") -> Guest:
    """PCs of any size and several CPU models."""
    return Guest(
        name=name,
        uuid="",
        arch="x86_64",
        vcpus=draw(st.one_of(st.sampled_from([8, 12, 16, 16, 24]), st.integers(1, 24))),
        memory_kib=1 << 22,
        kind=draw(st.sampled_from(["kvm", "qemu"])),
        cpu_mode=draw(st.sampled_from(["custom", "host-passthrough"])),
        cpu_model=draw(st.sampled_from(["Skylake-Server", "Icelake-Server", "EPYC", "kvm64"])),
    )


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> Policy:
    """Options about pins, dies and sockets."""
    options: dict[str, Any] = {
        "pinning": draw(st.sampled_from(["core", "cpu", "cache"])),
        "cpu_overcommit": draw(st.sampled_from([1, 1, 2])),
        "threads": draw(st.sampled_from(["auto", "auto", "auto", 1])),
        "cells": draw(st.sampled_from([None, None, 1, 2, 3, 4])),
        "split": draw(st.sampled_from(["even", "even", "even", "proportional"])),
        "reserved_cpus": draw(st.sampled_from([None, "0", "1-3"])),
        "sockets": draw(st.sampled_from([*["auto"] * 4, "cells", "cells", 1, 2, 4])),
        **fixed,
    }
    return policy_from_options(options)


def _layouts(host: Host, pairs: list[tuple[Guest, Policy]]) -> Iterator[Layout]:
    for answer in plan_guests(pairs, host):
        event("planned" if isinstance(answer, Layout) else "refused")
        if isinstance(answer, Layout):
            yield answer
        else:
            said = str(answer)
            assert "\n" not in said
            assert said.endswith(".")


@given(hosts(), st.data())
def test_dies_stand_for_cache_domains(host: Host, data: st.DataObject) -> None:
    """No die over two cells or two cache domains, unless a warning says that there are none."""
    policy = data.draw(policies(dies="host"))
    pairs = [(data.draw(guests(name=f"guest{i}")), policy) for i in range(2)]
    domain_of = {
        cpu: (node.id, number)
        for node in host.nodes
        for number, domain in enumerate(node.cache_domains)
        for cpu in domain
    }
    for layout in _layouts(host, pairs):
        shape = layout.topology
        assert shape is not None
        vcpus = sum(len(cell.vcpus) for cell in layout.cells)
        assert shape.sockets * shape.dies * shape.cores * shape.threads == vcpus
        if any(NO_DIES in warning for warning in layout.warnings):
            assert shape.dies == 1
            continue
        event(f"{min(shape.dies, 3)} dies of {min(shape.cores, 3)} cores")
        for first in range(0, vcpus, shape.cores * shape.threads):
            die = set(range(first, first + shape.cores * shape.threads))
            assert sum(bool(die & set(cell.vcpus)) for cell in layout.cells) == 1
            pinned = {cpu for vcpu in die for cpu in layout.vcpu_pins[vcpu]}
            assert len({domain_of.get(cpu) for cpu in pinned}) == 1
            assert pinned <= set(domain_of)


@given(hosts(), guests(), policies(pinning="node"))
def test_sockets_are_as_many_as_asked_for(host: Host, guest: Guest, policy: Policy) -> None:
    """So many, or a sentence; none holds a part of a cell and more than that."""
    for layout in _layouts(host, [(guest, policy)]):
        shape = layout.topology
        assert shape is not None
        assert policy.sockets in ("auto", "cells", shape.sockets)
        sizes = [len(cell.vcpus) // shape.threads for cell in layout.cells]
        assert shape.sockets in possible_sockets(sizes)
        width = guest.vcpus // shape.sockets
        for first in range(0, guest.vcpus, width):
            socket = set(range(first, first + width))
            inside = [set(cell.vcpus) for cell in layout.cells if socket & set(cell.vcpus)]
            assert len(inside) == 1 or all(cell <= socket for cell in inside)
        if policy.sockets == "auto":
            event("shared" if shape.sockets < len(layout.cells) else "not shared")


@given(hosts(), guests(), policies(sockets="auto"))
def test_who_has_sockets_keeps_them(host: Host, guest: Guest, policy: Policy) -> None:
    """The default asks nobody for a cold start whose cells stay."""
    plain = replace(policy, sockets="cells")
    for layout in _layouts(host, [(guest, plain)]):
        assert layout.topology is not None
        given_before = Partition(tuple(cell.vcpus for cell in layout.cells), layout.topology)
        (again,) = _layouts(host, [(replace(guest, partition=given_before), policy)])
        assert again.topology == layout.topology


@given(hosts(), guests(), policies(), st.sampled_from(["core", "cpu", "cache", "node"]))
def test_a_host_without_caches_is_as_before(
    host: Host, guest: Guest, policy: Policy, pinning: str
) -> None:
    """Byte for byte; who asks for dies there is told."""
    bare = replace(host, nodes=tuple(replace(node, cache_domains=()) for node in host.nodes))
    policy = replace(policy, pinning=pinning)
    (without,) = plan_guests([(guest, policy)], bare)
    (asked,) = plan_guests([(guest, replace(policy, dies="host"))], bare)
    if not isinstance(without, Layout):
        reject()
    if pinning == "node":
        assert isinstance(asked, LayoutError)
        return
    assert isinstance(asked, Layout)
    assert json.dumps(layout_to_result(asked)) == json.dumps(layout_to_result(without))
    assert any("does not list the L3 caches" in warning for warning in asked.warnings)
