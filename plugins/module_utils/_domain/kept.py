# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout that a guest runs with, which was kept as text (by `keep_layout`, in edit): put back.

A guest that does not start with its new layout goes back to the one that it ran with. By then its
owner may have changed anything else: a snapshot gives it another disk, a password is set. So the
managed elements alone are kept, in the form that the record has in ``<metadata>``, and they are put
into the definition as it is at that moment.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from .._errors import DomainError, VnumaError
from .._model.domain import ManagedState
from .compare import needs_restart
from .definition import Definition
from .edit import LAYOUT, Edit, add_record, drop_record, means_the_same, options_in_use
from .element import drop_empty_containers
from .managed import MANAGED
from .record import ORIGINAL, PARTITION, created_containers, find_record, original
from .state import read_state
from .validate import cell_references, outgrown
from .xml import Element, copied, elements, etree, parse_xml, to_text

_DAMAGED = "the layout that was kept for it is damaged."


def runs_with(live: Definition, text: str) -> bool:
    """Tell whether a guest runs with a layout that was kept.

    It does not where it was started with another one since then.

    Raises:
        DomainError: when the text is damaged.
    """
    kept, record = _read(text)
    root = etree.Element("domain")
    # What these say decides how sizes are compared, and is not managed.
    root.extend(copied(one) for one in elements(live.root, "os", "vcpu", "memory"))
    devices, metadata = etree.SubElement(root, "devices"), etree.SubElement(root, "metadata")
    tags = ("memory", "controller", "hostdev", "interface")
    devices.extend(copied(one) for one in elements(live.root.find("devices"), *tags))
    if live.record is not None:
        metadata.append(copied(live.record))
    for element in MANAGED:
        element.restore(root, kept)
    _set_record(root, record)
    return not needs_restart(live, Definition("", root))


def put_back(definition: Definition, text: str) -> Edit:
    """Put a layout that was kept into a definition as it is now; nothing else of it changes.

    Raises:
        DomainError: when the text is damaged, or the definition has changed so that the layout is
            none for it: another number of vCPUs, say.
    """
    kept, record = _read(text)
    root = deepcopy(definition.root)
    options = options_in_use(definition.record) | options_in_use(record)
    for element in MANAGED:
        if not element.option or element.option in options:
            element.restore(root, kept)
    drop_empty_containers(root, created_containers(kept))
    _set_record(root, record)
    _check_fits(root, definition, read_state(root), "memory" in options)
    after = Definition(to_text(root, definition.text), root)
    return Edit(after, changed=not means_the_same(definition, after))


def _set_record(root: Element, record: Element | None) -> None:
    """Give a definition this record, in the place of the one that it has."""
    now = find_record(root)
    if record is not None:
        copy = copied(record)
        now = add_record(root) if now is None else now
        copy.tail = now.tail
        now.getparent().replace(now, copy)
    elif now is not None:
        drop_record(now)


def _check_fits(root: Element, now: Definition, then: ManagedState, resized: bool) -> None:
    # Where another size was asked for, it goes with the cells that have it.
    before = replace(now.state, cells=()) if resized else now.state
    misfit = outgrown(root, now.arch, before, then)
    if misfit is not None:
        raise DomainError(f"{misfit.figures}.")
    cells = max(1, len(then.cells))
    for reference in cell_references(root):
        if any(cell >= cells for cell in reference.cells):
            raise DomainError(f"{reference.subject}, and that layout has {cells} cells.")


def _read(text: str) -> tuple[Element, Element | None]:
    """Return what was kept, and the record that went with it."""
    try:
        layout = parse_xml(text, LAYOUT, DomainError, "kept layout")
    except VnumaError:
        raise DomainError(_DAMAGED) from None
    if layout.find(ORIGINAL) is None:
        raise DomainError(_DAMAGED)
    record = layout.find(PARTITION)
    if record is not None:
        original(record)
    return layout.find(ORIGINAL), record
