# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What part_nova measures, as JSON: guests placed by the collection and by Nova's own code.

    nova_case.py PYTHON_WITH_NOVA [HOSTS]

Both get the same guests in the same order: `pinning: cpu`, nothing reserved for the host. They fit
by construction: nodes are cut into them, by threads, or by cores where guests have a CPU topology.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build/collections"))

from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host

_FIT = Path(__file__).resolve().parent / "nova_fit.py"
HOSTS, MEMORY_GIB = 10, 192
#: pCPUs of a node by threads of a core.
PCPUS = {1: 24, 2: 24, 8: 32}
FILLS = (0.8, 0.9, 0.95)
_OPTIONS = {"nodes": "auto", "pinning": "cpu", "reserved_memory": 0}
NOVA, ONE_BY_ONE, TOGETHER = "Nova, pack", "kvm.vnuma, one by one", "kvm.vnuma, together"
Instance = dict[str, Any]


def sets() -> Iterator[dict[str, Any]]:
    """Yield what differs from set to set."""
    plain = {"nodes": 4, "threads": 2, "topology": False, "before": "", "fill": 0.9}
    for fill in FILLS:
        for count in (2, 4, 8, 16):
            yield {**plain, "nodes": count, "threads": 1, "fill": fill}
        for threads in (2, 8):
            yield {**plain, "threads": threads, "fill": fill}
            yield {**plain, "threads": threads, "topology": True, "fill": fill}
    for before in ("pinned", "reserved"):
        for topology in (False, True):
            yield {**plain, "before": before, "topology": topology}
    for count in (8, 16):
        yield {**plain, "nodes": count}


def instance(seed: str, chosen: dict[str, Any]) -> Instance:
    """Return a host and its guests in the order of their arrival."""
    draw = random.Random(seed)  # noqa: S311 - sizes, and no secrets
    threads, count = chosen["threads"], chosen["nodes"]
    width = PCPUS[threads] // threads
    total = width * count
    # Siblings are far apart, as most hosts number them.
    cores = [
        [[one * total + node * width + core for one in range(threads)] for core in range(width)]
        for node in range(count)
    ]
    before: list[int] = []
    if chosen["before"]:
        before = sorted(draw.choice(core) for node in cores for core in draw.sample(node, 3))
    unit = threads if chosen["topology"] else 1
    left = []
    for node in cores:
        free = [[cpu for cpu in core if cpu not in before] for core in node]
        there = sum(len(core) // unit for core in free)
        left.append([int(there * chosen["fill"]), int(MEMORY_GIB * chosen["fill"])])
    guests = [
        {**guest, "vcpus": guest["vcpus"] * unit, "threads": threads if chosen["topology"] else 0}
        for guest in _cut_nodes(draw, left, PCPUS[threads] // unit, threads // unit)
    ]
    draw.shuffle(guests)
    return {
        "cores": cores,
        "memory_gib": MEMORY_GIB,
        "pinned": before if chosen["before"] == "pinned" else [],
        "reserved": before if chosen["before"] == "reserved" else [],
        "guests": guests,
    }


def _cut_nodes(
    draw: random.Random, left: list[list[int]], whole: int, core: int
) -> Iterator[dict[str, int]]:
    """Yield guests that fill nodes: a few take whole cores of two, which one could not hold."""
    for _guest in range(draw.randint(0, len(left) // 2)):
        both = left[2 * draw.randrange(len(left) // 2) :][:2]
        size, gib = whole // 2 + 1 + draw.randint(0, whole // 8), draw.choice((32, 64, 97))
        size = -(-size // core) * core
        if all(one[0] >= size and one[1] >= gib for one in both):
            yield {"nodes": 2, "vcpus": size, "memory_gib": gib}
            for one in both:
                one[0] -= size
                one[1] -= gib
    for units, gib in left:
        if min(units, gib) > 0:
            parts = draw.randint(1, min(7, units, gib))
            for size, memory in zip(_cut(draw, units, parts), _cut(draw, gib, parts)):
                yield {"nodes": 1, "vcpus": size, "memory_gib": memory}


def _cut(draw: random.Random, total: int, parts: int) -> list[int]:
    cuts = [0, *sorted(draw.sample(range(1, total), parts - 1)), total]
    return [after - before for before, after in zip(cuts, cuts[1:])]


def facts(given: Instance) -> dict[str, Any]:
    """Return a host in the shape of ``ansible_facts.vnuma_host``."""
    return {
        "arch": "x86_64",
        "nodes": [
            {
                "id": number,
                "cpus": _text(cpu for core in cores for cpu in core),
                "memory_kib": given["memory_gib"] << 20,
                "cores": [_text(core) for core in cores],
                "distances": {
                    str(other): 10 if other == number else 21
                    for other in range(len(given["cores"]))
                },
            }
            for number, cores in enumerate(given["cores"])
        ],
    }


def _text(cpus: Any) -> str:
    return ",".join(map(str, sorted(cpus)))


def _definition(name: str, vcpus: int, gib: int, inside: str) -> str:
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='GiB'>{gib}</memory>"
        f"<vcpu>{vcpus}</vcpu>{inside}<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        "<features><acpi/></features><devices/></domain>"
    )


def texts(given: Instance) -> tuple[list[str], dict[str, str]]:
    """Return the definitions of guests that are there before, and of those that arrive."""
    old, new = [], {}
    for number, cpu in enumerate(given["pinned"]):
        pin = f"<cputune><vcpupin vcpu='0' cpuset='{cpu}'/></cputune>"
        # Of no memory that is bound, and of little that is not.
        old.append(_definition(f"old{number}", 1, 0, pin).replace("'GiB'>0<", "'MiB'>1<"))
    for number, guest in enumerate(given["guests"]):
        vcpus, threads = guest["vcpus"] * guest["nodes"], guest["threads"]
        topology = f"<cpu><topology sockets='1' cores='{vcpus // (threads or 1)}' "
        topology += f"threads='{threads}'/></cpu>"
        name = f"g{number:03}"
        inside = topology if threads else ""
        new[name] = _definition(name, vcpus, guest["memory_gib"] * guest["nodes"], inside)
    return old, new


def ours(given: Instance) -> tuple[int, int]:
    """Return how many guests are placed one by one, and together."""
    host = facts(given)
    options: dict[str, Any] = {**_OPTIONS, "reserved_cpus": _text(given["reserved"]) or None}
    old, new = texts(given)
    there: list[str] = []
    for name, text in new.items():
        result = plan_host([*old, *there, text], host, [{"name": name}], **options)
        there += [guest["definition"] for guest in result["guests"]]
    result = plan_host([*old, *new.values()], host, [{"name": "g*"}], **options)
    together = [guest["definition"] for guest in result["guests"]]
    for written in (there, together):
        _check(given, written)
    return len(there), len(together)


def _check(given: Instance, written: list[str]) -> None:
    """Refuse plans that place more guests by giving a pCPU away twice."""
    pinned = re.findall(r"<vcpupin vcpu='?\"?\d+'?\"? cpuset=['\"]([^'\"]+)", "".join(written))
    taken = [*given["pinned"], *given["reserved"], *map(int, pinned)]
    if len(taken) != len(set(taken)):
        raise SystemExit("two guests own one pCPU")


def main(python: str, hosts: str = str(HOSTS)) -> None:
    """Measure, and print it."""
    chosen = list(sets())
    made = [[instance(f"{one} {number}", one) for number in range(int(hosts))] for one in chosen]
    given = json.dumps([one for every in made for one in every])
    done = subprocess.run([python, _FIT], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    nova = json.loads(done.stdout)
    rows = []
    for number, (one, every) in enumerate(zip(chosen, made)):
        theirs = nova[number * len(every) : (number + 1) * len(every)]
        found = [(other, *ours(case)) for other, case in zip(theirs, every)]
        asked = [len(case["guests"]) for case in every]
        share = {
            name: sum(row[place] for row in found) / sum(asked)
            for place, name in enumerate((NOVA, ONE_BY_ONE, TOGETHER))
        }
        wholly = {
            name: sum(row[place] == all_ for row, all_ in zip(found, asked)) / len(every)
            for place, name in enumerate((NOVA, ONE_BY_ONE, TOGETHER))
        }
        rows.append({**one, "guests": sum(asked), "share": share, "wholly": wholly})
    print(json.dumps({"hosts": int(hosts), "sets": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
