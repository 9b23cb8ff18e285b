# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of SUSE's guide for SAP HANA on KVM, and how definitions are compared with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lxml import etree

TESTS = Path(__file__).resolve().parents[1]
#: Values of the guide; where they are from is written in the file.
GUIDE = json.loads((TESTS / "unit/fixtures/hana-guide.json").read_text(encoding="utf-8"))
EXAMPLES: dict[str, dict[str, Any]] = GUIDE["examples"]
#: The two hosts of the guide's section on topology and pinning.
HOSTS = {
    "4 sockets, 224 vCPUs": "cascade-lake-4n224c",
    "2 sockets, 224 vCPUs": "sapphire-rapids-2n224c",
}
#: What the guide's guests have that partitioning leaves to their owner.
_GUEST = """\
<domain type='{kind}'>
  <name>hana</name>
  <memory unit='KiB'>{memory_kib}</memory>
  <currentMemory unit='KiB'>{memory_kib}</currentMemory>
  <memoryBacking>
    <hugepages>
      <page size='1048576' unit='KiB'/>
    </hugepages>
    <nosharepages/>
  </memoryBacking>
  <vcpu placement='static'>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <features>
    <acpi/>
    <apic/>
{hints}  </features>
  <cpu mode='{mode}' check='none' migratable='on'>
    <cache mode='passthrough'/>
    <feature policy='require' name='rdtscp'/>
    <feature policy='require' name='invtsc'/>
    <feature policy='require' name='x2apic'/>
  </cpu>
  <devices/>
</domain>
"""
_HINTS = "    <kvm>\n      <hint-dedicated state='on'/>\n    </kvm>\n"
_KEPT = ("memory", "currentMemory", "memoryBacking", "vcpu", "features", "cpu/cache", "cpu/feature")


def guest(example: dict[str, Any], kind: str = "kvm", mode: str = "host-passthrough") -> str:
    """Return a guest of an example before its partition; another *mode* is for hosts without KVM.

    libvirt takes a cache that is passed through, and the hint, with host-passthrough alone.
    """
    memory_kib = sum(int(cell["memory"]) for cell in example["cells"])
    text = _GUEST.format(
        memory_kib=memory_kib,
        vcpus=example["vcpus"],
        kind=kind,
        mode=mode,
        hints=_HINTS if mode == "host-passthrough" else "",
    )
    if mode == "host-passthrough":
        return text
    return text.replace("    <cache mode='passthrough'/>\n", "")


def kept(xml: str) -> dict[str, list[bytes]]:
    """Return what the guide asks for, and partitioning leaves as it is."""
    root = etree.fromstring(xml)
    return {
        path: [etree.tostring(one, method="c14n2", strip_text=True) for one in root.findall(path)]
        for path in _KEPT
    }


def compare(xml: str, example: dict[str, Any]) -> None:
    """Compare a definition with an example of the guide, string by string."""
    root = etree.fromstring(xml)
    assert root.findtext("vcpu") == example["vcpus"]
    # The guide has what libvirt reports: one die where none is written. Newer ones add clusters.
    topology = {"dies": "1", **_attributes(root.find("cpu/topology"))}
    assert topology.pop("clusters", "1") == "1"
    assert topology == example["topology"]
    cells = [
        {
            **_attributes(cell),
            "distances": " ".join(one.get("value") for one in cell.iterfind("distances/sibling")),
        }
        for cell in root.iterfind("cpu/numa/cell")
    ]
    assert cells == example["cells"]
    for cell in root.iterfind("cpu/numa/cell"):
        siblings = [one.get("id") for one in cell.iterfind("distances/sibling")]
        assert siblings == [one["id"] for one in example["cells"]]
    _compare_pins(root, example)
    assert [_attributes(one) for one in root.iterfind("numatune/memnode")] == example["memnodes"]
    # One of its examples has this element and the others do not; here every guest has it.
    if example["memory"] is not None:
        assert _attributes(root.find("numatune/memory")) == example["memory"]


def _compare_pins(root: Any, example: dict[str, Any]) -> None:
    pins = {pin.get("vcpu"): pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")}
    assert {vcpu: pins[vcpu] for vcpu in example["pins"]} == example["pins"]
    # Those that it leaves out are made by its script: core after core, twice each.
    every = example["host"]["sockets"] * example["host"]["cores"]
    vcpus = range(int(example["vcpus"]))
    assert pins == {str(vcpu): f"{vcpu // 2},{vcpu // 2 + every}" for vcpu in vcpus}


def _attributes(element: Any) -> dict[str, str]:
    return dict(element.attrib)
