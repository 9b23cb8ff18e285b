# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plans of random hosts add up, by a judge that reads definitions by itself.

``python tests/lab/books.py`` judges many more, and shows the smallest case of each fault.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import books
import pytest
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from bookcases import Case, GuestSpec, HostSpec, case
from bookjudge import Sentence, sentences, verdict
from bookways import entry, refused, ways

SEEDS = range(40)
#: Two nodes of two cores with two threads, siblings being 0 and 4: 0-1,4-5 and 2-3,6-7.
HOST = HostSpec((2, 2), (16, 16), threads=2)


def test_plans_add_up() -> None:
    """Rules (a) to (g) of tests/lab/books.py."""
    broken = [
        f"{seed}: {one.rule}) {one.kind}: {one.text}"
        for seed in SEEDS
        for one in books.faults(case(seed))
    ]
    assert not broken, "\n".join(broken)


def test_cases_are_made_again() -> None:
    """A number is enough to see a fault again, and there is something to judge."""
    cases = [case(seed) for seed in SEEDS]
    assert cases == [case(seed) for seed in SEEDS]
    guests = [guest for made in cases for guest in made.guests]
    for name in ("emulator", "iothread_pins", "dimms", "page_kib", "online", "cpuset", "earlier"):
        assert any(getattr(guest, name) for guest in guests), name


def judged(*guests: GuestSpec, warnings: tuple[str, ...] = (), host: HostSpec = HOST) -> set[str]:
    """Return the rules that a plan breaks whose definitions are those of the guests."""
    texts = {guest.name: guest.xml() for guest in guests}
    result: dict[str, Any] = {
        "guests": [
            {"name": guest.name, "definition": guest.xml(), "warnings": []}
            for guest in guests
            if guest.in_call
        ],
        "errors": [],
        "warnings": list(warnings),
    }
    before = {
        guest.name: replace(guest, pins=()).xml() if guest.in_call else texts[guest.name]
        for guest in guests
    }
    return {one.rule for one in verdict(Case(host, guests), before, result).faults()}


SHARED = GuestSpec("shared", 2, 1024, pins=((0, 1, 4, 5),), options=(("nodes", "0"),))
OWNER = GuestSpec("owner", 1, 1024, pins=((1,),), options=(("nodes", "0"), ("pinning", "cpu")))


def test_what_is_owned_is_seen() -> None:
    """By vCPUs, emulators and iothreads, of guests in the call and outside."""
    assert judged(SHARED) == judged(OWNER) == set()
    assert judged(SHARED, OWNER) == {"a"}
    assert judged(SHARED, OWNER, warnings=("guest shared may run on pCPU 1 of guest owner.",)) == (
        set()
    )
    assert judged(SHARED, OWNER, warnings=("guest shared may run on pCPU 0.",)) == {"a"}
    apart = replace(SHARED, pins=((0, 4),))
    assert judged(apart, OWNER) == set()
    assert judged(replace(apart, emulator=(1, 5)), OWNER) == {"a"}
    assert judged(replace(apart, iothreads=1, iothread_pins=(1,)), OWNER) == {"a"}
    assert judged(SHARED, replace(OWNER, in_call=False, options=())) == {"a"}
    assert judged(replace(SHARED, in_call=False, options=()), OWNER) == {"a"}
    # Two that are outside have been so before.
    outside = replace(SHARED, in_call=False, options=())
    assert judged(outside, replace(OWNER, in_call=False, options=())) == set()
    # Whole cores, though the pin names one of two threads.
    core = replace(OWNER, options=(("nodes", "0"), ("pinning", "core")))
    assert judged(replace(SHARED, pins=((5,), (0,))), core) == {"a"}
    assert judged(replace(SHARED, pins=((5,), (0,))), OWNER) == set()


def test_memory_that_is_not_there_is_seen() -> None:
    """Ordinary memory next to pools, pages, and devices where their nodemask says."""
    pools = replace(HOST, pools=(((2048, 4096),), ()))
    bound = replace(SHARED, memory_mib=8 << 10, bound=(0,))
    assert judged(bound, host=pools) == set()
    more = replace(bound, memory_mib=9 << 10)
    assert judged(more) == set()
    assert judged(more, host=pools) == {"b"}
    words = "host node 0 has 8 GiB of memory, and guests bind 9 GiB to it (shared 9 GiB)."
    assert judged(more, host=pools, warnings=(words,)) == set()
    assert judged(replace(bound, page_kib=2048), host=pools) == set()
    assert judged(replace(bound, page_kib=2048, bound=(1,)), host=pools) == {"b"}
    device = replace(bound, memory_mib=1024, dimms=((10 << 10, 0),))
    assert judged(device) == set()
    assert judged(device, replace(device, name="other")) == {"b"}
    assert judged(device, replace(device, name="other", dimms=((10 << 10, 1),))) == set()


def test_too_many_guest_cores_are_seen() -> None:
    """A guest core takes as many cores as its threads need on the host, where auto chose."""
    auto = replace(SHARED, options=(("nodes", "auto"),))
    assert judged(auto) == set()
    assert judged(auto, replace(auto, name="other", vcpus=1)) == {"c"}
    assert judged(SHARED, replace(SHARED, name="other", vcpus=1)) == set()
    wide = replace(auto, vcpus=4, threads=4)
    assert judged(wide) == set()
    assert judged(wide, replace(auto, name="other", vcpus=1)) == {"c"}
    paired = replace(auto, threads=2)
    assert judged(paired, replace(paired, name="other")) == set()


def test_a_confined_guest_is_looked_after() -> None:
    """Nothing owns where it is while other cores are free; and it is told when that ends."""
    confined = replace(SHARED, in_call=False, options=(), pins=((0, 4),), name="confined")
    owner = replace(OWNER, pins=((4,),))
    warned = ("guest confined may run on pCPU 4, which guest owner owns.",)
    assert judged(confined, owner, warnings=warned) == {"d"}
    full = replace(OWNER, name="full", vcpus=2, pins=((1,), (5,)))
    assert judged(confined, owner, full, warnings=warned) == set()
    before = {"shared": replace(SHARED, pins=((0, 4),)).xml()}
    result: dict[str, Any] = {
        "guests": [{"name": "shared", "definition": SHARED.xml(), "warnings": []}],
        "errors": [],
        "warnings": [],
    }
    made = Case(HOST, (SHARED,))
    assert {one.rule for one in verdict(made, before, result).faults()} == {"f"}
    result["warnings"] = ["guest shared is no longer confined to pCPUs 0,4."]
    assert verdict(made, before, result).faults() == []


def test_a_core_of_two_guests_is_seen() -> None:
    """Unless there is no whole one left."""
    other = replace(OWNER, name="other", pins=((5,),))
    assert judged(OWNER, other) == {"g"}
    assert judged(OWNER, replace(other, pins=((4,),))) == set()
    assert judged(OWNER, other, replace(OWNER, name="last", vcpus=2, pins=((0,), (4,)))) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no; `threads: 1` would fit, on host nodes 0-1.", [("threads", "1")]),
        ("no; reduce it, or set pinning to 'node'.", [("pinning", "node")]),
        (
            "no; set widen to true, cells to 2, or threads to 'auto'.",
            [("widen", "true"), ("cells", "2"), ("threads", "auto")],
        ),
        ("no; set sockets to one of 1, 2, 4, or change nodes.", [("sockets", "1")]),
        ("no; raise cpu_overcommit.", [("cpu_overcommit", 64)]),
        (
            "no; give it at least 4 vCPUs, or reduce nodes or cells to at most 2.",
            [("cells", "2"), ("vcpus", 4)],
        ),
        ("no; use a multiple of 8 vCPUs.", [("vcpus", 8)]),
        ("no; set it to 8192 or 10240 KiB.", [("memory", "8192 KiB")]),
        ("no; enlarge the node's pool.", []),
    ],
)
def test_ways_out_are_read(text: str, found: list[tuple[str, Any]]) -> None:
    """Option and value, whatever they are."""
    guest = GuestSpec("a", 5, 1024)
    assert [
        pair for way in ways(Sentence("a", text), guest) for pair in way.options.items()
    ] == found


def test_ways_out_work() -> None:
    """What a refusal says would fit, applied, lets that guest be planned."""
    broken = [
        f"{seed}: {one.kind}: {one.text}"
        for seed in range(200)
        for one in books.faults(refused(seed))
        if one.rule in "ex" and "would fit" in one.kind
    ]
    assert not broken, "\n".join(broken)


def test_many_guests_are_refused() -> None:
    """And many of the refusals name a way out."""
    said = []
    for seed in range(100):
        made = refused(seed)
        result = plan_host(
            list(books.definitions(made).values()),
            made.host.facts(),
            guests=[entry(made.guests[-1])],
        )
        said += [list(ways(one, made.guests[-1])) for one in sentences(result)[1]]
    assert len(said) > 30
    assert sum(map(bool, said)) > 15


def test_a_case_is_made_small() -> None:
    """What has nothing to do with a fault goes."""
    made = Case(
        replace(HOST, domain_cores=2, isolated=1, near=True),
        (SHARED, OWNER, replace(SHARED, name="third", emulator=(0,), threads=2)),
    )

    def holds(one: Case) -> bool:
        return any(guest.emulator for guest in one.guests)

    small = books.shrunk(made, holds)
    assert small.host == HostSpec((2,), (16,))
    assert small.guests == (GuestSpec("third", 1, 1024, emulator=(0,), options=(("nodes", "0"),)),)
