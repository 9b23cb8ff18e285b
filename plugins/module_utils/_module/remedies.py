# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out for guests that do not fit: options that were tried, with what they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from .._cpuset import format_cpuset
from .._errors import RoomError
from .._model.guest import Guest
from .._model.host import Host
from .._model.placement import Load
from .._planner.cores import EXCLUSIVE
from .._policy import AUTO, Policy
from .planning import Ask, plan_layouts

#: Guests of unlike sizes for which ways out are looked for; a fleet that is refused as a whole is
#: refused for one reason.
_MOST_TRIED = 16
#: What is tried for guests that share cores.
_OVERCOMMIT = (Fraction(3, 2), Fraction(2), Fraction(4), Fraction(8))


def add_ways_out(asks: Sequence[Ask], beside: Sequence[Load], host: Host) -> None:
    """Name what would work in the errors of guests that have no room.

    Each option is tried on that guest alone, with all others as they are planned.

    Args:
        asks: the guests of the call, planned.
        beside: what all other guests of the host take.
        host: the host.
    """
    loads = [ask.load(host) for ask in asks]
    found: dict[tuple[Guest, Policy], str] = {}
    for number, ask in enumerate(asks):
        error = ask.error
        if not isinstance(error, RoomError):
            continue
        size = (replace(ask.guest, name="", uuid="", vcpu_pins=()), ask.policy)
        if size not in found and len(found) < _MOST_TRIED:
            others = [*beside, *loads[:number], *loads[number + 1 :]]
            found[size] = _way_out(ask, others, host)
        way = found.get(size, "")
        if way:
            ask.error = error.solved(way)


def _way_out(ask: Ask, others: Sequence[Load], host: Host) -> str:
    """Return the first option under which a guest fits, '' where there is none."""
    for text, policy in _options(ask.policy):
        trial = replace(ask, policy=policy, layout=None, placement=None, error=None)
        if policy.nodes == AUTO:
            from .placing import choose_nodes

            choose_nodes([trial], others, host, rebalance=False)
        if trial.error is None:
            plan_layouts([trial], [trial], others, host)
        layout = trial.layout
        if layout is not None:
            nodes = {*layout.nodeset, *(node for node in layout.host_nodes if node is not None)}
            where = f"host node{'s' if len(nodes) > 1 else ''} {format_cpuset(nodes)}"
            return f"`{text}` would fit, on {where}"
    return ""


def _options(policy: Policy) -> Iterator[tuple[str, Policy]]:
    """Yield other options, those that change least for the guest first."""
    is_auto = policy.nodes == AUTO
    if is_auto and not policy.widen:
        yield "widen: true", replace(policy, widen=True)
    if policy.split == "even" and policy.distribution == "contiguous":
        yield "split: proportional", replace(policy, split="proportional")
    if policy.pinning == "core":
        yield "pinning: cpu", replace(policy, pinning="cpu")
    if policy.threads != 1 and policy.distribution != "interleave":
        if is_auto and policy.cells is None:
            yield "cells: 1, threads: 1", replace(policy, cells=1, threads=1)
        yield "threads: 1", replace(policy, threads=1)
    if not is_auto:
        yield "nodes: auto", replace(policy, nodes=AUTO)
    if policy.cells is not None and policy.cells > 1:
        yield "cells: 1", replace(policy, cells=1)
    if policy.pinning in EXCLUSIVE:
        yield "pinning: node", replace(policy, pinning="node")
    elif is_auto:
        for ratio in _OVERCOMMIT:
            if ratio > policy.cpu_overcommit:
                yield f"cpu_overcommit: {float(ratio):g}", replace(policy, cpu_overcommit=ratio)
