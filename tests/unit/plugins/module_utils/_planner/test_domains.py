# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes are chosen with their cache domains in mind, where everything else is equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import Ids
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import (
    Load,
    Placement,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import place_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import owner

GIB = 1 << 20


def _host(size: int, *nodes: int) -> Host:
    """Return a host whose nodes have so many L3 caches of a size each."""
    made, first = [], 0
    for node_id, count in enumerate(nodes):
        cpus = tuple(range(first, first + count * size))
        domains = tuple(cpus[start : start + size] for start in range(0, len(cpus), size))
        cores = tuple((cpu,) for cpu in cpus)
        made.append(Node(node_id, cpus, 64 * GIB, cores=cores, cache_domains=domains))
        first += count * size
    return Host(tuple(made), arch="x86_64")


def _asks(name: str, vcpus: int, current: Ids = (), pins: Ids = (), **options: Any) -> Applicant:
    policy = policy_from_options({"nodes": "auto", "pinning": "core", **options})
    pinned = tuple((vcpu, (cpu,)) for vcpu, cpu in enumerate(pins))
    guest = Guest(name, f"uuid-of-{name}", "x86_64", vcpus, GIB, vcpu_pins=pinned)
    return Applicant(guest, policy, current, bool(current))


def _nodes(host: Host, applicants: list[Applicant], *taken: Load) -> list[Ids]:
    answers = place_guests(applicants, host, taken).answers
    assert all(isinstance(answer, Placement) for answer in answers), answers
    return [answer.nodes for answer in answers if isinstance(answer, Placement)]


@pytest.mark.parametrize("placement", ["pack", "spread"])
@pytest.mark.parametrize("pinning", ["core", "cpu", "cache"])
def test_where_one_cache_holds_it(pinning: str, placement: str) -> None:
    """Four cores are left on both nodes, and on the second of them within one L3."""
    host = _host(4, 2, 2)
    taken = owner(0, 1, 4, 5, 8, 9, 10, 11)
    options: dict[str, Any] = {"placement": placement, "pinning": pinning, "cpu_overcommit": 1}
    assert _nodes(host, [_asks("a", 4, **options)], taken) == [(1,)]
    assert _nodes(host, [_asks("a", 4, **{**options, "pinning": "node"})], taken) == [(0,)]


def test_where_no_whole_cache_is_broken() -> None:
    """Three cores go where three are left of a cache, and a whole one stays for four."""
    host = _host(4, 2, 2)
    taken = owner(0, 1, 8, 12)
    assert _nodes(host, [_asks("a", 3)], taken) == [(1,)]
    assert sorted(_nodes(host, [_asks("b", 3), _asks("a", 4)], taken)) == [(0,), (1,)]


def test_pins_that_are_there_are_looked_at() -> None:
    """Two guests stay with two cores on each cache of node 0, and two more on one of node 1."""
    host = _host(4, 2, 2)
    staying = [
        _asks("s1", 2, (0,), (0, 1)),
        _asks("s2", 2, (0,), (4, 5)),
        _asks("s3", 4, (1,), (8, 9, 10, 11)),
    ]
    assert _nodes(host, [*staying, _asks("a", 4)])[-1] == (1,)
    # Were s1 and s2 on one cache together, both nodes would be alike, and the first is taken.
    staying[1] = _asks("s2", 2, (0,), (2, 3))
    assert _nodes(host, [*staying, _asks("a", 4)])[-1] == (0,)


def test_what_is_foreseen_comes_true() -> None:
    """Guests of one call lie in the fewest caches once they are pinned."""
    host = _host(8, 2, 2, 2, 2)
    applicants = [_asks(f"g{number}", 5 + number % 2 * 3) for number in range(8)]
    placed = dict(enumerate(_nodes(host, applicants)))
    answers = plan_guests([(one.guest, one.policy) for one in applicants], host, placed=placed)
    domain_of = {
        cpu: domain for node in host.nodes for domain in node.cache_domains for cpu in domain
    }
    for answer in answers:
        assert isinstance(answer, Layout)
        assert len({domain_of[cpus[0]] for cpus in answer.vcpu_pins}) == 1


def test_the_order_of_guests_is_of_no_matter() -> None:
    """Mixed pins over unequal nodes: the same nodes for everyone in any order."""
    host = _host(4, 3, 2, 1)
    applicants = [
        _asks(f"g{number}", 1 + number % 4, pinning=("core", "cache", "node")[number % 3])
        for number in range(9)
    ]
    forward = _nodes(host, applicants)
    assert _nodes(host, applicants[::-1]) == forward[::-1]
    again = [
        replace(one, current=nodes, was_placed=True) for one, nodes in zip(applicants, forward)
    ]
    assert _nodes(host, again) == forward


def test_no_more_cores_than_fit(guest: Callable[..., Guest]) -> None:
    """Twelve cores on two L3 of six, guests of four: the second is on one, and not on both."""
    host = _host(6, 2)
    policy = policy_from_options({"pinning": "core"})
    guests = [guest(4, GIB, name=name) for name in "abc"]
    first, second, third = plan_guests([(one, policy) for one in guests], host)
    assert isinstance(first, Layout)
    assert isinstance(second, Layout)
    assert isinstance(third, Layout)
    assert first.vcpu_pins == ((0,), (1,), (2,), (3,))
    assert second.vcpu_pins == ((6,), (7,), (8,), (9,))
    # Two are left of each: there is no better place for the third.
    assert third.vcpu_pins == ((4,), (5,), (10,), (11,))
