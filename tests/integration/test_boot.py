# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Booted, not only defined: what a guest's own kernel sees of its layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bootstate
import guestboot
import pytest
from adhoc import Run
from booted import boot
from conftest import Libvirt
from guests import anuma

pytestmark = pytest.mark.slow

Call = Callable[..., Run]


def _siblings(vcpus: int, threads: int) -> dict[int, str]:
    if threads == 1:
        return {vcpu: str(vcpu) for vcpu in range(vcpus)}
    return {
        vcpu: f"{vcpu // threads * threads}-{vcpu // threads * threads + threads - 1}"
        for vcpu in range(vcpus)
    }


@pytest.mark.parametrize(
    ("host", "vcpus", "options", "threads"),
    [
        ("rfc-8n240c", 16, {}, 2),
        ("rfc-8n240c", 18, {}, 2),
        ("rfc-8n240c", 16, {"distribution": "interleave"}, 1),
        ("rfc-8n240c", 11, {"distribution": "interleave"}, 1),
        ("asymmetric-4n16c", 7, {"memory_mode": "preferred"}, 1),
        ("sparse-ids", 12, {"cells": 3, "pinning": "core", "memory_mode": "restrictive"}, 4),
    ],
)
def test_a_clean_guest(
    lab: Callable[..., Libvirt],
    call: Call,
    tmp_path: Path,
    host: str,
    vcpus: int,
    options: dict[str, Any],
    threads: int,
) -> None:
    """Nodes, CPUs, distances, memory and SMT siblings as planned, and no complaint in the log."""
    libvirt = lab(host, shim=True)
    report, layout = boot(libvirt, call, tmp_path, vcpus, options)
    assert len(report.nodes) == len(layout["cells"])
    for cell in layout["cells"]:
        node = report.nodes[cell["id"]]
        assert node.cpus == cell["vcpus"]
        assert list(node.distances) == cell["distances"]
        # The kernel keeps some for itself, most of it on the first node.
        assert cell["memory_kib"] * 0.5 < node.memory_kib <= cell["memory_kib"]
    assert report.siblings == _siblings(vcpus, threads)
    assert len(set(report.packages.values())) == layout["topology"]["sockets"]
    assert report.complaints == ()
    assert report.log_lines > 100


def test_round_robin_with_threads_is_complained_about(
    lab: Callable[..., Libvirt], call: Call, tmp_path: Path
) -> None:
    """The RFC's own layout: the guest's kernel says so, and the module did before."""
    libvirt = lab("rfc-8n240c", shim=True)
    options = {"distribution": "round_robin", "memory_mode": "none"}
    report, layout = boot(libvirt, call, tmp_path, 16, options)
    assert [cell["vcpus"] for cell in layout["cells"]][:2] == ["0,8", "1,9"]
    assert any("smt-sibling" in line for line in report.complaints)
    assert any("not on the same node" in line for line in layout["warnings"])


def test_sockets_that_an_xapic_can_number(lab: Callable[..., Libvirt], call: Call) -> None:
    """255 vCPUs in five cells still start: sockets of a whole cell would need ids over 254."""
    libvirt = lab("rfc-8n240c", shim=True)
    libvirt.clear()
    emulated = "<cpu mode='maximum' check='none'/>"
    libvirt.define(anuma("many", 255, 4 << 20, kind="qemu", cpu=emulated))
    options = {"cells": 5, "threads": 1}
    run = call("vnuma_partition", {"uri": libvirt.uri, "guests": [{"name": "many"}], **options})
    assert not run.failed, run.msg
    (guest,) = run.result["guests"]
    assert [cell["vcpus"] for cell in guest["layout"]["cells"]][1] == "51-101"
    assert not any("APIC" in line for line in guest["warnings"])
    libvirt.virsh("start", "--paused", "many")
    libvirt.clear()


def test_evidence_of_a_guest_that_does_not_come_up(
    lab: Callable[..., Libvirt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vCPUs' registers, twice; its threads; what its QEMU was given; its console."""
    monkeypatch.setattr(bootstate, "FOLDER", tmp_path / "evidence")
    libvirt = lab("asymmetric-4n16c")
    libvirt.clear()
    console = tmp_path / "guest.log"
    libvirt.define(guestboot.domain_xml("guest", 4, 320, console))
    with pytest.raises(TimeoutError, match="no QEMU has that file open"):
        guestboot.wait_for_boots(console, 1, patience_s=0)
    # It runs, and no vCPU of it does: it will never come up.
    libvirt.virsh("start", "--paused", "guest")
    with pytest.raises(TimeoutError, match="0 of 1 times") as failed:
        guestboot.wait_for_boots(console, 1, patience_s=0)
    (path,) = [path for path in (tmp_path / "evidence").iterdir() if str(path) in str(failed.value)]
    text = path.read_text()
    for vcpu in range(4):
        assert len(re.findall(rf"^CPU#{vcpu}$", text, re.MULTILINE)) == 2
    # Where a processor begins (Intel's manual, volume 3, 10.1.4).
    assert text.count("EIP=0000fff0") == 8
    assert "paused" in text
    assert "CPU 0/TCG" in text
    assert text.count("-name guest=guest") == 2
    assert re.search(r"^load: \d", text, re.MULTILINE)
    libvirt.clear()
