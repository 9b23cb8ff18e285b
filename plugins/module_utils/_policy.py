# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the user asks for, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from ._cpuset import (
    format_cpuset,
    parse_cpuset,
    whole_number,
)
from ._errors import CpusetError, PolicyError
from ._size import MAX_MEMORY_KIB, parse_size_kib, show_size

#: Most vCPUs of a definition: an unsigned short (countCPU, src/conf/schemas/domaincommon.rng).
MAX_VCPUS = 65535

#: QEMU's MAX_NODES (include/sysemu/numa.h): a definition with more is accepted, and cannot start.
MAX_CELLS = 128

#: The largest hugepage that an architecture has, 16 GiB on ppc64.
MAX_GRANULE_KIB = 16 << 20

#: Guest cores for each host core beyond which nobody means it.
MAX_OVERCOMMIT = 64

#: What ``nodes`` is, checked: one of the words, or node ids, ascending.
Nodes = Union[str, tuple[int, ...]]
#: A distance matrix, row by row.
Matrix = tuple[tuple[int, ...], ...]
ALL, AUTO = "all", "auto"
#: Of pins: leave them alone, or remove them.
KEEP, NONE = "keep", "none"
#: As the host has it.
HOST = "host"
#: A socket for each cell that is as large as the others, or for each part that they have in common.
CELLS = "cells"
#: Among ``reserved_cpus``: those that the host's kernel isolates.
ISOLATED = "isolated"
_RESERVED_FORM = "a cpuset such as '0-1,8', 'isolated', or both with a comma"


@dataclass(frozen=True)
class Policy:
    """How one guest is to be partitioned; the options of the same names, checked.

    Attributes:
        state: ``present`` partitions, ``absent`` restores.
        nodes: host nodes to use; ``all`` for every eligible one, ``auto`` for those that fit.
        auto_nodes: nodes that ``auto`` may choose from, None for every eligible one.
        placement: whether ``auto`` keeps nodes free as a whole, or leaves each as free as it can.
        widen: whether ``auto`` may take more nodes than the fewest where no smaller set is free.
        cpu_overcommit: guest cores for each host core, where pins are not exclusive.
        reserved_memory_kib: memory of every node that ``auto`` leaves to the host itself, in KiB.
        device_locality: whether the nodes of passed-through PCI devices decide.
        devices: whether passed-through PCI devices are put on the cells that mirror their nodes.
        cells: number of guest cells, None for one per chosen node.
        distribution: how vCPUs are assigned to cells.
        split: whether cells may differ by a core and a granule (``even``), must be equal, or are in
            proportion to their host nodes.
        vcpus: vCPUs that the guest is to have, None for those that it has.
        memory_kib: memory that its cells are to share in KiB, None for what they have.
        threads: threads per guest core, None for the host's where whole cores fit.
        dies: whether the guest's dies mirror the cache domains that back its cells.
        sockets: ``auto`` for those of the host, ``cells`` for one a cell, or how many.
        pinning: what a vCPU is pinned to.
        memory_mode: mode of the memory binding, ``none`` for no binding.
        granule_kib: smallest unit that memory is split in, in KiB; None for the smallest there is.
        distances: where the distance matrix comes from, or the matrix.
        migration_group: names of the hosts that its cells are to suit; empty for its own host only.
        emulator_pinning: ``keep``, ``none``, ``nodes``, or the cpuset as pCPU ids.
        iothread_pinning: ``keep``, ``none``, ``nodes``, or the cpuset as pCPU ids.
        reserved_cpus: pCPUs that no vCPU is pinned to.
        reserves_isolated: whether the host's isolated pCPUs are reserved too.
    """

    state: str = "present"
    nodes: Nodes = ALL
    auto_nodes: tuple[int, ...] | None = None
    placement: str = "pack"
    widen: bool = False
    cpu_overcommit: Fraction = Fraction(1)
    reserved_memory_kib: int = 1 << 20
    device_locality: str = "prefer"
    devices: str = KEEP
    cells: int | None = None
    distribution: str = "contiguous"
    split: str = "even"
    vcpus: int | None = None
    memory_kib: int | None = None
    threads: int | None = None
    dies: str = "none"
    sockets: str | int = AUTO
    pinning: str = "node"
    memory_mode: str = "strict"
    granule_kib: int | None = None
    distances: str | Matrix = "host"
    migration_group: tuple[str, ...] = ()
    emulator_pinning: str | tuple[int, ...] = KEEP
    iothread_pinning: str | tuple[int, ...] = KEEP
    reserved_cpus: tuple[int, ...] = ()
    reserves_isolated: bool = False


def policy_from_options(options: Mapping[str, Any]) -> Policy:
    """Check the options and return them as a policy.

    Args:
        options: by option name; None counts as not given, so that a guest's entry can be laid
            over the call's options.

    Raises:
        PolicyError: for an unknown option or value; the sentence names both, and what is allowed.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise PolicyError(
            f"unknown option '{unknown[0]}'; the options are {_listed(sorted(OPTIONS))}."
        )
    given: dict[str, Any] = {
        option.field or name: option.read(name, options[name])
        for name, option in OPTIONS.items()
        if options.get(name) is not None
    }
    return Policy(**given, reserves_isolated=_reserves_isolated(options.get("reserved_cpus")))


def policy_from_record(
    recorded: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Policy:
    """Return the policy that a guest was partitioned with, by its record.

    Options that another version has written, and this one does not have, are left out.

    Args:
        recorded: the options in the record.
        overrides: options that count instead of those.

    Raises:
        PolicyError: for a value that means nothing, and for an unknown option in *overrides*.
    """
    known = {name: text for name, text in recorded.items() if name in OPTIONS}
    return policy_from_options({**known, **(overrides or {})})


def policy_to_record(policy: Policy) -> dict[str, str]:
    """Return the options that differ from their defaults, as text, for the guest's own record."""
    return {
        name: text
        for name, text in sorted(_as_text(policy).items())
        if text is not None and text != DEFAULTS[name]
    }


def _as_text(policy: Policy) -> dict[str, str | None]:
    """Return every option as the user writes it, None for one that is not given."""
    return {
        **{name: one.text(getattr(policy, one.field or name)) for name, one in OPTIONS.items()},
        "reserved_cpus": reserved_text(policy),
    }


def argument_spec() -> dict[str, dict[str, Any]]:
    """Return the policy options as a module takes them (ansible.module_utils.common.arg_spec)."""
    return {
        name: {
            "type": option.type,
            **({"elements": "str"} if option.type == "list" else {}),
            **({"choices": list(option.choices)} if option.choices else {}),
            **({} if DEFAULTS[name] is None else {"default": option.typed(str(DEFAULTS[name]))}),
        }
        for name, option in OPTIONS.items()
    }


def reserved_text(policy: Policy) -> str | None:
    """Return ``reserved_cpus`` as the user writes it, None where there are none."""
    parts = [ISOLATED] if policy.reserves_isolated else []
    if policy.reserved_cpus:
        parts.append(format_cpuset(policy.reserved_cpus))
    return ",".join(parts) or None


def _nodes(option: str, value: object) -> Nodes:
    if value in (ALL, AUTO):
        return str(value)
    return _set(option, value, "'all', 'auto' or a nodeset such as '0-3,^2'")


def _auto_nodes(option: str, value: object) -> tuple[int, ...] | None:
    return None if value in ("", []) else _set(option, value, "a nodeset such as '0-3,^2'")


def _flag(option: str, value: object) -> bool:
    # An entry of a guest and a variable of the role hold text where YAML has a boolean.
    word = str(value).lower()
    if word not in ("true", "false", "yes", "no"):
        raise PolicyError(f"{option} must be true or false, not '{value}'.")
    return word in ("true", "yes")


def _overcommit(option: str, value: object) -> Fraction:
    # Fraction alone would also take '1e9' and '3/2', and '1e999999999' for hours.
    digits = re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", str(value), re.ASCII)
    ratio = Fraction(digits[0]) if digits else Fraction(0)
    if not 1 <= ratio <= MAX_OVERCOMMIT:
        raise PolicyError(
            f"{option} must be a number from 1 to {MAX_OVERCOMMIT} with at most three "
            f"decimals, such as 1.5, not '{value}'; 1 gives every guest core a host core of its "
            "own."
        )
    return ratio


def _threads(option: str, value: object) -> int | None:
    return None if value == AUTO else _count(option, value, 1024, "'auto' or ")


def _sockets(option: str, value: object) -> str | int:
    if value in (AUTO, CELLS):
        return str(value)
    return _count(option, value, MAX_VCPUS, "'auto', 'cells' or ")


def matrix_text(matrix: Matrix) -> str:
    """Return a matrix as one word: rows parted by ``;``, and values by ``,``."""
    return ";".join(",".join(map(str, row)) for row in matrix)


def _distances(option: str, value: object) -> str | Matrix:
    if value in ("host", "none"):
        return str(value)
    rows = _rows(value)
    numbers = tuple(tuple(whole_number(str(one)) for one in row) for row in rows)
    # libvirt takes 10 on the diagonal and nowhere else (virDomainNumaDefParseXML, numa_conf.c), and
    # 255 would mean that there is no way between two cells.
    if (
        not numbers
        or any(
            number is None or (number == 10) != (row == column) or not 10 <= number <= 254
            for row, line in enumerate(numbers)
            for column, number in enumerate(line)
        )
        or any(len(line) != len(numbers) for line in numbers)
    ):
        raise PolicyError(
            f"{option} must be 'host', 'none', or a full matrix such as [[10, 21], [21, 10]]: 10 "
            f"from a cell to itself, and 11 to 254 to every other, not '{value}'."
        )
    return tuple(tuple(number or 0 for number in line) for line in numbers)


def _rows(value: object) -> list[list[object]]:
    """Return the rows of a matrix, given as lists or as text; none where one of them is no row."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else _split(text)
        except ValueError:
            return []
    rows = list(value) if isinstance(value, (list, tuple)) else []
    if not all(isinstance(row, (list, tuple)) for row in rows):
        return []
    return [list(row) for row in rows]


def _split(text: str) -> list[list[str]]:
    return [row.split(",") for row in text.split(";")]


def _group(option: str, value: object) -> tuple[str, ...]:
    """Return the names of hosts, sorted: given as a list, or as text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise PolicyError(
            f"{option} must be a list of names of hosts, such as [host1, host2], not '{value}'."
        )
    return tuple(sorted({name.strip() for name in names} - {""}))


def _pinning(option: str, value: object) -> str | tuple[int, ...]:
    if value in (KEEP, NONE, "nodes"):
        return str(value)
    return _set(option, value, "'keep', 'none', 'nodes' or a cpuset such as '0-1'")


def _reserved(option: str, value: object) -> tuple[int, ...]:
    """Return the pCPUs that are reserved by number."""
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    named = [part for part in parts if str(part).strip() != ISOLATED]
    if value in ("", []) or not named:
        return ()
    return _set(option, value if len(named) == len(parts) else named, _RESERVED_FORM)


def _reserves_isolated(value: object) -> bool:
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    return any(str(part).strip() == ISOLATED for part in parts)


def _set(option: str, value: object, form: str) -> tuple[int, ...]:
    # YAML makes ``nodes: 0`` an integer and ``nodes: [0, 1]`` a list; both mean what they say.
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if isinstance(value, (bool, Mapping)):
        raise PolicyError(f"{option} must be given as {form}, not '{value}'.")
    try:
        return parse_cpuset(text)
    except CpusetError as error:
        raise PolicyError(f"{option}: {error.message} It takes {form}.") from error


def _count(option: str, value: object, highest: int, form: str = "") -> int:
    number = whole_number(str(value))
    if number is None or not 1 <= number <= highest:
        raise PolicyError(f"{option} must be {form}an integer from 1 to {highest}, not '{value}'.")
    return number


def _listed(values: list[str] | tuple[str, ...], word: str = "and") -> str:
    return f"{', '.join(values[:-1])} {word} {values[-1]}"


def _text(value: Any) -> str | None:
    """Write a value as the user does: ids as a cpuset, a matrix as one word, a flag as in YAML."""
    if value is None or value == ():
        return None
    if isinstance(value, tuple):
        return matrix_text(value) if isinstance(value[0], tuple) else format_cpuset(value)
    if isinstance(value, Fraction):
        return f"{float(value):.3f}".rstrip("0").rstrip(".")
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Option:
    """One policy option; its default is that of its field.

    Attributes:
        read: checks what was given, by its name and value, and returns what the field has then.
        text: writes that as the user does, None for what is not given.
        field: of `Policy`, where it has another name.
        type: of the module's argument.
        choices: all there are, the first one the default; () for an option of another kind.
    """

    read: Callable[[str, Any], object]
    text: Callable[[Any], str | None] = _text
    field: str = ""
    type: str = "str"
    choices: tuple[str, ...] = ()

    def typed(self, default: str) -> object:
        """Return a default, as the user writes it, in the type of the module's argument."""
        if self.type == "bool":
            return default == "true"
        return {"int": int, "float": float}.get(self.type, str)(default)


def _choice(*choices: str) -> Option:
    """Return an option with a fixed set of values."""

    def read(option: str, value: object) -> str:
        if value not in choices:
            raise PolicyError(f"{option} must be one of {_listed(choices, 'or')}, not '{value}'.")
        return str(value)

    return Option(read, choices=choices)


def _number(highest: int) -> Option:
    """Return an option that is a number, if it is given."""
    return Option(lambda option, value: _count(option, value, highest), type="int")


def _size(field: str, lowest_kib: int, highest_kib: int) -> Option:
    """Return an option that is a size of memory with a unit, if it is given; 0 goes without one."""

    def read(option: str, value: object) -> int:
        size = 0 if str(value).strip() == "0" else parse_size_kib(str(value))
        if size is None:
            raise PolicyError(
                f"{option} must be an integer with a unit, such as '32 GiB', not '{value}'."
            )
        if not lowest_kib <= size <= highest_kib:
            raise PolicyError(
                f"{option} must be from {lowest_kib} KiB to {highest_kib} KiB, not '{value}'."
            )
        return size

    return Option(read, lambda kib: None if kib is None else show_size(kib), field)


#: Every policy option: the one table. The module's arguments, the entries of its guests, defaults,
#: records and `Policy` itself follow from it. The documentation, the role and the pages are
#: compared with it by tests.
OPTIONS: Mapping[str, Option] = {
    "state": _choice("present", "absent"),
    "distribution": _choice("contiguous", "interleave", "round_robin"),
    "split": _choice("even", "equal", "proportional"),
    "pinning": _choice("node", "cache", "core", "cpu", "none", "keep"),
    "memory_mode": _choice("strict", "preferred", "restrictive", "none"),
    "placement": _choice("pack", "spread"),
    "device_locality": _choice("prefer", "require", "ignore"),
    "devices": _choice(KEEP, HOST),
    "dies": _choice("none", HOST),
    "reserved_cpus": Option(_reserved),
    "nodes": Option(_nodes),
    "auto_nodes": Option(_auto_nodes),
    "widen": Option(_flag, type="bool"),
    "cpu_overcommit": Option(_overcommit, type="float"),
    "reserved_memory": _size("reserved_memory_kib", 0, MAX_MEMORY_KIB),
    "cells": _number(MAX_CELLS),
    "threads": Option(_threads, lambda threads: _text(threads) or AUTO),
    "sockets": Option(_sockets),
    "granule": _size("granule_kib", 1, MAX_GRANULE_KIB),
    "distances": Option(_distances, type="raw"),
    "migration_group": Option(_group, lambda names: ",".join(names) or None, type="list"),
    "vcpus": _number(MAX_VCPUS),
    "memory": _size("memory_kib", 1, MAX_MEMORY_KIB),
    "emulator_pinning": Option(_pinning),
    "iothread_pinning": Option(_pinning),
}
#: Options with a fixed set of values; the first one is the default.
CHOICES = {name: option.choices for name, option in OPTIONS.items() if option.choices}
#: Every policy option, with its default as the user writes it.
DEFAULTS = _as_text(Policy())
