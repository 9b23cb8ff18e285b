# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Emulated NUMA KVM hosts: whole machines with the nodes, pCPUs and distances that are asked for.

    python tests/lab/numahost.py check
    python tests/lab/numahost.py build [--suite NAME]
    python tests/lab/numahost.py start NAME PORT SPEC.json [--suite NAME] [--lan PORT,ADDRESS]
    python tests/lab/numahost.py ssh NAME [COMMAND...] | stop NAME | list

QEMU emulates a processor with AMD's virtualization, so that /dev/kvm, type='kvm', host-passthrough,
pins and memory bindings are real in there, and none of it needs hardware virtualization. It is a
tenth as fast as a real machine, and has no SMT: the emulation cannot show siblings on such a model.

SPEC is a file in tests/lab/numahosts, in the form of those in tests/hosts, or - for the standard
input; nodes have as many pCPUs each, in order, and nodes without come last. PORT 0 is any free one.
With "pci", a list of nodes, the host has an IOMMU, and for each of the list an NVMe disk there that
it can pass through to guests (numapci.py).
Hosts that were given the same UDP port of this machine as their LAN, and addresses in one network
of 256, reach each other at these.
A host's own folder, below VNUMA_LAB, has spec.json, its console serial.log, and an ssh_config that
reaches it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numapci
import pids
import sysfs
from errors import LabError
from fakehost import lab_root
from numaimage import Image

#: Emulation on a busy machine takes as long as it takes; this is for one that has come to a stop.
_PATIENCE_S = 1800.0
_EMULATOR = "qemu-system-x86_64"

# What costs time under emulation, and what a timer that is emulated as a device costs.
_HURRY = (
    "mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 tsc=reliable kvm.halt_poll_ns=0"
)

_SSH_CONFIG = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  HostKeyAlias {name}
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  LogLevel ERROR
"""


def check() -> None:
    """See whether emulated hosts can run here, as far as that can be known without trying.

    Raises:
        LabError: when they cannot.
    """
    for program in (_EMULATOR, "ssh"):
        if shutil.which(program) is None:
            raise LabError(
                f"{program} is missing; run tests/tools/bootstrap.sh, which installs it."
            )
    Image().check()


@dataclass(frozen=True)
class Lan:
    """A network of emulated hosts.

    Attributes:
        port: UDP port of this machine that carries it, by multicast on the loopback interface.
        address: the host's own on it.
    """

    port: int
    address: str

    def card(self) -> list[str]:
        """Return the arguments that give QEMU a card on it."""
        # QEMU's default address is every machine's first card; the init knows this one by its 02.
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))
        where = f"mcast=230.0.0.1:{self.port},localaddr=127.0.0.1"
        return ["-nic", f"socket,model=virtio-net-pci,mac={mac},{where}"]


class NumaHost:
    """One emulated host.

    Args:
        name: its name, also its host name.
        spec: what it looks like; None for one that is running already.
        port: where its sshd is reached on this machine; 0 is any free one.
        suite: release of the distribution in it, by default this machine's own.
        lan: the network that it shares with other emulated hosts, None for none.
    """

    def __init__(
        self,
        name: str,
        spec: dict[str, Any] | None = None,
        port: int = 0,
        suite: str | None = None,
        lan: Lan | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.port = port
        self.suite = suite
        self.lan = lan
        self.folder = lab_root() / "numahosts" / name

    @property
    def pid(self) -> int:
        """Process id of its emulator.

        Raises:
            LabError: when it does not run.
        """
        try:
            return pids.read(self.folder / "pid")
        except ProcessLookupError:
            raise LabError(f"emulated host {self.name} does not run.") from None

    @property
    def ssh_config(self) -> Path:
        """A configuration with which ssh, scp and Ansible reach it by its name."""
        return self.folder / "ssh_config"

    @property
    def serial(self) -> Path:
        """What it said on its console."""
        return self.folder / "serial.log"

    def start(self) -> None:
        """Start it; one of that name that runs is ended first.

        Raises:
            LabError: when it does not come up.
        """
        check()
        assert self.spec is not None
        image = Image(self.suite)
        image.build()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "spec.json").write_text(json.dumps(self.spec))
        port = self.port or _free_port()
        self.ssh_config.write_text(
            _SSH_CONFIG.format(name=self.name, port=port, key=image.key, folder=self.folder)
        )
        (self.folder / "known_hosts").write_text(f"{self.name} {image.host_key}\n")
        pci = self.spec.get("pci", ())
        disks = numapci.disks(pci, len(self.spec["nodes"]), self.folder)
        with (self.folder / "qemu.log").open("w") as log:
            emulator = subprocess.Popen(
                [
                    # Whatever else is tested meanwhile has clocks that run.
                    *("nice", "-n", "10", _EMULATOR, "-name", self.name, *machine(self.spec)),
                    *("-display", "none", "-serial", f"file:{self.serial}", "-no-reboot"),
                    *(numapci.iommu() if pci else []),
                    *_root_disk(image.disk, named=bool(pci)),
                    *("-nic", f"user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:{port}-:22"),
                    *([] if self.lan is None else self.lan.card()),
                    *("-device", "virtio-rng-pci" + (",bus=pcie.0" if pci else "")),
                    *disks,
                    *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
                    "-append",
                    f"console=ttyS0 quiet root=/dev/vda rw init=/usr/sbin/numahost-init {_HURRY} "
                    f"numahost={self.name} lan={self.lan.address if self.lan else ''} "
                    f"{numapci.CMDLINE if pci else ''}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        pids.write(self.folder / "pid", emulator.pid)
        deadline = time.monotonic() + _PATIENCE_S
        while "NUMAHOST-READY" not in (said := self._said()):
            if emulator.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log_text = (self.folder / "qemu.log").read_text()
                raise LabError(
                    f"emulated host {self.name} did not come up: {log_text[-500:]}{said[-500:]}"
                )
            time.sleep(0.2)
        if "NUMAHOST-FAILED" in said:
            self.stop()
            raise LabError(f"emulated host {self.name} is no KVM host: {said[-500:]}")

    def stop(self) -> None:
        """End it as if its power failed; nothing that it wrote is kept."""
        try:
            pid = self.pid
        except LabError:
            return
        os.kill(pid, signal.SIGKILL)
        while not pids.is_gone(pid):
            time.sleep(0.02)
        (self.folder / "pid").unlink(missing_ok=True)

    def ssh_argv(self, argv: Sequence[str] = ()) -> list[str]:
        """Return the command that runs *argv* inside, or a shell."""
        return ["ssh", "-F", str(self.ssh_config), self.name, *argv]

    def ssh(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what came of it; a shell in there reads it."""
        options = {"capture_output": True, "text": True, **options}
        check = options.pop("check", True)
        return subprocess.run(self.ssh_argv(argv), check=check, **options)

    def put(self, source: Path, target: str) -> None:
        """Copy a file into it."""
        subprocess.run(
            ["scp", "-q", "-F", str(self.ssh_config), str(source), f"{self.name}:{target}"],
            check=True,
        )

    def _said(self) -> str:
        try:
            return self.serial.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def __enter__(self) -> NumaHost:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()


def machine(spec: dict[str, Any]) -> list[str]:
    """Return the arguments that give QEMU the nodes of a host.

    Raises:
        LabError: when QEMU has no such machine.
    """
    nodes = spec["nodes"]
    cpus = [sorted(sysfs.parse_list(node["cpus"])) for node in nodes]
    width = max(len(ids) for ids in cpus)
    everything = [cpu for ids in cpus for cpu in ids]
    if (
        [node["id"] for node in nodes] != list(range(len(nodes)))
        or everything != list(range(len(everything)))
        or [len(ids) for ids in cpus] != sorted((len(ids) for ids in cpus), reverse=True)
        or any(len(ids) not in (0, width) for ids in cpus)
    ):
        # Linux numbers nodes as the firmware lists them, and that lists pCPUs before memory.
        raise LabError(
            "an emulated host has nodes from 0, with as many pCPUs each, in order, and after them "
            "those without; change the spec."
        )
    words = []
    for node, ids in zip(nodes, cpus, strict=True):
        memory = f"memory-backend-ram,id=m{node['id']},size={node['memory_kib']}K"
        run = f",cpus={ids[0]}-{ids[-1]}" if ids else ""
        words += ["-object", memory, "-numa", f"node,nodeid={node['id']},memdev=m{node['id']}{run}"]
    for source, row in enumerate(spec["distances"]):
        for target, value in enumerate(row):
            if source != target:
                words += ["-numa", f"dist,src={source},dst={target},val={value}"]
    sockets = len(everything) // width
    return [
        *("-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "EPYC-Rome,+svm,+npt"),
        *("-m", f"{sum(node['memory_kib'] for node in nodes)}K"),
        *("-smp", f"{len(everything)},sockets={sockets},cores={width},threads=1"),
        *words,
    ]


def _root_disk(disk: Path, *, named: bool) -> list[str]:
    """Return the arguments for the root disk; with expander buses it has to name its bus."""
    if not named:
        return ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
    return [
        *("-drive", f"file={disk},format=raw,if=none,id=root,snapshot=on"),
        *("-device", "virtio-blk-pci,drive=root,bus=pcie.0"),
    ]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _lan(text: str) -> Lan:
    port, _comma, address = text.partition(",")
    return Lan(int(port), address)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Emulated NUMA KVM hosts.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    commands.add_parser("list")
    build = commands.add_parser("build")
    start = commands.add_parser("start")
    start.add_argument("name")
    start.add_argument("port", type=int)
    start.add_argument("spec", type=argparse.FileType())
    start.add_argument(
        "--lan", type=_lan, help="UDP port and its address, such as 31077,10.88.0.11"
    )
    for command in (build, start):
        command.add_argument("--suite", help="release of the distribution, such as bookworm")
    ssh = commands.add_parser("ssh")
    ssh.add_argument("name")
    ssh.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser("stop").add_argument("name")
    options = parser.parse_args()
    try:
        return _run(options)
    except LabError as error:
        print(f"numahost: {error}", file=sys.stderr)
        return 3


def _run(options: argparse.Namespace) -> int:
    if options.command == "check":
        check()
    elif options.command == "list":
        for folder in sorted((lab_root() / "numahosts").glob("*/pid")):
            host = NumaHost(folder.parent.name)
            with contextlib.suppress(LabError):
                print(host.name, host.pid, host.ssh_config)
    elif options.command == "build":
        image = Image(options.suite)
        image.check()
        image.build()
        print(image.folder)
    elif options.command == "start":
        spec = json.load(options.spec)
        host = NumaHost(options.name, spec, options.port, options.suite, options.lan)
        host.start()
        print(f"ssh -F {host.ssh_config} {host.name}")
    elif options.command == "ssh":
        return (
            NumaHost(options.name).ssh(*options.argv, check=False, capture_output=False).returncode
        )
    else:
        NumaHost(options.name).stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
