# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that migrate between unlike hosts while they run, and what their kernels see of it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import guestboot
import pytest
from guests import PASSWORD
from lxml import etree
from roads import Roads

pytestmark = pytest.mark.slow

_VNC = (
    f"<graphics type='vnc' port='-1' autoport='yes' passwd='{PASSWORD}'/>"
    "<video><model type='none'/></video>"
)
#: What the planner puts a guest of two cells on, on each host.
EAST_PINS, WEST_PINS = {0: "0-3", 1: "4-7"}, {0: "0-15", 1: "64-79"}


def _seen(console: Path) -> list[tuple[float, str]]:
    """Return what a guest has said: for how long it runs, and all that its kernel sees."""
    lines = re.findall(
        r"^VNUMA-SEES ([\d.]+) (.*)$", console.read_text(errors="replace").replace("\r", ""), re.M
    )
    return [(float(uptime), what) for uptime, what in lines]


def _wait_for_more(console: Path, count: int = 2) -> None:
    """Wait until a guest has said that it runs on."""
    wanted, deadline = len(_seen(console)) + count, time.monotonic() + 120
    while len(_seen(console)) < wanted:
        assert time.monotonic() < deadline, console.read_text()[-500:]
        time.sleep(0.2)


def _host_part(xml: str) -> dict[str, Any]:
    """Return what a definition says of its host."""
    root = etree.fromstring(xml)
    return {
        "pins": {
            int(pin.get("vcpu")): pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")
        },
        "bound": [node.get("nodeset") for node in root.iterfind("numatune/memnode")],
        "memory": root.find("numatune/memory").get("nodeset"),
    }


def _rest(xml: str) -> bytes:
    """Return everything else that a persistent definition says."""
    # libvirt indents what is in <metadata> as it likes.
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    for path in ("cputune", "numatune"):
        root.remove(root.find(path))
    return bytes(etree.tostring(root, method="c14n"))


def _asked_for(roads: Roads, name: str, since: int) -> tuple[set[str], set[str]]:
    """Return what the kernel of a host was asked for: memory of nodes, and pCPUs."""
    requests = roads.requests(name)[since:]
    memory = {one["wanted"] for one in requests if one["call"] == "mbind"}
    pins = {one["wanted"] for one in requests if one["call"] == "sched_setaffinity"}
    return memory, pins


def test_there_and_back(roads: Roads, tmp_path: Path) -> None:
    """A guest of two cells comes and goes: its uptime goes on, and its kernel sees the same."""
    east, west = roads.libvirts["east"], roads.libvirts["west"]
    console = tmp_path / "console.log"
    xml = guestboot.domain_xml("db1", 2, 224, console, cmdline="vnuma.watch")
    east.define(xml.replace("<memballoon", f"{_VNC}<memballoon"))
    roads.partition("east", "db1", group=("east", "west"))
    east.virsh("start", "db1")
    guestboot.wait_for_boots(console, 1)
    _wait_for_more(console)
    home = east.dump("db1")
    assert _host_part(home)["pins"] == EAST_PINS
    checked = roads.migrate("east", "west", "db1", flags=("--check", "--diff"))
    assert checked.result["migrated"] == ["db1"], checked.output
    assert re.search(r"^\+ *<vcpupin vcpu=.1. cpuset=.64-79.", checked.output, re.MULTILINE), (
        checked.output
    )
    assert east.dump("db1") == home
    assert west.virsh("list", "--all", "--name").split() == []
    outputs = [checked.output]
    for source, target, pins, nodes in (
        ("east", "west", WEST_PINS, ["0", "8"]),
        ("west", "east", EAST_PINS, ["0", "1"]),
    ):
        before, since = _seen(console)[-1], len(roads.requests(target))
        run = roads.migrate(source, target, "db1")
        assert not run.failed, run.msg
        (guest,) = run.result["guests"]
        assert guest["action"] == "migrated"
        assert guest["downtime_ms"] is not None
        assert guest["sent_kib"] > 0
        there = roads.libvirts[target]
        assert roads.libvirts[source].virsh("list", "--all", "--name").split() == []
        for live in (True, False):
            here = _host_part(there.dump("db1", live=live))
            assert here == {
                "pins": pins,
                "bound": nodes,
                "memory": ",".join(nodes).replace("0,1", "0-1"),
            }
        assert _rest(there.dump("db1")) == _rest(home)
        memory, asked = _asked_for(roads, target, since)
        assert memory >= set(nodes)
        assert asked >= set(pins.values())
        _wait_for_more(console)
        after = _seen(console)[-1]
        assert after[0] > before[0]
        assert after[1] == before[1]
        outputs.append(run.output)
        # Who has just arrived is as it should be.
        again = roads.partition(target, "db1", group=("east", "west"))
        assert not again.result["changed"], again.output
        assert again.result["restart_required"] == []
        outputs.append(again.output)
    assert guestboot.boots(console) == 1
    uptimes = [uptime for uptime, _what in _seen(console)]
    assert uptimes == sorted(uptimes)
    assert f"passwd='{PASSWORD}'" in east.dump("db1")
    assert not any(PASSWORD in output for output in outputs)
    # Who is there already is left alone.
    once = roads.migrate("west", "east", "db1")
    assert not once.failed, once.msg
    assert not once.result["changed"]
