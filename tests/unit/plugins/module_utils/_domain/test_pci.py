# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passed-through devices in definitions: what moves, what stays, what is kept and put back."""

from __future__ import annotations

import re

import pcijudge
import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import needs_restart
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import (
    keep_layout,
    lost_elements,
    restored,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.kept import put_back, runs_with
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.pci import displaced
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError, VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from pciguests import PciGuest, address, expander, guest, host, hostdev, interface, partition, port

GPU, NIC, NVME = "0000:3b:00.0", "0000:5e:10.2", "0001:af:00.0"
KNOWN = {
    GPU: HostDevice(0, "pci0000:3a"),
    NIC: HostDevice(1, "pci0000:5d"),
    NVME: HostDevice(1, "pci0001:ae"),
}
PORTS = "".join(port(index, 0, index) for index in range(1, 7))


def _devices(*more: str) -> str:
    at = dict(zip(KNOWN, (2, 3, 4)))
    devices = hostdev(GPU, address(at[GPU])) + interface(NIC, address(at[NIC]))
    return PORTS + devices + hostdev(NVME, address(at[NVME])) + "".join(more)


def _partitioned(
    devices: str, known: dict[str, HostDevice] | None = None, **options: object
) -> str:
    text, _layout = partition(
        PciGuest(guest(devices), KNOWN if known is None else known), host(2), **options
    )
    return text


def _cells(text: str) -> dict[str, int | None]:
    found = pcijudge.read(text)
    assert not found.wrong
    return {device: cell for device, (_address, cell) in found.devices.items()}


def test_each_device_is_on_its_cell() -> None:
    """A bus for each node and root complex, from the highest numbers down."""
    text = _partitioned(_devices())
    found = pcijudge.read(text)
    assert found.devices == {
        GPU: ("0000:f8:00.0", 0),
        NIC: ("0000:ef:00.0", 1),
        NVME: ("0000:e6:00.0", 1),
    }
    before = read_definition(guest(_devices()))
    assert lost_elements(before, read_definition(text)) == []
    broken = text.replace("<memballoon model='virtio'>", "<memballoon model='none'>")
    assert lost_elements(before, read_definition(broken)) == ["devices/memballoon"]
    moved = re.sub(r"(<memballoon.*?bus=')0x01", r"\g<1>0x05", text, flags=re.DOTALL)
    assert lost_elements(before, read_definition(moved)) == ["devices/memballoon/address"]


def test_functions_of_a_card_move_together() -> None:
    """They keep their functions, and the mark that there are several."""
    second = GPU.replace(".0", ".1")
    devices = PORTS + hostdev(GPU, address(2, more=" multifunction='on'"))
    devices += hostdev(second, address(2, function=1))
    known = {GPU: KNOWN[GPU], second: KNOWN[GPU]}
    text = _partitioned(devices, known)
    assert pcijudge.read(text).devices == {GPU: ("0000:f8:00.0", 0), second: ("0000:f8:00.1", 0)}
    assert "multifunction='on'" in text
    other = {GPU: KNOWN[GPU], second: KNOWN[NIC]}
    one = PciGuest(guest(devices), other)
    text, layout = partition(one, host(2))
    assert pcijudge.read(text).devices == pcijudge.read(one.text).devices
    assert f"{GPU} is put on no cell: its functions are on several host nodes." in layout.warnings


@pytest.mark.parametrize(
    ("devices", "known", "why"),
    [
        (PORTS + hostdev(GPU, address(0, 9)), KNOWN, "in the guest it is on a pcie-root and not"),
        (
            PORTS + hostdev(GPU, address(2)) + hostdev("0000:99:00.0").replace("pci", "usb"),
            {GPU: HostDevice(None)},
            "the host does not say on which node it is",
        ),
        (PORTS + hostdev(GPU, address(2)), {GPU: HostDevice(7)}, "it is on host node 7, which is"),
        (
            PORTS + hostdev(GPU, address(1, 0, 1)),
            KNOWN,
            "another device is in its slot of the guest",
        ),
    ],
)
def test_what_stays_where_it_is(devices: str, known: dict[str, HostDevice], why: str) -> None:
    """A sentence says why; it is an error where the policy requires a cell."""
    one = PciGuest(guest(devices), known)
    text, layout = partition(one, host(2))
    assert any(
        sentence.startswith(f"{GPU} is put on no cell: {why}") for sentence in layout.warnings
    )
    assert "pcie-expander-bus" not in text
    with pytest.raises(VnumaError) as raised:
        partition(one, host(2), device_locality="require")
    assert f"guest gpu: {GPU} cannot be put on a cell: {why}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "known", "sentence"),
    [
        (guest(_devices(), machine="pc-i440fx-7.2"), KNOWN, "machine type 'pc-i440fx-7.2' has no"),
        (guest(_devices(), features=""), KNOWN, "without <acpi/> in <features> the guest is told"),
        (
            guest(_devices().replace("</source>", "</source><acpi index='7'/>", 1)),
            KNOWN,
            "<acpi index> names it, which has no effect behind an expander bus",
        ),
        (
            guest(_devices("<iommu model='smmuv3'><driver pciBus='2'/></iommu>")),
            KNOWN,
            "an <iommu> belongs to PCI bus 2, where it is",
        ),
        (guest(_devices()), {}, "its host node is not known here, and not given in device_nodes"),
    ],
)
def test_refusals(text: str, known: dict[str, HostDevice], sentence: str) -> None:
    """They name the device, what is in the way, and the way out; without devices there is none."""
    with pytest.raises(VnumaError) as raised:
        partition(PciGuest(text, known), host(2))
    assert str(raised.value) == (
        f"guest gpu: {GPU} cannot be put on a cell: {sentence}"
        + str(raised.value).partition(sentence)[2]
    )
    assert str(raised.value).endswith("; change that, or set devices to 'keep'.")
    bare = re.sub(r"    <(hostdev|interface) .*?</\1>\n", "", text, flags=re.DOTALL)
    changed, layout = partition(PciGuest(bare, {}), host(2))
    assert "expander" not in changed
    assert not layout.devices


def test_too_many_devices() -> None:
    """The figures say what is short."""
    known = {f"0000:{number:02x}:00.0": HostDevice(0, "pci0000:00") for number in range(16, 216)}
    devices = "".join(hostdev(one) for one in known)
    with pytest.raises(VnumaError) as raised:
        partition(PciGuest(guest(PORTS + devices), known), host(2))
    assert "its PCI buses do not suffice: its devices need 207 bus numbers more (" in str(
        raised.value
    )


def test_an_expander_bus_of_the_owner() -> None:
    """A device that is on its cell by that stays; one on another cell moves."""
    own = expander(7, 250, 0, 9) + port(8, 7, 0) + expander(9, 240, 0, 10) + port(10, 9, 0)
    devices = PORTS + own + hostdev(GPU, address(8)) + hostdev(NIC, address(10))
    before = pcijudge.read(guest(devices))
    text = _partitioned(devices)
    now = pcijudge.read(text)
    assert not now.wrong
    assert now.devices[GPU] == before.devices[GPU]
    assert now.devices[NIC] == ("0000:e8:00.0", 1)
    assert restored(read_definition(text)).definition.text == guest(devices)


def test_a_daemon_that_does_not_answer_moves_nothing() -> None:
    """What is on a cell stays there while nobody knows its node; no restart comes of it."""
    text = _partitioned(_devices())
    for silent in (set(KNOWN), {GPU}, {NIC, NVME}):
        known = {one: HostDevice(None) if one in silent else place for one, place in KNOWN.items()}
        again, _layout = partition(PciGuest(text, known), host(2))
        assert again == text


def test_a_room_that_somebody_took() -> None:
    """Where a number was changed by hand so that the room holds no more, another one is found."""
    text = _partitioned(_devices()).replace("busNr='247'", "busNr='255'")
    text = text.replace("busNr='238'", "busNr='4'")
    assert pcijudge.read(text).wrong
    again, _layout = partition(PciGuest(text, KNOWN), host(2))
    assert _cells(again) == {GPU: 0, NIC: 1, NVME: 1}
    assert restored(read_definition(again)).definition.text == guest(_devices())


def test_the_nodes_of_a_guest_change() -> None:
    """Addresses stay, and the buses are on the cells that mirror their nodes then."""
    text = _partitioned(_devices())
    before = pcijudge.read(text).devices
    again, _layout = partition(PciGuest(text, KNOWN), host(2), cells=4)
    found = pcijudge.read(again).devices
    assert {one: found[one][0] for one in found} == {one: before[one][0] for one in before}
    assert _cells(again) == {GPU: 0, NIC: 1, NVME: 1}
    single, layout = partition(PciGuest(text, KNOWN), host(2), nodes="1", cells=1)
    assert _cells(single) == {GPU: None, NIC: 0, NVME: 0}
    assert pcijudge.read(single).devices[GPU] == pcijudge.read(guest(_devices())).devices[GPU]
    assert any(one.startswith(f"{GPU} is put on no cell: it is on") for one in layout.warnings)


def test_a_layout_that_is_kept() -> None:
    """A guest that does not start gets back the buses that it ran with, and nothing else."""
    plain = read_definition(guest(_devices()))
    first = read_definition(_partitioned(PORTS + hostdev(GPU, address(2))))
    more = first.text.replace("    <memballoon", hostdev(NIC, address(3)) + "    <memballoon")
    text, _layout = partition(PciGuest(more, KNOWN), host(2), cells=4)
    second = read_definition(text)
    for ran, now in ((first, second), (plain, first), (second, first)):
        kept = keep_layout(ran)
        assert runs_with(ran, kept)
        assert not runs_with(now, kept)
        back = put_back(now, kept).definition
        assert (
            back.state.devices
            == tuple(bus for bus in ran.state.devices if any(port.devices for port in bus.ports))
            or ran is second
        )
        assert not pcijudge.read(back.text).wrong
        assert back.state.cells == ran.state.cells


def test_something_else_behind_a_port() -> None:
    """It is not moved, so the guest is refused until its owner has."""
    text = _partitioned(_devices())
    gone = re.sub(r"    <hostdev .*?</hostdev>\n", "", text, count=1, flags=re.DOTALL)
    index = min(int(one) for one in re.findall(r"controllers='(\d+)", text)) + 1
    rng = f"<rng model='virtio'>{address(index)}</rng>"
    foreign = gone.replace("    <memballoon", f"    {rng}\n    <memballoon")
    with pytest.raises(DomainError, match="guest gpu: a <rng> was put behind a root port of this"):
        restored(read_definition(foreign))
    again, _layout = partition(PciGuest(foreign, KNOWN), host(2))
    assert rng in again
    assert not pcijudge.read(again).wrong


@pytest.mark.parametrize("number", ["x", "-1", "99999999999999999999"])
def test_a_record_that_was_changed(number: str) -> None:
    """One sentence, and no traceback."""
    text = re.sub("controllers='[^']*'", f"controllers='{number}'", _partitioned(_devices()))
    with pytest.raises(VnumaError, match="a controller index in its record must be an integer"):
        restored(read_definition(text))


def test_a_device_that_came_behind_a_port_by_itself() -> None:
    """It goes to its own cell, or to where libvirt puts it; a second run has nothing to do."""
    text = _partitioned(PORTS + hostdev(GPU, address(2)) + hostdev(NVME, address(4)))
    index = min(int(one) for one in re.findall(r"controllers='(\d+)", text)) + 1
    gone = re.sub(r"    <hostdev .*?</hostdev>\n", "", text, count=1, flags=re.DOTALL)
    came = gone.replace("    <memballoon", hostdev(NIC, address(index)) + "    <memballoon")
    for place, cell in ((KNOWN[NIC], 1), (HostDevice(5), None), (HostDevice(0, "pci0000:3a"), 0)):
        known = {**KNOWN, NIC: place}
        again, _layout = partition(PciGuest(came, known), host(2))
        found = pcijudge.read(again)
        assert not found.wrong
        assert found.devices.get(NIC, ("", None))[1] == cell
        assert partition(PciGuest(again, known), host(2))[0] == again
        back = restored(read_definition(again)).definition.text
        assert not pcijudge.read(back).wrong
        assert NIC not in pcijudge.read(back).devices


def test_devices_that_an_owner_plugs_wait_for_no_restart() -> None:
    """Only where a device that both definitions have is elsewhere, a cold start is due."""
    defined = read_definition(_partitioned(_devices()))
    assert needs_restart(read_definition(guest(_devices())), defined)
    assert not needs_restart(defined, defined)
    unplugged = re.sub(r"    <hostdev .*?</hostdev>\n", "", defined.text, flags=re.DOTALL)
    assert not needs_restart(read_definition(unplugged), defined)
    assert not needs_restart(defined, read_definition(unplugged))
    known = {**KNOWN, "0000:d8:00.0": HostDevice(0, "pci0000:3a")}
    more = defined.text.replace("    <memballoon", hostdev("0000:d8:00.0") + "    <memballoon")
    text, _layout = partition(PciGuest(more, known), host(2))
    assert not needs_restart(defined, read_definition(text))
    assert needs_restart(read_definition(more), read_definition(text))
    moved = read_definition(text.replace("<node>1</node>", "<node>0</node>"))
    assert needs_restart(defined, moved)


def test_a_place_that_two_have_left() -> None:
    """libvirt puts a later device behind the port that was vacated; the first one gets it back."""
    text = _partitioned(PORTS + hostdev(NVME, address(2)))
    more = text.replace("    <memballoon", hostdev(GPU, address(2)) + "    <memballoon")
    text, _layout = partition(PciGuest(more, KNOWN), host(2))
    assert _cells(text) == {NVME: 1, GPU: 0}
    back = restored(read_definition(text)).definition.text
    found = pcijudge.read(back)
    assert not found.wrong
    assert list(found.devices) == [NVME]
    assert list(displaced(read_definition(text).root, read_definition(back).root)) == [
        f"{GPU} was at PCI bus 0x02, slot 0x00, where another device is by now; libvirt puts it "
        "elsewhere in the guest."
    ]


@pytest.mark.parametrize("os", ["<os firmware='efi'>", "<os><loader>/usr/share/OVMF/x</loader>"])
def test_guests_that_boot_by_uefi_are_warned_once(os: str) -> None:
    """Old firmware loses devices behind expander buses."""
    one = PciGuest(guest(_devices()).replace("<os>", os), KNOWN)
    text, layout = partition(one, host(2))
    assert any(sentence.startswith("it boots by UEFI, and old") for sentence in layout.warnings)
    assert not partition(PciGuest(text, KNOWN), host(2))[1].warnings
    assert not any(
        "UEFI" in one for one in partition(PciGuest(guest(_devices()), KNOWN), host(2))[1].warnings
    )
