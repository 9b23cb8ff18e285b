# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Buses of passed-through devices: thousands of made-up guests, numbered by a second reader."""

from __future__ import annotations

import os
import random
import re

import pciguests
import pcijudge
import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import restored
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from hypothesis import settings
from pciguests import PciGuest, partition

#: A quarter of the guests: as many as a property has examples; PCI_GUESTS tries more.
GUESTS = int(os.environ.get("PCI_GUESTS", settings().max_examples))
_HOSTDEV = re.compile(r"    <(hostdev|interface) .*?</\1>\n", re.DOTALL)


def _without_space(text: str) -> str:
    return re.sub(r">\s+<", "><", text)


def _without(text: str, source: str) -> str:
    return _HOSTDEV.sub(lambda found: "" if source in found[0] else found[0], text)


def _churn(choice: random.Random, one: PciGuest, nodes: int, plain: str) -> tuple[PciGuest, str]:
    """Take some devices out of a guest and put others in, and out of and into a second text."""
    text, known = one.text, dict(one.known)
    for source in sorted(known):
        if choice.random() < 0.3:
            _domain, bus, slot, function = re.split("[:.]", source)
            key = f"bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>\n      </source>"
            text, plain = (_without(both, key) for both in (text, plain))
            del known[source]
    for number in range(choice.randint(0, 4)):
        source, known_one = pciguests.device(choice, nodes, 0x40 + choice.randrange(64) + number)
        if source not in {**known, **one.known}:
            known[source] = known_one
            text, plain = (
                both.replace("    <memballoon", pciguests.hostdev(source) + "    <memballoon")
                for both in (text, plain)
            )
    return PciGuest(text, known), plain


@pytest.mark.parametrize("chunk", range(4))
def test_rooms_hold_and_stay(chunk: int) -> None:
    """No two buses have a number; who has one keeps it; all else stays, and comes back."""
    placed, refused = 0, list[str]()
    for seed in range(GUESTS * chunk, GUESTS * chunk + GUESTS):
        choice = random.Random(seed)  # noqa: S311 - guests, and no secrets
        nodes = choice.choice((1, 2, 2, 3, 4, 8))
        on, one = pciguests.host(nodes), pciguests.made_up(choice, nodes)
        plain, cells = one.text, choice.choice((None, None, 2 * nodes))
        before = pcijudge.read(plain)
        assert not before.wrong, seed
        last: dict[str, str] = {}
        known: dict[str, HostDevice] = {}
        for _round in range(3):
            before = pcijudge.read(one.text)
            try:
                text, layout = partition(one, on, cells=cells)
            except LayoutError as error:
                refused.append(error.message)
                break
            now, nodes_of = pcijudge.read(text), layout.host_nodes
            assert not now.wrong, (seed, now.wrong)
            assert now.others == before.others, seed
            for device, (address, cell) in now.devices.items():
                node = one.known[device].node
                if node in layout.host_nodes:
                    assert cell == layout.host_nodes.index(node), (seed, device)
                    placed += 1
                else:
                    assert (address, cell) == before.devices[device] or device in last, seed
                if known.get(device) == one.known[device] and device in last and node in nodes_of:
                    assert last[device] == address, (seed, device)
            known = one.known
            last = {device: address for device, (address, _cell) in now.devices.items()}
            told = {
                device: address for bus in layout.devices for device, address in bus.addresses()
            }
            assert told.items() <= last.items(), seed
            again, _layout = partition(PciGuest(text, one.known), on, cells=cells)
            assert again == text, seed
            back = restored(read_definition(text)).definition.text
            assert _without_space(back) == _without_space(plain), seed
            if _round == 0:
                assert back == plain, seed
            one, plain = _churn(choice, PciGuest(text, one.known), nodes, plain)
    assert placed > GUESTS
    assert all("its PCI buses do not suffice" in one for one in refused)


def test_the_second_reader_can_fail() -> None:
    """A room that is too small, or numbers of the root's own tree, are seen."""
    known = {f"0000:{bus:02x}:00.0": HostDevice(0, "pci0000:00") for bus in (16, 17)}
    ports = "".join(pciguests.port(index, 0, index) for index in (1, 2, 3))
    devices = "".join(
        pciguests.hostdev(source, pciguests.address(index)) for index, source in enumerate(known, 2)
    )
    text, _layout = partition(
        PciGuest(pciguests.guest(ports + devices), known), pciguests.host(1), cells=1
    )
    assert "busNr='247'" in text.replace('"', "'")
    for number, wrong in ((254, "would have bus 256"), (2, "bus 2 is that of"), (4, "")):
        told = pcijudge.read(text.replace("busNr='247'", f"busNr='{number}'")).wrong
        assert bool(told) == bool(wrong)
        assert all(wrong in one or "bus" in one for one in told)
