# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are to be larger or smaller than they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Topology
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.nodes import (
    resized,
    resized_topology,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import HostOf, partitioned_text, restored_text

GIB = 1 << 20

_PLAIN = (
    "<domain type='kvm'>\n  <name>anuma</name>\n  <memory unit='GiB'>16</memory>\n"
    "  <currentMemory unit='GiB'>{current}</currentMemory>\n  <vcpu{vcpu}>8</vcpu>\n{more}"
    "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n  <devices/>\n</domain>\n"
)


def _text(current: int = 16, vcpu: str = "", more: str = "") -> str:
    return _PLAIN.format(current=current, vcpu=vcpu, more=more)


def _put(definition: Definition, host: Host, **options: Any) -> Definition:
    """Return a definition with the layout that the options give."""
    policy = policy_from_options(options)
    guest = resized(read_guest(definition, 2048), policy)
    layout = plan(guest, host, policy)
    return read_definition(partitioned_text(definition, layout, policy))


def _size(definition: Definition) -> tuple[int, int, int, str | None]:
    """Return the vCPUs, the memory, the current memory, and the vCPUs that are online."""
    root = definition.root
    return (
        int(root.findtext("vcpu")),
        read_guest(definition, 2048).memory_kib,
        int(root.findtext("currentMemory")),
        root.find("vcpu").get("current"),
    )


def test_grown_and_given_back(host: HostOf) -> None:
    """Every cell anew, to the KiB; a second time nothing; absent is exact."""
    rfc, before = host("rfc-8n240c"), read_definition(_text())
    small = _put(before, rfc, nodes="0-1")
    large = _put(small, rfc, nodes="0-1", vcpus=24, memory="32 GiB")
    assert _size(large) == (24, 32 * GIB, 32 * GIB, None)
    assert [cell.memory_kib for cell in large.state.cells] == [16 * GIB] * 2
    assert large.state.topology == Topology(2, 1, 6, 2)
    assert _put(large, rfc, nodes="0-1", vcpus=24, memory="32 GiB").text == large.text
    assert restored_text(large) == before.text
    # Leaving the options out changes nothing, and absent still knows what there was.
    left = _put(large, rfc, nodes="0-1")
    assert left.state == large.state
    assert restored_text(left) == before.text
    again = _put(left, rfc, nodes="0-1", vcpus=4, memory="2 GiB")
    assert _size(again) == (4, 2 * GIB, 2 * GIB, None)
    assert restored_text(again) == before.text


def test_the_balloon_stays(host: HostOf) -> None:
    """What it is ballooned to is the operator's."""
    before = read_definition(_text(current=8))
    grown = _put(before, host("rfc-8n240c"), nodes="0", memory="64 GiB")
    assert _size(grown)[1:3] == (64 * GIB, 8 * GIB)
    assert restored_text(grown) == before.text


def test_vcpus_that_are_online_stay(host: HostOf) -> None:
    """By their number, or one by one."""
    rfc = host("rfc-8n240c")
    some = read_definition(_text(vcpu=" current='2'"))
    assert _size(_put(some, rfc, nodes="0", vcpus=16))[0::3] == (16, "2")
    listed = "".join(
        f"    <vcpu id='{one}' enabled='{'yes' if one in (0, 5) else 'no'}' hotpluggable='yes'/>\n"
        for one in range(8)
    )
    before = read_definition(_text(vcpu=" current='2'", more=f"  <vcpus>\n{listed}  </vcpus>\n"))
    for vcpus in (6, 12):
        after = _put(before, rfc, nodes="0", vcpus=vcpus)
        assert after.state.vcpus is not None
        assert (after.state.vcpus.most, after.state.vcpus.online) == (vcpus, (0, 5))
        assert len(after.root.findall("vcpus/vcpu")) == vcpus
        assert restored_text(after) == before.text


_DIMM = "<memory model='dimm'><target><size unit='GiB'>2</size><node>0</node></target></memory>"


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (
            _text(current=8),
            {"memory": "4 GiB"},
            "memory 4 GiB is less than the 8 GiB of its <currentMemory>, which it is ballooned to; "
            "lower that with 'virsh setmem --config', or set memory to at least 8 GiB.",
        ),
        (
            _text(current=12).replace("<devices/>", f"<devices>{_DIMM}</devices>"),
            {"memory": "8 GiB"},
            "memory 8 GiB and the 2 GiB of its memory devices are less than the 12 GiB of its "
            "<currentMemory>",
        ),
        (
            _text().replace(
                "  <memory unit", "  <maxMemory slots='4' unit='GiB'>32</maxMemory>\n  <memory unit"
            ),
            {"memory": "33 GiB"},
            "memory 33 GiB is more than its <maxMemory> of 32 GiB; raise that with 'virsh edit', "
            "or set memory to at most 32 GiB.",
        ),
        (
            _text(vcpu=" current='6'"),
            {"vcpus": 4},
            "vcpus 4 is too few: vCPUs '0-5' are online at boot; take some offline with 'virsh "
            "setvcpus --config', or set vcpus to at least 6.",
        ),
        (
            _text(more="  <cputune><vcpusched vcpus='4-7' scheduler='batch'/></cputune>\n"),
            {"vcpus": 6},
            "vcpus 6 is too few: its <vcpusched> names vCPUs '4-7'; change that with 'virsh "
            "edit', or set vcpus to at least 8.",
        ),
    ],
)
def test_what_cannot_be(text: str, options: dict[str, Any], sentence: str) -> None:
    """One sentence with both figures and the way out."""
    guest = read_guest(read_definition(text), 2048)
    with pytest.raises(LayoutError) as raised:
        resized(guest, policy_from_options(options))
    assert str(raised.value).startswith(sentence)


def test_hugepages_have_to_fill(host: HostOf) -> None:
    """Memory is split in pages, and libvirt does not start what is left over."""
    backing = "  <memoryBacking>\n    <hugepages/>\n  </memoryBacking>\n"
    before = read_definition(_text().replace("  <vcpu>", backing + "  <vcpu>"))
    with pytest.raises(LayoutError, match="is not a multiple of its hugepage of 2048 KiB"):
        _put(before, host("rfc-8n240c"), nodes="0", memory="5001 MiB", memory_mode="none")


def test_a_guest_that_keeps_its_own_topology() -> None:
    """Its sockets stay as large as they were."""
    guest = Guest("anuma", "", "x86_64", 8, 8 * GIB, own_topology=Topology(2, 1, 2, 2))
    assert resized_topology(guest) is None
    assert resized_topology(replace(guest, vcpus=16)) == Topology(4, 1, 2, 2)
    with pytest.raises(LayoutError, match="vcpus 6 does not fill the sockets of its own"):
        resized_topology(replace(guest, vcpus=6))


def test_memory_that_was_edited_and_lost(host: HostOf) -> None:
    """Where the definition still says it, as a file does, the guest is told what it gets."""
    after = _put(read_definition(_text()), host("rfc-8n240c"), nodes="0-1")
    edited = after.text.replace("<memory unit='GiB'>16", "<memory unit='GiB'>32")
    guest = read_guest(read_definition(edited), 2048)
    layout = plan(guest, host("rfc-8n240c"), policy_from_options({"nodes": "0-1"}))
    assert layout.warnings[:1] == (
        "its <memory> says 32 GiB and its cells have 16 GiB, which is what it gets; set memory for "
        "another size.",
    )
