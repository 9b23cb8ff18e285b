# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What QEMU would not start, and what a guest's own kernel would not show, as it was planned.

Knows QEMU's machines and what Linux makes of them, by figures; neither XML nor libvirt.

libvirt does not say which of QEMU's machines can have cells. Its domain capabilities, of an
emulator, architecture and machine type, tell pseries from powernv9 and virt from raspi3b by devices
and by the most vCPUs alone (libvirt 9.0 and 11.3). Its list of machine types has ``maxCpus``, and
newer ones ``deprecated``. What it keeps for itself of each (/var/cache/libvirt/qemu/capabilities)
is the ``numa-mem-supported`` of QEMU's query-machines: that is ``-numa node,mem=``, which
pc-q35-7.2 lacks like powernv9, and which pc-i440fx-2.7 has. Turning a definition into QEMU's
arguments (virConnectDomainXMLToNative) starts no QEMU. QEMU itself says by a machine's property
``hmat``, but only when it is started, as the user that libvirt runs it as, and creating every
machine to look at it ends some QEMUs.

So this is what QEMU declares. A machine has NUMA where its class has get_default_cpu_node_id and
cpu_index_to_instance_props (machine_initfn, hw/core/machine.c); all others end with "NUMA is not
supported by this machine-type" (set_numa_options, hw/core/numa.c). tests/integration/
test_machine_types.py asks every QEMU that it meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .._cpuset import MAX_ID, Ids, format_cpuset, whole_number
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Cell, Topology
from .._policy import AUTO, Policy
from .nodes import leaves_cells

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
#: Types of QEMU's guests in libvirt, and that of its test driver.
_KINDS = ("kvm", "qemu", "hvf", "test")
#: Most threads of a core of QEMU's pseries machine (spapr_set_vsmt_mode, hw/ppc/spapr.c).
_MOST_PPC64_THREADS = 8
#: CPU models of QEMU with topoext (target/i386/cpu.c; asked of 7.2 by query-cpu-model-expansion).
_MODELS_WITH_TOPOEXT = ("EPYC", "Dhyana")
_VENDORS_WITH_TOPOEXT = ("AMD", "Hygon")
#: Highest id of an xAPIC; 255 is everyone. QEMU refuses what goes beyond ("current -smp
#: configuration requires kernel irqchip and X2APIC API support", hw/i386/x86.c), unless KVM has
#: x2APIC; libvirt wants an IOMMU with interrupt remapping too, but only over 255 vCPUs.
HIGHEST_XAPIC_ID = 254
MOST_XAPIC_VCPUS = 255


def is_x86(arch: str) -> bool:
    """Tell whether an architecture, as libvirt names it, is that of a PC."""
    return arch in ("x86_64", "i686")


def highest_apic_id(topology: Topology) -> int:
    """Return the APIC id of the last vCPU of a PC.

    Threads, cores and dies each take as many bits as their highest number needs
    (include/hw/i386/topology.h in QEMU), so that 33 cores take the room of 64.
    """
    last = 0
    for count in (topology.sockets, topology.dies, topology.cores, topology.threads):
        last = (last << (count - 1).bit_length()) + count - 1
    return last


def check_machine(guest: Guest, arch: str, policy: Policy) -> None:
    """Refuse a guest that would not start with cells, whatever their layout.

    Its architecture is '' where that is not known.

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


def release(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version, as far as it has them."""
    return tuple(whole_number(part) or 0 for part in version.split(".")[:2])


def check_emulated_threads(guest: Guest, arch: str, host: Host, threads: int) -> None:
    """Refuse threads that QEMU does not emulate, as far as its version is known.

    Raises:
        LayoutError: with the way out.
    """
    has_threads = release(host.hypervisor_version) >= _TCG_WITH_PPC64_THREADS
    if threads > 1 and emulates_one_thread(guest, arch) and not has_threads:
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


def check_kind(guest: Guest) -> None:
    """Refuse a guest that is not one of QEMU's.

    Raises:
        LayoutError: with what it is.
    """
    if guest.kind not in ("", *_KINDS):
        raise LayoutError(
            f"it is of type '{guest.kind}', and only QEMU's guests (kvm, qemu) can have cells; "
            "exclude the guest."
        )


def check_guest(guest: Guest, arch: str, policy: Policy) -> None:
    """Refuse a guest that cannot have cells, whatever the host.

    Raises:
        LayoutError: with what it is, and what could be changed.
    """
    check_kind(guest)
    check_machine(guest, arch, policy)
    if guest.vcpus > MAX_ID + 1:
        raise LayoutError(
            f"{guest.vcpus} vCPUs exceed the {MAX_ID + 1} that cells can name; reduce its vCPUs."
        )
    threads = policy.threads or 1
    if arch.startswith("ppc64") and (threads & threads - 1 or threads > _MOST_PPC64_THREADS):
        raise LayoutError(
            f"threads must be 'auto', 1, 2, 4 or {_MOST_PPC64_THREADS} on {arch}, not {threads}."
        )


def check_definition(guest: Guest, count: int) -> None:
    """Refuse a guest whose definition cannot live with so many new cells.

    Raises:
        LayoutError: with what names a cell that would not be there, or conflicts with any cells.
    """
    if guest.conflicts:
        raise LayoutError(guest.conflicts[0])
    present = (
        f"the guest will have cells 0 to {count - 1}"
        if count > 1
        else "the guest will have cell 0 only"
    )
    for reference in guest.cell_references:
        if max(reference.cells) >= count:
            raise LayoutError(
                f"{reference.subject}, and {present}; {reference.remedy}, or change cells."
            )
    named = [use.cells for use in guest.hugepages if use.cells is not None]
    for cells in named:
        # On a guest without cells libvirt takes a nodeset of 0 only, and drops it.
        if max(cells) >= count:
            raise LayoutError(
                f"its hugepages name cells '{format_cpuset(cells)}', and {present}; change the "
                "nodeset of <page>, or cells."
            )
    # Pages that are for every cell there is, and not for every cell there will be: a guest without
    # cells counts as one, cell 0. Where some cell has ordinary pages already, someone meant that.
    covered = {cell for cells in named for cell in cells}
    lost = set(range(count)) - covered
    everywhere = covered.issuperset(range(max(1, guest.cell_count)))
    if named and len(named) == len(guest.hugepages) and lost and everywhere:
        raise LayoutError(
            f"its hugepages cover {_cells_text(covered)} only, and {_cells_text(lost)} would have "
            "none; remove nodeset from <page> so that it covers every cell, or change cells."
        )


def check_own_cells(guest: Guest) -> None:
    """Refuse a guest that would get back fewer cells than its devices are in.

    Raises:
        LayoutError: with what names a cell that would not be there.
    """
    count = len(guest.own_cells)
    for reference in guest.cell_references:
        if max(reference.cells) >= count and guest.cell_count > count:
            had = f"{count} cell{'s' if count != 1 else ''}" if count else "no cells"
            raise LayoutError(
                f"{reference.subject}, and on one host node the guest goes back to {had}, as "
                f"before its partition; {reference.remedy}, or set cells."
            )


def check_split_cores(guest: Guest, threads: int) -> None:
    """Refuse a guest core of which some vCPUs are there at boot and some are not.

    On ppc64 a core is plugged as a whole, and libvirt does not start such a guest
    (qemuProcessValidateHotpluggableVcpus, src/qemu/qemu_process.c). On x86 a thread is the unit.

    Raises:
        LayoutError: with the vCPUs of the core.
    """
    if not guest.arch.startswith("ppc64") or guest.online_vcpus is None:
        return
    online = set(guest.online_vcpus)
    for first in range(0, guest.vcpus, threads):
        core = set(range(first, first + threads))
        if core & online and core - online:
            raise LayoutError(
                f"vCPUs {format_cpuset(core)} would be one core with threads {threads}, and only "
                f"{format_cpuset(core & online)} of them are online; change <vcpu current>, or "
                "set threads to 1."
            )


def topology_warnings(
    guest: Guest,
    arch: str,
    host: Host,
    policy: Policy,
    topology: Topology,
    nodes: Sequence[Node],
) -> Iterator[str]:
    """Yield what becomes of the CPU topology."""
    host_threads = min((node.threads for node in nodes), default=topology.threads)
    # A guest that keeps its own CPU topology gets one that fits together with a cell.
    first = "cells to 1, and " if leaves_cells(policy, len(nodes)) else ""
    if topology.threads > host_threads:
        yield (
            f"threads {topology.threads} exceeds the host's SMT width of {host_threads}: the "
            f"guest's scheduler takes separate cores for SMT siblings; set {first}threads to "
            f"{'1' if host_threads == 1 else f'{host_threads} or 1'}."
        )
    if not is_x86(arch or "x86_64"):
        return
    if topology.threads > 1 and lacks_topoext(guest, host):
        yield (
            f"its kernel does not see {topology.threads} threads a core on this {host.cpu_vendor} "
            "host; add <feature policy='require' name='topoext'/> to its <cpu>, or set "
            f"{first}threads to 1."
        )
    if guest.vcpus <= MOST_XAPIC_VCPUS and highest_apic_id(topology) > HIGHEST_XAPIC_ID:
        yield (
            f"its CPU topology needs APIC ids over {HIGHEST_XAPIC_ID}, which QEMU starts only on "
            "KVM with x2APIC; use distribution 'contiguous' with threads 1 or 2."
        )


def boot_warnings(guest: Guest, arch: str, assigned: Sequence[tuple[int, ...]]) -> Iterator[str]:
    """Yield which cells the guest's kernel will not see, or not as they are."""
    if len(assigned) > 1 and is_x86(arch) and not guest.has_acpi:
        # Seen with QEMU 7.2 and Linux 6.1: a q35 guest gets its nodes from tables that SeaBIOS
        # makes up then, without distances; a pc guest gets a single node.
        yield (
            "it has no ACPI, so its kernel sees no distances and may see a single cell; add "
            "<acpi/> to its <features>."
        )
    if guest.online_vcpus is not None and len(guest.online_vcpus) < guest.vcpus:
        online = frozenset(guest.online_vcpus)
        empty = [cell for cell, vcpus in enumerate(assigned) if online.isdisjoint(vcpus)]
        if empty:
            yield (
                f"{_cells_text(set(empty))} {'have' if len(empty) > 1 else 'has'} no vCPU at boot, "
                f"because only {len(online)} of {guest.vcpus} vCPUs are online; set distribution "
                "to 'interleave' to spread them."
            )


def crowded_cells(
    guest: Guest,
    cells: Sequence[Cell],
    backing: Sequence[Node | None],
    pinnable: Mapping[int, Ids],
    policy: Policy,
) -> Iterator[str]:
    """Yield which host nodes have fewer pCPUs than the guest's vCPUs that are pinned to them.

    *pinnable* has, by host node, the pCPUs that its vCPUs share there. A guest whose nodes are
    chosen for it has asked for that much.
    """
    if policy.nodes == AUTO:
        return
    crowd: dict[int, list[Cell]] = {}
    for cell, node in zip(cells, backing):
        if node is not None:
            crowd.setdefault(node.id, []).append(cell)
    has_room = guest.vcpus <= sum(map(len, pinnable.values()))
    splits = policy.split == "even" and policy.distribution == "contiguous"
    remedy = "set split to 'proportional'" if has_room and splits else "reduce its vCPUs"
    for node_id, inside in sorted(crowd.items()):
        vcpus, cpus = sum(len(cell.vcpus) for cell in inside), len(pinnable[node_id])
        if vcpus > cpus:
            ids = {cell.id for cell in inside}
            yield (
                f"{_cells_text(ids)} {'have' if len(ids) > 1 else 'has'} {vcpus} vCPUs on the "
                f"{cpus} pCPU{'s' if cpus > 1 else ''} of host node {node_id}, which they share; "
                f"{remedy}, or use more nodes."
            )


def _cells_text(ids: set[int]) -> str:
    return f"cell{'s' if len(ids) > 1 else ''} {format_cpuset(ids)}"


def lacks_topoext(guest: Guest, host: Host) -> bool:
    """Tell whether QEMU hides threads, and what shares which cache, from a guest on this host.

    An AMD CPU without ``topoext`` has no threads: its guest takes them for cores, and QEMU warns
    of it ("This family of AMD CPU doesn't support hyperthreading"). Since QEMU 3.1 the feature is
    left out of ``-cpu host`` and ``max`` unless it is named (commit 7210a02c585; it is among the
    no_autoenable_flags of target/i386/cpu.c to this day), and libvirt adds nothing to what the
    definition says. Models have their own: EPYC and Dhyana with it, all others without, and on KVM
    all of them with the host's vendor.

    So this is said, and not mended: the feature changes the CPUID that a guest was installed and
    perhaps migrates with, and where a host cannot give it a guest that requires it does not start.
    """
    if guest.has_topoext or guest.kind == "qemu":
        return False
    if host.cpu_vendor not in _VENDORS_WITH_TOPOEXT:
        return False
    if guest.cpu_mode in ("host-passthrough", "maximum"):
        return True
    # What libvirt makes of host-model is known on the host alone; on AMD's Zen it is an EPYC.
    return guest.cpu_mode != "host-model" and not guest.cpu_model.startswith(_MODELS_WITH_TOPOEXT)
