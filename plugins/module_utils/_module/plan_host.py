# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning all guests of a host from their definitions as text, without libvirt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._domain.definition import Definition, read_definition
from .._errors import DomainError, PolicyError
from .._model.devices import HostDevice
from .._model.domain import Domain
from .._model.host import Host
from .._model.layout import layout_to_result
from .._model.placement import ledger_to_result, placement_to_result
from .common import errors_to_result
from .lay_out import (
    Group,
    begin_update,
    check_bound_memory,
    choose,
    make_asks,
    restore,
    write_layouts,
)
from .planning import Others, plan_asks
from .shapes import group_from_facts
from .update import GuestUpdate, PartitionResult

#: A PCI address as the kernel writes it.
_ADDRESS = re.compile("[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}[.][0-7]")


def plan_host(
    texts: Sequence[str],
    host: Host,
    entries: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    rebalance: bool = False,
    topologies: Mapping[str, object] | None = None,
    device_nodes: object = None,
) -> dict[str, Any]:
    """Return the plan for a host, as the filter returns it: JSON types only.

    *texts* are the definitions of every guest of the host. Entries say which of them to plan, as
    `vnuma_partition` takes them; the others are counted. With *rebalance* nodes are chosen as if
    all guests were new, where that is better. *topologies* are those of the hosts of migration
    groups, by name; *device_nodes* says where passed-through devices are.

    Raises:
        VnumaError: when a definition cannot be read, or two guests have one name or one UUID.
    """
    definitions = _by_domain(texts)
    result = PartitionResult()
    updates = []
    group = Group(group_from_facts(topologies), anew=rebalance)
    for domain, policy in choose(list(definitions), entries, options, result):
        with result.collecting(domain):
            updates.append(begin_update(domain, policy, definitions[domain], None, host, group))
    restored = restore(updates, result)
    asks = make_asks(updates, devices_from_entries(device_nodes), result)
    planned = {ask.domain for ask in asks}
    others = Others(
        {
            domain.uuid: restored.get(domain.uuid, definition)
            for domain, definition in definitions.items()
            if domain not in planned
        },
        {},
    )
    planning = plan_asks(asks, others, host, rebalance, with_ways_out=True)
    write_layouts(updates, planning, others, host, result)
    check_bound_memory(updates, others, host, result)
    return {
        "guests": [
            _to_result(update)
            for update in sorted(updates, key=lambda update: update.domain.name)
            if update.after is not None
        ],
        "errors": errors_to_result(result.errors).get("errors", []),
        "warnings": list(result.warnings),
        "ledger": None if result.ledger is None else ledger_to_result(result.ledger),
        "rebalance": {"moves": list(result.moves), "gain": result.gain},
    }


def devices_from_entries(entries: object) -> dict[str, HostDevice]:
    """Return where devices are, by address, from entries as `vnuma_info` returns them.

    Raises:
        PolicyError: when they are none.
    """
    found = {}
    given = [] if entries is None else entries
    for entry in given if isinstance(given, list) else [given]:
        fields = entry if isinstance(entry, Mapping) else {}
        device, node = fields.get("device"), fields.get("host_node")
        if not _ADDRESS.fullmatch(str(device)) or not (
            node is None or (isinstance(node, int) and not isinstance(node, bool))
        ):
            raise PolicyError(
                "device_nodes must be a list of dictionaries with device, such as '0000:3b:00.0', "
                f"and host_node, an integer, as vnuma_info returns them, not '{entry}'."
            )
        found[str(device)] = HostDevice(node, str(fields.get("root_complex") or ""))
    return found


def _by_domain(texts: Sequence[str]) -> dict[Domain, Definition]:
    found: dict[str, Definition] = {}
    for number, text in enumerate(texts, 1):
        definition = read_definition(text)
        if not definition.name:
            raise DomainError(f"definition {number} of {len(texts)} has no <name>; add it.")
        if definition.name in found:
            raise DomainError(
                "two definitions have its name; a host has one guest of a name, keep one.",
                guest=definition.name,
            )
        found[definition.name] = definition
    _check_uuids(found)
    # Templates may have no UUID; a name is as good on one host.
    return {
        Domain(
            name,
            (definition.root.findtext("uuid") or "").strip() or name,
            persistent=True,
            active=False,
        ): definition
        for name, definition in sorted(found.items())
    }


def _check_uuids(definitions: Mapping[str, Definition]) -> None:
    """Refuse copies of a template that have its UUID; by that, guests are told apart.

    Raises:
        DomainError: when two have one; it names both.
    """
    owners: dict[str, str] = {}
    for name, definition in sorted(definitions.items()):
        uuid = (definition.root.findtext("uuid") or "").strip()
        # libvirt reads it in either case, with its dashes or without (virUUIDParse).
        key = uuid.replace("-", "").lower()
        if key and owners.setdefault(key, name) != name:
            raise DomainError(
                f"it has the UUID {uuid} of guest {owners[key]}, and a host has one guest of a "
                "UUID; remove <uuid> from one of them, so that libvirt gives it another.",
                guest=name,
            )


def _to_result(update: GuestUpdate) -> dict[str, Any]:
    layout, placement = update.layout, update.placement
    return {
        "name": update.domain.name,
        "changed": update.redefines,
        "layout": None if layout is None else layout_to_result(layout),
        "placement": None if placement is None else placement_to_result(placement),
        "warnings": list(update.warnings),
        "definition": (update.after or update.before).text,
    }
