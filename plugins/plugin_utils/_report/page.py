# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page: one HTML file with everything in it, from what the modules returned.

The same input gives the same bytes, and nothing is asked of anyone: no file, no clock, no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .attention import KINDS, findings
from .drawing import Box, Words, colour, draw_grid, draw_host, users_of
from .rows import (
    Row,
    distances,
    guest_part,
    memory_rows,
    node_row,
    pins_text,
    row_of,
    sum_of,
    topologies,
)
from .sizes import size
from .view import HostView

_TEMPLATES = Path(__file__).resolve().parent / "templates"
#: So many hosts, and so much that needs attention, are unfolded; for more there is a line each.
_OPEN_HOSTS, _OPEN_FINDINGS = 2, 50
#: Legend of a picture on its own.
_LEGEND_WIDTH, _LEGEND_LINE, _LEGEND_CHARACTERS = 200, 20, 28


@dataclass(frozen=True)
class _Section:
    """The part of a host, and its row in the table of the fleet."""

    host: HostView
    row: Row
    text: Markup


def render_page(hosts: list[HostView], title: str, gathered: str) -> str:
    """Return the page.

    Args:
        hosts: by name.
        title: of the page.
        gathered: when the input was gathered, in words; '' to say nothing of it.
    """
    environment = _environment()
    planned = any(host.changes for host in hosts)
    is_open = len(hosts) <= _OPEN_HOSTS
    drawn = [
        _section_or_error(environment, number, host, is_open, planned)
        for number, host in enumerate(hosts)
    ]
    hosts = [one.host for one in drawn]
    rows = [one.row for one in drawn]
    fleet = [*rows, sum_of(rows)] if len(rows) > 1 else rows
    found = findings(hosts)
    counts = [(kind, sum(one.kind == kind for one in found)) for kind in KINDS]
    page: str = environment.get_template("page.html.j2").render(
        title=title,
        gathered=gathered,
        css=_style("picture.css", "page.css"),
        hosts=hosts,
        guests=sum(row.guests for row in rows),
        planned=planned,
        findings=found,
        kinds=[(kind, count) for kind, count in counts if count],
        open_findings=_OPEN_FINDINGS,
        fleet=fleet,
        sections=(one.text for one in drawn),
    )
    return page


def render_picture(host: HostView, columns: int = 2) -> str:
    """Return the picture of a host as an SVG document, with the names of its guests."""
    planned = host.changes
    picture = draw_host(host, users_of(host, planned), columns)
    picture.title = f"NUMA nodes of {host.name}, coloured by guest"
    beside = max(1, picture.width // _LEGEND_WIDTH)
    y = picture.height + 8
    for number, guest in enumerate(host.guests):
        x, line = 6 + number % beside * _LEGEND_WIDTH, y + number // beside * _LEGEND_LINE
        picture.boxes.append(Box(x + 1, line, 30, 16, f"t g{colour(guest.code)}"))
        picture.words.append(Words(x + 16, line + 12, guest.code, "m b d"))
        name = guest.name
        if len(name) > _LEGEND_CHARACTERS:
            name = f"{name[: _LEGEND_CHARACTERS - 1]}…"
        picture.words.append(Words(x + 38, line + 12, name))
    picture.height = y + -(-len(host.guests) // beside) * _LEGEND_LINE + 1
    # Words are not to stand on the paper of a reader who has it dark where the picture is light.
    picture.boxes.insert(0, Box(0, 0, picture.width, picture.height, "s"))
    document: str = (
        _environment()
        .get_template("picture.svg.j2")
        .render(picture=picture, css=_style("picture.css"))
    )
    return document


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(size=size, colour=colour, pins=pins_text)
    return environment


def _style(*names: str) -> Markup:
    return Markup("").join(
        Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704 - our own file
        for name in names
    )


def _section_or_error(
    environment: Environment, number: int, host: HostView, is_open: bool, planned: bool
) -> _Section:
    """Draw a host; what cannot be drawn of it is its error, and hides no other."""
    try:
        findings([host])
        return _section(environment, number, host, is_open, planned)
    except (VnumaError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        msg = (
            f"what it answered was read and cannot be drawn ({type(error).__name__}: {error}); "
            "report this as a fault of the collection."
        )
        host = HostView(name=host.name, errors=(*host.errors, ("", msg)))
        return _section(environment, number, host, is_open, planned)


def _section(
    environment: Environment, number: int, host: HostView, is_open: bool, planned: bool
) -> _Section:
    row = row_of(number, host)
    nodes = [node_row(node, host) for node in host.host.nodes]
    text = environment.get_template("host.html.j2").render(
        host=host,
        number=number,
        row=row,
        open=is_open,
        planned=planned,
        isolated=format_cpuset(host.isolated),
        grid=draw_grid(host),
        topologies=list(topologies(host)),
        nodes=nodes,
        plans_ledger=any(
            node.planned is not None and node.planned != node.account for node in nodes
        ),
        distances=distances(host.host.nodes),
        guests=[guest_part(guest, host) for guest in host.guests],
        devices=[(guest, device) for guest in host.guests for device in guest.devices],
        memory=[row for guest in host.guests for row in memory_rows(guest, host)],
    )
    # The template has escaped it.
    return _Section(host, row, Markup(text))  # noqa: S704
