# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host nodes each guest gets where they are chosen for it (``nodes: auto``).

All guests of a host are placed together. Who is placed stays; who is new gets the fewest nodes that
can hold it, of these the nearest, and among equals those that leave the host most useful for guests
to come.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Union

from .._cpuset import Ids, format_cpuset, nodes_text
from .._errors import LayoutError, RoomError
from .._model.guest import Guest
from .._model.host import Host
from .._model.placement import Load, Placement
from .._policy import Policy
from .candidates import Applicant, Case, Site, Steps, need_text
from .loads import Demand
from .room import Room, Taken, mebibytes

#: Sets of nodes that one search looks at before it gives up. In steps, and never in seconds: the
#: same input has the same answer on a busy machine.
MOST_STEPS = 10000
#: How often the guests that found no place are put first, where no plan holds all of them.
_MOST_TURNS = 8
#: Sets of nodes that a result says were refused, and nodes that a sentence lists.
_MOST_SHOWN = 8

Answer = Union[Placement, LayoutError]
#: The nodes of each guest, by the index of its applicant.
Nodes = dict[int, Ids]


@dataclass(frozen=True)
class Plan:
    """Where guests are put."""

    nodes: Nodes
    room: Room


@dataclass(frozen=True)
class Placements:
    """What came of placing the guests of a host.

    Attributes:
        answers: for each applicant its placement, or the error about it.
        moves: names of guests that a plan of all of them anew would move, or moves.
        gain: what that brings, as a sentence; '' where it brings nothing.
    """

    answers: list[Answer]
    moves: tuple[str, ...] = ()
    gain: str = ""


def place_guests(
    applicants: Sequence[Applicant], host: Host, loads: Sequence[Load], rebalance: bool = False
) -> Placements:
    """Give every guest its nodes.

    The answer does not depend on the order of the applicants.

    With *rebalance* it is planned as if all of them were new, where that is better.
    """
    if not host.nodes:
        nowhere = Placement((), kept=True, fewest=0, distance=0.0, why="the host has no NUMA nodes")
        return Placements([nowhere for _applicant in applicants])
    site = Site(host, loads)
    answers: dict[int, Answer] = {}
    cases: dict[int, Case] = {}
    demands: dict[tuple[Guest, Policy], Demand] = {}
    for index, applicant in enumerate(applicants):
        size = (replace(applicant.guest, name="", uuid="", vcpu_pins=()), applicant.policy)
        try:
            if size not in demands:
                demands[size] = Demand(size[0], applicant.policy, host)
            cases[index] = Case(applicant, demands[size], site)
        except LayoutError as error:
            answers[index] = error.about(applicant.guest.name)
    staying = [index for index, case in cases.items() if case.stays]
    plan = _plan(cases, staying, site)
    moves: tuple[str, ...] = ()
    gain = ""
    if rebalance and staying:
        fresh = _plan(cases, [], site)
        # Nobody who has a place loses it for others.
        gain = _gain(cases, plan, fresh) if fresh.nodes.keys() >= set(staying) else ""
        if gain:
            moves = _moves(cases, fresh)
            plan, staying = fresh, []
    for index, case in cases.items():
        kept = index in staying or plan.nodes.get(index) == case.applicant.current
        answers[index] = _answer(index, case, plan, kept)
    return Placements([answers[index] for index in range(len(applicants))], moves, gain)


def _plan(cases: Mapping[int, Case], staying: Iterable[int], site: Site) -> Plan:
    """Place every guest that does not stay; the one plan that holds all of them, or the best."""
    kept = {index: cases[index].applicant.current for index in staying}
    room = site.room()
    for index in kept:
        cases[index].stay(room)
    new = sorted(cases.keys() - kept.keys(), key=lambda index: cases[index].order())
    found = None
    for in_shape in (False, True):
        if found is None and _may_hold_all(cases, new, room):
            found = _search(cases, new, room.copy(), in_shape)
    if found is None:
        found = _best_part(cases, new, room)
    for index, nodes in found.items():
        cases[index].take(room, nodes)
    return Plan({**kept, **found}, room)


def _search(
    cases: Mapping[int, Case], order: Sequence[int], room: Room, in_shape: bool
) -> Nodes | None:
    """Look for a plan that holds all guests, depth first.

    A state of the nodes in which the rest of the guests found no place is not looked at twice:
    guests of one size, and nodes that are alike, make many ways to the same state.

    Returns:
        None where there is none, or none was found in `MOST_STEPS`.
    """
    chosen: list[Ids] = []
    waiting: list[Iterator[Ids]] = []
    dead: set[tuple[int, tuple[Taken, ...]]] = set()
    steps = Steps(MOST_STEPS)
    while len(chosen) < len(order):
        depth = len(chosen)
        if len(waiting) == depth:
            is_dead = (depth, room.state) in dead
            case = cases[order[depth]]
            waiting.append(iter(()) if is_dead else case.candidates(room, in_shape, steps))
        nodes = next(waiting[-1], None)
        if steps.left < 0:
            return None
        if nodes is not None:
            cases[order[depth]].take(room, nodes)
            chosen.append(nodes)
            continue
        waiting.pop()
        dead.add((depth, room.state))
        if not chosen:
            return None
        cases[order[depth - 1]].release(room, chosen.pop())
    return dict(zip(order, chosen))


def _may_hold_all(cases: Mapping[int, Case], new: Sequence[int], room: Room) -> bool:
    """Tell whether the nodes have enough left for all guests taken together.

    Where they have not, no search is needed to know that someone stays without a place.
    """
    demands = {id(cases[index].demand): cases[index].demand for index in new}.values()
    cores_left = memory_left_kib = 0
    for node in room.nodes:
        asking = [demand for demand in demands if node in demand.nodes]
        # On isolated cores there is room for guests with pCPUs of their own alone, on the others
        # for either kind: added up, no mixture of both holds more.
        cores_left += sum(
            max((max(0, room.most_left(node, one)) for one in kind), default=0)
            for kind in (
                [one for one in asking if one.is_exclusive],
                [one for one in asking if not one.is_exclusive],
            )
        )
        memory_left_kib += max(
            (max(0, room.memory_left_kib(node, one)) for one in asking), default=0
        )
    return (
        sum(cases[index].least_cores for index in new) <= cores_left
        and sum(cases[index].memory_kib for index in new) <= memory_left_kib
    )


def _best_part(cases: Mapping[int, Case], order: Sequence[int], room: Room) -> Nodes:
    """Place as many guests as a few turns find room for.

    Who found no place in one turn comes first in the next, so that a guest is not left out for
    guests that could be elsewhere.
    """
    best: Nodes = {}
    unlimited = Steps(sys.maxsize)
    for in_shape in (True, False):
        turn = list(order)
        for _number in range(_MOST_TURNS):
            left = room.copy()
            found: Nodes = {}
            for index in turn:
                nodes = next(cases[index].candidates(left, in_shape, unlimited), None)
                if nodes is not None:
                    cases[index].take(left, nodes)
                    found[index] = nodes
            if len(found) > len(best):
                best = found
            missing = [index for index in turn if index not in found]
            again = missing + [index for index in turn if index in found]
            if not missing or again == turn:
                break
            turn = again
    return best


def _answer(index: int, case: Case, plan: Plan, kept: bool) -> Answer:
    applicant = case.applicant
    nodes = plan.nodes.get(index)
    if nodes is None:
        return _no_place(case, plan.room).about(applicant.guest.name)
    return Placement(
        nodes=nodes,
        kept=kept,
        fewest=case.fewest,
        distance=case.site.distance(nodes),
        device_nodes=case.device_nodes,
        why=_why(case, nodes, kept, plan.room),
        refused=() if kept else _refused(case, nodes, plan.room),
    )


def _why(case: Case, nodes: Ids, kept: bool, room: Room) -> str:
    applicant = case.applicant
    where = nodes_text(nodes)
    if kept:
        reason = f"it stays on {where}, where it is placed"
    else:
        moved = f", and moves from {format_cpuset(applicant.current)}" if applicant.current else ""
        left = min(room.cores_left(node, case.demand, 1) for node in nodes)
        memory_kib = min(room.memory_left_kib(node, case.demand) for node in nodes)
        each = " each" if len(nodes) > 1 else ""
        reason = (
            f"it needs {len(nodes)} host node{'s' if len(nodes) > 1 else ''}, and gets {where}"
            f"{moved}; {_room_text(left, memory_kib)} are left{each}"
        )
    missed = set(case.device_nodes).difference(nodes)
    if missed:
        reason += f"; its devices are on host node {format_cpuset(missed)} too"
    return f"{reason}."


def _refused(case: Case, nodes: Ids, room: Room) -> tuple[tuple[Ids, str], ...]:
    """Return sets that could not hold the guest, as the plan leaves them; the nearest first."""
    left = room.copy()
    case.release(left, nodes)
    found = []
    for other in case.site.sets(sorted(case.demand.nodes), case.fewest):
        reason = "" if other == nodes else case.shortage(left, other)
        if reason:
            found.append((case.site.distance(other), other, reason))
    return tuple((other, reason) for _distance, other, reason in sorted(found)[:_MOST_SHOWN])


def _no_place(case: Case, room: Room) -> RoomError:
    """Say what a guest needs, what each node has left, and who has most of their memory."""
    nodes = case.smallest
    need = case.demand.needs(nodes).of_nodes[0]
    each = "a host node" if len(nodes) == 1 else f"each of {len(nodes)} host nodes"
    left = sorted(
        (
            (room.cores_left(node, case.demand, 1), room.memory_left_kib(node, case.demand), node)
            for node in case.demand.nodes
        ),
        key=lambda one: (-one[0], -one[1], one[2]),
    )
    listed = ", ".join(
        f"node {node}: {_room_text(cores, memory_kib)}"
        for cores, memory_kib, node in left[:_MOST_SHOWN]
    )
    more = f", {len(left) - _MOST_SHOWN} more with less" if len(left) > _MOST_SHOWN else ""
    pages = "".join(
        f", node {node}: {max(0, room.pages_left(node, size_kib))} pages of {size_kib} KiB"
        for size_kib, _number in need.pages
        for _cores, _memory_kib, node in left[:_MOST_SHOWN]
    )
    return RoomError(
        f"nodes 'auto' finds no room for it: it needs {need_text(need)} of "
        f"{each}{case.demand.remark} (free: {listed}{more}{pages})"
        f"{_largest(case, need.memory_kib)}",
        "reduce its vCPUs or memory, or move guests away",
    )


def _room_text(cores: int, memory_kib: int) -> str:
    """Return ``3 cores and 4096 MiB``; what is below 0 is none."""
    plural = "" if cores == 1 else "s"
    return f"{max(0, cores)} core{plural} and {mebibytes(max(0, memory_kib))} MiB"


def _largest(case: Case, memory_kib: int) -> str:
    """Name a guest on no node in particular that alone takes more than a guest needs."""
    floating = [
        (sum(share.need.memory_kib for share in load.shares), load.name)
        for load in case.site.loads
        if load.floats
    ]
    largest_kib, name = max(floating, default=(0, ""))
    if largest_kib <= memory_kib:
        return ""
    return (
        f", and guest {name}, which is on no node in particular, has {mebibytes(largest_kib)} MiB"
    )


def _moves(cases: Mapping[int, Case], plan: Plan) -> tuple[str, ...]:
    """Return the guests that a plan moves from where they are."""
    return tuple(
        sorted(
            case.applicant.guest.name
            for index, case in cases.items()
            if case.applicant.current
            and index in plan.nodes
            and plan.nodes[index] != case.applicant.current
        )
    )


def _figures(cases: Mapping[int, Case], plan: Plan) -> tuple[int, int, float, int]:
    """Return what plans are judged by; less is better."""
    distances = (
        len(nodes) * cases[index].site.distance(nodes) for index, nodes in plan.nodes.items()
    )
    return (
        len(cases) - len(plan.nodes),
        sum(len(nodes) for nodes in plan.nodes.values()),
        sum(distances),
        -len(plan.room.whole_nodes()),
    )


def _gain(cases: Mapping[int, Case], before: Plan, after: Plan) -> str:
    """Say what a plan of all guests anew brings, '' where it brings nothing."""
    old, new = (_figures(cases, plan) for plan in (before, after))
    if new >= old:
        return ""
    changes = []
    if new[0] != old[0]:
        changes.append(f"{old[0] - new[0]} more guests fit")
    if new[1] != old[1]:
        changes.append(f"guests are on {new[1]} host nodes in all instead of {old[1]}")
    if new[0] == old[0] and new[2] != old[2]:
        changes.append(f"the sum of distances is {new[2]:.0f} instead of {old[2]:.0f}")
    if new[3] != old[3]:
        changes.append(f"{-new[3]} host nodes stay free as a whole instead of {-old[3]}")
    return f"{', '.join(changes)}."
