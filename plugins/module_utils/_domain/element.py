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
    """One managed element: elements of some tags, as a rule of one, in a container.

    Args:
        field: of `ManagedState` that it is read into.
        container: child of ``<domain>`` that they stand in, '' for ``<domain>`` itself.
        tags: theirs.
        before: what stands before them in the container.
    """

    #: Policy option without which it is left alone; '' where it is always managed.
    option = ""
    #: Whether it stays as it is once the policy no longer asks for it, until the guest is restored:
    #: nobody loses vCPUs or memory because a line of a playbook went.
    stays = False
    #: Element of the record that copies are put into, '' for the record itself.
    wrapper = ""
    #: Whether libvirt changes it in a running guest.
    live = False
    #: Whether the guest's kernel sees it, and pins belong to it.
    visible = False
    #: Whether a guest on one node keeps its own.
    own = False
    #: Whether it names pCPUs or nodes of the host.
    of_host = False
    #: Whether what was there before comes back where a layout has nothing to say of it.
    falls_back = False

    def __init__(
        self, field: str, container: str, tags: Sequence[str], before: Sequence[str] = ()
    ) -> None:
        self.field, self.container = field, container
        self.tags, self.before = tuple(tags), tuple(before)

    @property
    def tag(self) -> str:
        """The tag of one that has a single one."""
        return self.tags[0]

    @property
    def paths(self) -> tuple[str, ...]:
        """The elements that it is made of, from the root of a definition."""
        return tuple(f"{self.container}/{tag}".lstrip("/") for tag in self.tags)

    def read(self, root: Element) -> V:
        """Return what a definition says, as the field of `ManagedState` has it."""
        raise NotImplementedError

    def format(self, value: V) -> list[Element]:
        """Return the elements that say this."""
        raise NotImplementedError

    def write(self, root: Element, value: V) -> None:
        """Let a definition say that."""
        self.replace(root, self.format(value))

    def found(self, root: Element) -> Iterator[Element]:
        """Return the elements of a definition."""
        return elements(root.find(self.container) if self.container else root, *self.tags)

    def replace(self, root: Element, new: list[Element]) -> None:
        """Replace the elements, all at once: there may be thousands."""
        if not new and self.container and root.find(self.container) is None:
            return
        parent = container_of(root, self.container) if self.container else root
        for old in list(elements(parent, *self.tags)):
            remove(old)
        insert_after(parent, self.before, *new)

    def keep(self, root: Element, kept: Element) -> None:
        """Put copies of what a definition says into the record."""
        copies = [copied(element) for element in self.found(root)]
        if self.wrapper:
            etree.SubElement(kept, self.wrapper).extend(copies)
        else:
            insert_after(kept, [child.tag for child in kept], *copies)

    def restore(self, root: Element, kept: Element) -> None:
        """Let a definition say again what the record kept."""
        place = kept.find(self.wrapper) if self.wrapper else kept
        if place is not None:
            self.replace(root, [copied(element) for element in elements(place, *self.tags)])

    def forget(self, kept: Element) -> None:
        """Take it out of the record."""
        for element in list(elements(kept, *([self.wrapper] if self.wrapper else self.tags))):
            remove(element)

    def is_kept(self, kept: Element) -> bool:
        """Tell whether the record kept anything, for an element that stays."""
        return self.stays and kept.find(self.wrapper) is not None

    def show(self, root: Element, shown: Element) -> None:
        """Put copies into a document that is shown to the user, in their container."""
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


def container_of(root: Element, name: str) -> Element:
    """Return a container of a definition, made where it has none."""
    found = root.find(name)
    if found is None:
        found = etree.Element(name)
        insert_after(root, CONTAINERS[name], found)
    return found


def child_of(parent: Element, tag: str) -> Element:
    """Return the child of this tag, made at the end where there is none."""
    found = parent.find(tag)
    return etree.SubElement(parent, tag) if found is None else found


def shown_container(shown: Element, name: str) -> Element:
    """Return a container of a document for the user, made at the end where it has none."""
    return child_of(shown, name) if name else shown


def only(element: Element, attribute: str) -> dict[str, str]:
    """Return one attribute of an element, where it has it."""
    return {attribute: element.get(attribute)} if element.get(attribute) is not None else {}
