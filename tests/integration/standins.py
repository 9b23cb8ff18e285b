# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests whose passed-through devices are emulated ones, so that they boot on any machine.

A machine without an IOMMU starts no guest with a <hostdev>. So what is partitioned has hostdevs,
and what is started has network interfaces at the very same addresses: a guest's kernel learns the
node of a device from the bus that it is on, whatever it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import debs
import guestboot
import guestfiles
import pciguests
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import layout_to_result
from conftest import Libvirt
from lxml import etree

MEMORY_MIB = 1024
VCPUS = 8
#: Debian's kernel for clouds, which other test guests have, has no e1000e.
_PACKAGES = {
    "x86_64": ("linux-image-amd64", "busybox-static"),
    "aarch64": ("linux-image-arm64", "busybox-static"),
}
#: What an aarch64 guest has where the others have something else.
_ON_ARM = {
    "arch='x86_64' machine='q35'": "arch='aarch64' machine='virt'",
    "<apic/>": "<gic version='3'/>",
    "<model>kvm64</model>": "<model>cortex-a57</model>",
    "qemu-system-x86_64": "qemu-system-aarch64",
    "console=ttyS0": "console=ttyAMA0",
}
_MAC = re.compile("52:54:00:68:(..):(..)")
#: Without its ROM, firmware does not try to boot from it.
_INTERFACE = (
    "<interface type='user'><mac address='{mac}'/><model type='{model}'/>"
    "<rom enabled='no'/>{address}</interface>"
)


@dataclass(frozen=True)
class StandIn:
    """A device of the host, and what stands in for it.

    Attributes:
        number: of its bus on the host: an even one has virtio-net, an odd one e1000e.
        node: its host node.
        root: which of the root complexes of its node.
        function: at its slot.
    """

    number: int
    node: int
    root: int = 0
    function: int = 0

    @property
    def source(self) -> str:
        """Its address on the host."""
        return f"0000:{self.number:02x}:00.{self.function}"

    @property
    def mac(self) -> str:
        """The MAC of its interface, which says that address."""
        return f"52:54:00:68:{self.number:02x}:{self.function:02x}"

    @property
    def driver(self) -> str:
        """What drives it in the guest."""
        return "e1000e" if self.number % 2 else "virtio-pci"

    @property
    def known(self) -> HostDevice:
        """Where it is on the host."""
        return HostDevice(self.node, f"pci0000:{2 * self.node + self.root:02x}")

    def interface(self, port: int | None = None, more: str = "") -> str:
        """Return its interface, behind a port or where libvirt puts it."""
        address = "" if port is None else pciguests.address(port, 0, self.function, more)
        model = "e1000e" if self.number % 2 else "virtio"
        return _INTERFACE.format(mac=self.mac, model=model, address=address)


def standins(*groups: tuple[int, int, int]) -> list[StandIn]:
    """Return devices for groups of (node, root complex, how many), in turns."""
    turns = [(turn, node, root) for node, root, count in groups for turn in range(count)]
    return [
        StandIn(0x10 + number, node, root)
        for number, (_turn, node, root) in enumerate(sorted(turns))
    ]


@dataclass
class Machine:
    """What boots a guest, and how.

    Attributes:
        libvirt: where it runs.
        folder: of its console.
        firmware: elements of its <os>.
        name: of the guest.
        arch: of the guest.
    """

    libvirt: Libvirt
    folder: Path
    firmware: str = ""
    name: str = "guest"
    arch: str = "x86_64"

    @property
    def console(self) -> Path:
        """The file that the guest's console is written to."""
        return self.folder / f"{self.name}.log"

    def define(self, devices: str) -> str:
        """Define a guest without cells and with these devices; return what libvirt stores."""
        words = {"x86_64": "amd64", "aarch64": "arm64"}
        kernel = debs.kernel(debs.unpacked("bookworm", words[self.arch], *_PACKAGES[self.arch]))
        text = guestboot.domain_xml(
            self.name,
            VCPUS,
            MEMORY_MIB,
            self.console,
            cmdline="vnuma.pci",
            kernel_path=kernel,
            initrd_path=guestfiles.initramfs(kernel),
        )
        for old, new in _ON_ARM.items() if self.arch == "aarch64" else ():
            text = re.sub(old, new, text)
        text = text.replace("</os>", f"{self.firmware}</os>")
        return self.store(text.replace("</devices>", f"{devices}</devices>"))

    def store(self, text: str) -> str:
        """Define a guest, and return what libvirt stores."""
        self.libvirt.define(text)
        # libvirt 9.0 sorts controllers when it reads its own dump, once.
        self.libvirt.define(self.libvirt.dump(self.name))
        return self.libvirt.dump(self.name)

    def start(self, text: str) -> None:
        """Define and start a guest."""
        self.libvirt.define(text)
        self.console.unlink(missing_ok=True)
        self.libvirt.virsh("start", self.name)

    def report(self) -> guestboot.GuestReport:
        """Return what the kernel of the guest that was started says, and end the guest."""
        try:
            guestboot.wait_for_boots(self.console, 1)
            return guestboot.read_report(self.console)
        finally:
            self.libvirt.virsh("destroy", self.name)

    def boot(self, text: str) -> guestboot.GuestReport:
        """Define and start a guest, and return what its kernel says; it is ended then."""
        self.start(text)
        return self.report()

    def twin(self) -> Machine:
        """Return what boots another guest meanwhile."""
        return replace(self, name="twin")

    def said(self) -> str:
        """Return all that the guest's console has."""
        return self.console.read_text(errors="replace").strip()


def efi(suite: str, arch: str = "x86_64") -> str:
    """Return elements of an <os> with the firmware of a Debian release."""
    package, path = {
        "x86_64": ("ovmf", "OVMF/OVMF_{}_4M.fd"),
        "aarch64": ("qemu-efi-aarch64", "AAVMF/AAVMF_{}.fd"),
    }[arch]
    folder = debs.unpacked(suite, "amd64", package) / "usr/share"
    code, variables = (folder / path.format(word) for word in ("CODE", "VARS"))
    return (
        f"<loader readonly='yes' type='pflash'>{code.resolve()}</loader>"
        f"<nvram template='{variables}'/>"
    )


@dataclass(frozen=True)
class Told:
    """What a partition said of a device."""

    address: str
    cell: int


def partition(
    text: str, devices: Sequence[StandIn], **options: object
) -> tuple[str, dict[str, Told]]:
    """Partition a guest with its devices passed through, and return it with stand-ins again.

    Returns:
        The definition, and what the layout says of each device by its address on the host.
    """
    known = {one.source: one.known for one in devices}
    after, layout = pciguests.partition(
        pciguests.PciGuest(passed(text), known), pciguests.host(8), threads=1, **options
    )
    told = layout_to_result(layout)["devices"]
    return stood_in(after), {one["device"]: Told(one["address"], one["cell"]) for one in told}


def passed(text: str) -> str:
    """Return a definition with a <hostdev> in the place of each interface that stands in."""
    root = etree.fromstring(text)
    for interface in root.findall("devices/interface"):
        found = _MAC.fullmatch(interface.find("mac").get("address"))
        if found:
            source = f"0000:{found[1]}:00.{int(found[2], 16)}"
            _replace(interface, pciguests.hostdev(source))
    return _text(root)


def stood_in(text: str) -> str:
    """Return a definition with an interface in the place of each <hostdev>, at its address."""
    root = etree.fromstring(text)
    for device in root.findall("devices/hostdev"):
        source = device.find("source/address")
        number, function = (int(source.get(part), 16) for part in ("bus", "function"))
        _replace(device, StandIn(number, 0, function=function).interface())
    return _text(root)


def _replace(old: etree._Element, new: str) -> None:
    made, address = etree.fromstring(new), old.find("address")
    if address is not None:
        made.append(address)
    made.tail = old.tail
    old.getparent().replace(old, made)


def _text(root: etree._Element) -> str:
    return str(etree.tostring(root, encoding="unicode"))
