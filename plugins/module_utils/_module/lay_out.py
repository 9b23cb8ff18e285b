# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is asked for guests to their new definitions; without a hypervisor, and in no state.

What a module does with a daemon and what a filter does with texts is the same in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._domain.compare import is_up_to_date
from .._domain.definition import Definition, wanted_of
from .._errors import VnumaError
from .._model.domain import Domain
from .._model.layout import Ids, Layout
from .._policy import Policy, policy_from_options
from .planning import Others, Planned, Request
from .select import select_guests
from .update import GuestUpdate, PartitionResult, fingerprint, ledger_fingerprint


def choose(
    domains: Sequence[Domain],
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    result: PartitionResult,
) -> list[tuple[Domain, Policy]]:
    """Return the guests that the entries mean, each with its policy."""
    shared = policy_from_options(options)
    selection = select_guests(domains, entries)
    result.errors.extend(selection.errors)
    result.warnings.extend(selection.warnings)
    wanted = []
    for match in selection.matches:
        overrides = {
            key: value for key, value in match.entry.items() if key != "name" and value is not None
        }
        with result.collecting(match.domain):
            policy = policy_from_options({**options, **overrides}) if overrides else shared
            wanted.append((match.domain, policy))
    return wanted


def restore(updates: Sequence[GuestUpdate], result: PartitionResult) -> dict[str, Definition]:
    """Give guests that are to be restored the definition to be.

    Returns:
        Those definitions, by UUID.
    """
    restored = {}
    for update in updates:
        if update.guest is None:
            with result.collecting(update.domain):
                _restore(update)
                restored[update.domain.uuid] = update.after or update.before
    return restored


def make_requests(
    updates: Sequence[GuestUpdate], device_nodes: Mapping[str, Ids]
) -> list[tuple[GuestUpdate, Request]]:
    """Return what is asked of the planner.

    Args:
        updates: guests; those to be restored are left out.
        device_nodes: host nodes of their PCI devices, by UUID.
    """
    return [
        (
            update,
            Request(
                update.domain,
                update.guest,
                update.policy,
                update.before,
                device_nodes.get(update.domain.uuid, ()),
            ),
        )
        for update in updates
        if update.guest is not None
    ]


def write_layouts(
    requested: Sequence[tuple[GuestUpdate, Request]],
    planned: Planned,
    others: Others,
    result: PartitionResult,
) -> None:
    """Give every update its layout and the definition to be; one without has no `after`."""
    result.ledger, result.moves, result.gain = planned.ledger, planned.moves, planned.gain
    if planned.ledger is not None:
        inside = {request.domain.uuid: request.definition for _update, request in requested}
        result.fingerprint = ledger_fingerprint({**others.definitions, **inside})
        result.beside = {uuid: fingerprint(one) for uuid, one in others.definitions.items()}
    for index, ((update, _request), answer) in enumerate(zip(requested, planned.answers)):
        with result.collecting(update.domain):
            if isinstance(answer, VnumaError):
                raise answer
            update.layout = answer
            update.placement = planned.placements.get(index)
            update.warnings.extend(answer.warnings)
            _partition(update, answer)


def _partition(update: GuestUpdate, layout: Layout) -> None:
    wanted = wanted_of(update.before, layout, update.policy)
    if is_up_to_date(update.before, wanted, update.policy):
        update.after = update.before
        return
    # Here, since a run that has nothing to write does not load the writer.
    from .._domain.edit import partitioned

    edit = partitioned(update.before, layout, update.policy)
    update.after, update.redefines = edit.definition, edit.changed


def _restore(update: GuestUpdate) -> None:
    if update.before.record is None:
        update.after = update.before
        return
    from .._domain.edit import restored

    edit = restored(update.before)
    update.after, update.redefines = edit.definition, edit.changed
