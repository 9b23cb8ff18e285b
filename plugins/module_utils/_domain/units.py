# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers and sizes as a definition has them.

Definitions come from anybody. A number is held against what libvirt takes before anything is made
that is as large as it says.
"""

from __future__ import annotations

from .._cpuset import whole_number
from .._errors import DomainError
from .._size import MAX_MEMORY_KIB, size_kib
from .xml import Element

#: Highest of the numbers that libvirt reads as an unsigned int (virXMLPropUInt, src/util/virxml.c).
MAX_UINT = (1 << 32) - 1

#: Most iothreads of which a daemon tells a client (REMOTE_IOTHREAD_INFO_MAX,
#: src/remote/remote_protocol.x).
MAX_IOTHREADS = 16384

#: Largest distance between two cells: no way from one to the other (UNREACHABLE,
#: src/conf/numa_conf.c).
MAX_DISTANCE = 255


def integer(text: str | None, what: str, most: int, least: int = 0) -> int:
    """Return a number of a definition.

    It is from *least* to *most*, what libvirt takes there; *what* is its place, for the sentence.

    Raises:
        DomainError: when it is no number, or out of this range.
    """
    number = whole_number(text or "")
    if number is None or not least <= number <= most:
        raise DomainError(
            f"{what} must be an integer from {least} to {most}, not '{text}'; correct its "
            "definition."
        )
    return number


def kib(text: str | None, unit: str | None, tag: str, least: int = 0) -> int:
    """Return a size in KiB, rounded up as libvirt does (virDomainParseMemory).

    A unit of None is KiB, and so are *least* and the answer; *tag* is for the sentence.

    Raises:
        DomainError: when it is no size, out of range, or libvirt does not know the unit.
    """
    number, known = whole_number(text or ""), unit or "KiB"
    size = size_kib(number or 0, known)
    if size is None:
        raise DomainError(
            f"<{tag}> has the unknown unit '{unit}'; use one of libvirt's, such as KiB or GiB."
        )
    if number is None or not least <= size <= MAX_MEMORY_KIB:
        given = text if text is None or unit is None else f"{text} {unit}"
        raise DomainError(
            f"<{tag}> must be a size from {least} to {MAX_MEMORY_KIB} KiB, not '{given}'; "
            "correct its definition."
        )
    return size


def memory_kib(element: Element) -> int:
    """Return the size in KiB that an element has as its text."""
    return kib(element.text, element.get("unit"), str(element.tag))
