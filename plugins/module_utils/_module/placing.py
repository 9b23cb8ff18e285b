# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning guests whose host nodes are chosen for them: ledger, placement, then the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._domain.definition import Definition, read_guest, with_own_cells
from .._domain.record import recorded_policy
from .._errors import VnumaError
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Ids, Layout
from .._model.placement import Holding, Ledger, Placement
from .._planner.candidates import Applicant
from .._planner.cores import EXCLUSIVE
from .._planner.ledger import holding_by_definition, holding_by_layout, make_ledger
from .._planner.pinning import exclusive_cpus
from .._planner.placement import place_guests
from .._planner.plan import plan_guests
from .._policy import AUTO
from .planning import Others, Planned, Request, cores_by_pins


def plan_with_placements(
    requests: Sequence[Request],
    others: Others,
    host: Host,
    in_use: frozenset[int],
    rebalance: bool,
) -> Planned:
    """Choose nodes for the guests that ask for it, and plan all of them.

    Guests that name their nodes are put there first: they are what the others are placed beside.
    A guest that cannot be planned stays as it is defined, and takes what it takes now.

    Args:
        requests: whom to plan.
        others: all other guests of the host.
        host: topology to plan for.
        in_use: pCPUs that the others own.
        rebalance: see `place_guests`.

    Raises:
        VnumaError: when another guest of the host cannot be read.
    """
    beside = [_defined(definition, host) for definition in others.definitions.values()]
    named = [index for index, one in enumerate(requests) if one.policy.nodes != AUTO]
    plans = plan_guests([(requests[i].guest, requests[i].policy) for i in named], host, in_use)
    taken = {
        index: _taken(requests[index], requests[index].guest, plan, host)
        for index, plan in zip(named, plans)
    }
    answers: dict[int, Layout | VnumaError] = {}
    guests: dict[int, Guest] = {index: request.guest for index, request in enumerate(requests)}
    applicants: dict[int, Applicant] = {}
    for index, request in enumerate(requests):
        if request.policy.nodes == AUTO:
            try:
                applicants[index] = _applicant(request, host)
                guests[index] = applicants[index].guest
            except VnumaError as error:
                answers[index] = error.for_guest(request.domain.name)
                taken[index] = _taken_now(request, host)
    placements: dict[int, Placement] = {}
    while True:
        ledger = make_ledger(host, [*beside, *taken.values()])
        chosen = place_guests(list(applicants.values()), host, ledger, rebalance)
        found = dict(zip(applicants, chosen.answers))
        # Who has nodes now and found none keeps them: the others are placed beside it.
        staying = {}
        for index, answer in found.items():
            if isinstance(answer, VnumaError):
                answers[index] = answer
                holding = _taken_now(requests[index], host)
                if holding.is_on_nodes:
                    staying[index] = holding
        if not staying:
            break
        taken.update(staying)
        applicants = {index: one for index, one in applicants.items() if index not in staying}
    for index, answer in found.items():
        if isinstance(answer, Placement):
            placements[index] = answer
    # All together once more, so that exclusive pins do not collide; who found no place stays.
    planned = [index for index in range(len(requests)) if index not in answers]
    kept = [pins for index in answers for _vcpu, pins in requests[index].guest.vcpu_pins]
    unplaced = [requests[index].definition for index in answers]
    by_cache = any(requests[index].policy.pinning == "cache" for index in planned)
    layouts = plan_guests(
        [(guests[index], requests[index].policy) for index in planned],
        host,
        in_use | exclusive_cpus(host, kept),
        {
            position: placements[index].nodes
            for position, index in enumerate(planned)
            if index in placements
        },
        cores_by_pins([*others.definitions.values(), *unplaced]) if by_cache else None,
    )
    answers.update(zip(planned, layouts))
    holdings = [
        _taken(request, guests[index], answers[index], host)
        for index, request in enumerate(requests)
    ]
    return Planned(
        [answers[index] for index in range(len(requests))],
        {index: one for index, one in placements.items() if isinstance(answers[index], Layout)},
        make_ledger(host, [*beside, *holdings]),
        chosen.moves,
        chosen.gain,
    )


def ledger_of(definitions: Iterable[Definition], host: Host) -> Ledger:
    """Return what guests take of a host by their definitions.

    Raises:
        VnumaError: when one of them cannot be read.
    """
    return make_ledger(host, [_defined(definition, host) for definition in definitions])


def _applicant(request: Request, host: Host) -> Applicant:
    guest = with_own_cells(request.guest, request.definition)
    record = request.definition.record
    return Applicant(
        guest,
        request.policy,
        current=_current_nodes(_taken_now(request, host)),
        was_placed=record is not None and recorded_policy(record).get("nodes") == AUTO,
        device_nodes=request.device_nodes,
    )


def _current_nodes(holding: Holding) -> Ids:
    """Return the nodes that a guest is on, () where a part of it is on none, or here and there."""
    found: set[int] = set()
    for share in holding.shares:
        nodes = share.memory_nodes or share.cpu_nodes
        if not nodes or (share.cpu_nodes and share.cpu_nodes != nodes):
            return ()
        found.update(nodes)
    return tuple(sorted(found))


def _defined(definition: Definition, host: Host) -> Holding:
    guest = read_guest(definition, host.hugepage_default_kib)
    return holding_by_definition(guest, definition.state, host)


def _taken_now(request: Request, host: Host) -> Holding:
    """Return what a guest takes by its definition of now; its figures have been read."""
    return holding_by_definition(request.now, request.definition.state, host)


def _taken(request: Request, guest: Guest, answer: Layout | VnumaError, host: Host) -> Holding:
    if isinstance(answer, VnumaError):
        return _taken_now(request, host)
    is_exclusive = request.policy.pinning in EXCLUSIVE
    return holding_by_layout(guest, answer, host, is_exclusive)
