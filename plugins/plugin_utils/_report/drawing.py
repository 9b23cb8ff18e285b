# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as boxes and words with their places; what they look like is the style sheet's.

A host is drawn as hwloc's lstopo nests it: sockets, nodes, cache domains, cores, threads. A thread
has the number of its pCPU, and below it the guest that is pinned to it, or how many are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Node

from .sizes import size_text
from .view import GuestView, HostView, LayoutView

#: Colours of guests; a guest's number modulo this is its colour, and its code is written besides.
COLOURS = 8
#: Everything is in pixels. A node is as wide as a narrow telephone shows.
NODE_WIDTH = 324
_THREAD_WIDTH, _THREAD_HEIGHT, _GAP, _PAD, _LINE = 28, 25, 3, 5, 15
_THREADS_PER_ROW = 4
#: Longer words below a pCPU are in smaller type.
_THREAD_CHARACTERS = 3
#: A guest's cells, beside each other, and what fits them.
_CELL_WIDTH, _CELL_HEIGHT, _CELL_CHARACTERS = 62, 22, 9
#: As many nodes in a row as a narrow telephone shows, and the height of a row with one cell each.
_GRID_COLUMNS, _GRID_LINE = 5, 40
#: Devices of a node, beside each other.
_DEVICE_WIDTH, _DEVICE_HEIGHT, _DEVICE_CHARACTERS = 156, 18, 22


#: First letters of the classes of boxes, from sockets inwards: node, L3, core, thread.
_LAYERS = "snlct"


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
    """Boxes and words, the outer ones first, and what they show.

    *uses_grid* is whether `draw_grid` belongs below it.
    """

    title: str
    width: int = 0
    height: int = 0
    boxes: list[Box] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    uses_grid: bool = False

    @property
    def outlines(self) -> list[tuple[str, str]]:
        """The boxes of each class as one path, outer ones first, so that they hide no inner one."""
        found: dict[str, list[str]] = {}
        for one in self.boxes:
            found.setdefault(one.css, []).append(
                f"M{one.x} {one.y}h{one.width}v{one.height}h{-one.width}z"
            )
        inwards = sorted(found.items(), key=lambda one: _LAYERS.index(one[0][0]))
        return [(css, "".join(parts)) for css, parts in inwards]

    @property
    def lines(self) -> list[tuple[str, list[Words]]]:
        """The words of each class."""
        found: dict[str, list[Words]] = {}
        for one in self.words:
            found.setdefault(one.css, []).append(one)
        return list(found.items())

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
    y += _devices(picture, y, node, host)
    picture.width, picture.height = NODE_WIDTH, y + _GAP
    picture.boxes.insert(0, Box(1, 0, NODE_WIDTH, picture.height, "n"))
    return picture


def _devices(picture: Picture, y: int, node: Node, host: HostView) -> int:
    """Draw the passed-through devices of a node below its cores; return how high they are."""
    here = [
        (guest.code, device)
        for guest in host.guests
        for device in guest.devices
        if device.host_node == node.id
    ]
    beside = (NODE_WIDTH - 2 * _PAD) // _DEVICE_WIDTH
    for number, (code, device) in enumerate(here):
        x = _PAD + number % beside * _DEVICE_WIDTH
        top = y + number // beside * _DEVICE_HEIGHT
        css = f"t g{colour(code)}"
        picture.boxes.append(Box(x, top, _DEVICE_WIDTH - _GAP, _DEVICE_HEIGHT - _GAP, css))
        cell = "-" if device.cell is None else device.cell
        text = _short(f"{device.name} {code}:{cell}", _DEVICE_CHARACTERS)
        picture.words.append(Words(x + (_DEVICE_WIDTH - _GAP) // 2, top + 11, text, "m d"))
    return -(-len(here) // beside) * _DEVICE_HEIGHT


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
        small = " k" if len(text) > _THREAD_CHARACTERS else ""
        picture.words.append(Words(middle, y + 21, text, f"m b d{small}"))


def draw_grid(host: HostView) -> Picture:
    """Draw the names of the nodes, in the places that the cells of every guest are drawn below."""
    picture = Picture("")
    for column, name in enumerate(_columns(host)):
        x, y = _place(column, _GRID_LINE)
        picture.words.append(Words(x + _CELL_WIDTH // 2, y + 11, name, "m q"))
    return picture


def draw_layout(guest: GuestView, layout: LayoutView, host: HostView) -> Picture:
    """Draw one guest's layout: each cell, with its vCPUs, under the host node that backs it.

    Where no node backs two cells, the names of the nodes are left to `draw_grid`.
    """
    columns = _columns(host)
    stacks: list[list[str]] = [[] for _name in columns]
    index = {node.id: column for column, node in enumerate(host.host.nodes)}
    for cell in layout.cells:
        nodes = parse_cpuset(cell.host_nodes) if cell.host_nodes else ()
        words = cell.vcpus or ("all" if cell.id is None else "none")
        for node in nodes or (None,):
            stacks[-1 if node is None else index.get(node, -1)].append(
                words if cell.id is None else f"{cell.id}: {words}"
            )
    devices = guest.devices if layout == guest.effective else layout.devices
    for (place, on_cell), count in Counter((one.host_node, one.cell) for one in devices).items():
        text = f"{'-' if on_cell is None else on_cell}: {count} PCI"
        stacks[-1 if place is None else index.get(place, -1)].append(text)
    tallest = max(map(len, stacks))
    line = _GRID_LINE + (tallest - 1) * _CELL_HEIGHT
    picture = Picture(guest.code, uses_grid=tallest == 1)
    for column, (name, cells) in enumerate(zip(columns, stacks)):
        x, y = _place(column, line)
        if not picture.uses_grid:
            picture.words.append(Words(x + _CELL_WIDTH // 2, y + 11, name, "m q"))
        for number, words in enumerate(cells):
            top = y + _LINE + number * _CELL_HEIGHT
            box = Box(x, top, _CELL_WIDTH - 4, _CELL_HEIGHT - 2, f"t g{colour(guest.code)}")
            picture.boxes.append(box)
            picture.words.append(
                Words(x + _CELL_WIDTH // 2 - 2, top + 14, _short(words, _CELL_CHARACTERS), "m d")
            )
    picture.width = min(len(columns), _GRID_COLUMNS) * _CELL_WIDTH
    picture.height = -(-len(columns) // _GRID_COLUMNS) * line
    return picture


def _columns(host: HostView) -> list[str]:
    return [*(f"node {node.id}" for node in host.host.nodes), "any node"]


def _place(column: int, line: int) -> tuple[int, int]:
    """Return the upper left corner of a column, where rows of columns are so high."""
    return 1 + column % _GRID_COLUMNS * _CELL_WIDTH, column // _GRID_COLUMNS * line


def _short(text: str, characters: int) -> str:
    """Shorten a text; all of it is in the table."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
