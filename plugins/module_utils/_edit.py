# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a layout into a domain definition, and taking it out again.

Managed are ``vcpu@placement``, ``cputune/vcpupin``, ``numatune/memory`` and ``memnode``,
``cpu/topology``, ``cpu/numa``; and, only while the policy asks for them, ``emulatorpin``,
``iothreadpin`` and the CPU mode. Everything else in the definition is left as it is, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import (
    format_cpuset,
    parse_cpuset,
    whole_number,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain import (
    Definition,
    managed,
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError, VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import Policy, policy_to_record
from ansible_collections.kvm.vnuma.plugins.module_utils._record import (
    add_record,
    created_containers,
    drop_record,
    find_record,
    mark_created,
    original,
    recorded_policy,
    write_policy,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._settled import is_settled
from ansible_collections.kvm.vnuma.plugins.module_utils._source import Source
from ansible_collections.kvm.vnuma.plugins.module_utils._xml import (
    Element,
    copied,
    elements,
    etree,
    insert_after,
    remove,
)

# What stands before a container in libvirt's own order (virDomainDefFormatInternal).
_BEFORE_CPUTUNE = (
    *("name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory"),
    *("currentMemory", "blkiotune", "memtune", "memoryBacking", "vcpu", "vcpus"),
    *("iothreads", "iothreadids", "defaultiothread"),
)
_BEFORE_NUMATUNE = (*_BEFORE_CPUTUNE, "cputune")
_BEFORE_CPU = (
    *_BEFORE_NUMATUNE,
    *(
        "numatune",
        "resource",
        "sysinfo",
        "bootloader",
        "bootloader_args",
        "os",
        "idmap",
        "features",
    ),
)
_TUNING = (
    *("shares", "global_period", "global_quota", "period", "quota"),
    *("emulator_period", "emulator_quota", "iothread_period", "iothread_quota"),
)
_CPU_MODEL = ("model", "vendor")


@dataclass(frozen=True)
class _Place:
    """Where elements of one tag belong: their container, and what stands before either."""

    container: str
    before_container: tuple[str, ...]
    before: tuple[str, ...]


_PLACES = {
    "vcpupin": _Place("cputune", _BEFORE_CPUTUNE, _TUNING),
    "emulatorpin": _Place("cputune", _BEFORE_CPUTUNE, (*_TUNING, "vcpupin")),
    "iothreadpin": _Place("cputune", _BEFORE_CPUTUNE, (*_TUNING, "vcpupin", "emulatorpin")),
    "memory": _Place("numatune", _BEFORE_NUMATUNE, ()),
    "memnode": _Place("numatune", _BEFORE_NUMATUNE, ("memory",)),
    "model": _Place("cpu", _BEFORE_CPU, ()),
    "vendor": _Place("cpu", _BEFORE_CPU, ("model",)),
    "topology": _Place("cpu", _BEFORE_CPU, _CPU_MODEL),
    "numa": _Place(
        "cpu", _BEFORE_CPU, (*_CPU_MODEL, "topology", "cache", "maxphysaddr", "feature")
    ),
}


def partitioned(definition: Definition, layout: Layout, policy: Policy) -> str:
    """Return the definition with the layout written into it.

    What stood in the managed places before the first partition is kept in the record.

    Raises:
        DomainError: when something in the definition cannot live with the new cells.
    """
    root = definition.root
    try:
        _refuse_misfits(root, len(layout.cells))
        _refuse_split_cores(root, layout.topology.threads)
        before = managed(root)
        if not _has_rfc_switch(root) and is_settled(root, before, layout, policy):
            return definition.text
        return _written(definition, before, layout, policy)
    except VnumaError as error:
        raise error.for_guest(definition.name) from None


def restored(definition: Definition) -> str:
    """Return the definition as it was before its first partition; unchanged if there was none.

    Raises:
        DomainError: when the record is damaged, or does not fit the guest any more.
    """
    if find_record(definition.root) is None:
        return definition.text
    source = _source(definition)
    root = source.root
    try:
        kept = original(find_record(root))
        applied = recorded_policy(find_record(root))
        vcpu = root.find("vcpu")
        if vcpu is None:
            raise DomainError("the definition has no <vcpu>; define it.")
        _put_back(root, kept, "vcpupin")
        if "emulator_pinning" in applied:
            _put_back(root, kept, "emulatorpin")
        if "iothread_pinning" in applied:
            _put_back(root, kept, "iothreadpin")
        for tag in ("memory", "memnode"):
            _put_back(root, kept, tag)
        if "cpu_mode" in applied:
            _put_back_mode(root, kept)
        _put_back(root, kept, "topology")
        _put_back(root, kept, "numa")
        placement = kept.find("vcpu")
        if placement is not None:
            vcpu.set("placement", placement.get("placement", "static"))
        _refuse_outgrown(managed(root), vcpu)
        _drop_created(root, kept)
        drop_record(root)
    except VnumaError as error:
        raise error.for_guest(definition.name) from None
    return source.rewritten()


def _source(definition: Definition) -> Source:
    return Source(definition.text, lambda text: read_definition(text).root)


def _written(definition: Definition, before: dict[str, Any], layout: Layout, policy: Policy) -> str:
    """Return the definition with the layout, the same text where that means the same."""
    source = _source(definition)
    _write(source.root, layout, policy)
    same = managed(source.root) == before and not _has_rfc_switch(definition.root)
    return definition.text if same else source.rewritten()


def _write(root: Element, layout: Layout, policy: Policy) -> None:
    record = find_record(root)
    if record is None:
        record = add_record(root)
        kept = original(record)
        for container in ("cputune", "numatune", "cpu"):
            if root.find(container) is None:
                mark_created(kept, container)
        _keep(kept, root, "cputune", "vcpupin")
        _keep(kept, root, "numatune", "memory", "memnode")
        _keep(kept, root, "cpu", "topology", "numa")
        if root.find("vcpu").get("placement", "static") != "static":
            etree.SubElement(kept, "vcpu", placement=root.find("vcpu").get("placement"))
    before, after = recorded_policy(record), policy_to_record(policy)
    kept = original(record)
    _write_vcpu_pins(root, layout)
    _write_helper_pins(root, kept, layout, before, after)
    _write_numatune(root, layout)
    _write_cpu(root, kept, layout, before, policy)
    if root.find("vcpu").get("placement", "static") != "static":
        root.find("vcpu").set("placement", "static")
    _drop_created(root, kept)
    write_policy(record, after)


def _write_vcpu_pins(root: Element, layout: Layout) -> None:
    texts: dict[tuple[int, ...], str] = {}
    pins = []
    for vcpu, cpus in enumerate(layout.vcpu_pins):
        if cpus not in texts:
            texts[cpus] = format_cpuset(cpus)
        pins.append(etree.Element("vcpupin", vcpu=str(vcpu), cpuset=texts[cpus]))
    _replace(root, "vcpupin", pins)


def _write_helper_pins(
    root: Element, kept: Element, layout: Layout, before: dict[str, str], after: dict[str, str]
) -> None:
    """Pin emulator and iothreads, or hand them back once the policy no longer asks."""
    emulator, iothreads = layout.emulator_pins, layout.iothread_pins
    wanted = {
        "emulator_pinning": (
            "emulatorpin",
            []
            if emulator is None
            else [etree.Element("emulatorpin", cpuset=format_cpuset(emulator))],
        ),
        "iothread_pinning": (
            "iothreadpin",
            [
                etree.Element("iothreadpin", iothread=str(iothread), cpuset=format_cpuset(cpus))
                for iothread, cpus in iothreads or ()
            ],
        ),
    }
    for option, (tag, pins) in wanted.items():
        if option in after and option not in before:
            _keep(kept, root, "cputune", tag)
        if option in after and pins:
            _replace(root, tag, pins)
        elif option in after or option in before:
            # Nothing to pin to, or no longer asked for: what stood before.
            _put_back(root, kept, tag)
        if option in before and option not in after:
            for element in list(elements(kept, tag)):
                remove(element)


def _write_numatune(root: Element, layout: Layout) -> None:
    mode, nodeset = layout.memory_mode, format_cpuset(layout.nodeset)
    bound = mode != "none"
    # libvirt before 9.3 takes 'preferred' with a single node only, and here there may be several.
    whole = bound and mode != "preferred"
    memory = [etree.Element("memory", mode=mode, nodeset=nodeset)] if whole else []
    _replace(root, "memory", memory)
    nodes = [
        etree.Element("memnode", cellid=str(cell.id), mode=mode, nodeset=str(cell.host_node))
        for cell in layout.cells
        if bound
    ]
    _replace(root, "memnode", nodes)


def _write_cpu(
    root: Element, kept: Element, layout: Layout, before: dict[str, str], policy: Policy
) -> None:
    sharing = _carried_over(root)
    cells = []
    for cell in layout.cells:
        attributes = {
            "id": str(cell.id),
            "cpus": format_cpuset(cell.vcpus),
            "memory": str(cell.memory_kib),
            "unit": "KiB",
            **sharing,
        }
        element = etree.Element("cell", attributes)
        if cell.distances:
            distances = etree.SubElement(element, "distances")
            for sibling, value in enumerate(cell.distances):
                etree.SubElement(distances, "sibling", id=str(sibling), value=str(value))
        cells.append(element)
    numa = etree.Element("numa")
    numa.extend(cells)
    shape = layout.topology
    counts = {"sockets": shape.sockets, "dies": shape.dies, "cores": shape.cores}
    attributes = {
        **{name: str(count) for name, count in counts.items() if name != "dies" or count > 1},
        "threads": str(shape.threads),
    }
    if policy.cpu_mode != "keep":
        if "cpu_mode" not in before:
            _keep_mode(root, kept)
        _set_mode(root, policy.cpu_mode)
    elif "cpu_mode" in before:
        _put_back_mode(root, kept)
        for element in list(elements(kept, "cpu")):
            remove(element)
    topology = etree.Element("topology", attributes)
    _replace(root, "topology", [topology])
    _replace(root, "numa", [numa])
    cpu = root.find("cpu")
    if cpu.get("check") == "numa":
        # The RFC's own switch: no released libvirt takes it.
        cpu.set("check", "none")


def _has_rfc_switch(root: Element) -> bool:
    cpu = root.find("cpu")
    return cpu is not None and cpu.get("check") == "numa"


def _carried_over(root: Element) -> dict[str, str]:
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


def _refuse_misfits(root: Element, count: int) -> None:
    """Refuse a definition with something that names a cell which would not be there."""
    present = f"its cells will be 0 to {count - 1}" if count > 1 else "its only cell will be 0"
    for device in root.iterfind("devices/memory"):
        node = (device.findtext("target/node") or "").strip()
        if node and not _is_below(node, count):
            raise DomainError(
                f"a memory device sits in cell {node}, and {present}; move it, or change cells."
            )
    for page in root.iterfind("memoryBacking/hugepages/page"):
        nodeset = page.get("nodeset")
        # On a guest without cells libvirt keeps a nodeset of 0 only.
        if nodeset is not None and max(parse_cpuset(nodeset)) >= count:
            raise DomainError(
                f"its hugepages name cells '{nodeset}', and {present}; change the nodeset of "
                "<page>, or cells."
            )
    for target in root.iterfind("devices/controller/target"):
        node = (target.findtext("node") or "").strip()
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


def _is_below(text: str, count: int) -> bool:
    number = whole_number(text)
    return number is not None and number < count


def _refuse_split_cores(root: Element, threads: int) -> None:
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


def _refuse_outgrown(after: dict[str, Any], vcpu: Element) -> None:
    """Refuse to restore a topology or cells that the guest's vCPUs no longer match.

    Args:
        after: what would be managed in the definition once restored.
        vcpu: its ``<vcpu>``.
    """
    vcpus = (vcpu.text or "").strip()
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


def _replace(root: Element, tag: str, new: list[Element]) -> None:
    """Replace all elements of one tag."""
    place = _PLACES[tag]
    parent = root.find(place.container)
    if parent is None:
        if not new:
            return
        parent = etree.Element(place.container)
        insert_after(root, place.before_container, parent)
    for old in list(elements(parent, tag)):
        remove(old)
    insert_after(parent, place.before, *new)


def _drop_created(root: Element, kept: Element) -> None:
    """Take out the containers that were created for children they no longer have.

    libvirt gives a <cpu> without mode the attributes of its default; they go with it.
    """
    for container in created_containers(kept) & {"cputune", "numatune", "cpu"}:
        element = root.find(container)
        if element is not None and len(element) == 0:
            remove(element)


def _keep(kept: Element, root: Element, container: str, *tags: str) -> None:
    copies = [copied(element) for element in elements(root.find(container), *tags)]
    insert_after(kept, [child.tag for child in kept], *copies)


def _put_back(root: Element, kept: Element, tag: str) -> None:
    _replace(root, tag, [copied(one) for one in elements(kept, tag)])


def _keep_mode(root: Element, kept: Element) -> None:
    copy = etree.SubElement(kept, "cpu")
    cpu = root.find("cpu")
    if cpu is not None:
        copy.attrib.update(cpu.attrib)
        copy.extend(copied(one) for one in elements(cpu, *_CPU_MODEL))


def _set_mode(root: Element, mode: str) -> None:
    cpu = root.find("cpu")
    if cpu is None:
        cpu = etree.Element("cpu")
        insert_after(root, _BEFORE_CPU, cpu)
    if cpu.get("mode") == mode:
        return
    # 'match' and a model belong to other modes (docs/formatdomain, "CPU model and topology").
    cpu.attrib.pop("match", None)
    cpu.set("mode", mode)
    cpu.set("check", "none")
    for element in list(elements(cpu, *_CPU_MODEL)):
        remove(element)


def _put_back_mode(root: Element, kept: Element) -> None:
    copy, cpu = kept.find("cpu"), root.find("cpu")
    if copy is None or cpu is None:
        return
    cpu.attrib.clear()
    cpu.attrib.update(copy.attrib)
    for tag in _CPU_MODEL:
        _put_back(root, copy, tag)
