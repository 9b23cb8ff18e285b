# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition has that is not managed, by a reader of its own: nothing of the collection."""

from __future__ import annotations

from xml.etree import ElementTree

Element = ElementTree.Element
_PINS = ("vcpupin", "emulatorpin", "iothreadpin")


def parse(xml: str) -> Element:
    """Return a definition's root."""
    return ElementTree.fromstring(xml)  # noqa: S314 - libvirt's own


def unmanaged(xml: str) -> Element:
    """Return a definition without what the collection manages and keeps in it."""
    root = parse(xml)
    for name in _PINS:
        _remove(root, "cputune", name)
    _remove_all(root, "numatune")
    for name in ("topology", "numa"):
        _remove(root, "cpu", name)
    metadata = root.find("metadata")
    if metadata is not None:
        for child in list(metadata):
            if "vnuma" in child.tag.partition("}")[0]:
                metadata.remove(child)
    vcpu = root.find("vcpu")
    if vcpu is not None:
        vcpu.attrib.pop("placement", None)
    for name in ("cputune", "metadata"):
        container = root.find(name)
        if container is not None and not len(container):
            root.remove(container)
    return root


def differences(one: Element, other: Element, path: str = "") -> list[str]:
    """Return where two elements differ; the spaces between elements do not count."""
    here = f"{path}/{one.tag}"
    found = []
    if one.tag != other.tag:
        return [f"{path}: {one.tag} is {other.tag}"]
    if one.attrib != other.attrib:
        found.append(f"{here}: {one.attrib} is {other.attrib}")
    if (one.text or "").strip() != (other.text or "").strip():
        found.append(f"{here}: {one.text!r} is {other.text!r}")
    if [child.tag for child in one] != [child.tag for child in other]:
        tags = [[child.tag for child in element] for element in (one, other)]
        return [*found, f"{here}: {tags[0]} are {tags[1]}"]
    for child, counterpart in zip(one, other, strict=True):
        found += differences(child, counterpart, here)
    return found


def _remove(root: Element, container: str, name: str) -> None:
    parent = root.find(container)
    if parent is not None:
        _remove_all(parent, name)


def _remove_all(parent: Element, name: str) -> None:
    for child in parent.findall(name):
        parent.remove(child)
