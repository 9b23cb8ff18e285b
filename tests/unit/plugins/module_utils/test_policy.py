# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options: every value that is allowed, and a sentence for every one that is not."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import PolicyError
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    CHOICES,
    DEFAULTS,
    Policy,
    policy_from_options,
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
        ({"nodes": "all"}, "nodes", None),
        ({"nodes": 0}, "nodes", (0,)),
        ({"nodes": [0, 2]}, "nodes", (0, 2)),
        ({"nodes": "0-3,^2"}, "nodes", (0, 1, 3)),
        ({"cells": "128"}, "cells", 128),
        ({"cells": 1}, "cells", 1),
        ({"threads": "2"}, "threads", 2),
        ({"threads": "auto"}, "threads", None),
        ({"emulator_pinning": "nodes"}, "emulator_pinning", "nodes"),
        ({"emulator_pinning": "0-1"}, "emulator_pinning", (0, 1)),
        ({"reserved_cpus": "0,120"}, "reserved_cpus", (0, 120)),
        ({"reserved_cpus": ""}, "reserved_cpus", ()),
        ({"reserved_cpus": 0}, "reserved_cpus", (0,)),
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
    assert f"{option} 'bogus' is not known; use {CHOICES[option][0]}" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cells": 0}, "cells '0' cannot be; give a whole number from 1 to 128."),
        ({"cells": 129}, "cells '129' cannot be"),
        ({"cells": "x"}, "cells 'x' cannot be"),
        ({"cells": True}, "cells 'True' cannot be"),
        ({"cells": -1}, "cells '-1' cannot be"),
        ({"cells": "1.5"}, "cells '1.5' cannot be"),
        ({"threads": 0}, "threads '0' cannot be; give 'auto' or a whole number from 1 to 1024."),
        ({"nodes": ""}, "nodes: '' is not a set of numbers"),
        ({"nodes": "all,^1"}, "nodes: 'all,^1' is not a set of numbers"),
        ({"nodes": True}, "nodes 'True' is not 'all' or a nodeset"),
        ({"nodes": {"a": 1}}, "is not 'all' or a nodeset such as '0-3,^2'"),
        ({"emulator_pinning": "node"}, "It takes 'none', 'nodes' or a cpuset such as '0-1'."),
        ({"reserved_cpus": "5-"}, "reserved_cpus: '5-' is not a set of numbers"),
        ({"pining": "node"}, "option 'pining' is not known; the options are cells,"),
    ],
)
def test_refuses(options: dict[str, Any], sentence: str) -> None:
    """One sentence with the option, the value, and what it takes."""
    with pytest.raises(PolicyError) as raised:
        policy_from_options(options)
    assert sentence in str(raised.value)


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
