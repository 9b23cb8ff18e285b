# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``pinning: cache`` on a real libvirt: what it lists, what is pinned, who stays, and undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adhoc import Run
from conftest import Libvirt
from guests import anuma
from lxml import etree

Call = Callable[..., Run]

GIB = 1 << 20


def _pins(xml: str) -> list[str]:
    """Return the pins of each vCPU, read apart from the collection."""
    return [str(pin.get("cpuset")) for pin in etree.fromstring(xml).iterfind("cputune/vcpupin")]


def test_guests_on_caches(lab: Callable[..., Libvirt], call: Call) -> None:
    """Four CCX of four cores with two threads: two guests, a third beside them, and all undone."""
    libvirt = lab("rome-nps1", shim=True)
    libvirt.clear()
    sizes = {"a": 6, "b": 12, "c": 8}
    for name, vcpus in sizes.items():
        libvirt.define(anuma(name, vcpus, 2 * GIB))
    before = libvirt.dumps(sizes)
    facts = call("vnuma_facts", {"uri": libvirt.uri}).result["ansible_facts"]["vnuma_host"]
    assert facts["nodes"][0]["cache_domains"] == [
        f"{first}-{first + 3},{first + 16}-{first + 19}" for first in (0, 4, 8, 12)
    ]
    arguments: dict[str, Any] = {"uri": libvirt.uri, "pinning": "cache", "memory_mode": "none"}
    two = {**arguments, "guests": [{"name": "a"}, {"name": "b"}]}
    run = call("vnuma_partition", two)
    assert not run.failed, run.msg
    assert "L3 cache" not in str([guest["warnings"] for guest in run.result["guests"]])
    placed = libvirt.dumps(sizes)
    assert _pins(placed["b"]) == ["0-3,16-19"] * 6 + ["4-7,20-23"] * 6
    assert _pins(placed["a"]) == ["8-11,24-27"] * 6

    # The largest of all moves nobody, and gets the cache that is empty.
    every = {**arguments, "guests": [{"name": "*"}]}
    run = call("vnuma_partition", every)
    assert [guest["name"] for guest in run.result["guests"] if guest["changed"]] == ["c"]
    after = libvirt.dumps(sizes)
    assert (after["a"], after["b"]) == (placed["a"], placed["b"])
    assert _pins(after["c"]) == ["12-15,28-31"] * 8
    assert not call("vnuma_partition", every).result["changed"]
    assert call("vnuma_info", {"uri": libvirt.uri}).result["drifted"] == []
    # One alone sees the others by their definitions.
    alone = {**arguments, "guests": [{"name": "a"}]}
    assert not call("vnuma_partition", alone).result["changed"]
    assert call("vnuma_partition", {**every, "state": "absent"}).result["changed"]
    assert libvirt.dumps(sizes) == before
    libvirt.clear()
