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

from .._cpuset import Ids, format_cpuset
from .._domain.compare import LivePin
from .._domain.definition import Definition
from .._domain.state import managed_text
from .._errors import VnumaError
from .._model.domain import Domain
from .._model.guest import Guest
from .._model.layout import Layout, layout_to_result
from .._model.placement import Ledger, Placement, placement_to_result
from .._policy import Policy
from .planning import Ask
from .state_dir import StateDir

# A digest of a short password could be guessed from its surroundings.
_PASSWORD = re.compile(r"""passwd=("[^"]*"|'[^']*')""")


@dataclass
class GuestUpdate:
    """One guest on its way through a call.

    Attributes:
        policy: what is asked for it.
        before: its persistent definition when it was read.
        live: the definition that it runs with, None while it is off.
        guest: what the planner is told, None for a guest that is to be restored.
        devices: its passed-through PCI devices, where their nodes are of interest.
        ask: what the planner is asked, and its answer; None for ``absent``.
        after: the definition to be, None where there is none.
        redefines: whether that is another one than before.
        defined: whether libvirt has it by now.
        drops_image: whether its managed-save image has to go, which has an old layout.
        pins: to be set in the running guest.
        memory_nodes: host nodes to move the memory of the running guest to, () where it stays.
        changed: whether something is, or would be, changed.
        restart_required: whether the running guest differs from it, or a restart was cut short.
    """

    domain: Domain
    policy: Policy
    before: Definition
    live: Definition | None
    guest: Guest | None
    devices: tuple[str, ...] = ()
    ask: Ask | None = None
    after: Definition | None = None
    redefines: bool = False
    defined: bool = False
    drops_image: bool = False
    pins: list[LivePin] = field(default_factory=list)
    memory_nodes: Ids = ()
    changed: bool = False
    restart_required: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout | None:
        """What the planner answered, None where it could not plan it, and for ``absent``."""
        return None if self.ask is None else self.ask.layout

    @property
    def placement(self) -> Placement | None:
        """Which host nodes were chosen for it, None where they were not."""
        return None if self.ask is None else self.ask.placement


@dataclass(frozen=True)
class Safeguards:
    """What a call holds on to, and holds against.

    Attributes:
        state_dir: where the layouts that guests run with are kept.
        drop_saved: whether a managed-save image may be dropped.
        planned: fingerprints of the definitions that were planned earlier, by UUID.
        planned_ledger: fingerprint of the ledger that was planned with earlier, '' for none.
    """

    state_dir: StateDir
    drop_saved: bool = False
    planned: Mapping[str, str] = field(default_factory=dict)
    planned_ledger: str = ""


@dataclass
class PartitionResult:
    """What came of a call.

    Attributes:
        updates: guests that were partitioned or restored, by name.
        errors: what went wrong, each about one guest or one entry.
        warnings: sentences about the call, such as a pattern that matched nothing.
        ledger: what all guests of the host take, None where no nodes were chosen.
        fingerprint: digest of every definition of the host that was planned with.
        in_call: the definitions of the guests of the call when they were read, by UUID.
        beside: fingerprints of those that were planned beside, by UUID.
        moves: names of guests that were, or would be, moved by `rebalance`.
        gain: what that brings.
        untidy: whether something is kept between runs that is of no more use.
    """

    updates: list[GuestUpdate] = field(default_factory=list)
    errors: list[VnumaError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ledger: Ledger | None = None
    fingerprint: str = ""
    in_call: Mapping[str, Definition] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    gain: str = ""
    untidy: bool = False

    @property
    def writes(self) -> bool:
        """Whether anything has to be written, the state folder included."""
        return self.untidy or any(update.changed for update in self.updates)

    @contextmanager
    def collecting_errors(self) -> Iterator[None]:
        """Turn an error inside into one about the call, and go on."""
        try:
            yield
        except VnumaError as error:
            self.errors.append(error)

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


def ledger_fingerprint(definitions: Mapping[str, Definition]) -> str:
    """Return a digest of every definition of a host, by UUID."""
    lines = sorted(f"{uuid} {fingerprint(one)}" for uuid, one in definitions.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def update_to_result(update: GuestUpdate) -> dict[str, Any]:
    """Return one guest's result as the module returns it; short where nothing is changed."""
    layout = update.layout
    return {
        "name": update.domain.name,
        "uuid": update.domain.uuid,
        "changed": update.changed,
        "restart_required": update.restart_required,
        "layout": None if layout is None else layout_to_result(layout, update.changed),
        **(
            {} if update.placement is None else {"placement": placement_to_result(update.placement)}
        ),
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
        "after": managed_text(after.root) + _placement_text(update.placement),
    }


def _placement_text(placement: Placement | None) -> str:
    """Return why a guest is where it is, in the form of the text that it stands under."""
    if placement is None:
        return ""
    lines = [f"nodes auto: {placement.why}"]
    lines += [
        f"  not {'nodes' if len(nodes) > 1 else 'node'} {format_cpuset(nodes)}: {reason}"
        for nodes, reason in placement.refused
    ]
    return "".join(f"<!-- {line} -->\n" for line in lines)
