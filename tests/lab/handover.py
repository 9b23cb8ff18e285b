# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a guest stands still while it migrates, by vnuma_migrate and by virsh, in turn.

    "$(/usr/bin/python3 tests/tools/run.py --install)/bin/python" tests/lab/handover.py [ROUNDS]

Prints the seconds of each migration as JSON, by contestant. virsh has libvirt resume the guest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / "tools"), str(_TESTS / "integration")]

import commands
import trees
from errors import LabError
from faultbed import GUEST, HOSTS, Bed, ended
from twocopies import monitors

CONTESTANTS = ("virsh migrate", "vnuma_migrate")


class Listener:
    """Notes when the QEMUs of a guest stop and resume it, by their own clocks, which are one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.events: list[tuple[str, float]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            with contextlib.suppress(OSError, ValueError):
                self._follow()
            time.sleep(0.02)

    def _follow(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as monitor:
            monitor.connect(str(self._path))
            monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
            for line in monitor.makefile("rb"):
                said = json.loads(line)
                if said.get("event") in ("STOP", "RESUME"):
                    at = said["timestamp"]
                    when = at["seconds"] + at["microseconds"] / 1e6
                    self.events.append((said["event"], when))


class Handover:
    """A guest that goes to and fro.

    Args:
        folder: for what outlives a migration.
    """

    def __init__(self, folder: Path) -> None:
        self._bed = Bed(f"ho{os.getpid() % 100000}", f"10.82.{os.getpid() % 250}", folder, 0)
        self._folder = folder

    def __enter__(self) -> Handover:
        """Boot it, and have it on both hosts once, so that both definitions are known."""
        self._bed.open()
        roots = {name: self._bed.host(name).root for name in HOSTS}
        paths = monitors(roots, GUEST)
        self._listeners = {name: Listener(path) for name, path in paths.items()}
        self._files: dict[str, tuple[Path, Path]] = {}
        for name, other in (HOSTS, HOSTS[::-1]):
            self._files[name] = (self._dump(name, "--migratable"), self._dump(name, "--inactive"))
            self._ours(name, other)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._bed.close()

    def _dump(self, name: str, form: str) -> Path:
        # Where its daemon's mounts do not hide it.
        path = self._folder / f"{name}{form}.xml"
        path.write_text(self._bed.virsh(name, "dumpxml", "--security-info", form, GUEST))
        return path

    def _ours(self, source: str, _target: str) -> None:
        call = ended(self._bed.modules[source, True].begin(), time.monotonic())
        if call.end != "changed" or not call.result or call.result.get("failed"):
            raise LabError(f"it was not migrated: {call.output[-600:]}")

    def _virsh(self, source: str, target: str) -> None:
        to: dict[str, Any] = self._bed.target(target)
        live, persistent = self._files[target]
        self._bed.host(source).exec(
            [
                *("virsh", "migrate", "--live", "--p2p", "--persistent", "--undefinesource"),
                *("--xml", str(live), "--persistent-xml", str(persistent)),
                *(GUEST, to["uri"], "--migrateuri", to["data_uri"]),
            ]
        )

    def stands_still_s(self, contestant: str, source: str, target: str) -> float:
        """Migrate it, and return from when to when none of its vCPUs ran, in seconds."""
        for listener in self._listeners.values():
            listener.events.clear()
        (self._ours if contestant == "vnuma_migrate" else self._virsh)(source, target)
        time.sleep(0.3)
        stops = [when for what, when in self._listeners[source].events if what == "STOP"]
        resumes = [when for what, when in self._listeners[target].events if what == "RESUME"]
        if not stops or not resumes:
            raise LabError(f"no events: {[one.events for one in self._listeners.values()]}")
        return resumes[-1] - stops[-1]


def main() -> int:
    """Run the command line."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    folder = Path(tempfile.mkdtemp(prefix="vnuma-handover-"))
    commands.configure(trees.INSTALLED, folder / "ansible", ANSIBLE_KEEP_REMOTE_FILES="1")
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    try:
        with Handover(folder) as guest:
            for _round in range(rounds):
                # There by one and back by the other, and then the other way round.
                for there, back in (CONTESTANTS, CONTESTANTS[::-1]):
                    found[there].append(guest.stands_still_s(there, *HOSTS))
                    found[back].append(guest.stands_still_s(back, *HOSTS[::-1]))
    except LabError as error:
        print(f"handover: {error}", file=sys.stderr)
        return 3
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
