# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a run: layouts that guests still run with, and power cycles that have begun.

Both are kept where the module runs. A run that is killed leaves them behind, and the next one goes
on from there. What is kept decides what a guest is defined with and whether it is started, so a
folder or file that another user could have written is refused. No definition and no password is
ever in there.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .._errors import VnumaError

#: Where root keeps them. Others keep them in XDG_STATE_HOME (XDG Base Directory Specification).
SYSTEM_FOLDER = "/var/lib/kvm-vnuma"
_LOCK_PATIENCE_S = 10.0
_LAYOUT, _RESTART = ".layout", ".restart"
#: What the notes of migrations end with, see migration_notes.
MIGRATION = ".migration"
_LOCK = "lock"
#: A layout with 512 vCPUs and 128 cells takes less than one; more is none of ours.
_MOST_BYTES = 4 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class StateDirError(VnumaError):
    """The folder cannot be read, written or trusted, or another run is using it."""


@dataclass(frozen=True)
class RestartNote:
    """A power cycle that has begun, so that the next run knows whose turn it is.

    Attributes:
        since: when it was asked to shut down, in seconds since the epoch.
        until: when the run that asked gave up waiting, or would have; likewise.
        phase: ``shutdown``: asked to shut down; ``late``: it was asked, and did not in time;
            ``force``: its power is pulled; ``start``: it is off and is being started.
    """

    name: str = ""
    since: float = 0.0
    until: float = 0.0
    phase: str = "shutdown"


def default_state_dir() -> str:
    """Return the folder for the user that the module runs as."""
    if os.geteuid() == 0:
        return SYSTEM_FOLDER
    state = os.environ.get("XDG_STATE_HOME")
    return str((Path(state) if state else Path.home() / ".local/state") / "kvm-vnuma")


class StateDir:
    """The kept layouts and the notes of restarts of one libvirt host.

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
        with self._opened(make=True) as folder, self._failing("the lock cannot be taken"):
            # Kept open for as long as the lock is held; a killed process loses both.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(_LOCK, flags, 0o600, dir_fd=folder)
        try:
            _check_file(descriptor, self.folder / _LOCK)
            deadline = time.monotonic() + _LOCK_PATIENCE_S
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise StateDirError(
                        "another run of kvm.vnuma is working on this host's guests; nothing was "
                        "done; run again when it has ended."
                    )
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)

    def keep_layout(self, guest_uuid: str, text: str) -> None:
        """Keep the layout that a guest runs with; it is on the disk when this returns.

        Raises:
            StateDirError: when it cannot be written; the guest must not be redefined then.
        """
        self._write(guest_uuid + _LAYOUT, text, "the layout that it runs with cannot be saved")

    def layout(self, guest_uuid: str) -> str | None:
        """Return the layout that was kept, None where there is none."""
        return self._read(guest_uuid + _LAYOUT)

    def drop_layout(self, guest_uuid: str) -> None:
        """Forget the layout, since the guest no longer runs with it."""
        self._drop(guest_uuid + _LAYOUT)

    def begin_restart(self, guest_uuid: str, note: RestartNote) -> None:
        """Note how far a power cycle is: that the guest has to run again afterwards."""
        failing = "the start of its restart cannot be recorded"
        self._write(guest_uuid + _RESTART, json.dumps(asdict(note)), failing)

    def begun_restart(self, guest_uuid: str) -> RestartNote | None:
        """Return the note of a power cycle that has not ended, None where there is none."""
        values = self._read_note(guest_uuid + _RESTART, RestartNote)
        return None if values is None else RestartNote(**values)

    def end_restart(self, guest_uuid: str) -> None:
        """Forget the note, since nothing is left to do."""
        self._drop(guest_uuid + _RESTART)

    def kept(self) -> tuple[str, ...]:
        """Return the UUIDs of guests of which a layout or the note of a power cycle is kept."""
        return tuple(sorted({*self._guests(_LAYOUT), *self._guests(_RESTART)}))

    def leftovers(self) -> tuple[str, ...]:
        """Return the names of files that no run has any use for.

        These are drafts of runs that were killed, and the definitions that versions before 2.0
        kept here, which have passwords in them. While another run holds the lock, a draft may be
        in use.
        """
        used = (_LAYOUT, _RESTART, MIGRATION)
        return tuple(
            name
            for name in self._names()
            if name != _LOCK and (name.startswith(".") or not name.endswith(used))
        )

    def drop_leftovers(self) -> None:
        """Remove them; the lock must be held."""
        for name in self.leftovers():
            self._drop(name)

    def _guests(self, ending: str) -> tuple[str, ...]:
        return tuple(
            sorted(
                name[: -len(ending)]
                for name in self._names()
                if name.endswith(ending) and not name.startswith(".")
            )
        )

    def _names(self) -> list[str]:
        with self._opened() as folder:
            return [] if folder is None else sorted(os.listdir(folder))  # noqa: PTH208 - by its descriptor

    @contextmanager
    def _opened(self, make: bool = False) -> Iterator[int | None]:
        """Open the folder, None where it does not exist; nothing in it is reached by its path.

        Raises:
            StateDirError: when another user owns it, or may write it, or it is a link.
        """
        descriptor: int | None = None
        try:
            if make:
                with self._failing("nothing can be kept"):
                    descriptor = self._open(make)
            else:
                try:
                    descriptor = self._open(make)
                except OSError as error:
                    raise _unreadable(self.folder, error) from None
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open(self, make: bool) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if make:
                self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            above = os.open(self.folder.parent, flags)
        except (FileNotFoundError, NotADirectoryError):
            _refuse_link(self.folder.parent)
            if make:
                raise
            return None
        try:
            _check_folder(above, self.folder.parent)
            if make:
                with suppress(FileExistsError):
                    os.mkdir(self.folder.name, 0o700, dir_fd=above)
            descriptor = os.open(self.folder.name, flags, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):
            _refuse_link(self.folder)
            if make:
                raise
            return None
        finally:
            os.close(above)
        try:
            _check_folder(descriptor, self.folder)
        except StateDirError:
            os.close(descriptor)
            raise
        return descriptor

    def _write(self, name: str, text: str, failing: str) -> None:
        draft = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with self._opened(make=True) as folder, self._failing(failing):
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
            try:
                descriptor = os.open(draft, flags, 0o600, dir_fd=folder)
                with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                    handle.write(text)
                    handle.flush()
                    os.fsync(handle.fileno())
                os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise
            if folder is not None:
                os.fsync(folder)

    def _read(self, name: str) -> str | None:
        path = self.folder / name
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with self._opened() as folder:
            if folder is None:
                return None
            try:
                descriptor = os.open(name, flags, dir_fd=folder)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise _unreadable(path, error) from None
            try:
                _check_file(descriptor, path)
                return os.read(descriptor, _MOST_BYTES).decode("utf-8", "replace")
            finally:
                os.close(descriptor)

    def _read_note(self, name: str, kind: type) -> dict[str, Any] | None:
        """Return a note's values; one that cannot be read is still a note, with none."""
        text = self._read(name)
        if text is None:
            return None
        try:
            note = json.loads(text)
        except ValueError:
            return {}
        if not isinstance(note, dict):
            return {}
        known = {one.name: type(one.default) for one in fields(kind)}
        found: dict[str, Any] = {}
        for key, value in note.items():
            wanted = known.get(key)
            if wanted is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if wanted is not None and isinstance(value, wanted):
                found[key] = value
        return found

    def _drop(self, name: str) -> None:
        with self._opened() as folder:
            if folder is None:
                return
            try:
                os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                return
            except OSError as error:
                raise StateDirError(
                    f"{self.folder / name} is no longer needed and cannot be removed: "
                    f"{error.strerror}; remove it."
                ) from None

    @contextmanager
    def _failing(self, failing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StateDirError(
                f"{failing} in {self.folder}: {error.strerror}; nothing was changed; free space "
                "there or set state_dir to a writable directory."
            ) from None


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StateDirError(f"{path} is a link; set state_dir to the folder that it leads to.")


def _check_folder(descriptor: int, path: Path) -> None:
    """Refuse a folder in which another user could put files."""
    _check_owner(os.fstat(descriptor), path, "folder")


def _check_file(descriptor: int, path: Path) -> None:
    """Refuse what is no file, or another user's: a pipe would never end."""
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        raise StateDirError(f"{path} is not a regular file; remove it.")
    _check_owner(seen, path, "file")


def _check_owner(seen: os.stat_result, path: Path, what: str) -> None:
    if seen.st_uid not in (0, os.geteuid()):
        raise StateDirError(
            f"the {what} {path} belongs to the user with id {seen.st_uid}, who could have written "
            "what is in it; set state_dir to a folder of your own."
        )
    if seen.st_mode & _WRITABLE_BY_OTHERS:
        raise StateDirError(
            f"the {what} {path} can be written by other users; run 'chmod go-w {path}', or set "
            "state_dir to a folder that they cannot write."
        )


def _unreadable(path: Path, error: OSError) -> StateDirError:
    return StateDirError(
        f"{path} cannot be read: {error.strerror}; run as its owner, or change state_dir."
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
