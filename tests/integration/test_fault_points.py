# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that are killed at each of their steps, one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible as ansible_core
import pytest
import root
from adhoc import SYSTEM_PYTHON
from conftest import PROJECT, Libvirt
from faulted import Faulted
from tinyguest import NEVER, PASSWORD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(root.chosen().folder), reason="it runs on this machine alone"),
]

Start = Callable[..., Libvirt]


@pytest.fixture
def world(
    lab: Start, call: Any, state_dir: Path, tmp_path: Path, collections: Path
) -> Iterator[Callable[..., World]]:
    """A host with a guest, and modules that die on it."""
    used = []

    def make(*, shim: bool = True) -> World:
        libvirt = lab("asymmetric-4n16c", shim=shim)
        libvirt.clear()
        used.append(libvirt)
        return World(libvirt, call, state_dir, tmp_path, collections)

    yield make
    for libvirt in used:
        libvirt.clear()


class World(Faulted):
    """A host on which modules die.

    Args:
        collections: where the collection is installed.
    """

    def __init__(
        self, libvirt: Libvirt, call: Any, state_dir: Path, folder: Path, collections: Path
    ) -> None:
        super().__init__(libvirt, call, state_dir, folder)
        packages = Path(str(ansible_core.__file__)).parents[1]
        self._environment = {**os.environ, "PYTHONPATH": f"{collections}:{packages}"}

    def dies(self, module: str, step: int, **options: Any) -> bool:
        """Run a module that is killed at a step; tell whether it came so far."""
        arguments = {"uri": self.libvirt.uri, "state_dir": str(self.state_dir), **options}
        done = subprocess.run(
            [SYSTEM_PYTHON, str(PROJECT / "tests/lab/dying.py"), module, str(step)],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (-signal.SIGKILL, 0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode == -signal.SIGKILL


#: Two layouts in turn, so that there always is something to do.
_LAYOUTS = ({"nodes": "all"}, {"nodes": "0-1"})
_CELLS = (4, 2)


def test_partition(world: Callable[..., World]) -> None:
    """What it has redefined is restarted by the next run, and goes on with what it had."""
    one = world()
    one.boot("g1")
    step, dies = 0, True
    while dies:
        step += 1
        layout = _LAYOUTS[step % 2]
        guests = [{"name": "g1", **layout}]
        dies = one.dies("vnuma_partition", step, guests=guests)
        one.has_no_password()
        _ends_well(one, step + 1, step, layout)
    assert step > 4


@pytest.mark.parametrize("mode", ["graceful", "force"])
def test_restart(world: Callable[..., World], mode: str) -> None:
    """The guest runs after the next run, was booted once, and nothing is left behind."""
    one = world()
    one.boot("g1", delay_s=NEVER if mode == "force" else 0)
    how = {"mode": mode, "timeout": 4 if mode == "force" else 60}
    step, dies = 0, True
    while dies:
        step += 1
        layout = _LAYOUTS[step % 2]
        assert not one.partition(**layout).failed
        dies = one.dies("vnuma_restart", step, **how)
        one.has_no_password()
        _ends_well(one, step + 1, step, layout, **how)
    assert step > 12


def _ends_well(one: World, boots: int, step: int, layout: dict[str, str], **how: Any) -> None:
    one.check_writes_nothing(**layout)
    for run in (one.partition(**layout), one.restart(**how)):
        assert not run.failed, (step, run.msg)
    assert one.state("g1") == "running", step
    one.run_on("g1", boots=boots, cells=_CELLS[step % 2])
    one.is_tidy()
    for run in (one.partition(**layout), one.restart(**how)):
        assert not run.result["changed"], (step, run.output)
    assert PASSWORD in one.libvirt.dump("g1", live=True)


def test_a_rollback(world: Callable[..., World]) -> None:
    """The guest runs with the layout that it had, and its definition is the one that it had."""
    one = world(shim=False)
    one.boot("g1", kind="qcow2")
    before = one.libvirt.dump("g1")
    step, dies = 0, True
    while dies:
        step += 1
        assert not one.partition(pinning="none").failed
        dies = one.dies("vnuma_restart", step)
        one.has_no_password()
        one.check_writes_nothing(pinning="none")
        one.restart()
        assert one.state("g1") == "running", step
        assert one.libvirt.dump("g1") == before, step
        one.run_on("g1", boots=step + 1, cells=0)
        one.is_tidy()
        assert not one.restart().result["changed"], step
    assert step > 16
