# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run does first with what an earlier one has begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.ends import Source, Target
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.destination import Destination
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNote,
    MigrationNotes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.unfinished import (
    Unfinished,
    finish_begun,
    waiting_for,
)
from twoends import DESTROYED, GONE, GUEST, MIGRATION, OFF, RUNNING, USER, CopyEnd


@dataclass
class Bench:
    """A guest whose migration from the east to the west was cut off."""

    state_dir: MigrationNotes
    topology: Host
    east: CopyEnd = field(default_factory=lambda: CopyEnd("east", OFF))
    west: CopyEnd = field(default_factory=lambda: CopyEnd("west", USER))
    targets: tuple[str, ...] = ("south", "west")

    def finish(self, names: Sequence[str] | None, write: bool = True) -> Unfinished:
        """Have a run for these guests."""
        ends = {"south": CopyEnd("south", GONE), "west": self.west}
        destinations = [
            Destination(name, cast(Target, ends[name]), None, self.topology)
            for name in self.targets
        ]
        source = cast(Source, self.east)
        return finish_begun(
            *(source, destinations, names, self.state_dir, True, 0.0, write, lambda _line: None)
        )

    @property
    def is_noted(self) -> bool:
        """Whether the note is still there."""
        return bool(self.state_dir.begun_migrations())


@pytest.fixture
def bench(host: Callable[[str], Host], tmp_path: Path) -> Bench:
    """The guest stands still on the west, and is off on the east."""
    bench = Bench(MigrationNotes(str(tmp_path), "host"), host("two-socket-2n32c"))
    bench.west.done = bench.east.done
    note = MigrationNote("db1", 1.0, "west", "uuid-west")
    bench.state_dir.begin_migration(GUEST.uuid, note)
    bench.state_dir.keep_layout(GUEST.uuid, "what it ran with")
    return bench


@pytest.mark.parametrize("names", [None, ["db1"], ["other", "db*"], ["UUID-DB1"], ["*"]])
def test_it_is_ended_first(bench: Bench, names: list[str] | None) -> None:
    """However it is asked for, also where its source has nothing of it any more."""
    bench.east.condition_now = GONE
    found = bench.finish(names)
    assert [(domain.name, one.name) for domain, one in found.arrived] == [("db1", "west")]
    assert bench.east.done == ["west: resume"]
    assert (found.changed, found.errors, found.apart) == (True, [], {GUEST.uuid})
    patterns = ("other", "db*", "*")
    assert found.names == (names and [one for one in names if one in patterns])
    assert not bench.is_noted
    assert bench.state_dir.layout(GUEST.uuid) is None


@pytest.mark.parametrize("names", [[], ["other"], ["x*"]])
def test_it_is_not_asked_for(bench: Bench, names: list[str]) -> None:
    """Then nothing is done with it."""
    found = bench.finish(names)
    assert found == Unfinished(names)
    assert bench.east.done == []
    assert bench.is_noted


def test_one_that_stayed_migrates_again(bench: Bench) -> None:
    """It is one of those that this run is for."""
    bench.east.condition_now = MIGRATION
    found = bench.finish(["db1"])
    assert (found.names, found.apart, found.arrived, found.changed) == (["db1"], set(), [], True)
    assert bench.east.done == ["west: force off", "east: resume"]
    assert bench.state_dir.layout(GUEST.uuid) is not None


def test_one_that_is_off(bench: Bench) -> None:
    """It is not started, and that is an error once."""
    bench.east.condition_now, bench.west.condition_now = DESTROYED, GONE
    (error,) = bench.finish(["db1"]).errors
    assert str(error) == (
        "guest db1: a migration of it to west was begun, and it is off since. It is off "
        "(destroyed) on its source and gone on west. Start it where it is defined, if it should "
        "run."
    )
    assert not bench.is_noted


def test_another_target(bench: Bench) -> None:
    """Nothing is done, and the target that is meant is named."""
    bench.targets = ("south",)
    found = bench.finish(None)
    (error,) = found.errors
    assert "run again with west in targets" in error.message
    assert found.apart == {GUEST.uuid}
    assert bench.east.done == []
    assert bench.is_noted


def test_a_note_that_cannot_be_read(bench: Bench) -> None:
    """No host is asked, and the file is named."""
    path = bench.state_dir.folder / f"{GUEST.uuid}.migration"
    path.write_text("{")
    bench.east.condition_now = MIGRATION
    (error,) = bench.finish(["db1"]).errors
    assert error.guest == "db1"
    assert f"end all copies but one, and remove {path}" in error.message
    assert bench.east.done == []


def test_check_mode(bench: Bench) -> None:
    """It says so, and does nothing."""
    found = bench.finish(["db1"], write=False)
    (warning,) = found.warnings
    assert warning.startswith("guest db1: a migration of it to west was begun and has not ended;")
    assert (found.names, found.apart, found.changed) == ([], {GUEST.uuid}, False)
    assert bench.east.done == []
    assert bench.is_noted


def test_who_waits_for_a_target_that_is_away(bench: Bench) -> None:
    """They are named with what their source has of them."""
    source = cast(Source, bench.east)
    bench.east.condition_now = RUNNING
    assert waiting_for(source, bench.state_dir, "west") == (
        "Migrations to it were begun and have not ended: guest db1, running (booted) on its source."
    )
    assert waiting_for(source, bench.state_dir, "south") == ""
    bench.east.is_silent = True
    assert waiting_for(source, bench.state_dir, "west") == ""
