# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of QEMU's machines can have cells.

libvirt does not say. Its domain capabilities, of an emulator, architecture and machine type, tell
pseries from powernv9 and virt from raspi3b by devices and by the most vCPUs alone (libvirt 9.0 and
11.3). Its list of machine types has ``maxCpus``, and newer ones ``deprecated``. What it keeps for
itself of each (/var/cache/libvirt/qemu/capabilities) is the ``numa-mem-supported`` of QEMU's
query-machines: that is ``-numa node,mem=``, which pc-q35-7.2 lacks like powernv9, and which
pc-i440fx-2.7 has. Turning a definition into QEMU's arguments (virConnectDomainXMLToNative) starts
no QEMU. QEMU itself says by a machine's property ``hmat``, but only when it is started, as the user
that libvirt runs it as, and creating every machine to look at it ends some QEMUs.

So this is what QEMU declares. A machine has NUMA where its class has get_default_cpu_node_id and
cpu_index_to_instance_props (machine_initfn, hw/core/machine.c); all others end with "NUMA is not
supported by this machine-type" (set_numa_options, hw/core/numa.c). tests/integration/
test_machine_types.py asks every QEMU that it meets.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._cpuset import whole_number
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host
from .._policy import AUTO, Policy

#: Machines with NUMA by architecture, without what follows a dash: versions, and what distributions
#: make of them (``virt-rhel9.2.0``). A machine of another name is refused, since nearly all boards
#: have none: of QEMU 10.0's 117 for aarch64, all but virt and sbsa-ref.
_WITH_NUMA: Mapping[str, tuple[str, ...]] = {
    "aarch64": ("virt", "sbsa-ref"),
    "armv6l": ("virt",),
    "armv7l": ("virt",),
    "loongarch64": ("virt",),
    "ppc64": ("pseries",),
    "ppc64le": ("pseries",),
    "riscv32": ("virt", "spike"),
    "riscv64": ("virt", "spike"),
}
#: PCs are the other way round: all that derive from x86_machine_class_init (hw/i386/x86.c) have it,
#: of whatever name (``pc-q35-rhel9.4.0``, ``pc-i440fx-noble``, ``microvm``), and these do not.
_PCS = ("x86_64", "i686")
_PCS_WITHOUT_NUMA = ("none", "x-remote", "xenpv")
#: Emulated in one thread for all vCPUs. libvirt does not start such a guest with pins: "cpu
#: affinity is not supported" (libvirt 11.3 with QEMU 10.0). What else is emulated so (sh4, m68k)
#: has one vCPU by libvirt's ``maxCpus``, and one can be pinned.
_IN_ONE_THREAD = ("ppc",)
#: The first QEMU that emulates more than one thread of a core of its pseries machine.
_TCG_WITH_PPC64_THREADS = (8, 1)


def check_machine(guest: Guest, arch: str, policy: Policy) -> None:
    """Refuse a guest that would not start with cells, whatever their layout.

    Args:
        guest: the guest.
        arch: its architecture, '' where that is not known.
        policy: how it is to be partitioned; the way out depends on it.

    Raises:
        LayoutError: with what has no cells, and what to do.
    """
    leave = _way_out(guest, policy)
    if arch not in ("", *_PCS, *_WITH_NUMA):
        raise LayoutError(
            f"guests of architecture {arch} cannot have cells: QEMU has no NUMA for them; {leave}."
        )
    if not _has_numa(arch, guest.machine):
        raise LayoutError(
            f"guests of machine type {guest.machine} cannot have cells: QEMU has no NUMA for them; "
            f"{leave}."
        )
    if not guest.takes_cpu:
        raise LayoutError(
            f"guests of architecture {arch} cannot have cells on this host: its libvirt has no CPU "
            f"driver for them, and starts none whose definition has a <cpu>; {leave}."
        )


def check_cpu_mode(guest: Guest, arch: str, policy: Policy) -> None:
    """Refuse a guest that would get a ``<cpu>`` for its mode alone, and would not start with it.

    Raises:
        LayoutError: with the way out.
    """
    if policy.cpu_mode != "keep" and not guest.takes_cpu:
        raise LayoutError(
            f"cpu_mode '{policy.cpu_mode}' is not possible for guests of architecture {arch} on "
            "this host: its libvirt has no CPU driver for them, and starts none whose definition "
            "has a <cpu>; set cpu_mode to 'keep'."
        )


def check_pins(guest: Guest, arch: str, policy: Policy) -> None:
    """Refuse pins of vCPUs that have no threads of their own.

    Raises:
        LayoutError: with the way out.
    """
    if (
        guest.kind == "qemu"
        and arch in _IN_ONE_THREAD
        and guest.vcpus > 1
        and policy.pinning != "none"
    ):
        raise LayoutError(
            f"emulated guests of architecture {arch} cannot be pinned: QEMU runs all their vCPUs "
            "in one thread; set pinning to 'none', or exclude the guest."
        )


def emulates_one_thread(guest: Guest, arch: str) -> bool:
    """Tell whether threads of a core are no gain to a guest, and a hindrance on some QEMUs.

    QEMU before 8.1 does not start a pseries machine with them but on KVM: "TCG cannot support more
    than 1 thread/core on a pseries machine" (spapr_set_vsmt_mode, hw/ppc/spapr.c).
    """
    return guest.kind == "qemu" and arch.startswith("ppc64")


def check_emulated_threads(guest: Guest, arch: str, host: Host, threads: int) -> None:
    """Refuse threads that QEMU does not emulate, as far as its version is known.

    Raises:
        LayoutError: with the way out.
    """
    parts = host.hypervisor_version.split(".")[:2]
    release = tuple(whole_number(part) or 0 for part in parts)
    if threads > 1 and emulates_one_thread(guest, arch) and release < _TCG_WITH_PPC64_THREADS:
        raise LayoutError(
            f"threads {threads} needs KVM or QEMU 8.1 for {arch} guests, and it is of type 'qemu'; "
            "set threads to 'auto' or 1."
        )


def _has_numa(arch: str, machine: str) -> bool:
    """Tell whether a machine type has NUMA; '' is libvirt's default one, which has."""
    if not machine or not arch or arch in _PCS:
        return machine not in _PCS_WITHOUT_NUMA
    return any(machine == name or machine.startswith(f"{name}-") for name in _WITH_NUMA[arch])


def _way_out(guest: Guest, policy: Policy) -> str:
    # A guest that an earlier version of this collection gave cells has a way back.
    leave = "exclude the guest" if guest.partition is None else "set state to 'absent'"
    if policy.nodes != AUTO:
        return (
            f"set nodes to 'auto', which gives it no cells if it fits on one host node, or {leave}"
        )
    if policy.cells is not None and not policy.migration_group:
        return f"remove cells, or {leave}"
    return leave
