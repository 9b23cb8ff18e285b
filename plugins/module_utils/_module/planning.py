# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning guests together with what the other guests of the host own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._domain.definition import Definition, read_definition
from .._errors import VnumaError
from .._hypervisor.hypervisor import Hypervisor
from .._model.domain import Domain
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Ids, Layout
from .._planner.pinning import exclusive_cpus
from .._planner.plan import plan_guests
from .._policy import Policy


@dataclass(frozen=True)
class Request:
    """A guest to be planned, and how."""

    domain: Domain
    guest: Guest
    policy: Policy


def plan_requests(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    requests: Sequence[Request],
    restored: Mapping[str, Definition],
    host: Host,
) -> list[Layout | VnumaError]:
    """Plan guests together, beside all the others of the host.

    Args:
        hypervisor: where the guests are.
        domains: every guest of the host: what others own is not given away.
        requests: whom to plan.
        restored: the definitions to be of guests that are restored in the same call, by UUID.
        host: topology to plan for.

    Returns:
        For each request, in the order given, its layout or the error about it.

    Raises:
        VnumaError: when another guest of the host cannot be read.
    """
    in_use: frozenset[int] = frozenset()
    if any(request.policy.pinning in ("core", "cpu") for request in requests):
        planned = {request.domain.uuid for request in requests}
        others = [domain for domain in domains if domain.uuid not in planned]
        in_use = exclusive_cpus(host, _pins(hypervisor, others, restored))
    return plan_guests([(one.guest, one.policy) for one in requests], host, in_use)


def _pins(
    hypervisor: Hypervisor, domains: Sequence[Domain], restored: Mapping[str, Definition]
) -> Iterator[Ids]:
    """Yield the pins of every vCPU, as defined and as they are in running guests."""
    for domain in domains:
        definition = restored.get(domain.uuid)
        if definition is None:
            definition = read_definition(hypervisor.xml_without_secrets(domain, live=False))
        yield from definition.state.vcpu_pins.values()
        if domain.active:
            live = read_definition(hypervisor.xml_without_secrets(domain, live=True))
            yield from live.state.vcpu_pins.values()
