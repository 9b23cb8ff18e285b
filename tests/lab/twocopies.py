# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watching both hosts for two running copies of a guest, whatever their daemons do.

Each QEMU has a monitor for the watcher alone, by which it says whether its vCPUs run. libvirt is
not asked: it may be dead, and what it says is what is to be tested. The guest's own console tells
the rest: it says every second for how long it runs (vnuma.watch in guest_init.sh).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_EVERY_S = 0.1
_PATIENCE_S = 1.0
#: libvirt resumes a guest so soon after it has begun to finish its migration.
_RESUMES_S = 0.1
#: Below /run of its host, which every made-up host has of its own.
MONITOR = "vnuma-watch-{name}.qmp"


def with_monitor(definition: str, name: str) -> str:
    """Return a definition whose QEMU has a monitor for the watcher."""
    monitor = f"unix:/run/{MONITOR.format(name=name)},server=on,wait=off"
    arguments = "".join(f"<qemu:arg value='{one}'/>" for one in ("-qmp", monitor))
    return definition.replace(
        "<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1
    ).replace("</domain>", f"<qemu:commandline>{arguments}</qemu:commandline></domain>", 1)


def monitors(roots: Mapping[str, Path], name: str) -> dict[str, Path]:
    """Return the monitor of a guest on each made-up host, by the host's folder."""
    return {host: root / "run" / MONITOR.format(name=name) for host, root in roots.items()}


def wait_for_handover(root: Path, name: str, is_over: Callable[[], bool]) -> bool:
    """Wait until a migration has stopped a guest on its source, and tell whether it has.

    Args:
        root: folder of the source.
        name: the guest.
        is_over: whether nothing is waited for any more.
    """
    status = root / f"run/libvirt/qemu/{name}.xml"
    while not is_over():
        with contextlib.suppress(OSError):
            if "<domstatus state='paused' reason='migration'" in status.read_text(errors="replace"):
                return True
        time.sleep(0.001)
    return False


def wait_for_finish(root: Path, name: str, is_over: Callable[[], bool]) -> None:
    """Wait until the target's daemon finishes a migration, and has resumed the guest if it does so.

    Args:
        root: folder of the target.
        name: the guest.
        is_over: whether nothing is waited for any more.
    """
    status = root / f"run/libvirt/qemu/{name}.xml"
    until = None
    while not is_over() and (until is None or time.monotonic() < until):
        with contextlib.suppress(OSError):
            text = status.read_text(errors="replace")
            if until is None and "phase='finish3'" in text:
                until = time.monotonic() + _RESUMES_S
            if until is not None and "<domstatus state='running'" in text:
                return
        time.sleep(0.001)


class Monitor:
    """One QEMU's monitor, connected to again whenever there is another QEMU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lines: Any = None

    def runs(self) -> bool:
        """Tell whether the vCPUs of the QEMU behind it run; one that is not there does not."""
        for _try in range(2):
            try:
                if self._socket is None:
                    self._connect()
                return bool(self._ask("query-status")["running"])
            except (OSError, ValueError):
                self.close()
        return False

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_PATIENCE_S)
        self._socket.connect(str(self._path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self._ask("qmp_capabilities")

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._socket is not None
        self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            line = self._lines.readline()
            if not line:
                raise ConnectionError
            answer = json.loads(line)
            if "error" in answer:
                raise ValueError(answer)
            if "return" in answer:
                found: dict[str, Any] = answer["return"]
                return found


class Watcher:
    """Looks at both hosts all the time.

    Args:
        monitors: the monitor's socket on each host, by the host's name.
    """

    def __init__(self, monitors: Mapping[str, Path]) -> None:
        self._monitors = {name: Monitor(path) for name, path in monitors.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples = 0
        self.twice: list[float] = []
        #: Where it ran at the last look.
        self.running: tuple[str, ...] = ()

    def __enter__(self) -> Watcher:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()
        for monitor in self._monitors.values():
            monitor.close()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_S):
            running = [name for name, one in self._monitors.items() if one.runs()]
            # A guest may have been handed over between the two questions: not there and back.
            if len(running) > 1 and self._monitors[running[0]].runs():
                self.twice.append(time.time())
            self.running = tuple(running)
            self.samples += 1


def uptimes(console: Path) -> list[float]:
    """Return what a guest has said of how long it runs, since it last came up."""
    text = console.read_text(errors="replace").replace("\r", "") if console.exists() else ""
    last = text.rpartition("VNUMA-READY")[2]
    return [float(one) for one in re.findall(r"^VNUMA-SEES ([\d.]+) .*$", last, re.MULTILINE)]


def went_back(console: Path) -> list[tuple[float, float]]:
    """Return where a guest said that it runs for no longer than it had said before.

    One that was resumed from an older copy does, and so do two that write to one console.
    """
    said = uptimes(console)
    return [(one, other) for one, other in zip(said, said[1:]) if other <= one]
