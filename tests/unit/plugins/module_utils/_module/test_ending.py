# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the two copies that a migration leaves, whatever both hosts say of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import UnsettledError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.ends import Source, Target
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition
from ansible_collections.kvm.vnuma.plugins.module_utils._module.copies import is_alive, runs
from ansible_collections.kvm.vnuma.plugins.module_utils._module.ending import Ending, Outcome
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNote,
    MigrationNotes,
    digest,
)
from twoends import DESTROYED, GONE, GUEST, MIGRATION, OFF, RUNNING, USER, XML, CopyEnd

DIGEST = digest(read_definition(XML))
NOTE = MigrationNote("db1", 1.0, "west", "uuid-west", known_there=False, definition=DIGEST)
POST_COPY = Condition("paused", "post_copy")
CUT_OFF = Condition("paused", "post_copy_failed")
CONDITIONS = (
    *(GONE, OFF, DESTROYED, RUNNING, USER, MIGRATION, POST_COPY, CUT_OFF),
    *(Condition("running", "migration_canceled"), Condition("shutting_down")),
    *(Condition("paused", "io_error"), Condition("paused", "starting_up"), Condition("crashed")),
)


class Notes:
    """A state folder without a disk."""

    def __init__(self) -> None:
        self._note: MigrationNote | None = None

    def begin_migration(self, _uuid: str, note: MigrationNote) -> None:
        """Keep it."""
        self._note = note

    def begun_migration(self, _uuid: str) -> MigrationNote | None:
        """Return it."""
        return self._note

    def end_migration(self, _uuid: str) -> None:
        """Forget it."""
        self._note = None


@dataclass
class Bench:
    """A guest between two hosts."""

    state_dir: Notes = field(default_factory=Notes)
    east: CopyEnd = field(default_factory=lambda: CopyEnd("east", MIGRATION))
    west: CopyEnd = field(default_factory=lambda: CopyEnd("west", USER))
    note: MigrationNote = NOTE
    undefine_source: bool = True
    said: list[str] = field(default_factory=list)

    @property
    def done(self) -> list[str]:
        """What both hosts did."""
        return self.east.done

    def set(self, here: Condition, there: Condition, phase: str = "moving", **note: bool) -> None:
        """Have copies in these conditions."""
        self.east.condition_now, self.west.condition_now = here, there
        self.note = MigrationNote(
            *("db1", 1.0, "west", "uuid-west"),
            paused=note.get("paused", False),
            phase=phase,
            known_there=note.get("known_there", False),
            definition=DIGEST,
        )
        self.state_dir.begin_migration(GUEST.uuid, self.note)

    def ending(self) -> Ending:
        """What ends it."""
        ends = (cast(Source, self.east), cast(Target, self.west))
        notes = cast(MigrationNotes, self.state_dir)
        return Ending(*ends, "west", GUEST, notes, self.undefine_source, self.said.append)

    def end(self, wait_s: float = 0.0) -> Outcome:
        """End it."""
        return self.ending().end(self.note, time.monotonic() + wait_s)

    def unsettled(self) -> str:
        """End it, which fails, and return what is said."""
        with pytest.raises(UnsettledError) as raised:
            self.end()
        assert self.kept is not None
        return raised.value.message

    @property
    def kept(self) -> MigrationNote | None:
        """The note that is left."""
        return self.state_dir.begun_migration(GUEST.uuid)


@pytest.fixture
def bench() -> Bench:
    """A guest that has just been handed over, and is paused on both."""
    bench = Bench()
    bench.west.done = bench.east.done
    bench.set(MIGRATION, USER)
    return bench


@pytest.mark.parametrize(
    ("here", "there", "phase", "paused", "place", "done"),
    [
        # The source is over.
        (OFF, USER, "moving", False, "target", ["west: resume", "east: undefine"]),
        (GONE, USER, "moving", False, "target", ["west: resume"]),
        (DESTROYED, USER, "moving", False, "target", ["west: resume", "east: undefine"]),
        (OFF, USER, "moving", True, "target", ["east: undefine"]),
        (OFF, RUNNING, "moving", False, "target", ["east: undefine"]),
        (OFF, USER, "there", False, "target", ["west: resume", "east: undefine"]),
        (OFF, USER, "there", True, "target", ["east: undefine"]),
        (GONE, RUNNING, "there", False, "target", []),
        # The source's copy is alive, and the target's has not run.
        (RUNNING, USER, "moving", False, "source", ["west: force off", "west: undefine"]),
        (RUNNING, GONE, "moving", False, "source", []),
        (RUNNING, OFF, "moving", False, "source", ["west: undefine"]),
        (
            *(MIGRATION, USER, "moving", False, "source"),
            ["west: force off", "west: undefine", "east: resume"],
        ),
        (MIGRATION, GONE, "moving", False, "source", ["east: resume"]),
        (USER, USER, "moving", True, "source", ["west: force off", "west: undefine"]),
        (USER, GONE, "moving", False, "source", []),
        (RUNNING, GONE, "there", False, "source", []),
        # The target's ran while the source's stood still.
        (
            *(MIGRATION, RUNNING, "moving", False, "target"),
            ["east: force off", "east: undefine"],
        ),
        # Neither is alive.
        (DESTROYED, GONE, "moving", False, "nowhere", []),
        (DESTROYED, OFF, "moving", False, "nowhere", ["west: undefine"]),
        (OFF, DESTROYED, "moving", False, "nowhere", ["east: undefine"]),
        (OFF, DESTROYED, "there", False, "nowhere", ["east: undefine"]),
        (OFF, GONE, "there", False, "nowhere", []),
        (GONE, GONE, "moving", False, "nowhere", []),
    ],
)
def test_what_becomes_of_both(
    bench: Bench,
    here: Condition,
    there: Condition,
    phase: str,
    paused: bool,
    place: str,
    done: list[str],
) -> None:
    """One copy is the guest, the other one is ended, and the note is gone."""
    bench.set(here, there, phase, paused=paused)
    outcome = bench.end()
    assert (outcome.place, bench.done, outcome.changed) == (place, done, bool(done))
    assert bench.kept is None


@pytest.mark.parametrize(
    ("here", "there", "phase", "sentence", "done"),
    [
        (
            *(RUNNING, RUNNING, "moving"),
            "the module paused the copy on west; the next run ends it. If that one is to stay, run "
            "'virsh destroy db1' on the source first.",
            ["west: pause"],
        ),
        (
            *(RUNNING, RUNNING, "there"),
            "the module paused the copy on its source; end it with 'virsh destroy db1' there.",
            ["east: pause"],
        ),
        (RUNNING, USER, "there", "both are left as they are; end the one that is not to stay", []),
        (USER, RUNNING, "there", "both are left as they are; end the one that is not to stay", []),
        (POST_COPY, RUNNING, "moving", "post-copy was cut off", []),
        (CUT_OFF, CUT_OFF, "moving", "each has a part of its memory", []),
        (CUT_OFF, GONE, "moving", "post-copy was cut off", []),
    ],
)
def test_what_is_not_decided(
    bench: Bench, here: Condition, there: Condition, phase: str, sentence: str, done: list[str]
) -> None:
    """Nothing is ended or resumed, what each host has is said, and the note stays."""
    bench.set(here, there, phase)
    assert sentence in bench.unsettled()
    assert bench.done == done
    assert len(bench.said) == len(done)


@pytest.mark.parametrize("persistent", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("known_there", [True, False])
@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("phase", ["moving", "there"])
@pytest.mark.parametrize("undefine_source", [True, False])
def test_never_twice_and_never_lost(
    persistent: tuple[bool, bool],
    known_there: bool,
    paused: bool,
    phase: str,
    undefine_source: bool,
) -> None:
    """Whatever both say: no two ever run, one that could run does, and a definition is left."""
    for here, there in product(CONDITIONS, CONDITIONS):
        bench = Bench()
        bench.undefine_source = undefine_source
        bench.west.done = bench.east.done
        bench.east.persistent, bench.west.persistent = (
            is_there and condition != GONE for is_there, condition in zip(persistent, (here, there))
        )
        bench.set(here, there, phase, paused=paused, known_there=known_there)
        defined = bench.east.persistent or bench.west.persistent
        bench.east.look = bench.west.look = _no_more_run(bench)
        try:
            outcome = bench.end()
        except UnsettledError:
            outcome = None
        east, west = bench.east.condition_now, bench.west.condition_now
        case = f"{here}, {there}: {east}, {west}, {bench.done}"
        assert not (runs(east) and runs(west)), case
        assert (bench.east.persistent or bench.west.persistent) == defined, case
        if is_alive(here) or is_alive(there):
            assert is_alive(east) or is_alive(west), case
        assert (outcome is None) == (bench.kept is not None), case
        if outcome is not None and not paused:
            could = {"migration", "unknown"} & {here.reason} or not is_alive(here)
            if outcome.place == "source" and (runs(here) or could):
                assert runs(east), case
            if outcome.place == "target":
                assert runs(west), case
                assert not is_alive(east), case
        if outcome is not None and outcome.place == "source":
            assert not is_alive(west), case


def _no_more_run(bench: Bench) -> Callable[[], None]:
    """Return what fails where a copy is let run while the other one does, or may."""
    both = runs(bench.east.condition_now) and runs(bench.west.condition_now)

    def look() -> None:
        assert both or not (runs(bench.east.condition_now) and runs(bench.west.condition_now))
        if bench.done[-1].endswith("resume"):
            other = bench.west if bench.done[-1].startswith("east") else bench.east
            assert not is_alive(other.condition_now)

    return look


@pytest.mark.parametrize("which", ["east", "west"])
def test_a_host_that_cannot_be_asked(bench: Bench, which: str) -> None:
    """Both copies are left as they are, and what the other one says of its own is said."""
    getattr(bench, which).is_silent = True
    said = bench.unsettled()
    assert bench.done == []
    known = "it is paused (user) on west" if which == "east" else "it is paused (migration) on its"
    assert known in said
    assert f"the daemon on the {which} is away" in said


def test_both_cannot_be_asked(bench: Bench) -> None:
    """That is said too."""
    bench.east.is_silent = bench.west.is_silent = True
    assert "west cannot be asked either" in bench.unsettled()


@pytest.mark.parametrize("end", ["east", "west"])
def test_libvirt_goes_on_with_it(bench: Bench, end: str) -> None:
    """It is waited for, and only then is anything decided."""
    bench.set(RUNNING, MIGRATION)
    busy = getattr(bench, end)
    busy.jobs, busy.patience_s = 3, 60.0

    def over() -> None:
        bench.east.condition_now, bench.west.condition_now = OFF, USER

    asks = busy.has_job

    def has_job(domain: object) -> bool:
        goes_on: bool = asks(domain)
        if not goes_on:
            over()
        return goes_on

    busy.has_job = has_job
    assert bench.end(wait_s=60.0).place == "target"
    assert bench.done == ["west: resume", "east: undefine"]


def test_libvirt_does_not_end_it(bench: Bench) -> None:
    """It is asked to, once its time is up, and then given up."""
    bench.east.jobs, bench.east.patience_s = 10**6, 0.05
    assert "its migration to west is still going on: it is paused (migration)" in bench.unsettled()
    assert bench.done == ["east: abort"]


def test_the_target_does_not_clear_away_its_copy(bench: Bench) -> None:
    """It is not waited for as for a migration: the source has ended that."""
    bench.set(RUNNING, Condition("paused", "starting_up"))
    bench.west.jobs, bench.west.patience_s = 10**6, 0.05
    began = time.monotonic()
    with pytest.raises(UnsettledError) as raised:
        bench.end(wait_s=3600.0)
    assert time.monotonic() - began < 600
    assert (
        "it is running (booted) on its source and paused (starting up) on west, and libvirt on "
        "west does not end what it began to take in"
    ) in raised.value.message
    assert "remove /run/libvirt/qemu/db1.xml, start the daemon" in raised.value.message
    assert bench.done == []
    assert bench.kept is not None


def test_what_is_handed_over(bench: Bench) -> None:
    """Where libvirt says so, the target is not asked before it resumes the guest."""
    bench.set(OFF, USER)
    outcome = bench.ending().hand_over(bench.note)
    assert outcome is not None
    assert outcome.place == "target"
    assert bench.done == ["west: resume", "east: undefine"]
    bench.set(RUNNING, USER)
    assert bench.ending().hand_over(bench.note) is None


def test_what_is_noted_before_it_runs_there(bench: Bench) -> None:
    """The source's is never resumed again, whatever happens from then on."""
    bench.set(OFF, USER)
    bench.west.fails = {"resume"}
    assert "its migration cannot be ended now: libvirt could not resume." in bench.unsettled()
    kept = bench.kept
    assert kept is not None
    assert kept.phase == "there"


def test_a_copy_that_does_not_end(bench: Bench) -> None:
    """The other one is not resumed."""
    bench.west.fails = {"force off"}
    said = bench.unsettled()
    assert "it is paused (migration) on its source and paused (user) on west; run again" in said
    assert bench.done == []


def test_a_copy_that_was_said_to_have_ended(bench: Bench) -> None:
    """It is asked for, and the other one is not resumed."""
    bench.west.ignores = {"force off"}
    assert "has not ended it: it is paused (user)" in bench.unsettled()
    assert bench.done == ["west: force off"]


def test_a_definition_that_was_changed_meanwhile(bench: Bench) -> None:
    """It is not removed with the change in it, and every run says so until that is settled."""
    bench.set(OFF, USER)
    bench.east.xml = XML.replace("<uuid>", "<title>Payroll</title><uuid>")
    said = bench.unsettled()
    assert "it is on west, and someone else changed its definition on its source while" in said
    assert bench.done == ["west: resume"]
    bench.east.condition_now = GONE
    bench.note = bench.kept or NOTE
    assert bench.end().place == "target"


def test_a_definition_that_is_written_in_another_way(bench: Bench) -> None:
    """As a daemon that has started again indents it; another password is none of a digest's."""
    bench.set(OFF, USER)
    bench.east.xml = XML.replace("\n  ", "\n\t ")
    assert bench.end().place == "target"
    with_password = XML.replace("</name>", "</name><graphics passwd='{}'/>")
    one, other = (digest(read_definition(with_password.format(word))) for word in ("a1", "b2c"))
    assert one == other != DIGEST


def test_a_definition_that_the_target_lacks(bench: Bench) -> None:
    """The source keeps its own."""
    bench.set(OFF, USER)
    bench.west.persistent = False
    assert "it is not defined on west, and would be lost there" in bench.unsettled()
    assert bench.done == ["west: resume"]


@pytest.mark.parametrize("undefine", [True, False])
def test_a_definition_that_the_source_lacks(bench: Bench, undefine: bool) -> None:
    """The target keeps its own, where someone undefined the guest meanwhile."""
    bench.east.persistent = not undefine
    outcome = bench.end()
    left = "its definition is left on west, since" if undefine else "nothing of it is left on west"
    assert left in outcome.sentence
    assert ("west: undefine" in bench.done) == (not undefine)
