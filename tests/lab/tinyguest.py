# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of one sector, which boot in half a second, count, and obey their power button.

Each writes its count to its disk and to its console; see tinyguest.s. So its console says whether
it runs, how often it booted, and whether it ever was on a disk older than the one that it had.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fakehost import lab_root

#: How often a guest counts in a second, about.
RATE = 4
#: Instead of the seconds that a guest takes to go down: it never does, or when it is asked twice.
NEVER, ASKED_TWICE = 0xFFFF, 0xFFFE
#: What the outside of a definition has to keep, whatever is done to its layout.
PASSWORD = "t1nyg3st"
_SOURCE = Path(__file__).with_suffix(".s")
_DELAY_AT = 6
_BYTES = 1 << 20

_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <title>{name} of payroll</title>
  <metadata>
    <app:owner xmlns:app='https://example.com/app/1'><app:team>db</app:team></app:owner>
  </metadata>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu placement='static'>{vcpus}</vcpu>
  <iothreads>1</iothreads>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='custom' match='exact' check='none'><model>kvm64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{kind}' cache='writethrough' iothread='1'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
      {shareable}
    </disk>
    <serial type='file'>
      <source path='{console}' append='on'/>
      <target port='0'/>
    </serial>
    <graphics type='vnc' passwd='{password}'><listen type='socket'/></graphics>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class TinyGuest:
    """A guest that runs nothing but a sector.

    Attributes:
        name: its name.
        folder: for its disk and its console.
        kind: format of its disk, ``raw`` or ``qcow2``.
        shareable: whether another QEMU may have its disk, as on storage without locks.
        vcpus: its vCPUs.
        memory_mib: its memory in MiB.
    """

    name: str
    folder: Path
    kind: str = "raw"
    shareable: bool = False
    vcpus: int = 4
    memory_mib: int = 32

    @property
    def console(self) -> Path:
        """The file that it writes to."""
        return self.folder / f"{self.name}.console"

    @property
    def disk(self) -> Path:
        """The image that it is first defined with."""
        return self.folder / f"{self.name}.{self.kind}"

    def make(self, delay_s: int = 0) -> None:
        """Make its disk.

        Args:
            delay_s: how long it takes to go down once it was asked to; or NEVER, or ASKED_TWICE.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            raw = Path(folder) / "raw"
            raw.write_bytes(sector(delay_s).ljust(_BYTES, b"\0"))
            self.disk.unlink(missing_ok=True)
            subprocess.run(
                ["qemu-img", "convert", "-q", "-O", self.kind, str(raw), str(self.disk)], check=True
            )
        self.console.unlink(missing_ok=True)

    def xml(self) -> str:
        """Return its definition, without NUMA."""
        return _DOMAIN.format(
            name=self.name,
            memory_mib=self.memory_mib,
            vcpus=self.vcpus,
            kind=self.kind,
            disk=self.disk,
            shareable="<shareable/>" if self.shareable else "",
            console=self.console,
            password=PASSWORD,
        )

    def boots(self) -> int:
        """Return how often it has come up."""
        return self.said().count("READY")

    def counts(self) -> list[int]:
        """Return what it has counted to, in the order in which it said so."""
        return [int(count, 16) for count in re.findall(r"^T ([0-9a-f]{8})$", self.said(), re.M)]

    def went_back(self) -> list[tuple[int, int]]:
        """Return where it counted from an earlier number than it had said before.

        Its write to the disk comes before the word on the console, so that none is lost between.
        """
        counts = self.counts()
        return [(one, other) for one, other in zip(counts, counts[1:]) if other <= one]

    def said(self) -> str:
        """Return all that it has written: READY, POWER when it was asked to go down, counts."""
        try:
            return self.console.read_text(errors="replace")
        except FileNotFoundError:
            return ""


def sector(delay_s: int = 0) -> bytes:
    """Return the boot sector of a guest that takes so long to go down."""
    built = lab_root() / "tinyguest.bin"
    if not built.exists() or built.stat().st_mtime < _SOURCE.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            compiled, linked = Path(folder) / "o", Path(folder) / "bin"
            subprocess.run(["as", "--32", "-o", str(compiled), str(_SOURCE)], check=True)
            subprocess.run(
                [
                    *("ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00"),
                    *("-o", str(linked), str(compiled)),
                ],
                check=True,
            )
            linked.replace(built)
    code = bytearray(built.read_bytes())
    code[_DELAY_AT : _DELAY_AT + 2] = struct.pack(
        "<H", delay_s if delay_s in (NEVER, ASKED_TWICE) else delay_s * RATE
    )
    return bytes(code)
