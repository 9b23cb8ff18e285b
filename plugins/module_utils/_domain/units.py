# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and sizes as a definition has them."""

from __future__ import annotations

from .._cpuset import whole_number
from .._errors import DomainError
from .xml import Element

#: Factors of libvirt's units, in bytes; it takes them in any case (virScaleInteger,
#: src/util/virutil.c).
UNIT_BYTES = {
    **dict.fromkeys(("b", "byte", "bytes"), 1),
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
}


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
    factor = UNIT_BYTES.get(unit.lower())
    if factor is None:
        raise DomainError(
            f"<{tag}> has the unknown unit '{unit}'; use one of libvirt's, such as KiB or GiB."
        )
    size: int = integer(text, f"<{tag}>") * factor
    return -(-size // 1024)


def memory_kib(element: Element) -> int:
    """Return the size in KiB that an element has as its text."""
    return kib(element.text, element.get("unit"), str(element.tag))
