# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host and the guests of a campaign of faults, and what the owners of the guests want."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from errors import LabError
from fakehost import FakeHost
from faultjudge import Element, unmanaged
from tinyguest import TinyGuest

_HOSTS = Path(__file__).resolve().parents[1] / "hosts"
_PATIENCE_S = 60.0
#: Longer than any guest takes to go down once it was asked to.
SLOWEST_S = 2
#: What an owner may want of a guest: ``either`` where the owner and a run have asked for opposites.
RUNS, OFF, PAUSED, SAVED, AWAY, TRANSIENT, GONE, EITHER = (
    *("runs", "off", "paused", "saved", "away", "transient", "gone", "either"),
)


@dataclass
class Owned:
    """A guest, and what its owner wants of it.

    Attributes:
        guest: its disk and its console.
        name: the one that it has now.
        uuid: its UUID.
        wants: one of the words above.
        job: the kind of job that its owner has begun on it, '' for none.
        job_boots: how often it had come up when that began.
        left: its definition without the managed elements, as its owner left it.
        backup: its definition, should it be undefined.
        disks: how many its owner has attached.
    """

    guest: TinyGuest
    name: str
    uuid: str
    wants: str
    left: Element
    job: str = ""
    job_boots: int = 0
    backup: str = ""
    disks: int = 0


class World:
    """One host with six guests, and another that they can be migrated to.

    Args:
        folder: for all that is not on a host; it is there, and empty.
        name: of the host.
        bare: whether a guest does not start that is bound to a node which this machine lacks.
    """

    def __init__(self, folder: Path, name: str, *, bare: bool) -> None:
        self.folder = folder
        self.bare = bare
        self.state_dir = folder / "state"
        self.host = FakeHost(name, _HOSTS / "asymmetric-4n16c.json", shim=not bare)
        self.other = FakeHost(f"{name}-b", _HOSTS / "all-ten-4n16c.json", shim=True)
        self.owned: list[Owned] = []

    def start(self) -> None:
        """Start both hosts and the guests: four run, two are off."""
        for host in (self.host, self.other):
            host.start()
        self.owned.clear()
        for number in range(1, 7):
            name = f"g{number}"
            kind = "qcow2" if number in (3, 4, 6) else "raw"
            guest = TinyGuest(name, self.folder, kind, shareable=kind == "raw")
            guest.make(delay_s=SLOWEST_S if number in (2, 4) else 0)
            self.define(guest.xml())
            uuid = self.virsh("domuuid", name)
            wants = RUNS if number < 5 else OFF
            left = unmanaged(self.dump(name))
            self.owned.append(Owned(guest, name, uuid, wants, left))
            if wants == RUNS:
                self.virsh("start", name)
        self.wait(lambda: all(one.guest.boots() for one in self.owned[:4]), "guests boot")

    def stop(self) -> None:
        """End both hosts, with all that runs on them."""
        for host in (self.host, self.other):
            host.stop()

    def virsh(self, *words: str, check: bool = True, on: FakeHost | None = None) -> str:
        """Run virsh and return what it printed.

        Raises:
            LabError: when it failed, or did not answer.
        """
        command = ["virsh", "--quiet", "--connect", (on or self.host).uri, *words]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"virsh {' '.join(words)} does not answer") from None
        if check and done.returncode:
            raise LabError(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return (done.stdout if check else done.stdout + done.stderr).strip()

    def define(self, xml: str) -> None:
        """Define a guest."""
        path = self.folder / f"define-{time.monotonic_ns()}.xml"
        path.write_text(xml)
        try:
            self.virsh("define", str(path))
        finally:
            path.unlink()

    def dump(self, name: str, *, live: bool = False) -> str:
        """Return a definition with its passwords."""
        return self.virsh("dumpxml", "--security-info", *([] if live else ["--inactive"]), name)

    def left(self, one: Owned) -> None:
        """Take what an owner has just defined for what it is to be."""
        one.left = unmanaged(self.dump(one.name))

    def states(self, on: FakeHost | None = None) -> dict[str, str]:
        """Return the state of every guest by name, as virsh says it."""
        return dict(
            re.findall(
                r"^\s*\S+\s+(\S+)\s+(.*?)\s*$", self.virsh("list", "--all", on=on), re.MULTILINE
            )
        )

    def persistent(self) -> list[str]:
        """Return the names of guests that have a persistent definition."""
        return self.virsh("list", "--all", "--persistent", "--name").split()

    def process_of(self, one: Owned, on: FakeHost | None = None) -> bool:
        """Tell whether a guest has a QEMU process on a host, whatever libvirt says."""
        words = ["pgrep", "-f", f"^/usr/bin/qemu-system-x86_64 .*uuid {one.uuid}"]
        return (on or self.host).exec(words, check=False).returncode == 0

    def end_held(self, names: set[str]) -> None:
        """Have the daemon forget guests that it holds half started, as our sentence says it."""
        self.host.kill_daemon(hold=True)
        for name in names:
            self.host.exec(["pkill", "-KILL", "-f", f"guest={name},"], check=False)
            (self.host.root / f"run/libvirt/qemu/{name}.xml").unlink()
        self.host.release_daemon()

    def noted(self, one: Owned) -> bool:
        """Tell whether a run has begun to restart a guest, and has not ended that."""
        return bool(list(self.state_dir.rglob(f"{one.uuid}.restart")))

    def counts_on(self, ones: list[Owned], patience_s: float = _PATIENCE_S) -> list[str]:
        """Return the names of guests that do not count on within the time that they are given."""
        before = {one.uuid: len(one.guest.counts()) for one in ones}
        deadline = time.monotonic() + patience_s
        still = ones
        while still and time.monotonic() < deadline:
            time.sleep(0.1)
            still = [one for one in still if len(one.guest.counts()) <= before[one.uuid] + 1]
        return [one.name for one in still]

    def wait(self, is_true: Callable[[], bool], what: str) -> None:
        """Wait until something is true.

        Raises:
            LabError: when it does not come true.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not is_true():
            if time.monotonic() > deadline:
                raise LabError(f"waited in vain: {what}")
            time.sleep(0.1)


def managed_differ(live: Element, persistent: Element) -> bool:
    """Tell whether a guest runs with other cells or another topology than it is defined with."""
    return _shape(live) != _shape(persistent)


def _shape(root: Element) -> tuple[object, ...]:
    cells = [
        (
            cell.get("cpus"),
            cell.get("memory"),
            [sorted(s.attrib.items()) for s in cell.iter("sibling")],
        )
        for cell in root.iterfind("cpu/numa/cell")
    ]
    topology = root.find("cpu/topology")
    binding = root.find("numatune")
    return (
        cells,
        None if topology is None else (topology.get("sockets"), topology.get("cores")),
        None if binding is None else [sorted(one.attrib.items()) for one in binding],
    )
