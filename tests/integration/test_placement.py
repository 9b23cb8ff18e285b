# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which mapping of a QEMU process is which cell, held against what QEMU itself says.

The module asks the kernel alone, since a monitor command would taint the guest. Here the monitor is
asked (``gpa2hva``), for every kind of memory that libvirt gives to cells.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from adhoc import SYSTEM_PYTHON

_LOCATE = """
import json, sys
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.numa_maps import local_processes
from ansible_collections.kvm.vnuma.plugins.module_utils._model.cell_placement import CellPlacement
pid, cells, others = json.loads(sys.argv[1])
cells = [CellPlacement(cell, (), kib, bound=tuple(nodes)) for cell, kib, nodes in cells]
found = local_processes(0).address_space(pid).locate(cells, others)
print(json.dumps([None if mapping is None else mapping.start for mapping in found]))
"""
_RAM = "memory-backend-ram"


class Qemu:
    """A QEMU process that waits before its first instruction, with cells of the given memory.

    Args:
        backends: type, size in MiB and more properties of each cell's memory.
        dimms_mib: sizes of its memory devices.
        before: command to start it with.
    """

    def __init__(
        self,
        backends: list[tuple[str, int, str]],
        dimms_mib: tuple[int, ...] = (),
        before: tuple[str, ...] = (),
    ) -> None:
        self.backends = backends
        total = sum(size for _kind, size, _more in backends)
        command = [
            *(*before, "qemu-system-x86_64", "-accel", "tcg", "-S", "-machine", "q35"),
            *("-m", f"size={total}M,slots=4,maxmem=8G", "-smp", str(len(backends))),
            *("-display", "none", "-nodefaults", "-qmp", "stdio"),
        ]
        for cell, (kind, size, more) in enumerate(backends):
            command += ["-object", f"{kind},id=ram-node{cell},size={size}M{more}"]
            command += ["-numa", f"node,nodeid={cell},cpus={cell},memdev=ram-node{cell}"]
        for number, size in enumerate(dimms_mib):
            command += ["-object", f"{_RAM},id=memdimm{number},size={size}M"]
            command += ["-device", f"pc-dimm,memdev=memdimm{number},node=0"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._answer()
        self._ask("qmp_capabilities")

    def addresses(self) -> list[int]:
        """Return where the memory of each cell begins, by QEMU's own account."""
        found, offset, inside = [], 0, 1 << 20
        for _kind, size, _more in self.backends:
            said = self._ask(
                "human-monitor-command", **{"command-line": f"gpa2hva {offset + inside:#x}"}
            )
            address = re.search(r"is (0x[0-9a-f]+)", said)
            assert address, said
            found.append(int(address.group(1), 16) - inside)
            offset += size << 20
        return found

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _ask(self, command: str, **arguments: Any) -> str:
        assert self._process.stdin is not None
        print(
            json.dumps({"execute": command, "arguments": arguments}),
            file=self._process.stdin,
            flush=True,
        )
        return str(json.loads(self._answer())["return"])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"QEMU ended with {self._process.wait()}"
        return line


def _located(
    collections: Path, qemu: Qemu, bound: tuple[int, ...], others: tuple[int, ...]
) -> list[int | None]:
    cells = [(cell, size * 1024, bound) for cell, (_kind, size, _more) in enumerate(qemu.backends)]
    done = subprocess.run(
        [
            *(SYSTEM_PYTHON, "-c", _LOCATE),
            json.dumps([qemu.pid, cells, [size * 1024 for size in others]]),
        ],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(collections)},
    )
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("backends", "keys"),
    [
        pytest.param([(_RAM, 128, "")] * 4, {}, id="equal"),
        pytest.param([(_RAM, 129, "")] * 2 + [(_RAM, 128, "")] * 2, {}, id="unequal"),
        pytest.param([(_RAM, 128, ",host-nodes=0,policy=bind")] * 3, {"bound": (0,)}, id="bound"),
        pytest.param([(_RAM, 128, "")] * 3, {"bound": (7,)}, id="bound-otherwise"),
        pytest.param([(_RAM, 30, "")] * 60, {}, id="many"),
        pytest.param(
            [(_RAM, 64, ",prealloc=on,prealloc-threads=4")] * 4, {}, id="allocated-by-threads"
        ),
        pytest.param([("memory-backend-memfd", 128, ",share=on")] * 3, {}, id="memfd"),
        pytest.param([(_RAM, 128, "")] * 3, {"dimms_mib": (128, 64)}, id="dimm-of-that-size"),
        pytest.param([(_RAM, 128, "")] * 4, {"before": ("setarch", "-L")}, id="legacy-addresses"),
    ],
)
def test_each_cell_is_where_qemu_says(
    collections: Path, backends: list[tuple[str, int, str]], keys: dict[str, Any]
) -> None:
    """All of them, each at the address that QEMU gives for it."""
    bound = keys.pop("bound", ())
    qemu = Qemu(backends, **keys)
    try:
        found = _located(collections, qemu, bound, keys.get("dimms_mib", ()))
        assert found == qemu.addresses()
    finally:
        qemu.end()


def test_files_of_cells(collections: Path, tmp_path: Path) -> None:
    """Named as libvirt names them, in whatever order."""
    for cell in (0, 1):
        (tmp_path / f"ram-node{cell}").touch()
    backends = [
        ("memory-backend-file", 32, f",share=on,mem-path={tmp_path}/ram-node{cell}")
        for cell in (1, 0)
    ]
    qemu = Qemu(backends)
    try:
        found = _located(collections, qemu, (), ())
        assert found == qemu.addresses()[::-1]
    finally:
        qemu.end()


def test_more_memory_of_that_size_than_is_known(collections: Path) -> None:
    """Then nothing is guessed."""
    qemu = Qemu([(_RAM, 128, "")] * 3, dimms_mib=(128,))
    try:
        assert _located(collections, qemu, (), ()) == [None, None, None]
    finally:
        qemu.end()
