# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrating guests live: check, plan on the targets, migrate, verify.

Every guest is checked and planned before the first one leaves.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .._domain.state import managed_text
from .._errors import GuestGoneError, HypervisorError, PolicyError, VnumaError
from .._hypervisor.ends import Source
from .._hypervisor.migration import Transfer
from .._hypervisor.uri import refuse_programs
from .._model.domain import Domain
from .._model.layout import layout_to_result
from .._size import MAX_MEMORY_KIB, parse_size_kib
from .common import errors_to_result, patience_s, warn_once
from .destination import Destination, MovingGuest, destination_from, largest_first
from .leaving import read_moving_guest, reasons_to_stay
from .migration_notes import MigrationNotes
from .move import Move, carry_out
from .select import Match, select_guests
from .state_dir import default_state_dir
from .unfinished import finish_begun, waiting_for


@dataclass
class MigrationResult:
    """What came of a call.

    Attributes:
        moves: one for each guest, in the order in which they were given a target.
        there: guests that were named, and run on a target already.
        completed: guests that an earlier run had begun to migrate, and this one has brought to
            their target.
        changed: whether something was done to guests that an earlier run had begun to migrate.
    """

    moves: list[Move] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    there: list[tuple[Domain, Destination]] = field(default_factory=list)
    completed: list[tuple[Domain, Destination]] = field(default_factory=list)
    changed: bool = False

    @contextmanager
    def collecting(self, domain: Domain, by_name: bool) -> Iterator[None]:
        """Turn an error inside into one about this guest, and go on.

        A pattern does not mean guests that ended since it was matched.
        """
        try:
            yield
        except VnumaError as error:
            if by_name or not isinstance(error, GuestGoneError):
                self.errors.append(error.for_guest(domain.name))


def migrate_guests(
    source: Source,
    destinations: Sequence[Destination],
    names: Sequence[str] | None,
    transfer: Transfer,
    state_dir: MigrationNotes,
    write: bool,
    partial_success: bool = False,
    at_once: int = 1,
    say: Callable[[str], None] = lambda _line: None,
) -> MigrationResult:
    """Migrate guests to the first targets that can take them, the emptiest first.

    Args:
        source: where they are.
        destinations: where they may go.
        names: names, UUIDs or shell patterns; None for every guest that runs.
        transfer: how.
        state_dir: of the source.
        write: False only says what would happen (check mode), and changes nothing.
        partial_success: whether those who can go do so where others cannot.
        at_once: how many are on their way together.
        say: takes a line about how far one is.

    Returns:
        Results and errors, guest by guest; one that fails stays where it is.
    """
    result, left, apart = _finish(source, destinations, names, transfer, state_dir, write, say)
    moving_guests = []
    matches = _select(source, destinations, left, transfer, apart, result)
    named = {match.domain.uuid for match in matches if match.by_name}
    for match in matches:
        with result.collecting(match.domain, match.domain.uuid in named):
            moving_guests.append(read_moving_guest(source, match.domain))
    ordered, errors = largest_first(moving_guests, source.host().hugepage_default_kib)
    result.errors += errors
    for moving in ordered:
        with result.collecting(moving.domain, moving.domain.uuid in named):
            stays = reasons_to_stay(source, moving, transfer, state_dir)
            result.moves.append(_choose(moving, destinations, stays, result))
    going = [one for one in result.moves if one.destination is not None]
    if result.errors and not partial_success:
        return result
    for move in going:
        move.action = "migrated"
    if write and going:
        with ThreadPoolExecutor(max_workers=at_once) as pool:
            step = partial(_go, source, going, transfer, state_dir, say)
            result.errors += [error for error in pool.map(step, going) if error is not None]
    return result


def _finish(
    source: Source,
    destinations: Sequence[Destination],
    names: Sequence[str] | None,
    transfer: Transfer,
    state_dir: MigrationNotes,
    write: bool,
    say: Callable[[str], None],
) -> tuple[MigrationResult, Sequence[str] | None, set[str]]:
    """End what an earlier run has begun; return the names that are left, and who is left alone."""
    if write:
        state_dir.drop_leftovers()
    begun = finish_begun(
        *(source, destinations, names, state_dir, transfer.undefine_source),
        *(transfer.timeout_s, write, say),
    )
    if begun.changed:
        for destination in destinations:
            destination.read()
    result = MigrationResult(
        errors=begun.errors,
        warnings=begun.warnings,
        completed=begun.arrived,
        changed=begun.changed,
    )
    return result, begun.names, begun.apart


def _select(
    source: Source,
    destinations: Sequence[Destination],
    names: Sequence[str] | None,
    transfer: Transfer,
    apart: set[str],
    result: MigrationResult,
) -> list[Match]:
    """Return the guests to migrate; who runs on a target already is not one of them."""
    entries = [{"name": name} for name in (["*"] if names is None else names)]
    selection = select_guests(source.domains(), entries)
    result.warnings += selection.warnings if names is not None else ()
    for error in selection.errors:
        there = _running_there(destinations, error.guest or "")
        if there is None:
            result.errors.append(error)
        else:
            result.there.append(there)
    matches = []
    for match in selection.matches:
        if match.domain.uuid in apart:
            continue
        if match.domain.active:
            matches.append(match)
            continue
        there = _running_there(destinations, match.domain.uuid)
        if there is not None:
            result.there.append(there)
            if transfer.undefine_source:
                result.warnings.append(
                    f"guest {match.domain.name} runs on {there[1].name}, and is still defined on "
                    f"its source; run 'virsh undefine {match.domain.name}' there."
                )
        elif match.by_name:
            result.errors.append(
                HypervisorError(
                    "it is off, and only a running guest migrates live; start it, or define it on "
                    "the target.",
                    guest=match.domain.name,
                )
            )
        else:
            result.warnings.append(f"guest {match.domain.name} is off and stays where it is.")
    return matches


def _running_there(
    destinations: Sequence[Destination], name: str
) -> tuple[Domain, Destination] | None:
    return next(
        (
            (domain, destination)
            for destination in destinations
            for domain in destination.domains.values()
            if name in (domain.name, domain.uuid) and domain.active
        ),
        None,
    )


def _choose(
    moving: MovingGuest,
    destinations: Sequence[Destination],
    stays: Sequence[str],
    result: MigrationResult,
) -> Move:
    """Give a guest the emptiest target that can take it, or say why none can."""
    move = Move(moving)
    answers = [(destination, *destination.receive(moving)) for destination in destinations]
    able = [(one, arrival) for one, arrival, _reasons in answers if arrival is not None]
    if able and not stays:
        move.destination, move.arrival = min(able, key=lambda pair: pair[0].load())
        move.destination.expect(moving, move.arrival)
        if move.arrival.layout is not None:
            move.warnings.extend(move.arrival.layout.warnings)
        return move
    move.action = "refused"
    move.reasons = list(stays)
    if not able:
        move.reasons += [
            reason if len(destinations) == 1 else f"{destination.name}: {reason}"
            for destination, _arrival, reasons in answers
            for reason in reasons
        ]
    names = ", ".join(destination.name for destination in destinations)
    reasons = " ".join(
        reason if len(move.reasons) == 1 else f"({number}) {reason}"
        for number, reason in enumerate(move.reasons, 1)
    )
    result.errors.append(
        HypervisorError(
            f"it cannot migrate to {names} and stays as it is: {reasons}",
            guest=moving.domain.name,
        )
    )
    return move


def _go(
    source: Source,
    going: Sequence[Move],
    transfer: Transfer,
    state_dir: MigrationNotes,
    say: Callable[[str], None],
    move: Move,
) -> VnumaError | None:
    """Let one guest go; return the error where that failed."""
    domain, destination, arrival = move.moving.domain, move.destination, move.arrival
    if destination is None or arrival is None:
        return None
    try:
        if destination.changed({one.moving.domain.uuid for one in going}):
            raise HypervisorError(
                f"a guest of {destination.name} was defined, changed or removed after this one was "
                "planned; it was not migrated; run again."
            )
        try:
            carry_out(source, move, destination, arrival, transfer, state_dir, say)
        finally:
            if transfer.undefine_source and move.seconds is not None:
                state_dir.drop_layout(domain.uuid)
    except VnumaError as error:
        if move.action != "migrated" or move.seconds is None:
            move.action = "failed"
        return error.for_guest(domain.name)
    return None


def transfer_from(options: Mapping[str, Any]) -> Transfer:
    """Return how guests are migrated.

    Raises:
        PolicyError: when an option means nothing.
    """
    if options["at_once"] < 1:
        raise PolicyError(f"at_once must be an integer of at least 1, not '{options['at_once']}'.")
    if not options["timeout"] > 0:
        raise PolicyError(f"timeout must be more than 0 s, not {options['timeout']:g} s.")
    handed_on = options["options"]
    return Transfer(
        peer_to_peer=handed_on["peer_to_peer"],
        bandwidth_mib=_bandwidth_mib(handed_on["bandwidth"]),
        compression=None if handed_on["compression"] == "none" else handed_on["compression"],
        auto_converge=handed_on["auto_converge"],
        post_copy=handed_on["post_copy"],
        copy_storage=options["copy_storage"],
        tls=handed_on["tls"],
        undefine_source=options["undefine_source"],
        timeout_s=options["timeout"],
    )


def _bandwidth_mib(given: str | None) -> int:
    """Return the most that a migration may send, in MiB a second; 0 for no limit.

    What libvirt counts is what it takes (QEMU_DOMAIN_MIG_BANDWIDTH_MAX, src/qemu/qemu_domain.h).

    Raises:
        PolicyError: when that is no size.
    """
    if given is None:
        return 0
    size_kib = parse_size_kib(given)
    if size_kib is None or not 1024 <= size_kib <= MAX_MEMORY_KIB:
        raise PolicyError(
            f"options.bandwidth must be a size with a unit, of at least 1 MiB, such as '100 MiB', "
            f"not '{given}'."
        )
    return size_kib // 1024


def migrate(module: AnsibleModule) -> dict[str, Any]:
    """Migrate the guests and return what came of it."""
    write = not module.check_mode
    if write:
        # Ansible gives it a terminal, which hangs up when the controller is gone; a guest that has
        # just been handed over would stand still until the next run.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    transfer = transfer_from(module.params)
    if not module.params["targets"]:
        raise PolicyError("targets must name at least one host to migrate to.")
    with ExitStack() as stack:
        source = Source(module.params["uri"], patience_s(module))
        stack.callback(source.close)
        state_dir = MigrationNotes(
            module.params["state_dir"] or default_state_dir(), source.host_uuid()
        )
        destinations = [
            _connected(module, source, given, state_dir, stack)
            for given in module.params["targets"]
        ]
        with state_dir.locked() if write else nullcontext():
            result = migrate_guests(
                source,
                destinations,
                module.params["guests"],
                transfer,
                state_dir,
                write,
                module.params["partial"],
                module.params["at_once"],
                module.log,
            )
    moves = sorted(result.moves, key=lambda one: one.moving.domain.name)
    warn_once(module, result.warnings, [(one.moving.domain.name, one.warnings) for one in moves])
    migrated = [one for one in moves if one.action == "migrated"]
    answer: dict[str, Any] = {
        "changed": bool(migrated) or result.changed,
        "guests": [
            *(_move_to_result(one) for one in moves),
            *(_there_to_result(*one, "none") for one in result.there),
            *(_there_to_result(*one, "migrated") for one in result.completed),
        ],
        "migrated": sorted(
            [one.moving.domain.name for one in migrated]
            + [domain.name for domain, _there in result.completed]
        ),
        **errors_to_result(result.errors),
    }
    if module._diff:
        answer["diff"] = [_move_to_diff(one) for one in migrated]
    return answer


def _connected(
    module: AnsibleModule,
    source: Source,
    given: Mapping[str, Any],
    state_dir: MigrationNotes,
    stack: ExitStack,
) -> Destination:
    """Return a target that can be asked.

    Raises:
        VnumaError: when it cannot; the sentence has the guests that wait for it.
    """
    name = str(given.get("name") or given["uri"])
    if not module.params["trust_uris"]:
        refuse_programs(given["uri"], name)
    try:
        destination = destination_from(given, patience_s(module))
    except VnumaError as error:
        waiting = waiting_for(source, state_dir, name)
        error.message = f"{error.message} {waiting}".rstrip()
        raise
    stack.callback(destination.hypervisor.close)
    if destination.hypervisor.host_uuid() == source.host_uuid():
        raise PolicyError(
            f"target {destination.name} is the source itself; name another host in targets."
        )
    return destination


def _move_to_result(move: Move) -> dict[str, Any]:
    arrival, progress = move.arrival, move.progress
    return {
        "name": move.moving.domain.name,
        "uuid": move.moving.domain.uuid,
        "action": move.action,
        "target": None if move.destination is None else move.destination.name,
        "reasons": move.reasons,
        "layout": None
        if arrival is None or arrival.layout is None
        else layout_to_result(arrival.layout, True),
        "duration_s": move.seconds,
        "downtime_ms": None if progress is None else progress.downtime_ms,
        "sent_kib": None if progress is None else progress.sent_kib,
        "warnings": move.warnings,
    }


def _there_to_result(domain: Domain, destination: Destination, action: str) -> dict[str, Any]:
    return {
        "name": domain.name,
        "uuid": domain.uuid,
        "action": action,
        "target": destination.name,
        "reasons": [],
        "layout": None,
        "duration_s": None,
        "downtime_ms": None,
        "sent_kib": None,
        "warnings": [],
    }


def _move_to_diff(move: Move) -> dict[str, str]:
    """Return the managed elements on both hosts, for ``--diff``."""
    arrival, destination = move.arrival, move.destination
    name = move.moving.domain.name
    return {
        "before_header": f"{name} (persistent definition on its source)",
        "after_header": f"{name} (persistent definition on "
        f"{'' if destination is None else destination.name})",
        "before": managed_text(move.moving.persistent.root),
        "after": "" if arrival is None else managed_text(arrival.persistent.root),
    }
