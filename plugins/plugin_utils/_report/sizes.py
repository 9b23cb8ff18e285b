# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes and shares as people read them, with the exact figure kept where it is rounded."""

from __future__ import annotations

from markupsafe import Markup

_UNITS = ((1 << 30, "TiB"), (1 << 20, "GiB"), (1 << 10, "MiB"), (1, "KiB"))


def size_text(kib: int) -> str:
    """Return a size in the largest unit that it fills, rounded to a tenth."""
    unit, name = next((one for one in _UNITS if kib >= one[0]), _UNITS[-1])
    if kib % unit == 0:
        return f"{kib // unit} {name}"
    return f"{kib / unit:.1f} {name}"


def size(kib: int | None) -> Markup:
    """Return a size for the page; in bytes too, for machines, where the text is rounded.

    Args:
        kib: the size in KiB, None where it is not known.
    """
    if kib is None:
        return Markup("unknown")
    text = size_text(kib)
    if "." in text:
        return Markup(f"<data value={kib * 1024}>{text}</data>")  # noqa: S704 - digits and a unit
    return Markup(text)  # noqa: S704 - the same


def level(part: int, whole: int) -> int:
    """Return how dark a cell of a heat table is, from 0 for nothing to 5 for all of it."""
    if part <= 0 or whole <= 0:
        return 0
    return min(5, 1 + 4 * part // whole)
