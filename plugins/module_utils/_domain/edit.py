# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing a layout into a domain definition, and taking it out again.

Only the managed elements are written, and the record of what was there before. Everything else
in the definition stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

from .._errors import DomainError, VnumaError
from .._model.domain import ManagedState
from .._model.layout import Layout
from .._policy import NONE, Policy, policy_to_record
from .compare import has_rfc_switch
from .definition import Definition, secrets, wanted_of
from .element import CONTAINERS, drop_empty_containers
from .managed import MANAGED, MEMORY
from .pci import apart
from .record import (
    NAMESPACE,
    ORIGINAL,
    PARTITION,
    POLICY,
    created_containers,
    find_record,
    original,
    recorded_policy,
)
from .state import read_state
from .validate import check_outgrown
from .xml import Element, copied, elements, etree, insert_after, remove, to_text

#: Root of a layout that is kept.
LAYOUT = "layout"
#: Elements that stand before <metadata> in libvirt's order.
_BEFORE_METADATA = ("name", "uuid", "genid", "title", "description")


@dataclass(frozen=True)
class Edit:
    """What came of an edit.

    Attributes:
        changed: False where it is the one that was there: nothing needs to be written.
    """

    definition: Definition
    changed: bool


def partitioned(definition: Definition, layout: Layout, policy: Policy) -> Edit:
    """Write a layout into a definition.

    What the managed elements were before the first partition is kept in the record, and so is the
    policy.

    Raises:
        DomainError: when the record is damaged, or a managed element is malformed.
    """
    wanted = wanted_of(definition, layout, policy)
    try:
        root = deepcopy(definition.root)
        _write(root, wanted, policy)
        if layout.leaves_cells and definition.record is not None:
            check_outgrown(root, definition.arch, definition.state, wanted)
        after = Definition(to_text(root, definition.text), root)
        same = means_the_same(definition, after) and not has_rfc_switch(definition.root)
    except VnumaError as error:
        raise error.for_guest(definition.name) from None
    return Edit(definition, changed=False) if same else Edit(after, changed=True)


def restored(definition: Definition) -> Edit:
    """Take a layout out of a definition: it is as it was before its first partition.

    Raises:
        DomainError: when the record is damaged, or does not fit the guest any more.
    """
    if definition.record is None:
        return Edit(definition, changed=False)
    root = deepcopy(definition.root)
    try:
        record = find_record(root)
        kept, applied = original(record), recorded_policy(record)
        if root.find("vcpu") is None:
            raise DomainError("the definition has no <vcpu>; add it.")
        for element in MANAGED:
            if not element.option or element.option in applied or element.is_kept(kept):
                element.restore(root, kept)
        before = definition.state
        if MEMORY.is_kept(kept):
            # Another size was asked for, and goes with the cells that have it.
            before = replace(before, cells=())
        check_outgrown(root, definition.arch, before, read_state(root))
        drop_empty_containers(root, created_containers(kept))
        drop_record(record)
        return Edit(Definition(to_text(root, definition.text), root), changed=True)
    except VnumaError as error:
        raise error.for_guest(definition.name) from None


def keep_layout(definition: Definition) -> str:
    """Return the layout of a definition as text: its managed elements and its record.

    Raises:
        DomainError: when one of them is malformed.
    """
    layout = etree.Element(LAYOUT, nsmap={"vnuma": NAMESPACE})
    kept = etree.SubElement(layout, ORIGINAL)
    mark_created(kept, [name for name in CONTAINERS if definition.root.find(name) is None])
    for element in MANAGED:
        element.keep(definition.root, kept)
    if definition.record is not None:
        layout.append(copied(definition.record))
    # Not indented: the record is put back as it stood.
    return str(etree.tostring(layout, encoding="unicode")) + "\n"


def means_the_same(first: Definition, second: Definition) -> bool:
    """Tell whether two definitions agree on the managed elements and the record."""
    return first.state == second.state and _meaning(first.record) == _meaning(second.record)


def lost_elements(before: Definition, after: Definition) -> list[str]:
    """Return paths of elements that are not managed, and that are in one and not in the other.

    ``<cpu check>`` is left out: the RFC's switch is replaced there.
    """
    asked = options_in_use(before.record) | options_in_use(after.record)
    first, second = (_unmanaged(one.root, asked, before, after) for one in (before, after))
    lost = first - second
    return sorted({path for path, _name, _value in lost})


def changed_elements(before: Definition, after: Definition) -> list[str]:
    """Return what one definition says and another does not, each with its two values.

    The order of elements is left out, and so are passwords.
    """
    hidden = secrets(before.root) | secrets(after.root)
    first, second = (_unmanaged(one.root, (), before, after) for one in (before, after))
    came: dict[tuple[str, str], list[str]] = {}
    for path, name, value in sorted((second - first).elements()):
        came.setdefault((path, name), []).append(value)
    found = []
    for path, name, value in sorted((first - second).elements()):
        values = came.get((path, name))
        was, now = (
            "nothing"
            if text is None
            else "********"
            if any(secret in text for secret in hidden)
            else f"'{text}'"
            for text in (value, values.pop(0) if values else None)
        )
        found.append(f"{path}{f'@{name}' if name else ''} from {was} to {now}")
    return found


def _write(root: Element, wanted: ManagedState, policy: Policy) -> None:
    record = find_record(root)
    is_first = record is None
    if record is None:
        record = add_record(root)
    kept = original(record)
    before, after = recorded_policy(record), policy_to_record(policy)
    if is_first:
        mark_created(kept, [name for name in CONTAINERS if root.find(name) is None])
    for element in MANAGED:
        value = getattr(wanted, element.field)
        if not element.option or element.option in after:
            is_new = is_first or (element.option and element.option not in before)
            if is_new and not element.is_kept(kept):
                element.keep(root, kept)
            if element.falls_back and not value and after[element.option] != NONE:
                # Nothing to pin to: what stood before.
                element.restore(root, kept)
            elif element.read(root) != value:
                element.write(root, value)
        elif element.option in before and not element.stays:
            element.restore(root, kept)
            element.forget(kept)
    if has_rfc_switch(root):
        # The RFC's own switch: no released libvirt takes it.
        root.find("cpu").set("check", "none")
    drop_empty_containers(root, created_containers(kept))
    _state_policy(record, after)


def drop_record(record: Element) -> None:
    """Take the record out, and ``<metadata>`` too where only the record was in it."""
    created = "metadata" in created_containers(original(record))
    metadata = record.getparent()
    remove(record)
    if created and not list(elements(metadata)):
        remove(metadata)


def mark_created(kept: Element, containers: Collection[str]) -> None:
    """Note that the definition had no such containers before."""
    created = created_containers(kept).union(containers)
    if created:
        kept.set("created", " ".join(sorted(created)))


def options_in_use(record: Element | None) -> set[str]:
    """Return the policy options that have left something in a definition, by its record."""
    if record is None:
        return set()
    kept = original(record)
    stayed = {element.option for element in MANAGED if element.stays and element.is_kept(kept)}
    return stayed.union(recorded_policy(record))


def add_record(root: Element) -> Element:
    """Give a definition a record that has nothing in it yet, and return it."""
    metadata = root.find("metadata")
    created = metadata is None
    if created:
        metadata = etree.Element("metadata")
        insert_after(root, _BEFORE_METADATA, metadata)
    record = etree.Element(PARTITION, nsmap={"vnuma": NAMESPACE})
    etree.SubElement(record, POLICY)
    kept = etree.SubElement(record, ORIGINAL)
    insert_after(metadata, [child.tag for child in metadata], record)
    if created:
        mark_created(kept, ["metadata"])
    return record


def _state_policy(record: Element, policy: Mapping[str, str]) -> None:
    element = record.find(POLICY)
    if element is None:
        element = etree.Element(POLICY)
        record.insert(0, element)
    element.attrib.clear()
    element.attrib.update(sorted(policy.items()))


def _meaning(element: Element | None) -> tuple[object, ...] | None:
    """Return an element's meaning: white space and the order of attributes left out."""
    if element is None:
        return None
    return (
        element.tag,
        tuple(sorted(element.attrib.items())),
        (element.text or "").strip(),
        tuple(_meaning(child) for child in elements(element)),
    )


def _unmanaged(
    root: Element, asked: Collection[str], *both: Definition
) -> Counter[tuple[str, str, str]]:
    """Return everything that is not managed, as (path, attribute, value).

    Without its policy option in *asked*, an element is not managed. What is managed one by one is
    so in *both* definitions that are compared.
    """
    single = apart(root, [one.record for one in both if one.record is not None])
    managed = {
        path
        for element in MANAGED
        if not element.option or element.option in asked
        for path in element.paths
    }
    # The element of which only some attributes are managed.
    of_vcpu = {"placement", *(("current", "") if "vcpus" in asked else ())}
    record = find_record(root)
    found: Counter[tuple[str, str, str]] = Counter()
    waiting = [(child, "") for child in elements(root)]
    while waiting:
        element, above = waiting.pop()
        path = f"{above}{element.tag}"
        if path in managed or element is record or element in single:
            continue
        values = dict(element.attrib)
        if path == "cpu":
            values.pop("check", None)
        if path not in (*CONTAINERS, "metadata"):
            values[""] = (element.text or "").strip()
        found.update(
            (path, name, value)
            for name, value in values.items()
            if path != "vcpu" or name not in of_vcpu
        )
        waiting.extend((child, f"{path}/") for child in elements(element))
    return found
