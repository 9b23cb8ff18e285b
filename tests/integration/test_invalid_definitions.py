# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Definitions that libvirt stores, and would not store once more as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from adhoc import Run
from conftest import Libvirt
from guests import anuma

Call = Callable[..., Run]

#: What libvirt stores without validation and keeps in its dump, and its schema has no room for.
INVALID = {
    "kernel": ("<boot dev='hd'/>", "<kernel>vmlinuz</kernel>"),
    "disk": (
        "</devices>",
        "<disk type='file' device='disk'><source file='db.img'/><target dev='vda' bus='virtio'/>"
        "</disk></devices>",
    ),
    "listen": (
        "</devices>",
        "<graphics type='vnc' port='-1' autoport='yes' listen='my_host'/></devices>",
    ),
    "resource": ("<os>", "<resource><partition>machines</partition></resource><os>"),
}
VALID = {
    "kernel": ("<kernel>vmlinuz", "<kernel>/vmlinuz"),
    "disk": ("db.img", "/db.img"),
    "listen": ("my_host", "my-host"),
    "resource": ("<partition>machines", "<partition>/machines"),
}


def test_what_the_schema_refused_before(rfc: Libvirt, call: Call) -> None:
    """Check mode says what the run says, and both that no layout is to blame; others go on."""
    for name, (old, new) in INVALID.items():
        assert old in anuma(name)
        rfc.define(anuma(name).replace(old, new, 1), validate=False)
    rfc.define(anuma("sound"))
    names = [*INVALID, "sound"]
    before = rfc.dumps(names)
    arguments = {"uri": rfc.uri, "guests": [{"name": name} for name in names]}
    checked = call("vnuma_partition", arguments, "--check")
    run = call("vnuma_partition", arguments)
    after = rfc.dumps(names)
    assert sorted(rfc.virsh("list", "--all", "--name").split()) == sorted(names)
    assert {name for name in names if after[name] != before[name]} == {"sound"}
    for result in (checked.result, run.result):
        said = {error["name"]: error["msg"] for error in result["errors"]}
        assert said.keys() == INVALID.keys()
        for sentence in said.values():
            assert sentence.startswith(
                "libvirt's schema refuses its definition as it stands, without a layout: XML "
                "document failed to validate against schema: "
            )
            assert sentence.endswith("; correct it with 'virsh edit', or exclude the guest.")
        assert [guest["name"] for guest in result["guests"]] == ["sound"]
    for name, (old, new) in VALID.items():
        rfc.define(before[name].replace(old, new))
    again = call("vnuma_partition", arguments)
    assert not again.failed, again.msg
    assert again.result["changed"]


def test_what_libvirt_changes_by_itself(rfc: Libvirt, call: Call) -> None:
    """Said as it is where libvirt's own dump is read back as another definition."""
    device = "<shmem name='s'><model type='ivshmem-plain'/><size unit='KiB'>512</size></shmem>"
    text = anuma("shared", machine="pc").replace("</devices>", f"{device}</devices>")
    rfc.define(anuma("probe"))
    path = rfc.host.root / "shared.xml"
    path.write_text(text)
    if "at least 1 MiB" in rfc.virsh("define", str(path), check=False):
        pytest.skip("this libvirt refuses a shared memory device of less than 1 MiB")
    assert "<size unit='M'>0</size>" in rfc.dump("shared")
    arguments = {"uri": rfc.uri, "guests": [{"name": "shared"}]}
    run = call("vnuma_partition", arguments)
    assert run.msg == (
        "guest shared: libvirt changed devices/shmem/size from '0' to '4' when it was given its "
        "own definition back, which any redefinition does; the guest has no new layout; run again."
    )
    stored = rfc.dump("shared")
    assert "<size unit='M'>4</size>" in stored
    assert "<numa>" not in stored
    assert call("vnuma_partition", arguments).result["changed"]
    assert "<numa>" in rfc.dump("shared")
    assert not call("vnuma_partition", {**arguments, "state": "absent"}).failed
    assert rfc.dump("shared") == stored
