# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The measure of real placement finds each fault that it is there for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numahost
import pytest
import sysfs
from errors import LabError
from evidence import Evidence, Placement, filled
from guestboot import GuestNode, GuestReport

SPEC = sysfs.load(Path(__file__).resolve().parents[1] / "lab/numahosts/asymmetric-4n6c.json")
DISTANCES = [(10, 17, 22), (18, 10, 29), (23, 26, 10)]


def _mirrored() -> Evidence:
    """A guest with 6 vCPUs and 384 MiB that mirrors the host, as far as anyone can tell."""
    nodes = {
        cell: GuestNode(f"{2 * cell}-{2 * cell + 1}", DISTANCES[cell], 128000, 48)
        for cell in range(3)
    }
    siblings = {cpu: str(cpu) for cpu in range(6)}
    alone = dict.fromkeys(range(6), 0)
    report = GuestReport(nodes, siblings, alone, alone, {}, complaints=(), log_lines=500)
    pins = [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {4, 5}, {4, 5}]
    placement = Placement(pins, [{0: 60000}, {1: 60000}, {2: 60000}])
    return Evidence(SPEC, report, placement, 384)


def _unpartitioned() -> Evidence:
    node = GuestNode("0-5", (10,), 380000, 144)
    report = GuestReport({0: node}, {}, {}, {}, {}, complaints=(), log_lines=500)
    placement = Placement([set(range(6))] * 6, [{0: 50000, 1: 60000, 2: 70000}])
    return Evidence(SPEC, report, placement, 384)


def test_nothing_is_wrong_with_a_guest_that_mirrors_its_host() -> None:
    """Its own nodes, CPUs, distances and memory, and every page at home."""
    assert _mirrored().bound() == []
    assert filled(_mirrored().report, 24) == []
    assert _mirrored().local_shares() == [1, 1, 1]


def _node(**changes: Any) -> Callable[[Evidence], None]:
    def change(evidence: Evidence) -> None:
        nodes = dict(evidence.report.nodes)
        nodes[1] = replace(nodes[1], **changes)
        evidence.report = replace(evidence.report, nodes=nodes)

    return change


def _complain(evidence: Evidence) -> None:
    line = "sched: CPU #1's smt-sibling CPU #0 is not on the same node! [node: 1 != 0]."
    evidence.report = replace(evidence.report, complaints=(line,))


def _forget_the_log(evidence: Evidence) -> None:
    evidence.report = replace(evidence.report, log_lines=0)


def _look_with_lscpu(evidence: Evidence) -> None:
    evidence.report = replace(evidence.report, lscpu=("CPU(s):  6", "NUMA node(s):  1"))


def _lose_a_node(evidence: Evidence) -> None:
    evidence.report = replace(evidence.report, nodes={0: evidence.report.nodes[0]})


def _unpin(evidence: Evidence) -> None:
    evidence.placement.vcpus[3] = set(range(6))


def _move_a_page(evidence: Evidence) -> None:
    evidence.placement.cells[2] = {2: 59996, 3: 4}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_node(cpus="2"), "node 1 has CPUs 2, not 2-3"),
        (_node(distances=(18, 10, 22)), "node 1 has distances (18, 10, 22), not (18, 10, 29)"),
        (_node(memory_kib=60000), "node 1 has 60000 KiB of 131072"),
        (_node(memory_kib=140000), "node 1 has 140000 KiB of 131072"),
        (_complain, "not on the same node"),
        (_forget_the_log, "the kernel's log has 0 lines"),
        (_look_with_lscpu, "its lscpu says that it has 1 nodes"),
        (_lose_a_node, "the guest has nodes [0], not 3 of them"),
        (_unpin, "vCPU 3 may run on pCPUs 0-5, not on 2-3"),
        (_move_a_page, "99.9 % of cell 2 is on host node 2"),
    ],
)
def test_each_fault_is_found(spoil: Callable[[Evidence], None], sentence: str) -> None:
    """One fault, one sentence."""
    evidence = copy.deepcopy(_mirrored())
    spoil(evidence)
    (wrong,) = evidence.bound()
    assert sentence in wrong


def test_memory_that_was_not_filled_proves_nothing() -> None:
    """Pages that were never asked for are nowhere."""
    evidence = _mirrored()
    _node(filled_mib=10)(evidence)
    assert filled(evidence.report, 24) == ["node 1 was filled with 10 MiB only"]


def test_without_a_binding_something_is_not_at_home() -> None:
    """A measure that finds everything at home also where nothing binds it measures nothing."""
    evidence = _mirrored()
    assert len(evidence.unbound()) == 1
    _move_a_page(evidence)
    assert evidence.unbound() == []


def test_an_unpartitioned_guest_is_everywhere() -> None:
    """One node, no pins, and its memory on no host node in particular."""
    assert _unpartitioned().scattered() == []
    assert len(_mirrored().scattered()) == 1
    assert len(_unpartitioned().bound()) == 1
    evidence = _unpartitioned()
    evidence.placement.cells[0] = {0: 50000, 1: 1}
    assert evidence.scattered() == ["99.9 % of the memory is on one host node"]


def test_emulated_machines_that_cannot_be() -> None:
    """A spec that QEMU or Linux would quietly make another host of is refused."""
    words = numahost.machine(SPEC)
    assert "node,nodeid=3,memdev=m3" in words
    assert "dist,src=2,dst=1,val=26" in words
    assert "6,sockets=3,cores=2,threads=1" in words
    for node, cpus in ((0, "0"), (1, ""), (3, "6")):
        spec = copy.deepcopy(SPEC)
        spec["nodes"][node]["cpus"] = cpus
        with pytest.raises(LabError, match="change the spec"):
            numahost.machine(spec)
