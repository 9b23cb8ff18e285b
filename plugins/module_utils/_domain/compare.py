# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running guest differs from a definition."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._cpuset import Ids
from .._model.devices import ExpanderBus, RootPort
from .._model.domain import ManagedState
from .._model.host import Host
from .._model.layout import MemorySize, VcpuCount
from .._policy import NONE, Policy, policy_to_record
from .._size import granule_kib
from .definition import Definition, cpuset_of, devices_kib
from .managed import MANAGED
from .pci import passed_devices
from .record import ORIGINAL, original, recorded_policy
from .xml import Element, elements


@dataclass(frozen=True)
class LivePin:
    """A pin to set in a running guest.

    Attributes:
        field: of `ManagedState`: ``vcpu_pins``, ``emulator_pins`` or ``iothread_pins``.
        number: which vCPU or iothread; 0 for the emulator.
    """

    field: str
    number: int
    cpus: Ids


def is_up_to_date(definition: Definition, wanted: ManagedState, policy: Policy) -> bool:
    """Tell whether a definition says what is wanted, and its record states the policy.

    Editing a definition and comparing what came of it gives the same answer, and takes several
    times as long. On most runs most guests are up to date.

    Raises:
        DomainError: when the record is damaged.
    """
    record, recorded = definition.record, policy_to_record(policy)
    if record is None or recorded_policy(record) != recorded or has_rfc_switch(definition.root):
        return False
    original(record)
    now = definition.state
    return all(
        getattr(now, element.field) == getattr(wanted, element.field)
        # Where there is nothing to pin to, what stood before has to come back: only an edit tells.
        and (
            not element.falls_back
            or bool(getattr(wanted, element.field))
            or recorded[element.option] == NONE
        )
        for element in MANAGED
        if not element.option or element.option in recorded
    )


def has_rfc_switch(root: Element) -> bool:
    """Tell whether a definition asks for cells as the RFC had it: ``<cpu check='numa'>``."""
    cpu = root.find("cpu")
    return cpu is not None and cpu.get("check") == "numa"


def needs_restart(live: Definition, persistent: Definition) -> bool:
    """Tell whether only a cold start can make the running guest equal to the definition.

    Pins are left out: they can be changed while it runs, see `live_pins`.
    """
    now, then = differ_at_start(live, persistent)
    return now != then


def looks_the_same(live: Definition, persistent: Definition) -> bool:
    """Tell whether a guest's kernel would see the same cells and CPU topology after a cold start.

    Its pins belong to those then, and can be set while it runs.
    """
    now, then = differ_at_start(live, persistent)
    return all(
        getattr(now, element.field) == getattr(then, element.field)
        for element in MANAGED
        if element.visible
    )


def live_pins(live: Definition, persistent: Definition, host: Host) -> list[LivePin]:
    """Return the pins to set so that the running guest has those of the definition.

    What the definition leaves free belongs on the pCPUs of ``<vcpu cpuset>``, else on every one.
    """
    everywhere = tuple(sorted({cpu for node in host.nodes for cpu in node.cpus}))
    free_now, free_then = (cpuset_of(one.root) or everywhere for one in (live, persistent))
    options = {
        option
        for definition in (live, persistent)
        if definition.record is not None
        for option in recorded_policy(definition.record)
    }
    changes = []
    for element in MANAGED:
        if not element.live or (element.option and element.option not in options):
            continue
        now, then = (getattr(one.state, element.field) for one in (live, persistent))
        for number in sorted({*now, *then}):
            wanted = then.get(number, free_then)
            if wanted and now.get(number, free_now) != wanted:
                changes.append(LivePin(element.field, number, wanted))
    return changes


def memory_move(live: Definition, persistent: Definition) -> Ids:
    """Return the host nodes that a running guest's memory is to be moved to, () where it is not.

    libvirt moves the memory of a running guest only where that was started with mode
    ``restrictive``, by its cgroup, and all of it to the same nodes (qemuDomainSetNumaParamsLive,
    src/qemu/qemu_driver.c). So it is where the bindings of the cells are none, and nothing but the
    nodes differs; everything else waits for a cold start.
    """
    now, then = differ_at_start(live, persistent)
    first, second = now.memory_binding, then.memory_binding
    if first is None or second is None or now.cell_bindings or first.nodes == second.nodes:
        return ()
    movable = first.mode == "restrictive" and first.placement == second.placement == "static"
    same = replace(now, memory_binding=replace(first, nodes=second.nodes)) == then
    return second.nodes if movable and same else ()


def differ_at_start(first: Definition, second: Definition) -> tuple[ManagedState, ManagedState]:
    """Return what no change of a running guest reaches, of two definitions of one guest."""
    asked = _sizes(first, second)
    placed = first.state.devices or second.state.devices
    names = [set(passed_devices(one.root)) if placed else set() for one in (first, second)]
    shared = names[0] & names[1]
    return fixed_at_start(first, asked, shared), fixed_at_start(second, asked, shared)


def fixed_at_start(
    definition: Definition, asked: frozenset[str], shared: Collection[str]
) -> ManagedState:
    """Return what no change of a running guest reaches, as it would read once started.

    *asked* are the fields about its size that are compared, see `_sizes`; *shared* are the
    passed-through devices that are. Owners plug others in and out, and no restart is due for these.
    """
    state = definition.state
    # libvirt rounds cells up when it starts the guest, and shows the rounded size from then on.
    granule = granule_kib(definition.arch)
    binding = state.memory_binding
    if binding is not None and binding.placement == "auto":
        # A running guest shows numad's answer for this run.
        binding = replace(binding, nodes=())
    return replace(
        state,
        vcpus=_vcpus_at_start(state) if "vcpus" in asked else None,
        memory=_memory_at_start(definition, granule) if "memory" in asked else None,
        vcpu_placement="static",
        **dict[str, Any]({element.field: {} for element in MANAGED if element.live}),
        memory_binding=binding,
        cells=tuple(
            replace(cell, memory_kib=-(-cell.memory_kib // granule) * granule)
            for cell in state.cells
        ),
        devices=tuple(_one_by_one(state.devices, shared)),
    )


def _one_by_one(buses: Sequence[ExpanderBus], shared: Collection[str]) -> list[ExpanderBus]:
    """Return devices as if each had a bus of its own, so that only their places are compared."""
    found = [
        ExpanderBus(0, number, bus.cell, (RootPort(0, 0, (one,)),))
        for bus in buses
        for number, port in enumerate(bus.ports, bus.number)
        for one in port.devices
        if one[0] in shared
    ]
    return sorted(found, key=lambda bus: bus.ports[0].devices)


def _sizes(*definitions: Definition) -> frozenset[str]:
    """Return the fields about a guest's size that this collection has set in one of these.

    Others are somebody else's: vCPUs may be plugged into a running guest, and its balloon moves.
    """
    kept = [
        one
        for definition in definitions
        if definition.record is not None
        for one in elements(definition.record, ORIGINAL)
    ]
    return frozenset(
        element.field
        for element in MANAGED
        if element.stays and any(element.is_kept(one) for one in kept)
    )


def _vcpus_at_start(state: ManagedState) -> VcpuCount | None:
    """Return how many vCPUs there are at most; which of them are online changes as it runs."""
    return None if state.vcpus is None else replace(state.vcpus, online=())


def _memory_at_start(definition: Definition, granule: int) -> MemorySize | None:
    """Return how much memory a guest without cells starts with, as libvirt rounds it up."""
    state = definition.state
    if state.memory is None or state.cells:
        return None
    size = state.memory.total_kib - devices_kib(definition.root)
    return MemorySize(-(-size // granule) * granule, 0)
