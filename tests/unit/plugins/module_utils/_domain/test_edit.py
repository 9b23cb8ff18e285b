# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions: read, edited, restored, and what is left alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import (
    LivePin,
    live_pins,
    needs_restart,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
    secrets,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import (
    lost_elements,
    restored,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.state import (
    managed_text,
    read_state,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.units import memory_kib
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import HugepageUse
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from lxml import etree
from planning import partitioned_text, restored_text

HostOf = Callable[[str], Host]

PASSWORD = "s3cr3tvn"

DOMAIN = """\
<!-- edited by hand -->
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>rich</name>
  <uuid>3f439f5f-1156-4d48-9491-945a2c0abc6d</uuid>
  <title>Bob's "payroll"</title>
  <metadata>
    <app:owner xmlns:app='https://example.com/app/1'>
      <app:team name='db'>on call: 555 &amp; 556</app:team>
      <app:note><![CDATA[<!DOCTYPE html> is no doctype here]]></app:note>
    </app:owner>
  </metadata>
  <memory unit='KiB'>16777216</memory>
  <currentMemory unit='KiB'>8388608</currentMemory>
  <vcpu placement='static' cpuset='0-29'>16</vcpu>
  <iothreads>2</iothreads>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu='0' cpuset='0-3'/>
    <vcpupin vcpu='1' cpuset='4,6'/>
    <emulatorpin cpuset='0-1'/>
    <iothreadpin iothread='1' cpuset='5'/>
  </cputune>
  <numatune>
    <memory mode='preferred' nodeset='3'/>
  </numatune>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <features>
    <acpi/>
  </features>
  <cpu mode='custom' match='exact' check='partial'>
    <model fallback='allow'>Haswell</model>
    <vendor>Intel</vendor>
    <topology sockets='2' dies='1' cores='8' threads='1'/>
    <feature policy='disable' name='vmx'/>
  </cpu>
  <devices>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cr3tvn'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-name'/>
  </qemu:commandline>
</domain>
"""

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"distribution": "round_robin", "memory_mode": "none"},
    {"distribution": "interleave", "pinning": "none", "cells": 3},
    {"pinning": "core", "memory_mode": "preferred", "distances": "none"},
    {"emulator_pinning": "nodes", "iothread_pinning": "nodes"},
    {"memory_mode": "restrictive", "emulator_pinning": "0-1", "nodes": "0,3"},
)


def _edit(text: str, host: Host, **options: Any) -> str:
    definition = read_definition(text)
    policy = policy_from_options(options)
    layout = plan(read_guest(definition, host.hugepage_default_kib), host, policy)
    return partitioned_text(definition, layout, policy)


def _with(old: str, new: str) -> str:
    assert old in DOMAIN, old
    return DOMAIN.replace(old, new)


@pytest.mark.parametrize("options", POLICIES)
def test_edit_and_back(host: HostOf, options: dict[str, Any]) -> None:
    """Editing twice is editing once, and absent gives every byte back."""
    once = _edit(DOMAIN, host("rfc-8n240c"), **options)
    assert once != DOMAIN
    assert _edit(once, host("rfc-8n240c"), **options) == once
    assert restored_text(read_definition(once)) == DOMAIN


def test_any_sequence_of_policies_goes_back(host: HostOf) -> None:
    """What stood before the first partition comes back, whatever happened in between."""
    text = DOMAIN
    for options in (*POLICIES, *POLICIES[::-1]):
        text = _edit(text, host("rfc-8n240c"), **options)
        edited, whole = read_definition(text), read_definition(DOMAIN)
        assert lost_elements(edited, whole) == lost_elements(whole, edited) == []
        assert restored_text(read_definition(text)) == DOMAIN


def test_only_managed_lines_change(host: HostOf) -> None:
    """Line by line, nothing goes but what is managed."""
    after = _edit(DOMAIN, host("rfc-8n240c"))
    lines = difflib.ndiff(DOMAIN.splitlines(), after.splitlines())
    gone = [line[2:].strip() for line in lines if line.startswith("- ")]
    assert gone == [
        "<vcpupin vcpu='0' cpuset='0-3'/>",
        "<vcpupin vcpu='1' cpuset='4,6'/>",
        "<memory mode='preferred' nodeset='3'/>",
        "<topology sockets='2' dies='1' cores='8' threads='1'/>",
    ]


def test_emulator_and_iothread_pins_come_back_when_no_longer_asked_for(host: HostOf) -> None:
    """Their pins are managed only while the policy says so."""
    pinned = _edit(DOMAIN, host("rfc-8n240c"), emulator_pinning="nodes", iothread_pinning="nodes")
    root = read_definition(pinned).root
    assert root.find("cputune/emulatorpin").get("cpuset") == "0-239"
    assert [pin.get("iothread") for pin in root.iterfind("cputune/iothreadpin")] == ["1", "2"]
    back = read_definition(_edit(pinned, host("rfc-8n240c"))).root
    assert back.find("cputune/emulatorpin").get("cpuset") == "0-1"
    assert [dict(pin.attrib) for pin in back.iterfind("cputune/iothreadpin")] == [
        {"iothread": "1", "cpuset": "5"}
    ]
    by_hand = pinned.replace("<emulatorpin cpuset='0-239'/>", "<emulatorpin cpuset='7'/>")
    assert "cpuset='0-1'" in restored_text(read_definition(by_hand))


def test_emulator_pin_set_by_hand_later_is_what_comes_back(host: HostOf) -> None:
    """What stood before is what stood when the policy first asked."""
    first = _edit(DOMAIN, host("rfc-8n240c"))
    changed = first.replace("<emulatorpin cpuset='0-1'/>", "<emulatorpin cpuset='9'/>")
    pinned = _edit(changed, host("rfc-8n240c"), emulator_pinning="nodes")
    assert "<emulatorpin cpuset='9'/>" in _edit(pinned, host("rfc-8n240c"))
    assert restored_text(read_definition(pinned)) == DOMAIN.replace(
        "<emulatorpin cpuset='0-1'/>", "<emulatorpin cpuset='9'/>"
    )


@pytest.mark.parametrize("option", ["emulator_pinning", "iothread_pinning"])
def test_none_removes_pins_that_were_made_by_hand(host: HostOf, option: str) -> None:
    """Also in the running guest. Later they are back, when it is no longer asked for."""
    rfc = host("rfc-8n240c")
    tag = option.replace("_pinning", "pin")
    removed = _edit(DOMAIN, rfc, **{option: "none"})
    after = read_definition(removed)
    assert after.root.find(f"cputune/{tag}") is None
    assert _edit(removed, rfc, **{option: "none"}) == removed
    (pin,) = (
        one for one in live_pins(read_definition(DOMAIN), after, rfc) if one.field[0] == tag[0]
    )
    # The guest is confined to these.
    assert pin.cpus == tuple(range(30))
    assert read_definition(_edit(removed, rfc)).root.find(f"cputune/{tag}") is not None
    assert restored_text(after) == DOMAIN


def test_the_cpu_mode_is_its_owners(host: HostOf) -> None:
    """Mode, model and attributes are what the owner chose; a change of them is no loss."""
    cpu = read_definition(_edit(DOMAIN, host("rfc-8n240c"))).root.find("cpu")
    assert dict(cpu.attrib) == {"mode": "custom", "match": "exact", "check": "partial"}
    assert [child.tag for child in cpu] == ["model", "vendor", "topology", "feature", "numa"]
    before = read_definition(DOMAIN)
    other = read_definition(DOMAIN.replace("mode='custom' match='exact'", "mode='host-model'"))
    assert before.text != other.text
    assert lost_elements(before, other) == ["cpu"]


@pytest.mark.parametrize(
    ("mode", "whole", "cells"),
    [
        ("strict", ("strict", "0-7"), "strict"),
        ("restrictive", ("restrictive", "0-7"), "restrictive"),
        ("preferred", None, "preferred"),
        ("none", None, None),
    ],
)
def test_numatune(host: HostOf, mode: str, whole: Any, cells: str | None) -> None:
    """The cells' mode and nodes for the emulator too, where libvirt allows several nodes."""
    root = read_definition(_edit(DOMAIN, host("rfc-8n240c"), memory_mode=mode)).root
    memory = root.find("numatune/memory")
    assert (None if memory is None else (memory.get("mode"), memory.get("nodeset"))) == whole
    modes = {node.get("mode") for node in root.iterfind("numatune/memnode")}
    assert modes == ({cells} if cells else set())


def test_without_cpu_cputune_and_metadata(host: HostOf) -> None:
    """What is not there is made where libvirt has it, and taken away again."""
    bare = re.sub(r"  <(metadata|cputune|numatune|cpu)\b.*?</\1>\n", "", DOMAIN, flags=re.DOTALL)
    after = _edit(bare, host("rfc-8n240c"))
    order = [child.tag for child in read_definition(after).root if isinstance(child.tag, str)]
    for first, then in (
        *(("title", "metadata"), ("metadata", "memory"), ("iothreads", "cputune")),
        *(("cputune", "numatune"), ("numatune", "os"), ("features", "cpu"), ("cpu", "devices")),
    ):
        assert order.index(then) == order.index(first) + 1
    assert restored_text(read_definition(after)) == bare
    # libvirt gives a <cpu> without a mode its default; that goes with it.
    defaulted = after.replace("<cpu>", "<cpu mode='custom' match='exact' check='none'>")
    assert restored_text(read_definition(defaulted)) == bare


def test_placement(host: HostOf) -> None:
    """auto becomes static while the guest is partitioned."""
    auto = _with("placement='static' cpuset='0-29'", "placement='auto'")
    after = _edit(auto, host("rfc-8n240c"))
    assert "<vcpu placement='static'>16</vcpu>" in after
    assert restored_text(read_definition(after)) == auto


def test_shared_memory_of_cells_is_carried_over(host: HostOf) -> None:
    """Cells that share their memory with vhost-user go on doing so."""
    cells = "<numa><cell id='0' cpus='0-15' memory='16777216' memAccess='shared'/></numa></cpu>"
    text = _with("</cpu>", cells)
    after = _edit(text, host("rfc-8n240c"))
    assert after.count("memAccess='shared'") == 8 + 1
    assert _edit(after, host("rfc-8n240c")) == after
    back = read_definition(restored_text(read_definition(after))).root
    assert read_state(back) == read_definition(text).state


@pytest.mark.parametrize("kind", ["sev", "sev-snp", "s390-pv", "tdx", "unheard-of"])
@pytest.mark.parametrize("content", ["", "<cbitpos>47</cbitpos><policy>0x0003</policy>"])
def test_launch_security_is_kept(host: HostOf, kind: str, content: str) -> None:
    """Neither read nor changed: cells say nothing about how memory is encrypted."""
    element = f"<launchSecurity type='{kind}'>{content}</launchSecurity>".replace(
        "></launchSecurity>", "/>" if not content else "></launchSecurity>"
    )
    text = _with("</domain>", f"{element}</domain>")
    for options in POLICIES:
        after = _edit(text, host("rfc-8n240c"), **options)
        assert element in after
        assert restored_text(read_definition(after)) == text


@pytest.mark.parametrize(
    ("old", "new", "options", "sentence"),
    [
        (
            "</devices>",
            "<memory model='dimm'><target><size unit='KiB'>524288</size><node>3</node></target>"
            "</memory></devices>",
            {"cells": 2},
            "a memory device is in cell 3, and the guest will have cells 0 to 1;",
        ),
        (
            "<os>",
            "<memoryBacking><hugepages><page size='2' unit='MiB' nodeset='0,5'/></hugepages>"
            "</memoryBacking><os>",
            {"cells": 4, "memory_mode": "none"},
            "its hugepages name cells '0,5', and the guest will have cells 0 to 3;",
        ),
        (
            "</devices>",
            "<controller type='pci' model='pcie-expander-bus'><target busNr='1'><node>1</node>"
            "</target></controller></devices>",
            {"cells": 1},
            "a PCI expander bus is in cell 1, and the guest will have cell 0 only;",
        ),
        (
            "</cpu>",
            "<numa><cell cpus='0-7' memory='8388608' memAccess='shared'/>"
            "<cell cpus='8-15' memory='8388608'/></numa></cpu>",
            {},
            "its cells have different memAccess values, which new cells cannot keep;",
        ),
        (
            "</cpu>",
            "<numa><cell cpus='0-15' memory='16777216'/><interconnects/></numa></cpu>",
            {},
            "its cells have <interconnects> (HMAT), which new cells would lose;",
        ),
        (
            "<os>",
            "<memoryBacking><hugepages><page size='2' unit='MiB' nodeset='0'/></hugepages>"
            "</memoryBacking><os>",
            {"memory_mode": "none"},
            "its hugepages cover cell 0 only, and cells 1-7 would have none; remove nodeset from",
        ),
        (
            "</cpu>",
            "<numa><cell cpus='0-7' memory='8388608'/><cell cpus='8-15' memory='8388608'/></numa>"
            "</cpu><memoryBacking><hugepages><page size='2' unit='MiB' nodeset='1'/><page size='1'"
            " unit='G' nodeset='0'/></hugepages></memoryBacking>",
            {"memory_mode": "none", "cells": 4},
            "its hugepages cover cells 0-1 only, and cells 2-3 would have none; remove "
            "nodeset from",
        ),
        (
            "<qemu:arg value='-name'/>",
            "<qemu:arg value='-smp'/><qemu:arg value='16,sockets=1'/>",
            {},
            "its <qemu:commandline> has '-smp', which conflicts with the guest NUMA cells;",
        ),
        (
            "<qemu:arg value='-name'/>",
            "<qemu:arg value='--numa'/><qemu:arg value='node,nodeid=0'/>",
            {"cells": 1},
            "its <qemu:commandline> has '--numa', which conflicts with the guest NUMA cells;",
        ),
    ],
)
def test_misfits_are_refused(
    host: HostOf, old: str, new: str, options: dict[str, Any], sentence: str
) -> None:
    """What names a cell that would vanish, or would be lost, is refused by name."""
    with pytest.raises(VnumaError) as raised:
        _edit(_with(old, new), host("rfc-8n240c"), **options)
    assert str(raised.value).startswith("guest rich: ")
    assert sentence in str(raised.value)


def test_generic_initiators_are_refused(host: HostOf) -> None:
    """Cells that are there for a device alone would be replaced, and the device would name none."""
    device = "<hostdev mode='subsystem' type='pci'><acpi nodeset='8-15'/></hostdev></devices>"
    with pytest.raises(VnumaError) as raised:
        _edit(_with("</devices>", device), host("rfc-8n240c"))
    assert str(raised.value) == (
        "guest rich: a <hostdev> has cells of its own, <acpi nodeset='8-15'>, which new cells "
        "would replace; remove the nodeset, or exclude the guest."
    )


@pytest.mark.parametrize(
    ("cells", "pages"),
    [
        ("", "<page size='2048'/>"),
        ("", "<page size='2048' nodeset='0'/><page size='2048'/>"),
        # Some of it has ordinary pages already, and someone meant that.
        ("<cell cpus='0-7' memory='8388608'/><cell cpus='8-15' memory='8388608'/>",
         "<page size='2048' nodeset='1'/>"),
    ],
)  # fmt: skip
def test_hugepages_that_stay(host: HostOf, cells: str, pages: str) -> None:
    """Nobody loses pages that they had."""
    text = _with("</cpu>", f"<numa>{cells}</numa></cpu>" if cells else "</cpu>").replace(
        "<os>", f"<memoryBacking><hugepages>{pages}</hugepages></memoryBacking><os>"
    )
    after = _edit(text, host("rfc-8n240c"), memory_mode="none")
    assert pages in after
    back = read_definition(restored_text(read_definition(after))).root
    assert read_state(back) == read_definition(text).state


def test_cores_that_are_plugged_in_part(host: HostOf) -> None:
    """ppc64 plugs whole cores, x86 threads."""
    text = _with("arch='x86_64'", "arch='ppc64le'").replace("machine='q35'", "machine='pseries'")
    text = text.replace("cpuset='0-29'>16", "current='4'>64").replace(">16777216<", ">67108864<")
    with pytest.raises(VnumaError) as raised:
        _edit(text, host("edited-ppc64-16n"), cells=2)
    assert "vCPUs 0-7 would be one core with threads 8, and only 0-3 of them are online" in str(
        raised.value
    )
    _edit(text.replace("current='4'", "current='8'"), host("edited-ppc64-16n"), cells=2)
    _edit(_with("cpuset='0-29'>16", "current='3'>16"), host("rfc-8n240c"))


def test_outgrown_guests_are_not_restored(host: HostOf) -> None:
    """A CPU topology for another number of vCPUs would be refused by libvirt anyway."""
    grown = _edit(DOMAIN, host("rfc-8n240c")).replace(">16</vcpu>", ">32</vcpu>")
    with pytest.raises(VnumaError) as raised:
        restored_text(read_definition(grown))
    assert "it had a CPU topology for 16 vCPUs, and it has 32 now" in str(raised.value)


def test_damaged_records_are_not_guessed_at(host: HostOf) -> None:
    """Without what stood before there is nothing to restore."""
    text = re.sub(
        r"<vnuma:original.*</vnuma:original>", "", _edit(DOMAIN, host("rfc-8n240c")), flags=re.S
    )
    for step in (restored, lambda d: _edit(d.text, host("rfc-8n240c"), cells=2)):
        with pytest.raises(VnumaError) as raised:
            step(read_definition(text))
        assert "its record in <metadata> is damaged" in str(raised.value)


def test_quotes_and_declaration_are_kept(host: HostOf) -> None:
    """A text with double quotes and a declaration keeps both."""
    text = "<?xml version='1.0' encoding='utf-8'?>\n" + DOMAIN.replace("'", '"').replace(
        "Bob&apos;s", "Bob"
    )
    after = _edit(text, host("rfc-8n240c"))
    assert after.startswith("<?xml version='1.0' encoding='utf-8'?>\n<!-- edited")
    assert 'cpuset="0-14,120-134"' in after
    assert read_definition(restored_text(read_definition(after))).name == "rich"


def test_the_rfcs_switch(host: HostOf) -> None:
    """check='numa' is written as check='none', also where nothing else changes."""
    text = _with("check='partial'", "check='numa'")
    after = _edit(text, host("rfc-8n240c"))
    assert "check='none'" in after
    again = after.replace("check='none'", "check='numa'")
    assert _edit(again, host("rfc-8n240c")) == after


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE domain SYSTEM 'file:///etc/passwd'><domain/>",
        "<?xml version='1.0'?><!-- a --><!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
        "<domain><name>&x;</name></domain>",
        "\ufeff  <!DOCTYPE lolz [<!ENTITY lol 'lol'>"
        + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10))
        + "]><domain><name>&l9;</name></domain>",
    ],
)
def test_entities_are_refused(text: str) -> None:
    """External ones and billions of laughs alike, and nothing of the document is quoted."""
    with pytest.raises(VnumaError) as raised:
        read_definition(text)
    assert str(raised.value) == (
        "the domain definition has a document type declaration, which is not accepted; remove it."
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not well-formed XML"),
        ("<domain><graphics passwd='s3cr3tvn'></domain>", "not well-formed XML (line 1)"),
        ("<network/>", "must start with <domain>, not <network>."),
        ("<domain><name>&undefined;</name></domain>", "not well-formed XML"),
    ],
)
def test_what_is_no_definition(text: str, sentence: str) -> None:
    """One sentence, which quotes nothing that might be secret."""
    with pytest.raises(VnumaError) as raised:
        read_definition(text)
    assert sentence in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("<vcpu placement='static' cpuset='0-29'>16</vcpu>", "", "has no <vcpu> or no <memory>"),
        (
            ">16</vcpu>",
            ">0</vcpu>",
            "<vcpu> must be an integer from 1 to 65535, not '0'; correct its definition.",
        ),
        (
            ">16</vcpu>",
            ">many</vcpu>",
            "<vcpu> must be an integer from 1 to 65535, not 'many'; correct its definition.",
        ),
        (
            "<memory unit='KiB'>",
            "<memory unit='furlong'>",
            "the unknown unit 'furlong'; use",
        ),
        (">16777216</memory>", ">0</memory>", "none is left for its cells"),
        ("cpuset='4,6'", "cpuset='4,'", "'4,' is not a set of numbers"),
    ],
)
def test_guests_that_cannot_be_read(old: str, new: str, sentence: str) -> None:
    """The guest is named."""
    with pytest.raises(VnumaError) as raised:
        read_guest(read_definition(_with(old, new)), 2048)
    assert str(raised.value).startswith("guest rich: ")
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("size", "unit", "kib"),
    [
        ("1024", None, 1024),
        ("1", "MiB", 1024),
        ("1", "M", 1024),
        ("1", "GiB", 1 << 20),
        ("1", "TiB", 1 << 30),
        ("1", "KB", 1),
        ("3000", "b", 3),
        ("1", "GB", 976563),
        ("2", "k", 2),
    ],
)
def test_units(size: str, unit: str | None, kib: int) -> None:
    """libvirt's units, rounded up as libvirt does."""
    element = etree.Element("memory", {} if unit is None else {"unit": unit})
    element.text = size
    assert memory_kib(element) == kib


def test_what_the_planner_is_told() -> None:
    """Figures from all over the definition."""
    guest = read_guest(read_definition(DOMAIN), 2048)
    assert (guest.name, guest.vcpus, guest.memory_kib) == ("rich", 16, 16 << 20)
    assert guest.iothread_ids == (1, 2)
    assert guest.vcpu_pins == ((0, (0, 1, 2, 3)), (1, (4, 6)))
    assert guest.cpu_mode == "custom"
    text = _with(
        "<iothreads>2</iothreads>",
        "<iothreads>3</iothreads><iothreadids><iothread id='2'/></iothreadids>",
    )
    assert read_guest(read_definition(text), 2048).iothread_ids == (1, 2, 3)
    text = _with("<os>", "<memoryBacking><hugepages/></memoryBacking><os>")
    assert read_guest(read_definition(text), 16384).hugepages == (HugepageUse(16384),)
    text = _with(
        "<os>",
        "<memoryBacking><hugepages><page size='1' unit='GiB' nodeset='0-1'/><page size='2048'/>"
        "</hugepages></memoryBacking><os>",
    )
    assert read_guest(read_definition(text), 2048).hugepages == (
        HugepageUse(1 << 20, (0, 1)),
        HugepageUse(2048, None),
    )
    text = _with(
        "</devices>",
        "<memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target></memory>"
        "</devices>",
    )
    assert read_guest(read_definition(text), 2048).memory_kib == (16 << 20) - 524288
    text = _with(
        "</vcpu>", "</vcpu><vcpus><vcpu id='0' enabled='yes'/><vcpu id='1' enabled='no'/></vcpus>"
    )
    assert read_guest(read_definition(text), 2048).online_vcpus == (0,)


def test_the_diff_shows_no_secret(host: HostOf) -> None:
    """Only what is managed is in it."""
    root = read_definition(_edit(DOMAIN, host("rfc-8n240c"))).root
    shown = managed_text(root)
    assert PASSWORD not in shown
    assert "<memnode" in shown
    assert not re.search("graphics|app:owner|qemu|shares|feature", shown)
    assert secrets(root) == {PASSWORD}


def test_meaning_not_text(host: HostOf) -> None:
    """What libvirt writes differently means the same."""
    ours = _edit(DOMAIN, host("rfc-8n240c"))
    theirs = (
        ours.replace("sockets='8'", "sockets='8' dies='1' clusters='1'")
        .replace("cpus='0-1'", "cpus='0,1'")
        .replace("memory='2097152' unit='KiB'", "memory='2' unit='GiB'")
        .replace("cpuset='0-14,120-134'", "cpuset='120-134,0-14'")
    )
    assert theirs != ours
    assert read_definition(theirs).state == read_definition(ours).state
    assert _edit(theirs, host("rfc-8n240c")) == theirs


def test_clusters_by_hand(host: HostOf) -> None:
    """The new CPU topology has none, so its product is the vCPUs; absent brings them back."""
    by_hand = DOMAIN.replace(
        "sockets='2' dies='1' cores='8'", "sockets='2' dies='1' clusters='2' cores='4'"
    )
    ours = _edit(by_hand, host("rfc-8n240c"))
    assert read_definition(ours).state.topology == Topology(8, dies=1, cores=1, threads=2)
    theirs = ours.replace("sockets='8'", "sockets='8' dies='1' clusters='1'")
    assert theirs != ours
    assert restored_text(read_definition(theirs)) == by_hand


def test_restart_and_live_pins(host: HostOf) -> None:
    """Cells need a cold start, pins do not; memory is compared as it is once started."""
    rfc = host("rfc-8n240c")
    before = read_definition(DOMAIN)
    strict = read_definition(_edit(DOMAIN, rfc))
    core = read_definition(_edit(DOMAIN, rfc, pinning="core"))
    free = read_definition(_edit(DOMAIN, rfc, pinning="none"))
    assert needs_restart(before, strict)
    assert not needs_restart(strict, strict)
    assert not needs_restart(strict, core)
    changes = live_pins(strict, core, rfc)
    assert changes[0] == LivePin("vcpu_pins", 0, (0, 120))
    assert len(changes) == 16
    assert live_pins(strict, free, rfc)[3] == LivePin("vcpu_pins", 3, tuple(range(30)))
    assert live_pins(strict, strict, rfc) == []
    odd = DOMAIN.replace(">16777216<", ">16777217<")
    defined = read_definition(_edit(odd, rfc))
    started = _edit(odd, rfc).replace("memory='2097153'", "memory='2098176'")
    assert not needs_restart(read_definition(started), defined)
    emulator = read_definition(_edit(DOMAIN, rfc, emulator_pinning="3"))
    assert LivePin("emulator_pins", 0, (3,)) in live_pins(strict, emulator, rfc)
    by_hand = read_definition(
        _edit(DOMAIN, rfc).replace("<emulatorpin cpuset='0-1'/>", "<emulatorpin cpuset='8'/>")
    )
    assert live_pins(by_hand, strict, rfc) == []
