# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vnuma_facts and the filter, with real daemons and real playbooks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from adhoc import Run
from conftest import Libvirt, play_tasks
from guests import anuma

Call = Callable[..., Run]


def test_facts_of_the_rfc_host(rfc: Libvirt, call: Call) -> None:
    """Nodes, pCPUs, memory, distances and cores as the host has them."""
    host = call("vnuma_facts", {"uri": rfc.uri}).result["ansible_facts"]["vnuma_host"]
    assert [node["id"] for node in host["nodes"]] == list(range(8))
    assert host["nodes"][1]["cpus"] == "15-29,135-149"
    assert host["nodes"][1]["cores"][:2] == ["15,135", "16,136"]
    assert host["nodes"][0]["distances"] == dict(
        zip("01234567", (10, 21, 31, 21, 21, 31, 31, 31), strict=True)
    )
    assert host["nodes"][0]["free_kib"] < host["nodes"][0]["memory_kib"]
    assert host["threads_per_core"] == 2
    assert host["arch"] == "x86_64"
    assert host["libvirt_version"].count(".") == 2
    assert host["hypervisor_version"].count(".") == 2


def test_hugepages_total_and_free(lab: Callable[..., Libvirt], call: Call) -> None:
    """Pools are listed per node, with what is free in them."""
    libvirt = lab("hugepages-2n")
    host = call("vnuma_facts", {"uri": libvirt.uri}).result["ansible_facts"]["vnuma_host"]
    pools = [node["hugepages"] for node in host["nodes"]]
    assert libvirt.host.spec is not None
    spec = json.loads(libvirt.host.spec.read_text())
    assert [
        [(str(pool["size_kib"]), [pool["total"], pool["free"]]) for pool in node] for node in pools
    ] == [
        sorted(node["hugepages"].items(), key=lambda pool: int(pool[0])) for node in spec["nodes"]
    ]


def test_feeding_the_facts_back_gives_the_same_layout(rfc: Libvirt, call: Call) -> None:
    """topology: ansible_facts.vnuma_host plans as gathering does."""
    rfc.define(anuma())
    host = call("vnuma_facts", {"uri": rfc.uri}).result["ansible_facts"]["vnuma_host"]
    for options in ({}, {"pinning": "core"}, {"cells": 3, "distribution": "interleave"}):
        arguments = {"uri": rfc.uri, "guests": [{"name": "anuma"}], **options}
        gathered = call("vnuma_partition", arguments, "--check").result["guests"]
        given = call("vnuma_partition", {**arguments, "topology": host}, "--check").result["guests"]
        assert given == gathered


def test_as_a_facts_module_of_gather_facts(rfc: Libvirt, ansible: None, tmp_path: Path) -> None:
    """gather_facts runs it beside setup, and its defaults come from the action group."""
    output = play_tasks(
        rfc,
        tmp_path,
        [
            {
                "ansible.builtin.assert": {
                    "that": [
                        "ansible_facts.vnuma_host.nodes | length == 8",
                        "ansible_facts.distribution is defined",
                    ]
                }
            }
        ],
        gather_facts=True,
        vars={
            "ansible_facts_modules": ["ansible.builtin.setup", "kvm.vnuma.vnuma_facts"],
            # Side by side, each would have five seconds (async_wrapper.py), on slow machines too.
            "ansible_facts_parallel": False,
        },
        module_defaults={"group/kvm.vnuma.vnuma": {"uri": rfc.uri}},
    )
    assert "failed=0" in output


@pytest.mark.parametrize("source", ["facts", "capabilities"])
def test_filter_gives_what_the_module_defines(
    rfc: Libvirt, call: Call, tmp_path: Path, source: str
) -> None:
    """A template through the filter, defined by other means, needs no change by the module."""
    if source == "facts":
        host = call("vnuma_facts", {"uri": rfc.uri}).result["ansible_facts"]["vnuma_host"]
    else:
        host = rfc.virsh("capabilities")
    (tmp_path / "anuma.xml").write_text(anuma().replace("check='none'", "check='numa'"))
    out = tmp_path / "out.xml"
    play_tasks(
        rfc,
        tmp_path,
        [
            {
                "ansible.builtin.copy": {
                    "content": "{{ lookup('ansible.builtin.file', template) | "
                    "kvm.vnuma.partition_domain(host, nodes='0-3') }}",
                    "dest": str(out),
                    "mode": "0600",
                }
            }
        ],
        vars={"host": host, "template": str(tmp_path / "anuma.xml")},
    )
    assert "check='none'" in out.read_text()
    rfc.define(out.read_text())
    run = call("vnuma_partition", {"uri": rfc.uri, "nodes": "0-3", "guests": [{"name": "anuma"}]})
    assert not run.result["changed"]
    assert len(run.result["guests"][0]["layout"]["cells"]) == 4
