# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's NUMA topology as plain data, and its shape as Ansible facts; no XML, no libvirt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from .._cpuset import (
    MAX_ID,
    Ids,
    format_cpuset,
    parse_cpuset,
    whole_number,
)
from .._errors import HostError, VnumaError

#: Default hugepage size by architecture, in KiB, for hosts that do not say theirs: what Linux
#: takes without ``default_hugepagesz=``, where that is no page's worth of page table entries.
DEFAULT_HUGEPAGE_KIB = {"ppc64": 16384, "ppc64le": 16384, "s390x": 1024}
FALLBACK_HUGEPAGE_KIB = 2048
BASE_PAGE_KIB = 4
# SLIT values (ACPI 6.4, 5.2.17): 10 means local, 0-9 are reserved, 255 means unreachable.
# libvirt takes 10 to 255, and 10 only on the diagonal (docs/formatdomain, "sibling").
DISTANCE_LOCAL = 10
DISTANCE_SAME_NODE = 11
DISTANCE_REMOTE = 20
DISTANCE_HIGHEST = 254
#: Most nodes that facts may have: a guest has no more cells (MAX_NODES of QEMU,
#: include/sysemu/numa.h), and the time of planning grows with their pairs.
MAX_NODES = 128
#: Most page sizes of a node; POWER10 has five.
_MAX_POOLS = 16


@dataclass(frozen=True)
class HugepagePool:
    """One pool of hugepages on a host node.

    Attributes:
        free: pages not in use, None where the hypervisor did not say.
    """

    size_kib: int
    total: int
    free: int | None = None


@dataclass(frozen=True)
class Node:
    """A NUMA node of the host.

    Attributes:
        id: the host's own number; ids may be sparse.
        cpus: online pCPUs, ascending.
        free_kib: memory free when the facts were gathered, None where unknown.
        hugepages: pools by page size; without the ordinary page.
        distances: (node id, distance) pairs as the host reports them; may be incomplete.
        cores: online sibling threads of each core, in order of their lowest pCPU.
        cache_domains: online pCPUs of the node that share an L3 cache, by their lowest pCPU; empty
            where the host does not say.
    """

    id: int
    cpus: tuple[int, ...]
    memory_kib: int
    free_kib: int | None = None
    hugepages: tuple[HugepagePool, ...] = ()
    distances: tuple[tuple[int, int], ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()
    socket_ids: tuple[int, ...] = ()
    cache_domains: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def _distance_by_id(self) -> dict[int, int]:
        return dict(self.distances)

    def distance_to(self, node_id: int) -> int:
        """Return the distance to a node as the host reports it, 0 where it does not."""
        return self._distance_by_id.get(node_id, 0)

    @cached_property
    def threads(self) -> int:
        """The widest core of the node in online threads, 1 for a node without pCPUs."""
        return max((len(core) for core in self.cores), default=1)

    @cached_property
    def domain_numbers(self) -> Mapping[int, int]:
        """The place in ``cache_domains`` of each pCPU that is in one."""
        return {cpu: number for number, cpus in enumerate(self.cache_domains) for cpu in cpus}


@dataclass(frozen=True)
class Host:
    """What a host has; nodes ascend by id.

    Attributes:
        nodes: every node, eligible for guests or not.
        arch: architecture as libvirt names it, such as ``x86_64``.
        libvirt_version: version of the daemon, ``9.0.0``, '' where unknown.
        hypervisor_version: version of QEMU, '' where unknown.
        hugepage_default_kib: page size meant by ``<hugepages/>`` without a size.
        cpu_vendor: vendor as libvirt names it, ``AMD`` or ``Intel``, '' where unknown.
        cpu_model: model as libvirt names it, such as ``Skylake-Server-IBRS``, '' where unknown.
        isolated_cpus: pCPUs that the kernel's scheduler balances nothing onto (``isolcpus=``), None
            where unknown.
        cpu_kinds: pCPUs of a hybrid processor by kind, the fastest kind first; empty where they are
            alike, or nobody says.
    """

    nodes: tuple[Node, ...]
    arch: str = ""
    libvirt_version: str = ""
    hypervisor_version: str = ""
    hugepage_default_kib: int = FALLBACK_HUGEPAGE_KIB
    cpu_vendor: str = ""
    cpu_model: str = ""
    isolated_cpus: tuple[int, ...] | None = None
    cpu_kinds: tuple[tuple[int, ...], ...] = ()
    _by_id: Mapping[int, Node] = field(init=False, repr=False, compare=False, hash=False)
    _cores: Mapping[int, tuple[int, ...]] = field(init=False, repr=False, compare=False, hash=False)
    _node_of: Mapping[int, int] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        """Index the nodes; ids that appear twice are refused.

        Raises:
            HostError: when two nodes have the same id.
        """
        by_id = {node.id: node for node in self.nodes}
        if len(by_id) != len(self.nodes):
            raise HostError("the host topology lists a node id twice; gather it again.")
        cores = {cpu: core for node in self.nodes for core in node.cores for cpu in core}
        node_of = {cpu: node.id for node in self.nodes for cpu in node.cpus}
        object.__setattr__(self, "_by_id", by_id)
        object.__setattr__(self, "_cores", cores)
        object.__setattr__(self, "_node_of", node_of)

    @property
    def eligible(self) -> tuple[Node, ...]:
        """Nodes with at least one online pCPU and memory: the ones guests can be put on."""
        return tuple(node for node in self.nodes if node.cpus and node.memory_kib > 0)

    @property
    def threads_per_core(self) -> int:
        """SMT width that every node with pCPUs has: online threads of its widest core."""
        return min((node.threads for node in self.nodes if node.cpus), default=1)

    def node(self, node_id: int) -> Node | None:
        """Return the node with this id, None where there is none."""
        return self._by_id.get(node_id)

    def nodes_of(self, cpus: Iterable[int]) -> set[int]:
        """Return the ids of the nodes that these pCPUs are on."""
        return {self._node_of[cpu] for cpu in cpus if cpu in self._node_of}

    def core(self, cpu: int) -> tuple[int, ...]:
        """Return the online threads of the core that a pCPU belongs to, () for none."""
        return self._cores.get(cpu, ())

    @cached_property
    def _domain_of(self) -> Mapping[int, tuple[int, ...]]:
        return {
            cpu: domain for node in self.nodes for domain in node.cache_domains for cpu in domain
        }

    def cache_domain(self, cpu: int) -> tuple[int, ...]:
        """Return the pCPUs that share an L3 cache with one, () where the host does not say."""
        return self._domain_of.get(cpu, ())


def host_to_facts(host: Host) -> dict[str, Any]:
    """Return the host in the shape of ``ansible_facts.vnuma_host``: JSON types only."""
    return {
        "nodes": [
            {
                "id": node.id,
                **{key: show(getattr(node, key)) for key, (_read, show) in _NODE.items()},
            }
            for node in host.nodes
        ],
        "threads_per_core": host.threads_per_core,
        **{key: show(getattr(host, key)) for key, (_read, show) in _HOST.items()},
    }


def host_from_facts(facts: object) -> Host:
    """Read what `host_to_facts` wrote, or the same shape written by hand.

    Only ``nodes[].id``, ``cpus`` and ``memory_kib`` are needed; a pCPU that no core names is a core
    of its own. ``threads_per_core`` is an answer, not an input: it follows from ``cores``.

    Raises:
        HostError: when it is not that shape; the sentence names the key and the value.
    """
    if not isinstance(facts, Mapping):
        raise HostError(
            "topology must be ansible_facts.vnuma_host as vnuma_facts returns it, not "
            f"{_shown(facts)}."
        )
    raw_nodes = facts.get("nodes")
    if not isinstance(raw_nodes, (list, tuple)):
        raise HostError(
            f"host.nodes must be a list as vnuma_facts returns it, not {_shown(raw_nodes)}."
        )
    if len(raw_nodes) > MAX_NODES:
        raise HostError(
            f"host.nodes lists {len(raw_nodes)} nodes, and {MAX_NODES} is the most that guests can "
            "have; gather the facts again."
        )
    nodes = sorted((_node_from_facts(raw) for raw in raw_nodes), key=lambda node: node.id)
    usual = facts.get("hugepage_default_kib") or default_hugepage_kib(str(facts.get("arch") or ""))
    given = {**facts, "hugepage_default_kib": usual}
    return Host(
        tuple(nodes),
        **{key: read(given.get(key), f"host.{key}") for key, (read, _show) in _HOST.items()},
    )


def default_hugepage_kib(arch: str, base_page_kib: int = BASE_PAGE_KIB) -> int:
    """Return the page size, in KiB, that Linux takes by default on *arch*.

    Args:
        arch: as libvirt names it.
        base_page_kib: the ordinary page, which kernels for aarch64 may choose: what one page of
            page table entries of 8 bytes maps is the default there (HPAGE_SHIFT is PMD_SHIFT,
            arch/arm64/include/asm/page-def.h).
    """
    if arch == "aarch64":
        return base_page_kib * (base_page_kib * 1024 // 8)
    return DEFAULT_HUGEPAGE_KIB.get(arch, FALLBACK_HUGEPAGE_KIB)


def _node_from_facts(raw: object) -> Node:
    if not isinstance(raw, Mapping) or "id" not in raw:
        raise HostError(f"host.nodes must hold dictionaries with an 'id', not {_shown(raw)}.")
    node_id = _id(raw["id"], "host.nodes[].id")
    where = f"host node {node_id}"
    counts = [
        len(many) if isinstance(many := raw.get(key), (Mapping, list, tuple)) else 0
        for key in ("distances", "hugepages")
    ]
    if counts[0] > MAX_NODES or counts[1] > _MAX_POOLS:
        raise HostError(
            f"{where}: {counts[0]} distances and {counts[1]} sizes of hugepages are more than "
            f"{MAX_NODES} and {_MAX_POOLS}; gather the facts again."
        )
    given = {key: read(raw.get(key), f"{where}: {key}") for key, (read, _show) in _NODE.items()}
    given["cores"] = _whole_cores(given["cores"], given["cpus"], where)
    node = Node(node_id, **given)
    _check_caches(node, where)
    return node


def _whole_cores(cores: Sequence[Ids], cpus: Ids, where: str) -> tuple[Ids, ...]:
    """Return the cores of a node, with the pCPUs that none of them names."""
    seen: set[int] = set()
    online = set(cpus)
    for core in cores:
        stray = sorted(set(core).difference(online))
        if stray:
            raise HostError(
                f"{where}: cores name pCPU {format_cpuset(stray)}, which is not in cpus "
                f"'{format_cpuset(cpus)}'; gather the facts again."
            )
        if seen.intersection(core):
            # Two guests that were each given a core of their own would share it.
            raise HostError(
                f"{where}: cores name pCPU {format_cpuset(seen.intersection(core))} twice, "
                "and a pCPU belongs to one core; gather the facts again."
            )
        seen.update(core)
    return tuple(sorted((*cores, *((cpu,) for cpu in cpus if cpu not in seen))))


def _check_caches(node: Node, where: str) -> None:
    left = set(node.cpus)
    for domain in node.cache_domains:
        wrong = sorted(set(domain).difference(left))
        if wrong:
            raise HostError(
                f"{where}: cache_domains name pCPU {format_cpuset(wrong)} twice, or it is not in "
                f"cpus '{format_cpuset(node.cpus)}'; gather the facts again."
            )
        left.difference_update(domain)


def _pools(value: object, where: str) -> tuple[HugepagePool, ...]:
    found = []
    for raw in _list(value, where):
        if not isinstance(raw, Mapping):
            raise HostError(f"{where} must have size_kib, total and free, not {_shown(raw)}.")
        found.append(
            HugepagePool(
                _integer(raw.get("size_kib"), f"{where}[].size_kib", lowest=1),
                _amount(raw.get("total"), f"{where}[].total"),
                _maybe(raw.get("free"), f"{where}[].free"),
            )
        )
    return tuple(sorted(found, key=lambda pool: pool.size_kib))


def _pools_shown(pools: tuple[HugepagePool, ...]) -> list[dict[str, int | None]]:
    return [asdict(pool) for pool in pools]


def _distances(value: object, where: str) -> tuple[tuple[int, int], ...]:
    given = {} if value is None else value
    if not isinstance(given, Mapping):
        raise HostError(f"{where} must be a dictionary by node id, not {_shown(given)}.")
    return tuple(
        sorted((_id(key, where), _integer(one, f"{where}[{key}]")) for key, one in given.items())
    )


def _distances_shown(distances: tuple[tuple[int, int], ...]) -> dict[str, int]:
    # Facts pass through JSON, whose keys are text: a list survives, int keys do not.
    return {str(target): value for target, value in distances}


def _cpus(value: object, where: str) -> tuple[int, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(sorted({_id(cpu, where) for cpu in value}))
    try:
        return parse_cpuset(str(value))
    except VnumaError as error:
        raise HostError(f"{where}: {error.message}") from error


def _sets(value: object, where: str) -> tuple[Ids, ...]:
    """Read sets of pCPUs, which share none, as far as there can be any.

    Beyond as many pCPUs as a host may have some are named twice, which those that are read show. A
    host that lists a million sets takes no time then.
    """
    found: list[Ids] = []
    named = 0
    for one in _list(value, where):
        if named > MAX_ID + 1 or len(found) > MAX_ID + 1:
            break
        found.append(_cpus(one, where))
        named += len(found[-1])
    return tuple(found)


def _groups(value: object, where: str) -> tuple[Ids, ...]:
    """Return sets of pCPUs, without those that are empty, in order."""
    return tuple(sorted(filter(None, _sets(value, where))))


def _sets_shown(sets: Sequence[Ids]) -> list[str]:
    return [format_cpuset(one) for one in sets]


def _text(value: object, _where: str) -> str:
    return str(value or "")


def _list(value: object, where: str) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return value
    raise HostError(f"{where} must be a list, not {_shown(value)}.")


def _integer(value: object, where: str, lowest: int = 0) -> int:
    number = whole_number(str(value))
    if number is None or number < lowest:
        raise HostError(f"{where} must be an integer of at least {lowest}, not {_shown(value)}.")
    return number


def _amount(value: object, where: str) -> int:
    return 0 if value is None else _integer(value, where)


def _maybe(value: object, where: str) -> int | None:
    return None if value is None else _integer(value, where)


def _id(value: object, where: str) -> int:
    number = _integer(value, where)
    if number > MAX_ID:
        raise HostError(f"{where} must be an integer from 0 to {MAX_ID}, not {_shown(value)}.")
    return number


def _shown(value: object) -> str:
    """Show a value in a sentence without flooding it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _same(value: Any) -> Any:
    return value


#: How each key of a node's facts is read, and how its field is shown; in the order of the facts.
_NODE: Mapping[str, tuple[Callable[[object, str], Any], Callable[[Any], object]]] = {
    "cpus": (_cpus, format_cpuset),
    "memory_kib": (_amount, _same),
    "free_kib": (_maybe, _same),
    "hugepages": (_pools, _pools_shown),
    "distances": (_distances, _distances_shown),
    "cores": (_groups, _sets_shown),
    "socket_ids": (lambda raw, at: tuple(_integer(one, at) for one in _list(raw, at)), list),
    "cache_domains": (_groups, _sets_shown),
}
#: The same of what a host has besides its nodes.
_HOST: Mapping[str, tuple[Callable[[object, str], Any], Callable[[Any], object]]] = {
    "arch": (_text, _same),
    "cpu_vendor": (_text, _same),
    "cpu_model": (_text, _same),
    "hugepage_default_kib": (lambda raw, at: _integer(raw, at, lowest=1), _same),
    "isolated_cpus": (
        lambda raw, at: None if raw is None else _cpus(raw, at),
        lambda cpus: None if cpus is None else format_cpuset(cpus),
    ),
    "cpu_kinds": (_sets, _sets_shown),
    "libvirt_version": (_text, _same),
    "hypervisor_version": (_text, _same),
}
