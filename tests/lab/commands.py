# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's commands, by processes that need not load Ansible first.

Loading it takes longer than most of what the tests ask of it. The fork server of Python's
multiprocessing loads it once; every command is a process of its own that begins as a copy of that.
Ansible reads its settings while it is loaded, so that all commands of one process have the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_LOADED = (
    *("ansible.cli.adhoc", "ansible.cli.playbook", "ansible.executor.module_common"),
    *("ansible.plugins.action.normal", "ansible.plugins.callback.default"),
    *("ansible.plugins.callback.minimal", "ansible.plugins.connection.local"),
    *("ansible.plugins.connection.ssh", "ansible.plugins.filter.core"),
    *("ansible.plugins.shell.sh", "ansible.plugins.strategy.linear", "ansible.plugins.test.core"),
)


def configure(collections: Path | str, home: Path, **more: str) -> None:
    """Set what Ansible is loaded with, before the first command of this process.

    Args:
        collections: folders that collections are installed in, as a path.
        home: where Ansible keeps its own files.
        more: other settings, by the names of their variables.
    """
    os.environ.update(
        ANSIBLE_COLLECTIONS_PATH=str(collections),
        ANSIBLE_HOME=str(home),
        ANSIBLE_LOCALHOST_WARNING="0",
        ANSIBLE_NOCOLOR="1",
        **more,
    )
    _SERVER.set_forkserver_preload(list(_LOADED))


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``ansible`` or ``ansible-playbook`` in a folder and return what it printed.

    Args:
        command: its words, the name first.
        folder: where it runs.
        environment: variables that are no settings of Ansible's.
    """
    with tempfile.TemporaryDirectory(prefix="vnuma-command-") as printed:
        output, errors = Path(printed) / "output", Path(printed) / "errors"
        process = _SERVER.Process(
            target=_become,
            args=(list(command), folder, output, errors, dict(environment or {})),
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(
            list(command), process.exitcode, output.read_text(), errors.read_text()
        )


class Begun(subprocess.Popen[bytes]):
    """A command that was begun, and what it has started.

    Attributes:
        mark: in the environment of all of them, and of no other process.
    """

    mark: str


def begin(command: Sequence[str], folder: Path, output: Path | None = None) -> Begun:
    """Begin one of Ansible's commands as a program and a session of its own, which can be killed.

    Args:
        command: its words, the name first.
        folder: where it runs.
        output: the file that it prints to, None where that is of no interest.
    """
    name, *words = command
    mark = f"VNUMA_COMMAND={uuid.uuid4()}"
    with (output or Path(os.devnull)).open("w") as printed:
        begun = Begun(
            [str(Path(sys.executable).parent / name), *words],
            cwd=folder,
            env={**os.environ, **dict([mark.split("=")])},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
    begun.mark = mark
    return begun


def processes_of(begun: Begun) -> dict[int, str]:
    """Return what runs of a command that was begun: command lines by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if begun.mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = words.decode(errors="replace")
    return found


def kill_tree(begun: Begun) -> None:
    """Kill a command with its workers and the modules that it runs on this machine.

    ansible-core's workers have sessions of their own (setsid() in WorkerProcess), so that a signal
    for the command's process group reaches the command alone.
    """
    while alive := processes_of(begun):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        begun.poll()
        time.sleep(0.02)


def kill_group(begun: Begun) -> None:
    """Kill the process group of a command: its workers and modules are not in it, and go on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(begun.pid, signal.SIGKILL)


def kill_module(begun: Begun) -> bool:
    """Kill the modules that a command runs on this machine, and tell whether there was one."""
    modules = [pid for pid, words in processes_of(begun).items() if "AnsiballZ_" in words]
    for pid in modules:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(modules)


def _become(
    command: list[str], folder: Path, output: Path, errors: Path, environment: Mapping[str, str]
) -> None:
    """Be that command in this process, which has no other use."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = command
    with Path(os.devnull).open() as nothing, output.open("w") as printed, errors.open("w") as said:
        os.dup2(nothing.fileno(), 0)
        os.dup2(printed.fileno(), 1)
        os.dup2(said.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    if command[0] == "ansible":
        from ansible.cli.adhoc import AdHocCLI as Command
    elif command[0] == "ansible-playbook":
        from ansible.cli.playbook import PlaybookCLI as Command
    else:
        raise ValueError(command[0])
    Command.cli_executor(command)
