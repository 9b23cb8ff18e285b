# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which ansible-core the tools take on which machine, and what they say where there is none."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from importlib import metadata
from pathlib import Path

import pytest
import run
import venvs
from venvs import NEWEST, OLDEST, Core, ToolError, controller

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Return what makes the machine one with these Pythons, and these packages to be had."""

    def make(*pythons: str, packages: tuple[str, ...] | None = ()) -> None:
        def interpreter(version: str) -> Path | None:
            return Path(f"/usr/bin/python{version}") if version in pythons else None

        for module in (venvs, run):
            monkeypatch.setattr(module, "interpreter", interpreter)
        monkeypatch.setenv("PATH", str(tmp_path))
        if packages is not None:
            lines = "".join(f"echo '{name} - a package'\n" for name in packages)
            apt_cache = tmp_path / "apt-cache"
            apt_cache.write_text(f"#!/bin/sh\n{lines}")
            apt_cache.chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("pythons", "core", "python"),
    [
        (("3.9", "3.11", "3.13"), OLDEST, "3.11"),  # Debian 12 with others besides
        (("3.11",), OLDEST, "3.11"),  # Debian 12
        (("3.12",), OLDEST, "3.12"),  # Ubuntu 24.04
        (("3.13",), OLDEST, "3.13"),  # Debian 13
        (("3.13", "3.14"), OLDEST, "3.13"),
        (("3.14",), NEWEST, "3.14"),  # Debian sid
        (("3.10", "3.14"), NEWEST, "3.14"),
    ],
)
def test_what_is_taken(machine: Machine, pythons: tuple[str, ...], core: Core, python: str) -> None:
    """The oldest ansible-core that there is a Python for."""
    machine(*pythons)
    taken = controller()
    assert (taken.core, taken.python) == (core, Path(f"/usr/bin/python{python}"))


@pytest.mark.parametrize("pythons", [(), ("3.9",), ("3.10",), ("3.9", "3.10", "3.15")])
def test_no_python_for_it(machine: Machine, pythons: tuple[str, ...]) -> None:
    """One sentence has the versions that would do."""
    machine(*pythons, packages=None)
    with pytest.raises(ToolError) as raised:
        controller()
    assert str(raised.value) == (
        f"ansible-core {OLDEST.version} or {NEWEST.version} needs Python 3.11, 3.12, 3.13 or 3.14 "
        "with its venv module, and this machine has none of them; install one, so that python3.11 "
        "or a newer one of them is on PATH."
    )


@pytest.mark.parametrize(
    ("packages", "way"),
    [
        (("python3.10-venv", "python3.11-venv"), "install one: apt-get install python3.11-venv."),
        (("python3.14-venv", "python3.12-venv"), "install one: apt-get install python3.12-venv."),
        (("python3.9-venv", "python3.15-venv", "python3.11-venv-x"), "is on PATH."),
    ],
)
def test_what_the_distribution_has(machine: Machine, packages: tuple[str, ...], way: str) -> None:
    """Where the distribution has a Python for it, the sentence names the package."""
    machine("3.10", packages=packages)
    with pytest.raises(ToolError) as raised:
        controller()
    assert str(raised.value).endswith(way)


@pytest.mark.parametrize("words", [["--install"], ["--molecule", "test"], ["check"], ["test"]])
def test_one_sentence_and_no_traceback(
    machine: Machine, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is run ends with that sentence."""
    machine("3.10", packages=("python3.11-venv",))
    assert run.main(words) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("run: ansible-core ")
    assert said.err.count("\n") == 1


def test_a_tool_that_is_missing_within_a_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step says in one sentence what it lacks, too."""

    def commands() -> list[list[str]]:
        raise ToolError("there is none")

    monkeypatch.setattr(run, "LOGS", tmp_path)
    answer = run.run_step(run.Step("lacking", "nothing", commands))
    assert (answer.verdict, answer.note) == ("FAILED", "there is none")
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pythons", "reason"),
    [
        (("3.14",), f"the other steps had ansible-core {NEWEST.version}, "),
        (("3.11",), f"ansible-core {NEWEST.version} needs Python 3.12, 3.13 or 3.14 "),
    ],
)
def test_the_newest_is_not_run(machine: Machine, pythons: tuple[str, ...], reason: str) -> None:
    """Its steps are not run where there is no Python for it, nor twice where there is no other."""
    machine(*pythons)
    with pytest.raises(run.CannotRunError, match=f"^{reason}"):
        run.newest()


def test_the_newest_has_its_own_environment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a Python is there for each, each is tested."""
    made: list[tuple[object, ...]] = []

    def venv(*wanted: object) -> Path:
        made.append(wanted)
        return Path("/nowhere")

    machine("3.11", "3.13")
    monkeypatch.setattr(run, "venv", venv)
    run.ansible()
    run.newest()
    assert made == [
        ("controller", Path("/usr/bin/python3.11"), OLDEST),
        ("controller", Path("/usr/bin/python3.13"), NEWEST),
    ]


def test_an_environment_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever else makes it meanwhile, in this process or another, is waited for."""
    made = []

    def make(folder: Path, *_: object) -> None:
        made.append(folder)
        folder.mkdir(parents=True)
        (folder / "ready").touch()

    monkeypatch.setenv("VNUMA_CACHE", str(tmp_path))
    monkeypatch.setattr(venvs, "_make", make)
    wanted = ("target-3.9", Path("/usr/bin/python3.9"))
    folder = venvs.venv(*wanted)
    assert venvs.venv(*wanted) == folder
    assert made == [folder]
    (folder / "ready").unlink()
    with ThreadPoolExecutor() as pool, folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(venvs.venv, *wanted)
        with pytest.raises(NotYetError):
            waiting.result(timeout=0.2)
        (folder / "ready").touch()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result() == folder
    assert made == [folder]


def test_the_table_is_what_its_package_says() -> None:
    """The ansible-core that this runs with supports the Pythons in the table, and no others."""
    package = metadata.metadata("ansible-core")
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    named = {
        classifier.rpartition(" ")[2]
        for classifier in package.get_all("Classifier") or []
        if classifier.startswith("Programming Language :: Python :: 3.")
    }
    table = {core.version: set(core.pythons) for core in (OLDEST, NEWEST)}
    if package["Version"] in table:
        assert table[package["Version"]] == named
    else:
        # The Python of a managed host runs the planner's tests with an older one.
        assert not any(running in pythons for pythons in table.values())
