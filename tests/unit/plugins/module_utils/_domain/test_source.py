# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Written back as it was: whatever the text looks like, only what is managed changes in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    managed,
    read_definition,
    read_guest,
    unmanaged,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned, restored
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.source import Source
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from lxml import etree

HostOf = Callable[[str], Host]

DOMAIN = """\
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>anuma</name>
  <title>a &lt;b&gt; &amp; &quot;c&quot; &apos;d&apos; &#233; &#x1f4b0; > "e" 'f'</title>
  <metadata>
    <app:owner xmlns:app='urn:app' app:why='&lt;x> "y"'>
      <app:script><![CDATA[if (a < b && c > d) { "</domain>" } <!-- no comment -->]]></app:script>
    </app:owner>
    <plain xmlns='urn:plain'><partition/></plain>
  </metadata>
  <memory unit='KiB'>16777216</memory>
  <currentMemory unit='KiB'>16777216</currentMemory>
  <vcpu placement='static'>16</vcpu>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu='0' cpuset='0-3'/>
    <emulatorpin cpuset='0-1'/>
  </cputune>
  <numatune>
    <memory mode='preferred' nodeset='3'/>
  </numatune>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/a&amp;b.fd</loader>
  </os>
  <cpu mode='host-model' check='partial'>
    <topology sockets='16' cores='1' threads='1'/>
    <feature policy='disable' name='vmx'/>
  </cpu>
  <devices>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cr3tvn'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-set'/>
    <qemu:arg value="a=&quot;b&quot;,c='d',e>f"/>
  </qemu:commandline>
</domain>
"""

POLICIES: tuple[dict[str, Any], ...] = (
    {},
    {"distribution": "round_robin", "memory_mode": "none"},
    {"distribution": "interleave", "cells": 3, "emulator_pinning": "nodes"},
    {"pinning": "none", "memory_mode": "preferred", "distances": "none", "nodes": "2"},
)

# In these texts every container stands already, so that nothing else comes and goes.
_MANAGED = re.compile(
    r"\s*<(?P<record>vnuma:partition)\b.*?</(?P=record)>|\s*<numa>.*?</numa>"
    r"|\s*<(?:vcpupin|emulatorpin|iothreadpin|memnode|topology|memory mode)\b[^>]*/>",
    re.DOTALL,
)


def _edit(text: str, host: Host, **options: Any) -> str:
    definition = read_definition(text)
    policy = policy_from_options(options)
    return partitioned(definition, plan(read_guest(definition, 2048), host, policy), policy)


def _rest(text: str) -> str:
    """Return the text without what is managed, and without the white space before that."""
    # A container that is left with nothing may be written either way.
    return re.sub(r"<numatune>\s*</numatune>", "<numatune/>", _MANAGED.sub("", text))


def _dressed(old: str, new: str) -> str:
    assert old in DOMAIN, old
    return DOMAIN.replace(old, new)


def _double_quoted() -> str:
    return re.sub(r"(?<!c)='([^'\"]*)'", r'="\1"', DOMAIN)


TEXTS = {
    "as libvirt dumps it": DOMAIN,
    "declaration": "<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\n" + DOMAIN,
    "another encoding declared": '<?xml version="1.0" encoding="ISO-8859-1"?>\n' + DOMAIN,
    "byte order mark": "\ufeff" + DOMAIN,
    "comments around": f"<!--\nDO NOT EDIT\n-->\n\n{DOMAIN}<!-- the end -->\n<?pi x?>\n",
    "no end of line": DOMAIN.rstrip(),
    "double quotes": _double_quoted(),
    "quotes mixed": _dressed("type='vnc' port='-1'", "type=\"vnc\" port='-1'"),
    "comment in the domain": _dressed("  <os>", "  <!-- <os> 'a' \"b\" > -->\n  <os>"),
    "comment in cputune": _dressed("    <shares>", "    <!-- mine -->\n    <shares>"),
    "comment in devices": _dressed("    <graphics", "    <!-- <graphics> -->\n    <graphics"),
    "instruction": _dressed("  <os>", "  <?keep <os> ?>\n  <os>"),
    "tags over several lines": _dressed("type='vnc' port='-1'", "\n  type = 'vnc'\n  port='-1'"),
    "blanks in tags": _dressed("passwd='s3cr3tvn'/>", "passwd='s3cr3tvn' />"),
    "empty pair": _dressed("name='vmx'/>", "name='vmx'></feature>"),
    "attributes turned": _dressed("policy='disable' name='vmx'", "name='vmx'   policy='disable'"),
    "bracket in a value": _dressed("machine='q35'", "machine='q>35'"),
    "another prefix for qemu": DOMAIN.replace("qemu:", "q:").replace("xmlns:qemu", "xmlns:q"),
    "not ASCII": _dressed("<name>anuma", "<name>änüma-💰-名"),
}


@pytest.mark.parametrize("options", POLICIES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_only_what_is_managed_changes(host: HostOf, text: str, options: dict[str, Any]) -> None:
    """Every other byte stays; twice is once; and absent gives the text back."""
    after = _edit(text, host("rfc-8n240c"), **options)
    assert _rest(after) == _rest(text)
    assert after != text
    assert _edit(after, host("rfc-8n240c"), **options) == after
    other = _edit(after, host("rfc-8n240c"), cells=2, emulator_pinning="0")
    assert _rest(other) == _rest(text)
    assert restored(read_definition(after)) == text
    assert restored(read_definition(other)) == text


def test_lines_end_as_they_did(host: HostOf) -> None:
    """A text with CRLF keeps them wherever nothing is managed, and gets them back."""
    text = DOMAIN.replace("\n", "\r\n")
    after = _edit(text, host("rfc-8n240c"))
    assert _rest(after) == _rest(text)
    assert _edit(after, host("rfc-8n240c")) == after


def test_crlf_means_the_same(host: HostOf) -> None:
    """Whatever its ends of line are: the same partition, the same way back."""
    text = DOMAIN.replace("\n", "\r\n")
    after = read_definition(_edit(text, host("rfc-8n240c")))
    assert managed(after.root) == managed(read_definition(_edit(DOMAIN, host("rfc-8n240c"))).root)
    assert unmanaged(after.root) == unmanaged(read_definition(text).root)
    back = read_definition(restored(after))
    assert managed(back.root) == managed(read_definition(text).root)
    assert _edit(after.text, host("rfc-8n240c")) == after.text


@pytest.mark.parametrize(
    ("name", "blank"), [("tabs", "\t"), ("four", "    "), ("one", " "), ("none", "")]
)
def test_other_indentation_means_the_same(host: HostOf, name: str, blank: str) -> None:
    """However it is indented: nothing is lost, twice is once, and the meaning comes back."""
    text = re.sub(r"(?m)^( +)", lambda found: blank * (len(found.group(1)) // 2), DOMAIN)
    if name == "none":
        text = re.sub(r">\n+<", "><", text)
    after = read_definition(_edit(text, host("rfc-8n240c")))
    assert unmanaged(after.root) == unmanaged(read_definition(text).root)
    assert _edit(after.text, host("rfc-8n240c")) == after.text
    back = read_definition(restored(after))
    assert managed(back.root) == managed(read_definition(text).root)
    assert unmanaged(back.root) == unmanaged(read_definition(text).root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<vcpu placement='static'>", "<vcpu placement='auto'>"),
        ("<vcpu placement='static'>", "<vcpu>"),
        ("<vcpu placement='static'>", "<vcpu cpuset='0-29' current='8'>"),
        ("<vcpu placement='static'>", "<vcpu placement='auto' current='8'>"),
        ("<memory mode='preferred' nodeset='3'/>", "<memory mode='strict' placement='auto'/>"),
        (
            "<memory mode='preferred' nodeset='3'/>",
            "<memory mode='strict' nodeset='0-1'/>\n    <memnode cellid='0' mode='strict' "
            "nodeset='0'/>",
        ),
        (
            "    <feature policy='disable' name='vmx'/>\n",
            "    <feature policy='disable' name='vmx'/>\n    <numa>\n      <cell id='0' "
            "cpus='0-7' memory='8388608' unit='KiB'/>\n      <cell id='1' cpus='8-15' "
            "memory='8388608' unit='KiB'>\n        <distances>\n          <sibling id='0' "
            "value='21'/>\n          <sibling id='1' value='10'/>\n        </distances>\n"
            "      </cell>\n    </numa>\n",
        ),
        ("    <topology sockets='16' cores='1' threads='1'/>\n", ""),
        ("    <emulatorpin cpuset='0-1'/>\n", ""),
        ("    <shares>2048</shares>\n", ""),
        ("  <numatune>\n    <memory mode='preferred' nodeset='3'/>\n  </numatune>\n", ""),
    ],
)
@pytest.mark.parametrize("options", POLICIES)
def test_what_stood_there_comes_back(
    host: HostOf, old: str, new: str, options: dict[str, Any]
) -> None:
    """Pins, bindings, cells and placement made by hand, in libvirt's own formatting."""
    text = _dressed(old, new)
    once = _edit(text, host("rfc-8n240c"), **options)
    assert restored(read_definition(once)) == text
    twice = _edit(once, host("rfc-8n240c"), cells=2, iothread_pinning="nodes")
    assert restored(read_definition(twice)) == text


@pytest.mark.parametrize(
    "text",
    ["<a b='1'/>", '<!-- x --><a b="1"><b/>t<!-- c --></a>\n', "<?xml version='1.0'?><a>é</a>"],
)
def test_untouched_is_untouched(text: str) -> None:
    """Without an edit the text comes back."""
    assert Source(text, lambda one: etree.fromstring(one.encode())).rewritten() == text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ('<a><b c="1"/></a>', '<a><b c="2"/></a>'),
        ("<a><b c='1'/></a>", "<a><b c='2'/></a>"),
        ("<a x='1'><b c='1'>it's</b></a>", "<a x='1'><b c='2'>it's</b></a>"),
    ],
)
def test_an_edited_attribute_keeps_its_quotes(text: str, after: str) -> None:
    """What is written follows what stands around it."""
    source = Source(text, etree.fromstring)
    source.root[0].set("c", "2")
    assert source.rewritten() == after


def test_values_with_quotes_are_written_safely() -> None:
    """Either kind of quote, brackets and ampersands survive being written anew."""
    for text in ("<a b='1'><c/></a>", '<a b="1"><c/></a>'):
        source = Source(text, etree.fromstring)
        value = "a'b\"c<d>e&f"
        source.root[0].set("v", value)
        assert etree.fromstring(source.rewritten())[0].get("v") == value
