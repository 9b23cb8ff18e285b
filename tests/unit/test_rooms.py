# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports go one way: from the rooms below to those above.

The rooms are those of plugins/module_utils; plugins/plugin_utils is below them all.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from pathlib import Path

import pytest

MODULE_UTILS = Path(__file__).resolve().parents[2] / "plugins/module_utils"
#: From top to bottom; a room may import from itself and from the rooms above it.
ROOMS = (
    ("_errors", "_cpuset", "_size", "_policy"),
    ("_model",),
    ("_planner",),
    ("_domain",),
    ("_hypervisor",),
    ("_module",),
)
#: What a room may import besides the standard library and the rooms above.
FOREIGN = {"_domain": {"lxml"}, "_hypervisor": {"libvirt"}, "_module": {"ansible"}}
#: What runs on the controller alone, and what it may import of the rooms.
PLUGIN_UTILS = MODULE_UTILS.parent / "plugin_utils"
CONTROLLER = {"jinja2", "markupsafe"}
SHARED = ("_errors", "_cpuset", "_model")
LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names}


def _imports(path: Path) -> list[tuple[str, int]]:
    """Return what a file imports, as (module, leading dots)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


def _is_standard(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    origin = "" if spec is None else str(spec.origin)
    inside = origin.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in origin
    return inside or origin in ("built-in", "frozen")


def _room(path: Path) -> str:
    return path.relative_to(MODULE_UTILS).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(MODULE_UTILS.rglob("*.py")), ids=lambda p: str(p.relative_to(MODULE_UTILS))
)
def test_imports_go_one_way(path: Path) -> None:
    """Nothing is imported from a room below, and nothing foreign where it does not belong."""
    room, depth = _room(path), len(path.relative_to(MODULE_UTILS).parts)
    for module, dots in _imports(path):
        first = module.split(".")[0]
        if dots == 0:
            known = _is_standard(first) or first in FOREIGN.get(room, ())
            assert known, f"{module} in room {room}"
        elif dots == depth:
            assert LEVELS[first] <= LEVELS[room], f"{room} imports {module} from below"
        else:
            assert dots == 1, f"{module}: imports inside a room are relative to it"


@pytest.mark.parametrize("path", sorted(PLUGIN_UTILS.rglob("*.py")), ids=lambda p: p.name)
def test_the_controllers_own_imports(path: Path) -> None:
    """Neither libvirt nor XML nor Ansible, and of module_utils the words and the model alone."""
    for module, dots in _imports(path):
        first = module.split(".")[0]
        if first == "ansible_collections":
            room = module.partition(".module_utils.")[2].split(".")[0]
            assert room in SHARED, module
        elif dots == 0:
            assert _is_standard(first) or first in CONTROLLER, module
        else:
            assert dots == 1, f"{module}: imports inside a room are relative to it"
