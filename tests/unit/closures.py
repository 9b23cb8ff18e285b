# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible packs with each module, and how large that is.

    python3 tests/unit/closures.py [MODULE]

prints files, lines and lines of code of every module, as test_rooms.py budgets them; with a module,
of each of its files.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
_COLLECTION = "ansible_collections.kvm.vnuma.plugins."
_DOCUMENTATION = ("DOCUMENTATION", "EXAMPLES", "RETURN")
_NO_CODE = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    tokenize.ENDMARKER,
)


@dataclass(frozen=True)
class Size:
    """How large some files are.

    Attributes:
        files: their number.
        lines: all lines.
        code: lines of code: neither blank nor comment, docstring, a module's documentation or
            import. Imports are the price of a file, and files are counted.
    """

    files: int
    lines: int
    code: int


def closure(module: str) -> list[Path]:
    """Return a module's file and all that Ansible packs with it, imports inside functions too."""
    found: list[Path] = []
    waiting = [PLUGINS / f"modules/{module}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting.extend(_imported(path))
    return sorted(found)


def size(paths: list[Path]) -> Size:
    """Return how large files are."""
    each = [_size(path) for path in paths]
    return Size(len(each), sum(one.lines for one in each), sum(one.code for one in each))


@cache
def _size(path: Path) -> Size:
    text = path.read_text()
    return Size(1, len(text.splitlines()), _code_lines(text))


@cache
def _imported(path: Path) -> tuple[Path, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            folder, module = path.parents[node.level - 1], node.module or ""
        elif (node.module or "").startswith(_COLLECTION):
            folder, module = PLUGINS, str(node.module)[len(_COLLECTION) :]
        else:
            continue
        place = folder.joinpath(*filter(None, module.split(".")))
        # What is imported is a file itself, or something in one.
        named = (place / f"{alias.name}.py" for alias in node.names)
        yield from (one for one in (place.with_suffix(".py"), *named) if one.is_file())


def _code_lines(text: str) -> int:
    other: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            other |= _lines_of(first)
        if isinstance(node, ast.stmt) and (_imports_something(node) or _documents(node)):
            other |= _lines_of(node)
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - other)


def _imports_something(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _documents(node: ast.stmt) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id in _DOCUMENTATION


def _lines_of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def main(modules: list[str]) -> None:
    """Print the figures."""
    print(f"{'':<44} {'files':>6} {'lines':>6} {'code':>6}")
    for module in modules or sorted(path.stem for path in PLUGINS.glob("modules/vnuma_*.py")):
        paths = closure(module)
        for name, one in (
            (module, size(paths)),
            *((f"  {path.relative_to(PLUGINS)}", size([path])) for path in paths if modules),
        ):
            print(f"{name:<44} {one.files:>6} {one.lines:>6} {one.code:>6}")


if __name__ == "__main__":
    main(sys.argv[1:])
