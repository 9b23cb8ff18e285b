# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing the host nodes of the guests that ask for it, with all other guests in the books."""

from __future__ import annotations

from collections.abc import Sequence

from .._cpuset import Ids
from .._domain.definition import with_own_cells
from .._domain.record import recorded_policy
from .._errors import VnumaError
from .._model.host import Host
from .._model.placement import Load, Placement
from .._planner.candidates import Applicant
from .._planner.placement import Placements, place_guests
from .._policy import AUTO
from .planning import Ask, Planned, plan_layouts


def choose_nodes(
    asks: Sequence[Ask], beside: Sequence[Load], host: Host, rebalance: bool
) -> Planned:
    """Give each guest that asks for it its placement, or its error.

    Guests that name their nodes are in the books first: they are what the others are placed with.

    *beside* is what all other guests of the host take.
    """
    named = [ask for ask in asks if ask.error is None and ask.policy.nodes != AUTO]
    plan_layouts(named, asks, beside, host)
    applicants = {}
    for ask in asks:
        if ask.error is None and ask.policy.nodes == AUTO:
            try:
                applicants[ask.domain.uuid] = _applicant(ask, host)
                ask.guest = applicants[ask.domain.uuid].guest
            except VnumaError as error:
                ask.refuse(error)
    waiting = [ask for ask in asks if ask.domain.uuid in applicants]
    staying: set[str] = set()
    while True:
        taken = [
            ask.load(host)
            for ask in asks
            if ask.domain.uuid not in applicants or ask.domain.uuid in staying
        ]
        searched = [ask for ask in waiting if ask.domain.uuid not in staying]
        chosen = place_guests(
            [applicants[ask.domain.uuid] for ask in searched], host, [*beside, *taken], rebalance
        )
        # A guest that has nodes now and gets none keeps them: the others are placed with it.
        more = _answered(searched, chosen, host)
        if not more:
            return Planned(moves=chosen.moves, gain=chosen.gain)
        staying |= more


def _answered(asks: Sequence[Ask], chosen: Placements, host: Host) -> set[str]:
    """Give guests their answers; return those without a place that stay on nodes."""
    staying = set()
    for ask, answer in zip(asks, chosen.answers):
        if isinstance(answer, Placement):
            ask.placement, ask.error = answer, None
        else:
            ask.refuse(answer)
            if ask.load_now(host).is_on_nodes:
                staying.add(ask.domain.uuid)
    return staying


def _applicant(ask: Ask, host: Host) -> Applicant:
    guest = with_own_cells(ask.guest, ask.definition)
    record = ask.definition.record
    return Applicant(
        guest,
        ask.policy,
        current=_current_nodes(ask.load_now(host)),
        was_placed=record is not None and recorded_policy(record).get("nodes") == AUTO,
        device_nodes=ask.device_nodes,
    )


def _current_nodes(load: Load) -> Ids:
    """Return the nodes that a guest is on, () where a part of it is on none, or here and there."""
    found: set[int] = set()
    for share in load.shares:
        if not share.need.cores and not share.cpu_nodes:
            # A memory device is where its own nodes are.
            continue
        nodes = share.memory_nodes or share.cpu_nodes
        if not nodes or (share.cpu_nodes and share.cpu_nodes != nodes):
            return ()
        found.update(nodes)
    return tuple(sorted(found))
