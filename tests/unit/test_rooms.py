# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports go one way: from the rooms below to those above.

The rooms are those of plugins/module_utils; plugins/plugin_utils is below them all. And what each
module brings along has a budget.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from dataclasses import asdict
from pathlib import Path

import closures
import pytest
from closures import Size, closure, size

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
#: Rooms above that a room does without: what a definition says is no matter of plans.
APART = {"_domain": {"_planner"}}
#: What a room may import besides the standard library and the rooms above.
FOREIGN = {"_domain": {"lxml"}, "_hypervisor": {"libvirt"}, "_module": {"ansible"}}
#: What runs on the controller alone, and what it may import of the rooms.
PLUGIN_UTILS = MODULE_UTILS.parent / "plugin_utils"
CONTROLLER = {"jinja2", "markupsafe"}
SHARED = ("_errors", "_cpuset", "_model")
#: Most files, lines and lines of code that Ansible packs with a module, counted as in closures.py.
#: A feature shows its price here; what falls well below is set to what it is.
BUDGET = {
    "vnuma_facts": Size(files=10, lines=1760, code=910),
    "vnuma_info": Size(files=59, lines=13670, code=8080),
    "vnuma_migrate": Size(files=72, lines=16180, code=9610),
    "vnuma_partition": Size(files=58, lines=13910, code=8100),
    "vnuma_restart": Size(files=39, lines=7280, code=4080),
}
#: How far below its budget a figure may be.
_SLACK = 0.04
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
            assert first not in APART.get(room, ()), f"{room} imports {module}"
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


def test_every_module_has_a_budget() -> None:
    """A new module has none yet."""
    assert sorted(BUDGET) == sorted(path.stem for path in MODULE_UTILS.parent.glob("modules/*.py"))


@pytest.mark.parametrize("module", BUDGET)
def test_what_ansible_packs(module: str) -> None:
    """Every import counts, also those inside functions: Ansible packs them all the same."""
    told = _outside(BUDGET[module], size(closure(module)))
    assert not told, (
        f"{module} {', '.join(told)}; make it smaller, or set BUDGET to what it is. "
        f"'python3 tests/unit/closures.py {module}' shows the figures of each file."
    )


def _outside(budget: Size, now: Size) -> list[str]:
    """Return what is over a budget, or so far below it that the budget says nothing any more."""
    return [
        f"has {has} {what}, {'over' if has > most else 'well below'} its budget of {most}"
        for what, most in asdict(budget).items()
        for has in (getattr(now, what),)
        if not most * (1 - _SLACK) - 1 <= has <= most
    ]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (Size(20, 1000, 500), []),
        (Size(19, 961, 481), []),
        (Size(21, 1000, 500), ["has 21 files, over its budget of 20"]),
        (Size(20, 1001, 500), ["has 1001 lines, over its budget of 1000"]),
        (Size(20, 1000, 470), ["has 470 code, well below its budget of 500"]),
    ],
)
def test_a_budget_is_kept_from_both_sides(now: Size, told: list[str]) -> None:
    """Neither more than it, nor so much less that a feature could come in unseen."""
    assert _outside(Size(20, 1000, 500), now) == told


def test_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports inside functions, of whole modules and of names; each file once, with its code."""
    utils = "ansible_collections.kvm.vnuma.plugins.module_utils"
    texts = {
        "modules/m.py": f"DOCUMENTATION = (\n)\nfrom {utils}._room.a import f\n\nf()\n",
        "module_utils/_room/a.py": "def f():\n    # Late.\n    from . import b\n    b.x()\n",
        "module_utils/_room/b.py": "import os\nfrom .._top import g\n\nx = (\n    1,\n)\n",
        "module_utils/_top.py": "from ._room.a import f\n",
        "module_utils/_unused.py": "y = 1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(closures, "PLUGINS", tmp_path)
    found = closure("m")
    assert {str(path.relative_to(tmp_path)) for path in found} == texts.keys() - {
        "module_utils/_unused.py"
    }
    # f() of the module, def and call of a, the three lines of x.
    assert size(found) == Size(files=4, lines=16, code=6)
