# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hold what a guest's kernel and its host's kernel say against the host that was asked for.

    python3 evidence.py SPEC.json CONSOLE --expect bound | unbound | scattered
        --memory-mib MIB [--fill-mib MIB] [--keep FILE] < what placement.py printed

bound: the guest mirrors the host, and all of each cell's memory is on its host node. unbound: it
mirrors the host, and some cell's memory is not all there. scattered: it has one node, and its
memory is everywhere. Prints what was found, then what is wrong with it, and fails if anything is.

Whoever is to mirror what is worked out from the spec alone: host nodes with pCPUs, in order, each
back one cell; a guest's vCPUs and memory divide evenly among them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sysfs
from guestboot import GuestReport, read_report

#: Of a cell's memory, what the guest's kernel leaves after it has taken its own.
_LEAST_MEMORY = 0.5
#: Scattered memory has no more than this on one host node. Where it goes is chance, more so on a
#: host with few nodes: two thirds on one of three was seen, and a fifth on one of eight.
_LARGEST_SHARE = 0.9
#: What lscpu says about nodes, sockets, cores and threads.
_TOPOLOGY = ("CPU(s):", "On-line CPU(s)", "Thread(s)", "Core(s)", "Socket(s)", "NUMA node")


@dataclass(frozen=True)
class Placement:
    """Where a guest runs and where its memory lies.

    Attributes:
        vcpus: by vCPU, the pCPUs that its thread may run on.
        cells: by cell, KiB by host node.
    """

    vcpus: list[set[int]]
    cells: list[dict[int, int]]

    @classmethod
    def from_json(cls, text: str) -> Placement:
        """Read what placement.py printed."""
        said = json.loads(text)
        vcpus = {int(vcpu): sysfs.parse_list(cpus) for vcpu, cpus in said["vcpus"].items()}
        return cls(
            vcpus=[vcpus[vcpu] for vcpu in range(len(vcpus))],
            cells=[{int(node): kib for node, kib in cell.items()} for cell in said["cells"]],
        )

    def share(self, cell: int, node: int) -> float:
        """Return the share of a cell's memory that is on a host node, from 0 to 1."""
        return self.cells[cell].get(node, 0) / (sum(self.cells[cell].values()) or 1)


class Evidence:
    """What was found about one guest.

    Args:
        spec: its host.
        report: what its kernel said.
        placement: what its host's kernel said.
        memory_mib: the memory that it is defined with.
    """

    def __init__(
        self, spec: dict[str, Any], report: GuestReport, placement: Placement, memory_mib: int
    ) -> None:
        self.spec = spec
        self.memory_mib = memory_mib
        self.report = report
        self.placement = placement
        #: Host nodes that a guest can mirror.
        self.nodes = [node for node in spec["nodes"] if node["cpus"]]
        self.ids = [int(node["id"]) for node in self.nodes]

    def mirrors(self) -> list[str]:
        """Return what is not as on the host: nodes, CPUs, distances, memory, affinity."""
        wrong = []
        report, width = self.report, len(self.placement.vcpus) // len(self.nodes)
        if list(report.nodes) != list(range(len(self.nodes))):
            return [f"the guest has nodes {list(report.nodes)}, not {len(self.nodes)} of them"]
        for cell, host_node in enumerate(self.nodes):
            node = report.nodes[cell]
            vcpus = set(range(cell * width, (cell + 1) * width))
            distances = tuple(self.spec["distances"][host_node["id"]][other] for other in self.ids)
            if sysfs.parse_list(node.cpus) != vcpus:
                wrong.append(f"node {cell} has CPUs {node.cpus}, not {sysfs.format_list(vcpus)}")
            if node.distances != distances:
                wrong.append(f"node {cell} has distances {node.distances}, not {distances}")
            for vcpu in vcpus:
                allowed = self.placement.vcpus[vcpu]
                if allowed != sysfs.parse_list(host_node["cpus"]):
                    wrong.append(
                        f"vCPU {vcpu} may run on pCPUs {sysfs.format_list(allowed)}, not on "
                        f"{host_node['cpus']}"
                    )
        if len(self.placement.cells) != len(self.nodes):
            wrong.append(f"QEMU has {len(self.placement.cells)} cells")
        part = self.memory_mib * 1024 // len(self.nodes)
        for cell, node in report.nodes.items():
            if not part * _LEAST_MEMORY < node.memory_kib <= part:
                wrong.append(f"node {cell} has {node.memory_kib} KiB of {part}")
        if report.log_lines < 100:
            wrong.append(f"the kernel's log has {report.log_lines} lines; it cannot be all")
        said = [line.split()[-1] for line in report.lscpu if line.startswith("NUMA node(s):")]
        if said not in ([], [str(len(self.nodes))]):
            wrong.append(f"its lscpu says that it has {' and '.join(said)} nodes")
        return [*wrong, *report.complaints]

    def bound(self) -> list[str]:
        """Return what is wrong where memory is bound to host nodes."""
        return self.mirrors() or [
            f"{percent(self.placement.share(cell, node))} of cell {cell} is on host node {node}"
            for cell, node in enumerate(self.ids)
            if self.placement.share(cell, node) < 1
        ]

    def unbound(self) -> list[str]:
        """Return what is wrong where vCPUs are pinned and memory is not bound."""
        wrong = self.mirrors()
        if not wrong and min(self.local_shares()) == 1:
            wrong.append("all memory is where it belongs, without a binding: is this measured?")
        return wrong

    def scattered(self) -> list[str]:
        """Return what is wrong where nothing was partitioned."""
        wrong = []
        everywhere = sysfs.parse_list(",".join(node["cpus"] for node in self.nodes))
        if len(self.report.nodes) != 1 or len(self.placement.cells) != 1:
            return ["the guest has more than one node"]
        if any(allowed != everywhere for allowed in self.placement.vcpus):
            wrong.append("some vCPU may not run everywhere")
        shares = self.spread_shares()
        if max(shares) > _LARGEST_SHARE:
            wrong.append(f"{percent(max(shares))} of the memory is on one host node")
        return wrong

    def local_shares(self) -> list[float]:
        """Return, by cell, the share of its memory on the host node that it mirrors."""
        return [self.placement.share(cell, node) for cell, node in enumerate(self.ids)]

    def spread_shares(self) -> list[float]:
        """Return, by host node with pCPUs, the share of an unpartitioned guest's memory there.

        That is what a vCPU finds local while it happens to run on that node.
        """
        return [self.placement.share(0, node) for node in self.ids]

    def lines(self) -> list[str]:
        """Return all that was found, for a reader."""
        report = self.report
        lines = [f"the guest's kernel sees {len(report.nodes)} nodes:"]
        for cell, node in sorted(report.nodes.items()):
            lines.append(
                f"  node {cell}: CPUs {node.cpus}, {node.memory_kib} KiB, {node.filled_mib} MiB of "
                f"it filled, distances {' '.join(str(value) for value in node.distances)}"
            )
        lines.append(
            f"  lines of its log that say 'not on the same node': {len(report.complaints)} "
            f"of {report.log_lines}"
        )
        topology = [line for line in report.lscpu if line.startswith(_TOPOLOGY)]
        lines += ["its lscpu says:", *(f"  {line}" for line in topology)] if topology else []
        lines.append("its host's kernel sees:")
        for allowed in sorted({sysfs.format_list(cpus) for cpus in self.placement.vcpus}, key=_key):
            vcpus = {
                vcpu
                for vcpu, cpus in enumerate(self.placement.vcpus)
                if sysfs.format_list(cpus) == allowed
            }
            lines.append(f"  vCPUs {sysfs.format_list(vcpus)} may run on pCPUs {allowed}")
        for cell, kib in enumerate(self.placement.cells):
            parts = ", ".join(
                f"{percent(self.placement.share(cell, node))} on host node {node}"
                for node in sorted(kib)
                if kib[node]
            )
            name = f"cell {cell}" if len(self.placement.cells) > 1 else "its memory"
            lines.append(f"  {name}: {sum(kib.values())} KiB, {parts}")
        return lines


def percent(share: float) -> str:
    """Write a share; only all of something is 100 %."""
    return f"{math.floor(share * 1000) / 10} %"


def _key(cpus: str) -> int:
    return min(sysfs.parse_list(cpus), default=-1)


def filled(report: GuestReport, per_cpu_mib: int) -> list[str]:
    """Return which nodes of a guest were not filled: their memory was never asked for."""
    return [
        f"node {cell} was filled with {node.filled_mib} MiB only"
        for cell, node in report.nodes.items()
        if node.filled_mib < per_cpu_mib * len(sysfs.parse_list(node.cpus))
    ]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Hold a guest against its host.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("console", type=Path)
    parser.add_argument("--expect", choices=("bound", "unbound", "scattered"), required=True)
    parser.add_argument("--memory-mib", type=int, required=True, help="what the guest has")
    parser.add_argument("--fill-mib", type=int, default=0, help="what each of its CPUs filled")
    parser.add_argument("--keep", type=Path, help="append what is printed to this file")
    options = parser.parse_args()
    report = read_report(options.console)
    evidence = Evidence(
        sysfs.load(options.spec),
        report,
        Placement.from_json(sys.stdin.read()),
        options.memory_mib,
    )
    expected = {
        "bound": evidence.bound,
        "unbound": evidence.unbound,
        "scattered": evidence.scattered,
    }
    wrong = [*filled(report, options.fill_mib), *expected[options.expect]()]
    lines = [
        f"{evidence.spec['name']}, expected to be {options.expect}:",
        *evidence.lines(),
        *(f"WRONG: {sentence}" for sentence in wrong),
        f"{options.expect}: {'no' if wrong else 'yes'}",
    ]
    print("\n".join(lines))
    if options.keep:
        with options.keep.open("a", encoding="utf-8") as kept:
            print("\n".join(lines), end="\n\n", file=kept)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
