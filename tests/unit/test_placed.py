# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that an earlier version placed stay where they are; tests/lab/bookplaced.py wrote them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import GuestSpec, HostSpec
from bookguests import Guest, cores_on, nodes_of, read

HOSTS = json.loads((Path(__file__).resolve().parent / "fixtures/placed.json").read_text())["hosts"]


def _host(raw: dict[str, Any]) -> HostSpec:
    pools = tuple(tuple((size, pages) for size, pages in pool) for pool in raw["pools"])
    lists = {key: tuple(value) for key, value in raw.items() if isinstance(value, list)}
    return HostSpec(**{**raw, **lists, "pools": pools})


def _name(definition: str) -> str:
    return definition.partition("<name>")[2].partition("</name>")[0]


def _read(definition: str, options: dict[str, Any]) -> Guest:
    spec = GuestSpec(_name(definition), 0, 0, options=tuple(options.items()))
    return read(definition, spec, planned=True)


def may_stay(guest: Guest, everyone: Sequence[Guest], host: HostSpec) -> bool:
    """Tell whether its nodes have the page sizes that it needs, and cores for all."""
    numbers = {node: number for number, node in enumerate(host.node_cpus)}
    for nodes, _mode, _kib, page in guest.memory:
        if page and any(page not in dict(host.pool(numbers[node])) for node in nodes):
            return False
    return all(
        sum((cores_on(one, host, node) for one in everyone), Fraction(0))
        <= len(host.node_cores[node])
        for node in nodes_of(guest, host)
    )


def alone(guest: Guest, everyone: Sequence[Guest], host: HostSpec) -> bool:
    """Tell whether nothing else may run on what it owns."""
    return not any(
        cpus & guest.owned(host)
        for other in everyone
        if other is not guest
        for _what, cpus in other.uses()
    )


@pytest.mark.parametrize("together", [True, False], ids=["one call", "a call for each"])
@pytest.mark.parametrize("number", range(len(HOSTS)))
def test_guests_that_are_placed_stay(number: int, together: bool) -> None:
    """Neither to other nodes, nor to other pCPUs of its own, where it may stay."""
    host, guests = _host(HOSTS[number]["host"]), HOSTS[number]["guests"]
    texts = [one["definition"] for one in guests]
    entries = [{"name": _name(one["definition"]), **one["options"]} for one in guests]
    before = [_read(one["definition"], one["options"]) for one in guests]
    for called in [entries] if together else [[entry] for entry in entries]:
        result = plan_host(texts, host.facts(), guests=called)
        after = {one["name"]: one["definition"] for one in result["guests"]}
        refused = {error["name"]: error["msg"] for error in result["errors"]}
        for old, one in zip(before, guests):
            if old.name not in {entry["name"] for entry in called}:
                continue
            if not may_stay(old, before, host):
                continue
            assert old.name not in refused, refused[old.name]
            new = _read(after[old.name], one["options"])
            assert nodes_of(new, host) == nodes_of(old, host), old.name
            if alone(old, before, host):
                assert new.owned(host) == old.owned(host), old.name


def test_there_is_something_to_keep() -> None:
    """Guests of each pinning that may stay, by name and by auto."""
    kinds = set()
    for one in HOSTS:
        host = _host(one["host"])
        guests = [_read(guest["definition"], guest["options"]) for guest in one["guests"]]
        for guest, given in zip(guests, one["guests"]):
            if may_stay(guest, guests, host) and alone(guest, guests, host):
                kinds.add((guest.pinning, given["options"]["nodes"] == "auto"))
    wanted = {(pinning, auto) for pinning in ("node", "cache", "core", "cpu") for auto in (0, 1)}
    assert kinds == wanted
