# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels and firmware of other architectures and releases, by apt from Debian's own packages.

python tests/lab/debs.py SUITE ARCHITECTURE PACKAGE...
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import debian
from errors import LabError

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: A package without files of its own, which needs the newest kernel.
_NEWEST = re.compile(r"^Depends: (linux-image-[^ ,]+)", re.MULTILINE)


def unpacked(suite: str, architecture: str, *packages: str) -> Path:
    """Return a folder with the files of some packages, which is made once and kept in the cache.

    Nothing is installed, and what the packages depend on is not there; a package that stands for
    the newest kernel is that kernel.

    Raises:
        LabError: when apt cannot get them.
    """
    folder = debian.cache() / "debs" / "-".join((suite, architecture, *packages))
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".draft-") as name:
        draft = Path(name)
        apt = _apt(draft / "apt", suite, architecture)
        log = draft / "log"
        debian.run_logged(log, "apt-get", *apt, "update", "-qq")
        real = [_kernel(apt, package) for package in packages]
        # Where it is root, apt downloads as a user who could not write to a folder of root's.
        debian.run_logged(
            log,
            *("env", "-C", str(draft), "apt-get", *apt, "-o", "APT::Sandbox::User=root"),
            *("download", "-qq", *real),
        )
        for deb in draft.glob("*.deb"):
            debian.run_logged(log, "dpkg-deb", "-x", deb, draft / "files")
        for modules in (draft / "files/lib/modules").glob("*"):
            debian.run_logged(log, "depmod", "-b", draft / "files", modules.name)
        if not folder.exists():
            shutil.move(draft / "files", folder)
    return folder


def kernel(folder: Path) -> Path:
    """Return the kernel in such a folder."""
    (found,) = (folder / "boot").glob("vmlinuz-*")
    return found


def _apt(folder: Path, suite: str, architecture: str) -> list[str]:
    """Return the words by which apt has folders, sources and an architecture of its own."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "list").write_text(f"deb [signed-by={_KEYRING}] {debian.mirror()} {suite} main\n")
    settings = {
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "list",
        "Dir::Etc::sourceparts": "-",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _kernel(apt: list[str], package: str) -> str:
    shown = subprocess.run(
        ["apt-cache", *apt, "show", package], check=False, capture_output=True, text=True
    )
    if shown.returncode:
        raise LabError(f"apt has no package {package}: {shown.stderr.strip()}")
    found = _NEWEST.search(shown.stdout)
    return found[1] if found else package


def main() -> int:
    """Run the command line."""
    try:
        print(unpacked(*sys.argv[1:3], *sys.argv[3:]))
    except LabError as error:
        print(f"debs: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
