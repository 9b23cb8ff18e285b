# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the role's meta/argument_specs.yml from the documentation of the modules.

python tests/tools/role_spec.py

A variable that is handed on to a module has the text of the module's option, and its type, choices
and default. Only what is the role's own stands in role_spec.yml, beside this file.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).resolve().parent
_PROJECT = _HERE.parents[1]
SPEC = _PROJECT / "roles/vnuma/meta/argument_specs.yml"
_HEAD = """\
---
# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
# Written by tests/tools/role_spec.py: change the texts of the modules, or role_spec.yml there.
"""
#: A line ends after the word that goes over this; yamllint takes 110.
_WIDTH = 88
_KEYS = ("description", "type", "elements", "choices", "default", "required", "version_added")

Option = dict[str, Any]


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Lists stand further in than their key, as yamllint wants them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent in every case."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Only the variables of a whole entry point are worth a name."""
        return not (isinstance(data, dict) and "vnuma_guests" in data)


def documented(path: str, name: str) -> str:
    """Return a text of documentation that is assigned to a name in a file."""
    tree = ast.parse((_PROJECT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and getattr(node.targets[0], "id", "") == name
        ):
            return str(node.value.value)
    raise ValueError(f"{path} has no {name}")


def module_options(module: str) -> dict[str, Option]:
    """Return the options of a module, with those of the fragments that the role hands on."""
    text = documented(f"plugins/modules/{module}.py", "DOCUMENTATION")
    options: dict[str, Option] = {}
    for fragment in ("connection", "state"):
        path = f"plugins/doc_fragments/{fragment}.py"
        options.update(yaml.safe_load(documented(path, "DOCUMENTATION"))["options"])
    return {**options, **yaml.safe_load(text)["options"]}


def policy_options() -> dict[str, Option]:
    """Return the policy options, in their groups."""
    options = yaml.safe_load(documented("plugins/doc_fragments/policy.py", "DOCUMENTATION"))[
        "options"
    ]
    assert isinstance(options, dict)
    return options


def variable(option: Option, names: Mapping[str, str]) -> Option:
    """Return an option as a variable; *names* are those that its text has instead."""

    def renamed(found: re.Match[str]) -> str:
        kind, name, rest = found[1], found[2], found[3]
        other = names.get(name, name)
        return other if "(" in other else f"{kind}({other}{rest})"

    made: Option = {key: option[key] for key in _KEYS if key in option}
    made["description"] = [
        re.sub(r"\b(O)\((\w+)([^)]*)\)", renamed, sentence) for sentence in made["description"]
    ]
    if "suboptions" in option:
        made["options"] = {name: variable(one, names) for name, one in option["suboptions"].items()}
    return made


def spec() -> dict[str, Any]:
    """Return the specs of all entry points."""
    own = yaml.safe_load((_HERE / "role_spec.yml").read_text(encoding="utf-8"))
    policy = policy_options()
    names = {name: f"vnuma_{name}" for name in policy}
    shared = {"uri": "vnuma_uri", "daemon_timeout": "vnuma_daemon_timeout"}
    partition = module_options("vnuma_partition")
    restart = module_options("vnuma_restart")
    migrate = module_options("vnuma_migrate")
    connection = {
        f"vnuma_{name}": variable(partition[name], shared)
        for name in ("uri", "daemon_timeout", "state_dir")
    }
    entry = {
        name: {
            "description": [f"Overrides O(vnuma_{name}) for this entry."],
            **{key: one[key] for key in ("type", "elements", "choices") if key in one},
        }
        for name, one in policy.items()
    }
    guests = own["vnuma_guests"]
    guests["options"] = {**guests["options"], **entry}
    main = {
        "vnuma_guests": guests,
        **{f"vnuma_{name}": variable(one, names) for name, one in policy.items()},
        "vnuma_rebalance": own["vnuma_rebalance"],
        "vnuma_managed_save": variable(partition["managed_save"], names),
        "vnuma_restart_mode": own["vnuma_restart_mode"],
        **{
            f"vnuma_restart_{name}": variable(restart[name], {"timeout": "vnuma_restart_timeout"})
            for name in ("timeout", "at_once", "agent_timeout")
        },
        **connection,
        **own["report"],
        **own["playbooks"],
    }
    renamed = {name: f"vnuma_migrate_{name}" for name in migrate}
    renamed["targets"] = "C(vnuma_migrate_uri)"
    migrating = {
        **own["migrate"],
        **{
            f"vnuma_migrate_{name}": variable(one, renamed)
            for name, one in migrate.items()
            if name not in ("guests", "targets", "uri", "daemon_timeout", "state_dir")
        },
        **connection,
    }
    options = {
        "main": main,
        "plan": main,
        "report": {**connection, **own["report"], "vnuma_hosts": own["playbooks"]["vnuma_hosts"]},
        "migrate": migrating,
    }
    return {
        "argument_specs": {
            name: {**texts, "options": options[name]} for name, texts in own["entries"].items()
        }
    }


def text() -> str:
    """Return what the file is to have."""
    made = yaml.dump(spec(), Dumper=_Dumper, sort_keys=False, width=_WIDTH, allow_unicode=True)
    return _HEAD + str(made)


def main() -> int:
    """Write the file."""
    changed = SPEC.read_text(encoding="utf-8") != text()
    SPEC.write_text(text(), encoding="utf-8")
    print(f"{SPEC}: {'written' if changed else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
