# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What in a definition belongs to the host that a guest runs on, and what keeps it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

from .._cpuset import format_cpuset, parse_cpuset
from .._model.domain import Binding, ManagedState
from .._model.host import Host
from .._policy import Policy, policy_from_record
from .definition import Definition
from .managed import MANAGED
from .record import recorded_policy
from .words import differences
from .xml import Element, elements, to_text

#: File systems that libvirt takes for shared (virFileIsSharedFSType, src/util/virfile.c of 9.0).
SHARED_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "gfs2", "ocfs2", "afs", "smb3", "cifs", "ceph", "gpfs", "vxfs"),
        *("fuse.glusterfs", "fuse.quobyte", "acfs", "lustre", "pvfs2", "beegfs"),
    }
)
#: Which kinds of addresses of its host a guest's passed-through device has.
_PASSED_THROUGH = ("hostdev", "interface[@type='hostdev']")


@dataclass(frozen=True)
class LocalDisk:
    """A disk that is a file, and may be on this host alone."""

    target: str
    path: str


def names_host(state: ManagedState) -> bool:
    """Tell whether a definition names pCPUs or nodes of a host."""
    bindings: list[Binding | None] = [state.memory_binding, *state.cell_bindings.values()]
    pins = (state.vcpu_pins, state.emulator_pins, state.iothread_pins)
    return any(pins) or any(one is not None and one.nodes for one in bindings)


def without_host(definition: Definition) -> Definition:
    """Return a definition without pins and bindings: a guest that is on no node yet."""
    root, nothing = deepcopy(definition.root), ManagedState()
    for element in MANAGED:
        if element.of_host and element.read(root):
            element.write(root, getattr(nothing, element.field))
    return Definition(to_text(root, definition.text), root)


def held_policy(
    definition: Definition, live: Definition, overrides: Mapping[str, object]
) -> Policy | None:
    """Return the policy that a partitioned guest is planned by on another host.

    It is that of its record. The cells of one that has no migration group are those that it runs
    with, and nodes that were named were those of its source.

    Options in *overrides* are the target's own. None for a guest that was never partitioned.

    Raises:
        VnumaError: when the record cannot be read, or an option means nothing.
    """
    if definition.record is None:
        return None
    recorded = recorded_policy(definition.record)
    policy = policy_from_record(recorded, overrides)
    if not isinstance(policy.nodes, str) and "nodes" not in overrides:
        policy = replace(policy, nodes="all")
    cells, topology = live.state.cells, live.state.topology
    if policy.migration_group or not cells:
        return policy
    matrix = tuple(cell.distances for cell in cells)
    return replace(
        policy,
        cells=len(cells),
        threads=policy.threads or (topology.threads if topology else 1),
        distances=matrix if all(matrix) else "none",
        split="even",
    )


def local_disks(root: Element) -> Iterator[LocalDisk]:
    """Yield the disks of a definition that are files of the host."""
    for disk in root.iterfind("devices/disk"):
        source, target = disk.find("source"), disk.find("target")
        if source is not None and source.get("file"):
            name = "" if target is None else target.get("dev", "")
            yield LocalDisk(name, source.get("file"))


def passed_through(root: Element) -> list[str]:
    """Return the devices of the host that a guest has, as their kind, such as ``pci``."""
    kinds = []
    for path in _PASSED_THROUGH:
        for device in root.iterfind(f"devices/{path}"):
            kinds.append("pci" if device.tag == "interface" else device.get("type") or "other")
    return kinds


def networks(root: Element) -> list[str]:
    """Return the names of libvirt's networks that a guest is connected to."""
    sources = root.iterfind("devices/interface[@type='network']/source[@network]")
    return sorted({source.get("network") for source in sources})


def stray_cpus(root: Element, host: Host) -> list[str]:
    """Return what in a definition names pCPUs that a host lacks, such as ``<emulatorpin> 40``."""
    there = {cpu for node in host.nodes for cpu in node.cpus}
    found = []
    for element in (root.find("vcpu"), *elements(root.find("cputune"))):
        text = None if element is None else element.get("cpuset")
        missing = sorted(set(parse_cpuset(text)) - there) if text else []
        if missing and there:
            found.append(f"<{element.tag}> {format_cpuset(missing)}")
    return found


def visible_differences(live: Definition, after: Definition) -> list[str]:
    """Return what a guest's kernel would see change, which no running guest survives."""
    fields = [element.field for element in MANAGED if element.visible]
    now, then = (
        ManagedState(**{field: getattr(one.state, field) for field in fields})
        for one in (live, after)
    )
    return [
        f"{one.subject} {one.first} here and {one.second} there" for one in differences(now, then)
    ]
