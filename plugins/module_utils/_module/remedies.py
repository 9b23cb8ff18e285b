# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways out for guests that do not fit: options that were tried, with what they give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from .._cpuset import nodes_text
from .._errors import RoomError
from .._model.guest import Guest
from .._model.host import Host
from .._model.placement import Load
from .._planner.cores import EXCLUSIVE
from .._policy import AUTO, Policy
from .planning import Ask, plan_beside, plan_layouts

#: Guests of unlike sizes for which ways out are looked for; a fleet that is refused as a whole is
#: refused for one reason.
_MOST_TRIED = 16
#: What is tried for guests that share cores.
_OVERCOMMIT = (Fraction(3, 2), Fraction(2), Fraction(4), Fraction(8))


def add_ways_out(
    asks: Sequence[Ask],
    beside: Sequence[Load],
    pinned: Sequence[Load],
    host: Host,
    rebalance: bool,
) -> None:
    """Name what would work in the errors of guests that have no room.

    Each option is tried on that guest alone, with all others as they are planned. One under which
    it fits is tried on the whole call then, since the others may be planned otherwise. *beside* and
    *pinned* are as in `plan_beside`.
    """
    loads = [ask.load(host) for ask in asks]
    found: dict[tuple[Guest, Policy], str] = {}
    for number, ask in enumerate(asks):
        error = ask.error
        if not isinstance(error, RoomError):
            continue
        size = (replace(ask.guest, name="", uuid="", vcpu_pins=()), ask.policy)
        if size not in found and len(found) < _MOST_TRIED:
            found[size] = ""
            rest = [*beside, *pinned, *loads[:number], *loads[number + 1 :]]
            for text, policy in _options(ask.policy):
                if _fits_alone(ask, policy, rest, host):
                    again = [one.under(one.policy) for one in asks]
                    again[number] = ask.under(policy)
                    plan_beside(again, beside, pinned, host, rebalance)
                    loses = any(new.error and not old.error for new, old in zip(again, asks))
                    nodes = again[number].nodes
                    if nodes and not loses:
                        found[size] = f"`{text}` would fit, on {nodes_text(nodes)}"
                        break
        way = found.get(size, "")
        if way:
            ask.error = error.solved(way)


def _fits_alone(ask: Ask, policy: Policy, others: Sequence[Load], host: Host) -> bool:
    """Tell whether a guest fits under other options, with all others as they are planned."""
    trial = ask.under(policy)
    if policy.nodes == AUTO:
        from .placing import choose_nodes

        choose_nodes([trial], others, host, rebalance=False)
    if trial.error is None:
        plan_layouts([trial], [trial], others, host)
    return trial.layout is not None


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
