# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record in <metadata>, and what becomes of one that people have been at."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.record import (
    NAMESPACE,
    find_record,
    recorded_policy,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text, restored_text

HostOf = Callable[[str], Host]

TOPOLOGY = "<topology sockets='16' cores='1' threads='1'/>"
NUMA = (
    "<numa>\n      <cell id='0' cpus='0-15' memory='16777216' unit='KiB'/>\n    </numa>"  # by hand
)


def _domain(cpu: str = TOPOLOGY, metadata: str = "") -> str:
    return (
        f"<domain type='kvm'>\n  <name>anuma</name>\n{metadata}"
        "  <memory unit='KiB'>16777216</memory>\n  <vcpu placement='static'>16</vcpu>\n"
        "  <cputune>\n    <shares>5</shares>\n    <vcpupin vcpu='0' cpuset='1'/>\n"
        "    <emulatorpin cpuset='0-1'/>\n  </cputune>\n"
        "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n"
        f"  <cpu mode='host-model' check='partial'>\n    {cpu}\n  </cpu>\n</domain>\n"
    )


def _edit(text: str, host: Host, **options: Any) -> str:
    definition = read_definition(text)
    policy = policy_from_options(options)
    return partitioned_text(definition, plan(read_guest(definition, 2048), host, policy), policy)


def _restored(text: str) -> str:
    return restored_text(read_definition(text))


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, {}),
        ({"nodes": "0-1", "cells": 4}, {"nodes": "0-1", "cells": "4"}),
        ({"nodes": [2, 0]}, {"nodes": "0,2"}),
        ({"pinning": "cpu", "threads": 2}, {"pinning": "cpu", "threads": "2"}),
        ({"emulator_pinning": "0,1", "reserved_cpus": "0-1"},
         {"emulator_pinning": "0-1", "reserved_cpus": "0-1"}),
        ({"state": "present", "split": "even"}, {}),
    ],
)  # fmt: skip
def test_the_policy_is_on_record(
    host: HostOf, options: dict[str, Any], recorded: dict[str, str]
) -> None:
    """What differs from the defaults; read back it is the same policy."""
    record = find_record(read_definition(_edit(_domain(), host("rfc-8n240c"), **options)).root)
    assert record is not None
    assert recorded_policy(record) == recorded
    assert policy_from_options(recorded) == policy_from_options(options)


def test_another_policy_with_the_same_layout_is_recorded(host: HostOf) -> None:
    """The record says what was asked for last, even if nothing else differs."""
    once = _edit(_domain(), host("rfc-8n240c"))
    other = _edit(once, host("rfc-8n240c"), split="equal")
    assert other != once
    record = find_record(read_definition(other).root)
    assert record is not None
    assert recorded_policy(record) == {"split": "equal"}
    back = read_definition(_edit(other, host("rfc-8n240c")))
    assert back.state == read_definition(once).state


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "  <metadata/>\n",
        "  <metadata>\n    <a xmlns='urn:a'/>\n  </metadata>\n",
        "  <metadata>\n    <vnuma:a xmlns:vnuma='urn:a'/>\n  </metadata>\n",
        "  <metadata>\n    <partition/>\n  </metadata>\n",
        "  <metadata>\n    <v:partition xmlns:v='urn:other'/>\n  </metadata>\n",
    ],
)
def test_metadata_of_others(host: HostOf, metadata: str) -> None:
    """It stays, whatever it is called, and is what comes back."""
    text = _domain(metadata=metadata)
    once = _edit(text, host("rfc-8n240c"))
    assert once.count(NAMESPACE) == 1
    assert _edit(once, host("rfc-8n240c")) == once
    assert _restored(once) == text


def test_metadata_that_came_later_stays(host: HostOf) -> None:
    """What someone else has put beside the record is not taken out with it."""
    once = _edit(_domain(), host("rfc-8n240c"))
    later = once.replace("<metadata>", "<metadata>\n    <a xmlns='urn:a'/>")
    assert "<a xmlns='urn:a'/>" in _restored(later)
    assert NAMESPACE not in _restored(later)


def test_a_record_under_another_prefix_is_the_same(host: HostOf) -> None:
    """Prefixes are libvirt's to choose."""
    once = _edit(_domain(), host("rfc-8n240c"))
    other = once.replace("vnuma:", "ns0:").replace("xmlns:vnuma", "xmlns:ns0")
    assert _edit(other, host("rfc-8n240c")) == other
    assert _restored(other) == _domain()


def test_a_record_without_policy(host: HostOf) -> None:
    """Taken as the defaults, and written again."""
    once = _edit(_domain(), host("rfc-8n240c"), cells=2)
    without = re.sub(r"\n\s*<vnuma:policy[^>]*/>", "", once)
    assert without != once
    again = _edit(without, host("rfc-8n240c"), cells=2)
    assert read_definition(again).state == read_definition(once).state
    assert _restored(without) == _domain()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<topology sockets='16' cores='1'", "<topology sockets='x' cores='1'"),
        ("<vnuma:original", "<vnuma:originally"),
        ("<vnuma:original", "<original"),
    ],
)
def test_damage_is_one_sentence(host: HostOf, old: str, new: str) -> None:
    """Whatever people did to a record, it is said in one sentence that names the guest."""
    once = _edit(_domain(), host("rfc-8n240c"))
    assert old in once
    damaged = once.replace(old, new)
    damaged = (
        damaged.replace("</vnuma:original", new.split()[0].replace("<", "</"))
        if ("original" in old)
        else damaged
    )
    with pytest.raises(DomainError) as raised:
        _restored(damaged)
    assert str(raised.value).startswith("guest anuma: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("cpu", "vcpus", "sentence"),
    [
        (TOPOLOGY, 32, "it had a CPU topology for 16 vCPUs, and it has 32 now"),
        (TOPOLOGY, 8, "it had a CPU topology for 16 vCPUs, and it has 8 now"),
        # libvirt refuses cells that name more vCPUs than there are.
        (NUMA, 8, "8"),
    ],
)
def test_outgrown(host: HostOf, cpu: str, vcpus: int, sentence: str) -> None:
    """What stood before does not fit the guest any more: refused, with both figures."""
    grown = _edit(_domain(cpu), host("rfc-8n240c")).replace(">16</vcpu>", f">{vcpus}</vcpu>")
    with pytest.raises(DomainError) as raised:
        _restored(grown)
    assert str(raised.value).startswith("guest anuma: ")
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        ("2097152", ""),
        # libvirt rounds up to a MiB when a guest starts.
        ("2097153", ""),
        ("4194304", "16777216 KiB together, and they have 33554432 KiB now"),
        ("1048576", "16777216 KiB together, and they have 8388608 KiB now"),
    ],
)
def test_memory_that_has_changed(host: HostOf, now: str, sentence: str) -> None:
    """Cells say how much memory a guest has: what stood before must not take half of it away."""
    once = _edit(_domain(NUMA), host("rfc-8n240c"))
    assert once.count("memory='2097152'") == 8
    changed = once.replace("memory='2097152'", f"memory='{now}'")
    if not sentence:
        assert _restored(changed) == _domain(NUMA)
        return
    with pytest.raises(DomainError) as raised:
        _restored(changed)
    assert str(raised.value).startswith("guest anuma: before its partition its cells had ")
    assert sentence in str(raised.value)


def test_a_record_without_placement(host: HostOf) -> None:
    """What is not said is libvirt's default."""
    auto = _domain().replace("placement='static'", "placement='auto'")
    once = _edit(auto, host("rfc-8n240c"))
    assert _restored(once) == auto
    damaged = once.replace("<vcpu placement='auto'/>", "<vcpu/>")
    assert damaged != once
    assert _restored(damaged) == _domain()


def test_a_record_without_vcpus(host: HostOf) -> None:
    """Nothing can be restored in what is no guest."""
    once = _edit(_domain(), host("rfc-8n240c"))
    with pytest.raises(DomainError) as raised:
        _restored(re.sub(r"<vcpu placement='static'>16</vcpu>", "", once))
    assert str(raised.value) == "guest anuma: the definition has no <vcpu>; add it."


def test_pins_asked_for_where_there_is_no_node(host: HostOf) -> None:
    """Without topology there is nowhere to pin to: the emulator's own pin is left as it is."""
    definition = read_definition(_domain())
    policy = policy_from_options({"emulator_pinning": "nodes"})
    layout = plan(read_guest(definition, 2048), host("edited-no-topology"), policy)
    assert layout.emulator_pins is None
    after = read_definition(partitioned_text(definition, layout, policy))
    assert after.state.emulator_pins == {0: (0, 1)}
    assert restored_text(after) == _domain()
