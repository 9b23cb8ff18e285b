# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a migration, whatever libvirt said: what no real daemon does when it is asked to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HypervisorError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.ends import Source, Target
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.migration import (
    Progress,
    Transfer,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import (
    Condition,
    Domain,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module import move as _move
from ansible_collections.kvm.vnuma.plugins.module_utils._module.destination import (
    Arrival,
    Destination,
    MovingGuest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNotes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.move import Move, carry_out
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text
from twoends import GONE, GUEST, MIGRATION, OFF, RUNNING, USER, CopyEnd

BARE = (
    "<domain type='kvm'>\n  <name>db1</name>\n  <uuid>uuid-db1</uuid>\n"
    "  <memory unit='KiB'>16777216</memory>\n  <vcpu placement='static'>4</vcpu>\n"
    "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
)
HALF_WAY = Progress(total_kib=32 << 10, remaining_kib=20 << 10, sent_kib=12 << 10, downtime_ms=None)
ENDED = Progress(total_kib=32 << 10, remaining_kib=0, sent_kib=40 << 10, downtime_ms=7)


@dataclass
class FakeEnd(CopyEnd):
    """One of the two hosts, with one guest at the most."""

    full_uri: str = "qemu:///system"
    live: str = BARE
    defined: str = BARE
    has_agent: bool = False

    def xml_without_secrets(self, _domain: Domain, live: bool) -> str:
        """A definition."""
        return self.live if live else self.defined

    def persistent_xml(self, _domain: Domain) -> str:
        """The persistent definition."""
        return self.defined

    def migratable_xml(self, _domain: Domain) -> str:
        """What it runs with."""
        return self.live

    def affinities(self, _domain: Domain) -> dict[int, tuple[int, ...]]:
        """Every thread is where it is pinned."""
        return dict(read_definition(self.live).state.vcpu_pins)

    def agent_answers(self, _domain: Domain) -> bool:
        """Whether there is an agent."""
        return self.has_agent

    def last_progress(self, _domain: Domain) -> Progress:
        """How it went in the end."""
        return ENDED


@dataclass
class Bench:
    """A guest that is to go from one host to another, and what happens then."""

    east: FakeEnd
    west: FakeEnd
    destination: Destination
    moving: MovingGuest
    arrival: Arrival
    move: Move
    state_dir: MigrationNotes
    happens: Callable[[], None] = field(init=False)
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)
    stopped_at: float | None = None

    def arrive(self) -> None:
        """Let the guest arrive, as libvirt does: it stands still, and its source is off."""
        assert self.state_dir.begun_migration(GUEST.uuid) is not None
        self.east.condition_now, self.west.condition_now = OFF, USER
        self.west.persistent = True
        self.west.live, self.west.defined = self.arrival.live.text, self.arrival.persistent.text

    def carry_out(self, transfer: Transfer | None = None) -> Move:
        """Migrate it."""
        how = Transfer() if transfer is None else transfer
        source = cast(Source, self.east)
        carry_out(
            *(source, self.move, self.destination, self.arrival, how),
            *(self.state_dir, self.said.append),
        )
        return self.move

    def refused(self, transfer: Transfer | None = None) -> str:
        """Return the sentence that a migration ends with."""
        with pytest.raises(HypervisorError) as raised:
            self.carry_out(transfer)
        return raised.value.message


@pytest.fixture
def bench(host: Callable[[str], Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A partitioned guest that runs on the east, and arrives on the west unless told otherwise."""
    topology = host("two-socket-2n32c")

    def written(nodes: str) -> str:
        policy, definition = policy_from_options({"nodes": nodes}), read_definition(BARE)
        layout = plan(read_guest(definition, 2048), topology, policy)
        return partitioned_text(definition, layout, policy)

    before, running, persistent = written("0"), written("1"), written("0-1")
    east = FakeEnd(name="east", condition_now=RUNNING, live=before, defined=before)
    west = FakeEnd(
        name="west", condition_now=GONE, persistent=False, full_uri="qemu+ssh://west/system"
    )
    west.done = east.done
    moving = MovingGuest(GUEST, read_definition(before), read_definition(before))
    bench = Bench(
        east,
        west,
        Destination("west", cast(Target, west), None, topology),
        moving,
        Arrival(read_definition(running), read_definition(persistent), None),
        Move(moving),
        MigrationNotes(str(tmp_path), "host"),
    )
    bench.happens = bench.arrive

    class FakeMigration:
        """Does what the test wants."""

        stopped_at: float | None = None

        def __init__(self, uri: str, domain: Domain, patience_s: float) -> None:
            assert (uri, domain, patience_s) == (east.full_uri, GUEST, east.patience_s)

        def run(self, target_uri: str, _uri: None, xml: tuple[str, str], *_more: object) -> None:
            assert (target_uri, xml) == (west.full_uri, (running, persistent))
            bench.asked.append("run")
            self.stopped_at = bench.stopped_at
            bench.happens()

        def progress(self) -> Progress:
            return HALF_WAY

        def abort(self) -> bool:
            bench.asked.append("abort")
            bench.told.set()
            return True

        def finish_there(self) -> bool:
            bench.asked.append("finish there")
            bench.told.set()
            return True

        def close(self) -> None:
            bench.asked.append("close")

    monkeypatch.setattr(_move, "Migration", FakeMigration)
    monkeypatch.setattr(_move, "_LOOK_EVERY_S", 0.01)
    return bench


def _fail(sentence: str) -> None:
    raise HypervisorError(sentence, guest="db1")


def test_it_is_migrated(bench: Bench) -> None:
    """It runs on the target as it was planned; the target says how it went."""
    move = bench.carry_out()
    assert (move.action, move.warnings, move.progress) == ("migrated", [], ENDED)
    assert move.seconds is not None
    assert bench.asked == ["run", "close"]
    assert bench.east.done == ["west: resume", "east: undefine"]
    assert bench.state_dir.begun_migrations() == ()


def test_how_long_it_stood_still(bench: Bench) -> None:
    """Until it was resumed at the target, which libvirt's own figure leaves out."""
    bench.stopped_at = time.monotonic() - 3.0
    progress = bench.carry_out().progress
    assert progress is not None
    assert progress.downtime_ms is not None
    assert progress.downtime_ms >= 3000
    assert progress == replace(ENDED, downtime_ms=progress.downtime_ms)


def test_one_that_its_owner_has_paused(bench: Bench) -> None:
    """It arrives paused, stays so, and that is a success; its agent is not waited for."""
    bench.east.condition_now, bench.east.has_agent = USER, True
    move = bench.carry_out()
    assert (move.action, move.warnings) == ("migrated", [])
    assert bench.east.done == ["east: undefine"]
    assert bench.west.condition_now == USER


def test_a_definition_that_is_to_stay(bench: Bench) -> None:
    """The source keeps it, off."""
    assert bench.carry_out(Transfer(undefine_source=False)).action == "migrated"
    assert bench.east.done == ["west: resume"]
    assert bench.east.condition_now == OFF


def test_an_error_of_one_that_has_arrived(bench: Bench) -> None:
    """The hosts are believed, not the error, which is a warning."""

    def happens() -> None:
        bench.arrive()
        _fail("libvirt could not migrate it: connection reset.")

    bench.happens = happens
    move = bench.carry_out()
    assert move.action == "migrated"
    assert move.warnings == [
        "libvirt reported an error, and it has arrived nonetheless: libvirt could not migrate it: "
        "connection reset."
    ]


@pytest.mark.parametrize("which", ["defined", "live"])
def test_one_that_was_changed_meanwhile(bench: Bench, which: str) -> None:
    """It is not migrated to what was planned before that."""
    setattr(bench.east, which, getattr(bench.east, which).replace("cpuset='0", "cpuset='1", 1))
    assert "someone else changed its definition after it was planned" in bench.refused()
    assert bench.asked == ["close"]
    assert bench.move.action == "none"


def _guest_crashed(bench: Bench) -> None:
    bench.east.condition_now = Condition("off", "crashed")


def _left_on_both(bench: Bench) -> None:
    bench.west.condition_now, bench.west.persistent = USER, True


def _stands_still(bench: Bench) -> None:
    bench.east.condition_now = MIGRATION


def _gone(bench: Bench) -> None:
    bench.east.condition_now = GONE


@pytest.mark.parametrize(
    ("fault", "sentence", "done"),
    [
        (
            None,
            "It is running on its source, as before, and nothing of it is left on west.",
            [],
        ),
        (
            _left_on_both,
            "It is running on its source, as before, and nothing of it is left on west.",
            ["west: force off", "west: undefine"],
        ),
        (
            _stands_still,
            "It is running on its source, as before, and nothing of it is left on west.",
            ["east: resume"],
        ),
        (_guest_crashed, "It is off (crashed) on its source and gone on west.", []),
        (_gone, "It is gone on its source and gone on west.", []),
    ],
)
def test_where_one_is_that_did_not_arrive(
    bench: Bench, fault: Callable[[Bench], None] | None, sentence: str, done: list[str]
) -> None:
    """Both hosts are asked, what is left is put in order, and where it is is said."""

    def happens() -> None:
        if fault is not None:
            fault(bench)
        _fail("libvirt could not migrate it: no.")

    bench.happens = happens
    said = bench.refused()
    assert said == f"it was not migrated to west: libvirt could not migrate it: no. {sentence}"
    assert bench.move.action == "none"
    assert bench.asked == ["run", "close"]
    assert bench.east.done == done
    assert bench.state_dir.begun_migrations() == ()


@pytest.mark.parametrize("which", ["east", "west"])
def test_a_host_that_cannot_be_asked(bench: Bench, which: str) -> None:
    """Nothing is done, and the note is for the next run."""

    def happens() -> None:
        bench.arrive()
        getattr(bench, which).is_silent = True
        _fail("libvirt could not migrate it: no.")

    bench.happens = happens
    assert "where it runs cannot be told" in bench.refused()
    assert bench.east.done == []
    note = bench.state_dir.begun_migration(GUEST.uuid)
    assert note is not None
    assert (note.name, note.target, note.target_uuid) == ("db1", "west", "uuid-west")
    assert (note.phase, note.paused, note.known_there) == ("moving", False, False)


def test_a_definition_that_was_there_before(bench: Bench) -> None:
    """It is no rest of the migration that failed, and stays."""
    bench.west.condition_now, bench.west.persistent = Condition("off"), True
    bench.destination.domains["uuid-db1"] = GUEST
    bench.happens = lambda: _fail("libvirt could not migrate it: no.")
    assert bench.refused().endswith("as before, and nothing of it is left on west.")
    assert bench.east.done == []


def test_a_reason_that_was_lost(bench: Bench) -> None:
    """libvirt's own words would tell nobody anything."""
    bench.happens = lambda: _fail("libvirt could not migrate it: End of file while reading data.")
    assert "a libvirt daemon ended its connection and gave no reason; its log" in bench.refused()


@pytest.mark.parametrize(("post_copy", "asked"), [(False, "abort"), (True, "finish there")])
def test_its_time_is_up(bench: Bench, post_copy: bool, asked: str) -> None:
    """It is ended once, or by post-copy finished at the target."""

    def happens() -> None:
        assert bench.told.wait(60)
        if post_copy:
            bench.arrive()
        else:
            _fail("libvirt could not migrate it: operation aborted.")

    bench.happens = happens
    transfer = Transfer(post_copy=post_copy, timeout_s=0.0)
    if post_copy:
        assert bench.carry_out(transfer).action == "migrated"
    else:
        assert (
            "it did not finish within 0 s (sent 12 MiB, 20 MiB of 32 MiB remain); raise timeout"
        ) in bench.refused(transfer)
    # Which of the two threads is first is nobody's doing.
    assert sorted(bench.asked) == sorted(["run", asked, "close"])


@pytest.mark.parametrize(("which", "other"), [("live", "persistent"), ("persistent", "live")])
def test_it_is_something_else_there(bench: Bench, which: str, other: str) -> None:
    """It stays where it is, and what differs is named."""

    def happens() -> None:
        bench.arrive()
        kind = "live" if which == "live" else "defined"
        setattr(bench.west, kind, bench.moving.live.text)

    bench.happens = happens
    said = bench.refused()
    assert said.startswith(f"it runs on west, and not as planned: in its {which} definition ")
    assert f"in its {other} definition" not in said
    assert said.endswith("; run vnuma_partition there.")
    assert bench.move.action == "migrated"


def test_it_is_not_defined_there(bench: Bench) -> None:
    """A guest that would be gone when it is shut down; its source keeps its definition."""

    def happens() -> None:
        bench.arrive()
        bench.west.persistent = False

    bench.happens = happens
    assert "it is not defined on west, and would be lost there" in bench.refused()
    assert bench.east.done == ["west: resume"]


@pytest.mark.parametrize(("after", "warnings"), [(True, 0), (False, 1)])
def test_its_agent(bench: Bench, after: bool, warnings: int) -> None:
    """Only one that has fallen silent is told of."""
    bench.east.has_agent, bench.west.has_agent = True, after
    move = bench.carry_out()
    assert move.action == "migrated"
    assert [
        "its agent answered before, and has not done so on west within 30 s" in one
        for one in move.warnings
    ] == [True] * warnings
