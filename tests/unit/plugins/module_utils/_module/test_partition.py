# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of things when libvirt misbehaves: faults that a real one does not show on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.kept import runs_with
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    GuestGoneError,
    HypervisorError,
    PolicyError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition, Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, HugepagePool
from ansible_collections.kvm.vnuma.plugins.module_utils._module.partition import (
    partition_guests,
    planned_earlier,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import (
    RestartNote,
    StateDir,
    StateDirError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.update import (
    PartitionResult,
    Safeguards,
    fingerprint,
    update_to_diff,
    update_to_result,
)
from doors import FakeCpuDrivers, FakeSchema

SECRET = "s3cr3tvn"


def _xml(name: str, vcpus: int = 16) -> str:
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>uuid-{name}</uuid>\n"
        f"  <memory unit='KiB'>16777216</memory>\n  <vcpu placement='static'>{vcpus}</vcpu>\n"
        "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n  <features>\n    <acpi/>\n"
        "  </features>\n  <devices>\n"
        f"    <graphics type='vnc' passwd='{SECRET}'/>\n  </devices>\n</domain>\n"
    )


@dataclass
class FakeHypervisor:
    """Guests in memory; what `define` stores may be spoilt on the way."""

    topology: Host
    persistent: dict[str, str]
    live: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    transient: set[str] = field(default_factory=set)
    spoil: Callable[[str], str] = str
    change: Callable[[str], str] = str
    meanwhile: Callable[[str], str] | None = None
    meanwhile_at: int = 3
    refuse: str = ""
    refuse_pins: bool = False
    refuse_drop: bool = False
    refuse_restore: bool = False
    gone: set[str] = field(default_factory=set)
    at_listing: dict[int, Callable[[dict[str, str]], object]] = field(default_factory=dict)
    listed: int = 0
    cpu_drivers: FakeCpuDrivers = field(default_factory=FakeCpuDrivers)
    schema: FakeSchema = field(default_factory=FakeSchema)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    reads: dict[str, int] = field(default_factory=dict)

    def host(self, with_free: bool = False) -> Host:
        """The topology; what is free of it nobody knows."""
        return self.topology

    def domains(self) -> list[Domain]:
        """Every guest, by name; something may happen right before."""
        self.listed += 1
        self.at_listing.get(self.listed, str)(self.persistent)
        return [
            Domain(
                name,
                f"uuid-{name}",
                name not in self.transient,
                name in self.live,
                saved=name in self.saved,
            )
            for name in sorted(self.persistent)
        ]

    uri = "test:///fake"

    def pci_devices(self, devices: set[str]) -> dict[str, HostDevice]:
        """Where PCI devices are: those on bus 0x40 and up on node 1, the others on node 0."""
        return {one: HostDevice(int(one[5:7], 16) // 64, f"pci0000:{one[5]}0") for one in devices}

    def settled(self, domain: Domain, _deadline: float) -> Condition:
        """The same: this daemon knows what its guests do."""
        return self.condition(domain)

    def condition(self, domain: Domain) -> Condition:
        """What a guest does; one that is off was asked to shut down."""
        return Condition("running" if domain.active else "off", "shutdown")

    def persistent_xml(self, domain: Domain) -> str:
        """The definition; another one from some time on, if someone is to interfere."""
        self._look_for(domain)
        self.reads[domain.name] = self.reads.get(domain.name, 0) + 1
        if self.meanwhile is not None and self.reads[domain.name] == self.meanwhile_at:
            self.persistent[domain.name] = self.meanwhile(self.persistent[domain.name])
        return self.persistent[domain.name]

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """Without passwords."""
        self._look_for(domain)
        kept = self.live if live else self.persistent
        return kept[domain.name].replace(f" passwd='{SECRET}'", "")

    def _look_for(self, domain: Domain) -> None:
        if domain.name in self.gone:
            raise GuestGoneError("it is no longer there.", guest=domain.name)

    def define(self, name: str, xml: str, secrets: set[str], validate: bool = True) -> None:
        """StateDir a definition."""
        assert secrets == {SECRET}
        self.calls.append(("define", name, validate))
        if (name == self.refuse and validate) or (self.refuse_restore and not validate):
            raise HypervisorError("libvirt could not define it: no.", guest=name)
        self.persistent[name] = self.change(self.spoil(xml) if validate else xml)

    def saved_xml(self, domain: Domain) -> str | None:
        """A managed-save image."""
        return self.saved.get(domain.name)

    def drop_saved(self, domain: Domain) -> None:
        """Drop it."""
        if self.refuse_drop:
            raise HypervisorError("libvirt could not remove its image: no.", guest=domain.name)
        self.calls.append(("drop", domain.name))
        del self.saved[domain.name]

    def pin(self, domain: Domain, what: str, number: int, cpus: tuple[int, ...]) -> None:
        """Pin a running guest."""
        if self.refuse_pins:
            raise HypervisorError("libvirt could not pin it live: no.", guest=domain.name)
        self.calls.append(("pin", domain.name, what, number, cpus))

    def move_memory(self, domain: Domain, nodes: tuple[int, ...]) -> None:
        """Move the memory of a running guest."""
        self.calls.append(("move", domain.name, nodes))


Call = Callable[..., PartitionResult]


@pytest.fixture
def fake(host: Callable[[str], Host]) -> FakeHypervisor:
    """Two guests, both off, on the RFC's host."""
    return FakeHypervisor(host("rfc-8n240c"), {name: _xml(name) for name in ("anuma", "db")})


@pytest.fixture
def call(fake: FakeHypervisor, tmp_path: Path) -> Call:
    """Call it for every guest, unless told for whom."""

    def partition(
        entries: list[dict[str, Any]] | None = None,
        write: bool = True,
        drop_saved: bool = False,
        planned: dict[str, str] | None = None,
        **options: Any,
    ) -> PartitionResult:
        safeguards = Safeguards(StateDir(str(tmp_path), "host"), drop_saved, planned or {})
        fake.calls.clear()
        fake.reads.clear()
        fake.listed = 0
        listed = entries or [{"name": "*"}]
        return partition_guests(cast(Hypervisor, fake), listed, options, None, write, safeguards)

    return partition


def _said(result: PartitionResult) -> list[str]:
    return [str(error) for error in result.errors]


def test_done_once(fake: FakeHypervisor, call: Call) -> None:
    """Defined with validation, and the second time there is nothing to do."""
    first = call()
    assert [(update.domain.name, update.changed) for update in first.updates] == [
        *(("anuma", True), ("db", True))
    ]
    assert sorted(fake.calls) == [("define", "anuma", True), ("define", "db", True)]
    assert all(SECRET in xml for xml in fake.persistent.values())
    again = call()
    assert [update.changed for update in again.updates] == [False, False]
    assert fake.calls == []
    call(state="absent")
    assert fake.persistent == {name: _xml(name) for name in ("anuma", "db")}


def test_several_are_defined_at_once(fake: FakeHypervisor, call: Call) -> None:
    """The second is begun before the first is done; results come by name all the same."""
    both = threading.Barrier(2, timeout=60)

    def wait(xml: str) -> str:
        both.wait()
        return xml

    fake.spoil = wait
    result = call()
    assert [update.domain.name for update in result.updates] == ["anuma", "db"]
    assert not result.errors


def test_check_mode_writes_nothing(fake: FakeHypervisor, call: Call, tmp_path: Path) -> None:
    """The same answer, and neither a definition nor a file."""
    planned = call(write=False)
    assert fake.calls == []
    assert list(tmp_path.iterdir()) == []
    assert fake.persistent["anuma"] == _xml("anuma")
    done = call()
    assert [update_to_result(update) for update in planned.updates] == [
        update_to_result(update) for update in done.updates
    ]
    assert [update_to_diff(update) for update in planned.updates] == [
        update_to_diff(update) for update in done.updates
    ]


def test_what_a_guest_runs_with_is_kept(fake: FakeHypervisor, call: Call, tmp_path: Path) -> None:
    """Its layout, before it is redefined, and no password; nothing of a guest that is off."""
    fake.live["anuma"] = fake.persistent["anuma"]
    call()
    store = StateDir(str(tmp_path), "host")
    assert store.kept() == ("uuid-anuma",)
    assert runs_with(read_definition(_xml("anuma")), store.layout("uuid-anuma") or "")
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert SECRET in fake.persistent["anuma"]
    assert SECRET not in "".join(files)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda xml: xml.replace(f" passwd='{SECRET}'", ""),
            "libvirt dropped devices/graphics, so the module put the old definition back;",
        ),
        (
            lambda xml: xml.replace("mode='strict'", "mode='preferred'"),
            "libvirt stored a layout other than the one it was given, so the module put the",
        ),
        (
            lambda xml: xml.replace("<sibling id='7' value='10'/>", ""),
            "libvirt stored a layout other than the one",
        ),
    ],
)
def test_what_libvirt_spoils_is_put_back(
    fake: FakeHypervisor, call: Call, spoil: Callable[[str], str], sentence: str
) -> None:
    """A definition that does not come back as it was given is undone, without validation."""
    fake.spoil = spoil
    result = call([{"name": "anuma"}])
    (said,) = _said(result)
    assert said.startswith("guest anuma: ")
    assert sentence in said
    assert SECRET not in said
    assert fake.persistent["anuma"] == _xml("anuma")
    assert fake.calls == [("define", "anuma", True), ("define", "anuma", False)]
    assert result.updates == []


def test_what_libvirt_changes_itself_is_no_restored_definition(
    fake: FakeHypervisor, call: Call
) -> None:
    """Given its own definition back it stores another one, without any layout."""
    fake.change = lambda xml: xml.replace("type='vnc'", "type='spice'")
    (said,) = _said(call([{"name": "anuma"}]))
    assert said == (
        "guest anuma: libvirt changed devices/graphics@type from 'vnc' to 'spice' when it was "
        "given its own definition back, which any redefinition does; the guest has no new layout; "
        "run again."
    )
    assert fake.persistent["anuma"] == fake.change(_xml("anuma"))
    assert call([{"name": "anuma"}]).updates[0].changed


@pytest.mark.parametrize("write", [False, True])
def test_what_the_schema_will_refuse(
    fake: FakeHypervisor, call: Call, tmp_path: Path, write: bool
) -> None:
    """Found out before anything is written, and of no concern to the other guests."""
    fake.schema.refuses = "<name>db<"
    result = call(write=write)
    assert _said(result) == ["guest db: the schema has no such thing."]
    assert [update.domain.name for update in result.updates] == ["anuma"]
    assert fake.calls == ([("define", "anuma", True)] if write else [])
    assert fake.persistent["db"] == _xml("db")


@pytest.mark.parametrize("write", [False, True])
def test_without_a_cpu_driver(fake: FakeHypervisor, call: Call, write: bool) -> None:
    """A guest of that architecture gets no cells, and keeps its place on one node."""
    fake.cpu_drivers.without = {"riscv64"}
    riscv = "arch='riscv64' machine='virt'"
    fake.persistent["db"] = _xml("db", 8).replace("arch='x86_64'", riscv)
    before = fake.persistent["db"]
    result = call(write=write)
    assert [update.domain.name for update in result.updates] == ["anuma"]
    assert "guests of architecture riscv64 cannot have cells on this host" in _said(result)[0]
    assert fake.persistent["db"] == before
    alone = call([{"name": "db"}], write=write, nodes="auto")
    assert alone.updates[0].changed
    assert "<cpu" not in fake.persistent["db"].partition("<metadata")[0]
    assert "<vcpupin" in fake.persistent["db"] or not write


def test_what_libvirt_rewrites_is_no_loss(fake: FakeHypervisor, call: Call) -> None:
    """Another spelling of the same is not undone."""
    fake.spoil = lambda xml: xml.replace("threads='2'", "threads='2' dies='1'").replace(
        "cpus='0-1'", "cpus='0,1'"
    )
    assert _said(call()) == []
    assert [update.changed for update in call().updates] == [False, False]


def test_one_failure_does_not_hide_the_others(fake: FakeHypervisor, call: Call) -> None:
    """The refused one is as it was, the other is done."""
    fake.refuse = "anuma"
    result = call()
    assert _said(result) == ["guest anuma: libvirt could not define it: no."]
    assert [update.domain.name for update in result.updates] == ["db"]
    assert fake.persistent["anuma"] == _xml("anuma")
    assert "<numa>" in fake.persistent["db"]


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"cells": 17}, "16 vCPUs cannot fill 17 cells"),
        ({"cells": 0}, "cells must be an integer from 1 to 128, not '0'."),
        ({"nodes": "9"}, "host node 9 of nodes '9' does not exist"),
    ],
)
def test_a_bad_override_stops_its_guest_alone(
    fake: FakeHypervisor, call: Call, entry: dict[str, Any], sentence: str
) -> None:
    """Before anything is written for it; the others go on."""
    result = call([{"name": "anuma", **entry}, {"name": "db"}])
    (said,) = _said(result)
    assert said.startswith("guest anuma: ")
    assert sentence in said
    assert [name for _what, name, _how in fake.calls] == ["db"]


def test_a_bad_option_stops_the_call(fake: FakeHypervisor, call: Call) -> None:
    """What is wrong for all is said once."""
    with pytest.raises(PolicyError):
        call(pinning="bogus")
    assert fake.calls == []


def test_transient_guests_are_refused(fake: FakeHypervisor, call: Call) -> None:
    """They have no definition to change."""
    fake.transient, fake.live["anuma"] = {"anuma"}, _xml("anuma")
    (said,) = _said(call())
    assert said.startswith("guest anuma: it is transient")
    assert [name for _what, name, _how in fake.calls] == ["db"]


def test_changed_between_reading_and_writing(fake: FakeHypervisor, call: Call) -> None:
    """Nothing is written over what someone else has just written."""
    fake.meanwhile = lambda xml: xml.replace("hvm", "hvm ")
    result = call([{"name": "anuma"}])
    assert _said(result) == [
        "guest anuma: someone else changed its definition after it was planned; nothing was "
        "written; run again."
    ]
    assert fake.calls == []
    assert "hvm " in fake.persistent["anuma"]


def test_changed_since_an_earlier_plan(fake: FakeHypervisor, call: Call) -> None:
    """The plan of an earlier task holds, unless only a password is another."""
    digest = fingerprint(read_definition(fake.persistent["anuma"]))
    fake.persistent["anuma"] = _xml("anuma", 32)
    (said,) = _said(call([{"name": "anuma"}], planned={"uuid-anuma": digest}))
    assert "someone else changed its definition" in said
    assert fake.calls == []
    again = fingerprint(read_definition(fake.persistent["anuma"]))
    assert again != digest
    assert _said(call([{"name": "anuma"}], planned={"uuid-anuma": again})) == []
    other = _xml("db").replace(f"passwd='{SECRET}'", 'passwd="it\'s"')
    assert fingerprint(read_definition(other)) == fingerprint(read_definition(_xml("db")))


def test_an_unwritable_state_dir_stops_before_define(fake: FakeHypervisor, tmp_path: Path) -> None:
    """Without a way back nothing is defined."""
    (tmp_path / "file").write_text("in the way")
    for folder in ("/proc/kvm-vnuma", str(tmp_path / "file")):
        safeguards = Safeguards(StateDir(folder, "host"))
        with pytest.raises(StateDirError, match="nothing was changed"):
            partition_guests(cast(Hypervisor, fake), [{"name": "*"}], {}, None, True, safeguards)
    assert fake.calls == []


def test_running_guests_need_a_restart(fake: FakeHypervisor, call: Call) -> None:
    """Cells need a cold start; what was never ours to compare is left alone."""
    fake.live["anuma"] = fake.persistent["anuma"]
    first = {update.domain.name: update for update in call().updates}
    assert first["anuma"].restart_required
    assert not first["db"].restart_required
    second = {update.domain.name: update for update in call().updates}
    assert second["anuma"].restart_required
    assert not second["anuma"].changed
    fake.live["anuma"] = fake.persistent["anuma"]
    assert not any(update.restart_required for update in call().updates)
    fake.live["stranger"] = _xml("stranger", 8)
    fake.persistent["stranger"] = _xml("stranger", 16)
    (stranger,) = call([{"name": "stranger"}], state="absent").updates
    assert not stranger.restart_required


def test_the_first_layout_stays_until_the_restart(
    fake: FakeHypervisor, call: Call, tmp_path: Path
) -> None:
    """Two partitions before a restart: what the guest runs with is what to go back to."""
    store = StateDir(str(tmp_path), "host")
    fake.live["anuma"] = fake.persistent["anuma"]
    call()
    call(cells=2)
    kept = store.layout("uuid-anuma") or ""
    assert runs_with(read_definition(_xml("anuma")), kept)
    assert not runs_with(read_definition(fake.persistent["anuma"]), kept)
    fake.live["anuma"] = fake.persistent["anuma"]
    now = fake.persistent["anuma"]
    call(cells=4)
    assert runs_with(read_definition(now), store.layout("uuid-anuma") or "")


def test_what_is_kept_goes_with_its_reason(
    fake: FakeHypervisor, call: Call, tmp_path: Path
) -> None:
    """Once the guest runs as defined, is off or is gone, whoever is asked for in the call."""
    store = StateDir(str(tmp_path), "host")
    for end in ("restarted", "off", "gone"):
        fake.persistent = {name: _xml(name) for name in ("anuma", "db")}
        fake.live = {"anuma": _xml("anuma")}
        call([{"name": "anuma"}])
        assert store.kept() == ("uuid-anuma",)
        fake.live = {"anuma": fake.persistent["anuma"]} if end == "restarted" else {}
        if end == "gone":
            del fake.persistent["anuma"]
        assert call([{"name": "db"}], write=False).writes
        assert store.kept() == ("uuid-anuma",)
        call([{"name": "db"}])
        assert store.kept() == ()
        assert not call([{"name": "db"}]).writes


def test_what_earlier_versions_and_killed_runs_left_is_removed(
    fake: FakeHypervisor, call: Call, tmp_path: Path
) -> None:
    """Definitions with their passwords, and drafts; in check mode they are only said."""
    call()
    (tmp_path / "host" / "uuid-anuma.xml").write_text(_xml("anuma"))
    (tmp_path / "host" / ".uuid-db.layout.4711").write_text("<layout/>")
    assert call(write=False).writes
    assert len(list((tmp_path / "host").iterdir())) == 3
    assert call().writes
    assert [path.name for path in (tmp_path / "host").iterdir()] == ["lock"]
    assert not call().writes


def test_pins_change_live(fake: FakeHypervisor, call: Call) -> None:
    """Where the cells stay, pins are set at once; in check mode they are only said."""
    call()
    fake.live["anuma"] = fake.persistent["anuma"]
    (said,) = call([{"name": "anuma"}], pinning="cpu", write=False).updates
    assert (said.changed, said.restart_required, fake.calls) == (True, False, [])
    (done,) = call([{"name": "anuma"}], pinning="cpu").updates
    assert (done.changed, done.restart_required) == (True, False)
    pins = [one for one in fake.calls if one[0] == "pin"]
    assert pins[:2] == [
        ("pin", "anuma", "vcpu_pins", 0, (0,)),
        ("pin", "anuma", "vcpu_pins", 1, (120,)),
    ]
    assert len(pins) == 16


@pytest.mark.parametrize("nodes", ["0", "auto"])
def test_caches_by_the_definitions_of_all(
    fake: FakeHypervisor, call: Call, host: Callable[[str], Host], nodes: str
) -> None:
    """A guest that is not in the call has its cache; pins change live; nobody moves after."""
    fake.topology = host("rome-nps1")
    fake.persistent = {name: _xml(name, vcpus=4) for name in ("anuma", "db")}
    options = {"nodes": nodes, "threads": 1, "reserved_memory": 0}
    call([{"name": "db"}], pinning="cache", **options)
    assert "<vcpupin vcpu='3' cpuset='0-3,16-19'/>" in fake.persistent["db"]
    call([{"name": "anuma"}], pinning="node", **options)
    fake.live["anuma"] = fake.persistent["anuma"]
    fake.calls.clear()
    (done,) = call([{"name": "anuma"}], pinning="cache", **options).updates
    assert (done.changed, done.restart_required) == (True, False)
    second = (4, 5, 6, 7, 20, 21, 22, 23)
    assert [one for one in fake.calls if one[0] == "pin"] == [
        ("pin", "anuma", "vcpu_pins", vcpu, second) for vcpu in range(4)
    ]
    fake.live["anuma"] = fake.persistent["anuma"]
    call([{"name": "db"}], state="absent")
    assert not call([{"name": "anuma"}], pinning="cache", **options).updates[0].changed


def test_memory_moves_live(fake: FakeHypervisor, call: Call) -> None:
    """Where libvirt can, no restart is asked for; in check mode it is only said."""
    fake.persistent = {"anuma": _xml("anuma", vcpus=8)}
    options = {"nodes": "auto", "memory_mode": "restrictive"}
    call(auto_nodes="0", **options)
    fake.live["anuma"] = fake.persistent["anuma"]
    (said,) = call(auto_nodes="1", **options, write=False).updates
    assert (said.changed, said.restart_required, fake.calls) == (True, False, [])
    (done,) = call(auto_nodes="1", **options).updates
    assert (done.changed, done.restart_required) == (True, False)
    assert [one[0] for one in fake.calls] == ["define", "move", *["pin"] * 8]
    assert ("move", "anuma", (1,)) in fake.calls


def test_hugepages_that_running_guests_hold(fake: FakeHypervisor, call: Call) -> None:
    """A guest that would not start beside them is left as it is, and says who holds what."""
    pools = (HugepagePool(2048, 5000),)
    nodes = tuple(replace(node, hugepages=pools) for node in fake.topology.nodes)
    fake.topology = replace(fake.topology, nodes=nodes)
    pages = "<memoryBacking><hugepages/></memoryBacking>\n  <vcpu placement"
    for name in fake.persistent:
        text = _xml(name).replace("<vcpu placement", pages)
        fake.persistent[name] = text.replace("16777216", "8388608")
    assert _said(call([{"name": "db"}], nodes="0")) == []
    warned = call([{"name": "anuma"}], nodes="0", write=False)
    assert any("guests need 8192 there (anuma 4096, db 4096)" in one for one in warned.warnings)
    fake.live["db"] = fake.persistent["db"]
    before = fake.persistent["anuma"]
    (sentence,) = _said(call([{"name": "anuma"}], nodes="0"))
    assert "guest anuma: it needs 4096 hugepages of 2048 KiB on host node 0" in sentence
    assert "guests that run there hold 4096 (db 4096), so that it would not start" in sentence
    assert fake.persistent["anuma"] == before
    assert _said(call([{"name": "anuma"}], nodes="1")) == []


def test_pins_that_cannot_change_live_wait(fake: FakeHypervisor, call: Call) -> None:
    """They are no failure: the definition has them, and the next start takes them."""
    call()
    fake.live["anuma"] = fake.persistent["anuma"]
    fake.refuse_pins = True
    result = call([{"name": "anuma"}], pinning="cpu")
    assert _said(result) == []
    (update,) = result.updates
    assert update.restart_required
    assert update.warnings[-1] == (
        "libvirt could not pin it live: no. The new pins take effect at its next start."
    )
    # The other guest may run on all pCPUs of its nodes, and is not in the call.
    assert all("guest db (its vCPUs) may run there too" in one for one in update.warnings[:-1])


def test_a_saved_image_outlives_a_definition_that_is_refused(
    fake: FakeHypervisor, call: Call
) -> None:
    """It is dropped once the new definition stands, and not before."""
    fake.saved["anuma"] = _xml("anuma")
    fake.refuse = "anuma"
    assert _said(call([{"name": "anuma"}], drop_saved=True))
    assert "anuma" in fake.saved


def test_saved_images(fake: FakeHypervisor, call: Call) -> None:
    """An image with the old layout is refused, or dropped when told to; one that fits stays."""
    fake.saved["anuma"] = _xml("anuma")
    (said,) = _said(call([{"name": "anuma"}]))
    assert "its managed-save image would restore its old layout" in said
    assert fake.calls == []
    result = call([{"name": "anuma"}], drop_saved=True, write=False)
    assert [update.changed for update in result.updates] == [True]
    assert "anuma" in fake.saved
    assert _said(call([{"name": "anuma"}], drop_saved=True)) == []
    assert ("drop", "anuma") in fake.calls
    fake.saved["anuma"] = fake.persistent["anuma"]
    (update,) = call([{"name": "anuma"}]).updates
    assert not update.changed
    assert "anuma" in fake.saved


@pytest.mark.parametrize("name", ["anuma", "zora"])
def test_who_cannot_be_edited_keeps_its_pcpus(fake: FakeHypervisor, call: Call, name: str) -> None:
    """A guest with a plan that does not fit its definition stays where it is, and alone there."""
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{vcpu // 2}'/>" for vcpu in range(4))
    cells = "".join(
        f"<cell cpus='{cpus}' memory='8388608' memAccess='{access}'/>"
        for cpus, access in (("0-7", "shared"), ("8-15", "private"))
    )
    stuck = _xml(name).replace(
        "  <os>",
        f"  <cputune>{pins}</cputune>\n  <cpu><numa>{cells}</numa></cpu>\n  <os>",
    )
    fake.persistent = {name: stuck, "db": _xml("db")}
    result = call(pinning="core", nodes="0")
    assert _said(result) == [
        f"guest {name}: its cells have different memAccess values, which new cells cannot keep; "
        "set the same value for every cell."
    ]
    assert fake.persistent[name] == stuck
    assert "<vcpupin vcpu='0' cpuset='2,122'/>" in fake.persistent["db"]
    assert not call(pinning="core", nodes="0").updates[0].changed


def test_a_begun_restart_is_remembered(fake: FakeHypervisor, call: Call, tmp_path: Path) -> None:
    """A guest that is off because a restart was cut short is still waiting for it."""
    StateDir(str(tmp_path), "host").begin_restart("uuid-anuma", RestartNote("anuma"))
    required = {update.domain.name: update.restart_required for update in call().updates}
    assert required == {"anuma": True, "db": False}


def test_check_mode_leaves_the_state_folder_alone(
    fake: FakeHypervisor, call: Call, tmp_path: Path
) -> None:
    """A note that whoever restarts guests relies on is for a run that writes, under the lock."""
    call()
    fake.live["anuma"] = fake.persistent["anuma"]
    state_dir = StateDir(str(tmp_path), "host")
    state_dir.begin_restart("uuid-anuma", RestartNote("anuma"))
    call(write=False)
    assert state_dir.begun_restart("uuid-anuma") is not None
    call(state="absent", write=False)
    assert state_dir.begun_restart("uuid-anuma") is not None
    (update, _db) = call().updates
    assert (update.changed, update.restart_required) == (False, False)
    assert state_dir.begun_restart("uuid-anuma") is None


def test_a_run_that_waited_plans_again(fake: FakeHypervisor, call: Call) -> None:
    """What another run did to the guest between plan and lock is no one else's change."""
    call([{"name": "db"}])
    partitioned = fake.persistent["db"].replace("db", "anuma")
    digest = fingerprint(read_definition(fake.persistent["anuma"]))
    fake.meanwhile, fake.meanwhile_at = lambda _xml: partitioned, 2
    result = call([{"name": "anuma"}], planned={"uuid-anuma": digest})
    assert _said(result) == []
    assert [update.changed for update in result.updates] == [False]
    assert fake.calls == []


def test_others_keep_their_cpus(fake: FakeHypervisor, call: Call) -> None:
    """Exclusive pins of guests outside of the call, defined or live, are not given away."""
    call([{"name": "db"}], pinning="cpu", nodes="0")
    fake.live["db"] = fake.persistent["db"].replace("cpuset='0'", "cpuset='14'")
    (said,) = _said(call([{"name": "anuma"}], pinning="core", nodes="0"))
    assert "needs 8 cores with 2 free threads on host node 0, which has 6 left" in said
    assert "(pCPUs reserved or used by other guests: 0-7,14,120-127)" in said
    (update,) = call([{"name": "anuma"}], pinning="core", nodes="0-1").updates
    assert update.layout is not None
    ours = {cpu for pins in update.layout.vcpu_pins for cpu in pins}
    theirs = {
        int(pin.get("cpuset"))
        for xml in (fake.persistent["db"], fake.live["db"])
        for pin in read_definition(xml).root.iterfind("cputune/vcpupin")
    }
    assert theirs == {*range(8), *range(120, 128), 14}
    assert ours == {8, 9, 10, 11, 128, 129, 130, 131, 15, 16, 17, 18, 135, 136, 137, 138}


@pytest.mark.parametrize("name", ["anuma", "db"])
def test_the_diff_shows_no_password(fake: FakeHypervisor, call: Call, name: str) -> None:
    """Neither do results."""
    (update,) = call([{"name": name}], emulator_pinning="nodes").updates
    diff = update_to_diff(update)
    assert diff["before"] != diff["after"]
    assert SECRET not in repr(diff) + repr(update_to_result(update))
    assert update_to_result(update)["layout"]["cells"][7]["host_node"] == 7


def test_guests_of_a_call_keep_their_own_cpus(fake: FakeHypervisor, call: Call) -> None:
    """What they have themselves is not taken from them the second time."""
    call(pinning="core", nodes="0-1")
    again = call(pinning="core", nodes="0-1")
    assert [update.changed for update in again.updates] == [False, False]


def test_who_is_restored_gives_its_cpus_back(fake: FakeHypervisor, call: Call) -> None:
    """In the same call already, unless it still runs there."""
    options = {"pinning": "core", "nodes": "0"}
    call([{"name": "db"}], **options)
    live = fake.persistent["db"]
    entries = [{"name": "anuma"}, {"name": "db", "state": "absent"}]
    planned = call(entries, write=False, **options)
    by_name = {update.domain.name: update for update in planned.updates}
    assert by_name["anuma"].layout is not None
    assert by_name["anuma"].layout.vcpu_pins[0] == (0, 120)
    fake.live["db"] = live
    assert "which has 7 left" in _said(call(entries, write=False, **options))[0]


def test_pins_that_someone_moved_are_put_back(fake: FakeHypervisor, call: Call) -> None:
    """A running guest whose pins are not those of its definition has changed, and is corrected."""
    call()
    fake.live["anuma"] = fake.persistent["anuma"].replace(
        "vcpu='3' cpuset='15-29,135-149'", "vcpu='3' cpuset='7'"
    )
    (update,) = call([{"name": "anuma"}]).updates
    assert (update.changed, update.restart_required) == (True, False)
    assert fake.calls == [("pin", "anuma", "vcpu_pins", 3, (*range(15, 30), *range(135, 150)))]


def test_a_device_with_an_odd_address(fake: FakeHypervisor, call: Call) -> None:
    """It is an error about its guest, and the others are done."""
    odd = "<hostdev type='pci'><source><address bus='0x100'/></source></hostdev>\n  </devices>"
    fake.persistent["anuma"] = fake.persistent["anuma"].replace("</devices>", odd)
    result = call()
    assert _said(result) == [
        "guest anuma: the bus of a PCI device must be a hexadecimal number of at most 0xff, not "
        "'0x100'; correct its definition."
    ]
    assert fake.calls == [("define", "db", True)]


@pytest.mark.parametrize("asked", [True, False])
def test_one_that_cannot_be_read(fake: FakeHypervisor, call: Call, asked: bool) -> None:
    """Who is planned by what it takes waits for it; the others are done, and hear of it."""
    twice = _xml("odd").replace("<os>", "<cputune/><cputune/><os>")
    fake.persistent = {**{name: _xml(name) for name in ("auto", "core", "named")}, "odd": twice}
    entries = [
        *({"name": "auto", "nodes": "auto"}, {"name": "core", "pinning": "core"}),
        {"name": "named", "nodes": "0-1"},
        *([{"name": "odd"}] if asked else []),
    ]
    why = "guest odd: the definition has <cputune> twice; keep one"
    result = call(entries)
    waiting = [
        f"guest {name}: its nodes and pCPUs are chosen with regard to all guests of the host, and "
        f"one of these cannot be read ({why}); correct that one first."
        for name in ("auto", "core")
    ]
    assert sorted(_said(result)) == sorted([*waiting, *([f"{why}."] if asked else [])])
    assert fake.calls == [("define", "named", True)]
    assert result.warnings == [
        f"one of the other guests cannot be read ({why}), so that the memory that it binds is not "
        "counted; correct its definition."
    ]


def _placed(fake: FakeHypervisor, call: Call) -> list[dict[str, Any]]:
    """Define guests of every kind, and return the entries of a call that places one of them."""
    fake.persistent = {name: _xml(name, vcpus=4) for name in ("old", "beside", "new")}
    call([{"name": "old"}], nodes="auto")
    fake.persistent["stuck"] = _xml("stuck", vcpus=400)
    return [{"name": name} for name in ("old", "stuck", "new")]


def test_nobody_changed_anything(fake: FakeHypervisor, call: Call) -> None:
    """The control of the next tests: the new guest is placed, one that fits nowhere is named."""
    result = call(_placed(fake, call), nodes="auto")
    assert [error.guest for error in result.errors] == ["stuck"]
    assert fake.calls == [("define", "new", True)]


_CHANGES: dict[str, Callable[[dict[str, str], str], object]] = {
    "changed": lambda texts, who: texts.update({who: _xml(who, vcpus=8)}),
    "went": lambda texts, who: texts.pop(who),
}


@pytest.mark.parametrize("how", _CHANGES)
@pytest.mark.parametrize("who", ["old", "stuck", "beside"])
def test_who_is_not_defined_is_read_again(
    fake: FakeHypervisor, call: Call, who: str, how: str
) -> None:
    """Nothing is written beside a guest that is no longer as it was, in the call or not."""
    entries = _placed(fake, call)
    # Listed for a plan without the lock, for one with it, and before anything is written.
    fake.at_listing[3] = lambda texts: _CHANGES[how](texts, who)
    with pytest.raises(HypervisorError, match="defined, changed or removed after nodes were"):
        call(entries, nodes="auto")
    assert fake.calls == []


def test_who_came_meanwhile(fake: FakeHypervisor, call: Call) -> None:
    """What it takes is not in the plan."""
    entries = _placed(fake, call)
    fake.at_listing[3] = lambda texts: texts.update(late=_xml("late"))
    with pytest.raises(HypervisorError, match="defined, changed or removed after nodes were"):
        call(entries, nodes="auto")
    assert fake.calls == []


@pytest.mark.parametrize(
    "options", [{"nodes": "auto"}, {"nodes": "0", "pinning": "core"}, {"pinning": "cache"}, {}]
)
def test_guests_of_others_that_end_meanwhile(
    fake: FakeHypervisor, call: Call, options: dict[str, Any]
) -> None:
    """One that is gone by its turn takes nothing, and is no failure of the others."""
    fake.persistent["ci"], fake.live["ci"] = _xml("ci"), _xml("ci")
    fake.transient, fake.gone = {"ci"}, {"ci"}
    result = call([{"name": "anuma"}], **options)
    assert _said(result) == []
    assert [update.domain.name for update in result.updates] == ["anuma"]
    assert fake.calls == [("define", "anuma", True)]


@pytest.mark.parametrize("nodes", ["auto", "0"])
def test_a_guest_of_the_call_that_ends_meanwhile(
    fake: FakeHypervisor, call: Call, nodes: str
) -> None:
    """It has an error of its own, and the others are done."""
    fake.gone = {"anuma"}
    result = call(nodes=nodes)
    assert _said(result) == ["guest anuma: it is no longer there."]
    assert fake.calls == [("define", "db", True)]


def test_one_that_ends_after_it_was_planned_with(fake: FakeHypervisor, call: Call) -> None:
    """What it held is free, and the plan is no longer what it would be."""
    entries = _placed(fake, call)
    fake.at_listing[3] = lambda _texts: fake.gone.add("beside")
    with pytest.raises(HypervisorError, match="defined, changed or removed after nodes were"):
        call(entries, nodes="auto")
    assert fake.calls == []


def test_what_was_done_before_an_error_is_told(fake: FakeHypervisor, call: Call) -> None:
    """The guest was redefined and has its old image still: it is in the result, with its error."""
    fake.saved["anuma"] = _xml("anuma")
    fake.refuse_drop = True
    result = call(drop_saved=True)
    assert _said(result) == ["guest anuma: libvirt could not remove its image: no."]
    assert [(one.domain.name, one.changed) for one in result.updates] == [
        *(("anuma", True), ("db", True))
    ]
    assert "<numa>" in fake.persistent["anuma"]
    # The second time there is the image alone, and nothing is done.
    again = call(drop_saved=True)
    assert _said(again) == _said(result)
    assert [(one.domain.name, one.changed) for one in again.updates] == [("db", False)]


@pytest.mark.parametrize(("restores", "told"), [(True, False), (False, True)])
def test_what_libvirt_spoils_is_told_where_it_stays(
    fake: FakeHypervisor, call: Call, restores: bool, told: bool
) -> None:
    """A definition that could not be put back is a change that was made."""
    fake.spoil = lambda xml: xml.replace(f" passwd='{SECRET}'", "")
    fake.refuse_restore = not restores
    result = call([{"name": "anuma"}])
    assert [error.guest for error in result.errors] == ["anuma"]
    assert [(one.domain.name, one.changed) for one in result.updates] == [("anuma", True)] * told
    assert (fake.persistent["anuma"] == _xml("anuma")) is not told


@pytest.mark.parametrize(
    "given", [{"uuid-anuma": "4f"}, {"ledger": {}}, {"guests": ["anuma"]}, {"guests": 5}, {}]
)
def test_what_is_no_earlier_result_is_refused(given: dict[str, Any]) -> None:
    """Fingerprints in another form would hold on to nothing, without a word."""
    with pytest.raises(PolicyError, match="planned must be what vnuma_partition returned"):
        planned_earlier(given)


def test_what_is_held_of_an_earlier_result() -> None:
    """The definitions that were planned, and the ledger where nodes were chosen."""
    guests = [{"uuid": "a", "fingerprint": "1", "layout": None}]
    assert planned_earlier({"guests": guests}) == {"planned": {"a": "1"}, "planned_ledger": ""}
    chosen = {"guests": guests, "ledger": {"fingerprint": "2", "nodes": []}}
    assert planned_earlier(chosen)["planned_ledger"] == "2"
