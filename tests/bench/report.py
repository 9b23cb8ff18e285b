# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmark says: tables for people, the same as JSON, and targets that are met or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Table:
    """One table.

    Attributes:
        title: what it is about.
        header: names of the columns.
        rows: cells as text.
        notes: sentences below it.
    """

    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return it as Markdown that reads well as plain text too."""
        cells = [list(self.header), *[list(row) for row in self.rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        lines = [
            "| " + " | ".join(_padded(row[i], widths[i], i) for i in range(len(row))) + " |"
            for row in cells
        ]
        rule = "|" + "|".join(
            "-" * (width + 1) + ("-" if column == 0 else ":") for column, width in enumerate(widths)
        )
        lines.insert(1, rule + "|")
        text = f"### {self.title}\n\n" + "\n".join(lines) + "\n"
        return text + "".join(f"\n{note}\n" for note in self.notes)


@dataclass(frozen=True)
class Target:
    """A figure that was promised.

    Attributes:
        what: the promise.
        figure: what was measured, a ratio.
        limit: the most, or the least, that it may be.
        at_most: False where more is better.
    """

    what: str
    figure: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


@dataclass
class Part:
    """What one part of the benchmark found.

    Attributes:
        name: how it is called on the command line.
        title: what it measures.
        tables: for people.
        targets: promises and figures.
        raw: every single measurement, for machines.
    """

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return it as Markdown."""
        blocks = [f"## {self.title}\n", *[table.markdown() for table in self.tables]]
        if self.targets:
            rows = [
                (
                    target.what,
                    f"{target.figure:.2f}",
                    f"{'<=' if target.at_most else '>='} {target.limit:g}",
                    "met" if target.met else "missed",
                )
                for target in self.targets
            ]
            table = Table("Targets", ("target", "figure", "limit", ""), list(rows))
            blocks.append(table.markdown())
        return "\n".join(blocks)


def write(parts: Sequence[Part], machine: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write bench.md and bench.json, and return their paths.

    Parts that were not measured this time are kept from the file that is there.
    """
    page, data = folder / "bench.md", folder / "bench.json"
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}
    for part in parts:
        known[part.name] = {
            "title": part.title,
            "machine": machine,
            "tables": [asdict(table) for table in part.tables],
            "targets": [{**asdict(target), "met": target.met} for target in part.targets],
            "raw": part.raw,
            "markdown": part.markdown(),
        }
    data.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    page.write_text(
        "# Benchmark of kvm.vnuma\n\n"
        "Written by `make bench`. Ratios are medians over turns that were measured side by side; "
        "seconds are those of the machine named below each part.\n\n"
        + "\n".join(
            f"{one['markdown']}\n_{', '.join(f'{k} {v}' for k, v in one['machine'].items())}_\n"
            for _name, one in sorted(known.items())
        )
    )
    return page, data


def _padded(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
