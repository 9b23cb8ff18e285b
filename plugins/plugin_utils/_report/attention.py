# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What needs attention on a host, the most urgent first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .sizes import size_text
from .view import Account, GuestView, HostView

#: Kinds in the order of the page.
ERROR, MEMORY, DRIFT, RESTART, OVERFULL, MOVE = (
    "error",
    "memory off its node",
    "drift",
    "restart",
    "node overfull",
    "better placement",
)
KINDS = (ERROR, MEMORY, DRIFT, RESTART, OVERFULL, MOVE)


@dataclass(frozen=True)
class Finding:
    """One thing that needs attention.

    Attributes:
        kind: one of `KINDS`.
        host: number of the host on the page.
        guest: code of the guest, '' where it is about the host or a guest that could not be read.
        name: what it is about: a guest, '' for the host.
        msg: a sentence.
    """

    kind: str
    host: int
    guest: str
    name: str
    msg: str


def findings(hosts: list[HostView]) -> list[Finding]:
    """Return what needs attention on all hosts, by kind, then by host and guest."""
    found = [one for number, host in enumerate(hosts) for one in _of_host(number, host)]
    return sorted(found, key=lambda one: KINDS.index(one.kind))


def _of_host(number: int, host: HostView) -> Iterator[Finding]:
    codes = {guest.name: guest.code for guest in host.guests}
    for name, msg in host.errors:
        yield Finding(ERROR, number, codes.get(name, ""), name, msg)
    for guest in host.guests:
        for kind, msg in _of_guest(guest):
            yield Finding(kind, number, guest.code, guest.name, msg)
    for node, account in host.accounts.items():
        for msg in overfull(node, account):
            yield Finding(OVERFULL, number, "", "", msg)
    names, gain = host.moves
    if names:
        yield Finding(
            MOVE,
            number,
            "",
            "",
            f"a fresh plan would move {', '.join(names)}: {gain or 'nothing is gained'}; run once "
            "with rebalance, first with --check.",
        )


def _of_guest(guest: GuestView) -> Iterator[tuple[str, str]]:
    for drift in guest.drift:
        is_memory = (drift.between, drift.what) == ("live-actual", "memory")
        yield MEMORY if is_memory else DRIFT, drift.msg
    if guest.restart_required:
        yield (
            RESTART,
            "it runs with another layout than it is defined with, until its next cold start.",
        )


def overfull(node: int, account: Account) -> list[str]:
    """Return in which respects guests take more of a host node than it has."""
    found = []
    cores = account.exclusive_cores + account.shared_cores
    if cores > account.cores:
        found.append(
            f"host node {node}: guests take {cores} cores and it has {account.cores}; move some "
            "to other nodes, or let them share."
        )
    if account.bound_kib > account.memory_kib:
        found.append(
            f"host node {node}: guests take {size_text(account.bound_kib)} of memory and it has "
            f"{size_text(account.memory_kib)} without its hugepages; move some to other nodes."
        )
    for size_kib, total, taken in account.hugepages:
        if taken > total:
            found.append(
                f"host node {node}: guests take {taken} hugepages of {size_text(size_kib)} and its "
                f"pool has {total}; enlarge the pool, or move some to other nodes."
            )
    return found
