# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of the page, row by row; what is in a picture is in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Node
from markupsafe import Markup

from .drawing import (
    Picture,
    Users,
    colour,
    draw_layout,
    draw_sockets,
    layout_of,
    sockets_of,
    users_of,
)
from .sizes import level
from .view import Account, Groups, GuestView, HostView, LayoutView, MemoryView


@dataclass(frozen=True)
class Row:
    """A host in the table of the fleet, or the sum of all."""

    name: str
    number: int
    nodes: int
    cpus: int
    guests: int
    running: int
    cores_taken: int
    cores: int
    taken_kib: int
    memory_kib: int
    drifted: int
    restarts: int
    errors: int
    changes: int
    is_sum: bool = False


@dataclass(frozen=True)
class Part:
    """Cores that are alike: in one cache domain of a node, with the same guests."""

    socket: str
    node: int
    domain: str
    cpus: str
    cores: str
    guests: str


@dataclass(frozen=True)
class Topology:
    """A picture of a host, and the table under it; *label* is which of the two it is."""

    label: str
    title: str
    caption: str
    pictures: list[Picture]
    rows: list[Part]


@dataclass(frozen=True)
class Pool:
    """A pool of hugepages of a node; what is not known is 'unknown'."""

    size_kib: int
    taken: int | str
    free: int | str
    total: int

    @property
    def taken_number(self) -> int:
        """Pages of guests as far as they are known."""
        return self.taken if isinstance(self.taken, int) else 0


@dataclass(frozen=True)
class NodeRow:
    """A node in the table of memory and cores."""

    id: int
    memory_kib: int
    free_kib: int | None
    resident_kib: int
    account: Account | None
    planned: Account | None
    pools: list[Pool]
    cores: int
    guests: str


@dataclass(frozen=True)
class Drawn:
    """A layout of a guest, its picture, and whose it is."""

    title: str
    picture: Picture
    layout: LayoutView


@dataclass(frozen=True)
class GuestPart:
    """What the page says of one guest.

    Attributes:
        guest: the guest.
        layout: the one that the table of guests has.
        layouts: all that differ.
        affinity: where its threads may run, None where that is not known.
        open: whether it is unfolded, since there is something to see.
        swatch: its code in its colour.
    """

    guest: GuestView
    layout: LayoutView | None
    layouts: list[Drawn]
    affinity: str | None
    open: bool
    swatch: Markup


@dataclass(frozen=True)
class MemoryRow:
    """A cell in the table of where memory is; values are (KiB, shade, whether it is away)."""

    code: str
    cell: str
    local: str
    share: str
    values: list[tuple[int | None, int, bool]]


@dataclass(frozen=True)
class DistanceRow:
    """Distances from a node; values are (distance or 'unknown', shade)."""

    id: int
    values: list[tuple[int | str, int]]


def row_of(number: int, host: HostView) -> Row:
    """Return the row of a host in the table of the fleet."""
    accounts = host.accounts.values()
    return Row(
        name=host.name,
        number=number,
        nodes=len(host.host.nodes),
        cpus=sum(len(node.cpus) for node in host.host.nodes),
        guests=len(host.guests),
        running=sum(guest.state not in ("", "off") for guest in host.guests),
        cores_taken=sum(one.exclusive_cores + one.shared_cores for one in accounts),
        cores=sum(len(node.cores) for node in host.host.nodes),
        taken_kib=sum(one.bound_kib for one in accounts)
        + sum(size * taken for one in accounts for size, _total, taken in one.hugepages),
        memory_kib=sum(node.memory_kib for node in host.host.nodes),
        drifted=sum(bool(guest.drift) for guest in host.guests),
        restarts=sum(guest.restart_required for guest in host.guests),
        errors=len(host.errors),
        changes=sum(guest.after is not None or guest.restores for guest in host.guests),
    )


def sum_of(rows: Sequence[Row]) -> Row:
    """Return the sum of all rows."""
    return Row(
        "all hosts",
        -1,
        **{
            name: sum(getattr(row, name) for row in rows)
            for name in Row.__dataclass_fields__
            if name not in ("name", "number", "is_sum")
        },
        is_sum=True,
    )


def topologies(host: HostView) -> Iterator[Topology]:
    """Yield the host as it is, and as it will be where a plan changes it."""
    if not host.host.nodes:
        return
    now = any(guest.effective is not None for guest in host.guests) or not host.changes
    words = [(False, "now")] if now else []
    if host.changes:
        words.append((True, "planned"))
    for planned, word in words:
        users = users_of(host, planned)
        yield Topology(
            word,
            f"Sockets, nodes, caches, cores and threads: pins {word}",
            f"Cores and the guests that are pinned to them, {word}",
            draw_sockets(host, users),
            list(_parts(host, users)),
        )


def _parts(host: HostView, users: Users) -> Iterator[Part]:
    for socket, nodes in sockets_of(host):
        for node in nodes:
            for number, cores in enumerate(host.domains_of(node)):
                alike: dict[tuple[str, ...], list[tuple[int, ...]]] = {}
                for core in cores:
                    codes = dict.fromkeys(code for cpu in core for code in users.of(cpu))
                    alike.setdefault(tuple(codes), []).append(core)
                for guests, same in alike.items():
                    yield Part(
                        socket,
                        node.id,
                        str(number) if host.has_domains(node) else "not known",
                        format_cpuset(cpu for core in same for cpu in core),
                        "; ".join(map(format_cpuset, same)),
                        " ".join(guests),
                    )


def node_row(node: Node, host: HostView) -> NodeRow:
    """Return the row of a node in the table of memory and cores."""
    account = host.accounts.get(node.id)
    taken = {} if account is None else {size: pages for size, _all, pages in account.hugepages}
    codes = {guest.name: guest.code for guest in host.guests}
    return NodeRow(
        id=node.id,
        memory_kib=node.memory_kib,
        free_kib=node.free_kib,
        resident_kib=host.resident_kib.get(node.id, 0),
        account=account,
        planned=host.planned.get(node.id),
        pools=[
            Pool(
                pool.size_kib,
                taken.get(pool.size_kib, "unknown"),
                "unknown" if pool.free is None else pool.free,
                pool.total,
            )
            for pool in node.hugepages
        ],
        cores=len(node.cores),
        guests=""
        if account is None
        else " ".join(codes.get(name, name) for name in account.guests),
    )


def distances(nodes: Sequence[Node]) -> list[DistanceRow]:
    """Return the distances between all nodes, the farthest darkest."""
    known = [value for node in nodes for _target, value in node.distances]
    nearest, farthest = min(known, default=0), max(known, default=0)
    rows = []
    for node in nodes:
        distances = dict(node.distances)
        found = [distances.get(other.id) for other in nodes]
        rows.append(
            DistanceRow(
                node.id,
                [
                    ("unknown", 0)
                    if value is None
                    else (value, level(value - nearest, farthest - nearest))
                    for value in found
                ],
            )
        )
    return rows


def guest_part(guest: GuestView, host: HostView) -> GuestPart:
    """Return what the page says of one guest."""
    layouts = [
        Drawn(title, draw_layout(guest, layout, host), layout)
        for title, layout in ((", ".join(titles), layout) for titles, layout in guest.layouts)
    ]
    return GuestPart(
        guest=guest,
        layout=layout_of(guest, planned=False) or layout_of(guest, planned=True),
        layouts=layouts,
        affinity=_affinity(guest),
        open=bool(guest.drift or guest.restart_required or guest.after or guest.restores),
        swatch=Markup('<span class="code g{}">{}</span>').format(colour(guest.code), guest.code),
    )


def _affinity(guest: GuestView) -> str | None:
    if guest.affinity is None:
        return None
    pinned = [] if guest.effective is None else guest.effective.cells
    if dict(guest.affinity) and _by_vcpu(guest.affinity) == _by_vcpu(
        [group for cell in pinned for group in cell.pins]
    ):
        return "as they are pinned"
    return "; ".join(f"{vcpus}: {cpus}" for vcpus, cpus in guest.affinity) or "nowhere"


def _by_vcpu(groups: Groups | list[tuple[str, str]]) -> dict[int, tuple[int, ...]]:
    return {vcpu: parse_cpuset(cpus) for vcpus, cpus in groups for vcpu in parse_cpuset(vcpus)}


def pins_text(groups: Groups, vcpus: str) -> str:
    """Return pins as text; vCPUs are named where they differ."""
    if not groups:
        return "not pinned"
    if len(groups) == 1 and groups[0][0] == vcpus:
        return groups[0][1]
    return "; ".join(f"{numbers}: {cpus}" for numbers, cpus in groups)


def memory_rows(guest: GuestView, host: HostView) -> Iterator[MemoryRow]:
    """Yield where the memory of each cell of a guest is."""
    for place in guest.memory or ():
        yield MemoryRow(
            guest.code,
            "all" if place.cell is None else str(place.cell),
            place.local or "any",
            "unknown" if place.share is None else f"{place.share * 100:.2f} %",
            _pages(place, host.host.nodes),
        )


def _pages(place: MemoryView, nodes: Sequence[Node]) -> list[tuple[int | None, int, bool]]:
    pages = place.kib_by_node or {}
    whole, home = sum(pages.values()), parse_cpuset(place.local) if place.local else None
    return [
        (
            pages.get(node.id),
            level(pages.get(node.id, 0), whole),
            home is not None and node.id not in home and pages.get(node.id, 0) > 0,
        )
        for node in nodes
    ]
