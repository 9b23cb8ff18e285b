# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role documents, what it defaults to, and what the modules take are one and the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kvm.vnuma.plugins.doc_fragments.policy import ModuleDocFragment
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import DEFAULTS

PROJECT = Path(__file__).resolve().parents[3]
ROLE = PROJECT / "roles/vnuma"

#: Role variables that are options of a module under another name, with the module and the option.
RENAMED = {
    "vnuma_uri": ("vnuma_partition", "uri"),
    "vnuma_managed_save": ("vnuma_partition", "managed_save"),
    "vnuma_restart_at_once": ("vnuma_restart", "at_once"),
    "vnuma_shutdown_timeout": ("vnuma_restart", "timeout"),
    "vnuma_agent_timeout": ("vnuma_restart", "agent_timeout"),
}


def _read(path: str) -> Any:
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def _options(entry: str = "main") -> dict[str, dict[str, Any]]:
    options = _read("meta/argument_specs.yml")["argument_specs"][entry]["options"]
    assert isinstance(options, dict)
    return options


def _module_options(module: str) -> dict[str, dict[str, Any]]:
    tree = ast.parse((PROJECT / f"plugins/modules/{module}.py").read_text(encoding="utf-8"))
    (text,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and getattr(node.targets[0], "id", "") == "DOCUMENTATION"
    )
    options = yaml.safe_load(str(text))["options"]
    if module == "vnuma_partition":
        # What comes from fragments is in the argument spec only.
        options.setdefault("uri", {"type": "str", "default": "qemu:///system"})
    assert isinstance(options, dict)
    return options


def test_documented_defaults_are_the_defaults() -> None:
    """Ansible applies defaults/main.yml only, so that the documentation has to follow it."""
    documented = {
        name: option.get("default")
        for entry in ("main", "migrate")
        for name, option in _options(entry).items()
        if not option.get("required")
    }
    assert _read("defaults/main.yml") == documented


def test_migrations_take_what_the_module_takes() -> None:
    """The same types, choices and defaults; and each variable is handed on."""
    options, module = _options("migrate"), _module_options("vnuma_migrate")
    *_before, block = _read("tasks/migrate.yml")
    handed = block["block"][0]["kvm.vnuma.vnuma_migrate"]
    assert set(handed) == {"uri", "daemon_timeout", "state_dir", *module}
    for name, option in module.items():
        # Those are lists of the module, and names of hosts or text here.
        if name not in ("guests", "targets"):
            for key in ("type", "choices", "default"):
                assert options[f"vnuma_migrate_{name}"].get(key) == option.get(key), (name, key)


def test_every_policy_option_is_a_variable() -> None:
    """With the module's own type, choices and default; in an entry of vnuma_guests without one."""
    policy = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert set(policy) == set(DEFAULTS)
    options = _options()
    entry = options["vnuma_guests"]["options"]
    assert set(entry) == {"name", *DEFAULTS}
    for name, option in policy.items():
        documented = {**options[f"vnuma_{name}"]}
        del documented["description"]
        expected = {
            key: value
            for key, value in option.items()
            if key not in ("description", "version_added")
        }
        assert documented == expected, name
        in_entry = {key: value for key, value in entry[name].items() if key != "description"}
        assert in_entry == {key: value for key, value in expected.items() if key != "default"}, name


@pytest.mark.parametrize(("variable", "place"), sorted(RENAMED.items()))
def test_what_is_handed_on_is_what_the_module_takes(variable: str, place: tuple[str, str]) -> None:
    """The same type, choices and default."""
    module, option = place
    role_option, module_option = _options()[variable], _module_options(module)[option]
    for key in ("type", "choices", "default"):
        assert role_option.get(key) == module_option.get(key), key


@pytest.mark.parametrize("entry", ["plan", "report", "partition"])
def test_every_entry_point_takes_the_same(entry: str) -> None:
    """A play that only plans is given the same variables as one that goes on."""
    assert _options("main") == _options(entry)


def test_what_is_redefined_is_what_was_planned() -> None:
    """The same options with the same values; the plan's fingerprints come on top."""
    *_gather, plan = _read("tasks/plan.yml")
    module = "kvm.vnuma.vnuma_partition"
    (redefine,) = (task for task in _read("tasks/redefine.yml") if module in task)
    assert set(redefine[module]) - set(plan[module]) == {"planned", "planned_ledger"}
    del redefine[module]["planned"], redefine[module]["planned_ledger"]
    assert redefine[module] == plan[module]
    assert plan["check_mode"] is True
    assert "check_mode" not in redefine


def test_the_tasks_hand_on_every_variable() -> None:
    """A documented variable that no task uses would be a promise that is not kept."""
    used = "".join(
        path.read_text(encoding="utf-8") for path in ROLE.rglob("*.yml") if "tasks" in str(path)
    ) + (ROLE / "handlers/main.yml").read_text(encoding="utf-8")
    for variable in _options():
        assert variable in used, variable
    for option in DEFAULTS:
        assert f'{option}: "{{{{ vnuma_{option}' in used, option


@pytest.mark.parametrize("path", sorted((*ROLE.rglob("*.yml"), *PROJECT.glob("playbooks/*.yml"))))
def test_no_list_has_the_order_of_a_set(path: Path) -> None:
    """Ansible's filters of sets give another order on every run, and hosts are taken in order."""
    filters = r"\|\s*(difference|intersect|union|symmetric_difference)\("
    assert re.findall(filters, path.read_text(encoding="utf-8")) == []
