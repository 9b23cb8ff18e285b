# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who goes where, and who stays because of whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import Definition
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    GuestGoneError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.ends import Source, Target
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.migration import Transfer
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import (
    Condition,
    Domain,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module import migrate as _migrate
from ansible_collections.kvm.vnuma.plugins.module_utils._module.destination import Destination
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migrate import (
    MigrationResult,
    migrate_guests,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNotes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.move import Move


def _xml(name: str) -> str:
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>uuid-{name}</uuid>\n"
        "  <memory unit='KiB'>8388608</memory>\n  <vcpu placement='static'>4</vcpu>\n"
        "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
    )


@dataclass
class FakeHost:
    """A host with guests that run, by name; some cannot be asked, read, or sized, or are gone."""

    topology: Host
    names: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    odd: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def domains(self) -> list[Domain]:
        """Its guests."""
        return [Domain(name, f"uuid-{name}", True, True) for name in self.names]

    def host(self) -> Host:
        """The topology."""
        return self.topology

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """The same definition for both."""
        assert live in (True, False)
        return _xml(domain.name)

    def migratable_xml(self, domain: Domain) -> str:
        """What it runs with."""
        if domain.name in self.gone:
            raise GuestGoneError("it is no longer there.", guest=domain.name)
        if domain.name in self.unreadable:
            raise HypervisorError("libvirt could not read the definition: no domain.")
        return _xml(domain.name)

    def persistent_xml(self, domain: Domain) -> str:
        """What it is defined with."""
        twice = "<cputune/><cputune/><os>" if domain.name in self.odd else "<os>"
        return _xml(domain.name).replace("<os>", twice)

    def migration_blocker(self, domain: Domain) -> str | None:
        """Nothing keeps a guest that can be asked."""
        if domain.name in self.ended:
            raise GuestGoneError("it is no longer there.", guest=domain.name)
        if domain.name in self.silent:
            raise HypervisorError("libvirt could not tell its state: no domain.")
        return None

    def condition(self, _domain: Domain) -> Condition:
        """It runs."""
        return Condition("running", "booted")

    def is_local(self) -> bool:
        """Whether its files can be looked at."""
        return False

    def lacks(self, _live: Definition) -> list[str]:
        """Nothing."""
        return []


@dataclass
class Bench:
    """A source, two targets, who went, and who is defined there by somebody else then."""

    source: FakeHost
    targets: dict[str, FakeHost]
    state_dir: MigrationNotes
    gone: list[tuple[str, str]] = field(default_factory=list)
    newcomers: list[str] = field(default_factory=list)

    def migrate(self, *names: str, write: bool = True, partial: bool = False) -> MigrationResult:
        """Migrate the guests named, or all."""
        destinations = []
        for name, target in self.targets.items():
            destinations.append(Destination(name, cast(Target, target), None, target.topology))
            destinations[-1].read()
        source, asked = cast(Source, self.source), list(names) or None
        how, state_dir = Transfer(), self.state_dir
        return migrate_guests(source, destinations, asked, how, state_dir, write, partial)


@pytest.fixture
def bench(host: Callable[[str], Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Three guests on the source, one on a target, and none on the other."""
    topology = host("two-socket-2n32c")
    bench = Bench(
        FakeHost(topology, ["a", "b", "c"]),
        {"full": FakeHost(topology, ["other"]), "empty": FakeHost(topology)},
        MigrationNotes(str(tmp_path), "host"),
    )

    def carry_out(_source: Source, move: Move, destination: Destination, *_more: object) -> None:
        name = move.moving.domain.name
        bench.gone.append((name, destination.name))
        bench.targets[destination.name].names += [name, *bench.newcomers]
        move.seconds = 0.1

    monkeypatch.setattr(_migrate, "carry_out", carry_out)
    return bench


def test_the_emptiest_takes_the_next(bench: Bench) -> None:
    """Those who are to come are counted in; among equals the first that was named."""
    result = bench.migrate()
    assert result.errors == []
    assert bench.gone == [("a", "empty"), ("b", "full"), ("c", "empty")]


def test_check_mode(bench: Bench) -> None:
    """It says who would go where, and nobody does."""
    result = bench.migrate(write=False)
    assert [(one.moving.domain.name, one.action) for one in result.moves] == [
        ("a", "migrated"),
        ("b", "migrated"),
        ("c", "migrated"),
    ]
    assert bench.gone == []


@pytest.mark.parametrize("when", ["gone", "ended"])
def test_one_that_ends_meanwhile(bench: Bench, when: str) -> None:
    """A pattern does not mean it any more, and nobody waits because of it; a name does."""
    getattr(bench.source, when).add("b")
    result = bench.migrate()
    assert result.errors == []
    assert [name for name, _target in bench.gone] == ["a", "c"]
    bench.gone.clear()
    result = bench.migrate("b", partial=True)
    assert [str(error) for error in result.errors] == ["guest b: it is no longer there."]
    assert bench.gone == []


@pytest.mark.parametrize("kind", ["silent", "unreadable", "odd"])
@pytest.mark.parametrize("partial", [False, True])
def test_one_that_cannot_be_asked(bench: Bench, kind: str, partial: bool) -> None:
    """It is named; the others go where that is wanted, and else are told of too."""
    getattr(bench.source, kind).add("b")
    result = bench.migrate(partial=partial)
    (error,) = result.errors
    assert error.guest == "b"
    assert [one.moving.domain.name for one in result.moves] == ["a", "c"]
    assert [name for name, _target in bench.gone] == (["a", "c"] if partial else [])


def test_a_target_that_changed_meanwhile(bench: Bench) -> None:
    """Nobody else goes there on a plan that is out of date; who has gone, has gone."""
    bench.newcomers.append("new")
    del bench.targets["full"]
    result = bench.migrate("a", "b")
    assert bench.gone == [("a", "empty")]
    (error,) = result.errors
    assert str(error) == (
        "guest b: a guest of empty was defined, changed or removed after this one was planned; it "
        "was not migrated; run again."
    )
    assert [one.action for one in result.moves] == ["migrated", "failed"]


def test_who_is_there_already(bench: Bench) -> None:
    """Named, and on a target: nothing is left to do for it."""
    result = bench.migrate("other", "a")
    assert result.errors == []
    assert [(domain.name, there.name) for domain, there in result.there] == [("other", "full")]
    assert bench.gone == [("a", "empty")]
