# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shapes by whole plays: every host of a group gets the same cells, or nobody gets any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PROJECT, Libvirt
from guests import anuma
from lxml import etree
from test_role import Hosts

GIB = 1 << 20
#: Eight nodes of 15 pCPUs, two of 16, four of 4, two of one.
SPECS = {
    "kvm1": "rfc-8n240c",
    "kvm2": "two-socket-2n32c",
    "kvm3": "asymmetric-4n16c",
    "tiny": "tiny-2n2c",
}


@pytest.fixture
def hosts(lab: Callable[..., Libvirt], ansible: None, tmp_path: Path) -> Iterator[Hosts]:
    """Four unlike hosts, a guest on each of the first three."""
    libvirts = {name: lab(spec) for name, spec in SPECS.items()}
    for name, libvirt in libvirts.items():
        libvirt.clear()
        if name != "tiny":
            libvirt.define(anuma(f"on-{name}", vcpus=8, memory_kib=8 * GIB))
    yield Hosts(libvirts, tmp_path)
    for libvirt in libvirts.values():
        libvirt.clear()


def _seen(xml: str) -> tuple[bytes, bytes]:
    """What a guest's kernel sees, byte for byte."""
    root = etree.fromstring(xml)
    numa, topology = (root.find(f"cpu/{tag}") for tag in ("numa", "topology"))
    return etree.tostring(numa, method="c14n"), etree.tostring(topology, method="c14n")


def _group(hosts: Hosts, *names: str) -> None:
    for name in names:
        guests = [] if name == "tiny" else [f"on-{name}"]
        hosts.guests(name, *guests, vnuma_migration_group=list(names))


def test_one_shape_on_every_host(hosts: Hosts) -> None:
    """By the playbook: the same cells on unlike hosts, and a second run changes nothing."""
    names = ("kvm1", "kvm2", "kvm3")
    _group(hosts, *names)
    checked = hosts.play("kvm.vnuma.converge", flags=("--check", "--diff"))
    assert not checked.failed, checked.output
    assert all("<cell " not in hosts.libvirts[name].dump(f"on-{name}") for name in names)
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    dumps = {name: hosts.libvirts[name].dump(f"on-{name}") for name in names}
    assert len({_seen(dump) for dump in dumps.values()}) == 1
    assert dumps["kvm1"].count("<cell ") == 8
    bound = {
        name: re.findall(r"<memnode cellid='\d' mode='strict' nodeset='(\d)'", dump)
        for name, dump in dumps.items()
    }
    assert bound["kvm1"] == list("01234567")
    assert bound["kvm2"] == list("01010101")
    assert bound["kvm3"] == list("01230123")
    again = hosts.play("kvm.vnuma.converge")
    assert not again.failed, again.output
    assert "RUNNING HANDLER" not in again.output
    assert {name: hosts.libvirts[name].dump(f"on-{name}") for name in names} == dumps


def test_a_host_that_is_added_later(hosts: Hosts) -> None:
    """Who cannot back the shape is refused by name, before anything is written anywhere."""
    _group(hosts, "kvm1", "kvm2")
    run = hosts.play("kvm.vnuma.converge", flags=("--limit", "kvm1,kvm2"))
    assert not run.failed, run.output
    before = hosts.dumps()
    _group(hosts, "kvm1", "kvm2", "tiny")
    hosts.libvirts["kvm2"].define(anuma("new", vcpus=2, memory_kib=GIB))
    hosts.guests(
        "kvm2",
        "on-kvm2",
        {"name": "new", "migration_group": [], "nodes": "0"},
        vnuma_migration_group=["kvm1", "kvm2", "tiny"],
    )
    run = hosts.play("kvm.vnuma.converge")
    assert run.failed
    assert "guest on-kvm1: its shape of 8 cells does not fit every host" in run.output
    assert re.search(
        r"\(tiny: the host cannot back its cells: spread over 2 of 2 nodes", run.output
    )
    assert "kvm2: the host" not in run.output
    hosts.libvirts["kvm2"].virsh("undefine", "new")
    assert hosts.dumps() == before


def test_hosts_that_are_not_in_the_play(hosts: Hosts) -> None:
    """Their topology is asked for all the same; a guest can be left out of the group."""
    names = ["kvm1", "kvm2"]
    hosts.libvirts["kvm1"].define(anuma("alone", vcpus=8, memory_kib=8 * GIB))
    hosts.guests(
        "kvm1",
        "on-kvm1",
        {"name": "alone", "migration_group": [], "nodes": "0-1"},
        vnuma_migration_group=names,
    )
    run = hosts.play("kvm.vnuma.converge", flags=("--limit", "kvm1"))
    assert not run.failed, run.output
    shaped, alone = (hosts.libvirts["kvm1"].dump(name) for name in ("on-kvm1", "alone"))
    assert re.search(r"migration_group=.kvm1,kvm2.", shaped)
    assert "migration_group" not in alone
    assert (shaped.count("<cell "), alone.count("<cell ")) == (8, 2)


def test_names_that_are_no_hosts(hosts: Hosts) -> None:
    """One sentence, before anything is asked."""
    hosts.guests("kvm1", "on-kvm1", vnuma_migration_group=["kvm1", "kvm9"])
    run = hosts.play("kvm.vnuma.converge", flags=("--limit", "kvm1"))
    assert run.failed
    assert "not in it: kvm9." in run.output
    assert "<cell " not in hosts.libvirts["kvm1"].dump("on-kvm1")


def test_the_inventory_of_the_documentation(hosts: Hosts) -> None:
    """docs/examples/migration-group.yml, as it stands; most guests are smaller than a host."""
    for name in ("kvm1", "kvm2", "kvm3"):
        for small, vcpus in ((f"local-{name}", 1), (f"small-{name}", 1), (f"some-{name}", 3)):
            hosts.libvirts[name].define(anuma(small, vcpus=vcpus, memory_kib=GIB))
    example = PROJECT / "docs/examples/migration-group.yml"
    flags = ("--inventory", str(example), "--limit", "kvm1,kvm2,kvm3")
    run = hosts.play("kvm.vnuma.converge", flags=flags)
    assert not run.failed, run.output
    names = ("kvm1", "kvm2", "kvm3")
    for guest in ("on", "small", "some"):
        assert len({_seen(hosts.libvirts[name].dump(f"{guest}-{name}")) for name in names}) == 1
    for name in names:
        stays = hosts.libvirts[name].dump(f"local-{name}")
        assert "<vcpupin " in stays
        assert "migration_group" not in stays
