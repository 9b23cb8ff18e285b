# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""PCI in a definition: its tree of buses, its passed-through devices, and where these are.

The record says which controllers are this collection's, and where each device was before. An
address in a definition has the index of a controller as its bus, whatever number the guest's
firmware gives that bus (docs/pci-addresses.rst in libvirt).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

from .._errors import DomainError
from .._model.devices import DeviceUnit, ExpanderBus, PciTree, RootPort
from .element import ManagedElement, child_of
from .record import find_record, original
from .units import MAX_UINT, integer
from .xml import Element, copied, elements, etree, insert_after, remove

#: The highest of each part of a PCI address (virPCIDeviceAddressIsValid, src/util/virpci.c).
_PARTS = {"domain": 0xFFFFFFFF, "bus": 0xFF, "slot": 0x1F, "function": 7}
_HEXADECIMAL = re.compile("(?:0x)?([0-9a-f]{1,8})", re.ASCII | re.IGNORECASE)
_EXPANDER, _PORT = "pcie-expander-bus", "pcie-root-port"
#: What libvirt gives a PCI address, and perhaps a port of its own, where it has none.
_ON_PCI = ("disk", "interface", "hostdev", "video", "sound", "memballoon", "rng", "controller")
#: Slots of the host bridge and of the ISA bridge (docs/q35-chipset.cfg in QEMU).
_BRIDGES = {0, 31}
_WRAPPER = "devices"
#: The place of what has no address: no bus.
_NOWHERE = (-1, 0, 0)


def device_address(address: Element) -> str:
    """Return a PCI address as the kernel writes it, ``0000:3b:00.0``.

    Raises:
        DomainError: when a part of the address is no number, or out of range.
    """
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*(_part(address, part) for part in _PARTS))


def _part(address: Element, name: str) -> int:
    return _number(address.get(name), name)


@lru_cache(maxsize=1024)
def _number(text: str | None, name: str) -> int:
    most = _PARTS[name]
    digits = _HEXADECIMAL.fullmatch((text or "0").strip())
    number = int(digits[1], 16) if digits else most + 1
    if number > most:
        raise DomainError(
            f"the {name} of a PCI device must be a hexadecimal number of at most {most:#x}, not "
            f"'{text}'; correct its definition."
        )
    return number


def passed_devices(root: Element) -> dict[str, Element]:
    """Return the PCI devices that are passed through, by their addresses on the host.

    Raises:
        DomainError: when one has an address that is none.
    """
    sources = (
        *root.iterfind("devices/hostdev[@type='pci']/source/address"),
        *root.iterfind("devices/interface[@type='hostdev']/source/address[@type='pci']"),
    )
    return {device_address(source): source.getparent().getparent() for source in sources}


def added_indexes(root: Element) -> set[int]:
    """Return the indexes of controllers that this collection has added to a definition.

    Raises:
        DomainError: when its record is damaged.
    """
    noted = _noted(find_record(root))
    words = () if noted is None else noted.get("controllers", "").split()
    return {integer(one, "a controller index in its record", MAX_UINT) for one in words}


def read_tree(root: Element) -> PciTree:
    """Return what a definition has of PCI.

    Raises:
        DomainError: when an address or an index in it is none.
    """
    pci = _Pci(root)
    expanders = list(pci.expanders())
    under = {bus.index for bus in expanders}
    # All behind an expander bus is in its room; a parent's index is the lower one.
    for index, controller in sorted(pci.controllers.items()):
        if _place(controller)[0] in under:
            under.add(index)
    homeless = [
        one
        for one in elements(pci.devices, *_ON_PCI)
        if one.find("address") is None and one not in pci.controllers.values()
    ]
    on_root = {_place(one)[1] for one in elements(pci.devices) if _place(one)[0] == 0}
    return PciTree(
        units=tuple(pci.units()),
        added=tuple(bus for bus in expanders if bus.index in pci.added),
        others=tuple(bus for bus in expanders if bus.index not in pci.added),
        root_buses=len({0, *pci.controllers} - under) + len(homeless),
        next_index=max(pci.controllers, default=0) + 1,
        free_slots=32 - len(_BRIDGES | on_root),
        boots_by_uefi=root.find("os[@firmware='efi']") is not None
        or root.find("os/loader") is not None,
    )


def apart(root: Element, records: Collection[Element]) -> list[Element]:
    """Return the elements of a definition that are managed one by one.

    Controllers are those of its own record, addresses those of devices in any of *records*.
    """
    pci = _Pci(root) if any(_noted(record) is not None for record in records) else None
    if pci is None:
        return []
    moved = {one.get("source") for record in records for one in elements(_noted(record))}
    devices = (device for source, device in pci.passed.items() if source in moved)
    return [*pci.ours(), *(one for device in devices for one in elements(device, "address"))]


def displaced(before: Element, after: Element) -> Iterator[str]:
    """Yield a sentence for each device that cannot be where it was, since something else is."""
    devices = passed_devices(after)
    for note in elements(_noted(find_record(before)), "device"):
        device, bus = devices.get(note.get("source")), note.get("bus")
        if device is not None and bus and _place(device) == _NOWHERE:
            yield (
                f"{note.get('source')} was at PCI bus {bus}, slot {note.get('slot')}, where "
                "another device is by now; libvirt puts it elsewhere in the guest."
            )


def _noted(record: Element | None) -> Element | None:
    return None if record is None else original(record).find(_WRAPPER)


def _place(device: Element) -> tuple[int, int, int]:
    """Return where a device is in the guest, as (index of its controller, slot, function)."""
    address = device.find("address[@type='pci']")
    if address is None:
        return _NOWHERE
    return _part(address, "bus"), _part(address, "slot"), _part(address, "function")


class _Pci:
    """The PCI devices and controllers of a definition."""

    def __init__(self, root: Element) -> None:
        self.root, self.devices = root, root.find("devices")
        self.noted, self.added = _noted(find_record(root)), added_indexes(root)
        self.passed = passed_devices(root)
        self.controllers: dict[int, Element] = {
            integer(one.get("index") or "0", "controller index", MAX_UINT): one
            for one in root.iterfind("devices/controller[@type='pci']")
        }

    def ours(self) -> list[Element]:
        """Return the controllers that this collection has added."""
        return [one for index, one in self.controllers.items() if index in self.added]

    def expanders(self) -> Iterator[ExpanderBus]:
        """Yield every expander bus, by index."""
        names = {device: source for source, device in self.passed.items()}
        behind: dict[int, list[tuple[str, int]]] = {}
        for device in elements(self.devices):
            bus, _slot, function = _place(device)
            behind.setdefault(bus, []).append((names.get(device, ""), function))
        for index, controller in sorted(self.controllers.items()):
            if controller.get("model") != _EXPANDER:
                continue
            target, node = controller.find("target"), controller.findtext("target/node")
            ports = [
                RootPort(port, _place(one)[1], tuple(sorted(behind.get(port, ()))))
                for port, one in self.controllers.items()
                if _place(one)[0] == index
            ]
            yield ExpanderBus(
                index,
                integer("0" if target is None else target.get("busNr", "0"), "busNr", 255),
                None if node is None else integer(node, "<node>", MAX_UINT),
                tuple(sorted(ports, key=lambda port: port.slot)),
            )

    def units(self) -> Iterator[DeviceUnit]:
        """Yield the passed-through devices, those at one slot together."""
        found: dict[object, list[str]] = {}
        for source, device in self.passed.items():
            place = _place(device)
            found.setdefault(source if place == _NOWHERE else place[:2], []).append(source)
        for sources in found.values():
            devices = [self.passed[source] for source in sources]
            port, slot, _function = _place(devices[0])
            functions = sorted((source, _place(self.passed[source])[2]) for source in sources)
            at_slot = [one for one in elements(self.devices) if _place(one)[:2] == (port, slot)]
            controller = self.controllers.get(port)
            model = _PORT if controller is None else controller.get("model")
            fixed = refused = ""
            if model not in (_PORT, "pcie-switch-downstream-port"):
                fixed = f"in the guest it is on a {model} and not behind a port of its own"
            elif port >= 0 and len(at_slot) > len(devices):
                fixed = "another device is in its slot of the guest"
            if any(one.find("acpi[@index]") is not None for one in devices):
                refused = "<acpi index> names it, which has no effect behind an expander bus"
            elif self.root.find(f"devices/iommu/driver[@pciBus='{port}']") is not None:
                refused = f"an <iommu> belongs to PCI bus {port}, where it is"
            yield DeviceUnit(tuple(functions), None if port < 0 else port, fixed, refused)

    def controller(self, index: int, model: str) -> Element:
        """Return a controller, added where there is none of this index."""
        if index not in self.controllers:
            one = etree.Element("controller", type="pci", index=str(index), model=model)
            self.add(one)
        return self.controllers[index]

    def add(self, *controllers: Element) -> None:
        """Add controllers."""
        insert_after(self.devices, ("emulator", "disk", "controller"), *controllers)
        self.controllers |= {int(one.get("index")): one for one in controllers}

    def put_back(self, stood: Mapping[str, Element], staying: Collection[str] = ()) -> None:
        """Let devices be again where notes say that they were, but those that stay.

        Where something else is by now, or where a device had no address, libvirt finds one; also
        for those that came behind a port of ours by themselves.
        """
        going = {
            source: self.passed[source]
            # A place that two have left is the first one's: the other came when it was free.
            for source in dict.fromkeys([*stood, *self.passed])
            if source in self.passed
            and source not in staying
            and (source in stood or _place(self.passed[source])[0] in self.added)
        }
        others = (one for one in elements(self.devices) if one not in going.values())
        taken = {_place(one)[:2] for one in others}
        left: set[tuple[int, int, int]] = set()
        for source, device in going.items():
            note = stood.get(source, etree.Element("device"))
            place = (_part(note, "bus"), _part(note, "slot"), _place(device)[2])
            if note.get("bus") is not None and place[:2] not in taken and place not in left:
                left.add(place)
                _move(device, *place[:2])
            elif _place(device) != _NOWHERE:
                remove(device.find("address[@type='pci']"))

    def take_out(self, indexes: Collection[int]) -> None:
        """Take controllers out.

        Raises:
            DomainError: when something is behind one that this collection has not put there.
        """
        for device in list(elements(self.devices)):
            bus = _place(device)[0]
            if bus in indexes and device not in (*self.ours(), *self.passed.values()):
                raise DomainError(
                    f"a <{device.tag}> was put behind a root port of this collection, at PCI bus "
                    f"{bus}; detach it, or remove its <address>."
                )
        for index in self.controllers.keys() & indexes:
            remove(self.controllers.pop(index))


class _Devices(ManagedElement[tuple[ExpanderBus, ...]]):
    """Expander buses and root ports of ours, and the addresses of devices that are behind them.

    Where a device was before is in the record device by device: owners add and remove them.
    """

    option = "devices"
    wrapper = _WRAPPER

    @property
    def paths(self) -> tuple[str, ...]:
        """None: of controllers and addresses some alone are managed, see `apart`."""
        return ()

    def read(self, root: Element) -> tuple[ExpanderBus, ...]:
        if not added_indexes(root):
            return ()
        pci = _Pci(root)
        return tuple(bus for bus in pci.expanders() if bus.index in pci.added)

    def write(self, root: Element, value: tuple[ExpanderBus, ...]) -> None:
        pci = _Pci(root)
        noted = pci.noted
        if noted is None:
            noted = etree.SubElement(original(find_record(root)), self.wrapper)
        stood = {one.get("source"): one for one in elements(noted)}
        ports = {
            one: port.index for bus in value for port in bus.ports for one, _at in port.devices
        }
        wanted = {*(bus.index for bus in value), *(one.index for bus in value for one in bus.ports)}
        for bus in value:
            target = child_of(pci.controller(bus.index, _EXPANDER), "target")
            target.set("busNr", str(bus.number))
            child_of(target, "node").text = str(bus.cell)
            for port in bus.ports:
                _move(pci.controller(port.index, _PORT), bus.index, port.slot)
        for source, device in pci.passed.items():
            if source in ports and source not in stood:
                came = _place(device)[0] in pci.added
                noted.append(
                    etree.Element("device", source=source) if came else _note(source, device)
                )
            if source in ports:
                _move(device, ports[source], 0)
        pci.put_back(stood, ports)
        for source in stood.keys() - (pci.passed.keys() & ports.keys()):
            noted.remove(stood[source])
        pci.take_out(pci.added - wanted)
        noted.set("controllers", " ".join(map(str, sorted(wanted))))

    def keep(self, root: Element, kept: Element) -> None:
        pci = _Pci(root) if added_indexes(root) else None
        if pci is not None and pci.noted is not None:
            copies = etree.SubElement(kept, self.wrapper, dict(pci.noted.attrib))
            copies.extend(copied(one) for one in pci.ours())
            copies.extend(
                _note(source, device)
                for source, device in pci.passed.items()
                if _place(device)[0] in pci.added
            )

    def restore(self, root: Element, kept: Element) -> None:
        then = kept.find(self.wrapper)
        if then is None and not added_indexes(root):
            return
        pci = _Pci(root)
        notes = (*elements(pci.noted, "device"), *elements(then, "device"))
        pci.put_back({one.get("source"): one for one in notes})
        pci.take_out(pci.added)
        pci.add(*(copied(one) for one in elements(then, "controller")))

    def show(self, root: Element, shown: Element) -> None:
        pci = _Pci(root) if added_indexes(root) else None
        if pci is not None:
            moved = [one for one in pci.passed.values() if _place(one)[0] in pci.added]
            copies = [etree.Element(one.tag, dict(one.attrib)) for one in moved]
            for copy, one in zip(copies, moved):
                copy.extend(copied(part) for part in elements(one, "source", "address"))
            child_of(shown, "devices").extend([*map(copied, pci.ours()), *copies])


#: Managed as one: expander buses have no sense without the devices behind them.
DEVICES = _Devices("devices", "", ())


def _note(source: str, device: Element) -> Element:
    """Return a note of where a device is; without bus and slot where it has no address."""
    address = device.find("address[@type='pci']")
    place = {} if address is None else {part: address.get(part) for part in ("bus", "slot")}
    return etree.Element("device", {"source": source, **place})


def _move(device: Element, bus: int, slot: int) -> None:
    address = device.find("address[@type='pci']")
    if address is None:
        address = etree.Element("address", type="pci", domain="0x0000", bus="", slot="")
        address.set("function", "0x0")
        insert_after(device, [child.tag for child in device], address)
    address.set("bus", f"0x{bus:02x}")
    address.set("slot", f"0x{slot:02x}")
