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
      - Host nodes to use, V(all) or a nodeset such as V(0-3,^2).
      - V(all) means every node with online pCPUs and memory. The others are named in the warnings.
    type: str
    default: all
  cells:
    description:
      - Number of guest cells. By default there is one for each chosen host node.
      - There may be more cells than nodes; cell C(i) is backed by chosen node C(i mod n).
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
  threads:
    description:
      - Threads of a guest core, V(auto) or a number.
      - V(auto) takes the host's SMT width, or one thread where whole cores cannot fill every cell.
    type: str
    default: auto
  pinning:
    description:
      - What each vCPU is pinned to.
      - V(node) is every online, unreserved pCPU of its cell's host node.
      - V(core) pins the threads of a guest core to the sibling threads of one host core, and V(cpu)
        pins every vCPU to a pCPU of its own. No two guests of the host share those, and a guest
        whose pins are right already keeps them.
      - V(none) leaves the vCPUs unpinned.
    type: str
    choices: [node, core, cpu, none]
    default: node
  memory_mode:
    description:
      - Mode of the memory binding of every cell to its host node; V(none) for no binding.
      - With V(strict) memory comes from that node or not at all. A guest whose hugepages, or locked
        memory, do not fit there does not start. With V(preferred) its memory is then taken from
        other nodes.
    type: str
    choices: [strict, preferred, restrictive, none]
    default: strict
  distances:
    description:
      - V(host) copies the distances of the host nodes; V(none) writes none.
    type: str
    choices: [host, none]
    default: host
  emulator_pinning:
    description:
      - What the emulator's own threads are pinned to. V(none) leaves that as it is, V(nodes) is
        every chosen node's pCPUs, and a cpuset such as V(0-1) is taken as given, even where it
        names O(reserved_cpus).
    type: str
    default: none
  iothread_pinning:
    description:
      - V(nodes) pins the iothreads to the chosen nodes in turn; V(none) leaves them as they are.
    type: str
    choices: [none, nodes]
    default: none
  reserved_cpus:
    description:
      - pCPUs that no vCPU is ever pinned to, as a cpuset such as V(0,120).
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
