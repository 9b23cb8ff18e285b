# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of docs/rules.md as data: what is in a definition, and what a partition makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guests import KIND, PASSTHROUGH, anuma

GIB_KIB = 1 << 20
Edit = tuple[str, str]


@dataclass(frozen=True)
class Rule:
    """One row of the page.

    What is to be found is written as an element: one of its name, with at least its attributes,
    and with its text where it has one.

    Attributes:
        name: what the page calls it.
        edits: what is put into the RFC's guest, as (old, new).
        options: policy options.
        keeps: what has to be in the definition after the partition, as before it.
        writes: what has to be in it after the partition, and was not before.
        drops: what must not be in it any more.
        records: what its record has of it.
        refused: the sentence, where it is refused.
        warns: the sentence of a warning.
        since: the libvirt that first knew the element (its formatdomain.html); empty where that is
            older than any that the tests meet.
    """

    name: str
    edits: tuple[Edit, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    refused: str = ""
    warns: str = ""
    since: str = ""

    def definition(self, guest: str) -> str:
        """Return the RFC's guest with the edits made."""
        xml = anuma(guest)
        for old, new in self.edits:
            assert old in xml, (self.name, old)
            xml = xml.replace(old, new, 1)
        return xml


def _cpu(content: str) -> Edit:
    return (PASSTHROUGH, f"{PASSTHROUGH.replace('/>', '>')}{content}</cpu>")


def _cells(*cells: str) -> Edit:
    return _cpu("<numa>" + "".join(f"<cell {cell}/>" for cell in cells) + "</numa>")


def _device(model: str, node: int, *, target: str = "", source: str = "") -> Edit:
    return (
        "</devices>",
        f"<memory model='{model}'>{source}<target><size unit='KiB'>524288</size>"
        f"<node>{node}</node>{target}</target></memory></devices>",
    )


def _add(content: str) -> Edit:
    return ("</devices>", f"{content}</devices>")


def _other_machine(arch: str, machine: str) -> tuple[Edit, ...]:
    """Return the edits that make it an emulated guest, without what PCs alone have."""
    return (
        (f"type='{KIND}'", "type='qemu'"),
        ("arch='x86_64' machine='q35'", f"arch='{arch}' machine='{machine}'"),
        ("qemu-system-x86_64", f"qemu-system-{arch}"),
        (PASSTHROUGH, ""),
        ("<acpi/>", ""),
        ("<apic/>", ""),
        ("<vmport state='off'/>", ""),
        ("<suspend-to-mem enabled='no'/>", ""),
        ("<suspend-to-disk enabled='no'/>", ""),
    )


def _before_os(content: str) -> Edit:
    return ("<os>", f"{content}<os>")


def _backing(content: str) -> Edit:
    return ("<vcpu", f"<memoryBacking>{content}</memoryBacking><vcpu")


def _bus(node: int) -> Edit:
    return _add(
        "<controller type='pci' index='1' model='pcie-expander-bus'><target busNr='180'>"
        f"<node>{node}</node></target></controller>"
    )


_MEMORY_KIB = 64 * GIB_KIB
ONE_CELL = _cells(f"id='0' cpus='0-15' memory='{_MEMORY_KIB}'")
SIXTEEN_CELLS = _cells(*(f"cpus='{vcpu}' memory='{4 * GIB_KIB}'" for vcpu in range(16)))
SLOTS = ("<memory", f"<maxMemory slots='16' unit='KiB'>{256 * GIB_KIB}</maxMemory><memory")
_EIGHTH = "memory='8388608' unit='KiB'"

RULES = (
    # Memory
    Rule(
        "memory device in a cell that stays",
        (ONE_CELL, SLOTS, _device("dimm", 0)),
        keeps=("<size unit='KiB'>524288</size>", "<node>0</node>"),
        writes=(f"<cell id='0' cpus='0-1' {_EIGHTH}/>", f"<cell id='7' cpus='14-15' {_EIGHTH}/>"),
    ),
    Rule(
        "memory device in a cell that would vanish",
        (SIXTEEN_CELLS, SLOTS, _device("dimm", 15)),
        refused="a memory device is in cell 15, and the guest will have cells 0 to 7; move it, or "
        "change "
        "cells.",
    ),
    Rule(
        "virtio-mem",
        (
            ONE_CELL,
            SLOTS,
            _device(
                "virtio-mem",
                0,
                target="<block unit='KiB'>2048</block><requested unit='KiB'>262144</requested>",
            ),
        ),
        keeps=("<requested unit='KiB'>262144</requested>",),
        writes=(f"<cell id='0' cpus='0-1' {_EIGHTH}/>",),
        since="7.9.0",
    ),
    Rule(
        "memory device with a nodemask of its own",
        (ONE_CELL, SLOTS, _device("dimm", 0, source="<source><nodemask>3</nodemask></source>")),
        keeps=("<nodemask>3</nodemask>",),
    ),
    Rule(
        "maxMemory",
        (ONE_CELL, SLOTS),
        keeps=(f"<maxMemory slots='16' unit='KiB'>{256 * GIB_KIB}</maxMemory>",),
    ),
    Rule(
        "currentMemory below memory",
        ((f"<currentMemory unit='KiB'>{_MEMORY_KIB}", "<currentMemory unit='KiB'>33554432"),),
        keeps=("<currentMemory unit='KiB'>33554432</currentMemory>",),
        writes=(f"<cell id='0' cpus='0-1' {_EIGHTH}/>",),
    ),
    Rule(
        "hugepages, pool too small",
        (_backing("<hugepages><page size='1' unit='GiB'/></hugepages>"),),
        refused="host node 0 has 0 hugepages of 1048576 KiB, and the guest's memory there needs 8; "
        "enlarge the node's pool, reduce the guest's memory, or exclude the node with nodes.",
    ),
    Rule(
        "hugepages that memory is no multiple of",
        (
            _backing("<hugepages><page size='1' unit='GiB'/></hugepages>"),
            (
                f"<memory unit='KiB'>{_MEMORY_KIB}</memory>\n  <currentMemory unit='KiB'>"
                f"{_MEMORY_KIB}",
                "<memory unit='KiB'>67109888</memory>\n  <currentMemory unit='KiB'>67109888",
            ),
        ),
        refused="67109888 KiB of memory is not a multiple of its hugepage of 1048576 KiB; set it "
        "to "
        "67108864 or 68157440 KiB.",
    ),
    Rule(
        "hugepages for cells that stay",
        (
            SIXTEEN_CELLS,
            _backing("<hugepages><page size='2048' unit='KiB' nodeset='0-7'/></hugepages>"),
        ),
        {"memory_mode": "none"},
        keeps=("<page size='2048' unit='KiB' nodeset='0-7'/>",),
    ),
    Rule(
        "hugepages for every cell by number",
        (
            _cells(
                f"cpus='0-7' memory='{32 * GIB_KIB}'",
                f"cpus='8-15' memory='{32 * GIB_KIB}'",
            ),
            _backing("<hugepages><page size='1' unit='GiB' nodeset='0-1'/></hugepages>"),
        ),
        {"memory_mode": "none"},
        refused="its hugepages cover cells 0-1 only, and cells 2-7 would have none; remove nodeset "
        "from <page> so that it covers every cell, or change cells.",
    ),
    Rule(
        "the ordinary page, named",
        (_backing("<hugepages><page size='4' unit='KiB'/></hugepages>"),),
        keeps=("<page size='4' unit='KiB'/>",),
        writes=(f"<cell id='0' cpus='0-1' {_EIGHTH}/>",),
    ),
    Rule(
        "hugepages for cells that would vanish",
        (
            SIXTEEN_CELLS,
            _backing("<hugepages><page size='2048' unit='KiB' nodeset='0,9'/></hugepages>"),
        ),
        {"memory_mode": "none"},
        refused="its hugepages name cells '0,9', and the guest will have cells 0 to 7; change the "
        "nodeset "
        "of <page>, or cells.",
    ),
    Rule(
        "memoryBacking other than hugepages",
        (
            _backing(
                "<nosharepages/><locked/><source type='memfd'/><access mode='shared'/>"
                "<allocation mode='immediate'/><discard/>"
            ),
        ),
        keeps=(
            "<nosharepages/>",
            "<locked/>",
            "<source type='memfd'/>",
            "<access mode='shared'/>",
            "<allocation mode='immediate'/>",
            "<discard/>",
        ),
    ),
    Rule(
        "numatune by hand",
        (_before_os("<numatune><memory mode='preferred' nodeset='3'/></numatune>"),),
        writes=(
            "<memory mode='strict' nodeset='0-7'/>",
            "<memnode cellid='3' mode='strict' nodeset='3'/>",
        ),
        drops=("<memory mode='preferred' nodeset='3'/>",),
        records=("<memory mode='preferred' nodeset='3'/>",),
    ),
    Rule(
        "numatune by hand, memory_mode none",
        (_before_os("<numatune><memory mode='strict' nodeset='3'/></numatune>"),),
        {"memory_mode": "none"},
        drops=("<memory mode='strict' nodeset='3'/>", "<memnode/>"),
    ),
    Rule(
        "more memory than the nodes have",
        (
            (
                f"<memory unit='KiB'>{_MEMORY_KIB}</memory>\n  <currentMemory unit='KiB'>"
                f"{_MEMORY_KIB}",
                "<memory unit='KiB'>1099511627776</memory>\n  <currentMemory unit='KiB'>1048576",
            ),
        ),
        {"nodes": "0"},
        keeps=("<memory unit='KiB'>1099511627776</memory>",),
        warns="1099511627776 KiB of its memory would be bound to host node 0, which has 134217728 "
        "KiB "
        "in total; reduce its memory, use more nodes, or set memory_mode to 'preferred'.",
    ),
    # vCPUs
    Rule(
        "vcpu current",
        (("<vcpu ", "<vcpu current='8' "),),
        keeps=("<vcpu placement='static' current='8'>16</vcpu>",),
        writes=("<cell id='7' cpus='14-15'/>",),
        warns="cells 4-7 have no vCPU at boot, because only 8 of 16 vCPUs are online; set "
        "distribution to 'interleave' to spread them.",
    ),
    Rule(
        "vcpus one by one",
        (
            ("<vcpu ", "<vcpu current='8' "),
            (
                "</vcpu>",
                "</vcpu><vcpus>"
                + "".join(
                    f"<vcpu id='{vcpu}' enabled='{'no' if vcpu % 2 else 'yes'}' "
                    f"hotpluggable='{'yes' if vcpu else 'no'}'/>"
                    for vcpu in range(16)
                )
                + "</vcpus>",
            ),
        ),
        keeps=("<vcpu id='15' enabled='no' hotpluggable='yes'/>",),
        writes=("<cell id='7' cpus='14-15'/>",),
    ),
    Rule(
        "placement auto",
        (("placement='static'", "placement='auto'"),),
        writes=("<vcpu placement='static'>16</vcpu>", "<memory mode='strict' nodeset='0-7'/>"),
        drops=("<vcpu placement='auto'>16</vcpu>", "<memory mode='strict' placement='auto'/>"),
    ),
    Rule(
        "vcpu cpuset",
        (("placement='static'", "placement='static' cpuset='0-3'"),),
        keeps=("<vcpu placement='static' cpuset='0-3'>16</vcpu>",),
        writes=("<vcpupin vcpu='15' cpuset='105-119,225-239'/>",),
    ),
    Rule(
        "pins by hand",
        (_before_os("<cputune><vcpupin vcpu='0' cpuset='239'/></cputune>"),),
        writes=("<vcpupin vcpu='0' cpuset='0-14,120-134'/>",),
        records=("<vcpupin vcpu='0' cpuset='239'/>",),
        drops=("<vcpupin vcpu='0' cpuset='239'/>",),
    ),
    Rule(
        "pins by hand, pinning none",
        (_before_os("<cputune><vcpupin vcpu='0' cpuset='239'/></cputune>"),),
        {"pinning": "none"},
        drops=("<vcpupin vcpu='0' cpuset='239'/>",),
    ),
    Rule(
        "cputune other than pins",
        (
            _before_os(
                "<iothreads>1</iothreads><cputune><shares>1024</shares><period>100000</period>"
                "<quota>50000</quota><emulatorpin cpuset='3'/>"
                "<iothreadpin iothread='1' cpuset='5'/>"
                "<vcpusched vcpus='0-3' scheduler='fifo' priority='1'/>"
                "<iothreadsched iothreads='1' scheduler='batch'/></cputune>"
            ),
        ),
        keeps=(
            "<shares>1024</shares>",
            "<period>100000</period>",
            "<quota>50000</quota>",
            "<emulatorpin cpuset='3'/>",
            "<iothreadpin iothread='1' cpuset='5'/>",
            "<vcpusched/>",
            "<iothreadsched iothreads='1' scheduler='batch'/>",
        ),
        writes=("<vcpupin vcpu='0' cpuset='0-14,120-134'/>",),
    ),
    Rule(
        "cachetune and memorytune",
        (
            _before_os(
                "<cputune><cachetune vcpus='0-3'><cache id='0' level='3' type='both' size='3' "
                "unit='MiB'/></cachetune><memorytune vcpus='4-7'><node id='0' bandwidth='60'/>"
                "</memorytune></cputune>"
            ),
        ),
        keeps=("<cachetune vcpus='0-3'/>", "<memorytune vcpus='4-7'/>"),
    ),
    Rule(
        "emulator pin, asked for",
        (_before_os("<cputune><emulatorpin cpuset='3'/></cputune>"),),
        {"emulator_pinning": "nodes", "nodes": "0-1"},
        writes=("<emulatorpin cpuset='0-29,120-149'/>",),
        records=("<emulatorpin cpuset='3'/>",),
        drops=("<emulatorpin cpuset='3'/>",),
    ),
    Rule(
        "iothreads",
        (_before_os("<iothreads>2</iothreads>"),),
        keeps=("<iothreads>2</iothreads>",),
        drops=("<iothreadpin/>",),
    ),
    Rule(
        "iothreads, pins asked for",
        (
            _before_os(
                "<iothreads>2</iothreads><iothreadids><iothread id='3'/><iothread id='7'/>"
                "</iothreadids>"
            ),
        ),
        {"iothread_pinning": "nodes", "nodes": "0-1"},
        keeps=("<iothread id='7'/>",),
        writes=(
            "<iothreadpin iothread='3' cpuset='0-14,120-134'/>",
            "<iothreadpin iothread='7' cpuset='15-29,135-149'/>",
        ),
    ),
    # CPU and cells
    Rule(
        "topology by hand",
        (_cpu("<topology sockets='2' dies='2' cores='2' threads='2'/>"),),
        writes=("<topology sockets='8' dies='1' cores='1' threads='2'/>",),
        drops=("<topology sockets='2' dies='2' cores='2' threads='2'/>",),
    ),
    Rule(
        "cpu cache and features",
        (_cpu("<cache mode='passthrough'/><feature policy='require' name='topoext'/>"),),
        keeps=("<cache mode='passthrough'/>", "<feature policy='require' name='topoext'/>"),
    ),
    Rule(
        "no ACPI",
        (("<acpi/>", ""),),
        keeps=("<apic/>",),
        drops=("<acpi/>",),
        warns="it has no ACPI, so its kernel sees no distances and may see a single cell; add "
        "<acpi/> to its <features>.",
    ),
    Rule(
        "cells by hand",
        (
            _cells(
                f"cpus='0-7' memory='{60 * GIB_KIB}'",
                f"cpus='8-15' memory='{4 * GIB_KIB}'",
            ),
        ),
        {"cells": 2},
        writes=("<cell id='0' cpus='0-7' memory='33554432' unit='KiB'/>",),
        drops=(f"<cell memory='{60 * GIB_KIB}' unit='KiB'/>",),
    ),
    Rule(
        "cell without vCPUs",
        (_cells("cpus='0-15' memory='33554432'", "memory='33554432'"),),
        writes=(f"<cell id='1' cpus='2-3' {_EIGHTH}/>",),
        drops=("<cell id='1' memory='33554432' unit='KiB'/>",),
    ),
    Rule(
        "memAccess and discard, the same in every cell",
        (_cells(f"cpus='0-15' memory='{_MEMORY_KIB}' memAccess='shared' discard='yes'"),),
        writes=(f"<cell id='7' cpus='14-15' {_EIGHTH} memAccess='shared' discard='yes'/>",),
    ),
    Rule(
        "memAccess that differs",
        (
            _cells(
                f"cpus='0-7' memory='{GIB_KIB}' memAccess='shared'",
                f"cpus='8-15' memory='{GIB_KIB}' memAccess='private'",
            ),
        ),
        refused="its cells have different memAccess values, which new cells cannot keep; set the "
        "same value for every cell.",
    ),
    Rule(
        "HMAT caches",
        (
            _cpu(
                f"<numa><cell id='0' cpus='0-15' memory='{GIB_KIB}'><cache level='1' "
                "associativity='direct' policy='writeback'><size value='10' unit='KiB'/>"
                "<line value='8' unit='B'/></cache></cell></numa>"
            ),
        ),
        refused="its cells have <cache> (HMAT), which new cells would lose; remove it with 'virsh "
        "edit', or exclude the guest.",
    ),
    Rule(
        "HMAT interconnects",
        (
            _cpu(
                f"<numa><cell id='0' cpus='0-15' memory='{GIB_KIB}'/><interconnects><latency "
                "initiator='0' target='0' type='access' value='5'/></interconnects></numa>"
            ),
        ),
        refused="its cells have <interconnects> (HMAT), which new cells would lose; remove it with "
        "'virsh edit', or exclude the guest.",
    ),
    # Devices
    Rule(
        "PCI expander bus in a cell that stays",
        (SIXTEEN_CELLS, _bus(7)),
        keeps=("<node>7</node>",),
    ),
    Rule(
        "PCI expander bus in a cell that would vanish",
        (SIXTEEN_CELLS, _bus(15)),
        refused="a PCI expander bus is in cell 15, and the guest will have cells 0 to 7; move it, "
        "or "
        "change cells.",
    ),
    Rule(
        "host device",
        (
            _add(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address "
                "domain='0x0000' bus='0x05' slot='0x00' function='0x0'/></source></hostdev>"
            ),
        ),
        keeps=("<hostdev mode='subsystem' type='pci' managed='yes'/>",),
    ),
    Rule(
        "`-smp` or `-numa` in `qemu:commandline`",
        (
            ("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' "),
            (
                "</domain>",
                "<qemu:commandline><qemu:arg value='-smp'/><qemu:arg value='16,sockets=1'/>"
                "</qemu:commandline></domain>",
            ),
        ),
        refused="its <qemu:commandline> has '-smp', which conflicts with the guest NUMA cells; "
        "remove it, or exclude the guest.",
    ),
    Rule(
        "machine type without NUMA",
        _other_machine("ppc64", "powernv9"),
        refused="guests of machine type powernv9 cannot have cells: QEMU has no NUMA for them; set "
        "nodes to 'auto', which gives it no cells if it fits on one host node, or exclude the "
        "guest.",
    ),
    Rule(
        "threads, on ppc64 without KVM",
        (
            *_other_machine("ppc64", "pseries"),
            ("</devices>", "<memballoon model='none'/></devices>"),
        ),
        options={"nodes": "0-1", "distances": "none"},
        writes=("<topology sockets='2' cores='8' threads='1'/>",),
    ),
    Rule(
        "metadata of others",
        (("<memory", "<metadata><x:a xmlns:x='urn:x'>1</x:a></metadata><memory"),),
        keeps=("<x:a xmlns:x='urn:x'>1</x:a>",),
    ),
)
