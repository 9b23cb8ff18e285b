# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domain definitions that tests start from."""

from __future__ import annotations

from pathlib import Path

#: The guest of the RFC, as far as a machine without its disk can define it.
ANUMA = """\
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='KiB'>{memory_kib}</memory>
  <currentMemory unit='KiB'>{memory_kib}</currentMemory>
  <vcpu placement='static'>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
    <vmport state='off'/>
  </features>
  {cpu}
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='pit' tickpolicy='delay'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <pm>
    <suspend-to-mem enabled='no'/>
    <suspend-to-disk enabled='no'/>
  </pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
  </devices>
</domain>
"""

#: Without KVM libvirt takes neither type='kvm' nor host-passthrough.
HAS_KVM = Path("/dev/kvm").exists()
KIND = "kvm" if HAS_KVM else "qemu"
CPU_MODE = "host-passthrough" if HAS_KVM else "maximum"
PASSTHROUGH = f"<cpu mode='{CPU_MODE}' check='none'/>"
PASSWORD = "s3cr3tvn"

#: A guest with everything that a careless redefine would lose.
RICH = f"""\
<domain type='{KIND}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>rich</name>
  <title>Payroll</title>
  <description>Do not touch</description>
  <metadata>
    <app:owner xmlns:app='https://example.com/app/1'>
      <app:team name='db'>on call: 555 &amp; 556</app:team>
    </app:owner>
  </metadata>
  <memory unit='KiB'>16777216</memory>
  <currentMemory unit='KiB'>8388608</currentMemory>
  <vcpu placement='static' cpuset='0-29'>16</vcpu>
  <iothreads>2</iothreads>
  <cputune>
    <shares>2048</shares>
    <vcpupin vcpu='0' cpuset='0-3'/>
    <vcpupin vcpu='1' cpuset='4,6'/>
    <emulatorpin cpuset='0-1'/>
    <iothreadpin iothread='1' cpuset='5'/>
  </cputune>
  <numatune>
    <memory mode='preferred' nodeset='3'/>
  </numatune>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
  </features>
  <cpu mode='{CPU_MODE}' check='none'>
    <topology sockets='2' cores='8' threads='1'/>
    <feature policy='disable' name='vmx'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' iothread='1'/>
      <source file='/var/lib/libvirt/images/rich.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <graphics type='vnc' port='-1' autoport='yes' passwd='{PASSWORD}'/>
    <video><model type='vga'/></video>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-name'/>
    <qemu:arg value='rich,debug-threads=on'/>
  </qemu:commandline>
</domain>
"""


def anuma(
    name: str = "anuma",
    vcpus: int = 16,
    memory_kib: int = 67108864,
    *,
    kind: str = KIND,
    cpu: str = PASSTHROUGH,
    machine: str = "q35",
) -> str:
    """Return the RFC's guest, or one like it."""
    return ANUMA.format(
        name=name, vcpus=vcpus, memory_kib=memory_kib, kind=kind, cpu=cpu, machine=machine
    )
