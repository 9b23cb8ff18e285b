# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that is settled is left alone, and one that is off in anything at all is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import is_up_to_date
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
    wanted_of,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from planning import partitioned_text

GUEST = (
    "<domain type='kvm'><name>anuma</name><memory unit='GiB'>64</memory>"
    "<vcpu placement='static'>16</vcpu><iothreads>2</iothreads>"
    "<os><type arch='x86_64'>hvm</type></os>"
    "<cpu mode='host-model'><numa><cell cpus='0-15' memory='64' unit='GiB' memAccess='shared'/>"
    "</numa></cpu><devices/></domain>"
)
POLICY = policy_from_options({"emulator_pinning": "nodes", "iothread_pinning": "nodes"})


@pytest.fixture
def settled(host: Callable[[str], Host]) -> tuple[Host, str]:
    """The RFC's host, and a guest that mirrors it."""
    rfc, before = host("rfc-8n240c"), read_definition(GUEST)
    return rfc, partitioned_text(before, plan(read_guest(before, 2048), rfc, POLICY), POLICY)


def _is_settled(host: Host, text: str) -> bool:
    definition = read_definition(text)
    layout = plan(read_guest(definition, 2048), host, POLICY)
    return is_up_to_date(definition, wanted_of(definition, layout, POLICY), POLICY)


def test_settled(settled: tuple[Host, str]) -> None:
    """Also when libvirt has rewritten it."""
    host, text = settled
    assert _is_settled(host, text)
    assert _is_settled(host, text.replace("'0-14,120-134'", "'120-134,0-14'"))
    assert _is_settled(host, text.replace("sockets='8'", "sockets='8' dies='1' clusters='1'"))
    assert _is_settled(host, text.replace("</cputune>", "<shares>5</shares></cputune>"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<vcpu placement='static'", "<vcpu placement='auto'"),
        ("vcpu='15' cpuset='105-119,225-239'", "vcpu='15' cpuset='105-119'"),
        ("<vcpupin vcpu='15' cpuset='105-119,225-239'/>", ""),
        ("<emulatorpin cpuset='0-239'/>", "<emulatorpin cpuset='0-238'/>"),
        ("<iothreadpin iothread='2' cpuset='15-29,135-149'/>", ""),
        ("<memory mode='strict' nodeset='0-7'/>", "<memory mode='strict' nodeset='0-6'/>"),
        ("cellid='7' mode='strict'", "cellid='7' mode='preferred'"),
        ("cellid='7' mode='strict' nodeset='7'", "cellid='7' mode='strict' nodeset='6'"),
        ("sockets='8'", "sockets='4' dies='2'"),
        ("sockets='8'", "sockets='4' clusters='2'"),
        ("id='7' cpus='14-15'", "id='7' cpus='14'"),
        ("memory='8388608'", "memory='8387584'"),
        ("<sibling id='7' value='10'/>", "<sibling id='7' value='11'/>"),
        ("<sibling id='7' value='10'/>", ""),
        ("iothread_pinning='nodes'", "iothread_pinning='nodes' nodes='0-7'"),
        ("<vnuma:policy", "<vnuma:other"),
    ],
)
def test_off_in_one_place(settled: tuple[Host, str], old: str, new: str) -> None:
    """Wherever a definition is off, it is not settled."""
    host, text = settled
    assert old in text
    assert not _is_settled(host, text.replace(old, new, 1))


def test_other_cells(settled: tuple[Host, str]) -> None:
    """Cells that share their memory in another way are for the edit to carry over."""
    host, text = settled
    assert _is_settled(host, text.replace("memAccess='shared'", "memAccess='private'"))
    assert not _is_settled(host, GUEST)


def test_damaged_record(settled: tuple[Host, str]) -> None:
    """A record without what stood before is an error, on a run with nothing to do as well."""
    host, text = settled
    damaged = text.replace("vnuma:original", "vnuma:lost")
    with pytest.raises(DomainError, match="is damaged and no longer has"):
        _is_settled(host, damaged)
