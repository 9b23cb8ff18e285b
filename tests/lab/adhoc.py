# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call of a module of the collection, by the ``ansible`` command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands

#: Interpreter of the distribution, which has its libvirt bindings.
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass
class Run:
    """What one call of a module answered.

    Attributes:
        result: the module's result.
        output: everything that Ansible printed.
        failed: whether the task failed.
    """

    result: dict[str, Any]
    output: str
    failed: bool

    @property
    def msg(self) -> str:
        """The sentence of a failure."""
        return str(self.result.get("msg", ""))

    def guest(self, name: str) -> dict[str, Any]:
        """The one entry of a guest in the result."""
        (guest,) = [one for one in self.result["guests"] if one["name"] == name]
        assert isinstance(guest, dict)
        return guest


@dataclass(frozen=True)
class Adhoc:
    """Calls of modules by one Ansible.

    Attributes:
        folder: where it runs.
    """

    folder: Path

    def call(
        self,
        module: str,
        arguments: Mapping[str, Any],
        flags: Sequence[str] = (),
        python: str = SYSTEM_PYTHON,
        environment: Mapping[str, str] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Run:
        """Call a module of the collection, here unless the variables of a host say how to reach it.

        A traceback in what it prints fails an assertion.
        """
        done = commands.run(
            command(module, arguments, flags, python, variables), self.folder, environment
        )
        output = done.stdout + done.stderr
        return Run(_result(done.stdout, output), output, failed=done.returncode != 0)


def command(
    module: str,
    arguments: Mapping[str, Any],
    flags: Sequence[str] = (),
    python: str = SYSTEM_PYTHON,
    variables: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the command that calls a module of the collection."""
    reached = {"ansible_connection": "local"} if variables is None else variables
    return [
        *("ansible", "localhost", "--inventory=localhost,"),
        f"--extra-vars={json.dumps({**reached, 'ansible_python_interpreter': python})}",
        f"--module-name=kvm.vnuma.{module}",
        f"--args={json.dumps(arguments)}",
        *flags,
    ]


def _result(stdout: str, output: str) -> dict[str, Any]:
    """Return the JSON that the ad-hoc command prints after its verdict."""
    start = stdout.find(" => {")
    assert start >= 0, output
    result, _end = json.JSONDecoder().raw_decode(stdout[start + len(" => ") :])
    assert isinstance(result, dict)
    assert "Traceback" not in output
    return result
