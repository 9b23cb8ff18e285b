# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt does not say of pCPUs, and the kernel of this machine does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .._cpuset import parse_cpuset, whole_number
from .._errors import CpusetError
from .._model.layout import Ids

_DEVICES = Path("/sys/devices")


def isolated_cpus(devices: Path = _DEVICES) -> Ids | None:
    """Return the pCPUs that the scheduler balances nothing onto, None where the kernel is silent.

    These are those of ``isolcpus=`` with ``domain``, and of isolated partitions of cpusets
    (Documentation/ABI/testing/sysfs-devices-system-cpu in Linux).
    """
    try:
        text = (devices / "system/cpu/isolated").read_text(encoding="ascii").strip()
        return parse_cpuset(text) if text else ()
    except (OSError, CpusetError):
        return None


def cpu_kinds(devices: Path = _DEVICES) -> tuple[Ids, ...]:
    """Return the pCPUs of a hybrid processor by kind, the fastest first; () where all are alike.

    Linux has a PMU for each kind of core on Intel's (arch/x86/events/intel/core.c), and the
    capacity of each CPU elsewhere (drivers/base/arch_topology.c).
    """
    kinds = []
    for name in ("cpu_core", "cpu_atom"):
        with suppress(OSError, CpusetError):
            kinds.append(parse_cpuset((devices / name / "cpus").read_text(encoding="ascii")))
    if not kinds:
        by_capacity: dict[int, list[int]] = {}
        for path in devices.glob("system/cpu/cpu[0-9]*/cpu_capacity"):
            cpu = whole_number(path.parent.name[3:])
            with suppress(OSError):
                capacity = whole_number(path.read_text(encoding="ascii"))
                if cpu is not None and capacity is not None:
                    by_capacity.setdefault(capacity, []).append(cpu)
        kinds = [tuple(sorted(by_capacity[one])) for one in sorted(by_capacity, reverse=True)]
    return tuple(kinds) if len(kinds) > 1 else ()
