# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare and define: the one way in which a persistent definition is written."""

from __future__ import annotations

from contextlib import nullcontext

from .._domain.definition import Definition, read_definition, secrets
from .._domain.edit import changed_elements, lost_elements, means_the_same
from .._errors import ChangedMeanwhileError, HypervisorError, VnumaError
from .._hypervisor.hypervisor import Hypervisor
from .._model.domain import Domain


def replace_definition(
    hypervisor: Hypervisor,
    domain: Domain,
    before: Definition,
    after: Definition,
    validate: bool = True,
) -> None:
    """Define a guest anew, unless its definition has changed, and verify what libvirt stored.

    *before* is what was edited, *after* what came of that.

    Raises:
        ChangedMeanwhileError: when the definition is another one now; nothing was written.
        HypervisorError: when libvirt refused it, or stored something else; `before` is restored.
            Where that cannot be found out, or done, the error says that it is stored.
    """
    if hypervisor.persistent_xml(domain) != before.text:
        raise ChangedMeanwhileError
    hidden = secrets(after.root)
    with hypervisor.schema.explaining(before) if validate else nullcontext():
        hypervisor.define(domain.name, after.text, hidden, validate)
    try:
        stored = read_definition(hypervisor.persistent_xml(domain))
        lost = lost_elements(before, stored)
        if means_the_same(stored, after) and not lost:
            return
        hypervisor.define(domain.name, before.text, hidden, validate=False)
    except VnumaError as error:
        error.stored = True
        raise
    raise spoilt(before, stored, read_definition(hypervisor.persistent_xml(domain)))


def spoilt(before: Definition, stored: Definition, again: Definition) -> HypervisorError:
    """Return the error about a layout that was taken back.

    libvirt changes some definitions whenever it reads them, its own dump included: a shared memory
    device of less than 1 MiB is dumped with size 0, and 0 read back is the default of 4 MiB
    (libvirt 9.0). Then there is no way back, and no layout has done it.

    *before* is what was stored at first, *stored* what libvirt made of the layout, and *again* what
    it made of *before* when it was given that back.
    """
    itself = changed_elements(before, again)
    if itself:
        return HypervisorError(
            f"libvirt changed {', '.join(itself)} when it was given its own definition back, which "
            "any redefinition does; the guest has no new layout; run again."
        )
    lost = lost_elements(before, stored)
    what = f"dropped {lost[0]}" if lost else "stored a layout other than the one it was given"
    return HypervisorError(
        f"libvirt {what}, so the module put the old definition back; please report this with the "
        "version of libvirt."
    )
