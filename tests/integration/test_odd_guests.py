# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Odd guests, ten for each thing that docs/rules.md has a rule for: handled, or refused by rule.

Whatever libvirt lets in must come out as a partition that libvirt lets in too, or as a sentence of
this collection: never as an error of libvirt's own. (SEV guests libvirt lets in on SEV hosts only:
their rule is held by the unit tests.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adhoc import Run
from conftest import Libvirt
from guests import PASSTHROUGH, anuma
from lxml import etree

Call = Callable[..., Run]
Edit = tuple[str, str]

GIB = 1 << 20
OPEN = PASSTHROUGH.replace("/>", ">")


def _cpu(content: str) -> Edit:
    return (PASSTHROUGH, f"{OPEN}{content}</cpu>")


def _cells(*cells: str) -> Edit:
    return _cpu("<numa>" + "".join(f"<cell {cell}/>" for cell in cells) + "</numa>")


ONE_CELL = _cells(f"id='0' cpus='0-15' memory='{64 * GIB}'")
TWO_CELLS = _cells(f"cpus='0-7' memory='{32 * GIB}'", f"cpus='8-15' memory='{32 * GIB}'")
SIXTEEN_CELLS = _cells(*(f"cpus='{v}' memory='{4 * GIB}'" for v in range(16)))
FILE = "<source><path>/nonexistent</path></source>"
LABEL = "<label><size unit='KiB'>128</size></label>"
NODEMASK = "<source><pagesize unit='KiB'>4</pagesize><nodemask>0-3</nodemask></source>"
SLOTS = ("<memory", f"<maxMemory slots='16' unit='KiB'>{256 * GIB}</maxMemory><memory")


def _device(model: str, size: int, node: str, more: str = "", *, source: str = "") -> Edit:
    where = f"<node>{node}</node>" if node else ""
    target = f"<target><size unit='KiB'>{size}</size>{where}{more}</target>"
    return ("</devices>", f"<memory model='{model}'>{source}{target}</memory></devices>")


def _backing(content: str) -> Edit:
    return ("<vcpu", f"<memoryBacking>{content}</memoryBacking><vcpu")


def _tune(content: str) -> Edit:
    return ("<os>", f"<cputune>{content}</cputune><os>")


def _numatune(content: str) -> Edit:
    return ("<os>", f"<numatune>{content}</numatune><os>")


def _vcpus(states: str) -> Edit:
    listed = "".join(
        f"<vcpu id='{i}' enabled='{'yes' if state == 'y' else 'no'}' "
        f"hotpluggable='{'yes' if i else 'no'}'/>"
        for i, state in enumerate(states)
    )
    return ("</vcpu>", f"</vcpu><vcpus>{listed}</vcpus>")


def _current(count: int) -> Edit:
    return ("<vcpu ", f"<vcpu current='{count}' ")


def _add(content: str) -> Edit:
    return ("</devices>", f"{content}</devices>")


def _pxb(node: str, bus: str = "180") -> str:
    return (
        f"<controller type='pci' index='1' model='pcie-expander-bus'><target busNr='{bus}'>"
        f"<node>{node}</node></target></controller>"
    )


def _hostdev(bus: str) -> str:
    return (
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x0000' "
        f"bus='{bus}' slot='0x00' function='0x0'/></source></hostdev>"
    )


ROWS: dict[str, list[list[Edit]]] = {
    "memory devices": [
        *[[ONE_CELL, SLOTS, _device("dimm", 524288, node)] for node in ("0",)],
        [ONE_CELL, SLOTS, _device("dimm", 524288, "0"), _device("dimm", 1048576, "0")],
        [ONE_CELL, SLOTS, _device("dimm", 1, "0")],
        [ONE_CELL, SLOTS, _device("dimm", 64 * GIB, "0")],
        *[[SIXTEEN_CELLS, SLOTS, _device("dimm", 524288, node)] for node in ("15", "8", "7")],
        [
            ONE_CELL,
            SLOTS,
            _device(
                "virtio-mem",
                4194304,
                "0",
                "<block unit='KiB'>2048</block><requested unit='KiB'>2097152</requested>",
            ),
        ],
        [
            SIXTEEN_CELLS,
            SLOTS,
            _device(
                "virtio-mem",
                4194304,
                "9",
                "<block unit='KiB'>2048</block><requested unit='KiB'>0</requested>",
            ),
        ],
        [SLOTS, _device("dimm", 524288, "")],
        [TWO_CELLS, SLOTS, _device("dimm", 524288, "1", source=NODEMASK)],
        [TWO_CELLS, SLOTS, _device("nvdimm", 524288, "0", source=FILE)],
        [TWO_CELLS, SLOTS, _device("nvdimm", 524288, "1", LABEL, source=FILE)],
        [SIXTEEN_CELLS, SLOTS, _device("nvdimm", 524288, "12", source=FILE)],
        [ONE_CELL, SLOTS, _device("virtio-pmem", 524288, "", source=FILE)],
        [
            TWO_CELLS,
            SLOTS,
            _device("dimm", 524288, "0"),
            _device("nvdimm", 524288, "1", source=FILE),
        ],
    ],
    "maxMemory": [
        [
            ONE_CELL,
            ("<memory", f"<maxMemory slots='{slots}' unit='{unit}'>{size}</maxMemory><memory"),
        ]
        for slots, unit, size in (
            *((1, "KiB", 65 * GIB), (255, "KiB", 128 * GIB), (16, "GiB", 100), (16, "TiB", 1)),
            *((16, "MiB", 65537), (2, "KiB", 64 * GIB), (16, "KiB", 64 * GIB + 1), (8, "G", 65)),
            *((16, "GB", 80), (3, "KiB", 70000001)),
        )
    ],
    "currentMemory": [
        [(f"<currentMemory unit='KiB'>{64 * GIB}", f"<currentMemory unit='{unit}'>{size}")]
        for unit, size in (
            *(("KiB", 1), ("KiB", 1024), ("KiB", 32 * GIB), ("KiB", 64 * GIB), ("KiB", 65 * GIB)),
            *(("MiB", 7), ("GiB", 63), ("KiB", 12345677), ("b", 1), ("KiB", 0)),
        )
    ],
    "vCPU hotplug": [
        [_current(1)],
        [_current(8)],
        [_current(15)],
        [_current(16)],
        [_vcpus("y" * 16)],
        [_vcpus("y" + "n" * 15), _current(1)],
        [_vcpus("yn" * 8), _current(8)],
        [_vcpus("y" * 3 + "n" * 13), _current(3)],
        [_vcpus("y" + "n" * 14 + "y"), _current(2)],
        [_current(8), _cpu("<topology sockets='4' cores='2' threads='2'/>")],
    ],
    "placement and cpuset": [
        [("placement='static'", placement)]
        for placement in (
            *("placement='auto'", "cpuset='0-3'", "cpuset='0-239'", "cpuset='5'", ""),
            *("placement='static' cpuset='0,239'", "cpuset='0-7,^3'", "cpuset='240-300'"),
            *("placement='auto' cpuset='1'", "placement='static' cpuset='3,1,2'"),
        )
    ],
    "numatune": [
        [_numatune(content)]
        for content in (
            *("<memory mode='strict' nodeset='0'/>", "<memory mode='preferred' nodeset='7'/>"),
            *(
                "<memory mode='interleave' nodeset='0-7'/>",
                "<memory mode='restrictive' nodeset='1'/>",
            ),
            *("<memory placement='auto'/>", "<memory mode='strict' placement='auto'/>", ""),
            *("<memory mode='strict' nodeset='0-7,^3'/>", "<memory nodeset='99'/>"),
            "<memory mode='interleave' placement='auto'/>",
        )
    ],
    "cells and pins": [
        [_cells(f"id='0' cpus='0-15' memory='{64 * GIB}'")],
        [_cells(f"cpus='0-7' memory='{60 * GIB}'", f"cpus='8-15' memory='{4 * GIB}'")],
        [_cells(f"cpus='0-3' memory='{64 * GIB}'")],
        [_cells(f"cpus='0-15' memory='{64 * GIB}' memAccess='shared'")],
        [
            _cells(
                f"cpus='0-7' memory='{GIB}' memAccess='shared'",
                f"cpus='8-15' memory='{GIB}' memAccess='private'",
            )
        ],
        [_cells(f"cpus='0-15' memory='{GIB}'", f"memory='{GIB}'")],
        [_cells("cpus='0-15' memory='1048577'")],
        [_tune("".join(f"<vcpupin vcpu='{v}' cpuset='{v}'/>" for v in range(16)))],
        [_tune("<vcpupin vcpu='15' cpuset='0-239'/><vcpupin vcpu='0' cpuset='239'/>")],
        [_tune("<shares>2</shares><period>1000</period><emulatorpin cpuset='3'/>")],
        [_cells(f"id='1' cpus='0-7' memory='{GIB}'", f"id='0' cpus='8-15' memory='{GIB}'")],
        [_cells(f"cpus='0,2,4-7' memory='{GIB}'", f"cpus='1,3,8-15' memory='{GIB}'")],
        [_cells(f"cpus='0-3' memory='{GIB}'", f"cpus='8-11' memory='{GIB}'")],
        [_cells("cpus='0-7' memory='8' unit='GB'", "cpus='8-15' memory='9000000000' unit='b'")],
        [_cells(f"cpus='0-15' memory='{64 * GIB}' memAccess='private' discard='yes'")],
    ],
    "hugepages": [
        [*cells, _backing(f"<hugepages>{pages}</hugepages>")]
        for cells, pages in (
            *(([], "<page size='4' unit='KiB'/>"), ([], "<page size='2048' nodeset='0'/>")),
            *(([], "<page size='1' unit='G'/>"), ([], "<page size='2097152' unit='b'/>")),
            ([], "<page size='2048'/><page size='1' unit='GiB' nodeset='0'/>"),
            ([TWO_CELLS], "<page size='2048' nodeset='0-1'/>"),
            ([TWO_CELLS], "<page size='2048' nodeset='1'/>"),
            ([TWO_CELLS], "<page size='2048' nodeset='0'/><page size='1' unit='G' nodeset='1'/>"),
            ([TWO_CELLS], "<page size='4' nodeset='0'/><page size='2048' nodeset='1'/>"),
            ([SIXTEEN_CELLS], "<page size='2048' nodeset='0-15'/>"),
            ([SIXTEEN_CELLS], "<page size='2048' nodeset='12'/><page size='4'/>"),
        )
    ],
    "tuning": [
        [_tune(content)]
        for content in (
            "<vcpusched vcpus='0-3' scheduler='batch'/>",
            "<vcpusched vcpus='0-3,^1' scheduler='fifo' priority='1'/>",
            "<vcpusched vcpus='15' scheduler='idle'/><emulatorsched scheduler='batch'/>",
            "<period>100000</period><quota>-1</quota>",
            "<global_period>100000</global_period><global_quota>50000</global_quota>",
            "<emulator_period>100000</emulator_period><emulator_quota>-1</emulator_quota>",
            "<iothread_period>100000</iothread_period><iothread_quota>-1</iothread_quota>",
            "<shares>262144</shares>",
            "<vcpupin vcpu='3' cpuset='0'/><vcpusched vcpus='3' scheduler='rr' priority='99'/>",
            "<emulatorpin cpuset='0-239'/><emulatorsched scheduler='fifo' priority='1'/>",
        )
    ],
    "CPU": [
        [(PASSTHROUGH, content)]
        for content in (
            *("", "<cpu mode='host-model' check='partial'/>"),
            "<cpu mode='custom' match='exact'><model fallback='forbid'>kvm64</model></cpu>",
            "<cpu mode='custom' match='minimum'><model>qemu64</model><vendor>AMD</vendor></cpu>",
            "<cpu><topology sockets='1' dies='2' cores='4' threads='2'/></cpu>",
            "<cpu><topology sockets='16' cores='1' threads='1'/><cache mode='disable'/></cpu>",
            f"{OPEN}<feature policy='require' name='topoext'/></cpu>",
            f"{OPEN}<maxphysaddr mode='emulate' bits='42'/><cache mode='passthrough'/></cpu>",
            "<cpu mode='custom' check='none'><model>EPYC</model><feature policy='disable' "
            "name='svm'/><feature policy='force' name='x2apic'/></cpu>",
            "<cpu match='strict'><model>Nehalem</model><topology sockets='2' cores='8' "
            "threads='1'/></cpu>",
        )
    ],
    "what belongs to others": [
        [("<memory", f"<metadata>{content}</metadata><memory")]
        for content in (
            *("", "<!-- nothing -->", "<a xmlns='urn:a'/>", "<a:b xmlns:a='urn:a'>&lt;</a:b>"),
            *("<vnuma:y xmlns:vnuma='urn:b'/>", "<x xmlns='urn:x'><y xmlns='urn:y'/></x>"),
        )
    ]
    + [
        [
            ("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' "),
            ("</domain>", f"<qemu:commandline>{arguments}</qemu:commandline></domain>"),
        ]
        for arguments in (
            "<qemu:arg value='-smp'/><qemu:arg value='16,sockets=16'/>",
            "<qemu:arg value='-numa'/><qemu:arg value='node,nodeid=0'/>",
            "<qemu:arg value='-cpu'/><qemu:arg value='max'/>",
            "<qemu:env name='A' value='-smp'/>",
        )
    ],
    "iothreads": [
        [("<os>", content + "<os>")]
        for content in (
            *("<iothreads>0</iothreads>", "<iothreads>1</iothreads>", "<iothreads>16</iothreads>"),
            "<iothreads>2</iothreads><iothreadids><iothread id='7'/></iothreadids>",
            "<iothreadids><iothread id='3'/><iothread id='9'/></iothreadids>",
            "<iothreads>1</iothreads><cputune><iothreadpin iothread='1' cpuset='0'/></cputune>",
            "<iothreads>2</iothreads><cputune><iothreadpin iothread='2' cpuset='0-9'/></cputune>",
            "<iothreads>1</iothreads><cputune><emulatorpin cpuset='9'/></cputune>",
            "<iothreads>4</iothreads><iothreadids><iothread id='2'/><iothread id='5'/>"
            "</iothreadids>",
            "<iothreads>1</iothreads><cputune><iothreadsched iothreads='1' scheduler='batch'/>"
            "</cputune>",
        )
    ],
    "memoryBacking": [
        [_backing(content)]
        for content in (
            *("<hugepages/>", "<hugepages><page size='2' unit='MiB'/></hugepages>"),
            "<hugepages><page size='1' unit='GiB'/></hugepages>",
            "<hugepages><page size='2048' unit='KiB' nodeset='0'/></hugepages>",
            *("<nosharepages/>", "<locked/>", "<source type='memfd'/><access mode='shared'/>"),
            *("<allocation mode='immediate'/>", "<discard/>", "<source type='file'/>"),
        )
    ],
    "PCI expander buses and host devices": [
        [ONE_CELL, _add(_pxb("0"))],
        [_cells(*(f"cpus='{v}' memory='{GIB}'" for v in range(16))), _add(_pxb("15"))],
        [_cells(*(f"cpus='{v}' memory='{GIB}'" for v in range(16))), _add(_pxb("8"))],
        [_cells(*(f"cpus='{v}' memory='{GIB}'" for v in range(16))), _add(_pxb("7"))],
        [_add(_hostdev("0x01"))],
        [_add(_hostdev("0x02")), _add(_hostdev("0x03"))],
        [_add(_hostdev("0x04")), _tune("<vcpupin vcpu='0' cpuset='0'/>")],
        [ONE_CELL, _add(_pxb("0")), _add(_hostdev("0x05"))],
        [_add("<controller type='pci' index='1' model='pcie-root-port'/>")],
        [_cells(f"cpus='0-7' memory='{GIB}'", f"cpus='8-15' memory='{GIB}'"), _add(_pxb("1"))],
    ],
}

POLICIES: list[dict[str, Any]] = [
    {},
    {"cells": 2, "pinning": "core", "memory_mode": "preferred", "iothread_pinning": "nodes"},
    {"distribution": "round_robin", "memory_mode": "restrictive", "emulator_pinning": "nodes"},
]


def _definition(name: str, edits: list[Edit]) -> str:
    xml = anuma(name)
    for old, new in edits:
        assert old in xml, (name, old)
        xml = xml.replace(old, new, 1)
    etree.fromstring(xml)
    return xml


def test_ten_of_each() -> None:
    """The table above is as long as it says."""
    assert {row: len(cases) for row, cases in ROWS.items() if len(cases) < 10} == {}


def test_handled_or_refused(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """No error of libvirt's own, a second run that changes nothing, and the way back."""
    before = _define(rfc, tmp_path)
    for row in ROWS:
        taken = [name for name in before if name.startswith(f"{_slug(row)}-")]
        assert len(taken) >= 10, f"of '{row}' libvirt takes only {taken}"
    arguments = {"uri": rfc.uri, "guests": [{"name": "*"}]}
    for policy in POLICIES:
        run = call("vnuma_partition", {**arguments, **policy})
        errors = run.result.get("errors", [])
        done = [guest["name"] for guest in run.result["guests"]]
        assert sorted([*done, *(error["name"] for error in errors)]) == sorted(before)
        now = rfc.dumps(before)
        for error in errors:
            assert "libvirt" not in error["msg"], error
            assert now[error["name"]].count("<cell ") == before[error["name"]].count("<cell ")
        assert not call("vnuma_partition", {**arguments, **policy}).result["changed"]
        undone = call("vnuma_partition", {**arguments, "state": "absent"})
        assert not undone.failed, undone.msg
        for name, xml in rfc.dumps(before).items():
            assert xml == before[name]


def _slug(row: str) -> str:
    return row.replace(" ", "_")


def _define(rfc: Libvirt, folder: Path) -> dict[str, str]:
    """Define every guest that libvirt takes, and return the definitions that it stored."""
    for row, cases in ROWS.items():
        for number, edits in enumerate(cases):
            name = f"{_slug(row)}-{number}"
            (folder / f"{name}.xml").write_text(_definition(name, edits))
    # What libvirt itself refuses, no module will ever see.
    rfc.script((f"define {path}" for path in sorted(folder.glob("*.xml"))), check=False)
    names = rfc.virsh("list", "--all", "--name").split()
    for name, xml in rfc.dumps(names).items():
        (folder / f"{name}.xml").write_text(xml)
    # libvirt may sort a dump's devices once more when it is defined again.
    rfc.script(f"define {folder}/{name}.xml" for name in names)
    return rfc.dumps(names)
