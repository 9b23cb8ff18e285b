# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts with definitions that this version writes, for the versions after it.

    python tests/lab/bookplaced.py > tests/unit/fixtures/placed.json

Run it with a release only, and never to make a test pass: a later version is to leave the guests
of an earlier one where they are. Half of the hosts are planned in one call, half guest by guest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import GuestSpec, case
from bookways import entry

HOSTS, MOST_GUESTS = 40, 5
PROJECT = Path(__file__).resolve().parents[2]


def written(seed: int) -> dict[str, Any] | None:
    """Return a host with the definitions of its guests, None where fewer than two are placed."""
    made = case(seed)
    guests = [_plain(guest) for guest in made.guests if guest.options][:MOST_GUESTS]
    texts = {guest.name: guest.xml() for guest in guests}
    facts, placed = made.host.facts(), set[str]()
    for called in [guests] if seed % 2 else [[guest] for guest in guests]:
        entries = [entry(guest) for guest in called]
        result = plan_host(list(texts.values()), facts, guests=entries) if entries else None
        for one in result["guests"] if result else ():
            texts[one["name"]] = one["definition"]
            placed.add(one["name"])
    if len(placed) < 2:
        return None
    return {
        "host": asdict(made.host),
        "guests": [
            {"options": guest.policy(), "definition": texts[guest.name]}
            for guest in guests
            if guest.name in placed
        ],
    }


def _plain(guest: GuestSpec) -> GuestSpec:
    """Return a guest without what somebody pinned or bound by hand."""
    return replace(guest, cpuset=(), pins=(), bound=(), emulator=(), iothread_pins=())


def main() -> None:
    """Print them, a guest a line, so that a change of one shows."""
    commit = subprocess.run(
        ["git", "-C", PROJECT, "log", "-1", "--format=%h", "--", "plugins"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    found: list[dict[str, Any]] = []
    seed = 0
    while len(found) < HOSTS:
        one = written(seed)
        found += [one] if one else []
        seed += 1
    json.dump({"written_by": commit, "hosts": found}, sys.stdout, indent=0)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
