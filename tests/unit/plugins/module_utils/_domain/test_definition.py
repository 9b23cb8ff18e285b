# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading definitions: libvirt's own rules, and a guest's name in every refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain import (
    definition as definition_module,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    pci_devices,
    read_definition,
    read_guest,
    secrets,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import (
    lost_elements,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.state import (
    managed_text,
    read_state,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.units import memory_kib
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import MemoryDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from lxml import etree
from planning import partitioned_text

HostOf = Callable[[str], Host]


def _domain(inside: str = "", vcpu: str = "<vcpu>16</vcpu>", memory: str = "") -> str:
    return (
        "<domain type='kvm'><name>anuma</name><uuid>3f439f5f-1156-4d48-9491-945a2c0abc6d</uuid>"
        f"{memory or '<memory>16777216</memory>'}{vcpu}<os><type arch='x86_64'>hvm</type></os>"
        f"{inside}</domain>"
    )


def _edit(text: str, host: Host, **options: Any) -> str:
    definition = read_definition(text)
    policy = policy_from_options(options)
    return partitioned_text(definition, plan(read_guest(definition, 2048), host, policy), policy)


@pytest.mark.parametrize(
    ("unit", "kib"),
    [
        # What libvirt 9.0 makes of 1048576 of them, and its schema's "unit" accepts.
        ("b", 1024),
        ("B", 1024),
        ("byte", 1024),
        ("bytes", 1024),
        ("Bytes", 1024),
        ("k", 1 << 20),
        ("K", 1 << 20),
        ("kib", 1 << 20),
        ("KiB", 1 << 20),
        ("KIB", 1 << 20),
        ("KB", 1024000),
        ("kb", 1024000),
        ("mb", 1024000000),
        ("MB", 1024000000),
        ("m", 1 << 30),
        ("MiB", 1 << 30),
        ("g", 1 << 40),
        ("GIB", 1 << 40),
        ("TiB", 1 << 50),
    ],
)
def test_units_in_any_case(unit: str, kib: int) -> None:
    """libvirt does not mind the case of a unit."""
    element = etree.Element("memory", unit=unit)
    element.text = "1048576"
    assert memory_kib(element) == kib


@pytest.mark.parametrize("unit", ["ki", "kibi", "iB", "KiBs", "Z", "kk", " KiB", "%"])
def test_units_that_are_none(unit: str) -> None:
    """The unit is quoted."""
    element = etree.Element("memory", unit=unit)
    element.text = "1"
    with pytest.raises(VnumaError) as raised:
        memory_kib(element)
    assert (
        f"<memory> has the unknown unit '{unit}'; use one of libvirt's, such as KiB or GiB."
        in str(raised.value)
    )


@pytest.mark.parametrize(
    ("size", "unit", "kib"),
    [("0", "KiB", 0), ("1", "b", 1), ("1024", "b", 1), ("1025", "b", 2), (" 7\n", "KiB", 7)],
)
def test_sizes_are_rounded_up(size: str, unit: str, kib: int) -> None:
    """A begun KiB is a whole one."""
    element = etree.Element("memory", unit=unit)
    element.text = size
    assert memory_kib(element) == kib


@pytest.mark.parametrize("size", ["", "-1", "1.5", "1e3", "0x10", "many", "9" * 5000])
def test_sizes_that_are_none(size: str) -> None:
    """One sentence, whatever stands there."""
    element = etree.Element("memory")
    element.text = size
    with pytest.raises(VnumaError) as raised:
        memory_kib(element)
    assert str(raised.value).startswith(
        "<memory> must be a size from 0 to 9007199254740991 KiB, not '"
    )


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [
        (
            "<cputune><vcpupin cpuset='0'/></cputune>",
            "<vcpupin> vcpu must be an integer from 0 to 65535, not 'None'",
        ),
        ("<cputune><vcpupin vcpu='0'/></cputune>", "'' is not a set of numbers"),
        ("<cputune><emulatorpin/></cputune>", "'' is not a set of numbers"),
        (
            "<cputune><iothreadpin cpuset='0'/></cputune>",
            "<iothreadpin> iothread must be an integer from 0 to 4294967295, not 'None'",
        ),
        ("<numatune><memory nodeset='x'/></numatune>", "'x' is not a set of numbers"),
        (
            "<numatune><memnode cellid='x' nodeset='0'/></numatune>",
            "cellid must be an integer from 0 to 127, not 'x'",
        ),
        (
            "<cpu><topology sockets='two'/></cpu>",
            "topology sockets must be an integer from 1 to 65535, not 'two'",
        ),
        (
            "<cpu><numa><cell cpus='x' memory='9999999'/></numa></cpu>",
            "'x' is not a set of numbers",
        ),
        (
            "<cpu><numa><cell cpus='0-15'/></numa></cpu>",
            "<cell> must be a size from 0 to 9007199254740991 KiB, not ''",
        ),
        (
            "<cpu><numa><cell id='x' memory='1'/></numa></cpu>",
            "cell id must be an integer from 0 to 127, not 'x'",
        ),
        (
            "<cpu><numa><cell cpus='0' memory='16777216'><distances><sibling id='0' value='x'/>"
            "</distances></cell></numa></cpu>",
            "distance must be an integer from 0 to 255, not 'x'",
        ),
        (
            "<cpu><numa><cell cpus='0' memory='16777216'><distances><sibling value='10'/>"
            "</distances></cell></numa></cpu>",
            "sibling id must be an integer from 0 to 127, not 'None'",
        ),
        (
            "<memoryBacking><hugepages><page size='2048' nodeset='x'/></hugepages></memoryBacking>",
            "'x' is not a set of numbers",
        ),
        (
            "<memoryBacking><hugepages><page nodeset='0'/></hugepages></memoryBacking>",
            "<page> must be a size from 1 to 9007199254740991 KiB, not ''",
        ),
        ("<iothreads>x</iothreads>", "<iothreads> must be an integer from 0 to 16384, not 'x'"),
        (
            "<iothreadids><iothread/></iothreadids>",
            "iothread id must be an integer from 1 to 4294967295, not 'None'",
        ),
        (
            "<vcpus><vcpu enabled='yes'/></vcpus>",
            "vcpu id must be an integer from 0 to 15, not 'None'",
        ),
        (
            "<devices><memory><target><size>x</size></target></memory></devices>",
            "<size> must be a size from 0 to 9007199254740991 KiB, not 'x';",
        ),
        (
            "<devices><memory><target><size unit='GiB'>16</size></target></memory></devices>",
            "<memory> is 16777216 KiB, of which its memory devices have 16777216 KiB; none",
        ),
    ],
)
def test_what_cannot_be_read_names_the_guest(host: HostOf, inside: str, sentence: str) -> None:
    """Whatever is wrong, one line, led by the guest's name."""
    with pytest.raises(VnumaError) as raised:
        _edit(_domain(inside), host("rfc-8n240c"), memory_mode="none")
    said = str(raised.value)
    assert sentence in said
    assert said.startswith("guest anuma: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("vcpu", "sentence"),
    [
        ("", "the definition has no <vcpu> or no <memory>; add what is missing."),
        (
            "<vcpu/>",
            "<vcpu> must be an integer from 1 to 65535, not 'None'; correct its definition.",
        ),
        (
            "<vcpu>-1</vcpu>",
            "<vcpu> must be an integer from 1 to 65535, not '-1'; correct its definition.",
        ),
        (
            "<vcpu>0</vcpu>",
            "<vcpu> must be an integer from 1 to 65535, not '0'; correct its definition.",
        ),
        (
            "<vcpu current='x'>2</vcpu>",
            "<vcpu current> must be an integer from 0 to 2, not 'x'; correct its definition.",
        ),
    ],
)
def test_vcpus_that_are_none(vcpu: str, sentence: str) -> None:
    """A guest without vCPUs cannot be planned for."""
    with pytest.raises(VnumaError) as raised:
        read_guest(read_definition(_domain(vcpu=vcpu)), 2048)
    assert str(raised.value) == f"guest anuma: {sentence}"


def _cells(count: int) -> str:
    cells = "<cell memory='131072'/>" * count
    return f"<cpu><numa>{cells}</numa></cpu>"


@pytest.mark.parametrize(
    ("taken", "refused", "sentence"),
    [
        (
            "<iothreads>16384</iothreads>",
            "<iothreads>300000000</iothreads>",
            "<iothreads> must be an integer from 0 to 16384, not '300000000'; correct its",
        ),
        (
            "<iothreadids><iothread id='4294967295'/></iothreadids>",
            "<iothreadids><iothread id='0'/></iothreadids>",
            "iothread id must be an integer from 1 to 4294967295, not '0'; correct its",
        ),
        (
            "<vcpus><vcpu id='15' enabled='yes'/></vcpus>",
            "<vcpus><vcpu id='16' enabled='yes'/></vcpus>",
            "vcpu id must be an integer from 0 to 15, not '16'; correct its definition.",
        ),
        (
            "<memoryBacking><hugepages><page size='1'/></hugepages></memoryBacking>",
            "<memoryBacking><hugepages><page size='0'/></hugepages></memoryBacking>",
            "<page> must be a size from 1 to 9007199254740991 KiB, not '0'; correct its",
        ),
        (
            "<maxMemory unit='EiB'>7</maxMemory>",
            "<maxMemory unit='EiB'>8</maxMemory>",
            "<maxMemory> must be a size from 0 to 9007199254740991 KiB, not '8 EiB'; correct its",
        ),
        (
            "<cpu><topology sockets='257' cores='255' threads='1'/></cpu>",
            "<cpu><topology sockets='256' cores='256' threads='1'/></cpu>",
            "its CPU topology is for 65536 vCPUs, and a guest has at most 65535; correct its",
        ),
        (
            "<cpu><topology sockets='1' dies='1' cores='1' threads='1'/></cpu>",
            "<cpu><topology sockets='1' dies='0' cores='1' threads='1'/></cpu>",
            "topology dies must be an integer from 1 to 65535, not '0'; correct its definition.",
        ),
        (
            _cells(128),
            _cells(129),
            "<numa> has 129 cells, and QEMU starts a guest with at most 128; correct its",
        ),
    ],
)
def test_numbers_are_held_against_what_libvirt_takes(
    taken: str, refused: str, sentence: str
) -> None:
    """One that is too large is refused, with the guest, the number and the limit."""
    assert read_guest(read_definition(_domain(taken)), 2048).vcpus == 16
    with pytest.raises(VnumaError) as raised:
        read_guest(read_definition(_domain(refused)), 2048)
    assert str(raised.value).startswith(f"guest anuma: {sentence}")


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("domain='0x0000' bus='0xff' slot='0x1f' function='0x7'", ""),
        ("bus='3b'", ""),
        ("bus='0x100'", "bus of a PCI device must be a hexadecimal number of at most 0xff, not"),
        ("slot='0x20'", "slot of a PCI device must be a hexadecimal number of at most 0x1f, not"),
        ("function='8'", "function of a PCI device must be a hexadecimal number of at most 0x7"),
        ("bus='-1'", "bus of a PCI device must be a hexadecimal number of at most 0xff, not '-1';"),
        ("domain='1_0'", "domain of a PCI device must be a hexadecimal number of at most"),
    ],
)
def test_pci_addresses(address: str, refused: str) -> None:
    """Those that libvirt takes have a node device."""
    hostdev = f"<hostdev type='pci'><source><address {address}/></source></hostdev>"
    definition = read_definition(_domain(f"<devices>{hostdev}</devices>"))
    if not refused:
        assert len(pci_devices(definition)) == 1
        return
    with pytest.raises(VnumaError) as raised:
        pci_devices(definition)
    assert str(raised.value).startswith(f"guest anuma: the {refused}")


@pytest.mark.parametrize(
    ("vcpus", "refused"), [("65535", False), ("65536", True), ("4294967295", True)]
)
def test_more_vcpus_than_libvirt_takes(vcpus: str, refused: bool) -> None:
    """What is over the ceiling of libvirt's schema is refused before it eats the memory."""
    definition = read_definition(_domain(vcpu=f"<vcpu current='1'>{vcpus}</vcpu>"))
    if not refused:
        assert read_guest(definition, 2048).vcpus == int(vcpus)
        return
    with pytest.raises(VnumaError) as raised:
        read_guest(definition, 2048)
    assert vcpus in str(raised.value)
    assert str(raised.value).startswith("guest anuma: ")


@pytest.mark.parametrize(
    ("inside", "vcpu", "online"),
    [
        ("", "<vcpu>4</vcpu>", (0, 1, 2, 3)),
        ("", "<vcpu current='2'>4</vcpu>", (0, 1)),
        ("", "<vcpu placement='static' current='4'>4</vcpu>", (0, 1, 2, 3)),
        (
            "<vcpus><vcpu id='2' enabled='yes' hotpluggable='yes'/><vcpu id='1' enabled='no'/>"
            "<vcpu id='0' enabled='yes' hotpluggable='no'/></vcpus>",
            "<vcpu current='2'>4</vcpu>",
            (0, 2),
        ),
    ],
)
def test_online_vcpus(inside: str, vcpu: str, online: tuple[int, ...]) -> None:
    """From <vcpus> where it is there, else the first ones."""
    guest = read_guest(read_definition(_domain(inside, vcpu)), 2048)
    assert guest.online_vcpus == online
    assert guest.vcpus == 4


@pytest.mark.parametrize(
    ("inside", "memory", "kib"),
    [
        ("", "<memory>1000001</memory>", 1000001),
        ("", "<memory unit='MiB'>3</memory>", 3072),
        ("", "<memory unit='b'>3073</memory>", 4),
        (
            "<devices><memory model='dimm'><target><size unit='MiB'>1</size></target></memory>"
            "<memory model='nvdimm'><target><size unit='KiB'>1024</size></target></memory>"
            "</devices>",
            "<memory unit='MiB'>6</memory>",
            4096,
        ),
        (
            "<cpu><numa><cell cpus='0' memory='1' unit='GiB'/><cell cpus='1' memory='1024'/>"
            "</numa></cpu>",
            "<memory unit='GiB'>64</memory>",
            (1 << 20) + 1024,
        ),
        (
            "<cpu><numa><cell cpus='0' memory='1' unit='GiB'/></numa></cpu>"
            "<devices><memory><target><size unit='MiB'>1</size></target></memory></devices>",
            "<memory>1</memory>",
            1 << 20,
        ),
    ],
)
def test_memory_that_cells_share(inside: str, memory: str, kib: int) -> None:
    """<memory> without devices; what cells say where there are cells."""
    assert read_guest(read_definition(_domain(inside, memory=memory)), 2048).memory_kib == kib


@pytest.mark.parametrize(
    ("inside", "ids"),
    [
        ("", ()),
        ("<iothreads>3</iothreads>", (1, 2, 3)),
        ("<iothreads>2</iothreads><iothreadids><iothread id='7'/></iothreadids>", (1, 7)),
        ("<iothreadids><iothread id='7'/><iothread id='2'/></iothreadids>", (2, 7)),
        ("<iothreads>1</iothreads><iothreadids><iothread id='4'/></iothreadids>", (4,)),
    ],
)
def test_iothread_ids(inside: str, ids: tuple[int, ...]) -> None:
    """Named ones, and the lowest free ids for the rest, as libvirt gives them."""
    assert read_guest(read_definition(_domain(inside)), 2048).iothread_ids == ids


@pytest.mark.parametrize(
    ("feature", "has"),
    [
        ("<feature name='topoext' policy='require'/>", True),
        ("<feature name='topoext'/>", True),
        ("<feature name='topoext' policy='disable'/>", False),
        ("<feature name='topoext' policy='forbid'/>", False),
        ("<feature name='vmx' policy='require'/>", False),
        ("", False),
    ],
)
def test_topoext(feature: str, has: bool) -> None:
    """Asked for, or not."""
    inside = f"<cpu mode='host-passthrough'>{feature}</cpu>"
    guest = read_guest(read_definition(_domain(inside)), 2048)
    assert (guest.has_topoext, guest.cpu_mode) == (has, "host-passthrough")


def test_what_machine_it_has() -> None:
    """Type, model and ACPI, which decide what its kernel sees."""
    inside = "<features><acpi/></features><cpu mode='custom'><model>EPYC</model></cpu>"
    guest = read_guest(read_definition(_domain(inside)), 2048)
    assert (guest.kind, guest.arch, guest.cpu_model, guest.has_acpi) == (
        *("kvm", "x86_64", "EPYC"),
        True,
    )
    bare = read_guest(read_definition(_domain("<features><apic/></features>")), 2048)
    assert (bare.cpu_model, bare.has_acpi) == ("", False)


def test_memory_devices() -> None:
    """Where they are plugged in, and how large; other devices have memory of another kind."""
    device = (
        "<memory model='{}'>{}<target><size unit='MiB'>512</size><node>{}</node></target></memory>"
    )
    inside = "".join(
        device.format(model, source, node)
        for model, source, node in (
            *(("dimm", "", 1), ("nvdimm", "<source><path>/a</path></source>", 0)),
            ("dimm", "<source><pagesize unit='KiB'>4</pagesize></source>", 2),
            ("virtio-mem", "", 0),
            ("dimm", "<source><nodemask>3-4</nodemask></source>", 0),
        )
    )
    guest = read_guest(read_definition(_domain(f"<devices>{inside}</devices>")), 2048)
    assert guest.memory_devices == (
        MemoryDevice(1, 524288),
        MemoryDevice(2, 524288, 4),
        MemoryDevice(0, 524288),
        MemoryDevice(0, 524288, None, (3, 4)),
    )


@pytest.mark.parametrize(
    "tag", ["vcpu", "vcpus", "memory", "cputune", "numatune", "cpu", "metadata", "memoryBacking"]
)
def test_twice_is_too_often(host: HostOf, tag: str) -> None:
    """libvirt reads some elements in the first place, and others in every place."""
    text = _domain(f"<{tag}/>" if tag in ("vcpu", "memory") else f"<{tag}/><{tag}/>")
    with pytest.raises(VnumaError) as raised:
        _edit(text, host("rfc-8n240c"))
    assert str(raised.value) == f"guest anuma: the definition has <{tag}> twice; keep one."


@pytest.mark.parametrize(
    ("path", "one", "other", "same"),
    [
        ("cputune", "<vcpupin vcpu='0' cpuset='0,1'/>", "<vcpupin vcpu='0' cpuset='0-1'/>", True),
        ("cputune", "<vcpupin vcpu='0' cpuset='0'/>", "", False),
        ("cputune", "<emulatorpin cpuset='0'/>", "<emulatorpin cpuset='1'/>", False),
        ("cputune", "<shares>1</shares>", "", True),
        ("numatune", "<memory nodeset='0'/>", "<memory placement='static' nodeset='0'/>", True),
        ("numatune", "<memory nodeset='0'/>", "<memory mode='strict' nodeset='0'/>", True),
        ("numatune", "<memory nodeset='0'/>", "<memory mode='preferred' nodeset='0'/>", False),
        ("numatune", "<memory/>", "<memory mode='strict' placement='auto'/>", True),
        ("cpu", "<topology cores='8'/>", "<topology dies='1' clusters='1' cores='8'/>", True),
        ("cpu", "<topology dies='2' cores='8'/>", "<topology sockets='2' cores='8'/>", False),
        (
            "cpu/numa",
            "<cell cpus='0-15' memory='16' unit='GiB'/>",
            "<cell id='0' cpus='0-15' memory='16777216'/>",
            True,
        ),
        (
            "cpu/numa",
            "<cell cpus='0-7' memory='1'/><cell cpus='8-15' memory='2'/>",
            "<cell id='1' cpus='8-15' memory='2'/><cell id='0' cpus='0-7' memory='1'/>",
            True,
        ),
        (
            "cpu/numa",
            "<cell cpus='0-15' memory='1'/>",
            "<cell cpus='0-15' memory='1' memAccess='shared'/>",
            False,
        ),
        ("", "<cpu mode='host-model'/>", "<cpu mode='host-model' check='partial'/>", True),
        ("", "<cpu mode='host-model'/>", "<cpu mode='host-passthrough'/>", True),
    ],
)
def test_meaning(path: str, one: str, other: str, same: bool) -> None:
    """libvirt's own defaults and spellings are no difference."""
    steps = [step for step in path.split("/") if step]
    opening = "".join(f"<{step}>" for step in steps)
    closing = "".join(f"</{step}>" for step in reversed(steps))
    left, right = (
        read_state(read_definition(_domain(opening + text + closing)).root) for text in (one, other)
    )
    assert (left == right) is same


def test_unmanaged_sees_every_loss() -> None:
    """Taking any attribute, text or element away shows."""
    text = _domain(
        "<cputune><shares>5</shares></cputune><cpu mode='custom'><feature name='vmx'/></cpu>"
        "<devices><disk><source file='/a'/></disk><disk><source file='/a'/></disk>"
        "<graphics type='vnc' passwd='x'/></devices>"
    )
    whole = read_definition(text)
    for old, new in (
        ("<shares>5</shares>", ""),
        ("<shares>5", "<shares>6"),
        (" name='vmx'", ""),
        ("<disk><source file='/a'/></disk>", ""),
        (" passwd='x'", ""),
    ):
        assert lost_elements(whole, read_definition(text.replace(old, new, 1))), old
    placed = read_definition(text.replace("<vcpu>", "<vcpu placement='auto'>"))
    assert not lost_elements(whole, placed)


def test_the_diff_has_what_is_managed_and_nothing_else(host: HostOf) -> None:
    """No password, wherever it hides; no device, no command line."""
    secret = "hunter2"
    text = _domain(
        f"<cputune><shares>5</shares></cputune><devices><graphics type='vnc' passwd='{secret}'/>"
        f"<graphics type='spice' passwd='{secret}'/><disk><auth><secret usage='{secret}'/></auth>"
        f"</disk></devices><q:commandline xmlns:q='urn:q'><q:arg value='{secret}'/>"
        "</q:commandline>",
    ).replace("<memory>", f"<metadata><x xmlns='urn:x'>{secret}</x></metadata><memory>", 1)
    for definition in (text, _edit(text, host("rfc-8n240c"), emulator_pinning="nodes")):
        shown = managed_text(read_definition(definition).root)
        assert secret not in shown
        assert "anuma" in shown
        tags = {element.tag for element in etree.fromstring(shown).iter()}
        assert not tags & {"devices", "graphics", "shares", "memoryBacking", "os"}


@pytest.mark.parametrize(
    ("pages", "options", "fits"),
    [
        ("<page size='2048'/>", {}, True),
        ("", {}, True),
        ("<page size='2048' nodeset='0-7'/>", {}, True),
        ("<page size='2048' nodeset='0-7'/>", {"cells": 7}, False),
        ("<page size='2048' nodeset='0'/><page size='2048'/>", {"cells": 1}, True),
        ("<page size='2048' nodeset='1'/><page size='2048'/>", {"cells": 1}, False),
    ],
)
def test_hugepages_of_cells(host: HostOf, pages: str, options: dict[str, Any], fits: bool) -> None:
    """Pages for every cell, or for cells that will be there."""
    hugepages = f"<hugepages>{pages}</hugepages>" if pages else "<hugepages/>"
    inside = f"<memoryBacking>{hugepages}</memoryBacking>"
    text = _domain(inside, memory="<memory>14680064</memory>")
    options = {**options, "memory_mode": "none"}
    if fits:
        after = _edit(text, host("rfc-8n240c"), **options)
        assert inside in after
        assert _edit(after, host("rfc-8n240c"), **options) == after
        return
    with pytest.raises(VnumaError) as raised:
        _edit(text, host("rfc-8n240c"), **options)
    assert str(raised.value).startswith("guest anuma: its hugepages name cells '")


def test_what_decides_about_dies_and_sockets(host: HostOf) -> None:
    """The cache mode, the machine type, libosinfo's id, and what an earlier partition gave."""
    plain = read_guest(read_definition(_domain()), 2048)
    assert (plain.cache_mode, plain.machine, plain.os_id, plain.partition) == ("", "", "", None)
    text = _domain(
        "<metadata><o:libosinfo xmlns:o='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        "<o:os id='http://microsoft.com/win/11'/></o:libosinfo></metadata>"
        "<cpu mode='host-passthrough'><cache mode='disable'/></cpu>"
    ).replace("arch='x86_64'", "arch='x86_64' machine='pc-q35-2.7'")
    guest = read_guest(read_definition(text), 2048)
    assert (guest.cache_mode, guest.machine) == ("disable", "pc-q35-2.7")
    assert guest.os_id == "http://microsoft.com/win/11"
    again = read_guest(read_definition(_edit(text, host("rfc-8n240c"), nodes="0-1")), 2048)
    assert again.partition is not None
    assert again.partition.cells == (tuple(range(8)), tuple(range(8, 16)))
    assert again.partition.topology.sockets == 2
    spread = _edit(text, host("rfc-8n240c"), nodes="0", distribution="interleave")
    assert read_guest(read_definition(spread), 2048).partition is None


def test_secrets_of_qemus_own_command_line() -> None:
    """Values of its options and variables count; names of options do not, nor do short words."""
    text = (
        "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><devices>"
        "<graphics passwd='vncsecret'/></devices><q:commandline>"
        "<q:arg value='-object'/><q:arg value='secret,id=s0,data=CMDSECRET,format=raw'/>"
        '<q:arg value=\'{"qom-type": "secret", "data": "JSONSECRET", "x": true}\'/>'
        "<q:env name='TOKEN' value='ENVSECRET'/></q:commandline></domain>"
    )
    found = secrets(read_definition(text).root)
    assert {"vncsecret", "CMDSECRET", "JSONSECRET", "ENVSECRET"} <= found
    assert not found & {"-object", "s0", "raw", "id"}
    said = "qemu: -object secret,id=s0,data=CMDSECRET,format=raw: no"
    for secret in sorted(found, key=len, reverse=True):
        said = said.replace(secret, "********")
    assert said == "qemu: -object ********: no"


def test_the_record_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks for it many times a guest, and a definition may have much before it."""
    looked: list[object] = []

    def look(root: object) -> None:
        looked.append(root)

    monkeypatch.setattr(definition_module, "find_record", look)
    definition = read_definition(_domain())
    assert [definition.record, definition.record] == [None, None]
    assert looked == [definition.root]
