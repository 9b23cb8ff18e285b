# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest would be on the host that it is to migrate to, and what stands against it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import GuestGoneError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.ends import Target
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import (
    Condition,
    Domain,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.destination import (
    Destination,
    MovingGuest,
    largest_first,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text

GIB = 1 << 20


def _xml(name: str, vcpus: int = 4, memory_gib: int = 8) -> str:
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>uuid-{name}</uuid>\n"
        f"  <memory unit='KiB'>{memory_gib * GIB}</memory>\n"
        f"  <vcpu placement='static'>{vcpus}</vcpu>\n"
        "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
    )


@dataclass
class FakeTarget:
    """A host with guests, by name; the definition stands for what it runs with, too."""

    guests: dict[Domain, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    reason: str = "user"

    def domains(self) -> list[Domain]:
        """Its guests."""
        return list(self.guests)

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """A definition."""
        assert domain.active or not live
        if domain.name in self.gone:
            raise GuestGoneError("it is no longer there.", guest=domain.name)
        return self.guests[domain]

    def lacks(self, _live: Definition) -> list[str]:
        """What it does not have."""
        return self.needs

    def condition(self, _domain: Domain) -> Condition:
        """What its guests do."""
        return Condition("paused", self.reason)


@dataclass
class Bench:
    """A target of two nodes with 32 pCPUs and 128 GiB together, and guests that come to it."""

    target: FakeTarget
    destination: Destination

    def define(self, xml: str, name: str, uuid: str, active: bool = False) -> None:
        """Define a guest there, and have the destination read it."""
        self.target.guests[Domain(name, uuid, True, active)] = xml
        self.destination.read()

    def moving(self, xml: str, name: str = "db1", **options: object) -> MovingGuest:
        """Return a guest that was partitioned for a host of the same kind."""
        definition, policy = read_definition(xml), policy_from_options(options)
        layout = plan(read_guest(definition, 2048), self.destination.host, policy)
        text = partitioned_text(definition, layout, policy)
        domain = Domain(name, f"uuid-{name}", True, True)
        return MovingGuest(domain, read_definition(text), read_definition(text))

    def reasons(self, moving: MovingGuest) -> list[str]:
        """Return what stands against a guest, which then would be nothing there."""
        arrival, reasons = self.destination.receive(moving)
        assert (arrival is None) == bool(reasons)
        return reasons


@pytest.fixture
def bench(host: Callable[[str], Host]) -> Bench:
    """An empty host."""
    target = FakeTarget()
    return Bench(target, Destination("west", cast(Target, target), None, host("two-socket-2n32c")))


def test_it_comes_as_it_is(bench: Bench) -> None:
    """With the same cells, and the target's pins in both definitions."""
    moving = bench.moving(_xml("db1"))
    arrival, reasons = bench.destination.receive(moving)
    assert reasons == []
    assert arrival is not None
    assert arrival.live.state.cells == moving.live.state.cells
    assert arrival.persistent.state == arrival.live.state
    assert set(arrival.live.state.vcpu_pins) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("name", "uuid", "active", "sentence"),
    [
        (
            "db1",
            "uuid-other",
            False,
            "another guest of that name is defined there, with UUID uuid-other; rename one of "
            "them.",
        ),
        (
            "db1",
            "uuid-db1",
            True,
            "a copy of it is there already, paused (user); if no run of vnuma_migrate that was cut "
            "off has left it there, end the one that is not to stay with 'virsh destroy db1'.",
        ),
        (
            "db2",
            "uuid-db1",
            False,
            "it is defined there under another name, db2; undefine that.",
        ),
        (
            "db1",
            "uuid-db1",
            False,
            "it is defined there already, with another layout (it has 2 cells here and no cells "
            "there",
        ),
    ],
)
def test_who_is_there_with_its_name(
    bench: Bench, name: str, uuid: str, active: bool, sentence: str
) -> None:
    """A guest of its name or UUID is replaced by nobody but itself."""
    bench.define(_xml(name), name, uuid, active)
    (said,) = bench.reasons(bench.moving(_xml("db1")))
    assert said.startswith(sentence)


def test_one_that_libvirt_holds_on_to(bench: Bench) -> None:
    """It cannot be destroyed, and what helps is said."""
    bench.define(_xml("db1"), "db1", "uuid-db1", active=True)
    bench.target.reason = "starting_up"
    (said,) = bench.reasons(bench.moving(_xml("db1")))
    assert said.startswith("libvirt there began to start a copy of it, and has not ended that.")
    assert "remove /run/libvirt/qemu/db1.xml" in said


def test_what_was_kept_of_it(bench: Bench) -> None:
    """A definition with the same layout is what it left behind, and takes no cores from it."""
    moving = bench.moving(_xml("db1", 32), pinning="core")
    bench.define(moving.persistent.text, "db1", "uuid-db1")
    assert bench.reasons(moving) == []
    # It comes back: what was kept gives way to it, and that is no change by others.
    del bench.target.guests[Domain("db1", "uuid-db1", True, False)]
    assert not bench.destination.changed({"uuid-db1"})
    assert bench.destination.changed(set())


@pytest.mark.parametrize("where", ["live", "persistent", "both"])
def test_pcpus_that_are_not_there(bench: Bench, where: str) -> None:
    """Now, or at its next start; told once."""
    moving = bench.moving(_xml("db1"))
    bare = moving.live.text
    pinned = bare.replace("<cputune>", "<cputune>\n    <emulatorpin cpuset='900'/>", 1)
    persistent, live = (
        read_definition(pinned if where in (name, "both") else bare)
        for name in ("persistent", "live")
    )
    (said,) = bench.reasons(replace(moving, persistent=persistent, live=live))
    assert said.startswith(
        "its definition names pCPUs that the target lacks (<emulatorpin> 900); remove that"
    )


def test_pins_that_are_kept_are_of_another_host(bench: Bench) -> None:
    """The same pCPUs there would be somebody else's choice; without pins nothing is in the way."""
    pins = "<cputune><vcpupin vcpu='0' cpuset='3'/></cputune></domain>"
    pinned = bench.moving(_xml("db1").replace("</domain>", pins), pinning="keep")
    (said,) = bench.reasons(pinned)
    assert "pinning 'keep'" in said
    assert bench.reasons(bench.moving(_xml("db1"), pinning="keep")) == []


def test_all_reasons_at_once(bench: Bench) -> None:
    """Who is told of one after the other comes back as often."""
    bench.target.needs = ["the target has no active network storage; define it there and start it."]
    bench.define(_xml("db1"), "db1", "uuid-other")
    owner = bench.moving(_xml("owner", 32), "owner", pinning="core")
    bench.define(owner.persistent.text, "owner", "uuid-owner")
    reasons = bench.reasons(bench.moving(_xml("db1"), pinning="core"))
    assert [reason.split(";")[0] for reason in reasons[:2]] == [
        "another guest of that name is defined there, with UUID uuid-other",
        "the target has no active network storage",
    ]
    assert len(reasons) == 3
    assert reasons[2].startswith("pinning 'core' needs 2 cores")


def test_who_comes_counts_for_the_next(bench: Bench) -> None:
    """Two guests with cores of their own get different ones; a third finds none."""
    asked = {"pinning": "core", "threads": 1}
    taken: set[int] = set()
    for name in ("db1", "db2"):
        moving = bench.moving(_xml(name, 16), name, **asked)
        arrival, reasons = bench.destination.receive(moving)
        assert reasons == []
        assert arrival is not None
        pins = {cpu for cpus in arrival.live.state.vcpu_pins.values() for cpu in cpus}
        assert not taken & pins
        taken |= pins
        load = bench.destination.load()
        bench.destination.expect(moving, arrival)
        assert bench.destination.load() > load
    assert "core" in bench.reasons(bench.moving(_xml("db3", 16), "db3", **asked))[0]
    bench.destination.read()
    assert bench.reasons(bench.moving(_xml("db3", 16), "db3", **asked)) == []


def test_how_full_it_is(bench: Bench) -> None:
    """The larger share of memory and pCPUs decides, guests that are off included."""
    nodes = bench.destination.host.nodes
    memory_gib = sum(node.memory_kib for node in nodes) / GIB
    cpus = sum(len(node.cpus) for node in nodes)
    assert bench.destination.load() == 0
    bench.define(_xml("wide", vcpus=16, memory_gib=1), "wide", "uuid-wide")
    assert bench.destination.load() == 16 / cpus
    bench.define(_xml("tall", vcpus=1, memory_gib=100), "tall", "uuid-tall", active=True)
    assert bench.destination.load() == pytest.approx(max(17 / cpus, 101 / memory_gib))


def test_who_changed_something_meanwhile(bench: Bench) -> None:
    """Guests that this run brings are no change; those of others are, defined or undefined."""
    bench.define(_xml("web"), "web", "uuid-web")
    assert not bench.destination.changed(set())
    ours = Domain("db1", "uuid-db1", True, True)
    bench.target.guests[ours] = _xml("db1")
    assert not bench.destination.changed({"uuid-db1"})
    assert bench.destination.changed(set())
    web = Domain("web", "uuid-web", True, False)
    bench.target.guests[web] = _xml("web", vcpus=8)
    assert bench.destination.changed({"uuid-db1"})
    del bench.target.guests[web]
    assert bench.destination.changed({"uuid-db1"})


def test_the_largest_goes_first(bench: Bench) -> None:
    """By memory, then vCPUs, then name."""
    sizes = {"a": (4, 8), "b": (8, 8), "c": (4, 16), "d": (4, 8)}
    guests = [bench.moving(_xml(name, *sizes[name]), name) for name in ("d", "a", "b", "c")]
    ordered, errors = largest_first(guests, 2048)
    assert [one.domain.name for one in ordered] == ["c", "b", "a", "d"]
    assert errors == []


def _odd(name: str) -> str:
    """Return a definition that can be parsed, and whose figures cannot be read."""
    return _xml(name).replace("<os>", "<cputune/><cputune/><os>")


def test_one_whose_size_cannot_be_read(bench: Bench) -> None:
    """It is named, and the others are in their order."""
    guests = [bench.moving(_xml(name), name) for name in ("a", "b")]
    odd = read_definition(_odd("odd"))
    guests.insert(1, MovingGuest(Domain("odd", "uuid-odd", True, True), odd, odd))
    ordered, errors = largest_first(guests, 2048)
    assert [one.domain.name for one in ordered] == ["a", "b"]
    assert [str(error) for error in errors] == [
        "guest odd: the definition has <cputune> twice; keep one."
    ]


@pytest.mark.parametrize("options", [{}, {"nodes": "auto"}, {"pinning": "core"}])
def test_one_there_that_cannot_be_read(bench: Bench, options: dict[str, object]) -> None:
    """Whoever depends on it is told of it by its name; the host is chosen last."""
    moving = bench.moving(_xml("db1"))
    bench.destination.options = options
    bench.define(_odd("odd"), "odd", "uuid-odd")
    arrival, reasons = bench.destination.receive(moving)
    assert bench.destination.load() == math.inf
    if options:
        assert reasons == [
            "its nodes and pCPUs are chosen with regard to all guests of the host, and one of "
            "these cannot be read (guest odd: the definition has <cputune> twice; keep one); "
            "correct that one first."
        ]
    else:
        assert (arrival is None, reasons) == (False, [])


def test_what_it_left_there_cannot_be_read(bench: Bench) -> None:
    """That is a reason of its own, among the others."""
    bench.target.needs = ["the target has no active network storage; define it there and start it."]
    broken = _xml("db1").replace(
        "<os>", "<iothreads>x</iothreads><cpu><topology sockets='0'/></cpu><os>"
    )
    bench.define(broken, "db1", "uuid-db1")
    reasons = bench.reasons(bench.moving(_xml("db1")))
    assert [reason.split(",")[0] for reason in reasons] == [
        "topology sockets must be an integer from 1 to 65535",
        bench.target.needs[0],
    ]


def test_guests_there_that_end_meanwhile(bench: Bench) -> None:
    """They are no failure of whoever reads the target, and no change once they were gone before."""
    bench.define(_xml("web"), "web", "uuid-web", active=True)
    moving = bench.moving(_xml("db1"))
    bench.target.guests[Domain("ci", "uuid-ci", False, True)] = _xml("ci")
    bench.target.gone = {"ci"}
    bench.destination.read()
    assert set(bench.destination.domains) == set(bench.destination.definitions) == {"uuid-web"}
    assert bench.reasons(moving) == []
    assert not bench.destination.changed(set())
    bench.target.gone = {"ci", "web"}
    assert bench.destination.changed(set())
