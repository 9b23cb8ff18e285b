# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dies and sockets in the guest's own kernel: which CPUs share a cache, a die and a socket."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adhoc import Run
from booted import boot
from conftest import Libvirt
from fakehost import FakeHost
from guests import anuma

pytestmark = pytest.mark.slow

Call = Callable[..., Run]

#: Of three sockets with two nodes each: one L3 cache a node, two, and four beside two.
_HOST = {
    "name": "caches",
    "nodes": [
        {"id": 0, "cpus": "0-15", "package": 0, "memory_kib": 16777216},
        {"id": 1, "cpus": "16-31", "package": 0, "memory_kib": 16777216},
        {"id": 2, "cpus": "32-39", "package": 1, "memory_kib": 8388608},
        {"id": 3, "cpus": "40-47", "package": 1, "memory_kib": 8388608},
        {"id": 4, "cpus": "48-63", "package": 2, "memory_kib": 16777216},
        {"id": 5, "cpus": "64-71", "package": 2, "memory_kib": 8388608},
    ],
    "threads": 2,
    "siblings": "adjacent",
    "l3": [
        *("0-15", "16-31", "32-35", "36-39", "40-43", "44-47"),
        *("48-51", "52-55", "56-59", "60-63", "64-67", "68-71"),
    ],
}
_MODEL = "Skylake-Server"
_DIES = {"dies": "host", "pinning": "core"}


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    """A host with several L3 caches a node, and several nodes a socket."""
    spec = tmp_path_factory.mktemp("caches") / "caches.json"
    spec.write_text(json.dumps(_HOST))
    host = FakeHost(f"caches-{os.getpid()}", spec, shim=True)
    host.start()
    yield Libvirt(host)
    host.stop()
    shutil.rmtree(host.root, ignore_errors=True)


@pytest.mark.needs_qemu_before("9.1", "an emulated guest with dies")
@pytest.mark.parametrize(
    ("vcpus", "options", "topology", "cells", "l3"),
    [
        # One domain a node: a die is a cell.
        (8, {"nodes": "0-1"}, (1, 2, 2, 2), ["0-3", "4-7"], ["0-3", "4-7"]),
        # Two domains a node.
        (
            8,
            {"nodes": "2-3", "threads": 1},
            (1, 4, 2, 1),
            ["0-3", "4-7"],
            ["0-1", "2-3", "4-5", "6-7"],
        ),
        # Four domains beside two, and cells in proportion: one is twice as large.
        (
            6,
            {"nodes": "4-5", "split": "proportional", "threads": 1},
            (1, 3, 2, 1),
            ["0-3", "4-5"],
            ["0-1", "2-3", "4-5"],
        ),
    ],
    ids=["one domain", "two domains", "four domains, unequal cells"],
)
def test_dies_are_what_shares_a_cache(
    caches: Libvirt,
    call: Call,
    tmp_path: Path,
    vcpus: int,
    options: dict[str, Any],
    topology: tuple[int, int, int, int],
    cells: list[str],
    l3: list[str],
) -> None:
    """L3 caches, dies, sockets and SMT siblings inside are those planned; no complaint."""
    asked = {**_DIES, "sockets": "auto", **options}
    report, layout = boot(caches, call, tmp_path, vcpus, asked, _MODEL)
    parts = ("sockets", "dies", "cores", "threads")
    assert tuple(layout["topology"][part] for part in parts) == topology
    assert layout["warnings"] == []
    assert [cell["vcpus"] for cell in layout["cells"]] == cells
    assert [node.cpus for node in report.nodes.values()] == cells
    _sockets, dies, cores, threads = topology
    assert sorted(set(report.l3.values()), key=lambda one: int(one.split("-")[0])) == l3
    for cpu in range(vcpus):
        die = cpu // (cores * threads)
        assert (report.packages[cpu], report.dies[cpu]) == divmod(die, dies)
        assert report.l3[cpu] == l3[die]
        core = cpu // threads * threads
        assert report.siblings[cpu] == (str(core) if threads == 1 else f"{core}-{core + 1}")
    assert report.complaints == ()
    assert report.log_lines > 100


def test_without_dies_a_socket_has_one_cache(caches: Libvirt, call: Call, tmp_path: Path) -> None:
    """The measure can fail: what is told by dies is not there without them."""
    options = {"nodes": "2-3", "threads": 1, "pinning": "core"}
    report, layout = boot(caches, call, tmp_path, 4, options, _MODEL)
    assert layout["topology"] == {"sockets": 1, "dies": 1, "cores": 4, "threads": 1}
    assert set(report.l3.values()) == {"0-3"}
    assert set(report.dies.values()) == {0}
    assert set(report.packages.values()) == {0}
    assert [node.cpus for node in report.nodes.values()] == ["0-1", "2-3"]
    assert report.complaints == ()


def test_who_complains_of_shared_sockets_gets_one_for_each_cell(
    caches: Libvirt, call: Call, tmp_path: Path
) -> None:
    """A model that Linux complains with in a shared socket is not given one, unless asked for."""
    options = {"nodes": "2-3", "threads": 1, "pinning": "core"}
    report, layout = boot(caches, call, tmp_path, 4, options, "EPYC")
    assert layout["topology"]["sockets"] == 2
    assert report.complaints == ()
    report, layout = boot(caches, call, tmp_path, 4, {**options, "sockets": 1}, "EPYC")
    assert layout["topology"]["sockets"] == 1
    assert any("llc-sibling" in line for line in report.complaints)


_WINDOWS = (
    "<metadata><libosinfo:libosinfo "
    "xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
    "<libosinfo:os id='http://microsoft.com/win/11'/></libosinfo:libosinfo></metadata>"
)


@pytest.mark.needs_libvirt("7.1", "CPU mode maximum")
def test_a_windows_client_on_eight_cells(lab: Callable[..., Libvirt], call: Call) -> None:
    """It uses two sockets: a warning says so, and the way out leads to two that start."""
    libvirt = lab("rfc-8n240c", shim=True)
    libvirt.clear()
    windows = anuma("client", 18, 4 << 20, kind="qemu", cpu="<cpu mode='maximum' check='none'/>")
    libvirt.define(windows.replace("<memory", f"{_WINDOWS}<memory", 1))
    asked = {"uri": libvirt.uri, "guests": [{"name": "client"}]}
    run = call("vnuma_partition", asked)
    (guest,) = run.result["guests"]
    assert guest["layout"]["topology"]["sockets"] == 9
    (warning,) = (line for line in guest["warnings"] if "Windows" in line)
    assert "Windows 11" in warning
    assert "it has 9" in warning
    assert "set sockets to 2" in warning
    run = call("vnuma_partition", {**asked, "nodes": "0-1", "sockets": 2})
    (guest,) = run.result["guests"]
    assert guest["layout"]["topology"] == {"sockets": 2, "dies": 1, "cores": 9, "threads": 1}
    assert [cell["vcpus"] for cell in guest["layout"]["cells"]] == ["0-8", "9-17"]
    assert guest["warnings"] == []
    libvirt.virsh("start", "--paused", "client")
    assert "sockets='2'" in libvirt.dump("client", live=True)
    libvirt.clear()


def test_an_upgrade_asks_nobody_for_a_restart(caches: Libvirt, call: Call) -> None:
    """A guest that has a socket for each cell keeps them with the default; a new one shares."""
    caches.clear()
    cpu = f"<cpu mode='custom' match='exact' check='none'><model>{_MODEL}</model></cpu>"
    for name in ("old", "new"):
        caches.define(anuma(name, 8, 4 << 20, kind="qemu", cpu=cpu))
    before = {"uri": caches.uri, "guests": [{"name": "old"}], "nodes": "0-1"}
    run = call("vnuma_partition", {**before, "sockets": "cells"})
    assert run.result["guests"][0]["layout"]["topology"]["sockets"] == 2
    caches.virsh("start", "--paused", "old")
    run = call("vnuma_partition", before)
    assert run.result["guests"][0]["layout"]["topology"]["sockets"] == 2
    assert run.result["restart_required"] == []
    assert not call("vnuma_partition", before).result["changed"]
    run = call("vnuma_partition", {**before, "guests": [{"name": "new"}]})
    assert run.result["guests"][0]["layout"]["topology"]["sockets"] == 1
    caches.clear()
