# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of which architectures libvirt starts guests whose definition has a ``<cpu>``."""

from __future__ import annotations

from dataclasses import replace

from .._model.guest import Guest
from .connection import Connection, libvirt

#: One that every libvirt knows the CPUs of.
_KNOWN = "x86_64"


class CpuDrivers:
    """The architectures that libvirt has a CPU driver for, each asked about once.

    Where there is none, libvirt defines a guest with a ``<cpu>``, an empty one even, and does not
    start it: "'riscv64' architecture is not supported by CPU driver" (cpuGetSubDriver,
    src/cpu/cpu.c). The list of CPU models ends with the same error, changes nothing, and takes 0.2
    ms: libvirt 9.0 has no driver for riscv64 and riscv32, 11.3 none for riscv32. Domain
    capabilities are not as exact: for riscv32, 11.3 lists a CPU mode all the same.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, bool] = {}

    def has(self, arch: str) -> bool:
        """Tell whether there is one; where libvirt does not answer, there is taken to be."""
        if arch not in self._found:
            # An error's number only: its words are in the daemon's language. A libvirt that
            # cannot list models at all gives the same for every architecture.
            self._found[arch] = not self._lacks(arch) or self._lacks(_KNOWN)
        return self._found[arch]

    def told(self, guest: Guest | None, arch: str) -> Guest | None:
        """Return what the planner is told of a guest, with whether it may have a ``<cpu>``.

        *arch* is the host's, which a guest has that does not say.
        """
        if guest is None or self.has(guest.arch or arch):
            return guest
        return replace(guest, takes_cpu=False)

    def _lacks(self, arch: str) -> bool:
        try:
            self._connection.raw.getCPUModelNames(arch, 0)
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT)
        return False
