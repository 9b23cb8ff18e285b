# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real libvirt daemons that report chosen hosts, and real Ansible runs against them.

With VNUMA_PLATFORM, daemons, guests and modules are those of that root, which Ansible reaches by
ssh (tests/lab/root.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests" / "lab"))

import commands
import door
import root
from adhoc import SYSTEM_PYTHON, Adhoc, Run
from community import fetch
from fakehost import FakeHost, lab_root

if TYPE_CHECKING:
    from roads import Roads

HOSTS = PROJECT / "tests" / "hosts"
#: One of the managed host that has none.
BARE_PYTHON = root.BARE_PYTHON if root.chosen().folder else sys.executable


class Libvirt:
    """A private libvirt daemon, seen through virsh.

    Args:
        host: where it runs.
        ssh: whether Ansible reaches that host by ssh, and modules run in it; else they run on this
            machine. By default where the host is a root.
    """

    def __init__(self, host: FakeHost, *, ssh: bool = root.chosen().folder is not None) -> None:
        self.host = host
        self.ssh = ssh
        self.uri = host.uri
        self.socket = host.socket

    @property
    def variables(self) -> dict[str, Any]:
        """Variables by which Ansible reaches where modules run."""
        if self.ssh:
            return door.variables(self.host.root, self.host.name)
        return {"ansible_connection": "local"}

    def run(self, *command: str) -> str:
        """Run a command where modules run, and return what it printed."""
        words = self.host.exec_argv(command) if self.ssh else command
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def seen(self, path: Path) -> Path:
        """Return where this process finds what a module sees as *path*."""
        return Path(f"/proc/{self.host.pid}/root{path}") if self.ssh else path

    def virsh(self, *words: str, check: bool = True) -> str:
        """Run virsh against the daemon and return what it printed."""
        done = subprocess.run(
            ["virsh", "--quiet", "--connect", self.uri, *words],
            check=False,
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"virsh {' '.join(words)}: {done.stderr}{self.host.said()}")
        return done.stdout if check else done.stdout + done.stderr

    def define(self, xml: str, *, validate: bool = True) -> None:
        """Define a guest."""
        path = self.host.root / f"define-{uuid.uuid4().hex}.xml"
        path.write_text(xml)
        self.virsh("define", *(["--validate"] if validate else []), str(path))
        path.unlink()

    def dump(self, name: str, *, live: bool = False) -> str:
        """Return a definition with its secrets."""
        return self.virsh("dumpxml", "--security-info", *([] if live else ["--inactive"]), name)

    def dumps(self, names: Iterable[str]) -> dict[str, str]:
        """Return the persistent definitions of many guests, with their secrets."""
        names = list(names)
        said = self.script(f"dumpxml --security-info --inactive {name}" for name in names)
        texts = re.findall(r"<domain .*?^</domain>\n", said, re.DOTALL | re.MULTILINE)
        return dict(zip(names, texts, strict=True))

    def script(self, commands: Iterable[str], *, check: bool = True) -> str:
        """Run many commands in one virsh; with *check*, none of them may fail."""
        said = self.virsh("; ".join(commands), check=False)
        # Its exit code is that of the last command.
        assert not check or "error:" not in said, said
        return said

    def clear(self) -> None:
        """End and undefine every guest."""
        names = self.virsh("list", "--all", "--name").split()
        for command in ("destroy", "undefine --managed-save --nvram") if names else ():
            self.script((f"{command} {name}" for name in names), check=False)


def has_libvirt(since: str) -> bool:
    """Tell whether the libvirt of managed hosts is of a release, or newer; any has an empty one."""
    if not since:
        return True
    return _release(root.chosen().versions.libvirt) >= _release(since)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Do not run what an older libvirt cannot have; the reason stands in the report."""
    for marker in item.iter_markers("needs_libvirt"):
        since, what = marker.args
        if not has_libvirt(since):
            pytest.skip(f"{what} needs libvirt {since}")
    for marker in item.iter_markers("needs_qemu_before"):
        last, what = marker.args
        if _release(root.chosen().versions.qemu) >= _release(last):
            pytest.skip(f"{what} needs QEMU before {last}")


@pytest.fixture(scope="session")
def collections() -> Path:
    """The folder that the built collection is installed in."""
    path = Path(os.environ.get("VNUMA_COLLECTIONS", PROJECT / "build" / "installed"))
    assert (path / "ansible_collections" / "kvm" / "vnuma").is_dir(), f"run make installed: {path}"
    return path


@pytest.fixture(scope="session")
def ansible(collections: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ansible's settings: where the collections are, those of the examples too."""
    community = fetch(Path(sys.prefix))
    commands.configure(f"{collections}:{community}", tmp_path_factory.mktemp("ansible"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Libvirt]]:
    """Start a daemon for a host by its name in tests/hosts; one that runs is shared."""
    started: dict[tuple[str, bool], Libvirt] = {}

    def start(name: str, *, shim: bool = False) -> Libvirt:
        key = (name, shim)
        if key not in started:
            host = FakeHost(
                f"{name}{'-shim' if shim else ''}-{os.getpid()}", HOSTS / f"{name}.json", shim=shim
            )
            started[key] = Libvirt(host)
        if not started[key].host.runs:
            started[key].host.start()
        return started[key]

    yield start
    for libvirt in started.values():
        libvirt.host.stop()
        shutil.rmtree(libvirt.host.root, ignore_errors=True)


@pytest.fixture(scope="session")
def highway(ansible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roads]:
    """Three unlike hosts that reach one another by ssh, and migrate guests."""
    from roads import Roads

    adhoc = Adhoc(tmp_path_factory.mktemp("roads"))
    roads = Roads(f"mv{os.getpid() % 100000}", f"10.79.{os.getpid() % 250}", adhoc)
    roads.open(("east", "west", "south"))
    yield roads
    roads.close()


@pytest.fixture
def roads(highway: Roads) -> Iterator[Roads]:
    """The same, without guests."""
    highway.clear()
    yield highway
    highway.clear()


def emptied(libvirt: Libvirt) -> Iterator[Libvirt]:
    """A host without guests, at first and in the end."""
    libvirt.clear()
    yield libvirt
    libvirt.clear()


@pytest.fixture
def rfc(lab: Callable[..., Libvirt]) -> Iterator[Libvirt]:
    """The RFC's host, without guests."""
    yield from emptied(lab("rfc-8n240c"))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A folder of its own for what outlives a run."""
    return tmp_path / "state"


@pytest.fixture
def call(ansible: None, state_dir: Path, tmp_path: Path) -> Callable[..., Run]:
    """Call a module of the collection by Ansible, on the host of its URI unless told another."""
    adhoc = Adhoc(tmp_path)

    def run(
        module: str,
        arguments: dict[str, Any],
        *flags: str,
        python: str = SYSTEM_PYTHON,
        environment: dict[str, str] | None = None,
        on: Libvirt | None = None,
    ) -> Run:
        variables = (on or libvirt_of(arguments.get("uri", ""))).variables
        if module != "vnuma_facts":
            arguments = {"state_dir": str(state_dir), **arguments}
        return adhoc.call(module, arguments, flags, python, environment, variables)

    return run


def play_tasks(libvirt: Libvirt, path: Path, tasks: list[dict[str, Any]], **keys: Any) -> str:
    """Run a play on a host; fail with its output if it fails."""
    play = {"hosts": "localhost", "gather_facts": False, **keys}
    reached = {"ansible_python_interpreter": SYSTEM_PYTHON, **libvirt.variables}
    play["vars"] = {**reached, **play.get("vars", {})}
    book = path / "play.yml"
    book.write_text(json.dumps([{**play, "tasks": tasks}]))
    done = commands.run(["ansible-playbook", "-i", "localhost,", str(book)], path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def libvirt_of(uri: str) -> Libvirt:
    """Return the daemon whose folder a URI names."""
    name = uri.partition(f"{lab_root()}/")[2].partition("/")[0]
    return Libvirt(FakeHost(name))
