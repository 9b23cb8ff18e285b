# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a domain definition: what the planner needs to know, and what this collection manages.

Knows libvirt's XML (docs/formatdomain), neither hosts nor connections. Writing is in _edit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from .._cpuset import parse_cpuset, whole_number
from .._errors import DomainError, VnumaError
from .._model.guest import Guest, HugepageUse
from .record import find_record, record_meaning
from .xml import (
    Element,
    copied,
    elements,
    etree,
    parse_xml,
)

#: Factors of libvirt's units, in bytes; it takes them in any case (virScaleInteger,
#: src/util/virutil.c).
UNIT_BYTES = {
    **dict.fromkeys(("b", "byte", "bytes"), 1),
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("kmgtpe", start=1)},
}

#: Most vCPUs of a definition: an unsigned short (countCPU, src/conf/schemas/domaincommon.rng).
MAX_VCPUS = 65535

# libvirt reads some elements in the first of their containers, and others in every one.
_ONCE = (
    *("vcpu", "vcpus", "memory", "memoryBacking", "cputune", "numatune", "cpu", "metadata"),
    *("iothreads", "iothreadids", "devices"),
)
_CONTAINERS = ("/cputune", "/numatune", "/cpu", "/metadata")
_MANAGED_PATHS = (
    *("/cputune/vcpupin", "/cputune/emulatorpin", "/cputune/iothreadpin"),
    *("/numatune/memory", "/numatune/memnode"),
    *("/cpu/topology", "/cpu/numa", "/cpu/model", "/cpu/vendor"),
)


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

    @cached_property
    def meaning(self) -> dict[str, Any]:
        """What `managed` says of it, found out once; not to be changed.

        Raises:
            DomainError: when something that is managed is malformed.
        """
        return managed(self.root)


def read_definition(text: str) -> Definition:
    """Parse a domain definition.

    Raises:
        DomainError: when it is no well-formed ``<domain>``, or has a document type declaration.
    """
    return Definition(text, parse_xml(text, "domain", DomainError, "domain definition"))


def read_guest(definition: Definition, hugepage_default_kib: int) -> Guest:
    """Return what the planner needs to know.

    Args:
        definition: of the guest.
        hugepage_default_kib: the host's page size where the guest does not name one.

    Raises:
        DomainError: when vCPUs or memory are missing or malformed; the error names the guest.
    """
    try:
        return _guest(definition.root, hugepage_default_kib)
    except VnumaError as error:
        raise DomainError(error.message, guest=definition.name or None) from error


def memory_kib(element: Element) -> int:
    """Return a memory size in KiB, rounded up as libvirt does (virDomainParseMemory)."""
    return _kib(element.text, element.get("unit"), str(element.tag))


def managed(root: Element) -> dict[str, Any]:
    """Return the meaning of everything that this collection manages, for comparison.

    libvirt rewrites what it is given (``0,1`` as ``0-1``, GiB as KiB, ``dies='1'`` added); two
    definitions with equal answers are the same definition as far as this collection goes.
    """
    vcpu, cpu = root.find("vcpu"), root.find("cpu")
    memory, topology = root.find("numatune/memory"), root.find("cpu/topology")
    record = find_record(root)
    return {
        "placement": "static" if vcpu is None else vcpu.get("placement", "static"),
        "vcpupin": _pins(root, "vcpupin", "vcpu"),
        "emulatorpin": _pins(root, "emulatorpin", None),
        "iothreadpin": _pins(root, "iothreadpin", "iothread"),
        "memory": None if memory is None else _binding(memory),
        "memnode": {
            _integer(node.get("cellid"), "cellid"): _binding(node)
            for node in elements(root.find("numatune"), "memnode")
        },
        "cpu_mode": None if cpu is None else cpu.get("mode"),
        "topology": None
        if topology is None
        else {
            name: _integer(topology.get(name, "1"), f"topology {name}")
            for name in ("sockets", "dies", "clusters", "cores", "threads")
        },
        "cells": _cells(root),
        "record": None if record is None else record_meaning(record),
    }


def unmanaged(root: Element) -> Counter[tuple[str, str, str]]:
    """Return everything that this collection does not manage, as (path, attribute, value).

    What is counted here before a define and missing after it has been lost. The CPU's own
    attributes, model and vendor are left out: they are managed where the policy sets the mode.
    """
    found: Counter[tuple[str, str, str]] = Counter()
    record = find_record(root)
    waiting = [(child, "") for child in elements(root)]
    while waiting:
        element, above = waiting.pop()
        path = f"{above}/{element.tag}"
        if path in _MANAGED_PATHS or element is record:
            continue
        if path not in _CONTAINERS:
            found[path, "", (element.text or "").strip()] += 1
        if path != "/cpu":
            found.update(
                (path, name, value)
                for name, value in element.attrib.items()
                if (path, name) != ("/vcpu", "placement")
            )
        waiting.extend((child, path) for child in elements(element))
    return found


def secrets(root: Element) -> set[str]:
    """Return the passwords in a definition, so that they can be struck out of a message."""
    return {value for value in root.xpath("//@passwd | //@password | //@secret") if value}


def managed_text(root: Element) -> str:
    """Return the managed elements alone, for ``--diff``; nothing else of the definition shows."""
    domain = etree.Element("domain")
    name, vcpu, cpu = root.find("name"), root.find("vcpu"), root.find("cpu")
    if name is not None:
        etree.SubElement(domain, "name").text = name.text
    if vcpu is not None:
        etree.SubElement(domain, "vcpu", _only(vcpu, "placement")).text = vcpu.text
    for container, tags in (
        ("cputune", ("vcpupin", "emulatorpin", "iothreadpin")),
        ("numatune", ("memory", "memnode")),
    ):
        shown = [copied(child) for child in elements(root.find(container), *tags)]
        if shown:
            etree.SubElement(domain, container).extend(shown)
    if cpu is not None:
        shown = [copied(child) for child in elements(cpu, "topology", "numa")]
        etree.SubElement(domain, "cpu", _only(cpu, "mode")).extend(shown)
    record = find_record(root)
    if record is not None:
        etree.SubElement(domain, "metadata").append(copied(record))
    etree.indent(domain)
    return str(etree.tostring(domain, encoding="unicode")) + "\n"


def _guest(root: Element, hugepage_default_kib: int) -> Guest:
    for tag in _ONCE:
        if len(root.findall(tag)) > 1:
            raise DomainError(f"the definition has <{tag}> twice; keep one.")
    vcpu, memory = root.find("vcpu"), root.find("memory")
    if vcpu is None or memory is None:
        raise DomainError("the definition has no <vcpu> or no <memory>; define both.")
    vcpus = _integer(vcpu.text, "<vcpu>")
    if vcpus < 1:
        raise DomainError(f"<vcpu> is {vcpus}; a guest needs at least one.")
    if vcpus > MAX_VCPUS:
        raise DomainError(f"<vcpu> is {vcpus}, over {MAX_VCPUS}, the most that libvirt takes.")
    cells = [cell["memory_kib"] for cell in _cells(root)]
    # libvirt counts memory devices into <memory>, and lets cells override it
    # (virDomainDefPostParseMemory, src/conf/domain_postparse.c).
    devices = sum(memory_kib(size) for size in root.iterfind("devices/memory/target/size"))
    shared = sum(cells) if cells else memory_kib(memory) - devices
    if shared < 1:
        raise DomainError(
            f"<memory> is {memory_kib(memory)} KiB, of which its memory devices have {devices} "
            "KiB; nothing is left for its cells."
        )
    return Guest(
        name=(root.findtext("name") or "").strip(),
        uuid=(root.findtext("uuid") or "").strip(),
        arch=_arch(root),
        vcpus=vcpus,
        memory_kib=shared,
        hugepages=_hugepages(root, hugepage_default_kib),
        dimms=_dimms(root),
        iothread_ids=_iothread_ids(root),
        vcpu_pins=tuple(sorted(_pins(root, "vcpupin", "vcpu").items())),
        kind=root.get("type", ""),
        cpu_mode=_cpu_mode(root),
        cpu_model=(root.findtext("cpu/model") or "").strip(),
        has_topoext=any(
            feature.get("name") == "topoext" and feature.get("policy") not in ("disable", "forbid")
            for feature in elements(root.find("cpu"), "feature")
        ),
        has_acpi=root.find("features/acpi") is not None,
        online_vcpus=_online(root, vcpu, vcpus),
    )


def memory_kib_of_cell(cell: Element) -> int:
    """Return a cell's memory in KiB."""
    return _kib(cell.get("memory", ""), cell.get("unit"), "cell")


def _kib(text: str | None, unit: str | None, tag: str) -> int:
    unit = unit or "KiB"
    factor = UNIT_BYTES.get(unit.lower())
    if factor is None:
        raise DomainError(f"<{tag}> has the unit '{unit}', which libvirt does not know.")
    size: int = _integer(text, f"<{tag}>") * factor
    return -(-size // 1024)


def _arch(root: Element) -> str:
    kind = root.find("os/type")
    return "" if kind is None else str(kind.get("arch", ""))


def _cpu_mode(root: Element) -> str:
    cpu = root.find("cpu")
    return "" if cpu is None else str(cpu.get("mode", ""))


def _cells(root: Element) -> list[dict[str, Any]]:
    numa = root.find("cpu/numa")
    return [] if numa is None else list(_cells_of(etree.tostring(numa, with_tail=False)))


@lru_cache(maxsize=256)
def _cells_of(numa: bytes) -> tuple[dict[str, Any], ...]:
    # By its text: a fleet has few sizes, and distances are most of what there is to read.
    numbered = [
        (_integer(cell.get("id") or str(index), "cell id"), index, cell)
        for index, cell in enumerate(elements(etree.fromstring(numa), "cell"))
    ]
    ordered = [cell for _number, _index, cell in sorted(numbered, key=lambda entry: entry[:2])]
    return tuple(_cell(cell, index) for index, cell in enumerate(ordered))


def _hugepages(root: Element, default_kib: int) -> tuple[HugepageUse, ...]:
    backing = root.find("memoryBacking/hugepages")
    if backing is None:
        return ()
    uses = []
    for page in elements(backing, "page"):
        nodeset = page.get("nodeset")
        uses.append(
            HugepageUse(
                _kib(page.get("size", ""), page.get("unit"), "page"),
                None if nodeset is None else parse_cpuset(nodeset),
            )
        )
    return tuple(uses) or (HugepageUse(default_kib),)


def _dimms(root: Element) -> tuple[tuple[int, int], ...]:
    """Return the memory devices that have pages like their cell, and none of their own choosing."""
    found = []
    for device in root.iterfind("devices/memory[@model='dimm']"):
        size, node = device.find("target/size"), device.findtext("target/node")
        if size is not None and node is not None and device.find("source/pagesize") is None:
            found.append((_integer(node, "<node>"), memory_kib(size)))
    return tuple(found)


def _iothread_ids(root: Element) -> tuple[int, ...]:
    ids = {
        _integer(one.get("id"), "iothread id")
        for one in elements(root.find("iothreadids"), "iothread")
    }
    wanted = max(_integer(root.findtext("iothreads") or "0", "<iothreads>"), len(ids))
    # libvirt names the rest by the lowest ids that are free (virDomainDefPostParseIOThreads).
    candidate = 1
    while len(ids) < wanted:
        ids.add(candidate)
        candidate += 1
    return tuple(sorted(ids))


def _online(root: Element, vcpu: Element, vcpus: int) -> tuple[int, ...]:
    listed = list(elements(root.find("vcpus"), "vcpu"))
    if listed:
        return tuple(
            sorted(
                _integer(one.get("id"), "vcpu id") for one in listed if one.get("enabled") == "yes"
            )
        )
    return tuple(range(_integer(vcpu.get("current") or str(vcpus), "<vcpu current>")))


def _pins(root: Element, tag: str, key: str | None) -> dict[int, tuple[int, ...]]:
    return {
        0 if key is None else _integer(pin.get(key), f"<{tag}> {key}"): parse_cpuset(
            pin.get("cpuset", "")
        )
        for pin in elements(root.find("cputune"), tag)
    }


def _binding(element: Element) -> tuple[str, str, tuple[int, ...]]:
    nodeset = element.get("nodeset")
    return (
        element.get("mode", "strict"),
        element.get("placement", "auto" if nodeset is None else "static"),
        () if nodeset is None else parse_cpuset(nodeset),
    )


def _cell(cell: Element, index: int) -> dict[str, Any]:
    return {
        "id": index,
        "cpus": parse_cpuset(cell.get("cpus")) if cell.get("cpus") else (),
        "memory_kib": memory_kib_of_cell(cell),
        "memAccess": cell.get("memAccess"),
        "discard": cell.get("discard"),
        "distances": {
            _integer(one.get("id"), "sibling id"): _integer(one.get("value"), "distance")
            for one in elements(cell.find("distances"), "sibling")
        },
    }


def _integer(text: str | None, what: str) -> int:
    number = whole_number(text or "")
    if number is None:
        raise DomainError(f"{what} is '{text}', where a number belongs.")
    return number


def _only(element: Element, attribute: str) -> dict[str, str]:
    return {attribute: element.get(attribute)} if element.get(attribute) is not None else {}
