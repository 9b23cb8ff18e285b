# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, UUIDs and patterns: who is meant by an entry."""

from __future__ import annotations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._module.select import select_guests

NAMES = ("anuma", "db1", "db2", "db[1]", "web")


def _uuid(name: str) -> str:
    return f"00000000-0000-4000-8000-00000000000{NAMES.index(name)}"


DOMAINS = [Domain(name, _uuid(name), persistent=True, active=False) for name in NAMES]


@pytest.mark.parametrize(
    ("entries", "picked"),
    [
        (["anuma"], {"anuma": 0}),
        ([_uuid("web")], {"web": 0}),
        ([_uuid("web").upper()], {"web": 0}),
        (["db*"], {"db1": 0, "db2": 0, "db[1]": 0}),
        (["db?"], {"db1": 0, "db2": 0}),
        (["db[12]"], {"db1": 0, "db2": 0}),
        # An exact name wins over what it would match as a pattern.
        (["db[1]"], {"db[1]": 0}),
        (["*", "db1"], {"anuma": 0, "db1": 1, "db2": 0, "db[1]": 0, "web": 0}),
        (["db*", "*"], {"anuma": 1, "db1": 0, "db2": 0, "db[1]": 0, "web": 1}),
        (["db*", _uuid("db2")], {"db1": 0, "db2": 1, "db[1]": 0}),
        ([], {}),
    ],
)
def test_picks(entries: list[str], picked: dict[str, int]) -> None:
    """Names and UUIDs win over patterns, the first pattern over the others."""
    listed = [{"name": entry, "cells": index} for index, entry in enumerate(entries)]
    selection = select_guests(DOMAINS, listed)
    assert {match.domain.name: match.entry["cells"] for match in selection.matches} == picked
    assert [match.domain.name for match in selection.matches] == sorted(picked)
    assert (selection.errors, selection.warnings) == ([], [])


@pytest.mark.parametrize(
    ("entries", "errors", "warnings", "picked"),
    [
        (
            ["nobody"],
            ["guest nobody: it does not exist on this host; correct the name, or define it first."],
            [],
            [],
        ),
        (
            [""],
            ["an entry of guests has no name; give it one, or remove the entry."],
            [],
            [],
        ),
        (["x*", "web"], [], ["pattern 'x*' matches no guest on this host."], ["web"]),
        (
            ["web", "anuma", "web"],
            ["guest web: it is listed twice in guests; keep one entry."],
            [],
            ["anuma"],
        ),
        (
            ["web", _uuid("web"), "web"],
            ["guest web: it is listed twice in guests; keep one entry."],
            [],
            [],
        ),
        # What a pattern would match is still not meant when two entries name it.
        (
            ["web", "web", "w*"],
            ["guest web: it is listed twice in guests; keep one entry."],
            [],
            [],
        ),
        (["ANUMA"], ["guest ANUMA: it does not exist on this host; correct the name, or define it "
                     "first."], [], []),
    ],
)  # fmt: skip
def test_what_is_not_there(
    entries: list[str], errors: list[str], warnings: list[str], picked: list[str]
) -> None:
    """A name that matches nothing is an error, a pattern a warning."""
    selection = select_guests(DOMAINS, [{"name": entry} for entry in entries])
    assert [str(error) for error in selection.errors] == errors
    assert selection.warnings == warnings
    assert [match.domain.name for match in selection.matches] == picked


def test_by_name_is_remembered() -> None:
    """Whoever was named is restarted even if it was never partitioned here."""
    selection = select_guests(DOMAINS, [{"name": "db1"}, {"name": "w*"}])
    by_name = {match.domain.name: match.by_name for match in selection.matches}
    assert by_name == {"db1": True, "web": False}


def test_a_guest_named_like_the_uuid_of_another() -> None:
    """Whoever names guests does not take the entry of another's."""
    stranger = Domain(_uuid("web"), "ffffffff-0000-4000-8000-000000000000", True, False)
    selection = select_guests([*DOMAINS, stranger], [{"name": _uuid("web")}, {"name": "db1"}])
    assert [str(error) for error in selection.errors] == [
        f"guest {_uuid('web')}: it is the name of one guest and the UUID of another, web; give the "
        "UUID of the one and the name of the other."
    ]
    assert [match.domain.name for match in selection.matches] == ["db1"]
