# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner: host, guests and policies in, layouts out; no XML, no libvirt, no Ansible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .._cpuset import Ids
from .._errors import LayoutError, VnumaError
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Layout
from .._model.placement import Load
from .._policy import Policy
from .cores import on_host
from .draft import Draft, HostView, draft_guest
from .share import Sharing, pin_together


def plan(guest: Guest, host: Host, policy: Policy, others: Sequence[Load] = ()) -> Layout:
    """Plan one guest.

    Raises:
        LayoutError: when the guest does not fit; the sentence has the figures and the remedy.
    """
    (answer,) = plan_guests([(guest, policy)], host, others)
    if isinstance(answer, VnumaError):
        raise answer
    return answer


def plan_guests(
    guests: Sequence[tuple[Guest, Policy]],
    host: Host,
    others: Iterable[Load] = (),
    placed: Mapping[int, Ids] | None = None,
) -> list[Layout | VnumaError]:
    """Plan the guests of one host together, so that nobody runs on pCPUs that another one owns.

    The answer does not depend on the order of the guests: a guest whose pins are right already
    stays there, then the others get theirs by name.

    Guests of the call that stay as they are count among *others* too. *placed* has host nodes of
    the guests whose policy has them chosen, by their index.

    Returns:
        For each guest, in the order given, its layout or the error that names it.
    """
    view = HostView(host)
    chosen = placed or {}
    parties: list[Sharing] = []
    # A fleet has few sizes, and guests of one size are planned alike until they share pCPUs.
    sizes: dict[tuple[Guest, Policy, Ids | None], Draft | LayoutError] = {}
    for index, (guest, policy) in enumerate(guests):
        nodes = chosen.get(index)
        bare = replace(guest, name="", uuid="", vcpu_pins=(), thread_pins=())
        size = (bare, policy, nodes)
        if size not in sizes:
            try:
                sizes[size] = draft_guest(bare, view, on_host(policy, host), nodes)
            except LayoutError as error:
                sizes[size] = error
        draft = sizes[size]
        resolved = policy if isinstance(draft, LayoutError) else on_host(policy, host)
        parties.append(Sharing(guest, resolved, draft))
    pin_together(parties, host, list(others))
    return [party.answer() for party in parties]
