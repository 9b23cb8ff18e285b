# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout that a guest runs with: kept without a secret, put back into what is there then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import keep_layout
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.kept import (
    put_back,
    runs_with,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.nodes import resized
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text, restored_text

HostOf = Callable[[str], Host]
SECRET = "s3cr3tvn"

PLAIN = f"""\
<domain type='kvm'>
  <name>anuma</name>
  <title>Payroll</title>
  <memory unit='KiB'>16777216</memory>
  <currentMemory unit='KiB'>8388608</currentMemory>
  <vcpu placement='static'>16</vcpu>
  <iothreads>2</iothreads>
  <os>
    <type arch='x86_64'>hvm</type>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/images/base.qcow2'/>
    </disk>
    <graphics type='vnc' passwd='{SECRET}'/>
  </devices>
</domain>
"""
RICH = PLAIN.replace(
    "  <os>",
    """\
  <cputune>
    <shares>5</shares>
    <vcpupin vcpu='0' cpuset='1'/>
    <emulatorpin cpuset='0-1'/>
    <iothreadpin iothread='1' cpuset='5'/>
  </cputune>
  <numatune>
    <memory mode='preferred' nodeset='3'/>
  </numatune>
  <os>""",
).replace(
    "  <devices>",
    """\
  <cpu mode='host-model' check='partial'>
    <topology sockets='16' cores='1' threads='1'/>
  </cpu>
  <devices>""",
    1,
)
AUTO = PLAIN.replace("placement='static'", "placement='auto'")
POLICIES: list[dict[str, Any]] = [
    {},
    {"cells": 2, "distances": "none"},
    {"nodes": "0-1", "pinning": "cpu", "memory_mode": "restrictive"},
    {"emulator_pinning": "nodes", "iothread_pinning": "nodes"},
    {"vcpus": 32, "memory": "32 GiB"},
]


@pytest.fixture
def rfc(host: HostOf) -> Host:
    """The RFC's host."""
    return host("rfc-8n240c")


def _partitioned(text: str, host: Host, options: dict[str, Any]) -> str:
    definition = read_definition(text)
    policy = policy_from_options(options)
    guest = resized(read_guest(definition, 2048), policy)
    return partitioned_text(definition, plan(guest, host, policy), policy)


def _by_its_owner(text: str) -> str:
    """Return a definition after its owner took a snapshot, set a password and a title."""
    changed = (
        text.replace("base.qcow2", "overlay.qcow2")
        .replace(SECRET, "another")
        .replace("Payroll", "Payroll 2")
    )
    assert changed != text
    return changed


@pytest.mark.parametrize("plain", [PLAIN, RICH, AUTO])
@pytest.mark.parametrize("first", [None, *POLICIES])
@pytest.mark.parametrize("second", [None, *POLICIES])
def test_what_ran_comes_back_and_nothing_else_goes(
    rfc: Host, plain: str, first: dict[str, Any] | None, second: dict[str, Any] | None
) -> None:
    """From any layout to any other and back, to the byte, whatever its owner did in between."""
    ran = plain if first is None else _partitioned(plain, rfc, first)
    kept = keep_layout(read_definition(ran))
    given = (
        restored_text(read_definition(ran)) if second is None else _partitioned(ran, rfc, second)
    )
    edit = put_back(read_definition(_by_its_owner(given)), kept)
    assert edit.definition.text == _by_its_owner(ran)
    assert edit.changed is (ran != given)
    assert not put_back(edit.definition, kept).changed
    assert SECRET not in kept
    assert "devices" not in kept


@pytest.mark.parametrize("options", POLICIES[:4])
def test_which_layout_a_guest_runs_with(rfc: Host, options: dict[str, Any]) -> None:
    """The one that was kept, and not the one that it was given since."""
    given = _partitioned(PLAIN, rfc, options)
    kept = keep_layout(read_definition(PLAIN))
    assert runs_with(read_definition(PLAIN), kept)
    assert runs_with(read_definition(given), keep_layout(read_definition(given)))
    assert not runs_with(read_definition(given), kept)


def test_containers_that_its_owner_filled_stay(rfc: Host) -> None:
    """Only what was made for the layout goes with it."""
    kept = keep_layout(read_definition(PLAIN))
    given = _partitioned(PLAIN, rfc, {})
    tuned = given.replace("  <cputune>\n", "  <cputune>\n    <shares>7</shares>\n")
    back = put_back(read_definition(tuned), kept).definition
    assert "<shares>7</shares>" in back.text
    assert "vcpupin" not in back.text
    assert "<numatune>" not in back.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            (">16</vcpu>", ">8</vcpu>"),
            "it had a CPU topology for 16 vCPUs, and it has 8 now",
        ),
        (
            ("memory='8388608'", "memory='9437184'"),
            "its cells had 16777216 KiB together, and they have 18874368 KiB now",
        ),
        (
            (
                "  <devices>\n",
                "  <devices>\n    <memory model='dimm'><target><size>1</size><node>3</node>"
                "</target></memory>\n",
            ),
            "a memory device is in cell 3, and that layout has 2 cells",
        ),
    ],
)
def test_a_layout_that_no_longer_fits(rfc: Host, change: tuple[str, str], said: str) -> None:
    """Figures of both, and nothing is edited."""
    ran = _partitioned(PLAIN, rfc, {"cells": 2})
    kept = keep_layout(read_definition(ran))
    now = _partitioned(ran, rfc, {"cells": 2, "distances": "none"}).replace(*change)
    with pytest.raises(DomainError) as raised:
        put_back(read_definition(now), kept)
    assert raised.value.message == f"{said}."


@pytest.mark.parametrize("kept", ["", "<layout/>", "<layout", "<domain/>"])
def test_a_damaged_layout(kept: str) -> None:
    """Restoring from it would be guessing."""
    with pytest.raises(DomainError, match="the layout that was kept for it is damaged"):
        put_back(read_definition(PLAIN), kept)
