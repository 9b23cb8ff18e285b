# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are partitioned and booted: what was planned, and what their own kernel sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import guestboot
from adhoc import Run
from conftest import Libvirt

#: Memory of such a guest, for all of its cells, in MiB.
MEMORY_MIB = 1024


def boot(
    libvirt: Libvirt,
    call: Callable[..., Run],
    folder: Path,
    vcpus: int,
    options: dict[str, Any],
    model: str = "kvm64",
) -> tuple[guestboot.GuestReport, dict[str, Any]]:
    """Partition a guest, boot it, and see that a second run has nothing to do.

    Args:
        libvirt: where; its guests are removed.
        call: calls a module.
        folder: where its console is kept.
        vcpus: how many it has.
        options: of vnuma_partition.
        model: its CPU model.

    Returns:
        What its kernel said, and its layout with the warnings about it.
    """
    libvirt.clear()
    console = folder / "console.log"
    console.unlink(missing_ok=True)
    definition = guestboot.domain_xml("guest", vcpus, MEMORY_MIB, console)
    libvirt.define(definition.replace("<model>kvm64<", f"<model>{model}<"))
    asked = {"uri": libvirt.uri, "guests": [{"name": "guest"}], **options}
    run = call("vnuma_partition", asked)
    assert not run.failed, run.msg
    (guest,) = run.result["guests"]
    libvirt.virsh("start", "guest")
    try:
        guestboot.wait_for_boots(console, 1)
        again = call("vnuma_partition", asked)
        assert not again.result["changed"]
        assert again.result["restart_required"] == []
    finally:
        libvirt.clear()
    return guestboot.read_report(console), {**guest["layout"], "warnings": guest["warnings"]}
