# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest as libvirt lists it, and what its definition says of the managed elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._cpuset import Ids
from .devices import ExpanderBus
from .layout import Cell, MemorySize, Topology, VcpuCount


@dataclass(frozen=True)
class Domain:
    """A guest as libvirt lists it.

    Attributes:
        persistent: False for a transient guest.
        active: True while it runs, is paused, or is otherwise alive.
        saved: whether it had a managed-save image when it was listed.
        start: libvirt's number of this start of it, -1 while it is off: another one, another start.
    """

    name: str
    uuid: str
    persistent: bool
    active: bool
    saved: bool = False
    start: int = -1


@dataclass(frozen=True)
class Condition:
    """What a guest is doing, and how it came to that.

    Attributes:
        state: ``running``, ``paused``, ``off``, ``shutting_down``, ``crashed``, ``suspended``,
            ``gone`` or ``unknown``.
        reason: libvirt's (virDomainRunningReason, virDomainPausedReason, virDomainShutoffReason),
            such as ``booted``, ``starting_up``, ``user``, ``destroyed``; ``unknown`` for others.
    """

    state: str
    reason: str = "unknown"

    @property
    def is_starting(self) -> bool:
        """Whether its QEMU has not begun to run the guest, if there is a QEMU at all."""
        return self.state == "paused" and self.reason == "starting_up"

    def __str__(self) -> str:
        """Return it as virsh words it."""
        words = f"{self.state} ({self.reason})" if self.reason != "unknown" else self.state
        return words.replace("_", " ")


@dataclass(frozen=True)
class Binding:
    """A memory binding.

    Attributes:
        mode: ``strict``, ``preferred``, ``restrictive`` or ``interleave``.
        nodes: host nodes, ascending; empty where numad is asked for them.
        placement: ``static``, or ``auto`` for numad's advice.
    """

    mode: str
    nodes: Ids
    placement: str = "static"


@dataclass(frozen=True)
class ManagedState:
    """What a definition says of the managed elements, whatever its spelling.

    libvirt rewrites what it is given (``0,1`` as ``0-1``, GiB as KiB, ``dies='1'`` added); two
    definitions with equal states are the same definition as far as this collection goes.

    Attributes:
        vcpu_pins: pCPUs by vCPU, for those that are pinned.
        emulator_pins: pCPUs of the emulator's threads, under the key 0; empty where not pinned.
        devices: expander buses that this collection has added, with what is behind them.
    """

    vcpus: VcpuCount | None = None
    memory: MemorySize | None = None
    vcpu_placement: str = "static"
    vcpu_pins: Mapping[int, Ids] = field(default_factory=dict)
    emulator_pins: Mapping[int, Ids] = field(default_factory=dict)
    iothread_pins: Mapping[int, Ids] = field(default_factory=dict)
    memory_binding: Binding | None = None
    cell_bindings: Mapping[int, Binding] = field(default_factory=dict)
    topology: Topology | None = None
    cells: tuple[Cell, ...] = ()
    devices: tuple[ExpanderBus, ...] = ()
