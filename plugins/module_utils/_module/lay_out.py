# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what is asked for guests to their new definitions; without a hypervisor, and in no state.

What a module does with a daemon and what a filter does with texts is the same in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._cpuset import format_cpuset, nodes_text
from .._domain.compare import is_up_to_date
from .._domain.definition import Definition, pci_devices, read_guest, wanted_of
from .._domain.pci import displaced
from .._errors import LayoutError
from .._model.devices import HostDevice
from .._model.domain import Domain
from .._model.host import Host
from .._model.layout import Layout
from .._planner.books import bound_kib, cannot_start, overbooked
from .._planner.nodes import resized
from .._policy import AUTO, HOST, KEEP, Policy, policy_from_options
from .planning import Ask, Others, Planned, load_of, readable
from .select import select_guests
from .update import GuestUpdate, PartitionResult, fingerprint, ledger_fingerprint

if TYPE_CHECKING:
    from .._domain.edit import Edit


@dataclass(frozen=True)
class Group:
    """The hosts of migration groups.

    Attributes:
        hosts: topologies by name.
        anew: whether guests may get another shape than they have.
    """

    hosts: Mapping[str, Host]
    anew: bool = False


NO_GROUP = Group({})


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


def begin_update(
    domain: Domain,
    policy: Policy,
    before: Definition,
    live: Definition | None,
    host: Host,
    group: Group = NO_GROUP,
) -> GuestUpdate:
    """Return a guest at the beginning of its way through a call.

    *live* is the definition that it runs with, None while it is off; *group* has the hosts that it
    is to be able to move to.

    Raises:
        VnumaError: when what the planner needs cannot be read, or its group has no shape in common.
    """
    present = policy.state == "present"
    if present and policy.migration_group:
        from .shapes import in_group

        policy = in_group(policy, before, host, group)
    guest = read_guest(before, host.hugepage_default_kib) if present else None
    asks = present and (policy.device_locality != "ignore" or policy.devices == HOST)
    return GuestUpdate(domain, policy, before, live, guest, pci_devices(before) if asks else ())


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


def make_asks(
    updates: Sequence[GuestUpdate], devices: Mapping[str, HostDevice], result: PartitionResult
) -> list[Ask]:
    """Return what is asked of the planner.

    Guests that are to be restored are left out. *devices* says where their PCI devices are on the
    host; *result* takes the errors of guests that cannot have the size that is asked for.
    """
    asks = []
    for update in updates:
        if update.guest is not None:
            with result.collecting(update.domain):
                update.ask = Ask(
                    update.domain,
                    resized(update.guest, update.policy),
                    update.policy,
                    update.before,
                    update.guest,
                    {one: devices[one] for one in update.devices if one in devices},
                )
                asks.append(update.ask)
    return asks


def write_layouts(
    updates: Sequence[GuestUpdate],
    planned: Planned,
    others: Others,
    host: Host,
    result: PartitionResult,
) -> None:
    """Give every guest that was planned the definition to be; one without has no `after`."""
    result.ledger, result.moves, result.gain = planned.ledger, planned.moves, planned.gain
    if planned.ledger is not None:
        inside = {one.domain.uuid: one.before for one in updates if one.ask is not None}
        result.fingerprint = ledger_fingerprint({**others.definitions, **inside})
        result.beside = {uuid: fingerprint(one) for uuid, one in others.definitions.items()}
    for update in updates:
        ask = update.ask
        if ask is None:
            continue
        with result.collecting(update.domain):
            layout = ask.answered()
            update.warnings.extend(_missed_devices(ask))
            update.warnings.extend(_ended_confinement(update, ask, host))
            update.warnings.extend(layout.warnings)
            _partition(update, layout)


def _missed_devices(ask: Ask) -> list[str]:
    """Say which devices are on nodes that the guest is not on; where those were chosen it is said.

    Raises:
        LayoutError: when its policy requires to be there.
    """
    policy = ask.policy
    nodes = ask.nodes
    missed = [node for node in ask.device_nodes if node not in nodes]
    # With expander buses each device is told of by itself.
    if policy.nodes == AUTO or policy.devices == HOST or not missed or not nodes:
        return []
    sentence = (
        f"its passed-through devices are on {nodes_text(missed)}, and it is on {nodes_text(nodes)}"
    )
    if policy.device_locality == "require":
        raise LayoutError(f"{sentence}; change nodes, or set device_locality to 'prefer'.")
    return [
        f"{sentence}; change nodes, or set device_locality to 'ignore' to silence this warning."
    ]


def _ended_confinement(update: GuestUpdate, ask: Ask, host: Host) -> list[str]:
    """Say where somebody has held all vCPUs of a guest to some pCPUs of a node, and that ends."""
    if update.before.record is not None or ask.policy.pinning == KEEP:
        return []
    pins = dict(ask.now.vcpu_pins)
    sets = {pins.get(vcpu, ask.now.cpuset) for vcpu in range(ask.now.vcpus)}
    confined = sets.pop()
    partly = any(0 < len(set(node.cpus) & set(confined)) < len(node.cpus) for node in host.nodes)
    if sets or not partly or (ask.layout and set(ask.layout.vcpu_pins) == {confined}):
        return []
    return [
        f"its vCPUs are confined to pCPUs {format_cpuset(confined)} by its definition, and pinning "
        f"'{ask.policy.pinning}' ends that; set pinning to 'keep' for the pins that it has."
    ]


def is_placed_anew(update: GuestUpdate) -> bool:
    """Tell whether a guest is to have nodes that it was not on."""
    return update.redefines and update.placement is not None and not update.placement.kept


def short_of_memory(updates: Sequence[GuestUpdate], host: Host) -> list[str]:
    """Return a sentence for each node that has less memory free than guests will ask of it.

    Free memory is no input of the plan, since it changes by the minute; but a guest with a strict
    binding does not start where there is too little.
    """
    loads = [one.ask.load(host) for one in updates if is_placed_anew(one) and one.ask is not None]
    needed = {node.id: bound_kib(loads, node) for node in host.nodes}
    return [
        f"host node {node.id} has {node.free_kib // 1024} MiB free at the moment, and guests that "
        f"are placed there need {needed[node.id] // 1024} MiB when they start; free memory there "
        "first."
        for node in host.nodes
        if node.free_kib is not None and node.free_kib < needed[node.id]
    ]


def check_bound_memory(
    updates: Sequence[GuestUpdate], others: Others, host: Host, result: PartitionResult
) -> None:
    """Warn of nodes to which more is bound than they have, and refuse who could not start there.

    *result* takes the warnings and the errors.
    """
    others, errors = readable(others, host)
    result.warnings.extend(
        f"one of the other guests cannot be read ({str(error).rstrip('.')}), so that the memory "
        "that it binds is not counted; correct its definition."
        for error in sorted(errors.values(), key=str)
    )
    running = [load_of(live, host) for live in others.live.values()]
    loads = others.loads(host)
    for update in updates:
        if update.ask is None:
            continue
        wanted = update.ask.load(host)
        if update.redefines:
            with result.collecting(update.domain):
                sentence = cannot_start(host, wanted, running)
                if sentence is not None:
                    update.after, update.redefines = None, False
                    raise LayoutError(sentence)
        loads.append(wanted if update.after is not None else update.ask.load_now(host))
    changed = {update.domain.name for update in updates if update.redefines}
    result.warnings.extend(overbooked(host, loads, changed))


def _partition(update: GuestUpdate, layout: Layout) -> None:
    wanted = wanted_of(update.before, layout, update.policy)
    if is_up_to_date(update.before, wanted, update.policy):
        update.after = update.before
        return
    # Here, since a run that has nothing to write does not load the writer.
    from .._domain.edit import partitioned

    _take(update, partitioned(update.before, layout, update.policy))


def _restore(update: GuestUpdate) -> None:
    if update.before.record is None:
        update.after = update.before
        return
    from .._domain.edit import restored

    _take(update, restored(update.before))


def _take(update: GuestUpdate, edit: Edit) -> None:
    update.after, update.redefines = edit.definition, edit.changed
    update.warnings.extend(displaced(update.before.root, edit.definition.root))
