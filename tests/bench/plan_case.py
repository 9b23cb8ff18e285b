# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan one case in a process of its own, and print what it took as JSON.

    python tests/bench/plan_case.py '{"nodes": 64, "vcpus": 4096}'

The case is an object with any of the fields of `Case`.
"""

from __future__ import annotations

import json
import re
import sys
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# The checkout as a collection, see tests/tools/trees.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build" / "collections"))

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import Layout
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import Policy, policy_from_options

_GIB_KIB = 1 << 20
_THREADS = 2
# A case is repeated until it took this long together, so that short ones are measured too.
_ENOUGH_S = 0.3
_DOMAIN = """\
<domain type='qemu'>
  <name>big</name>
  <memory unit='KiB'>{memory_kib}</memory>
  <vcpu placement='static'>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <devices/>
</domain>
"""


@dataclass(frozen=True)
class Case:
    """What is planned.

    Attributes:
        nodes: nodes of the host.
        cpus: pCPUs of each node.
        guests: how many guests.
        vcpus: vCPUs of each guest.
        cells: cells of each guest, 0 for one per node.
        pinning: the policy's option.
        distances: the policy's option.
        edit: whether the layout is written into a definition too.
    """

    nodes: int = 64
    cpus: int = 128
    guests: int = 1
    vcpus: int = 4096
    cells: int = 0
    pinning: str = "node"
    distances: str = "host"
    edit: bool = False


def host_of(case: Case) -> Host:
    """Return the host of a case."""
    nodes = []
    for node in range(case.nodes):
        first = node * case.cpus
        cpus = tuple(range(first, first + case.cpus))
        nodes.append(
            Node(
                id=node,
                cpus=cpus,
                memory_kib=1024 * _GIB_KIB,
                distances=tuple(
                    (other, 10 if other == node else 20 + abs(other - node))
                    for other in range(case.nodes)
                ),
                cores=tuple(cpus[at : at + _THREADS] for at in range(0, case.cpus, _THREADS)),
                socket_ids=(node,),
            )
        )
    return Host(nodes=tuple(nodes), arch="x86_64", cpu_vendor="Intel")


def guests_of(case: Case) -> list[tuple[Guest, Policy]]:
    """Return the guests of a case: one takes the whole host, several take four nodes each."""
    policy = {"pinning": case.pinning, "distances": case.distances}
    if case.cells:
        policy["cells"] = str(case.cells)
    pairs = []
    for number in range(case.guests):
        nodes = "all"
        if case.guests > 1:
            first = number * 4 % case.nodes
            nodes = f"{first}-{first + 3}"
        guest = Guest(
            name=f"guest-{number:04}",
            uuid="",
            arch="x86_64",
            vcpus=case.vcpus,
            memory_kib=case.vcpus * _GIB_KIB,
        )
        pairs.append((guest, policy_from_options({**policy, "nodes": nodes})))
    return pairs


def plan_once(case: Case, host: Host) -> list[Layout]:
    """Plan the guests of a case, and write the layout of the first where that is asked for."""
    pairs = guests_of(case)
    if case.edit:
        text = _DOMAIN.format(vcpus=case.vcpus, memory_kib=case.vcpus * _GIB_KIB)
        definition = read_definition(text)
        pairs = [(read_guest(definition, 2048), pairs[0][1])]
    layouts = []
    for answer in plan_guests(pairs, host):
        if isinstance(answer, VnumaError):
            raise answer
        layouts.append(answer)
    if case.edit:
        partitioned(definition, layouts[0], pairs[0][1])
    return layouts


def _status_kib(field: str) -> int:
    """Return a size of this process; unlike getrusage(2) it leaves out what forked it."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1))


def main() -> None:
    """Print the processor seconds of one planning, and the memory that all of it took."""
    case = Case(**json.loads(sys.argv[1]))
    host = host_of(case)
    before_kib = _status_kib("VmRSS")
    layouts = plan_once(case, host)
    peak_kib = _status_kib("VmHWM") - before_kib
    assert len(layouts) == case.guests
    del layouts
    # The kernel counts pages in batches, and what is freed already is used again: it sees what lxml
    # takes, and may miss all of a small case. Python counts its own objects to the byte.
    tracemalloc.start()
    plan_once(case, host)
    peak_kib = max(peak_kib, tracemalloc.get_traced_memory()[1] // 1024)
    tracemalloc.stop()
    took: list[float] = []
    while sum(took) < _ENOUGH_S or len(took) < 3:
        started = time.process_time()
        plan_once(case, host)
        took.append(time.process_time() - started)
    print(json.dumps({"cpu_s": median(took), "peak_kib": peak_kib}))


if __name__ == "__main__":
    main()
