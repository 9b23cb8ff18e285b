# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the PCI buses of a definition as firmware numbers them; no code of the collection is used.

Firmware takes the devices of a bus by slot and function, gives each bridge the next number, and
goes on behind it. The tree under an expander bus begins with the number that QEMU is given for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

_CONTROLLERS = "devices/controller[@type='pci']"
_SOURCES = {
    "hostdev": "source/address",
    "interface": "source/address[@type='pci']",
}


@dataclass
class Buses:
    """What a guest's kernel finds.

    Attributes:
        numbers: of buses, by index of their controller.
        wrong: why it would not find everything.
        devices: guest address and cell of each passed-through device, by its host address.
        others: guest address of everything else that has one, by its tag and number.
    """

    numbers: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    devices: dict[str, tuple[str, int | None]] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def read(text: str) -> Buses:
    """Number the buses of a definition."""
    root = ElementTree.fromstring(text)  # noqa: S314 - a test's own
    controllers = {int(one.get("index", "0")): one for one in root.iterfind(_CONTROLLERS)}
    found, owners = Buses(), dict[int, int]()
    children = _children(controllers)
    cells: dict[int, int | None] = {}
    for index in sorted(controllers):
        model, target = controllers[index].get("model"), controllers[index].find("target")
        if model == "pcie-expander-bus" and target is not None:
            first, cell = int(target.get("busNr", "0")), target.findtext("node")
        elif index == 0:
            first, cell = 0, None
        else:
            parent = _where(controllers[index])
            if parent is not None and parent[0] >= index:
                found.wrong.append(f"controller {index} comes before its parent {parent[0]}")
            continue
        for number, behind in enumerate(_tree(index, children), first):
            if owners.setdefault(number, behind) != behind:
                found.wrong.append(f"bus {number} is that of {owners[number]} and of {behind}")
            if number > 255:
                found.wrong.append(f"controller {behind} would have bus {number}")
            found.numbers[behind] = number
            cells[behind] = None if cell is None else int(cell)
    indexes = [one.get("index") for one in root.iterfind(_CONTROLLERS)]
    if len(set(indexes)) < len(indexes):
        found.wrong.append(f"indexes twice: {indexes}")
    _devices(root, found, cells)
    return found


def _children(
    controllers: dict[int, ElementTree.Element],
) -> dict[int, list[tuple[int, int, int]]]:
    children: dict[int, list[tuple[int, int, int]]] = {}
    for index, one in controllers.items():
        where = _where(one)
        if where is not None and index and one.get("model") != "pcie-expander-bus":
            children.setdefault(where[0], []).append((*where[1:], index))
    return children


def _tree(index: int, children: dict[int, list[tuple[int, int, int]]]) -> Iterator[int]:
    yield index
    for _slot, _function, other in sorted(children.get(index, ())):
        yield from _tree(other, children)


def _devices(root: ElementTree.Element, found: Buses, cells: dict[int, int | None]) -> None:
    seen: dict[tuple[int, int, int], int] = {}
    for place, device in enumerate(root.iterfind("devices/*")):
        where = _where(device)
        source = None
        if device.tag in _SOURCES and device.get("type") in ("pci", "hostdev"):
            source = device.find(_SOURCES[device.tag])
        if where is None:
            continue
        if where in seen:
            found.wrong.append(f"two devices are at {where}")
        seen[where] = place
        if where[0] not in found.numbers:
            found.wrong.append(f"no controller {where[0]}")
            continue
        address = f"0000:{found.numbers[where[0]]:02x}:{where[1]:02x}.{where[2]}"
        if source is None:
            if device.tag != "controller":
                nth = sum(key.startswith(device.tag) for key in found.others)
                found.others[f"{device.tag} {nth}"] = address
            continue
        parts = [int(source.get(part, "0"), 16) for part in ("domain", "bus", "slot", "function")]
        name = "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)
        found.devices[name] = (address, cells[where[0]])


def _where(device: ElementTree.Element) -> tuple[int, int, int] | None:
    address = device.find("address[@type='pci']")
    if address is None:
        return None
    bus, slot, function = (int(address.get(part, "0"), 16) for part in ("bus", "slot", "function"))
    return bus, slot, function
