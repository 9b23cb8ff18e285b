# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What part_caches measures, as JSON: how many L3 caches the cores of guests are spread over.

Others are plain models, of how they choose cores where nobody asks for caches. Both keep a guest on
one node, and take the cores of it by number:

- Nova, virt/hardware.py, _pack_instance_onto_cores: sibling sets in order, of the fullest node that
  holds the guest.
- The kubelet, pkg/kubelet/cm/cpumanager/cpu_assignment.go, takeFullCores, without
  prefer-align-cpus-by-uncorecache (KEP 4800): sorted cores, of the lowest node that holds the pod.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))

from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import Placement
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import place_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options

#: Two EPYC with NPS4: nodes of three CCX of eight cores.
NODES, CACHES, CORES = 8, 3, 8
GUESTS, SIZES, FILL = 24, (3, 8, 12, 16), 0.85
HOSTS = 50
_GIB = 1 << 20
_POLICY = policy_from_options({"nodes": "auto", "pinning": "core"})
#: The cores of each guest, none for one that found no place.
Cores = list[tuple[int, ...]]


def instance(number: int) -> list[int]:
    """Return the sizes of guests that fill most of a host, in the order of their arrival."""
    draw = random.Random(f"caches {number}")  # noqa: S311 - sizes, and no secrets
    while True:
        sizes = [draw.choice(SIZES) for _guest in range(GUESTS)]
        if sum(sizes) <= FILL * NODES * CACHES * CORES:
            return sizes


def by_number(sizes: Sequence[int], order: Callable[[list[int]], int]) -> Cores:
    """Return the cores of guests that take those of one node by number.

    Args:
        sizes: of the guests.
        order: what orders the nodes that hold a guest, of their free cores; by id among equals.
    """
    width = CACHES * CORES
    free = [list(range(node * width, (node + 1) * width)) for node in range(NODES)]
    found: Cores = []
    for size in sizes:
        able = [node for node in range(NODES) if len(free[node]) >= size]
        node = min(able, key=lambda one: (order(free[one]), one), default=None)
        found.append(() if node is None else tuple(free[node][:size]))
        if node is not None:
            del free[node][:size]
    return found


def made() -> Host:
    """Return the host."""
    nodes = []
    for node in range(NODES):
        first = node * CACHES * CORES
        cpus = tuple(range(first, first + CACHES * CORES))
        domains = tuple(cpus[start : start + CORES] for start in range(0, len(cpus), CORES))
        distances = tuple(
            (other, 10 if other == node else 12 if other // 4 == node // 4 else 32)
            for other in range(NODES)
        )
        cores = tuple((cpu,) for cpu in cpus)
        nodes.append(
            Node(node, cpus, 192 * _GIB, distances=distances, cores=cores, cache_domains=domains)
        )
    return Host(tuple(nodes), arch="x86_64")


def together(applicants: Sequence[Applicant], host: Host) -> list[Applicant]:
    """Return guests where the collection puts and pins them, all in one call."""
    answers = place_guests(applicants, host, ()).answers
    placed = [index for index, one in enumerate(answers) if isinstance(one, Placement)]
    nodes = {
        position: answer.nodes
        for position, index in enumerate(placed)
        if isinstance(answer := answers[index], Placement)
    }
    asked = [(applicants[index].guest, _POLICY) for index in placed]
    done = list(applicants)
    for position, layout in enumerate(plan_guests(asked, host, placed=nodes)):
        if isinstance(layout, Layout):
            one = applicants[placed[position]]
            pins = tuple(enumerate(layout.vcpu_pins))
            guest = replace(one.guest, vcpu_pins=pins)
            done[placed[position]] = replace(
                one, guest=guest, current=nodes[position], was_placed=True
            )
    return done


def ours(sizes: Sequence[int], host: Host, at_once: bool) -> Cores:
    """Return the cores of guests that come all at once, or one after the other."""
    applicants = [
        Applicant(Guest(f"g{number:02}", f"u{number}", "x86_64", size, 4 * _GIB), _POLICY)
        for number, size in enumerate(sizes)
    ]
    if at_once:
        there = together(applicants, host)
    else:
        there = []
        for applicant in applicants:
            there = together([*there, applicant], host)
    return [tuple(cpus[0] for _vcpu, cpus in one.guest.vcpu_pins) for one in there]


def figures(found: Sequence[Cores], sizes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the share of guests in the fewest caches possible, by size and of all."""
    fewest: dict[int, list[bool]] = {size: [] for size in SIZES}
    for cores, wanted in zip(found, sizes):
        for owned, size in zip(cores, wanted):
            caches = len({core // CORES for core in owned})
            fewest[size].append(bool(owned) and caches == -(-size // CORES))
    every = [one for ones in fewest.values() for one in ones]
    return {"all": mean(every), **{str(size): mean(ones) for size, ones in fewest.items()}}


def main() -> None:
    """Measure, and print it."""
    host = made()
    sizes = [instance(number) for number in range(HOSTS)]
    found = {
        "kvm.vnuma, together": [ours(one, host, at_once=True) for one in sizes],
        "kvm.vnuma, one by one": [ours(one, host, at_once=False) for one in sizes],
        "Nova": [by_number(one, len) for one in sizes],
        "kubelet": [by_number(one, lambda _free: 0) for one in sizes],
    }
    print(json.dumps({"hosts": HOSTS, **{who: figures(one, sizes) for who, one in found.items()}}))


if __name__ == "__main__":
    main()
