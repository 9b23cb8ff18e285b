# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page shows: hosts and guests, read from what the modules return.

Only the keys that are named here are taken; whatever else is in a result, a definition with its
passwords among it, never comes further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HostError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    Node,
    host_from_facts,
)

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
        pins: vCPUs and the pCPUs that they are pinned to; without those that are not pinned.
        distances: to every cell by id, () where none are written.
    """

    id: int | None
    vcpus: str
    memory_kib: int | None
    host_nodes: str
    pins: Groups = ()
    distances: tuple[int, ...] = ()


@dataclass(frozen=True)
class LayoutView:
    """A layout, planned or in effect.

    Attributes:
        cells: by id; one entry for a guest without cells.
        topology: the CPU topology in words, '' where it is not set.
        memory_mode: of the memory binding.
        nodeset: host nodes in use.
        emulator_pins: as a cpuset, '' where they are not set.
        iothread_pins: iothreads and their pCPUs.
    """

    cells: tuple[CellView, ...]
    topology: str
    memory_mode: str
    nodeset: str
    emulator_pins: str
    iothread_pins: Groups

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
        domains: cache domains by node, as far as the facts have them.
        isolated: pCPUs that the kernel keeps its scheduler away from.
        guests: by name.
        accounts: what guests take of each node; {} where it is not known.
        planned: the same once a plan is carried out; {} without one.
        floating: guests that are on no node in particular.
        errors: about guests, as (guest, sentence); guest is '' where it is about the host.
        moves: guests that a fresh plan would move, and what that would bring.
    """

    name: str
    host: Host = field(default_factory=lambda: Host(nodes=()))
    domains: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    isolated: frozenset[int] = frozenset()
    guests: tuple[GuestView, ...] = ()
    accounts: Mapping[int, Account] = field(default_factory=dict)
    planned: Mapping[int, Account] = field(default_factory=dict)
    floating: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    moves: tuple[tuple[str, ...], str] = ((), "")

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
        index = {
            cpu: number for number, cpus in enumerate(self.domains.get(node.id, ())) for cpu in cpus
        }
        groups: dict[int, list[tuple[int, ...]]] = {}
        for core in node.cores:
            groups.setdefault(index.get(core[0], -1), []).append(core)
        return tuple(tuple(groups[number]) for number in sorted(groups))

    def has_domains(self, node: Node) -> bool:
        """Tell whether the cache domains of a node are known."""
        return bool(self.domains.get(node.id))


def read_fleet(raw: object) -> list[HostView]:
    """Read all hosts, by name.

    Args:
        raw: by host name, dictionaries with ``host``, ``info``, ``plan`` and ``error``.

    Raises:
        VnumaError: when it is not that shape; the sentence names the host and the key.
    """
    if not isinstance(raw, Mapping):
        raise HostError(f"report takes a dictionary of hosts by name, not {type(raw).__name__}.")
    return [read_host(str(name), raw[name]) for name in sorted(raw, key=str)]


def read_host(name: str, raw: object) -> HostView:
    """Read one host; its name is '' where there is no other.

    Raises:
        VnumaError: when it is not the shape that the modules return.
    """
    where = f"host {name}" if name else "the host"
    entry = _mapping(raw, where, "its entry")
    facts = entry.get("host")
    info = _mapping(entry.get("info") or {}, where, "info")
    plan = _mapping(entry.get("plan") or {}, where, "plan")
    try:
        host = host_from_facts(facts) if facts else Host(nodes=())
        domains, isolated = _caches(facts or {})
    except HostError as error:
        raise HostError(f"{where}: {error.message}") from None
    ledger = _mapping(info.get("ledger") or {}, where, "info.ledger")
    planned = _mapping(plan.get("ledger") or {}, where, "plan.ledger")
    rebalance = info.get("rebalance") or {}
    try:
        return HostView(
            name=name,
            host=host,
            domains=domains,
            isolated=isolated,
            guests=_guests(info.get("guests") or (), plan.get("guests") or ()),
            accounts=_accounts(ledger or ({} if info else planned)),
            planned=_accounts(planned),
            floating=tuple(map(str, ledger.get("floating") or ())),
            errors=tuple(_errors(entry, info, plan)),
            moves=(
                tuple(map(str, rebalance.get("moves") or ())),
                str(rebalance.get("gain") or ""),
            ),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise HostError(
            f"{where}: info and plan must be what vnuma_info and vnuma_partition returned "
            f"({type(error).__name__}: {error}); register their results and pass them as they are."
        ) from None


def _mapping(raw: object, where: str, what: str) -> Mapping[str, Any]:
    if isinstance(raw, Mapping):
        return raw
    raise HostError(
        f"{where}: {what} must be a dictionary as the modules return it, not {type(raw).__name__}."
    )


def _caches(
    facts: Mapping[str, Any],
) -> tuple[dict[int, tuple[tuple[int, ...], ...]], frozenset[int]]:
    domains = {}
    isolated: set[int] = set(_cpus(facts.get("isolated_cpus")))
    for node in facts.get("nodes") or ():
        found = tuple(filter(None, map(_cpus, node.get("cache_domains") or ())))
        if found:
            domains[int(node["id"])] = found
        isolated.update(_cpus(node.get("isolated_cpus")))
    return domains, frozenset(isolated)


def _cpus(text: object) -> tuple[int, ...]:
    return parse_cpuset(str(text)) if text else ()


def _errors(*sources: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield what went wrong: guest by guest where that is known, else the message of the task."""
    entry, *results = sources
    seen: set[tuple[str, str]] = set()
    if entry.get("error"):
        yield "", str(entry["error"])
    for result in results:
        found = [(str(one["name"]), str(one["msg"])) for one in result.get("errors") or ()]
        if not found and result.get("failed", False) and result.get("msg"):
            found = [("", str(result["msg"]))]
        for one in found:
            if one not in seen:
                seen.add(one)
                yield one


def _guests(
    reported: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]
) -> tuple[GuestView, ...]:
    plans = {str(one["name"]): one for one in planned}
    known = {str(one["name"]): one for one in reported}
    names = sorted({*plans, *known})
    return tuple(
        _guest(f"g{number}", name, known.get(name), plans.get(name))
        for number, name in enumerate(names, 1)
    )


def _guest(
    code: str, name: str, info: Mapping[str, Any] | None, plan: Mapping[str, Any] | None
) -> GuestView:
    info, plan = info or {}, plan or {}
    policy = info.get("policy")
    layouts: dict[LayoutView, list[str]] = {}
    found = {}
    for key, title in (("live", "running"), ("persistent", "defined"), ("planned", "planned")):
        if info.get(key) is not None:
            found[key] = _layout(info[key])
            layouts.setdefault(found[key], []).append(title)
    after, changed = None, bool(plan.get("changed"))
    if plan.get("layout") is not None and (changed or not found):
        after = _layout(plan["layout"])
        layouts.setdefault(after, []).append("after this run" if changed and found else "planned")
    placement = info.get("placement") or {}
    affinity, memory = placement.get("vcpus"), placement.get("cells")
    return GuestView(
        code=code,
        name=name,
        state=str(info.get("state") or ""),
        transient=bool(info.get("transient")),
        policy=None
        if policy is None
        else tuple((str(key), str(value)) for key, value in sorted(policy.items())),
        layouts=tuple((tuple(titles), layout) for layout, titles in layouts.items()),
        effective=found.get("live") or found.get("persistent"),
        after=after if changed else None,
        restores=changed and plan.get("layout") is None,
        why=str((plan.get("placement") or {}).get("why") or ""),
        affinity=None
        if affinity is None
        else _grouped((int(vcpu), str(cpus)) for vcpu, cpus in affinity.items()),
        memory=None if memory is None else tuple(map(_memory, memory)),
        drift=tuple(
            DriftView(str(one["between"]), str(one["what"]), str(one["msg"]))
            for one in info.get("drift") or ()
        ),
        restart_required=bool(info.get("restart_required")),
        notes=tuple(map(str, info.get("notes") or ())),
        warnings=tuple(map(str, plan.get("warnings") or ())),
    )


def _layout(raw: Mapping[str, Any]) -> LayoutView:
    pins = [str(cpus) for cpus in raw.get("vcpu_pins") or ()]
    iothreads = raw.get("iothread_pins") or {}
    nodeset = str(raw.get("nodeset") or "")
    topology = raw.get("topology")
    cells = [_cell(one, pins) for one in raw["cells"]]
    if not cells:
        count = len(pins) or _product(topology)
        cells = [
            CellView(
                None,
                format_cpuset(range(count)),
                None,
                nodeset,
                _grouped(enumerate(pins)),
            )
        ]
    return LayoutView(
        cells=tuple(cells),
        topology="" if topology is None else _topology(topology),
        memory_mode=str(raw["memory_mode"]),
        nodeset=nodeset,
        emulator_pins=str(raw.get("emulator_pins") or ""),
        iothread_pins=_grouped((int(number), str(cpus)) for number, cpus in iothreads.items()),
    )


def _cell(raw: Mapping[str, Any], pins: Sequence[str]) -> CellView:
    vcpus = _cpus(raw["vcpus"])
    if pins:
        groups = _grouped((vcpu, pins[vcpu]) for vcpu in vcpus)
    else:
        # Results of guests that do not change have the pins of whole cells alone.
        groups = ((str(raw["vcpus"]), str(raw["pins"])),) if raw.get("pins") else ()
    node = raw.get("host_node")
    return CellView(
        id=int(raw["id"]),
        vcpus=format_cpuset(vcpus),
        memory_kib=int(raw["memory_kib"]),
        host_nodes="" if node is None else str(int(node)),
        pins=groups,
        distances=tuple(map(int, raw.get("distances") or ())),
    )


def _memory(raw: Mapping[str, Any]) -> MemoryView:
    pages, share = raw.get("kib_by_node"), raw.get("local_share")
    return MemoryView(
        cell=None if raw["id"] is None else int(raw["id"]),
        local=str(raw.get("nodes") or ""),
        kib_by_node=None
        if pages is None
        else {
            int(node): int(kib) for node, kib in sorted(pages.items(), key=lambda one: int(one[0]))
        },
        share=None if share is None else float(share),
    )


def _accounts(ledger: Mapping[str, Any]) -> dict[int, Account]:
    return {
        int(one["node"]): Account(
            cores=int(one["cores"]),
            exclusive_cores=int(one["exclusive_cores"]),
            shared_cores=int(one["shared_cores"]),
            memory_kib=int(one["memory_kib"]),
            bound_kib=int(one["bound_kib"]),
            hugepages=tuple(
                (int(pool["size_kib"]), int(pool["total"]), int(pool["taken"]))
                for pool in one["hugepages"]
            ),
            guests=tuple(map(str, one["guests"])),
        )
        for one in ledger.get("nodes") or ()
    }


def _grouped(pairs: Iterable[tuple[int, str]]) -> Groups:
    """Return numbers with the same set together; those without are left out."""
    groups: dict[str, list[int]] = {}
    for number, cpus in sorted(pairs):
        if cpus:
            groups.setdefault(cpus, []).append(number)
    return tuple((format_cpuset(numbers), cpus) for cpus, numbers in groups.items())


def _product(topology: Mapping[str, Any] | None) -> int:
    product = 1
    for value in (topology or {}).values():
        product *= int(value)
    return product if topology else 0


def _topology(raw: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{int(raw[part])} {part if int(raw[part]) != 1 else part[:-1]}"
        for part in ("sockets", "dies", "clusters", "cores", "threads")
        if part in raw
    )
