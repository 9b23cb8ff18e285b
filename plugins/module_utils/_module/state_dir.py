# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a run: old definitions, and restarts that have begun.

Both are kept where the module runs, in a folder that its user alone can read: definitions hold
passwords. A run that is killed leaves them behind, and the next one goes on from there.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .._errors import VnumaError

#: Where root keeps them. Others keep them in XDG_STATE_HOME (XDG Base Directory Specification).
SYSTEM_FOLDER = "/var/lib/kvm-vnuma"
_LOCK_PATIENCE_S = 10.0


class StateDirError(VnumaError):
    """The folder cannot be read or written, or another run is using it."""


def default_state_dir() -> str:
    """Return the folder for the user that the module runs as."""
    if os.geteuid() == 0:
        return SYSTEM_FOLDER
    state = os.environ.get("XDG_STATE_HOME")
    return str((Path(state) if state else Path.home() / ".local/state") / "kvm-vnuma")


class StateDir:
    """The kept definitions and begun restarts of one libvirt host.

    Args:
        folder: where to keep them; made when something is first written.
        host_uuid: of the libvirt host, since one machine may manage several.
    """

    def __init__(self, folder: str, host_uuid: str) -> None:
        self.folder = Path(folder) / (host_uuid or "unknown")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs on this host out.

        Raises:
            StateDirError: when another run is at work and stays so for ten seconds.
        """
        with self._failing("the lock cannot be taken"):
            self._make()
            # Kept open for as long as the lock is held; a killed process loses both.
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_PATIENCE_S
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise StateDirError(
                        "another run of kvm.vnuma is working on this host's guests; nothing was "
                        "done, run again when it has ended."
                    )
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def keep_old(self, guest_uuid: str, xml: str) -> None:
        """Keep a definition before it is replaced; it is on the disk when this returns.

        Raises:
            StateDirError: when it cannot be written; the definition must not be replaced then.
        """
        self._write(f"{guest_uuid}.xml", xml, "its old definition cannot be saved")

    def old(self, guest_uuid: str) -> str | None:
        """Return the definition that was kept, None where there is none."""
        return self._read(f"{guest_uuid}.xml")

    def begin_restart(self, guest_uuid: str, name: str) -> None:
        """Note that a guest is about to be shut down and has to run again afterwards."""
        content = json.dumps({"name": name, "since": int(time.time())})
        self._write(f"{guest_uuid}.restart", content, "the start of its restart cannot be recorded")

    def begun_restart(self, guest_uuid: str) -> dict[str, Any] | None:
        """Return the note of a restart that has not ended, None where there is none."""
        text = self._read(f"{guest_uuid}.restart")
        if text is None:
            return None
        with suppress(ValueError):
            note = json.loads(text)
            return note if isinstance(note, dict) else {}
        return {}

    def end_restart(self, guest_uuid: str) -> None:
        """Forget the note, since the guest runs."""
        self._drop(f"{guest_uuid}.restart")

    def drop_old(self, guest_uuid: str) -> None:
        """Forget the old definition, since the guest runs with the new one."""
        self._drop(f"{guest_uuid}.xml")

    def _make(self) -> None:
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _write(self, name: str, text: str, failing: str) -> None:
        with self._failing(failing):
            self._make()
            draft = self.folder / f".{name}.{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as handle:
                    handle.write(text)
                    handle.flush()
                    os.fsync(handle.fileno())
                draft.replace(self.folder / name)
            except OSError:
                with suppress(OSError):
                    draft.unlink()
                raise
            directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StateDirError(
                f"{self.folder / name} cannot be read: {error.strerror}; run as its owner, or "
                "change state_dir."
            ) from None

    def _drop(self, name: str) -> None:
        with (
            suppress(FileNotFoundError),
            self._failing("its saved definition or restart record cannot be removed"),
        ):
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _failing(self, failing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateDirError(
                f"{failing} in {self.folder}: {error.strerror}; nothing was changed, free space "
                "there or set state_dir to a writable directory."
            ) from None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
