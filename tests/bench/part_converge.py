# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converging the guests of one libvirt daemon, against loops and against the floor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from statistics import median

from bed import Bed
from report import Part, Table, Target
from timing import (
    BenchError,
    Contestant,
    Run,
    alternate,
    cpu,
    cpu_ratio,
    ratio,
    spread,
    together,
    wall,
)

_GUESTS = 100
_ROUNDS = 7
_ROUNDS_OF_LOOPS = 2
_ROUNDS_OF_SCALE = 3
_TURNS_OF_TASKS = 6
_NOBODY = "ours, no guest matches"
_NO_OP, _FIRST = "nothing to do", "first run"

_HERE, _OVER_SSH = "on this machine", "over ssh"
_NO_OP_TARGETS = {_HERE: 1.45, _OVER_SSH: 1.25}

_VIRT = "loop of community.libvirt.virt"
_FLOOR = "floor: ping, and bare libvirt"
_COLUMNS = ("contestant", "wall", "own CPU", "to ping", "to the floor", "from-to")

Runs = Mapping[str, Sequence[Run]]


def measure() -> Part:
    """Measure 100 guests, against everything."""
    if shutil.which("virt-xml") is None:
        raise BenchError("virt-xml is missing; run 'tests/tools/bootstrap.sh virtinst'")
    part = Part("converge", f"Converging {_GUESTS} guests on one libvirt daemon")
    for where, hosts in ((_HERE, 0), (_OVER_SSH, 1)):
        with Bed(_GUESTS, hosts) as bed:
            for state in (_NO_OP, _FIRST):
                runs = alternate(_side_by_side(bed, first=state == _FIRST), _ROUNDS)
                part.tables.append(_whole(f"Whole commands {where}, {state}", runs))
                _keep(part, f"{where}, {state}", runs)
                _promise(part, where, state, runs)
            if not hosts:
                part.tables.append(_tasks(part, bed))
                for state in (_NO_OP, _FIRST):
                    part.tables.append(_loops(part, bed, state))
    return part


def measure_scale() -> Part:
    """Measure 10, 100 and 500 guests, against the floor."""
    part = Part("scale", "Converging 10, 100 and 500 guests")
    table = Table(
        "Whole commands on this machine",
        ("guests", "", "ping", "bare libvirt", "ours", "to ping", "to the floor"),
    )
    for count, power in ((10, "off"), (100, "off"), (500, "off"), (100, "running")):
        with Bed(count, running=power == "running") as bed:
            for state in (_NO_OP, _FIRST) if power == "off" else (_NO_OP,):
                runs = alternate(_side_by_side(bed, first=state == _FIRST), _ROUNDS_OF_SCALE)
                _keep(part, f"{count} guests, {power}, {state}", runs)
                floor = together(runs["ping"], runs["bare libvirt"])
                table.rows.append(
                    (
                        f"{count}, {power}",
                        state,
                        *(f"{wall(runs[one]):.2f} s" for one in ("ping", "bare libvirt", "ours")),
                        f"{ratio(runs['ours'], runs['ping']):.2f}",
                        f"{ratio(runs['ours'], floor):.2f}",
                    )
                )
    table.notes.append(
        f"Medians of {_ROUNDS_OF_SCALE} turns. Of a running guest the live definition is read and "
        "compared as well, which the floor does not do."
    )
    part.tables.append(table)
    return part


def _side_by_side(bed: Bed, *, first: bool) -> dict[str, Contestant]:
    return {
        "no task": bed.nothing(),
        "ping": bed.ping(),
        "bare libvirt": bed.bare(first=first),
        **({} if first else {_NOBODY: bed.ours_without_guests()}),
        "ours": bed.ours(first=first),
    }


def _whole(title: str, runs: Runs) -> Table:
    floor = together(runs["ping"], runs["bare libvirt"])
    table = Table(title, _COLUMNS)
    for name, ran in {**runs, _FLOOR: floor}.items():
        low, high = spread(ran, floor)
        table.rows.append(
            (
                name,
                f"{wall(ran):.3f} s",
                f"{cpu(ran):.3f} s",
                f"{ratio(ran, runs['ping']):.2f}",
                f"{ratio(ran, floor):.2f}",
                f"{low:.2f}-{high:.2f}",
            )
        )
    table.notes.append(
        f"Medians of {len(floor)} turns, each of which runs every contestant once. In CPU seconds "
        f"of its own, without the daemon's, ours is {cpu_ratio(runs['ours'], floor):.2f} times the "
        f"floor and {cpu_ratio(runs['ours'], runs['ping']):.2f} times ping. 'ping' is "
        "ansible-playbook with one task, ansible.builtin.ping; 'no task' has none, so that the "
        "difference of the two is the module call alone. 'bare libvirt' is a Python process that "
        "lists and reads every guest, and on a first run defines it, validated as ours does."
    )
    if _NOBODY in runs:
        table.notes.append(
            f"'{_NOBODY}' is what Ansible takes to pack, send and load the collection's code; the "
            "rest of ours is libvirt's, planning, and Ansible's handling of the result."
        )
    return table


def _promise(part: Part, where: str, state: str, runs: Runs) -> None:
    ours, ping = runs["ours"], runs["ping"]
    if state == _NO_OP:
        what = f"{state}, {where}: to one ping"
        part.targets.append(Target(what, ratio(ours, ping), _NO_OP_TARGETS[where]))
    floor = together(ping, runs["bare libvirt"])
    what = f"{state}, {where}: to one ping and bare libvirt"
    part.targets.append(Target(what, ratio(ours, floor), 1.3))


def _loops(part: Part, bed: Bed, state: str) -> Table:
    first = state == _FIRST
    contestants = {"ours": bed.ours(first=first), _VIRT: bed.virt_loop(first=first)}
    if first:
        # It changes the definition whatever stands there, and has no other kind of run.
        contestants["loop of virt-xml"] = bed.virt_xml_loop()
    runs = alternate(contestants, _ROUNDS_OF_LOOPS)
    _keep(part, f"loops, {state}", runs)
    if not first:
        what = f"{state}: times as fast as a {_VIRT}"
        figure = ratio(runs[_VIRT], runs["ours"])
        part.targets.append(Target(what, figure, 25, at_most=False))
    table = Table(
        f"Against loops on this machine, {state}", ("contestant", "wall", "times as long as ours")
    )
    for name, ran in runs.items():
        table.rows.append((name, f"{wall(ran):.2f} s", f"{ratio(ran, runs['ours']):.1f}"))
    table.notes.append(
        f"Medians of {_ROUNDS_OF_LOOPS} turns. community.libvirt.virt is given definitions that "
        "are partitioned already. Neither loop plans anything, looks whether there is something "
        "to do, or checks what libvirt made of it."
    )
    return table


def _tasks(part: Part, bed: Bed) -> Table:
    seconds = bed.task_seconds(_TURNS_OF_TASKS)
    part.raw["tasks, nothing to do"] = seconds
    # The first turn builds the modules' archives, which a run does once.
    ping, ours = (seconds[name][1:] for name in ("ping", "vnuma_partition"))
    table = Table("Tasks of one play, nothing to do", ("task", "first", "later", "to ping"))
    for name, ran in (("ping", ping), ("vnuma_partition", ours)):
        table.rows.append(
            (
                name,
                f"{seconds[name][0]:.3f} s",
                f"{median(ran):.3f} s",
                f"{median(one / other for one, other in zip(ran, ping)):.2f}",
            )
        )
    table.notes.append(
        "The tasks alone, without the start of ansible-playbook; ours includes its bare libvirt "
        "reads."
    )
    return table


def _keep(part: Part, what: str, runs: Runs) -> None:
    part.raw[what] = {
        name: [{"wall_s": run.wall_s, "cpu_s": run.cpu_s} for run in ran]
        for name, ran in runs.items()
    }
