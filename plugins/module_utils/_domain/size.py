# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The managed elements that say how large a guest is; they are managed where the policy asks."""

from __future__ import annotations

from typing import Optional

from .._model.layout import MemorySize, VcpuCount
from .._policy import MAX_VCPUS
from .element import ManagedElement
from .units import integer, memory_kib
from .xml import Element, copied, elements, etree, insert_after, remove

#: What stands before each in a definition (virDomainDefFormatInternalSetRootName,
#: src/conf/domain_conf.c in libvirt).
_BEFORE_MEMORY = ("name", "uuid", "genid", "title", "description", "metadata", "maxMemory")
_BEFORE_VCPUS = (
    *(*_BEFORE_MEMORY, "memory", "currentMemory", "blkiotune", "memtune", "memoryBacking"),
    "vcpu",
)


class _Vcpus(ManagedElement[Optional[VcpuCount]]):
    """``<vcpu>`` with ``current``, and ``<vcpus>``, which says of each whether it is online."""

    option = "vcpus"
    stays = True
    wrapper = "vcpuCount"
    visible = True

    @property
    def paths(self) -> tuple[str, ...]:
        """The list alone: of the other only some parts are managed."""
        return ("vcpus",)

    def read(self, root: Element) -> VcpuCount | None:
        vcpu = root.find("vcpu")
        if vcpu is None:
            return None
        most = integer(vcpu.text, "<vcpu>", MAX_VCPUS, 1)
        listed = list(elements(root.find("vcpus"), "vcpu"))
        if listed:
            # libvirt refuses ids beyond the number of vCPUs (virDomainVcpuParse, domain_conf.c).
            online = sorted(
                integer(one.get("id"), "vcpu id", most - 1)
                for one in listed
                if one.get("enabled") == "yes"
            )
            return VcpuCount(most, tuple(online))
        current = integer(vcpu.get("current") or str(most), "<vcpu current>", most)
        return VcpuCount(most, tuple(range(current)))

    def write(self, root: Element, value: VcpuCount | None) -> None:
        vcpu, listed = root.find("vcpu"), root.find("vcpus")
        if value is None or vcpu is None:
            return
        vcpu.text = str(value.most)
        vcpu.attrib.pop("current", None)
        if len(value.online) < value.most:
            vcpu.set("current", str(len(value.online)))
        if listed is None:
            return
        if len(value.online) == value.most:
            remove(listed)
            return
        ids = {
            integer(one.get("id"), "vcpu id", MAX_VCPUS): one for one in elements(listed, "vcpu")
        }
        for number in ids.keys() - set(range(value.most)):
            remove(ids[number])
        offline = [number for number in range(value.most) if number not in ids]
        insert_after(
            listed,
            ("vcpu",),
            *(
                etree.Element("vcpu", {"id": str(one), "enabled": "no", "hotpluggable": "yes"})
                for one in offline
            ),
        )

    def restore(self, root: Element, kept: Element) -> None:
        copy, vcpu = kept.find("vcpuCount"), root.find("vcpu")
        if copy is None or vcpu is None:
            return
        before = copy.find("vcpu")
        vcpu.text = before.text
        vcpu.attrib.pop("current", None)
        if before.get("current") is not None:
            vcpu.set("current", before.get("current"))
        for listed in list(elements(root, "vcpus")):
            remove(listed)
        insert_after(root, _BEFORE_VCPUS, *(copied(one) for one in elements(copy, "vcpus")))

    def show(self, root: Element, shown: Element) -> None:
        """Leave it to the placement of the vCPUs, which shows how many there are."""


class _Memory(ManagedElement[Optional[MemorySize]]):
    """``<memory>`` and ``<currentMemory>``."""

    option = "memory"
    stays = True
    wrapper = "memorySize"

    def read(self, root: Element) -> MemorySize | None:
        memory, current = root.find("memory"), root.find("currentMemory")
        if memory is None:
            return None
        total_kib = memory_kib(memory)
        return MemorySize(total_kib, total_kib if current is None else memory_kib(current))

    def write(self, root: Element, value: MemorySize | None) -> None:
        memory, current = root.find("memory"), root.find("currentMemory")
        if value is None or memory is None:
            return
        _set_kib(memory, value.total_kib)
        if current is None and value.current_kib != value.total_kib:
            current = etree.Element("currentMemory")
            insert_after(root, (*_BEFORE_MEMORY, "memory"), current)
        if current is not None:
            _set_kib(current, value.current_kib)


def _set_kib(element: Element, kib: int) -> None:
    element.text = str(kib)
    element.set("unit", "KiB")


MEMORY = _Memory("memory", "", ("memory", "currentMemory"), _BEFORE_MEMORY)
VCPUS = _Vcpus("vcpus", "", ("vcpu", "vcpus"))
