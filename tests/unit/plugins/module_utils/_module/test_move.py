# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of a migration, whatever libvirt said: what no real daemon does when it is asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
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
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module import move as _move
from ansible_collections.kvm.vnuma.plugins.module_utils._module.destination import (
    Arrival,
    Destination,
    MovingGuest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.move import Move, carry_out
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text

GUEST = Domain("db1", "uuid-db1", True, True)
BARE = (
    "<domain type='kvm'>\n  <name>db1</name>\n  <uuid>uuid-db1</uuid>\n"
    "  <memory unit='KiB'>16777216</memory>\n  <vcpu placement='static'>4</vcpu>\n"
    "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
)
HALF_WAY = Progress(total_kib=32 << 10, remaining_kib=20 << 10, sent_kib=12 << 10, downtime_ms=None)
ENDED = Progress(total_kib=32 << 10, remaining_kib=0, sent_kib=40 << 10, downtime_ms=7)


@dataclass
class FakeEnd:
    """One of the two hosts, with one guest at the most."""

    full_uri: str
    domain: Domain | None = None
    live: str = BARE
    persistent: str = BARE
    is_silent: bool = False
    is_paused: bool = False
    has_agent: bool = False
    uri: str = "qemu+ssh://kvm7/system"

    def find(self, domain: Domain) -> Domain | None:
        """The guest, where it is here."""
        if self.is_silent:
            raise HypervisorError(f"the daemon of {self.full_uri} is gone.", guest=domain.name)
        return self.domain

    def state(self, domain: Domain) -> str:
        """The state of the guest."""
        if self.is_paused:
            return "paused"
        return "running" if domain.active else "off"

    def xml_without_secrets(self, _domain: Domain, live: bool) -> str:
        """A definition."""
        return self.live if live else self.persistent

    def persistent_xml(self, _domain: Domain) -> str:
        """The persistent definition."""
        return self.persistent

    def migratable_xml(self, _domain: Domain) -> str:
        """What it runs with."""
        return self.live

    def affinities(self, _domain: Domain) -> dict[int, tuple[int, ...]]:
        """Every thread is where it is pinned."""
        return dict(read_definition(self.live).state.vcpu_pins)

    def agent_answers(self, _domain: Domain) -> bool:
        """Whether there is an agent."""
        return self.has_agent

    def wait(self, is_so: Callable[[], bool], _deadline: float) -> bool:
        """Whether it is so now; nothing changes here."""
        return is_so()

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
    happens: Callable[[], None] = field(init=False)
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    def arrive(self) -> None:
        """Let the guest arrive."""
        self.east.domain = None
        self.west.domain = GUEST
        self.west.live, self.west.persistent = self.arrival.live.text, self.arrival.persistent.text

    def carry_out(self, transfer: Transfer | None = None) -> Move:
        """Migrate it."""
        how = Transfer() if transfer is None else transfer
        source = cast(Source, self.east)
        carry_out(source, self.move, self.destination, self.arrival, how, self.said.append)
        return self.move

    def refused(self, transfer: Transfer | None = None) -> str:
        """Return the sentence that a migration ends with."""
        with pytest.raises(HypervisorError) as raised:
            self.carry_out(transfer)
        return raised.value.message


@pytest.fixture
def bench(host: Callable[[str], Host], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A partitioned guest that runs on the east, and arrives on the west unless told otherwise."""
    topology = host("two-socket-2n32c")

    def written(nodes: str) -> str:
        policy, definition = policy_from_options({"nodes": nodes}), read_definition(BARE)
        layout = plan(read_guest(definition, 2048), topology, policy)
        return partitioned_text(definition, layout, policy)

    before, running, persistent = written("0"), written("1"), written("0-1")
    east = FakeEnd("qemu:///system", GUEST, before, before)
    west = FakeEnd("qemu+ssh://west/system")
    moving = MovingGuest(GUEST, read_definition(before), read_definition(before))
    bench = Bench(
        east,
        west,
        Destination("west", cast(Target, west), None, topology),
        moving,
        Arrival(read_definition(running), read_definition(persistent), None),
        Move(moving),
    )
    bench.happens = bench.arrive

    class FakeMigration:
        """Does what the test wants."""

        def __init__(self, uri: str, domain: Domain) -> None:
            assert (uri, domain) == (east.full_uri, GUEST)

        def run(self, target_uri: str, _uri: None, xml: tuple[str, str], *_more: object) -> None:
            assert (target_uri, xml) == (west.full_uri, (running, persistent))
            bench.asked.append("run")
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
    monkeypatch.setattr(_move, "_CLEARING_S", 0.0)
    return bench


def _fail(sentence: str) -> None:
    raise HypervisorError(sentence, guest="db1")


def test_it_is_migrated(bench: Bench) -> None:
    """It runs on the target as it was planned; the target says how it went."""
    move = bench.carry_out()
    assert (move.action, move.warnings, move.progress) == ("migrated", [], ENDED)
    assert move.seconds is not None
    assert bench.asked == ["run", "close"]


def test_an_error_of_one_that_has_arrived(bench: Bench) -> None:
    """The hosts are believed, not the error, which is a warning."""

    def happens() -> None:
        bench.arrive()
        _fail("libvirt could not migrate it: connection reset.")

    bench.happens = happens
    move = bench.carry_out()
    assert move.action == "migrated"
    assert move.warnings == [
        "libvirt reported an error, and it has arrived all the same: libvirt could not migrate it: "
        "connection reset."
    ]


@pytest.mark.parametrize("which", ["persistent", "live"])
def test_one_that_was_changed_meanwhile(bench: Bench, which: str) -> None:
    """It is not migrated to what was planned before that."""
    setattr(bench.east, which, getattr(bench.east, which).replace("cpuset='0", "cpuset='1", 1))
    assert "someone else changed its definition after it was planned" in bench.refused()
    assert bench.asked == ["close"]
    assert bench.move.action == "none"


def _source_is_silent(bench: Bench) -> None:
    bench.east.is_silent = True


def _target_is_silent(bench: Bench) -> None:
    bench.west.is_silent = True


def _guest_ended(bench: Bench) -> None:
    bench.east.domain = Domain("db1", "uuid-db1", True, False)


def _left_on_both(bench: Bench) -> None:
    bench.west.domain = Domain("db1", "uuid-db1", True, False)


def _runs_on_both(bench: Bench) -> None:
    bench.west.domain = GUEST


def _paused_there(bench: Bench) -> None:
    bench.arrive()
    bench.west.is_paused = True


def _gone(bench: Bench) -> None:
    bench.east.domain = None


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (None, "It is running on its source, as before, and nothing of it is left on west."),
        (_guest_ended, "It is off on its source, and nothing of it is left on west."),
        (_gone, "It is gone on its source, and nothing of it is left on west."),
        (
            _target_is_silent,
            "It is running on its source, as before; west cannot be asked, look there when it is "
            "back.",
        ),
        (_source_is_silent, "Where it is cannot be told: the daemon of qemu:///system is gone."),
        (
            _left_on_both,
            "It is running on its source, as before, and also defined on west, where it is off; "
            "check both, and undefine it where it is not to be.",
        ),
        (
            _runs_on_both,
            "It is running on its source, as before, and also defined on west, where it is "
            "running; check both, and undefine it where it is not to be.",
        ),
        (
            _paused_there,
            "It is gone on its source, and also defined on west, where it is paused; check both, "
            "and undefine it where it is not to be.",
        ),
    ],
)
def test_where_one_is_that_did_not_arrive(
    bench: Bench, fault: Callable[[Bench], None] | None, sentence: str
) -> None:
    """Both hosts are asked, and what they say is said."""

    def happens() -> None:
        if fault is not None:
            fault(bench)
        _fail("libvirt could not migrate it: no.")

    bench.happens = happens
    said = bench.refused()
    assert said == f"it was not migrated to west: libvirt could not migrate it: no. {sentence}"
    assert bench.move.action == "none"
    assert bench.asked == ["run", "close"]


def test_a_definition_that_was_there_before(bench: Bench) -> None:
    """It is no rest of the migration that failed."""
    bench.west.domain = Domain("db1", "uuid-db1", True, False)
    bench.destination.domains["uuid-db1"] = bench.west.domain
    bench.happens = lambda: _fail("libvirt could not migrate it: no.")
    assert bench.refused().endswith("as before, and nothing of it is left on west.")


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
    assert bench.asked == ["run", asked, "close"]


@pytest.mark.parametrize(("which", "other"), [("live", "persistent"), ("persistent", "live")])
def test_it_is_something_else_there(bench: Bench, which: str, other: str) -> None:
    """It stays where it is, and what differs is named."""

    def happens() -> None:
        bench.arrive()
        setattr(bench.west, which, bench.moving.live.text)

    bench.happens = happens
    said = bench.refused()
    assert said.startswith(f"it runs on west, and not as planned: in its {which} definition ")
    assert f"in its {other} definition" not in said
    assert said.endswith("; run vnuma_partition there.")
    assert bench.move.action == "migrated"


@pytest.mark.parametrize("there", [None, Domain("db1", "uuid-db1", False, True)])
def test_it_is_not_defined_there(bench: Bench, there: Domain | None) -> None:
    """A guest that would be gone when it is shut down."""

    def happens() -> None:
        bench.arrive()
        bench.west.domain = there

    bench.happens = happens
    assert "it left for west and does not run there as a persistent guest" in bench.refused()


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


@pytest.mark.parametrize(
    ("here", "undefine_source", "is_refused"),
    [
        (Domain("db1", "uuid-db1", True, True), True, True),
        (Domain("db1", "uuid-db1", True, False), True, True),
        (Domain("db1", "uuid-db1", True, False), False, False),
    ],
)
def test_its_source_still_has_it(
    bench: Bench, here: Domain, undefine_source: bool, is_refused: bool
) -> None:
    """A definition may stay where that was asked for, and a guest that runs never."""

    def happens() -> None:
        bench.arrive()
        bench.east.domain = here

    bench.happens = happens
    transfer = Transfer(undefine_source=undefine_source)
    if is_refused:
        assert "it runs on its target, and its source still has it" in bench.refused(transfer)
    else:
        assert bench.carry_out(transfer).action == "migrated"
