# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner, rule by rule: cells and pins."""

from __future__ import annotations

from typing import Any

import pytest
from planning import GuestOf, HostOf, planned, refusal


@pytest.mark.parametrize(
    ("vcpus", "options", "sentence"),
    [
        (
            3,
            {},
            "3 vCPUs cannot fill 8 cells; give it at least 8 vCPUs, or reduce nodes or cells to at "
            "most 3",
        ),
        (3, {"cells": 4}, "3 vCPUs cannot fill 4 cells"),
        (9, {"threads": 2}, "9 vCPUs are not a multiple of threads 2"),
        (14, {"threads": 2}, "14 vCPUs with threads 2 are 7 cores, which cannot fill 8 cells"),
        (18, {"split": "equal"}, "18 vCPUs do not divide evenly over 8 cells"),
        (24, {"split": "equal"}, "12 cores of 2 threads do not divide evenly over 8 cells"),
        (18, {"distribution": "round_robin", "threads": 2}, "cannot form 8 sockets of threads 2"),
        (16, {"nodes": "0,9"}, "host node 9 of nodes '0,9' does not exist; the nodes that can be"),
        (16, {"reserved_cpus": "15-29,135-149"}, "leaves no pCPU of host node 1 to pin to"),
        (16, {"emulator_pinning": "0,240"}, "names pCPU 240, which the host does not have online"),
    ],
)
def test_refusals(
    host: HostOf, guest: GuestOf, vcpus: int, options: dict[str, Any], sentence: str
) -> None:
    """The guest, both figures, and what to change."""
    said = refusal(guest(vcpus), host("rfc-8n240c"), **options)
    assert said.startswith("guest anuma: ")
    assert sentence in said


def test_no_topology(host: HostOf, guest: GuestOf) -> None:
    """One cell, nothing pinned, nothing bound."""
    layout = planned(guest(), host("edited-no-topology"), pinning="core")
    (cell,) = layout.cells
    assert (layout.host_nodes, layout.cell_pins(cell), cell.distances) == ((None,), (), (10,))
    assert (layout.vcpu_pins, layout.memory_mode, layout.nodeset) == ((), "none", ())
    assert "cells 2 is not possible" in refusal(guest(), host("edited-no-topology"), cells=2)


def test_pins(host: HostOf, guest: GuestOf) -> None:
    """Every online, unreserved pCPU of the node; or none."""
    layout = planned(guest(), host("rfc-8n240c"), reserved_cpus="0,120")
    assert layout.cell_pins(layout.cells[0]) == (*range(1, 15), *range(121, 135))
    assert layout.vcpu_pins[0] == layout.cell_pins(layout.cells[0])
    assert layout.vcpu_pins[15] == (*range(105, 120), *range(225, 240))
    free = planned(guest(), host("rfc-8n240c"), pinning="none", memory_mode="none")
    assert (free.vcpu_pins, free.cell_pins(free.cells[0]), free.memory_mode) == ((), (), "none")


def test_emulator_and_iothreads(host: HostOf, guest: GuestOf) -> None:
    """The emulator on the chosen nodes or a cpuset, the iothreads on the nodes in turn."""
    threads = guest(iothread_ids=(1, 2, 5))
    layout = planned(
        threads,
        host("rfc-8n240c"),
        nodes="2-3",
        reserved_cpus="30",
        emulator_pinning="nodes",
        iothread_pinning="nodes",
    )
    second = tuple(cpu for cpu in (*range(30, 45), *range(150, 165)) if cpu != 30)
    third = (*range(45, 60), *range(165, 180))
    assert layout.emulator_pins == tuple(sorted((*second, *third)))
    assert layout.iothread_pins == {1: second, 2: third, 5: second}
    layout = planned(threads, host("rfc-8n240c"), emulator_pinning="0-1", reserved_cpus="0-1")
    assert layout.emulator_pins == (0, 1)
    assert layout.iothread_pins is None


@pytest.mark.parametrize(
    ("options", "emulator", "iothreads"),
    [
        ({}, None, None),
        ({"emulator_pinning": "nodes"}, None, None),
        ({"iothread_pinning": "nodes"}, None, None),
        ({"emulator_pinning": "0-1"}, (0, 1), None),
    ],
)
def test_helpers_without_topology(
    host: HostOf, guest: GuestOf, options: dict[str, Any], emulator: Any, iothreads: Any
) -> None:
    """Without nodes there is nowhere to pin to but a cpuset."""
    layout = planned(guest(iothread_ids=(1,)), host("edited-no-topology"), **options)
    assert (layout.emulator_pins, layout.iothread_pins) == (emulator, iothreads)


def test_reserved_cpus_matter_only_to_pins(host: HostOf, guest: GuestOf) -> None:
    """A node without an unreserved pCPU still has memory for a guest that is not pinned."""
    options = {"reserved_cpus": "0-14,120-134", "pinning": "none"}
    assert len(planned(guest(), host("rfc-8n240c"), **options).cells) == 8
    for helper in ("emulator_pinning", "iothread_pinning"):
        assert "leaves no pCPU of host node 0 to pin to" in refusal(
            guest(), host("rfc-8n240c"), **options, **{helper: "nodes"}
        )
