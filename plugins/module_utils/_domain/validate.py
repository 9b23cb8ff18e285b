# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What in a definition cannot live with new cells, or with what was there before.

libvirt's schema (src/conf/schemas/domaincommon.rng of 12.8) names guest cells in ``<memnode>`` and
``<numa>``, which are managed, and in: memory devices and PCI controllers (``target/node``),
``memoryBacking/hugepages/page@nodeset``, and the ``<acpi nodeset>`` of any device. HMAT tables
(``<interconnects>``, ``<cache>`` in a cell) name them too, and so may QEMU's own command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from .._cpuset import MAX_ID, parse_cpuset, whole_number
from .._errors import DomainError
from .._model.domain import ManagedState
from .._model.guest import CellReference, VcpuReference
from .._policy import MAX_VCPUS
from .._size import granule_kib
from .pci import added_indexes
from .units import integer
from .xml import Element, elements

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def cell_references(root: Element) -> tuple[CellReference, ...]:
    """Return the devices that are in a cell of the guest."""
    found = []
    # Those of this collection follow their cells.
    ours = {str(index) for index in added_indexes(root)}
    for tag, subject in (("memory", "a memory device"), ("controller", "a PCI expander bus")):
        for device in elements(root.find("devices"), tag):
            text = (device.findtext("target/node") or "").strip()
            if text and device.get("index") not in ours:
                # What is no number that a cell can have is in no cell that will be there.
                number = whole_number(text)
                cell = MAX_ID if number is None else number
                found.append(CellReference(f"{subject} is in cell {text}", (cell,), "move it"))
    return tuple(found)


def vcpu_references(root: Element) -> tuple[VcpuReference, ...]:
    """Return what names vCPUs of the guest, besides what is managed.

    In ``<cputune>`` these are ``<vcpusched>``, ``<cachetune>`` and ``<memorytune>``, each with
    monitors of its own (src/conf/schemas/domaincommon.rng of libvirt 12.8).
    """
    found = []
    for element in root.iterfind("cputune//*[@vcpus]"):
        found.append(VcpuReference(f"<{element.tag}>", parse_cpuset(element.get("vcpus", ""))))
    return tuple(found)


def conflicts(root: Element, state: ManagedState) -> tuple[str, ...]:
    """Return sentences about what no new cells can live with, whatever their number."""
    found = []
    for name, values in (
        ("memAccess", {cell.memory_access for cell in state.cells}),
        ("discard", {cell.discard for cell in state.cells}),
    ):
        if len(values) > 1:
            found.append(
                f"its cells have different {name} values, which new cells cannot keep; set the "
                "same value for every cell."
            )
    for extra in ("interconnects", "cell/cache"):
        if root.find(f"cpu/numa/{extra}") is not None:
            found.append(
                f"its cells have <{extra.rsplit('/', 1)[-1]}> (HMAT), which new cells would lose; "
                "remove it with 'virsh edit', or exclude the guest."
            )
    for device in root.iterfind("devices/*"):
        acpi = device.find("acpi[@nodeset]")
        if acpi is not None:
            # QEMU's acpi-generic-initiator: such cells have neither vCPUs nor memory.
            found.append(
                f"a <{device.tag}> has cells of its own, <acpi nodeset='{acpi.get('nodeset')}'>, "
                "which new cells would replace; remove the nodeset, or exclude the guest."
            )
    for argument in root.iterfind(f"{QEMU}commandline/{QEMU}arg"):
        option = argument.get("value", "")
        if option.lstrip("-") in ("numa", "smp") and option.startswith("-"):
            found.append(
                f"its <qemu:commandline> has '{option}', which conflicts with the guest NUMA "
                "cells; remove it, or exclude the guest."
            )
    return tuple(found)


def check_outgrown(root: Element, arch: str, before: ManagedState, after: ManagedState) -> None:
    """Refuse to restore what the guest's vCPUs or memory no longer match.

    *before* is what it says of the managed elements now, *after* what it would say once restored.

    Raises:
        DomainError: with both figures.
    """
    misfit = outgrown(root, arch, before, after)
    if misfit is not None:
        raise DomainError(
            f"before its partition {misfit.figures}; {misfit.remedy}, or redefine it without the "
            "record."
        )


@dataclass(frozen=True)
class Misfit:
    """Why managed elements of earlier no longer go with a definition."""

    figures: str
    remedy: str


def outgrown(root: Element, arch: str, before: ManagedState, after: ManagedState) -> Misfit | None:
    """Return how a guest's vCPUs or memory differ from those of earlier, None where they fit.

    *before* is what it says of the managed elements now, *after* what it would say with those of
    earlier.
    """
    vcpus = integer(root.findtext("vcpu"), "<vcpu>", MAX_VCPUS, 1)
    had = []
    if after.topology is not None:
        had.append(("a CPU topology", after.topology.vcpus))
    if after.cells:
        # libvirt takes cells that leave vCPUs out, and none that name more than there are.
        most = max((vcpu for cell in after.cells for vcpu in cell.vcpus), default=-1) + 1
        had.append(("cells", max(most, vcpus)))
    for what, count in had:
        if count != vcpus:
            return Misfit(
                f"it had {what} for {count} vCPUs, and it has {vcpus} now",
                f"set <vcpu> to {count} again",
            )
    # Cells decide how much memory there is; libvirt rounds each up when it starts a guest.
    had_kib, has_kib = (sum(cell.memory_kib for cell in state.cells) for state in (after, before))
    most_kib = granule_kib(arch) * len(before.cells)
    if had_kib and has_kib and not had_kib <= has_kib < had_kib + max(1, most_kib):
        return Misfit(
            f"its cells had {had_kib} KiB together, and they have {has_kib} KiB now",
            f"set their memory to {had_kib} KiB again",
        )
    return None
