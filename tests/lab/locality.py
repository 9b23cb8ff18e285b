# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how much of a KVM guest's memory is local, by layout, on an emulated host.

    python tests/lab/locality.py [--spec FILE] [--vcpus N] [--memory-mib MIB] [--fill-mib MIB]

Prints JSON: by layout, a list of shares from 0 to 1. For a partitioned guest, by cell: of its
memory, what is on the host node that it mirrors. For an unpartitioned one, which has no cells, by
host node: of its memory, what is there, hence local to a vCPU while that node runs it.

Each guest boots, every one of its vCPUs writes to memory of its own node, and what the host's
kernel then says of the guest's pages is the answer. Needs Ansible and lxml, as the planner's tests
do.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import guestboot
import guestfiles
import sysfs
from errors import LabError
from evidence import Evidence, Placement, filled
from numahost import NumaHost

_HERE = Path(__file__).resolve().parent
_GUEST = "anuma"
_FOLDER = Path("/var/lib/guests")

#: Policy options by layout; None leaves the guest as it is.
LAYOUTS: Mapping[str, dict[str, str] | None] = MappingProxyType(
    {
        "unpartitioned": None,
        "rfc": {"distribution": "round_robin", "memory_mode": "none"},
        "partitioned": {},
    }
)


def measure(
    host: NumaHost,
    *,
    vcpus: int = 16,
    memory_mib: int = 1024,
    fill_mib: int = 24,
    layouts: Mapping[str, dict[str, str] | None] = LAYOUTS,
) -> dict[str, list[float]]:
    """Boot a guest once with each layout and return the shares of its memory that are local.

    Args:
        host: a host that runs, and was started by this object.
        vcpus: the guest's vCPUs.
        memory_mib: its memory in MiB.
        fill_mib: what each of its vCPUs writes, in MiB.
        layouts: policy options by name of a layout.

    Raises:
        LabError: when a guest did not fill its memory.
    """
    files = host.folder / "guest"
    guestfiles.put_files(files)
    for name in ("vmlinuz", "initrd"):
        host.put(files / name, f"{_FOLDER}/{name}")
    definition = guestboot.nested_domain_xml(
        _GUEST,
        vcpus,
        memory_mib,
        _FOLDER / "console.log",
        files=_FOLDER,
        cmdline=f"vnuma.fill_per_cpu={fill_mib}",
    )
    capabilities = host.ssh("virsh", "capabilities").stdout
    return {
        name: _measure(host, _partition(definition, capabilities, options), memory_mib, fill_mib)
        for name, options in layouts.items()
    }


def _measure(host: NumaHost, definition: str, memory_mib: int, fill_mib: int) -> list[float]:
    console = _FOLDER / "console.log"
    host.ssh(
        f"set -e; cat > {_FOLDER}/guest.xml; rm -f {console}; "
        f"virsh --quiet define --validate {_FOLDER}/guest.xml; virsh --quiet start {_GUEST}; "
        f"until grep -qs VNUMA-READY {console}; do sleep 1; done",
        input=definition,
    )
    said = host.folder / "console.log"
    said.write_text(host.ssh("cat", str(console)).stdout)
    placement = host.ssh("python3", "-", _GUEST, input=(_HERE / "placement.py").read_text()).stdout
    host.ssh(f"virsh --quiet destroy {_GUEST}; virsh --quiet undefine {_GUEST}")
    assert host.spec is not None
    evidence = Evidence(
        host.spec, guestboot.read_report(said), Placement.from_json(placement), memory_mib
    )
    wrong = filled(evidence.report, fill_mib)
    if wrong:
        raise LabError(f"on {host.name}: {'; '.join(wrong)}")
    return (
        evidence.spread_shares() if len(evidence.placement.cells) == 1 else evidence.local_shares()
    )


def _partition(definition: str, capabilities: str, options: dict[str, str] | None) -> str:
    if options is None:
        return definition
    sys.path.insert(0, str(_HERE.parent / "tools"))
    import trees

    sys.path.insert(0, str(trees.link()))
    from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain

    policy: dict[str, Any] = dict(options)
    return str(partition_domain(definition, capabilities, **policy))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure how much of a guest's memory is local.")
    parser.add_argument("--spec", type=Path, default=_HERE / "numahosts/rfc-8n16c.json")
    parser.add_argument("--vcpus", type=int, default=16)
    parser.add_argument("--memory-mib", type=int, default=1024)
    parser.add_argument("--fill-mib", type=int, default=24, help="what each vCPU writes")
    options = parser.parse_args()
    try:
        with NumaHost("locality", sysfs.load(options.spec)) as host:
            shares = measure(
                host,
                vcpus=options.vcpus,
                memory_mib=options.memory_mib,
                fill_mib=options.fill_mib,
            )
    except LabError as error:
        print(f"locality: {error}", file=sys.stderr)
        return 3
    print(json.dumps(shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
