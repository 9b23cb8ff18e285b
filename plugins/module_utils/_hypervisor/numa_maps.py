# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the memory of a running guest really lies, by what the kernel says of its QEMU process.

Knows /proc of the machine it runs on, neither libvirt nor definitions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .._cpuset import parse_cpuset
from .._errors import VnumaError
from .._model.cell_placement import CellPlacement

#: Where libvirt notes the pid of a guest's process, by the guest's name: the system's daemon, and
#: a user's own (virPidFileBuildPath and its callers, src/qemu/qemu_process.c and qemu_conf.c).
_PID_FOLDERS = ("/run/libvirt/qemu", "/run/user/{uid}/libvirt/qemu/run")
# bind:0, prefer:3, prefer (many):0-1, interleave=static:0-7 (mpol_to_str, mm/mempolicy.c)
_POLICY = re.compile(
    r"[0-9a-f]+ (?:bind|prefer(?: \(many\))?|(?:weighted )?interleave)(?:=[a-z|]+)?:([0-9,-]+)"
)
# File names have blanks and equal signs escaped (seq_path), so none of these matches inside one.
_PAGES = re.compile(r" N(\d+)=(\d+)")
_PAGE = re.compile(r" kernelpagesize_kB=(\d+)")
_NAME = "ram-node"
# libvirt names a cell's file itself, ``ram-node0``, or leaves it to QEMU in a folder of hugepages:
# ``qemu_back_mem._objects_ram-node0.AbCdEf``, or ``qemu_back_mem.ram-node0.AbCdEf``
# (file_ram_alloc, softmmu/physmem.c).
_CELL_FILE = re.compile(rf" file=\S*[/_.]{_NAME}(\d+)(?=[. \\]|$)")
#: How processes that run guests are called: qemu-system-*, qemu-kvm, kvm, or qemu:NAME.
_PROGRAMS = ("qemu", "kvm")


class NumaMapsError(VnumaError):
    """What the kernel knows of a guest cannot be read here; the sentence says why."""


@dataclass(frozen=True)
class MemoryMapping:
    """A piece of a process's address space.

    Attributes:
        start: its address.
        size_kib: its size in KiB.
        nodes: host nodes that its memory policy names; empty where it names none.
        named: cells that the name of its file is about; empty for ordinary memory.
        kib_by_node: KiB that are there now, by host node.
    """

    start: int
    size_kib: int
    nodes: tuple[int, ...] = ()
    named: tuple[int, ...] = ()
    kib_by_node: dict[int, int] = field(default_factory=dict)


class AddressSpace:
    """The mappings of a QEMU process that may be guest memory.

    Args:
        maps: text of ``/proc/PID/maps``: addresses and sizes.
        numa_maps: text of ``/proc/PID/numa_maps``: policies and pages by node (proc(5)).
    """

    def __init__(self, maps: str, numa_maps: str) -> None:
        self._sizes_kib: dict[str, int] = {}
        self._heap = 0
        for line in maps.splitlines():
            span, access = line.split(maxsplit=2)[:2]
            start, _dash, end = span.partition("-")
            if line.endswith("[heap]"):
                self._heap = int(start, 16)
            if access.startswith("rw"):
                self._sizes_kib[start] = (int(end, 16) - int(start, 16)) // 1024
        self._numa_maps = numa_maps.splitlines()

    def locate(
        self, cells: Sequence[CellPlacement], others_kib: Iterable[int] = ()
    ) -> list[MemoryMapping | None]:
        """Return the mapping of each cell, None for one that cannot be told.

        QEMU maps the memory of each cell on its own, in one piece of exactly its size. It is found
        by the name of its file, where it has one that says which cell it is for; else by its size
        and by the nodes that it is bound to; else by its size and by the order of addresses: QEMU
        makes the cells in order (object_option_foreach_add, softmmu/vl.c), and Linux hands out
        addresses downwards, or upwards with the legacy layout, which lies below the heap.

        Args:
            cells: by id.
            others_kib: sizes of the guest's memory devices, which QEMU makes after the cells.
        """
        sizes_kib = {cell.memory_kib for cell in cells}
        mappings = self._candidates(sizes_kib)
        found: dict[int | None, MemoryMapping] = {}
        for cell in cells:
            named = [mapping for mapping in mappings if cell.cell in mapping.named]
            if len(named) == 1:
                found[cell.cell] = named[0]
        others = Counter(others_kib)
        for size_kib in sizes_kib:
            group = [one for one in cells if one.memory_kib == size_kib and one.cell not in found]
            fitting = [
                mapping
                for mapping in mappings
                if mapping.size_kib == size_kib and mapping not in found.values()
            ]
            found.update(_matched(group, fitting, others[size_kib]))
        return [found.get(cell.cell) for cell in cells]

    def _candidates(self, sizes_kib: set[int]) -> list[MemoryMapping]:
        """Return what may be a cell, in the order of its making."""
        mappings = []
        for line in self._numa_maps:
            start = line.partition(" ")[0]
            size_kib = self._sizes_kib.get(start)
            if size_kib is not None and (size_kib in sizes_kib or _NAME in line):
                mappings.append(_mapping(line, size_kib))
        return sorted(mappings, key=lambda m: m.start if m.start < self._heap else -m.start)


class Processes:
    """The QEMU processes of this machine.

    Args:
        proc: where the kernel shows processes.
        pid_folders: where libvirt may have noted their pids.
    """

    def __init__(self, proc: Path, pid_folders: Iterable[Path]) -> None:
        self._proc = proc
        self._pid_folders = tuple(pid_folders)
        self._scanned: dict[str, int] | None = None

    def find(self, name: str, uuid: str) -> int | None:
        """Return the pid of a guest's process, None where it is not on this machine.

        libvirt's own note is tried first, since looking through every process takes a while on a
        big host. Either way it counts only if the process was started with the guest's UUID.
        """
        for folder in self._pid_folders:
            with suppress(OSError, ValueError):
                pid = int((folder / f"{name}.pid").read_text(encoding="ascii"))
                if self._uuid(pid) == uuid:
                    return pid
        if self._scanned is None:
            self._scanned = {self._uuid(pid): pid for pid in self._candidates()}
        return self._scanned.get(uuid)

    def address_space(self, pid: int) -> AddressSpace:
        """Return what is mapped where.

        Raises:
            NumaMapsError: when the kernel does not show it.
        """
        texts = []
        for name in ("maps", "numa_maps"):
            try:
                texts.append((self._proc / str(pid) / name).read_text("utf-8", "replace"))
            except PermissionError:
                raise NumaMapsError(
                    f"this user may not read /proc/{pid}/{name}; use become."
                ) from None
            except OSError as error:
                raise NumaMapsError(
                    f"/proc/{pid}/{name} cannot be read: {error.strerror}; the guest has ended, or "
                    "the host's kernel was built without NUMA."
                ) from None
        return AddressSpace(*texts)

    def _candidates(self) -> list[int]:
        pids = []
        for folder in self._proc.iterdir():
            # Only the name of each is read: a command line can keep its reader waiting.
            with suppress(OSError, ValueError):
                pid = int(folder.name)
                if (folder / "comm").read_bytes().decode("utf-8", "replace").startswith(_PROGRAMS):
                    pids.append(pid)
        return pids

    def _uuid(self, pid: int) -> str:
        words: list[bytes] = []
        with suppress(OSError):
            words = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        with suppress(ValueError, IndexError):
            return words[words.index(b"-uuid") + 1].decode("ascii", "replace")
        return ""


def local_processes(uid: int) -> Processes:
    """Return the processes of the machine that this runs on, for a user's or root's guests."""
    folders = (Path(folder.format(uid=uid)) for folder in _PID_FOLDERS)
    return Processes(Path("/proc"), folders)


def _mapping(line: str, size_kib: int) -> MemoryMapping:
    """Read a line such as ``7f9e93e00000 bind:0 anon=3 dirty=3 N0=3 kernelpagesize_kB=4``."""
    policy = _POLICY.match(line)
    page = _PAGE.search(line)
    page_kib = int(page.group(1)) if page else 4
    return MemoryMapping(
        start=int(line.partition(" ")[0], 16),
        size_kib=size_kib,
        nodes=parse_cpuset(policy.group(1)) if policy else (),
        named=tuple(int(cell) for cell in _CELL_FILE.findall(line)),
        kib_by_node={int(node): int(pages) * page_kib for node, pages in _PAGES.findall(line)},
    )


def _matched(
    cells: Sequence[CellPlacement], mappings: list[MemoryMapping], others: int
) -> dict[int | None, MemoryMapping]:
    """Match cells of one size to mappings of that size, which are in the order of their making."""
    found: dict[int | None, MemoryMapping] = {}
    rest = list(mappings)
    waiting: list[CellPlacement] = []
    for nodes in sorted({cell.bound for cell in cells}):
        group = [cell for cell in cells if cell.bound == nodes]
        bound = [mapping for mapping in rest if nodes and mapping.nodes == nodes]
        if len(bound) == len(group):
            found.update(zip((cell.cell for cell in group), bound))
            rest = [mapping for mapping in rest if mapping not in bound]
        else:
            waiting.extend(group)
    # One mapping too many or too few, and the order says nothing.
    if len(rest) == len(waiting) + others:
        waiting.sort(key=lambda cell: -1 if cell.cell is None else cell.cell)
        found.update(zip((cell.cell for cell in waiting), rest))
    return found
