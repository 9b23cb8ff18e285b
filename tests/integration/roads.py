# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts between which tests migrate guests, and the modules that do so there."""

from __future__ import annotations

import shutil
from typing import Any

from adhoc import Adhoc, Run, command
from conftest import Libvirt
from highway import Highway

#: Guests that stay in their firmware: they boot nothing, and there is little to copy.
FIRMWARE = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model>kvm64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {devices}
    <memballoon model='none'/>
  </devices>
</domain>
"""


def firmware_guest(name: str, *, vcpus: int = 2, memory_mib: int = 16, devices: str = "") -> str:
    """Return the definition of a guest that boots nothing."""
    return FIRMWARE.format(name=name, vcpus=vcpus, memory_mib=memory_mib, devices=devices)


#: What the module hands on to libvirt, in its dictionary ``options``.
_HANDED_ON = ("bandwidth", "compression", "auto_converge", "post_copy", "tls", "peer_to_peer")


class Roads(Highway):
    """Hosts that guests migrate between.

    Attributes:
        libvirts: their daemons, by name.
    """

    def __init__(self, name: str, network: str, adhoc: Adhoc) -> None:
        super().__init__(name, network)
        self._adhoc = adhoc
        self._facts: dict[str, Any] = {}
        self.libvirts: dict[str, Libvirt] = {}

    def open(self, names: tuple[str, ...]) -> None:
        """Start hosts of these names."""
        self.build(names)
        self.libvirts = {name: Libvirt(self.host(name), ssh=False) for name in names}

    def call(self, on: str, module: str, arguments: dict[str, Any], *flags: str) -> Run:
        """Call a module on a host."""
        return self._adhoc.call(module, arguments, flags, variables=self.variables(on))

    def facts(self, name: str) -> dict[str, Any]:
        """Return the topology of a host, asked for once."""
        if name not in self._facts:
            run = self.call(name, "vnuma_facts", {"uri": "qemu:///system"})
            self._facts[name] = run.result["ansible_facts"]["vnuma_host"]
        facts: dict[str, Any] = self._facts[name]
        return facts

    def partition(self, on: str, *guests: str, group: tuple[str, ...] = (), **options: Any) -> Run:
        """Partition guests of a host."""
        if group:
            options["migration_group"] = list(group)
            options["topologies"] = {name: self.facts(name) for name in group}
        arguments = {"guests": [{"name": name} for name in guests], **options}
        run = self.call(on, "vnuma_partition", arguments)
        assert not run.failed, run.msg
        return run

    def migrate(
        self, on: str, to: str, *guests: str, flags: tuple[str, ...] = (), **options: Any
    ) -> Run:
        """Migrate guests from a host to another."""
        return self.call(on, "vnuma_migrate", self._to(to, guests, options), *flags)

    def migrate_command(self, on: str, to: str, *guests: str, **options: Any) -> list[str]:
        """Return the command that migrates guests from a host to another."""
        arguments = self._to(to, guests, options)
        return command("vnuma_migrate", arguments, variables=self.variables(on))

    def _to(self, to: str, guests: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
        # Their URIs name the lab's own key.
        targets = {"targets": [self.target(to)], "trust_uris": True}
        handed_on = {name: options.pop(name) for name in _HANDED_ON if name in options}
        return {"guests": list(guests), **targets, "options": handed_on, **options}

    def forget(self) -> None:
        """Remove what outlives a run, on every host."""
        for name in self.libvirts:
            # Not the folder itself, which is mounted in the host.
            for path in (self.host(name).root / "state").iterdir():
                shutil.rmtree(path)

    def clear(self) -> None:
        """End and undefine every guest of every host."""
        for libvirt in self.libvirts.values():
            libvirt.clear()
