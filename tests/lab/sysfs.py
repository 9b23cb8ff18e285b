# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's topology as files: what libvirt and libnuma read below /sys and /proc.

A host is a JSON file in tests/hosts:

    nodes       list of id, cpus (cpuset), memory_kib, and where they are not as usual: free_kib,
                package, die, threads, hugepages {"size in KiB": [pages, free pages]}
    distances   rows and columns in the order of nodes; left out: 10 and 20
    threads     SMT ways, 1 by default
    siblings    "split" (the k-th pCPU of each run, as Linux numbers x86) or "adjacent" (0,1 2,3)
    offline     pCPUs that are there, and offline
    isolated    pCPUs that the kernel was told to isolate
    l3          cpusets that share an L3 cache each; without it the host lists no caches
    capacities  {"0-7": 1024}: capacity of pCPUs of a hybrid processor
    pci         nodes of the machine's own PCI devices, by their order; these stand for the host's
    cpu         {"3": {"package", "die", "core", "siblings"}}: what differs for single pCPUs
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAGE_POOLS: dict[str, list[int]] = {"2048": [0, 0], "1048576": [0, 0]}


def parse_list(text: str) -> set[int]:
    """Read a list of ids such as ``0-14,120-134``."""
    ids: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _dash, last = part.partition("-")
        ids.update(range(int(first), int(last or first) + 1))
    return ids


def format_list(ids: set[int]) -> str:
    """Write ids as the kernel does."""
    runs: list[list[int]] = []
    for number in sorted(ids):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def format_mask(ids: set[int], bits: int) -> str:
    """Write ids as the kernel's hexadecimal mask, at least *bits* wide."""
    value = sum(1 << number for number in ids)
    words = max(max(ids, default=0) // 32 + 1, -(-bits // 32))
    return ",".join(f"{value >> 32 * word & 0xFFFFFFFF:08x}" for word in reversed(range(words)))


def kernel_cpu_bits() -> int:
    """Return the width of this kernel's CPU masks; libnuma refuses maps that are wider."""
    sched_getaffinity = {"x86_64": 204, "aarch64": 123, "ppc64le": 223}[os.uname().machine]
    # glibc's wrapper hides how much the kernel wrote, which is what is asked for here.
    written = ctypes.CDLL(None).syscall(
        sched_getaffinity, 0, 1 << 16, ctypes.create_string_buffer(1 << 16)
    )
    return int(written) * 8 if written > 0 else 1024


@dataclass
class Cpu:
    """One pCPU: where it sits."""

    package: int
    die: int
    core: int
    siblings: set[int]
    node: int | None


def load(path: Path) -> dict[str, Any]:
    """Read a host's file."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(spec, dict)
    return spec


def write_tree(spec: dict[str, Any], out: Path) -> None:
    """Write the files of a host below a folder.

    Args:
        spec: the host.
        out: an empty folder; ``sys/`` and ``proc/`` are made in it.
    """
    cpus = _cpus(spec)
    offline = parse_list(spec.get("offline", ""))
    online = set(cpus) - offline
    bits = max(kernel_cpu_bits(), max(cpus) + 1)
    _write_cpus(out / "sys/devices/system/cpu", cpus, online, spec, bits)
    _write_nodes(out / "sys/devices/system/node", spec, online, bits)
    _write_pools(out / "sys/kernel/mm/hugepages", spec)
    _write_proc(out / "proc", spec, cpus, online)
    # The devices are the machine's, and only their nodes are made up: udev wants the rest real.
    for device, node in zip(pci_devices(), spec.get("pci", ())):
        _write(out / "pci" / device, str(node))


def pci_devices() -> list[str]:
    """Return the addresses of this machine's PCI devices, sorted."""
    return sorted(path.name for path in Path("/sys/bus/pci/devices").glob("*"))


def _cpus(spec: dict[str, Any]) -> dict[int, Cpu]:
    cpus: dict[int, Cpu] = {}
    for index, node in enumerate(spec["nodes"]):
        members = sorted(parse_list(node.get("cpus", "")))
        threads = int(node.get("threads", spec.get("threads", 1)))
        cores = max(1, -(-len(members) // threads))
        for position, number in enumerate(members):
            if spec.get("siblings", "split") == "adjacent":
                core = position // threads
                siblings = set(members[core * threads : (core + 1) * threads])
            else:
                core = position % cores
                siblings = set(members[core::cores])
            cpus[number] = Cpu(
                node.get("package", index), node.get("die", 0), core, siblings, node["id"]
            )
    for text, changes in (spec.get("cpu") or {}).items():
        cpu = cpus.setdefault(int(text), Cpu(0, 0, 0, {int(text)}, None))
        for key in ("package", "die", "core"):
            setattr(cpu, key, changes.get(key, getattr(cpu, key)))
        if "siblings" in changes:
            cpu.siblings = parse_list(changes["siblings"])
    for number in parse_list(spec.get("offline", "")):
        cpus.setdefault(number, Cpu(0, 0, 0, {number}, None))
    return cpus


def _write_cpus(
    folder: Path, cpus: dict[int, Cpu], online: set[int], spec: dict[str, Any], bits: int
) -> None:
    possible = parse_list(spec.get("possible", f"0-{max(cpus)}"))
    _write(folder / "online", format_list(online))
    _write(folder / "offline", format_list(possible - online))
    _write(folder / "present", format_list(set(cpus)))
    _write(folder / "possible", format_list(possible))
    _write(folder / "kernel_max", str(bits - 1))
    _write(folder / "isolated", spec.get("isolated", ""))
    for number, members in enumerate(spec.get("l3", ())):
        _write_cache(folder, number, parse_list(members) & online)
    for members, capacity in (spec.get("capacities") or {}).items():
        for number in parse_list(members):
            _write(folder / f"cpu{number}/cpu_capacity", str(capacity))
    for number, cpu in sorted(cpus.items()):
        place = folder / f"cpu{number}"
        _write(place / "online", str(int(number in online)))
        if number not in online:
            continue
        package = {n for n in online if cpus[n].package == cpu.package}
        die = {n for n in package if cpus[n].die == cpu.die}
        core = cpu.siblings & online
        topology = place / "topology"
        _write(topology / "physical_package_id", str(cpu.package))
        _write(topology / "die_id", str(cpu.die))
        _write(topology / "core_id", str(cpu.core))
        for name, members in (
            ("thread_siblings", core),
            ("core_cpus", core),
            ("die_cpus", die),
            ("core_siblings", package),
            ("package_cpus", package),
        ):
            _write(topology / name, format_mask(members, bits))
            _write(topology / f"{name}_list", format_list(members))
        if cpu.node is not None:
            (place / f"node{cpu.node}").symlink_to(f"../../node/node{cpu.node}")


def _write_cache(folder: Path, number: int, members: set[int]) -> None:
    for cpu in members:
        place = folder / f"cpu{cpu}/cache/index3"
        for name, text in (
            ("id", str(number)),
            ("level", "3"),
            ("type", "Unified"),
            ("size", "32768K"),
            ("shared_cpu_list", format_list(members)),
        ):
            _write(place / name, text)


def _write_nodes(folder: Path, spec: dict[str, Any], online: set[int], bits: int) -> None:
    nodes = spec["nodes"]
    ids = [node["id"] for node in nodes]
    with_cpus = {n["id"] for n in nodes if parse_list(n.get("cpus", "")) & online}
    with_memory = {n["id"] for n in nodes if n.get("memory_kib", 0)}
    for name, members in (
        ("online", set(ids)),
        ("possible", set(ids)),
        ("has_cpu", with_cpus),
        ("has_memory", with_memory),
        ("has_normal_memory", with_memory),
    ):
        _write(folder / name, format_list(members))
    distances = spec.get("distances") or [[10 if a == b else 20 for b in ids] for a in ids]
    for node, row in zip(nodes, distances, strict=True):
        place = folder / f"node{node['id']}"
        present = parse_list(node.get("cpus", ""))
        _write(place / "cpulist", format_list(present & online))
        _write(place / "cpumap", format_mask(present & online, bits))
        _write(place / "distance", " ".join(map(str, row)))
        total_kib = int(node.get("memory_kib", 0))
        free_kib = int(node.get("free_kib", total_kib * 9 // 10))
        pools = node.get("hugepages", _PAGE_POOLS)
        pages, free = pools.get("2048", (0, 0))
        _write(
            place / "meminfo",
            "".join(
                f"Node {node['id']} {name + ':':<17}{value:>8}{unit}\n"
                for name, value, unit in (
                    ("MemTotal", total_kib, " kB"),
                    ("MemFree", free_kib, " kB"),
                    ("MemUsed", total_kib - free_kib, " kB"),
                    ("HugePages_Total", pages, ""),
                    ("HugePages_Free", free, ""),
                    ("HugePages_Surp", 0, ""),
                )
            ),
        )
        for size_kib, (pages, free) in pools.items():
            pool = place / f"hugepages/hugepages-{size_kib}kB"
            _write(pool / "nr_hugepages", str(pages))
            _write(pool / "free_hugepages", str(free))
            _write(pool / "surplus_hugepages", "0")
        for number in present:
            (place / f"cpu{number}").symlink_to(f"../../cpu/cpu{number}")


def _write_pools(folder: Path, spec: dict[str, Any]) -> None:
    sums: dict[str, list[int]] = {}
    for node in spec["nodes"]:
        for size_kib, counts in node.get("hugepages", _PAGE_POOLS).items():
            sums[size_kib] = [
                a + b for a, b in zip(sums.get(size_kib, (0, 0)), counts, strict=True)
            ]
    for size_kib, (pages, free) in sums.items():
        pool = folder / f"hugepages-{size_kib}kB"
        _write(pool / "nr_hugepages", str(pages))
        _write(pool / "free_hugepages", str(free))
        for name in ("resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages"):
            _write(pool / name, "0")


def _write_proc(folder: Path, spec: dict[str, Any], cpus: dict[int, Cpu], online: set[int]) -> None:
    own = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0] + "\n"
    stanzas = []
    for number in sorted(online):
        cpu = cpus[number]
        package = {n for n in online if cpus[n].package == cpu.package}
        values = {
            "processor": number,
            "physical id": cpu.package,
            "siblings": len(package),
            "core id": cpu.core,
            "cpu cores": max(1, len(package) // max(1, len(cpu.siblings & online))),
            "apicid": number,
            "initial apicid": number,
        }
        stanza = own
        for key, value in values.items():
            stanza = re.sub(rf"(?m)^({re.escape(key)}\s*):.*$", rf"\g<1>: {value}", stanza)
        stanzas.append(stanza)
    _write(folder / "cpuinfo", "\n".join(stanzas) + "\n")
    total = sum(int(node.get("memory_kib", 0)) for node in spec["nodes"])
    free = sum(
        int(node.get("free_kib", int(node.get("memory_kib", 0)) * 9 // 10))
        for node in spec["nodes"]
    )
    meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
    for key, value in (("MemTotal", total), ("MemFree", free), ("MemAvailable", free)):
        meminfo = re.sub(rf"(?m)^{key}:.*$", f"{key}:{value:>15} kB", meminfo)
    _write(folder / "meminfo", meminfo)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
