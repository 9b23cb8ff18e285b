# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table: every host of tests/hosts, a dozen guests; what is planned, libvirt accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adhoc import Run
from conftest import HOSTS, Libvirt
from guests import PASSTHROUGH, anuma
from lxml import etree

Call = Callable[..., Run]

NAMES = sorted(path.stem for path in HOSTS.glob("*.json"))
GIB = 1 << 20

_DIMM = (
    "<memory model='dimm'><target><size unit='KiB'>524288</size><node>0</node></target></memory>"
)


def _guest(name: str, vcpus: int, memory_kib: int, *edits: tuple[str, str]) -> str:
    xml = anuma(name, vcpus, memory_kib)
    for old, new in edits:
        assert old in xml, old
        xml = xml.replace(old, new, 1)
    return xml


#: By name: vCPUs, the definition, and what refuses it on some hosts.
GUESTS: dict[str, tuple[int, str]] = {
    "one": (1, _guest("one", 1, GIB)),
    "seven": (7, _guest("seven", 7, 7 * GIB)),
    "eighteen": (18, _guest("eighteen", 18, 18 * GIB)),
    "many": (128, _guest("many", 128, 128 * GIB)),
    "odd-memory": (64, _guest("odd-memory", 64, 1000001)),
    "hugepages": (
        64,
        _guest(
            "hugepages",
            64,
            64 * 2048,
            ("<vcpu", "<memoryBacking><hugepages/></memoryBacking><vcpu"),
        ),
    ),
    "pinned": (
        64,
        _guest(
            "pinned",
            64,
            64 * GIB,
            (
                "<os>",
                "<cputune><shares>99</shares><vcpupin vcpu='3' cpuset='0'/></cputune>"
                "<numatune><memory mode='interleave' nodeset='0'/></numatune><os>",
            ),
        ),
    ),
    "cells": (
        64,
        _guest(
            "cells",
            64,
            64 * GIB,
            (
                PASSTHROUGH,
                PASSTHROUGH.replace("/>", ">")
                + "<topology sockets='1' cores='32' threads='2'/><numa>"
                f"<cell cpus='0-9' memory='{4 * GIB}'/><cell cpus='10-63' memory='{60 * GIB}'/>"
                "</numa></cpu>",
            ),
        ),
    ),
    "dimm": (
        64,
        _guest(
            "dimm",
            64,
            64 * GIB,
            ("<memory", f"<maxMemory slots='4' unit='KiB'>{128 * GIB}</maxMemory><memory"),
            (
                PASSTHROUGH,
                PASSTHROUGH.replace("/>", ">")
                + f"<numa><cell cpus='0-63' memory='{64 * GIB - 524288}'/></numa></cpu>",
            ),
            ("</devices>", f"{_DIMM}</devices>"),
        ),
    ),
    "hotplug": (64, _guest("hotplug", 64, 64 * GIB, ("<vcpu ", "<vcpu current='8' "))),
    "automatic": (
        64,
        _guest(
            "automatic",
            64,
            64 * GIB,
            ("placement='static'", "placement='auto'"),
            ("<os>", "<numatune><memory mode='strict' placement='auto'/></numatune><os>"),
        ),
    ),
    "iothreads": (
        64,
        _guest(
            "iothreads",
            64,
            64 * GIB,
            (
                "<os>",
                "<iothreads>3</iothreads><cputune><iothreadpin iothread='2' cpuset='0'/>"
                "</cputune><os>",
            ),
        ),
    ),
}


def test_the_table_is_large_enough() -> None:
    """Thirty hosts and a dozen guests."""
    assert len(NAMES) >= 30
    assert len(GUESTS) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_planned_is_accepted(
    lab: Callable[..., Libvirt], call: Call, name: str, tmp_path: Path
) -> None:
    """Each guest is partitioned, kept by libvirt as planned, and undone; or it is refused."""
    # Hosts with more pCPUs than this kernel's masks hold are read through the shim.
    libvirt = lab(name, shim=True)
    libvirt.clear()
    for guest, (_vcpus, xml) in GUESTS.items():
        (tmp_path / f"{guest}.xml").write_text(xml)
    libvirt.script(f"define {tmp_path}/{guest}.xml" for guest in GUESTS)
    before = libvirt.dumps(GUESTS)
    arguments: dict[str, Any] = {
        "uri": libvirt.uri,
        "guests": [{"name": "*"}],
        "emulator_pinning": "nodes",
        "iothread_pinning": "nodes",
    }
    run = call("vnuma_partition", arguments)
    refused = {error["name"]: error["msg"] for error in run.result.get("errors", ())}
    planned = {guest["name"]: guest["layout"] for guest in run.result.get("guests", ())}
    assert {*refused, *planned} == set(GUESTS)
    assert refused == _expected_refusals(name, refused)
    after = libvirt.dumps(GUESTS)
    for guest, layout in planned.items():
        root = etree.fromstring(after[guest])
        assert [cell.get("cpus") for cell in root.iterfind("cpu/numa/cell")] == [
            cell["vcpus"] for cell in layout["cells"]
        ]
        memory_kib = sum(cell["memory_kib"] for cell in layout["cells"])
        devices_kib = 524288 if guest == "dimm" else 0
        assert int(root.findtext("memory")) == memory_kib + devices_kib
        (tmp_path / f"{guest}.xml").write_text(after[guest])
    libvirt.script(f"define --validate {tmp_path}/{guest}.xml" for guest in planned)
    for guest in refused:
        assert after[guest] == before[guest]
    again = call("vnuma_partition", arguments)
    assert not again.result["changed"]
    undone = call("vnuma_partition", {**arguments, "state": "absent"})
    assert not undone.failed, undone.msg
    assert libvirt.dumps(GUESTS) == before
    libvirt.clear()
    libvirt.host.stop()


def _expected_refusals(name: str, said: dict[str, str]) -> dict[str, str]:
    """Return what must be refused on a host, with the sentences that were said for it."""
    spec = json.loads((HOSTS / f"{name}.json").read_text())
    offline = _ids(spec.get("offline", ""))
    cells = sum(
        bool(_ids(node.get("cpus", "")) - offline and node["memory_kib"]) for node in spec["nodes"]
    )
    expected = {}
    for guest, (vcpus, _xml) in GUESTS.items():
        if vcpus < cells:
            plural = "s" if vcpus > 1 else ""
            sentence = f"{vcpus} vCPU{plural} cannot fill {cells} cells; "
        elif guest == "hugepages" and _pool_too_small(spec, cells):
            sentence = "hugepages of 2048 KiB, and the guest's memory there needs "
        else:
            continue
        assert sentence in said.get(guest, ""), (guest, said.get(guest))
        expected[guest] = said[guest]
    return expected


def _pool_too_small(spec: dict[str, Any], cells: int) -> bool:
    pools = [
        node.get("hugepages", {"2048": [0, 0]})
        for node in spec["nodes"]
        if node.get("cpus") and node["memory_kib"]
    ]
    needed = -(-64 // cells)
    return any(pool and pool.get("2048", [0])[0] < needed for pool in pools)


def _ids(text: str) -> set[int]:
    ids: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _dash, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids
