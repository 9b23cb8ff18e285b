# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of QEMU processes, recorded from real ones (libraries left out).

``kvm-3-cells`` is a guest of 3 x 120 MiB, bound strict to three nodes, on Linux 6.1 with KVM; in
``kvm-3-cells-moved`` migratepages(8) has moved what was on node 1; ``kvm-no-cells`` is a guest of
360 MiB without NUMA. ``hugepages`` and ``memfd-hugepages`` have 2 x 16 MiB in pages of 2 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.numa_maps import (
    AddressSpace,
    MemoryMapping,
    NumaMapsError,
    Processes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.cell_placement import CellPlacement

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures" / "placement"
MIB = 1024
UUID = "1ee311e5-cc07-43d4-9a57-525f461e6ee8"


def _cell(cell: int | None, memory_kib: int, bound: tuple[int, ...] = ()) -> CellPlacement:
    return CellPlacement(cell, (), memory_kib, bound=bound)


def _recorded(name: str) -> AddressSpace:
    return AddressSpace(
        (FIXTURES / f"{name}.maps").read_text(), (FIXTURES / f"{name}.numa_maps").read_text()
    )


def _kib(mappings: list[MemoryMapping | None]) -> list[dict[int, int] | None]:
    return [None if mapping is None else mapping.kib_by_node for mapping in mappings]


def _three(*nodes: tuple[int, ...]) -> list[CellPlacement]:
    return [_cell(cell, 120 * MIB, nodes[cell]) for cell in range(3)]


def test_bound_cells() -> None:
    """Each cell is found by the node it is bound to, and all of it is there."""
    found = _recorded("kvm-3-cells").locate(_three((0,), (1,), (2,)))
    assert _kib(found) == [{0: 100352}, {1: 83968}, {2: 110592}]


def test_bound_cells_in_another_order() -> None:
    """The binding counts for more than the order of addresses."""
    found = _recorded("kvm-3-cells").locate(_three((2,), (0,), (1,)))
    assert _kib(found) == [{2: 110592}, {0: 100352}, {1: 83968}]


def test_moved_pages() -> None:
    """Pages that someone moved are found where they are now."""
    found = _recorded("kvm-3-cells-moved").locate(_three((0,), (1,), (2,)))
    assert _kib(found) == [{0: 100352}, {0: 83968}, {2: 110592}]


@pytest.mark.parametrize("nodes", [((), (), ()), ((7,), (8,), (9,)), ((5,), (5,), (5,))])
def test_cells_of_one_size_by_order(nodes: tuple[tuple[int, ...], ...]) -> None:
    """Where bindings do not tell, QEMU's order does: the first cell has the highest address."""
    found = _recorded("kvm-3-cells").locate(_three(*nodes))
    assert _kib(found) == [{0: 100352}, {1: 83968}, {2: 110592}]


def test_one_mapping_too_many() -> None:
    """Two cells, three mappings of their size: which is which cannot be told."""
    cells = [_cell(0, 120 * MIB), _cell(1, 120 * MIB)]
    assert _recorded("kvm-3-cells").locate(cells) == [None, None]


def test_a_memory_device_of_the_same_size() -> None:
    """QEMU makes memory devices after the cells, so their addresses are lower."""
    cells = [_cell(0, 120 * MIB), _cell(1, 120 * MIB)]
    found = _recorded("kvm-3-cells").locate(cells, [120 * MIB])
    assert _kib(found) == [{0: 100352}, {1: 83968}]


def test_no_mapping_of_that_size() -> None:
    """A cell that is not there is not found, the others are."""
    cells = [
        _cell(0, 120 * MIB, (0,)),
        _cell(1, 77 * MIB),
        _cell(2, 120 * MIB, (2,)),
    ]
    assert _kib(_recorded("kvm-3-cells").locate(cells)) == [{0: 100352}, None, {2: 110592}]


def test_a_guest_without_cells() -> None:
    """All of its memory is one mapping, scattered over the nodes."""
    found = _recorded("kvm-no-cells").locate([_cell(None, 360 * MIB)])
    assert _kib(found) == [{0: 26624, 1: 28672, 2: 118784}]


def test_files_in_hugepages() -> None:
    """Files have the cell in their name; a page counts with its own size."""
    cells = [_cell(0, 16 * MIB), _cell(1, 16 * MIB)]
    found = _recorded("hugepages").locate(cells)
    assert [mapping is not None and mapping.named for mapping in found] == [(0,), (1,)]
    assert _kib(found) == [{0: 16384}, {0: 16384}]


def test_anonymous_files() -> None:
    """A memfd has the same name for every cell, so the order tells."""
    cells = [_cell(0, 16 * MIB), _cell(1, 16 * MIB)]
    first, second = _recorded("memfd-hugepages").locate(cells)
    assert first is not None
    assert second is not None
    assert first.start > second.start
    assert first.kib_by_node == {0: 16384}


def _space(*lines: tuple[str, str, str], heap: int = 0x1000) -> AddressSpace:
    """Return a made-up address space: 1 MiB at each address, with its access and policy."""
    maps = [f"{heap:x}-{heap + 4096:x} rw-p 00000000 00:00 0    [heap]"]
    numa = [f"{heap:x} default heap anon=1 N0=1 kernelpagesize_kB=4"]
    for address, access, policy in lines:
        end = int(address, 16) + (1 << 20)
        maps.append(f"{address}-{end:x} {access} 00000000 00:00 0")
        numa.append(f"{address} {policy}")
    return AddressSpace("\n".join(maps), "\n".join(numa))


def test_legacy_layout() -> None:
    """With addresses handed out upwards, below the heap, the first cell has the lowest."""
    space = _space(
        ("2a000000", "rw-p", "default anon=1 N3=1 kernelpagesize_kB=4"),
        ("2b000000", "rw-p", "default anon=1 N4=1 kernelpagesize_kB=4"),
        heap=0x55000000,
    )
    found = space.locate([_cell(0, MIB), _cell(1, MIB)])
    assert _kib(found) == [{3: 4}, {4: 4}]


@pytest.mark.parametrize(
    ("policy", "nodes"),
    [
        ("default", ()),
        ("local", ()),
        ("bind:3", (3,)),
        ("bind=static:3,5-6", (3, 5, 6)),
        ("prefer:2", (2,)),
        ("prefer (many):0-1", (0, 1)),
        ("interleave:0-7", tuple(range(8))),
        ("weighted interleave:0,2", (0, 2)),
        ("default file=/tmp/bind:3", ()),
    ],
)
def test_policies(policy: str, nodes: tuple[int, ...]) -> None:
    """Every policy that the kernel prints is understood, and no file name is taken for one."""
    space = _space(("7f0000000000", "rw-p", f"{policy} anon=2 dirty=2 N1=2 kernelpagesize_kB=64"))
    (found,) = space.locate([_cell(None, MIB)])
    assert found is not None
    assert found.nodes == nodes
    assert found.kib_by_node == {1: 128}


def test_reserved_addresses_are_no_memory() -> None:
    """A mapping that nobody may write to is not guest memory."""
    space = _space(("7f0000000000", "---p", "default"), ("7e0000000000", "rw-p", "default"))
    (found,) = space.locate([_cell(0, MIB)])
    assert found is not None
    assert found.start == 0x7E0000000000
    assert found.kib_by_node == {}


def test_names_of_ten_cells_and_more() -> None:
    """ram-node1 is not ram-node10."""
    space = _space(
        *(
            (
                f"7f{9 - cell % 5}{cell:x}00000000",
                "rw-s",
                f"default file=/q/1-g/ram-node{cell} N{cell}=1",
            )
            for cell in range(12)
        )
    )
    found = space.locate([_cell(cell, MIB) for cell in range(12)])
    assert _kib(found) == [{cell: 4} for cell in range(12)]


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., None]:
    """Put a process into a made-up /proc."""

    def put(pid: int, comm: str, *words: str, **files: str) -> None:
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{comm}\n")
        (folder / "cmdline").write_text("".join(f"{word}\0" for word in words))
        for name, text in files.items():
            (folder / name).write_text(text)

    return put


def _processes(tmp_path: Path) -> Processes:
    (tmp_path / "proc" / "meminfo").touch()
    return Processes(tmp_path / "proc", [tmp_path / "absent", tmp_path / "run"])


def _note(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "anuma.pid").write_text(text)


def test_pid_by_libvirts_note(proc: Callable[..., None], tmp_path: Path) -> None:
    """The note is believed if the process has the UUID, whatever it is called."""
    proc(7, "my-emulator", "qemu", "-name", "guest=anuma", "-uuid", UUID, "-S")
    _note(tmp_path, "7")
    assert _processes(tmp_path).find("anuma", UUID) == 7


@pytest.mark.parametrize("note", ["8", "99", "", "x"])
def test_pid_by_looking(proc: Callable[..., None], tmp_path: Path, note: str) -> None:
    """A note of another process, of none, or nonsense: the right one is looked for."""
    proc(7, "qemu-system-x86", "qemu", "-uuid", UUID)
    proc(8, "bash", "bash", "-uuid", "other")
    proc(9, "qemu-kvm", "qemu", "-uuid")
    _note(tmp_path, note)
    processes = _processes(tmp_path)
    assert processes.find("anuma", UUID) == 7
    assert processes.find("other", "2" * 36) is None


def test_what_cannot_be_read(proc: Callable[..., None], tmp_path: Path) -> None:
    """A process that has ended, or a kernel without NUMA, is said in a sentence."""
    proc(7, "qemu-system-x86", maps="")
    processes = _processes(tmp_path)
    with pytest.raises(NumaMapsError, match=r"/proc/7/numa_maps cannot be read: No such file"):
        processes.address_space(7)
    (tmp_path / "proc/7/numa_maps").write_text("")
    assert processes.address_space(7).locate([_cell(0, MIB)]) == [None]


def test_without_permission(
    proc: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may look into another user's process; root itself cannot be refused."""
    proc(7, "qemu-system-x86", maps="", numa_maps="")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NumaMapsError, match=r"this user may not read /proc/7/maps; use become"):
        _processes(tmp_path).address_space(7)
