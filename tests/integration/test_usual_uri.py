# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""As a fleet has it: Ansible comes by ssh, and qemu:///system is the host's own daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import guestboot
import pytest
import root
from adhoc import Run
from conftest import Libvirt

Call = Callable[..., Run]


@pytest.mark.slow
def test_from_facts_to_restart(lab: Callable[..., Libvirt], call: Call, tmp_path: Path) -> None:
    """Every module finds the daemon without a word about its socket."""
    libvirt = lab("tiny-2n2c", shim=True)
    libvirt.clear()
    there = Libvirt(libvirt.host, ssh=True)
    console = tmp_path / "guest.log"
    libvirt.define(guestboot.domain_xml("guest", 4, 320, console))
    libvirt.virsh("start", "guest")
    guestboot.wait_for_boots(console, 1)

    run = call("vnuma_facts", {"uri": "qemu:///system"}, on=there)
    assert not run.failed, run.output
    facts = run.result["ansible_facts"]["vnuma_host"]
    assert [node["cpus"] for node in facts["nodes"]] == ["0", "1"]
    assert facts["libvirt_version"] == root.chosen().versions.libvirt
    assert facts["hypervisor_version"] == root.chosen().versions.qemu
    run = call("vnuma_partition", {"guests": [{"name": "guest"}]}, on=there)
    assert run.result["restart_required"] == ["guest"]
    run = call("vnuma_restart", {"timeout": 60}, on=there)
    assert run.result["restarted"] == ["guest"]
    guestboot.wait_for_boots(console, 2)
    assert len(guestboot.read_report(console).nodes) == 2
    (guest,) = call("vnuma_info", {"guests": ["guest"]}, on=there).result["guests"]
    assert guest["planned"] == guest["persistent"] == guest["live"]
    assert guest["actual"]["vcpus"] == {"0": "0", "1": "0", "2": "1", "3": "1"}
    libvirt.clear()
