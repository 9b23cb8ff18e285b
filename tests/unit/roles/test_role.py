# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role documents, what it defaults to, and what the modules take are one and the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import role_spec
import yaml
from ansible_collections.kvm.vnuma.plugins.doc_fragments.policy import ModuleDocFragment
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import DEFAULTS

PROJECT = Path(__file__).resolve().parents[3]
ROLE = PROJECT / "roles/vnuma"

SPEC = yaml.safe_load(role_spec.text())["argument_specs"]
#: Variables that the playbooks alone read, or that are those of other hosts.
OF_PLAYBOOKS = frozenset(
    ("vnuma_hosts", "vnuma_serial", "vnuma_migrate_from", "vnuma_drain", "vnuma_drain_to")
)
OF_TARGETS = frozenset(("vnuma_migrate_uri", "vnuma_migrate_data_uri"))


def _read(path: str) -> Any:
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def _options(entry: str = "main") -> dict[str, dict[str, Any]]:
    options = _read("meta/argument_specs.yml")["argument_specs"][entry]["options"]
    assert isinstance(options, dict)
    return options


def test_the_specs_follow_the_modules() -> None:
    """The file is what is made of the modules' own texts; tests/tools/role_spec.py writes it."""
    assert _read("meta/argument_specs.yml")["argument_specs"] == SPEC
    assert role_spec.SPEC.read_text(encoding="utf-8") == role_spec.text()


def test_documented_defaults_are_the_defaults() -> None:
    """Ansible applies defaults/main.yml only, so that the documentation has to follow it."""
    documented = {
        name: option.get("default")
        for entry in ("main", "migrate")
        for name, option in _options(entry).items()
        if not option.get("required") and name not in OF_PLAYBOOKS | OF_TARGETS
    }
    # libvirt is handed what is given, and nothing else.
    documented["vnuma_migrate_options"] = {}
    assert _read("defaults/main.yml") == documented


def test_migrations_hand_on_every_variable() -> None:
    """Each option of the module is given, and each by the variable that is called like it."""
    *_before, block = _read("tasks/migrate.yml")
    handed = block["block"][0]["kvm.vnuma.vnuma_migrate"]
    options = role_spec.module_options("vnuma_migrate")
    assert set(handed) == set(options)
    for name in set(options) - {"guests", "targets", "uri", "daemon_timeout", "state_dir"}:
        assert handed[name] == f"{{{{ vnuma_migrate_{name} }}}}", name


def test_every_variable_is_in_a_spec() -> None:
    """Those of the playbooks and of other hosts too: what is read somewhere is documented."""
    read = {
        name
        for path in (*ROLE.rglob("*.yml"), *PROJECT.glob("playbooks/*.yml"))
        if not {"meta", "vars"}.intersection(path.parts)
        for name in re.findall(r"\bvnuma_[a-z_]+(?!\w)", path.read_text(encoding="utf-8"))
    }
    documented = {name for entry in SPEC.values() for name in entry["options"]}
    made = {
        name
        for path in (*ROLE.rglob("*.yml"), *PROJECT.glob("playbooks/*.yml"))
        for name in re.findall(
            r"(?:register|index_var|loop_var): (vnuma_\w+)|^ +(vnuma_\w+): ?(?:>-|\"|\[|$)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        for name in name
    }
    made |= set(_read("vars/main.yml"))
    modules = {path.stem for path in PROJECT.glob("plugins/modules/*.py")}
    assert read - documented - made - modules - {"vnuma_host"} == set()
    assert documented - read == set()


def test_every_policy_option_is_a_variable() -> None:
    """With the module's own type, choices and default; in an entry of vnuma_guests without one."""
    policy = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    assert set(policy) == set(DEFAULTS)
    options = _options()
    entry = options["vnuma_guests"]["options"]
    assert set(entry) == {"name", *DEFAULTS}
    for name, option in policy.items():
        documented = {**options[f"vnuma_{name}"]}
        documented = {
            key: value
            for key, value in documented.items()
            if key not in ("description", "version_added")
        }
        expected = {
            key: value
            for key, value in option.items()
            if key not in ("description", "version_added")
        }
        assert documented == expected, name
        in_entry = {key: value for key, value in entry[name].items() if key != "description"}
        assert in_entry == {key: value for key, value in expected.items() if key != "default"}, name


def test_a_plan_takes_what_a_run_takes() -> None:
    """A play that only plans is given the same variables as one that goes on."""
    assert _options("main") == _options("plan")


def test_what_is_redefined_is_what_was_planned() -> None:
    """The same options with the same values; the plan comes on top."""
    *_gather, plan = _read("tasks/plan.yml")
    module = "kvm.vnuma.vnuma_partition"
    (redefine,) = (task for task in _read("tasks/redefine.yml") if module in task)
    assert redefine[module].pop("planned") == "{{ vnuma_plan }}"
    assert redefine[module] == plan[module]
    assert plan["check_mode"] is True
    assert "check_mode" not in redefine


def test_the_tasks_hand_on_every_variable() -> None:
    """A documented variable that no task uses would be a promise that is not kept."""
    used = "".join(
        path.read_text(encoding="utf-8") for path in ROLE.rglob("*.yml") if "tasks" in str(path)
    ) + (ROLE / "handlers/main.yml").read_text(encoding="utf-8")
    for variable in set(_options()) - OF_PLAYBOOKS:
        assert variable in used, variable
    for option in DEFAULTS:
        assert f'{option}: "{{{{ vnuma_{option}' in used, option


@pytest.mark.parametrize("path", sorted((*ROLE.rglob("*.yml"), *PROJECT.glob("playbooks/*.yml"))))
def test_no_list_has_the_order_of_a_set(path: Path) -> None:
    """Ansible's filters of sets give another order on every run, and hosts are taken in order."""
    filters = r"\|\s*(difference|intersect|union|symmetric_difference)\("
    assert re.findall(filters, path.read_text(encoding="utf-8")) == []
