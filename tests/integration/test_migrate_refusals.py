# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are not migrated: why, all reasons at once, and what libvirt itself says to each."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from roads import Roads, firmware_guest

pytestmark = pytest.mark.slow

GIB = 1024
_DISK = """\
<disk type='file' device='disk'>
  <driver name='qemu' type='raw' cache='writeback'/>
  <source file='/var/lib/libvirt/images/{name}.img'/>
  <target dev='vda' bus='virtio'/>
</disk>"""
_NIC = "<interface type='network'><source network='storage'/><model type='virtio'/></interface>"
_NETWORK = """\
<network>
  <name>storage</name>
  <forward mode='bridge'/>
  <bridge name='br0'/>
</network>
"""


def _libvirts_own(roads: Roads, name: str, target: str, *more: str) -> str:
    """Return what libvirt says when it is asked for a migration that the module refuses.

    Not peer to peer: libvirt 9.0 often has no more than "End of file while reading data" then.
    """
    to = roads.target(target)
    return (
        roads.libvirts["east"]
        .host.exec(
            [
                *("virsh", "--quiet", "migrate", "--live", "--persistent", "--undefinesource"),
                *(name, to["uri"], "--migrateuri", to["data_uri"], *more),
            ],
            check=False,
        )
        .stderr
    )


def _put_disk(roads: Roads, name: str, size: int = 1 << 20) -> None:
    """Make a disk on each host: they share nothing below /var/lib/libvirt."""
    for host in ("east", "west"):
        roads.host(host).exec(["mkdir", "-p", "/var/lib/libvirt/images"])
        roads.host(host).exec(["truncate", "-s", str(size), f"/var/lib/libvirt/images/{name}.img"])


def test_refusals_and_libvirts_own(roads: Roads) -> None:
    """Each guest is refused for a reason of its own, in one call, and stays as it is."""
    east, west = roads.libvirts["east"], roads.libvirts["west"]
    _put_disk(roads, "disk")
    east.host.exec(["ip", "link", "add", "br0", "type", "bridge"], check=False)
    network = east.host.root / "network.xml"
    network.write_text(_NETWORK)
    east.virsh("net-create", str(network))
    east.host.exec(["ln", "-sf", "/usr/bin/qemu-system-x86_64", "/run/qemu-of-east"])
    guests = {
        "disk": firmware_guest("disk", devices=_DISK.format(name="disk")),
        "net": firmware_guest("net", devices=_NIC),
        "emulator": firmware_guest("emulator").replace(
            "/usr/bin/qemu-system-x86_64", "/run/qemu-of-east"
        ),
        "twin": firmware_guest("twin"),
        "name": firmware_guest("name"),
        "off": firmware_guest("off"),
        "exclusive": firmware_guest("exclusive"),
    }
    for xml in guests.values():
        east.define(xml)
    names = [name for name in guests if name != "off"]
    group = {name: roads.facts(name) for name in ("east", "west")}
    entries = [
        {"name": name, **({"pinning": "core"} if name == "exclusive" else {})} for name in guests
    ]
    arguments = {"guests": entries, "migration_group": list(group), "topologies": group}
    run = roads.call("east", "vnuma_partition", arguments)
    assert not run.failed, run.msg
    # One that waits for its restart, one that nobody partitioned, and one that is transient.
    east.define(firmware_guest("waiting"))
    pins = "<cputune><vcpupin vcpu='0' cpuset='20'/></cputune><os>"
    east.define(firmware_guest("pinned").replace("<os>", pins, 1))
    for name in (*names, "waiting", "pinned"):
        east.virsh("start", name)
    transient = east.host.root / "transient.xml"
    transient.write_text(firmware_guest("transient"))
    east.virsh("create", str(transient))
    roads.partition("east", "waiting", group=("east", "west"))
    # What is at the target already.
    twin = re.search("<uuid>.*</uuid>", east.dump("twin"))
    assert twin is not None
    west.define(firmware_guest("twin").replace("<memory", f"{twin[0]}<memory", 1))
    west.define(firmware_guest("name"))
    west.define(firmware_guest("owner", vcpus=32))
    roads.partition("west", "owner", pinning="core")
    before = {name: east.dump(name) for name in (*names, "waiting", "pinned")}
    there = {name: west.dump(name) for name in ("twin", "name", "owner")}

    asked = [*names, "waiting", "pinned", "transient", "off"]
    run = roads.migrate("east", "west", *asked, "absent", partial=True)
    assert run.failed
    assert not run.result["changed"]
    said = {error["name"]: error["msg"] for error in run.result["errors"]}
    assert set(said) == {*asked, "absent"}
    for name, words in {
        "disk": r"its storage is not shared: vda \(/var/lib/libvirt/images/disk\.img, \w+\); put",
        "net": "the target has no active network storage; define it there and start it",
        "emulator": "the target cannot run its machine type pc-q35-.* with /run/qemu-of-east",
        "twin": r"it is defined there already, with another layout \(it has 2 cells here and no",
        "name": "another guest of that name is defined there, with UUID",
        "exclusive": "core",
        "waiting": "it runs with another layout than it is defined with; restart it",
        "pinned": "it was never partitioned, and its pins or memory bindings name",
        "transient": "it is transient",
        "off": "it is off, and only a running guest migrates live",
        "absent": "it does not exist on this host",
    }.items():
        assert re.search(words, said[name]), (name, said[name])
    for name in asked:
        if name != "off":
            assert "it cannot migrate to west and stays as it is: " in said[name]

    # libvirt refuses these too, by the migration that was refused above.
    for name, words in {
        "disk": "Migration without shared storage is unsafe",
        "net": "Network not found",
        "emulator": "qemu-of-east",
        "name": "already exists with uuid",
        "pinned": "affinity|Invalid argument",
        "off": "domain is not running",
    }.items():
        assert re.search(words, own := _libvirts_own(roads, name, "west")), (name, own)
    # These it would not: "twin" replaces the other definition without a word, "exclusive" shares
    # the cores that "owner" owns, "waiting" has the cells of its source at its next start, and a
    # transient guest is gone from where it was when its migration is over.
    assert {name: east.dump(name) for name in before} == before
    assert {name: west.dump(name) for name in there} == there
    running = set(east.virsh("list", "--name").split())
    assert running == {*asked, "transient"} - {"off"}
    east.virsh("net-destroy", "storage")


def test_cells_that_the_target_cannot_have(roads: Roads) -> None:
    """A guest on one node without cells would need two of the target's, and none is refused."""
    east, south = roads.libvirts["east"], roads.libvirts["south"]
    east.define(firmware_guest("wide", memory_mib=5 * GIB))
    roads.partition("east", "wide", nodes="auto")
    east.virsh("start", "wide")
    run = roads.migrate("east", "south", "wide", flags=("--check",))
    assert run.failed
    assert "it has no cells here and 2 cells there, and a running guest keeps" in run.msg
    live = east.virsh("dumpxml", "--migratable", "wide")
    cells = (
        "<numa><cell id='0' cpus='0' memory='2621440'/><cell id='1' cpus='1' memory='2621440'/>"
        "</numa></cpu>"
    )
    wanted = east.host.root / "wide.xml"
    wanted.write_text(
        re.sub("<cputune>.*</numatune>", "", live, flags=re.DOTALL).replace("</cpu>", cells)
    )
    own = _libvirts_own(roads, "wide", "south", "--xml", str(wanted))
    assert "Target NUMA node count '2' doesn't match source '0'" in own
    assert south.virsh("list", "--all", "--name").split() == []
    assert east.virsh("domstate", "wide").strip() == "running"


def test_memory_that_others_bind(roads: Roads) -> None:
    """Two guests of 3 GiB a node do not fit nodes of 4; libvirt would let the second one in."""
    east, south = roads.libvirts["east"], roads.libvirts["south"]
    for libvirt, name in ((east, "second"), (south, "first")):
        libvirt.define(firmware_guest(name, memory_mib=6 * GIB))
    roads.partition("east", "second", group=("east", "south"))
    roads.partition("south", "first")
    for libvirt, name in ((east, "second"), (south, "first")):
        libvirt.virsh("start", name)
    run = roads.migrate("east", "south", "second", flags=("--check",))
    assert run.failed
    assert (
        "it would bind 3 GiB to host node 0, which has 4 GiB, and guests that run there bind 3 GiB"
    ) in run.msg
    # Nobody keeps it out where it is alone.
    south.virsh("destroy", "first")
    assert not roads.migrate("east", "south", "second", flags=("--check",)).failed


def test_options_that_mean_nothing(roads: Roads) -> None:
    """One sentence each, before anything is asked."""
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"at_once": 0}, "at_once must be an integer of at least 1, not '0'."),
        ({"timeout": 0}, "timeout must be more than 0 s, not 0 s."),
    )
    for options, words in refused:
        run = roads.migrate("east", "west", "any", **options)
        assert run.failed
        assert words in run.msg
    run = roads.call("east", "vnuma_migrate", {"targets": []})
    assert "targets must name at least one host to migrate to." in run.msg
    itself = {"targets": [roads.target("east")], "trust_uris": True}
    run = roads.call("east", "vnuma_migrate", itself)
    assert "target east is the source itself; name another host in targets." in run.msg


def test_storage_is_copied_where_that_is_asked_for(roads: Roads) -> None:
    """The other host has what was on the disk; the definition that was kept may be replaced."""
    east, west = roads.libvirts["east"], roads.libvirts["west"]
    _put_disk(roads, "copied")
    image = "/var/lib/libvirt/images/copied.img"
    mark = uuid.uuid4().hex
    east.host.exec(["sh", "-c", f"echo {mark} | dd of={image} conv=notrunc"])
    east.define(firmware_guest("copied", devices=_DISK.format(name="copied")))
    roads.partition("east", "copied", group=("east", "west"))
    east.virsh("start", "copied")
    options: dict[str, Any] = {
        "auto_converge": True,
        "copy_storage": "all",
        "undefine_source": False,
        "compression": "xbzrle",
    }
    run = roads.migrate("east", "west", "copied", **options)
    assert not run.failed, run.msg
    assert mark in west.host.exec(["head", "-c", "64", image]).stdout
    assert east.virsh("domstate", "copied").strip() == "shut off"
    assert west.virsh("domstate", "copied").strip() == "running"
    # Its definition was kept: it is the same guest, and comes back over that. By another way.
    run = roads.migrate("west", "east", "copied", copy_storage="all", peer_to_peer=False)
    assert not run.failed, run.msg
    assert west.virsh("list", "--all", "--name").split() == []
    assert east.virsh("domstate", "copied").strip() == "running"
