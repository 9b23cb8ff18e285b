# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up guests with passed-through devices, and the hosts that these are on."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._module.planning import (
    Ask,
    Others,
    plan_asks,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.nodes import resized
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options

_GIB = 1 << 20


@dataclass
class PciGuest:
    """A guest, and where its devices are on the host.

    Attributes:
        text: its definition.
        known: where devices are, by address.
    """

    text: str
    known: dict[str, HostDevice] = field(default_factory=dict)


def host(nodes: int) -> Host:
    """Return a host with so many nodes of eight cores."""
    made = []
    for node in range(nodes):
        cpus = tuple(range(8 * node, 8 * node + 8))
        distances = tuple((other, 10 if other == node else 20) for other in range(nodes))
        cores = tuple((cpu,) for cpu in cpus)
        made.append(Node(node, cpus, 64 * _GIB, distances=distances, cores=cores))
    return Host(nodes=tuple(made), arch="x86_64")


def address(bus: int, slot: int = 0, function: int = 0, more: str = "") -> str:
    """Return an address in the guest."""
    return (
        f"<address type='pci' domain='0x0000' bus='0x{bus:02x}' slot='0x{slot:02x}' "
        f"function='0x{function:x}'{more}/>"
    )


def port(index: int, parent: int, slot: int, function: int = 0) -> str:
    """Return a root port."""
    return (
        f"    <controller type='pci' index='{index}' model='pcie-root-port'>\n"
        f"      <target chassis='{index}' port='0x{slot * 8 + function:x}'/>\n"
        f"      {address(parent, slot, function)}\n    </controller>\n"
    )


def expander(index: int, number: int, cell: int, slot: int) -> str:
    """Return an expander bus, as an owner may have added it."""
    return (
        f"    <controller type='pci' index='{index}' model='pcie-expander-bus'>\n"
        f"      <target busNr='{number}'>\n        <node>{cell}</node>\n      </target>\n"
        f"      {address(0, slot)}\n    </controller>\n"
    )


def hostdev(source: str, place: str = "", more: str = "") -> str:
    """Return a passed-through device."""
    parts = re.fullmatch(r"(....):(..):(..)\.(.)", source)
    assert parts
    domain, bus, slot, function = parts.groups()
    return (
        "    <hostdev mode='subsystem' type='pci' managed='yes'>\n      <source>\n"
        f"        <address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' "
        f"function='0x{function}'/>\n      </source>\n"
        f"{more}{f'      {place}{chr(10)}' if place else ''}    </hostdev>\n"
    )


def interface(source: str, place: str = "") -> str:
    """Return a virtual function that is an interface."""
    text = hostdev(source, place).replace(
        "hostdev mode='subsystem' type='pci'", "interface type='hostdev'"
    )
    return text.replace("</hostdev>", "</interface>").replace(
        "<address domain", "<address type='pci' domain", 1
    )


def guest(
    devices: str, vcpus: int = 8, machine: str = "pc-q35-7.2", features: str = "<acpi/>"
) -> str:
    """Return a definition as libvirt stores it."""
    return (
        "<domain type='kvm'>\n  <name>gpu</name>\n  <memory unit='KiB'>8388608</memory>\n"
        f"  <vcpu placement='static'>{vcpus}</vcpu>\n  <os>\n"
        f"    <type arch='x86_64' machine='{machine}'>hvm</type>\n  </os>\n"
        f"  <features>\n    {features}\n  </features>\n  <devices>\n"
        "    <emulator>/usr/bin/qemu-system-x86_64</emulator>\n"
        f"    <controller type='pci' index='0' model='pcie-root'/>\n{devices}"
        f"    <memballoon model='virtio'>\n      {address(1)}\n    </memballoon>\n"
        "  </devices>\n</domain>\n"
    )


def made_up(choice: random.Random, nodes: int) -> PciGuest:
    """Return a guest with ports, perhaps expander buses of its owner's, and devices."""
    text, index, known = "", 1, {}
    spare = []
    for number in range(choice.randint(1, 40)):
        text += port(index, 0, 2 + number // 8, number % 8)
        spare += [index] if index > 1 else []
        index += 1
    number = 256
    for slot in range(choice.choice((0, 0, 0, 1, 2))):
        ports = choice.randint(1, 3)
        number -= 1 + ports + choice.randint(0, 5)
        text += expander(index, number, choice.randrange(nodes), 20 + slot)
        parent, index = index, index + 1
        for place in range(ports):
            text += port(index, parent, place)
            spare.append(index)
            index += 1
    for one in range(choice.randint(0, 12)):
        source, known_one = device(choice, nodes, one)
        known[source] = known_one
        where = ""
        if spare and choice.random() < 0.9:
            where = address(spare.pop(choice.randrange(len(spare))))
        text += choice.choice((hostdev, interface))(source, where)
    return PciGuest(guest(text, vcpus=8 * nodes), known)


def device(choice: random.Random, nodes: int, number: int) -> tuple[str, HostDevice]:
    """Return a device of the host: on a node, now and then on none or on one that is not there."""
    node = choice.choice([*range(nodes), *range(nodes), *range(nodes), None, nodes + 1])
    root = choice.randrange(2)
    bus = 0x10 + number
    return f"0000:{bus:02x}:00.0", HostDevice(node, f"pci0000:{(node or 0) * 2 + root:02x}")


def partition(one: PciGuest, on: Host, **options: object) -> tuple[str, Layout]:
    """Partition a guest, as the module does.

    Raises:
        VnumaError: when it is refused.
    """
    policy = policy_from_options({"devices": "host", **options})
    definition = read_definition(one.text)
    figures = read_guest(definition, 2048)
    domain = Domain(definition.name, definition.name, persistent=True, active=False)
    ask = Ask(domain, resized(figures, policy), policy, definition, figures, one.known)
    plan_asks([ask], Others({}, {}), on)
    layout = ask.answered()
    return partitioned(definition, layout, policy).definition.text, layout
