# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vnuma_info against guests that really run: every drift is planted, then found and named."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import guestboot
import pytest
from adhoc import SYSTEM_PYTHON, Run
from conftest import Libvirt, has_libvirt
from fakehost import FakeHost
from guests import PASSWORD, RICH, anuma

Call = Callable[..., Run]

#: What libvirt runs to reach the daemon of a URI that names another host.
_RELAY = """\
#!{python}
import os, selectors, socket
peer = socket.socket(socket.AF_UNIX)
peer.connect({socket!r})
ways = selectors.DefaultSelector()
ways.register(0, selectors.EVENT_READ, lambda data: peer.sendall(data))
ways.register(peer, selectors.EVENT_READ, lambda data: os.write(1, data))
while True:
    for key, _events in ways.select():
        data = os.read(key.fd, 65536)
        if not data:
            raise SystemExit
        key.data(data)
"""


class Bench:
    """One host with guests, and the modules to handle them."""

    def __init__(self, libvirt: Libvirt, call: Call, folder: Path) -> None:
        self.libvirt = libvirt
        self.call = call
        self.folder = folder

    def console(self, name: str) -> Path:
        """Return the file with a guest's console."""
        return self.folder / f"{name}.log"

    def define(self, name: str = "guest", **keys: Any) -> None:
        """Define a guest without NUMA that fills 40 MiB on each of its nodes."""
        self.libvirt.define(self.xml(name, **keys))

    def xml(self, name: str = "guest", **keys: Any) -> str:
        """Return its definition."""
        keys = {"vcpus": 4, "memory_mib": 512, "cmdline": "vnuma.fill=40", **keys}
        return guestboot.domain_xml(name, console=self.console(name), **keys)

    def start(self, name: str = "guest", boots: int = 1) -> None:
        """Start a guest, and wait until it is up."""
        self.libvirt.virsh("start", name)
        guestboot.wait_for_boots(self.console(name), boots)

    def partition(self, *names: str, **options: Any) -> Run:
        """Partition guests."""
        guests = [{"name": name} for name in names or ("guest",)]
        run = self.call("vnuma_partition", {"uri": self.libvirt.uri, "guests": guests, **options})
        assert not run.failed, run.msg
        return run

    def edit(self, old: str, new: str, name: str = "guest") -> None:
        """Change a definition behind everyone's back, as virsh edit does."""
        xml = self.libvirt.dump(name)
        assert old in xml
        self.libvirt.define(xml.replace(old, new, 1))

    def info(self, *names: str, flags: tuple[str, ...] = (), **options: Any) -> Run:
        """Call the module; nothing may have changed."""
        before = self.everything()
        named = {"guests": list(names)} if names else {}
        run = self.call("vnuma_info", {"uri": self.libvirt.uri, **named, **options}, *flags)
        assert self.everything() == before
        assert not run.result["changed"]
        return run

    def guest(self, name: str = "guest", **options: Any) -> dict[str, Any]:
        """Call the module and return what it says of one guest."""
        run = self.info(name, **options)
        assert not run.failed, run.msg
        (one,) = run.result["guests"]
        assert isinstance(one, dict)
        return one

    def everything(self) -> dict[str, str]:
        """Return every definition there is, live ones too."""
        names = self.libvirt.virsh("list", "--all", "--name").split()
        return {
            f"{name} {live}": self.libvirt.dump(name, live=live)
            for name in names
            for live in (False, True)
        }


@pytest.fixture
def bench(lab: Callable[..., Libvirt], call: Call, tmp_path: Path) -> Iterator[Bench]:
    """Two nodes of one pCPU each; the memory of either is really on the machine's own node 0."""
    libvirt = lab("tiny-2n2c", shim=True)
    libvirt.clear()
    yield Bench(libvirt, call, tmp_path)
    libvirt.clear()


@pytest.fixture
def machine(call: Call, tmp_path: Path) -> Iterator[Bench]:
    """A host that is this machine itself: what is asked of the kernel really happens."""
    spec = tmp_path / "host.json"
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    spec.write_text(
        json.dumps({"nodes": [{"id": 0, "cpus": cpus, "memory_kib": 1 << 20}], "distances": [[10]]})
    )
    host = FakeHost(f"machine-{os.getpid()}", spec)
    with host:
        yield Bench(Libvirt(host), call, tmp_path)
    shutil.rmtree(host.root, ignore_errors=True)


def _drift(guest: dict[str, Any], between: str = "") -> list[str]:
    return [one["msg"] for one in guest["drift"] if between in ("", one["between"])]


def test_guests_that_are_off(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Touched or not, in one call, also in check mode; the plan is what vnuma_partition gave."""
    bench = Bench(rfc, call, tmp_path)
    rfc.define(RICH)
    rfc.define(anuma())
    rfc.define(anuma("db1"))
    layout = bench.partition("anuma", nodes="0-3").result["guests"][0]["layout"]
    run = bench.info(flags=("--check", "-vvv", "--diff"))
    assert not run.failed
    assert run.result["drifted"] == run.result["restart_required"] == []
    anuma_, db1, rich = run.result["guests"]
    assert anuma_["planned"] == anuma_["persistent"] == layout
    assert anuma_["policy"] == {"nodes": "0-3"}
    assert [one["partitioned"] for one in (anuma_, db1, rich)] == [True, False, False]
    assert [one["state"] for one in (anuma_, db1, rich)] == ["off"] * 3
    assert db1["planned"] is db1["live"] is db1["actual"] is None
    assert rich["persistent"]["vcpu_pins"][:3] == ["0-3", "4,6", ""]
    assert rich["persistent"]["memory_mode"] == "preferred"
    assert PASSWORD not in run.output


def test_names_that_match_nothing(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """A name is an error and the others are told of, a pattern is a warning."""
    rfc.define(anuma())
    run = Bench(rfc, call, tmp_path).info("anuma", "nobody", "x*")
    assert run.failed
    assert run.msg == (
        "guest nobody: it does not exist on this host; correct the name, or define it first."
    )
    assert [one["name"] for one in run.result["guests"]] == ["anuma"]
    assert "pattern 'x*' matches no guest on this host." in run.output


def test_a_hundred_guests(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """One call, and each has its own entry."""
    for number in range(100):
        rfc.define(anuma(f"g{number:03}"))
    bench = Bench(rfc, call, tmp_path)
    bench.partition("*")
    bench.edit("vcpupin vcpu='3' cpuset='15-29,135-149'", "vcpupin vcpu='3' cpuset='7'", "g042")
    run = bench.info()
    assert len(run.result["guests"]) == 100
    assert all(len(one["planned"]["cells"]) == 8 for one in run.result["guests"])
    assert run.result["drifted"] == ["g042"]
    assert _drift(run.result["guests"][42]) == [
        "vCPU 3 is pinned to 7 as defined and pinned to 15-29,135-149 as planned; run "
        "vnuma_partition with its recorded options."
    ]


def test_a_read_only_connection_will_do(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Monitoring needs no right to change anything."""
    rfc.define(anuma())
    bench = Bench(rfc, call, tmp_path)
    bench.partition("anuma")
    uri = f"{rfc.uri}-ro"
    assert Path(uri.partition("socket=")[2]).is_socket()
    run = bench.info(uri=uri)
    assert not run.failed, run.msg
    assert run.result["guests"][0]["planned"] == run.result["guests"][0]["persistent"]


@pytest.mark.slow
def test_from_untouched_to_partitioned(bench: Bench) -> None:
    """Without NUMA, then waiting for its restart, then with its memory where it really is."""
    bench.define()
    bench.start()
    guest = bench.guest()
    assert guest["state"] == "running"
    assert guest["drift"] == guest["notes"] == []
    assert guest["live"]["cells"] == []
    (memory,) = guest["actual"]["cells"]
    assert memory["id"] is memory["local_share"] is None
    assert sum(memory["kib_by_node"].values()) == memory["resident_kib"] > 40 * 1024

    assert bench.partition().result["restart_required"] == ["guest"]
    guest = bench.guest()
    assert guest["restart_required"]
    assert guest["planned"] == guest["persistent"]
    assert guest["live"]["cells"] == []
    assert {one["what"] for one in guest["drift"]} == {
        *("cells", "topology", "memory_binding", "vcpu_pins")
    }
    assert _drift(guest)[0] == (
        "it has no cells in the running guest and 2 cells as defined; run vnuma_restart."
    )

    bench.libvirt.virsh("destroy", "guest")
    bench.start(boots=2)
    guest = bench.guest()
    assert not guest["restart_required"]
    assert guest["planned"] == guest["persistent"] == guest["live"]
    assert guest["actual"]["vcpus"] == {"0": "0", "1": "0", "2": "1", "3": "1"}
    first, second = guest["actual"]["cells"]
    assert (first["id"], first["nodes"], first["local_share"]) == (0, "0", 1.0)
    # The guest filled so much in each of its nodes.
    assert min(first["resident_kib"], second["resident_kib"]) > 40 * 1024
    assert (second["id"], second["nodes"], second["local_share"]) == (1, "1", 0.0)
    assert second["kib_by_node"] == {"0": second["resident_kib"]}
    assert [(one["between"], one["what"]) for one in guest["drift"]] == [("live-actual", "memory")]
    assert _drift(guest) == [
        f"cell 1 has {second['resident_kib']} of its {second['resident_kib']} KiB on host node 0 "
        "and is bound strict to host node 1; check that there is free memory, then shut the guest "
        "down and start it."
    ]
    assert bench.guest(measure_memory=False)["actual"]["cells"] is None


@pytest.mark.slow
def test_pins_and_edits_of_a_running_guest(bench: Bench) -> None:
    """Each is named; what the sentence says to do makes it go away."""
    bench.define()
    bench.partition(memory_mode="none")
    bench.start()
    assert bench.guest()["drift"] == []
    bench.libvirt.virsh("vcpupin", "guest", "3", "0-1", "--live")
    guest = bench.guest()
    assert guest["actual"]["vcpus"]["3"] == "0-1"
    assert _drift(guest) == [
        "vCPU 3 is pinned to 0-1 in the running guest and pinned to 1 as defined; run "
        "vnuma_partition, which pins it while it runs."
    ]
    bench.partition(memory_mode="none")
    assert bench.guest()["drift"] == []

    bench.edit("<vcpupin vcpu='0' cpuset='0'/>", "<vcpupin vcpu='0' cpuset='1'/>")
    bench.edit("<sibling id='1' value='21'/>", "<sibling id='1' value='30'/>")
    guest = bench.guest()
    assert guest["restart_required"]
    assert guest["persistent"]["cells"][0]["distances"] == [10, 30]
    assert guest["live"]["cells"][0]["distances"] == [10, 21]
    assert _drift(guest) == [
        "the distances of cell 0 are 10,30 as defined and 10,21 as planned; run vnuma_partition "
        "with its recorded options.",
        "vCPU 0 is pinned to 1 as defined and pinned to 0 as planned; run vnuma_partition with "
        "its recorded options.",
        "the distances of cell 0 are 10,21 in the running guest and 10,30 as defined; run "
        "vnuma_partition, and vnuma_restart if it still waits then.",
        "vCPU 0 is pinned to 0 in the running guest and pinned to 1 as defined; run "
        "vnuma_partition, and vnuma_restart if it still waits then.",
    ]
    bench.partition(memory_mode="none")
    assert bench.guest()["drift"] == []


@pytest.mark.slow
def test_a_thread_that_libvirt_did_not_move(machine: Bench) -> None:
    """The kernel is asked, not the definition; and pinning again is the way out."""
    cpus = sorted(os.sched_getaffinity(0))
    assert len(cpus) > 1, "a single pCPU has nowhere else to go"
    everywhere = _cpuset(machine, cpus)
    machine.define()
    machine.partition()
    machine.start()
    guest = machine.guest()
    assert guest["drift"] == []
    assert guest["actual"]["vcpus"]["2"] == everywhere
    threads = machine.libvirt.seen(Path(f"/proc/{guest['actual']['pid']}/task"))
    (thread,) = [
        int(folder.name)
        for folder in threads.iterdir()
        if (folder / "comm").read_text().startswith("CPU 2/")
    ]
    machine.libvirt.run("taskset", "--cpu-list", "--pid", str(cpus[0]), str(thread))
    guest = machine.guest()
    assert guest["actual"]["vcpus"]["2"] == str(cpus[0])
    assert _drift(guest) == [
        f"vCPU 2 runs on {cpus[0]} and is pinned to {everywhere}, so something other than "
        "libvirt moved it; pin again with 'virsh vcpupin --live'."
    ]
    machine.libvirt.virsh("vcpupin", "guest", "2", everywhere, "--live")
    assert machine.guest()["drift"] == []
    (cell,) = machine.guest()["actual"]["cells"]
    assert cell["local_share"] == 1.0


def _cpuset(bench: Bench, cpus: list[int]) -> str:
    """Return pCPUs as libvirt writes them."""
    host = bench.call("vnuma_facts", {"uri": bench.libvirt.uri}).result["ansible_facts"]
    text = host["vnuma_host"]["nodes"][0]["cpus"]
    assert cpus[0] == int(text.partition("-")[0].partition(",")[0])
    return str(text)


@pytest.mark.slow
def test_transient_paused_saved_and_interrupted(bench: Bench, state_dir: Path) -> None:
    """Every state a guest can be in has its word."""
    for name in ("paused", "saved", "interrupted"):
        bench.define(name, memory_mib=256, cmdline="")
    path = bench.folder / "transient.xml"
    path.write_text(bench.xml("transient", memory_mib=256, cmdline=""))
    bench.libvirt.virsh("create", str(path))
    bench.libvirt.virsh("start", "paused", "--paused")
    bench.start("saved")
    bench.libvirt.virsh("managedsave", "saved")
    bench.partition("paused", "interrupted")
    topology = "<topology sockets='2' cores='2' threads='1'/>"
    bench.edit("</model>\n", f"</model>\n{topology}\n", "saved")
    (folder,) = state_dir.iterdir()
    (folder / f"{bench.libvirt.virsh('domuuid', 'interrupted').strip()}.restart").write_text("{}")

    run = bench.info()
    assert not run.failed, run.msg
    guests = {one["name"]: one for one in run.result["guests"]}
    assert {name: one["state"] for name, one in guests.items()} == {
        "paused": "paused",
        "saved": "off",
        "interrupted": "off",
        "transient": "running",
    }
    assert run.result["restart_required"] == ["interrupted", "paused"]
    assert guests["transient"]["transient"]
    assert guests["transient"]["persistent"] is None
    assert guests["transient"]["drift"] == []
    assert guests["transient"]["actual"]["cells"][0]["resident_kib"] > 0
    assert _drift(guests["saved"]) == [
        "its CPU topology is not set in its managed-save image and 2 sockets, 2 cores, 1 thread "
        "as defined; start it and shut it down, or run vnuma_partition with managed_save 'drop'."
    ]
    assert _drift(guests["interrupted"]) == [
        "an interrupted restart left it off; run vnuma_restart to start it."
    ]
    assert "persistent-live" in {one["between"] for one in guests["paused"]["drift"]}


_MODEL = "<cpu mode='custom' match='exact' check='none'><model>kvm64</model></cpu>"
_VCPU = "<vcpu placement='static'>4</vcpu>"
_MEMORY = "<memory unit='MiB'>256</memory>"
#: What people write by hand, and libvirt writes otherwise once the guest runs.
_HAND_MADE = {
    "cpuset": (_VCPU, "<vcpu placement='static' cpuset='0'>4</vcpu>"),
    "hotplug": (_VCPU, "<vcpu placement='static' current='2'>4</vcpu>"),
    "iothreads": (_VCPU, "<vcpu>4</vcpu><iothreads>2</iothreads>"),
    "pins": (
        _VCPU,
        f"{_VCPU}<cputune><vcpupin vcpu='1' cpuset='1'/><emulatorpin cpuset='0'/></cputune>"
        "<numatune><memory mode='strict' nodeset='0'/></numatune>",
    ),
    "interleaved": (
        _VCPU,
        f"{_VCPU}<numatune><memory mode='interleave' nodeset='0'/></numatune>",
    ),
    "cells": (
        "</model></cpu>",
        "</model><topology sockets='1' cores='2' threads='2'/><numa>"
        "<cell id='0' cpus='0,3' memory='100001'/><cell id='1' cpus='1-2' memory='155999'/>"
        "</numa></cpu>",
    ),
    "no-cpu": (_MODEL, ""),
    "host-model": (_MODEL, "<cpu mode='host-model'/>"),
    "maximum": (_MODEL, "<cpu mode='maximum'/>"),
    "shared": (
        _VCPU,
        f"<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>{_VCPU}",
    ),
    "ballooned": (_MEMORY, f"{_MEMORY}<currentMemory unit='MiB'>200</currentMemory>"),
    "dimm": (
        "</model></cpu>",
        "</model><numa><cell id='0' cpus='0-1' memory='131072'/>"
        "<cell id='1' cpus='2-3' memory='131072'/></numa></cpu>",
    ),
}
#: The libvirt that first knew what one of them has (formatdomain.html).
_SINCE = {"maximum": "7.1.0"}


@pytest.mark.slow
def test_hand_made_guests_have_not_drifted(
    bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    """What libvirt makes of a definition when it starts the guest is no drift."""
    hand_made = {n: edit for n, edit in _HAND_MADE.items() if has_libvirt(_SINCE.get(n, ""))}
    for name in _HAND_MADE.keys() - hand_made:
        record_property("not run", f"hand-made guest '{name}' needs libvirt {_SINCE[name]}")
    for name, (old, new) in hand_made.items():
        xml = bench.xml(name, memory_mib=256, cmdline="")
        assert old in xml
        xml = xml.replace(old, new, 1)
        if name == "dimm":
            xml = xml.replace(
                _MEMORY, f"<maxMemory slots='4' unit='GiB'>2</maxMemory>{_MEMORY}"
            ).replace(
                "</devices>",
                "<memory model='dimm'><target><size unit='MiB'>128</size><node>1</node></target>"
                "</memory></devices>",
            )
        bench.libvirt.define(xml)
        bench.libvirt.virsh("start", name, "--paused")
    run = bench.info()
    assert not run.failed, run.msg
    assert len(run.result["guests"]) == len(hand_made)
    for guest in run.result["guests"]:
        assert (guest["name"], guest["drift"], guest["notes"]) == (guest["name"], [], [])
        assert guest["state"] == "paused"
        assert not guest["restart_required"]
        assert guest["live"]["vcpu_pins"] == guest["persistent"]["vcpu_pins"]
        assert all(cell["kib_by_node"] is not None for cell in guest["actual"]["cells"])
    online = {guest["name"]: len(guest["actual"]["vcpus"]) for guest in run.result["guests"]}
    assert online == {**dict.fromkeys(hand_made, 4), "hotplug": 2}


@pytest.mark.slow
def test_over_a_remote_uri(bench: Bench) -> None:
    """Threads are told, memory is not; the guest is the same."""
    bench.define(memory_mib=256)
    bench.partition()
    bench.start()
    relay = bench.libvirt.host.root / "relay"
    relay.write_text(_RELAY.format(python=SYSTEM_PYTHON, socket=str(bench.libvirt.host.socket)))
    relay.chmod(relay.stat().st_mode | stat.S_IXUSR)
    guest = bench.guest(uri=f"qemu+ext://kvm7/system?command={relay}")
    assert guest["planned"] == guest["persistent"] == guest["live"]
    assert guest["actual"]["vcpus"] == {"0": "0", "1": "0", "2": "1", "3": "1"}
    assert guest["actual"]["cells"] is guest["actual"]["pid"] is None
    assert len(guest["notes"]) == 1
    assert guest["notes"][0].startswith(
        "its memory by host node is not available over qemu+ext://kvm7/system?"
    )
    assert guest["notes"][0].endswith("; run the module on the hypervisor host itself.")
    assert guest["drift"] == []


@pytest.mark.slow
def test_without_root(bench: Bench, call: Call, tmp_path: Path) -> None:
    """A user who may see guests but not their processes is told so."""
    bench.define(memory_mib=256)
    bench.partition()
    bench.start()
    nobody = tmp_path / "python"
    nobody.write_text(
        "#!/bin/sh\nexec setpriv --reuid=65534 --regid=65534 --clear-groups "
        '--inh-caps=-all --bounding-set=-all /usr/bin/python3 "$@"\n'
    )
    nobody.chmod(0o755)
    run = call(
        "vnuma_info",
        {"uri": f"{bench.libvirt.uri}-ro", "state_dir": "/nowhere"},
        "--extra-vars=ansible_remote_tmp=/tmp ansible_pipelining=true",
        python=str(nobody),
    )
    assert not run.failed, run.output
    (guest,) = run.result["guests"]
    assert guest["actual"]["cells"] is None
    assert guest["actual"]["vcpus"]["2"] == "1"
    assert len(guest["notes"]) == 1
    assert f"this user may not read /proc/{guest['actual']['pid']}/" in guest["notes"][0]
    assert subprocess.run(["id", "-u"], check=True, capture_output=True).stdout == b"0\n"
