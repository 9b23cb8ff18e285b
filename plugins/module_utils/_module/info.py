# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is really in effect for each guest of a host: plan, definitions, threads and memory.

Knows which definitions are compared, and the way out where they differ; changes nothing. A running
guest's threads and memory are looked for in _running, two definitions told apart in _difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._domain.definition import (
    Definition,
    read_definition,
    read_guest,
)
from .._domain.difference import (
    Drift,
    differences,
)
from .._domain.drift import (
    fixed_at_start,
    live_pins,
    needs_restart,
)
from .._domain.effective import effective_layout
from .._domain.record import (
    find_record,
    recorded_policy,
)
from .._domain.xml import Element
from .._errors import HypervisorError, VnumaError
from .._hypervisor.hypervisor import Domain, Hypervisor
from .._hypervisor.numa_maps import Processes
from .._model.host import Host
from .._planner.plan import Layout, layout_to_result
from .._policy import policy_from_options
from .partition import plan_works
from .running import (
    Placement,
    place,
    placement_to_result,
)
from .select import Choice, choose
from .state_dir import Store
from .update import Outcome, Work

_TRANSIENT = "it is transient, so change it where it is defined"
_PLAN_AGAIN = "run vnuma_partition with its recorded options"


@dataclass
class Report:
    """All that is told of one guest.

    Attributes:
        domain: as libvirt lists it.
        state: ``running``, ``off`` and so on.
        definition: the one to plan from: the persistent one, or a transient guest's only one.
        persistent: its persistent definition, None for a transient guest.
        live: the definition it runs with, None while it is off.
        planned: its layout under the recorded policy, None where there is none.
        placement: None while it is off.
        drift: what is not as it should be.
        restart_required: whether it waits for a cold start.
    """

    domain: Domain
    state: str
    definition: Definition
    persistent: Definition | None
    live: Definition | None
    planned: Layout | None = None
    placement: Placement | None = None
    drift: list[Drift] = field(default_factory=list)
    restart_required: bool = False

    @property
    def record(self) -> Element | None:
        """The record in it, None where this collection has not partitioned it."""
        return find_record(self.definition.root)


@dataclass
class Findings:
    """What came of a call.

    Attributes:
        reports: by name.
        errors: what could not be read, each about one guest or one name.
        warnings: patterns that matched nothing.
        host: the host's topology.
    """

    reports: list[Report] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    host: Host = field(default_factory=lambda: Host(nodes=()))


def find_out(
    hypervisor: Hypervisor,
    names: Sequence[str] | None,
    store: Store,
    processes: Processes | None,
    with_memory: bool = True,
) -> Findings:
    """Find out what is in effect.

    Args:
        hypervisor: where the guests are; a read-only connection will do.
        names: names, UUIDs or shell patterns, None for every guest.
        store: where restarts that have begun are noted.
        processes: of the hypervisor host, None where this is another machine.
        with_memory: read where the memory lies, which takes the kernel a walk through every page.

    Raises:
        VnumaError: when nothing could be found out at all.
    """
    domains = hypervisor.domains()
    choice = choose(domains, [{"name": name} for name in (["*"] if names is None else names)])
    findings = Findings(errors=list(choice.errors), host=hypervisor.host())
    findings.warnings.extend(choice.warnings if names is not None else ())
    _read(hypervisor, choice, findings)
    _plan(hypervisor, domains, findings)
    for report in findings.reports:
        try:
            _compare(report, findings.host, hypervisor, store)
            if report.live is not None:
                placement = place(
                    report.domain, report.live, findings.host, hypervisor, processes, with_memory
                )
                report.placement = placement
                report.drift += placement.drift
        except VnumaError as error:
            findings.errors.append(error.for_guest(report.domain.name))
    failed = {error.guest for error in findings.errors}
    findings.reports = [one for one in findings.reports if one.domain.name not in failed]
    return findings


def report_to_result(report: Report, host: Host) -> dict[str, Any]:
    """Return one guest's report as the module returns it."""
    record, placement = report.record, report.placement
    layouts = {
        name: None if definition is None else effective_layout(definition, host)
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
        "placement": None if placement is None else placement_to_result(placement),
        "drift": [
            {"between": one.between, "what": one.what, "msg": one.message} for one in report.drift
        ],
        "restart_required": report.restart_required,
        "notes": [] if placement is None else list(placement.notes),
    }


def _read(hypervisor: Hypervisor, choice: Choice, findings: Findings) -> None:
    """Read the definitions of the guests that are still there."""
    gone: set[str] | None = None
    for pick in choice.picks:
        domain = pick.domain
        try:
            findings.reports.append(_report(hypervisor, domain))
        except VnumaError as error:
            if gone is None:
                there = {one.uuid for one in hypervisor.domains()}
                gone = {one.domain.uuid for one in choice.picks} - there
            # A pattern does not mean guests that ended since it was matched.
            if pick.by_name or domain.uuid not in gone:
                findings.errors.append(error.for_guest(domain.name))


def _report(hypervisor: Hypervisor, domain: Domain) -> Report:
    live = persistent = None
    if domain.active:
        live = read_definition(hypervisor.public_xml(domain, live=True))
    if domain.persistent:
        persistent = read_definition(hypervisor.public_xml(domain, live=False))
    definition = persistent or live
    if definition is None:
        # A transient guest that ended while the guests were listed.
        raise HypervisorError("it has ended, and it had no persistent definition.")
    state = hypervisor.state(domain) if domain.active else "off"
    return Report(domain, state, definition, persistent, live)


def _plan(hypervisor: Hypervisor, domains: Sequence[Domain], findings: Findings) -> None:
    """Plan every partitioned guest by its own record, all of them together."""
    outcome = Outcome()
    works: dict[str, Work] = {}
    for report in findings.reports:
        if report.record is None:
            continue
        with outcome.collecting(report.domain):
            policy = policy_from_options(recorded_policy(report.record))
            before = report.definition
            guest = read_guest(before, findings.host.hugepage_default_kib)
            works[report.domain.name] = Work(report.domain, policy, before, before, guest)
    plan_works(hypervisor, domains, list(works.values()), findings.host, outcome)
    problems = {error.guest: error.message for error in outcome.errors}
    for report in findings.reports:
        name = report.domain.name
        between = "planned-live" if report.persistent is None else "planned-persistent"
        if name in problems:
            message = f"its recorded options give no plan any more: {problems[name]}"
            report.drift.append(Drift(between, "plan", message))
        elif name in works:
            work = works[name]
            report.planned = work.layout
            if work.after is work.before:
                continue
            way_out = _TRANSIENT if report.persistent is None else _PLAN_AGAIN
            report.drift += _drifts(
                between,
                (work.before.meaning, "as defined"),
                (work.after.meaning, "as planned"),
                way_out,
            )


def _compare(report: Report, host: Host, hypervisor: Hypervisor, store: Store) -> None:
    """Compare what a guest is defined with to what it runs with, or would come back with."""
    if report.persistent is None:
        return
    if report.live is None:
        _compare_off(report, report.persistent, hypervisor, store)
    else:
        _compare_running(report, report.live, report.persistent, host)


def _compare_off(
    report: Report, persistent: Definition, hypervisor: Hypervisor, store: Store
) -> None:
    domain = report.domain
    if store.begun_restart(domain.uuid) is not None:
        report.restart_required = True
        message = "a restart of it has begun and it is off; run vnuma_restart to start it."
        report.drift.append(Drift("persistent-live", "restart", message))
    saved = hypervisor.saved_xml(domain) if domain.saved else None
    if saved is not None:
        report.drift += _fixed_drifts(
            "persistent-saved",
            (read_definition(saved), "in its managed-save image"),
            persistent,
            "start it and shut it down, or run vnuma_partition with managed_save 'drop'",
        )


def _compare_running(report: Report, live: Definition, persistent: Definition, host: Host) -> None:
    ours = find_record(live.root) is not None or report.record is not None
    running = "in the running guest"
    way_out = "run vnuma_partition, which pins it while it runs" if ours else "use 'virsh vcpupin'"
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
    for kind, number, _cpus in live_pins(live, persistent, host):
        changed.setdefault(kind, set()).add(number)
    if changed:
        now, then = (
            {
                kind: {number: pins for number, pins in meaning[kind].items() if number in numbers}
                for kind, numbers in changed.items()
            }
            for meaning in (live.meaning, persistent.meaning)
        )
        report.drift += _drifts("persistent-live", (now, running), (then, "as defined"), way_out)


def _fixed_drifts(
    between: str, first: tuple[Definition, str], persistent: Definition, way_out: str
) -> list[Drift]:
    """Return what only a cold start can change."""
    other, where = first
    now, then = fixed_at_start(other), fixed_at_start(persistent)
    if now.get("cpu_mode") != then.get("cpu_mode"):
        # One of the two may be a mode that is compared with no other of its kind.
        now["cpu_mode"], then["cpu_mode"] = (one.meaning["cpu_mode"] for one in (other, persistent))
    return _drifts(between, (now, where), (then, "as defined"), way_out)


def _drifts(
    between: str,
    first: tuple[Mapping[str, Any], str],
    second: tuple[Mapping[str, Any], str],
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
