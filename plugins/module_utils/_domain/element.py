# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What managed elements have in common: where they stand, and how they are kept and put back.

The order of elements is libvirt's own (virDomainDefFormatInternalSetRootName,
src/conf/domain_conf.c), so that what is written reads like what libvirt dumps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Generic, TypeVar

from .xml import Element, copied, elements, etree, insert_after, remove

#: What a definition says of a managed element.
V = TypeVar("V")

CPUTUNE, NUMATUNE, CPU = "cputune", "numatune", "cpu"
#: Containers of managed elements, and what stands before each in a definition.
_BEFORE_CPUTUNE = (
    *("name", "uuid", "genid", "title", "description", "metadata", "maxMemory", "memory"),
    *("currentMemory", "blkiotune", "memtune", "memoryBacking", "vcpu", "vcpus"),
    *("iothreads", "iothreadids", "defaultiothread"),
)
_BEFORE_NUMATUNE = (*_BEFORE_CPUTUNE, CPUTUNE)
_BEFORE_CPU = (
    *_BEFORE_NUMATUNE,
    *(NUMATUNE, "resource", "sysinfo", "bootloader", "bootloader_args", "os", "idmap", "features"),
)
CONTAINERS = {CPUTUNE: _BEFORE_CPUTUNE, NUMATUNE: _BEFORE_NUMATUNE, CPU: _BEFORE_CPU}


class ManagedElement(Generic[V]):
    """One managed element.

    Attributes:
        field: of `ManagedState` that it is read into.
        paths: of the elements that it is made of, from the root of a definition.
        option: policy option without which it is left alone; '' where it is always managed.
        stays: whether it stays as it is once the policy no longer asks for it, until the guest is
            restored; nobody loses vCPUs or memory because a line of a playbook went.
        live: whether libvirt changes it in a running guest.
        visible: whether the guest's kernel sees it, and pins belong to it.
        own: whether a guest on one node keeps its own.
        of_host: whether it names pCPUs or nodes of the host.
    """

    option = ""
    stays = False
    live = False
    visible = False
    own = False
    of_host = False

    def __init__(self, field: str, paths: Sequence[str] = ()) -> None:
        self.field, self.paths = field, tuple(paths)

    def read(self, root: Element) -> V:
        """Return what a definition says, as the field of `ManagedState` has it."""
        raise NotImplementedError

    def write(self, root: Element, value: V) -> None:
        """Let a definition say that."""
        raise NotImplementedError

    def keep(self, root: Element, kept: Element) -> None:
        """Put a copy of what a definition says into the record."""
        raise NotImplementedError

    def restore(self, root: Element, kept: Element) -> None:
        """Let a definition say again what the record kept."""
        raise NotImplementedError

    def forget(self, kept: Element) -> None:
        """Take it out of the record."""
        raise NotImplementedError

    def is_kept(self, kept: Element) -> bool:
        """Tell whether the record kept anything, for an element that stays."""
        return False

    def show(self, root: Element, shown: Element) -> None:
        """Put a copy of what a definition says into a document that is shown to the user."""
        raise NotImplementedError


class ChildElements(ManagedElement[V]):
    """Elements of one tag in a container.

    Args:
        field: see `ManagedElement`.
        container: child of ``<domain>`` that they stand in.
        tag: theirs.
        before: what stands before them in the container.
    """

    def __init__(self, field: str, container: str, tag: str, before: Sequence[str]) -> None:
        super().__init__(field, (f"{container}/{tag}",))
        self.container, self.tag, self.before = container, tag, tuple(before)

    def format(self, value: V) -> list[Element]:
        """Return the elements that say this."""
        raise NotImplementedError

    def found(self, root: Element) -> Iterator[Element]:
        """Return the elements of a definition."""
        return elements(root.find(self.container), self.tag)

    def write(self, root: Element, value: V) -> None:
        """Replace the elements, all at once: there may be thousands."""
        replace_elements(root, self.container, self.tag, self.before, self.format(value))

    def keep(self, root: Element, kept: Element) -> None:
        """Copy the elements into the record."""
        copies = [copied(element) for element in self.found(root)]
        insert_after(kept, [child.tag for child in kept], *copies)

    def restore(self, root: Element, kept: Element) -> None:
        """Put the copies back."""
        copies = [copied(element) for element in elements(kept, self.tag)]
        replace_elements(root, self.container, self.tag, self.before, copies)

    def forget(self, kept: Element) -> None:
        """Remove the copies."""
        for element in list(elements(kept, self.tag)):
            remove(element)

    def show(self, root: Element, shown: Element) -> None:
        """Copy the elements, in their container."""
        copies = [copied(element) for element in self.found(root)]
        if copies:
            shown_container(shown, self.container).extend(copies)


def drop_empty_containers(root: Element, names: Collection[str]) -> None:
    """Take out the containers among these that have no children any more.

    libvirt gives a <cpu> without mode the attributes of its default; they go with it.
    """
    for name in CONTAINERS:
        container = root.find(name)
        if name in names and container is not None and len(container) == 0:
            remove(container)


def replace_elements(
    root: Element, container: str, tag: str, before: Sequence[str], new: list[Element]
) -> None:
    """Replace all elements of one tag in a container, which is made where it has to be."""
    if not new and root.find(container) is None:
        return
    parent = container_of(root, container)
    for old in list(elements(parent, tag)):
        remove(old)
    insert_after(parent, before, *new)


def container_of(root: Element, name: str) -> Element:
    """Return a container of a definition, made where it has none."""
    found = root.find(name)
    if found is None:
        found = etree.Element(name)
        insert_after(root, CONTAINERS[name], found)
    return found


def shown_container(shown: Element, name: str) -> Element:
    """Return a container of a document for the user, made at the end where it has none."""
    found = shown.find(name)
    return etree.SubElement(shown, name) if found is None else found


def only(element: Element, attribute: str) -> dict[str, str]:
    """Return one attribute of an element, where it has it."""
    return {attribute: element.get(attribute)} if element.get(attribute) is not None else {}
