# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy options, which vnuma_partition, its guests, the role and the filters share.

The texts are here and nowhere else: those of the guests' own options are made below, and those of
the role by tests/tools/role_spec.py.
"""

from __future__ import annotations

from typing import Any

import yaml


def _guests(policy: str) -> str:
    """Return the documentation of ``guests``: a name, and each policy option to override."""
    options: dict[str, dict[str, Any]] = yaml.safe_load(policy)["options"]
    typed = ("type", "elements", "choices")
    entry: dict[str, dict[str, Any]] = {
        "name": {
            "description": [
                "Name, UUID, or shell pattern such as V(db*).",
                "A name wins over a UUID, and both win over patterns; of two patterns the first "
                "wins. A name that matches nothing is an error, a pattern that matches nothing a "
                "warning.",
            ],
            "type": "str",
            "required": True,
        }
    }
    for name, option in options.items():
        types = {key: option[key] for key in typed if key in option}
        entry[name] = {"description": [f"Overrides O({name})."], **types}
    guests = {
        "description": [
            "The guests to handle. Any policy option can be overridden for a guest.",
        ],
        "type": "list",
        "elements": "dict",
        "required": True,
        "suboptions": entry,
    }
    return str(yaml.safe_dump({"options": {"guests": guests}}, sort_keys=False))


class ModuleDocFragment:
    """How guests are partitioned."""

    #: Every policy option, in the three groups that tables have.
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
      - V(all) means every node with online pCPUs and memory. The module names the others in its
        warnings. A guest with fewer vCPUs than nodes is refused.
      - V(auto) is for guests that are smaller than the host. It gives each guest the fewest nodes
        that hold it, nearest first, and counts all other guests of the host, whether they run or
        are off. A guest that has such nodes keeps them. A guest on one node gets pins and a memory
        binding only. Its CPU topology and cells stay as they are, so that its kernel sees no
        difference. With O(cells=1) it gets a cell.
      - A nodeset may name a node that has pCPUs and no memory. The memory of its cell is bound to
        the nearest node with memory, and the distances in the guest say so.
    type: str
    default: all
  pinning:
    description:
      - What each vCPU is pinned to.
      - V(node) is every online pCPU of its cell's host node, without O(reserved_cpus), isolated
        pCPUs (C(isolcpus=)) and pCPUs that another guest owns.
      - V(cache) is the pCPUs of one L3 cache of that node, such as a CCX, shared with other guests.
        A cell gets the fewest caches that hold its cores within O(cpu_overcommit), and the least
        used of these. A guest that already fits its caches keeps them. If the host lists no caches,
        this is like V(node), with a warning.
      - V(core) pins the threads of a guest core to the sibling threads of one host core. V(cpu)
        pins every vCPU to a pCPU of its own; a guest gets whole cores first, and no two guests
        share a core while one is whole. With both, no two guests share a pCPU, and no other guest
        of the call is pinned to what they own. Isolated pCPUs are taken first. A guest whose pins
        are right keeps them.
      - V(keep) leaves the pins of the vCPUs as they are.
      - V(none) removes the pins of the vCPUs, those made by hand included, also in a running guest.
    type: str
    choices: [node, cache, core, cpu, none, keep]
    default: node
  reserved_cpus:
    description:
      - pCPUs that no vCPU is ever pinned to, as a cpuset such as V(0,120). V(isolated), alone or in
        such a list, means those that the host's kernel isolates.
    type: str
  memory_mode:
    description:
      - Mode of the memory binding of every cell to its host node.
      - With V(strict) memory comes from that node or not at all. A guest whose hugepages, or locked
        memory, do not fit there does not start. If the node is full later, the host's OOM killer
        may kill the guest.
      - With V(preferred) memory is taken from other nodes if that node has none left.
      - V(restrictive) is like V(strict), but enforced by the guest's cgroup alone. A running guest
        without cells can then be moved to another node with its memory.
      - V(none) binds nothing, and removes a binding that was made by hand.
    type: str
    choices: [strict, preferred, restrictive, none]
    default: strict
  vcpus:
    description:
      - The number of vCPUs of the guest, those for hotplug included. All of them are split over its
        cells again. By default the guest keeps its number.
      - If all vCPUs were online at boot, all will be. If some were kept for hotplug, those that are
        online stay online, and new ones are offline.
      - Removing the option later changes nothing. O(state=absent) restores the number from before
        it was first set.
    type: int
    version_added: 2.0.0
  memory:
    description:
      - Memory that the guest's cells share, as an integer with a unit such as V(32 GiB). It is
        split over the cells again. Memory devices (DIMMs) come on top of it. By default the guest
        keeps its memory.
      - A guest that is ballooned to less than its memory stays at that. Any other guest gets all of
        it.
      - Removing the option later changes nothing. O(state=absent) restores the size from before it
        was first set.
    type: str
    version_added: 2.0.0
  cpu_overcommit:
    description:
      - How many guest cores share a host core, for O(pinning=node), O(pinning=cache) and
        O(pinning=none). O(nodes=auto) and migration groups apply it to nodes, O(pinning=cache) to
        caches. Cores are counted, not threads. If guests on a node have different values, the
        lowest applies.
      - From 1 to 64, with at most three decimals.
    type: float
    default: 1.0
    version_added: 2.0.0
  device_locality:
    description:
      - Whether the host nodes of the guest's passed-through PCI devices matter.
      - With V(prefer), O(nodes=auto) takes these nodes if they have room. If a guest is on other
        nodes, a warning says so.
      - V(require) refuses a guest that is not on all of them.
      - V(ignore) does not look at devices.
    type: str
    choices: [prefer, require, ignore]
    default: prefer
    version_added: 2.0.0
  devices:
    description:
      - Whether passed-through PCI devices are put on the cells that mirror their host nodes.
      - With V(keep), devices stay where they are in the guest, and its kernel is told no node of
        them.
      - V(host) gives the guest an expander bus for each host node and root complex that has devices
        of it, and puts each device behind a root port there. The device gets another PCI address in
        the guest, so a network interface that is named by its address gets another name.
      - It takes effect at the guest's next cold start. O(state=absent), or leaving the option out
        again, puts devices back where they were.
      - It needs cells, ACPI, and a machine type C(q35), or C(virt) on aarch64. A device that cannot
        be put on a cell stays where it is, with a warning; O(device_locality=require) refuses the
        guest then.
    type: str
    choices: [keep, host]
    default: keep
    version_added: 2.0.0
  threads:
    description:
      - Threads of a guest core, V(auto) or a number.
      - V(auto) takes the host's SMT width, or one thread if whole cores cannot fill every cell.
    type: str
    default: auto
  dies:
    description:
      - V(host) gives the guest dies that mirror the host's cache domains, so that its kernel knows
        which of its cores share an L3 cache. All cores of a die are pinned within one cache domain,
        and no die straddles cells. It requires O(pinning=core), O(pinning=cpu) or O(pinning=cache),
        and an x86 guest.
      - All dies have the same size, as large as cells and domains allow. If no size of several
        cores fits, sockets have one die each, and a warning has the figures.
    type: str
    choices: [none, host]
    default: none
    version_added: 2.0.0
  sockets:
    description:
      - Sockets of the guest, V(auto), V(cells) or a number. No socket straddles cells, though a
        socket may hold several cells.
      - V(auto) is one for each host socket that the guest's nodes are on, if its cells divide
        evenly over them and a guest's kernel is known to accept that without complaint (Intel's
        processors). Otherwise it is like V(cells). A partitioned guest keeps its sockets while its
        cells stay.
      - V(cells) is one for each cell if cells have the same size, otherwise as many sockets of one
        size as fill each cell.
    type: str
    default: auto
    version_added: 2.0.0
  split:
    description:
      - How large the cells are.
      - With V(even) cells differ by at most one core and one granule of memory.
      - V(equal) refuses a guest whose vCPUs or memory do not divide evenly over its cells.
      - V(proportional) splits vCPUs by the usable cores of the host nodes and memory by their
        memory (hugepages by their pools), in whole cores and granules. It is for hosts with nodes
        of unequal size.
    type: str
    choices: [even, equal, proportional]
    default: even
    version_added: 2.0.0
  migration_group:
    description:
      - Names of the hosts that the guest can move to while it runs, with or without its own host.
        The topology of each is needed too.
      - The guest gets a shape that fits all of them. That is the most cells that spread evenly over
        some nodes of each host and have room there (the fewest with O(nodes=auto)), with threads,
        granule and distances in common. O(cells), O(threads), O(granule) and O(distances) are used
        as they are given. If the hosts differ, each pair of cells gets the largest of their
        distances, both ways.
      - A guest keeps its shape while it fits every host of the group. If it does not fit one, the
        module refuses the guest before it writes anything.
    type: list
    elements: str
    version_added: 2.0.0
  emulator_pinning:
    description:
      - What the emulator's own threads are pinned to.
      - V(keep) leaves their pins as they are. V(none) removes them.
      - V(nodes) is every chosen node's pCPUs, without those that vCPUs own.
      - A cpuset such as V(0-1) is taken as given, even if it names O(reserved_cpus).
    type: str
    default: keep
  iothread_pinning:
    description:
      - What the iothreads are pinned to.
      - V(keep) leaves their pins as they are. V(none) removes them.
      - V(nodes) is the pCPUs of the chosen nodes in turn, without those that vCPUs own. With
        O(pinning=core) and O(pinning=cpu) it includes O(reserved_cpus).
      - A cpuset such as V(0-1) is taken as given for all of them.
    type: str
    default: keep
  auto_nodes:
    description:
      - Nodes that O(nodes=auto) may choose from, as a nodeset. By default every node with online
        pCPUs and memory.
    type: str
    version_added: 2.0.0
  placement:
    description:
      - What O(nodes=auto) does among nodes that hold a guest equally well. V(pack) keeps whole
        nodes free for guests to come. V(spread) leaves each node as free as it can.
    type: str
    choices: [pack, spread]
    default: pack
    version_added: 2.0.0
  widen:
    description:
      - Whether O(nodes=auto) may put a guest on more nodes than the fewest that can hold it, if no
        set of so few is free.
    type: bool
    default: false
    version_added: 2.0.0
  reserved_memory:
    description:
      - Memory of every node that O(nodes=auto) and migration groups leave to the host itself, with
        a unit such as V(1 GiB).
    type: str
    default: 1 GiB
    version_added: 2.0.0
  cells:
    description:
      - Number of guest cells. By default one for each chosen host node. A guest that O(nodes=auto)
        puts on one node gets none.
      - There may be more cells than nodes. Cell C(i) is backed by chosen node C(i mod n).
    type: int
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
  granule:
    description:
      - Smallest unit that memory is split in, with a unit such as V(1 GiB). By default 1 MiB (256
        MiB on ppc64), or the size of the guest's hugepages. It must be a multiple of that.
    type: str
    version_added: 2.0.0
  distances:
    description:
      - V(host) copies the distances of the host nodes. V(none) writes none.
      - A matrix, row by row and with a row for each cell, such as V([[10, 21], [21, 10]]), is used
        as it is. Each value is 10 from a cell to itself, and 11 to 254 to every other.
    type: raw
    default: host
"""

    #: The guests of a call.
    GUESTS: str = _guests(DOCUMENTATION)

    #: Other hosts, for those who may have a migration group.
    TOPOLOGIES = r"""
options:
  topologies:
    description:
      - Topologies of the hosts that O(migration_group) names, by name; each as
        C(ansible_facts.vnuma_host).
    type: dict
    version_added: 2.0.0
"""
