# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest needs, what becomes of it, and the way back; with a libvirt that fails on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HypervisorError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._module.restart import (
    Restart,
    RestartPolicy,
    restart_guests,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import StateDir

GUEST = Domain("anuma", "uuid-anuma", persistent=True, active=True)


def _xml(cells: int, *, ours: bool = True) -> str:
    record = "<v:partition xmlns:v='https://kvm-vnuma.github.io/ns/partition/1'/>" if ours else ""
    numa = "".join(
        f"<cell id='{cell}' cpus='{cell}' memory='{4096 // cells}'/>" for cell in range(cells)
    )
    return (
        f"<domain type='kvm'><name>anuma</name><metadata>{record}</metadata>"
        f"<memory>4096</memory><vcpu>4</vcpu><cpu><numa>{numa}</numa></cpu></domain>"
    )


NEW, OLD = _xml(4), _xml(1)


@dataclass
class FakeHypervisor:
    """One guest: what it is defined with, what it runs with, and what does not start."""

    persistent: str = NEW
    live: str = OLD
    active: bool = True
    stubborn: bool = False
    does_not_start: tuple[str, ...] = ()
    blocker: str | None = None
    calls: list[str] = field(default_factory=list)

    def xml_without_secrets(self, _domain: Domain, live: bool) -> str:
        """A definition."""
        return self.live if live else self.persistent

    def running_xml(self, _domain: Domain) -> str:
        """What it runs with."""
        return self.live

    def restart_blocker(self, _domain: Domain) -> str | None:
        """Why it must be left alone."""
        return self.blocker

    def wait(self, is_done: Callable[[], bool], _deadline: float) -> bool:
        """Whether it is done now."""
        return is_done()

    def is_active(self, _domain: Domain) -> bool:
        """Whether it runs."""
        return self.active

    def shut_down(self, _domain: Domain) -> None:
        """Ask it to."""
        self.calls.append("shut down")
        self.active = self.active and self.stubborn

    def force_off(self, _domain: Domain) -> None:
        """Make it."""
        self.calls.append("force off")
        self.active = False

    def define(self, _name: str, xml: str, _secrets: set[str], validate: bool = True) -> None:
        """Define it."""
        assert not validate
        self.calls.append("define")
        self.persistent = xml

    def start(self, domain: Domain) -> None:
        """Start it, unless it does not."""
        self.calls.append("start")
        if self.persistent in self.does_not_start:
            raise HypervisorError("libvirt could not start it: no room.", guest=domain.name)
        self.active, self.live = True, self.persistent


@pytest.fixture
def state_dir(tmp_path: Path) -> StateDir:
    """An empty state folder."""
    return StateDir(str(tmp_path), "host")


def _files(state_dir: StateDir) -> list[str]:
    return sorted(path.name for path in state_dir.folder.glob("*")) if state_dir.folder else []


def _restart(
    fake: FakeHypervisor, state_dir: StateDir, domain: Domain = GUEST, **keys: Any
) -> tuple[Restart, list[str]]:
    restart = Restart(domain, keys.pop("by_name", True))
    write = keys.pop("write", True)
    policy = RestartPolicy(timeout_s=0.01, **keys)
    errors = restart_guests(cast(Hypervisor, fake), [restart], policy, state_dir, write)
    return restart, [str(error) for error in errors]


def test_power_cycle(state_dir: StateDir) -> None:
    """Down and up with the new layout; nothing is left in the state folder."""
    fake = FakeHypervisor()
    restart, errors = _restart(fake, state_dir)
    assert (restart.action, restart.forced, errors) == ("restarted", False, [])
    assert fake.calls == ["shut down", "start"]
    assert (fake.live, _files(state_dir)) == (NEW, [])


@pytest.mark.parametrize(
    ("fake", "domain", "by_name", "action"),
    [
        (FakeHypervisor(live=NEW), GUEST, True, "none"),
        (FakeHypervisor(), Domain("anuma", "uuid-anuma", False, True), True, "none"),
        (FakeHypervisor(active=False), Domain("anuma", "uuid-anuma", True, False), True, "none"),
        (FakeHypervisor(_xml(2, ours=False), _xml(1, ours=False)), GUEST, False, "none"),
        (FakeHypervisor(_xml(2, ours=False), _xml(1, ours=False)), GUEST, True, "restarted"),
        (FakeHypervisor(_xml(2), _xml(1, ours=False)), GUEST, False, "restarted"),
        (FakeHypervisor(_xml(2, ours=False), _xml(1)), GUEST, False, "restarted"),
        (FakeHypervisor(blocker="it is paused"), GUEST, True, "skipped"),
    ],
)
def test_who_is_restarted(
    state_dir: StateDir, fake: FakeHypervisor, domain: Domain, by_name: bool, action: str
) -> None:
    """In check mode the same is said, and nothing is done."""
    said, _errors = _restart(fake, state_dir, domain, by_name=by_name, write=False)
    assert (said.action, fake.calls) == (action, [])
    done, _errors = _restart(fake, state_dir, domain, by_name=by_name)
    assert done.action == action
    assert bool(fake.calls) is (action == "restarted")


def test_check_mode_leaves_the_state_folder_alone(state_dir: StateDir) -> None:
    """What a run that was cut short left behind is for a run that writes."""
    state_dir.keep_old("uuid-anuma", OLD)
    state_dir.begin_restart("uuid-anuma", "anuma")
    fake = FakeHypervisor(live=NEW)
    before = _files(state_dir)
    assert _restart(fake, state_dir, write=False)[0].action == "none"
    assert _files(state_dir) == before == ["uuid-anuma.restart", "uuid-anuma.xml"]
    assert _restart(fake, state_dir)[0].action == "none"
    assert _files(state_dir) == []


def test_a_restart_that_was_cut_short_is_ended(state_dir: StateDir) -> None:
    """A guest that is off since then is started."""
    state_dir.begin_restart("uuid-anuma", "anuma")
    fake = FakeHypervisor(active=False)
    off = Domain("anuma", "uuid-anuma", persistent=True, active=False)
    assert _restart(fake, state_dir, off)[0].action == "started"
    assert (fake.calls, _files(state_dir)) == (["start"], [])


def test_rolled_back(state_dir: StateDir) -> None:
    """What does not start gets its old definition back, and runs with that."""
    fake = FakeHypervisor(does_not_start=(NEW,))
    restart, (said,) = _restart(fake, state_dir)
    assert restart.action == "rolled_back"
    assert "did not start with its new layout" in said
    assert "no room" in said
    assert fake.calls == ["shut down", "start", "define", "start"]
    assert (fake.persistent, fake.live, fake.active) == (OLD, OLD, True)
    assert _files(state_dir) == []


def test_neither_starts(state_dir: StateDir) -> None:
    """The old definition stays where the sentence says."""
    fake = FakeHypervisor(does_not_start=(NEW, OLD))
    restart, (said,) = _restart(fake, state_dir)
    assert restart.action == "failed"
    assert "it starts neither with its new definition" in said
    assert str(state_dir.folder / "uuid-anuma.xml") in said
    assert "uuid-anuma.xml" in _files(state_dir)


@pytest.mark.parametrize("mode", ["graceful", "force"])
def test_a_guest_that_does_not_shut_down(state_dir: StateDir, mode: str) -> None:
    """Only force ends it; otherwise it keeps running, and the note stays for the next run."""
    fake = FakeHypervisor(stubborn=True)
    restart, errors = _restart(fake, state_dir, mode=mode)
    if mode == "force":
        assert (restart.action, restart.forced, errors) == ("restarted", True, [])
        return
    assert restart.action == "failed"
    assert "did not shut down within" in errors[0]
    assert "force off" not in fake.calls
    assert "uuid-anuma.restart" in _files(state_dir)


def test_the_kept_definition_is_what_ran(state_dir: StateDir) -> None:
    """One that was kept for this very layout is gone back to; another one is replaced."""
    state_dir.keep_old("uuid-anuma", _xml(2))
    fake = FakeHypervisor(does_not_start=(NEW,))
    _restart(fake, state_dir)
    assert fake.persistent == OLD
