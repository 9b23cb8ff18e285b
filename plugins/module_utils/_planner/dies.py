# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dies that mirror the host's cache domains: how many cores each has, and who would not see them.

QEMU tells a guest of one L3 cache for each die (cpu_x86_cpuid, target/i386/cpu.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .._cpuset import whole_number
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Topology
from .._policy import Policy
from .cores import EXCLUSIVE, open_threads
from .distribution import is_x86
from .limits import lacks_topoext

#: The first releases with dies: virCPUDef.dies came with libvirt 6.1 (docs/formatdomain), ``-smp
#: dies`` with QEMU 4.1. QEMU takes dies for every PC, however old its machine type
#: (pc_machine_class_init, hw/i386/pc.c; seen with QEMU 7.2, from pc-i440fx-1.4 on).
_FIRST_LIBVIRT = (6, 1)
_FIRST_QEMU = (4, 1)
#: From here on QEMU's emulation ends when a guest asks for more levels of its CPU topology than
#: there are (encode_topo_cpuid1f, target/i386/cpu.c; seen with QEMU 10.0 and 11.1, before the guest
#: prints a word). With KVM the host's kernel answers.
_FIRST_THAT_CRASHES = (9, 1)
#: The last machine types without an L3 cache (pc_compat_2_7, hw/i386/pc.c in QEMU).
_LAST_WITHOUT_L3 = (2, 7)


def check_dies(policy: Policy) -> None:
    """Refuse options that ``dies: host`` conflicts with.

    Raises:
        LayoutError: with the way out.
    """
    if policy.distribution != "contiguous":
        raise LayoutError(
            f"dies 'host' conflicts with distribution '{policy.distribution}', which spreads the "
            "vCPUs of a socket over cells; set distribution to 'contiguous', or dies to 'none'."
        )
    if policy.pinning in ("node", "none"):
        raise LayoutError(
            f"dies 'host' conflicts with pinning '{policy.pinning}', which lets the vCPUs of one "
            "die run in several cache domains; set pinning to 'core', 'cpu' or 'cache', or dies to "
            "'none'."
        )
    if policy.migration_group:
        raise LayoutError(
            "dies 'host' mirrors the caches of one host, and other hosts of a migration group have "
            "others; set dies to 'none'."
        )


def check_support(guest: Guest, arch: str, host: Host) -> None:
    """Refuse dies where the guest would not start with them, or not come up.

    Raises:
        LayoutError: with what has none.
    """
    if not is_x86(arch or "x86_64"):
        raise LayoutError(
            f"guests of architecture {arch} cannot have dies: QEMU has none for them; set dies to "
            "'none'."
        )
    for name, version, first in (
        ("libvirt", host.libvirt_version, _FIRST_LIBVIRT),
        ("QEMU", host.hypervisor_version, _FIRST_QEMU),
    ):
        if version and _release(version) < first:
            raise LayoutError(
                f"its host has {name} {version}, and dies came with {name} {first[0]}.{first[1]}; "
                f"upgrade {name}, or set dies to 'none'."
            )
    if guest.kind == "qemu" and _release(host.hypervisor_version) >= _FIRST_THAT_CRASHES:
        raise LayoutError(
            f"its host has QEMU {host.hypervisor_version}, whose emulation crashes while a guest "
            "with several dies boots; use KVM (domain type 'kvm'), or set dies to 'none'."
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(whole_number(part) or 0 for part in version.split(".")[:2])


def die_cores(
    sizes: Sequence[int],
    divisor: int,
    backing: Sequence[Node | None],
    policy: Policy,
    threads: int,
) -> int:
    """Return how many cores each die has, so that each fits one cache domain; 0 where none does.

    Dies are all of one size, as large as possible: the fewest that the domains allow.

    Args:
        sizes: cores of each cell.
        divisor: what a die has to divide: the cores of each cell and of each socket.
        backing: the host node of each cell.
        policy: whose pins keep a die in its domain.
        threads: of a guest core.
    """
    for per_die in range(divisor, 0, -1):
        # A die of one core says nothing of caches, unless there is nothing to share.
        is_whole = per_die > 1 or max(sizes) == 1
        if divisor % per_die == 0 and is_whole:
            loads = _loads(sizes, backing)
            if all(_holds(node, cells, per_die, policy, threads) for node, cells in loads):
                return per_die
    return 0


def no_dies_warning(
    sizes: Sequence[int], backing: Sequence[Node | None], policy: Policy, threads: int
) -> str:
    """Say why a guest that asked for the host's dies has one for each socket."""
    nodes = [node for node, _cells in _loads(sizes, backing)]
    blank = sorted({node.id for node in nodes if not node.cache_domains})
    if blank or not nodes:
        of = f" of host node{'s' if len(blank) > 1 else ''} {', '.join(map(str, blank))}"
        return (
            f"the host does not list the L3 caches{of if blank else ''}, so that its sockets have "
            "one die each; set dies to 'none' for no such hint."
        )
    node = nodes[0]
    cells = " and ".join(map(str, sorted(set(sizes), reverse=True)))
    domains = ", ".join(map(str, domain_cores(node, policy, threads)))
    return (
        f"no die of several cores divides its cells of {cells} cores and fits the cache domains of "
        f"its host nodes (host node {node.id} has domains of {domains} cores), so that its sockets "
        "have one die each; change its vCPUs, nodes or cells for cells that divide."
    )


def domain_cores(
    node: Node, policy: Policy, threads: int, *, all_threads: bool = False
) -> list[int]:
    """Return how many guest cores each cache domain of a node holds, on a host without guests.

    Where pins are shared a host core counts for as many as ``cpu_overcommit`` allows.

    Args:
        node: the node.
        policy: with the pCPUs that are reserved.
        threads: of a guest core; it needs as many of a host core where it has that for itself.
        all_threads: whether guest cores may share a host core, as ``pinning: cpu`` has them do
            where a node has fewer cores than they are.
    """
    reserved = frozenset(policy.reserved_cpus)
    is_exclusive = policy.pinning in EXCLUSIVE
    width = threads if is_exclusive else 1
    found = []
    for domain in node.cache_domains:
        inside = frozenset(domain)
        opened = [len(open_threads(core, reserved)) for core in node.cores if core[0] in inside]
        held = [count // width for count in opened]
        cores = sum(held if all_threads else map(bool, held))
        found.append(cores if is_exclusive else int(cores * policy.cpu_overcommit))
    return found


def die_warnings(guest: Guest, host: Host, policy: Policy, topology: Topology) -> Iterator[str]:
    """Yield why a guest's kernel would not see its dies as what shares a cache."""
    if topology.dies < 2:
        return
    told = f"it does not see its {topology.dies} dies a socket as cache domains"
    if lacks_topoext(guest, host, policy):
        yield (
            f"{told} on this {host.cpu_vendor} host; add <feature policy='require' "
            "name='topoext'/> to its <cpu>, or set dies to 'none'."
        )
    if guest.cache_mode in ("disable", "passthrough"):
        yield (
            f"{told}, because its <cpu> has <cache mode='{guest.cache_mode}'/>; remove that, or "
            "set dies to 'none'."
        )
    release = re.fullmatch(r"pc-(?:i440fx-|q35-)?([0-9]+)\.([0-9]+)", guest.machine, re.ASCII)
    if release and (int(release[1]), int(release[2])) <= _LAST_WITHOUT_L3:
        yield (
            f"{told}, because its machine type {guest.machine} has no L3 cache; use one from 2.8 "
            "on, or set dies to 'none'."
        )


def _loads(sizes: Sequence[int], backing: Sequence[Node | None]) -> list[tuple[Node, list[int]]]:
    """Return the nodes that back cells, each with the cores of its cells."""
    loads: dict[int, tuple[Node, list[int]]] = {}
    for node, size in zip(backing, sizes):
        if node is not None:
            loads.setdefault(node.id, (node, []))[1].append(size)
    return list(loads.values())


def _holds(node: Node, cells: Sequence[int], per_die: int, policy: Policy, threads: int) -> bool:
    wanted = sum(cells)
    domains = domain_cores(node, policy, threads)
    if wanted > sum(domains) and policy.pinning == "cpu":
        domains = domain_cores(node, policy, threads, all_threads=True)
    return sum(domain // per_die for domain in domains) * per_die >= wanted
