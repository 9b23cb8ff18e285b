# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan, definitions and running guests compared, each drift planted by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    GuestGoneError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition, Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, host_from_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import ledger_to_result
from ansible_collections.kvm.vnuma.plugins.module_utils._module.info import (
    Findings,
    inspect_guests,
    report_to_result,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.plan_host import plan_host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import (
    RestartNote,
    StateDir,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text, restored_text


def _xml(name: str, vcpus: int = 16) -> str:
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>uuid-{name}</uuid>\n"
        f"  <memory unit='KiB'>16777216</memory>\n  <vcpu placement='static'>{vcpus}</vcpu>\n"
        "  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n</domain>\n"
    )


def _edited(xml: str, *edits: tuple[str, str]) -> str:
    """Return a definition with each text, which must be there, replaced once."""
    for old, new in edits:
        assert old in xml
        xml = xml.replace(old, new, 1)
    return xml


@dataclass
class FakeHypervisor:
    """Guests in memory: by name, what they are defined with and what they run with."""

    topology: Host
    persistent: dict[str, str] = field(default_factory=dict)
    live: dict[str, str] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    vanishing: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    devices: dict[str, HostDevice] = field(default_factory=dict)
    uri: str = "qemu+ssh://kvm7/system"

    def host(self) -> Host:
        """The topology."""
        return self.topology

    def domains(self) -> list[Domain]:
        """Every guest, also those that are gone once they are asked for."""
        names = {*self.persistent, *self.live}
        return [
            Domain(
                name,
                f"uuid-{name}",
                name in self.persistent,
                name in self.live and name not in self.ended,
                saved=name in self.saved,
            )
            for name in sorted(names)
        ]

    def xml_without_secrets(self, domain: Domain, live: bool) -> str:
        """A definition."""
        if domain.name in self.vanishing:
            raise GuestGoneError("it is no longer there.", guest=domain.name)
        if domain.name in self.broken:
            raise HypervisorError("libvirt could not read the definition: no.", guest=domain.name)
        return (self.live if live else self.persistent)[domain.name]

    def settled(self, domain: Domain, _deadline: float) -> Condition:
        """The same: this daemon knows what its guests do."""
        return self.condition(domain)

    def condition(self, domain: Domain) -> Condition:
        """What a guest does; one that is off was asked to shut down."""
        return Condition("running" if domain.active else "off", "shutdown")

    def state(self, domain: Domain) -> str:
        """The state of a guest that was alive when guests were listed."""
        assert domain.active
        return "gone" if domain.name in self.lost else "running"

    def affinities(self, domain: Domain) -> dict[int, tuple[int, ...]]:
        """No thread at all."""
        assert domain.active
        return {}

    def pci_devices(self, devices: tuple[str, ...]) -> dict[str, HostDevice]:
        """Where PCI devices are."""
        return {device: self.devices[device] for device in devices}

    def saved_xml(self, domain: Domain) -> str | None:
        """A managed-save image."""
        return self.saved.get(domain.name)


@dataclass
class Bench:
    """The fake hypervisor, and the call."""

    fake: FakeHypervisor
    store: StateDir

    def partitioned(self, xml: str, **options: Any) -> str:
        """Return a definition as vnuma_partition would leave it."""
        policy = policy_from_options(options)
        definition = read_definition(xml)
        layout = plan(read_guest(definition, 2048), self.fake.topology, policy)
        return partitioned_text(definition, layout, policy)

    def inspect_guests(self, *names: str) -> Findings:
        """Find out about the guests named, or about all."""
        return inspect_guests(cast(Hypervisor, self.fake), list(names) or None, self.store, None)

    def only(self) -> dict[str, Any]:
        """Find out about the only guest."""
        findings = self.inspect_guests()
        assert findings.errors == []
        (report,) = findings.reports
        return report_to_result(report, findings.host)


@pytest.fixture
def bench(host: Callable[[str], Host], tmp_path: Path) -> Bench:
    """The RFC's host, without guests."""
    return Bench(FakeHypervisor(host("rfc-8n240c")), StateDir(str(tmp_path), "host"))


def _drift(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["between"], one["what"]) for one in result["drift"]]


def test_untouched_and_off(bench: Bench) -> None:
    """Nothing is planned, nothing runs, nothing has drifted."""
    bench.fake.persistent["anuma"] = _xml("anuma")
    result = bench.only()
    assert result["state"] == "off"
    assert not result["partitioned"]
    assert not result["transient"]
    assert not result["restart_required"]
    assert result["policy"] is result["planned"] is result["live"] is result["actual"] is None
    assert result["persistent"]["cells"] == []
    assert result["drift"] == result["notes"] == []


def test_partitioned_and_running(bench: Bench) -> None:
    """Plan, definition and running guest agree."""
    xml = bench.partitioned(_xml("anuma"), pinning="core", nodes="0-3")
    bench.fake.persistent["anuma"] = bench.fake.live["anuma"] = xml
    result = bench.only()
    assert result["partitioned"]
    assert result["policy"] == {"pinning": "core", "nodes": "0-3"}
    assert result["planned"] == result["persistent"] == result["live"]
    assert len(result["planned"]["cells"]) == 4
    assert result["drift"] == []
    assert len(result["notes"]) == 1
    assert "over qemu+ssh://kvm7/system; run the module on the hypervisor" in result["notes"][0]


def test_edited_after_the_partition(bench: Bench) -> None:
    """What was edited is named with both values; the plan is as it was."""
    xml = bench.partitioned(_xml("anuma"))
    bench.fake.persistent["anuma"] = _edited(
        xml,
        ("vcpu='3' cpuset='15-29,135-149'", "vcpu='3' cpuset='7'"),
        ("sockets='8' cores='1' threads='2'", "sockets='16' cores='1' threads='1'"),
        ("cellid='5' mode='strict' nodeset='5'", "cellid='5' mode='strict' nodeset='4'"),
    )
    result = bench.only()
    assert [one["msg"] for one in result["drift"]] == [
        "its CPU topology is 16 sockets, 1 core, 1 thread as defined and 8 sockets, 1 core, "
        "2 threads as planned; run vnuma_partition with its recorded options.",
        "vCPU 3 is pinned to 7 as defined and pinned to 15-29,135-149 as planned; run "
        "vnuma_partition with its recorded options.",
        "the memory of cell 5 is bound strict to host node 4 as defined and bound strict to host "
        "node 5 as planned; run vnuma_partition with its recorded options.",
    ]
    assert {one["between"] for one in result["drift"]} == {"planned-persistent"}
    assert result["planned"]["vcpu_pins"][3] == "15-29,135-149"
    assert result["persistent"]["vcpu_pins"][3] == "7"


def test_a_host_that_has_changed(bench: Bench, host: Callable[[str], Host]) -> None:
    """Under the same options, another host gives another plan."""
    bench.fake.persistent["anuma"] = bench.partitioned(_xml("anuma"))
    bench.fake.topology = host("asymmetric-4n16c")
    result = bench.only()
    assert ("planned-persistent", "cells") in _drift(result)
    assert "it has 8 cells as defined and 4 cells as planned" in result["drift"][0]["msg"]


def test_no_plan_any_more(bench: Bench, host: Callable[[str], Host]) -> None:
    """A plan that cannot be made is a drift of its own, with the planner's sentence."""
    bench.fake.persistent["anuma"] = bench.partitioned(_xml("anuma"), nodes="6-7")
    bench.fake.topology = host("asymmetric-4n16c")
    result = bench.only()
    assert _drift(result) == [("planned-persistent", "plan")]
    assert result["drift"][0]["msg"] == (
        "its recorded options no longer give a valid layout: host node 6 of nodes '6-7' does not "
        "exist; "
        "the nodes that can be used are 0-3."
    )
    assert result["planned"] is None
    assert len(result["persistent"]["cells"]) == 2


def test_a_damaged_record(bench: Bench) -> None:
    """An option that nobody knows is told of, and hides nothing else."""
    xml = bench.partitioned(_xml("anuma"), pinning="cpu")
    bench.fake.persistent["anuma"] = _edited(xml, ("pinning='cpu'", "pinning='x'"))
    result = bench.only()
    assert (
        "its recorded options no longer give a valid layout: pinning must be one of node, "
        "cache, core, cpu, none or keep, not 'x'." in result["drift"][0]["msg"]
    )


def test_not_restarted_after_the_partition(bench: Bench) -> None:
    """It runs without cells: that waits for a restart, and nothing else is asked for."""
    bench.fake.live["anuma"] = _xml("anuma")
    bench.fake.persistent["anuma"] = bench.partitioned(_xml("anuma"))
    result = bench.only()
    assert result["restart_required"]
    assert {one["between"] for one in result["drift"]} == {"persistent-live"}
    assert result["drift"][0]["msg"] == (
        "it has no cells in the running guest and 8 cells as defined; run vnuma_restart."
    )
    assert all(one["msg"].endswith("; run vnuma_restart.") for one in result["drift"])
    assert {one["what"] for one in result["drift"]} == {
        *("cells", "topology", "memory_binding", "vcpu_pins")
    }


def test_edited_while_it_runs(bench: Bench) -> None:
    """A restart would bring the edit into effect, so the partition comes first."""
    xml = bench.partitioned(_xml("anuma"))
    bench.fake.live["anuma"] = xml
    bench.fake.persistent["anuma"] = _edited(xml, ("value='31'", "value='99'"))
    result = bench.only()
    assert _drift(result) == [("planned-persistent", "distances"), ("persistent-live", "distances")]
    assert result["drift"][1]["msg"] == (
        "the distances of cell 0 are 10,21,31,21,21,31,31,31 in the running guest and "
        "10,21,99,21,21,31,31,31 as defined; run vnuma_partition, and vnuma_restart if it still "
        "waits then."
    )


def test_pinned_live(bench: Bench) -> None:
    """A pin that was changed in the running guest is put right without a restart."""
    xml = bench.partitioned(_xml("anuma"))
    bench.fake.persistent["anuma"] = xml
    bench.fake.live["anuma"] = _edited(
        xml, ("vcpu='3' cpuset='15-29,135-149'", "vcpu='3' cpuset='0-239'")
    )
    result = bench.only()
    assert not result["restart_required"]
    assert [one["msg"] for one in result["drift"]] == [
        "vCPU 3 is pinned to 0-239 in the running guest and pinned to 15-29,135-149 as defined; "
        "run vnuma_partition, which pins it while it runs."
    ]


def test_guests_that_are_not_ours(bench: Bench) -> None:
    """They are compared too; the way out is libvirt's own."""
    pinned = _xml("anuma").replace(
        "  <os>", "  <cputune>\n    <vcpupin vcpu='1' cpuset='4'/>\n  </cputune>\n  <os>"
    )
    bench.fake.persistent["anuma"] = pinned
    bench.fake.live["anuma"] = pinned.replace("cpuset='4'", "cpuset='5'")
    result = bench.only()
    assert [one["msg"] for one in result["drift"]] == [
        "vCPU 1 is pinned to 5 in the running guest and pinned to 4 as defined; use 'virsh "
        "vcpupin --live'."
    ]
    bench.fake.live["anuma"] = pinned.replace(
        "</os>", "</os>\n<cpu><topology sockets='4' cores='4' threads='1'/></cpu>"
    )
    result = bench.only()
    assert result["restart_required"]
    assert [one["msg"] for one in result["drift"]] == [
        "its CPU topology is 4 sockets, 4 cores, 1 thread in the running guest and not set as "
        "defined; shut it down and start it."
    ]


def test_restored_and_not_restarted(bench: Bench) -> None:
    """The record is in the running guest alone: ours all the same."""
    xml = bench.partitioned(_xml("anuma"))
    bench.fake.live["anuma"] = xml
    bench.fake.persistent["anuma"] = restored_text(read_definition(xml))
    result = bench.only()
    assert not result["partitioned"]
    assert result["restart_required"]
    assert result["planned"] is None
    assert all(one["msg"].endswith("; run vnuma_restart.") for one in result["drift"])


def test_the_cpu_mode_is_its_owners(bench: Bench) -> None:
    """Another one is neither drift nor a reason for a restart: nothing here has set it."""
    for kept, mode in ((bench.fake.live, "custom"), (bench.fake.persistent, "maximum")):
        kept["anuma"] = _xml("anuma").replace("</os>", f"</os>\n  <cpu mode='{mode}'/>")
    result = bench.only()
    assert not result["restart_required"]
    assert _drift(result) == []


def test_transient(bench: Bench) -> None:
    """Its only definition is the live one; its plan is compared to that."""
    xml = bench.partitioned(_xml("anuma"))
    bench.fake.live["anuma"] = xml
    result = bench.only()
    assert result["transient"]
    assert result["partitioned"]
    assert result["persistent"] is None
    assert result["planned"] == result["live"]
    assert result["drift"] == []
    bench.fake.live["anuma"] = _edited(
        xml, ("vcpu='3' cpuset='15-29,135-149'", "vcpu='3' cpuset='7'")
    )
    assert [one["msg"] for one in bench.only()["drift"]] == [
        "vCPU 3 is pinned to 7 as defined and pinned to 15-29,135-149 as planned; it is "
        "transient, so change it where it is defined."
    ]


def test_a_restart_that_was_cut_short(bench: Bench) -> None:
    """Off in the middle of a restart counts as waiting for one."""
    bench.fake.persistent["anuma"] = bench.partitioned(_xml("anuma"))
    bench.store.begin_restart("uuid-anuma", RestartNote("anuma"))
    result = bench.only()
    assert result["restart_required"]
    assert _drift(result) == [("persistent-live", "restart")]


def test_a_saved_image(bench: Bench) -> None:
    """An image with another layout is told of; one with the same is not."""
    bench.fake.persistent["anuma"] = bench.partitioned(_xml("anuma"))
    bench.fake.saved["anuma"] = bench.fake.persistent["anuma"]
    assert bench.only()["drift"] == []
    bench.fake.saved["anuma"] = _xml("anuma")
    result = bench.only()
    assert result["drift"][0]["msg"] == (
        "it has no cells in its managed-save image and 8 cells as defined; start it and shut it "
        "down, or run vnuma_partition with managed_save 'drop'."
    )
    assert {one["between"] for one in result["drift"]} == {"persistent-saved"}


def test_exclusive_pins_are_planned_together(bench: Bench) -> None:
    """Two guests on the same cores: one stays, the plan of the other moves; a stranger's count."""
    taken = "  <cputune>\n    <vcpupin vcpu='0' cpuset='2'/>\n  </cputune>\n  <os>"
    options = {"pinning": "cpu", "nodes": "0", "memory_mode": "none"}
    for name in ("one", "two"):
        bench.fake.persistent[name] = bench.partitioned(_xml(name, 2), **options)
    bench.fake.persistent["stranger"] = _xml("stranger", 2).replace("  <os>", taken)
    first = {
        report.domain.name: report_to_result(report, bench.fake.topology)
        for report in bench.inspect_guests().reports
    }
    assert first["one"]["persistent"]["vcpu_pins"] == first["two"]["persistent"]["vcpu_pins"]
    assert first["one"]["drift"] == []
    assert _drift(first["two"]) == [("planned-persistent", "vcpu_pins")] * 2
    planned = {*first["one"]["planned"]["vcpu_pins"], *first["two"]["planned"]["vcpu_pins"]}
    assert len(planned) == 4
    assert "2" not in planned


def test_choosing(bench: Bench) -> None:
    """Names, UUIDs and patterns; what matches nothing is an error or a warning."""
    for name in ("anuma", "db1", "db2"):
        bench.fake.persistent[name] = _xml(name)
    findings = bench.inspect_guests("db*", "uuid-anuma", "nobody", "x*")
    assert [report.domain.name for report in findings.reports] == ["anuma", "db1", "db2"]
    assert [str(error) for error in findings.errors] == [
        "guest nobody: it does not exist on this host; correct the name, or define it first."
    ]
    assert findings.warnings == ["pattern 'x*' matches no guest on this host."]
    bench.fake.persistent.clear()
    assert bench.inspect_guests().warnings == []


def test_guests_that_end_meanwhile(bench: Bench) -> None:
    """A pattern does not mean them any more, a name does; who is there and fails is told of."""
    for name in ("anuma", "gone"):
        bench.fake.live[name] = _xml(name)
    bench.fake.vanishing = {"gone"}
    findings = bench.inspect_guests()
    assert [report.domain.name for report in findings.reports] == ["anuma"]
    assert findings.errors == []
    # Nobody asked for it, and it is read for the ledger alone.
    findings = bench.inspect_guests("anuma")
    assert [report.domain.name for report in findings.reports] == ["anuma"]
    assert findings.errors == []
    findings = bench.inspect_guests("gone", "anuma")
    assert [error.guest for error in findings.errors] == ["gone"]
    bench.fake.vanishing, bench.fake.broken = set(), {"gone"}
    findings = bench.inspect_guests()
    assert [error.guest for error in findings.errors] == ["gone"]
    assert [report.domain.name for report in findings.reports] == ["anuma"]


def test_one_that_ends_after_it_was_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before: a pattern does not mean it, a name does."""
    for name in ("anuma", "gone"):
        bench.fake.persistent[name] = bench.fake.saved[name] = _xml(name)

    def saved_xml(_self: FakeHypervisor, domain: Domain) -> str:
        if domain.name == "gone":
            raise GuestGoneError("it is no longer there.", guest=domain.name)
        return _xml(domain.name)

    monkeypatch.setattr(FakeHypervisor, "saved_xml", saved_xml)
    for names, said in (((), []), (("anuma", "gone"), ["guest gone: it is no longer there."])):
        findings = bench.inspect_guests(*names)
        assert [report.domain.name for report in findings.reports] == ["anuma"]
        assert [str(error) for error in findings.errors] == said


@pytest.mark.parametrize("names", [(), ("anuma",), ("odd", "anuma")])
@pytest.mark.parametrize("where", ["persistent", "live"])
def test_one_whose_figures_cannot_be_read(bench: Bench, names: tuple[str, ...], where: str) -> None:
    """It is named, asked for or not; the others are told of, and the ledger is theirs."""
    anuma = bench.partitioned(_xml("anuma"), pinning="core", nodes="0-3")
    odd = _edited(_xml("odd"), ("<os>", "<cputune/><cputune/><os>"))
    bench.fake.persistent = {"anuma": anuma, "odd": _xml("odd")}
    bench.fake.live = {"odd": _xml("odd")}
    getattr(bench.fake, where)["odd"] = odd
    findings = bench.inspect_guests(*names)
    assert [str(error) for error in findings.errors] == [
        "guest odd: the definition has <cputune> twice; keep one."
    ]
    assert [report.domain.name for report in findings.reports] == ["anuma"]
    nodes = ledger_to_result(findings.ledger)["nodes"]
    assert sum(node["exclusive_cores"] for node in nodes) == 8


def test_a_transient_guest_that_ended_while_guests_were_listed(bench: Bench) -> None:
    """It is neither alive nor defined: only who asks for it by name hears of it."""
    bench.fake.live["gone"] = _xml("gone")
    for how in ("ended", "lost"):
        setattr(bench.fake, how, {"gone"})
        assert bench.inspect_guests().errors == []
        assert [str(error) for error in bench.inspect_guests("gone").errors] == [
            "guest gone: it was transient and has ended, so there is nothing to report."
        ]
        setattr(bench.fake, how, set())


def test_state_that_cannot_be_read(bench: Bench) -> None:
    """The error is about the guest that it hinders, the others are told of."""
    for name in ("anuma", "db"):
        bench.fake.persistent[name] = _xml(name)
    bench.store.folder.mkdir(parents=True)
    (bench.store.folder / "uuid-db.restart").mkdir()
    findings = bench.inspect_guests()
    assert [report.domain.name for report in findings.reports] == ["anuma"]
    assert "guest db: " in str(findings.errors[0])
    assert "uuid-db.restart is not a regular file; remove it." in str(findings.errors[0])


_DIES = "<topology sockets='1' dies='2' cores='2' threads='1'/>"


@pytest.mark.parametrize(
    ("pins", "said"),
    [
        (("0-3", "0-3", "4-7", "4-7"), ""),
        (("0", "1", "2", "3"), ""),
        (("0", "4", "5", "6"), "vCPUs 0-1 share a die inside the guest and are not pinned within "),
        (("0-3", "0-3", "0-7", "0-3"), "vCPUs 2-3 share a die inside the guest and are not pin"),
        (("0-7", "0-7", "0-7", "0-7"), "vCPUs 0-1 (and those of 1 more die) share a die inside "),
        (("0-3", "0-3"), "vCPUs 2-3 share a die inside the guest and are not pinned within one L3"),
    ],
)
def test_dies_that_the_pins_do_not_deliver(
    bench: Bench, host: Callable[[str], Host], pins: tuple[str, ...], said: str
) -> None:
    """Only where the guest was told of dies, and the host says which pCPUs share an L3."""
    pinned = "".join(f"<vcpupin vcpu='{v}' cpuset='{cpus}'/>" for v, cpus in enumerate(pins))
    without = _edited(_xml("anuma", 4), ("<os>", f"<cputune>{pinned}</cputune><os>"))
    xml = _edited(without, ("</os>", f"</os><cpu>{_DIES}</cpu>"))
    bench.fake.topology = host("rome-nps4")
    bench.fake.persistent["anuma"] = xml
    drift = bench.only()["drift"]
    assert [(one["between"], one["what"]) for one in drift] == [("topology-pins", "dies")][
        : bool(said)
    ]
    assert all(one["msg"].startswith(said) for one in drift)
    # A running guest is told what it runs with.
    bench.fake.live["anuma"] = _edited(xml, (pinned, ""))
    (told,) = [one for one in bench.only()["drift"] if one["what"] == "dies"]
    assert "(and those of 1 more die)" in told["msg"]
    del bench.fake.live["anuma"]
    bench.fake.topology = host("rfc-8n240c")
    assert bench.only()["drift"] == []
    bench.fake.topology = host("rome-nps4")
    bench.fake.persistent["anuma"] = without
    assert bench.only()["drift"] == []


def test_devices_count_in_a_fresh_plan(bench: Bench) -> None:
    """A guest that is where its device is would not be moved, and that is what is said."""
    nodes = [
        {"id": 0, "cpus": list(range(8)), "memory_kib": 64 << 20},
        {"id": 1, "cpus": list(range(8, 12)), "memory_kib": 64 << 20},
    ]
    bench.fake.topology = host_from_facts({"nodes": nodes, "arch": "x86_64"})
    device = (
        "<devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0000' "
        "bus='0x3b' slot='0x00' function='0x0'/></source></hostdev></devices>\n</domain>"
    )
    bench.fake.devices = {"0000:3b:00.0": HostDevice(1)}
    texts = [_xml("a", 5), _edited(_xml("gpu", 3), ("</domain>", device))]
    options = {"nodes": "auto", "reserved_memory": 0}
    entries = [{"name": "a"}, {"name": "gpu", "auto_nodes": "1"}]
    found = plan_host(texts, bench.fake.topology, entries, options)
    for one in found["guests"]:
        text = one["definition"].replace("auto_nodes='1'", "")
        bench.fake.persistent[one["name"]] = text
    assert [one["placement"]["nodes"] for one in found["guests"]] == ["0", "1"]
    assert bench.inspect_guests().moves == ()
