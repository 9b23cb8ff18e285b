# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition says of the managed elements as a whole, and what a layout would have it say.

Both are a `ManagedState`: where they are equal there is nothing to write.
"""

from __future__ import annotations

from dataclasses import replace

from .._cpuset import Ids
from .._model.domain import Binding, ManagedState
from .._model.layout import Layout
from .._policy import HOST, KEEP, Policy
from .managed import MANAGED
from .record import find_record, original
from .xml import Element, copied, etree


def read_state(root: Element) -> ManagedState:
    """Return what a definition says of the managed elements.

    Raises:
        DomainError: when one of them is malformed.
    """
    return ManagedState(**{element.field: element.read(root) for element in MANAGED})


def own_state(root: Element, now: ManagedState) -> ManagedState:
    """Return a definition's state with the cells and the CPU topology that the guest has by itself.

    These are what a guest's kernel sees; for a partitioned guest they are as they were before its
    first partition.

    Raises:
        DomainError: when the record is damaged.
    """
    record = find_record(root)
    if record is None:
        return now
    kept, scratch = original(record), etree.Element("domain")
    own = {}
    for element in MANAGED:
        if element.own:
            element.restore(scratch, kept)
            own[element.field] = element.read(scratch)
    return replace(now, **own)


def wanted_state(
    layout: Layout, policy: Policy, now: ManagedState, own: ManagedState
) -> ManagedState:
    """Return what a definition is to say of the managed elements.

    What the policy does not ask for stays as it is *now*; *own* is that of `own_state`.
    """
    mode, bound = layout.memory_mode, layout.memory_mode != "none"
    # libvirt before 9.3 takes 'preferred' with a single node only, and cells may be on several.
    whole = bound and (mode != "preferred" or layout.leaves_cells)
    return ManagedState(
        vcpus=now.vcpus if policy.vcpus is None else layout.vcpus,
        memory=now.memory if policy.memory_kib is None else layout.memory,
        vcpu_placement="static",
        vcpu_pins=_kept_pins(layout, now)
        if policy.pinning == KEEP
        else dict(enumerate(layout.vcpu_pins)),
        emulator_pins=now.emulator_pins
        if policy.emulator_pinning == KEEP
        else {0: layout.emulator_pins}
        if layout.emulator_pins
        else {},
        iothread_pins=now.iothread_pins
        if policy.iothread_pinning == KEEP
        else dict(layout.iothread_pins or {}),
        memory_binding=Binding(mode, layout.nodeset) if whole else None,
        cell_bindings={
            cell.id: Binding(mode, (host_node,))
            for cell, host_node in zip(layout.cells, layout.memory_nodes)
            if bound and host_node is not None
        },
        topology=layout.topology or (own.topology if layout.leaves_cells else None),
        cells=own.cells if layout.leaves_cells else layout.cells,
        devices=layout.devices if policy.devices == HOST else now.devices,
    )


def _kept_pins(layout: Layout, now: ManagedState) -> dict[int, Ids]:
    """Return the pins that a guest has, without those of vCPUs that it will not have."""
    vcpus = layout.vcpus.most if layout.vcpus is not None else len(now.vcpu_pins)
    return {vcpu: cpus for vcpu, cpus in now.vcpu_pins.items() if vcpu < vcpus}


def managed_text(root: Element) -> str:
    """Return the managed elements alone, for ``--diff``; nothing else of the definition shows."""
    shown = etree.Element("domain")
    name, record = root.find("name"), find_record(root)
    if name is not None:
        etree.SubElement(shown, "name").text = name.text
    for element in MANAGED:
        element.show(root, shown)
    if record is not None:
        etree.SubElement(shown, "metadata").append(copied(record))
    etree.indent(shown)
    return str(etree.tostring(shown, encoding="unicode")) + "\n"
