# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter: what it takes, what it gives, what it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.partition_domain import FilterModule
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, host_to_facts

partition_domain = FilterModule().filters()["partition_domain"]

TESTS = Path(__file__).resolve().parents[3]
CAPABILITIES = (TESTS / "hosts/rfc-8n240c.xml").read_text(encoding="utf-8")
ANUMA = (TESTS / "unit/fixtures/rfc-before.xml").read_text(encoding="utf-8")


def test_facts_and_capabilities_give_the_same(host: Callable[[str], Host]) -> None:
    """Either form of the host, and twice is once."""
    facts = host_to_facts(host("rfc-8n240c"))
    once = partition_domain(ANUMA, CAPABILITIES, nodes="0-1")
    assert partition_domain(ANUMA, facts, nodes="0-1") == once
    assert partition_domain(once, facts, nodes="0-1") == once
    assert partition_domain(once, facts, state="absent") == ANUMA
    assert partition_domain(ANUMA, facts, state="absent") == ANUMA


def test_the_rfcs_switch() -> None:
    """check='numa' is taken as meant."""
    asked = ANUMA.replace("check='none'", "check='numa'")
    assert partition_domain(asked, CAPABILITIES) == partition_domain(ANUMA, CAPABILITIES)


@pytest.mark.parametrize(
    ("xml", "host", "options", "sentence"),
    [
        (None, CAPABILITIES, {}, "takes a domain definition as text, not NoneType."),
        ("<domain>", CAPABILITIES, {}, "the domain definition is not well-formed XML"),
        (
            ANUMA,
            "<domain/>",
            {},
            "the capabilities document must start with <capabilities>, not <domain>.",
        ),
        (
            ANUMA,
            None,
            {},
            "topology must be ansible_facts.vnuma_host as vnuma_facts returns it, not None.",
        ),
        (ANUMA, CAPABILITIES, {"cells": 17}, "guest anuma: 16 vCPUs cannot fill 17 cells"),
        (ANUMA, CAPABILITIES, {"cels": 1}, "unknown option 'cels'"),
        (
            "<!DOCTYPE a><domain/>",
            CAPABILITIES,
            {},
            "a document type declaration, which is not accepted",
        ),
        (ANUMA, "", {}, "the capabilities document is not well-formed XML"),
        (
            ANUMA,
            [],
            {},
            "topology must be ansible_facts.vnuma_host as vnuma_facts returns it, not [].",
        ),
        (ANUMA, {}, {}, "host.nodes must be a list as vnuma_facts returns it, not None."),
        (b"<domain/>", CAPABILITIES, {}, "takes a domain definition as text, not bytes."),
        ("", CAPABILITIES, {"state": "absent"}, "the domain definition is not well-formed XML"),
        (
            ANUMA,
            CAPABILITIES,
            {"state": "gone"},
            "state must be one of present or absent, not 'gone'.",
        ),
        (ANUMA, CAPABILITIES, {"nodes": "0,8"}, "guest anuma: host node 8 of nodes '0,8' does not"),
        (
            ANUMA.replace(">16</vcpu>", "/>"),
            CAPABILITIES,
            {},
            "guest anuma: <vcpu> must be an integer from 1 to 65535, not 'None'; correct its "
            "definition.",
        ),
        (
            ANUMA.replace("<os>", "<cputune><emulatorpin cpuset='x'/></cputune><os>"),
            CAPABILITIES,
            {},
            "guest anuma: 'x' is not a set of numbers",
        ),
    ],
)
def test_refusals(xml: Any, host: Any, options: dict[str, Any], sentence: str) -> None:
    """One sentence, led by the filter's name."""
    with pytest.raises(AnsibleFilterError) as raised:
        partition_domain(xml, host, **options)
    assert sentence in str(raised.value)
    assert "partition_domain" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_warnings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the planner warns of reaches the user, with the guest's name."""
    shown: list[str] = []
    monkeypatch.setattr(
        "ansible_collections.kvm.vnuma.plugins.filter.partition_domain.Display",
        lambda: SimpleNamespace(warning=shown.append),
    )
    partition_domain(ANUMA, CAPABILITIES, cells=2)
    partition_domain(ANUMA, CAPABILITIES)
    assert shown == ["guest anuma: cells 2 leaves host nodes 2-7 unused."]


def test_without_lxml(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller without lxml is told what to install."""
    monkeypatch.setattr(
        "ansible_collections.kvm.vnuma.plugins.filter.partition_domain.LXML_IMPORT_ERROR", "no"
    )
    with pytest.raises(AnsibleFilterError) as raised:
        partition_domain(ANUMA, CAPABILITIES)
    assert "partition_domain needs lxml on the controller; install it" in str(raised.value)


def test_numbers_as_yaml_has_them() -> None:
    """Integers and lists mean what they say."""
    text = partition_domain(ANUMA, CAPABILITIES, nodes=[0, 1], cells=2, threads=2, reserved_cpus=0)
    assert (
        partition_domain(
            ANUMA, CAPABILITIES, nodes="0-1", cells="2", threads="2", reserved_cpus="0"
        )
        == text
    )


def test_an_error_is_said_once() -> None:
    """Ansible prints the cause of an error after its message: there is none."""
    capabilities = (TESTS / "hosts/rfc-8n240c.xml").read_text(encoding="utf-8")
    with pytest.raises(AnsibleFilterError) as raised:
        partition_domain("<domain/>", capabilities, nodes="x")
    assert str(raised.value).count("'x'") == 1
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
