# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is really in effect for each guest of a host: plan, definitions, threads and memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .._domain.compare import (
    differ_at_start,
    is_up_to_date,
    live_pins,
    needs_restart,
)
from .._domain.definition import (
    Definition,
    is_ours,
    read_definition,
    read_guest,
    wanted_of,
)
from .._domain.dies import die_drift
from .._domain.effect import effective_layout
from .._domain.managed import MANAGED
from .._domain.record import recorded_policy
from .._domain.words import PIN_BY_HAND, Drift, differences
from .._errors import GuestGoneError, VnumaError
from .._hypervisor.hypervisor import Hypervisor
from .._hypervisor.numa_maps import Processes, local_processes
from .._model.devices import HostDevice
from .._model.domain import Domain, ManagedState
from .._model.host import Host
from .._model.layout import Layout, layout_to_result
from .._model.placement import Ledger, ledger_to_result
from .._planner.books import make_ledger
from .._planner.nodes import resized
from .._policy import policy_from_record
from .common import errors_to_result, patience_s, warn_once
from .location import Location, locate_guest, location_to_result
from .planning import Ask, Others, plan_asks, read_others, readable
from .select import Selection, select_guests
from .state_dir import StateDir, default_state_dir
from .turn import restart_begun

_TRANSIENT = "it is transient, so change it where it is defined"
_PLAN_AGAIN = "run vnuma_partition with its recorded options"


@dataclass
class Report:
    """All that is told of one guest.

    Attributes:
        state: ``running``, ``off`` and so on.
        definition: the one to plan from: the persistent one, or a transient guest's only one.
        live: the definition it runs with, None while it is off.
        planned: its layout under the recorded policy, None where there is none.
        location: None while it is off.
        drift: what is not as it should be.
        restart_required: whether it waits for a cold start.
        known: where its passed-through PCI devices are; None before they were looked up.
    """

    domain: Domain
    state: str
    definition: Definition
    persistent: Definition | None
    live: Definition | None
    planned: Layout | None = None
    location: Location | None = None
    drift: list[Drift] = field(default_factory=list)
    restart_required: bool = False
    known: dict[str, HostDevice] | None = None


@dataclass
class Findings:
    """What came of a call.

    Attributes:
        reports: by name.
        errors: what could not be read, each about one guest or one name.
        warnings: patterns that matched nothing.
        ledger: what all guests of the host take of its nodes.
        moves: guests that a fresh plan would move.
        gain: what that would bring, '' where nothing.
        named: UUIDs of the guests that were asked for by name.
        failed: UUIDs of the guests of which nothing can be told.
    """

    reports: list[Report] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    host: Host = field(default_factory=lambda: Host(nodes=()))
    ledger: Ledger = field(default_factory=lambda: Ledger(()))
    moves: tuple[str, ...] = ()
    gain: str = ""
    named: frozenset[str] = frozenset()
    failed: set[str] = field(default_factory=set)

    def fail(self, domain: Domain, error: VnumaError) -> None:
        """Note what keeps a guest from being reported."""
        if domain.uuid in self.failed:
            return
        self.failed.add(domain.uuid)
        # A pattern does not mean guests that ended since it was matched.
        if domain.uuid in self.named or not isinstance(error, GuestGoneError):
            self.errors.append(error.for_guest(domain.name))


def inspect_guests(
    hypervisor: Hypervisor,
    names: Sequence[str] | None,
    state_dir: StateDir,
    processes: Processes | None,
    with_memory: bool = True,
) -> Findings:
    """Find out what is in effect.

    Args:
        hypervisor: where the guests are; a read-only connection will do.
        names: names, UUIDs or shell patterns, None for every guest.
        state_dir: where restarts that have begun are noted.
        processes: of the hypervisor host, None where this is another machine.
        with_memory: read where the memory lies, which takes the kernel a walk through every page.

    Raises:
        VnumaError: when nothing could be found out at all.
    """
    domains = hypervisor.domains()
    selection = select_guests(
        domains, [{"name": name} for name in (["*"] if names is None else names)]
    )
    findings = Findings(
        errors=list(selection.errors),
        host=hypervisor.host(),
        named=frozenset(one.domain.uuid for one in selection.matches if one.by_name),
    )
    findings.warnings.extend(selection.warnings if names is not None else ())
    _read(hypervisor, selection, findings)
    selected = {match.domain.uuid for match in selection.matches}
    _plan(hypervisor, [one for one in domains if one.uuid not in selected], findings)
    for report in findings.reports:
        if report.domain.uuid in findings.failed:
            continue
        try:
            _look_up_devices(report, hypervisor)
            _compare(report, findings.host, hypervisor, state_dir)
            report.drift += die_drift((report.live or report.definition).state, findings.host)
            if report.live is not None:
                report.location = locate_guest(
                    report.domain, report.live, findings.host, hypervisor, processes, with_memory
                )
                report.drift += report.location.drift
        except VnumaError as error:
            findings.fail(report.domain, error)
    findings.reports = [one for one in findings.reports if one.domain.uuid not in findings.failed]
    return findings


def report_to_result(report: Report, host: Host) -> dict[str, Any]:
    """Return one guest's report as the module returns it."""
    record, location = report.definition.record, report.location
    layouts = {
        name: None if definition is None else layout_to_result(effective_layout(definition, host))
        for name, definition in (("persistent", report.persistent), ("live", report.live))
    }
    return {
        "name": report.domain.name,
        "uuid": report.domain.uuid,
        "state": report.state,
        "transient": report.persistent is None,
        "partitioned": record is not None,
        "policy": None if record is None else recorded_policy(record),
        "planned": None if report.planned is None else layout_to_result(report.planned),
        **layouts,
        "actual": None if location is None else location_to_result(location),
        "drift": [
            {"between": one.between, "what": one.what, "msg": one.message} for one in report.drift
        ],
        "restart_required": report.restart_required,
        "devices": _devices_to_result(report.live or report.definition, report.known or {}),
        "notes": [] if location is None else list(location.notes),
    }


def _read(hypervisor: Hypervisor, selection: Selection, findings: Findings) -> None:
    """Read the definitions of the guests that are still there."""
    for match in selection.matches:
        try:
            findings.reports.append(_report(hypervisor, match.domain))
        except VnumaError as error:
            findings.fail(match.domain, error)


def _report(hypervisor: Hypervisor, domain: Domain) -> Report:
    live = persistent = None
    if domain.active:
        live = read_definition(hypervisor.xml_without_secrets(domain, live=True))
    if domain.persistent:
        persistent = read_definition(hypervisor.xml_without_secrets(domain, live=False))
    definition = persistent or live
    state = hypervisor.state(domain) if domain.active else "off"
    if definition is None or state == "gone":
        # A transient guest that ended while the guests were listed, or were read.
        raise GuestGoneError("it was transient and has ended, so there is nothing to report.")
    return Report(domain, state, definition, persistent, live)


def _others(
    hypervisor: Hypervisor,
    unread: Sequence[Domain],
    findings: Findings,
    asked: Sequence[Ask],
) -> Others:
    """Return the guests that are not planned; those that are reported have been read already."""
    planned = {ask.domain.uuid for ask in asked}
    reported = [one for one in findings.reports if one.domain.uuid not in planned]
    others = read_others(hypervisor, unread, (), {})
    found, errors = readable(
        Others(
            {**others.definitions, **{one.domain.uuid: one.definition for one in reported}},
            {**others.live, **{one.domain.uuid: one.live for one in reported if one.live}},
        ),
        findings.host,
    )
    for domain in (*unread, *(report.domain for report in reported)):
        if domain.uuid in errors:
            findings.fail(domain, errors[domain.uuid])
    return found


def _plan(hypervisor: Hypervisor, unread: Sequence[Domain], findings: Findings) -> None:
    """Plan every partitioned guest by its own record, all of them together.

    *findings* takes plans, the ledger, and what conflicts with a plan; *unread* are guests of the
    host that are not reported.
    """
    asks: dict[str, Ask] = {}
    for report in findings.reports:
        record = report.definition.record
        if record is None:
            continue
        try:
            policy = policy_from_record(recorded_policy(record))
            guest = read_guest(report.definition, findings.host.hugepage_default_kib)
            found = _look_up_devices(report, hypervisor)
            sized = resized(guest, policy)
        except VnumaError as error:
            report.drift.append(_no_plan(report, error))
        else:
            asks[report.domain.uuid] = Ask(
                report.domain, sized, policy, report.definition, guest, found
            )
    asked = list(asks.values())
    others = _others(hypervisor, unread, findings, asked)
    loads = [*others.loads(findings.host), *(ask.load_now(findings.host) for ask in asked)]
    findings.ledger = make_ledger(findings.host, loads)
    plan_asks(asked, others, findings.host)
    if any(ask.placement is not None for ask in asked):
        anew = [ask.under(ask.policy) for ask in asked]
        fresh = plan_asks(anew, others, findings.host, rebalance=True)
        findings.moves, findings.gain = fresh.moves, fresh.gain
    for report in findings.reports:
        if report.domain.uuid in asks:
            _compare_to_plan(report, asks[report.domain.uuid])


def _look_up_devices(report: Report, hypervisor: Hypervisor) -> dict[str, HostDevice]:
    """Ask where a guest's passed-through PCI devices are, as it runs and as it is defined; once."""
    if report.known is None:
        both = (report.definition, report.live or report.definition)
        units = (unit for one in both for unit in one.pci.units)
        names = {device for unit in units for device, _function in unit.devices}
        report.known = hypervisor.pci_devices(sorted(names))
    return report.known


def _devices_to_result(
    definition: Definition, known: Mapping[str, HostDevice]
) -> list[dict[str, Any]]:
    tree = definition.pci
    cells = {port.index: bus.cell for bus in (*tree.added, *tree.others) for port in bus.ports}
    ports = {device: unit.port for unit in tree.units for device, _function in unit.devices}
    return [
        {
            "device": device,
            "host_node": known[device].node,
            "root_complex": known[device].root_complex or None,
            "cell": cells.get(port or 0),
        }
        for device, port in sorted(ports.items())
    ]


def _compare_to_plan(report: Report, ask: Ask) -> None:
    """Say what a guest is not defined with, and would be by its record."""
    definition = report.definition
    try:
        report.planned = ask.answered()
        wanted = wanted_of(definition, report.planned, ask.policy)
        if is_up_to_date(definition, wanted, ask.policy):
            return
    except VnumaError as error:
        report.drift.append(_no_plan(report, error))
        return
    report.drift += _drifts(
        _planned_or(report),
        (definition.state, "as defined"),
        (_as_restored(wanted, definition.state), "as planned"),
        _TRANSIENT if report.persistent is None else _PLAN_AGAIN,
    )


def _as_restored(wanted: ManagedState, now: ManagedState) -> ManagedState:
    """Return what is wanted; where an option has nothing to pin to, what stands there stays."""
    return replace(
        wanted,
        **{
            element.field: getattr(now, element.field)
            for element in MANAGED
            if element.falls_back and not getattr(wanted, element.field)
        },
    )


def _planned_or(report: Report) -> str:
    return "planned-live" if report.persistent is None else "planned-persistent"


def _no_plan(report: Report, error: VnumaError) -> Drift:
    message = f"its recorded options no longer give a valid layout: {error.message}"
    return Drift(_planned_or(report), "plan", message)


def _compare(report: Report, host: Host, hypervisor: Hypervisor, state_dir: StateDir) -> None:
    """Compare what a guest is defined with to what it runs with, or would come back with."""
    if report.persistent is None:
        return
    if restart_begun(hypervisor, report.domain, state_dir):
        report.restart_required = True
        message = f"an interrupted restart left it {report.state}; run vnuma_restart to start it."
        report.drift.append(Drift("persistent-live", "restart", message))
    if report.live is None:
        _compare_off(report, report.persistent, hypervisor)
    else:
        _compare_running(report, report.live, report.persistent, host)


def _compare_off(report: Report, persistent: Definition, hypervisor: Hypervisor) -> None:
    domain = report.domain
    saved = hypervisor.saved_xml(domain) if domain.saved else None
    if saved is not None:
        report.drift += _fixed_drifts(
            "persistent-saved",
            (read_definition(saved), "in its managed-save image"),
            persistent,
            "start it and shut it down, or run vnuma_partition with managed_save 'drop'",
        )


def _compare_running(report: Report, live: Definition, persistent: Definition, host: Host) -> None:
    ours = is_ours(live, persistent)
    running = "in the running guest"
    way_out = "run vnuma_partition, which pins it while it runs" if ours else f"use {PIN_BY_HAND}"
    if needs_restart(live, persistent):
        report.restart_required = True
        if not ours:
            way_out = "shut it down and start it"
        elif any(one.between == "planned-persistent" for one in report.drift):
            # Restarting at once would bring the wrong definition into effect.
            way_out = "run vnuma_partition, and vnuma_restart if it still waits then"
        else:
            way_out = "run vnuma_restart"
        report.drift += _fixed_drifts("persistent-live", (live, running), persistent, way_out)
    changed: dict[str, set[int]] = {}
    for pin in live_pins(live, persistent, host):
        changed.setdefault(pin.field, set()).add(pin.number)
    now, then = (_only_pins(one.state, changed) for one in (live, persistent))
    report.drift += _drifts("persistent-live", (now, running), (then, "as defined"), way_out)


def _only_pins(state: ManagedState, numbers: Mapping[str, set[int]]) -> ManagedState:
    """Return a state that says nothing but what these threads are pinned to."""
    pins: dict[str, Any] = {
        field: {number: cpus for number, cpus in getattr(state, field).items() if number in wanted}
        for field, wanted in numbers.items()
    }
    return ManagedState(**pins)


def _fixed_drifts(
    between: str, first: tuple[Definition, str], persistent: Definition, way_out: str
) -> list[Drift]:
    """Return what only a cold start can change."""
    other, where = first
    now, then = differ_at_start(other, persistent)
    return _drifts(between, (now, where), (then, "as defined"), way_out)


def _drifts(
    between: str,
    first: tuple[ManagedState, str],
    second: tuple[ManagedState, str],
    way_out: str,
) -> list[Drift]:
    return [
        Drift(
            between,
            one.what,
            f"{one.subject} {one.first} {first[1]} and {one.second} {second[1]}; {way_out}.",
        )
        for one in differences(first[0], second[0])
    ]


def info(module: AnsibleModule) -> dict[str, Any]:
    """Find out about the guests and return it."""
    hypervisor = Hypervisor(module.params["uri"], patience_s=patience_s(module))
    try:
        findings = inspect_guests(
            hypervisor,
            module.params["guests"],
            StateDir(module.params["state_dir"] or default_state_dir(), hypervisor.host_uuid()),
            local_processes(os.geteuid()) if hypervisor.is_local() else None,
            with_memory=module.params["measure_memory"],
        )
    finally:
        hypervisor.close()
    warn_once(module, findings.warnings, ())
    return {
        "changed": False,
        "guests": [report_to_result(report, findings.host) for report in findings.reports],
        "drifted": [report.domain.name for report in findings.reports if report.drift],
        "restart_required": [
            report.domain.name for report in findings.reports if report.restart_required
        ],
        "ledger": ledger_to_result(findings.ledger),
        "rebalance": {"moves": list(findings.moves), "gain": findings.gain},
        **errors_to_result(findings.errors),
    }
