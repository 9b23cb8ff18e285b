# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible runs to measure: whole commands, and the tasks of one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import trees
from timing import BenchError, Run, command
from venvs import OLDEST, controller, venv

#: The distribution's interpreter, which has its libvirt bindings: for every module that is called.
SYSTEM_PYTHON = "/usr/bin/python3"

Task = Mapping[str, Any]


@lru_cache(maxsize=1)
def environment() -> Path:
    """Return the environment with Ansible's community package; install the collection first."""
    folder = venv("bench", controller([OLDEST]).python)
    trees.install(folder / "bin/ansible-galaxy")
    return folder


class Ansible:
    """Plays against the hosts of an inventory.

    Args:
        folder: where plays and Ansible's own files are put.
        inventory: the hosts; None for this machine, by a local connection.
    """

    def __init__(self, folder: Path, inventory: Path | None = None) -> None:
        self._folder = folder
        self._inventory = inventory or folder / "inventory.json"
        if inventory is None:
            host = {
                "ansible_connection": "local",
                "ansible_python_interpreter": SYSTEM_PYTHON,
            }
            self._inventory.write_text(json.dumps({"all": {"hosts": {"here": host}}}))
        self._settings = {
            "ANSIBLE_COLLECTIONS_PATH": str(trees.INSTALLED),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "true",
        }

    def play(self, name: str, tasks: Sequence[Task]) -> Path:
        """Write a play of these tasks."""
        path = self._folder / f"{name}.yml"
        head = {"hosts": "all", "gather_facts": False}
        path.write_text(json.dumps([{**head, "tasks": list(tasks)}], indent=1))
        return path

    def run(
        self, play: Path | str, variables: Mapping[str, Any] | None = None, **settings: str
    ) -> Run:
        """Run a play, or a playbook of the collection, and return what the whole command took."""
        argv: list[str | Path] = [environment() / "bin/ansible-playbook", play]
        argv += ["--inventory", self._inventory]
        if variables:
            argv += ["--extra-vars", json.dumps(variables)]
        return command(argv, {**self._settings, **settings}, self._folder)

    def task_seconds(self, play: Path) -> list[tuple[str, float]]:
        """Run a play and return its tasks' names and the seconds that each took."""
        output = self.run(play, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json").output
        try:
            start = output.index('{\n    "custom_stats"')
            found, _end = json.JSONDecoder().raw_decode(output[start:])
        except ValueError:
            raise BenchError(f"the play {play.name} gave no result: {output[-2000:]}") from None
        seconds = []
        for task in found["plays"][0]["tasks"]:
            begin, end = (
                datetime.fromisoformat(task["task"]["duration"][key].rstrip("Z"))
                for key in ("start", "end")
            )
            seconds.append((str(task["task"]["name"]), (end - begin).total_seconds()))
        return seconds
