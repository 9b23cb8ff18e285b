# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user gets wrong: one clear sentence each, and nothing has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adhoc import SYSTEM_PYTHON, Run
from conftest import Libvirt
from guests import anuma

Call = Callable[..., Run]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nodes": "0-"}, "nodes: '0-' is not a set of numbers"),
        ({"nodes": "3-1"}, "nodes: '3-1' in '3-1' counts down"),
        ({"nodes": "0-3,^7"}, "excludes what is not in the set"),
        ({"nodes": "0,99"}, "guest anuma: host node 99 of nodes '0,99' does not exist"),
        ({"cells": 0}, "cells must be an integer from 1 to 128, not '0'."),
        ({"cells": 17}, "guest anuma: 16 vCPUs cannot fill 17 cells"),
        ({"threads": "three"}, "threads must be 'auto' or an integer from 1 to 1024, not 'three'."),
        ({"threads": "3"}, "guest anuma: 16 vCPUs are not a multiple of threads 3"),
        ({"reserved_cpus": "x"}, "reserved_cpus: 'x' is not a set of numbers"),
        ({"reserved_cpus": "0-14,120-134"}, "leaves no pCPU of host node 0 to pin to"),
        ({"distribution": "random"}, "value of distribution must be one of: contiguous"),
        ({"emulator_pinning": "999"}, "which the host does not have online"),
        (
            {"topology": {"nodes": "many"}},
            "host.nodes must be a list as vnuma_facts returns it, not 'many'.",
        ),
    ],
)
def test_options(rfc: Libvirt, call: Call, options: dict[str, Any], sentence: str) -> None:
    """An option that cannot be is refused, whatever is wrong with it."""
    rfc.define(anuma())
    before = rfc.dump("anuma")
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "anuma"}], **options})
    assert run.failed
    assert sentence in run.msg
    assert rfc.dump("anuma") == before


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"nodes": "a"}, "guest anuma: nodes: 'a' is not a set of numbers"),
        ({"cells": "0"}, "guest anuma: cells must be an integer from 1 to 128, not '0'."),
        (
            {"pinning": "thread"},
            "guest anuma: pinning must be one of node, cache, core, cpu, none or keep, not "
            "'thread'.",
        ),
        (
            {"memory_mode": "tight"},
            "guest anuma: memory_mode must be one of strict, preferred, restrictive or none, not "
            "'tight'.",
        ),
    ],
)
def test_overrides_name_the_guest(
    rfc: Libvirt, call: Call, entry: dict[str, Any], sentence: str
) -> None:
    """A bad override is about its guest; the others are done."""
    rfc.define(anuma())
    rfc.define(anuma("other"))
    before = rfc.dump("anuma")
    guests = [{"name": "anuma", **entry}, {"name": "other"}]
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": guests})
    assert run.failed
    assert sentence in run.msg
    assert [guest["name"] for guest in run.result["guests"]] == ["other"]
    assert rfc.dump("anuma") == before


def test_a_guest_listed_twice(rfc: Libvirt, call: Call) -> None:
    """Which of two entries is meant cannot be told."""
    rfc.define(anuma())
    before = rfc.dump("anuma")
    guests = [{"name": "anuma", "cells": 2}, {"name": "anuma", "cells": 4}]
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": guests})
    assert run.msg == "guest anuma: it is listed twice in guests; keep one entry."
    assert rfc.dump("anuma") == before


def test_a_number_that_libvirt_takes_and_nobody_means(rfc: Libvirt, call: Call) -> None:
    """It is an error about its guest; the other is partitioned, and told of."""
    rfc.define(anuma().replace("</vcpu>", "</vcpu><iothreads>300000</iothreads>"))
    rfc.define(anuma("other"))
    before = rfc.dump("anuma")
    sentence = (
        "<iothreads> must be an integer from 0 to 16384, not '300000'; correct its definition."
    )
    run = call("vnuma_partition", {"uri": rfc.uri, "guests": [{"name": "*"}]})
    assert run.result["errors"] == [{"name": "anuma", "msg": sentence}]
    assert [guest["name"] for guest in run.result["guests"]] == ["other"]
    assert rfc.dump("anuma") == before
    run = call("vnuma_info", {"uri": rfc.uri})
    assert run.result["errors"] == [{"name": "anuma", "msg": sentence}]
    assert [guest["name"] for guest in run.result["guests"]] == ["other"]


@pytest.mark.parametrize(
    "module", ["vnuma_facts", "vnuma_info", "vnuma_partition", "vnuma_restart"]
)
def test_no_daemon(rfc: Libvirt, call: Call, module: str) -> None:
    """A libvirtd that does not run is named with the way to get it running."""
    arguments: dict[str, Any] = {"uri": rfc.uri}
    if module == "vnuma_partition":
        arguments["guests"] = [{"name": "anuma"}]
    rfc.host.kill_daemon(hold=True)
    try:
        run = call(module, arguments)
    finally:
        rfc.host.release_daemon()
    assert run.failed
    assert run.msg.startswith(f"cannot connect to {rfc.uri}: ")
    assert run.msg.endswith("start libvirtd (or virtqemud) there, or correct uri.")


def test_socket_refused(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Who may not use the socket is told to become someone who may."""
    # Ansible's temporary folders must be within reach of the other user.
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    run = call(
        "vnuma_facts",
        {"uri": rfc.uri},
        "--become",
        "--become-user=nobody",
        "--extra-vars=ansible_become_method=ansible.builtin.su",
        "--extra-vars=ansible_become_flags='-s /bin/sh'",
        "--extra-vars=ansible_remote_tmp=/tmp/.ansible-nobody",
        "--extra-vars=ansible_shell_allow_world_readable_temp=true",
    )
    assert run.failed
    assert "Permission denied; use become, or a user who may manage guests" in run.msg


def test_read_only_connection(rfc: Libvirt, call: Call) -> None:
    """The read-only socket can show a guest and not redefine it."""
    rfc.define(anuma())
    before = rfc.dump("anuma")
    socket = rfc.host.socket.with_name("libvirt-sock-ro")
    run = call(
        "vnuma_partition",
        {"uri": f"qemu:///system?socket={socket}", "guests": [{"name": "anuma"}]},
    )
    assert run.failed
    assert "is read-only, and cannot read the definition; connect as a user who may" in run.msg
    assert rfc.dump("anuma") == before


def test_no_bindings_anywhere(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """A target without bindings is told which packages to install."""
    stub = tmp_path / "stub"
    stub.mkdir()
    for name in ("libvirt.py", "lxml.py"):
        (stub / name).write_text("raise ImportError('not here')\n")
    run = call("vnuma_facts", {"uri": rfc.uri}, environment={"PYTHONPATH": str(stub)})
    assert run.failed
    assert "libvirt-python and lxml cannot be imported by" in run.msg
    assert "install the distribution's packages (python3-libvirt and python3-lxml)" in run.msg
    (stub / "libvirt.py").unlink()
    run = call("vnuma_facts", {"uri": rfc.uri}, environment={"PYTHONPATH": str(stub)})
    assert run.msg.startswith("lxml cannot be imported by")


def test_unwritable_state_dir_changes_nothing(rfc: Libvirt, call: Call, tmp_path: Path) -> None:
    """Where the old definition cannot be kept, the new one is not written."""
    rfc.define(anuma())
    before = rfc.dump("anuma")
    (tmp_path / "file").write_text("in the way")
    run = call(
        "vnuma_partition",
        {"uri": rfc.uri, "guests": [{"name": "anuma"}], "state_dir": str(tmp_path / "file")},
    )
    assert run.failed
    assert "nothing was changed; free space there or set state_dir" in run.msg
    assert rfc.dump("anuma") == before


def test_a_host_without_topology_gives_one_cell_and_says_so(rfc: Libvirt, call: Call) -> None:
    """Nothing to mirror is no error; a node that is asked for by number is one."""
    rfc.define(anuma())
    arguments = {"uri": rfc.uri, "guests": [{"name": "anuma"}], "topology": {"nodes": []}}
    run = call("vnuma_partition", {**arguments, "nodes": "0"})
    assert run.failed
    assert "guest anuma: nodes '0' is not available: the host reports no NUMA topology" in run.msg
    run = call("vnuma_partition", arguments)
    assert not run.failed
    assert "the host reports no NUMA topology; the guest gets one cell" in run.output
    (guest,) = run.result["guests"]
    assert [cell["vcpus"] for cell in guest["layout"]["cells"]] == ["0-15"]
    assert "<numatune>" not in rfc.dump("anuma")
    assert "<vcpupin" not in rfc.dump("anuma")


def test_interpreters(call: Call, rfc: Libvirt) -> None:
    """The tests above rest on one interpreter with bindings and one without."""
    for python, has in ((SYSTEM_PYTHON, True), (sys.executable, False)):
        asked = subprocess.run(
            [python, "-c", "import libvirt"],
            check=False,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert (asked.returncode == 0) is has
