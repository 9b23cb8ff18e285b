# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection where Ansible looks for it: as a link, as a copy, and as its users install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from venvs import PROJECT, ToolError

BUILD = PROJECT / "build"
#: Folder with a link to the checkout, for tests that import it.
LINKED = BUILD / "collections"
#: Folder with the built and installed collection, for tests that use it.
INSTALLED = BUILD / "installed"


def link() -> Path:
    """Make the checkout importable as ansible_collections.kvm.vnuma."""
    place = LINKED / "ansible_collections/kvm/vnuma"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(PROJECT, target_is_directory=True)
    return LINKED


def copy(folder: Path) -> Path:
    """Copy the checkout, without what git ignores, to where ansible-test wants to be."""
    place = folder / "ansible_collections/kvm/vnuma"
    shutil.rmtree(folder, ignore_errors=True)
    for name in _files():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target)
    return place


def install(ansible_galaxy: Path) -> Path:
    """Build the collection and install the tarball, as a user does, without a network."""
    staging = BUILD / "staging"
    source = copy(staging)
    tarballs = BUILD / "dist"
    shutil.rmtree(tarballs, ignore_errors=True)
    shutil.rmtree(INSTALLED, ignore_errors=True)
    _run([ansible_galaxy, "collection", "build", source, "--output-path", tarballs])
    (tarball,) = tarballs.glob("*.tar.gz")
    options = ["--offline", "--no-deps", "--force"]
    _run(
        [
            ansible_galaxy,
            "collection",
            "install",
            tarball,
            "--collections-path",
            INSTALLED,
            *options,
        ]
    )
    shutil.rmtree(staging)
    return INSTALLED


def _files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        check=True,
        capture_output=True,
        text=True,
        cwd=PROJECT,
    ).stdout
    return [name for name in listed.split("\0") if name and (PROJECT / name).is_file()]


def _run(command: list[Path | str]) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(BUILD), "ANSIBLE_NOCOLOR": "1"},
    )
    if done.returncode:
        raise ToolError(f"{command[0]} failed: {done.stdout}{done.stderr}")
