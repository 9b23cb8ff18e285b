# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What in a definition cannot live with new cells, or with what stood before; knows no host."""

from __future__ import annotations

from math import prod
from typing import Any

from .._cpuset import (
    format_cpuset,
    parse_cpuset,
    whole_number,
)
from .._errors import DomainError
from .._planner.distribution import granule_kib
from .definition import Definition, read_guest
from .xml import Element, elements

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def carried_over(root: Element) -> dict[str, str]:
    """Return what the cells had in common besides NUMA: how their memory is shared with others."""
    carried = {}
    cells = list(elements(root.find("cpu/numa"), "cell"))
    for attribute in ("memAccess", "discard"):
        values = {cell.get(attribute) for cell in cells}
        if len(values) > 1:
            raise DomainError(
                f"its cells differ in {attribute}, and new cells cannot; give every cell the same."
            )
        value = values.pop() if values else None
        if value is not None:
            carried[attribute] = value
    return carried


def refuse_misfits(root: Element, count: int) -> None:
    """Refuse a definition with something that names a cell which would not be there."""
    present = f"its cells will be 0 to {count - 1}" if count > 1 else "its only cell will be 0"
    devices = root.find("devices")
    for device in elements(devices, "memory"):
        node = (device.findtext("target/node") or "").strip()
        if node and not _is_below(node, count):
            raise DomainError(
                f"a memory device sits in cell {node}, and {present}; move it, or change cells."
            )
    for page in root.iterfind("memoryBacking/hugepages/page"):
        nodeset = page.get("nodeset")
        # On a guest without cells libvirt takes a nodeset of 0 only, and drops it.
        if nodeset is not None and max(parse_cpuset(nodeset)) >= count:
            raise DomainError(
                f"its hugepages name cells '{nodeset}', and {present}; change the nodeset of "
                "<page>, or cells."
            )
    _refuse_lost_hugepages(root, count)
    for controller in elements(devices, "controller"):
        node = (controller.findtext("target/node") or "").strip()
        if node and not _is_below(node, count):
            raise DomainError(
                f"a PCI expander bus sits in cell {node}, and {present}; move it, or change cells."
            )
    for extra in ("interconnects", "cell/cache"):
        if root.find(f"cpu/numa/{extra}") is not None:
            raise DomainError(
                f"its cells have <{extra.rsplit('/', 1)[-1]}> (HMAT), which new cells would lose; "
                "take it out with 'virsh edit', or leave the guest out."
            )
    for argument in root.iterfind(f"{_QEMU}commandline/{_QEMU}arg"):
        option = argument.get("value", "")
        if option.lstrip("-") in ("numa", "smp") and option.startswith("-"):
            raise DomainError(
                f"its <qemu:commandline> has '{option}', which would stand against its cells; "
                "take it out, or leave the guest out."
            )


def _refuse_lost_hugepages(root: Element, count: int) -> None:
    """Refuse pages that are for every cell there is, and not for every cell there will be.

    A guest without cells counts as one, cell 0. Where some cell has ordinary pages already,
    someone meant that.
    """
    pages = [page.get("nodeset") for page in root.iterfind("memoryBacking/hugepages/page")]
    if not pages or None in pages:
        return
    covered = {cell for nodeset in pages for cell in parse_cpuset(nodeset)}
    now = max(1, sum(1 for _cell in elements(root.find("cpu/numa"), "cell")))
    lost = set(range(count)) - covered
    if lost and covered.issuperset(range(now)):
        raise DomainError(
            f"its hugepages are for {_cells(covered)}, and {_cells(lost)} would have none; take "
            "nodeset out of <page>, so that it is for every cell, or change cells."
        )


def _cells(ids: set[int]) -> str:
    return f"cell{'s' if len(ids) > 1 else ''} {format_cpuset(ids)}"


def _is_below(text: str, count: int) -> bool:
    number = whole_number(text)
    return number is not None and number < count


def refuse_split_cores(root: Element, threads: int) -> None:
    """Refuse a guest core of which some vCPUs are there at boot and some are not.

    On ppc64 a core is plugged as a whole, and libvirt does not start such a guest
    (qemuProcessValidateHotpluggableVcpus, src/qemu/qemu_process.c). On x86 a thread is the unit.
    """
    kind = root.find("os/type")
    if kind is None or not kind.get("arch", "").startswith("ppc64"):
        return
    guest = read_guest(Definition("", root), 0)
    online = set(range(guest.vcpus) if guest.online_vcpus is None else guest.online_vcpus)
    for first in range(0, guest.vcpus, threads):
        core = set(range(first, first + threads))
        if core & online and core - online:
            raise DomainError(
                f"vCPUs {format_cpuset(core)} would be one core with threads {threads}, and only "
                f"{format_cpuset(core & online)} of them are online; change <vcpu current>, or "
                "set threads to 1."
            )


def refuse_outgrown(root: Element, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse to restore what the guest's vCPUs or memory no longer match.

    Args:
        root: the definition.
        before: what is managed in it now.
        after: what would be managed in it once restored.

    Raises:
        DomainError: with both figures.
    """
    vcpus = (root.findtext("vcpu") or "").strip()
    had = []
    if after["topology"] is not None:
        had.append(("a CPU topology", prod(after["topology"].values())))
    if after["cells"]:
        # libvirt takes cells that leave vCPUs out, and none that name more than there are.
        most = max((cpu for cell in after["cells"] for cpu in cell["cpus"]), default=-1) + 1
        had.append(("cells", max(most, whole_number(vcpus) or 0)))
    for what, count in had:
        if str(count) != vcpus:
            raise DomainError(
                f"before its partition it had {what} for {count} vCPUs, and it has {vcpus} "
                f"now; set <vcpu> back to {count}, or define it anew without the record."
            )
    # Cells decide how much memory there is; libvirt rounds each up when it starts a guest.
    had_kib, has_kib = (
        sum(cell["memory_kib"] for cell in managed["cells"]) for managed in (after, before)
    )
    kind = root.find("os/type")
    most_kib = granule_kib("" if kind is None else kind.get("arch", "")) * len(before["cells"])
    if had_kib and has_kib and not had_kib <= has_kib < had_kib + max(1, most_kib):
        raise DomainError(
            f"before its partition its cells had {had_kib} KiB together, and they have {has_kib} "
            f"KiB now; change the cells back to {had_kib}, or define it anew without the record."
        )
