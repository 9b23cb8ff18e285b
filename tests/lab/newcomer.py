# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two Debian roots as someone has them who has never seen this project: a controller and a host.

The controller has nothing but Debian's smallest set, sudo and a way to the host by ssh. The host
has libvirt and QEMU, and neither libvirt's bindings nor lxml for Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import debian
from errors import LabError
from root import PLATFORMS, Platform

#: Debian's release of both.
SUITE = "trixie"
#: What lets this machine reach its package indexes lets the controller.
_SETTINGS = ("etc/pip.conf", "etc/xdg/pip")
_BINDINGS = ("python3-libvirt", "python3-lxml")


@dataclass(frozen=True)
class FreshRoot(Platform):
    """A root of one test, which may be changed.

    Attributes:
        place: where it is.
    """

    place: str = ""

    @property
    def folder(self) -> Path:
        """The root."""
        return Path(self.place)

    def type(self, *lines: str, answers: str = "") -> str:
        """Run lines in a shell as somebody types them, and return what they print.

        Raises:
            LabError: when one fails, with the end of what was printed.
        """
        home = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        handed = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        done = subprocess.run(
            self.argv("/bin/bash", "-euc", "cd ~\n" + "\n".join(lines)),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            input=answers,
            text=True,
            env={**home, **handed, "TERM": "dumb"},
        )
        if done.returncode:
            raise LabError(f"{lines} ended with {done.returncode}: {done.stdout[-3000:]}")
        return done.stdout


def controller(folder: Path) -> FreshRoot:
    """Make the controller's root; the folder must not be there."""
    debian.bootstrap(SUITE, folder, Path(f"{folder}.log"), "sudo")
    for name in _SETTINGS:
        source = Path("/") / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        elif source.exists():
            shutil.copyfile(source, folder / name)
    return FreshRoot("controller", SUITE, place=str(folder))


def host(folder: Path) -> FreshRoot:
    """Make the host's root; the folder must not be there."""
    made = PLATFORMS[SUITE]
    made.make()
    assert made.folder is not None
    log = Path(f"{folder}.log")
    debian.run_logged(log, "cp", "--archive", "--reflink=auto", made.folder, folder)
    root = FreshRoot("host", SUITE, place=str(folder))
    root.type(
        f"apt-get purge --yes --quiet {' '.join(_BINDINGS)}",
        "apt-get update --quiet",
        "apt-get install --yes --quiet --no-install-recommends sudo",
    )
    return root


def commands(page: str, heading: str, language: str = "sh") -> list[Sequence[str]]:
    """Return the blocks of a language below a heading of a page, as lines.

    Raises:
        LabError: when there is none.
    """
    _before, found, rest = page.partition(f"\n## {heading}\n")
    section = rest.partition("\n## ")[0]
    blocks = section.split(f"```{language}\n")[1:]
    if not found or not blocks:
        raise LabError(f"the page has no {language} below '{heading}'.")
    return [block.partition("```")[0].splitlines() for block in blocks]
