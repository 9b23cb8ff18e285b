# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What in a definition belongs to its host, and what keeps a guest there."""

from __future__ import annotations

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.moving import (
    local_disks,
    names_host,
    networks,
    passed_through,
    stray_cpus,
    visible_differences,
    without_host,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, Node

DEFINITION = """\
<domain type='kvm'>
  <name>db1</name>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static' cpuset='0-9'>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='0-3'/>
    <vcpupin vcpu='1' cpuset='4-7'/>
    <emulatorpin cpuset='0-1'/>
  </cputune>
  <numatune>
    <memory mode='strict' nodeset='0-1'/>
    <memnode cellid='0' mode='strict' nodeset='0'/>
  </numatune>
  <cpu>
    <numa><cell id='0' cpus='0-1' memory='2097152' unit='KiB'/></numa>
  </cpu>
  <devices>
    <disk type='file'><source file='/images/db1.img'/><target dev='vda'/></disk>
    <disk type='network'><source protocol='rbd' name='pool/db1'/><target dev='vdb'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <interface type='network'><source network='storage'/></interface>
    <interface type='hostdev'><source><address type='pci'/></source></interface>
    <hostdev mode='subsystem' type='usb'/>
  </devices>
</domain>
"""


def test_pins_and_bindings_are_the_hosts() -> None:
    """They go, and all that the guest itself is made of stays."""
    definition = read_definition(DEFINITION)
    assert names_host(definition.state)
    bare = without_host(definition)
    assert not names_host(bare.state)
    assert bare.state.cells == definition.state.cells
    assert names_host(definition.state)
    assert visible_differences(definition, bare) == []


def test_what_a_kernel_would_see_change() -> None:
    """Cells do, pins do not."""
    other = read_definition(
        DEFINITION.replace("<numa>", "<nothing>").replace("</numa>", "</nothing>")
    )
    assert visible_differences(read_definition(DEFINITION), other) == [
        "it has 1 cell here and no cells there"
    ]


def test_devices_that_a_target_would_have_to_have() -> None:
    """Files, networks, and devices of the host."""
    root = read_definition(DEFINITION).root
    assert [(disk.target, disk.path) for disk in local_disks(root)] == [("vda", "/images/db1.img")]
    assert networks(root) == ["storage"]
    assert sorted(passed_through(root)) == ["pci", "usb"]


def test_pcpus_that_a_target_lacks() -> None:
    """Each element that names some is told of; a host without topology has no say."""
    root = read_definition(DEFINITION).root
    host = Host(nodes=(Node(id=0, cpus=tuple(range(6)), memory_kib=1 << 20),))
    assert stray_cpus(root, host) == ["<vcpu> 6-9", "<vcpupin> 6-7"]
    assert stray_cpus(root, Host(nodes=())) == []
