# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitioning the guests of one host in one go: select, plan, edit, define, verify.

Nothing is written before every guest of the call has been planned.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule

from .._domain.compare import live_pins, looks_the_same, memory_move, needs_restart
from .._domain.definition import (
    Definition,
    is_ours,
    read_definition,
)
from .._errors import (
    ChangedMeanwhileError,
    DomainError,
    GuestGoneError,
    HypervisorError,
    PolicyError,
    VnumaError,
)
from .._hypervisor.hypervisor import Hypervisor
from .._model.domain import Domain
from .._model.host import Host, host_from_facts
from .._model.placement import ledger_to_result
from .._policy import DEFAULTS, policy_from_options
from .common import errors_to_result, patience_s, warn_once
from .lay_out import (
    Group,
    begin_update,
    check_bound_memory,
    choose,
    is_placed_anew,
    make_asks,
    restore,
    short_of_memory,
    write_layouts,
)
from .planning import Others, plan_asks, read_others
from .state_dir import StateDir, default_state_dir
from .turn import is_untidy, restart_begun, tidy
from .update import (
    GuestUpdate,
    PartitionResult,
    Safeguards,
    fingerprint,
    update_to_diff,
    update_to_result,
)

T = TypeVar("T")

#: Guests that are read or defined at the same time; libvirtd takes five requests of a connection
#: at once (max_client_requests, src/remote/libvirtd.conf.in).
_AT_ONCE = 4


def partition_guests(
    hypervisor: Hypervisor,
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    host: Host | None,
    write: bool,
    safeguards: Safeguards,
    rebalance: bool = False,
    group: Mapping[str, Host] | None = None,
) -> PartitionResult:
    """Bring guests into the state that is asked for.

    Whether there is anything to write is found out without the lock, so that a run with nothing to
    do waits for nobody. A run that writes reads and plans again once it holds the lock: another
    run may have been at work until then.

    Args:
        hypervisor: where they are.
        entries: one dictionary a guest or pattern: ``name``, and options that override.
        options: policy options for all of them.
        host: topology to plan for, None to ask the hypervisor.
        write: False stops short of every change (check mode).
        safeguards: what to hold on to before a definition is replaced.
        rebalance: choose nodes as if all guests were new, where that is better, and shapes too.
        group: topologies of the hosts of migration groups, by name.

    Returns:
        Results and errors, guest by guest: one that fails is left as it is, the others are done.

    Raises:
        VnumaError: when nothing could be done at all.
    """
    hosts = Group(group or {}, anew=rebalance)
    plan = partial(_plan, hypervisor, entries, options, host, safeguards, hosts)
    result = plan()
    if write and result.writes:
        with safeguards.state_dir.locked():
            result = plan()
            _check_ledger(hypervisor, result, safeguards)
            steps = [
                (update.domain, partial(_apply, hypervisor, update, safeguards))
                for update in result.updates
            ]
            handled = {update.domain.uuid for update in _each(result, steps)}
            # What was done for a guest is told also where something after that failed.
            result.updates = [
                update
                for update in result.updates
                if update.defined or update.domain.uuid in handled
            ]
            with result.collecting_errors():
                tidy(hypervisor, safeguards.state_dir)
    return result


def _plan(
    hypervisor: Hypervisor,
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    host: Host | None,
    safeguards: Safeguards,
    group: Group,
) -> PartitionResult:
    """Say for every guest what there is to do, without doing any of it."""
    result = PartitionResult()
    domains = hypervisor.domains()
    result.untidy = is_untidy(hypervisor, domains, safeguards.state_dir)
    wanted = choose(domains, entries, options, result)
    if not wanted:
        return result
    topology = host or hypervisor.host()
    reads = [(domain, partial(_read, hypervisor, domain)) for domain, _policy in wanted]
    policies = dict(wanted)
    updates = []
    for domain, before, live in _each(result, reads):
        with result.collecting(domain):
            update = begin_update(domain, policies[domain], before, live, topology, group)
            update.guest = hypervisor.cpu_drivers.told(update.guest, topology.arch)
            updates.append(update)
    result.in_call = {update.domain.uuid: update.before for update in updates}
    restored = restore(updates, result)
    devices = hypervisor.pci_devices({one for update in updates for one in update.devices})
    asks = make_asks(updates, devices, result)
    others = read_others(hypervisor, domains, asks, restored) if asks else Others({}, {})
    planned = plan_asks(asks, others, topology, rebalance=group.anew, with_ways_out=True)
    write_layouts(updates, planned, others, topology, result)
    if any(update.redefines and update.ask for update in updates):
        check_bound_memory(updates, others, topology, result)
    for update in sorted(updates, key=lambda update: (update.domain.name, update.domain.uuid)):
        if update.after is not None:
            with result.collecting(update.domain):
                _look_ahead(hypervisor, update, update.after, topology, safeguards)
                result.updates.append(update)
    if host is None and any(is_placed_anew(update) for update in result.updates):
        free = hypervisor.host(with_free=True)
        result.warnings.extend(short_of_memory(result.updates, free))
    return result


def _each(result: PartitionResult, steps: Sequence[tuple[Domain, Callable[[], T]]]) -> Iterator[T]:
    """Take each guest's step, four at a time; yield what comes of them, and collect the errors."""

    def attempt(step: Callable[[], T]) -> T | VnumaError:
        try:
            return step()
        except VnumaError as error:
            return error

    # Most of the time goes into libvirt: dumping, validating what it is given, and its disk.
    with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(attempt, (step for _domain, step in steps))
        for (domain, _step), answer in zip(steps, answers):
            if isinstance(answer, VnumaError):
                result.errors.append(answer.for_guest(domain.name))
            else:
                yield answer


def _read(hypervisor: Hypervisor, domain: Domain) -> tuple[Domain, Definition, Definition | None]:
    """Return a guest's persistent definition, and the one that it runs with."""
    if not domain.persistent:
        raise DomainError(
            "it is transient and has no persistent definition to change; define it, or exclude the "
            "guest."
        )
    before = read_definition(hypervisor.persistent_xml(domain))
    if not domain.active:
        return domain, before, None
    return domain, before, read_definition(hypervisor.xml_without_secrets(domain, live=True))


def _check_ledger(hypervisor: Hypervisor, result: PartitionResult, safeguards: Safeguards) -> None:
    """Refuse to write where nodes were chosen beside guests that are no longer as they were.

    Every guest of the host is read again, but those that this run defines: each of these is, right
    before that.

    Raises:
        HypervisorError: when a guest came, changed or went.
    """
    chosen = any(update.redefines and update.placement for update in result.updates)
    if not chosen:
        return
    planned = safeguards.planned_ledger
    defined = {update.domain.uuid for update in result.updates if update.redefines}
    now = {}
    for domain in hypervisor.domains():
        if domain.uuid in defined:
            continue
        with suppress(GuestGoneError):
            # As it was read for the plan: those of the call with their passwords.
            text = (
                hypervisor.persistent_xml(domain)
                if domain.uuid in result.in_call
                else hypervisor.xml_without_secrets(domain, live=False)
            )
            now[domain.uuid] = fingerprint(read_definition(text))
    in_call = {uuid: fingerprint(one) for uuid, one in result.in_call.items()}
    before = {**result.beside, **in_call}
    before = {uuid: one for uuid, one in before.items() if uuid not in defined}
    if (planned and planned != result.fingerprint) or now != before:
        raise HypervisorError(
            "a guest of this host was defined, changed or removed after nodes were chosen; nothing "
            "was written; run again."
        )


def _look_ahead(
    hypervisor: Hypervisor,
    update: GuestUpdate,
    after: Definition,
    host: Host,
    safeguards: Safeguards,
) -> None:
    """Find out what a guest needs besides a new definition: its pins, its image, its restart.

    Raises:
        VnumaError: when it must not be redefined.
    """
    domain, live = update.domain, update.live
    planned = safeguards.planned.get(domain.uuid)
    if update.redefines and planned and planned != fingerprint(update.before):
        raise ChangedMeanwhileError
    if update.redefines:
        hypervisor.schema.check(update.before, after)
    begun = restart_begun(hypervisor, domain, safeguards.state_dir)
    update.restart_required = begun
    if live is None:
        update.drops_image = _has_outdated_image(hypervisor, update, after, safeguards)
    elif is_ours(live, update.before, after):
        update.memory_nodes = memory_move(live, after)
        needed = not update.memory_nodes and needs_restart(live, after)
        update.restart_required = begun or needed
        # What a restart is needed for may be the memory alone; pins do not wait for it then.
        if not needed or looks_the_same(live, after):
            update.pins = live_pins(live, after, host)
    changes_live = bool(update.pins or update.memory_nodes)
    update.changed = update.redefines or update.drops_image or changes_live


def _has_outdated_image(
    hypervisor: Hypervisor, update: GuestUpdate, after: Definition, safeguards: Safeguards
) -> bool:
    """Tell whether a managed-save image would bring an old layout back, and may be dropped."""
    if not (update.redefines or update.domain.saved):
        return False
    saved = hypervisor.saved_xml(update.domain)
    if saved is None or not needs_restart(read_definition(saved), after):
        return False
    if not safeguards.drop_saved:
        raise HypervisorError(
            "its managed-save image would restore its old layout at the next start; start it "
            "and shut it down, or set managed_save to 'drop' to discard the saved state."
        )
    return True


def _apply(hypervisor: Hypervisor, update: GuestUpdate, safeguards: Safeguards) -> GuestUpdate:
    """Carry out what was found out: define, verify, drop the image, move, pin."""
    domain = update.domain
    if update.redefines:
        _define(hypervisor, update, safeguards)
    if update.drops_image:
        # After that: what was saved is not to be lost for a definition that is refused.
        hypervisor.drop_saved(domain)
    _change_live(hypervisor, update)
    return update


def _change_live(hypervisor: Hypervisor, update: GuestUpdate) -> None:
    """Change in the running guest what can be; what is refused there waits for its next start."""
    domain = update.domain
    try:
        if update.memory_nodes:
            hypervisor.move_memory(domain, update.memory_nodes)
    except HypervisorError as error:
        _leave_to_restart(update, f"{error.message} It moves at its next start.")
    try:
        for pin in update.pins:
            hypervisor.pin(domain, pin.field, pin.number, pin.cpus)
    except HypervisorError as error:
        _leave_to_restart(update, f"{error.message} The new pins take effect at its next start.")


def _leave_to_restart(update: GuestUpdate, warning: str) -> None:
    update.restart_required = True
    update.warnings.append(warning)


def _define(hypervisor: Hypervisor, update: GuestUpdate, safeguards: Safeguards) -> None:
    """Define what was edited; what the guest runs with is kept first, where it has to restart."""
    from .._domain.edit import keep_layout
    from .define import replace_definition

    domain, live, before = update.domain, update.live, update.before
    state_dir = safeguards.state_dir
    if live is not None and update.restart_required:
        # While a restart is due already, what is kept is what the guest runs with.
        due = needs_restart(live, before)
        if not due or state_dir.layout(domain.uuid) is None:
            state_dir.keep_layout(domain.uuid, keep_layout(live if due else before))
    try:
        replace_definition(hypervisor, domain, before, update.after or before)
    except VnumaError as error:
        update.defined = error.stored
        raise
    update.defined = True


def planned_earlier(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Safeguards` hold of the result of an earlier run in check mode.

    Something else is refused: without fingerprints nothing would be held on to.

    Raises:
        PolicyError: when it is no such result.
    """
    try:
        planned = {str(one["uuid"]): str(one["fingerprint"]) for one in result["guests"]}
        ledger = result.get("ledger", {}).get("fingerprint", "")
        return {"planned": planned, "planned_ledger": str(ledger)}
    except (AttributeError, KeyError, TypeError):
        raise PolicyError(
            "planned must be what vnuma_partition returned in check mode, as register has it."
        ) from None


def _group(topologies: Mapping[str, object] | None) -> dict[str, Host]:
    if not topologies:
        return {}
    from .shapes import group_from_facts

    return group_from_facts(topologies)


def partition(module: AnsibleModule) -> dict[str, Any]:
    """Partition the guests and return what came of it."""
    given, planned = module.params["topology"], module.params["planned"]
    topology = None if given is None else host_from_facts(given)
    options = {option: module.params[option] for option in DEFAULTS}
    hypervisor = Hypervisor(module.params["uri"], patience_s=patience_s(module))
    try:
        result = partition_guests(
            hypervisor,
            module.params["guests"],
            options,
            topology,
            write=not module.check_mode,
            safeguards=Safeguards(
                StateDir(module.params["state_dir"] or default_state_dir(), hypervisor.host_uuid()),
                drop_saved=module.params["managed_save"] == "drop",
                **({} if planned is None else planned_earlier(planned)),
            ),
            rebalance=module.params["rebalance"],
            group=_group(module.params["topologies"]),
        )
    finally:
        hypervisor.close()
    updates = result.updates
    warn_once(module, result.warnings, [(one.domain.name, one.warnings) for one in updates])
    answer: dict[str, Any] = {
        "changed": result.writes,
        "guests": [update_to_result(update) for update in updates],
        "restart_required": [one.domain.name for one in updates if one.restart_required],
        **errors_to_result(result.errors),
    }
    if result.ledger is not None:
        answer["ledger"] = {
            **ledger_to_result(result.ledger),
            "reserved_memory_kib": policy_from_options(options).reserved_memory_kib,
            "reserved_cpus": module.params["reserved_cpus"] or "",
            "fingerprint": result.fingerprint,
        }
        if module.params["rebalance"]:
            answer["rebalance"] = {"moves": list(result.moves), "gain": result.gain}
    if module._diff:
        answer["diff"] = [update_to_diff(update) for update in updates if update.redefines]
    return answer
