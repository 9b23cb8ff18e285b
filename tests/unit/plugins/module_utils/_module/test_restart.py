# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest needs in its turn, what becomes of it, and the way back, among many hands."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import keep_layout
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    HypervisorError,
    UnsettledError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.power import Power
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition, Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._module.cycle import RestartPolicy
from ansible_collections.kvm.vnuma.plugins.module_utils._module.decide import Restart
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNote,
    MigrationNotes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.restart import (
    foresee_restarts,
    restart_guests,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import (
    RestartNote,
    StateDirError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.turn import is_untidy, tidy

SECRET = "s3cr3tvn"


def _xml(cells: int, *, ours: bool = True, title: str = "", vcpus: int = 4) -> str:
    record = (
        "<v:partition xmlns:v='https://kvm-vnuma.github.io/ns/partition/1'><v:policy/>"
        "<v:original/></v:partition>"
        if ours
        else ""
    )
    numa = "".join(
        f"<cell id='{cell}' cpus='{cell}' memory='{4096 // cells}'/>" for cell in range(cells)
    )
    titled = f"<title>{title}</title>" if title else ""
    return (
        f"<domain type='kvm'><name>anuma</name>{titled}<metadata>{record}</metadata>"
        f"<memory>4096</memory><vcpu>{vcpus}</vcpu><cpu><numa>{numa}</numa></cpu>"
        f"<devices><graphics passwd='{SECRET}'/></devices></domain>"
    )


NEW, OLD = _xml(4), _xml(1)


@dataclass
class FakeGuest:
    """One guest: what it is defined with, what it runs with, and what its owner does."""

    persistent: str | None = NEW
    live: str = OLD
    active: bool = True
    start: int = 1
    reason: str = "unknown"
    state: str = ""
    stubborn: bool = False
    does_not_start: tuple[int, ...] = ()
    unsettled: bool = False
    blocker: str | None = None
    meanwhile: Callable[[FakeGuest], None] | None = None
    saved: bool = False
    vanishes: bool = False

    @property
    def known(self) -> bool:
        """Whether libvirt has it at all."""
        return self.persistent is not None or self.active

    @property
    def cells(self) -> int:
        """How many it runs with."""
        return self.live.count("<cell ")


@dataclass
class FakePower:
    """A host with guests; what happens to one while another goes down is up to the test."""

    guests: dict[str, FakeGuest]
    calls: list[str] = field(default_factory=list)
    uri: str = "test:///fake"

    def _domain(self, name: str) -> Domain:
        guest = self.guests[name]
        return Domain(
            *(name, f"uuid-{name}", guest.persistent is not None, guest.active),
            saved=guest.saved,
            start=guest.start if guest.active else -1,
        )

    def domains(self) -> list[Domain]:
        """Every guest."""
        return [self._domain(name) for name, guest in sorted(self.guests.items()) if guest.known]

    def find(self, domain: Domain) -> Domain | None:
        """A guest as it is now."""
        return self._domain(domain.name) if self.guests[domain.name].known else None

    def condition(self, domain: Domain) -> Condition:
        """What a guest does."""
        guest = self.guests[domain.name]
        if not guest.known:
            return Condition("gone")
        if not guest.active:
            return Condition("off", guest.reason)
        state, _blank, reason = (guest.state or "running booted").partition(" ")
        return Condition(state, reason)

    def settled(self, domain: Domain, deadline: float) -> Condition:
        """What it does once that is settled: a guest may turn out to be off."""
        assert deadline > time.monotonic()
        guest = self.guests[domain.name]
        if guest.vanishes:
            guest.active, guest.reason = False, "daemon"
        return self.condition(domain)

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """A definition."""
        guest = self.guests[domain.name]
        assert guest.persistent is not None
        xml = guest.live if live else guest.persistent
        return xml.replace(f" passwd='{SECRET}'", "")

    def persistent_xml(self, domain: Domain) -> str:
        """The definition, passwords and all; of a transient guest what it runs with."""
        guest = self.guests[domain.name]
        return guest.persistent or guest.live

    def restart_blocker(self, domain: Domain) -> str | None:
        """Why it must be left alone."""
        return self.guests[domain.name].blocker

    power_blocker = restart_blocker

    def wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Whether it is done in time."""
        while not is_done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        return True

    def shut_down(self, domain: Domain) -> None:
        """Ask it to; its owner may be at work meanwhile."""
        self.calls.append(f"shut down {domain.name}")
        guest = self.guests[domain.name]
        if guest.meanwhile is not None:
            guest.meanwhile(guest)
            guest.meanwhile = None
        if guest.active and not guest.stubborn:
            guest.active, guest.reason = False, "shutdown"

    def force_off(self, domain: Domain, deadline: float) -> None:
        """Make it."""
        assert deadline > time.monotonic()
        self.calls.append(f"force off {domain.name}")
        self.guests[domain.name].active = False
        self.guests[domain.name].reason = "destroyed"

    def define(self, name: str, xml: str, secrets: set[str], validate: bool = True) -> None:
        """Define it."""
        assert not validate
        assert secrets == {SECRET}
        self.calls.append(f"define {name}")
        self.guests[name].persistent = xml

    def start(self, domain: Domain, deadline: float) -> Condition:
        """Start it, unless it does not."""
        assert deadline > time.monotonic()
        self.calls.append(f"start {domain.name}")
        guest = self.guests[domain.name]
        assert guest.persistent is not None
        if guest.unsettled:
            raise UnsettledError("whether it runs cannot be told.")
        if guest.persistent.count("<cell ") in guest.does_not_start:
            guest.reason = "failed"
            raise HypervisorError("libvirt could not start it: no room.", guest=domain.name)
        guest.active, guest.live, guest.start = True, guest.persistent, guest.start + 1
        return self.condition(domain)

    def start_transient(self, domain: Domain, xml: str, secrets: set[str]) -> None:
        """Start a guest without a persistent definition."""
        assert secrets == {SECRET}
        self.calls.append(f"start transient {domain.name}")
        self.guests[domain.name].active = True
        self.guests[domain.name].live = xml


@pytest.fixture
def state_dir(tmp_path: Path) -> MigrationNotes:
    """An empty state folder."""
    return MigrationNotes(str(tmp_path), "host")


def _files(state_dir: MigrationNotes) -> list[str]:
    return sorted(path.name for path in state_dir.folder.glob("*"))


@dataclass
class Answer:
    """What came of a run: the guests by name, and the sentences."""

    restarts: dict[str, Restart]
    errors: list[str]

    def action(self, name: str = "anuma") -> str:
        """What happened to a guest."""
        return self.restarts[name].action

    def warnings(self, name: str = "anuma") -> str:
        """What was said of a guest."""
        return " ".join(self.restarts[name].warnings)


def _restart(
    guests: FakeGuest | dict[str, FakeGuest],
    state_dir: MigrationNotes,
    by_name: bool = True,
    write: bool = True,
    **keys: Any,
) -> tuple[Answer, FakePower]:
    fake = FakePower({"anuma": guests} if isinstance(guests, FakeGuest) else guests)
    return _again(fake, state_dir, by_name, write, **keys), fake


def _again(
    fake: FakePower,
    state_dir: MigrationNotes,
    by_name: bool = True,
    write: bool = True,
    **keys: Any,
) -> Answer:
    power = cast(Power, fake)
    restarts = [Restart(domain, by_name) for domain in fake.domains()]
    policy = RestartPolicy(**{"timeout_s": 0.05, **keys})
    if write:
        errors = restart_guests(power, restarts, policy, state_dir)
        tidy(power, state_dir)
        assert not is_untidy(power, fake.domains(), state_dir)
    else:
        errors = foresee_restarts(power, restarts, state_dir)
    return Answer({one.domain.name: one for one in restarts}, [str(error) for error in errors])


def test_power_cycle(state_dir: MigrationNotes) -> None:
    """Down and up with the new layout; nothing is left in the state folder."""
    answer, fake = _restart(FakeGuest(), state_dir)
    assert (answer.action(), answer.errors) == ("restarted", [])
    assert not answer.restarts["anuma"].forced
    assert fake.calls == ["shut down anuma", "start anuma"]
    assert (fake.guests["anuma"].live, _files(state_dir)) == (NEW, [])


@pytest.mark.parametrize(
    ("guest", "by_name", "action"),
    [
        (FakeGuest(live=NEW), True, "none"),
        (FakeGuest(persistent=None), True, "none"),
        (FakeGuest(active=False), True, "none"),
        (FakeGuest(_xml(2, ours=False), _xml(1, ours=False)), False, "none"),
        (FakeGuest(_xml(2, ours=False), _xml(1, ours=False)), True, "restarted"),
        (FakeGuest(_xml(2), _xml(1, ours=False)), False, "restarted"),
        (FakeGuest(_xml(2, ours=False), _xml(1)), False, "restarted"),
        (FakeGuest(blocker="it is paused"), True, "skipped"),
    ],
)
def test_which_guests_are_restarted(
    state_dir: MigrationNotes, guest: FakeGuest, by_name: bool, action: str
) -> None:
    """In check mode the same is said, and nothing is done."""
    said, fake = _restart(guest, state_dir, by_name, write=False)
    assert (said.action(), fake.calls, _files(state_dir)) == (action, [], [])
    done, fake = _restart(replace(guest), state_dir, by_name)
    assert done.action() == action
    assert bool(fake.calls) is (action == "restarted")


def test_check_mode_leaves_the_state_folder_alone(state_dir: MigrationNotes) -> None:
    """What a run that was cut short left behind is for a run that writes."""
    state_dir.keep_layout("uuid-anuma", keep_layout(read_definition(OLD)))
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma"))
    before = _files(state_dir)
    assert _restart(FakeGuest(live=NEW), state_dir, write=False)[0].action() == "none"
    assert _files(state_dir) == before == ["uuid-anuma.layout", "uuid-anuma.restart"]
    assert _restart(FakeGuest(live=NEW), state_dir)[0].action() == "none"
    assert _files(state_dir) == []


def _undefine(guest: FakeGuest) -> None:
    guest.persistent = None


def _delete(guest: FakeGuest) -> None:
    guest.persistent, guest.active = None, False


def _shut_off(guest: FakeGuest) -> None:
    guest.active, guest.reason = False, "shutdown"


def _destroy(guest: FakeGuest) -> None:
    guest.active, guest.reason = False, "destroyed"


def _migrate_away(guest: FakeGuest) -> None:
    guest.active, guest.reason = False, "migrated"


def _save(guest: FakeGuest) -> None:
    guest.active, guest.reason, guest.saved = False, "saved", True


def _revert(guest: FakeGuest) -> None:
    guest.active, guest.reason = False, "from_snapshot"


def _cold_start(guest: FakeGuest) -> None:
    guest.live, guest.start = guest.persistent or "", guest.start + 1


def _start_as_it_was(guest: FakeGuest) -> None:
    guest.start += 1


def _copy_a_disk(guest: FakeGuest) -> None:
    guest.blocker = "a block job such as a copy or a commit is running on its disk vda"


def _pause(guest: FakeGuest) -> None:
    guest.blocker, guest.state = "it is paused", "paused user"


@pytest.mark.parametrize(
    ("act", "action", "said"),
    [
        (_undefine, "none", "someone else undefined it after this run began; it runs on"),
        (_delete, "none", "someone else undefined it after this run began."),
        (_shut_off, "none", "it went off after this run began, and stays off."),
        (_migrate_away, "none", "it went off after this run began, and stays off."),
        (_save, "none", "it went off after this run began, and stays off."),
        (_cold_start, "none", ""),
        (_start_as_it_was, "skipped", "someone else started it after this run began, and not"),
        (_copy_a_disk, "skipped", "a block job such as a copy or a commit is running on its"),
        (_pause, "skipped", "it is paused; it keeps its old layout until its next cold start."),
    ],
)
def test_each_guest_is_decided_in_its_turn(
    state_dir: MigrationNotes, act: Callable[[FakeGuest], None], action: str, said: str
) -> None:
    """What its owner did while another guest was waited for is left as it is, and no error."""
    last = FakeGuest()
    first = FakeGuest(meanwhile=lambda _guest: act(last))
    answer, fake = _restart({"a": first, "b": last}, state_dir)
    assert answer.errors == []
    assert answer.action("a") == "restarted"
    assert (answer.action("b"), fake.calls) == (action, ["shut down a", "start a"])
    assert said in answer.warnings("b")
    assert bool(said) is bool(answer.warnings("b"))
    assert "uuid-b" not in " ".join(_files(state_dir))


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (_destroy, "it was forced off by someone else"),
        (_migrate_away, "it was migrated away by someone else"),
        (_save, "it was saved by someone else"),
        (_revert, "someone else reverted it to a snapshot"),
    ],
)
def test_a_guest_that_its_owner_takes_down(
    state_dir: MigrationNotes, act: Callable[[FakeGuest], None], said: str
) -> None:
    """It is not started: by its owner's will, or since it runs elsewhere."""
    answer, fake = _restart(FakeGuest(meanwhile=act), state_dir)
    assert (answer.action(), answer.errors) == ("skipped", [])
    assert f"while it was shutting down, {said}; it stays off." in answer.warnings()
    assert (fake.guests["anuma"].active, _files(state_dir)) == (False, [])
    again = _again(fake, state_dir)
    assert (again.action(), again.errors, fake.guests["anuma"].active) == ("none", [], False)


def test_a_guest_that_loses_its_definition_on_the_way(state_dir: MigrationNotes) -> None:
    """It ran, and runs again as the transient guest that its owner made of it."""
    looks = iter(range(3))

    def undefine_and_go_down_later(guest: FakeGuest) -> None:
        _undefine(guest)
        guest.stubborn = True

    class SlowPower(FakePower):
        def find(self, domain: Domain) -> Domain | None:
            guest = self.guests[domain.name]
            if guest.stubborn and next(looks, None) is None:
                guest.active = guest.stubborn = False
            return super().find(domain)

    fake = SlowPower({"anuma": FakeGuest(meanwhile=undefine_and_go_down_later)})
    answer = _again(fake, state_dir, timeout_s=60)
    assert (answer.action(), answer.errors) == ("skipped", [])
    assert fake.calls == ["shut down anuma", "start transient anuma"]
    assert "the module started it again, as a transient guest" in answer.warnings()
    assert (fake.guests["anuma"].live, _files(state_dir)) == (OLD, [])


def test_a_slow_guest_is_watched_while_the_others_take(state_dir: MigrationNotes) -> None:
    """It is started when it goes down after its time, and is no error then."""
    slow = FakeGuest(stubborn=True)
    guests = {"a": slow, "b": FakeGuest(meanwhile=lambda _guest: _shut_off(slow))}
    answer, _fake = _restart(guests, state_dir)
    assert (answer.errors, answer.action("a"), answer.action("b")) == ([], "restarted", "restarted")
    assert "it took longer than 0.05 s to shut down; increase timeout" in answer.warnings("a")
    assert (slow.active, slow.cells, _files(state_dir)) == (True, 4, [])


@pytest.mark.parametrize("mode", ["graceful", "force"])
def test_a_guest_that_does_not_shut_down(state_dir: MigrationNotes, mode: str) -> None:
    """Only force ends it; otherwise it keeps running, and the sentence says what comes next."""
    answer, fake = _restart(FakeGuest(stubborn=True), state_dir, mode=mode)
    if mode == "force":
        assert (answer.action(), answer.errors) == ("restarted", [])
        assert answer.restarts["anuma"].forced
        return
    assert answer.action() == "failed"
    assert "it did not shut down within 0.05 s and keeps running" in answer.errors[0]
    assert (
        "If it goes down after this run, it stays off until someone starts it" in answer.errors[0]
    )
    assert "force off anuma" not in fake.calls
    note = state_dir.begun_restart("uuid-anuma")
    assert note is not None
    assert note.phase == "late"
    # Nothing tells whose shutdown it is: said as unknown, once, and left off.
    _shut_off(fake.guests["anuma"])
    (said,) = _again(fake, state_dir, write=False).errors
    (done,) = _again(fake, state_dir).errors
    assert said == done
    assert "whether that request or its owner turned it off cannot be told, so it stays off" in said
    assert _again(fake, state_dir).errors == []
    assert not fake.guests["anuma"].active


@pytest.mark.parametrize("reason", ["shutdown", "crashed", "failed", "daemon", "unknown"])
def test_a_restart_that_was_cut_short_is_ended(state_dir: MigrationNotes, reason: str) -> None:
    """A guest that is off since then is started."""
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma", time.time(), time.time() + 9))
    answer, fake = _restart(FakeGuest(active=False, reason=reason), state_dir)
    assert (answer.action(), fake.calls) == ("started", ["start anuma"])
    assert _files(state_dir) == []


@pytest.mark.parametrize("act", [_destroy, _migrate_away, _save, _revert])
def test_a_restart_that_its_owner_decided_otherwise_about(
    state_dir: MigrationNotes, act: Callable[[FakeGuest], None]
) -> None:
    """A guest that its owner took down since a run was cut short stays as it is."""
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma", time.time(), time.time() + 9))
    guest = FakeGuest()
    act(guest)
    answer, fake = _restart(guest, state_dir)
    assert (answer.action(), answer.errors, fake.calls) == ("none", [], [])
    assert "a restart of it was begun; since then " in answer.warnings()
    assert _files(state_dir) == []


def test_a_start_that_was_cut_short_is_made_again(state_dir: MigrationNotes) -> None:
    """A guest that libvirt lists as active, and that has not begun to run, does not run."""
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma", phase="start"))
    guest = FakeGuest(live=NEW, state="paused starting_up")
    answer, fake = _restart(guest, state_dir)
    assert (answer.action(), fake.calls) == ("started", ["start anuma"])


def test_a_guest_that_is_listed_as_active_and_has_no_process(state_dir: MigrationNotes) -> None:
    """A daemon that has just come back finds out that it is off: it is started."""
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma", phase="start"))
    answer, fake = _restart(FakeGuest(live=NEW, vanishes=True), state_dir)
    assert (answer.action(), fake.calls) == ("started", ["start anuma"])


def test_power_is_not_pulled_under_a_job(state_dir: MigrationNotes) -> None:
    """What its owner has begun since it was asked to shut down is waited for."""
    guest = FakeGuest(stubborn=True, meanwhile=_copy_a_disk)
    answer, fake = _restart(guest, state_dir, mode="force")
    (said,) = answer.errors
    assert "it was not forced off, since a block job such as a copy or a commit is running" in said
    assert "force off anuma" not in fake.calls
    assert guest.active


def test_an_unknown_outcome_is_no_rollback(state_dir: MigrationNotes) -> None:
    """The note stays until it is known, and so does the layout that it may have to go back to."""
    answer, fake = _restart(FakeGuest(unsettled=True), state_dir)
    assert answer.action() == "failed"
    assert answer.errors == ["guest anuma: whether it runs cannot be told."]
    assert fake.calls == ["shut down anuma", "start anuma"]
    assert _files(state_dir) == ["uuid-anuma.layout", "uuid-anuma.restart"]


def test_a_migration_that_has_not_ended(state_dir: MigrationNotes) -> None:
    """The guest may run on the other host."""
    state_dir.begin_migration("uuid-anuma", MigrationNote("anuma", target="kvm2"))
    answer, fake = _restart(FakeGuest(), state_dir)
    assert (answer.action(), fake.calls) == ("skipped", [])
    assert "a migration of it to kvm2 was begun and has not ended" in answer.warnings()


def test_rolled_back(state_dir: MigrationNotes) -> None:
    """What does not start gets its old layout back, and keeps what its owner did meanwhile."""

    def retitle(guest: FakeGuest) -> None:
        guest.persistent = _xml(4, title="new since")

    guest = FakeGuest(does_not_start=(4,), meanwhile=retitle)
    answer, fake = _restart(guest, state_dir)
    assert answer.action() == "rolled_back"
    (said,) = answer.errors
    assert "it did not start with its new layout, so the module rolled it back" in said
    assert "no room" in said
    assert fake.calls == ["shut down anuma", "start anuma", "define anuma", "start anuma"]
    assert read_definition(guest.persistent or "").state == read_definition(OLD).state
    assert "<title>new since</title>" in guest.live
    assert SECRET in guest.live
    assert _files(state_dir) == []


@pytest.mark.parametrize(
    ("keys", "action"),
    [({}, "restarted"), ({"does_not_start": (4,)}, "rolled_back"), ({"stubborn": True}, "failed")],
)
def test_a_state_folder_that_becomes_unwritable(
    state_dir: MigrationNotes, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], action: str
) -> None:
    """A guest that is down runs again all the same; what cannot be removed is said once."""

    def fill(_guest: FakeGuest) -> None:
        # Drafts cannot be written, and nothing can be removed.
        monkeypatch.setattr(os, "rename", _refuse)
        monkeypatch.setattr(os, "unlink", _refuse)

    guest = FakeGuest(meanwhile=fill, **keys)
    fake = FakePower({"anuma": guest})
    restarts = [Restart(domain) for domain in fake.domains()]
    policy = RestartPolicy(timeout_s=0.05)
    errors = [
        str(error) for error in restart_guests(cast(Power, fake), restarts, policy, state_dir)
    ]
    assert restarts[0].action == action
    assert guest.active
    assert not any("nothing was changed" in error for error in errors), errors
    if action != "failed":
        with pytest.raises(StateDirError, match="is no longer needed and cannot be removed"):
            tidy(cast(Power, fake), state_dir)
    monkeypatch.undo()
    answer = _again(fake, state_dir, timeout_s=0.05)
    assert (guest.active, answer.errors == []) == (True, action != "failed")


def _refuse(*_args: Any, **_keys: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_the_old_layout_no_longer_fits(state_dir: MigrationNotes) -> None:
    """Its owner gave it fewer vCPUs: what is defined, what failed and what to do are said."""

    def shrink(guest: FakeGuest) -> None:
        guest.persistent = _xml(4, vcpus=2)

    live = OLD.replace("cpus='0'", "cpus='0-3'")
    guest = FakeGuest(live=live, does_not_start=(4,), meanwhile=shrink)
    answer, fake = _restart(guest, state_dir)
    (said,) = answer.errors
    assert "it does not start with its new layout (libvirt could not start it: no room)" in said
    assert "no longer fits, since it had cells for 4 vCPUs, and it has 2 now" in said
    assert "it is off, and its definition has the new layout" in said
    assert fake.calls == ["shut down anuma", "start anuma"]
    assert _files(state_dir) == ["uuid-anuma.layout", "uuid-anuma.restart"]


def test_neither_starts(state_dir: MigrationNotes) -> None:
    """What is defined then is said, and the next run tries again."""
    guest = FakeGuest(does_not_start=(4, 1))
    answer, fake = _restart(guest, state_dir)
    assert answer.action() == "failed"
    (said,) = answer.errors
    assert "it starts neither with its new layout" in said
    assert "its definition has the old layout; fix the cause and run again" in said
    guest.does_not_start = ()
    assert _again(fake, state_dir).action() == "started"
    assert (guest.cells, _files(state_dir)) == (1, [])


def test_no_layout_is_known(state_dir: MigrationNotes) -> None:
    """A guest that is off, and whose earlier layout nothing tells, is left as it is."""
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma"))
    guest = FakeGuest(active=False, reason="shutdown", does_not_start=(4,))
    (said,) = _restart(guest, state_dir)[0].errors
    assert "it does not start, and no earlier layout is known" in said


@pytest.mark.parametrize("kept", [keep_layout(read_definition(_xml(2))), "<layout>", "damaged"])
def test_the_kept_layout_is_the_one_that_ran(state_dir: MigrationNotes, kept: str) -> None:
    """One that was kept before an earlier start, or is damaged, is replaced."""
    state_dir.keep_layout("uuid-anuma", kept)
    guest = FakeGuest(does_not_start=(4,))
    _restart(guest, state_dir)
    assert guest.cells == 1


def test_no_password_is_kept(state_dir: MigrationNotes) -> None:
    """At no moment of a restart, whatever comes of it."""
    seen: list[str] = []

    def look(_guest: FakeGuest) -> None:
        seen.extend(path.read_text() for path in state_dir.folder.iterdir())

    cases: tuple[dict[str, Any], ...] = (
        {},
        {"does_not_start": (4,)},
        {"does_not_start": (4, 1)},
        {"unsettled": True},
    )
    for keys in cases:
        _restart(FakeGuest(meanwhile=look, **keys), state_dir)
        seen.extend(path.read_text() for path in state_dir.folder.iterdir())
    assert len(seen) > 4
    assert SECRET not in "".join(seen)
