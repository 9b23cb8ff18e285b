# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""All guests of a host from their definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pciguests
import pcijudge
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host

CAPABILITIES = (Path(__file__).resolve().parents[3] / "hosts/rfc-8n240c.xml").read_text()


def guest(name: str, vcpus: int = 4, gib: int = 4) -> str:
    """A definition."""
    return (
        f"<domain type='kvm'><name>{name}</name><memory unit='GiB'>{gib}</memory>"
        f"<vcpu>{vcpus}</vcpu><os><type arch='x86_64'>hvm</type></os>"
        "<devices><graphics type='vnc' passwd='s3cr3tvn'/></devices></domain>"
    )


def test_each_has_a_place_and_a_definition() -> None:
    """As JSON; passwords stay where they are, and are nowhere else."""
    texts = [guest("b", 20, 20), guest("a"), guest("c")]
    plan = plan_host(texts, CAPABILITIES, nodes="auto")
    assert [one["name"] for one in plan["guests"]] == ["a", "b", "c"]
    assert plan["errors"] == plan["warnings"] == []
    assert len(plan["guests"][1]["layout"]["cells"]) == 2
    assert plan["guests"][0]["layout"]["cells"] == []
    assert plan == plan_host(texts[::-1], CAPABILITIES, nodes="auto")
    for one in plan["guests"]:
        assert one.pop("definition").count("passwd='s3cr3tvn'") == 1
    assert "s3cr3tvn" not in json.dumps(plan)


def test_planned_again_nothing_changes_and_back() -> None:
    """The definitions that come out go in again."""
    plan = plan_host([guest("a"), guest("b", 20, 20)], CAPABILITIES, nodes="auto")
    texts = [one["definition"] for one in plan["guests"]]
    again = plan_host(texts, CAPABILITIES, nodes="auto")
    assert [one["changed"] for one in again["guests"]] == [False, False]
    assert all(one["placement"]["kept"] for one in again["guests"])
    undone = plan_host(texts, CAPABILITIES, nodes="auto", state="absent")
    assert all("<cell" not in one["definition"] for one in undone["guests"])
    assert undone["ledger"] is None


def test_guests_that_are_not_planned_count() -> None:
    """Only the one that is named is planned, beside the others."""
    first = plan_host([guest("a", 15, 15)], CAPABILITIES, nodes="auto")["guests"][0]
    plan = plan_host(
        [first["definition"], guest("b", 15, 15)],
        CAPABILITIES,
        guests=[{"name": "b"}],
        nodes="auto",
    )
    (second,) = plan["guests"]
    assert second["placement"]["nodes"] != first["placement"]["nodes"]
    assert sum(node["shared_cores"] for node in plan["ledger"]["nodes"]) == 30


def test_one_without_a_place_is_named() -> None:
    """The others have their plan."""
    plan = plan_host([guest("a"), guest("huge", 400, 8)], CAPABILITIES, nodes="auto")
    assert [one["name"] for one in plan["guests"]] == ["a"]
    (error,) = plan["errors"]
    assert error["name"] == "huge"
    assert "cannot hold it, even without other guests" in error["msg"]


def test_who_finds_no_place_keeps_what_it_has() -> None:
    """It is on all nodes by an older policy: the others are placed beside it."""
    (wide,) = plan_host([guest("wide", 40, 8)], CAPABILITIES, threads=1)["guests"]
    others = [guest(f"g{number}", 15, 4) for number in range(9)]
    plan = plan_host([wide["definition"], *others], CAPABILITIES, nodes="auto", auto_nodes="0-3")
    assert "wide" in {error["name"] for error in plan["errors"]}
    # Five of the fifteen cores of each node are still its own.
    assert plan["guests"] == []
    small = [guest(f"s{number}", 10, 4) for number in range(4)]
    plan = plan_host([wide["definition"], *small], CAPABILITIES, nodes="auto", auto_nodes="0-3")
    assert len(plan["guests"]) == 4


@pytest.mark.parametrize(
    ("definitions", "options", "sentence"),
    [
        ("text", {}, "plan_host takes a list of domain definitions as text."),
        ([1], {}, "plan_host takes a list of domain definitions as text."),
        (["<domain/>"], {}, "definition 1 of 1 has no <name>; add it."),
        ([guest("a"), guest("a")], {}, "guest a: two definitions have its name"),
        ([guest("a")], {"guests": ["a"]}, "guests must be a list of dictionaries with a name"),
        ([guest("a")], {"cpu_overcommit": 0}, "cpu_overcommit must be a number from 1 to 64"),
        (["<"], {}, "plan_host: "),
    ],
)
def test_bad_input(definitions: Any, options: dict[str, Any], sentence: str) -> None:
    """One sentence."""
    with pytest.raises(AnsibleFilterError) as raised:
        plan_host(definitions, CAPABILITIES, **options)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    "uuids",
    [
        ["3f439f5f-1156-4d48-9491-945a2c0abc6d"] * 2,
        ["3f439f5f-1156-4d48-9491-945a2c0abc6d", " 3F439F5F11564D489491945A2C0ABC6D\n"],
    ],
)
def test_copies_with_one_uuid(uuids: list[str]) -> None:
    """Neither is planned in the place of the other; both are named, whatever their order."""
    texts = [
        guest(name).replace("</name>", f"</name><uuid>{uuid}</uuid>")
        for name, uuid in zip(("b", "a"), uuids)
    ]
    for given in (texts, texts[::-1]):
        with pytest.raises(AnsibleFilterError) as raised:
            plan_host([*given, guest("c")], CAPABILITIES, nodes="auto")
        assert str(raised.value) == (
            f"plan_host: guest b: it has the UUID {uuids[0].strip()} of guest a, and a host has "
            "one guest of a UUID; remove <uuid> from one of them, so that libvirt gives it another."
        )
    without = [guest(name) for name in ("a", "b", "c")]
    assert len(plan_host(without, CAPABILITIES, nodes="auto")["guests"]) == 3


def test_one_definition_alone_has_no_ledger() -> None:
    """partition_domain cannot choose."""
    with pytest.raises(AnsibleFilterError, match="nodes 'auto' takes all other guests"):
        partition_domain(guest("a"), CAPABILITIES, nodes="auto")


DEVICES: list[dict[str, Any]] = [
    {"device": "0000:3b:00.0", "host_node": 5, "root_complex": "pci0000:3a", "cell": None},
    {"device": "0000:5e:00.0", "host_node": 2},
]


def test_devices_decide_as_on_the_host() -> None:
    """With what vnuma_info says of them; without, it is as if there were none."""
    text = pciguests.guest(pciguests.hostdev("0000:3b:00.0"), vcpus=4)
    assert plan_host([text], CAPABILITIES, nodes="auto")["guests"][0]["placement"]["nodes"] == "0"
    plan = plan_host([text], CAPABILITIES, nodes="auto", device_nodes=DEVICES)
    placement = plan["guests"][0]["placement"]
    assert (placement["nodes"], placement["devices"]) == ("5", "5")
    named = plan_host([text], CAPABILITIES, nodes="1", device_nodes=DEVICES)["guests"][0]
    assert "its passed-through devices are on host node 5" in named["warnings"][0]
    ignored: dict[str, Any] = {"device_nodes": DEVICES, "device_locality": "ignore"}
    assert plan_host([text], CAPABILITIES, nodes="1", **ignored)["guests"][0]["warnings"] == []


def test_devices_are_put_on_cells() -> None:
    """Both filters do as the module does, and say what they do not know."""
    text = pciguests.guest(
        pciguests.port(1, 0, 1)
        + pciguests.port(2, 0, 2)
        + pciguests.hostdev("0000:3b:00.0", pciguests.address(2)),
        vcpus=16,
    )
    plan = plan_host([text], CAPABILITIES, devices="host", device_nodes=DEVICES)
    (one,) = plan["guests"]
    assert one["layout"]["devices"] == [
        {"device": "0000:3b:00.0", "cell": 5, "address": "0000:f8:00.0"}
    ]
    assert pcijudge.read(one["definition"]).devices == {"0000:3b:00.0": ("0000:f8:00.0", 5)}
    options: dict[str, Any] = {"devices": "host", "device_nodes": DEVICES}
    assert partition_domain(text, CAPABILITIES, **options) == one["definition"]
    assert partition_domain(one["definition"], CAPABILITIES, **options) == one["definition"]
    (error,) = plan_host([text], CAPABILITIES, devices="host")["errors"]
    why = "cannot be put on a cell: its host node is not known here, and not given in device_nodes;"
    assert error["msg"].startswith(f"0000:3b:00.0 {why}")
    with pytest.raises(
        AnsibleFilterError, match=f"partition_domain: guest gpu: 0000:3b:00.0 {why}"
    ):
        partition_domain(text, CAPABILITIES, devices="host")


@pytest.mark.parametrize(
    "given",
    [
        "0000:3b:00.0",
        ["0000:3b:00.0"],
        {"0000:3b:00.0": 1},
        [{"device": "3b:00.0", "host_node": 1}],
        [{"device": "0000:3b:00.0", "host_node": "1"}],
        [{"device": "0000:3b:00.0", "host_node": True}],
        [{"host_node": 1}],
        [None],
        7,
    ],
)
def test_devices_that_are_none(given: object) -> None:
    """One sentence, whatever it is."""
    sentence = "device_nodes must be a list of dictionaries with device, such as '0000:3b:00.0',"
    with pytest.raises(AnsibleFilterError, match=sentence):
        plan_host([guest("a")], CAPABILITIES, device_nodes=given)
