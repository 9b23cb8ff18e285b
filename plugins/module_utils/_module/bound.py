# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What planned guests bind to host nodes beside all the others of the host."""

from __future__ import annotations

from collections.abc import Sequence

from .._domain.definition import Definition, read_guest
from .._errors import LayoutError
from .._model.domain import Binding
from .._model.host import Host
from .._model.layout import Layout
from .._model.placement import Holding
from .._planner.bound import STRICT_MODES, BoundMemory, cannot_start, overbooked
from .._planner.ledger import holding_by_definition, holding_by_layout
from .planning import Others, Request, readable
from .update import GuestUpdate, PartitionResult


def check_bound_memory(
    requested: Sequence[tuple[GuestUpdate, Request]],
    others: Others,
    host: Host,
    result: PartitionResult,
) -> None:
    """Warn of nodes to which more is bound than they have, and refuse who could not start there.

    Args:
        requested: guests that were planned.
        others: all other guests of the host.
        host: whose nodes they are.
        result: takes the warnings and the errors.
    """
    others, errors = readable(others, host)
    result.warnings.extend(
        f"one of the other guests cannot be read ({str(error).rstrip('.')}), so that the memory "
        "that it binds is not counted; correct its definition."
        for error in sorted(errors.values(), key=str)
    )
    running = [one for live in others.live.values() for one in bound_by_definition(live, host)]
    bound = []
    for update, request in requested:
        wanted = bound_by_layout(request, update.layout, host)
        if update.redefines:
            with result.collecting(update.domain):
                sentence = cannot_start(host, wanted, running)
                if sentence is not None:
                    update.after, update.redefines = None, False
                    raise LayoutError(sentence)
        bound += wanted if update.after is not None else bound_by_definition(update.before, host)
    for definition in others.definitions.values():
        bound += bound_by_definition(definition, host)
    changed = {update.domain.name for update, _request in requested if update.redefines}
    result.warnings.extend(overbooked(host, bound, changed))


def bound_by_layout(request: Request, layout: Layout | None, host: Host) -> list[BoundMemory]:
    """Return what a planned guest binds to single nodes; nothing where it may be elsewhere too."""
    if layout is None or layout.memory_mode not in STRICT_MODES:
        return []
    return _bound(holding_by_layout(request.guest, layout, host, is_exclusive=False))


def bound_by_definition(definition: Definition, host: Host) -> list[BoundMemory]:
    """Return what a guest binds to single nodes by a definition.

    Raises:
        VnumaError: when it cannot be read.
    """
    state = definition.state
    bindings: list[Binding | None] = [state.memory_binding, *state.cell_bindings.values()]
    if not any(one is not None and one.mode in STRICT_MODES for one in bindings):
        return []
    guest = read_guest(definition, host.hugepage_default_kib)
    return _bound(holding_by_definition(guest, state, host))


def _bound(holding: Holding) -> list[BoundMemory]:
    """Return what a guest binds to single nodes; what is bound to several may be on any of them."""
    return [
        BoundMemory(holding.name, share.memory_nodes[0], share.need.memory_kib, share.need.pages)
        for share in holding.shares
        if len(share.memory_nodes) == 1
    ]
