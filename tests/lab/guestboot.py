# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that boot in seconds, on KVM or under plain emulation, and say what their kernel sees.

python tests/lab/guestboot.py boot URI NAME VCPUS MEMORY_MIB CONSOLE [--cmdline WORDS]
python tests/lab/guestboot.py report CONSOLE [--boots COUNT]
python tests/lab/guestboot.py files FOLDER
python tests/lab/guestboot.py domain NAME VCPUS MEMORY_MIB CONSOLE --files FOLDER
    [--cmdline WORDS]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import bootstate
from errors import LabError
from guestfiles import initramfs, kernel, put_files

_DOMAIN = """\
<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu placement='static'>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  {cpu}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='{console}' append='on'/>
      <target port='0'/>
    </serial>
    {devices}
    <memballoon model='none'/>
  </devices>
</domain>
"""

# Only panics are shown. Where emulation is slow, the kernel finds that its timer does not work, and
# panics (check_timer, arch/x86/kernel/apic/io_apic.c); and it finds its TSC unstable.
#
# QEMU before 8.1 may lose a change that a kernel makes to its own code while another vCPU comes to
# run it: that vCPU keeps what was there for a moment, a breakpoint (text_poke_bp_batch, in
# arch/x86/kernel/alternative.c), when memory has none any more. kprobe_int3_handler (kprobes/core.c
# there) then starts over, for ever, on every vCPU, and says nothing. QEMU's commit deba78709a,
# "accel/tcg: Always lock pages before translation", ended it. So these kernels have one CPU until
# they have changed their code, and guest_init.sh brings the others up. What would change it later
# is settled before: the clock, when the TSC is found unstable under load, and how all CPUs are
# interrupted, when the last is up (apic_smt_update, apic/ipi.c). What is left is one change where
# siblings come up (sched_smt_present). Emulation by one thread would do, but libvirt refuses pins
# of vCPUs then.
_CMDLINE = (
    "console=ttyS0 quiet loglevel=1 panic=-1 no_timer_check cryptomgr.notests "
    "maxcpus=1 no_ipi_broadcast=1"
)
# Under KVM a kernel has another clock.
_EMULATED_CMDLINE = f"{_CMDLINE} tsc=unstable"
_AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
#: A boot takes 6 s of a CPU; on two CPUs that thirty others wanted, one took 102 s.
_PATIENCE_S = 300.0
# AMD models hide SMT threads without topoext; this one has an Intel vendor under emulation too.
_EMULATED = "<cpu mode='custom' match='exact' check='none'><model>kvm64</model></cpu>"
_PASSTHROUGH = "<cpu mode='host-passthrough' check='none'/>"
# What costs time where virtualization is emulated.
_HURRY = "rcupdate.rcu_expedited=1"
# Half the time of such a boot.
_WITHOUT_PCI = "pci=off"


@dataclass(frozen=True)
class GuestNode:
    """A NUMA node as the guest's kernel sees it."""

    cpus: str
    distances: tuple[int, ...]
    memory_kib: int
    filled_mib: int


@dataclass(frozen=True)
class PciDevice:
    """A PCI device as the guest's kernel sees it.

    Attributes:
        node: its NUMA node, -1 where the kernel was told of none.
        driver: what drives it, '' for nothing.
        mac: that of its network interface, '' where it has none.
    """

    node: int
    driver: str
    mac: str = ""


@dataclass(frozen=True)
class GuestReport:
    """What a guest said on its console.

    Attributes:
        nodes: by id.
        siblings: SMT siblings of each CPU, as a list such as ``0-1``.
        packages: socket of each CPU.
        dies: die of each CPU, within its socket; -1 on an architecture without.
        l3: CPUs that share an L3 cache with each CPU, as a list such as ``0-1``; '' without one.
        complaints: lines of the kernel's log about siblings on different nodes, or about groups of
            CPUs that do not nest (topology_sane and build_sched_domain in Linux).
        log_lines: length of the kernel's log: without one, no complaint means nothing.
        lscpu: what lscpu printed, by line; empty where it was not asked for.
        pci: PCI devices by address; empty where they were not asked for.
    """

    nodes: dict[int, GuestNode]
    siblings: dict[int, str]
    packages: dict[int, int]
    dies: dict[int, int]
    l3: dict[int, str]
    complaints: tuple[str, ...]
    log_lines: int
    lscpu: tuple[str, ...] = ()
    pci: dict[str, PciDevice] = field(default_factory=dict)


def domain_xml(
    name: str,
    vcpus: int,
    memory_mib: int,
    console: Path,
    *,
    kind: str = "qemu",
    cmdline: str = "",
    agent: bool = False,
    kernel_path: Path | None = None,
    initrd_path: Path | None = None,
) -> str:
    """Return the definition of a guest without NUMA.

    Args:
        name: its name.
        vcpus: its vCPUs.
        memory_mib: its memory in MiB.
        console: file that its console is written to.
        kind: ``qemu`` for plain emulation, ``kvm``.
        cmdline: more of the kernel's command line, see guest_init.sh.
        agent: whether it has a channel for an agent, and holds it open.
        kernel_path: its kernel, where that is not this machine's own.
        initrd_path: its file system, likewise.
    """
    image = kernel_path or kernel()
    return _DOMAIN.format(
        kind=kind,
        name=name,
        vcpus=vcpus,
        memory_mib=memory_mib,
        kernel=image,
        initrd=initrd_path or initramfs(image),
        console=console,
        cmdline=" ".join(
            (
                _CMDLINE if kind == "kvm" else _EMULATED_CMDLINE,
                *(["vnuma.agent"] if agent else []),
                cmdline,
            )
        ),
        cpu=_PASSTHROUGH if kind == "kvm" else _EMULATED,
        devices=_AGENT if agent else "",
    )


def nested_domain_xml(
    name: str, vcpus: int, memory_mib: int, console: Path, *, files: Path, cmdline: str
) -> str:
    """Return the definition of a guest without NUMA for KVM on an emulated host.

    Args:
        name: its name.
        vcpus: its vCPUs.
        memory_mib: its memory in MiB.
        console: file on the host that its console is written to.
        files: folder on the host with what put_files puts there.
        cmdline: more of the kernel's command line, see guest_init.sh.
    """
    return domain_xml(
        name,
        vcpus,
        memory_mib,
        console,
        kind="kvm",
        cmdline=" ".join((_HURRY, *([] if "vnuma.pci" in cmdline else [_WITHOUT_PCI]), cmdline)),
        kernel_path=files / "vmlinuz",
        initrd_path=files / "initrd",
    )


def boots(console: Path) -> int:
    """Return how many times a guest has come up, by its console."""
    return _read(console).count("VNUMA-READY")


def wait_for_boots(console: Path, count: int, patience_s: float = _PATIENCE_S) -> None:
    """Wait until a guest has come up so many times.

    Raises:
        TimeoutError: with the end of its console, and where bootstate.keep() put the rest.
    """
    deadline = time.monotonic() + patience_s
    while boots(console) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the guest did not come up ({boots(console)} of {count} times in "
                f"{patience_s:.0f} s); {bootstate.keep(console)}; {console} ends: "
                f"{_read(console)[-800:]}"
            )
        time.sleep(0.1)


def read_report(console: Path) -> GuestReport:
    """Return what a guest said the last time it came up."""
    text = _read(console)
    last = text[text.rindex("VNUMA-BEGIN") :]
    nodes, siblings, packages, dies, l3 = {}, {}, {}, {}, {}
    for line in re.findall(r"^VNUMA (.*)$", last, re.MULTILINE):
        words = dict(word.split("=", 1) for word in line.split())
        if "node" in words:
            nodes[int(words["node"])] = GuestNode(
                cpus=words["cpus"],
                distances=tuple(int(value) for value in words["distances"].split(",")),
                memory_kib=int(words["memory_kib"]),
                filled_mib=int(words["filled_mib"] or 0),
            )
        elif "cpu" in words:
            siblings[int(words["cpu"])] = words["siblings"]
            packages[int(words["cpu"])] = int(words["package"])
            dies[int(words["cpu"])] = int(words["die"] or -1)
            l3[int(words["cpu"])] = words["l3"]
    return GuestReport(
        nodes=dict(sorted(nodes.items())),
        siblings=dict(sorted(siblings.items())),
        packages=dict(sorted(packages.items())),
        dies=dict(sorted(dies.items())),
        l3=dict(sorted(l3.items())),
        complaints=tuple(re.findall(r"^VNUMA-COMPLAINT (.*)$", last, re.MULTILINE)),
        log_lines=int(re.findall(r"^VNUMA lines=(\d+)", last, re.MULTILINE)[-1]),
        lscpu=tuple(re.findall(r"^VNUMA-LSCPU (.*)$", last, re.MULTILINE)),
        pci=_pci(last),
    )


def _pci(text: str) -> dict[str, PciDevice]:
    # An interface is in the folder of its device, or of a virtio device that is in there.
    lines = re.findall(r"^MAC (\S+) .*/(\w{4,}:\w\w:\w\w\.\w)(?:/virtio\d+)?$", text, re.MULTILINE)
    macs = {address: mac for mac, address in lines}
    found = re.findall(r"^PCI (\S+) node (-?\d+) driver (\S+)$", text, re.MULTILINE)
    return {
        address: PciDevice(int(node), "" if driver == "-" else driver, macs.get(address, ""))
        for address, node, driver in found
    }


def _read(console: Path) -> str:
    try:
        return console.read_text(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return ""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Test guests that say what their kernel sees.")
    commands = parser.add_subparsers(dest="command", required=True)
    boot = commands.add_parser("boot", help="define a guest without NUMA, start it, wait for it")
    boot.add_argument("uri")
    boot.add_argument("name")
    boot.add_argument("vcpus", type=int)
    boot.add_argument("memory_mib", type=int)
    boot.add_argument("console", type=Path)
    boot.add_argument("--cmdline", default="")
    files = commands.add_parser("files", help="put a kernel and its file system into a folder")
    files.add_argument("folder", type=Path)
    domain = commands.add_parser("domain", help="print the definition of a KVM guest without NUMA")
    domain.add_argument("name")
    domain.add_argument("vcpus", type=int)
    domain.add_argument("memory_mib", type=int)
    domain.add_argument("console", type=Path)
    domain.add_argument("--files", type=Path, required=True, help="the folder, where it will run")
    domain.add_argument("--cmdline", default="")
    report = commands.add_parser("report", help="print as JSON what a guest saw when it came up")
    report.add_argument("console", type=Path)
    report.add_argument("--boots", type=int, default=1, help="wait until it came up so many times")
    options = parser.parse_args()
    try:
        if options.command == "boot":
            _boot(options)
        elif options.command == "files":
            put_files(options.folder)
        elif options.command == "domain":
            print(
                nested_domain_xml(
                    options.name,
                    options.vcpus,
                    options.memory_mib,
                    options.console,
                    files=options.files,
                    cmdline=options.cmdline,
                )
            )
        else:
            wait_for_boots(options.console, options.boots)
            answer = {**asdict(read_report(options.console)), "boots": boots(options.console)}
            print(json.dumps(answer))
    except (LabError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"guestboot: {error}", file=sys.stderr)
        return 3
    return 0


def _boot(options: argparse.Namespace) -> None:
    options.console.unlink(missing_ok=True)
    definition = options.console.with_suffix(".xml")
    definition.write_text(
        domain_xml(
            options.name,
            options.vcpus,
            options.memory_mib,
            options.console,
            cmdline=options.cmdline,
        )
    )
    virsh = ["virsh", "--quiet", "--connect", options.uri]
    subprocess.run([*virsh, "define", "--validate", str(definition)], check=True)
    subprocess.run([*virsh, "start", options.name], check=True)
    wait_for_boots(options.console, 1)


if __name__ == "__main__":
    sys.exit(main())
