# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that guests are to migrate to: what is on it, and what a guest would be there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from .._cpuset import Ids, nodes_text
from .._domain.capabilities import read_host
from .._domain.compare import looks_the_same
from .._domain.definition import Definition, read_definition, read_guest
from .._domain.edit import partitioned
from .._domain.moving import (
    held_policy,
    names_host,
    stray_cpus,
    visible_differences,
    without_host,
)
from .._errors import GuestGoneError, LayoutError, VnumaError
from .._hypervisor.ends import Target, remedy
from .._model.domain import Domain
from .._model.host import Host
from .._model.layout import Layout
from .._model.placement import Load
from .._planner.books import bound_kib, cannot_start, make_ledger, ordinary_kib
from .._policy import KEEP, Policy
from .._size import show_size
from .planning import Ask, Others, load_of, plan_asks
from .update import fingerprint


@dataclass(frozen=True)
class MovingGuest:
    """A guest that is to migrate.

    Attributes:
        live: what it runs with, as libvirt would hand it to another host.
    """

    domain: Domain
    persistent: Definition
    live: Definition


@dataclass(frozen=True)
class Arrival:
    """What a guest is to be on its target.

    Attributes:
        live: the definition to run with there.
        layout: what the planner answered, None for a guest that was never partitioned.
    """

    live: Definition
    persistent: Definition
    layout: Layout | None


@dataclass
class Destination:
    """A host that guests are to migrate to.

    Attributes:
        name: as the user calls it.
        hypervisor: the host, by its daemon.
        data_uri: where its QEMU listens, None for what it says itself.
        options: policy options that are its own.
        definitions: persistent definitions of its guests by UUID, and of those that are to come.
        live: of those that run, or will.
        domains: its own guests, by UUID.
        seen: fingerprints of its own guests' definitions when they were read, by UUID.
    """

    name: str
    hypervisor: Target
    data_uri: str | None
    host: Host
    options: Mapping[str, object] = field(default_factory=dict)
    definitions: dict[str, Definition] = field(default_factory=dict)
    live: dict[str, Definition] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def read(self) -> None:
        """Read its guests anew, and forget who was to come; those that end meanwhile are left out.

        Raises:
            VnumaError: when one of them cannot be read.
        """
        self.definitions, self.live, self.domains = {}, {}, {}
        for domain in self.hypervisor.domains():
            with suppress(GuestGoneError):
                definition = self._read(domain)
                if domain.active:
                    running = self.hypervisor.xml_without_secrets(domain, live=True)
                    self.live[domain.uuid] = read_definition(running)
                self.definitions[domain.uuid] = definition
                self.domains[domain.uuid] = domain
        self.seen = {uuid: fingerprint(one) for uuid, one in self.definitions.items()}

    def _read(self, domain: Domain) -> Definition:
        return read_definition(self.hypervisor.xml_without_secrets(domain, live=False))

    def expect(self, moving: MovingGuest, arrival: Arrival) -> None:
        """Count a guest in for those that are planned after it."""
        self.definitions[moving.domain.uuid] = arrival.persistent
        self.live[moving.domain.uuid] = arrival.live

    def load(self) -> float:
        """Return the larger of the shares of its memory and its cores that its guests take.

        Infinity where the figures of one cannot be read: such a host is chosen last.
        """
        try:
            loads = [load_of(definition, self.host) for definition in self.definitions.values()]
        except VnumaError:
            return math.inf
        accounts = make_ledger(self.host, loads).accounts
        memory_kib = sum(one.memory_kib for one in accounts)
        cores = sum(one.cores for one in accounts)
        return max(
            sum(one.bound_kib for one in accounts) / max(memory_kib, 1),
            sum(one.owned_cores + one.shared_cores for one in accounts) / max(cores, 1),
        )

    def receive(self, moving: MovingGuest) -> tuple[Arrival | None, list[str]]:
        """Say what a guest would be here, or all that stands against it.

        Returns:
            What it would be, None where it cannot come; and the reasons, none where it can.
        """
        reasons: list[str] = []
        arrival = None
        with _collecting(reasons, moving):
            reasons += self._namesakes(moving)
        with _collecting(reasons, moving):
            reasons += self.hypervisor.lacks(moving.live)
        with _collecting(reasons, moving):
            arrival = self._plan(moving)
            reasons += self._misfits(moving, arrival)
        return (None if reasons else arrival), reasons

    def _namesakes(self, moving: MovingGuest) -> list[str]:
        """Say who here has its name or its UUID, and is not what was kept of it."""
        domain = moving.domain
        for other in self.domains.values():
            if other.uuid != domain.uuid and other.name == domain.name:
                return [
                    f"another guest of that name is defined there, with UUID {other.uuid}; rename "
                    "one of them."
                ]
        own = self.domains.get(domain.uuid)
        if own is None:
            return []
        if own.active and self.hypervisor.condition(own).is_starting:
            return [
                "libvirt there began to start a copy of it, and has not ended that. "
                f"{remedy(own.name)}"
            ]
        if own.active:
            return [
                f"a copy of it is there already, {self.hypervisor.condition(own)}; if no run of "
                "vnuma_migrate that was cut off has left it there, end the one that is not to stay "
                f"with 'virsh destroy {own.name}'."
            ]
        if own.name != domain.name:
            return [f"it is defined there under another name, {own.name}; undefine that."]
        there = self.definitions[domain.uuid]
        if not looks_the_same(moving.live, there):
            return [
                "it is defined there already, with another layout "
                f"({'; '.join(visible_differences(moving.live, there))}); undefine it there if it "
                "is not needed."
            ]
        return []

    def _plan(self, moving: MovingGuest) -> Arrival:
        policy = held_policy(moving.persistent, moving.live, self.options)
        if policy is None:
            return self._unplanned(moving)
        if policy.pinning == KEEP and moving.live.state.vcpu_pins:
            raise LayoutError(
                "its pins are kept as they were set by hand (pinning 'keep'), and name pCPUs of "
                "its own host; set another pinning for the target, or remove the pins."
            )
        layout, ask = self._lay_out(moving, policy)
        sentence = self._no_room(moving, ask.load(self.host))
        if sentence is not None:
            raise LayoutError(sentence)
        return Arrival(
            partitioned(moving.live, layout, policy).definition,
            partitioned(moving.persistent, layout, policy).definition,
            layout,
        )

    def _unplanned(self, moving: MovingGuest) -> Arrival:
        """Let a guest come as it is, that no partition ties to a host."""
        if names_host(moving.live.state) or names_host(moving.persistent.state):
            raise LayoutError(
                "it was never partitioned, and its pins or memory bindings name pCPUs and nodes of "
                "its own host; partition it first, or remove them."
            )
        return Arrival(moving.live, moving.persistent, None)

    def _lay_out(self, moving: MovingGuest, policy: Policy) -> tuple[Layout, Ask]:
        """Plan a guest beside all others; its cells stay what it runs with."""
        bare = without_host(moving.persistent)
        guest = read_guest(bare, self.host.hugepage_default_kib)
        planned = policy
        if not policy.migration_group and policy.cells is not None:
            # The nodes are chosen as for a shape: as many as divide its cells equally.
            planned = replace(policy, migration_group=(self.name,))
        ask = Ask(moving.domain, guest, planned, bare, guest)
        uuid = moving.domain.uuid
        others = Others(
            {other: one for other, one in self.definitions.items() if other != uuid},
            {other: one for other, one in self.live.items() if other != uuid},
        )
        plan_asks([ask], others, self.host)
        answer = ask.answered()
        cells = moving.live.state.cells
        if not policy.migration_group and [one.vcpus for one in answer.cells] == [
            one.vcpus for one in cells
        ]:
            answer = replace(answer, cells=cells, topology=moving.live.state.topology)
        return answer, ask

    def _no_room(self, moving: MovingGuest, wanted: Load) -> str | None:
        """Say which node lacks memory for it beside guests that run there."""
        uuid = moving.domain.uuid
        running = [load_of(live, self.host) for other, live in self.live.items() if other != uuid]
        sentence = cannot_start(self.host, wanted, running)
        if sentence is not None:
            return sentence
        for node in self.host.nodes:
            needs, held = bound_kib([wanted], node), bound_kib(running, node)
            if needs and needs + held > ordinary_kib(node):
                return (
                    f"it would bind {show_size(needs)} to {nodes_text([node.id])}, which has "
                    f"{show_size(ordinary_kib(node))}, and guests that run there bind "
                    f"{show_size(held)}; free memory there, or choose another target."
                )
        return None

    def _misfits(self, moving: MovingGuest, arrival: Arrival) -> list[str]:
        """Say what of a guest would be another there, or names what is not there."""
        found = [
            f"{what}, and a running guest keeps what it was started with; partition it with a "
            "migration_group and restart it."
            for what in visible_differences(moving.live, arrival.live)
        ]
        # The persistent definition is what it starts with here next time.
        stray = dict.fromkeys(
            one
            for definition in (arrival.live, arrival.persistent)
            for one in stray_cpus(definition.root, self.host)
        )
        if stray:
            found.append(
                f"its definition names pCPUs that the target lacks ({', '.join(stray)}); remove "
                "that, or have it set by emulator_pinning and iothread_pinning."
            )
        return found

    def changed(self, ours: set[str]) -> bool:
        """Tell whether somebody else has defined, changed or removed a guest here meanwhile.

        *ours* are UUIDs of guests that this run brings here.

        Raises:
            VnumaError: when a guest cannot be read.
        """
        now = {}
        for domain in self.hypervisor.domains():
            if domain.uuid not in ours:
                with suppress(GuestGoneError):
                    now[domain.uuid] = fingerprint(self._read(domain))
        return now != {uuid: one for uuid, one in self.seen.items() if uuid not in ours}


def destination_from(given: Mapping[str, Any], patience_s: float) -> Destination:
    """Connect to a host that is named in the options, and read its guests.

    Args:
        given: ``name``, ``uri``, ``data_uri``, ``topology`` and ``policy``.
        patience_s: how long its daemon is waited for, in seconds.

    Raises:
        VnumaError: when it cannot be reached or read; the sentence names it.
    """
    name = str(given.get("name") or given["uri"])
    try:
        hypervisor = Target(given["uri"], patience_s)
        facts = given.get("topology")
        host = hypervisor.host() if facts is None else read_host(facts)
        found = Destination(
            name, hypervisor, given.get("data_uri"), host, dict(given.get("policy") or {})
        )
        found.read()
    except VnumaError as error:
        error.message = f"target {name}: {error.message}"
        raise
    return found


@contextmanager
def _collecting(reasons: list[str], moving: MovingGuest) -> Iterator[None]:
    """Take an error inside for one more reason; one about another guest has that one's name."""
    try:
        yield
    except VnumaError as error:
        own = error.guest in (None, moving.domain.name)
        reasons.append(error.message if own else str(error))


def largest_first(
    moving_guests: Sequence[MovingGuest], hugepage_kib: int
) -> tuple[list[MovingGuest], list[VnumaError]]:
    """Return guests in the order in which they are given a target: the largest find room first.

    Those whose size cannot be read are left out; their errors come second.
    """
    sizes: dict[str, Ids] = {}
    errors: list[VnumaError] = []
    for one in moving_guests:
        try:
            guest = read_guest(one.persistent, hugepage_kib)
            sizes[one.domain.uuid] = (guest.memory_kib + guest.devices_kib, guest.vcpus)
        except VnumaError as error:
            errors.append(error.for_guest(one.domain.name))
    ordered = sorted(
        (one for one in moving_guests if one.domain.uuid in sizes),
        key=lambda one: (*(-size for size in sizes[one.domain.uuid]), one.domain.name),
    )
    return ordered, errors
