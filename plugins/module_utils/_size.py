# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes of memory, with the units that libvirt takes."""

from __future__ import annotations

import re

from ._cpuset import whole_number

#: Factors of libvirt's units, in bytes; it takes them in any case (virScaleInteger,
#: src/util/virutil.c).
UNIT_BYTES = {
    **dict.fromkeys(("b", "byte", "bytes"), 1),
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
}

#: Most memory that libvirt counts, in KiB: 2^63 - 1 bytes (virMemoryMaxValue, src/util/virutil.c).
MAX_MEMORY_KIB = (1 << 53) - 1


def size_kib(number: int, unit: str) -> int | None:
    """Return a size in KiB, rounded up as libvirt does (virDomainParseMemory).

    Returns:
        None for a unit that libvirt does not know.
    """
    factor = UNIT_BYTES.get(unit.lower())
    return None if factor is None else -(-number * factor // 1024)


def parse_size_kib(text: str) -> int | None:
    """Return the KiB that a text such as ``32 GiB`` means; None where it is no size with a unit."""
    found = re.fullmatch(r"\s*([0-9]+)\s*([A-Za-z]+)\s*", text, re.ASCII)
    if found is None:
        return None
    number = whole_number(found[1])
    # What does not fit 64 bits is a size all the same, and more than anybody has.
    return size_kib(1 << 64 if number is None else number, found[2])


def show_size(kib: int) -> str:
    """Write a size in the largest unit that says it exactly, such as ``32 GiB``."""
    for power, unit in ((3, "TiB"), (2, "GiB"), (1, "MiB")):
        if kib and kib % 1024**power == 0:
            return f"{kib // 1024**power} {unit}"
    return f"{kib} KiB"


def granule_kib(arch: str) -> int:
    """Return what libvirt aligns a cell's memory to when it starts a guest of an architecture.

    256 MiB on ppc64, else 1 MiB (qemuDomainGetMemorySizeAlignment and
    qemuDomainAlignMemorySizes, src/qemu/qemu_domain.c).
    """
    return (256 if arch.startswith("ppc64") else 1) << 10
