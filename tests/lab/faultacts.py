# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What owners of guests do, whatever runs meanwhile; and how they put it in order again."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable

from errors import LabError
from faultguests import (
    AWAY,
    EITHER,
    GONE,
    OFF,
    PAUSED,
    RUNS,
    SAVED,
    SLOWEST_S,
    TRANSIENT,
    Owned,
    World,
)

Act = Callable[[World, Owned, random.Random], None]


def _undefine(world: World, one: Owned, _random: random.Random) -> None:
    one.backup = world.dump(one.name)
    active = world.states().get(one.name) != "shut off"
    world.virsh("undefine", one.name)
    one.wants = (EITHER if world.noted(one) else TRANSIENT) if active else GONE


def _define(world: World, one: Owned, choice: random.Random) -> None:
    number = choice.randrange(10**6)
    xml = re.sub(r"<title>.*?</title>", f"<title>changed {number}</title>", world.dump(one.name))
    world.define(re.sub(r"passwd='[^']*'", f"passwd='t1nyg{number % 999}'", xml))
    world.left(one)


def _attach(world: World, one: Owned, _random: random.Random) -> None:
    one.disks += 1
    disk = world.folder / f"{one.uuid}-{one.disks}.raw"
    disk.write_bytes(bytes(1 << 20))
    letter = chr(ord("a") + one.disks)
    world.virsh("attach-disk", one.name, str(disk), f"vd{letter}", "--config")
    world.left(one)


def _snapshot(world: World, one: Owned, choice: random.Random) -> None:
    name = f"s{choice.randrange(10**9)}"
    flags = ("--disk-only", "--no-metadata")
    world.virsh("snapshot-create-as", one.name, name, *flags, "--diskspec", "vda")
    world.left(one)


def _copy(world: World, one: Owned, choice: random.Random) -> None:
    noted = world.noted(one)
    copy = str(world.folder / f"{one.uuid}-{choice.randrange(10**9)}.copy")
    boots = one.guest.boots()
    world.virsh("blockcopy", one.name, "vda", copy, "--transient-job", "--format", "qcow2")
    if not (noted or world.noted(one)):
        one.job, one.job_boots = "copy", boots


def _backup(world: World, one: Owned, choice: random.Random) -> None:
    noted = world.noted(one)
    base = world.folder / f"{one.uuid}-{choice.randrange(10**9)}"
    base.with_suffix(".xml").write_text(
        "<domainbackup mode='pull'>"
        f"<server transport='unix' socket='{base}.nbd'/><disks><disk name='vda' type='file'>"
        f"<scratch file='{base}.scratch'/></disk></disks></domainbackup>"
    )
    boots = one.guest.boots()
    world.virsh("backup-begin", one.name, f"{base}.xml")
    if not (noted or world.noted(one)):
        one.job, one.job_boots = "backup", boots


def _shutdown(world: World, one: Owned, _random: random.Random) -> None:
    noted, boots = world.noted(one), one.guest.boots()
    world.virsh("shutdown", one.name)
    # One that is still in its firmware does not hear it.
    with contextlib.suppress(LabError):
        world.wait(
            lambda: world.states().get(one.name) == "shut off" or one.guest.boots() > boots,
            "it goes down",
        )
    noted = noted or world.noted(one) or one.guest.boots() > boots
    if noted:
        one.wants = EITHER
    elif world.states().get(one.name) == "shut off":
        one.wants = OFF


def _destroy(world: World, one: Owned, _random: random.Random) -> None:
    world.virsh("destroy", one.name)
    # A run that has just pulled its power itself takes it for its own.
    one.wants = EITHER if world.noted(one) else OFF


def _start(world: World, one: Owned, _random: random.Random) -> None:
    world.virsh("start", one.name)
    one.wants = RUNS


def _reset(world: World, one: Owned, _random: random.Random) -> None:
    # One that is reset in its firmware hangs now and then, without any run: 1 of 100 within 0.25 s
    # of its start, with QEMU 7.2 under TCG.
    if world.counts_on([one], patience_s=2):
        raise LabError(f"{one.name} has not come up")
    world.virsh("reset", one.name)


def _suspend(world: World, one: Owned, _random: random.Random) -> None:
    noted = world.noted(one)
    world.virsh("suspend", one.name)
    one.wants = EITHER if noted or world.noted(one) else PAUSED


def _save(world: World, one: Owned, _random: random.Random) -> None:
    world.virsh("managedsave", one.name)
    one.wants = SAVED


def _rename(world: World, one: Owned, choice: random.Random) -> None:
    name = f"{one.guest.name}r{choice.randrange(10**6)}"
    world.virsh("domrename", one.name, name)
    one.name = name
    world.left(one)


def _migrate(world: World, one: Owned, _random: random.Random) -> None:
    noted = world.noted(one)
    world.virsh(
        *("migrate", "--live", "--p2p", "--persistent", "--unsafe"),
        *("--desturi", f"qemu+unix:///system?socket={world.other.socket}"),
        *("--migrateuri", f"unix://{world.folder}/{one.uuid}.migration", one.name),
    )
    # Where it was asked to go down before that, or in the moment in which virsh began, it does so
    # there.
    one.wants = EITHER if noted or world.noted(one) else AWAY


ACTS: dict[str, Act] = {
    "undefine": _undefine,
    "define": _define,
    "attach": _attach,
    "snapshot": _snapshot,
    "copy": _copy,
    "backup": _backup,
    "shutdown": _shutdown,
    "destroy": _destroy,
    "start": _start,
    "reset": _reset,
    "suspend": _suspend,
    "save": _save,
    "rename": _rename,
    "migrate": _migrate,
}
#: What can be done to a guest that is off; the rest is done to those that run.
_OF_OFF = ("undefine", "define", "attach", "start", "rename")


def act(world: World, choice: random.Random) -> str:
    """Do one thing to one guest; return what, '' where libvirt refused."""
    one = choice.choice([one for one in world.owned if one.wants in (RUNS, OFF) and not one.job])
    of_off = one.wants == OFF
    name = choice.choice(_OF_OFF if of_off else [name for name in ACTS if name != "rename"])
    try:
        ACTS[name](world, one, choice)
    except LabError:
        # It may be down just then, or its daemon may be away.
        return ""
    return f"{name} {one.guest.name}"


def put_in_order(world: World) -> None:
    """Have owners end what they have begun, so that all guests are where they were at first."""
    for one in world.owned:
        # Also one that nothing was expected of, since a restart of the guest had begun before it.
        world.virsh("blockjob", one.name, "vda", "--abort", check=False)
        world.virsh("domjobabort", one.name, check=False)
        one.job = ""
        if one.wants == PAUSED:
            world.virsh("resume", one.name)
        elif one.wants == AWAY:
            world.virsh("destroy", one.name, on=world.other)
            world.virsh("undefine", one.name, on=world.other)
        if one.wants in (TRANSIENT, GONE, EITHER) and one.backup:
            if one.name not in world.persistent():
                world.define(one.backup)
            one.backup = ""
            world.left(one)
        if one.name != one.guest.name:
            _to_off(world, one)
            world.virsh("domrename", one.name, one.guest.name)
            one.name = one.guest.name
            world.left(one)
        _to_first_state(world, one)


def _to_off(world: World, one: Owned) -> None:
    if world.states()[one.name] != "shut off":
        world.virsh("destroy", one.name)


def _to_first_state(world: World, one: Owned) -> None:
    first = OFF if one.guest.name in ("g5", "g6") else RUNS
    for other in world.states(on=world.other):
        if other == one.name:
            world.virsh("destroy", one.name, on=world.other, check=False)
            world.virsh("undefine", one.name, on=world.other, check=False)
    state = world.states()[one.name]
    if first == OFF:
        _to_off(world, one)
        world.virsh("managedsave-remove", one.name, check=False)
    elif state == "paused":
        world.virsh("resume", one.name)
    elif state == "shut off":
        # From its saved image, where it has one; that has the layout of then.
        world.virsh("start", one.name)
        if one.wants == SAVED:
            # A run may have asked it to shut down before it was saved, and it goes on with that.
            time.sleep(SLOWEST_S + 1)
            if world.states()[one.name] == "shut off":
                world.virsh("start", one.name)
    one.wants = first
