# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning guests together with what the other guests of the host take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

from .._domain.definition import Definition, read_definition, read_guest
from .._errors import GuestGoneError, LayoutError, VnumaError
from .._hypervisor.hypervisor import Hypervisor
from .._model.domain import Domain
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Ids, Layout
from .._model.placement import Ledger, Placement
from .._planner.cache_pins import add_pins
from .._planner.cores import EXCLUSIVE, follows_domains
from .._planner.pinning import exclusive_cpus
from .._planner.plan import plan_guests
from .._policy import AUTO, Policy


@dataclass(frozen=True)
class Request:
    """A guest to be planned, and how.

    Attributes:
        domain: as libvirt lists it.
        guest: its figures, with the size that it is to have.
        policy: how it is to be partitioned.
        definition: its definition of now.
        now: its figures by that.
        device_nodes: host nodes of its passed-through PCI devices, where they are asked for.
    """

    domain: Domain
    guest: Guest
    policy: Policy
    definition: Definition
    now: Guest
    device_nodes: Ids = ()


@dataclass
class Planned:
    """What came of planning the guests of a call.

    Attributes:
        answers: for each request, in the order given, its layout or the error about it.
        placements: of the guests whose nodes were chosen, by the index of the request.
        ledger: what all guests of the host take once the plan is carried out; None where no nodes
            were chosen.
        moves: names of guests that a plan of all of them anew moves.
        gain: what that brings; '' where it brings nothing.
    """

    answers: list[Layout | VnumaError]
    placements: dict[int, Placement] = field(default_factory=dict)
    ledger: Ledger | None = None
    moves: tuple[str, ...] = ()
    gain: str = ""


@dataclass(frozen=True)
class Others:
    """The guests of the host that are not planned.

    Attributes:
        definitions: as they are, or as they will be once they are restored; by UUID.
        live: of those that run, by UUID.
    """

    definitions: Mapping[str, Definition]
    live: Mapping[str, Definition]

    def pins(self) -> Iterator[Ids]:
        """Yield the pins of every vCPU, as defined and as they are in running guests."""
        for definition in (*self.definitions.values(), *self.live.values()):
            yield from definition.state.vcpu_pins.values()


def plan_requests(
    requests: Sequence[Request], others: Others, host: Host, rebalance: bool = False
) -> Planned:
    """Plan guests together, beside all the others of the host.

    Args:
        requests: whom to plan.
        others: all other guests: what they own is not given away.
        host: topology to plan for.
        rebalance: choose nodes as if all guests were new, where that is better.

    Returns:
        Layouts and errors. Where another guest cannot be read, each guest whose plan depends on it
        has that error, and the rest is planned.
    """
    known, errors = readable(others, host)
    if errors:
        return _plan_the_rest(requests, known, list(errors.values()), host)
    needs_pins = any(request.policy.pinning in EXCLUSIVE for request in requests)
    in_use = exclusive_cpus(host, others.pins()) if needs_pins else frozenset()
    if any(request.policy.nodes == AUTO for request in requests):
        from .placing import plan_with_placements

        return plan_with_placements(requests, others, host, in_use, rebalance)
    by_cache = any(request.policy.pinning == "cache" for request in requests)
    return Planned(
        plan_guests(
            [(one.guest, one.policy) for one in requests],
            host,
            in_use,
            cores_by_pins=cores_by_pins(others.definitions.values()) if by_cache else None,
        )
    )


def _plan_the_rest(
    requests: Sequence[Request], known: Others, errors: Sequence[VnumaError], host: Host
) -> Planned:
    """Plan those guests whose plan does not depend on others, of which some cannot be read."""
    unread = min(map(str, errors)).rstrip(".")
    waiting = {index for index, one in enumerate(requests) if needs_others([one])}
    rest = [one for index, one in enumerate(requests) if index not in waiting]
    planned = iter(plan_requests(rest, known, host).answers)
    return Planned(
        [
            LayoutError(
                "its nodes and pCPUs are chosen with regard to all guests of the host, and one of "
                f"these cannot be read ({unread}); correct that one first."
            )
            if index in waiting
            else next(planned)
            for index in range(len(requests))
        ]
    )


def needs_others(requests: Sequence[Request]) -> bool:
    """Tell whether the plan depends on the other guests of the host."""
    return any(one.policy.nodes == AUTO or follows_domains(one.policy) for one in requests)


def cores_by_pins(definitions: Iterable[Definition]) -> dict[Ids, Fraction]:
    """Return how many guest cores definitions pin to which pCPUs, () for any."""
    found: dict[Ids, Fraction] = {}
    for definition in definitions:
        state = definition.state
        vcpus = 0 if state.vcpus is None else state.vcpus.most
        pins = [state.vcpu_pins.get(vcpu, ()) for vcpu in range(vcpus)]
        add_pins(found, pins, 1 if state.topology is None else state.topology.threads)
    return found


def read_others(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    planned: Sequence[Request],
    restored: Mapping[str, Definition],
) -> Others:
    """Read the guests of the host that are not planned.

    One that is gone by its turn takes nothing of the host any more, and is left out.

    Args:
        hypervisor: where they are.
        domains: every guest of the host.
        planned: those that are planned.
        restored: the definitions to be of guests that are restored in the same call, by UUID.

    Raises:
        VnumaError: when one of them cannot be read.
    """
    excluded = {request.domain.uuid for request in planned}
    definitions: dict[str, Definition] = {}
    live: dict[str, Definition] = {}
    for domain in domains:
        if domain.uuid in excluded:
            continue
        with suppress(GuestGoneError):
            definition = restored.get(domain.uuid) or read_definition(
                hypervisor.xml_without_secrets(domain, live=False)
            )
            if domain.active:
                live[domain.uuid] = read_definition(
                    hypervisor.xml_without_secrets(domain, live=True)
                )
            definitions[domain.uuid] = definition
    return Others(definitions, live)


def readable(others: Others, host: Host) -> tuple[Others, dict[str, VnumaError]]:
    """Return the guests whose figures can be read, and the errors about the rest, by UUID.

    What the rest takes of the host cannot be known; who only reports goes on without them.
    """
    errors: dict[str, VnumaError] = {}
    for definitions in (others.definitions, others.live):
        for uuid, definition in definitions.items():
            try:
                read_guest(definition, host.hugepage_default_kib)
            except VnumaError as error:
                errors.setdefault(uuid, error)
    definitions, live = (
        {uuid: one for uuid, one in found.items() if uuid not in errors}
        for found in (others.definitions, others.live)
    )
    return Others(definitions, live), errors
