# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy options, which vnuma_partition, the role and the filter share."""

from __future__ import annotations


class ModuleDocFragment:
    """How guests are partitioned."""

    DOCUMENTATION = r"""
options:
  state:
    description:
      - V(present) partitions the guests.
      - V(absent) restores the managed elements exactly as they were before the first partition. A
        guest that was never partitioned is not changed.
    type: str
    choices: [present, absent]
    default: present
  nodes:
    description:
      - Host nodes to use, V(all), V(auto) or a nodeset such as V(0-3,^2).
      - V(all) means every node with online pCPUs and memory. The others are named in the warnings.
      - A nodeset may name nodes with pCPUs and without memory. Memory of such a node's cell is
        bound to the nearest node that has some, and the distances inside say so.
      - V(auto) chooses the fewest nodes that can hold the guest, and the nearest of these, beside
        all other guests of the host, whether they run or are off. A guest that is placed stays. On
        one node a guest gets pins and a memory binding, and keeps its own CPU topology and cells,
        so that nothing changes that its kernel sees; O(cells=1) gives it a cell all the same.
    type: str
    default: all
  auto_nodes:
    description:
      - Nodes that O(nodes=auto) may choose from, as a nodeset. By default every eligible one.
    type: str
    version_added: 1.1.0
  placement:
    description:
      - What O(nodes=auto) does among nodes that hold a guest equally well. V(pack) keeps nodes free
        as a whole for guests to come, V(spread) leaves each as free as it can.
    type: str
    choices: [pack, spread]
    default: pack
    version_added: 1.1.0
  widen:
    description:
      - Whether O(nodes=auto) may put a guest on more nodes than the fewest that can hold it, where
        no set of so few is free.
    type: bool
    default: false
    version_added: 1.1.0
  cpu_overcommit:
    description:
      - How many guest cores O(nodes=auto) puts on each host core, for O(pinning=node),
        O(pinning=cache) and O(pinning=none), and how many O(pinning=cache) puts on those of one
        cache. Cores are counted, and not threads; the threads of one guest core are one. From 1 to
        64, with at most three decimals.
    type: float
    default: 1.0
    version_added: 1.1.0
  reserved_memory_mib:
    description:
      - Memory of every node that O(nodes=auto) leaves to the host itself, in MiB.
    type: int
    default: 1024
    version_added: 1.1.0
  device_locality:
    description:
      - Whether O(nodes=auto) puts a guest on the host nodes of its passed-through PCI devices.
        V(prefer) does where they have room, and says what it missed; V(require) refuses the guest
        otherwise; V(ignore) does not look at devices.
    type: str
    choices: [prefer, require, ignore]
    default: prefer
    version_added: 1.1.0
  cells:
    description:
      - Number of guest cells. By default there is one for each chosen host node, and none of ours
        for a guest that O(nodes=auto) puts on one node.
      - There may be more cells than nodes; cell C(i) is backed by chosen node C(i mod n).
    type: int
  vcpus:
    description:
      - vCPUs that the guest is to have at most, all of them split over its cells anew. By default
        it keeps those that it has.
      - Where all vCPUs are online at boot, all will be. Where some are left for hotplug, those that
        are online stay so, and new ones are offline.
      - Leaving it out later changes nothing; O(state=absent) restores the number from before it was
        first set.
    type: int
    version_added: 1.1.0
  memory:
    description:
      - Memory that the guest's cells are to share, as an integer with a unit such as V(32 GiB);
        split over the cells anew. Memory devices (DIMMs) come on top of it. By default the guest
        keeps what it has.
      - A guest that is ballooned to less than it has stays at that; every other one gets all of it.
      - Leaving it out later changes nothing; O(state=absent) restores the size from before it was
        first set.
    type: str
    version_added: 1.1.0
  distribution:
    description:
      - How vCPUs are assigned to the cells.
      - V(contiguous) assigns whole cores in order, so that neither core nor socket straddles cells.
      - V(interleave) assigns vCPU C(i) to cell C(i mod n), each vCPU its own socket.
      - V(round_robin) assigns vCPU C(i) to cell C(i mod n) with one socket per cell and the host's
        threads, as the libvirt RFC of September 2018 did. A Linux guest logs a warning and ignores
        its SMT siblings; the module warns too.
    type: str
    choices: [contiguous, interleave, round_robin]
    default: contiguous
  split:
    description:
      - How large the cells are. V(even) makes them equal. V(proportional) splits vCPUs by the
        usable cores of the host nodes and memory by their memory (hugepages by their pools), in
        whole cores and granules, for hosts with nodes of unequal size.
    type: str
    choices: [even, proportional]
    default: even
    version_added: 1.1.0
  threads:
    description:
      - Threads of a guest core, V(auto) or a number.
      - V(auto) takes the host's SMT width, or one thread where whole cores cannot fill every cell.
    type: str
    default: auto
  dies:
    description:
      - V(host) gives the guest dies that mirror the host's cache domains, so that its kernel knows
        which of its cores share an L3 cache. All cores of a die are pinned within one cache domain,
        and no die straddles cells. It needs O(pinning=core) or another that keeps to cache domains,
        and an x86 guest.
      - Dies are of one size, as large as cells and domains allow. Where no size of several cores
        does, sockets have one die each, and a warning has the figures.
    type: str
    choices: [none, host]
    default: none
    version_added: 1.1.0
  sockets:
    description:
      - Sockets of the guest, V(auto), V(cells) or a number. No socket straddles cells, though it
        may hold several.
      - V(auto) is one for each host socket that the guest's nodes are on, where its cells divide
        evenly over them and a guest's kernel was seen to take it without complaint (Intel's
        processors), otherwise V(cells). A guest that has been partitioned keeps its sockets for as
        long as its cells stay.
      - V(cells) is one for each cell where cells are of equal size, otherwise as many of equal size
        as fill each cell.
    type: str
    default: auto
    version_added: 1.1.0
  pinning:
    description:
      - What each vCPU is pinned to.
      - V(node) is every online, unreserved pCPU of its cell's host node, without isolated ones
        (C(isolcpus=)), over which the host's scheduler does not spread threads.
      - V(cache) is those of one L3 cache of that node, such as a CCX, shared with other guests. A
        cell gets the fewest caches that hold its cores within O(cpu_overcommit), and of these the
        ones with the fewest guest cores, by the definitions of all guests of the host. A guest that
        sits well stays. Where the host lists no caches this is as V(node), with a warning.
      - V(core) pins the threads of a guest core to the sibling threads of one host core, and V(cpu)
        pins every vCPU to a pCPU of its own. No two guests with such pins share a pCPU, and a guest
        whose pins are right already keeps them. What they own is in no pins of other guests of the
        call. Isolated pCPUs are taken first.
      - With V(cpu) a guest gets whole cores first, and no two guests share a core while one is
        whole.
      - V(keep) leaves the pins of the vCPUs as they are.
      - V(none) removes the pins of the vCPUs, those made by hand too, and also in a running guest.
    type: str
    choices: [node, cache, core, cpu, none, keep]
    default: node
  memory_mode:
    description:
      - Mode of the memory binding of every cell to its host node; V(none) for no binding, which
        removes one that was made by hand.
      - With V(strict) memory comes from that node or not at all. A guest whose hugepages, or locked
        memory, do not fit there does not start. With V(preferred) its memory is then taken from
        other nodes.
    type: str
    choices: [strict, preferred, restrictive, none]
    default: strict
  granule_kib:
    description:
      - Smallest unit that memory is split in, in KiB. By default 1024 (262144 on ppc64), or the
        size of the guest's hugepages. It must be a multiple of that.
    type: int
    version_added: 1.1.0
  distances:
    description:
      - V(host) copies the distances of the host nodes; V(none) writes none.
      - A matrix, row by row and with a row for each cell, such as V([[10, 21], [21, 10]]), is taken
        as it is. Each value is 10 from a cell to itself, and 11 to 254 to every other.
    type: raw
    default: host
  migration_group:
    description:
      - Hosts that the guest is to be able to move to while it runs; a dictionary of
        C(ansible_facts.vnuma_host) by name of the host, with or without its own host.
      - The guest gets the shape that all of them can back, which is the most cells that a number of
        nodes of each host divides equally and holds (the fewest with O(nodes=auto)), with threads,
        granule and distances in common. O(cells), O(threads), O(granule_kib) and O(distances) that
        are given are kept. Where the hosts differ, each pair of cells gets the largest of their
        distances, both ways.
      - A guest keeps its shape for as long as every host of the group can back it, and a host that
        cannot is refused before anything is written.
    type: raw
    version_added: 1.1.0
  emulator_pinning:
    description:
      - What the emulator's own threads are pinned to. V(none) leaves that as it is, V(nodes) is
        every chosen node's pCPUs, and a cpuset such as V(0-1) is taken as given, even where it
        names O(reserved_cpus).
    type: str
    default: none
  iothread_pinning:
    description:
      - What the iothreads are pinned to. V(none) leaves that as it is, V(nodes) is the pCPUs of the
        chosen nodes in turn, and a cpuset such as V(0-1) is taken as given for all of them.
      - Beside O(pinning=core) and O(pinning=cpu), V(nodes) means those pCPUs of the nodes that no
        vCPU owns, O(reserved_cpus) included.
    type: str
    default: none
  reserved_cpus:
    description:
      - pCPUs that no vCPU is ever pinned to, as a cpuset such as V(0,120). V(isolated), alone or in
        such a list, means those that the host's kernel isolates.
    type: str
  cpu_mode:
    description:
      - V(host-passthrough) sets that CPU mode; V(keep) leaves the guest's own.
    type: str
    choices: [keep, host-passthrough]
    default: keep
  remainder:
    description:
      - Whether vCPUs and memory that do not divide evenly may be spread, so that cells differ by at
        most one core and one granule of memory. V(fail) refuses such a guest.
    type: str
    choices: [spread, fail]
    default: spread
"""
