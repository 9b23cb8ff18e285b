# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take what a page shows out of it again, by its tables and its pictures.

Shares no code with what makes the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lxml import html

_UNITS = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20, "TiB": 1 << 30}


@dataclass(frozen=True)
class Table:
    """A table as it is read: its caption, the names of its columns, and its cells."""

    caption: str
    columns: list[str]
    rows: list[list[Any]]

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows with the names of the columns."""
        return [dict(zip(self.columns, row)) for row in self.rows]


class Part:
    """A part of a page: all of it, a host or a guest."""

    def __init__(self, element: Any) -> None:
        self.element = element

    @property
    def text(self) -> str:
        """All of its text."""
        return " ".join(self.element.text_content().split())

    @property
    def name(self) -> str:
        """The heading in its summary, as it is."""
        return str(self.element.xpath("string(./summary/*[self::h2 or self::h3])"))

    def hosts(self) -> list[Part]:
        """Return the hosts."""
        return [Part(one) for one in self.element.xpath("//details[@class='host']")]

    def guests(self) -> dict[str, Part]:
        """Return the guests of a host, by code."""
        return {
            one.xpath("string(./summary/span)"): Part(one)
            for one in self.element.xpath(".//details[@class='guest']")
        }

    def tables(self, name: str) -> list[Table]:
        """Return the tables of a class."""
        return [
            Table(
                text(
                    one.find("caption") if one.find("caption") is not None else one.getparent()[0]
                ),
                [text(cell) for cell in one.xpath("./thead/tr/th")],
                [row.xpath("./th|./td") for row in one.xpath("./tbody/tr")],
            )
            for one in self.element.xpath(f".//table[@class='{name}']")
        ]

    def table(self, name: str) -> Table:
        """Return the only table of a class."""
        (one,) = self.tables(name)
        return one

    def threads(self, when: str) -> dict[int, str]:
        """Return what the pictures of a host have written below the number of each pCPU."""
        found: dict[int, str] = {}
        for picture in self.element.xpath(
            f".//svg[contains(@aria-label, 'socket') and contains(@aria-label, ', {when}')]"
        ):
            words = {
                (int(one.get("x")), int(one.get("y"))): (one.text, one.getparent().get("class"))
                for one in picture.iter("text")
            }
            for (x, y), (number, css) in words.items():
                if css and css.startswith("m") and " b" not in css:
                    below = words.get((x, y + 10), ("", ""))[0]
                    assert found.setdefault(int(number), below) == below
        return found


def read(page: str) -> Part:
    """Read a page."""
    return Part(html.fromstring(page))


def text(element: Any) -> str:
    """Return the text of a cell."""
    return " ".join(element.text_content().split())


def kib(element: Any) -> int | None:
    """Return the size in a cell in KiB; None where it says that it is not known, or nothing."""
    exact = element.xpath(".//data/@value")
    if exact:
        assert int(exact[0]) % 1024 == 0
        return int(exact[0]) // 1024
    found = re.search(r"(\d+) ([KMGT]iB)", text(element))
    return int(found[1]) * _UNITS[found[2]] if found else None


def ids(cpuset: str) -> list[int]:
    """Return the members of a cpuset."""
    found: list[int] = []
    for part in filter(None, cpuset.split(",")):
        first, _dash, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def pins(shown: str, vcpus: list[int]) -> dict[int, list[int]]:
    """Return the pCPUs of each vCPU of a cell."""
    if shown == "not pinned":
        return {}
    if ":" not in shown:
        return dict.fromkeys(vcpus, ids(shown))
    return {
        vcpu: ids(cpus.strip())
        for group in shown.split(";")
        for numbers, _colon, cpus in [group.partition(":")]
        for vcpu in ids(numbers.strip())
    }
