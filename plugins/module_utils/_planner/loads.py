# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest takes of its host, and what it needs of nodes that it may be put on.

It takes by its definition, whoever wrote that, or by its layout; it needs by the number of nodes.
Cores are counted, and not threads: a guest core takes a host core. Two guest cores on the threads
of one host core slow each other down, and a node that looks free by its threads is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add

from .._cpuset import Ids
from .._errors import LayoutError
from .._model.domain import ManagedState
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Layout
from .._model.placement import Load, Need, Share, Threads
from .._policy import KEEP, Policy
from .books import check_page_sizes
from .cores import EXCLUSIVE, on_host, open_threads
from .distribution import assign_vcpus
from .limits import check_definition, check_guest, check_kind, check_own_cells
from .memory import hugepage_sizes, hugepage_uses, split_memory
from .nodes import check_own_size, leaves_cells, named_nodes, resized_topology

#: Modes of memory bindings that let no memory come from elsewhere.
STRICT_MODES = ("strict", "restrictive")
#: Recorded pins that give way to guests with pCPUs of their own.
_SHARED_PINNING = ("node", "cache")


@dataclass(frozen=True)
class CellSize:
    """The size of a cell, or of a whole guest without cells.

    Attributes:
        cell: id of the cell; 0 for a guest without.
        memory_kib: its memory in KiB, without memory devices.
    """

    cell: int
    vcpus: Ids
    memory_kib: int


def own_sizes(guest: Guest) -> tuple[CellSize, ...]:
    """Return the cells that a guest has without a partition; one where it has none."""
    if not guest.own_cells:
        return (CellSize(0, tuple(range(guest.vcpus)), guest.memory_kib),)
    return tuple(CellSize(cell.id, cell.vcpus, cell.memory_kib) for cell in guest.own_cells)


def needs(
    guest: Guest, host: Host, cells: Sequence[CellSize], threads: int, owns: bool = False
) -> tuple[Need, ...]:
    """Return what each cell of a guest needs.

    vCPUs that are left for hotplug take nothing while they share pCPUs, since they do not run.
    Where vCPUs own pCPUs, they own theirs too: what is plugged in has to find them.

    The host's hugepage pools tell hugepages from ordinary ones; *threads* are those of a guest
    core.
    """
    default_kib, sizes = hugepage_sizes(guest, host.nodes)
    ids, online = {one.cell for one in cells}, frozenset(guest.online)
    found = []
    for one in cells:
        running = len(one.vcpus) if owns else len(online.intersection(one.vcpus))
        size_kib = sizes.get(one.cell, default_kib)
        need = _memory(one.memory_kib, size_kib)
        for device in guest.memory_devices:
            # A memory device of a cell that will not be there is refused when it is planned.
            is_here = device.cell == one.cell or (device.cell not in ids and one is cells[-1])
            if is_here and not device.nodes:
                need += _memory(device.size_kib, _own_page(device.page_kib, size_kib, host))
        found.append(Need(-(-running // threads), need.memory_kib, need.pages))
    return tuple(found)


def device_shares(guest: Guest, host: Host) -> Iterator[Share]:
    """Yield what memory devices take that are on host nodes of their own."""
    default_kib, sizes = hugepage_sizes(guest, host.nodes)
    for device in guest.memory_devices:
        if device.nodes:
            size_kib = _own_page(device.page_kib, sizes.get(device.cell, default_kib), host)
            need = _memory(device.size_kib, size_kib)
            # libvirt binds them as strictly as their cell, and they cannot start elsewhere.
            yield Share(need, memory_nodes=device.nodes, is_strict=True)


def load_by_definition(
    guest: Guest, state: ManagedState, host: Host, pinning: str | None = None
) -> Load:
    """Return what a guest takes by its definition, whoever wrote that.

    *pinning* is how it was pinned by its record, None for a guest that was never partitioned.
    """
    threads = 1 if state.topology is None else state.topology.threads
    vcpus = [cell.vcpus for cell in state.cells] or [tuple(range(guest.vcpus))]
    sizes = [cell.memory_kib for cell in state.cells] or [guest.memory_kib]
    cells = [CellSize(cell, vcpus[cell], size) for cell, size in enumerate(sizes)]
    online = frozenset(guest.online)
    shares = []
    for one, need in zip(cells, needs(guest, host, cells, threads)):
        pins = {vcpu: state.vcpu_pins.get(vcpu, guest.cpuset) for vcpu in one.vcpus}
        owned = _owned(host, pins.values(), pinning)
        sharing = [vcpu for vcpu, cpus in pins.items() if not cpus or not owned.issuperset(cpus)]
        cpu_nodes = _nodes_of_pins(host, list(pins.values()))
        whole = state.memory_binding
        binding = state.cell_bindings.get(one.cell, whole) if state.cells else whole
        bound = () if binding is None else binding.nodes
        shares.append(
            Share(
                need,
                cpu_nodes,
                memory_nodes=bound or cpu_nodes,
                shared_cores=-(-len(online.intersection(sharing)) // threads),
                threads=threads,
                owned=owned,
                is_strict=binding is not None and bool(bound) and binding.mode in STRICT_MODES,
            )
        )
    shares += device_shares(guest, host)
    owned = frozenset[int]().union(*(share.owned for share in shares))
    return Load(
        guest.name, guest.uuid, tuple(shares), (*_threads(guest, state, host, owned, pinning),)
    )


def load_by_layout(
    guest: Guest, layout: Layout, host: Host, owned: frozenset[int] = frozenset()
) -> Load:
    """Return what a guest takes once it has its layout; *owned* are the pCPUs that it owns."""
    if layout.leaves_cells:
        cells = own_sizes(guest)
        cpu_nodes = memory_nodes = [layout.nodeset] * len(cells)
        threads = guest.own_threads
    else:
        cells = tuple(CellSize(cell.id, cell.vcpus, cell.memory_kib) for cell in layout.cells)
        cpu_nodes = [() if node is None else (node,) for node in layout.host_nodes]
        memory_nodes = [() if node is None else (node,) for node in layout.memory_nodes]
        threads = 1 if layout.topology is None else layout.topology.threads
    online = frozenset(guest.online)
    shares = []
    for one, need, on_nodes, bound_to in zip(
        cells, needs(guest, host, cells, threads, bool(owned)), cpu_nodes, memory_nodes
    ):
        pins = {vcpu: layout.vcpu_pins[vcpu] for vcpu in one.vcpus} if layout.vcpu_pins else {}
        mine = frozenset(cpu for cpus in pins.values() for cpu in cpus).intersection(owned)
        sharing = [vcpu for vcpu in one.vcpus if not mine.issuperset(pins.get(vcpu) or (-1,))]
        shares.append(
            Share(
                need,
                on_nodes,
                bound_to,
                shared_cores=-(-len(online.intersection(sharing)) // threads),
                threads=threads,
                owned=mine,
                is_strict=layout.memory_mode in STRICT_MODES,
            )
        )
    return Load(guest.name, guest.uuid, (*shares, *device_shares(guest, host)))


def exclusive_cpus(host: Host, pins: Iterable[Ids]) -> frozenset[int]:
    """Return the pCPUs that some pins take for themselves.

    A vCPU that is held to one pCPU, or to the threads of one core, was put there on purpose: no
    other guest may have those. A pin to anything wider shares.
    """
    taken: set[int] = set()
    for cpus in pins:
        if cpus and (len(cpus) == 1 or set(cpus).issubset(host.core(cpus[0]))):
            taken.update(cpus)
    return frozenset(taken)


def owned_cpus(host: Host, pinning: str, pins: Iterable[Ids]) -> frozenset[int]:
    """Return the pCPUs that a guest owns by what it is pinned to, as its policy has it."""
    if pinning in EXCLUSIVE:
        return frozenset(cpu for cpus in pins for cpu in cpus)
    return exclusive_cpus(host, pins) if pinning == KEEP else frozenset()


def _owned(host: Host, pins: Iterable[Ids], pinning: str | None) -> frozenset[int]:
    """Return the pCPUs that the vCPUs of a cell own.

    What its record says is shared may be a single core, where others own the rest of its node.
    All vCPUs of a cell share the same then; a pin that differs was set by hand.
    """
    known = list(pins)
    if pinning == "cache" or (pinning in _SHARED_PINNING and len(set(known)) == 1):
        return frozenset()
    return exclusive_cpus(host, known)


def shared_threads(
    pins: Iterable[Ids],
    threads: int,
    host: Host,
    owned: frozenset[int] = frozenset(),
    is_held: bool = False,
) -> list[Threads]:
    """Return vCPUs that share pCPUs, by these; an empty set is for any.

    Pins are those of each vCPU that runs, *threads* those of a guest core.
    """
    found = []
    for cpus, vcpus in sorted(Counter(pins).items()):
        if not cpus or not owned.issuperset(cpus):
            node = host.node(min(host.nodes_of(cpus), default=-1))
            width = host.threads_per_core if node is None else node.threads
            cores = Fraction(vcpus, threads) * -(-threads // width)
            found.append(Threads("its vCPUs", cpus, is_held and bool(cpus), cores))
    return found


def _threads(
    guest: Guest, state: ManagedState, host: Host, owned: frozenset[int], pinning: str | None
) -> Iterator[Threads]:
    """Yield the threads of a guest that own no pCPU."""
    width = 1 if state.topology is None else state.topology.threads
    pins = [state.vcpu_pins.get(vcpu, guest.cpuset) for vcpu in guest.online]
    yield from shared_threads(pins, width, host, owned, is_held=pinning not in _SHARED_PINNING)
    for what, cpus in guest.thread_pins:
        yield Threads(what, cpus, is_held=True)


def _memory(size_kib: int, page_kib: int | None) -> Need:
    if page_kib is None:
        return Need(0, size_kib)
    return Need(0, 0, ((page_kib, -(-size_kib // page_kib)),))


def _own_page(page_kib: int | None, of_cell_kib: int | None, host: Host) -> int | None:
    """Return the hugepage of a memory device, None where it has ordinary pages."""
    if page_kib is None:
        return of_cell_kib
    pools = {pool.size_kib for node in host.nodes for pool in node.hugepages}
    return page_kib if not pools or page_kib >= min(pools) else None


def _nodes_of_pins(host: Host, pins: Sequence[Ids]) -> Ids:
    """Return the nodes that the vCPUs are pinned to; () where one of them may run anywhere."""
    if not all(pins):
        return ()
    found: set[int] = set()
    for cpus in set(pins):
        found.update(host.nodes_of(cpus))
    return tuple(sorted(found))


def hotplug_text(guest: Guest) -> str:
    """Return how many vCPUs of a guest are left for hotplug, in brackets; '' where all run."""
    count = guest.vcpus - len(guest.online)
    if not count:
        return ""
    return f" ({count} of its {guest.vcpus} vCPUs are left for hotplug, and are given theirs too)"


@dataclass(frozen=True)
class Needs:
    """What a guest needs of each of its nodes.

    Attributes:
        width: threads of a guest core: where pCPUs are its own, a host core has to have as many.
        of_nodes: by the order of the nodes, which ascend.
    """

    width: int
    of_nodes: tuple[Need, ...]


class Demand:
    """What one guest needs, and of which nodes it may be had.

    Raises:
        LayoutError: when the policy names nodes that cannot be used.
    """

    def __init__(self, guest: Guest, policy: Policy, host: Host) -> None:
        self.guest, self.policy = guest, on_host(policy, host)
        self.is_exclusive = policy.pinning in EXCLUSIVE
        self.overcommit_per_mille = int(policy.cpu_overcommit * 1000)
        self.reserved_kib = policy.reserved_memory_kib
        self._host = host
        check_page_sizes([use.size_kib for use in hugepage_uses(guest, host.nodes)], host)
        eligible = host.eligible
        chosen = (
            eligible
            if policy.auto_nodes is None
            else named_nodes(host, eligible, policy.auto_nodes, "auto_nodes")
        )
        if not chosen:
            raise LayoutError(
                "no host node has both online pCPUs and memory; bring pCPUs online on a node that "
                "has memory."
            )
        self.nodes: dict[int, Node] = {node.id: node for node in chosen}
        self._by_kinds: dict[Hashable, Needs | LayoutError] = {}
        self._kinds = {node.id: self._kind(node) for node in chosen}
        self._by_nodes: dict[Ids, Needs | LayoutError] = {}

    @property
    def most_nodes(self) -> int:
        """The most nodes that it can be on: each backs a cell, and each cell has a vCPU."""
        # A guest that has no cells on any host of its migration group must not get some on one.
        own = 1 if self.policy.migration_group else len(self.nodes)
        cells = self.policy.cells or own
        return max(1, min(len(self.nodes), cells, self.guest.vcpus))

    @property
    def remark(self) -> str:
        """What is to be known of its cores where there are too few, in brackets; '' for nothing."""
        return hotplug_text(self.guest) if self.is_exclusive else ""

    def unit(self, width: int) -> str:
        """Return what its cores are counted in, where they have so many threads."""
        return "pCPUs of their own" if self.policy.pinning == "cpu" and width == 1 else "cores"

    def widest(self, count: int) -> Ids:
        """Return so many of its nodes, those with most threads a core: it needs least of them."""
        nodes = sorted(self.nodes.values(), key=lambda node: (-node.threads, node.id))
        return tuple(sorted(node.id for node in nodes[:count]))

    def needs(self, ids: Ids) -> Needs:
        """Return what it needs of each of these nodes.

        Raises:
            LayoutError: when it cannot be split over so many.
        """
        answer = self._by_nodes.get(ids)
        if answer is None:
            nodes = tuple(self.nodes[node] for node in ids)
            # Nodes of one kind get alike parts; in proportion, their sizes decide.
            kinds: Hashable = (len(nodes), min(node.threads for node in nodes))
            if self.policy.split == "proportional":
                kinds = tuple(self._kinds[node] for node in ids)
            if kinds not in self._by_kinds:
                self._by_kinds[kinds] = self._try(nodes)
            answer = self._by_nodes[ids] = self._by_kinds[kinds]
        if isinstance(answer, LayoutError):
            raise answer
        return answer

    def _kind(self, node: Node) -> Hashable:
        """Return what parts in proportion go by."""
        barred = frozenset(self.policy.reserved_cpus)
        cores = tuple(sorted(len(open_threads(core, barred)) for core in node.cores))
        pools = tuple((pool.size_kib, pool.total) for pool in node.hugepages)
        return node.memory_kib, cores, pools

    def as_it_is(self) -> Needs:
        """Return what it needs of one node by its figures alone, whatever speaks against that."""
        guest = self.guest
        whole = CellSize(0, tuple(range(guest.vcpus)), guest.memory_kib)
        width = guest.own_threads
        return Needs(width, needs(guest, self._host, [whole], width, self.is_exclusive))

    def _try(self, nodes: tuple[Node, ...]) -> Needs | LayoutError:
        try:
            return self._needs(nodes)
        except LayoutError as error:
            return error

    def _needs(self, nodes: tuple[Node, ...]) -> Needs:
        guest, policy = self.guest, self.policy
        if leaves_cells(policy, len(nodes)):
            check_kind(guest)
            check_own_cells(guest)
            check_own_size(guest, policy)
            resized_topology(guest)
            sizes, width = own_sizes(guest), guest.own_threads
        else:
            arch = guest.arch or self._host.arch
            check_guest(guest, arch, policy)
            count = policy.cells or len(nodes)
            check_definition(guest, count)
            backing = [nodes[cell % len(nodes)] for cell in range(count)]
            assigned, topology = assign_vcpus(guest, arch, backing, policy, [])
            memory = split_memory(guest, arch, backing, policy)
            sizes = tuple(
                CellSize(cell, vcpus, memory[cell]) for cell, vcpus in enumerate(assigned)
            )
            width = topology.threads
        taken = needs(guest, self._host, sizes, width, self.is_exclusive)
        return Needs(
            1 if policy.distribution == "round_robin" else width,
            tuple(reduce(add, taken[position :: len(nodes)]) for position in range(len(nodes))),
        )
