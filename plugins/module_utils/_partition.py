# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitioning the guests of one host in one go: choose, plan, edit, define, verify.

Knows the order of things; planning, editing and libvirt are in modules of their own. Nothing is
written before every guest of the call has been planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._domain import (
    Definition,
    managed,
    managed_text,
    read_definition,
    read_guest,
    secrets,
    unmanaged,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._drift import live_pins, needs_restart
from ansible_collections.kvm.vnuma.plugins.module_utils._edit import partitioned, restored
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    DomainError,
    HypervisorError,
    VnumaError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import Domain, Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._layout import (
    Layout,
    layout_to_result,
    plan_guests,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._pinning import exclusive_cpus
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import Policy, policy_from_options
from ansible_collections.kvm.vnuma.plugins.module_utils._record import find_record

_PATTERN_CHARACTERS = frozenset("*?[")


@dataclass
class Work:
    """One guest on its way through a call.

    Attributes:
        domain: as libvirt lists it.
        policy: what is asked for it.
        before: its persistent definition when it was planned.
        guest: what the planner was told, None for a guest that is to be restored.
        layout: what the planner answered, None before that and for ``absent``.
        after: the definition to be, None before it was edited.
        changed: whether the definition is, or would be, another one.
        restart_required: whether the running guest differs from it.
        warnings: sentences about this guest.
    """

    domain: Domain
    policy: Policy
    before: Definition | None = None
    guest: Guest | None = None
    layout: Layout | None = None
    after: Definition | None = None
    changed: bool = False
    restart_required: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        done: guests that were dealt with, by name.
        errors: what went wrong, each about one guest or one entry.
        warnings: sentences about the call, such as a pattern that matched nothing.
    """

    done: list[Work] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def partition_guests(
    hypervisor: Hypervisor,
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    host: Host | None,
    write: bool,
) -> Outcome:
    """Bring guests into the state that is asked for.

    Args:
        hypervisor: where they are.
        entries: one dictionary a guest or pattern: ``name``, and options that override.
        options: policy options for all of them.
        host: topology to plan for, None to ask the hypervisor.
        write: False stops short of every change (check mode).

    Returns:
        Results and errors, guest by guest: one that fails is left as it is, the others are done.

    Raises:
        VnumaError: when nothing could be done at all.
    """
    policy_from_options(options)
    outcome = Outcome()
    domains = hypervisor.domains()
    chosen = _choose(domains, entries, options, outcome)
    if not chosen:
        return outcome
    topology = host or hypervisor.host()
    works = [
        work for work in chosen if _attempt(outcome, work, lambda w: _read(hypervisor, w, topology))
    ]
    _plan(hypervisor, domains, works, topology, outcome)
    planned = [work for work in works if work.after is not None]
    for work in planned:
        if _attempt(outcome, work, lambda w: _apply(hypervisor, w, topology, write)):
            outcome.done.append(work)
    return outcome


def work_to_result(work: Work) -> dict[str, Any]:
    """Return one guest's result as the module returns it."""
    return {
        "name": work.domain.name,
        "uuid": work.domain.uuid,
        "changed": work.changed,
        "restart_required": work.restart_required,
        "layout": None if work.layout is None else layout_to_result(work.layout),
        "warnings": list(work.warnings),
    }


def work_to_diff(work: Work) -> dict[str, str]:
    """Return the managed elements before and after, for ``--diff``."""
    assert work.before is not None
    assert work.after is not None
    return {
        "before_header": f"{work.domain.name} (persistent definition)",
        "after_header": f"{work.domain.name} (persistent definition)",
        "before": managed_text(work.before.root),
        "after": managed_text(work.after.root),
    }


def _choose(
    domains: Sequence[Domain],
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    outcome: Outcome,
) -> list[Work]:
    """Match entries to guests: names win over UUIDs, both over patterns, first come first."""
    by_name = {domain.name: domain for domain in domains}
    by_uuid = {domain.uuid: domain for domain in domains}
    chosen: dict[str, tuple[Domain, Mapping[str, Any]]] = {}
    patterns: list[Mapping[str, Any]] = []
    for entry in entries:
        name = str(entry.get("name") or "")
        domain = by_name.get(name) or by_uuid.get(name.lower())
        if domain is None and _PATTERN_CHARACTERS.intersection(name):
            patterns.append(entry)
        elif domain is None:
            outcome.errors.append(
                HypervisorError(
                    "it does not exist on this host; correct the name, or define it first.",
                    guest=name or "without a name",
                )
            )
        elif domain.uuid in chosen:
            outcome.errors.append(
                HypervisorError("it is listed twice in guests; keep one entry.", guest=domain.name)
            )
        else:
            chosen[domain.uuid] = (domain, entry)
    for entry in patterns:
        matches = [domain for domain in domains if fnmatchcase(domain.name, str(entry["name"]))]
        if not matches:
            outcome.warnings.append(f"pattern '{entry['name']}' matches no guest on this host.")
        for domain in matches:
            chosen.setdefault(domain.uuid, (domain, entry))
    twice = {error.guest for error in outcome.errors}
    works = []
    for domain, entry in sorted(chosen.values(), key=lambda pair: (pair[0].name, pair[0].uuid)):
        if domain.name in twice:
            continue
        overrides = {
            key: value for key, value in entry.items() if key != "name" and value is not None
        }
        try:
            works.append(Work(domain, policy_from_options({**options, **overrides})))
        except VnumaError as error:
            outcome.errors.append(error.for_guest(domain.name))
    return works


def _attempt(outcome: Outcome, work: Work, step: Any) -> bool:
    try:
        step(work)
    except VnumaError as error:
        outcome.errors.append(error.for_guest(work.domain.name))
        return False
    return True


def _read(hypervisor: Hypervisor, work: Work, host: Host) -> None:
    if not work.domain.persistent:
        raise DomainError(
            "it is transient: it has no definition that could be changed; "
            "define it, or leave it out."
        )
    work.before = read_definition(hypervisor.persistent_xml(work.domain))
    if work.policy.state == "present":
        work.guest = read_guest(work.before, host.hugepage_default_kib)


def _plan(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    works: Sequence[Work],
    host: Host,
    outcome: Outcome,
) -> None:
    """Fill in layout and new definition; works that cannot be are left without."""
    for work in works:
        if work.policy.state == "absent":
            _attempt(outcome, work, _restore)
    present = [work for work in works if work.guest is not None]
    taken: frozenset[int] = frozenset()
    if any(work.policy.pinning in ("core", "cpu") for work in present):
        planned = {work.domain.uuid for work in present}
        taken = exclusive_cpus(host, _pins_of_others(hypervisor, domains, works, planned))
    pairs = [(work.guest, work.policy) for work in present if work.guest is not None]
    for work, answer in zip(present, plan_guests(pairs, host, taken)):
        if isinstance(answer, VnumaError):
            outcome.errors.append(answer.for_guest(work.domain.name))
            continue
        work.layout = answer
        work.warnings.extend(answer.warnings)
        _attempt(outcome, work, _edit)


def _restore(work: Work) -> None:
    assert work.before is not None
    work.after = _reread(work.before, restored(work.before))


def _edit(work: Work) -> None:
    assert work.before is not None
    assert work.layout is not None
    work.after = _reread(work.before, partitioned(work.before, work.layout, work.policy))


def _reread(before: Definition, text: str) -> Definition:
    return before if text is before.text else read_definition(text)


def _pins_of_others(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    works: Sequence[Work],
    planned: set[str],
) -> Iterable[tuple[int, ...]]:
    """Yield every vCPU's pins of the guests that are not planned in this call."""
    restored_now = {work.domain.uuid: work.after for work in works if work.after is not None}
    for domain in domains:
        if domain.uuid in planned:
            continue
        definitions = []
        if domain.uuid in restored_now:
            definitions.append(restored_now[domain.uuid])
        else:
            definitions.append(read_definition(hypervisor.public_xml(domain, live=False)))
        if domain.active:
            definitions.append(read_definition(hypervisor.public_xml(domain, live=True)))
        for definition in definitions:
            yield from managed(definition.root)["vcpupin"].values()


def _apply(hypervisor: Hypervisor, work: Work, host: Host, write: bool) -> None:
    """Define what was edited, verify what libvirt made of it, and look at the running guest."""
    assert work.before is not None
    assert work.after is not None
    work.changed = work.after is not work.before
    if work.changed and write:
        _define(hypervisor, work, work.before, work.after)
    if not work.domain.active:
        return
    live = read_definition(hypervisor.public_xml(work.domain, live=True)).root
    if find_record(live) is None and find_record(work.after.root) is None and not work.changed:
        # Never partitioned, or restored and restarted: not ours to compare.
        return
    work.restart_required = needs_restart(live, work.after.root)
    if work.restart_required:
        return
    pins = live_pins(live, work.after.root, host)
    work.changed = work.changed or bool(pins)
    for what, number, cpus in pins if write else ():
        try:
            hypervisor.pin(work.domain, what, number, cpus)
        except HypervisorError as error:
            work.restart_required = True
            work.warnings.append(f"{error.message} It takes effect at the next start.")
            return


def _define(hypervisor: Hypervisor, work: Work, before: Definition, after: Definition) -> None:
    name = work.domain.name
    if hypervisor.persistent_xml(work.domain) != before.text:
        raise HypervisorError(
            "someone else changed its definition after it was planned; "
            "nothing was written, run again."
        )
    hidden = secrets(after.root)
    hypervisor.define(name, after.text, hidden)
    stored = read_definition(hypervisor.persistent_xml(work.domain)).root
    lost = unmanaged(before.root) - unmanaged(stored)
    if managed(stored) == managed(after.root) and not lost:
        return
    hypervisor.define(name, before.text, hidden)
    what = f"dropped {min(lost)[0]}" if lost else "kept another layout than the one it was given"
    raise HypervisorError(
        f"libvirt {what}, so its old definition was put back; please report this with the version "
        "of libvirt."
    )
