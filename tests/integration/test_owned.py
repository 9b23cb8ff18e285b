# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest owns of a real host, and what others keep: pins of guests that run, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from adhoc import Run
from conftest import Libvirt, emptied
from faulted import Faulted
from guests import anuma
from lxml import etree

Call = Callable[..., Run]
Start = Callable[..., Libvirt]

GIB = 1 << 20
#: Of a guest that shares: all of its threads.
SHARES = {"pinning": "node", "emulator_pinning": "nodes", "iothread_pinning": "nodes"}


@pytest.fixture
def smt(lab: Start) -> Iterator[Libvirt]:
    """Four nodes of eight cores of two threads; node 0 has pCPUs 0-7 and 32-39."""
    yield from emptied(lab("nps2-4n64c-smt2", shim=True))


@pytest.fixture
def plain(lab: Start) -> Iterator[Libvirt]:
    """Four nodes of four cores of one thread and 8 GiB."""
    yield from emptied(lab("asymmetric-4n16c", shim=True))


def _cpus(text: str) -> frozenset[int]:
    """Return the pCPUs of a cpuset without exclusions, read apart from the collection."""
    found: set[int] = set()
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


NODE_0 = _cpus("0-7,32-39")


def _one(run: Run, name: str) -> dict[str, Any]:
    assert not run.failed, run.msg
    return run.guest(name)


def _warnings(run: Run, name: str) -> list[str]:
    return list(_one(run, name)["warnings"])


def _live(libvirt: Libvirt, name: str) -> dict[str, frozenset[int]]:
    """Return the pCPUs of each thread of a running guest, as virsh says them."""
    found = {}
    for what in ("vcpupin", "emulatorpin", "iothreadinfo"):
        for line in libvirt.virsh(what, name, "--live").splitlines():
            *number, cpus = line.split()
            found[" ".join((what, *number))] = _cpus(cpus)
    return found


def _pins(xml: str) -> list[frozenset[int]]:
    """Return what a definition pins each vCPU to."""
    pins = etree.fromstring(xml).iterfind("cputune/vcpupin")
    return [_cpus(str(pin.get("cpuset"))) for pin in pins]


def _owned(xml: str) -> frozenset[int]:
    """Return the pCPUs of a guest whose vCPUs have one each, or the threads of a core each."""
    pins = _pins(xml)
    assert pins
    assert all(len({cpu % 32 for cpu in pin}) == 1 for pin in pins)
    return frozenset[int]().union(*pins)


def _with_pins(xml: str, *elements: str) -> str:
    """Return a definition with elements of <cputune>."""
    return xml.replace("<os>", f"<cputune>{''.join(elements)}</cputune><os>", 1)


class Shared:
    """A host on which a guest runs whose threads share node 0.

    Args:
        faulted: the host.
        call: calls a module.
        options: of the module, for every guest.
    """

    def __init__(self, faulted: Faulted, call: Call, options: dict[str, Any]) -> None:
        self.faulted, self.libvirt = faulted, faulted.libvirt
        self._call, self._options = call, options
        self.has_cells = options["nodes"] != "auto"

    def run(self, *entries: dict[str, Any], restarts: bool = False) -> Run:
        """Partition guests; check mode and diff say as much before, and change nothing."""
        arguments = {
            "uri": self.libvirt.uri,
            "guests": [{"name": "sh", **SHARES}, *entries],
            **self._options,
        }
        before = self._all()
        check = self._call("vnuma_partition", arguments, "--check", "--diff")
        assert self._all() == before
        run = self._call("vnuma_partition", arguments)
        assert not run.failed, run.msg
        for key in ("changed", "restart_required"):
            assert check.result[key] == run.result[key]
        assert bool(run.result["restart_required"]) is restarts
        return run

    def holds(self, expected: frozenset[int]) -> None:
        """See that every thread of the guest may run on these pCPUs alone, now and as defined."""
        live = _live(self.libvirt, "sh")
        assert live == dict.fromkeys(live, expected)
        assert len(live) == 4 + 1 + 1
        pins = etree.fromstring(self.libvirt.dump("sh")).iterfind("cputune/*[@cpuset]")
        assert [_cpus(str(pin.get("cpuset"))) for pin in pins] == [expected] * len(live)

    def _all(self) -> object:
        live = [_live(self.libvirt, name) for name in self.libvirt.virsh("list", "--name").split()]
        return self.faulted.definitions(), live, self.faulted.kept()


@pytest.fixture
def shared(
    smt: Libvirt, call: Call, state_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Shared]:
    """Its nodes are named, and it started with its cell; or they are chosen while it runs."""
    faulted = Faulted(smt, call, state_dir, tmp_path)
    if request.param == "named":
        shared = Shared(faulted, call, {"nodes": "0"})
        faulted.make("sh")
        shared.run()
        faulted.start("sh")
    else:
        by_auto = {"nodes": "auto", "auto_nodes": "0", "memory_mode": "none"}
        shared = Shared(faulted, call, {**by_auto, "reserved_memory": 0})
        faulted.boot("sh")
        shared.run()
    yield shared
    faulted.end()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared", "gone"),
    [
        ("named", "undefined"),
        ("named", "absent while it runs"),
        ("named", "shares"),
        ("auto", "undefined"),
        ("auto", "absent"),
        ("auto", "absent while it runs"),
    ],
    indirect=["shared"],
)
def test_live_pins_shrink_and_grow_back(shared: Shared, gone: str) -> None:
    """A guest that comes owns its pCPUs from then on, without a restart of those that share."""
    shared.holds(NODE_0)
    shared.faulted.make("ded")
    owner = {"name": "ded", "pinning": "core" if gone == "shares" else "cpu"}
    run = shared.run(owner)
    assert {one["name"] for one in run.result["guests"] if one["changed"]} == {"sh", "ded"}
    owned = _owned(shared.libvirt.dump("ded"))
    assert owned < NODE_0
    shared.holds(NODE_0 - owned)
    assert not shared.run(owner).result["changed"]
    # It is no other for the guest that shares whether its neighbour runs.
    shared.faulted.start("ded")
    assert not shared.run(owner).result["changed"]
    shared.holds(NODE_0 - owned)
    GONE[gone](shared, owner)
    shared.holds(NODE_0)
    assert not shared.run().result["changed"]


def _undefined(shared: Shared, _owner: dict[str, Any]) -> None:
    shared.libvirt.virsh("destroy", "ded")
    shared.libvirt.virsh("undefine", "ded")
    assert shared.run().result["changed"]


def _absent(shared: Shared, owner: dict[str, Any]) -> None:
    shared.libvirt.virsh("destroy", "ded")
    assert shared.run({**owner, "state": "absent"}).result["changed"]
    assert "<vcpupin" not in shared.libvirt.dump("ded")


def _shares(shared: Shared, owner: dict[str, Any]) -> None:
    assert shared.run({**owner, "pinning": "node"}).result["changed"]
    live = {what: cpus for what, cpus in _live(shared.libvirt, "ded").items() if "vcpu" in what}
    assert live == dict.fromkeys(live, NODE_0)


def _absent_while_it_runs(shared: Shared, owner: dict[str, Any]) -> None:
    """What it runs on stays its own for as long as it does."""
    before = _owned(shared.libvirt.dump("ded"))
    assert shared.run({**owner, "state": "absent"}, restarts=shared.has_cells).result["changed"]
    if shared.has_cells:
        assert _owned(shared.libvirt.dump("ded", live=True)) == before
        shared.holds(NODE_0 - before)
        assert not shared.run().result["changed"]
        shared.libvirt.virsh("destroy", "ded")
        assert shared.run().result["changed"]


GONE = {
    "undefined": _undefined,
    "absent": _absent,
    "absent while it runs": _absent_while_it_runs,
    "shares": _shares,
}


# Guests of others, on a host with four cores a node.


def _define(libvirt: Libvirt, name: str, vcpus: int = 2, *edits: tuple[str, str]) -> None:
    """Define a guest with an iothread, and with some words of its definition replaced."""
    xml = anuma(name, vcpus, GIB).replace("</vcpu>", "</vcpu><iothreads>1</iothreads>", 1)
    for old, new in edits:
        assert old in xml
        xml = xml.replace(old, new, 1)
    libvirt.define(xml)


def _asked(libvirt: Libvirt, *names: str, **options: Any) -> dict[str, Any]:
    return {"uri": libvirt.uri, "guests": [{"name": name} for name in names], **options}


def _pinned(*elements: str) -> tuple[str, str]:
    return "<os>", f"<cputune>{''.join(elements)}</cputune><os>"


HELD = {
    "its emulator": (_pinned("<emulatorpin cpuset='0-1'/>"),),
    "its iothread 1": (_pinned("<iothreadpin iothread='1' cpuset='0-1'/>"),),
    "its vCPUs": (("placement='static'", "placement='static' cpuset='0-1'"),),
    "its vCPUs by pins": (
        _pinned("<vcpupin vcpu='0' cpuset='0-1'/>", "<vcpupin vcpu='1' cpuset='0-1'/>"),
    ),
}


@pytest.mark.parametrize("what", HELD)
def test_exclusive_pins_avoid_what_others_are_held_to(
    plain: Libvirt, call: Call, what: str
) -> None:
    """While others are free; then it is said by name, and the last one is nobody's."""
    _define(plain, "db", 2, *HELD[what])
    _define(plain, "own")
    before = plain.dump("db")
    run = call("vnuma_partition", _asked(plain, "own", nodes="0", pinning="cpu"))
    assert _owned(plain.dump("own")) == {2, 3}
    assert not [one for one in _warnings(run, "own") if "db" in one]
    told = what.replace(" by pins", "")
    run = call("vnuma_partition", _asked(plain, "own", nodes="0", pinning="cpu", vcpus=3))
    owned = _owned(plain.dump("own"))
    assert owned > {2, 3}
    (both,) = owned - {2, 3}
    sentence = f"it owns pCPUs {both}, and guest db ({told}) may run there too; "
    assert [one for one in _warnings(run, "own") if one.startswith(sentence)]
    defined = plain.dump("own")
    run = call("vnuma_partition", _asked(plain, "own", nodes="0", pinning="cpu", vcpus=4))
    assert run.failed
    assert (
        f"guest own: its vCPUs would take the last pCPUs of host node 0 that guest db ({told}) may "
        "run on; "
    ) in run.msg
    assert (plain.dump("own"), plain.dump("db")) == (defined, before)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["emulatorpin db 0-1", "iothreadpin db 1 0-1"])
def test_exclusive_pins_avoid_what_a_guest_has_while_it_runs(
    plain: Libvirt, call: Call, state_dir: Path, tmp_path: Path, what: str
) -> None:
    """Pins by hand that its definition does not have."""
    faulted = Faulted(plain, call, state_dir, tmp_path)
    faulted.boot("db", vcpus=2)
    plain.virsh(*what.split(), "--live")
    _define(plain, "own")
    before = faulted.definitions()
    run = call("vnuma_partition", _asked(plain, "own", nodes="0", pinning="cpu"))
    assert _warnings(run, "own") == []
    assert _owned(plain.dump("own")).isdisjoint(_cpus(what.split()[-1]))
    after = faulted.definitions()
    assert {key for key in before if after[key] != before[key]} == {("own", False)}
    faulted.end()


def test_a_neighbour_that_is_not_in_the_call(plain: Libvirt, call: Call) -> None:
    """It is named, and its pins are as if both had been planned together once it is in a call."""
    _define(plain, "sh")
    _define(plain, "own")
    assert not call("vnuma_partition", _asked(plain, "sh", nodes="0")).failed
    alone = _asked(plain, "own", nodes="0", pinning="cpu")
    run = call("vnuma_partition", alone)
    owned = _owned(plain.dump("own"))
    sentence = "guest sh (its vCPUs) may run there too; include that guest in the call, which takes"
    assert [one for one in _warnings(run, "own") if sentence in one]
    assert _pins(plain.dump("sh")) == [_cpus("0-3")] * 2
    run = call("vnuma_partition", _asked(plain, "sh", nodes="0"))
    assert _pins(plain.dump("sh")) == [_cpus("0-3") - owned] * 2
    run = call("vnuma_partition", alone)
    assert not run.result["changed"]
    assert _warnings(run, "own") == []


def test_kept_pins(plain: Libvirt, call: Call) -> None:
    """Pins by hand stay, in the books too, and a cell comes with its memory; absent is exact."""
    by_hand = _pinned("<vcpupin vcpu='0' cpuset='3'/>", "<vcpupin vcpu='1' cpuset='1'/>")
    _define(plain, "db", 2, by_hand)
    _define(plain, "own")
    before = plain.dump("db")
    kept = _asked(plain, "db", nodes="0", pinning="keep")
    run = call("vnuma_partition", kept)
    assert _warnings(run, "db") == []
    assert _pins(plain.dump("db")) == [{3}, {1}]
    assert "<memnode cellid='0' mode='strict' nodeset='0'/>" in plain.dump("db")
    assert not call("vnuma_partition", kept).result["changed"]
    both = _asked(plain, "db", "own", nodes="0")
    both["guests"][0]["pinning"] = "keep"
    both["guests"][1]["pinning"] = "cpu"
    assert not call("vnuma_partition", both).failed
    assert _pins(plain.dump("db")) == [{3}, {1}]
    assert _owned(plain.dump("own")) == {0, 2}
    assert call("vnuma_partition", {**kept, "state": "absent"}).result["changed"]
    assert plain.dump("db") == before


def test_a_confinement_that_ends(plain: Libvirt, call: Call) -> None:
    """The first partition says so, the option that it names keeps it, and absent restores it."""
    _define(plain, "db", 2, *HELD["its vCPUs"])
    before = plain.dump("db")
    sentence = (
        "its vCPUs are confined to pCPUs 0-1 by its definition, and pinning 'node' ends that; set "
        "pinning to 'keep' for the pins that it has."
    )
    for flags in (("--check",), ()):
        run = call("vnuma_partition", _asked(plain, "db", nodes="0"), *flags)
        assert sentence in _warnings(run, "db")
    assert _pins(plain.dump("db")) == [_cpus("0-3")] * 2
    call("vnuma_partition", _asked(plain, "db", state="absent"))
    assert plain.dump("db") == before
    run = call("vnuma_partition", _asked(plain, "db", nodes="0", pinning="keep"))
    assert _warnings(run, "db") == []
    assert "cpuset='0-1'>2</vcpu>" in plain.dump("db")
    _define(plain, "own")
    run = call("vnuma_partition", _asked(plain, "own", nodes="0", pinning="cpu"))
    assert _owned(plain.dump("own")) == {2, 3}


def test_real_time_vcpus(plain: Libvirt, call: Call) -> None:
    """vCPUs that keep others waiting are told of where they share, and not where they own."""
    fifo = "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>"
    _define(plain, "rt", 4, _pinned(fifo))
    sentence = (
        "its vCPUs 0-1 have a real-time scheduler (<vcpusched>), and pinning 'node' lets them share"
    )
    run = call("vnuma_partition", _asked(plain, "rt", nodes="0"))
    assert [one for one in _warnings(run, "rt") if one.startswith(sentence)]
    assert "scheduler='fifo'" in plain.dump("rt")
    run = call("vnuma_partition", _asked(plain, "rt", nodes="0", pinning="cpu"))
    assert _warnings(run, "rt") == []
    assert _owned(plain.dump("rt")) == _cpus("0-3")


@pytest.mark.parametrize("nodes", ["0", "auto"])
def test_vcpus_that_are_left_for_hotplug(plain: Libvirt, call: Call, nodes: str) -> None:
    """Those that are to own pCPUs are counted and told of; those that share count as they run."""
    _define(plain, "grows", 20, ("placement='static'", "placement='static' current='3'"))
    before = plain.dump("grows")
    run = call("vnuma_partition", _asked(plain, "grows", nodes=nodes, cells=1, pinning="cpu"))
    assert run.failed
    assert " (17 of its 20 vCPUs are left for hotplug, and are given theirs too)" in run.msg
    assert plain.dump("grows") == before
    run = call("vnuma_partition", _asked(plain, "grows", nodes="auto", auto_nodes="0"))
    assert not run.failed, run.msg
    (node,) = [one for one in run.result["ledger"]["nodes"] if one["guests"]]
    assert (node["node"], node["shared_cores"]) == (0, 3)


def _with_dimm(nodemask: str) -> tuple[tuple[str, str], ...]:
    """A guest with a cell and a memory device that is on a host node of its own."""
    kib = 512 * 1024
    return (
        (
            "<memory unit='KiB'>1048576",
            f"<maxMemory slots='2' unit='KiB'>{4 * GIB}</maxMemory><memory unit='KiB'>1048576",
        ),
        (
            "check='none'/>",
            "check='none'><numa><cell id='0' cpus='0-1' memory='1048576' unit='KiB'/></numa></cpu>",
        ),
        (
            "</devices>",
            "<memory model='dimm'><source><nodemask>" + nodemask + "</nodemask></source>"
            f"<target><size unit='KiB'>{kib}</size><node>0</node></target></memory></devices>",
        ),
    )


def test_a_memory_device_counts_where_it_is(plain: Libvirt, call: Call) -> None:
    """On the node of its nodemask, and not on that of its cell."""
    _define(plain, "db", 2, *_with_dimm("1"))
    run = call("vnuma_partition", _asked(plain, "db", nodes="auto", auto_nodes="0", cells=1))
    assert not run.failed, run.msg
    bound = {one["node"]: one["bound_kib"] for one in run.result["ledger"]["nodes"]}
    assert bound == {0: GIB, 1: GIB // 2, 2: 0, 3: 0}
    info = call("vnuma_info", {"uri": plain.uri}).result
    assert {one["node"]: one["bound_kib"] for one in info["ledger"]["nodes"]} == bound


def test_pages_of_a_size_that_the_host_does_not_have(lab: Start, call: Call) -> None:
    """It is said as it is, whatever nodes and binding are asked for."""
    libvirt = lab("hugepages-2n")
    libvirt.clear()
    pages = "<memoryBacking><hugepages><page size='16384' unit='KiB'/></hugepages></memoryBacking>"
    libvirt.define(anuma("db", 2, GIB).replace("<vcpu ", f"{pages}<vcpu ", 1))
    before = libvirt.dump("db")
    for options in ({}, {"nodes": "auto"}, {"nodes": "0", "memory_mode": "preferred"}):
        run = call("vnuma_partition", _asked(libvirt, "db", **options))
        assert run.failed
        assert (
            "guest db: its hugepages of 16384 KiB do not exist on the host, which has pages of "
            "2048, 1048576 KiB; change <hugepages>, or start the host with pages of that size."
        ) in run.msg
    assert libvirt.dump("db") == before
    libvirt.clear()


def test_growing_a_guest_whose_cells_leave_vcpus_unnamed(smt: Libvirt, call: Call) -> None:
    """A sentence, and nothing is changed; at its own size it is placed."""
    cells = "<numa><cell id='0' cpus='0-1' memory='1048576' unit='KiB'/></numa>"
    _define(smt, "odd", 4, ("check='none'/>", f"check='none'>{cells}</cpu>"))
    before = smt.dump("odd")
    for flags in (("--check",), (), ()):
        run = call("vnuma_partition", _asked(smt, "odd", nodes="auto", vcpus=6), *flags)
        assert run.failed
        assert "guest odd: on one host node it keeps its own 1 cell" in run.msg
        assert ", for 4 vCPUs and 1 GiB; set cells for new ones, " in run.msg
        assert smt.dump("odd") == before
    run = call("vnuma_partition", _asked(smt, "odd", nodes="auto"))
    assert not run.failed, run.msg
    assert not call("vnuma_partition", _asked(smt, "odd", nodes="auto")).result["changed"]


# Ways out.


#: Host, vCPUs and options of a guest that is refused, by the way out; and guests on its nodes.
WAYS: dict[str, tuple[str, int, dict[str, Any], int]] = {
    "split: proportional": ("uneven-2n", 16, {"pinning": "core", "nodes": "0-1"}, 0),
    "threads: 1": ("mixed-smt-2n24c", 8, {"pinning": "cpu", "nodes": "1", "threads": 2}, 0),
    "pinning: node": ("asymmetric-4n16c", 20, {"pinning": "cpu"}, 0),
    "nodes: auto": ("asymmetric-4n16c", 3, {}, 0),
    "widen: true": ("asymmetric-4n16c", 4, {"nodes": "auto"}, 2),
    "cpu_overcommit: 1.5": ("asymmetric-4n16c", 24, {"nodes": "auto"}, 0),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_out_that_was_tried(lab: Start, call: Call, way: str) -> None:
    """The option that a refusal names, applied, gives the guest the nodes that it says."""
    host, vcpus, options, others = WAYS[way]
    libvirt = lab(host)
    libvirt.clear()
    if others:
        for node in range(4):
            _define(libvirt, f"on{node}", others)
        placed = [{"name": f"on{node}", "nodes": str(node)} for node in range(4)]
        assert not call("vnuma_partition", {"uri": libvirt.uri, "guests": placed}).failed
    _define(libvirt, "db", vcpus)
    before = libvirt.dump("db")
    run = call("vnuma_partition", _asked(libvirt, "db", **options))
    assert run.failed
    found = re.search(r"`([^`]+)` would fit, on host nodes? ([0-9,-]+)\.", run.msg)
    assert found, run.msg
    assert found[1] == way
    assert libvirt.dump("db") == before
    option, value = way.split(": ")
    options = {**options, option: value}
    run = call("vnuma_partition", _asked(libvirt, "db", **options))
    assert _cpus(_one(run, "db")["layout"]["nodeset"]) == _cpus(found[2])
    assert not call("vnuma_partition", _asked(libvirt, "db", **options)).result["changed"]
    libvirt.clear()
