# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stranger follows the README, and types nothing that is not in it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import debian
import guestboot
import newcomer
import pytest
from conftest import HOSTS, PROJECT, Libvirt
from fakehost import FakeHost

README = (PROJECT / "README.md").read_text(encoding="utf-8")
#: As in the README's inventory, and in its commands.
GUEST, HOST = "my-guest", "kvm1"
_PORT = 22022
_SSH = """\
Host kvm1
  HostName 127.0.0.1
  Port {port}
  User root
  StrictHostKeyChecking accept-new
"""


class Newcomer:
    """A controller and a host with a guest that runs."""

    def __init__(self, folder: Path, roots: Path) -> None:
        self._folder = folder
        self.controller = newcomer.controller(roots / "controller")
        self.machine = newcomer.host(roots / "host")
        self.host: FakeHost | None = None
        #: Lines that hold for the rest of the shell.
        self._exports: list[str] = []

    def type(self, heading: str, number: int) -> str:
        """Type a block of the README on the controller, and return what it prints."""
        lines = list(newcomer.commands(README, heading)[number])
        said = self.controller.type(*self._exports, *lines, answers="y\n")
        self._exports += [line for line in lines if line.startswith("export ")]
        return said

    def prepare_host(self) -> None:
        """Type what the README has for hosts, on the host."""
        lines = newcomer.commands(README, "Requirements")[1]
        (line,) = (line for line in lines if line.startswith("sudo apt "))
        self.machine.type(line, answers="y\n")

    def start(self) -> Libvirt:
        """Start the host, and a guest on it."""
        key = self.controller.folder / "root/.ssh/id_ed25519"
        key.parent.mkdir(mode=0o700, exist_ok=True)
        words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        subprocess.run(words, check=True)
        (key.parent / "config").write_text(_SSH.format(port=_PORT))
        public = self._folder / "key.pub"
        public.write_text(key.with_suffix(".pub").read_text())
        self.host = FakeHost(
            HOST, HOSTS / "two-socket-2n32c.json", shim=True, sshd=("127.0.0.1", _PORT), key=public
        )
        self.host.platform = self.machine
        self.host.start()
        libvirt = Libvirt(self.host, ssh=False)
        console = self.host.root / "console.log"
        libvirt.define(guestboot.domain_xml(GUEST, 4, 224, console))
        libvirt.virsh("start", GUEST)
        guestboot.wait_for_boots(console, 1)
        return libvirt

    def inventory(self) -> None:
        """Write the README's inventory under the name that it has there."""
        (lines,) = newcomer.commands(README, "First run", "yaml")
        assert "An inventory, `inventory.yml`," in README
        path = self.controller.folder / "root/inventory.yml"
        path.write_text("\n".join(lines) + "\n")

    def checkout(self) -> None:
        """Have a checkout where the README's commands for one are typed."""
        there = self.controller.folder / "root"
        words = ("git", "clone", "--quiet", "--depth=1", f"file://{PROJECT}", str(there / "kvm"))
        subprocess.run(words, check=True)


@pytest.fixture
def someone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Newcomer]:
    """A newcomer, whose roots go with the test."""
    monkeypatch.setenv("VNUMA_LAB", str(tmp_path / "lab"))
    # Not below /tmp, which a host has in its root.
    with tempfile.TemporaryDirectory(dir=debian.cache() / "roots") as roots:
        found = Newcomer(tmp_path, Path(roots))
        try:
            yield found
        finally:
            if found.host is not None:
                found.host.stop()


def test_the_first_minutes(someone: Newcomer) -> None:
    """From two fresh machines to a guest on its node, seen by the README's commands, and undone."""
    someone.type("Requirements", 0)
    someone.prepare_host()
    # It is not published where tests can reach it: the commands for a checkout stand for the first.
    someone.checkout()
    install = newcomer.commands(README, "Install")
    assert list(install[0]) == ["ansible-galaxy collection install kvm.vnuma"]
    export = newcomer.commands(README, "Requirements")[0][-1]
    someone.controller.type(export, "cd kvm", *install[1])
    someone.inventory()
    libvirt = someone.start()
    console = someone.host.root / "console.log" if someone.host else Path()
    before = libvirt.dump(GUEST)

    looked = someone.type("First run", 0)
    assert f"these running guests, since their layout changes only then: {GUEST}" in " ".join(
        looked.split()
    )
    assert re.search(r"^\+ +<vcpupin ", looked, re.MULTILINE), looked
    assert libvirt.dump(GUEST) == before
    assert guestboot.boots(console) == 1

    done = someone.type("First run", 1)
    assert re.search(rf"^{HOST} .* failed=0 ", done, re.MULTILINE), done
    guestboot.wait_for_boots(console, 2)
    pins, binding = (
        libvirt.virsh(*line.split()[1:])
        for line in newcomer.commands(README, "See that it worked")[0]
    )
    (cpus,) = set(re.findall(r"^ *\d+ +(\S+)$", pins, re.MULTILINE))
    (node,) = re.findall(r"^numa_nodeset *: *(\d+)$", binding, re.MULTILINE)
    assert cpus == {"0": "0-15", "1": "16-31"}[node]

    someone.type("See that it worked", 1)
    page = someone.controller.folder / "root/vnuma-report.html"
    assert GUEST in page.read_text(encoding="utf-8")

    someone.type("Undo", 0)
    assert libvirt.dump(GUEST) == before
    guestboot.wait_for_boots(console, 3)
