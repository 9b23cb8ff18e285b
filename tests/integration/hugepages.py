# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hugepages of the machine that the tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_POOL = Path("/proc/sys/vm/nr_hugepages")


@contextmanager
def more_hugepages(count: int) -> Iterator[None]:
    """Let this machine have so many more, which nobody uses; a test is skipped where it cannot."""
    before = _POOL.read_text()
    try:
        _POOL.write_text(str(int(before) + count))
    except OSError as error:
        pytest.skip(f"this machine lets nobody set its hugepages: {error}")
    try:
        if int(_POOL.read_text()) < int(before) + count:
            pytest.skip(f"this machine has no memory in one piece for {count} hugepages")
        yield
    finally:
        _POOL.write_text(before)
