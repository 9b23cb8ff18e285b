# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passed-through devices on the cells that mirror their nodes, as libvirt stores them.

The devices are this machine's, and their nodes are made up: a daemon without an IOMMU defines such
guests, and does not start them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pcijudge
import pytest
import sysfs
from adhoc import Run
from conftest import HOSTS, Libvirt
from fakehost import FakeHost
from guests import anuma
from lxml import etree

Call = Callable[..., Run]
GIB = 1 << 20
#: Nodes of this machine's devices on the made-up host, by their order; the first has none.
NODES = (-1, 0, 1, 1, 0)


@pytest.fixture(scope="module")
def addresses() -> list[str]:
    """Return the addresses of this machine's devices that have a node."""
    found = sysfs.pci_devices()[1:]
    assert len(found) >= 4, "this machine has too few PCI devices to make up a host with some"
    return found[:4]


@pytest.fixture(scope="module")
def gpu_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    """Start a daemon for a host with devices on nodes 0 and 1."""
    path = tmp_path_factory.mktemp("devices") / "devices.json"
    path.write_text(json.dumps({**sysfs.load(HOSTS / "rfc-8n240c.json"), "pci": list(NODES)}))
    libvirt = Libvirt(FakeHost(f"gpus-{os.getpid()}", path))
    libvirt.host.start()
    yield libvirt
    libvirt.clear()
    libvirt.host.stop()


@pytest.fixture
def gpus(gpu_host: Libvirt) -> Iterator[Libvirt]:
    """Return that daemon without guests."""
    gpu_host.clear()
    yield gpu_host
    gpu_host.clear()


def hostdev(address: str, more: str = "", kind: str = "hostdev") -> str:
    """Return a device of the host, as a hostdev or as an interface, at a port of its own.

    libvirt sees that this machine's devices are conventional, and would put them on a bridge.
    """
    domain, bus, slot, function = re.split("[:.]", address)
    place = f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'"
    port = 5 + int(slot, 16)
    more += f"<address type='pci' domain='0' bus='{port}' slot='0' function='0'/>"
    if kind == "interface":
        return (
            "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:55'/>"
            f"<source><address type='pci' {place}/></source>{more}</interface>"
        )
    return (
        "<hostdev mode='subsystem' type='pci' managed='yes'>"
        f"<source><address {place}/></source>{more}</hostdev>"
    )


_PLACE = re.compile(r"(?:<address type='pci' domain='0' bus='[0-9]+' slot='0' function='0'/>)")


def with_devices(*devices: str, machine: str = "q35") -> str:
    """Return a guest with these devices, and a disk and a network interface."""
    others = (
        "<disk type='file' device='disk'><source file='/nowhere/db.img'/>"
        "<target dev='vda' bus='virtio'/></disk>"
        "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>"
        "</interface>"
    )
    ports = "".join(
        f"<controller type='pci' index='{index}' model='pcie-root-port'/>" for index in range(1, 11)
    )
    text = anuma("gpu", 8, 8 * GIB, machine=machine)
    if machine == "pc":
        ports, devices = "", tuple(_PLACE.sub("", one) for one in devices)
    return text.replace("</devices>", f"{ports}{others}{''.join(devices)}</devices>")


def _arguments(libvirt: Libvirt, **options: Any) -> dict[str, Any]:
    asked = {"guests": [{"name": "gpu"}], "nodes": "0-1", "devices": "host", "threads": 1}
    return {"uri": libvirt.uri, **asked, **options}


def _layout(run: Run) -> list[dict[str, Any]]:
    assert not run.failed, run.msg
    (guest,) = run.result["guests"]
    devices: list[dict[str, Any]] = guest["layout"]["devices"]
    return devices


def _warnings(run: Run) -> list[str]:
    (guest,) = run.result["guests"]
    return [str(one) for one in guest["warnings"]]


def _rest(text: str) -> list[bytes]:
    """Return the devices that are not passed through, without controllers."""
    kinds = ("hostdev", "controller")
    return [
        etree.tostring(one, method="c14n2", strip_text=True)
        for one in etree.fromstring(text).find("devices")
        if one.tag not in kinds and one.get("type") != "hostdev"
    ]


def _plug(libvirt: Libvirt, folder: Path, command: str, device: str) -> None:
    """Let an owner attach or detach a device of the definition."""
    (folder / "device.xml").write_text(device)
    libvirt.virsh(command, "gpu", str(folder / "device.xml"), "--config")


def test_there_and_back(gpus: Libvirt, call: Call, addresses: list[str]) -> None:
    """Devices go to their cells, and nothing else moves; a second run has nothing to do."""
    kinds = ("hostdev", "hostdev", "interface", "hostdev")
    gpus.define(with_devices(*(hostdev(one, kind=kind) for one, kind in zip(addresses, kinds))))
    # libvirt 9.0 sorts controllers when it reads its own dump, once.
    gpus.define(gpus.dump("gpu"))
    before = gpus.dump("gpu")
    old = pcijudge.read(before)
    check = call("vnuma_partition", _arguments(gpus), "--check", "--diff")
    assert gpus.dump("gpu") == before
    assert "pcie-expander-bus" in check.output
    run = call("vnuma_partition", _arguments(gpus))
    told = _layout(run)
    assert told == _layout(check)
    stored = gpus.dump("gpu")
    now = pcijudge.read(stored)
    assert not now.wrong
    assert now.others == old.others
    assert _rest(stored) == _rest(before)
    assert {one: now.devices[one][1] for one in addresses} == dict(zip(addresses, NODES[1:]))
    assert {one["device"]: (one["address"], one["cell"]) for one in told} == now.devices
    moved = ", ".join(f"{one} will be {now.devices[one][0]}" for one in addresses)
    assert any(one.startswith(f"{moved} in the guest; a network") for one in _warnings(run))
    again = call("vnuma_partition", _arguments(gpus))
    assert not again.result["changed"]
    assert not _warnings(again)
    assert gpus.dump("gpu") == stored
    assert not call("vnuma_partition", _arguments(gpus, state="absent")).failed
    assert gpus.dump("gpu") == before


def test_the_option_left_out_takes_it_back(gpus: Libvirt, call: Call, addresses: list[str]) -> None:
    """Cells stay, and devices are where they were."""
    gpus.define(with_devices(*map(hostdev, addresses)))
    old = pcijudge.read(gpus.dump("gpu"))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    assert not call("vnuma_partition", _arguments(gpus, devices="keep")).failed
    text = gpus.dump("gpu")
    assert pcijudge.read(text).devices == old.devices
    assert "pcie-expander-bus" not in text
    assert "memnode" in text


def test_devices_come_and_go(
    gpus: Libvirt, call: Call, addresses: list[str], tmp_path: Path
) -> None:
    """Each keeps its address in the guest, whatever its owner does with others."""
    first, second, third, fourth = addresses
    gpus.define(with_devices(hostdev(first), hostdev(second)))
    plain = gpus.dump("gpu")
    assert not call("vnuma_partition", _arguments(gpus)).failed
    before = pcijudge.read(gpus.dump("gpu")).devices
    for address in (third, fourth):
        _plug(gpus, tmp_path, "attach-device", hostdev(address))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    now = pcijudge.read(gpus.dump("gpu"))
    assert not now.wrong
    assert before.items() <= now.devices.items()
    assert [now.devices[one][1] for one in addresses] == list(NODES[1:])
    for address in (second, third):
        _plug(gpus, tmp_path, "detach-device", hostdev(address))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    left = pcijudge.read(gpus.dump("gpu"))
    assert not left.wrong
    assert left.devices == {one: now.devices[one] for one in (first, fourth)}
    assert not call("vnuma_partition", _arguments(gpus)).result["changed"]
    _plug(gpus, tmp_path, "detach-device", hostdev(fourth))
    assert not call("vnuma_partition", _arguments(gpus, state="absent")).failed
    _plug(gpus, tmp_path, "attach-device", hostdev(second))
    back = pcijudge.read(gpus.dump("gpu"))
    assert sorted(back.devices) == [first, second]
    assert back.devices[first] == pcijudge.read(plain).devices[first]
    assert "pcie-expander-bus" not in gpus.dump("gpu")


def test_a_place_that_was_taken(
    gpus: Libvirt, call: Call, addresses: list[str], tmp_path: Path
) -> None:
    """Where another device has the old place by now, libvirt finds one."""
    gpus.define(with_devices(hostdev(addresses[0])))
    old = pcijudge.read(gpus.dump("gpu"))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    disk = (
        "<disk type='file' device='disk'><source file='/nowhere/2.img'/>"
        f"<target dev='vdb' bus='virtio'/>{_PLACE.findall(hostdev(addresses[0]))[0]}</disk>"
    )
    _plug(gpus, tmp_path, "attach-device", disk)
    before = gpus.dump("gpu")
    assert old.devices[addresses[0]][0] in pcijudge.read(before).others.values()
    run = call("vnuma_partition", _arguments(gpus, state="absent"))
    assert not run.failed
    now = pcijudge.read(gpus.dump("gpu"))
    assert not now.wrong
    assert _rest(gpus.dump("gpu")) == _rest(before)
    assert addresses[0] in now.devices
    sentence = f"{addresses[0]} was at PCI bus 0x06, slot 0x00, where another device is by now;"
    assert sentence in "".join(_warnings(run))


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        (
            ("", "", "pc"),
            {},
            "has no PCI expander buses, as q35 has; change that, or set devices to 'keep'.",
        ),
        (
            ("<acpi/>", "", "q35"),
            {},
            "cannot be put on a cell: without <acpi/> in <features> the guest is told no node of",
        ),
        pytest.param(
            ("</source><address", "</source><acpi index='7'/><address", "q35"),
            {},
            "<acpi index> names it, which has no effect behind an expander bus; change that, or",
            marks=pytest.mark.needs_libvirt("7.3", "<acpi index>"),
        ),
        (
            ("", "", "q35"),
            {"nodes": "0", "cells": 1, "device_locality": "require"},
            "cannot be put on a cell: it is on host node 1, which is not among its nodes; change",
        ),
    ],
)
def test_refusals(
    gpus: Libvirt,
    call: Call,
    addresses: list[str],
    change: tuple[str, str, str],
    options: dict[str, Any],
    sentence: str,
) -> None:
    """One sentence with a way out, and nothing is changed."""
    old, new, machine = change
    text = with_devices(*map(hostdev, addresses), machine=machine)
    gpus.define(text.replace(old, new, 1) if old else text)
    before = gpus.dump("gpu")
    run = call("vnuma_partition", _arguments(gpus, **options))
    assert run.failed
    assert sentence in run.msg
    assert gpus.dump("gpu") == before


def test_something_else_behind_a_port(
    gpus: Libvirt, call: Call, addresses: list[str], tmp_path: Path
) -> None:
    """It is not moved, so the port stays until its owner has taken it out."""
    gpus.define(with_devices(hostdev(addresses[0])))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    text = gpus.dump("gpu")
    (port,) = (
        one.get("index")
        for one in etree.fromstring(text).iterfind("devices/controller")
        if one.find("address") is not None
        and one.get("model") == "pcie-root-port"
        and int(one.find("address").get("bus"), 16) > 0
    )
    _plug(gpus, tmp_path, "detach-device", hostdev(addresses[0]))
    place = f"<address type='pci' domain='0' bus='{port}' slot='0' function='0'/>"
    gpus.define(
        gpus.dump("gpu").replace(
            "</devices>",
            f"<rng model='virtio'><backend model='random'>"
            f"/dev/urandom</backend>{place}</rng></devices>",
        )
    )
    before = gpus.dump("gpu")
    run = call("vnuma_partition", _arguments(gpus, state="absent"))
    assert run.failed
    sentence = f"a <rng> was put behind a root port of this collection, at PCI bus {port}; detach"
    assert sentence in run.msg
    assert gpus.dump("gpu") == before


def test_a_device_off_its_cell_is_drift(gpus: Libvirt, call: Call, addresses: list[str]) -> None:
    """Information says on which cell a device is, and on which it should be."""
    gpus.define(with_devices(hostdev(addresses[1])))
    assert not call("vnuma_partition", _arguments(gpus)).failed
    asked = {"uri": gpus.uri, "guests": ["gpu"]}
    (guest,) = call("vnuma_info", asked).result["guests"]
    assert not guest["drift"]
    assert guest["persistent"]["devices"][0]["cell"] == 1
    gpus.define(gpus.dump("gpu").replace("<node>1</node>", "<node>0</node>"))
    (guest,) = call("vnuma_info", asked).result["guests"]
    (drift,) = guest["drift"]
    assert drift["what"] == "devices"
    assert drift["msg"].startswith(f"device {addresses[1]} is on cell 0 at 0000:f8:00.0 as defined")
    assert not call("vnuma_partition", _arguments(gpus)).failed
    assert not call("vnuma_info", asked).result["guests"][0]["drift"]
