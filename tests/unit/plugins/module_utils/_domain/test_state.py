# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What two definitions differ in, in words."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import numbered
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.managed import MANAGED
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.words import (
    WORDS,
    Difference,
    differences,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import ManagedState

_TWO_CELLS = (
    "<cpu mode='custom'><topology sockets='2' cores='1' threads='2'/><numa>"
    "<cell id='0' cpus='0-1' memory='1024'><distances><sibling id='0' value='10'/>"
    "<sibling id='1' value='21'/></distances></cell>"
    "<cell id='1' cpus='2-3' memory='1024' memAccess='shared'/></numa></cpu>"
)
_PINS = (
    "<cputune><vcpupin vcpu='0' cpuset='0-3'/><vcpupin vcpu='1' cpuset='0-3'/>"
    "<vcpupin vcpu='3' cpuset='8'/><emulatorpin cpuset='0'/>"
    "<iothreadpin iothread='1' cpuset='1'/><iothreadpin iothread='2' cpuset='1'/></cputune>"
)
_BOUND = (
    "<numatune><memory mode='strict' nodeset='0-1'/>"
    "<memnode cellid='0' mode='strict' nodeset='0'/>"
    "<memnode cellid='1' mode='preferred' nodeset='1'/></numatune>"
)


def _state(inner: str) -> ManagedState:
    return read_definition(f"<domain>{inner}</domain>").state


@pytest.mark.parametrize("inner", ["", _PINS, _TWO_CELLS, _PINS + _BOUND + _TWO_CELLS])
def test_a_definition_does_not_differ_from_itself(inner: str) -> None:
    """Nothing is made up."""
    assert differences(_state(inner), _state(inner)) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            _PINS,
            _PINS.replace("cpuset='0-3'", "cpuset='4'").replace("cpuset='8'", "cpuset='9'"),
            [
                ("vcpu_pins", "vCPUs 0-1 are", "pinned to 0-3", "pinned to 4"),
                ("vcpu_pins", "vCPU 3 is", "pinned to 8", "pinned to 9"),
            ],
        ),
        (
            _PINS,
            "",
            [
                ("vcpu_pins", "vCPUs 0-1 are", "pinned to 0-3", "not pinned"),
                ("vcpu_pins", "vCPU 3 is", "pinned to 8", "not pinned"),
                ("emulator_pins", "the emulator is", "pinned to 0", "not pinned"),
                ("iothread_pins", "iothreads 1-2 are", "pinned to 1", "not pinned"),
            ],
        ),
        (
            _TWO_CELLS + _BOUND,
            _TWO_CELLS
            + _BOUND.replace("cellid='1' mode='preferred' nodeset='1'", "cellid='1' nodeset='2,3'"),
            [
                (
                    "memory_binding",
                    "the memory of cell 1 is",
                    "bound preferred to host node 1",
                    "bound strict to host nodes 2-3",
                )
            ],
        ),
        (
            _BOUND,
            "<numatune><memory mode='strict' placement='auto'/></numatune>",
            [
                (
                    "memory_binding",
                    "its memory as a whole is",
                    "bound strict to host nodes 0-1",
                    "bound strict to the nodes that numad advises",
                )
            ],
        ),
        (
            _TWO_CELLS,
            _TWO_CELLS.replace("cpus='0-1' memory='1024'", "cpus='0,2' memory='2048'").replace(
                "value='21'", "value='31'"
            ),
            [
                ("cells", "cell 0 has", "vCPUs 0-1 and 1024 KiB", "vCPUs 0,2 and 2048 KiB"),
                ("distances", "the distances of cell 0 are", "10,21", "10,31"),
            ],
        ),
        (
            _TWO_CELLS,
            _TWO_CELLS.replace(" memAccess='shared'", "").replace("sockets='2'", "sockets='1'"),
            [
                ("cells", "memAccess of cell 1 is", "shared", "not set"),
                (
                    "topology",
                    "its CPU topology is",
                    "2 sockets, 1 core, 2 threads",
                    "1 socket, 1 core, 2 threads",
                ),
            ],
        ),
        (
            "<vcpu>4</vcpu>" + _TWO_CELLS.replace("custom", "host-passthrough"),
            "<vcpu placement='auto'>4</vcpu>",
            [
                ("cells", "it has", "2 cells", "no cells"),
                ("topology", "its CPU topology is", "2 sockets, 1 core, 2 threads", "not set"),
                ("vcpu_placement", "its vCPU placement is", "static", "auto"),
            ],
        ),
        (
            "<cpu><topology sockets='1' dies='2' clusters='3' cores='1' threads='1'/></cpu>",
            "",
            [
                (
                    "topology",
                    "its CPU topology is",
                    "1 socket, 2 dies, 3 clusters, 1 core, 1 thread",
                    "not set",
                )
            ],
        ),
    ],
)
def test_each_difference(first: str, second: str, expected: list[tuple[str, ...]]) -> None:
    """One entry for each, with both sides; alike ones are told of together."""
    found = differences(_state(first), _state(second))
    assert found == [Difference(*one) for one in expected]


def test_cells_that_only_one_has() -> None:
    """The number of cells says it; their bindings and distances are not told one by one."""
    fewer = _TWO_CELLS.replace("<cell id='1' cpus='2-3' memory='1024' memAccess='shared'/>", "")
    fewer = fewer.replace("<sibling id='1' value='21'/>", "")
    one_bound = _BOUND.replace("<memnode cellid='1' mode='preferred' nodeset='1'/>", "")
    found = differences(_state(_TWO_CELLS + _BOUND), _state(fewer + one_bound))
    assert [(one.subject, one.first, one.second) for one in found] == [
        ("it has", "2 cells", "1 cell")
    ]


def test_numbers() -> None:
    """One or many."""
    assert numbered("host node", "host nodes", (3,)) == "host node 3"
    assert numbered("host node", "host nodes", (3, 4, 8)) == "host nodes 3-4,8"


def test_every_managed_element_has_its_words() -> None:
    """The table of words and that of managed elements are about the same fields, each once."""
    assert sorted(WORDS) == sorted(element.field for element in MANAGED)
    assert set(WORDS) == {field.name for field in fields(ManagedState)}


@pytest.mark.parametrize(
    "inner",
    [
        *(_PINS, _TWO_CELLS, "<memory>1</memory>", "<vcpu>2</vcpu>"),
        *("<vcpu placement='auto'>2</vcpu>", _TWO_CELLS + _BOUND, "<cpu mode='maximum'/>"),
    ],
)
def test_no_field_differs_without_a_word(inner: str) -> None:
    """Whatever field two definitions differ in, something is told of it."""
    first, second = _state("<vcpu>1</vcpu>" + _TWO_CELLS), _state(inner)
    for field in fields(ManagedState):
        changed = replace(first, **{field.name: getattr(second, field.name)})
        assert bool(differences(first, changed)) is (changed != first), field.name
