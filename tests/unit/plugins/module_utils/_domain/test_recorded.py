# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of earlier versions: what they hold is written, restored and shown to the byte as then.

fixtures/records.json has definitions that version 1.1 partitioned, some of them several times, with
all that it made of each. Guests carry such records for years; none may be read otherwise later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import (
    keep_layout,
    partitioned,
    restored,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.effect import effective_layout
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.kept import (
    put_back,
    runs_with,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.state import managed_text
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options

_FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
RECORDS: list[dict[str, Any]] = json.loads((_FIXTURES / "records.json").read_text())
_HOST = Host(tuple(Node(node, tuple(range(4 * node, 4 * node + 4)), 8 << 20) for node in (0, 1)))


@pytest.mark.parametrize("one", RECORDS)
def test_the_record_is_written_as_ever(one: dict[str, Any]) -> None:
    """The same layout and options give the same definition, the record in it included."""
    layout = effective_layout(read_definition(one["after"]), _HOST)
    policy = policy_from_options(one["options"])
    written = partitioned(read_definition(one["before"]), layout, policy)
    assert written.definition.text == one["after"]


@pytest.mark.parametrize("one", RECORDS)
def test_the_record_is_read_as_ever(one: dict[str, Any]) -> None:
    """It is restored to what it was, and --diff shows of it what it showed."""
    after = read_definition(one["after"])
    assert restored(after).definition.text == one["restored"]
    assert managed_text(after.root) == one["shown"]


@pytest.mark.parametrize("one", RECORDS)
def test_a_kept_layout_is_as_ever(one: dict[str, Any]) -> None:
    """What the state folder has of a guest is put back by the next version as by this one.

    Before 2.0 the CPU mode was kept there too. It is the owner's, and stays as it is.
    """
    before = read_definition(one["before"])
    assert keep_layout(before) == one["kept"]
    assert runs_with(before, one["kept"])
    for kept in (one["kept"], one["kept_then"]):
        assert put_back(read_definition(one["after"]), kept).definition.text == one["put_back"]


def test_every_managed_element_is_among_them() -> None:
    """A record that holds nothing of an element would tell nothing about it."""
    records = [one["after"].partition("<vnuma:original")[2] for one in RECORDS]
    kept = "".join(one.partition("</vnuma:original>")[0] for one in records)
    tags = (
        *("vcpupin ", "emulatorpin ", "iothreadpin ", "memory mode", "topology ", "numa>"),
        *("vcpuCount>", "memorySize>", "vcpu placement='auto'"),
    )
    assert [tag for tag in tags if f"<{tag}" not in kept.replace('"', "'")] == []
