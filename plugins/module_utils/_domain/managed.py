# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The managed elements: the one place that knows how each is read and written.

A managed element is an entry of `MANAGED`. Who adds one adds a field to `ManagedState` (in
_model/domain) for what it says, an entry here, and a line to `wanted_state` (in state) for what a
layout would have it say; and one to `WORDS` (in words) for how a difference in it is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Optional

from .._cpuset import Ids, format_cpuset, parse_cpuset
from .._errors import DomainError
from .._model.domain import Binding
from .._model.layout import Cell, MemorySize, Topology, VcpuCount
from .._policy import MAX_CELLS, MAX_VCPUS
from .element import CPU, CPUTUNE, NUMATUNE, ManagedElement, only
from .pci import DEVICES
from .units import MAX_DISTANCE, MAX_UINT, integer, kib, memory_kib
from .xml import Element, copied, elements, etree, in_bytes, insert_after, remove

_QUOTAS = (
    *("shares", "global_period", "global_quota", "period", "quota"),
    *("emulator_period", "emulator_quota", "iothread_period", "iothread_quota"),
)
_CPU_MODEL = ("model", "vendor")
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


class _Pins(ManagedElement[Mapping[int, Ids]]):
    """Pins of threads: ``<vcpupin>``, ``<emulatorpin>`` or ``<iothreadpin>``."""

    live = of_host = True

    def __init__(self, field: str, tag: str, before: Sequence[str], option: str) -> None:
        super().__init__(field, CPUTUNE, [tag], before)
        self.option, self.falls_back = option, bool(option)
        #: Attribute with the number of the thread; there is only one emulator.
        self.key = "" if tag == "emulatorpin" else tag.removesuffix("pin")
        # By libvirt's schema (vcpuid and unsignedInt, src/conf/schemas/domaincommon.rng).
        self.most = MAX_VCPUS if self.key == "vcpu" else MAX_UINT

    def read(self, root: Element) -> dict[int, Ids]:
        return {self._number(pin): parse_cpuset(pin.get("cpuset", "")) for pin in self.found(root)}

    def _number(self, pin: Element) -> int:
        if not self.key:
            return 0
        return integer(pin.get(self.key), f"<{self.tag}> {self.key}", self.most)

    def format(self, value: Mapping[int, Ids]) -> list[Element]:
        return [
            etree.Element(
                self.tag,
                {**({self.key: str(number)} if self.key else {}), "cpuset": format_cpuset(cpus)},
            )
            for number, cpus in value.items()
        ]


class _MemoryBinding(ManagedElement[Optional[Binding]]):
    """``<numatune><memory>``: the binding of the guest's memory as a whole."""

    of_host = True

    def read(self, root: Element) -> Binding | None:
        return next((_binding(element) for element in self.found(root)), None)

    def format(self, value: Binding | None) -> list[Element]:
        return [] if value is None else [_binding_element(self.tag, {}, value)]


class _CellBindings(ManagedElement[Mapping[int, Binding]]):
    """``<numatune><memnode>``: the binding of each cell's memory."""

    of_host = True

    def read(self, root: Element) -> dict[int, Binding]:
        return {
            integer(element.get("cellid"), "cellid", MAX_CELLS - 1): _binding(element)
            for element in self.found(root)
        }

    def format(self, value: Mapping[int, Binding]) -> list[Element]:
        return [
            _binding_element(self.tag, {"cellid": str(cell)}, binding)
            for cell, binding in value.items()
        ]


class _CpuTopology(ManagedElement[Optional[Topology]]):
    """``<cpu><topology>``."""

    visible = own = True

    def read(self, root: Element) -> Topology | None:
        element = next(self.found(root), None)
        if element is None:
            return None
        topology = Topology(
            **{
                part: integer(element.get(part, "1"), f"topology {part}", MAX_VCPUS, 1)
                for part in ("sockets", "dies", "clusters", "cores", "threads")
            }
        )
        # libvirt's own limit, 4294967295 (virDomainDefGetVcpusTopology, src/conf/domain_conf.c), is
        # for hypervisors that do not compare it with the number of vCPUs, as QEMU's driver does.
        if topology.vcpus > MAX_VCPUS:
            raise DomainError(
                f"its CPU topology is for {topology.vcpus} vCPUs, and a guest has at most "
                f"{MAX_VCPUS}; correct its definition."
            )
        return topology

    def format(self, value: Topology | None) -> list[Element]:
        if value is None:
            return []
        # libvirt learned dies in 6.1 and clusters in 10.1; one of either goes without saying.
        parts = [
            ("sockets", value.sockets),
            *([("dies", value.dies)] if value.dies > 1 else []),
            *([("clusters", value.clusters)] if value.clusters > 1 else []),
            ("cores", value.cores),
            ("threads", value.threads),
        ]
        return [etree.Element(self.tag, {part: str(count) for part, count in parts})]


class _Cells(ManagedElement[tuple[Cell, ...]]):
    """``<cpu><numa>``: the cells."""

    visible = own = True

    def read(self, root: Element) -> tuple[Cell, ...]:
        numa = next(self.found(root), None)
        return () if numa is None else _cells(in_bytes(numa))

    def format(self, value: tuple[Cell, ...]) -> list[Element]:
        if not value:
            return []
        numa = etree.Element(self.tag)
        numa.extend(_cell_element(cell) for cell in value)
        return [numa]


class _VcpuPlacement(ManagedElement[str]):
    """``<vcpu placement>``: ``auto`` lets numad choose, which pins would contradict."""

    def read(self, root: Element) -> str:
        vcpu = root.find("vcpu")
        return "static" if vcpu is None else str(vcpu.get("placement", "static"))

    def write(self, root: Element, value: str) -> None:
        if self.read(root) != value:
            root.find("vcpu").set("placement", value)

    def keep(self, root: Element, kept: Element) -> None:
        if self.read(root) != "static":
            etree.SubElement(kept, "vcpu", placement=self.read(root))

    def restore(self, root: Element, kept: Element) -> None:
        copy = kept.find("vcpu")
        self.write(root, "static" if copy is None else str(copy.get("placement", "static")))

    def show(self, root: Element, shown: Element) -> None:
        vcpu = root.find("vcpu")
        if vcpu is not None:
            attributes = {**only(vcpu, "placement"), **only(vcpu, "current")}
            etree.SubElement(shown, "vcpu", attributes).text = vcpu.text


MEMORY = _Memory("memory", "", ("memory", "currentMemory"), _BEFORE_MEMORY)
_BEFORE_NUMA = (*_CPU_MODEL, "topology", "cache", "maxphysaddr", "feature")
#: Every managed element, in the order of a definition.
MANAGED: tuple[ManagedElement[Any], ...] = (
    MEMORY,
    _Vcpus("vcpus", "", ("vcpu", "vcpus")),
    _VcpuPlacement("vcpu_placement", "", ()),
    _Pins("vcpu_pins", "vcpupin", _QUOTAS, ""),
    _Pins("emulator_pins", "emulatorpin", (*_QUOTAS, "vcpupin"), "emulator_pinning"),
    _Pins("iothread_pins", "iothreadpin", (*_QUOTAS, "vcpupin", "emulatorpin"), "iothread_pinning"),
    _MemoryBinding("memory_binding", NUMATUNE, ["memory"]),
    _CellBindings("cell_bindings", NUMATUNE, ["memnode"], ("memory",)),
    _CpuTopology("topology", CPU, ["topology"], _CPU_MODEL),
    _Cells("cells", CPU, ["numa"], _BEFORE_NUMA),
    DEVICES,
)


def _binding(element: Element) -> Binding:
    nodeset = element.get("nodeset")
    return Binding(
        mode=element.get("mode", "strict"),
        nodes=() if nodeset is None else parse_cpuset(nodeset),
        placement=element.get("placement", "auto" if nodeset is None else "static"),
    )


def _binding_element(tag: str, attributes: dict[str, str], binding: Binding) -> Element:
    nodeset = format_cpuset(binding.nodes)
    return etree.Element(tag, {**attributes, "mode": binding.mode, "nodeset": nodeset})


@lru_cache(maxsize=256)
def _cells(numa: bytes) -> tuple[Cell, ...]:
    # By its text: a fleet has few sizes, and distances are most of what there is to read.
    found = list(elements(etree.fromstring(numa), "cell"))
    if len(found) > MAX_CELLS:
        # libvirt has no limit of its own. Each cell has a distance to each: 20,000 have too many.
        raise DomainError(
            f"<numa> has {len(found)} cells, and QEMU starts a guest with at most {MAX_CELLS}; "
            "correct its definition."
        )
    numbered_cells = [
        (integer(cell.get("id") or str(index), "cell id", MAX_CELLS - 1), index, cell)
        for index, cell in enumerate(found)
    ]
    ordered = [cell for _id, _index, cell in sorted(numbered_cells, key=lambda one: one[:2])]
    return tuple(_cell(cell, index, len(ordered)) for index, cell in enumerate(ordered))


def _cell(cell: Element, index: int, count: int) -> Cell:
    given = {
        integer(one.get("id"), "sibling id", MAX_CELLS - 1): integer(
            one.get("value"), "distance", MAX_DISTANCE
        )
        for one in elements(cell.find("distances"), "sibling")
    }
    return Cell(
        id=index,
        vcpus=parse_cpuset(cell.get("cpus")) if cell.get("cpus") else (),
        memory_kib=kib(cell.get("memory", ""), cell.get("unit"), "cell"),
        distances=tuple(given.get(other, 0) for other in range(count)) if given else (),
        memory_access=cell.get("memAccess"),
        discard=cell.get("discard"),
    )


def _cell_element(cell: Cell) -> Element:
    attributes = {
        "id": str(cell.id),
        "cpus": format_cpuset(cell.vcpus),
        "memory": str(cell.memory_kib),
        "unit": "KiB",
        **({} if cell.memory_access is None else {"memAccess": cell.memory_access}),
        **({} if cell.discard is None else {"discard": cell.discard}),
    }
    element = etree.Element("cell", attributes)
    if cell.distances:
        distances = etree.SubElement(element, "distances")
        for sibling, value in enumerate(cell.distances):
            etree.SubElement(distances, "sibling", id=str(sibling), value=str(value))
    return element
