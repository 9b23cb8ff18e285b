# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as boxes and words with their places; what they look like is the style sheet's.

A host is drawn as hwloc's lstopo nests it: sockets, nodes, cache domains, cores, threads. A thread
has the number of its pCPU, and below it the guest that is pinned to it, or how many are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Node

from .sizes import size_text
from .view import CellView, GuestView, HostView, LayoutView

#: Colours of guests; a guest's number modulo this is its colour, and its code is written besides.
COLOURS = 8
#: Everything is in pixels. A node is as wide as a narrow telephone shows.
NODE_WIDTH = 316
_THREAD_WIDTH, _THREAD_HEIGHT, _GAP, _PAD, _LINE = 29, 25, 3, 5, 15
_THREADS_PER_ROW = 4
_CELL_WIDTH, _CELL_HEIGHT = 148, 48
#: Characters of the small type that fit a cell's box.
_CELL_CHARACTERS = 24


@dataclass(frozen=True)
class Box:
    """A rectangle; *css* is its class."""

    x: int
    y: int
    width: int
    height: int
    css: str


@dataclass(frozen=True)
class Words:
    """A line of text; *x* is its middle for class ``m``, else its left end; *y* its base line."""

    x: int
    y: int
    text: str
    css: str = ""


@dataclass
class Picture:
    """Boxes and words, the outer ones first, and what they show."""

    title: str
    width: int = 0
    height: int = 0
    boxes: list[Box] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def put(self, other: Picture, x: int, y: int) -> None:
        """Draw another picture into this one."""
        self.boxes += [
            Box(one.x + x, one.y + y, one.width, one.height, one.css) for one in other.boxes
        ]
        self.words += [Words(one.x + x, one.y + y, one.text, one.css) for one in other.words]


@dataclass(frozen=True)
class Users:
    """Which guests are pinned to each pCPU, by their codes."""

    by_cpu: Mapping[int, tuple[str, ...]]

    def of(self, cpu: int) -> tuple[str, ...]:
        """Return the guests of a pCPU."""
        return self.by_cpu.get(cpu, ())


def colour(code: str) -> int:
    """Return the number of a guest's colour."""
    return int(code[1:]) % COLOURS


def layout_of(guest: GuestView, planned: bool) -> LayoutView | None:
    """Return the layout of a guest in effect, or as it will be."""
    if planned and (guest.after is not None or guest.restores):
        return guest.after
    return guest.effective or (guest.layouts[0][1] if guest.layouts and planned else None)


def users_of(host: HostView, planned: bool = False) -> Users:
    """Return the guests of every pCPU, in effect or once a plan is carried out."""
    found: dict[int, list[str]] = {}
    for guest in host.guests:
        layout = layout_of(guest, planned)
        for cpu in () if layout is None else layout.pinned_cpus:
            found.setdefault(cpu, []).append(guest.code)
    return Users({cpu: tuple(codes) for cpu, codes in found.items()})


def sockets_of(host: HostView) -> list[tuple[str, list[Node]]]:
    """Return the nodes of each socket, or of several that a node spans, with their name."""
    found: dict[tuple[int, ...], list[Node]] = {}
    for node in host.host.nodes:
        found.setdefault(tuple(sorted(node.socket_ids)), []).append(node)
    return [(_socket_name(ids), nodes) for ids, nodes in sorted(found.items(), key=_by_socket)]


def _by_socket(one: tuple[tuple[int, ...], list[Node]]) -> tuple[bool, tuple[int, ...]]:
    # What is on no socket, memory alone, comes last.
    return not one[0], one[0]


def _socket_name(ids: Sequence[int]) -> str:
    if not ids:
        return "no socket"
    return f"socket{'s' if len(ids) > 1 else ''} {format_cpuset(ids)}"


def draw_sockets(host: HostView, users: Users) -> list[Picture]:
    """Draw a host, a picture for each socket."""
    return [_socket(name, nodes, host, users) for name, nodes in sockets_of(host)]


def draw_host(host: HostView, users: Users, columns: int) -> Picture:
    """Draw a host in one picture, with so many sockets beside each other."""
    whole = Picture("")
    sockets = draw_sockets(host, users)
    x = y = tallest = 0
    for number, socket in enumerate(sockets):
        if number and number % columns == 0:
            x, y, tallest = 0, y + tallest + 8, 0
        whole.put(socket, x, y)
        x += socket.width + 8
        tallest = max(tallest, socket.height)
        whole.width = max(whole.width, x - 8)
    whole.height = y + tallest
    return whole


def _socket(name: str, nodes: Sequence[Node], host: HostView, users: Users) -> Picture:
    inner = [_node(node, host, users) for node in nodes]
    picture = Picture(name)
    y = _LINE + _GAP
    for one in inner:
        picture.put(one, _PAD, y)
        y += one.height + _PAD
    picture.width, picture.height = NODE_WIDTH + 2 * _PAD + 2, y + 1
    picture.boxes.insert(0, Box(1, 1, NODE_WIDTH + 2 * _PAD, y - 1, "s"))
    picture.words.insert(0, Words(_PAD + 2, _LINE - 1, name, "h"))
    return picture


def _node(node: Node, host: HostView, users: Users) -> Picture:
    about = [f"node {node.id}", size_text(node.memory_kib) if node.memory_kib else "no memory"]
    if not node.cpus:
        about.append("no pCPUs")
    picture = Picture(about[0])
    picture.words.append(Words(_PAD, _LINE - 3, " · ".join(about), "h"))
    y = _LINE + 1
    if host.has_domains(node):
        for number, cores in enumerate(host.domains_of(node)):
            inner = _cores(cores, NODE_WIDTH - 4 * _PAD, host, users)
            picture.words.append(Words(2 * _PAD, y + 11, f"L3 {number}"))
            picture.put(inner, 2 * _PAD, y + _LINE)
            height = inner.height + _LINE + _GAP
            picture.boxes.append(Box(_PAD, y, NODE_WIDTH - 2 * _PAD, height, "l"))
            y += height + _GAP
    elif node.cores:
        inner = _cores(node.cores, NODE_WIDTH - 2 * _PAD, host, users)
        picture.put(inner, _PAD, y)
        y += inner.height
    picture.width, picture.height = NODE_WIDTH, y + _GAP
    picture.boxes.insert(0, Box(1, 0, NODE_WIDTH, picture.height, "n"))
    return picture


def _cores(cores: Sequence[tuple[int, ...]], width: int, host: HostView, users: Users) -> Picture:
    """Draw cores in rows, as many beside each other as are wide enough."""
    picture = Picture("")
    x = y = tallest = 0
    for core in cores:
        beside = min(len(core), _THREADS_PER_ROW)
        rows = -(-len(core) // beside)
        wide, tall = beside * _THREAD_WIDTH + 4, rows * _THREAD_HEIGHT + 4
        if x and x + wide > width:
            x, y, tallest = 0, y + tallest + _GAP, 0
        picture.boxes.append(Box(x, y, wide, tall, "c"))
        for number, cpu in enumerate(core):
            _thread(
                picture,
                x + 2 + number % beside * _THREAD_WIDTH,
                y + 2 + number // beside * _THREAD_HEIGHT,
                cpu,
                users.of(cpu),
                cpu in host.isolated,
            )
        x, tallest = x + wide + _GAP, max(tallest, tall)
    picture.width, picture.height = width, y + tallest + _GAP
    return picture


def _thread(
    picture: Picture, x: int, y: int, cpu: int, codes: Sequence[str], isolated: bool
) -> None:
    kind = "t" if not codes else f"t g{colour(codes[0])}" if len(codes) == 1 else "t many"
    picture.boxes.append(
        Box(x, y, _THREAD_WIDTH, _THREAD_HEIGHT, f"{kind} iso" if isolated else kind)
    )
    middle = x + _THREAD_WIDTH // 2
    dark = " d" if codes else ""
    picture.words.append(Words(middle, y + (11 if codes else 16), str(cpu), f"m{dark}"))
    if codes:
        text = codes[0] if len(codes) == 1 else f"\N{MULTIPLICATION SIGN}{len(codes)}"
        picture.words.append(Words(middle, y + 21, text, "m b d"))


def draw_layout(guest: GuestView, layout: LayoutView, title: str) -> Picture:
    """Draw one guest's layout: its cells on the host nodes that back them."""
    columns: dict[str, list[CellView]] = {}
    for cell in layout.cells:
        columns.setdefault(cell.host_nodes, []).append(cell)
    picture = Picture(title)
    x = y = tallest = 0
    for nodes, cells in sorted(columns.items(), key=_by_nodes):
        if x and x + _CELL_WIDTH + 2 * _PAD > NODE_WIDTH + 2 * _PAD:
            x, y, tallest = 0, y + tallest + _GAP, 0
        height = _LINE + _GAP + len(cells) * (_CELL_HEIGHT + _GAP)
        picture.boxes.append(Box(x + 1, y + 1, _CELL_WIDTH + 2 * _PAD, height, "n"))
        picture.words.append(Words(x + _PAD + 2, y + _LINE - 2, _nodes_name(nodes), "h"))
        for number, cell in enumerate(cells):
            _cell(
                picture, x + _PAD + 1, y + _LINE + 1 + number * (_CELL_HEIGHT + _GAP), cell, guest
            )
        x += _CELL_WIDTH + 2 * _PAD + _GAP
        tallest = max(tallest, height)
        picture.width = max(picture.width, x)
    picture.height = y + tallest + 2
    return picture


def _by_nodes(one: tuple[str, list[CellView]]) -> tuple[bool, tuple[int, ...]]:
    # What is on no node in particular comes last.
    return not one[0], parse_cpuset(one[0]) if one[0] else ()


def _nodes_name(nodes: str) -> str:
    if not nodes:
        return "any node"
    return _short(f"node{'' if nodes.isdigit() else 's'} {nodes}", _CELL_CHARACTERS)


def _cell(picture: Picture, x: int, y: int, cell: CellView, guest: GuestView) -> None:
    picture.boxes.append(Box(x, y, _CELL_WIDTH, _CELL_HEIGHT, f"t g{colour(guest.code)}"))
    name = "no cells" if cell.id is None else f"cell {cell.id}"
    if cell.memory_kib is not None:
        name = f"{name} · {size_text(cell.memory_kib)}"
    lines = [
        f"{guest.code} {name}",
        f"vCPU {cell.vcpus}" if cell.vcpus else "vCPUs not pinned",
    ]
    if cell.vcpus:
        sets = [cpus for _vcpus, cpus in cell.pins]
        own = f" and {len(sets) - 1} more" if len(sets) > 1 else ""
        lines.append(f"pCPU {sets[0]}{own}" if sets else "not pinned")
    for number, line in enumerate(lines):
        picture.words.append(
            Words(x + 4, y + 13 + 15 * number, _short(line, _CELL_CHARACTERS), "d")
        )


def _short(text: str, characters: int) -> str:
    """Shorten a text; all of it is in the table."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
