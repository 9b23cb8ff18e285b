# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sockets and dies of a guest: how many, how large, and who would not use or not see them.

Sockets are those of the host, one for each cell, or so many. Dies mirror the host's cache domains:
QEMU tells a guest of one L3 cache for each die (cpu_x86_cpuid, target/i386/cpu.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from .._cpuset import Ids
from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Topology
from .._policy import CELLS, Policy
from .cores import EXCLUSIVE, open_threads
from .limits import is_x86, lacks_topoext, release

#: CPU models of QEMU whose guests were seen to take several cells in one socket: booted by QEMU 7.2
#: with Linux 6.1, with one die and with a die for each cell; the last two by their model number
#: alone. Linux takes such a socket for sub-NUMA clustering on processors of Intel's family 6
#: (match_llc and intel_cod_cpu, arch/x86/kernel/smpboot.c, since 5.13). It complains of siblings
#: that share a cache and no node with qemu64, kvm64, max and EPYC, and on Intel's Xeon E5 v3 and v4
#: (seen with model=63), whose clusters differ.
_SEEN_CLEAN = (
    *("Conroe", "Penryn", "Nehalem", "Westmere", "SandyBridge", "IvyBridge", "Haswell"),
    *("Broadwell", "Skylake-Server", "Cascadelake-Server", "Cooperlake", "Icelake-Server"),
    *("SapphireRapids", "GraniteRapids"),
)
#: Where a guest has the host's own processor, these may be those Xeons. QEMU's models are not.
_SEEN_TO_COMPLAIN = ("Haswell", "Broadwell")

#: Sockets that a Windows client uses (Microsoft's limits of Windows editions; Home uses one).
MOST_CLIENT_SOCKETS = 2
_CLIENT_IDS = "http://microsoft.com/win/"
#: Windows clients by the end of their id in libosinfo's database; servers are ``2k16`` and so on.
_CLIENTS = {
    **{"xp": "Windows XP", "vista": "Windows Vista", "7": "Windows 7", "8": "Windows 8"},
    **{"8.1": "Windows 8.1", "10": "Windows 10", "11": "Windows 11"},
}


def possible_sockets(sizes: Sequence[int]) -> list[int]:
    """Return the numbers of sockets that cells of so many cores can have, ascending."""
    cores = sum(sizes)
    return [
        count
        for count in range(1, cores + 1)
        if cores % count == 0 and nests(sizes, cores // count)
    ]


def nests(sizes: Sequence[int], per_socket: int) -> bool:
    """Tell whether sockets of so many cores hold whole cells, or are whole parts of one.

    All is in cores; *per_socket* has to divide the cores of all cells.
    """
    first = 0
    for size in sizes:
        last = first + size
        is_inside = first // per_socket == (last - 1) // per_socket
        if not is_inside and (first % per_socket or last % per_socket):
            return False
        first = last
    return True


def socket_cores(
    guest: Guest,
    host: Host,
    policy: Policy,
    backing: Sequence[Node | None],
    cells: Sequence[Ids],
    plain: Topology,
) -> int:
    """Return how many cores each socket of a PC's guest has.

    With ``auto`` a guest that has been partitioned keeps its sockets for as long as its cells stay:
    the default must not ask for a cold start.

    *plain* is its CPU topology with a socket for each cell, or for each part that they share.

    Raises:
        LayoutError: when the sockets that are asked for would straddle cells; with those that would
            not.
    """
    sizes = [len(vcpus) // plain.threads for vcpus in cells]
    cores = sum(sizes)
    if policy.sockets == CELLS:
        return plain.cores
    if isinstance(policy.sockets, int):
        if cores % policy.sockets or not nests(sizes, cores // policy.sockets):
            raise LayoutError(_no_such_sockets(policy.sockets, sizes, plain.threads))
        return cores // policy.sockets
    kept = _kept_sockets(guest, cells, plain)
    if kept and cores % kept == 0 and nests(sizes, cores // kept):
        return cores // kept
    count = 0 if policy.migration_group else _sockets_of_host(backing, sizes)
    if not count or not shares_sockets(guest, host):
        return plain.cores
    return cores // count


def shares_sockets(guest: Guest, host: Host) -> bool:
    """Tell whether a guest's kernel was seen to take several cells in one socket.

    On KVM every model has the host's vendor (x86_cpu_load_model, target/i386/cpu.c in QEMU).
    """
    is_copy = guest.cpu_mode not in ("", "custom")
    if guest.kind == "qemu":
        return not is_copy and guest.cpu_model.startswith(_SEEN_CLEAN)
    if host.cpu_vendor != "Intel":
        return False
    if is_copy:
        is_seen = host.cpu_model.startswith(_SEEN_CLEAN)
        return is_seen and not host.cpu_model.startswith(_SEEN_TO_COMPLAIN)
    return guest.cpu_model.startswith(_SEEN_CLEAN)


def licence_warnings(
    guest: Guest, policy: Policy, topology: Topology, cells: Sequence[Ids]
) -> Iterator[str]:
    """Yield which sockets a Windows client leaves idle, by what libosinfo's metadata says it is."""
    head, sign, tail = guest.os_id.partition(_CLIENT_IDS)
    name = _CLIENTS.get(tail) if sign and not head else None
    if name is None or topology.sockets <= MOST_CLIENT_SOCKETS:
        return
    possible = possible_sockets([len(vcpus) // topology.threads for vcpus in cells])
    remedy = (
        f"set distribution to 'contiguous' and sockets to {MOST_CLIENT_SOCKETS}"
        if policy.distribution != "contiguous"
        else f"set sockets to {MOST_CLIENT_SOCKETS}"
        if MOST_CLIENT_SOCKETS in possible
        else f"set sockets to {MOST_CLIENT_SOCKETS}, and nodes or cells so that its cores divide "
        "over them"
    )
    yield (
        f"it runs {name} by its libosinfo metadata, which uses at most {MOST_CLIENT_SOCKETS} "
        f"sockets (Home editions 1), and it has {topology.sockets}: the vCPUs of the others stay "
        f"idle; {remedy}."
    )


def _kept_sockets(guest: Guest, cells: Sequence[Ids], plain: Topology) -> int:
    """Return how many sockets a guest has whose cells stay as they are, 0 for another guest."""
    had = guest.partition
    if had is None or had.cells != tuple(cells) or had.topology.threads != plain.threads:
        return 0
    return had.topology.sockets


def _sockets_of_host(backing: Sequence[Node | None], sizes: Sequence[int]) -> int:
    """Return on how many host sockets the cells are, 0 where guest sockets cannot mirror them.

    They can where the cells of each host socket follow one another, and have as many cores as
    those of every other.
    """
    ids = [node.socket_ids if node is not None else () for node in backing]
    if any(len(sockets) != 1 for sockets in ids):
        return 0
    runs = [
        (socket, sum(size for _id, size in run))
        for socket, run in groupby(zip(ids, sizes), key=lambda cell: cell[0])
    ]
    follow = len({socket for socket, _cores in runs}) == len(runs)
    return len(runs) if follow and len({cores for _socket, cores in runs}) == 1 else 0


def _no_such_sockets(sockets: int, sizes: Sequence[int], threads: int) -> str:
    cores = sum(sizes)
    of = f"{cores} cores of {threads} thread{'s' if threads > 1 else ''}"
    possible = ", ".join(map(str, possible_sockets(sizes)))
    each = str(sizes[0]) if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    return (
        f"sockets {sockets} is not possible for {of} in {len(sizes)} "
        f"cell{'s' if len(sizes) > 1 else ''} of {each} core{'s' if each != '1' else ''}: a socket "
        f"holds whole cells, or an equal part of one; set sockets to one of {possible}, or change "
        "nodes, cells or threads."
    )


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
        if version and release(version) < first:
            raise LayoutError(
                f"its host has {name} {version}, and dies came with {name} {first[0]}.{first[1]}; "
                f"upgrade {name}, or set dies to 'none'."
            )
    if guest.kind == "qemu" and release(host.hypervisor_version) >= _FIRST_THAT_CRASHES:
        raise LayoutError(
            f"its host has QEMU {host.hypervisor_version}, whose emulation crashes while a guest "
            "with several dies boots; use KVM (domain type 'kvm'), or set dies to 'none'."
        )


def die_cores(
    sizes: Sequence[int],
    divisor: int,
    backing: Sequence[Node | None],
    policy: Policy,
    threads: int,
) -> int:
    """Return how many cores each die has, so that each fits one cache domain; 0 where none does.

    Dies are all of one size, as large as possible: the fewest that the domains allow.

    *divisor* is what a die has to divide: the cores of each cell and of each socket.
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
            "one die each; set dies to 'none' to silence this warning."
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

    A guest core needs as many threads of a host core where it has that for itself. With
    *all_threads* guest cores may share a host core, as ``pinning: cpu`` has them do where a node
    has fewer cores than they are.
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
    if lacks_topoext(guest, host):
        yield (
            f"{told} on this {host.cpu_vendor} host; add <feature policy='require' "
            "name='topoext'/> to its <cpu>, or set dies to 'none'."
        )
    if guest.cache_mode in ("disable", "passthrough"):
        yield (
            f"{told}, because its <cpu> has <cache mode='{guest.cache_mode}'/>; remove that, or "
            "set dies to 'none'."
        )
    machine = re.fullmatch(r"pc-(?:i440fx-|q35-)?([0-9]+)\.([0-9]+)", guest.machine, re.ASCII)
    if machine and (int(machine[1]), int(machine[2])) <= _LAST_WITHOUT_L3:
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
