# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role over many hosts, each behind real ssh."""

from __future__ import annotations

from bed import Bed
from report import Part, Table, Target
from timing import alternate, ratio, wall

_GUESTS = 10
_HOSTS = (1, 5, 20)
_ROUNDS = 3


def measure() -> Part:
    """Measure the role over 1, 5 and 20 hosts."""
    part = Part("fleet", f"The role over many hosts, {_GUESTS} guests each")
    table = Table(
        "Whole commands",
        (
            "hosts",
            "ping",
            "role, nothing to do",
            "to ping",
            "the same, serial: 1",
            "to ping",
            "role, first run",
            "to ping",
            "per host",
        ),
    )
    for count in _HOSTS:
        with Bed(_GUESTS, count) as bed:
            runs = alternate(
                {
                    "ping": bed.ping(),
                    "no-op": bed.role(first=False),
                    "no-op, serial 1": bed.role(first=False, serial="1"),
                    "first": bed.role(first=True),
                },
                _ROUNDS,
            )
        part.raw[f"{count} hosts"] = {
            name: [{"wall_s": run.wall_s, "cpu_s": run.cpu_s} for run in ran]
            for name, ran in runs.items()
        }
        ping, one_by_one = runs["ping"], runs["no-op, serial 1"]
        table.rows.append(
            (
                str(count),
                f"{wall(ping):.2f} s",
                f"{wall(runs['no-op']):.2f} s",
                f"{ratio(runs['no-op'], ping):.2f}",
                f"{wall(one_by_one):.2f} s",
                f"{ratio(one_by_one, ping):.2f}",
                f"{wall(runs['first']):.2f} s",
                f"{ratio(runs['first'], ping):.2f}",
                f"{wall(runs['no-op']) / count:.2f} s",
            )
        )
    what = f"nothing to do on {count} hosts, serial: 1: to one ping of each"
    part.targets.append(Target(what, ratio(one_by_one, ping), 1.4))
    table.notes.append(
        f"Medians of {_ROUNDS} turns. The role is kvm.vnuma.converge, which plans the whole fleet "
        "side by side, and then visits the hosts that have something to do, on the first run all "
        "at a time; guests are off, so that nothing is restarted. Hosts are network namespaces "
        "with ssh daemons on this machine, whose processors all of them share; Ansible's default "
        "of five forks. 'per host' is the run with nothing to do."
    )
    part.tables.append(table)
    return part
