# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many sockets a guest has: one for each that its host has, one for each cell, or so many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from .._errors import LayoutError
from .._model.guest import Guest
from .._model.host import Host, Node
from .._model.layout import Ids, Topology
from .._policy import CELLS, Policy

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

    Args:
        sizes: cores of each cell.
        per_socket: cores of each socket; they have to divide the cores of all cells.
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

    Args:
        guest: the guest.
        host: its host.
        policy: how.
        backing: the host node of each cell.
        cells: the vCPUs of each cell.
        plain: its CPU topology with a socket for each cell, or for each part that they share.

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
    if not count or not shares_sockets(guest, host, policy):
        return plain.cores
    return cores // count


def shares_sockets(guest: Guest, host: Host, policy: Policy) -> bool:
    """Tell whether a guest's kernel was seen to take several cells in one socket.

    On KVM every model has the host's vendor (x86_cpu_load_model, target/i386/cpu.c in QEMU).
    """
    is_copy = policy.cpu_mode != "keep" or guest.cpu_mode not in ("", "custom")
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
