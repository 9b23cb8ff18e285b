# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test guest that does not come up is doing, by its QEMU's own monitor.

Whoever waits for a guest knows the file that its console is written to, and nothing else. That file
leads to the QEMU that holds it open, and from there to the libvirt daemon that started it: the one
whose socket lies in the same mount namespace.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

#: Where evidence is put; build/ is kept by what collects a failed run.
FOLDER = Path(__file__).resolve().parents[2] / "build" / "evidence-boot"
#: libvirt's daemon, then the modular one.
_SOCKETS = ("run/libvirt/libvirt-sock", "run/libvirt/virtqemud-sock")
#: Asked twice: a vCPU whose registers are the same a second later is stuck, or sleeps.
_QUESTIONS = ("info status", "info cpus", "info registers -a", "info lapic", "info irq")
_PAUSE_S = 1.0
#: A monitor that does not answer is evidence too.
_PATIENCE_S = 30.0


def keep(console: Path) -> str:
    """Put all that can be known about a guest into a file, and say in a few words where.

    Args:
        console: the file that its console is written to.
    """
    pid = _writer(console)
    parts = [f"console: {console}", f"load: {Path('/proc/loadavg').read_text().strip()}"]
    if pid is None:
        parts.append("no QEMU has that file open: the guest does not run.")
    else:
        parts += _about(pid)
    parts.append(f"what is on its console:\n{_text(console)}")
    path = FOLDER / f"{console.stem}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(parts))
    except OSError as error:
        return f"{parts[2].splitlines()[0]} (its state could not be kept: {error})"
    return f"its state is in {path}" if pid else f"{parts[2]} More is in {path}"


def _about(pid: int) -> list[str]:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    parts = [f"QEMU {pid}: {' '.join(words)}", f"its threads:\n{_threads(pid)}"]
    name = next((found[1] for word in words if (found := re.match(r"guest=([^,]+)", word))), "")
    root = Path(f"/proc/{pid}/root")
    # Another QEMU than libvirt's has neither of them.
    for socket in (root / path for path in _SOCKETS):
        if name and socket.exists():
            for _again in range(2):
                parts += [_ask(socket, name, question) for question in _QUESTIONS]
                time.sleep(_PAUSE_S)
            break
    parts.append(f"its threads after that:\n{_threads(pid)}")
    parts.append(f"its log:\n{_text(root / f'var/log/libvirt/qemu/{name}.log')[-4000:]}")
    return parts


def _ask(socket: Path, name: str, question: str) -> str:
    command = ["virsh", "--quiet", "--connect", f"qemu:///system?socket={socket}"]
    try:
        done = subprocess.run(
            [*command, "qemu-monitor-command", name, "--hmp", question],
            check=False,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return f"{question}: no answer in {_PATIENCE_S:.0f} s"
    return f"{question}:\n{done.stdout}{done.stderr}".replace("\r", "").rstrip()


def _writer(console: Path) -> int | None:
    """Return the process id of the QEMU that has a file open, None where none has."""
    try:
        wanted = console.stat()
    except FileNotFoundError:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not (folder / "comm").read_text().startswith("qemu-system"):
                continue
            if any(os.path.samestat(wanted, path.stat()) for path in _open_files(folder)):
                return int(folder.name)
        except OSError:
            # It ended, or it is not ours to look at.
            continue
    return None


def _open_files(folder: Path) -> list[Path]:
    return [path for path in (folder / "fd").iterdir() if path.exists()]


def _threads(pid: int) -> str:
    """Return for each thread its name, its state, its ticks, and where in the kernel it waits."""
    lines = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name)):
        try:
            name, _end, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            waits = _text(task / "wchan")
        except OSError:
            continue
        # Fields 3, 14 and 15 of proc_pid_stat(5).
        lines.append(f"{task.name} {name}: {fields[0]} {fields[11]}+{fields[12]} {waits}")
    return "\n".join(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\r", "")
    except OSError as error:
        return f"({error.strerror})"
