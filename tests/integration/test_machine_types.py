# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every machine type that the daemon has: a guest that starts goes on doing so, or is refused.

Which of them can have cells is not looked up: a twin with two cells written by hand is started,
and QEMU says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from adhoc import Run
from conftest import Libvirt
from lxml import etree

Call = Callable[..., Run]

MIB = 1 << 10
#: Without the packages of these there is little to see.
EXPECTED = {"aarch64", "armv7l", "ppc64", "x86_64"}
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>1024</memory>
  <vcpu>{vcpus}</vcpu>
  <os><type arch='{arch}' machine='{machine}'>hvm</type></os>
  {cpu}
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Machine:
    """A machine type of an architecture.

    Attributes:
        guest: name of a guest that has it.
        vcpus: as many as a guest of it may have, and four at most.
    """

    guest: str
    arch: str
    name: str
    emulator: str
    vcpus: int

    def definition(self, cells: int = 0) -> str:
        """Return a guest, with so many cells that are written by hand."""
        share = self.vcpus // cells if cells else 0
        numa = "".join(
            f"<cell id='{cell}' cpus='{cell * share}-{(cell + 1) * share - 1}' "
            f"memory='{1024 // cells}' unit='MiB'/>"
            for cell in range(cells)
        )
        return _DOMAIN.format(
            name=self.guest,
            arch=self.arch,
            machine=self.name,
            emulator=self.emulator,
            vcpus=self.vcpus,
            cpu=f"<cpu><numa>{numa}</numa></cpu>" if cells else "",
        )


def _machines(libvirt: Libvirt) -> Iterator[Machine]:
    """Yield machine types that may have two cells: boards, and the ends of each row of versions."""
    seen: set[str] = set()
    for guest in etree.fromstring(libvirt.virsh("capabilities")).iterfind("guest"):
        arch = guest.find("arch").get("name")
        families: dict[str, list[Any]] = {}
        for machine in guest.iterfind("arch/machine"):
            if int(machine.get("maxCpus") or 0) > 1 and not machine.get("canonical"):
                family = re.sub(r"-\d+\.\d[\d.]*", "", machine.text)
                families.setdefault(family, []).append(machine)
        # One QEMU has the boards of the other too.
        boards = {family for family, versions in families.items() if len(versions) == 1} & seen
        seen.update(families)
        for number, family in enumerate(sorted(families.keys() - boards)):
            versions = families[family]
            for turn, machine in enumerate(versions[:1] + versions[1:][-1:]):
                yield Machine(
                    f"{arch}-{number}-{turn}",
                    arch,
                    machine.text,
                    guest.findtext("arch/emulator"),
                    min(4, int(machine.get("maxCpus"))) // 2 * 2,
                )


def _define(libvirt: Libvirt, machines: Iterable[tuple[str, str]]) -> set[str]:
    """Define guests by name and definition, and return the names of those that libvirt takes."""
    folder = libvirt.host.root / "machines"
    folder.mkdir(exist_ok=True)
    paths = {}
    for name, text in machines:
        paths[name] = folder / f"{name}.xml"
        paths[name].write_text(text)
    said = libvirt.script((f"define {path}" for path in paths.values()), check=False)
    refused = set(re.findall(r"Failed to define domain from (\S+)", said))
    return {name for name, path in paths.items() if str(path) not in refused}


def _starting(libvirt: Libvirt, names: Iterable[str]) -> dict[str, str]:
    """Start guests, paused and only for a moment, and return what libvirt says, '' if they do."""
    ordered = sorted(names)
    halves = [part for part in (ordered[::2], ordered[1::2]) if part]
    with ThreadPoolExecutor(2) as pool:
        said = "".join(
            pool.map(
                lambda part: libvirt.script(
                    (f"start --paused {name}; destroy {name}" for name in part), check=False
                ),
                halves,
            )
        )
    errors = re.findall(
        r"error: Failed to start domain '(\S+)'\n(error:.*?)(?=\nerror: Failed|\Z)", said, re.DOTALL
    )
    return dict.fromkeys(ordered, "") | {name: " ".join(text.split()) for name, text in errors}


def _working(libvirt: Libvirt, names: Iterable[str]) -> set[str]:
    return {name for name, error in _starting(libvirt, names).items() if not error}


@pytest.fixture
def machines(lab: Callable[..., Libvirt]) -> Iterator[tuple[Libvirt, dict[str, Machine]]]:
    """The host of the RFC, and guests of all machine types that start on it, by name."""
    libvirt = lab("rfc-8n240c", shim=True)
    libvirt.clear()
    every = {machine.guest: machine for machine in _machines(libvirt)}
    missing = EXPECTED - {machine.arch for machine in every.values()}
    assert not missing, f"no QEMU for {missing}; run tests/tools/bootstrap.sh with its packages"
    defined = _define(libvirt, ((name, every[name].definition()) for name in every))
    start = _working(libvirt, defined)
    for name in defined - start:
        libvirt.virsh("undefine", "--nvram", name)
    yield libvirt, {name: every[name] for name in start}
    libvirt.clear()


def test_what_starts_goes_on_to_start(
    machines: tuple[Libvirt, dict[str, Machine]],
    call: Call,
    record_property: Callable[[str, object], None],
) -> None:
    """Two cells where QEMU takes them, else a sentence; and on one node without cells always."""
    libvirt, guests = machines
    twins = {f"{name}-twin": replace(one, guest=f"{name}-twin") for name, one in guests.items()}
    taken = _define(libvirt, ((name, one.definition(cells=2)) for name, one in twins.items()))
    able = {name.removesuffix("-twin") for name in _working(libvirt, taken)}
    for name in taken:
        libvirt.virsh("undefine", "--nvram", name)
    before = libvirt.dumps(sorted(guests))
    every = [{"name": name} for name in sorted(guests)]
    arguments = {"uri": libvirt.uri, "guests": every, "nodes": "0-1"}

    checked = call("vnuma_partition", arguments, "--check")
    assert libvirt.dumps(sorted(guests)) == before
    run = call("vnuma_partition", arguments)
    refused = {error["name"]: error["msg"] for error in run.result["errors"]}
    assert checked.result["errors"] == run.result["errors"]
    after = libvirt.dumps(sorted(guests))
    assert {name: after[name] for name in refused} == {name: before[name] for name in refused}
    said = _starting(libvirt, guests.keys() - refused.keys())
    broken = {f"{guests[name].arch} {guests[name].name}": said[name] for name in said if said[name]}
    figures = f"{len(guests)} start, {len(said)} partitioned, {len(refused)} refused"
    record_property("machine types", figures)
    assert not broken, f"{figures}, {len(broken)} broken: {broken}"
    # Nothing is refused that QEMU would have taken; and there is something of either.
    assert able
    assert refused
    assert {(guests[name].arch, guests[name].name) for name in able & refused.keys()} == set()

    # Without cells each goes on to start, at least without pins.
    alone = {**arguments, "nodes": "auto", "cpu_overcommit": 8}
    for error in call("vnuma_partition", alone).result.get("errors", []):
        assert "cannot be pinned" in error["msg"], error
        unpinned = {**alone, "guests": [{"name": error["name"]}], "pinning": "none"}
        assert not call("vnuma_partition", unpinned).failed
    said = _starting(libvirt, guests)
    assert {guests[name]: error for name, error in said.items() if error} == {}
    assert not call("vnuma_partition", {**arguments, "state": "absent"}).failed
    assert libvirt.dumps(sorted(guests)) == before
