# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a definition already says what a layout would have it say; knows no edit.

Editing a definition and comparing what came of it gives the same answer, and takes several times as
long. On most runs most guests are settled.
"""

from __future__ import annotations

from typing import Any

from .._planner.plan import Layout
from .._policy import Policy, policy_to_record
from .record import find_record, original, states
from .xml import Element


def is_settled(root: Element, now: dict[str, Any], layout: Layout, policy: Policy) -> bool:
    """Tell whether writing the layout would change nothing; False where only the edit can tell.

    Args:
        root: ``<domain>`` of the definition.
        now: what is managed in it, see `_domain.managed`.
        layout: the layout that would be written.
        policy: the policy that would be recorded.

    Raises:
        DomainError: when the record is damaged.
    """
    record, recorded = find_record(root), policy_to_record(policy)
    if record is None or not states(record, recorded):
        return False
    original(record)
    pins = _helper_pins(layout, recorded)
    if pins is None:
        return False
    mode, bound = layout.memory_mode, layout.memory_mode != "none"
    shape = layout.topology
    wanted: dict[str, Any] = {
        **pins,
        "placement": "static",
        "vcpupin": dict(enumerate(layout.vcpu_pins)),
        "memory": (mode, "static", layout.nodeset) if bound and mode != "preferred" else None,
        "memnode": {cell.id: (mode, "static", (cell.host_node,)) for cell in layout.cells if bound},
        "topology": {
            "sockets": shape.sockets,
            "dies": shape.dies,
            "clusters": 1,
            "cores": shape.cores,
            "threads": shape.threads,
        },
        "cells": _cells(layout, now["cells"]),
    }
    if policy.cpu_mode != "keep":
        wanted["cpu_mode"] = policy.cpu_mode
    return all(now[key] == value for key, value in wanted.items())


def _helper_pins(layout: Layout, recorded: dict[str, str]) -> dict[str, Any] | None:
    """Return the pins of emulator and iothreads; None where what stood before has to come back."""
    pins: dict[str, Any] = {}
    if "emulator_pinning" in recorded:
        pins["emulatorpin"] = {0: layout.emulator_pins} if layout.emulator_pins else {}
    if "iothread_pinning" in recorded:
        pins["iothreadpin"] = dict(layout.iothread_pins or ())
    return None if any(not those for those in pins.values()) else pins


def _cells(layout: Layout, now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # New cells share their memory as those before them did.
    sharing = {name: now[0][name] if now else None for name in ("memAccess", "discard")}
    return [
        {
            "id": cell.id,
            "cpus": cell.vcpus,
            "memory_kib": cell.memory_kib,
            "distances": dict(enumerate(cell.distances)),
            **sharing,
        }
        for cell in layout.cells
    ]
