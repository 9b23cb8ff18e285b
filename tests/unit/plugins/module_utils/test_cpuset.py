# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cpusets: libvirt's syntax, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import (
    format_cpuset,
    parse_cpuset,
    show_cpuset,
    whole_number,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import CpusetError


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("0", (0,)),
        ("0-3", (0, 1, 2, 3)),
        ("0-14,120-134", (*range(15), *range(120, 135))),
        ("0-3,^2", (0, 1, 3)),
        ("0-7,^2-5", (0, 1, 6, 7)),
        ("3,1,2,1", (1, 2, 3)),
        (" 0 , 2 - 3 ", (0, 2, 3)),
        ("16383", (16383,)),
        ("0-1,^1,1", (0, 1)),
        ("0-16383,^1-16383", (0,)),
        ("007", (7,)),
        ("0" * 5000, (0,)),
        ("0" * 5000 + "16383", (16383,)),
        ("0-0", (0,)),
        ("\t0 -\n1", (0, 1)),
    ],
)
def test_reads(text: str, ids: tuple[int, ...]) -> None:
    """Ranges, exclusions, blanks, repetition."""
    assert parse_cpuset(text) == ids


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is not a set of numbers"),
        ("a", "'a' is not a set of numbers"),
        ("0-", "'0-' is not a set of numbers"),
        ("-1", "'-1' is not a set of numbers"),
        ("1,,2", "'1,,2' is not a set of numbers"),
        ("0x1", "'0x1' is not a set of numbers"),
        ("1.5", "'1.5' is not a set of numbers"),
        ("²", "'²' is not a set of numbers"),
        ("٣", "'٣' is not a set of numbers"),
        ("3-1", "'3-1' in '3-1' counts down; write '1-3'."),
        ("^1", "excludes what is not in the set before it"),
        ("1,^2", "'^2' in '1,^2' excludes what is not in the set before it"),
        ("1,^1", "'1,^1' excludes every number of the set; keep at least one."),
        ("16384", "16384 in '16384' is over 16383"),
        ("0-4000000000", "4000000000 in '0-4000000000' is over 16383"),
        ("0-16384", "16384 in '0-16384' is over 16383, the highest id that libvirt supports."),
        ("^0-16384", "is over 16383"),
        ("9" * 5000, "is over 16383"),
        ("0-1,", "'0-1,' is not a set of numbers"),
        (",0", "',0' is not a set of numbers"),
        ("0--1", "'0--1' is not a set of numbers"),
        ("0-1-2", "'0-1-2' is not a set of numbers"),
        ("^", "'^' is not a set of numbers"),
        ("^^0", "'^^0' is not a set of numbers"),
        ("0 1", "'0 1' is not a set of numbers"),
        ("1_0", "'1_0' is not a set of numbers"),
        ("+1", "'+1' is not a set of numbers"),
        ("0-3,^1-4", "'^1-4' in '0-3,^1-4' excludes what is not in the set"),
        ("0-3,^3-1", "'^3-1' in '0-3,^3-1' counts down; write '1-3'."),
    ],
)
def test_refuses(text: str, sentence: str) -> None:
    """Each with a sentence that quotes what was written."""
    with pytest.raises(CpusetError) as raised:
        parse_cpuset(text)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("ids", "text"),
    [((), ""), ((5,), "5"), ((0, 1), "0-1"), ((3, 1, 2, 9), "1-3,9"), ((0, 2, 4), "0,2,4")],
)
def test_writes(ids: tuple[int, ...], text: str) -> None:
    """As libvirt does: runs joined, ascending."""
    assert format_cpuset(ids) == text


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((), "none"),
        (range(240), "0-239"),
        (range(0, 16, 2), "0,2,4,6,8,10,12,14"),
        (range(0, 512, 2), "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30 and 240 more"),
        (
            (*range(100), *range(200, 400, 2)),
            f"0-99,{','.join(map(str, range(200, 230, 2)))} and 85 more",
        ),
    ],
)
def test_shows(ids: Iterable[int], text: str) -> None:
    """In a sentence the first of many are enough."""
    assert show_cpuset(ids) == text


@pytest.mark.parametrize("text", ["0", "0-1", "0,2", "0-14,120-134", "0,2,4-5,7", "16383"])
def test_back_and_forth(text: str) -> None:
    """What libvirt writes is read and written alike."""
    assert format_cpuset(parse_cpuset(text)) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        (" 007\n", 7),
        (str(2**64 - 1), 2**64 - 1),
        ("0" * 5000 + "12", 12),
        (str(2**64), None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1_0", None),
        ("0x10", None),
        ("1.0", None),
        ("\u0663", None),
        ("\u00b2", None),
        ("True", None),
    ],
)
def test_whole_numbers(text: str, number: int | None) -> None:
    """What people and libvirt write, and nothing that only Python reads as a number."""
    assert whole_number(text) == number
