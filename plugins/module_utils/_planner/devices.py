# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting passed-through devices on the cells that mirror their host nodes.

A guest's kernel learns the node of a PCI device from the root bus that it is under. So each host
node and root complex that has devices of the guest gets a root bus: an expander bus with a root
port for each device. libvirt takes any bus number from 1 to 254 for it, and checks neither that
its ports have room before the next one, nor that the tree under pcie-root ends below it; a guest
boots with a device missing then, or not at all, without a word. So rooms are reckoned here.

The number of a bus is in the address of each device behind it, and an address is in the name of a
network interface. So what is there keeps its number, whatever comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from .._errors import LayoutError
from .._model.devices import DeviceUnit, ExpanderBus, HostDevice, PciTree, RootPort
from .._model.guest import Guest
from .._model.layout import Layout
from .._policy import Policy

#: PCI has so many bus numbers, and libvirt so many indexes of PCI controllers.
_BUSES = 256
#: Slots of an expander bus (docs/pcie.txt in QEMU).
_MOST_PORTS = 32
#: Buses of a room: the expander's own and those of eight ports, so that devices may come.
_ROOM = 9
#: Buses that are left to ports of pcie-root that come later.
_RESERVE = 16
#: Machine types that libvirt has expander buses for (qemuValidateDomainDeviceDefControllerPCI).
_MACHINES = {"x86_64": ("q35", "pc-q35"), "aarch64": ("virt",)}

#: The cell and the root complex of devices, which an expander bus is for.
_Home = tuple[int, str]


def place_devices(
    layout: Layout, guest: Guest, policy: Policy, tree: PciTree, known: Mapping[str, HostDevice]
) -> Layout:
    """Return a layout with the expander buses that a guest is to have.

    A guest without cells has none. *tree* is what its definition has of PCI, *known* says where its
    devices are on the host.

    Raises:
        LayoutError: when the guest cannot have them; the sentence says what to do.
    """
    host_nodes = () if layout.leaves_cells else layout.host_nodes
    homes, warnings = _homes(guest, tree, known, host_nodes, policy)
    if not homes:
        return replace(layout, warnings=(*layout.warnings, *warnings))
    rooms = dict(_rooms(tree))
    buses = [_staying(bus, homes, bus.index in rooms) for bus in tree.added]
    settled = {port.devices for bus in buses for port in bus.ports}
    index = tree.next_index
    for home in sorted(set(homes.values())):
        units = [one for one in homes if homes[one] == home and one.devices not in settled]
        units.sort(key=lambda unit: unit.devices)
        for place, bus in enumerate(buses):
            if bus.root_complex is None or (bus.cell, bus.root_complex) == home:
                buses[place] = _filled(bus, home, units, index, rooms.get(bus.index, _BUSES))
                index += len(buses[place].ports) - len(bus.ports)
        while units:
            new = ExpanderBus(index, 0, home[0])
            buses.append(_filled(new, home, units, index + 1, _BUSES))
            index += 1 + len(buses[-1].ports)
    placed = _numbered(tree, buses, index)
    warnings += _moves(guest, tree, placed)
    return replace(layout, devices=placed, warnings=(*layout.warnings, *warnings))


def _homes(
    guest: Guest,
    tree: PciTree,
    known: Mapping[str, HostDevice],
    host_nodes: Sequence[int | None],
    policy: Policy,
) -> tuple[dict[DeviceUnit, _Home], list[str]]:
    """Return where devices go that can be put on a cell, and sentences about the rest."""
    homes, warnings = {}, []
    on_added = {port.index: bus.cell or 0 for bus in tree.added for port in bus.ports}
    on_others = {port.index: bus.cell for bus in tree.others for port in bus.ports}
    obstacle = _obstacle(guest)
    for unit in tree.units if host_nodes else ():
        places = {known.get(device) for device, _function in unit.devices}
        found = {HostDevice() if place is None else place for place in places}
        node, *more = {place.node for place in found}
        refused = unit.refused or obstacle
        why = refused or unit.fixed
        if None in places:
            refused = why = "its host node is not known here, and not given in device_nodes"
        elif more:
            why = "its functions are on several host nodes"
        elif node is None and on_added.get(unit.port or 0, len(host_nodes)) < len(host_nodes):
            # Nobody's guest is redefined because a daemon does not answer for devices now.
            node = host_nodes[on_added[unit.port or 0]]
        elif node is None:
            why = why or "the host does not say on which node it is"
        elif node not in host_nodes:
            why = why or f"it is on host node {node}, which is not among its nodes"
        cell = host_nodes.index(node) if node in host_nodes else 0
        if not why and (unit.port not in on_others or on_others[unit.port] != cell):
            homes[unit] = (cell, min(place.root_complex for place in found))
        elif refused or (why and policy.device_locality == "require"):
            way_out = "devices to 'keep'" if refused else "device_locality to 'prefer'"
            raise LayoutError(
                f"{unit.name} cannot be put on a cell: {why}; change that, or set {way_out}."
            )
        elif why:
            warnings.append(f"{unit.name} is put on no cell: {why}.")
    return homes, warnings


def _obstacle(guest: Guest) -> str:
    """Return why no device of a guest can be put on a cell, '' where nothing is in the way."""
    if not guest.machine.startswith(_MACHINES.get(guest.arch, ())):
        return f"machine type '{guest.machine}' has no PCI expander buses, as q35 has"
    return "" if guest.has_acpi else "without <acpi/> in <features> the guest is told no node of it"


def _rooms(tree: PciTree) -> Iterator[tuple[int, int]]:
    """Yield the room of each bus that was added, by its index, if it holds what is in it.

    It does not where somebody changed numbers, or added ports to pcie-root.
    """
    ends = sorted({_BUSES, *(bus.number for bus in (*tree.added, *tree.others))})
    for bus in tree.added:
        room = min(end for end in ends if end > bus.number) - bus.number
        if bus.number > tree.root_buses and len(bus.ports) < room:
            yield bus.index, room


def _staying(bus: ExpanderBus, homes: Mapping[DeviceUnit, _Home], has_room: bool) -> ExpanderBus:
    """Return a bus with the devices that stay behind it; without a number where it has no room.

    None goes while others are needed: libvirt would fill the gap in the indexes with ports. One
    whose devices have gone is for devices to come, of any home.
    """
    at = {unit.port: home for unit, home in homes.items()}
    home = max((at[port.index] for port in bus.ports if port.index in at), default=None)
    staying = () if home is None else (home, (home[0], ""))
    ports = tuple(
        port
        if at.get(port.index) in staying or any(not device for device, _at in port.devices)
        else replace(port, devices=())
        for port in bus.ports
    )
    cell, root_complex = home or (0, None)
    number = bus.number if has_room else 0
    return replace(bus, number=number, cell=cell, root_complex=root_complex, ports=ports)


def _filled(
    bus: ExpanderBus, home: _Home, units: list[DeviceUnit], index: int, room: int
) -> ExpanderBus:
    """Return a bus with devices of a home behind its free ports, then behind new ones.

    Those are taken out of *units*; *index* is that of the first new port.
    """
    if not units:
        return bus
    ports = [
        replace(port, devices=units.pop(0).devices) if units and not port.devices else port
        for port in bus.ports
    ]
    slot = ports[-1].slot + 1 if ports else 0
    fitting = min(len(units), room - 1 - len(ports), _MOST_PORTS - slot)
    ports += [
        RootPort(index + number, slot + number, units.pop(0).devices) for number in range(fitting)
    ]
    return replace(bus, cell=home[0], root_complex=home[1], ports=tuple(ports))


def _numbered(tree: PciTree, buses: list[ExpanderBus], index: int) -> tuple[ExpanderBus, ...]:
    """Return the buses with numbers for those without, below all that have one."""
    sizes = [1 + len(bus.ports) for bus in buses if not bus.number]
    numbers = (bus.number for bus in (*buses, *tree.others) if bus.number)
    lowest = min(numbers, default=_BUSES)
    free = max(0, lowest - tree.root_buses - _RESERVE - 1)
    slots = tree.free_slots + len(tree.added)
    if sum(sizes) > free or index > _BUSES or len(buses) > slots:
        raise LayoutError(
            f"its PCI buses do not suffice: its devices need {sum(sizes)} bus numbers more ({free} "
            f"are free), {len(buses)} slots of pcie-root ({slots} are free) and controllers up to "
            f"index {index - 1} (255 is the last); pass fewer devices through, or set devices to "
            "'keep'."
        )
    rooms = [max(size, _ROOM) for size in sizes]
    each = iter(rooms if sum(rooms) <= free else sizes)
    numbered = []
    for bus in buses:
        lowest -= 0 if bus.number else next(each)
        numbered.append(bus if bus.number else replace(bus, number=lowest))
    return tuple(numbered)


def _moves(guest: Guest, tree: PciTree, buses: Sequence[ExpanderBus]) -> Iterator[str]:
    """Say which devices get another address in the guest, and what that means there."""
    before, now = (
        {device: address for bus in all_buses for device, address in bus.addresses()}
        for all_buses in ((*tree.added, *tree.others), buses)
    )
    names = {unit.name for unit in tree.units} & now.keys()
    moved = {name for name in names if before.get(name) != now[name]}
    if moved:
        told = ", ".join(f"{name} will be {now[name]}" for name in sorted(moved))
        bus_number = int(now[min(moved)].split(":")[1], 16)
        yield (
            f"{told} in the guest; a network interface that is named by its PCI address gets "
            f"another name, such as enp{bus_number}s0: name it by its MAC."
        )
    if moved and tree.boots_by_uefi:
        # OVMF reserves I/O ports for every root port (PciHotPlugInit.c in edk2); of those that were
        # tried, 2022.11 runs out of them, and 2025.02 does not.
        yield (
            "it boots by UEFI, and old firmware, such as Debian 12's, may leave devices behind "
            "expander buses without resources, and guests on aarch64 without NUMA; look at its "
            "devices after its restart."
        )
    if moved and "microsoft" in guest.os_id:
        yield (
            "its Windows takes these devices for new ones, and may leave a disk behind one "
            "offline; look at its disks after its restart."
        )
