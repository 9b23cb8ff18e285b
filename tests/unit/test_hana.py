# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SAP HANA as SUSE's guide for KVM has it: the recipe gives its examples, string by string."""

from __future__ import annotations

from typing import Any

import hana
import pytest
import yaml
from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain
from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from hana import EXAMPLES, TESTS

RECIPE = TESTS.parent / "docs/examples/recipes/sap-hana.yml"


def _options() -> dict[str, Any]:
    """Return the recipe's options, as the play has them."""
    (play,) = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    options: dict[str, Any] = dict(play["tasks"][0]["kvm.vnuma.vnuma_partition"])
    del options["guests"]
    return options


def _facts(example: dict[str, Any], **keys: str) -> dict[str, Any]:
    """Return the example's host: a node a socket, second threads numbered after the first."""
    sockets, cores = example["host"]["sockets"], example["host"]["cores"]
    every = sockets * cores
    pages = max(int(cell["memory"]) for cell in example["cells"]) >> 20
    nodes = []
    for node in range(sockets):
        first = range(node * cores, (node + 1) * cores)
        cpus = f"{first[0]}-{first[-1]},{first[0] + every}-{first[-1] + every}"
        nodes.append(
            {
                "id": node,
                "cpus": cpus,
                "memory_kib": 2 << 30,
                "hugepages": [{"size_kib": 1 << 20, "total": pages}],
                "distances": {str(other): 10 if other == node else 21 for other in range(sockets)},
                "cores": [f"{core},{core + every}" for core in first],
                "cache_domains": [cpus],
                "socket_ids": [node],
            }
        )
    return {"nodes": nodes, "threads_per_core": 2, "arch": "x86_64", **keys}


@pytest.mark.parametrize("keys", [{}, {"cpu_vendor": "Intel", "cpu_model": "Cascadelake-Server"}])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_guides_examples(name: str, keys: dict[str, str]) -> None:
    """Topology, cells, distances, pins and bindings; what else it asks for is as it was."""
    example = EXAMPLES[name]
    options = _options()
    if len(example["cells"]) < example["host"]["sockets"]:
        options["nodes"] = "0"
    before = hana.guest(example)
    after = partition_domain(before, _facts(example, **keys), **options)
    hana.compare(after, example)
    assert hana.kept(after) == hana.kept(before)
    assert all(hana.kept(before).values())
    assert partition_domain(after, _facts(example, **keys), **options) == after


@pytest.mark.parametrize("name", hana.HOSTS)
def test_on_the_hosts_that_libvirt_reports(name: str) -> None:
    """The same from capabilities, by both filters; without a warning."""
    example, text = EXAMPLES[name], hana.guest(EXAMPLES[name])
    capabilities = (TESTS / f"hosts/{hana.HOSTS[name]}.xml").read_text(encoding="utf-8")
    hana.compare(partition_domain(text, capabilities, **_options()), example)
    plan = plan_host([text], capabilities, **_options())
    assert (plan["errors"], plan["guests"][0]["warnings"]) == ([], [])
    layout = plan["guests"][0]["layout"]
    assert {key: str(value) for key, value in layout["topology"].items()} == example["topology"]
    assert {vcpu: layout["vcpu_pins"][int(vcpu)] for vcpu in example["pins"]} == example["pins"]


def test_other_pins_are_not_the_guides() -> None:
    """The comparison can fail: with the default, vCPUs run anywhere on their node."""
    example = EXAMPLES["2 sockets, 224 vCPUs"]
    other = partition_domain(hana.guest(example), _facts(example), pinning="node")
    with pytest.raises(AssertionError):
        hana.compare(other, example)
