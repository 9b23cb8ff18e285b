# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every rule of docs/rules.md, on the real driver."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import guestboot
import pytest
from adhoc import Run
from conftest import Libvirt, has_libvirt
from guests import anuma
from lxml import etree
from rules import RULES, SIXTEEN_CELLS, SLOTS, Rule

Call = Callable[..., Run]


def test_every_rule(
    rfc: Libvirt, call: Call, record_property: Callable[[str, object], None]
) -> None:
    """Kept, translated or refused as the page says; and absent brings back what stood before."""
    rules = [rule for rule in RULES if has_libvirt(rule.since)]
    for rule in RULES:
        if rule not in rules:
            record_property("not run", f"rule '{rule.name}' needs libvirt {rule.since}")
    names = [f"rule{number:02}" for number in range(len(rules))]
    files = [rfc.host.root / f"{name}.xml" for name in names]
    for name, path, rule in zip(names, files, rules, strict=True):
        path.write_text(rule.definition(name))
    rfc.virsh("; ".join(f"define --validate {path}" for path in files))
    # libvirt may sort a dump's devices once more when it is defined again.
    for path, xml in zip(files, _dumps(rfc, names).values(), strict=True):
        path.write_text(xml)
    rfc.virsh("; ".join(f"define {path}" for path in files))
    before = _dumps(rfc, names)
    guests = [{"name": name, **rule.options} for name, rule in zip(before, rules, strict=True)]
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": guests})
    refused = {error["name"]: error["msg"] for error in run.result["errors"]}
    done = {guest["name"]: guest for guest in run.result["guests"]}
    after = _dumps(rfc, names)
    for name, rule in zip(before, rules, strict=True):
        _see(rule, before[name], after[name], refused.get(name, ""))
        if rule.warns:
            assert rule.warns in done[name]["warnings"], rule.name
    again = call("vnuma_partition", {"uri": rfc.uri, "guests": guests})
    assert not again.result["changed"]
    back = [{"name": name} for name in before]
    assert not call("vnuma_partition", {"uri": rfc.uri, "guests": back, "state": "absent"}).failed
    assert _dumps(rfc, names) == before


def _dumps(libvirt: Libvirt, names: list[str]) -> dict[str, str]:
    # One virsh for all of them: starting it takes longer than what it does.
    text = libvirt.virsh("; ".join(f"dumpxml --security-info --inactive {name}" for name in names))
    dumps = [f"{dump}</domain>\n" for dump in text.split("</domain>\n")[:-1]]
    return dict(zip(names, (dump.lstrip() for dump in dumps), strict=True))


def _see(rule: Rule, before: str, after: str, said: str) -> None:
    assert said == rule.refused, rule.name
    if rule.refused:
        assert after == before, rule.name
        return
    assert after != before, rule.name
    (rest, _none), (now, records) = _split(before), _split(after)
    for text in rule.keeps:
        assert _has(rest, text), (rule.name, text)
        assert _has(now, text), (rule.name, text)
    for text in rule.writes:
        assert not _has(rest, text), (rule.name, text)
        assert _has(now, text), (rule.name, text)
    for text in rule.drops:
        # A pin that libvirt never had is not there before either.
        assert not _has(now, text), (rule.name, text)
    assert len(records) == 1, rule.name
    for text in rule.records:
        assert _has(records[0], text), (rule.name, text)


def _split(text: str) -> tuple[etree._Element, list[etree._Element]]:
    """Return a definition without its record, and the record by itself."""
    root = etree.fromstring(text)
    records = root.findall("metadata/{*}partition")
    for record in records:
        record.getparent().remove(record)
    return root, records


def _has(root: etree._Element, text: str) -> bool:
    """Tell whether an element says all that is wanted; libvirt may have put in more."""
    wanted = etree.fromstring(text)
    return any(
        set(wanted.attrib.items()) <= set(element.attrib.items())
        and wanted.text in (None, element.text)
        for element in root.iter(wanted.tag)
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<topology sockets='8' cores='1'/>", True),
        ("<topology sockets='4'/>", False),
        ("<topology/>", True),
        ("<size unit='KiB'>3</size>", True),
        ("<size>33</size>", False),
        ("<a xmlns='urn:x'/>", False),
    ],
)
def test_found_by_meaning(text: str, found: bool) -> None:
    """Since 10.1 libvirt writes clusters='1' too, which changes nothing."""
    root = etree.fromstring(
        "<cpu><topology sockets='8' dies='1' clusters='1' cores='1' threads='2'/>"
        "<size unit='KiB'>3</size><a/></cpu>"
    )
    assert _has(root, text) is found


def test_memory_devices_are_bound_with_their_cell(rfc: Libvirt, call: Call) -> None:
    """QEMU is told to take a DIMM's memory from the host node that backs its cell."""
    name = "dimm"
    rule = Rule(
        "",
        (
            SIXTEEN_CELLS,
            SLOTS,
            (
                "</devices>",
                "<memory model='dimm'><target><size unit='KiB'>524288</size><node>5</node></target>"
                "</memory></devices>",
            ),
        ),
    )
    rfc.define(rule.definition(name))
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": name}]})
    assert not run.failed, run.msg
    path = rfc.host.root / "dimm.xml"
    path.write_text(rfc.dump(name))
    command = rfc.virsh("domxml-to-native", "qemu-argv", str(path))
    # QEMU takes objects as JSON since 6.0, and as a list of words ever since.
    (backend,) = [part for part in command.split(" -") if re.search('id[":=]+memdimm0', part)]
    assert re.search('"host-nodes":\\[5\\]|host-nodes=5,', backend)


def test_libvirt_does_not_know_the_rfcs_switch(rfc: Libvirt) -> None:
    """check='numa' never came to be; the filter takes it out of templates that have it."""
    path = rfc.host.root / "switch.xml"
    path.write_text(anuma("switch").replace("check='none'", "check='numa'"))
    said = rfc.virsh("define", str(path), check=False)
    # The second is what libvirt said before 7.1.
    sentences = (
        "Invalid value for attribute 'check' in element 'cpu': 'numa'",
        "Invalid check attribute for CPU specification",
    )
    assert any(sentence in said for sentence in sentences), said


@pytest.mark.slow
def test_cells_are_what_a_running_guest_is_bound_to(
    lab: Callable[..., Libvirt], call: Call, tmp_path: Path
) -> None:
    """Neither reset nor reboot brings a new layout, and libvirt moves no guest into another."""
    libvirt = lab("asymmetric-4n16c", shim=True)
    libvirt.clear()
    console = tmp_path / "guest.log"
    # Once reset, QEMU 5.2's q35 never leaves its firmware under emulation; its pc does.
    xml = guestboot.domain_xml("guest", 4, 320, console)
    libvirt.define(xml.replace("machine='q35'", "machine='pc'"))
    libvirt.virsh("start", "guest")
    guestboot.wait_for_boots(console, 1)
    call("vnuma_partition", {"uri": libvirt.uri, "guests": [{"name": "guest"}]})
    assert libvirt.dump("guest").count("<cell ") == 4
    for boots, step in ((2, "reset"), (3, "reboot")):
        libvirt.virsh(step, "guest")
        guestboot.wait_for_boots(console, boots)
        assert libvirt.dump("guest", live=True).count("<cell ") == 0
        assert len(guestboot.read_report(console).nodes) == 1
    new = tmp_path / "new.xml"
    new.write_text(libvirt.virsh("dumpxml", "--inactive", "--migratable", "guest"))
    said = libvirt.virsh("save", "guest", str(tmp_path / "image"), "--xml", str(new), check=False)
    # The same comparison stands before a migration (virDomainDefCheckABIStability).
    assert "Target NUMA node count '4' doesn't match source '0'" in said
    libvirt.clear()
