# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers, and sets of pCPUs, vCPUs and nodes, as libvirt writes them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ._errors import CpusetError

#: Highest id accepted. libvirt's own ceiling is VIR_DOMAIN_CPUMASK_LEN, 16384 bits
#: (src/conf/domain_conf.h); it also keeps ``0-4000000000`` from eating the memory.
MAX_ID = 16383

#: Ids of pCPUs, vCPUs or nodes, ascending.
Ids = tuple[int, ...]

_SHOWN_RUNS = 16
# A fleet's definitions say the same few sets and numbers thousands of times.
_REMEMBERED = 4096


def parse_cpuset(text: str) -> tuple[int, ...]:
    """Read libvirt's bitmap syntax, such as ``0-3,^2,8``.

    The syntax is that of virBitmapParse (libvirt, src/util/virbitmap.c): ids, ranges, and
    exclusions that apply to what stands before them.

    Blanks around commas are allowed; ids come back ascending.

    Raises:
        CpusetError: when it is empty, malformed, or names an id over 16383.
    """
    return _parsed(text)


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str) -> tuple[int, ...]:
    members: set[int] = set()
    for part in text.split(","):
        token = part.strip()
        excluded = token.startswith("^")
        first, dash, last = token[1 if excluded else 0 :].partition("-")
        low = _number(first, text)
        high = _number(last, text) if dash else low
        if high < low:
            raise CpusetError(f"'{token}' in '{text}' counts down; write '{high}-{low}'.")
        span = range(low, high + 1)
        if excluded:
            if not members.issuperset(span):
                raise CpusetError(
                    f"'{token}' in '{text}' excludes what is not in the set before it; "
                    "write the range first, then what to exclude, such as '0-3,^2'."
                )
            members.difference_update(span)
        else:
            members.update(span)
    if not members:
        raise CpusetError(f"'{text}' excludes every number of the set; keep at least one.")
    return tuple(sorted(members))


def format_cpuset(ids: Iterable[int]) -> str:
    """Write ids as libvirt does: ascending, runs joined, ``0-14,120-134``; empty gives ''."""
    return _formatted(ids if isinstance(ids, tuple) else tuple(ids))


@lru_cache(maxsize=_REMEMBERED)
def _formatted(ids: tuple[int, ...]) -> str:
    parts: list[str] = []
    start = previous = None
    for number in sorted(set(ids)):
        if previous is not None and number == previous + 1:
            previous = number
            continue
        if start is not None:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
        start = previous = number
    if start is not None:
        parts.append(str(start) if start == previous else f"{start}-{previous}")
    return ",".join(parts)


def numbered(one: str, many: str, ids: Iterable[int]) -> str:
    """Return a noun with its numbers, such as ``vCPU 3`` or ``vCPUs 2-3,8``."""
    listed = tuple(ids)
    return f"{one if len(listed) == 1 else many} {format_cpuset(listed)}"


def nodes_text(nodes: Iterable[int]) -> str:
    """Return ``host node 3`` or ``host nodes 0-3``."""
    return numbered("host node", "host nodes", nodes)


def show_cpuset(ids: Iterable[int]) -> str:
    """Write ids for a sentence: the first of many, and ``none`` for none."""
    members = tuple(ids)
    runs = format_cpuset(members).split(",")
    shown = ",".join(runs[:_SHOWN_RUNS]) or "none"
    more = len(set(members).difference(parse_cpuset(shown))) if members else 0
    return f"{shown} and {more} more" if more else shown


def whole_number(text: str) -> int | None:
    """Return the number that ASCII digits mean; None for anything else, and over 64 bits.

    int() would also take ``1_0``, ``+1`` and the digits of every script.
    """
    return _whole_number(text)


@lru_cache(maxsize=_REMEMBERED)
def _whole_number(text: str) -> int | None:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        return None
    # int() refuses thousands of digits; twenty-one are enough to be over.
    number = int(digits.lstrip("0")[:21] or 0)
    return number if number < 1 << 64 else None


def _number(token: str, text: str) -> int:
    digits = token.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise CpusetError(f"'{text}' is not a set of numbers; write it as '0-3,8' or '0-7,^2'.")
    number = whole_number(digits)
    if number is None or number > MAX_ID:
        raise CpusetError(
            f"{digits} in '{text}' is over {MAX_ID}, the highest id that libvirt supports."
        )
    return number
