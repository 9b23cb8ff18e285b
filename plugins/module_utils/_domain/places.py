# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where managed elements stand in a definition, in libvirt's own order; knows no layout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .xml import (
    Element,
    elements,
    etree,
    insert_after,
    remove,
)

# What stands before a container in libvirt's own order (virDomainDefFormatInternal).
_BEFORE_CPUTUNE = (
    *("name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory"),
    *("currentMemory", "blkiotune", "memtune", "memoryBacking", "vcpu", "vcpus"),
    *("iothreads", "iothreadids", "defaultiothread"),
)
_BEFORE_NUMATUNE = (*_BEFORE_CPUTUNE, "cputune")
_BEFORE_CPU = (
    *_BEFORE_NUMATUNE,
    *(
        "numatune",
        "resource",
        "sysinfo",
        "bootloader",
        "bootloader_args",
        "os",
        "idmap",
        "features",
    ),
)
_TUNING = (
    *("shares", "global_period", "global_quota", "period", "quota"),
    *("emulator_period", "emulator_quota", "iothread_period", "iothread_quota"),
)
CPU_MODEL = ("model", "vendor")


@dataclass(frozen=True)
class _Place:
    """Where elements of one tag belong: their container, and what stands before either."""

    container: str
    before_container: tuple[str, ...]
    before: tuple[str, ...]


_PLACES = {
    "vcpupin": _Place("cputune", _BEFORE_CPUTUNE, _TUNING),
    "emulatorpin": _Place("cputune", _BEFORE_CPUTUNE, (*_TUNING, "vcpupin")),
    "iothreadpin": _Place("cputune", _BEFORE_CPUTUNE, (*_TUNING, "vcpupin", "emulatorpin")),
    "memory": _Place("numatune", _BEFORE_NUMATUNE, ()),
    "memnode": _Place("numatune", _BEFORE_NUMATUNE, ("memory",)),
    "model": _Place("cpu", _BEFORE_CPU, ()),
    "vendor": _Place("cpu", _BEFORE_CPU, ("model",)),
    "topology": _Place("cpu", _BEFORE_CPU, CPU_MODEL),
    "numa": _Place("cpu", _BEFORE_CPU, (*CPU_MODEL, "topology", "cache", "maxphysaddr", "feature")),
}


def add_cpu(root: Element) -> Element:
    """Put an empty ``<cpu>`` into a definition that has none, and return it."""
    cpu = etree.Element("cpu")
    insert_after(root, _BEFORE_CPU, cpu)
    return cpu


def replace_all(root: Element, tag: str, new: list[Element]) -> None:
    """Replace all elements of one tag, in one go for thousands of them."""
    place = _PLACES[tag]
    parent = root.find(place.container)
    if parent is None:
        if not new:
            return
        parent = etree.Element(place.container)
        insert_after(root, place.before_container, parent)
    for old in list(elements(parent, tag)):
        remove(old)
    insert_after(parent, place.before, *new)


def drop_empty(root: Element, containers: Iterable[str]) -> None:
    """Take out the containers among these that have no children any more.

    libvirt gives a <cpu> without mode the attributes of its default; they go with it.
    """
    for container in sorted({"cputune", "numatune", "cpu"}.intersection(containers)):
        element = root.find(container)
        if element is not None and len(element) == 0:
            remove(element)
