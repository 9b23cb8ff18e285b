# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose guests' owners go on working while the modules do, and where things break."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinyguest
from adhoc import Run
from conftest import Libvirt
from tinyguest import ASKED_TWICE, TinyGuest

_PATIENCE_S = 90.0


def until(is_true: Callable[[], Any], what: str) -> None:
    """Wait until something is true; fail with what was waited for."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Faulted:
    """One host, its guests, and the modules that handle them.

    Args:
        libvirt: where they are.
        call: calls a module.
        state_dir: what those keep between runs.
        folder: for disks and consoles.
    """

    def __init__(
        self, libvirt: Libvirt, call: Callable[..., Run], state_dir: Path, folder: Path
    ) -> None:
        self.libvirt = libvirt
        self.state_dir = state_dir
        self.folder = folder
        self.guests: dict[str, TinyGuest] = {}
        self._is_hurt = False
        self._call = call

    def boot(self, *names: str, delay_s: int = 0, **keys: Any) -> None:
        """Define guests without NUMA, start them, and wait until they count."""
        for name in names:
            self.make(name, delay_s, **keys)
        self.start(*names)

    def make(self, name: str, delay_s: int = 0, **keys: Any) -> None:
        """Define a guest without NUMA."""
        guest = self.guests[name] = TinyGuest(name, self.folder, **keys)
        guest.make(delay_s)
        self.libvirt.define(guest.xml())

    def start(self, *names: str) -> None:
        """Start guests, and wait until they count."""
        for name in names:
            self.virsh("start", name)
        self.wait_for_counts(*names)

    def end(self) -> None:
        """End every guest; a host whose daemon was killed or stopped is ended as a whole.

        libvirt 9.0 does not answer a request to end a guest whose start it was killed in.
        """
        if self._is_hurt:
            self.libvirt.host.stop()
        else:
            self.libvirt.clear()

    def virsh(self, *words: str, check: bool = True) -> str:
        """Run virsh and return what it printed."""
        return self.libvirt.virsh(*words, check=check).strip()

    def state(self, name: str) -> str:
        """Return a guest's state as virsh says it."""
        return self.virsh("domstate", name)

    def define(self, name: str, *edits: tuple[str, str]) -> None:
        """Define a guest with some words of its definition replaced."""
        xml = self.libvirt.dump(name)
        for old, new in edits:
            assert old in xml
            xml = xml.replace(old, new)
        self.libvirt.define(xml)

    def disk(self, name: str, *, live: bool = False) -> str:
        """Return the image that a guest is defined with, or runs with."""
        found = re.search(r"<source file='([^']+)'", self.libvirt.dump(name, live=live))
        assert found
        return found.group(1)

    def cells(self, name: str, *, live: bool = True) -> int:
        """Return how many cells a guest runs with, or is defined with."""
        return self.libvirt.dump(name, live=live).count("<cell ")

    def wait_for_counts(self, *names: str, more: int = 2) -> None:
        """Wait until guests have counted on: there are processes, and they run the guests."""
        enough = {name: len(self.guests[name].counts()) + more for name in names}
        until(
            lambda: all(len(self.guests[name].counts()) >= enough[name] for name in names),
            f"{', '.join(names)} count on",
        )

    def run_on(self, *names: str, boots: int = 0, cells: int | None = None) -> None:
        """See that guests run, on the disks that they had, after so many boots if any are told."""
        for name in names:
            assert self.state(name) == "running"
        self.wait_for_counts(*names)
        for name in names:
            assert self.guests[name].boots() == boots or not boots
            went_back = self.guests[name].went_back()
            assert not went_back, "on a disk older than the one that it had"
            if cells is not None:
                assert self.cells(name) == cells

    def partition(self, *names: str, flags: Sequence[str] = (), **options: Any) -> Run:
        """Partition guests, all by default."""
        guests = [{"name": name} for name in names or self.guests]
        arguments = {"uri": self.libvirt.uri, "guests": guests, **options}
        return self._call("vnuma_partition", arguments, *flags)

    def restart(self, *names: str, flags: Sequence[str] = (), **options: Any) -> Run:
        """Restart guests, all by default."""
        named = {"guests": list(names)} if names else {}
        arguments = {"uri": self.libvirt.uri, "timeout": 60, **named, **options}
        return self._call("vnuma_restart", arguments, *flags)

    @contextmanager
    def restarting(self, waits_for: str = "", **options: Any) -> Iterator[Future[Run]]:
        """Restart guests, and go on once one of them was asked to shut down.

        Args:
            waits_for: of that guest; without, of whichever is the first.
            options: of the module.
        """
        pattern = f"{self.uuid(waits_for) if waits_for else '[!.]*'}.restart"
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.restart, **options)
            until(lambda: list(self.state_dir.rglob(pattern)) or future.done(), "a restart begun")
            assert not future.done(), future.result().output
            # The note is there before the request is made.
            until(lambda: self._was_asked(waits_for or next(iter(self.guests))), "it was asked")
            yield future

    def go_down(self, *names: str) -> None:
        """Ask guests the second time, so that they go down."""
        for name in names:
            self.virsh("shutdown", name)

    def _was_asked(self, name: str) -> bool:
        return "POWER" in self.guests[name].said().rpartition("READY")[2]

    def killed_run(self) -> None:
        """Have a run killed once it has asked the first guest to shut down."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.restart)
            until(lambda: self.kept_notes() or future.done(), "a restart begun")
            _kill_holder(self.state_dir)
            assert future.result().failed
        assert self.kept_notes()

    def kept_notes(self) -> list[Path]:
        """Return the notes of restarts that have not ended."""
        return list(self.state_dir.rglob("[!.]*.restart"))

    def kill_daemon_when_it_starts(self, name: str, after_s: float) -> None:
        """Ask a guest the second time, and hold the daemon down once it begins to start it.

        Args:
            name: of the guest.
            after_s: how long after it has said so the daemon is killed, in seconds.
        """
        status = self.libvirt.host.root / f"run/libvirt/qemu/{name}.xml"
        self.virsh("shutdown", name)
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if "reason='starting up'" in status.read_text():
                    break
        time.sleep(after_s)
        self._is_hurt = True
        self.libvirt.host.kill_daemon(hold=True)

    def take_way_out(self, msg: str) -> None:
        """Do what a run says of a guest that libvirt holds half started, and nothing else."""
        found = re.search(
            r"it is paused \(starting up\): .*? stop the libvirt daemon, remove "
            r"(/run/libvirt/qemu/\w+\.xml), start the daemon, and run again\.",
            msg,
        )
        assert found, msg
        self._is_hurt = True
        self.libvirt.host.kill_daemon(hold=True)
        (self.libvirt.host.root / found.group(1).lstrip("/")).unlink()
        self.libvirt.host.release_daemon()

    @contextmanager
    def daemon_stopped(self) -> Iterator[None]:
        """Have a daemon that hangs."""
        host = self.libvirt.host
        self._is_hurt = True
        host.exec(["pkill", "-STOP", "-x", host.platform.daemon])
        try:
            yield
        finally:
            host.exec(["pkill", "-CONT", "-x", host.platform.daemon])

    @contextmanager
    def daemon_full(self) -> Iterator[None]:
        """Have a daemon that has as many clients as it takes."""
        host = self.libvirt.host
        self._is_hurt = True
        settings = host.root / f"etc-libvirt/{host.platform.daemon}.conf"
        before = settings.read_text()
        settings.write_text(f"{before}max_clients = 2\nmax_anonymous_clients = 2\n")
        clients = []
        try:
            host.renew_daemon()
            for _client in range(2):
                words = ["virsh", "--quiet", "--connect", self.libvirt.uri]
                client = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                clients.append(client)
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write("hostname\n")
                client.stdin.flush()
                client.stdout.readline()
            yield
        finally:
            for client in clients:
                client.kill()
                client.communicate()
            settings.write_text(before)
            host.renew_daemon()

    def uuid(self, name: str) -> str:
        """Return a guest's UUID."""
        return self.virsh("domuuid", name)

    def kept(self) -> dict[str, tuple[int, bytes]]:
        """Return what is in the state folder: time of change and content of every file."""
        return {
            str(path.relative_to(self.state_dir)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(self.state_dir.rglob("*"))
            if path.is_file()
        }

    def definitions(self) -> dict[tuple[str, bool], str]:
        """Return every definition, persistent and live."""
        running = self.virsh("list", "--name").split()
        found = {}
        for name in self.virsh("list", "--all", "--name").split():
            found[name, False] = self.libvirt.dump(name)
            if name in running:
                found[name, True] = self.libvirt.dump(name, live=True)
        return found

    def check_writes_nothing(self, *names: str, **options: Any) -> tuple[Run, Run]:
        """Run both modules with --check and --diff, and see that nothing is another afterwards.

        A guest that was asked to go down before may do so meanwhile: its live definition goes.
        """
        definitions, kept = self.definitions(), self.kept()
        runs = (
            self.partition(*names, flags=("--check", "--diff"), **options),
            self.restart(flags=("--check", "--diff")),
        )
        after = self.definitions()
        went_down = {key for key in definitions if key[1] and key not in after}
        assert after == {key: xml for key, xml in definitions.items() if key not in went_down}
        assert self.kept() == kept
        return runs

    def settles(self, *names: str, **options: Any) -> tuple[Run, Run]:
        """Run both modules again, and see that the third time there is nothing left to do.

        Returns:
            The second runs.
        """
        second = self.partition(*names, **options), self.restart()
        for run in second:
            assert not run.failed, run.msg
        third = self.partition(*names, **options), self.restart()
        assert [run.result["changed"] for run in third] == [False, False]
        self.is_tidy()
        return second

    def is_tidy(self) -> None:
        """See that nothing is kept between runs that is of no more use."""
        assert {Path(name).name for name in self.kept()} <= {"lock"}

    def has_no_password(self) -> None:
        """See that no password is kept between runs."""
        for _changed, content in self.kept().values():
            assert tinyguest.PASSWORD.encode() not in content


def _kill_holder(state_dir: Path) -> None:
    """Kill the module that works with a state folder: it holds the lock in it."""
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held = [str(file.readlink()) for file in (folder / "fd").iterdir()]
            if any(path.startswith(f"{state_dir}/") for path in held):
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
    assert killed


__all__ = ["ASKED_TWICE", "Faulted", "until"]
