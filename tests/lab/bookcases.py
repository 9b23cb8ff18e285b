# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random hosts with random guests, for books.py: plain data that can be made smaller.

Nothing is taken from the collection here, so that a fault of it cannot hide in the question.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

GIB = 1 << 20
#: A set of pCPUs, ascending.
Cpus = tuple[int, ...]


def text_of(numbers: Any) -> str:
    """Return numbers as a cpuset; without ranges, which is as valid."""
    return ",".join(map(str, sorted(numbers)))


@dataclass(frozen=True)
class HostSpec:
    """A host, by what it is made of.

    Attributes:
        cores: of each node.
        memory_gib: of each node.
        threads: of each core.
        near: whether siblings have neighbouring numbers.
        step: between the ids of nodes.
        domain_cores: cores that share a cache, 0 where the host does not say.
        pools: of each node, (page size in KiB, pages) by size.
        isolated: number of cores that the kernel isolates, the last of each node.
        offline: pCPUs.
    """

    cores: tuple[int, ...]
    memory_gib: tuple[int, ...]
    threads: int = 1
    near: bool = False
    step: int = 1
    domain_cores: int = 0
    pools: tuple[tuple[tuple[int, int], ...], ...] = ()
    isolated: int = 0
    offline: Cpus = ()

    @cached_property
    def node_cores(self) -> dict[int, list[Cpus]]:
        """The online threads of each core, by node."""
        total, first, found = sum(self.cores), 0, {}
        for number, count in enumerate(self.cores):
            cores = []
            for core in range(first, first + count):
                cpus = tuple(
                    core * self.threads + one if self.near else one * total + core
                    for one in range(self.threads)
                )
                cores.append(tuple(cpu for cpu in cpus if cpu not in self.offline))
            found[number * self.step] = [core for core in cores if core]
            first += count
        return found

    @cached_property
    def node_cpus(self) -> dict[int, Cpus]:
        """The online pCPUs of each node."""
        return {
            node: tuple(sorted(cpu for core in cores for cpu in core))
            for node, cores in self.node_cores.items()
        }

    def isolated_cpus(self) -> Cpus:
        """The pCPUs that the kernel isolates."""
        if not self.isolated:
            return ()
        cores = [core for every in self.node_cores.values() for core in every[-self.isolated :]]
        return tuple(sorted(cpu for core in cores for cpu in core))

    def pool(self, number: int) -> tuple[tuple[int, int], ...]:
        """The hugepages of the node in this place."""
        return self.pools[number] if self.pools else ()

    def _domains(self, cores: list[Cpus]) -> list[str]:
        width = self.domain_cores
        parts = [cores[at : at + width] for at in range(0, len(cores), width)] if width else []
        return [text_of(cpu for core in part for cpu in core) for part in parts]

    def facts(self) -> dict[str, Any]:
        """The host in the shape of ``ansible_facts.vnuma_host``."""
        ids = list(self.node_cores)
        return {
            "nodes": [
                {
                    "id": node,
                    "cpus": text_of(self.node_cpus[node]),
                    "memory_kib": self.memory_gib[number] * GIB,
                    "hugepages": [
                        {"size_kib": size, "total": pages, "free": pages}
                        for size, pages in self.pool(number)
                    ],
                    "distances": {str(other): 10 if other == node else 21 for other in ids},
                    "cores": [text_of(core) for core in cores],
                    "socket_ids": [number],
                    "cache_domains": self._domains(cores),
                }
                for number, (node, cores) in enumerate(self.node_cores.items())
            ],
            "arch": "x86_64",
            "hugepage_default_kib": 2048,
            "isolated_cpus": text_of(self.isolated_cpus()),
            "libvirt_version": "9.0.0",
            "hypervisor_version": "7.2.0",
        }


@dataclass(frozen=True)
class GuestSpec:
    """A guest: its definition as somebody wrote it, and what is asked for it.

    Attributes:
        name: also what its UUID is made of.
        vcpus: how many.
        memory_mib: of its cells.
        threads: of its CPU topology, 0 for a guest without one.
        online: vCPUs at boot, 0 for all.
        in_call: whether it is planned in the call that is judged.
        earlier: whether it was planned before, in a call of its own, with the same options.
        options: its policy.
        cpuset: of ``<vcpu>``.
        pins: of its vCPUs, in order; one for all of them where there is one.
        bound: host nodes that its memory is bound to by hand.
        emulator: what its emulator is pinned to by hand.
        iothreads: how many it has.
        iothread_pins: what all of them are pinned to by hand.
        dimms: (MiB, host node or -1 for none) of its memory devices, in cell 0.
        page_kib: size of its hugepages, 0 for none.
    """

    name: str
    vcpus: int
    memory_mib: int
    threads: int = 0
    online: int = 0
    in_call: bool = True
    earlier: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    cpuset: Cpus = ()
    pins: tuple[Cpus, ...] = ()
    bound: tuple[int, ...] = ()
    emulator: Cpus = ()
    iothreads: int = 0
    iothread_pins: Cpus = ()
    dimms: tuple[tuple[int, int], ...] = ()
    page_kib: int = 0

    def policy(self) -> dict[str, Any]:
        """Its options by name."""
        return dict(self.options)

    def _tuning(self) -> str:
        pins = self.pins if len(self.pins) != 1 else self.pins * self.vcpus
        lines = [
            f"<vcpupin vcpu='{number}' cpuset='{text_of(cpus)}'/>"
            for number, cpus in enumerate(pins[: self.vcpus])
        ]
        if self.emulator:
            lines.append(f"<emulatorpin cpuset='{text_of(self.emulator)}'/>")
        if self.iothread_pins:
            lines += [
                f"<iothreadpin iothread='{number + 1}' cpuset='{text_of(self.iothread_pins)}'/>"
                for number in range(self.iothreads)
            ]
        tuned = f"<cputune>{''.join(lines)}</cputune>" if lines else ""
        if self.bound:
            tuned += f"<numatune><memory mode='strict' nodeset='{text_of(self.bound)}'/></numatune>"
        return tuned

    def _cpu(self) -> str:
        inside = ""
        if self.threads:
            cores = self.vcpus // self.threads
            inside += f"<topology sockets='1' cores='{cores}' threads='{self.threads}'/>"
        if self.dimms:
            last = self.vcpus - 1
            inside += (
                f"<numa><cell id='0' cpus='0-{last}' memory='{self.memory_mib}' unit='MiB'/></numa>"
            )
        return f"<cpu mode='host-passthrough'>{inside}</cpu>" if inside else ""

    def _devices(self) -> str:
        found = ""
        for size, node in self.dimms:
            source = f"<source><nodemask>{node}</nodemask></source>" if node >= 0 else ""
            found += (
                f"<memory model='dimm'>{source}<target><size unit='MiB'>{size}</size>"
                "<node>0</node></target></memory>"
            )
        return f"<devices>{found}</devices>"

    def xml(self) -> str:
        """Its definition."""
        total = self.memory_mib + sum(size for size, _node in self.dimms)
        attributes = "".join(
            f" {name}='{value}'"
            for name, value in (
                ("placement", "static"),
                ("cpuset", text_of(self.cpuset)),
                ("current", str(self.online or "")),
            )
            if value
        )
        most = f"<maxMemory slots='4' unit='MiB'>{2 * total}</maxMemory>" if self.dimms else ""
        pages = f"<hugepages><page size='{self.page_kib}' unit='KiB'/></hugepages>"
        return (
            f"<domain type='kvm'><name>{self.name}</name>"
            f"{most}<memory unit='MiB'>{total}</memory>"
            + (f"<memoryBacking>{pages}</memoryBacking>" if self.page_kib else "")
            + f"<vcpu{attributes}>{self.vcpus}</vcpu>"
            + (f"<iothreads>{self.iothreads}</iothreads>" if self.iothreads else "")
            + self._tuning()
            + "<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
            + f"<features><acpi/></features>{self._cpu()}{self._devices()}</domain>"
        )


@dataclass(frozen=True)
class Case:
    """A host and its guests."""

    host: HostSpec
    guests: tuple[GuestSpec, ...]


def case(seed: int) -> Case:
    """Return the case of a number."""
    draw = random.Random(f"books {seed}")  # noqa: S311 - sizes, and no secrets
    host = _host(draw)
    maker = _Maker(draw, host)
    return Case(host, tuple(maker.guest(f"g{one}") for one in range(draw.randint(2, 7))))


def _host(draw: random.Random) -> HostSpec:
    count = draw.choice((1, 2, 2, 2, 3, 4, 4, 8))
    threads = draw.choice((1, 2, 2, 2, 4, 8))
    most = max(2, 256 // (count * threads))
    sizes = [size for size in (2, 4, 4, 6, 8, 8, 12, 16) if size <= most]
    cores = [draw.choice(sizes)] * count
    memory = [draw.choice((16, 32, 64))] * count
    if draw.random() < 0.2:
        cores[-1] = draw.choice(sizes)
        memory[-1] = draw.choice((16, 32, 64))
    pools: list[tuple[tuple[int, int], ...]] = []
    if draw.random() < 0.3:
        for gib in memory:
            size = draw.choice((2048, GIB))
            pools.append(((size, gib * GIB // draw.choice((2, 4)) // size),))
    spec = HostSpec(
        tuple(cores),
        tuple(memory),
        threads,
        near=draw.random() < 0.4,
        step=8 if draw.random() < 0.2 else 1,
        domain_cores=draw.choice((0, 0, 2, 4)),
        pools=tuple(pools),
        isolated=min(cores) // 4 if draw.random() < 0.15 else 0,
    )
    if draw.random() < 0.15:
        some = [cpus[-1] for cpus in spec.node_cpus.values() if len(cpus) > 2]
        gone = tuple(sorted(draw.sample(some, min(len(some), draw.randint(1, 2)))))
        spec = replace(spec, offline=gone)
    return spec


@dataclass
class _Maker:
    """Makes guests of one host.

    Attributes:
        draw: the dice.
        host: where they are.
        owned: pCPUs that guests own by hand; nothing else is put there by hand.
        used: pCPUs that something else was put on by hand.
    """

    draw: random.Random
    host: HostSpec
    owned: set[int] = field(default_factory=set)
    used: set[int] = field(default_factory=set)

    def guest(self, name: str) -> GuestSpec:
        """Return one more."""
        draw = self.draw
        vcpus = draw.choice((1, 2, 2, 4, 4, 6, 8))
        in_call = draw.random() < 0.75
        earlier = draw.random() < (0.15 if in_call else 0.5)
        keys: dict[str, Any] = {"in_call": in_call, "earlier": earlier}
        if draw.random() < 0.4:
            keys["threads"] = draw.choice([one for one in (1, 2, 2, 4, 8) if vcpus % one == 0])
        if draw.random() < 0.12 and vcpus > 1 and keys.get("threads", 1) == 1:
            keys["online"] = draw.randint(1, vcpus - 1)
        memory = draw.choice((1, 1, 2, 4, 8)) * 1024
        if draw.random() < 0.12:
            memory = max(1, max(self.host.memory_gib) * 6 // 10) * 1024
        keys |= self._memory(memory, by_hand=not in_call and not earlier)
        if not earlier and draw.random() < (0.25 if in_call else 0.85):
            keys |= self._by_hand(vcpus)
        keys |= self._threads_by_hand()
        asked = self._options(keys) if in_call or earlier else ()
        return GuestSpec(name, vcpus, memory, options=asked, **keys)

    def _memory(self, memory: int, by_hand: bool) -> dict[str, Any]:
        draw, keys = self.draw, dict[str, Any]()
        sizes = {size for pool in self.host.pools for size, _pages in pool}
        if sizes and draw.random() < 0.3 and not by_hand:
            keys["page_kib"] = draw.choice(sorted(sizes))
        if draw.random() < 0.12:
            node = draw.choice(list(self.host.node_cpus)) if draw.random() < 0.5 else -1
            keys["dimms"] = ((draw.choice((1024, 2048)), node),)
        if by_hand and memory <= 4096 and draw.random() < 0.5:
            keys["bound"] = (draw.choice(list(self.host.node_cpus)),)
        return keys

    def _some(self, count: int, node: int | None = None) -> Cpus:
        node = self.draw.choice(list(self.host.node_cpus)) if node is None else node
        free = [cpu for cpu in self.host.node_cpus[node] if cpu not in self.owned]
        start = self.draw.randrange(max(1, len(free) - count + 1))
        return tuple(sorted(free[start : start + count]))

    def _by_hand(self, vcpus: int) -> dict[str, Any]:
        kind = self.draw.choice(("own", "own", "cpuset", "same", "node"))
        node = self.draw.choice(list(self.host.node_cpus))
        if kind == "own":
            free = [cpu for cpu in self.host.node_cpus[node] if cpu not in self.owned | self.used]
            if len(free) < 2 * vcpus:
                return {}
            mine = self.draw.sample(free, vcpus)
            self.owned.update(mine)
            return {"pins": tuple((cpu,) for cpu in mine)}
        some = self._some(len(self.host.node_cpus[node]) if kind == "node" else vcpus, node)
        if not some:
            return {}
        # Pins to a whole node are owned by no guest, and exclude nothing that is put there later.
        if kind != "node":
            self.used.update(some)
        return {"cpuset": some} if kind == "cpuset" else {"pins": (some,)}

    def _threads_by_hand(self) -> dict[str, Any]:
        draw, keys = self.draw, dict[str, Any]()
        if draw.random() < 0.2:
            keys["emulator"] = self._some(draw.randint(1, 2))
        if draw.random() < 0.25:
            keys["iothreads"] = draw.randint(1, 2)
            if draw.random() < 0.5:
                keys["iothread_pins"] = self._some(1)
        for name in ("emulator", "iothread_pins"):
            self.used.update(keys.get(name, ()))
        return keys

    def _options(self, keys: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        draw = self.draw
        nodes = list(self.host.node_cpus)
        chosen = "auto"
        if draw.random() < 0.4:
            chosen = text_of(draw.sample(nodes, min(len(nodes), draw.choice((1, 1, 1, 2)))))
        found: dict[str, Any] = {"nodes": chosen}
        found["pinning"] = draw.choice(("node", "node", "node", "cache", "core", "cpu", "cpu"))
        if draw.random() < 0.15:
            found["emulator_pinning"] = "nodes"
        if keys.get("iothreads") and draw.random() < 0.4:
            found["iothread_pinning"] = "nodes"
        if draw.random() < 0.1:
            found["memory_mode"] = "preferred"
        if draw.random() < 0.08:
            found["split"] = "proportional"
        if draw.random() < 0.3:
            found["reserved_memory"] = 0
        return tuple(found.items())
