# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: host, guests and policies in, layouts out; no XML, no libvirt, no Ansible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from .._cpuset import format_cpuset
from .._errors import LayoutError, VnumaError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Ids, Layout
from .._policy import Policy
from .cache_pins import CacheLoad, pin_by_cache, planned_pins
from .cores import balanced_cpus, on_host, open_threads
from .draft import Draft, HostView, draft_guest
from .pinning import CpuAllocator, exclusive_cpus


def plan(guest: Guest, host: Host, policy: Policy, in_use: frozenset[int] = frozenset()) -> Layout:
    """Plan one guest.

    Args:
        guest: what it has been given.
        host: the topology to mirror.
        policy: how.
        in_use: pCPUs that other guests own; they count for ``pinning: core`` and ``cpu`` only.

    Raises:
        LayoutError: when the guest does not fit; the sentence has the figures and the remedy.
    """
    (answer,) = plan_guests([(guest, policy)], host, in_use)
    if isinstance(answer, VnumaError):
        raise answer
    return answer


def plan_guests(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    in_use: frozenset[int] = frozenset(),
    placed: Mapping[int, Ids] | None = None,
    cores_by_pins: Mapping[Ids, Fraction] | None = None,
) -> list[Layout | VnumaError]:
    """Plan the guests of one host together, so that exclusive pins never collide.

    The answer does not depend on the order of the guests: a guest whose pins are right already
    stays there, then the others get theirs by name.

    Args:
        guests: the guests, and how each is to be planned.
        host: the topology to mirror.
        in_use: pCPUs that other guests own.
        placed: host nodes of the guests whose policy has them chosen, by their index.
        cores_by_pins: guest cores of all other guests by the pCPUs that they are pinned to; they
            count for ``pinning: cache`` only.

    Returns:
        For each guest, in the order given, its layout or the error that names it.
    """
    view = HostView(host)
    chosen = placed or {}
    answers: dict[int, Layout | VnumaError] = {}
    drafts: dict[int, Draft] = {}
    # A fleet has few sizes, and guests of one size are planned alike until pins are exclusive.
    sizes: dict[tuple[Guest, Policy, Ids | None], Draft] = {}
    for index, (guest, policy) in enumerate(guests):
        nodes = chosen.get(index)
        size = (replace(guest, name="", uuid="", vcpu_pins=()), policy, nodes)
        try:
            if size not in sizes:
                sizes[size] = draft_guest(guest, view, on_host(policy, host), nodes)
        except VnumaError as error:
            answers[index] = error.for_guest(guest.name)
        else:
            drafts[index] = sizes[size]
            answers[index] = sizes[size].layout
    if any(draft.demands for draft in drafts.values()):
        resolved = [
            (guest, on_host(policy, host) if index in drafts else policy)
            for index, (guest, policy) in enumerate(guests)
        ]
        _pin_exclusively(resolved, host, in_use, drafts, answers)
    if any(draft.cache_cells for draft in drafts.values()):
        _pin_by_cache(guests, CacheLoad(host, cores_by_pins or {}), drafts, answers)
    return [answers[index] for index in range(len(guests))]


def _pin_exclusively(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    in_use: frozenset[int],
    drafts: Mapping[int, Draft],
    answers: dict[int, Layout | VnumaError],
) -> None:
    """Give guests their exclusive pins, and put the result in *answers*.

    A guest that cannot be planned stays where it is, so what it owns now is in use for the others.
    Where someone was given that before it was known, all is done over without it.
    """
    waiting = sorted(
        (index for index, draft in drafts.items() if draft.demands),
        key=lambda index: (guests[index][0].name, guests[index][0].uuid),
    )
    owned = {
        index: exclusive_cpus(host, (pins for _vcpu, pins in guest.vcpu_pins))
        for index, (guest, _policy) in enumerate(guests)
        if index in waiting or index not in drafts
    }
    while True:
        staying = [index for index in owned if isinstance(answers[index], VnumaError)]
        allocator = CpuAllocator(host, in_use.union(*(owned[index] for index in staying)))
        moving = [index for index in waiting if index not in staying]
        for index in moving:
            guest, policy = guests[index]
            allocator.reserve_current(index, guest.vcpu_pins, drafts[index].demands, policy)
        failed = []
        for index in moving:
            guest, policy = guests[index]
            try:
                pins = allocator.allocate(index, drafts[index].demands, policy)
            except LayoutError as error:
                answers[index] = error.for_guest(guest.name)
                if not allocator.hold(index, owned[index]):
                    failed.append(index)
                    break
            else:
                layout = drafts[index].layout
                answers[index] = replace(
                    layout,
                    vcpu_pins=pins.vcpu_pins,
                    warnings=(*layout.warnings, *pins.warnings),
                )
        if not failed:
            failed = _pin_iothreads(guests, host, allocator, drafts, answers)
        if not failed:
            return


def _pin_by_cache(
    guests: Sequence[tuple[Guest, Policy]],
    load: CacheLoad,
    drafts: Mapping[int, Draft],
    answers: dict[int, Layout | VnumaError],
) -> None:
    """Pin guests to cache domains, beside all that have other pins, and put it in *answers*."""
    waiting = {}
    for index, (guest, _policy) in enumerate(guests):
        answer = answers[index]
        if index in drafts and drafts[index].cache_cells:
            waiting[index] = (guest, drafts[index].cache_cells)
        else:
            for pins, cores in planned_pins(guest, answer if isinstance(answer, Layout) else None):
                load.add(pins, cores)
    for index, vcpu_pins in pin_by_cache(waiting, load).items():
        answers[index] = replace(drafts[index].layout, vcpu_pins=vcpu_pins)


def _pin_iothreads(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    allocator: CpuAllocator,
    drafts: Mapping[int, Draft],
    answers: dict[int, Layout | VnumaError],
) -> list[int]:
    """Pin iothreads beside exclusive pins to what no vCPU owns; reserved pCPUs are for such.

    Returns:
        Who has to be planned as if it were not there, so that everyone else's have something left.
    """
    in_use = allocator.in_use
    for index, draft in sorted(drafts.items(), key=lambda one: guests[one[0]][0].name):
        (guest, policy), answer = guests[index], answers[index]
        if policy.iothread_pinning != "nodes" or not draft.demands:
            continue
        if not isinstance(answer, Layout) or not guest.iothread_ids:
            continue
        free = [left for node in draft.nodes if (left := open_threads(node.cpus, in_use))]
        if not free:
            culprit = _who_took_the_last(index, drafts, answers, guests, allocator)
            answers[culprit] = _no_pcpu_left(guests[culprit][0], guest, draft.nodes)
            return [culprit]
        shared = [balanced_cpus(host, cpus) or cpus for cpus in free]
        pins = {
            iothread: shared[turn % len(shared)] for turn, iothread in enumerate(guest.iothread_ids)
        }
        answers[index] = replace(answer, iothread_pins=pins)
    return []


def _who_took_the_last(
    index: int,
    drafts: Mapping[int, Draft],
    answers: Mapping[int, Layout | VnumaError],
    guests: Sequence[tuple[Guest, Policy]],
    allocator: CpuAllocator,
) -> int:
    """Return the guest that took the last pCPUs of a guest's nodes: itself, unless it sat there.

    A guest that is new must not cost another one its iothreads.
    """
    if allocator.has_moved(index, drafts[index].demands):
        return index
    ids = {node.id for node in drafts[index].nodes}
    moved = [
        (guests[other][0].name, other)
        for other, draft in drafts.items()
        if isinstance(answers[other], Layout)
        and draft.demands
        and allocator.has_moved(other, draft.demands)
        and ids.intersection(node.id for node in draft.nodes)
    ]
    return max(moved)[1] if moved else index


def _no_pcpu_left(culprit: Guest, guest: Guest, nodes: Sequence[Node]) -> LayoutError:
    ids = format_cpuset(node.id for node in nodes)
    if culprit is guest:
        return LayoutError(
            f"iothread_pinning 'nodes' finds no pCPU on host nodes {ids} that no vCPU owns; "
            "reserve some with reserved_cpus, or name a cpuset.",
            guest.name,
        )
    return LayoutError(
        f"its vCPUs would take the last pCPUs of host nodes {ids}, which the iothreads of guest "
        f"{guest.name} are pinned to; reserve some with reserved_cpus, or use other nodes.",
        culprit.name,
    )
