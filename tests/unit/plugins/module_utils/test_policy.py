# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options: every value that is allowed, and a sentence for every one that is not."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from typing import Any

import pytest
import yaml
from ansible_collections.kvm.vnuma.plugins.doc_fragments.policy import ModuleDocFragment
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import PolicyError
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    CHOICES,
    DEFAULTS,
    OPTIONS,
    Policy,
    argument_spec,
    policy_from_options,
    policy_from_record,
    policy_to_record,
)


def test_defaults() -> None:
    """Nothing given is the default policy, and so are the defaults as they are documented."""
    assert policy_from_options({}) == Policy()
    assert policy_from_options(DEFAULTS) == Policy()
    assert policy_to_record(Policy()) == {}


@pytest.mark.parametrize(
    ("options", "attribute", "value"),
    [
        ({"nodes": "all"}, "nodes", "all"),
        ({"nodes": "auto"}, "nodes", "auto"),
        ({"auto_nodes": "0-2,^1"}, "auto_nodes", (0, 2)),
        ({"auto_nodes": ""}, "auto_nodes", None),
        ({"widen": "True"}, "widen", True),
        ({"widen": False}, "widen", False),
        ({"cpu_overcommit": 1.5}, "cpu_overcommit", Fraction(3, 2)),
        ({"cpu_overcommit": "2"}, "cpu_overcommit", Fraction(2)),
        ({"reserved_memory": "0"}, "reserved_memory_kib", 0),
        ({"reserved_memory": "2 GiB"}, "reserved_memory_kib", 2 << 20),
        ({"nodes": 0}, "nodes", (0,)),
        ({"nodes": [0, 2]}, "nodes", (0, 2)),
        ({"nodes": "0-3,^2"}, "nodes", (0, 1, 3)),
        ({"cells": "128"}, "cells", 128),
        ({"cells": 1}, "cells", 1),
        ({"threads": "2"}, "threads", 2),
        ({"dies": "host"}, "dies", "host"),
        ({"sockets": "cells"}, "sockets", "cells"),
        ({"sockets": "2"}, "sockets", 2),
        ({"threads": "auto"}, "threads", None),
        ({"emulator_pinning": "nodes"}, "emulator_pinning", "nodes"),
        ({"emulator_pinning": "0-1"}, "emulator_pinning", (0, 1)),
        ({"reserved_cpus": "0,120"}, "reserved_cpus", (0, 120)),
        ({"reserved_cpus": ""}, "reserved_cpus", ()),
        ({"reserved_cpus": 0}, "reserved_cpus", (0,)),
        ({"reserved_cpus": []}, "reserved_cpus", ()),
        ({"reserved_cpus": [1, "4-5"]}, "reserved_cpus", (1, 4, 5)),
        ({"reserved_cpus": None}, "reserved_cpus", ()),
        ({"nodes": None}, "nodes", "all"),
        ({"nodes": (3, 1)}, "nodes", (1, 3)),
        ({"nodes": ["0-1", 3]}, "nodes", (0, 1, 3)),
        ({"nodes": "16383"}, "nodes", (16383,)),
        ({"cells": None}, "cells", None),
        ({"cells": " 4 "}, "cells", 4),
        ({"threads": 1024}, "threads", 1024),
        ({"threads": None}, "threads", None),
        ({"emulator_pinning": 3}, "emulator_pinning", (3,)),
        ({"emulator_pinning": [1, 0]}, "emulator_pinning", (0, 1)),
        ({"emulator_pinning": "none"}, "emulator_pinning", "none"),
        ({"emulator_pinning": "keep"}, "emulator_pinning", "keep"),
    ],
)
def test_values(options: dict[str, Any], attribute: str, value: object) -> None:
    """Text, integers and lists mean what they say."""
    assert getattr(policy_from_options(options), attribute) == value


@pytest.mark.parametrize("option", sorted(CHOICES))
def test_choices(option: str) -> None:
    """Each allowed value is taken; another one is named with those that are."""
    for value in CHOICES[option]:
        assert getattr(policy_from_options({option: value}), option) == value
    with pytest.raises(PolicyError) as raised:
        policy_from_options({option: "bogus"})
    assert f"{option} must be one of {CHOICES[option][0]}" in str(raised.value)
    assert str(raised.value).endswith("not 'bogus'.")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cells": 0}, "cells must be an integer from 1 to 128, not '0'."),
        ({"cells": 129}, "cells must be an integer from 1 to 128, not '129'."),
        ({"cells": "x"}, "cells must be an integer from 1 to 128, not 'x'."),
        ({"cells": True}, "cells must be an integer from 1 to 128, not 'True'."),
        ({"cells": -1}, "cells must be an integer from 1 to 128, not '-1'."),
        ({"cells": "1.5"}, "cells must be an integer from 1 to 128, not '1.5'."),
        ({"dies": "2"}, "dies must be one of none or host, not '2'."),
        ({"sockets": 0}, "sockets must be 'auto', 'cells' or an integer from 1 to 65535, not '0'."),
        ({"threads": 0}, "threads must be 'auto' or an integer from 1 to 1024, not '0'."),
        ({"nodes": ""}, "nodes: '' is not a set of numbers"),
        ({"nodes": "all,^1"}, "nodes: 'all,^1' is not a set of numbers"),
        (
            {"nodes": True},
            "nodes must be given as 'all', 'auto' or a nodeset such as '0-3,^2', not 'True'.",
        ),
        (
            {"nodes": {"a": 1}},
            "nodes must be given as 'all', 'auto' or a nodeset such as '0-3,^2', not '{'a': 1}'.",
        ),
        (
            {"emulator_pinning": "node"},
            "It takes 'keep', 'none', 'nodes' or a cpuset such as '0-1'.",
        ),
        ({"reserved_cpus": "5-"}, "reserved_cpus: '5-' is not a set of numbers"),
        ({"pining": "node"}, "unknown option 'pining'; the options are auto_nodes, cells,"),
        ({"cells": [4]}, "cells must be an integer from 1 to 128, not '[4]'."),
        ({"cells": 4.0}, "cells must be an integer from 1 to 128, not '4.0'."),
        ({"cells": ""}, "cells must be an integer from 1 to 128, not ''."),
        ({"cells": "9" * 5000}, "cells must be an integer from 1 to 128, not '9999"),
        # What Python reads as a number, and nobody writes.
        ({"cells": "1_0"}, "cells must be an integer from 1 to 128, not '1_0'."),
        ({"cells": "\u0663"}, "cells must be an integer from 1 to 128, not '\u0663'."),
        ({"threads": 1025}, "threads must be 'auto' or an integer from 1 to 1024, not '1025'."),
        ({"threads": False}, "threads must be 'auto' or an integer from 1 to 1024, not 'False'."),
        ({"threads": "Auto"}, "threads must be 'auto' or an integer from 1 to 1024, not 'Auto'."),
        ({"widen": "perhaps"}, "widen must be true or false, not 'perhaps'."),
        (
            {"cpu_overcommit": 0.5},
            "cpu_overcommit must be a number from 1 to 64 with at most three decimals, such",
        ),
        (
            {"cpu_overcommit": "1e9"},
            "cpu_overcommit must be a number from 1 to 64 with at most three decimals, such",
        ),
        (
            {"cpu_overcommit": True},
            "cpu_overcommit must be a number from 1 to 64 with at most three decimals, such",
        ),
        (
            {"reserved_memory": -1},
            "reserved_memory must be an integer with a unit, such as '32 GiB', not '-1'.",
        ),
        ({"cpu_overcommit": 1.3333}, "at most three decimals, such as 1.5, not '1.3333';"),
        ({"reserved_memory": "8 EiB"}, "from 0 KiB to 9007199254740991 KiB, not '8 EiB'."),
        ({"memory": "8 EiB"}, "from 1 KiB to 9007199254740991 KiB, not '8 EiB'."),
        (
            {"memory": "9" * 30 + " B"},
            "memory must be from 1 KiB to 9007199254740991 KiB, not '999",
        ),
        ({"memory": "0 GiB"}, "from 1 KiB to 9007199254740991 KiB, not '0 GiB'."),
        ({"distances": [[10, 21], [21, 10], 5]}, "[[10, 21], [21, 10]]: 10 from a cell to"),
        ({"distances": "[[10, 21], [21, 10], null]"}, "distances must be 'host', 'none', or a"),
        ({"distances": [[10, 21], [21, 10], {0: 10}]}, "distances must be 'host', 'none', or a"),
        ({"auto_nodes": "x"}, "auto_nodes: 'x' is not a set of numbers"),
        ({"nodes": []}, "nodes: '' is not a set of numbers"),
        ({"nodes": ["all"]}, "nodes: 'all' is not a set of numbers"),
        ({"nodes": "16384"}, "nodes: 16384 in '16384' is over 16383"),
        ({"nodes": 1.5}, "nodes: '1.5' is not a set of numbers"),
        ({"nodes": -1}, "nodes: '-1' is not a set of numbers"),
        ({"nodes": "9" * 5000}, "nodes: "),
        (
            {"emulator_pinning": True},
            "emulator_pinning must be given as 'keep', 'none', 'nodes' or a cpuset such as '0-1', "
            "not 'True'.",
        ),
        ({"emulator_pinning": []}, "emulator_pinning: '' is not a set of numbers"),
        (
            {"reserved_cpus": False},
            "reserved_cpus must be given as a cpuset such as '0-1,8', 'isolated', or both with a "
            "comma, not 'False'.",
        ),
        (
            {"reserved_cpus": {}},
            "reserved_cpus must be given as a cpuset such as '0-1,8', 'isolated', or both with a "
            "comma, not '{}'.",
        ),
        (
            {"pinning": True},
            "pinning must be one of node, cache, core, cpu, none or keep, not 'True'.",
        ),
        (
            {"distances": False},
            "distances must be 'host', 'none', or a full matrix such as [[10, 21], [21, 10]]: 10 "
            "from a cell to itself, and 11 to 254 to every other, not 'False'.",
        ),
        ({"distances": [[10, 21]]}, "distances must be 'host', 'none', or a full matrix"),
        ({"distances": [[10, 10], [10, 10]]}, "distances must be 'host', 'none', or a full"),
        ({"distances": [[11, 21], [21, 10]]}, "distances must be 'host', 'none', or a full"),
        ({"distances": [[10, 255], [21, 10]]}, "distances must be 'host', 'none', or a full"),
        ({"distances": [10, 21]}, "distances must be 'host', 'none', or a full matrix"),
        ({"distances": "[[10"}, "distances must be 'host', 'none', or a full matrix"),
        ({"granule": 0}, "granule must be from 1 KiB to 16777216 KiB, not '0'."),
        ({"migration_group": 5}, "migration_group must be a list of names of hosts"),
        ({"migration_group": [5]}, "migration_group must be a list of names of hosts"),
        (
            {"memory_mode": ["strict"]},
            "memory_mode must be one of strict, preferred, restrictive or none, not '['strict']'.",
        ),
        ({"state": "Present"}, "state must be one of present or absent, not 'Present'."),
        ({"memory": 32}, "memory must be an integer with a unit, such as '32 GiB', not '32'."),
        ({"memory": "1.5 GiB"}, "memory must be an integer with a unit, such as '32 GiB', not"),
        ({"memory": "3 parsecs"}, "memory must be an integer with a unit, such as '32 GiB', not"),
        ({"vcpus": 0}, "vcpus must be an integer from 1 to 65535, not '0'."),
        ({"split": "fair"}, "split must be one of even, equal or proportional, not 'fair'."),
        (
            {"iothread_pinning": "node"},
            "iothread_pinning: 'node' is not a set of numbers; write it as '0-3,8' or '0-7,^2'. It "
            "takes 'keep', 'none', 'nodes' or a cpuset such as '0-1'.",
        ),
        ({"split": 0}, "split must be one of even, equal or proportional, not '0'."),
    ],
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    """One sentence with the option, the value, and what it takes."""
    with pytest.raises(PolicyError) as raised:
        policy_from_options(options)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("given", "cpus", "isolated", "recorded"),
    [
        ("isolated", (), True, "isolated"),
        ("0-1, isolated", (0, 1), True, "isolated,0-1"),
        (["isolated", 3], (3,), True, "isolated,3"),
        ("0-7,^2", (0, 1, 3, 4, 5, 6, 7), False, "0-1,3-7"),
    ],
)
def test_reserved_cpus(given: object, cpus: tuple[int, ...], isolated: bool, recorded: str) -> None:
    """By number, by what the kernel isolates, or both."""
    policy = policy_from_options({"reserved_cpus": given})
    assert (policy.reserved_cpus, policy.reserves_isolated) == (cpus, isolated)
    assert policy_to_record(policy) == {"reserved_cpus": recorded}
    assert policy_from_options(policy_to_record(policy)) == policy


@pytest.mark.parametrize(
    ("given", "memory_kib", "recorded"),
    [
        ("32 GiB", 32 << 20, "32 GiB"),
        ("33554432KiB", 32 << 20, "32 GiB"),
        ("5 g", 5 << 20, "5 GiB"),
        ("1 GB", 976563, "976563 KiB"),
    ],
)
def test_memory(given: str, memory_kib: int, recorded: str) -> None:
    """In libvirt's units, rounded up as libvirt does."""
    policy = policy_from_options({"memory": given})
    assert policy.memory_kib == memory_kib
    assert policy_to_record(policy) == {"memory": recorded}


def test_record_has_what_differs() -> None:
    """The record is read by people: defaults are left out, sets are written as sets."""
    policy = policy_from_options(
        {"nodes": [0, 1], "cells": 4, "emulator_pinning": [0], "reserved_cpus": "0", "threads": 1}
    )
    assert policy_to_record(policy) == {
        "nodes": "0-1",
        "cells": "4",
        "emulator_pinning": "0",
        "reserved_cpus": "0",
        "threads": "1",
    }


@pytest.mark.parametrize("option", sorted(DEFAULTS))
@pytest.mark.parametrize(
    "value",
    ["a\nb", "\n", "x" * 500, -1, 1.5, True, False, [], {}, [[]], [None], {"a": 1}, "\ud800"],
    ids=repr,
)
def test_whatever_is_given(option: str, value: object) -> None:
    """A policy, or one sentence on one line that begins with the option."""
    said = option
    try:
        policy = policy_from_options({option: value})
        assert policy_from_options(policy_to_record(policy)) == policy
    except PolicyError as error:
        said = str(error)
    assert said.startswith(option)
    assert "\n" not in said


@pytest.mark.parametrize("option", sorted(set(CHOICES) - {"state"}))
def test_every_choice_is_recorded(option: str) -> None:
    """What is on record is the same policy when it is read again."""
    for value in CHOICES[option]:
        policy = policy_from_options({option: value})
        record = policy_to_record(policy)
        assert record == ({} if value == DEFAULTS[option] else {option: value})
        assert policy_from_options(record) == policy


def test_a_matrix_in_every_spelling() -> None:
    """Lists, the text of lists, and the text of a record."""
    wanted = ((10, 21), (22, 10))
    spellings = ([[10, 21], [22, 10]], [["10", "21"], ["22", "10"]], "[[10, 21], [22, 10]]")
    for value in (*spellings, wanted, "10,21;22,10"):
        policy = policy_from_options({"distances": value})
        assert policy.distances == wanted
    assert policy_to_record(policy)["distances"] == "10,21;22,10"


def test_a_group_in_every_spelling() -> None:
    """Names, and the text of a record; sorted, once each."""
    values: tuple[object, ...] = (["b", "a", "a"], ("b", "a"), "b, a")
    for value in values:
        assert policy_from_options({"migration_group": value}).migration_group == ("a", "b")
    nothing: tuple[object, ...] = ([], "")
    for value in nothing:
        assert policy_from_options({"migration_group": value}).migration_group == ()


_SPEC = argument_spec()


def test_the_table_is_the_policy() -> None:
    """Each option has a field, each field an option, and its default is that of the field."""
    of_options = {option.field or name for name, option in OPTIONS.items()}
    assert of_options | {"reserves_isolated"} == {field.name for field in fields(Policy)}
    given = {name: one.get("default") for name, one in _SPEC.items()}
    assert policy_from_options(given) == Policy()


def test_the_documentation_has_every_option_as_it_is() -> None:
    """The call's with type, values and default; those of a guest without one, and all of them."""
    called = yaml.safe_load(ModuleDocFragment.DOCUMENTATION)["options"]
    guests = yaml.safe_load(ModuleDocFragment.GUESTS)["options"]["guests"]["suboptions"]
    keys = {"type", "elements", "choices", "default"}
    assert called.keys() == _SPEC.keys() == OPTIONS.keys()
    assert guests.keys() == {"name", *OPTIONS}
    for name, one in _SPEC.items():
        assert {key: called[name][key] for key in keys & called[name].keys()} == one
        entry = {key: value for key, value in one.items() if key != "default"}
        assert {key: guests[name][key] for key in keys & guests[name].keys()} == entry


def test_a_record_of_another_version() -> None:
    """What this version does not know is left out; what a target asks for is checked."""
    recorded = {"cpu_mode": "host-passthrough", "pinning": "core", "x": "1"}
    assert policy_from_record(recorded) == Policy(pinning="core")
    assert policy_from_record(recorded, {"nodes": "1"}) == Policy(pinning="core", nodes=(1,))
    with pytest.raises(PolicyError, match="unknown option 'cpu_mode'"):
        policy_from_record(recorded, {"cpu_mode": "keep"})
