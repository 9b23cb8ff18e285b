# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a guest last started and ended, from the log that libvirt keeps of it.

libvirt says why a guest is off, and not since when. The log of each guest says both, on the host
itself (qemuProcessLaunch and qemuDomainLogAppendMessage, src/qemu in libvirt):
``2026-11-30 08:00:00.123+0000: starting up …`` and ``…: shutting down, reason=shutdown``.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_TAIL_BYTES = 256 << 10
_LINE = re.compile(
    rb"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+\+0000: "
    rb"(starting up|shutting down(?:, reason=([a-z ]+))?)",
    re.MULTILINE,
)
_SYSTEM, _SESSION = Path("var/log/libvirt/qemu"), "libvirt/qemu/log"


@dataclass(frozen=True)
class GuestLog:
    """What the log of a guest says of its last start and end.

    Attributes:
        started: seconds since the epoch, None where the log does not say.
        ended: likewise.
        reason: why it ended, as `Condition` has it; ``unknown`` where the log does not say.
    """

    started: float | None = None
    ended: float | None = None
    reason: str = "unknown"


def read_guest_log(uri: str, name: str) -> GuestLog:
    """Return what the log of a guest says; nothing where that is on another machine."""
    started = ended = None
    reason = "unknown"
    with suppress(OSError):
        folder = _folder(uri)
        if folder is None or "/" in name:
            return GuestLog()
        for when, what, why in _LINE.findall(_tail(folder / f"{name}.log")):
            moment = datetime.strptime(f"{when.decode()}+0000", "%Y-%m-%d %H:%M:%S%z").timestamp()
            if what == b"starting up":
                started = moment
            else:
                ended, reason = moment, why.decode().strip().replace(" ", "_") or "unknown"
    return GuestLog(started, ended, reason)


def _folder(uri: str) -> Path | None:
    """Return the folder with the logs of a daemon's guests, None where it is not known."""
    found = re.fullmatch(r"qemu:///(system|session)(?:\?socket=([^&]+))?", uri)
    if found is None:
        return None
    kind, path = found.groups()
    if kind == "system":
        return (_root_of(path) if path else Path("/")) / _SYSTEM
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / _SESSION


def _root_of(path: str) -> Path:
    """Return the root of the daemon that listens on a socket; it may be in a container."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        # struct ucred, see unix(7).
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return Path(f"/proc/{struct.unpack('iII', credentials)[0]}/root")


def _tail(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TAIL_BYTES))
        return log.read()
