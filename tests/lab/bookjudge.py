# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the plan of a host adds up, by the definitions that it writes, for books.py.

It reads definitions by itself and shares no code with the collection: what both got wrong in the
same place would not be seen. It is lenient where the rules leave something open.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from typing import Any

from bookcases import GIB, Case, GuestSpec, HostSpec

Cpus = frozenset[int]
#: (nodes, mode, KiB, size of its hugepages in KiB or 0) of a piece of memory.
Memory = tuple[Cpus, str, int, int]
_UNITS = {"KiB": 1, "MiB": 1 << 10, "GiB": GIB, "b": Fraction(1, 1024), "bytes": Fraction(1, 1024)}
_SET = re.compile(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*")


@dataclass(frozen=True)
class Fault:
    """A rule that a plan breaks.

    Attributes:
        rule: its letter.
        kind: which sort of breach it is; the same for all examples of it.
        text: this one.
    """

    rule: str
    kind: str
    text: str


@dataclass(frozen=True)
class Sentence:
    """Something that a plan says.

    Attributes:
        about: the guest that it is told of, '' for the call.
        text: what is said.
    """

    about: str
    text: str

    def names(self, guest: str) -> bool:
        """Tell whether a guest is meant."""
        return guest == self.about or re.search(rf"\b{re.escape(guest)}\b", self.text) is not None

    def sets(self) -> Cpus:
        """Return every number that stands in it, those between two ends included."""
        return frozenset().union(*(numbers(found) for found in _SET.findall(self.text)))


def numbers(text: str | None) -> Cpus:
    """Read a cpuset or a nodeset."""
    found: set[int] = set()
    for part in (text or "").replace(" ", "").split(","):
        if part.startswith("^"):
            found.discard(int(part[1:]))
        elif part:
            first, _dash, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


@dataclass
class Guest:
    """What a definition says.

    Attributes:
        spec: the guest as the case has it.
        planned: whether the call gave it this definition.
        vcpus: how many.
        online: of these, at boot.
        threads: of its CPU topology.
        pins: of its vCPUs by number, those without one left out.
        others: where its emulator and its iothreads are pinned to, by name.
        memory: its pieces.
    """

    spec: GuestSpec
    planned: bool
    vcpus: int = 0
    online: int = 0
    threads: int = 1
    pins: dict[int, Cpus] = field(default_factory=dict)
    others: dict[str, Cpus] = field(default_factory=dict)
    memory: list[Memory] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def pinning(self) -> str:
        """What its pins mean: the policy that they were written by, '' for pins by hand."""
        ours = self.planned or self.spec.earlier
        return str(self.spec.policy().get("pinning", "node")) if ours else ""

    def at_boot(self) -> dict[int, Cpus]:
        """Return the pins of the vCPUs that are there when it starts."""
        return {vcpu: cpus for vcpu, cpus in self.pins.items() if vcpu < self.online}

    def owned(self, host: HostSpec) -> Cpus:
        """Return the pCPUs that are its own: of vCPUs that are online."""
        pins, cores = self.at_boot(), _core_of(host)
        if self.pinning == "core":
            return frozenset(
                cpu for cpus in pins.values() for one in cpus for cpu in cores.get(one, (one,))
            )
        if self.pinning == "cpu":
            return frozenset().union(*pins.values())
        if self.pinning or self.confined_to(host):
            return frozenset()
        alone = (
            cpus for cpus in pins.values() if cpus and cpus <= cores.get(min(cpus), frozenset())
        )
        return frozenset().union(*alone)

    def confined_to(self, host: HostSpec) -> Cpus:
        """Return the part of a node that all its vCPUs are kept to by hand, or nothing."""
        sets = set(self.pins.values())
        if self.pinning or len(self.pins) != self.vcpus or len(sets) != 1:
            return frozenset()
        (cpus,) = sets
        cores = _core_of(host)
        if self.vcpus == 1 and cpus <= cores.get(min(cpus), frozenset()):
            return frozenset()
        inside = any(cpus < frozenset(every) for every in host.node_cpus.values())
        return cpus if inside else frozenset()

    def uses(self) -> Iterator[tuple[str, Cpus]]:
        """Yield what may run where; of exclusive guests, without vCPUs that wait for hotplug."""
        pins = self.at_boot() if self.pinning in ("core", "cpu") else self.pins
        yield "a vCPU", frozenset().union(*pins.values())
        yield from self.others.items()


def read(text: str, spec: GuestSpec, planned: bool) -> Guest:
    """Read a definition."""
    root = ET.fromstring(text)  # noqa: S314 - written by us
    vcpu = root.find("vcpu")
    assert vcpu is not None
    count = int(vcpu.text or 0)
    guest = Guest(spec, planned, count, int(vcpu.get("current") or count))
    topology = root.find("cpu/topology")
    if topology is not None:
        guest.threads = int(topology.get("threads") or 1)
    everyone = numbers(vcpu.get("cpuset"))
    pins = {int(pin.get("vcpu", "")): numbers(pin.get("cpuset")) for pin in root.iter("vcpupin")}
    for number in range(count):
        cpus = pins.get(number, everyone)
        if cpus:
            guest.pins[number] = cpus
    _read_threads(root, guest, everyone)
    guest.memory = list(_memory(root))
    return guest


def _read_threads(root: ET.Element, guest: Guest, everyone: Cpus) -> None:
    # libvirt lets the emulator and iothreads without a pin run where <vcpu cpuset> says
    # (qemuProcessSetupPid, src/qemu/qemu_process.c).
    pin = root.find("cputune/emulatorpin")
    emulator = everyone if pin is None else numbers(pin.get("cpuset"))
    if emulator:
        guest.others["its emulator"] = emulator
    pins = {
        int(one.get("iothread", "")): numbers(one.get("cpuset")) for one in root.iter("iothreadpin")
    }
    for number in range(1, int(root.findtext("iothreads") or 0) + 1):
        cpus = pins.get(number, everyone)
        if cpus:
            guest.others["an iothread"] = guest.others.get("an iothread", frozenset()) | cpus


def _memory(root: ET.Element) -> Iterator[Memory]:
    page = root.find("memoryBacking/hugepages/page")
    page_kib = 0 if page is None else _kib(page.get("size"), page.get("unit"))
    whole = root.find("numatune/memory")
    default = (
        (frozenset[int](), "none")
        if whole is None
        else (numbers(whole.get("nodeset")), whole.get("mode") or "strict")
    )
    cells = {
        int(one.get("cellid", "")): (numbers(one.get("nodeset")), one.get("mode") or "strict")
        for one in root.iterfind("numatune/memnode")
    }
    of_devices = 0
    for device in root.iterfind("devices/memory"):
        size = device.find("target/size")
        assert size is not None
        kib = _kib(size.text, size.get("unit"))
        of_devices += kib
        cell = int(device.findtext("target/node") or 0)
        nodes, mode = cells.get(cell, default)
        own = numbers(device.findtext("source/nodemask"))
        # A nodemask of its own goes with the cell's mode, and with strict where there is none
        # (qemuBuildMemoryBackendProps, src/qemu/qemu_command.c).
        yield own or nodes, (mode if mode != "none" else "strict") if own else mode, kib, page_kib
    listed = root.findall("cpu/numa/cell")
    for number, cell_element in enumerate(listed):
        cell = int(cell_element.get("id") or number)
        kib = _kib(cell_element.get("memory"), cell_element.get("unit"))
        yield (*cells.get(cell, default), kib, page_kib)
    total = root.find("memory")
    assert total is not None
    if not listed:
        yield (*default, _kib(total.text, total.get("unit")) - of_devices, page_kib)


def _kib(value: str | None, unit: str | None) -> int:
    return int(int(value or 0) * _UNITS[unit or "KiB"])


def _core_of(host: HostSpec) -> dict[int, Cpus]:
    return {
        cpu: frozenset(core) for cores in host.node_cores.values() for core in cores for cpu in core
    }


@dataclass(frozen=True)
class Verdict:
    """What is looked at: a case, all guests as they are after the call, and all that was said.

    Attributes:
        host: of the case.
        guests: those that the call planned, and the others as they were.
        before: all of them as they were.
        warnings: of the plan.
        errors: of the plan.
    """

    host: HostSpec
    guests: Sequence[Guest]
    before: Sequence[Guest]
    warnings: Sequence[Sentence]
    errors: Sequence[Sentence]

    def faults(self) -> list[Fault]:
        """Return all of them, but for what remedies do."""
        return [
            *self._owned(),
            *self._memory_short(),
            *self._too_many_cores(),
            *self._run_over(),
            *self._let_out(),
        ]

    def _owned(self) -> Iterator[Fault]:
        """(a) What somebody owns, nothing else is pinned to, unless the plan says so by name."""
        for owner in self.guests:
            owned = owner.owned(self.host)
            for user in self.guests:
                if user is owner or not (owner.planned or user.planned):
                    continue
                for what, cpus in user.uses():
                    both = owned & cpus
                    unsaid = sorted(cpu for cpu in both if not self._says(user.name, cpu))
                    if unsaid:
                        by_hand = what != "a vCPU" and user.others.get(what) in (
                            frozenset(user.spec.emulator),
                            frozenset(user.spec.iothread_pins),
                        )
                        yield Fault(
                            "a",
                            f"{what} of {_which(user)}{', by hand,' if by_hand else ''} "
                            f"on pCPUs of {_which(owner)}",
                            f"{owner.name} owns {unsaid}, where {what} of {user.name} may run",
                        )

    def _says(self, guest: str, cpu: int) -> bool:
        return any(
            said.names(guest) and "pCPU" in said.text and cpu in said.sets()
            for said in self.warnings
        )

    def _memory_short(self) -> Iterator[Fault]:
        """(b) What is bound to nodes is there, or the plan says who has too much of which."""
        nodes = list(self.host.node_cpus)
        bound = [
            (guest, *piece)
            for guest in self.guests
            for piece in guest.memory
            if piece[1] in ("strict", "restrictive") and piece[0]
        ]
        sizes = sorted({page for _guest, _nodes, _mode, _kib, page in bound})
        for size in sizes:
            pieces = [piece for piece in bound if piece[4] == size]
            groups = {piece[1] for piece in pieces} | {frozenset(nodes)}
            groups |= {one | other for one, other in combinations(groups, 2)}
            for group in sorted(groups, key=lambda one: (len(one), sorted(one))):
                inside = [piece for piece in pieces if piece[1] <= group]
                needed = sum(piece[3] for piece in inside)
                there = sum(self._capacity(nodes.index(node), size) for node in group & {*nodes})
                if needed > there and any(piece[0].planned for piece in inside):
                    names = sorted({piece[0].name for piece in inside})
                    if not self._says_memory(names, group):
                        yield _short(size, inside, group, needed, there, self.host)
                    break

    def _capacity(self, number: int, size: int) -> int:
        pools = dict(self.host.pool(number))
        if size:
            return size * pools.get(size, 0)
        return self.host.memory_gib[number] * GIB - sum(one * n for one, n in pools.items())

    def _says_memory(self, names: Sequence[str], group: Cpus) -> bool:
        return any(
            any(said.names(name) for name in names)
            and any(group & numbers(found) for found in _node_sets(said.text))
            and re.search("memory|bind|hugepage|bound", said.text)
            for said in (*self.warnings, *self.errors)
        )

    def _too_many_cores(self) -> Iterator[Fault]:
        """(c) Where `nodes: auto` put a guest just now, the guest cores fit the host's."""
        old = {guest.name: _nodes_of(guest, self.host) for guest in self.before}
        for node, cores in self.host.node_cores.items():
            new = [
                guest
                for guest in self.guests
                if guest.planned
                and guest.spec.policy().get("nodes") == "auto"
                and node in _nodes_of(guest, self.host) - old[guest.name]
            ]
            taken = {guest.name: cores_on(guest, self.host, node) for guest in self.guests}
            if new and sum(taken.values()) > len(cores):
                figures = ", ".join(f"{name} {float(one):g}" for name, one in taken.items() if one)
                beyond = any(
                    guest.threads > self.host.threads and taken[guest.name] for guest in self.guests
                )
                exclusive = any(guest.pinning in ("core", "cpu") for guest in new)
                yield Fault(
                    "c",
                    "guest cores "
                    + ("of threads beyond the host's " if beyond else "")
                    + f"do not fit where auto put {'an exclusive' if exclusive else 'a shared'} one",
                    f"node {node} has {len(cores)} cores, and guests there have {figures}",
                )

    def _run_over(self) -> Iterator[Fault]:
        """(d) Exclusive pins avoid a guest that is confined while other cores are free."""
        cores = _core_of(self.host)
        confined = [(guest, guest.confined_to(self.host)) for guest in self.guests]
        taken = frozenset[int]().union(
            *(cpus for _guest, cpus in confined),
            *(guest.owned(self.host) for guest in self.guests),
            *(cpus for guest in self.guests for cpus in guest.others.values()),
            self.host.isolated_cpus(),
        )
        for owner in self.guests:
            if not owner.planned or owner.pinning not in ("core", "cpu"):
                continue
            for guest, cpus in confined:
                both = owner.owned(self.host) & cpus
                width = max((len(cores[cpu]) for cpu in both), default=0)
                home = next((node for node in self.host.node_cpus.values() if both & {*node}), ())
                free = [cpu for cpu in home if not cores[cpu] & taken and len(cores[cpu]) >= width]
                if both and free and guest is not owner:
                    yield Fault(
                        "d",
                        f"exclusive pins of pinning {owner.pinning} run over a confined guest",
                        f"{owner.name} owns {sorted(both)}, which {guest.name} is confined to, "
                        f"and the cores of {free} are free",
                    )

    def _let_out(self) -> Iterator[Fault]:
        """(f) Where a guest is no longer confined, the plan says so."""
        for old, new in zip(self.before, self.guests):
            cpus = old.confined_to(self.host) if new.planned else frozenset()
            wider = frozenset[int]().union(*new.pins.values()) - cpus
            said = any(
                one.names(new.name) and (cpus <= one.sets() or "confine" in one.text)
                for one in self.warnings
            )
            if cpus and wider and not said:
                yield Fault(
                    "f",
                    "a guest in the call is no longer confined, without a word",
                    f"{new.name} was confined to {sorted(cpus)}, and may run on {sorted(wider)}",
                )


def _which(guest: Guest) -> str:
    if guest.planned:
        return "a guest in the call"
    return "a guest placed earlier" if guest.pinning else "a guest that is not ours"


def _node_sets(text: str) -> list[str]:
    return re.findall(r"nodes? (\d[\d,-]*)", text)


def _short(
    size: int,
    inside: Sequence[tuple[Guest, Cpus, str, int, int]],
    group: Cpus,
    needed: int,
    there: int,
    host: HostSpec,
) -> Fault:
    kind = f"hugepages of {'a size that is there' if there else 'no pool'}" if size else "memory"
    if not size and any(host.pools):
        kind += " beside pools"
    if any(guest.spec.dimms and guest.spec.dimms[0][1] >= 0 for guest, *_rest in inside):
        kind += ", with a nodemask"
    if len({guest.name for guest, *_rest in inside}) == 1:
        kind += ", one guest alone"
    who = ", ".join(f"{guest.name} {kib >> 10} MiB" for guest, _nodes, _mode, kib, _page in inside)
    return Fault(
        "b",
        f"{kind} bound beyond what is there, without a word",
        f"nodes {sorted(group)} have {there >> 10} MiB{f' in pages of {size} KiB' if size else ''},"
        f" and {needed >> 10} MiB are bound there ({who})",
    )


def _nodes_of(guest: Guest, host: HostSpec) -> Cpus:
    """Return the nodes that its vCPUs are pinned to."""
    pinned = frozenset[int]().union(*guest.pins.values())
    return frozenset(node for node, cpus in host.node_cpus.items() if pinned & {*cpus})


def cores_on(guest: Guest, host: HostSpec, node: int) -> Fraction:
    """Return how many cores' worth of a node a guest takes by its pins there."""
    cores, here = _core_of(host), frozenset(host.node_cpus[node])
    owned = guest.owned(host) & here
    if owned:
        return sum((Fraction(1, len(cores[cpu])) for cpu in owned), Fraction(0))
    pins = [cpus for cpus in guest.at_boot().values() if cpus and cpus <= here]
    width = max((len(core) for core in host.node_cores[node]), default=1)
    each = Fraction(-(-guest.threads // width), guest.threads)
    most = len({cores[cpu] for cpus in pins for cpu in cpus})
    return min(len(pins) * each, Fraction(most))


def sentences(result: dict[str, Any]) -> tuple[list[Sentence], list[Sentence]]:
    """Return the warnings and the errors of a plan."""
    warnings = [Sentence("", text) for text in result["warnings"]]
    for guest in result["guests"]:
        warnings += [Sentence(guest["name"], text) for text in guest["warnings"]]
    return warnings, [Sentence(error["name"], error["msg"]) for error in result["errors"]]


def verdict(case: Case, before: dict[str, str], result: dict[str, Any]) -> Verdict:
    """Return what is to be looked at of a call.

    Args:
        case: what was asked.
        before: the definitions by name as the call found them.
        result: what it returned.
    """
    planned = {guest["name"]: guest["definition"] for guest in result["guests"]}
    return Verdict(
        case.host,
        [read(planned.get(g.name, before[g.name]), g, g.name in planned) for g in case.guests],
        [read(before[g.name], g, False) for g in case.guests],
        *sentences(result),
    )
