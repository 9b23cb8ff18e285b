# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a domain definition (docs/formatdomain): what the planner needs to know of its guest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from .._cpuset import Ids, parse_cpuset
from .._errors import DomainError, VnumaError
from .._model.devices import PciTree
from .._model.domain import ManagedState
from .._model.guest import Guest, HugepageUse, MemoryDevice, Partition
from .._model.layout import Layout
from .._policy import Policy
from .pci import passed_devices, read_tree
from .record import find_record, recorded_policy
from .state import own_state, read_state, wanted_state
from .units import MAX_IOTHREADS, MAX_UINT, integer, kib, memory_kib
from .validate import QEMU, cell_references, conflicts, vcpu_references
from .xml import Element, elements, parse_xml

T = TypeVar("T")

# libvirt reads some elements in the first of their containers, and others in every one.
_ONCE = (
    *("vcpu", "vcpus", "memory", "memoryBacking", "cputune", "numatune", "cpu", "metadata"),
    *("iothreads", "iothreadids", "devices"),
)
#: Models of memory devices that are memory of the host; the others are files.
_HOST_MEMORY = ("dimm", "virtio-mem")
#: Where virt-manager, virt-install and others say what a guest runs.
_LIBOSINFO = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"


# What an option of QEMU is set to, in either of its spellings: data=… and "data": "…".
_QEMU_VALUE = re.compile(r'[=:]\s*"?([^,"{}]+)')
#: Shorter ones are words such as "on", which are in every sentence.
_LEAST_SECRET = 4


@dataclass(frozen=True)
class Definition:
    """A parsed domain definition.

    Attributes:
        text: the XML as it was read; holds secrets, never to be shown.
        root: its ``<domain>``; not to be edited in place.
    """

    text: str
    root: Element

    @property
    def name(self) -> str:
        """Name of the guest, '' for a definition without."""
        return (self.root.findtext("name") or "").strip()

    @property
    def arch(self) -> str:
        """Architecture of the guest, such as ``x86_64``, '' for a definition without."""
        kind = self.root.find("os/type")
        return "" if kind is None else str(kind.get("arch", ""))

    @cached_property
    def record(self) -> Element | None:
        """The record in it, None where this collection has not partitioned the guest."""
        return find_record(self.root)

    @cached_property
    def guests(self) -> dict[int, Guest]:
        """Its figures, once they were read, by the host's hugepage size in KiB."""
        return {}

    @cached_property
    def state(self) -> ManagedState:
        """What it says of the managed elements, found out once.

        Raises:
            DomainError: when one of them is malformed; the error names the guest.
        """
        return self.named(lambda: read_state(self.root))

    @cached_property
    def pci(self) -> PciTree:
        """What it has of PCI.

        Raises:
            DomainError: when an address in it is none; the error names the guest.
        """
        return self.named(lambda: read_tree(self.root))

    @cached_property
    def own_state(self) -> ManagedState:
        """What it says of the managed elements; see `own_state` in state.

        Raises:
            DomainError: when the record is damaged; the error names the guest.
        """
        return self.named(lambda: own_state(self.root, self.state))

    def named(self, read: Callable[[], T]) -> T:
        """Read something of it; an error names the guest."""
        try:
            return read()
        except VnumaError as error:
            raise DomainError(error.message, guest=self.name or None) from error


def read_definition(text: str) -> Definition:
    """Parse a domain definition.

    Raises:
        DomainError: when it is no well-formed ``<domain>``, or has a document type declaration.
    """
    return Definition(text, parse_xml(text, "domain", DomainError, "domain definition"))


def is_ours(*definitions: Definition | None) -> bool:
    """Tell whether this collection has partitioned a guest, or has not quite let go of it.

    A guest that was partitioned while it ran has the record in its persistent definition alone,
    and one that was restored while it ran has it in its live definition alone: give both.
    """
    return any(one is not None and one.record is not None for one in definitions)


def read_guest(definition: Definition, hugepage_default_kib: int) -> Guest:
    """Return what the planner needs to know.

    Args:
        definition: of the guest.
        hugepage_default_kib: the host's page size where the guest does not name one.

    Raises:
        DomainError: when vCPUs or memory are missing or malformed; the error names the guest.
    """
    if hugepage_default_kib not in definition.guests:
        guest = definition.named(lambda: _guest(definition, hugepage_default_kib))
        definition.guests[hugepage_default_kib] = guest
    return definition.guests[hugepage_default_kib]


def with_own_cells(guest: Guest, definition: Definition) -> Guest:
    """Return a guest with what only its placement asks for: the cells that it has by itself.

    Apart from `read_guest`, since reading the record takes its time for every guest.

    Raises:
        DomainError: when its record is damaged; the error names the guest.
    """
    own = definition.own_state
    return replace(guest, own_topology=own.topology, own_cells=own.cells)


def wanted_of(definition: Definition, layout: Layout, policy: Policy) -> ManagedState:
    """Return what a definition is to say of the managed elements once it has a layout.

    Raises:
        DomainError: when its record is damaged.
    """
    own = definition.own_state if layout.leaves_cells else definition.state
    return wanted_state(layout, policy, definition.state, own)


def devices_kib(root: Element) -> int:
    """Return the memory of all memory devices of a definition in KiB."""
    return sum(memory_kib(size) for size in root.iterfind("devices/memory/target/size"))


def secrets(root: Element) -> set[str]:
    """Return the secrets in a definition, so that they can be struck out of a message.

    QEMU's own command line and environment may hold some, and QEMU quotes what it stumbles over.
    """
    found = {value for value in root.xpath("//@passwd | //@password | //@secret") if value}
    for name, attribute in (("arg", "value"), ("env", "value")):
        for element in root.iterfind(f"{QEMU}commandline/{QEMU}{name}"):
            value = str(element.get(attribute, ""))
            if not value.startswith("-"):
                parts = _QEMU_VALUE.findall(value)
                found |= {part for part in (value, *parts) if len(part) >= _LEAST_SECRET}
    return found


def _guest(definition: Definition, hugepage_default_kib: int) -> Guest:
    root, state = definition.root, definition.state
    for tag in _ONCE:
        if len(root.findall(tag)) > 1:
            raise DomainError(f"the definition has <{tag}> twice; keep one.")
    count, memory, cpu = state.vcpus, state.memory, root.find("cpu")
    if count is None or memory is None:
        raise DomainError("the definition has no <vcpu> or no <memory>; add what is missing.")
    # libvirt counts memory devices into <memory>, and lets cells override it
    # (virDomainDefPostParseMemory, src/conf/domain_postparse.c).
    devices = devices_kib(root)
    shared = sum(cell.memory_kib for cell in state.cells) or memory.total_kib - devices
    if shared < 1:
        raise DomainError(
            f"<memory> is {memory.total_kib} KiB, of which its memory devices have {devices} "
            "KiB; none is left for its cells; increase <memory>."
        )
    first = state.cells[0] if state.cells else None
    iothreads, cpuset = _iothread_ids(root), cpuset_of(root)
    return Guest(
        name=definition.name,
        uuid=(root.findtext("uuid") or "").strip(),
        arch=definition.arch,
        vcpus=count.most,
        memory_kib=shared,
        devices_kib=devices,
        current_kib=memory.current_kib if memory.current_kib < shared + devices else None,
        most_kib=_most_kib(root),
        stated_kib=None if memory.total_kib == shared + devices else memory.total_kib - devices,
        hugepages=_hugepages(root, hugepage_default_kib),
        memory_devices=_memory_devices(root),
        iothread_ids=iothreads,
        vcpu_pins=tuple(sorted(state.vcpu_pins.items())),
        thread_pins=_thread_pins(state, iothreads, cpuset),
        cpuset=cpuset,
        realtime_vcpus=_vcpus_of(
            one
            for one in root.iterfind("cputune/vcpusched")
            if one.get("scheduler") in ("fifo", "rr")
        ),
        cachetune_vcpus=_vcpus_of(root.iterfind("cputune/cachetune")),
        has_shares=root.find("cputune/shares") is not None,
        kind=root.get("type", ""),
        cpu_mode="" if cpu is None else cpu.get("mode", ""),
        cpu_model=(root.findtext("cpu/model") or "").strip(),
        has_topoext=any(
            feature.get("name") == "topoext" and feature.get("policy") not in ("disable", "forbid")
            for feature in elements(cpu, "feature")
        ),
        cache_mode=_attribute(root, "cpu/cache", "mode"),
        machine=_attribute(root, "os/type", "machine"),
        os_id=_attribute(root, f"metadata/{_LIBOSINFO}libosinfo/{_LIBOSINFO}os", "id"),
        partition=_partition(definition),
        has_acpi=root.find("features/acpi") is not None,
        online_vcpus=count.online,
        cell_count=len(state.cells),
        memory_access=None if first is None else first.memory_access,
        discard=None if first is None else first.discard,
        cell_references=cell_references(root),
        vcpu_references=vcpu_references(root),
        conflicts=conflicts(root, state),
    )


def _attribute(root: Element, path: str, name: str) -> str:
    """Return an attribute of an element, '' where the definition does not have it."""
    element = root.find(path)
    return "" if element is None else str(element.get(name, ""))


def _partition(definition: Definition) -> Partition | None:
    state, record = definition.state, definition.record
    if record is None or state.topology is None or not state.cells:
        return None
    # Sockets of the other distributions are not about cells.
    if "distribution" in recorded_policy(record):
        return None
    return Partition(tuple(cell.vcpus for cell in state.cells), state.topology)


def _most_kib(root: Element) -> int | None:
    most = root.find("maxMemory")
    return None if most is None else memory_kib(most)


def _hugepages(root: Element, default_kib: int) -> tuple[HugepageUse, ...]:
    backing = root.find("memoryBacking/hugepages")
    if backing is None:
        return ()
    uses = []
    for page in elements(backing, "page"):
        nodeset = page.get("nodeset")
        uses.append(
            HugepageUse(
                kib(page.get("size", ""), page.get("unit"), "page", 1),
                None if nodeset is None else parse_cpuset(nodeset),
            )
        )
    return tuple(uses) or (HugepageUse(default_kib),)


def _memory_devices(root: Element) -> tuple[MemoryDevice, ...]:
    """Return the memory devices whose memory is the host's; others are files."""
    found = []
    for device in root.iterfind("devices/memory"):
        size, node = device.find("target/size"), device.findtext("target/node")
        if device.get("model") not in _HOST_MEMORY or size is None or node is None:
            continue
        page, nodes = device.find("source/pagesize"), device.findtext("source/nodemask")
        found.append(
            MemoryDevice(
                integer(node, "<node>", MAX_UINT),
                memory_kib(size),
                None if page is None else memory_kib(page),
                parse_cpuset(nodes) if nodes else (),
            )
        )
    return tuple(found)


def cpuset_of(root: Element) -> Ids:
    """Return the pCPUs of all threads that have no pin of their own, () where these are any."""
    cpuset = _attribute(root, "vcpu", "cpuset")
    return parse_cpuset(cpuset) if cpuset.strip() else ()


def _thread_pins(state: ManagedState, iothreads: Ids, cpuset: Ids) -> tuple[tuple[str, Ids], ...]:
    """Return what the emulator and the iothreads are held to: their pins, else the guest's."""
    pins = [("its emulator", state.emulator_pins.get(0, cpuset))]
    pins += [(f"its iothread {one}", state.iothread_pins.get(one, cpuset)) for one in iothreads]
    return tuple((what, cpus) for what, cpus in pins if cpus)


def _vcpus_of(tunings: Iterable[Element]) -> Ids:
    """Return the vCPUs that elements of ``<cputune>`` are about, by their attribute ``vcpus``."""
    sets = (parse_cpuset(one.get("vcpus")) for one in tunings if one.get("vcpus"))
    return tuple(sorted({vcpu for vcpus in sets for vcpu in vcpus}))


def pci_devices(definition: Definition) -> tuple[str, ...]:
    """Return the PCI devices that are passed through, by their addresses on the host.

    Raises:
        DomainError: when one has an address that is none; the error names the guest.
    """
    return definition.named(lambda: tuple(sorted(passed_devices(definition.root))))


def _iothread_ids(root: Element) -> tuple[int, ...]:
    ids = {
        integer(one.get("id"), "iothread id", MAX_UINT, 1)
        for one in elements(root.find("iothreadids"), "iothread")
    }
    count = integer(root.findtext("iothreads") or "0", "<iothreads>", MAX_IOTHREADS)
    wanted = max(count, len(ids))
    # libvirt names the rest by the lowest ids that are free (virDomainDefPostParseIOThreads).
    candidate = 1
    while len(ids) < wanted:
        ids.add(candidate)
        candidate += 1
    return tuple(sorted(ids))
