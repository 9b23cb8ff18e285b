# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a guest is down while it is restarted into its new layout, against virsh by hand."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import guestboot
import libvirt
from fakehost import FakeHost
from plays import Ansible
from report import Part, Table, Target
from timing import BenchError, Run, command
from venvs import PROJECT

_ROUNDS = 5
_GUEST = "guest"
_BY_HAND = """\
set -e
export LIBVIRT_DEFAULT_URI='{uri}'
virsh --quiet shutdown guest
until [ "$(virsh --quiet domstate guest)" = "shut off" ]; do sleep {pause}; done
virsh --quiet start guest
"""


class Watched:
    """A guest that runs under plain emulation, and whose power is watched through libvirt.

    Args:
        folder: for its console, and for what outlives a run.
    """

    def __init__(self, folder: Path) -> None:
        self._host = FakeHost(
            f"bench-down-{os.getpid()}", PROJECT / "tests/hosts/asymmetric-4n16c.json", shim=True
        )
        self._console = folder / "console.log"
        self._folder = folder
        self._ansible = Ansible(folder)
        self._events: list[tuple[int, float]] = []
        self._boots = 1

    def __enter__(self) -> Watched:
        """Boot it."""
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_events, daemon=True).start()
        self._host.start()
        self._connection: Any = libvirt.open(self._host.uri)
        self._connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note, None
        )
        self._connection.defineXML(guestboot.domain_xml(_GUEST, 4, 320, self._console)).create()
        guestboot.wait_for_boots(self._console, 1)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._host.stop()
        shutil.rmtree(self._host.root, ignore_errors=True)

    def by_hand(self, pause: str) -> Callable[[], Run]:
        """Shut it down and start it with virsh, looking again after a pause."""
        script = self._folder / f"by-hand-{pause}.sh"
        script.write_text(_BY_HAND.format(uri=self._host.uri, pause=pause))
        return lambda: command(["bash", script])

    def ours(self) -> Callable[[], Run]:
        """Restart it with vnuma_restart."""
        play = self._ansible.play("restart", [{"kvm.vnuma.vnuma_restart": self._arguments()}])
        return lambda: self._ansible.run(play)

    def measure(self, act: Callable[[], Run]) -> tuple[float, float]:
        """Restart it into two cells, then into four, and say how long it was down on average.

        Returns:
            Seconds from libvirt's event that it stopped to the one that it started, and from its
            shutting itself down to its being up again.
        """
        (off, down), (more_off, more_down) = (self._restart(act, cells) for cells in (2, 4))
        return (off + more_off) / 2, (down + more_down) / 2

    def _restart(self, act: Callable[[], Run], cells: int) -> tuple[float, float]:
        arguments = {**self._arguments(), "guests": [{"name": _GUEST}], "cells": cells}
        partition = {"kvm.vnuma.vnuma_partition": arguments}
        self._ansible.run(self._ansible.play("partition", [partition]))
        self._events.clear()
        act()
        self._boots += 1
        guestboot.wait_for_boots(self._console, self._boots)
        up = time.monotonic()
        when = dict(self._events)
        try:
            shutdown, stopped, started = (
                when[kind]
                for kind in (
                    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN,
                    libvirt.VIR_DOMAIN_EVENT_STOPPED,
                    libvirt.VIR_DOMAIN_EVENT_STARTED,
                )
            )
        except KeyError:
            raise BenchError(f"the guest was not restarted: {self._events}") from None
        return started - stopped, up - shutdown

    def _arguments(self) -> dict[str, Any]:
        return {"uri": self._host.uri, "state_dir": str(self._folder / "state")}

    def _note(
        self, _connection: Any, _domain: Any, event: int, _detail: int, _opaque: object
    ) -> None:
        self._events.append((event, time.monotonic()))


def measure() -> Part:
    """Measure downtime."""
    part = Part("downtime", "Downtime of a restart")
    folder = Path(tempfile.mkdtemp(prefix="vnuma-bench-"))
    try:
        with Watched(folder) as guest:
            acts = {
                "vnuma_restart": guest.ours(),
                "virsh, looking every 0.1 s": guest.by_hand("0.1"),
                "virsh, looking every second": guest.by_hand("1"),
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
            for _round in range(_ROUNDS):
                for name, act in acts.items():
                    found[name].append(guest.measure(act))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    part.raw = {
        name: [{"off_s": off, "down_s": down} for off, down in turns]
        for name, turns in found.items()
    }
    ours = found["vnuma_restart"]
    table = Table(
        "One guest, restarted into another layout",
        ("contestant", "without a process", "to ours", "until it is up again", "to ours"),
    )
    for name, turns in found.items():
        cells = [name]
        for which in (0, 1):
            cells.append(f"{median(turn[which] for turn in turns):.2f} s")
            cells.append(f"{_ratio(turns, ours, which):.2f}")
        table.rows.append(cells)
    table.notes.append(
        f"Medians of {_ROUNDS} turns of two restarts each, by libvirt's own events and the "
        "guest's console. Until it is up again, the guest boots under plain emulation: that is "
        "most of the time, and nobody's doing."
    )
    part.tables.append(table)
    by_hand = found["virsh, looking every 0.1 s"]
    part.targets.append(
        Target("without a process, to virsh by hand", _ratio(ours, by_hand, 0), 1.1)
    )
    return part


def _ratio(
    turns: list[tuple[float, float]], others: list[tuple[float, float]], which: int
) -> float:
    return median(one[which] / other[which] for one, other in zip(turns, others))


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
