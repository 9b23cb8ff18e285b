# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the text of ``virsh capabilities`` to a host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .._cpuset import MAX_ID, Ids, parse_cpuset, whole_number
from .._errors import CpusetError, HostError
from .._model.host import (
    BASE_PAGE_KIB,
    Host,
    HugepagePool,
    Node,
    default_hugepage_kib,
    host_from_facts,
)
from .xml import Element, elements, parse_xml


def read_host(given: object) -> Host:
    """Read a host that is given as the text of its capabilities, or else as its facts.

    Raises:
        HostError: when it is neither.
    """
    return parse_capabilities(given) if isinstance(given, str) else host_from_facts(given)


def parse_capabilities(text: str) -> Host:
    """Read a host's topology from libvirt's capabilities (docs/formatcaps).

    Versions, free memory and free pages are not in there; whoever has a connection adds them.

    Raises:
        HostError: when the text is no capabilities document.
    """
    root = parse_xml(text, "capabilities", HostError, "capabilities document")
    host = root.find("host")
    if host is None:
        raise HostError(
            "the capabilities document has no <host>; give the complete output of 'virsh "
            "capabilities'."
        )
    arch = host.findtext("cpu/arch") or ""
    # <host><cpu> has a <topology> of its own, which is about sockets and cores.
    cells = (
        [] if host.find("topology/cells") is None else elements(host.find("topology/cells"), "cell")
    )
    sizes = sorted(
        _integer(page.get("size"), "page size")
        for page in elements(host.find("cpu"), "pages")
        if page.get("unit", "KiB") == "KiB"
    )
    caches = [_cache_cpus(bank) for bank in host.iterfind("cache/bank[@level='3']")]
    nodes = tuple(
        sorted((_node(cell, sizes[:1], caches) for cell in cells), key=lambda node: node.id)
    )
    usual = default_hugepage_kib(arch, sizes[0] if sizes else BASE_PAGE_KIB)
    return Host(
        nodes=nodes,
        arch=arch,
        cpu_vendor=host.findtext("cpu/vendor") or "",
        cpu_model=host.findtext("cpu/model") or "",
        # The usual size, unless this host cannot have it: then the smallest it has.
        hugepage_default_kib=usual if usual in sizes or len(sizes) < 2 else sizes[1],
    )


def _cache_cpus(bank: Element) -> frozenset[int]:
    """Return the pCPUs that share a cache.

    Raises:
        HostError: when they cannot be read.
    """
    try:
        return frozenset(parse_cpuset(bank.get("cpus", "")))
    except CpusetError as error:
        raise HostError(f"cache bank {bank.get('id')}: {error.message}") from error


def _node(cell: Element, base_page: list[int], caches: list[frozenset[int]]) -> Node:
    node_id = _id(cell.get("id"), "cell id")
    threads: dict[int, tuple[int, ...]] = {}
    sockets: set[int] = set()
    for cpu in elements(cell.find("cpus"), "cpu"):
        number = _id(cpu.get("id"), "cpu id")
        # An offline pCPU is listed by its id alone.
        if cpu.get("socket_id") is None and cpu.get("siblings") is None:
            continue
        # Some firmware does not number its sockets; the kernel says -1 then.
        socket = whole_number(cpu.get("socket_id") or "")
        sockets.update(() if socket is None else (socket,))
        try:
            threads[number] = parse_cpuset(cpu.get("siblings") or str(number))
        except CpusetError as error:
            raise HostError(f"host node {node_id}, pCPU {number}: {error.message}") from error
    return Node(
        id=node_id,
        cpus=tuple(sorted(threads)),
        memory_kib=_integer(cell.findtext("memory") or "0", f"memory of host node {node_id}"),
        hugepages=tuple(
            HugepagePool(
                size_kib=_integer(page.get("size"), "page size"),
                total=_integer(page.text or "0", "pages"),
            )
            for page in elements(cell, "pages")
            if _integer(page.get("size"), "page size") not in base_page
        ),
        distances=tuple(
            sorted(
                (_id(one.get("id"), "sibling id"), _integer(one.get("value"), "distance"))
                for one in elements(cell.find("distances"), "sibling")
            )
        ),
        cores=_cores(threads),
        socket_ids=tuple(sorted(sockets)),
        cache_domains=_cache_domains(caches, threads),
    )


def _cache_domains(caches: Sequence[frozenset[int]], threads: Iterable[int]) -> tuple[Ids, ...]:
    """Return the cache domains of a node, every pCPU in one of them at most.

    With sub-NUMA clustering several nodes share a cache: each has its part of the pCPUs. Firmware
    that numbers caches by pCPU has libvirt list one several times, and each time all of its pCPUs
    (seen with QEMU's EPYC models): who comes first is believed.
    """
    left = set(threads)
    domains = []
    for cpus in caches:
        inside = tuple(sorted(cpus & left))
        left.difference_update(inside)
        domains.append(inside)
    return tuple(sorted(filter(None, domains)))


def _cores(siblings: dict[int, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the cores of a node, every pCPU in one of them.

    Siblings may be offline, counted to another node, or disagree among themselves on a kernel
    that was told so; who comes first is believed.
    """
    left = set(siblings)
    cores = []
    for number in sorted(siblings):
        if number in left:
            core = tuple(sorted(left.intersection((number, *siblings[number]))))
            left.difference_update(core)
            cores.append(core)
    return tuple(cores)


def _integer(text: str | None, what: str) -> int:
    number = whole_number(text or "")
    if number is None:
        raise HostError(
            f"the capabilities document has '{text}' as {what}, which must be a number; give the "
            "unmodified output of 'virsh capabilities'."
        )
    return number


def _id(text: str | None, what: str) -> int:
    """Return a number that has to be in a set of them."""
    number = _integer(text, what)
    if number > MAX_ID:
        raise HostError(
            f"the capabilities document has '{text}' as {what}, which is over {MAX_ID}, the "
            "highest id that libvirt supports; give the unmodified output of 'virsh capabilities'."
        )
    return number
