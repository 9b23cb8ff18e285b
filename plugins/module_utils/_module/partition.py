# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitioning the guests of one host in one go: choose, plan, edit, define, verify.

Knows the order of things; planning, editing and libvirt are in modules of their own. Nothing is
written before every guest of the call has been planned.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from .._domain.definition import (
    Definition,
    read_definition,
    read_guest,
    secrets,
    unmanaged,
)
from .._domain.drift import live_pins, needs_restart
from .._domain.edit import (
    partitioned,
    refuse_unfit,
    restored,
)
from .._domain.record import find_record
from .._errors import (
    DomainError,
    HypervisorError,
    VnumaError,
)
from .._hypervisor.hypervisor import Domain, Hypervisor
from .._model.host import Host
from .._planner.pinning import exclusive_cpus
from .._planner.plan import Layout, plan_guests
from .._policy import Policy, policy_from_options
from .select import choose
from .update import (
    Keeping,
    Outcome,
    Work,
    fingerprint,
)

T = TypeVar("T")

#: Guests that are read or defined at the same time; libvirtd takes five requests of a connection
#: at once (max_client_requests, src/remote/libvirtd.conf.in).
_AT_ONCE = 4
_CHANGED_MEANWHILE = (
    "someone else changed its definition after it was planned; nothing was written, run again."
)


def partition_guests(
    hypervisor: Hypervisor,
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    host: Host | None,
    write: bool,
    keeping: Keeping,
) -> Outcome:
    """Bring guests into the state that is asked for.

    Args:
        hypervisor: where they are.
        entries: one dictionary a guest or pattern: ``name``, and options that override.
        options: policy options for all of them.
        host: topology to plan for, None to ask the hypervisor.
        write: False stops short of every change (check mode).
        keeping: what to hold on to before a definition is replaced.

    Returns:
        Results and errors, guest by guest: one that fails is left as it is, the others are done.

    Raises:
        VnumaError: when nothing could be done at all.
    """
    policy_from_options(options)
    outcome = Outcome()
    domains = hypervisor.domains()
    wanted = _choose(domains, entries, options, outcome)
    if not wanted:
        return outcome
    topology = host or hypervisor.host()
    works = []
    dumps = [(domain, partial(_dump, hypervisor, domain, policy)) for domain, policy in wanted]
    for domain, policy, text in _each(outcome, dumps, _AT_ONCE):
        with outcome.collecting(domain):
            works.append(_read(domain, policy, text, topology))
    ready = plan_works(hypervisor, domains, works, topology, outcome)
    writes = write and any(work.after is not work.before for work in ready)

    with keeping.store.locked() if writes else nullcontext():
        steps = [
            (work.domain, partial(_apply, hypervisor, work, topology, write, keeping))
            for work in ready
        ]
        outcome.done.extend(_each(outcome, steps, _AT_ONCE if writes else 1))
    return outcome


def _each(
    outcome: Outcome, steps: Sequence[tuple[Domain, Callable[[], T]]], at_once: int
) -> Iterator[T]:
    """Take each guest's step, so many at once; yield what comes of them, and collect the errors."""

    def attempt(step: Callable[[], T]) -> T | VnumaError:
        try:
            return step()
        except VnumaError as error:
            return error

    # Most of the time goes into libvirt: dumping, validating what it is given, and its disk.
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        answers = pool.map(attempt, (step for _domain, step in steps))
        for (domain, _step), answer in zip(steps, answers):
            if isinstance(answer, VnumaError):
                outcome.errors.append(answer.for_guest(domain.name))
            else:
                yield answer


def _choose(
    domains: Sequence[Domain],
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    outcome: Outcome,
) -> list[tuple[Domain, Policy]]:
    choice = choose(domains, entries)
    outcome.errors.extend(choice.errors)
    outcome.warnings.extend(choice.warnings)
    wanted = []
    for pick in choice.picks:
        overrides = {
            key: value for key, value in pick.entry.items() if key != "name" and value is not None
        }
        with outcome.collecting(pick.domain):
            wanted.append((pick.domain, policy_from_options({**options, **overrides})))
    return wanted


def _dump(hypervisor: Hypervisor, domain: Domain, policy: Policy) -> tuple[Domain, Policy, str]:
    if not domain.persistent:
        raise DomainError(
            "it is transient: it has no definition that could be changed; "
            "define it, or leave it out."
        )
    return domain, policy, hypervisor.persistent_xml(domain)


def _read(domain: Domain, policy: Policy, text: str, host: Host) -> Work:
    before = read_definition(text)
    present = policy.state == "present"
    guest = read_guest(before, host.hugepage_default_kib) if present else None
    return Work(domain, policy, before, before, guest)


def plan_works(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    works: Sequence[Work],
    host: Host,
    outcome: Outcome,
) -> list[Work]:
    """Fill in layouts and definitions to be; return the works that can be, by name.

    Args:
        hypervisor: where the guests are.
        domains: every guest of the host: what others own is not given away.
        works: guests that are planned together.
        host: topology to plan for.
        outcome: takes the errors, each about one guest.
    """
    ready = []
    for work in works:
        if work.guest is None:
            with outcome.collecting(work.domain):
                work.after = _reread(work.before, restored(work.before))
                ready.append(work)
    pairs = [(work, work.guest) for work in works if work.guest is not None]
    taken: frozenset[int] = frozenset()
    refuse = None
    if any(work.policy.pinning in ("core", "cpu") for work, _guest in pairs):
        taken = exclusive_cpus(host, _pins_of_others(hypervisor, domains, works))

        def refuse(index: int, layout: Layout) -> None:
            refuse_unfit(pairs[index][0].before, layout)

    planned = [(guest, work.policy) for work, guest in pairs]
    answers = plan_guests(planned, host, taken, refuse)
    for (work, _guest), answer in zip(pairs, answers):
        with outcome.collecting(work.domain):
            if isinstance(answer, VnumaError):
                raise answer
            work.layout = answer
            work.warnings.extend(answer.warnings)
            work.after = _reread(work.before, partitioned(work.before, answer, work.policy))
            ready.append(work)
    return sorted(ready, key=lambda work: (work.domain.name, work.domain.uuid))


def _reread(before: Definition, text: str) -> Definition:
    return before if text is before.text else read_definition(text)


def _pins_of_others(
    hypervisor: Hypervisor, domains: Sequence[Domain], works: Sequence[Work]
) -> Iterator[tuple[int, ...]]:
    """Yield every vCPU's pins of the guests that are not planned in this call."""
    planned = {work.domain.uuid for work in works if work.guest is not None}
    restored_now = {work.domain.uuid: work.after for work in works if work.guest is None}
    for domain in domains:
        if domain.uuid in planned:
            continue
        definitions = [restored_now.get(domain.uuid)]
        if definitions[0] is None:
            definitions = [read_definition(hypervisor.public_xml(domain, live=False))]
        if domain.active:
            definitions.append(read_definition(hypervisor.public_xml(domain, live=True)))
        for definition in definitions:
            if definition is not None:
                yield from definition.meaning["vcpupin"].values()


def _apply(hypervisor: Hypervisor, work: Work, host: Host, write: bool, keeping: Keeping) -> Work:
    """Define what was edited, verify what libvirt made of it, and look at the running guest."""
    domain = work.domain
    work.changed = work.after is not work.before
    planned = keeping.planned.get(domain.uuid)
    if planned and planned != fingerprint(work.before):
        raise HypervisorError(_CHANGED_MEANWHILE)
    live, outdated = None, False
    if domain.active:
        live = read_definition(hypervisor.public_xml(domain, live=True))
    else:
        work.restart_required = keeping.store.begun_restart(domain.uuid) is not None
        outdated = _has_outdated_image(hypervisor, work, keeping)
    if work.changed and write:
        _define(hypervisor, work, live, keeping)
    if outdated:
        work.changed = True
        if write:
            # Last: what was saved is not to be lost for a definition that is refused.
            hypervisor.drop_saved(domain)
    if live is None:
        return work
    if find_record(live.root) is None and find_record(work.after.root) is None and not work.changed:
        # Never partitioned, or restored and restarted: not ours to compare.
        keeping.store.end_restart(domain.uuid)
        return work
    work.restart_required = needs_restart(live, work.after)
    if work.restart_required:
        return work
    # Whoever began to restart it, it runs as it should: were the note to stay, a guest that is shut
    # down for good one day would be taken for one that has to run again.
    keeping.store.end_restart(domain.uuid)
    pins = live_pins(live, work.after, host)
    work.changed = work.changed or bool(pins)
    for what, number, cpus in pins if write else ():
        try:
            hypervisor.pin(domain, what, number, cpus)
        except HypervisorError as error:
            work.restart_required = True
            work.warnings.append(f"{error.message} It takes effect at the next start.")
            return work
    return work


def _has_outdated_image(hypervisor: Hypervisor, work: Work, keeping: Keeping) -> bool:
    """Tell whether a managed-save image would bring an old layout back, and may be dropped."""
    if not (work.changed or work.domain.saved):
        return False
    saved = hypervisor.saved_xml(work.domain)
    if saved is None or not needs_restart(read_definition(saved), work.after):
        return False
    if not keeping.drop_saved:
        raise HypervisorError(
            "its managed-save image would bring its old layout back at the next start; start it "
            "and shut it down, or set managed_save to 'drop' to lose the state that was saved."
        )
    return True


def _define(hypervisor: Hypervisor, work: Work, live: Definition | None, keeping: Keeping) -> None:
    domain, before, after = work.domain, work.before, work.after
    # While a restart is due, what is kept already is what the guest runs with.
    due = live is not None and needs_restart(live, before)
    if not due or keeping.store.old(domain.uuid) is None:
        keeping.store.keep_old(domain.uuid, before.text)
    if hypervisor.persistent_xml(domain) != before.text:
        raise HypervisorError(_CHANGED_MEANWHILE)
    hidden = secrets(after.root)
    hypervisor.define(domain.name, after.text, hidden)
    stored = read_definition(hypervisor.persistent_xml(domain))
    lost = unmanaged(before.root) - unmanaged(stored.root)
    if stored.meaning == after.meaning and not lost:
        return
    hypervisor.define(domain.name, before.text, hidden, validate=False)
    what = f"dropped {min(lost)[0]}" if lost else "kept another layout than the one it was given"
    raise HypervisorError(
        f"libvirt {what}, so its old definition was put back; please report this with the version "
        "of libvirt."
    )
