# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of one host as Prometheus takes them, for the textfile collector of node_exporter.

The format is the text exposition format 0.0.4. Names follow Prometheus' own advice: base units
(bytes, seconds, ratios), and the unit at the end. There is nothing per vCPU: what a fleet of guests
with hundreds of vCPUs would make of that no server wants.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .view import GuestView, HostView

#: Samples as (labels, value).
Samples = Iterator[tuple[Mapping[str, object], float]]

LAST_SUCCESS = "vnuma_last_success_timestamp_seconds"
_LAST_SUCCESS = re.compile(rf"^{LAST_SUCCESS} (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class _Family:
    """A metric: its name, what it means, and how its samples are taken from a host."""

    name: str
    about: str


def render_metrics(host: HostView, time: float | None, previous: str = "") -> str:
    """Return the metrics of a host.

    Args:
        host: what is known of it.
        time: when that was gathered, in seconds since 1970; None to say nothing of it.
        previous: metrics of an earlier run. Where something could not be determined this time, the
            time of the last success is taken from there.
    """
    lines = []
    for family, samples in _families(host):
        taken = list(samples)
        if taken:
            lines += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} gauge"]
            lines += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in taken]
    success = _success(host, time, previous)
    if success is not None:
        about = "Time of the last run that could determine everything"
        lines += [
            f"# HELP {LAST_SUCCESS} {about}",
            f"# TYPE {LAST_SUCCESS} gauge",
            f"{LAST_SUCCESS} {success}",
        ]
    return "".join(f"{line}\n" for line in lines)


def _success(host: HostView, time: float | None, previous: str) -> str | None:
    if not host.errors:
        return None if time is None else _number(time)
    found = _LAST_SUCCESS.search(previous)
    return found[1] if found else None


def _families(host: HostView) -> Iterator[tuple[_Family, Samples]]:
    yield (
        _Family("vnuma_errors", "Errors of the last run: what could not be determined"),
        iter([({}, len(host.errors))]),
    )
    yield from _node_families(host)
    yield from _guest_families(host)


def _node_families(host: HostView) -> Iterator[tuple[_Family, Samples]]:
    nodes, accounts = host.host.nodes, host.accounts
    yield (
        _Family("vnuma_node_memory_bytes", "Memory of the host node, hugepage pools included"),
        (({"node": node.id}, node.memory_kib * 1024) for node in nodes),
    )
    yield (
        _Family("vnuma_node_memory_free_bytes", "Free memory of the host node"),
        (({"node": node.id}, node.free_kib * 1024) for node in nodes if node.free_kib is not None),
    )
    yield (
        _Family(
            "vnuma_node_memory_available_bytes",
            "Memory of the host node that guests without hugepages can be given",
        ),
        (({"node": node}, one.memory_kib * 1024) for node, one in accounts.items()),
    )
    yield (
        _Family(
            "vnuma_node_memory_taken_bytes",
            "Memory of guests without hugepages on the host node, by their definitions",
        ),
        (({"node": node}, one.bound_kib * 1024) for node, one in accounts.items()),
    )
    yield (
        _Family("vnuma_node_memory_resident_bytes", "Memory of guests on the host node now"),
        (
            ({"node": node.id}, host.resident_kib[node.id] * 1024)
            for node in nodes
            if node.id in host.resident_kib
        ),
    )
    yield (
        _Family("vnuma_node_cores", "Cores of the host node with online pCPUs"),
        (({"node": node.id}, len(node.cores)) for node in nodes),
    )
    yield (
        _Family("vnuma_node_cores_taken", "Guest cores on the host node, by their definitions"),
        (
            ({"node": node, "kind": kind}, value)
            for node, one in accounts.items()
            for kind, value in (
                ("exclusive", one.exclusive_cores),
                ("shared", one.shared_cores),
            )
        ),
    )
    yield (
        _Family("vnuma_node_hugepages", "Hugepages in the pool of the host node"),
        (
            ({"node": node.id, "size_bytes": pool.size_kib * 1024}, pool.total)
            for node in nodes
            for pool in node.hugepages
        ),
    )
    yield (
        _Family("vnuma_node_hugepages_free", "Hugepages of the pool that are not in use"),
        (
            ({"node": node.id, "size_bytes": pool.size_kib * 1024}, pool.free)
            for node in nodes
            for pool in node.hugepages
            if pool.free is not None
        ),
    )
    yield (
        _Family("vnuma_node_hugepages_taken", "Hugepages of guests, by their definitions"),
        (
            ({"node": node, "size_bytes": size_kib * 1024}, taken)
            for node, one in accounts.items()
            for size_kib, _total, taken in one.hugepages
        ),
    )


def _guest_families(host: HostView) -> Iterator[tuple[_Family, Samples]]:
    guests = [guest for guest in host.guests if guest.state]
    states = sorted({guest.state for guest in guests})
    yield (
        _Family("vnuma_guests", "Guests of the host by state"),
        (({"state": state}, sum(guest.state == state for guest in guests)) for state in states),
    )
    yield (
        _Family(
            "vnuma_guest_drift",
            "Differences between the planned, the defined and the running layout",
        ),
        (({"guest": guest.name}, len(guest.drift)) for guest in guests),
    )
    yield (
        _Family("vnuma_guest_restart_required", "Whether the guest waits for a cold start"),
        (({"guest": guest.name}, int(guest.restart_required)) for guest in guests),
    )
    yield (
        _Family("vnuma_cell_resident_bytes", "Memory of the guest's cell that is on a host node"),
        _cells(guests, "resident"),
    )
    yield (
        _Family("vnuma_cell_local_ratio", "The part of it that is where it belongs"),
        _cells(guests, "share"),
    )


def _cells(guests: list[GuestView], what: str) -> Samples:
    for guest in guests:
        for place in guest.memory or ():
            labels = {"guest": guest.name, "cell": "all" if place.cell is None else place.cell}
            if what == "share":
                if place.share is not None:
                    yield labels, place.share
            elif place.kib_by_node is not None:
                yield labels, sum(place.kib_by_node.values()) * 1024


def _labels(labels: Mapping[str, object]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(str(text))}"' for name, text in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)
