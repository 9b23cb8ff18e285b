# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a running guest is, and what is astray; the kernel's answers are made up here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, cast

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.numa_maps import (
    MemoryMapping,
    NumaMapsError,
    Processes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.cell_placement import CellPlacement
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.location import (
    locate_guest,
    location_to_result,
)

_XML = (
    "<domain><memory>4096</memory><vcpu>4</vcpu>"
    "<cputune><vcpupin vcpu='0' cpuset='0-3'/><vcpupin vcpu='1' cpuset='0-3'/>"
    "<vcpupin vcpu='2' cpuset='4-7'/></cputune>"
    "<numatune><memnode cellid='0' mode='strict' nodeset='0'/>"
    "<memnode cellid='1' mode='preferred' nodeset='1'/></numatune>"
    "<cpu><numa><cell id='0' cpus='0-1' memory='2048'/><cell id='1' cpus='2-3' memory='2048'/>"
    "</numa></cpu>"
    "<devices><memory model='dimm'><target><size unit='MiB'>1</size></target></memory></devices>"
    "</domain>"
)
_AS_PINNED = {0: (0, 1, 2, 3), 1: (0, 1, 2, 3), 2: (4, 5, 6, 7), 3: tuple(range(16))}


@dataclass
class FakeHypervisor:
    """Answers for the threads."""

    answer: dict[int, tuple[int, ...]] | None
    uri: str = "qemu+ssh://kvm7/system"

    def affinities(self, _domain: Domain) -> dict[int, tuple[int, ...]] | None:
        """The affinities."""
        return self.answer


@dataclass
class FakeProcesses:
    """One process, with memory as told."""

    pages: Sequence[dict[int, int] | None] = ()
    pid: int | None = 77
    error: str = ""
    asked: list[Any] = field(default_factory=list)

    def find(self, name: str, uuid: str) -> int | None:
        """The pid."""
        self.asked.append((name, uuid))
        return self.pid

    def address_space(self, pid: int) -> FakeProcesses:
        """This very object."""
        assert pid == self.pid
        if self.error:
            raise NumaMapsError(self.error)
        return self

    def locate(
        self, cells: Sequence[CellPlacement], others_kib: Sequence[int]
    ) -> list[MemoryMapping | None]:
        """The mappings."""
        self.asked.append((list(cells), list(others_kib)))
        return [
            None if pages is None else MemoryMapping(0, 2048, kib_by_node=pages)
            for pages in self.pages
        ]


Place = Callable[..., Any]


@pytest.fixture
def placed(host: Callable[[str], Host]) -> Place:
    """Place the guest above on a host of 4 nodes with 4 pCPUs each."""

    def call(
        processes: FakeProcesses | None = None,
        affinities: dict[int, tuple[int, ...]] | None = None,
        with_memory: bool = True,
        xml: str = _XML,
    ) -> Any:
        return locate_guest(
            Domain("anuma", "uuid-anuma", True, True),
            read_definition(xml),
            host("asymmetric-4n16c"),
            cast(Hypervisor, FakeHypervisor(_AS_PINNED if affinities is None else affinities)),
            cast(Optional[Processes], processes),
            with_memory,
        )

    return call


def test_all_in_place(placed: Place) -> None:
    """Nothing is said; the shares are whole."""
    processes = FakeProcesses([{0: 512}, {1: 100}])
    placement = placed(processes)
    assert placement.drift == []
    assert placement.notes == []
    assert processes.asked == [
        ("anuma", "uuid-anuma"),
        (
            [
                CellPlacement(0, (0, 1), 2048, "strict", (0,), (0,), (0,)),
                CellPlacement(1, (2, 3), 2048, "preferred", (1,), (1,)),
            ],
            [1024],
        ),
    ]
    assert location_to_result(placement) == {
        "pid": 77,
        "vcpus": {"0": "0-3", "1": "0-3", "2": "4-7", "3": "0-15"},
        "cells": [
            {
                "id": 0,
                "nodes": "0",
                "kib_by_node": {"0": 512},
                "resident_kib": 512,
                "local_share": 1.0,
            },
            {
                "id": 1,
                "nodes": "1",
                "kib_by_node": {"1": 100},
                "resident_kib": 100,
                "local_share": 1.0,
            },
        ],
    }


def test_stray_threads(placed: Place) -> None:
    """Threads elsewhere are told of, alike ones together; an unpinned vCPU is free."""
    placement = placed(
        FakeProcesses([{0: 4}, {1: 4}]), {0: (8, 9), 1: (8, 9), 2: (4, 5, 6), 3: (1,)}
    )
    assert [(one.between, one.what, one.message) for one in placement.drift] == [
        (
            "live-actual",
            "vcpu_pins",
            "vCPUs 0-1 run on 8-9 and are pinned to 0-3, so something other than libvirt moved "
            "them; pin again with 'virsh vcpupin --live'.",
        ),
        (
            "live-actual",
            "vcpu_pins",
            "vCPU 2 runs on 4-6 and is pinned to 4-7, so something other than libvirt moved it; "
            "pin again with 'virsh vcpupin --live'.",
        ),
    ]


def test_pins_to_offline_pcpus(placed: Place) -> None:
    """The kernel leaves offline pCPUs out, so a pin that names them is no drift."""
    xml = _XML.replace("cpuset='4-7'", "cpuset='4-7,99'")
    assert placed(FakeProcesses([{0: 4}, {1: 4}]), xml=xml).drift == []


def test_offline_vcpus_have_no_thread(placed: Place) -> None:
    """A vCPU that is not plugged is not missed."""
    placement = placed(FakeProcesses([{0: 4}, {1: 4}]), {0: (0, 1, 2, 3)})
    assert placement.drift == []
    assert location_to_result(placement)["vcpus"] == {"0": "0-3"}


def test_stray_memory(placed: Place) -> None:
    """Pages on other nodes than the cell is bound to, in any mode."""
    placement = placed(FakeProcesses([{0: 300, 2: 99, 3: 1}, {0: 8}]))
    assert [one.message for one in placement.drift] == [
        "cell 0 has 100 of its 400 KiB on host nodes 2-3 and is bound strict to host node 0; check "
        "that there is free memory, then shut the guest down and start it.",
        "cell 1 has 8 of its 8 KiB on host node 0 and is bound preferred to host node 1; check "
        "that there is free memory, then shut the guest down and start it.",
    ]
    shares = [cell["local_share"] for cell in location_to_result(placement)["cells"]]
    assert shares == [0.75, 0.0]


def test_memory_that_is_not_bound(placed: Place) -> None:
    """Without a binding nothing is astray, and the share by the pins says how local it is."""
    xml = _XML.replace("numatune", "description").replace(
        "<cputune>", "<cputune><vcpupin vcpu='3' cpuset='8'/>"
    )
    affinities = {**_AS_PINNED, 3: (8,)}
    placement = placed(FakeProcesses([{0: 2, 1: 1}, {}]), affinities, xml=xml)
    assert placement.drift == []
    first, second = location_to_result(placement)["cells"]
    # Two thirds, rounded down: only every page gives 1.
    assert (first["nodes"], first["local_share"]) == ("0", 0.6666)
    assert (second["nodes"], second["resident_kib"], second["local_share"]) == ("1-2", 0, None)


def test_cells_that_cannot_be_told(placed: Place) -> None:
    """They are null, with a note; the others are there."""
    placement = placed(FakeProcesses([None, {1: 4}]))
    first, second = location_to_result(placement)["cells"]
    assert first["kib_by_node"] is first["resident_kib"] is first["local_share"] is None
    assert second["local_share"] == 1.0
    assert placement.notes == [
        "its memory by host node is not available for cell 0: it cannot be distinguished from the "
        "other memory of its QEMU process."
    ]


@pytest.mark.parametrize(
    ("processes", "note"),
    [
        (
            None,
            "its memory by host node is not available over qemu+ssh://kvm7/system; run the module "
            "on the hypervisor host itself.",
        ),
        (
            FakeProcesses(pid=None),
            "its memory by host node is not available: its QEMU process is not on the machine that "
            "runs the module.",
        ),
        (
            FakeProcesses(error="this user may not read /proc/77/maps; use become."),
            "its memory by host node is not available: this user may not read /proc/77/maps; use "
            "become.",
        ),
    ],
)
def test_why_not(placed: Place, processes: FakeProcesses | None, note: str) -> None:
    """The memory is null and a sentence says why; the threads are there all the same."""
    placement = placed(processes)
    assert placement.notes == [note]
    result = location_to_result(placement)
    assert result["cells"] is None
    assert result["vcpus"]["2"] == "4-7"


def test_without_memory(placed: Place) -> None:
    """It is not looked for, and nobody is told that it is missing."""
    processes = FakeProcesses(error="must not be asked")
    placement = placed(processes, with_memory=False)
    assert placement.notes == []
    assert location_to_result(placement)["cells"] is None


def test_a_driver_that_does_not_tell(host: Callable[[str], Host]) -> None:
    """Threads are null with a note."""
    placement = locate_guest(
        Domain("anuma", "uuid-anuma", True, True),
        read_definition(_XML),
        host("asymmetric-4n16c"),
        cast(Hypervisor, FakeHypervisor(None)),
        cast(Processes, FakeProcesses([{0: 4}, {1: 4}])),
        with_memory=True,
    )
    assert location_to_result(placement)["vcpus"] is None
    assert placement.notes == [
        "the affinity of its vCPUs is not available: libvirt's driver does not report it."
    ]
