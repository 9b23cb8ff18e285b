# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What part_placement measures, as JSON; a process of its own, since it plans for minutes."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))

from ansible_collections.kvm.vnuma.plugins.module_utils._model import host as host_model
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import Placement
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import place_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from placement_models import (
    CORES,
    MEMORY_GIB,
    MODELS,
    Demand,
    Host,
    Nodes,
    distance,
    exists,
    instance,
    mean_distance,
    places_all,
)

HOSTS = 100
OURS = "kvm.vnuma"
_GIB = 1 << 20
_POLICY = policy_from_options({"nodes": "auto", "reserved_memory": 0})


def made(count: int) -> host_model.Host:
    """Return a host of so many nodes."""
    nodes = []
    for node in range(count):
        cpus = tuple(range(node * CORES, (node + 1) * CORES))
        distances = tuple((other, distance(node, other)) for other in range(count))
        nodes.append(
            host_model.Node(
                node,
                cpus,
                MEMORY_GIB * _GIB,
                distances=distances,
                cores=tuple((cpu,) for cpu in cpus),
            )
        )
    return host_model.Host(tuple(nodes), arch="x86_64")


def applicant(name: str, demand: Demand, current: Nodes = ()) -> Applicant:
    """Return a guest that asks for nodes, or that is on some."""
    vcpus, memory_gib = demand.cores * demand.nodes, demand.memory_gib * demand.nodes
    guest = Guest(name, name, "x86_64", vcpus, memory_gib * _GIB)
    return Applicant(guest, _POLICY, current, bool(current))


def ours(count: int, demands: list[Demand]) -> list[Nodes] | None:
    """Return where the collection puts guests, None where one is left."""
    host = made(count)
    applicants = [applicant(f"g{number:03}", one) for number, one in enumerate(demands)]
    answers = place_guests(applicants, host, ()).answers
    nodes = [one.nodes for one in answers if isinstance(one, Placement)]
    return nodes if len(nodes) == len(demands) else None


def wholly() -> list[dict[str, Any]]:
    """Return the share of hosts whose guests are all placed."""
    rows = []
    for count in (2, 4, 8):
        for fill in (0.9, 0.95):
            cases = [instance(f"{count} {fill} {number}", count, fill) for number in range(HOSTS)]
            share = {OURS: sum(ours(count, case) is not None for case in cases) / HOSTS}
            for name, model in MODELS.items():
                share[name] = sum(places_all(model, count, case) is not None for case in cases)
                share[name] /= HOSTS
            rows.append({"nodes": count, "fill": fill, "share": share})
    return rows


def small() -> dict[str, int]:
    """Return how many small cases can be placed, by trying everything and by ours."""
    possible = placed = 0
    for number in range(4 * HOSTS):
        draw = random.Random(f"small {number}")  # noqa: S311 - sizes, and no secrets
        count = draw.randint(2, 4)
        demands = [
            Demand(1, draw.randint(2, 16), draw.randint(8, 120))
            for _guest in range(draw.randint(3, 8))
        ]
        if exists(count, demands):
            possible += 1
            placed += ours(count, demands) is not None
    return {"hosts": 4 * HOSTS, "possible": possible, "placed": placed}


def distances() -> dict[str, float]:
    """Return the mean distance of guests on two nodes where everyone placed all guests."""
    sums: dict[str, list[float]] = {name: [] for name in (OURS, *MODELS)}
    for number in range(HOSTS):
        demands = instance(f"near {number}", 8, 0.9)
        found = {OURS: ours(8, demands)}
        found.update({name: places_all(model, 8, demands) for name, model in MODELS.items()})
        for name, nodes in found.items():
            if nodes is not None and found["kubelet"] is not None:
                sums[name] += [mean_distance(one) for one in nodes if len(one) == 2]
    return {name: sum(values) / max(1, len(values)) for name, values in sums.items()}


def online() -> dict[str, float]:
    """Return the share of guests that find a place on arrival, while others leave."""
    shares = {}
    for name, model in ({OURS: None} | MODELS).items():
        host, facts = Host(8), made(8)
        draw = random.Random("online")  # noqa: S311 - sizes, and no secrets
        there: dict[str, tuple[Demand, Nodes]] = {}
        accepted = 0
        arrivals = 600
        for number in range(arrivals):
            cores = draw.choice((1, 2, 2, 4, 4, 8, 12))
            demand = Demand(1, cores, cores * draw.choice((2, 4, 8, 16)))
            if draw.random() < 0.1:
                demand = Demand(2, draw.randint(13, 20), draw.choice((64, 100)))
            leaving = [one for one in there if draw.random() < 0.02]
            for one in leaving:
                host.take(there[one][1], there[one][0], -1)
                del there[one]
            if model is None:
                staying = [applicant(one, old, nodes) for one, (old, nodes) in there.items()]
                newcomer = applicant(f"g{number:04}", demand)
                answers = place_guests([newcomer, *staying], facts, ()).answers
                first = answers[0]
                nodes = first.nodes if isinstance(first, Placement) else None
            else:
                nodes = model(host, demand)
            if nodes is not None:
                host.take(nodes, demand)
                there[f"g{number:04}"] = (demand, nodes)
                accepted += 1
        shares[name] = accepted / arrivals
    return shares


def milliseconds(share: float) -> float:
    """Return how long 100 guests take that fill a part of eight nodes."""
    draw = random.Random("time")  # noqa: S311 - sizes, and no secrets
    cores = [draw.choice((1, 1, 2, 2, 3)) for _guest in range(100)]
    factor = share * 8 * MEMORY_GIB / sum(cores)
    demands = [Demand(1, one, max(1, int(one * factor))) for one in cores]
    host = made(8)
    applicants = [applicant(f"g{number:03}", one) for number, one in enumerate(demands)]
    times = []
    for _turn in range(5):
        started = time.process_time()
        place_guests(applicants, host, ())
        times.append(time.process_time() - started)
    return median(times) * 1000


def main() -> None:
    """Measure, and print it."""
    found = {
        "hosts": HOSTS,
        "wholly": wholly(),
        "small": small(),
        "distance": distances(),
        "online": online(),
        "fitting_ms": milliseconds(0.9),
        "overfull_ms": milliseconds(1.1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
