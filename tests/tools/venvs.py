# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual environments from pinned requirements, kept in the cache folder from clone to clone.

Here is also which ansible-core is taken for which Python.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


class ToolError(Exception):
    """Something that the tools need is not to be had; the message is one sentence."""


@dataclass(frozen=True)
class Core:
    """A release of ansible-core to test with.

    Attributes:
        version: the release.
        pythons: the versions of Python that it supports on a controller, the first choice first:
            the classifiers of its package name them.
    """

    version: str
    pythons: tuple[str, ...]


#: The oldest release that the collection supports.
OLDEST = Core("2.19.14", ("3.11", "3.12", "3.13"))
NEWEST = Core("2.21.5", ("3.14", "3.13", "3.12"))


@dataclass(frozen=True)
class Controller:
    """A release of ansible-core, and the interpreter to run it with."""

    core: Core
    python: Path


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


def controller(cores: Sequence[Core] = (OLDEST, NEWEST)) -> Controller:
    """Return the first of some releases of ansible-core that this machine has a Python for.

    Raises:
        ToolError: when it has none for any of them.
    """
    for core in cores:
        for version in core.pythons:
            python = interpreter(version)
            if python is not None:
                return Controller(core, python)
    pythons = sorted({version for core in cores for version in core.pythons}, key=_figures)
    offered = _offered(pythons)
    way = (
        f"install one: apt-get install {offered[0]}"
        if offered
        else f"install one, so that python{pythons[0]} or a newer one of them is on PATH"
    )
    raise ToolError(
        f"ansible-core {' or '.join(core.version for core in cores)} needs Python "
        f"{', '.join(pythons[:-1])} or {pythons[-1]} with its venv module, and this machine has "
        f"none of them; {way}."
    )


def _figures(version: str) -> tuple[int, ...]:
    return tuple(int(figure) for figure in version.split("."))


def _offered(versions: Sequence[str]) -> list[str]:
    """Return the packages of the distribution that bring one of these Pythons and its venv."""
    if shutil.which("apt-cache") is None:
        return []
    said = subprocess.run(
        ["apt-cache", "search", "--names-only", "^python3[.][0-9]+-venv$"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    there = set(re.findall(r"^\S+", said, re.MULTILINE))
    return [name for name in (f"python{version}-venv" for version in versions) if name in there]


def venv(name: str, python: Path, core: Core | None = None) -> Path:
    """Return the folder of an environment; make it if needed.

    Args:
        name: of its requirements.
        python: the interpreter that it is made with.
        core: the ansible-core that it gets besides; None where the requirements name one.

    Raises:
        ToolError: when it cannot be made.
    """
    requirements = _REQUIREMENTS / f"{name}.txt"
    besides = [f"ansible-core=={core.version}"] if core else []
    key = hashlib.sha256(
        b"\0".join([requirements.read_bytes(), str(python).encode(), *map(str.encode, besides)])
    ).hexdigest()[:12]
    folder = cache() / "venvs" / f"{name}-{key}"
    ready = folder / "ready"
    if not ready.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Steps that run side by side want the same one, and so may another clone of the project.
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ready.exists():
                _make(folder, python, ["--requirement", str(requirements), *besides])
    return folder


def _make(folder: Path, python: Path, wanted: Sequence[str]) -> None:
    print(f"making the environment {folder.name} with {python}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    environment = {**os.environ, "PIP_CACHE_DIR": str(cache() / "pip")}
    for command in (
        [str(python), "-m", "venv", str(folder)],
        [str(folder / "bin/pip"), "install", "--quiet", *wanted],
    ):
        done = subprocess.run(command, check=False, env=environment, text=True, capture_output=True)
        if done.returncode:
            raise ToolError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    (folder / "ready").touch()
