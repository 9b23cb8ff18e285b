# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The RFC of September 2018, exactly: its two listings, as its own pair of tests had them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import partition_domain
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from lxml import etree
from planning import partitioned_text, restored_text

FIXTURES = Path(__file__).resolve().parent / "fixtures"
RFC = {"distribution": "round_robin", "memory_mode": "none"}


def _read(name: str) -> str:
    return (FIXTURES / f"rfc-{name}.xml").read_text(encoding="utf-8")


def _tree(element: Any) -> Any:
    return (element.tag, dict(element.attrib), [_tree(child) for child in element])


def test_the_mails_own_listing(host: Callable[[str], Host]) -> None:
    """cputune, topology and numa: element by element, string by string."""
    definition = read_definition(_read("before"))
    policy = policy_from_options(RFC)
    layout = plan(read_guest(definition, 2048), host("rfc-8n240c"), policy)
    ours = etree.fromstring(partitioned_text(definition, layout, policy))
    mail = etree.fromstring(_read("after"))
    for path in ("cputune", "cpu/topology", "cpu/numa"):
        assert _tree(ours.find(path)) == _tree(mail.find(path)), path
    assert len(ours.findall("cpu/numa/cell/distances/sibling")) == 64
    assert ours.find("cputune/vcpupin").get("cpuset") == "0-14,120-134"
    assert dict(ours.find("cpu/topology").attrib) == {"sockets": "8", "cores": "1", "threads": "2"}
    cell = ours.find("cpu/numa/cell")
    assert dict(cell.attrib) == {"id": "0", "cpus": "0,8", "memory": "8388608", "unit": "KiB"}
    # What the mail adds, and nothing but that and the record.
    for tree in (ours, mail):
        for path in ("cputune", "cpu/topology", "cpu/numa", "metadata"):
            for element in tree.findall(path):
                element.getparent().remove(element)
        tree.find("cpu").attrib.pop("check")
    assert etree.tostring(ours, method="c14n2", strip_text=True) == etree.tostring(
        mail, method="c14n2", strip_text=True
    )


def test_without_a_partition_not_a_byte_changes() -> None:
    """Nothing asked, nothing done."""
    text = _read("before")
    assert restored_text(read_definition(text)) == text


def test_and_back(host: Callable[[str], Host]) -> None:
    """Undone, the listing without the switch is there again, to the byte."""
    text = _read("before")
    definition = read_definition(text)
    for options in (RFC, {}):
        policy = policy_from_options(options)
        layout = plan(read_guest(definition, 2048), host("rfc-8n240c"), policy)
        changed = partitioned_text(definition, layout, policy)
        assert changed != text
        assert restored_text(read_definition(changed)) == text


DISTANCES = """\
10 21 31 21 21 31 31 31
21 10 21 31 31 21 31 31
31 21 10 21 31 31 21 31
21 31 21 10 31 31 31 21
21 31 31 31 10 21 21 31
31 21 31 31 21 10 31 21
31 31 21 31 21 31 10 21
31 31 31 21 31 21 21 10
"""


def test_the_host_is_the_mails(host: Callable[[str], Host]) -> None:
    """Its lscpu, node by node, and the distances that its listing has."""
    nodes = host("rfc-8n240c").nodes
    assert len(nodes) == 8
    for index, (node, row) in enumerate(zip(nodes, DISTANCES.splitlines())):
        first = 15 * index
        assert node.id == index
        assert node.cpus == (*range(first, first + 15), *range(first + 120, first + 135))
        assert node.cores == tuple((cpu, cpu + 120) for cpu in range(first, first + 15))
        assert [value for _node, value in node.distances] == [int(one) for one in row.split()]
    assert host("rfc-8n240c").threads_per_core == 2


def test_the_mails_own_switch() -> None:
    """check='numa' gives the listing too, with the check that every libvirt takes."""
    capabilities = (FIXTURES.parents[1] / "hosts/rfc-8n240c.xml").read_text(encoding="utf-8")
    asked = _read("before").replace("check='none'", "check='numa'")
    ours = etree.fromstring(partition_domain(asked, capabilities, **RFC))
    mail = etree.fromstring(_read("after"))
    for path in ("cputune", "cpu/topology", "cpu/numa"):
        assert _tree(ours.find(path)) == _tree(mail.find(path)), path
    assert mail.find("cpu").get("check") == "numa"
    assert dict(ours.find("cpu").attrib) == {"mode": "host-passthrough", "check": "none"}


def test_the_mails_listing_is_partitioned_like_any_other(host: Callable[[str], Host]) -> None:
    """Who has the listing already gets the same cells from it, and it back but for the switch."""
    text = _read("after")
    definition = read_definition(text)
    policy = policy_from_options(RFC)
    guest = read_guest(definition, 2048)
    assert (guest.vcpus, guest.memory_kib) == (16, 67108864)
    changed = partitioned_text(definition, plan(guest, host("rfc-8n240c"), policy), policy)
    for path in ("cputune", "cpu/topology", "cpu/numa"):
        assert _tree(etree.fromstring(changed).find(path)) == _tree(definition.root.find(path))
    assert restored_text(read_definition(changed)) == text.replace("check='numa'", "check='none'")
