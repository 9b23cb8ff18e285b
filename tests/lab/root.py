# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a managed host runs: this machine's own libvirt, QEMU and Python, or those of a root.

    python tests/lab/root.py make NAME | path NAME | versions NAME

A root is the tree of another Debian release, made by debootstrap once and kept in VNUMA_CACHE by
the content of what it is made from. The environment variable VNUMA_PLATFORM names the one that
private libvirt daemons (fakehost.py) run in; without it they run what this machine has.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import debian
from errors import LabError

_HERE = Path(__file__).resolve().parent
_BUILD = _HERE / "root_virtqemud.sh"

_PACKAGES = (
    *("iproute2", "libvirt-clients", "libvirt-daemon", "libvirt-daemon-driver-qemu"),
    *("libvirt-daemon-system", "openssh-server", "procps", "python3", "python3-libvirt"),
    *("python3-lxml", "qemu-system-arm", "qemu-system-misc", "qemu-system-ppc"),
    *("qemu-system-x86", "qemu-utils", "util-linux"),
)
#: What a host of its own is mounted on (fakehost_init.sh).
_FOLDERS = (
    *("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt"),
    *("var/lib/kvm-vnuma", "opt"),
)
#: A Python without libvirt's bindings, as a user's own is.
BARE_PYTHON = "/opt/bare/bin/python3"

# Prepares a chroot in a mount namespace, which takes its mounts with it when the command ends.
_ENTER = """\
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$@"
"""


@dataclass(frozen=True)
class Versions:
    """What stands in the matrix of platforms."""

    libvirt: str
    qemu: str
    python: str


@dataclass(frozen=True)
class Platform:
    """What a managed host runs.

    Attributes:
        name: what VNUMA_PLATFORM calls it.
        suite: Debian's release; empty for this machine itself.
        daemon: the libvirt daemon with the QEMU driver: the one with all drivers, or its own.
    """

    name: str
    suite: str = ""
    daemon: str = "libvirtd"

    @property
    def socket(self) -> str:
        """Name of the daemon's read-write socket (libvirt, src/remote/meson.build, SOCK_PREFIX)."""
        return "libvirt-sock" if self.daemon == "libvirtd" else f"{self.daemon}-sock"

    @property
    def folder(self) -> Path | None:
        """The root, None for this machine itself."""
        if not self.suite:
            return None
        parts = [self.suite, *_PACKAGES, *_FOLDERS]
        if self.is_modular:
            parts.append(_BUILD.read_text())
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return debian.cache() / "roots" / f"{self.name}-{key}"

    @property
    def is_modular(self) -> bool:
        """Whether its daemon is one of libvirt's modular ones, which Debian does not ship."""
        return self.daemon != "libvirtd"

    def argv(self, *command: str) -> list[str]:
        """Return the command that runs another one there."""
        folder = self.folder
        if folder is None:
            return list(command)
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        shell = ("--propagation", "private", "/bin/sh", "-euc", _ENTER, "enter")
        return [*unshare, *shell, str(folder), *command]

    @functools.cached_property
    def versions(self) -> Versions:
        """What is installed there."""
        return Versions(
            *(
                self._version(*program)
                for program in (
                    (f"/usr/sbin/{self.daemon}", r"\(libvirt\) ([\d.]+)"),
                    ("/usr/bin/qemu-system-x86_64", r"version ([\d.]+)"),
                    ("/usr/bin/python3", r"Python ([\d.]+)"),
                )
            )
        )

    def _version(self, program: str, pattern: str) -> str:
        done = subprocess.run(
            self.argv(program, "--version"), check=False, capture_output=True, text=True
        )
        found = re.search(pattern, done.stdout)
        if found is None:
            raise LabError(f"{program} of {self.name} does not say its version: {done.stderr}")
        return found[1]

    def make(self) -> None:
        """Make the root, unless it is there.

        Raises:
            LabError: when it cannot be made here.
        """
        folder = self.folder
        if folder is None or _ready(folder).exists():
            return
        if os.geteuid() != 0:
            raise LabError("a root of another Debian release is made by root; use sudo.")
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        if shutil.which("debootstrap", path=path) is None:
            raise LabError("debootstrap is missing; run tests/tools/bootstrap.sh first.")
        if self.is_modular:
            _based_on(self).make()
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two at once would undo each other's work; the second finds the root there.
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _ready(folder).exists():
                print(f"making the root {self.name}, see {folder}.log", file=sys.stderr, flush=True)
                shutil.rmtree(folder, ignore_errors=True)
                _Maker(self, folder).make()
                _ready(folder).touch()


PLATFORMS = {
    platform.name: platform
    for platform in (
        Platform("bullseye", "bullseye"),
        Platform("bookworm", "bookworm"),
        Platform("trixie", "trixie"),
        Platform("sid", "sid"),
        Platform("trixie-virtqemud", "trixie", "virtqemud"),
    )
}
_MACHINE = Platform("machine")


@functools.cache
def chosen() -> Platform:
    """Return what managed hosts run, by VNUMA_PLATFORM.

    Raises:
        LabError: when there is none of that name, or its root was not made.
    """
    name = os.environ.get("VNUMA_PLATFORM")
    if not name:
        return _MACHINE
    if name not in PLATFORMS:
        raise LabError(f"VNUMA_PLATFORM is {', '.join(PLATFORMS)} or nothing, not '{name}'.")
    platform = PLATFORMS[name]
    if platform.folder is None or not _ready(platform.folder).exists():
        raise LabError(f"there is no root of {name}; run 'tests/lab/root.py make {name}'.")
    return platform


def _ready(folder: Path) -> Path:
    return folder.with_suffix(".ready")


def _based_on(modular: Platform) -> Platform:
    return PLATFORMS[modular.suite]


class _Maker:
    """Makes one root; what the commands print is kept beside it."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._platform = platform
        self._folder = folder
        self._log = Path(f"{folder}.log")
        self._log.unlink(missing_ok=True)

    def make(self) -> None:
        if not self._platform.is_modular:
            self._bootstrap()
            self._install(*_PACKAGES)
            self._furnish()
            return
        base = _based_on(self._platform).folder
        assert base is not None
        # What builds the daemon is not what it runs in, which stays as Debian ships it.
        self._run("cp", "--archive", "--reflink=auto", base, self._folder)
        shutil.copy2(_BUILD, self._folder / "opt/build.sh")
        self._enter("/bin/sh", "/opt/build.sh")
        daemon = (self._folder / "opt/virtqemud").read_bytes()
        shutil.rmtree(self._folder)
        self._run("cp", "--archive", "--reflink=auto", base, self._folder)
        place = self._folder / "usr/sbin/virtqemud"
        place.write_bytes(daemon)
        place.chmod(0o755)

    def _bootstrap(self) -> None:
        debian.bootstrap(self._platform.suite, self._folder, self._log)
        sources = self._folder / "etc/apt/sources.list.d/source.list"
        sources.write_text(f"deb-src {debian.mirror()} {self._platform.suite} main\n")

    def _install(self, *packages: str) -> None:
        self._enter(
            *("apt-get", "install", "--yes", "--quiet", "--no-install-recommends"),
            *("-o", "DPkg::Options::=--force-unsafe-io", *packages),
        )
        self._enter("apt-get", "clean")

    def _furnish(self) -> None:
        for name in _FOLDERS:
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._enter("/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/bare")

    def _enter(self, *command: str) -> None:
        self._run(*self._platform.argv(*command))

    def _run(self, *command: str | Path) -> None:
        debian.run_logged(self._log, *command)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Roots of Debian releases for managed hosts.")
    parser.add_argument("command", choices=("make", "path", "versions"))
    parser.add_argument("name", choices=PLATFORMS)
    options = parser.parse_args(words)
    platform = PLATFORMS[options.name]
    try:
        if options.command == "make":
            platform.make()
        print(platform.versions if options.command == "versions" else platform.folder)
    except LabError as error:
        print(f"root: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
