# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests on their way through a call, and what came of them; knows not in which order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .._domain.definition import Definition, managed_text
from .._errors import VnumaError
from .._hypervisor.hypervisor import Domain
from .._model.guest import Guest
from .._planner.plan import Layout, layout_to_result
from .._policy import Policy
from .state_dir import Store

# A digest of a short password could be guessed from its surroundings.
_PASSWORD = re.compile(r"""passwd=("[^"]*"|'[^']*')""")


@dataclass
class Work:
    """One guest on its way through a call.

    Attributes:
        domain: as libvirt lists it.
        policy: what is asked for it.
        before: its persistent definition when it was read.
        after: the definition to be; the very same object where nothing is to change.
        guest: what the planner is told, None for a guest that is to be restored.
        layout: what the planner answered, None before that and for ``absent``.
        changed: whether something is, or would be, changed.
        restart_required: whether the running guest differs from it, or a restart was cut short.
        warnings: sentences about this guest.
    """

    domain: Domain
    policy: Policy
    before: Definition
    after: Definition
    guest: Guest | None = None
    layout: Layout | None = None
    changed: bool = False
    restart_required: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Keeping:
    """What a call holds on to, and holds against.

    Attributes:
        store: where old definitions are kept.
        drop_saved: whether a managed-save image may be dropped.
        planned: fingerprints of the definitions that were planned earlier, by UUID.
    """

    store: Store
    drop_saved: bool = False
    planned: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        done: guests that were dealt with, by name.
        errors: what went wrong, each about one guest or one entry.
        warnings: sentences about the call, such as a pattern that matched nothing.
    """

    done: list[Work] = field(default_factory=list)
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


def work_to_result(work: Work) -> dict[str, Any]:
    """Return one guest's result as the module returns it."""
    return {
        "name": work.domain.name,
        "uuid": work.domain.uuid,
        "changed": work.changed,
        "restart_required": work.restart_required,
        "layout": None if work.layout is None else layout_to_result(work.layout),
        "warnings": list(work.warnings),
        "fingerprint": fingerprint(work.before),
    }


def work_to_diff(work: Work) -> dict[str, str]:
    """Return the managed elements before and after, for ``--diff``."""
    return {
        "before_header": f"{work.domain.name} (persistent definition)",
        "after_header": f"{work.domain.name} (persistent definition)",
        "before": managed_text(work.before.root),
        "after": managed_text(work.after.root),
    }
