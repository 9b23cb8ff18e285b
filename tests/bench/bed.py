# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Libvirt daemons with many guests, which can be put to before and after a partition at will."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from xml.etree import ElementTree

import libvirt
from fakehost import FakeHost
from fleet import Fleet
from plays import SYSTEM_PYTHON, Ansible, Task
from timing import BenchError, Contestant, Run, command
from venvs import PROJECT

sys.path.insert(0, str(PROJECT / "tests" / "integration"))
from guests import anuma

_READ = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
_SPEC = PROJECT / "tests/hosts/rfc-8n240c.json"
_NETWORK = "10.78.0"
_EMULATED = "<cpu mode='custom' check='none'><model>kvm64</model></cpu>"
#: vCPUs and GiB of the guests, in turn: no two neighbours are alike.
SHAPES = ((16, 64), (8, 32), (32, 128), (16, 24), (48, 96))
# What guests usually have besides: libvirt has to read and write all of it. None of it is there,
# so that guests that are to run go without.
_DEVICES = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/var/lib/libvirt/images/{name}.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <interface type='bridge'>
      <source bridge='br0'/>
      <model type='virtio'/>
    </interface>
    <console type='pty'/>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <graphics type='vnc' port='-1' autoport='yes' passwd='s3cr3tvn'/>
    <video><model type='vga'/></video>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
"""


class Bed:
    """Hosts like the RFC's, each with so many guests.

    Args:
        count: guests of each host.
        hosts: how many hosts behind real ssh; 0 for one that is reached by its socket.
        running: whether the guests run, paused, with the layout that a partition gives them.
    """

    def __init__(self, count: int, hosts: int = 0, *, running: bool = False) -> None:
        self.count = count
        self._running = running
        name = f"bench-{os.getpid()}"
        self._fleet = Fleet(name, _NETWORK) if hosts else None
        self._hosts = [FakeHost(name, _SPEC, shim=running)]
        if self._fleet is not None:
            self._hosts = [self._fleet.host(f"host{number:02}") for number in range(hosts)]
        self._connections: list[Any] = []
        self.folder = Path(tempfile.mkdtemp(prefix="vnuma-bench-"))

    def __enter__(self) -> Bed:
        """Start the daemons, define the guests, and learn what becomes of them."""
        try:
            self._make()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _make(self) -> None:
        if self._fleet is None:
            self._hosts[0].start()
        else:
            names = [host.name.rpartition("-")[2] for host in self._hosts]
            self._fleet.up(dict.fromkeys(names, _SPEC))
        self.ansible = Ansible(self.folder, self._fleet.inventory if self._fleet else None)
        self._connections = [libvirt.open(host.uri) for host in self._hosts]
        for connection in self._connections:
            for number in range(self.count):
                vcpus, memory_gib = SHAPES[number % len(SHAPES)]
                name = f"guest-{number:03}"
                if self._running:
                    xml = anuma(name, vcpus, memory_gib << 20, kind="qemu", cpu=_EMULATED)
                else:
                    devices = _DEVICES.format(name=name)
                    xml = anuma(name, vcpus, memory_gib << 20).replace("  </devices>\n", devices)
                connection.defineXML(xml)
        self._before = [self._dump(connection, "before") for connection in self._connections]
        self.ansible.run(self.ansible.play("setup", [self.partition()]))
        self._after = [self._dump(connection, "after") for connection in self._connections]
        if any(text.count("<cell ") != 8 for one in self._after for text in one.values()):
            raise BenchError("the guests have not been partitioned")
        for connection in self._connections if self._running else ():
            for domain in connection.listAllDomains(0):
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the daemons and remove everything."""
        for connection in self._connections:
            connection.close()
        if self._fleet is not None:
            self._fleet.down()
        else:
            self._hosts[0].stop()
            shutil.rmtree(self._hosts[0].root, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def uri(self) -> str:
        """The daemon's URI, for the modules."""
        return "qemu:///system" if self._fleet else self._hosts[0].uri

    def names(self) -> list[str]:
        """Return the guests' names."""
        return sorted(self._before[0])

    def partition(self, **options: Any) -> Task:
        """Return the task that partitions every guest."""
        return {
            "kvm.vnuma.vnuma_partition": {
                "uri": self.uri,
                **self.state_dir(),
                "guests": [{"name": "guest-*"}],
                **options,
            }
        }

    def state_dir(self) -> dict[str, str]:
        """Return the folder for what outlives a run: a fake host has the usual one of its own."""
        return {} if self._fleet else {"state_dir": str(self.folder / "state")}

    def undo(self) -> None:
        """Put every guest back to before its first partition."""
        self._define(self._before)
        # In a fake host it is mounted, and emptied.
        for kept in (self.folder, *(host.root for host in self._hosts if self._fleet)):
            for folder in (kept / "state").glob("*"):
                shutil.rmtree(folder)

    def redo(self) -> None:
        """Put every guest to where a partition leaves it."""
        self._define(self._after)

    def is_partitioned(self, _run: Run) -> None:
        """Raise unless every guest is exactly as a partition leaves it."""
        for connection, after in zip(self._connections, self._after):
            now = self._read(connection)
            wrong = [name for name in now if now[name] != after[name]]
            if wrong:
                raise BenchError(f"{wrong[0]} and {len(wrong) - 1} more are not as they should be")

    def has_cells(self, _run: Run) -> None:
        """Raise unless every guest has eight bound cells, however they are written."""
        for connection in self._connections:
            for name, text in self._read(connection).items():
                if text.count("<cell ") != 8 or text.count("<memnode ") != 8:
                    raise BenchError(f"{name} has not been partitioned")

    # -- contestants --------------------------------------------------------------------------

    def ours(self, *, first: bool) -> Contestant:
        """One call of vnuma_partition for every guest, as a whole command."""
        play = self.ansible.play("ours", [self.partition()])
        return self._converging(lambda: self.ansible.run(play), first=first)

    def ours_without_guests(self) -> Contestant:
        """The same call with a pattern that matches no guest: what the call itself takes."""
        play = self.ansible.play("empty", [self.partition(guests=[{"name": "nobody*"}])])
        return Contestant(lambda: self.ansible.run(play))

    def role(self, *, first: bool, serial: str = "100%") -> Contestant:
        """The playbook with the role, so many hosts at a time as far as Ansible's forks go."""
        variables = {"vnuma_guests": [{"name": "guest-*"}], "vnuma_serial": serial}
        return self._converging(
            lambda: self.ansible.run("kvm.vnuma.converge", variables), first=first
        )

    def _converging(self, run: Callable[[], Run], *, first: bool) -> Contestant:
        def act() -> Run:
            found = run()
            changed = [int(one) > 0 for one in re.findall(r" changed=(\d+) ", found.output)]
            if changed != [first] * len(self._hosts):
                raise BenchError(f"changed is not {first} everywhere: {found.output[-2000:]}")
            return found

        return Contestant(act, self.undo if first else self.redo, self.is_partitioned)

    def ping(self) -> Contestant:
        """A call of a module that does nothing, as a whole command."""
        play = self.ansible.play("ping", [{"ansible.builtin.ping": {}}])
        return Contestant(lambda: self.ansible.run(play))

    def nothing(self) -> Contestant:
        """A play without a task, as a whole command."""
        play = self.ansible.play("nothing", [])
        return Contestant(lambda: self.ansible.run(play))

    def bare(self, *, first: bool) -> Contestant:
        """The bare libvirt calls."""
        argv: list[str | Path] = [SYSTEM_PYTHON, Path(__file__).with_name("bare.py")]
        argv += ["define" if first else "read", self.uri]
        argv += [self.folder / "after"] if first else []
        if self._fleet is not None:
            (host,) = self._fleet.hosts()
            argv = [self._fleet.folder / "ssh", host, *argv]
        return Contestant(
            lambda: command(argv), self.undo if first else self.redo, self.is_partitioned
        )

    def virt_loop(self, *, first: bool) -> Contestant:
        """A loop of community.libvirt.virt over definitions that were made elsewhere."""
        task = {
            "community.libvirt.virt": {
                "uri": self.uri,
                "command": "define",
                "xml": "{{ lookup('ansible.builtin.file', folder + '/' + item + '.xml') }}",
            },
            "loop": self.names(),
            "vars": {"folder": str(self.folder / "after")},
        }
        play = self.ansible.play("virt", [task])
        return Contestant(
            lambda: self.ansible.run(play), self.undo if first else self.redo, self.is_partitioned
        )

    def virt_xml_loop(self) -> Contestant:
        """A shell loop of virt-xml, which takes one kind of change in a call: three a guest."""
        script = self.folder / "virt-xml.sh"
        lines = ["set -e", f"export LIBVIRT_DEFAULT_URI='{self.uri}'"]
        for name in self.names():
            for change in virt_xml_changes(self._after[0][name]):
                lines.append(f"virt-xml {name} --edit {change}")
        script.write_text("\n".join(lines) + "\n")
        return Contestant(lambda: command(["bash", script]), self.undo, self.has_cells)

    def task_seconds(self, turns: int) -> dict[str, list[float]]:
        """Return what the tasks of one play took: ping and partition in turn, nothing to do."""
        self.redo()
        pair: list[Task] = [{"ansible.builtin.ping": {}}, self.partition()]
        play = self.ansible.play("tasks", pair * turns)
        found: dict[str, list[float]] = {}
        for name, seconds in self.ansible.task_seconds(play):
            found.setdefault(name.rpartition(".")[2], []).append(seconds)
        return found

    def _define(self, texts: list[dict[str, str]]) -> None:
        for connection, one in zip(self._connections, texts):
            for text in one.values():
                connection.defineXML(text)

    def _read(self, connection: Any) -> dict[str, str]:
        return {
            domain.name(): str(domain.XMLDesc(_READ)) for domain in connection.listAllDomains(0)
        }

    def _dump(self, connection: Any, folder: str) -> dict[str, str]:
        texts = self._read(connection)
        (self.folder / folder).mkdir(exist_ok=True)
        for name, text in texts.items():
            (self.folder / folder / f"{name}.xml").write_text(text)
        return texts


def virt_xml_changes(text: str) -> list[str]:
    """Return the options of virt-xml that make a guest's cells, pins and binding those of a text.

    The CPU's own attributes stay as they are; the vCPUs are placed statically already.
    """
    root = ElementTree.fromstring(text)  # noqa: S314 - the text is libvirt's own
    topology = root.find("cpu/topology")
    assert topology is not None
    cpu = [f"topology.{key}={topology.get(key)}" for key in ("sockets", "cores", "threads")]
    for number, cell in enumerate(root.iterfind("cpu/numa/cell")):
        key = f"numa.cell{number}"
        cpu += [f"{key}.{name}={cell.get(name)}" for name in ("id", "memory", "unit")]
        cpu.append(f'{key}.cpus="{cell.get("cpus")}"')
        for at, sibling in enumerate(cell.iterfind("distances/sibling")):
            inner = f"{key}.distances.sibling{at}"
            cpu += [f"{inner}.{name}={sibling.get(name)}" for name in ("id", "value")]
    tune = []
    for number, pin in enumerate(root.iterfind("cputune/vcpupin")):
        tune.append(f"vcpupin{number}.vcpu={pin.get('vcpu')}")
        tune.append(f'vcpupin{number}.cpuset="{pin.get("cpuset")}"')
    memory = root.find("numatune/memory")
    assert memory is not None
    numa = [f"memory.{key}={memory.get(key)}" for key in ("mode", "nodeset")]
    for number, node in enumerate(root.iterfind("numatune/memnode")):
        numa += [f"memnode{number}.{key}={node.get(key)}" for key in ("cellid", "mode", "nodeset")]
    return [
        f"{option} '{','.join(words)}'"
        for option, words in (("--cpu", cpu), ("--cputune", tune), ("--numatune", numa))
    ]
