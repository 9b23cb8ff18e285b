# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say where a running guest's vCPUs may run and where its memory lies, by the host's kernel.

    python3 placement.py GUEST

Runs on the host itself, as root, with nothing but the standard library and virsh, and shares no
code with the collection: it is what the collection's own answers are held against. Prints JSON:

    vcpus   by vCPU: the pCPUs that its thread may run on, as /proc/PID/task/TID/status has them
    cells   by cell: KiB of its memory by host node, as /proc/PID/numa_maps has them

QEMU itself says where a cell begins in its address space (gpa2hva). A guest without cells has one
entry, for all of its memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

_MIB = 1 << 20


def main() -> int:
    """Run the command line."""
    guest = sys.argv[1]
    pid = int(Path(f"/run/libvirt/qemu/{guest}.pid").read_text(encoding="ascii"))
    print(json.dumps({"vcpus": vcpus(pid), "cells": cells(guest, pid)}))
    return 0


def vcpus(pid: int) -> dict[int, str]:
    """Return the pCPUs that each vCPU's thread may run on."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = re.fullmatch(r"CPU (\d+)/KVM", (task / "comm").read_text(encoding="utf-8").strip())
        allowed = re.search(
            r"^Cpus_allowed_list:\s*(\S+)", (task / "status").read_text(encoding="utf-8"), re.M
        )
        if name and allowed:
            found[int(name.group(1))] = allowed.group(1)
    return dict(sorted(found.items()))


def cells(guest: str, pid: int) -> list[dict[int, int]]:
    """Return the KiB of each cell by host node."""
    said = _ask(guest, "info numa", "info memory_size_summary")
    sizes = [int(size) * _MIB for size in re.findall(r"node \d+ size: (\d+) MB", said)]
    sizes = sizes or [int(value) for value in re.findall(r"base memory: (\d+)", said)]
    # One MiB in, since a machine's first MiB is not all memory.
    starts = [sum(sizes[:cell]) + _MIB for cell in range(len(sizes))]
    said = _ask(guest, *(f"gpa2hva {start:#x}" for start in starts))
    addresses = re.findall(r"^Host virtual address for (\S+) \(.*\) is (\S+)", said, re.M)
    mappings = _mappings(pid)
    by_cell = []
    if [int(asked, 16) for asked, _address in addresses] != starts:
        raise SystemExit(f"QEMU does not say where all cells are: {said}")
    for size, (_asked, address) in zip(sizes, addresses):
        first = int(address, 16) - _MIB
        by_cell.append(_sum(mappings, first, first + size))
    return by_cell


def _sum(mappings: list[tuple[int, int, dict[int, int]]], first: int, end: int) -> dict[int, int]:
    """Return the KiB by host node of the mappings that make up a range."""
    kib: dict[int, int] = {}
    covered = 0
    for start, stop, nodes in mappings:
        if start < end and stop > first:
            if start < first or stop > end:
                raise SystemExit(f"{start:x}-{stop:x} holds more than one cell")
            covered += stop - start
            for node, amount in nodes.items():
                kib[node] = kib.get(node, 0) + amount
    if covered != end - first:
        raise SystemExit(f"{first:x}-{end:x} is not all there")
    return kib


def _mappings(pid: int) -> list[tuple[int, int, dict[int, int]]]:
    """Return start, end and KiB by host node of each mapping of a process."""
    ends = {}
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        bounds = [int(bound, 16) for bound in line.split()[0].split("-")]
        ends[bounds[0]] = bounds[1]
    found = []
    for line in Path(f"/proc/{pid}/numa_maps").read_text(encoding="utf-8").splitlines():
        start = int(line.split()[0], 16)
        page = re.search(r"kernelpagesize_kB=(\d+)", line)
        nodes = {
            int(node): int(pages) * int(page.group(1))
            for node, pages in re.findall(r" N(\d+)=(\d+)", line)
            if page
        }
        if start in ends:
            found.append((start, ends[start], nodes))
    return found


def _ask(guest: str, *commands: str) -> str:
    """Return what QEMU's monitor answers, in order; one virsh asks it all."""
    return subprocess.run(
        ["virsh", "--quiet", "--connect", "qemu:///system"],
        check=True,
        input="".join(f"qemu-monitor-command {guest} --hmp '{line}'\n" for line in commands),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
