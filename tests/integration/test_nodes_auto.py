# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""``nodes: auto`` on a real libvirt: a host full of guests, two controllers, guests that run."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import guestboot
import pytest
import sysfs
from adhoc import Run
from conftest import HOSTS, Libvirt, play_tasks
from fakehost import FakeHost
from guests import anuma
from lxml import etree

Call = Callable[..., Run]

GIB = 1 << 20
#: Of the RFC's host: pCPUs and memory of each node.
CORES, MEMORY_KIB = 15, 128 * GIB
#: Guest cores for each host core.
OVERCOMMIT = 4


def _define(libvirt: Libvirt, guests: dict[str, tuple[int, int]], folder: Path) -> None:
    """Define guests by name, vCPUs and GiB."""
    for name, (vcpus, gib) in guests.items():
        (folder / f"{name}.xml").write_text(anuma(name, vcpus, gib * GIB))
    libvirt.script(f"define {folder}/{name}.xml" for name in guests)


def _many(count: int, prefix: str, seed: int) -> dict[str, tuple[int, int]]:
    """Guests of 1 to 60 vCPUs, most of them small."""
    draw = random.Random(seed)  # noqa: S311 - sizes, and no secrets
    sizes = [60, 48, 40, *(draw.choice((1, 2, 2, 4, 4, 8)) for _number in range(count - 3))]
    return {f"{prefix}{number:03}": (size, size) for number, size in enumerate(sizes)}


def _node_of(cpu: int) -> int:
    return cpu % 120 // CORES


def _taken(definitions: dict[str, str]) -> dict[int, tuple[int, int]]:
    """Guest cores and memory of each node, read from definitions, apart from the collection."""
    taken = dict.fromkeys(range(8), (0, 0))
    for text in definitions.values():
        root = etree.fromstring(text)
        topology = root.find("cpu/topology")
        threads = 1 if topology is None else int(topology.get("threads"))
        bound = root.find("numatune/memory")
        cells = root.findall("cpu/numa/cell")
        if bound is None:
            continue
        if not cells:
            parts = [
                (int(bound.get("nodeset")), int(root.findtext("vcpu")), root.findtext("memory"))
            ]
        else:
            nodes = {
                int(one.get("cellid")): int(one.get("nodeset"))
                for one in root.iterfind("numatune/memnode")
            }
            parts = []
            for cell in cells:
                first, _dash, last = str(cell.get("cpus")).partition("-")
                vcpus = int(last or first) - int(first) + 1
                parts.append((nodes[int(cell.get("id"))], vcpus, cell.get("memory")))
        for node, vcpus, memory_kib in parts:
            cores, bound_kib = taken[node]
            taken[node] = (cores + -(-vcpus // threads), bound_kib + int(memory_kib))
    return taken


def _arguments(libvirt: Libvirt, **more: Any) -> dict[str, Any]:
    return {
        "uri": libvirt.uri,
        "guests": [{"name": "*"}],
        "nodes": "auto",
        "cpu_overcommit": OVERCOMMIT,
        **more,
    }


def _places(run: Run) -> dict[str, str]:
    return {guest["name"]: guest["placement"]["nodes"] for guest in run.result["guests"]}


def test_a_full_host(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """120 guests, ten more, three fewer: nobody who is placed moves, but by rebalance."""
    guests = _many(120, "g", 1)
    _define(rfc, guests, tmp_path)
    checked = call("vnuma_partition", _arguments(rfc), "--check")
    run = call("vnuma_partition", _arguments(rfc))
    refused = {error["name"]: error["msg"] for error in run.result.get("errors", ())}
    places = _places(run)
    assert places == _places(checked)
    assert {*refused, *places} == set(guests)
    for sentence in refused.values():
        assert "nodes 'auto' finds no room for it: it needs " in sentence
        assert " cores and " in sentence
    definitions = rfc.dumps(guests)
    for node, (cores, memory_kib) in _taken(definitions).items():
        assert cores <= CORES * OVERCOMMIT, node
        assert memory_kib <= MEMORY_KIB - GIB, node
    ledger = run.result["ledger"]
    assert ledger["floating"] == sorted(refused)
    assert sorted({name for node in ledger["nodes"] for name in node["guests"]}) == sorted(places)

    info = call("vnuma_info", {"uri": rfc.uri}).result
    assert info["drifted"] == []
    assert info["ledger"]["nodes"] == ledger["nodes"]

    again = call("vnuma_partition", _arguments(rfc))
    assert not again.result["changed"]
    assert all(guest["placement"]["kept"] for guest in again.result["guests"])

    more = {f"h{number}": (2, 2) for number in range(10)}
    _define(rfc, more, tmp_path)
    run = call("vnuma_partition", _arguments(rfc))
    assert {name: nodes for name, nodes in _places(run).items() if name in places} == places
    assert {one["name"] for one in run.result["guests"] if one["changed"]} <= set(more)

    largest = sorted(places, key=lambda name: guests[name])[-3:]
    rfc.script(f"undefine {name}" for name in largest)
    run = call("vnuma_partition", _arguments(rfc))
    changed = {one["name"] for one in run.result["guests"] if one["changed"]}
    # Whoever had found no place may have one now.
    assert changed.isdisjoint(places)
    before = _places(run)

    run = call("vnuma_partition", _arguments(rfc, rebalance=True))
    moved = {name for name, nodes in _places(run).items() if before.get(name) not in (None, nodes)}
    assert moved == set(run.result["rebalance"]["moves"])
    assert bool(moved) == bool(run.result["rebalance"]["gain"])
    assert not call("vnuma_partition", _arguments(rfc)).result["changed"]
    for node, (cores, memory_kib) in _taken(rfc.dumps(before)).items():
        assert cores <= CORES * OVERCOMMIT, node
        assert memory_kib <= MEMORY_KIB - GIB, node


def test_back_to_what_it_was(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """From one node to several and back, and out of it: exact."""
    _define(rfc, {"guest": (8, 8)}, tmp_path)
    before = rfc.dump("guest")
    checked = call("vnuma_partition", _arguments(rfc, cpu_overcommit=1), "--check", "--diff")
    assert "+<!-- nodes auto: it needs 1 host node, and gets host node " in checked.output
    run = call("vnuma_partition", _arguments(rfc, cpu_overcommit=1))
    assert run.result["guests"][0]["layout"]["cells"] == []
    on_one = rfc.dump("guest")
    assert "<numa>" not in on_one
    assert "<topology" not in on_one
    assert "<memory mode='strict' nodeset='" in on_one
    wide = call("vnuma_partition", _arguments(rfc, nodes="0-3"))
    assert len(wide.result["guests"][0]["layout"]["cells"]) == 4
    back = call("vnuma_partition", _arguments(rfc, cpu_overcommit=1))
    assert "moves from 0-3" in back.result["guests"][0]["placement"]["why"]
    assert rfc.dump("guest").replace(" nodes='auto'", "") == on_one.replace(" nodes='auto'", "")
    call("vnuma_partition", _arguments(rfc, state="absent"))
    assert rfc.dump("guest") == before


def test_a_node_that_is_short_of_memory(lab: Callable[..., Libvirt], call: Call) -> None:
    """What is free at the moment decides nothing, and is said."""
    libvirt = lab("rfc-8n240c")
    libvirt.clear()
    facts = call("vnuma_facts", {"uri": libvirt.uri}).result["ansible_facts"]["vnuma_host"]
    free_gib = facts["nodes"][0]["free_kib"] // GIB
    libvirt.define(anuma("large", 4, (free_gib + 1) * GIB))
    run = call("vnuma_partition", _arguments(libvirt, auto_nodes="0"), "--check")
    assert not run.failed, run.msg
    assert f"and guests that are placed there need {(free_gib + 1) * 1024} MiB" in run.output
    libvirt.clear()


def test_two_controllers_at_once(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Each sees what the other one placed: no node holds more than it has."""
    _define(rfc, {f"{half}{number}": (6, 6) for half in "ab" for number in range(8)}, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        runs = list(
            pool.map(
                lambda half: call(
                    "vnuma_partition",
                    _arguments(rfc, guests=[{"name": f"{half}*"}], cpu_overcommit=1),
                ),
                "ab",
            )
        )
    assert [run.msg for run in runs if run.failed] == []
    names = [name for run in runs for name in _places(run)]
    assert len(names) == 16
    assert max(cores for cores, _memory in _taken(rfc.dumps(names)).values()) <= CORES


def test_a_guest_that_is_defined_after_the_plan(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Nothing is written on a ledger that is no longer true."""
    _define(rfc, {"first": (6, 6)}, tmp_path)
    plan = call("vnuma_partition", _arguments(rfc), "--check")
    before = rfc.dump("first")
    _define(rfc, {"second": (15, 6)}, tmp_path)
    arguments = _arguments(rfc, guests=[{"name": "first"}], planned=plan.result)
    run = call("vnuma_partition", arguments)
    assert "a guest of this host was defined, changed or removed after nodes were chosen" in run.msg
    assert rfc.dump("first") == before
    rfc.virsh("undefine", "second")
    assert call("vnuma_partition", arguments).result["changed"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"auto_nodes": "8-9"}, "host node 8 of auto_nodes '8-9' does not exist"),
        ({"cpu_overcommit": 0.5}, "cpu_overcommit must be a number from 1 to 64 with"),
        ({"reserved_memory": "200000 MiB"}, "cannot hold it, even without other guests"),
        ({"guests": [{"name": "huge"}]}, "cannot hold it, even without other guests"),
        ({"cells": 9}, "6 vCPUs with threads 1 are 6 cores, which cannot fill 9 cells"),
    ],
)
def test_bad_input(
    rfc: Libvirt, call: Call, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    """One sentence, and nothing is changed."""
    _define(rfc, {"huge": (240, 2000), "small": (6, 6)}, tmp_path)
    before = rfc.dumps(["huge", "small"])
    arguments = _arguments(rfc, **{"guests": [{"name": "small"}], "cpu_overcommit": 1, **options})
    run = call("vnuma_partition", arguments)
    assert run.failed
    assert sentence in run.msg
    assert rfc.dumps(["huge", "small"]) == before


def test_devices_decide(call: Call, tmp_path: Path) -> None:
    """A guest goes where its passed-through device is, as the daemon's node devices say."""
    devices = sysfs.pci_devices()
    assert len(devices) >= 3, "this machine has too few PCI devices to make up a host with some"
    spec = {**sysfs.load(HOSTS / "rfc-8n240c.json"), "pci": [-1, 5, 2]}
    (tmp_path / "devices.json").write_text(json.dumps(spec))
    libvirt = Libvirt(FakeHost(f"devices-{os.getpid()}", tmp_path / "devices.json"))
    libvirt.host.start()
    try:
        for number, device in enumerate(devices[:3]):
            (tmp_path / f"d{number}.xml").write_text(_with_device(f"d{number}", device))
            libvirt.define((tmp_path / f"d{number}.xml").read_text())
        libvirt.define(anuma("fills", 15, 4 * GIB))
        named = {"uri": libvirt.uri, "guests": [{"name": "fills"}], "nodes": "2"}
        assert not call("vnuma_partition", named).failed
        run = call(
            "vnuma_partition", _arguments(libvirt, guests=[{"name": "d*"}], cpu_overcommit=1)
        )
        found = {guest["name"]: guest["placement"] for guest in run.result["guests"]}
        assert (found["d1"]["nodes"], found["d1"]["devices"]) == ("5", "5")
        assert found["d0"]["devices"] == ""
        assert found["d2"]["nodes"] != "2"
        assert "its devices are on host node 2 too" in found["d2"]["why"]
        required = _arguments(
            libvirt, guests=[{"name": "d2"}], cpu_overcommit=1, device_locality="require"
        )
        assert "nodes 'auto' finds no room for it" in call("vnuma_partition", required).msg
        # Whose nodes are named is told where its device is.
        hint = (
            "its passed-through devices are on host node 2, and it is on host node 0; change nodes"
        )
        elsewhere = {"uri": libvirt.uri, "guests": [{"name": "d2"}], "nodes": "0"}
        (guest,) = call("vnuma_partition", elsewhere, "--check").result["guests"]
        assert [one for one in guest["warnings"] if one.startswith(hint)]
        run = call("vnuma_partition", {**elsewhere, "device_locality": "require"}, "--check")
        assert run.failed
        assert f"guest d2: {hint}, or set device_locality to 'prefer'." in run.msg
    finally:
        libvirt.clear()
        libvirt.host.stop()


def _with_device(name: str, address: str) -> str:
    """A guest with a PCI device of the host."""
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return anuma(name, 4, 4 * GIB).replace(
        "</devices>",
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address "
        f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source>"
        "</hostdev></devices>",
    )


@pytest.mark.slow
def test_a_running_guest(lab: Callable[..., Libvirt], call: Call, tmp_path: Path) -> None:
    """Its pins are set while it runs, and its kernel sees the same after a cold start."""
    libvirt = lab("asymmetric-4n16c", shim=True)
    libvirt.clear()
    console = tmp_path / "guest.log"
    libvirt.define(guestboot.domain_xml("guest", 4, 320, console))
    libvirt.virsh("start", "guest")
    guestboot.wait_for_boots(console, 1)
    first = guestboot.read_report(console)
    arguments = {
        "uri": libvirt.uri,
        "guests": [{"name": "guest"}],
        "nodes": "auto",
        "auto_nodes": "0",
        "memory_mode": "restrictive",
        "reserved_memory": 0,
    }
    # Without a binding there are pins alone: no restart is asked for.
    run = call("vnuma_partition", {**arguments, "memory_mode": "none"})
    assert not run.failed, run.msg
    assert run.result["restart_required"] == []
    (guest,) = run.result["guests"]
    live = [line.split()[1] for line in libvirt.virsh("vcpupin", "guest", "--live").splitlines()]
    assert live[-4:] == guest["layout"]["vcpu_pins"]
    # The binding of its memory waits for a cold start.
    run = call("vnuma_partition", arguments)
    assert run.result["restart_required"] == ["guest"]
    restarted = call("vnuma_restart", {"uri": libvirt.uri, "timeout": 60})
    assert not restarted.failed, restarted.msg
    guestboot.wait_for_boots(console, 2)
    second = guestboot.read_report(console)
    assert (second.nodes, second.siblings, second.packages) == (
        first.nodes,
        first.siblings,
        first.packages,
    )
    assert not call("vnuma_partition", arguments).result["changed"]
    # Its memory could move while it runs, had this machine a cgroup for it: then it waits.
    run = call("vnuma_partition", {**arguments, "auto_nodes": "1"})
    assert not run.failed, run.msg
    assert run.result["restart_required"] == ["guest"]
    (warning,) = run.result["guests"][0]["warnings"]
    assert "could not move its memory live: " in warning
    assert "<memory mode='restrictive' nodeset='1'/>" in libvirt.dump("guest")
    libvirt.clear()


def test_the_filter_gives_the_modules_answer(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """The same nodes and layouts from texts as from the daemon."""
    guests = _many(20, "g", 2)
    _define(rfc, guests, tmp_path)
    host = call("vnuma_facts", {"uri": rfc.uri}).result["ansible_facts"]["vnuma_host"]
    arguments = _arguments(rfc, cpu_overcommit=2)
    said = call("vnuma_partition", arguments, "--check").result
    texts = list(rfc.dumps(guests).values())
    planned = _filtered(rfc, {"texts": texts, "host": host}, tmp_path)
    for part in ("placement", "layout"):
        assert {one["name"]: one[part] for one in planned["guests"]} == {
            one["name"]: one[part] for one in said["guests"]
        }
    assert planned["errors"] == said.get("errors", [])
    assert planned["ledger"]["nodes"] == said["ledger"]["nodes"]


def _filtered(libvirt: Libvirt, variables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the filter makes of texts and host in a play."""
    expression = "{{ texts | kvm.vnuma.plan_host(host, nodes='auto', cpu_overcommit=2) | to_json }}"
    write = {"content": expression, "dest": f"{folder}/plan.json"}
    play_tasks(libvirt, folder, [{"ansible.builtin.copy": write}], vars=variables)
    plan = json.loads((folder / "plan.json").read_text())
    assert isinstance(plan, dict)
    return plan
