# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: what the guests of a host take of each node, by their definitions.

A pure function of the host and of every definition on it, whether the guest runs or is off.
Memory that is free at the moment is no input: the page cache would change the plan by the minute.

Cores are counted, and not threads: a guest core takes a host core. Two guest cores on the threads
of one host core slow each other down, and a node that looks free by its threads is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from .._model.domain import ManagedState
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Ids, Layout
from .._model.placement import Holding, Ledger, Need, NodeAccount, Share
from .memory import hugepage_uses
from .pinning import exclusive_cpus


@dataclass(frozen=True)
class Part:
    """A cell of a guest as far as it takes something, or a whole guest without cells.

    Attributes:
        cell: id of the cell; 0 for a guest without.
        vcpus: number of its vCPUs.
        memory_kib: its memory in KiB, without memory devices.
    """

    cell: int
    vcpus: int
    memory_kib: int


def own_parts(guest: Guest) -> tuple[Part, ...]:
    """Return the parts of a guest that has the cells, or none, that it has without a partition."""
    if not guest.own_cells:
        return (Part(0, guest.vcpus, guest.memory_kib),)
    return tuple(Part(cell.id, len(cell.vcpus), cell.memory_kib) for cell in guest.own_cells)


def needs(guest: Guest, host: Host, parts: Sequence[Part], threads: int) -> tuple[Need, ...]:
    """Return what each part of a guest needs.

    Args:
        guest: with its hugepages and memory devices.
        host: whose hugepage pools tell hugepages from ordinary ones.
        parts: of the guest.
        threads: of a guest core.
    """
    uses = hugepage_uses(guest, host.nodes)
    default_kib = next((use.size_kib for use in uses if use.cells is None), None)
    sizes = {cell: use.size_kib for use in uses for cell in use.cells or ()}
    cells = {part.cell for part in parts}
    found = []
    for part in parts:
        size_kib = sizes.get(part.cell, default_kib)
        # A memory device of a cell that will not be there is refused when the guest is planned.
        blocks = [part.memory_kib]
        blocks += [
            dimm_kib
            for cell, dimm_kib in guest.dimms
            if cell == part.cell or (cell not in cells and part is parts[-1])
        ]
        cores = -(-part.vcpus // threads)
        if size_kib is None:
            found.append(Need(cores, sum(blocks)))
        else:
            pages = sum(-(-block // size_kib) for block in blocks)
            found.append(Need(cores, 0, ((size_kib, pages),)))
    return tuple(found)


def holding_by_definition(guest: Guest, state: ManagedState, host: Host) -> Holding:
    """Return what a guest takes by its definition, whoever wrote that.

    Args:
        guest: its figures.
        state: what its definition says of the managed elements.
        host: whose pCPUs its pins mean.
    """
    threads = 1 if state.topology is None else state.topology.threads
    vcpus = [cell.vcpus for cell in state.cells] or [tuple(range(guest.vcpus))]
    sizes = [cell.memory_kib for cell in state.cells] or [guest.memory_kib]
    parts = [Part(cell, len(vcpus[cell]), size) for cell, size in enumerate(sizes)]
    shares = []
    for part, need in zip(parts, needs(guest, host, parts, threads)):
        pins = [state.vcpu_pins.get(vcpu, ()) for vcpu in vcpus[part.cell]]
        cpu_nodes = _nodes_of_pins(host, pins)
        whole = state.memory_binding
        binding = state.cell_bindings.get(part.cell, whole) if state.cells else whole
        bound = () if binding is None else binding.nodes
        owned = exclusive_cpus(host, pins)
        sharing = sum(not cpus or not owned.issuperset(cpus) for cpus in pins)
        shares.append(
            Share(
                need,
                cpu_nodes,
                memory_nodes=bound or cpu_nodes,
                shared_cores=-(-sharing // threads),
                owned=owned,
            )
        )
    return Holding(guest.name, guest.uuid, tuple(shares))


def holding_by_layout(guest: Guest, layout: Layout, host: Host, is_exclusive: bool) -> Holding:
    """Return what a guest takes once it has its layout, its exclusive pins still to be chosen."""
    if layout.leaves_cells:
        parts = own_parts(guest)
        cpu_nodes = memory_nodes = [layout.nodeset] * len(parts)
        threads = guest.own_threads
    else:
        parts = tuple(Part(cell.id, len(cell.vcpus), cell.memory_kib) for cell in layout.cells)
        cpu_nodes = [() if node is None else (node,) for node in layout.host_nodes]
        memory_nodes = [() if node is None else (node,) for node in layout.memory_nodes]
        threads = 1 if layout.topology is None else layout.topology.threads
    taken = needs(guest, host, parts, threads)
    return Holding(
        guest.name,
        guest.uuid,
        tuple(
            Share(
                need,
                on_nodes,
                bound_to,
                shared_cores=0 if is_exclusive else need.cores,
                exclusive_cores=need.cores if is_exclusive else 0,
            )
            for need, on_nodes, bound_to in zip(taken, cpu_nodes, memory_nodes)
        ),
    )


def make_ledger(host: Host, holdings: Iterable[Holding]) -> Ledger:
    """Add up what guests take of each eligible node.

    What floats is shared over the nodes by their size, since it may be anywhere; what is pinned or
    bound to several nodes is shared over those. Sums are exact, so that the order of guests is of
    no matter.
    """
    drafts = {node.id: _Draft(node) for node in host.eligible}
    floating = []
    for holding in holdings:
        if holding.floats:
            floating.append(holding.name)
        for share in holding.shares:
            _add(drafts, holding, share)
    accounts = tuple(draft.account() for _id, draft in sorted(drafts.items()))
    return Ledger(accounts, tuple(sorted(floating)))


@dataclass
class _Draft:
    """The account of one node while guests are added up."""

    node: Node
    owned: set[int] = field(default_factory=set)
    pending: int = 0
    shared: Fraction = Fraction(0)
    bound_kib: Fraction = Fraction(0)
    pages: dict[int, Fraction] = field(default_factory=dict)
    guests: set[str] = field(default_factory=set)

    @property
    def memory_kib(self) -> int:
        """Its memory without the hugepage pools, in KiB."""
        pooled = sum(pool.size_kib * pool.total for pool in self.node.hugepages)
        return max(0, self.node.memory_kib - pooled)

    def account(self) -> NodeAccount:
        """Return the account."""
        cores = [core for core in self.node.cores if not self.owned.isdisjoint(core)]
        totals = {pool.size_kib: pool.total for pool in self.node.hugepages}
        return NodeAccount(
            node=self.node.id,
            cores=len(self.node.cores),
            owned=frozenset(self.owned),
            owned_cores=len(cores),
            pending_cores=self.pending,
            shared_cores=ceil(self.shared),
            memory_kib=self.memory_kib,
            bound_kib=ceil(self.bound_kib),
            pools={
                size_kib: (total, ceil(self.pages.get(size_kib, Fraction(0))))
                for size_kib, total in sorted(totals.items())
            },
            guests=tuple(sorted(self.guests)),
        )


def _add(drafts: Mapping[int, _Draft], holding: Holding, share: Share) -> None:
    need = share.need
    cores = {node: len(draft.node.cores) for node, draft in drafts.items()}
    for node, part in _parts(drafts, share.cpu_nodes, cores).items():
        draft = drafts[node]
        draft.owned.update(share.owned.intersection(draft.node.cpus))
        draft.pending += ceil(share.exclusive_cores * part)
        draft.shared += share.shared_cores * part
    sizes = {id_: draft.memory_kib for id_, draft in drafts.items()}
    for node, part in _parts(drafts, share.memory_nodes, sizes).items():
        drafts[node].bound_kib += need.memory_kib * part
    for size_kib, number in need.pages:
        pools = {
            id_: sum(pool.total for pool in draft.node.hugepages if pool.size_kib == size_kib)
            for id_, draft in drafts.items()
        }
        for node, part in _parts(drafts, share.memory_nodes, pools).items():
            pages = drafts[node].pages
            pages[size_kib] = pages.get(size_kib, Fraction(0)) + number * part
    for node in {*share.cpu_nodes, *share.memory_nodes}.intersection(drafts):
        drafts[node].guests.add(holding.name)


def _parts(
    drafts: Mapping[int, _Draft], nodes: Ids, weights: Mapping[int, int]
) -> dict[int, Fraction]:
    """Return which part of a share is on each node: by weight over its nodes, or over all."""
    among = [node for node in nodes if node in drafts] if nodes else list(drafts)
    total = sum(weights[node] for node in among)
    if not total:
        return {node: Fraction(1, len(among)) for node in among}
    return {node: Fraction(weights[node], total) for node in among if weights[node]}


def _nodes_of_pins(host: Host, pins: Sequence[Ids]) -> Ids:
    """Return the nodes that the vCPUs are pinned to; () where one of them may run anywhere."""
    if not all(pins):
        return ()
    found: set[int] = set()
    for cpus in set(pins):
        found.update(host.nodes_of(cpus))
    return tuple(sorted(found))
