# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record in a guest's ``<metadata>``: the policy applied, and what stood there before.

Knows where the record is and how it is written; what belongs into it is decided in _edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import DomainError
from .xml import (
    Element,
    canonical,
    elements,
    etree,
    insert_after,
    remove,
)

#: Namespace of the record; the number counts its incompatible formats.
NAMESPACE = "https://kvm-vnuma.github.io/ns/partition/1"
_PARTITION = f"{{{NAMESPACE}}}partition"
_POLICY = f"{{{NAMESPACE}}}policy"
_ORIGINAL = f"{{{NAMESPACE}}}original"
#: Elements that stand before <metadata> in libvirt's order.
_BEFORE_METADATA = ("name", "uuid", "genid", "title", "description")


def find_record(root: Element) -> Element | None:
    """Return a definition's record, None for a guest that was never partitioned."""
    return root.find(f"metadata/{_PARTITION}")


def recorded_policy(record: Element) -> dict[str, str]:
    """Return the options of the last partition that differ from their defaults."""
    policy = record.find(_POLICY)
    return {} if policy is None else dict(policy.attrib)


def states(record: Element, policy: Mapping[str, str]) -> bool:
    """Tell whether a record states exactly this policy."""
    element = record.find(_POLICY)
    return element is not None and dict(element.attrib) == dict(policy)


def original(record: Element) -> Element:
    """Return the element that holds what stood before the first partition.

    Raises:
        DomainError: when someone took it out; restoring would be guessing.
    """
    kept = record.find(_ORIGINAL)
    if kept is None:
        raise DomainError(
            "its record in <metadata> has been damaged: what stood before the partition is not in "
            "there; restore the definition by hand and take the record out with 'virsh edit'."
        )
    return kept


def record_meaning(record: Element) -> Any:
    """Return what a record says, for comparison."""
    return canonical(record)


def add_record(root: Element) -> Element:
    """Put an empty record into a definition and return it."""
    metadata = root.find("metadata")
    created = metadata is None
    if created:
        metadata = etree.Element("metadata")
        insert_after(root, _BEFORE_METADATA, metadata)
    record = etree.Element(_PARTITION, nsmap={"vnuma": NAMESPACE})
    etree.SubElement(record, _POLICY)
    kept = etree.SubElement(record, _ORIGINAL)
    insert_after(metadata, [child.tag for child in metadata], record)
    if created:
        mark_created(kept, "metadata")
    return record


def write_policy(record: Element, policy: Mapping[str, str]) -> None:
    """Replace the policy that a record states."""
    element = record.find(_POLICY)
    if element is None:
        element = etree.Element(_POLICY)
        record.insert(0, element)
    element.attrib.clear()
    element.attrib.update(sorted(policy.items()))


def drop_record(root: Element) -> None:
    """Take the record out, and ``<metadata>`` too where only the record was in it."""
    record = find_record(root)
    if record is None:
        return
    created = "metadata" in created_containers(original(record))
    metadata = record.getparent()
    remove(record)
    if created and not list(elements(metadata)):
        remove(metadata)


def mark_created(kept: Element, container: str) -> None:
    """Note that the definition had no such container before."""
    kept.set("created", " ".join(sorted({*created_containers(kept), container})))


def created_containers(kept: Element) -> set[str]:
    """Return the containers that were not there before the first partition."""
    return set(kept.get("created", "").split())
