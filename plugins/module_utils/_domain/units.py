# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and sizes as a definition has them."""

from __future__ import annotations

from .._cpuset import whole_number
from .._errors import DomainError
from .._size import size_kib
from .xml import Element


def integer(text: str | None, what: str) -> int:
    """Return a number of a definition.

    Raises:
        DomainError: when it is none; *what* names its place.
    """
    number = whole_number(text or "")
    if number is None:
        raise DomainError(f"{what} must be a number, not '{text}'.")
    return number


def kib(text: str | None, unit: str | None, tag: str) -> int:
    """Return a size in KiB, rounded up as libvirt does (virDomainParseMemory).

    Raises:
        DomainError: when it is no number, or libvirt does not know the unit.
    """
    unit = unit or "KiB"
    size = size_kib(integer(text, f"<{tag}>"), unit)
    if size is None:
        raise DomainError(
            f"<{tag}> has the unknown unit '{unit}'; use one of libvirt's, such as KiB or GiB."
        )
    return size


def memory_kib(element: Element) -> int:
    """Return the size in KiB that an element has as its text."""
    return kib(element.text, element.get("unit"), str(element.tag))
