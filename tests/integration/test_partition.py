# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vnuma_partition against a real libvirt daemon that reports the RFC's host."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from adhoc import Run
from conftest import BARE_PYTHON, Libvirt
from guests import HAS_KVM, PASSWORD, RICH, anuma
from lxml import etree

Call = Callable[..., Run]


def test_defaults_converge_hold_and_go_back(rfc: Libvirt, call: Call) -> None:
    """Cells 0-1 to 14-15, strictly bound; the second run changes nothing; absent undoes it all."""
    rfc.define(anuma())
    before = rfc.dump("anuma")
    arguments = {"uri": rfc.uri, "guests": [{"name": "anuma"}]}

    checked = call("vnuma_partition", arguments, "--check")
    assert checked.result["changed"]
    assert rfc.dump("anuma") == before

    first = call("vnuma_partition", arguments)
    assert not first.failed
    (guest,) = first.result["guests"]
    assert guest["changed"]
    assert not guest["restart_required"]
    assert guest["layout"] == checked.result["guests"][0]["layout"]
    assert [cell["vcpus"] for cell in guest["layout"]["cells"]] == [
        f"{vcpu}-{vcpu + 1}" for vcpu in range(0, 16, 2)
    ]
    after = rfc.dump("anuma")
    root = etree.fromstring(after)
    assert [
        (node.get("cellid"), node.get("mode"), node.get("nodeset"))
        for node in root.iterfind("numatune/memnode")
    ] == [(str(cell), "strict", str(cell)) for cell in range(8)]
    assert root.find("numatune/memory").attrib == {"mode": "strict", "nodeset": "0-7"}
    assert [cell.get("cpus") for cell in root.iterfind("cpu/numa/cell")] == [
        cell["vcpus"] for cell in guest["layout"]["cells"]
    ]
    assert [pin.get("cpuset") for pin in root.iterfind("cputune/vcpupin")] == guest["layout"][
        "vcpu_pins"
    ]
    assert [
        [int(sibling.get("value")) for sibling in cell.iterfind("distances/sibling")]
        for cell in root.iterfind("cpu/numa/cell")
    ] == [cell["distances"] for cell in guest["layout"]["cells"]]

    second = call("vnuma_partition", arguments)
    assert not second.result["changed"]
    assert [one["changed"] for one in second.result["guests"]] == [False]
    assert rfc.dump("anuma") == after

    undone = call("vnuma_partition", {**arguments, "state": "absent"})
    assert undone.result["changed"]
    assert rfc.dump("anuma") == before
    assert not call("vnuma_partition", {**arguments, "state": "absent"}).result["changed"]


@pytest.mark.skipif(not HAS_KVM, reason="without KVM libvirt takes no type='kvm'")
def test_what_it_defines_passes_libvirts_own_schema(
    rfc: Libvirt, call: Call, tmp_path: Path
) -> None:
    """Virsh define --validate takes the partitioned definition, as type='kvm' host-passthrough."""
    rfc.define(anuma())
    call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "anuma"}]})
    dump = tmp_path / "anuma.xml"
    dump.write_text(rfc.dump("anuma"))
    assert "type='kvm'" in dump.read_text()
    assert "mode='host-passthrough'" in dump.read_text()
    rfc.virsh("define", "--validate", str(dump))
    assert rfc.dump("anuma") == dump.read_text()


@pytest.mark.parametrize(
    "flags", [(), ("--diff",), ("--diff", "-vvv"), ("--check", "--diff", "-vvv")]
)
def test_password_is_in_no_output(rfc: Libvirt, call: Call, flags: tuple[str, ...]) -> None:
    """Not even a verbose run with diff shows a secret."""
    rfc.define(RICH)
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "rich"}]}, *flags)
    assert not run.failed
    assert run.result["changed"]
    assert PASSWORD not in run.output
    if "--diff" in flags:
        assert "<memnode cellid=" in run.output


def test_everything_unmanaged_survives(rfc: Libvirt, call: Call, state_dir: Path) -> None:
    """Partition, partition otherwise, revert: the rest of the definition is the same all along."""
    rfc.define(RICH)
    before = rfc.dump("rich")
    steps = [
        {},
        {
            "cells": "4",
            "pinning": "core",
            "memory_mode": "preferred",
            "emulator_pinning": "nodes",
            "iothread_pinning": "nodes",
        },
        {"distribution": "interleave", "memory_mode": "none", "nodes": "0-1"},
    ]
    for options in steps:
        run = call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "rich"}], **options})
        assert not run.failed, run.msg
        assert run.result["changed"]
        assert _unmanaged(rfc.dump("rich")) == _unmanaged(before)
        assert PASSWORD in rfc.dump("rich")
    helper_pins = r"<(?:emulator|iothread)pin[^>]*>"
    assert re.findall(helper_pins, rfc.dump("rich")) == re.findall(helper_pins, before)
    call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "rich"}], "state": "absent"})
    assert rfc.dump("rich") == before
    # It was off: there is nothing to go back to, and no secret is kept in any case.
    left = list(state_dir.rglob("*"))
    assert [path.name for path in left if path.is_file()] == ["lock"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in left)


def _unmanaged(xml: str) -> bytes:
    root = etree.fromstring(xml)
    for path in (
        *("cputune/vcpupin", "cputune/emulatorpin", "cputune/iothreadpin", "numatune"),
        *("cpu/topology", "cpu/numa", "metadata/{*}partition"),
    ):
        for element in root.findall(path):
            element.getparent().remove(element)
    return bytes(etree.tostring(root, method="c14n2", strip_text=True))


def test_a_hundred_guests_three_of_them_bad(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Three sentences for three bad guests, and the other 97 are done."""
    for number in range(97):
        rfc.define(anuma(f"guest{number:02}", vcpus=8 + number % 24, memory_kib=8 << 20))
    rfc.define(anuma("small", vcpus=3))
    transient = tmp_path / "transient.xml"
    transient.write_text(
        anuma("passing", vcpus=1, memory_kib=65536, kind="qemu", cpu="<cpu mode='custom'/>")
    )
    rfc.virsh("create", str(transient))
    names = [f"guest{number:02}" for number in range(97)] + ["small", "passing", "nowhere"]
    arguments = {"uri": rfc.uri, "guests": [{"name": name} for name in names]}
    small = rfc.dump("small")

    run = call("vnuma_partition", arguments)
    assert run.failed
    assert {error["name"]: error["msg"] for error in run.result["errors"]} == {
        "nowhere": "it does not exist on this host; correct the name, or define it first.",
        "passing": "it is transient and has no persistent definition to change; define it, or "
        "exclude the guest.",
        # No node has room for it: the others take all cores that there are.
        "small": "3 vCPUs cannot fill 8 cells; give it at least 8 vCPUs, or reduce nodes or cells "
        "to at most 3.",
    }
    for name in ("nowhere", "passing", "small"):
        assert f"guest {name}: " in run.msg
    assert len(run.result["guests"]) == 97
    assert all(guest["changed"] for guest in run.result["guests"])
    assert run.result["changed"]
    assert rfc.dump("small") == small
    again = call("vnuma_partition", {**arguments, "guests": [{"name": "guest*"}]})
    assert not again.failed
    assert not again.result["changed"]
    assert len(again.result["guests"]) == 97


def test_names_uuids_patterns_and_overrides(rfc: Libvirt, call: Call) -> None:
    """A name wins over a pattern, the first pattern wins, and options are overridden per guest."""
    for name in ("db1", "db2", "web"):
        rfc.define(anuma(name))
    uuid = rfc.virsh("domuuid", "web").strip()
    run = call(
        "vnuma_partition",
        {
            "uri": rfc.uri,
            "pinning": "none",
            "guests": [
                {"name": "db*", "cells": 2},
                {"name": "db1", "cells": 4, "pinning": "node"},
                {"name": "d*", "cells": 1},
                {"name": uuid.upper(), "nodes": "3"},
                {"name": "none*"},
            ],
        },
    )
    assert not run.failed
    cells = {guest["name"]: len(guest["layout"]["cells"]) for guest in run.result["guests"]}
    assert cells == {"db1": 4, "db2": 2, "web": 1}
    assert run.result["guests"][0]["layout"]["cells"][0]["pins"] == "0-14,120-134"
    assert run.result["guests"][1]["layout"]["cells"][0]["pins"] == ""
    assert run.result["guests"][2]["layout"]["nodeset"] == "3"
    assert "pattern 'none*' matches no guest on this host." in run.output


def test_a_definition_changed_meanwhile_is_left_alone(rfc: Libvirt, call: Call) -> None:
    """What was planned is not written over what someone else wrote since."""
    rfc.define(anuma())
    arguments = {"uri": rfc.uri, "guests": [{"name": "anuma"}]}
    planned = call("vnuma_partition", arguments, "--check").result
    uuid = planned["guests"][0]["uuid"]
    rfc.define(re.sub("<name>", f"<uuid>{uuid}</uuid><name>", anuma(vcpus=32)))
    before = rfc.dump("anuma")
    run = call("vnuma_partition", {**arguments, "planned": planned})
    assert run.failed
    assert "someone else changed its definition after it was planned" in run.msg
    assert rfc.dump("anuma") == before
    planned = call("vnuma_partition", arguments, "--check").result
    assert not call("vnuma_partition", {**arguments, "planned": planned}).failed


def test_a_run_that_waited_for_another_ones_lock(rfc: Libvirt, call: Call, state_dir: Path) -> None:
    """It reads and plans once it holds the lock: what the other run has done is no error."""
    rfc.define(anuma("first"))
    rfc.define(anuma())
    arguments = {"uri": rfc.uri, "guests": [{"name": "anuma"}]}
    call("vnuma_partition", {**arguments, "guests": [{"name": "first"}]})
    (lock,) = state_dir.rglob("lock")
    with ThreadPoolExecutor() as pool, lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(call, "vnuma_partition", arguments)
        while not (pids := _that_have_open(lock)):
            assert not waiting.done(), waiting.result().output
            time.sleep(0.1)
        # Else its patience might end before the other run does, on a busy machine.
        os.kill(pids[0], signal.SIGSTOP)
        try:
            fcntl.flock(held, fcntl.LOCK_UN)
            other = call("vnuma_partition", arguments)
            after = rfc.dump("anuma")
        finally:
            os.kill(pids[0], signal.SIGCONT)
    assert other.result["changed"], other.output
    assert not waiting.result().failed, waiting.result().output
    assert not waiting.result().result["changed"]
    assert rfc.dump("anuma") == after


def _that_have_open(path: Path) -> list[int]:
    """Return the other processes that have a file open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink() == path and int(link.parts[2]) != os.getpid():
                found.append(int(link.parts[2]))
    return found


def test_interpreter_without_bindings_hands_over(rfc: Libvirt, call: Call) -> None:
    """The module goes on under the distribution's interpreter where its own has no bindings."""
    find = "import importlib.util; print(importlib.util.find_spec('libvirt'))"
    assert rfc.run(BARE_PYTHON, "-c", find) == "None\n", "it has libvirt's bindings"
    rfc.define(anuma())
    run = call(
        "vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "anuma"}]}, python=BARE_PYTHON
    )
    assert not run.failed, run.output
    assert run.result["changed"]
