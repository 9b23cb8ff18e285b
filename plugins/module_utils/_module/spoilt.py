# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to say of a definition that libvirt stored otherwise than it was given."""

from __future__ import annotations

from .._domain.definition import Definition
from .._domain.edit import changed_elements, lost_elements
from .._errors import HypervisorError


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
        f"libvirt {what}, so the old definition was restored; please report this with the version "
        "of libvirt."
    )
