# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are really passed through: where a guest's kernel finds them, on an emulated KVM host.

Apart from `make test`: the host takes a minute to come up, and the guest half a minute each time.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guestboot
import numapci
import pcijudge
import pytest
from adhoc import Adhoc, Run
from conftest import PROJECT
from guestfiles import put_files
from numahost import NumaHost

SPEC = PROJECT / "tests/lab/numahosts/devices-3n3c.json"
FILES = Path("/var/lib/guests")
CONSOLE = FILES / "gpu.log"
#: Of the host's three: what is on the first is on cell 1, and the last is not on its nodes.
GUEST_NODES = (1, 2)
OPTIONS = {"nodes": "1-2", "guests": [{"name": "gpu"}]}
_PATIENCE_S = 900


@dataclass(frozen=True)
class Seen:
    """What a guest's kernel sees of a disk.

    Attributes:
        address: in the guest.
        node: its NUMA node, -1 where the kernel was told of none.
        driver: what drives it.
        content: its first line.
    """

    address: str
    node: int
    driver: str
    content: str


class Machine:
    """The host, its guest, and the collection."""

    def __init__(self, host: NumaHost, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.nodes: list[int] = json.loads(SPEC.read_text())["pci"]
        self.disks = [numapci.address(number) for number in range(len(self.nodes))]
        self._adhoc = Adhoc(folder)

    def call(self, module: str, **arguments: Any) -> Run:
        """Call a module on the host; it may not fail."""
        reached = {
            "ansible_connection": "ssh",
            "ansible_host": self.host.name,
            "ansible_ssh_common_args": f"-F {self.host.ssh_config}",
            "ansible_control_path": f"{self.host.folder}/control",
            # Each step takes seconds on an emulated host.
            "ansible_ssh_pipelining": True,
            "ansible_ssh_timeout": 300,
        }
        run = self._adhoc.call(module, arguments, variables=reached)
        assert not run.failed, run.output
        return run

    def restart(self) -> None:
        """Restart the guest, by the collection."""
        run = self.call("vnuma_restart", guests=["gpu"], timeout=_PATIENCE_S)
        assert run.result["changed"], "the guest waits for no new layout"

    def dump(self) -> str:
        """Return the guest's definition."""
        return self.virsh("dumpxml", "--inactive", "--security-info", "gpu")

    def virsh(self, *words: str) -> str:
        """Run virsh on the host and return what it printed."""
        done = self.host.ssh("virsh", "--quiet", *words, check=False)
        assert not done.returncode, done.stderr
        return str(done.stdout)

    def seen(self, boots: int) -> dict[str, Seen]:
        """Wait until the guest has come up so many times; return each disk by its host address."""
        ready = f"grep --text --count VNUMA-READY {CONSOLE}"
        try:
            self.host.ssh(
                f'until [ "$({ready})" -ge {boots} ]; do sleep 1; done', timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            pytest.fail(f"the guest did not come up: {self._console()[-2000:]}")
        text = self._console()
        last = text[text.rindex("VNUMA-BEGIN") :]
        contents = dict(re.findall(r"^DISK (\S+) (.+)$", last, re.MULTILINE))
        places = re.findall(r"^PCI (\S+) node (-?\d+) driver (\S+)$", last, re.MULTILINE)
        found = {
            contents[address]: Seen(address, int(node), driver, contents[address])
            for address, node, driver in places
            if address in contents
        }
        asked = [numapci.content(number, node) for number, node in enumerate(self.nodes)]
        assert sorted(found) == sorted(asked), last
        return {disk: found[text] for disk, text in zip(self.disks, asked, strict=True)}

    def _console(self) -> str:
        return str(self.host.ssh("cat", str(CONSOLE)).stdout).replace("\r", "")


def definition(disks: list[str]) -> str:
    """Return the definition of a guest that these disks are passed through to."""
    text = guestboot.nested_domain_xml("gpu", 2, 256, CONSOLE, files=FILES, cmdline="vnuma.pci")
    passed = "".join(
        "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
        f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"
        "</source></hostdev>"
        for domain, bus, slot, function in (re.split("[:.]", disk) for disk in disks)
    )
    return text.replace("</devices>", f"{passed}</devices>")


@pytest.fixture
def machine(ansible: None, tmp_path: Path) -> Iterator[Machine]:
    """Start a host whose disks are on its nodes, with a guest that has all of them, and is off."""
    put_files(tmp_path / "files")
    with NumaHost("devices-3n3c", json.loads(SPEC.read_text())) as host:
        one = Machine(host, tmp_path)
        (tmp_path / "files/gpu.xml").write_text(definition(one.disks))
        for path in (tmp_path / "files").iterdir():
            host.put(path, f"{FILES}/")
        one.virsh("define", "--validate", f"{FILES}/gpu.xml")
        # libvirt 9.0 sorts controllers when it reads its own dump, once.
        host.ssh(
            f"virsh dumpxml --inactive --security-info gpu > {FILES}/gpu.xml"
            f" && virsh define --validate {FILES}/gpu.xml"
        )
        yield one


def test_a_kernel_finds_its_disks_on_their_cells(machine: Machine) -> None:
    """On none with `keep`, on the cell of their host node with `host`, and on none after `absent`.

    Each disk is known by what is read from it.
    """
    plain = machine.dump()
    machine.call("vnuma_partition", **OPTIONS, devices="keep")
    machine.virsh("start", "gpu")
    kept = machine.seen(1)
    assert {disk.driver for disk in kept.values()} == {"nvme"}
    assert {disk.node for disk in kept.values()} == {-1}

    run = machine.call("vnuma_partition", **OPTIONS, devices="host")
    (guest,) = run.result["guests"]
    machine.restart()
    placed = machine.seen(2)
    assert {disk.driver for disk in placed.values()} == {"nvme"}
    cells = [GUEST_NODES.index(node) if node in GUEST_NODES else -1 for node in machine.nodes]
    assert cells == [1, 0, -1]
    assert {disk: placed[disk].node for disk in placed} == dict(zip(machine.disks, cells))
    # The addresses that the module told, and those that another reader of the definition expects.
    told = {one["device"]: one["address"] for one in guest["layout"]["devices"]}
    assert told == {disk: placed[disk].address for disk in machine.disks[:2]}
    judged = pcijudge.read(machine.dump())
    assert not judged.wrong
    assert {disk: judged.devices[disk][0] for disk in machine.disks} == {
        disk: placed[disk].address for disk in machine.disks
    }
    assert any(f"{machine.disks[2]}" in one and "host node 0" in one for one in guest["warnings"])
    (info,) = machine.call("vnuma_info", guests=["gpu"]).result["guests"]
    assert not info["drift"]
    assert not info["restart_required"]
    again = machine.call("vnuma_partition", **OPTIONS, devices="host")
    assert not again.result["changed"]

    machine.call("vnuma_partition", **OPTIONS, state="absent")
    assert machine.dump() == plain
    machine.restart()
    assert machine.seen(3) == kept
