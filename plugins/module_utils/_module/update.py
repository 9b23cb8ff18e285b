# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on their way through a call, and what came of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .._domain.compare import LivePin
from .._domain.definition import Definition
from .._domain.state import managed_text
from .._errors import VnumaError
from .._model.domain import Domain
from .._model.guest import Guest
from .._model.layout import Layout, layout_to_result
from .._policy import Policy
from .state_dir import StateDir

# A digest of a short password could be guessed from its surroundings.
_PASSWORD = re.compile(r"""passwd=("[^"]*"|'[^']*')""")


@dataclass
class GuestUpdate:
    """One guest on its way through a call.

    Attributes:
        domain: as libvirt lists it.
        policy: what is asked for it.
        before: its persistent definition when it was read.
        live: the definition that it runs with, None while it is off.
        guest: what the planner is told, None for a guest that is to be restored.
        layout: what the planner answered, None before that and for ``absent``.
        after: the definition to be, None where there is none.
        redefines: whether that is another one than before.
        drops_image: whether its managed-save image has to go, which has an old layout.
        ends_restart: whether the note of a begun restart has to go, since it runs as it should.
        pins: to be set in the running guest.
        changed: whether something is, or would be, changed.
        restart_required: whether the running guest differs from it, or a restart was cut short.
        warnings: sentences about this guest.
    """

    domain: Domain
    policy: Policy
    before: Definition
    live: Definition | None
    guest: Guest | None
    layout: Layout | None = None
    after: Definition | None = None
    redefines: bool = False
    drops_image: bool = False
    ends_restart: bool = False
    pins: list[LivePin] = field(default_factory=list)
    changed: bool = False
    restart_required: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        """Whether anything has to be written for it, the state folder included."""
        return self.changed or self.ends_restart


@dataclass(frozen=True)
class Safeguards:
    """What a call holds on to, and holds against.

    Attributes:
        state_dir: where old definitions are kept.
        drop_saved: whether a managed-save image may be dropped.
        planned: fingerprints of the definitions that were planned earlier, by UUID.
    """

    state_dir: StateDir
    drop_saved: bool = False
    planned: Mapping[str, str] = field(default_factory=dict)


@dataclass
class PartitionResult:
    """What came of a call.

    Attributes:
        updates: guests that were partitioned or restored, by name.
        errors: what went wrong, each about one guest or one entry.
        warnings: sentences about the call, such as a pattern that matched nothing.
    """

    updates: list[GuestUpdate] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self, domain: Domain) -> Iterator[None]:
        """Turn an error inside into one about this guest, and go on."""
        try:
            yield
        except VnumaError as error:
            self.errors.append(error.for_guest(domain.name))


def fingerprint(definition: Definition) -> str:
    """Return a digest of a definition, its passwords left out of it."""
    public = _PASSWORD.sub("", definition.text)
    return hashlib.sha256(public.encode("utf-8", "surrogatepass")).hexdigest()


def update_to_result(update: GuestUpdate, complete: bool) -> dict[str, Any]:
    """Return one guest's result as the module returns it.

    Args:
        update: of the guest.
        complete: with the whole layout even where nothing is changed, see `layout_to_result`.
    """
    layout = update.layout
    complete = complete or update.changed
    return {
        "name": update.domain.name,
        "uuid": update.domain.uuid,
        "changed": update.changed,
        "restart_required": update.restart_required,
        "layout": None if layout is None else layout_to_result(layout, complete),
        "warnings": list(update.warnings),
        "fingerprint": fingerprint(update.before),
    }


def update_to_diff(update: GuestUpdate) -> dict[str, str]:
    """Return the managed elements before and after, for ``--diff``."""
    header = f"{update.domain.name} (persistent definition)"
    after = update.after or update.before
    return {
        "before_header": header,
        "after_header": header,
        "before": managed_text(update.before.root),
        "after": managed_text(after.root),
    }
