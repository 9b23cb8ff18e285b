# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests share: hosts by name, and the count of property examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from hypothesis import HealthCheck, settings

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
#: The property suite is not allowed to shrink unnoticed.
FEWEST_EXAMPLES = 2000

settings.register_profile(
    "whole",
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# For another Python, whose planner is the same: "--hypothesis-profile=few".
settings.register_profile("few", settings.get_profile("whole"), max_examples=20)
settings.load_profile("whole")

_examples = {"ran": 0, "short": 0}


@pytest.fixture(scope="session")
def host() -> Callable[[str], Host]:
    """Return a recorded host by its name in tests/hosts."""
    known: dict[str, Host] = {}

    def read(name: str) -> Host:
        if name not in known:
            known[name] = parse_capabilities((HOSTS / f"{name}.xml").read_text(encoding="utf-8"))
        return known[name]

    return read


@pytest.fixture(scope="session")
def guest() -> Callable[..., Guest]:
    """Return a guest; 16 vCPUs and 64 GiB unless told otherwise."""

    def make(vcpus: int = 16, memory_kib: int = 64 << 20, **keys: Any) -> Guest:
        keys = {"name": "anuma", "uuid": "", "arch": "x86_64", **keys}
        return Guest(vcpus=vcpus, memory_kib=memory_kib, **keys)

    return make


@pytest.fixture(scope="session")
def count_example() -> Callable[[], None]:
    """Count one example of a property."""

    def count() -> None:
        _examples["ran"] += 1

    return count


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail when the property suite was there and ran too few examples."""
    properties = [item for item in session.items if item.path.name == "test_properties.py"]
    whole = (
        len(properties) > 5
        and not session.config.option.keyword
        and session.config.option.hypothesis_profile != "few"
    )
    if whole and _examples["ran"] < FEWEST_EXAMPLES and session.exitstatus == 0:
        session.exitstatus = 1
        _examples["short"] = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many examples ran, and whether they were too few."""
    if _examples["short"]:
        terminalreporter.write_line(
            f"ERROR: the property suite ran fewer than {FEWEST_EXAMPLES} examples", red=True
        )
    if _examples["ran"]:
        terminalreporter.write_line(
            f"property suite: {_examples['ran']} examples (at least {FEWEST_EXAMPLES} are wanted)"
        )
