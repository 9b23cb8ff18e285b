# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page shows: hosts and guests as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node

#: Sets of numbers as text, each with what belongs to it: vCPUs and their pCPUs.
Groups = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CellView:
    """A cell of a guest, or a whole guest without cells.

    Attributes:
        id: the cell's id, None for a guest without cells.
        vcpus: its vCPUs as a cpuset, '' where nothing says how many the guest has.
        memory_kib: its memory in KiB, None where the result does not say.
        host_nodes: the host nodes that back it, as a nodeset; '' where it is on none in particular.
        memory_node: the host node of its memory where that is another one, else ''.
        pins: vCPUs and the pCPUs that they are pinned to; without those that are not pinned.
        distances: to every cell by id, () where none are written.
    """

    id: int | None
    vcpus: str
    memory_kib: int | None
    host_nodes: str
    pins: Groups = ()
    distances: tuple[int, ...] = ()
    memory_node: str = ""


@dataclass(frozen=True)
class DeviceView:
    """A passed-through PCI device.

    Attributes:
        device: its address on the host.
        host_node: the node that it is on there, None where that is not known.
        root_complex: that it is under there, '' where that is not known.
        cell: of the guest that its kernel is told, None for none.
    """

    device: str
    host_node: int | None
    root_complex: str
    cell: int | None

    @property
    def name(self) -> str:
        """Its address as lspci shows it."""
        return self.device.removeprefix("0000:")


@dataclass(frozen=True)
class LayoutView:
    """A layout, planned or in effect.

    Attributes:
        cells: by id; one entry for a guest without cells.
        vcpus: how many the guest has, None where the result does not say.
        memory_kib: its memory in KiB, None where the result does not say.
        topology: the CPU topology in words, '' where it is not set.
        memory_mode: of the memory binding.
        nodeset: host nodes in use.
        emulator_pins: as a cpuset, '' where they are not set.
        iothread_pins: iothreads and their pCPUs.
        devices: those that the collection puts on cells.
    """

    cells: tuple[CellView, ...]
    vcpus: int | None
    memory_kib: int | None
    topology: str
    memory_mode: str
    nodeset: str
    emulator_pins: str
    iothread_pins: Groups
    devices: tuple[DeviceView, ...] = ()

    @property
    def has_cells(self) -> bool:
        """Whether the guest sees NUMA nodes."""
        return self.cells[0].id is not None

    @property
    def pinned_cpus(self) -> frozenset[int]:
        """The pCPUs that vCPUs are pinned to."""
        return frozenset(
            cpu for cell in self.cells for _vcpus, cpus in cell.pins for cpu in parse_cpuset(cpus)
        )


@dataclass(frozen=True)
class MemoryView:
    """Where the memory of one cell is.

    Attributes:
        cell: its id, None for a guest without cells.
        local: host nodes where it is local, as a nodeset.
        kib_by_node: KiB by host node, None where that is not known.
        share: the local part of it from 0 to 1, None where that is not known.
    """

    cell: int | None
    local: str
    kib_by_node: Mapping[int, int] | None
    share: float | None


@dataclass(frozen=True)
class DriftView:
    """One difference: between what, in what, and the sentence about it."""

    between: str
    what: str
    msg: str


@dataclass(frozen=True)
class GuestView:
    """One guest.

    Attributes:
        code: how the pictures of its host call it.
        name: of the guest.
        state: as vnuma_info has it; '' where only a plan is known.
        transient: whether it has no persistent definition.
        policy: options of its last partition as (name, value); None where it was never partitioned.
        layouts: what it runs with, is defined with and so on, each with its titles; those that are
            alike once.
        effective: what it runs with, or is defined with; None where neither is known.
        after: what a plan would give it; None where it changes nothing, or there is no plan.
        restores: whether the plan restores what stood before the first partition.
        why: the sentence of its placement, '' where no nodes were chosen.
        affinity: vCPUs and the pCPUs that their threads may run on, None where that is not known.
        memory: where it is; None where that is not known.
        drift: what differs.
        restart_required: whether it waits for a cold start.
        devices: its passed-through PCI devices, as it runs, or is defined.
        notes: what could not be determined.
        warnings: sentences of the plan.
    """

    code: str
    name: str
    state: str = ""
    transient: bool = False
    policy: Groups | None = None
    layouts: tuple[tuple[tuple[str, ...], LayoutView], ...] = ()
    effective: LayoutView | None = None
    after: LayoutView | None = None
    restores: bool = False
    why: str = ""
    affinity: Groups | None = None
    memory: tuple[MemoryView, ...] | None = None
    drift: tuple[DriftView, ...] = ()
    restart_required: bool = False
    devices: tuple[DeviceView, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """What guests take of a host node by their definitions; see `NodeAccount` of the planner."""

    cores: int
    exclusive_cores: int
    shared_cores: int
    memory_kib: int
    bound_kib: int
    hugepages: tuple[tuple[int, int, int], ...]
    guests: tuple[str, ...]


@dataclass(frozen=True)
class HostView:
    """One host.

    Attributes:
        name: in the inventory.
        host: its topology; without nodes where it is not known.
        guests: by name.
        accounts: what guests take of each node; {} where it is not known.
        planned: the same once a plan is carried out; {} without one.
        floating: guests that are on no node in particular.
        errors: about guests, as (guest, sentence); guest is '' where it is about the host.
        moves: guests that a fresh plan would move, and what that would bring.
    """

    name: str
    host: Host = field(default_factory=lambda: Host(nodes=()))
    guests: tuple[GuestView, ...] = ()
    accounts: Mapping[int, Account] = field(default_factory=dict)
    planned: Mapping[int, Account] = field(default_factory=dict)
    floating: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    moves: tuple[tuple[str, ...], str] = ((), "")

    @cached_property
    def isolated(self) -> frozenset[int]:
        """pCPUs that the kernel keeps its scheduler away from; none where that is not known."""
        return frozenset(self.host.isolated_cpus or ())

    @cached_property
    def resident_kib(self) -> Mapping[int, int]:
        """Memory of guests on each node in KiB, as far as it is known."""
        found: dict[int, int] = {}
        for guest in self.guests:
            for place in guest.memory or ():
                for node, kib in (place.kib_by_node or {}).items():
                    found[node] = found.get(node, 0) + kib
        return found

    @property
    def changes(self) -> bool:
        """Whether a plan changes any guest."""
        return any(guest.after is not None or guest.restores for guest in self.guests)

    def domains_of(self, node: Node) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """Return the cores of a node, those of each cache domain together.

        A node whose caches are not known is one group.
        """
        groups: dict[int, list[tuple[int, ...]]] = {}
        for core in node.cores:
            groups.setdefault(node.domain_numbers.get(core[0], -1), []).append(core)
        return tuple(tuple(groups[number]) for number in sorted(groups))

    def has_domains(self, node: Node) -> bool:
        """Tell whether the cache domains of a node are known."""
        return bool(node.cache_domains)
