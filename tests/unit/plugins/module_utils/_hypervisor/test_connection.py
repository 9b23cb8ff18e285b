# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sentences about a connection that cannot be had: no password in them, and no wait without end."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    DaemonLostError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import (
    connection as _connection,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.connection import (
    Connection,
    within,
)


class LibvirtError(Exception):
    """libvirt's own error, which quotes what it was given."""

    def get_error_message(self) -> str:
        """What it says."""
        return str(self)

    def get_error_code(self) -> int:
        """No code that means anything here."""
        return 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("esx://root:S3CR3T@host/?x=1", "esx://root:********@host/?x=1"),
        ("esx://root:S3@CR3T@host/", "esx://root:********@host/"),
        ("qemu+tcp://root:S3:CR3T@[::1]/system", "qemu+tcp://root:********@[::1]/system"),
        ("qemu+ssh://root@host/system", "qemu+ssh://root@host/system"),
        ("qemu:///system", "qemu:///system"),
    ],
)
def test_a_password_in_the_uri(monkeypatch: pytest.MonkeyPatch, uri: str, shown: str) -> None:
    """It is struck out of the URI, and out of what libvirt says of it."""

    def refuse(given: str) -> None:
        raise LibvirtError(f"unable to parse URI {given}")

    fake = SimpleNamespace(
        libvirtError=LibvirtError,
        registerErrorHandler=lambda _handler, _context: None,
        open=refuse,
    )
    monkeypatch.setattr(_connection, "libvirt", fake)
    monkeypatch.setattr(_connection, "_start_event_loop", lambda: None)
    with pytest.raises(HypervisorError) as raised:
        Connection(uri)
    said = str(raised.value)
    assert said.startswith(f"cannot connect to {shown}: unable to parse URI {shown};")
    assert "S3" not in said
    assert "CR3T" not in said


def test_what_is_never_answered() -> None:
    """It is given up when its time is up, with the sentence for that."""
    never = threading.Event()
    with pytest.raises(DaemonLostError, match="no answer"):
        within(time.monotonic() + 0.1, never.wait, "no answer.")
    never.set()
    assert within(time.monotonic() + 60, lambda: 7, "no answer.") == 7


def test_what_goes_wrong_in_time() -> None:
    """It is that error, and not the one about the time."""

    def fail() -> None:
        raise LibvirtError("no")

    with pytest.raises(LibvirtError, match="no"):
        within(time.monotonic() + 60, fail, "no answer.")
