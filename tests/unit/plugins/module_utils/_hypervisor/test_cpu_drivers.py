# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How it is found out whether libvirt has a CPU driver."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import daemon_limits

NO_SUPPORT, DENIED = 3, 29


class LibvirtError(Exception):
    """libvirt's own error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code

    def get_error_code(self) -> int:
        """Its number."""
        return self.code


class Daemon:
    """A daemon that has CPU drivers for some architectures, and an error for all others."""

    def __init__(self, known: set[str], code: int) -> None:
        self.known = known
        self.code = code
        self.asked: list[str] = []
        self.raw = self

    def getCPUModelNames(self, arch: str, flags: int) -> list[str]:  # noqa: N802 - libvirt's name
        """The models of an architecture."""
        self.asked.append(arch)
        if arch not in self.known:
            raise LibvirtError(self.code, f"'{arch}' wird nicht unterstützt")
        return []


@pytest.mark.parametrize(
    ("known", "code", "has"),
    [
        ({"x86_64", "riscv64"}, NO_SUPPORT, True),
        ({"x86_64"}, NO_SUPPORT, False),
        # Neither says anything of the architecture: no such function, or no permission.
        (set(), NO_SUPPORT, True),
        ({"x86_64"}, DENIED, True),
    ],
)
def test_asked_once(monkeypatch: pytest.MonkeyPatch, known: set[str], code: int, has: bool) -> None:
    """By the error's number, in whatever language it is worded."""
    bindings = SimpleNamespace(libvirtError=LibvirtError, VIR_ERR_NO_SUPPORT=NO_SUPPORT)
    monkeypatch.setattr(daemon_limits, "libvirt", bindings)
    daemon = Daemon(known, code)
    drivers = daemon_limits.CpuDrivers(daemon)  # type: ignore[arg-type]
    assert drivers.has("riscv64") is has
    asked = list(daemon.asked)
    assert drivers.has("riscv64") is has
    assert daemon.asked == asked
