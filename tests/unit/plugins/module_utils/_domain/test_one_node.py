# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that were put on one node: what their kernel sees stays theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import (
    is_up_to_date,
    looks_the_same,
    needs_restart,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
    wanted_of,
    with_own_cells,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned, restored
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from lxml import etree

HostOf = Callable[[str], Host]

NUMA = (
    "<numa><cell id='0' cpus='0-3' memory='4' unit='GiB'><cache level='1'/></cell>"
    "<cell id='1' cpus='4-7' memory='4' unit='GiB'/></numa>"
)
BY_HAND = (
    "<domain type='kvm'><name>guest</name><memory unit='GiB'>8</memory>"
    "<vcpu placement='static'>8</vcpu>"
    "<numatune><memory mode='preferred' nodeset='7'/><memnode cellid='1' mode='strict' "
    "nodeset='6'/></numatune>"
    "<os><type arch='x86_64'>hvm</type></os>"
    f"<cpu mode='host-model'><topology sockets='2' cores='2' threads='2'/>{NUMA}</cpu>"
    "<devices/></domain>"
)
PLAIN = BY_HAND.replace(NUMA, "").replace("<topology sockets='2' cores='2' threads='2'/>", "")
PLAIN = PLAIN.replace("<memnode cellid='1' mode='strict' nodeset='6'/>", "")


def plain(text: str) -> bytes:
    """A definition without white space between its elements."""
    root = etree.fromstring(text, etree.XMLParser(remove_blank_text=True))
    written = etree.tostring(root, method="c14n")
    assert isinstance(written, bytes)
    return written


def put(definition: Definition, host: Host, *nodes: int, **options: Any) -> Definition:
    """Return a definition after its guest was put on nodes."""
    policy = policy_from_options({"nodes": "auto", **options})
    guest = with_own_cells(read_guest(definition, 2048), definition)
    (layout,) = plan_guests([(guest, policy)], host, placed={0: nodes})
    if not isinstance(layout, Layout):
        raise layout
    edit = partitioned(definition, layout, policy)
    assert is_up_to_date(edit.definition, wanted_of(edit.definition, layout, policy), policy)
    assert not partitioned(edit.definition, layout, policy).changed
    return edit.definition


def test_cells_by_hand_stay_and_their_memory_is_bound(host: HostOf) -> None:
    """To the byte, HMAT included; their own bindings to other nodes go, and come back."""
    before = read_definition(BY_HAND)
    after = put(before, host("rfc-8n240c"), 3)
    assert NUMA.replace("'", '"') in after.text.replace("'", '"')
    assert "sockets='2' cores='2' threads='2'" in after.text
    assert [one.get("nodeset") for one in after.root.find("numatune")] == ["3"]
    assert after.root.find("cputune/vcpupin").get("cpuset") == "45-59,165-179"
    assert plain(restored(after).definition.text) == plain(BY_HAND)


def test_one_node_several_and_back(host: HostOf) -> None:
    """The cells come and go, the original stays what it was."""
    rfc, before = host("rfc-8n240c"), read_definition(PLAIN)
    one = put(before, rfc, 3)
    two = put(one, rfc, 2, 3)
    assert two.text.count("<cell ") == 2
    back = put(two, rfc, 3)
    assert plain(back.text) == plain(one.text)
    for definition in (one, two, back):
        assert plain(restored(definition).definition.text) == plain(PLAIN)


def test_a_cell_all_the_same(host: HostOf) -> None:
    """cells: 1 asks for it."""
    after = put(read_definition(PLAIN), host("rfc-8n240c"), 3, cells=1)
    assert after.text.count("<cell ") == 1


@pytest.mark.parametrize("memory_mode", ["strict", "restrictive", "preferred"])
def test_its_memory_is_bound_in_every_mode(host: HostOf, memory_mode: str) -> None:
    """With 'preferred' too: libvirt before 9.3 takes a single node there."""
    after = put(read_definition(PLAIN), host("rfc-8n240c"), 3, memory_mode=memory_mode)
    (memory,) = after.root.find("numatune")
    assert (memory.get("mode"), memory.get("nodeset")) == (memory_mode, "3")


def test_pins_do_not_wait_for_the_memory(host: HostOf) -> None:
    """The cells of the running guest are those of the plan; only the binding needs a start."""
    before = read_definition(PLAIN)
    after = put(before, host("rfc-8n240c"), 3)
    assert needs_restart(before, after)
    assert looks_the_same(before, after)
    assert not looks_the_same(before, put(before, host("rfc-8n240c"), 2, 3))


def test_what_no_longer_fits_is_refused(host: HostOf) -> None:
    """vCPUs that were added since the first partition, and a device in a cell that goes."""
    rfc = host("rfc-8n240c")
    two = put(read_definition(BY_HAND.replace("<cache level='1'/>", "")), rfc, 2, 3)
    grown = two.text.replace(">8</vcpu>", ">16</vcpu>")
    with pytest.raises(LayoutError, match="it keeps its own 2 cells, for 8 vCPUs and 8 GiB;"):
        put(read_definition(grown), rfc, 3)
    plain = put(read_definition(PLAIN), rfc, 2, 3)
    device = (
        "<memory model='dimm'><target><size unit='GiB'>1</size><node>1</node></target></memory>"
    )
    with_device = plain.text.replace("<devices/>", f"<devices>{device}</devices>").replace(
        "<memory unit='GiB'>8", "<memory unit='GiB'>9"
    )
    with pytest.raises(LayoutError, match="on one host node the guest goes back to no cells"):
        put(read_definition(with_device), rfc, 3)
