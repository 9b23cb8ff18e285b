# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a layout into a domain definition, and taking it out; knows no host and no connection.

Managed are ``vcpu@placement``, ``cputune/vcpupin``, ``numatune/memory`` and ``memnode``,
``cpu/topology``, ``cpu/numa``; and, only while the policy asks for them, ``emulatorpin``,
``iothreadpin`` and the CPU mode. Everything else in the definition is left as it is, to the byte.
"""

from __future__ import annotations

from typing import Any

from .._cpuset import format_cpuset
from .._errors import DomainError, VnumaError
from .._planner.plan import Layout
from .._policy import Policy, policy_to_record
from .definition import (
    Definition,
    managed,
    read_definition,
)
from .places import (
    CPU_MODEL,
    add_cpu,
    drop_empty,
    replace_all,
)
from .record import (
    add_record,
    created_containers,
    drop_record,
    find_record,
    mark_created,
    original,
    recorded_policy,
    write_policy,
)
from .settled import is_settled
from .source import Source
from .validate import (
    carried_over,
    refuse_misfits,
    refuse_outgrown,
    refuse_split_cores,
)
from .xml import (
    Element,
    copied,
    elements,
    etree,
    insert_after,
    remove,
)


def partitioned(definition: Definition, layout: Layout, policy: Policy) -> str:
    """Return the definition with the layout written into it.

    What stood in the managed places before the first partition is kept in the record.

    Raises:
        DomainError: when something in the definition cannot live with the new cells.
    """
    refuse_unfit(definition, layout)
    root = definition.root
    try:
        before = definition.meaning
        if not _has_rfc_switch(root) and is_settled(root, before, layout, policy):
            return definition.text
        return _written(definition, before, layout, policy)
    except VnumaError as error:
        raise error.for_guest(definition.name) from None


def refuse_unfit(definition: Definition, layout: Layout) -> None:
    """Refuse a definition that the layout cannot be written into, whatever its pins.

    Raises:
        DomainError: when something in the definition cannot live with the new cells.
    """
    root = definition.root
    try:
        refuse_misfits(root, len(layout.cells))
        refuse_split_cores(root, layout.topology.threads)
        carried_over(root)
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
        before = managed(root)
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
        refuse_outgrown(root, before, managed(root))
        drop_empty(root, created_containers(kept))
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
    drop_empty(root, created_containers(kept))
    write_policy(record, after)


def _write_vcpu_pins(root: Element, layout: Layout) -> None:
    texts: dict[tuple[int, ...], str] = {}
    pins = []
    for vcpu, cpus in enumerate(layout.vcpu_pins):
        if cpus not in texts:
            texts[cpus] = format_cpuset(cpus)
        pins.append(etree.Element("vcpupin", vcpu=str(vcpu), cpuset=texts[cpus]))
    replace_all(root, "vcpupin", pins)


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
            replace_all(root, tag, pins)
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
    replace_all(root, "memory", memory)
    nodes = [
        etree.Element("memnode", cellid=str(cell.id), mode=mode, nodeset=str(cell.host_node))
        for cell in layout.cells
        if bound
    ]
    replace_all(root, "memnode", nodes)


def _write_cpu(
    root: Element, kept: Element, layout: Layout, before: dict[str, str], policy: Policy
) -> None:
    sharing = carried_over(root)
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
    replace_all(root, "topology", [topology])
    replace_all(root, "numa", [numa])
    cpu = root.find("cpu")
    if cpu.get("check") == "numa":
        # The RFC's own switch: no released libvirt takes it.
        cpu.set("check", "none")


def _has_rfc_switch(root: Element) -> bool:
    cpu = root.find("cpu")
    return cpu is not None and cpu.get("check") == "numa"


def _keep(kept: Element, root: Element, container: str, *tags: str) -> None:
    copies = [copied(element) for element in elements(root.find(container), *tags)]
    insert_after(kept, [child.tag for child in kept], *copies)


def _put_back(root: Element, kept: Element, tag: str) -> None:
    replace_all(root, tag, [copied(one) for one in elements(kept, tag)])


def _keep_mode(root: Element, kept: Element) -> None:
    copy = etree.SubElement(kept, "cpu")
    cpu = root.find("cpu")
    if cpu is not None:
        copy.attrib.update(cpu.attrib)
        copy.extend(copied(one) for one in elements(cpu, *CPU_MODEL))


def _set_mode(root: Element, mode: str) -> None:
    cpu = root.find("cpu")
    if cpu is None:
        cpu = add_cpu(root)
    if cpu.get("mode") == mode:
        return
    # 'match' and a model belong to other modes (docs/formatdomain, "CPU model and topology").
    cpu.attrib.pop("match", None)
    cpu.set("mode", mode)
    cpu.set("check", "none")
    for element in list(elements(cpu, *CPU_MODEL)):
        remove(element)


def _put_back_mode(root: Element, kept: Element) -> None:
    copy, cpu = kept.find("cpu"), root.find("cpu")
    if copy is None or cpu is None:
        return
    cpu.attrib.clear()
    cpu.attrib.update(copy.attrib)
    for tag in CPU_MODEL:
        _put_back(root, copy, tag)
