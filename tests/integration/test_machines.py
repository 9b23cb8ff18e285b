# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines and guests that people reported trouble with, rebuilt on a real libvirt."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guestboot
import pytest
from adhoc import Run
from conftest import Libvirt
from fakehost import FakeHost
from guests import PASSWORD, anuma
from hugepages import more_hugepages
from lxml import etree

Call = Callable[..., Run]
Make = Callable[..., Libvirt]

GIB = 1 << 20
_VNC = f"<graphics type='vnc' port='-1' autoport='yes' passwd='{PASSWORD}'/>"


@pytest.fixture
def machines() -> dict[str, Libvirt]:
    """Hosts that are described on the spot, by URI."""
    return {}


@pytest.fixture
def call(call: Call, machines: dict[str, Libvirt]) -> Call:
    """Call a module, on the host itself where that was described on the spot."""

    def run(module: str, arguments: dict[str, Any], *flags: str) -> Run:
        return call(module, arguments, *flags, on=machines.get(arguments["uri"]))

    return run


@pytest.fixture
def make(tmp_path: Path, machines: dict[str, Libvirt]) -> Iterator[Make]:
    """Start a daemon for a host that is described on the spot."""

    def start(*, shim: bool = False, **spec: Any) -> Libvirt:
        name = f"machine-{len(machines)}-{os.getpid()}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"name": name, "about": "", **spec}))
        libvirt = Libvirt(FakeHost(name, path, shim=shim), ssh=True)
        libvirt.host.start()
        machines[libvirt.uri] = libvirt
        return libvirt

    yield start
    for libvirt in machines.values():
        libvirt.host.stop()
        shutil.rmtree(libvirt.host.root, ignore_errors=True)


def _on(libvirt: Libvirt, guest: str, **options: Any) -> dict[str, Any]:
    return {"uri": libvirt.uri, "guests": [{"name": guest}], **options}


def _layout(run: Run, name: str = "") -> dict[str, Any]:
    assert not run.failed, run.msg
    (guest,) = [one for one in run.result["guests"] if name in ("", one["name"])]
    assert isinstance(guest["layout"], dict)
    return guest["layout"]


def _with(xml: str, element: str) -> str:
    return xml.replace("</devices>", f"{element}</devices>")


def _cells(xml: str) -> list[tuple[int, int]]:
    """Return vCPUs and KiB of each cell, read apart from the collection."""
    found = []
    for cell in etree.fromstring(xml).iterfind("cpu/numa/cell"):
        vcpus = 0
        for run in str(cell.get("cpus")).split(","):
            first, _dash, last = run.partition("-")
            vcpus += int(last or first) - int(first) + 1
        found.append((vcpus, int(cell.get("memory"))))
    return found


def test_growing_by_hand_is_lost_and_by_option_is_not(rfc: Libvirt, call: Call) -> None:
    """What virsh refuses, or drops without a word, is one option here; absent gives it back."""
    rfc.define(_with(anuma("db", 8, 16 * GIB), _VNC))
    before = rfc.dump("db")
    assert call("vnuma_partition", _on(rfc, "db", nodes="0-1")).result["changed"]
    assert "error:" in rfc.virsh("setmaxmem", "db", "32G", "--config", check=False)
    assert "error:" in rfc.virsh("setvcpus", "db", "16", "--maximum", "--config", check=False)
    edited = re.sub(r"(<(?:m|currentM)emory unit='KiB'>)\d+", rf"\g<1>{32 * GIB}", rfc.dump("db"))
    rfc.define(edited)
    assert f"<memory unit='KiB'>{16 * GIB}</memory>" in rfc.dump("db")

    grown = _on(rfc, "db", nodes="0-1", vcpus=16, memory="32 GiB")
    checked = call("vnuma_partition", grown, "--check", "--diff")
    assert f'+  <memory unit="KiB">{32 * GIB}</memory>' in checked.output
    assert _cells(rfc.dump("db")) == [(4, 8 * GIB)] * 2
    layout = _layout(call("vnuma_partition", grown))
    assert (layout["vcpus"], layout["memory_kib"]) == (16, 32 * GIB)
    assert _cells(rfc.dump("db")) == [(8, 16 * GIB)] * 2
    assert not call("vnuma_partition", grown).result["changed"]
    assert call("vnuma_info", {"uri": rfc.uri}).result["drifted"] == []
    run = call("vnuma_partition", _on(rfc, "db", state="absent"))
    assert run.result["changed"]
    assert rfc.dump("db") == before
    assert PASSWORD in before
    assert PASSWORD not in run.output + checked.output


def test_forty_guests_grown_and_shrunk(rfc: Libvirt, call: Call) -> None:
    """Three times each: totals exact, nothing the second time, absent exact, passwords kept."""
    draw = random.Random(13)  # noqa: S311 - sizes, and no secrets
    names = [f"g{number:02}" for number in range(40)]
    for name in names:
        rfc.define(_with(anuma(name, draw.randint(1, 16), draw.randint(1, 64) * GIB), _VNC))
    before = rfc.dumps(names)
    for _turn in range(3):
        entries = [
            {
                "name": name,
                "nodes": draw.choice(["0", "0-1", "2-3,7"]),
                "vcpus": str(draw.randint(3, 40)),
                "memory": f"{draw.randint(1024, 99999)} MiB",
            }
            for name in names
        ]
        arguments = {"uri": rfc.uri, "guests": entries}
        run = call("vnuma_partition", arguments)
        assert not run.failed, run.msg
        for entry, text in zip(entries, rfc.dumps(names).values(), strict=True):
            cells = _cells(text)
            memory_kib = int(entry["memory"].split()[0]) * 1024
            assert sum(vcpus for vcpus, _kib in cells) == int(entry["vcpus"])
            assert sum(kib for _vcpus, kib in cells) == memory_kib
            assert f"<memory unit='KiB'>{memory_kib}</memory>" in text
            assert f"passwd='{PASSWORD}'" in text
        assert not call("vnuma_partition", arguments).result["changed"]
        assert PASSWORD not in run.output
    call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "g*"}], "state": "absent"})
    assert rfc.dumps(names) == before


def test_what_a_guest_does_not_allow(rfc: Libvirt, call: Call) -> None:
    """One sentence with the figures, and nothing is changed."""
    rfc.define(
        anuma("held", 8, 16 * GIB)
        .replace(f"<currentMemory unit='KiB'>{16 * GIB}", f"<currentMemory unit='KiB'>{8 * GIB}")
        .replace("<vcpu placement='static'>", "<vcpu placement='static' current='6'>")
    )
    before = rfc.dump("held")
    for options, sentence in (
        ({"memory": "4 GiB"}, "guest held: memory 4 GiB is less than the 8 GiB of its"),
        ({"vcpus": 4}, "guest held: vcpus 4 is too few: vCPUs '0-5' are online at boot;"),
        ({"memory": "lots"}, "memory must be an integer with a unit, such as '32 GiB', not 'lots'"),
    ):
        run = call("vnuma_partition", _on(rfc, "held", nodes="0", **options))
        assert run.failed
        assert sentence in run.msg
    assert rfc.dump("held") == before


def test_nodes_of_unequal_size(make: Make, call: Call) -> None:
    """Even cells crowd the small node, and say so; in proportion all has its place."""
    libvirt = make(
        nodes=[
            {"id": 0, "cpus": "0-11", "memory_kib": 96 * GIB},
            {"id": 1, "cpus": "12-15", "memory_kib": 32 * GIB},
        ]
    )
    libvirt.define(anuma("wide", 16, 96 * GIB))
    run = call("vnuma_partition", _on(libvirt, "wide"))
    assert [cell["vcpus"] for cell in _layout(run)["cells"]] == ["0-7", "8-15"]
    assert any(
        one.startswith(
            "cell 1 has 8 vCPUs on the 4 pCPUs of host node 1, which they share; set "
            "split to 'proportional'"
        )
        for one in run.result["guests"][0]["warnings"]
    )
    assert call("vnuma_partition", _on(libvirt, "wide", pinning="core")).failed
    proportional = _on(libvirt, "wide", split="proportional", pinning="core")
    run = call("vnuma_partition", proportional)
    assert _cells(libvirt.dump("wide")) == [(12, 72 * GIB), (4, 24 * GIB)]
    assert run.result["guests"][0]["warnings"] == []
    assert sorted(_layout(run)["vcpu_pins"], key=int) == [str(cpu) for cpu in range(16)]
    assert not call("vnuma_partition", proportional).result["changed"]


def test_nodes_without_memory(make: Make, call: Call) -> None:
    """A Threadripper 2990WX: two of its four nodes have pCPUs and no memory."""
    near = [[10, 16, 16, 16], [16, 10, 16, 16], [16, 16, 10, 16], [16, 16, 16, 10]]
    libvirt = make(
        threads=2,
        siblings="adjacent",
        distances=near,
        nodes=[
            {"id": 0, "cpus": "0-15", "memory_kib": 64 * GIB, "package": 0, "die": 0},
            {"id": 1, "cpus": "16-31", "memory_kib": 0, "package": 0, "die": 1, "hugepages": {}},
            {"id": 2, "cpus": "32-47", "memory_kib": 64 * GIB, "package": 0, "die": 2},
            {"id": 3, "cpus": "48-63", "memory_kib": 0, "package": 0, "die": 3, "hugepages": {}},
        ],
    )
    libvirt.define(anuma("render", 48, 64 * GIB))
    run = call("vnuma_partition", _on(libvirt, "render"))
    assert [cell["pins"] for cell in _layout(run)["cells"]] == ["0-15", "32-47"]
    assert "host node 1 is not used: it has no memory." in run.result["guests"][0]["warnings"]
    named = _on(libvirt, "render", nodes="0-3")
    run = call("vnuma_partition", named)
    cells = _layout(run)["cells"]
    assert [cell["pins"] for cell in cells] == ["0-15", "16-31", "32-47", "48-63"]
    assert [cell.get("memory_node", cell["host_node"]) for cell in cells] == [0, 0, 2, 0]
    assert cells[1]["distances"] == [16, 10, 16, 16]
    assert cells[0]["distances"] == [10, 11, 16, 11]
    text = libvirt.dump("render")
    assert "<memory mode='strict' nodeset='0,2'/>" in text
    assert "<memnode cellid='3' mode='strict' nodeset='0'/>" in text
    assert not call("vnuma_partition", named).result["changed"]
    assert call("vnuma_info", {"uri": libvirt.uri}).result["drifted"] == []


def test_isolated_pcpus(make: Make, call: Call) -> None:
    """Facts know them; shared pins leave them out, exclusive ones take them first."""
    libvirt = make(
        threads=2,
        isolated="2-7,10-15,18-23,26-31",
        nodes=[
            {"id": 0, "cpus": "0-7,16-23", "memory_kib": 32 * GIB},
            {"id": 1, "cpus": "8-15,24-31", "memory_kib": 32 * GIB},
        ],
    )
    facts = call("vnuma_facts", {"uri": libvirt.uri}).result["ansible_facts"]["vnuma_host"]
    assert facts["isolated_cpus"] == "2-7,10-15,18-23,26-31"
    libvirt.define(anuma("rt", 4, 4 * GIB))
    layout = _layout(call("vnuma_partition", _on(libvirt, "rt", nodes="0-1")))
    assert [cell["pins"] for cell in layout["cells"]] == ["0-1,16-17", "8-9,24-25"]
    layout = _layout(call("vnuma_partition", _on(libvirt, "rt", nodes="0-1", pinning="core")))
    assert [cell["pins"] for cell in layout["cells"]] == ["2,18", "10,26"]
    run = call(
        "vnuma_partition",
        _on(libvirt, "rt", nodes="0-1", pinning="cpu", reserved_cpus="isolated"),
    )
    assert [cell["pins"] for cell in _layout(run)["cells"]] == ["0,16", "8,24"]
    # Facts as the host, and what is not known of another host.
    planned = call("vnuma_partition", _on(libvirt, "rt", nodes="0", topology=facts), "--check")
    assert _layout(planned)["cells"][0]["pins"] == "0-1,16-17"
    unknown = {**facts, "isolated_cpus": None}
    run = call(
        "vnuma_partition",
        _on(libvirt, "rt", nodes="0", topology=unknown, reserved_cpus="isolated"),
        "--check",
    )
    assert "guest rt: reserved_cpus 'isolated' cannot be used: which pCPUs are isolated" in run.msg


def test_iothreads_beside_dedicated_pcpus(make: Make, call: Call) -> None:
    """As SAP's guide has it: vCPUs on pCPUs of their own, iothreads on the rest."""
    libvirt = make(
        nodes=[
            {"id": 0, "cpus": "0-7", "memory_kib": 32 * GIB},
            {"id": 1, "cpus": "8-15", "memory_kib": 32 * GIB},
        ]
    )
    xml = anuma("hana", 12, 8 * GIB).replace("<vcpu ", "<iothreads>2</iothreads><vcpu ", 1)
    libvirt.define(re.sub(r"(<iothreads>.*?</iothreads>)(.*?</vcpu>)", r"\2\1", xml))
    options = {"pinning": "cpu", "reserved_cpus": "0,8", "iothread_pinning": "nodes"}
    layout = _layout(call("vnuma_partition", _on(libvirt, "hana", **options)))
    assert layout["iothread_pins"] == {"1": "0,7", "2": "8,15"}
    assert "<iothreadpin iothread='1' cpuset='0,7'/>" in libvirt.dump("hana")
    assert not call("vnuma_partition", _on(libvirt, "hana", **options)).result["changed"]
    named = {**options, "iothread_pinning": "0,8"}
    layout = _layout(call("vnuma_partition", _on(libvirt, "hana", **named)))
    assert layout["iothread_pins"] == {"1": "0,8", "2": "0,8"}
    full = _on(libvirt, "hana", vcpus=16, pinning="cpu", iothread_pinning="nodes")
    before = libvirt.dump("hana")
    assert (
        "its vCPUs would take the last pCPUs of host node 1 that its iothreads"
        in call("vnuma_partition", full).msg
    )
    assert libvirt.dump("hana") == before


def test_strict_memory_is_added_up(rfc: Libvirt, call: Call) -> None:
    """Three guests of 50 GiB on a node of 128, in one call and beside guests defined earlier."""
    for name in ("a", "b", "c"):
        rfc.define(anuma(name, 4, 50 * GIB))
    three = {"uri": rfc.uri, "guests": [{"name": name} for name in "abc"], "nodes": "0"}
    sentence = (
        "host node 0 has 128 GiB of memory, and guests bind 150 GiB to it (a 50 GiB, b 50 GiB, c "
        "50 GiB);"
    )
    checked = call("vnuma_partition", three, "--check")
    assert sentence in " ".join(checked.output.split())
    for name in "ab":
        call("vnuma_partition", _on(rfc, name, nodes="0"))
    last = call("vnuma_partition", _on(rfc, "c", nodes="0"))
    assert sentence in " ".join(last.output.split())
    assert not last.failed
    assert "of memory, and guests bind" not in call("vnuma_partition", three).output


def test_hugepages_are_added_up(make: Make, call: Call) -> None:
    """Who else holds pages of the pool is named."""
    libvirt = make(
        nodes=[
            {"id": 0, "cpus": "0-7", "memory_kib": 32 * GIB, "hugepages": {"1048576": [24, 24]}},
            {"id": 1, "cpus": "8-15", "memory_kib": 32 * GIB, "hugepages": {"1048576": [0, 0]}},
        ]
    )
    pages = (
        "<memoryBacking><hugepages><page size='1048576' unit='KiB'/></hugepages></memoryBacking>"
        "<vcpu "
    )
    for name, gib in (("small", 8), ("large", 20)):
        libvirt.define(anuma(name, 4, gib * GIB).replace("<vcpu ", pages, 1))
    assert not call("vnuma_partition", _on(libvirt, "small", nodes="0")).failed
    run = call("vnuma_partition", _on(libvirt, "large", nodes="0"))
    assert (
        "host node 0 has 24 hugepages of 1048576 KiB, and guests need 28 there (large 20, small 8),"
        in " ".join(run.output.split())
    )


@pytest.mark.slow
def test_hugepages_that_a_running_guest_holds(make: Make, call: Call, tmp_path: Path) -> None:
    """A guest that would not start beside it is left as it is."""
    with more_hugepages(64):
        pools = [{"2048": [64, 64]}, {"2048": [0, 0]}]
        libvirt = make(
            shim=True,
            nodes=[
                {"id": 0, "cpus": "0", "memory_kib": 8 * GIB, "hugepages": pools[0]},
                {"id": 1, "cpus": "1", "memory_kib": 8 * GIB, "hugepages": pools[1]},
            ],
        )
        libvirt.host.exec(["mkdir", "-p", "/dev/hugepages"])
        libvirt.host.exec(["mount", "-t", "hugetlbfs", "none", "/dev/hugepages"])
        # It looks for such mounts when it starts.
        libvirt.host.renew_daemon()
        pages = "<memoryBacking><hugepages/></memoryBacking><vcpu "
        for name, mib in (("small", 16), ("large", 120)):
            xml = guestboot.domain_xml(name, 1, mib, tmp_path / f"{name}.log")
            libvirt.define(xml.replace("<vcpu ", pages, 1))
        small = _on(libvirt, "small", nodes="0")
        assert not call("vnuma_partition", small).failed
        libvirt.virsh("start", "small")
        before = libvirt.dump("large")
        run = call("vnuma_partition", _on(libvirt, "large", nodes="0"))
        assert run.failed
        assert (
            "guest large: it needs 60 hugepages of 2048 KiB on host node 0, whose pool has 64, and "
            "guests that run there hold 8 (small 8), so that it would not start;"
        ) in run.msg
        assert libvirt.dump("large") == before
        libvirt.virsh("destroy", "small")
        run = call("vnuma_partition", _on(libvirt, "large", nodes="0"))
        assert not run.failed, run.msg
        assert "guests need 68 there (large 60, small 8)" in " ".join(run.output.split())
        libvirt.clear()


def test_sentences_about_threads(make: Make, call: Call) -> None:
    """On a host without SMT, and on a hybrid one, they say which cores have one thread."""
    plain = make(nodes=[{"id": 0, "cpus": "0-7", "memory_kib": 32 * GIB}])
    plain.define(anuma("wide", 8, 4 * GIB))
    run = call("vnuma_partition", _on(plain, "wide", pinning="core", threads=2))
    assert "8 of its cores have fewer threads; `threads: 1` would fit" in run.msg
    hybrid = make(
        nodes=[{"id": 0, "cpus": "0-31", "memory_kib": 32 * GIB}],
        cpu={
            **{
                str(cpu): {"core": cpu // 2, "siblings": f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"}
                for cpu in range(16)
            },
            **{str(cpu): {"core": cpu, "siblings": str(cpu)} for cpu in range(16, 32)},
        },
        capacities={"0-15": 1024, "16-31": 700},
    )
    facts = call("vnuma_facts", {"uri": hybrid.uri}).result["ansible_facts"]["vnuma_host"]
    assert facts["cpu_kinds"] == ["0-15", "16-31"]
    hybrid.define(anuma("wide", 20, 4 * GIB))
    run = call("vnuma_partition", _on(hybrid, "wide", pinning="core"))
    assert "needs 10 cores with 2 free threads on host node 0, which has 8 left" in run.msg
    assert "16 of its cores have fewer threads" in run.msg
    run = call("vnuma_partition", _on(hybrid, "wide", pinning="core", threads=1))
    assert any("has cores of 2 kinds" in one for one in run.result["guests"][0]["warnings"])
    hybrid.define(anuma("slim", 12, 4 * GIB))
    hybrid.virsh("undefine", "wide")
    layout = _layout(call("vnuma_partition", _on(hybrid, "slim", pinning="core", threads=1)))
    assert layout["cells"][0]["pins"] == "16-27"


def test_cores_of_one_cache(make: Make, call: Call) -> None:
    """A node of twelve cores with two L3: two guests of four cores each have one of their own."""
    libvirt = make(nodes=[{"id": 0, "cpus": "0-11", "memory_kib": 32 * GIB}], l3=["0-5", "6-11"])
    facts = call("vnuma_facts", {"uri": libvirt.uri}).result["ansible_facts"]["vnuma_host"]
    assert facts["nodes"][0]["cache_domains"] == ["0-5", "6-11"]
    for name in ("a", "b", "c"):
        libvirt.define(anuma(name, 4, 4 * GIB))
        run = call("vnuma_partition", _on(libvirt, name, pinning="core"))
        pins = _layout(run)["cells"][0]["pins"]
        assert pins == {"a": "0-3", "b": "6-9", "c": "4-5,10-11"}[name]
