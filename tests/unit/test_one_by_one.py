# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer does not depend on how the call is put: all guests in one, or each in its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import GuestSpec, HostSpec, text_of
from bookguests import Guest, cores_on, read
from bookways import entry
from hypothesis import given
from hypothesis import strategies as st

Texts = dict[str, str]


@st.composite
def hosts(draw: Any) -> HostSpec:
    """One or two nodes, with and without SMT and cache domains."""
    cores = draw(st.lists(st.sampled_from((2, 4, 6, 8)), min_size=1, max_size=2))
    return HostSpec(
        tuple(cores),
        (64,) * len(cores),
        threads=draw(st.sampled_from((1, 2, 4))),
        near=draw(st.booleans()),
        domain_cores=draw(st.sampled_from((0, 2))),
    )


@st.composite
def cases(draw: Any) -> tuple[HostSpec, list[GuestSpec]]:
    """Guests that fit by construction, in a drawn order.

    With ``core`` among them each vCPU is given a core's room, since a core that one thread of is
    owned is no whole one; without, each is given a thread, and a core of each node stays.
    """
    host = draw(hosts())
    by_thread = draw(st.booleans())
    pinnings = ("node", "cpu", "cpu") if by_thread else ("node", "cache", "core", "core", "cpu")
    left = {
        node: (len(cores) - 1) * host.threads if by_thread else len(cores)
        for node, cores in host.node_cores.items()
    }
    guests: list[GuestSpec] = []
    for number in range(draw(st.integers(2, 9))):
        nodes = draw(
            st.lists(
                st.sampled_from(list(left)), min_size=1, max_size=1 + (number == 0), unique=True
            )
        )
        most = min(left[node] for node in nodes)
        if not most:
            continue
        each = draw(st.integers(1, min(most, 5)))
        for node in nodes:
            left[node] -= each
        options = (("nodes", text_of(nodes)), ("pinning", draw(st.sampled_from(pinnings))))
        guests.append(GuestSpec(f"g{number}", each * len(nodes), 1024, options=options))
    return host, draw(st.permutations(guests))


def together(host: HostSpec, guests: Sequence[GuestSpec]) -> Texts:
    """Return the definitions after one call."""
    texts = {guest.name: guest.xml() for guest in guests}
    return called(host, texts, guests)


def one_by_one(host: HostSpec, guests: Sequence[GuestSpec]) -> Texts:
    """Return the definitions after a call for each, with the others as they are then."""
    texts = {guest.name: guest.xml() for guest in guests}
    for guest in guests:
        texts = called(host, texts, [guest])
    return texts


def called(host: HostSpec, texts: Texts, guests: Sequence[GuestSpec]) -> Texts:
    """Return all definitions after a call for some guests, none of which may be refused."""
    entries = [entry(guest) for guest in guests]
    result = plan_host(list(texts.values()), host.facts(), guests=entries)
    assert result["errors"] == []
    return {**texts, **{one["name"]: one["definition"] for one in result["guests"]}}


def taken(host: HostSpec, guests: Sequence[GuestSpec], texts: Texts) -> dict[str, Any]:
    """Return what guests own, and what is left of each node."""
    read_guests = [read(texts[guest.name], guest, planned=True) for guest in guests]
    owned = {guest.name: guest.owned(host) for guest in read_guests}
    everyone = frozenset[int]().union(*owned.values())
    found: dict[str, Any] = {}
    for node, cpus in host.node_cpus.items():
        found[f"node {node}"] = {
            "owned": {name: len(mine & {*cpus}) for name, mine in owned.items() if mine & {*cpus}},
            "free pCPUs": len({*cpus} - everyone),
            "whole cores": sum(not everyone & {*core} for core in host.node_cores[node]),
            "shared cores": _shared(read_guests, host, node),
            "memory": _bound(read_guests, node),
        }
    return found


def _shared(guests: Sequence[Guest], host: HostSpec, node: int) -> Fraction:
    shared = [guest for guest in guests if guest.pinning in ("node", "cache")]
    return sum((cores_on(guest, host, node) for guest in shared), Fraction(0))


def _bound(guests: Sequence[Guest], node: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for guest in guests:
        for nodes, mode, kib, _page in guest.memory:
            if nodes == {node}:
                found[mode] += kib
    return found


@given(cases())
def test_one_call_or_many(case: tuple[HostSpec, list[GuestSpec]]) -> None:
    """Guests with named nodes own as much, and leave as much of each node."""
    host, guests = case
    at_once = taken(host, guests, together(host, guests))
    assert at_once == taken(host, guests, one_by_one(host, guests))
