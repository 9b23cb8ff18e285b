# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bounds of what a host may answer, since the page is also about others.

What is within them is read and drawn in seconds. They are far above what guests of a host make.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    HostError,
    printable,
)

#: Values of one host's results: a thousand guests with all their pins have a third of it.
_MAX_VALUES = 500_000
#: Dictionaries and lists within one another; those of the modules have seven.
_MAX_DEPTH = 20
#: Longer texts are cut. A set of 16384 numbers without a run has 98 300 characters.
_MAX_TEXT, _SHOWN_TEXT = 100_000, 1_000
#: libvirt's own numbers have 64 bits.
_MAX_NUMBER = 1 << 64


def plain(raw: object, where: str) -> Any:
    """Return a copy of what a host answered, as plain values without control characters.

    Args:
        raw: dictionaries, lists, texts, numbers, true, false and None.
        where: the host, for sentences.

    Raises:
        HostError: when it is more, deeper or larger than modules answer.
    """
    return _Copy(where).of(raw, 0)


class _Copy:
    """One copy, and how much of it there may still be."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.left = _MAX_VALUES

    def of(self, raw: object, depth: int) -> Any:
        self.left -= 1
        if depth > _MAX_DEPTH or self.left < 0:
            raise HostError(
                f"{self.where}: its results are deeper than {_MAX_DEPTH} levels or hold more than "
                f"{_MAX_VALUES} values, which no guests make; find out what answers there."
            )
        if isinstance(raw, str):
            return _text(raw)
        if raw is None or isinstance(raw, bool):
            return raw
        if isinstance(raw, (int, float)):
            return self._number(raw)
        if isinstance(raw, Mapping):
            return {self.of(key, depth): self.of(raw[key], depth + 1) for key in raw}
        if isinstance(raw, (list, tuple)):
            return [self.of(one, depth + 1) for one in raw]
        return _text(str(raw))

    def _number(self, raw: float) -> float:
        if not abs(raw) < _MAX_NUMBER:
            raise HostError(
                f"{self.where}: its results have a number of more than 64 bits; find out what "
                "answers there."
            )
        return raw


def _text(raw: str) -> str:
    text = raw if len(raw) <= _MAX_TEXT else f"{raw[:_SHOWN_TEXT]}…"
    return printable(text)
