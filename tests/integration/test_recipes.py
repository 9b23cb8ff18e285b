# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every recipe, run as it stands on the hosts that it is for; a second run changes nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commands
import hana
import pcijudge
import pytest
import sysfs
from conftest import HOSTS, PROJECT, Libvirt
from fleet import Fleet
from guests import CPU_MODE, KIND, PASSTHROUGH, anuma
from lxml import etree

pytestmark = pytest.mark.slow

RECIPES = PROJECT / "docs/examples/recipes"
GIB = 1 << 20
#: The hosts by name: a file in tests/hosts, and what a recipe's host has besides.
SPECS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("two-socket-2n32c", {}),
    "realtime": (
        "two-socket-2n32c",
        {"isolated": "3-9,19-25", "pools": [8, 8]},
    ),
    "devices": ("two-socket-2n32c", {"pci": [-1, 1, 0]}),
    # The pools of the worked example.
    "large": ("snc2-4n", {"pools": [73, 73, 72, 80]}),
    "other": ("nps2-4n64c-smt2", {}),
    "desk": ("ryzen-1n32c", {}),
    "hana4": ("cascade-lake-4n224c", {}),
    "hana2": ("sapphire-rapids-2n224c", {}),
}
_PAGES = "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>"


def _spec(name: str) -> dict[str, Any]:
    known, more = SPECS[name]
    spec = {**sysfs.load(HOSTS / f"{known}.json"), **more}
    for node, pages in zip(spec["nodes"], spec.pop("pools", ())):
        node["hugepages"] = {"2048": [0, 0], "1048576": [pages, pages]}
    return spec


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All hosts that a recipe is for."""
    folder = tmp_path_factory.mktemp("specs")
    for name in SPECS:
        (folder / f"{name}.json").write_text(json.dumps(_spec(name)))
    hosts = Fleet(f"rc{os.getpid()}", f"10.80.{os.getpid() % 250}")
    hosts.up({name: folder / f"{name}.json" for name in SPECS})
    yield hosts
    hosts.down()


class Kitchen:
    """Hosts with guests, and recipes that are run on them.

    Args:
        fleet: all hosts.
        folder: for inventories.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._hosts: dict[str, Libvirt] = {}

    def define(self, host: str, *definitions: str) -> None:
        """Define guests on a host, which has no others."""
        libvirt = Libvirt(self._fleet.host(host))
        libvirt.clear()
        for xml in definitions:
            libvirt.define(xml)
        self._hosts[host] = libvirt

    def clear(self) -> None:
        """Remove all guests."""
        for libvirt in self._hosts.values():
            libvirt.clear()

    def dumps(self) -> dict[str, str]:
        """Return all definitions by the names of the guests."""
        return {
            name: libvirt.dump(name)
            for libvirt in self._hosts.values()
            for name in libvirt.virsh("list", "--all", "--name").split()
        }

    def cook(self, recipe: str, warned: str = "topoext") -> dict[str, Any]:
        """Look first, then run it twice; return the definitions that came of it, parsed.

        Args:
            recipe: its file.
            warned: what a warning has that is expected.
        """
        before = self.dumps()
        shown = self.run(recipe, "--check", "--diff")
        assert "+" in shown
        assert self.dumps() == before
        printed = self.run(recipe)
        assert _changed(printed) > 0, printed
        after = self.dumps()
        assert after != before
        again = self.run(recipe)
        assert _changed(again) == 0, again
        assert self.dumps() == after
        # Made-up hosts have the processor of this machine, which may be AMD's.
        warnings = re.findall("WARNING.*", f"{shown}{printed}{again}")
        assert [one for one in warnings if "topoext" not in one and warned not in one] == []
        return {name: etree.fromstring(xml) for name, xml in after.items()}

    def run(self, recipe: str, *flags: str, fails: bool = False) -> str:
        """Run a recipe on the hosts that have guests, and return what Ansible printed."""
        inventory = json.loads(self._fleet.inventory.read_text())
        inventory["kvm_hosts"]["hosts"] = {name: {} for name in self._hosts}
        path = self._folder / "inventory.json"
        path.write_text(json.dumps(inventory))
        words = ["ansible-playbook", "--inventory", str(path), str(RECIPES / recipe), *flags]
        # These hosts have no sudo.
        words += ["--extra-vars", "ansible_become_method=ansible.builtin.su"]
        done = commands.run(words, self._folder)
        output = done.stdout + done.stderr
        assert "Traceback" not in output
        assert bool(done.returncode) is fails, output
        return output


@pytest.fixture
def kitchen(fleet: Fleet, ansible: None, tmp_path: Path) -> Iterator[Kitchen]:
    """Hosts without guests."""
    made = Kitchen(fleet, tmp_path)
    yield made
    made.clear()


def _changed(output: str) -> int:
    """Return how many tasks changed something, on all hosts."""
    figures = re.findall(r"^\w+ +: ok=\d+ +changed=(\d+)", output, re.MULTILINE)
    assert figures, output
    return sum(map(int, figures))


def _ids(text: str) -> set[int]:
    return sysfs.parse_list(text)


def _pins(root: Any) -> list[set[int]]:
    """Return the pCPUs of each vCPU, in order."""
    pins = [_ids(pin.get("cpuset")) for pin in root.iterfind("cputune/vcpupin")]
    assert len(pins) == int(root.findtext("vcpu"))
    return pins


def _all_pins(root: Any) -> set[int]:
    return set[int]().union(*_pins(root))


def _emulator(root: Any) -> str:
    text: str = root.find("cputune/emulatorpin").get("cpuset")
    return text


def _cells(root: Any) -> list[tuple[str, int]]:
    """Return vCPUs and memory in KiB of each cell."""
    return [(cell.get("cpus"), int(cell.get("memory"))) for cell in root.iterfind("cpu/numa/cell")]


def _bound(root: Any) -> tuple[str, str]:
    """Return mode and nodes of the binding of all memory."""
    memory = root.find("numatune/memory")
    return memory.get("mode"), memory.get("nodeset")


def _topology(root: Any) -> dict[str, int]:
    found = {name: int(value) for name, value in root.find("cpu/topology").attrib.items()}
    # Newer libvirt writes it, as 1.
    found.pop("clusters", None)
    return found


def _with(xml: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in xml, old
        xml = xml.replace(old, new, 1)
    return xml


def test_ordinary_fleet(kitchen: Kitchen) -> None:
    """Small guests are on one node each and see no change; one that is larger has two cells."""
    sizes = {"db": (20, 64), "ci": (6, 16), "mail": (4, 8), "web": (2, 4)}
    kitchen.define("plain", *(anuma(name, *_size(*size)) for name, size in sizes.items()))
    found = kitchen.cook("ordinary-fleet.yml")
    cores = [set(range(16)), set(range(16, 32))]
    taken = [0, 0]
    for name, root in found.items():
        if name == "db":
            assert _cells(root) == [("0-9", 32 * GIB), ("10-19", 32 * GIB)]
            assert _pins(root) == [cores[0]] * 10 + [cores[1]] * 10
            continue
        assert root.find("cpu/numa") is None
        mode, node = _bound(root)
        assert mode == "strict"
        assert _pins(root) == [cores[int(node)]] * sizes[name][0]
        taken[int(node)] += sizes[name][0]
    assert taken == [6, 6]


def _size(vcpus: int, gib: int) -> tuple[int, int]:
    return vcpus, gib * GIB


_DB = _with(anuma("db", 72, 290 * GIB), ("<vcpu", f"{_PAGES}<vcpu"))
#: One that is on node 3 already, with eight of its pages.
_APP = _with(
    anuma("app", 4, 8 * GIB),
    ("<vcpu", f"{_PAGES}<vcpu"),
    ("<os>", "<numatune><memory mode='strict' nodeset='3'/></numatune><os>"),
)


def test_whole_host(kitchen: Kitchen) -> None:
    """A cell a node, cores of its own, none of the host's; pages as the worked example has them."""
    kitchen.define("large", _DB, _APP)
    db = kitchen.cook("whole-host.yml")["db"]
    assert _cells(db) == [
        ("0-17", 73 * GIB),
        ("18-35", 73 * GIB),
        ("36-53", 72 * GIB),
        ("54-71", 72 * GIB),
    ]
    assert _bound(db) == ("strict", "0-3")
    assert [one.get("nodeset") for one in db.iterfind("numatune/memnode")] == list("0123")
    reserved = {0, 10, 20, 30, 40, 50, 60, 70}
    assert _ids(_emulator(db)) == reserved
    assert _all_pins(db) == set(range(80)) - reserved
    for vcpu, cpus in enumerate(_pins(db)):
        first = min(cpus)
        assert cpus == {first, first + 40}
        assert cpus == _pins(db)[vcpu ^ 1]
        assert first // 10 == vcpu // 18
    assert db.find("memoryBacking/hugepages/page") is not None


def test_whole_host_with_a_pool_that_is_too_small(kitchen: Kitchen) -> None:
    """Two pages more for each of two nodes are refused with the figures."""
    kitchen.define("large", _DB.replace(str(290 * GIB), str(298 * GIB)))
    before = kitchen.dumps()
    output = kitchen.run("whole-host.yml", fails=True)
    figures = "has 73 hugepages of 1048576 KiB, and the guest's memory there needs 75"
    assert f"host node 0 {figures}" in output
    assert kitchen.dumps() == before


def test_one_socket(kitchen: Kitchen) -> None:
    """Each on one node, with cores that nobody else has, and no cells."""
    kitchen.define("plain", *(anuma(name, 12, 40 * GIB) for name in ("db1", "db2")))
    found = kitchen.cook("one-socket.yml")
    nodes = set()
    for root in found.values():
        mode, node = _bound(root)
        nodes.add(node)
        assert mode == "strict"
        assert root.find("cpu/numa") is None
        assert all(len(cpus) == 1 for cpus in _pins(root))
        assert len(_all_pins(root)) == 12
        assert {cpu // 16 for cpu in _all_pins(root)} == {int(node)}
        assert not _all_pins(root) & {0, 16}
        assert _emulator(root) == "0,16"
    assert nodes == {"0", "1"}


def _real_time(name: str) -> str:
    """A guest as SEAPATH's template makes them, with rt, isolated and dpdk."""
    cell = "<cell id='0' cpus='0-3' memory='4' unit='GiB' memAccess='shared'/>"
    topology = "<topology sockets='1' dies='1' cores='4' threads='1'/>"
    cpu = PASSTHROUGH.replace("/>", f">{topology}<numa>{cell}</numa></cpu>")
    schedulers = "".join(
        f"<vcpusched vcpus='{vcpu}' scheduler='fifo' priority='1'/>" for vcpu in range(4)
    )
    return _with(
        anuma(name, 4, 4 * GIB, cpu=cpu),
        ("<vcpu", f"{_PAGES.replace('</memory', '<nosharepages/></memory')}<vcpu"),
        (
            "<os>",
            f"<cputune>{schedulers}</cputune>"
            "<resource><partition>/machine/rt</partition></resource><os>",
        ),
        ("<apic/>", "<apic/><pmu state='off'/>"),
    )


def test_real_time(kitchen: Kitchen) -> None:
    """vCPUs on isolated pCPUs of their own, the emulator elsewhere in the slice; the rest kept."""
    names = ("rt-1", "rt-2")
    kitchen.define("realtime", *map(_real_time, names), anuma("web", 4, 8 * GIB))
    before = kitchen.dumps()
    found = kitchen.cook("real-time.yml")
    isolated = {*range(3, 10), *range(19, 26)}
    for name in names:
        root, old = found[name], etree.fromstring(before[name])
        assert all(len(cpus) == 1 for cpus in _pins(root))
        assert len(_all_pins(root)) == 4
        assert _all_pins(root) < isolated
        assert len({cpu // 16 for cpu in _all_pins(root)}) == 1
        assert _emulator(root) == "2,18"
        for path in ("cputune/vcpusched", "resource", "memoryBacking", "features", "cpu/numa"):
            assert _texts(root, path) == _texts(old, path) != [], path
    assert not _all_pins(found["rt-1"]) & _all_pins(found["rt-2"])
    assert _all_pins(found["web"]) <= {*range(10, 16), *range(26, 32)}


def _texts(root: Any, path: str) -> list[bytes]:
    return [etree.tostring(one, method="c14n2", strip_text=True) for one in root.findall(path)]


def _device(address: str) -> tuple[str, str]:
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    return (
        "</devices>",
        "<hostdev mode='subsystem' type='pci' managed='yes'><source><address "
        f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source>"
        "</hostdev></devices>",
    )


def test_passthrough(kitchen: Kitchen) -> None:
    """Each guest is on the node of its device; one that has no room there is refused."""
    addresses = sysfs.pci_devices()
    assert len(addresses) > 2, "this machine has too few PCI devices to make up a host with some"
    kitchen.define(
        "devices",
        *(
            _with(anuma(f"gpu-{node}", 8, 16 * GIB), _device(addresses[place]))
            for node, place in ((1, 1), (0, 2))
        ),
    )
    found = kitchen.cook("passthrough.yml")
    for node in (0, 1):
        root = found[f"gpu-{node}"]
        assert _bound(root) == ("strict", str(node))
        assert {cpu // 16 for cpu in _all_pins(root)} == {node}
    large = _with(anuma("gpu-1", 12, 56 * GIB), _device(addresses[1]))
    second = _with(anuma("gpu-2", 12, 56 * GIB), _device(addresses[1]))
    kitchen.define("devices", large, second)
    output = kitchen.run("passthrough.yml", fails=True)
    assert "guest gpu-2: nodes 'auto' finds no room for it" in output


def test_devices(kitchen: Kitchen) -> None:
    """Each device is on the cell that mirrors its node; the recipe itself tests the second run."""
    addresses = sysfs.pci_devices()
    ports = "".join(
        f"<controller type='pci' index='{index}' model='pcie-root-port'/>" for index in range(1, 9)
    )
    guest = _with(anuma("ai-1", 16, 16 * GIB), ("<devices>", f"<devices>{ports}"))
    for place in (1, 2):
        old, device = _device(addresses[place])
        port = f"<address type='pci' bus='{place + 5}' slot='0' function='0'/></hostdev>"
        guest = _with(guest, (old, device.replace("</hostdev>", port)))
    kitchen.define("devices", guest)
    root = kitchen.cook("devices.yml", warned="name it by its MAC")["ai-1"]
    found = pcijudge.read(etree.tostring(root, encoding="unicode"))
    assert not found.wrong
    assert [found.devices[addresses[place]][1] for place in (1, 2)] == [1, 0]


def _windows(xml: str, system: str) -> str:
    metadata = (
        "<metadata><libosinfo:libosinfo xmlns:libosinfo="
        "'http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        f"<libosinfo:os id='http://microsoft.com/win/{system}'/></libosinfo:libosinfo></metadata>"
    )
    return _with(xml, ("<memory", f"{metadata}<memory"))


def test_windows(kitchen: Kitchen) -> None:
    """One socket for a client, two for a server on four nodes; a small server keeps its own."""
    topology = "<topology sockets='32' dies='1' cores='1' threads='2'/>"
    cpu = PASSTHROUGH.replace("/>", f">{topology}</cpu>")
    kitchen.define(
        "large",
        _windows(anuma("win11-a", 2, 4 * GIB), "11"),
        _windows(anuma("win2025-sql", 64, 48 * GIB, cpu=cpu), "2k25"),
        _windows(anuma("win2025-dc", 2, 4 * GIB), "2k25"),
    )
    found = kitchen.cook("windows.yml")
    client, server, small = (found[name] for name in ("win11-a", "win2025-sql", "win2025-dc"))
    assert _topology(client) == {"sockets": 1, "dies": 1, "cores": 1, "threads": 2}
    assert _cells(client) == [("0-1", 4 * GIB)]
    assert _topology(server) == {"sockets": 2, "dies": 1, "cores": 16, "threads": 2}
    assert [cpus for cpus, _kib in _cells(server)] == ["0-15", "16-31", "32-47", "48-63"]
    assert small.find("cpu/topology") is None
    assert _cells(small) == []


@pytest.mark.parametrize(
    ("host", "name"), [("hana4", "4 sockets, 224 vCPUs"), ("hana2", "2 sockets, 224 vCPUs")]
)
def test_sap_hana(kitchen: Kitchen, host: str, name: str) -> None:
    """What libvirt then has is what SUSE's guide prescribes, string by string."""
    example = hana.EXAMPLES[name]
    kitchen.define(host, hana.guest(example, KIND, CPU_MODE))
    before = kitchen.dumps()["hana"]
    kitchen.cook("sap-hana.yml")
    after = kitchen.dumps()["hana"]
    hana.compare(after, example)
    assert hana.kept(after) == hana.kept(before)
    assert after.count("<vcpupin ") == 224


@pytest.mark.parametrize(("vcpus", "dies"), [(16, 1), (28, 2)])
def test_desktop(kitchen: Kitchen, vcpus: int, dies: int) -> None:
    """On the CCD that is free as a whole, or on both with a die for each; core 0 is the host's."""
    kitchen.define("desk", anuma("desktop", vcpus, 32 * GIB))
    root = kitchen.cook("desktop.yml")["desktop"]
    cores = vcpus // 2 // dies
    assert _topology(root) == {"sockets": 1, "dies": dies, "cores": cores, "threads": 2}
    assert _emulator(root) == "0,16"
    assert not _all_pins(root) & {0, 16}
    pins = _pins(root)
    caches = ({*range(8), *range(16, 24)}, {*range(8, 16), *range(24, 32)})
    for die in range(dies):
        cpus = set[int]().union(*pins[die * cores * 2 : (die + 1) * cores * 2])
        assert len(cpus) == cores * 2
        assert any(cpus <= cache for cache in caches)
    assert all(pins[vcpu] == pins[vcpu + 1] for vcpu in range(0, vcpus, 2))


def test_migrating(kitchen: Kitchen) -> None:
    """What a guest sees is the same on unlike hosts; what is the host's differs."""
    kitchen.define("plain", anuma("app1", 8, 32 * GIB))
    kitchen.define("other", anuma("app2", 8, 32 * GIB))
    found = kitchen.cook("migrating.yml")
    app1, app2 = found["app1"], found["app2"]
    assert len(_cells(app1)) > 1
    for path in ("cpu/topology", "cpu/numa"):
        assert _texts(app1, path) == _texts(app2, path) != [], path
    assert _bound(app1)[1] == "0-1"
    assert len(_ids(_bound(app2)[1])) > 2
    assert _pins(app1) != _pins(app2)


def test_overcommitted_lab(kitchen: Kitchen) -> None:
    """More memory than the node has is no obstacle; threads and memory are on one node."""
    names = {"a-1": 0, "a-2": 0, "b-1": 1}
    kitchen.define("plain", *(anuma(name, 8, 48 * GIB) for name in names))
    found = kitchen.cook("overcommitted-lab.yml")
    for name, node in names.items():
        root = found[name]
        assert _pins(root) == [set(range(16 * node, 16 * node + 16))] * 8
        (binding,) = root.iterfind("numatune/memnode")
        assert (binding.get("mode"), binding.get("nodeset")) == ("preferred", str(node))


def test_every_recipe_is_run() -> None:
    """A recipe that is added is run here."""
    run = set(re.findall(r'"([\w-]+\.yml)"', Path(__file__).read_text()))
    assert run == {path.name for path in RECIPES.glob("*.yml")}
    assert len(run) == 11
