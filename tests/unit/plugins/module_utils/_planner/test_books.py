# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One set of books: who owns, shares and binds what of a host, as all decisions see it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, host_from_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._module.plan_host import plan_host

GIB = 1 << 20


def make_host(
    nodes: int = 2, cores: int = 8, threads: int = 2, memory_gib: int = 64, **keys: Any
) -> Host:
    """A host whose siblings are numbered as Linux does: all first threads, then all second ones."""
    total = nodes * cores
    facts = []
    for node in range(nodes):
        first = [node * cores + core for core in range(cores)]
        siblings = [[cpu + total * thread for thread in range(threads)] for cpu in first]
        facts.append(
            {
                "id": node,
                "cpus": sorted(cpu for core in siblings for cpu in core),
                "cores": siblings,
                "memory_kib": memory_gib * GIB,
                "distances": {str(other): 10 if other == node else 20 for other in range(nodes)},
                **keys,
            }
        )
    return host_from_facts({"nodes": facts, "arch": "x86_64"})


def domain(name: str, vcpus: int, memory_gib: float = 1, inside: str = "", **keys: str) -> str:
    """A definition."""
    attributes = "".join(f" {key}='{value}'" for key, value in keys.items())
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='KiB'>{int(memory_gib * GIB)}</memory>"
        f"<vcpu{attributes}>{vcpus}</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>"
        f"{inside}</domain>"
    )


def tune(*pins: str, **more: str) -> str:
    """A <cputune> with the pins of vCPUs in order, and of other threads."""
    lines = [f"<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>" for vcpu, cpus in enumerate(pins)]
    if "emulator" in more:
        lines.append(f"<emulatorpin cpuset='{more['emulator']}'/>")
    if "iothread" in more:
        lines.append(f"<iothreadpin iothread='1' cpuset='{more['iothread']}'/>")
    return f"<cputune>{''.join(lines)}</cputune>"


def topology(sockets: int, cores: int, threads: int) -> str:
    """A <cpu> with a topology."""
    return f"<cpu><topology sockets='{sockets}' cores='{cores}' threads='{threads}'/></cpu>"


def planned(
    host: Host, texts: list[str], *entries: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """Plan guests; those without an entry are beside the call."""
    return plan_host(texts, host, list(entries), options)


def written(found: dict[str, Any]) -> dict[str, str]:
    """The definitions of the plan, by name."""
    return {one["name"]: one["definition"] for one in found["guests"]}


def pins(text: str, tag: str = "vcpupin") -> list[set[int]]:
    """The pins in a definition, read from its text."""
    text = re.sub("<metadata>.*</metadata>", "", text, flags=re.DOTALL)
    found = re.findall(rf"<{tag}\b[^>]*cpuset=[\"']([^\"']*)", text)
    return [set(parse_cpuset(cpus)) for cpus in found]


def everything(sets: list[set[int]]) -> set[int]:
    """All pCPUs of some pins."""
    return set().union(*sets)


@pytest.mark.parametrize("exclusive", ["core", "cpu"])
@pytest.mark.parametrize("shared", ["node", "cache"])
def test_what_is_owned_leaves_the_shared_pool(exclusive: str, shared: str) -> None:
    """vCPUs, emulators and iothreads that share do not run on what another guest owns."""
    host = make_host(cache_domains=None)
    iothreads = "<iothreads>2</iothreads>"
    found = planned(
        host,
        [domain("ded", 4), domain("sh", 4, inside=iothreads)],
        {"name": "ded", "pinning": exclusive, "nodes": "0"},
        {
            "name": "sh",
            "pinning": shared,
            "nodes": "0",
            "emulator_pinning": "nodes",
            "iothread_pinning": "nodes",
        },
    )
    assert found["errors"] == []
    texts = written(found)
    owned = everything(pins(texts["ded"]))
    assert len(owned) == 4
    for tag in ("vcpupin", "emulatorpin", "iothreadpin"):
        assert pins(texts["sh"], tag), tag
        assert owned.isdisjoint(everything(pins(texts["sh"], tag))), tag
    # The same in two calls, one after the other; and the pins grow back once it is gone.
    options = {"name": "sh", "pinning": shared, "nodes": "0"}
    again = written(planned(host, [texts["ded"], texts["sh"]], options))
    assert pins(again["sh"]) == pins(texts["sh"])
    alone = written(planned(host, [texts["sh"]], options))
    assert owned <= everything(pins(alone["sh"]))


def test_somebody_who_shares_keeps_a_pcpu() -> None:
    """The guest that wants the last ones for itself is refused; where all are owned, the other."""
    host = make_host(1, 4, 1)
    both = [
        {"name": "ded", "pinning": "core", "nodes": "0"},
        {"name": "sh", "pinning": "node", "nodes": "0"},
    ]
    found = planned(host, [domain("ded", 4), domain("sh", 2)], *both)
    (error,) = found["errors"]
    assert error["name"] == "ded"
    assert "would take the last pCPUs of host node 0 that guest sh (its vCPUs)" in error["msg"]
    assert everything(pins(written(found)["sh"])) == {0, 1, 2, 3}
    ded = written(planned(host, [domain("ded", 4)], both[0]))["ded"]
    found = planned(host, [ded, domain("sh", 2)], both[1])
    (error,) = found["errors"]
    assert "pinning 'node' finds no pCPU on host node 0 that no guest owns" in error["msg"]
    assert "ded" in error["msg"]


def test_threads_whose_own_guest_takes_what_was_spared() -> None:
    """Another guest took the rest of it: planning comes to an end all the same."""
    found = planned(
        make_host(1, 4, 1),
        [domain("a", 3), domain("b", 1, inside=tune(emulator="0-1"))],
        {"name": "*", "pinning": "cpu"},
    )
    assert found["errors"] == []
    assert any("its emulator may run there too" in one for one in found["guests"][1]["warnings"])


@pytest.mark.parametrize(
    "beside",
    [
        domain("x", 2, inside=tune(emulator="0-1")),
        domain("x", 2, inside="<iothreads>1</iothreads>" + tune(iothread="0-1")),
        domain("x", 2, cpuset="0-1"),
        domain("x", 4, inside=tune("0-1", "0-1", "0-1", "0-1")),
    ],
    ids=["emulator", "iothread", "cpuset", "group"],
)
@pytest.mark.parametrize("pinning", ["core", "cpu"])
def test_exclusive_pins_avoid_what_threads_are_held_to(beside: str, pinning: str) -> None:
    """While others are free; where none is, the plan says so by name."""
    host = make_host(1, 8, 1)
    found = planned(host, [beside, domain("ded", 6)], {"name": "ded", "pinning": pinning})
    assert everything(pins(written(found)["ded"])) == {2, 3, 4, 5, 6, 7}
    assert found["guests"][0]["warnings"] == []
    found = planned(host, [beside, domain("ded", 7)], {"name": "ded", "pinning": pinning})
    (guest,) = found["guests"]
    assert any("guest x (" in one and "may run there too" in one for one in guest["warnings"])


def test_a_guests_own_emulator_is_avoided() -> None:
    """It was pinned by hand, and stays there."""
    host = make_host(1, 8, 1)
    mine = domain("ded", 4, inside=tune(emulator="0-1"))
    found = planned(host, [mine], {"name": "ded", "pinning": "core"})
    assert everything(pins(written(found)["ded"])) == {2, 3, 4, 5}


def test_the_end_of_a_confinement_is_said() -> None:
    """Or it is kept."""
    host = make_host(1, 8, 1)
    for held in (domain("x", 2, cpuset="4-5"), domain("x", 2, inside=tune("4-5", "4-5"))):
        (guest,) = planned(host, [held], {"name": "x"})["guests"]
        assert any("confined to pCPUs 4-5" in one for one in guest["warnings"])
        (guest,) = planned(host, [held], {"name": "x", "pinning": "keep"})["guests"]
        assert guest["warnings"] == []
        assert pins(guest["definition"]) == pins(held)
        assert "<numa>" in guest["definition"]
    # A set that holds all pCPUs of its node confines it to nothing that its pins do not.
    (guest,) = planned(host, [domain("x", 2, cpuset="0-7")], {"name": "x"})["guests"]
    assert guest["warnings"] == []


def test_guest_cores_are_counted_by_the_host() -> None:
    """A guest core of two threads takes two host cores without SMT."""
    host = make_host(1, 16, 1, memory_gib=256)
    texts = [domain(f"g{one}", 8, inside=topology(1, 4, 2)) for one in range(4)]
    found = planned(host, texts, {"name": "*", "nodes": "auto"})
    assert len(found["guests"]) == 2
    assert [one["name"] for one in found["errors"]] == ["g2", "g3"]
    (node,) = found["ledger"]["nodes"]
    assert node["shared_cores"] >= 16
    (first, _second) = found["guests"]
    assert any("exceeds the host's SMT width" in one for one in first["warnings"])


def test_cpu_counts_threads() -> None:
    """Whole cores first; what one call holds, so does one call each."""
    host = make_host(1, 4, 2)
    texts = [domain(f"g{one}", 2) for one in range(4)]
    found = planned(host, texts, {"name": "*", "nodes": "auto", "pinning": "cpu"})
    assert found["errors"] == []
    taken = [everything(pins(text)) for text in written(found).values()]
    assert all(len({cpu % 4 for cpu in cpus}) == 1 for cpus in taken)
    there: list[str] = []
    for text in texts:
        name = re.findall("<name>(.*?)<", text)[0]
        one = planned(host, [*there, text], {"name": name, "nodes": "auto", "pinning": "cpu"})
        assert one["errors"] == []
        there.append(written(one)[name])
    assert len(everything([cpu for text in there for cpu in pins(text)])) == 8


def test_no_two_guests_share_a_core_while_one_is_whole() -> None:
    """Odd guests leave a thread idle, and once no core is whole these are given too."""
    host = make_host(1, 4, 2)
    asked = {"name": "*", "nodes": "auto", "pinning": "cpu"}
    three = planned(host, [domain(f"g{one}", 1) for one in range(4)], asked)
    assert len({cpu % 4 for text in written(three).values() for cpu in everything(pins(text))}) == 4
    eight = planned(host, [domain(f"g{one}", 1) for one in range(8)], asked)
    assert eight["errors"] == []


def test_memory_devices_are_where_their_nodemask_is() -> None:
    """And not on the node of their cell."""
    host = make_host(2, 8, 1, memory_gib=8)
    dimm = (
        "<maxMemory slots='4' unit='GiB'>64</maxMemory><devices><memory model='dimm'>"
        "<source><nodemask>1</nodemask></source><target><size unit='GiB'>6</size><node>0</node>"
        "</target></memory></devices>"
    )
    found = planned(host, [domain("x", 2, 8, dimm)], {"name": "x", "nodes": "0"}, reserved_memory=0)
    other = domain("y", 2, 4)
    assert found["warnings"] == []
    text = written(found)["x"]
    auto = planned(host, [text, other], {"name": "y", "nodes": "auto", "reserved_memory": 0})
    assert auto["guests"][0]["placement"]["nodes"] == "0"
    assert auto["ledger"]["nodes"][1]["bound_kib"] == 6 * GIB


def test_ordinary_memory_is_what_the_pools_leave() -> None:
    """By name and alone, as by auto and together."""
    pools = [{"size_kib": 2048, "total": 24576, "free": 24576}]
    host = make_host(1, 8, 1, memory_gib=64, hugepages=pools)
    found = planned(host, [domain("x", 2, 48)], {"name": "x", "nodes": "0"})
    (warning,) = found["guests"][0]["warnings"]
    assert "50331648 KiB of its memory would be bound to host node 0, which has 16777216" in warning
    found = planned(host, [domain("x", 2, 48)], {"name": "x", "nodes": "auto"})
    assert "of 49152 MiB" in found["errors"][0]["msg"]


@pytest.mark.parametrize("mode", ["strict", "preferred", "none"])
def test_pages_that_the_host_does_not_have(mode: str) -> None:
    """They are told of as such, whatever the binding."""
    pools = [{"size_kib": 2048, "total": 1024, "free": 1024}]
    host = make_host(1, 8, 1, hugepages=pools)
    backing = "<memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>"
    for nodes in ("0", "auto"):
        found = planned(
            host, [domain("x", 2, 4, backing)], {"name": "x", "nodes": nodes, "memory_mode": mode}
        )
        (error,) = found["errors"]
        assert "its hugepages of 1048576 KiB do not exist on the host" in error["msg"]


def test_vcpus_for_hotplug_do_not_count_while_they_share() -> None:
    """Where they own pCPUs they do, and the refusal says so."""
    host = make_host(1, 8, 1)
    text = domain("x", 32, current="4")
    assert planned(host, [text], {"name": "x", "nodes": "auto"})["errors"] == []
    found = planned(host, [text], {"name": "x", "nodes": "0", "pinning": "core"})
    assert "28 of its 32 vCPUs are left for hotplug" in found["errors"][0]["msg"]
    found = planned(host, [text], {"name": "x", "nodes": "auto", "pinning": "core"})
    assert "28 of its 32 vCPUs are left for hotplug" in found["errors"][0]["msg"]


def test_a_rule_is_not_taken_for_want_of_room() -> None:
    """One node holds it; that 6 vCPUs do not fill sockets of 4 has nothing to do with nodes."""
    host = make_host(2, 8, 1)
    text = domain("x", 4, inside=topology(1, 4, 1))
    found = planned(host, [text], {"name": "x", "nodes": "auto", "vcpus": 6})
    assert "does not fill the sockets of its own CPU topology" in found["errors"][0]["msg"]
    cells = (
        "<cpu><numa><cell id='0' cpus='0-1' memory='1' unit='GiB'/>"
        "<cell id='1' cpus='2-3' memory='1' unit='GiB'/></numa></cpu>"
    )
    text = domain("x", 4, 2, inside=cells)
    for vcpus in (2, 6):
        found = planned(host, [text], {"name": "x", "nodes": "auto", "vcpus": vcpus})
        assert "it keeps its own 2 cells" in found["errors"][0]["msg"]


def test_real_time_vcpus_that_share() -> None:
    """A fifo vCPU that had a pCPU of its own is pinned to a whole node, with all others."""
    host = make_host(1, 8, 1)
    sched = "<vcpusched vcpus='0-1' scheduler='fifo' priority='1'/></cputune>"
    text = domain("x", 2, inside=tune("4", "5").replace("</cputune>", sched))
    (guest,) = planned(host, [text], {"name": "x"})["guests"]
    assert any("its vCPUs 0-1 have a real-time scheduler" in one for one in guest["warnings"])
    for pinning in ("core", "keep"):
        (guest,) = planned(host, [text], {"name": "x", "pinning": pinning})["guests"]
        assert guest["warnings"] == []


@pytest.mark.parametrize(
    ("inside", "pinning", "said"),
    [
        ("<cachetune vcpus='0'/>", "node", "its <cachetune> gives vCPUs 0 a part of a cache"),
        ("<cachetune vcpus='0-1'/>", "core", "its <cachetune> gives vCPUs 0-1 a part of a cache"),
        ("<shares>2048</shares>", "cpu", "its <shares> weigh it against other guests"),
        ("<shares>2048</shares>", "node", ""),
        ("<cachetune vcpus='0-1'/><shares>9</shares>", "keep", ""),
    ],
)
def test_what_had_its_sense_from_pins(inside: str, pinning: str, said: str) -> None:
    """Is said when these are replaced, and no more once the guest has its new ones."""
    host = make_host(1, 8, 1)
    text = domain("x", 2, inside=tune("4", "5").replace("</cputune>", f"{inside}</cputune>"))
    (guest,) = planned(host, [text], {"name": "x", "pinning": pinning})["guests"]
    if pinning in ("core", "cpu"):
        # It owns these already, and keeps them.
        assert guest["warnings"] == []
        bare = domain("x", 2, inside=f"<cputune>{inside}</cputune>")
        (guest,) = planned(host, [bare], {"name": "x", "pinning": pinning})["guests"]
    assert [one for one in guest["warnings"] if "<cachetune>" in one or "<shares>" in one] == (
        [one for one in guest["warnings"] if one.startswith(said)] if said else []
    )
    assert any(one.startswith(said) for one in guest["warnings"]) is bool(said)
    (again,) = planned(host, [guest["definition"]], {"name": "x", "pinning": pinning})["guests"]
    assert again["warnings"] == []


def test_in_proportion_whatever_the_order_of_nodes() -> None:
    """The small node may come first."""
    for sizes in ((4, 16), (16, 4)):
        first, nodes = 0, []
        for number, cores in enumerate(sizes):
            cpus = list(range(first, first + cores))
            first += cores
            nodes.append({"id": number, "cpus": cpus, "memory_kib": 64 * GIB})
        host = host_from_facts({"nodes": nodes, "arch": "x86_64"})
        found = planned(
            host, [domain("x", 20, 8)], {"name": "x", "nodes": "auto", "split": "proportional"}
        )
        assert found["errors"] == []


def test_a_shared_pin_to_a_single_core_owns_nothing() -> None:
    """What its record says of its pins is believed, in the call and beside it."""
    host = make_host(1, 1, 1)
    options = {"nodes": "auto", "cpu_overcommit": 4}
    first = written(planned(host, [domain("g0", 1)], {"name": "g0", **options}))["g0"]
    found = planned(host, [first, domain("g1", 1)], {"name": "g1", **options})
    assert found["errors"] == []


def test_isolated_cores_and_overcommit_together() -> None:
    """Guests with cores of their own take the isolated ones, and the rest is shared twice over."""
    nodes = [{"id": 0, "cpus": list(range(8)), "memory_kib": 64 * GIB}]
    host = host_from_facts({"nodes": nodes, "arch": "x86_64", "isolated_cpus": "0-3"})
    found = planned(
        host,
        [domain("a", 4), domain("b", 8)],
        {"name": "a", "nodes": "auto", "pinning": "core"},
        {"name": "b", "nodes": "auto", "cpu_overcommit": 2},
    )
    assert found["errors"] == []


def test_a_guest_that_gets_a_place_in_a_later_turn() -> None:
    """It keeps no error of an earlier one: a stays where it is, and b is placed with it."""
    host = make_host(2, 15, 2, memory_gib=192)
    bound = "<numatune><memory mode='strict' nodeset='0-1'/></numatune>"
    texts = [domain("a", 2, 88, bound), domain("b", 2, 83)]
    texts += [domain(f"s{one}", 2, 46) for one in range(4)]
    options = {"nodes": "auto", "reserved_memory": 0}
    found = planned(host, texts, {"name": "*", **options})
    there = written(found)
    again = planned(host, [*there.values()], {"name": "*", **options})
    assert [one["changed"] for one in again["guests"]] == [False] * len(again["guests"])
    placed = {one["name"] for one in found["guests"]}
    later = planned(
        host,
        [
            there.get(name, text)
            for name, text in zip(["a", "b", *(f"s{n}" for n in range(4))], texts)
        ],
        {"name": "*", **options},
    )
    assert {one["name"] for one in later["guests"]} == placed


def test_unlike_pools() -> None:
    """What one node by name takes, auto finds; pages of 2 MiB are hugepages on every node."""
    small, large = (
        [{"size_kib": size, "total": total}] for size, total in ((2048, 4096), (GIB, 8))
    )
    nodes = [
        {
            "id": one,
            "cpus": list(range(one * 4, one * 4 + 4)),
            "memory_kib": 64 * GIB,
            "hugepages": pool,
        }
        for one, pool in enumerate((small, large))
    ]
    host = host_from_facts({"nodes": nodes, "arch": "x86_64"})
    backing = "<memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>"
    for memory_gib in (2, 4):
        text = domain("x", 2, memory_gib, backing)
        for options in ({"nodes": "1"}, {"nodes": "auto"}, {"nodes": "auto", "cells": 1}):
            found = planned(host, [text], {"name": "x", **options})
            assert found["errors"] == [], options
    two = "<memoryBacking><hugepages><page size='2' unit='M'/></hugepages></memoryBacking>"
    found = planned(host, [domain("x", 2, 2, two)], {"name": "x", "nodes": "1"})
    assert "host node 1 has 0 hugepages of 2048 KiB" in found["errors"][0]["msg"]


#: A host, guests, an entry, and the option that the error names.
WAYS = [
    (make_host(1, 8, 2), [domain("x", 18)], {"nodes": "0", "pinning": "core"}, "pinning"),
    (make_host(2, 8, 1), [domain("x", 1)], {}, "nodes"),
    (make_host(2, 8, 1), [domain("x", 12)], {"nodes": "0", "pinning": "core"}, "nodes"),
    (make_host(1, 8, 1), [domain("x", 12)], {"nodes": "auto"}, "cpu_overcommit"),
    (
        make_host(2, 8, 1),
        [domain("a", 5), domain("b", 5), domain("x", 6)],
        {"nodes": "auto"},
        "widen",
    ),
]


@pytest.mark.parametrize("case", range(len(WAYS)))
def test_a_way_out_that_was_tried(case: int) -> None:
    """It works."""
    host, texts, options, option = WAYS[case]
    there = []
    for name, text in zip("ab", texts[:-1]):
        entry = {"name": name, "nodes": "01"["ab".index(name)]}
        there.append(written(planned(host, [text], entry))[name])
    texts = [*there, texts[-1]]
    (error,) = planned(host, texts, {"name": "x", **options})["errors"]
    way = re.search("`(.*?)` would fit, on host nodes? ([0-9,-]+)", error["msg"])
    assert way is not None, error["msg"]
    assert option in way[1]
    changed = dict(one.split(": ") for one in way[1].split(", "))
    again = planned(host, texts, {"name": "x", **options, **changed})
    assert again["errors"] == []
    layout = again["guests"][0]["layout"]
    nodes = {cell["host_node"] for cell in layout["cells"]} or set(parse_cpuset(layout["nodeset"]))
    assert nodes == set(parse_cpuset(way[2]))


def test_no_option_helps() -> None:
    """None is named then."""
    found = planned(
        make_host(1, 2, 1), [domain("x", 64)], {"name": "x", "pinning": "core", "nodes": "0"}
    )
    assert "pinning: node" in found["errors"][0]["msg"]
    found = planned(make_host(1, 2, 1), [domain("x", 64)], {"name": "x", "nodes": "auto"})
    (error,) = found["errors"]
    assert "would fit" not in error["msg"]
    assert error["msg"].endswith("; reduce its vCPUs or memory.")
