# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the code can say, read from its source.

A value in a sentence matches anything, unless the source says all that it can be: a constant, one
of two texts of a condition, or what the callers of a private function hand it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
#: A value that may be anything.
OPEN = ".*?"
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
#: Texts of a value that are longer each have to be explained; shorter ones are an ending or a word.
_SHORT_WORDS = 3


@dataclass(frozen=True)
class Sentence:
    """One sentence of the code.

    Attributes:
        shown: as a reader knows it, with … for values.
        pattern: matches what can be printed.
    """

    shown: str
    pattern: re.Pattern[str]

    @property
    def is_open(self) -> bool:
        """Whether it is nearly all values, and would match anything."""
        words = self.pattern.pattern.replace(OPEN, "")
        return len(re.sub(r"[^a-z]", "", words.lower())) < 10


@dataclass(frozen=True)
class _Module:
    """A module, with the function that each node of it is in."""

    path: Path
    tree: ast.Module
    functions: dict[ast.AST, ast.FunctionDef]

    def calls(self, function: str) -> list[ast.Call]:
        """Return the calls of one of its functions."""
        return [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
        ]


def _read(path: Path) -> _Module:
    tree = ast.parse(path.read_text())
    functions: dict[ast.AST, ast.FunctionDef] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            # Inner functions come later, and win.
            functions.update(dict.fromkeys(list(ast.walk(function))[1:], function))
    return _Module(path, tree, functions)


@cache
def modules() -> tuple[_Module, ...]:
    """Return every module of the collection."""
    found = [
        _read(path)
        for path in sorted((PROJECT / "plugins").rglob("*.py"))
        if path.parent.name != "doc_fragments"
    ]
    assert len(found) > 20
    return tuple(found)


@cache
def _constants() -> dict[str, object]:
    """Return the constants of all modules by name, those that have one value."""
    found: dict[str, set[object]] = {}
    for _round in range(2):  # What is computed from others comes after them.
        known = {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
        for module in modules():
            for node in module.tree.body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    value = _computed(node.value, known)
                    if value is not None:
                        found.setdefault(node.targets[0].id, set()).add(value)
    return {name: next(iter(values)) for name, values in found.items() if len(values) == 1}


def _computed(node: ast.AST, known: dict[str, object]) -> object | None:
    """Return the text or number that an expression of constants is, None for any other."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _computed(node.left, known), _computed(node.right, known)
        if isinstance(left, int) and isinstance(right, int):
            return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
        return node.value
    return None


def _variants(node: ast.AST, module: _Module, within: tuple[str, ...] = ()) -> list[str]:
    """Return patterns for what an expression can be."""
    if isinstance(node, ast.JoinedStr):
        parts = [_variants(part, module, within) for part in node.values]
        return ["".join(one) for one in product(*parts)]
    if isinstance(node, ast.FormattedValue):
        plain = node.conversion == -1 and node.format_spec is None
        return _variants(node.value, module, within) if plain else [OPEN]
    if isinstance(node, ast.IfExp):
        return _either(
            _variants(node.body, module, within) + _variants(node.orelse, module, within)
        )
    value = _computed(node, _constants())
    if value is not None:
        return [re.escape(str(value))]
    if isinstance(node, ast.Name) and node.id not in within:
        return _of_name(node, module, (*within, node.id))
    return [OPEN]


def _either(variants: list[str]) -> list[str]:
    """Return what is one word or another as one pattern."""
    if OPEN in variants:
        return [OPEN]
    # A blank is escaped in a pattern.
    if all(len(one.split("\\ ")) <= _SHORT_WORDS for one in variants):
        return [f"(?:{'|'.join(dict.fromkeys(variants))})"]
    return list(dict.fromkeys(variants))


def _of_name(node: ast.Name, module: _Module, within: tuple[str, ...]) -> list[str]:
    """Return what a variable or a parameter of a private function can be."""
    function = module.functions.get(node)
    if function is None:
        return [OPEN]
    names = [argument.arg for argument in function.args.args]
    if node.id in names:
        return _of_parameter(names.index(node.id), function, module, within)
    stored = [
        other
        for other in ast.walk(function)
        if isinstance(other, ast.Name) and other.id == node.id and isinstance(other.ctx, ast.Store)
    ]
    given = [
        other.value
        for other in ast.walk(function)
        if isinstance(other, ast.Assign)
        and isinstance(other.targets[0], ast.Name)
        and other.targets[0].id == node.id
    ]
    if not given or len(stored) != len(given):
        return [OPEN]
    return _either([one for value in given for one in _variants(value, module, within)])


def _of_parameter(
    number: int, function: ast.FunctionDef, module: _Module, within: tuple[str, ...]
) -> list[str]:
    calls = module.calls(function.name)
    if not function.name.startswith("_") or not calls:
        return [OPEN]
    names = [argument.arg for argument in function.args.args]
    defaults = dict(zip(names[::-1], function.args.defaults[::-1]))
    found: list[str] = []
    for call in calls:
        by_name = {one.arg: one.value for one in call.keywords}
        given = (
            call.args[number]
            if number < len(call.args)
            else by_name.get(names[number], defaults.get(names[number]))
        )
        found += [OPEN] if given is None else _variants(given, module, within)
    return _either(found)


def _text(node: ast.AST) -> str | None:
    """Return a literal's text with … for values; None for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "…" for part in node.values)
    return None


def _of_room(node: ast.AST) -> tuple[ast.AST, ast.AST] | None:
    """Return the two parts of an error that has ways out: the problem, and these."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RoomError":
        return node.args[0], node.args[1]
    return None


def said(node: ast.AST) -> str | None:
    """Return what an expression says, with … for values; None for what is no text."""
    parts = _of_room(node)
    if parts is None:
        return _text(node)
    return f"{_text(parts[0]) or '…'}; {_text(parts[1]) or '…'}."


def literals(module: _Module) -> Iterator[tuple[ast.AST, str]]:
    """Yield every text in a module that is neither a docstring nor one of Ansible's documents."""
    passed_over: set[ast.AST] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) or (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) in ("DOCUMENTATION", "EXAMPLES", "RETURN")
        ):
            passed_over.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            passed_over.update(part for part in ast.walk(node) if part is not node)
    for node in ast.walk(module.tree):
        text = said(node)
        if text is not None and node not in passed_over:
            yield node, text


def errors(module: _Module) -> Iterator[ast.Call]:
    """Yield the calls by which a module makes or reports an error."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name.endswith("Error") or name in ("error", "fail_json"):
                yield node


def documentation(path: Path) -> Iterator[str]:
    """Yield the texts of a file that are assigned to a name: Ansible's documents and fragments."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def _tasks(content: object) -> Iterator[dict[str, Any]]:
    """Yield the tasks of a file of plays or tasks, those in blocks included."""
    for entry in content if isinstance(content, list) else []:
        yield entry
        for part in ("tasks", "block", "rescue", "always"):
            yield from _tasks(entry.get(part))


@cache
def role_sentences() -> tuple[Sentence, ...]:
    """Return what tasks of the role and of the playbooks fail with."""
    folders = (PROJECT / "roles/vnuma/tasks", PROJECT / "playbooks")
    files = [path for folder in folders for path in folder.glob("*.yml")]
    steered = yaml.safe_load((PROJECT / "roles/vnuma/vars/main.yml").read_text())
    texts = [steered["vnuma_steered_by"]]
    for task in (task for path in files for task in _tasks(yaml.safe_load(path.read_text()))):
        texts.append((task.get("ansible.builtin.assert") or {}).get("fail_msg", ""))
        texts.append((task.get("ansible.builtin.fail") or {}).get("msg", ""))
    found = []
    for text in texts:
        pieces = re.split(r"{[{%-].*?[}%]}", " ".join(text.split()), flags=re.DOTALL)
        words = [re.escape(piece.strip()) for piece in pieces]
        sentence = Sentence("…".join(pieces), re.compile(OPEN.join(words), re.DOTALL))
        if not sentence.is_open:
            found.append(sentence)
    assert len(found) > 4
    return tuple(found)


@cache
def sentences() -> tuple[Sentence, ...]:
    """Return what the code can say: every text in it that ends as a sentence does."""
    found: dict[str, Sentence] = {}
    for module in modules():
        passed_on = {
            call.args[0]
            for call in errors(module)
            if said(call.args[0]) is not None and _of_room(call) is None
        }
        for node, text in literals(module):
            if not (text.endswith(".") or node in passed_on) or len(text.split()) < 3:
                continue
            parts = [_variants(part, module) for part in _of_room(node) or (node,)]
            for one in product(*parts):
                pattern = "; ".join(one) + ("" if len(one) == 1 else r"\.")
                sentence = Sentence(text, re.compile(pattern, re.DOTALL))
                # What only says where an error is has no words of its own.
                if text.endswith(".") or not sentence.is_open:
                    found[pattern] = sentence
    assert len(found) > 80
    return tuple(sorted(found.values(), key=lambda one: one.pattern.pattern))
