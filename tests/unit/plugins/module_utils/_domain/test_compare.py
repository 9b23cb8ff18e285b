# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running guest against its definition: what needs a cold start, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import (
    LivePin,
    live_pins,
    memory_move,
    needs_restart,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import read_definition
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host

CELLS = "<numa><cell id='0' cpus='0-1' memory='{}' unit='KiB'/></numa>"


def _domain(inside: str = "", arch: str = "x86_64", vcpu: str = "<vcpu>2</vcpu>") -> str:
    return (
        f"<domain><name>a</name><memory>1048576</memory>{vcpu}"
        f"<os><type arch='{arch}'>hvm</type></os>{inside}</domain>"
    )


@pytest.mark.parametrize(
    ("live", "persistent", "arch", "needed"),
    [
        ("", "", "x86_64", False),
        ("<cpu/>", f"<cpu>{CELLS.format(1024)}</cpu>", "x86_64", True),
        (f"<cpu>{CELLS.format(2048)}</cpu>", f"<cpu>{CELLS.format(1025)}</cpu>", "x86_64", False),
        (f"<cpu>{CELLS.format(2048)}</cpu>", f"<cpu>{CELLS.format(1024)}</cpu>", "x86_64", True),
        (f"<cpu>{CELLS.format(262144)}</cpu>", f"<cpu>{CELLS.format(1)}</cpu>", "ppc64le", False),
        (f"<cpu>{CELLS.format(262144)}</cpu>", f"<cpu>{CELLS.format(1)}</cpu>", "x86_64", True),
        ("<cpu><topology sockets='2'/></cpu>", "<cpu><topology cores='2'/></cpu>", "x86_64", True),
        (
            "<cpu><topology cores='2' dies='1'/></cpu>",
            "<cpu><topology cores='2'/></cpu>",
            "x",
            False,
        ),
        ("<numatune><memory nodeset='0'/></numatune>", "", "x86_64", True),
        (
            "<numatune><memnode cellid='0' mode='strict' nodeset='0'/></numatune>",
            "<numatune><memnode cellid='0' mode='strict' nodeset='1'/></numatune>",
            "x86_64",
            True,
        ),
        # numad's answer for this run shows in a running guest only.
        (
            "<numatune><memory mode='strict' placement='auto' nodeset='1'/></numatune>",
            "<numatune><memory mode='strict' placement='auto'/></numatune>",
            "x86_64",
            False,
        ),
        ("<cpu mode='custom'/>", "<cpu mode='host-passthrough'/>", "x86_64", False),
        ("<cputune><vcpupin vcpu='0' cpuset='0'/></cputune>", "", "x86_64", False),
        ("<cputune><shares>1</shares></cputune>", "", "x86_64", False),
    ],
)
def test_needs_restart(live: str, persistent: str, arch: str, needed: bool) -> None:
    """Cells, topology and bindings do; pins, and what libvirt only writes differently, do not."""
    both = [read_definition(_domain(text, arch)) for text in (live, persistent)]
    assert needs_restart(*both) is needed


def _bound(nodeset: str, mode: str = "restrictive", more: str = "", cells: str = "") -> str:
    binding = f"<numatune><memory mode='{mode}' nodeset='{nodeset}'/>{more}</numatune>"
    return _domain(f"{binding}<cpu>{cells}</cpu>")


_MEMNODE = "<memnode cellid='0' mode='restrictive' nodeset='{}'/>"


@pytest.mark.parametrize(
    ("live", "persistent", "nodes"),
    [
        (_bound("0"), _bound("1"), (1,)),
        (_bound("0"), _bound("0"), ()),
        (_bound("0", "strict"), _bound("1", "strict"), ()),
        (_bound("0", "strict"), _bound("1"), ()),
        (_bound("0"), _bound("1", "strict"), ()),
        (_domain(), _bound("1"), ()),
        (_bound("0"), _domain(), ()),
        # Own cells that nothing binds one by one go where the guest goes.
        (_bound("0", cells=CELLS.format(1024)), _bound("1", cells=CELLS.format(1024)), (1,)),
        (_bound("0", cells=CELLS.format(1024)), _bound("1", cells=CELLS.format(2048)), ()),
        (
            _bound("0", more=_MEMNODE.format(0), cells=CELLS.format(1024)),
            _bound("1", more=_MEMNODE.format(1), cells=CELLS.format(1024)),
            (),
        ),
    ],
)
def test_memory_that_moves_live(live: str, persistent: str, nodes: tuple[int, ...]) -> None:
    """Where libvirt can, and only where nothing else waits for a cold start."""
    assert memory_move(read_definition(live), read_definition(persistent)) == nodes


def test_placement_alone_needs_no_restart() -> None:
    """A partition pins every vCPU itself."""
    auto = read_definition(_domain(vcpu="<vcpu placement='auto'>2</vcpu>"))
    assert not needs_restart(auto, read_definition(_domain()))


def test_live_pins(host: Callable[[str], Host]) -> None:
    """Each one that differs; a vCPU that is free by definition belongs everywhere."""
    rfc = host("rfc-8n240c")
    live = "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='1'/></cputune>"
    then = "<cputune><vcpupin vcpu='1' cpuset='1,121'/></cputune>"
    running, defined = read_definition(_domain(live)), read_definition(_domain(then))
    assert live_pins(running, defined, rfc) == [
        LivePin("vcpu_pins", 0, tuple(range(240))),
        LivePin("vcpu_pins", 1, (1, 121)),
    ]
    assert live_pins(defined, defined, rfc) == []
    # Nobody knows where everywhere is on a host without topology.
    unknown = host("edited-no-topology")
    assert live_pins(running, defined, unknown) == [LivePin("vcpu_pins", 1, (1, 121))]


def test_what_is_free_in_a_confined_guest(host: Callable[[str], Host]) -> None:
    """It belongs on the pCPUs that the guest is confined to, as after its next start."""
    vcpu = "<vcpu placement='static' cpuset='8-11'>2</vcpu>"
    pinned = _domain("<cputune><vcpupin vcpu='0' cpuset='0'/></cputune>", vcpu=vcpu)
    running, defined = read_definition(pinned), read_definition(_domain(vcpu=vcpu))
    rfc = host("rfc-8n240c")
    assert live_pins(running, defined, rfc) == [LivePin("vcpu_pins", 0, (8, 9, 10, 11))]
    freed = read_definition(pinned.replace("cpuset='0'/>", "cpuset='8-11'/>"))
    assert live_pins(freed, defined, rfc) == []


@pytest.mark.parametrize("option", ["", "emulator_pinning='nodes'", "iothread_pinning='nodes'"])
def test_helper_pins_only_where_the_policy_has_them(
    host: Callable[[str], Host], option: str
) -> None:
    """What the policy does not manage is left alone in a running guest too."""
    record = (
        "<metadata><v:partition xmlns:v='https://kvm-vnuma.github.io/ns/partition/1'>"
        f"<v:policy {option}/><v:original/></v:partition></metadata>"
    )
    pins = "<cputune><emulatorpin cpuset='{0}'/><iothreadpin iothread='1' cpuset='{0}'/></cputune>"
    live, then = (read_definition(_domain(record + pins.format(n))) for n in (0, 1))
    wanted = {
        "": [],
        "emulator_pinning='nodes'": [LivePin("emulator_pins", 0, (1,))],
        "iothread_pinning='nodes'": [LivePin("iothread_pins", 1, (1,))],
    }
    assert live_pins(live, then, host("rfc-8n240c")) == wanted[option]
