# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors: who they are about is said once, on one line."""

from __future__ import annotations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    CpusetError,
    DomainError,
    GuestGoneError,
    HostError,
    HypervisorError,
    LayoutError,
    PolicyError,
    VnumaError,
)


@pytest.mark.parametrize(
    "kind",
    [
        *(CpusetError, DomainError, GuestGoneError, HostError, HypervisorError, LayoutError),
        PolicyError,
    ],
)
def test_the_guest_is_named_once(kind: type[VnumaError]) -> None:
    """By whoever knows it first."""
    error = kind("it is so.")
    assert (str(error), error.guest) == ("it is so.", None)
    assert str(error.for_guest("a")) == "guest a: it is so."
    assert str(error.for_guest("b")) == "guest a: it is so."
    assert error.for_guest("b") is error
    assert error.message == "it is so."
    assert str(kind("it is so.", guest="c")) == "guest c: it is so."


def test_one_line() -> None:
    """Values may have line breaks, sentences have none."""
    assert str(VnumaError("'a\nb\r\n c' is not it.", guest="d")) == "guest d: 'a b c' is not it."


def test_no_longer_than_can_be_read() -> None:
    """Who gives a million digits need not be shown them all."""
    said = str(VnumaError(f"cells must be an integer, not '{'9' * 1000000}'; change cells."))
    assert said.startswith("cells must be an integer, not '9999")
    assert said.endswith("9...'; change cells.")
    assert len(said) < 600


def test_no_control_characters() -> None:
    """A guest's name and libvirt's words steer no terminal, and make no line of a log."""
    controls = "".join(map(chr, (*range(32), *range(127, 160), 0x2028, 0x202E, 0x2066, 0xD800)))
    said = str(PolicyError(f"a{controls}b.", f"x{controls}y"))
    assert set(said).isdisjoint(controls.replace(" ", ""))
    assert said.replace(" ", "") == "guestxy:ab."
    assert str(PolicyError("naïve 名.", "gäst 日本")) == "guest gäst 日本: naïve 名."
