# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fake hypervisor says of its libvirt's CPU drivers and schema: nothing against anybody."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import Definition
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import HypervisorError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.daemon_limits import CpuDrivers


class FakeCpuDrivers(CpuDrivers):
    """Drivers for all architectures but a few.

    Attributes:
        without: those.
    """

    def __init__(self) -> None:
        self.without: set[str] = set()

    def has(self, arch: str) -> bool:
        """Whether there is one."""
        return arch not in self.without


class FakeSchema:
    """A schema that takes everything.

    Attributes:
        refuses: but for what has this in it.
    """

    def __init__(self) -> None:
        self.refuses = "\0"

    def check(self, before: Definition, after: Definition) -> None:
        """Foretell."""
        if self.refuses in after.text:
            raise HypervisorError("the schema has no such thing.")

    def explaining(self, before: Definition) -> AbstractContextManager[None]:
        """Nothing to explain."""
        return nullcontext()
