# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition says of pCPUs and of memory, read for bookjudge.py without the collection."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from bookcases import GIB, GuestSpec, HostSpec

Cpus = frozenset[int]
#: (nodes, mode, KiB, size of its hugepages in KiB or 0) of a piece of memory.
Memory = tuple[Cpus, str, int, int]
_BYTE = Fraction(1, 1024)
_UNITS: dict[str, int | Fraction] = {"KiB": 1, "MiB": 1 << 10, "GiB": GIB, "bytes": _BYTE}


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
        pins, cores = self.at_boot(), core_of(host)
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
        cores = core_of(host)
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


def core_of(host: HostSpec) -> dict[int, Cpus]:
    """Return the core of each pCPU, as its online threads."""
    return {
        cpu: frozenset(core) for cores in host.node_cores.values() for core in cores for cpu in core
    }


def nodes_of(guest: Guest, host: HostSpec) -> Cpus:
    """Return the nodes that its vCPUs are pinned to."""
    pinned = frozenset[int]().union(*guest.pins.values())
    return frozenset(node for node, cpus in host.node_cpus.items() if pinned & {*cpus})


def cores_on(guest: Guest, host: HostSpec, node: int) -> Fraction:
    """Return how many cores' worth of a node a guest takes by its pins there."""
    cores, here = core_of(host), frozenset(host.node_cpus[node])
    owned = guest.owned(host) & here
    if owned:
        return sum((Fraction(1, len(cores[cpu])) for cpu in owned), Fraction(0))
    pins = [cpus for cpus in guest.at_boot().values() if cpus and cpus <= here]
    width = max((len(core) for core in host.node_cores[node]), default=1)
    each = Fraction(-(-guest.threads // width), guest.threads)
    most = len({cores[cpu] for cpus in pins for cpu in cpus})
    # A guest that is confined by hand takes no more than it is confined to.
    return len(pins) * each if guest.pinning else min(len(pins) * each, Fraction(most))
