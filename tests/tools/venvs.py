# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments from pinned requirements, kept in the cache folder from clone to clone."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


class ToolError(Exception):
    """Something that the tools need is not to be had; the message is one sentence."""


def cache() -> Path:
    """Return the folder that all downloads are kept in."""
    home = os.environ.get("XDG_CACHE_HOME")
    usual = (Path(home) if home else Path.home() / ".cache") / "kvm-vnuma"
    return Path(os.environ.get("VNUMA_CACHE") or usual)


def interpreter(version: str) -> Path | None:
    """Return a real interpreter of a version such as ``3.11``, None where there is none.

    Version managers put scripts on PATH that choose an interpreter by folder; tools that are
    given such a script do not find their own modules, so that the real one is looked for.
    """
    candidates = [Path(f"/usr/bin/python{version}"), Path(f"/usr/local/bin/python{version}")]
    found = shutil.which(f"python{version}")
    candidates += [Path(found)] if found else []
    versions = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    if os.access(versions, os.R_OK | os.X_OK):
        candidates += sorted(versions.glob(f"{version}.*/bin/python{version}"))
    for candidate in candidates:
        asked = (
            subprocess.run(
                [candidate, "-c", "import sys, venv, ensurepip; print(sys.executable)"],
                check=False,
                capture_output=True,
                text=True,
            )
            if candidate.exists()
            else None
        )
        if asked is not None and asked.returncode == 0:
            return Path(asked.stdout.strip())
    return None


def first_interpreter(versions: tuple[str, ...]) -> Path:
    """Return the first interpreter that is there.

    Raises:
        ToolError: when there is none.
    """
    for version in versions:
        found = interpreter(version)
        if found is not None:
            return found
    raise ToolError(f"there is no Python {' or '.join(versions)} on this machine")


def venv(name: str, python: Path) -> Path:
    """Return the folder of an environment with the requirements of that name; make it if needed."""
    requirements = _REQUIREMENTS / f"{name}.txt"
    key = hashlib.sha256(requirements.read_bytes() + str(python).encode()).hexdigest()[:12]
    folder = cache() / "venvs" / f"{name}-{key}"
    if (folder / "ready").exists():
        return folder
    print(f"making the environment {name} with {python}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "PIP_CACHE_DIR": str(cache() / "pip")}
    for command in (
        [str(python), "-m", "venv", str(folder)],
        [str(folder / "bin/pip"), "install", "--quiet", "--requirement", str(requirements)],
    ):
        done = subprocess.run(command, check=False, env=environment, text=True, capture_output=True)
        if done.returncode:
            raise ToolError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    (folder / "ready").touch()
    return folder
