# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which guests an entry means: by name, UUID or shell pattern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from .._errors import HypervisorError
from .._model.domain import Domain

_PATTERN_CHARACTERS = frozenset("*?[")


@dataclass(frozen=True)
class Match:
    """A guest, and the entry that means it.

    Attributes:
        by_name: whether the entry has its name or UUID, and not a pattern.
    """

    domain: Domain
    entry: Mapping[str, Any]
    by_name: bool


@dataclass
class Selection:
    """What the entries of a call mean.

    Attributes:
        matches: one for each guest, by name.
        errors: names that match nothing, and guests that are listed twice.
        warnings: patterns that match nothing.
    """

    matches: list[Match] = field(default_factory=list)
    errors: list[HypervisorError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def select_guests(domains: Sequence[Domain], entries: Sequence[Mapping[str, Any]]) -> Selection:
    """Match entries to guests: names and UUIDs win over patterns, the first pattern wins."""
    selection = Selection()
    by_name = {domain.name: domain for domain in domains}
    by_uuid = {domain.uuid: domain for domain in domains}
    matched: dict[str, Match] = {}
    twice: set[str] = set()
    patterns: list[Mapping[str, Any]] = []
    for entry in entries:
        name = str(entry.get("name") or "")
        named, identified = by_name.get(name), by_uuid.get(name.lower())
        domain = named or identified
        if named is not None and identified is not None and named is not identified:
            # Whoever may name guests could have chosen that name for another's entry.
            selection.errors.append(
                HypervisorError(
                    f"it is the name of one guest and the UUID of another, {identified.name}; give "
                    "the UUID of the one and the name of the other.",
                    guest=name,
                )
            )
        elif not name:
            selection.errors.append(
                HypervisorError("an entry of guests has no name; give it one, or remove the entry.")
            )
        elif domain is None and _PATTERN_CHARACTERS.intersection(name):
            patterns.append(entry)
        elif domain is None:
            selection.errors.append(
                HypervisorError(
                    "it does not exist on this host; correct the name, or define it first.",
                    guest=name,
                )
            )
        elif domain.uuid in matched:
            twice.add(domain.uuid)
        else:
            matched[domain.uuid] = Match(domain, entry, by_name=True)
    for entry in patterns:
        alike = [domain for domain in domains if fnmatchcase(domain.name, str(entry["name"]))]
        if not alike:
            selection.warnings.append(f"pattern '{entry['name']}' matches no guest on this host.")
        for domain in alike:
            matched.setdefault(domain.uuid, Match(domain, entry, by_name=False))
    for uuid in twice:
        # Which of its entries is meant cannot be told, so none is taken.
        name = matched.pop(uuid).domain.name
        selection.errors.append(
            HypervisorError("it is listed twice in guests; keep one entry.", guest=name)
        )
    selection.matches = sorted(
        matched.values(), key=lambda match: (match.domain.name, match.domain.uuid)
    )
    return selection
