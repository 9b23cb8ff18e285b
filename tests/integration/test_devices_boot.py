# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Booted: passed-through devices are on the cells that mirror their nodes, as the guest sees it.

Emulated devices stand in for them, see standins.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import guestboot
import pciguests
import pcijudge
import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import restored
from conftest import Libvirt
from guestboot import GuestReport, PciDevice
from lxml import etree
from standins import Machine, StandIn, Told, efi, partition, passed, standins, stood_in

pytestmark = pytest.mark.slow

#: What the owner of a guest has in it besides.
_OTHERS = (
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
    "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>"
    "<rom enabled='no'/>{}</interface>"
)
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_NO_RESERVE = (
    "<qemu:commandline><qemu:arg value='-global'/>"
    "<qemu:arg value='pcie-root-port.io-reserve=0'/></qemu:commandline>"
)
#: Buses behind those of pcie-root's ports.
_EXPANDERS = "0000:80"
_PORT = "<controller type='pci' index='{}' model='pcie-root-port'/>"
#: Debian's releases of OVMF, by the version of its source; '' for SeaBIOS.
_FIRMWARE = {"SeaBIOS": "", "OVMF 2025.02": "trixie"}
_OLD_FIRMWARE = {"OVMF 2022.11": "bookworm"}


@pytest.fixture
def machine(
    request: pytest.FixtureRequest, lab: Callable[..., Libvirt], tmp_path: Path
) -> Iterator[Machine]:
    """Return a host of eight nodes, and firmware; SeaBIOS unless told another."""
    suite = {**_FIRMWARE, **_OLD_FIRMWARE}[getattr(request, "param", "SeaBIOS")]
    libvirt = lab("rfc-8n240c", shim=True)
    libvirt.clear()
    yield Machine(libvirt, tmp_path, efi(suite) if suite else "")
    libvirt.clear()


def _guest(devices: Sequence[StandIn], more: str = "", place: str = "") -> str:
    """Return devices: each of *devices* behind a root port of its own, the last one first."""
    slots = sorted({one.source[:-1] for one in devices}, reverse=True)
    ports = "".join(_PORT.format(index) for index in range(1, len(slots) + 4))
    several = {one.source[:-1] for one in devices if one.function}
    interfaces = (
        one.interface(
            slots.index(one.source[:-1]) + 1,
            " multifunction='on'" if one.source[:-1] in several and not one.function else "",
        )
        for one in devices
    )
    return f"{ports}{more}{_OTHERS.format(place)}{''.join(interfaces)}"


def _owners_buses(count: int) -> tuple[str, str]:
    """Return a conventional bridge and an expander bus, with an interface on the bridge each.

    Args:
        count: of devices that have a port.

    Returns:
        Those, and the address behind the expander bus.
    """
    bridge, expander = count + 4, count + 5
    own = re.sub(r"\s*<node>.*</node>", "", pciguests.expander(expander, 254, 0, 20))
    text = (
        f"<controller type='pci' index='{bridge}' model='pcie-to-pci-bridge'>"
        f"{pciguests.address(count + 1)}</controller>{own}"
        f"{pciguests.port(expander + 1, expander, 0)}"
        "<interface type='user'><mac address='52:54:00:00:00:02'/><model type='e1000'/>"
        f"<rom enabled='no'/>{pciguests.address(bridge, 1)}</interface>"
    )
    return text, pciguests.address(expander + 1)


def _lowest_cells(text: str) -> dict[int, int]:
    """Return the lowest cell of each host node, by the definition."""
    root = etree.fromstring(text)
    found = [
        (int(one.get("nodeset")), int(one.get("cellid")))
        for one in root.iterfind("numatune/memnode")
    ]
    return {node: min(cell for other, cell in found if other == node) for node, _cell in found}


def _see(report: GuestReport, text: str, devices: Sequence[StandIn], told: dict[str, Told]) -> None:
    """See that each device is where it was said to be, on its cell, and that a driver has it."""
    cells, judged = _lowest_cells(text), pcijudge.read(passed(text))
    assert not judged.wrong
    assert told == {
        one.source: Told(judged.devices[one.source][0], cells[one.node]) for one in devices
    }
    seen = {one.source: report.pci.get(told[one.source].address) for one in devices}
    assert seen == {one.source: PciDevice(cells[one.node], one.driver, one.mac) for one in devices}


def _rest(report: GuestReport, devices: Sequence[StandIn]) -> dict[str, PciDevice]:
    """Return what else a guest has."""
    macs = {one.mac for one in devices}
    return {address: one for address, one in report.pci.items() if one.mac not in macs}


@dataclass(frozen=True)
class Case:
    """A guest and its devices."""

    devices: Sequence[StandIn]
    options: dict[str, Any]
    buses: bool = False

    def guest(self) -> str:
        """Return what the guest has before it is partitioned."""
        more, place = _owners_buses(len(self.devices)) if self.buses else ("", "")
        return _guest(self.devices, more, place)


_PAIR = [replace(one, function=function) for one in standins((1, 0, 1)) for function in (0, 1)]
CASES = {
    "one cell, one device": Case(standins((3, 0, 1)), {"nodes": "3", "cells": 1}),
    "two cells, two root complexes a node": Case(
        standins((1, 0, 2), (1, 1, 1), (4, 0, 1), (4, 1, 1)), {"nodes": "1,4"}
    ),
    "more cells than nodes, and two functions of one device": Case(
        [*_PAIR, *standins((1, 0, 1), (0, 1, 2))[1:]], {"nodes": "0-1", "cells": 4}
    ),
    "four cells, ten devices on one root complex": Case(
        standins((2, 1, 10), (0, 0, 2), (1, 1, 1), (3, 0, 2), (3, 1, 1)), {"nodes": "0-3"}
    ),
    "eight cells, two devices each": Case(
        standins(*((node, root, 1) for node in range(8) for root in (0, 1))), {"nodes": "all"}
    ),
    "two cells, a bridge and an expander bus of the owner's": Case(
        standins((0, 0, 2), (0, 1, 1), (1, 0, 1)), {"nodes": "0-1"}, buses=True
    ),
}


@pytest.mark.parametrize("machine", _FIRMWARE, indirect=True)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_devices_are_on_their_cells(machine: Machine, case: Case) -> None:
    """Each is there, at the address that was told, on its cell; all else is where it was."""
    plain, twin = machine.define(case.guest()), machine.twin()
    text, told = partition(twin.define(case.guest()), case.devices, **case.options)
    machine.start(plain)
    after = twin.boot(text)
    before = machine.report()
    assert {one.mac for one in case.devices} <= {one.mac for one in before.pci.values()}
    assert {one.node for one in before.pci.values()} == {-1}
    _see(after, text, case.devices, told)
    assert _rest(before, case.devices).items() <= _rest(after, case.devices).items()
    old, new = (pcijudge.read(passed(one)) for one in (plain, text))
    assert old.others == new.others
    assert set(old.others.values()) <= after.pci.keys()


def _renumbered(text: str, numbers: dict[int, int]) -> str:
    """Return a definition with other bus numbers for some cells."""
    root = etree.fromstring(text)
    for target in root.iterfind("devices/controller/target[node]"):
        cell = int(target.findtext("node"))
        if cell in numbers:
            target.set("busNr", str(numbers[cell]))
    return str(etree.tostring(root, encoding="unicode"))


@pytest.mark.parametrize("machine", _FIRMWARE, indirect=True)
@pytest.mark.parametrize(
    "numbers",
    # A room of two buses for two ports; or they want 253 and 254, and the latter is the next one's.
    [{0: 254, 1: 200}, {0: 252, 1: 254}],
    ids=["the last room is too small", "two rooms overlap"],
)
def test_a_room_that_is_too_small_is_seen(machine: Machine, numbers: dict[int, int]) -> None:
    """Where the arithmetic is one off, a device is missing or the guest does not boot.

    One that firmware has given nothing has no driver, so no MAC either. Its twin is booted
    meanwhile, twice.
    """
    devices = standins((0, 0, 2), (1, 0, 1))
    twin = machine.twin()
    plain, twins = (one.define(_guest(devices)) for one in (machine, twin))
    text, _told = partition(plain, devices, nodes="0-1")
    right, told = partition(twins, devices, nodes="0-1")
    wrong = _renumbered(text, numbers)
    assert pcijudge.read(passed(wrong)).wrong
    machine.start(wrong)
    for _boot in range(2):
        _see(twin.boot(right), right, devices, told)
    if guestboot.boots(machine.console):
        found = {one.mac for one in guestboot.read_report(machine.console).pci.values() if one.mac}
        lost = [one.mac for one in devices if one.mac not in found]
        assert lost
    else:
        assert "VNUMA" not in machine.said()


@pytest.mark.parametrize("machine", _FIRMWARE, indirect=True)
@pytest.mark.parametrize("port", [5, None], ids=["at a port of its own", "where libvirt puts it"])
def test_a_device_that_comes_later(machine: Machine, port: int | None) -> None:
    """Those that were there keep their addresses, and reverting gives all the old ones back.

    libvirt puts it at the port with the lowest index that is free, which is one that was left.
    """
    *first, third = standins((0, 0, 2), (1, 0, 1))
    plain = machine.define(_guest(first))
    text, told = partition(plain, first, nodes="0-1")
    grown = machine.store(text.replace("</devices>", f"{third.interface(port)}</devices>"))
    later, told_later = partition(grown, [*first, third], nodes="0-1")
    _see(machine.boot(later), later, [*first, third], told_later)
    assert told.items() <= told_later.items()
    assert len(told_later) == len(told) + 1
    stored = passed(machine.libvirt.dump("guest"))
    back = machine.store(stood_in(restored(read_definition(stored)).definition.text))
    report = machine.boot(back)
    devices = pcijudge.read(passed(back)).devices
    assert pcijudge.read(passed(plain)).devices.items() <= devices.items()
    for one in (*first, third):
        address, cell = devices[one.source]
        assert cell is None
        assert report.pci[address] == PciDevice(-1, one.driver, one.mac)


@pytest.mark.parametrize("machine", _OLD_FIRMWARE, indirect=True)
def test_old_firmware_runs_out_of_io_ports(machine: Machine) -> None:
    """It reserves some for each root port, and where they do not suffice no device gets anything.

    Devices under pcie-root get it from the kernel, and those behind expander buses do not: QEMU
    tells the kernel of what firmware has assigned to these. Without the reserve all is right.
    """
    case = CASES["two cells, a bridge and an expander bus of the owner's"]
    plain, twin = machine.define(case.guest()), machine.twin()
    text, _told = partition(plain, case.devices, **case.options)
    right, told = partition(twin.define(case.guest()), case.devices, **case.options)
    machine.start(text)
    without = right.replace("<domain ", f"<domain xmlns:qemu='{_QEMU}' ", 1)
    without = without.replace("</domain>", f"{_NO_RESERVE}</domain>")
    _see(twin.boot(without), without, case.devices, told)
    report = machine.report()
    assert {one.address: PciDevice(one.cell, "") for one in told.values()}.items() <= (
        report.pci.items()
    )
    before = machine.boot(plain)
    assert all(one.driver for one in before.pci.values() if one.mac)
    on_root = {address: one for address, one in before.pci.items() if address < _EXPANDERS}
    assert _rest(replace(before, pci=on_root), case.devices).items() <= report.pci.items()


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_aarch64(machine: Machine, suite: str) -> None:
    """Its firmware decides: with that of Debian 12 (2022.11) its kernel drops all NUMA.

    "NUMA: Warning: invalid memblk node 16 [mem 0x04000000-0x07ffffff]" is in its log then.
    """
    arm = replace(machine, arch="aarch64", firmware=efi(suite, "aarch64"))
    devices = standins((0, 0, 2), (1, 0, 1), (1, 1, 1))
    plain = arm.define(_guest(devices))
    text, told = partition(plain, devices, nodes="0-1")
    report = arm.boot(text)
    if suite == "trixie":
        assert list(report.nodes) == [0, 1]
        _see(report, text, devices, told)
    else:
        assert list(report.nodes) == [0]
        assert {one.node for one in report.pci.values()} == {-1}
        assert {one.mac for one in devices} <= {one.mac for one in report.pci.values()}
