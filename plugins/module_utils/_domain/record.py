# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record in a guest's ``<metadata>``: the policy applied, and what was there before.

Here it is read; it is written in edit.
"""

from __future__ import annotations

from .._errors import DomainError
from .xml import Element

#: Namespace of the record; the number counts its incompatible formats.
NAMESPACE = "https://kvm-vnuma.github.io/ns/partition/1"
PARTITION = f"{{{NAMESPACE}}}partition"
POLICY = f"{{{NAMESPACE}}}policy"
ORIGINAL = f"{{{NAMESPACE}}}original"


def find_record(root: Element) -> Element | None:
    """Return a definition's record, None for a guest that was never partitioned."""
    return root.find(f"metadata/{PARTITION}")


def recorded_policy(record: Element) -> dict[str, str]:
    """Return the options of the last partition that differ from their defaults."""
    policy = record.find(POLICY)
    return {} if policy is None else dict(policy.attrib)


def original(record: Element) -> Element:
    """Return the element that holds what was there before the first partition.

    Raises:
        DomainError: when someone took it out; restoring would be guessing.
    """
    kept = record.find(ORIGINAL)
    if kept is None:
        raise DomainError(
            "its record in <metadata> is damaged and no longer has the elements from before the "
            "partition; restore the definition by hand and remove the record with 'virsh edit'."
        )
    return kept


def created_containers(kept: Element) -> set[str]:
    """Return the containers that were not there before the first partition."""
    return set(kept.get("created", "").split())
