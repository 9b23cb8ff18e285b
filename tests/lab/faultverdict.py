# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether everything is as it has to be, asked of libvirt, of the kernel and of the guests."""

from __future__ import annotations

from faultguests import (
    AWAY,
    EITHER,
    GONE,
    OFF,
    PAUSED,
    RUNS,
    SAVED,
    TRANSIENT,
    Owned,
    World,
    managed_differ,
)
from faultjudge import differences, parse, unmanaged
from tinyguest import PASSWORD

#: As virsh says them.
_STATES = {RUNS: "running", TRANSIENT: "running", OFF: "shut off", SAVED: "shut off"}
_STATES |= {PAUSED: "paused", AWAY: "shut off"}


def after_kill(world: World) -> list[str]:
    """Say what is wrong whatever a run was killed in: what is not managed, what is kept."""
    found = [
        f"{one.name}: {difference}"
        for one in world.owned
        if one.name in world.persistent()
        for difference in differences(one.left, unmanaged(world.dump(one.name)))
    ]
    return found + passwords_kept(world)


def after_run(world: World) -> list[str]:
    """Say what is wrong once a run has come to its end."""
    states = world.states()
    found = after_kill(world)
    for one in world.owned:
        found += [f"{one.name}: {what}" for what in _of_guest(world, one, states.get(one.name))]
    running = [one for one in world.owned if states.get(one.name) == "running"]
    found += [f"{name}: it runs, and does not count on" for name in world.counts_on(running)]
    return found + _kept(world, states)


def _of_guest(world: World, one: Owned, state: str | None) -> list[str]:
    found = []
    if one.guest.went_back():
        found.append(f"on a disk older than the one that it had: {one.guest.went_back()}")
    process = world.process_of(one)
    if process != (state in ("running", "paused")):
        found.append(f"libvirt says {state}, and {'a' if process else 'no'} QEMU process is there")
    if process and world.process_of(one, on=world.other):
        found.append("it runs twice")
    if one.wants == GONE:
        if state is not None:
            found.append(f"its owner undefined it, and it is {state}")
    elif one.wants != EITHER and state != _STATES[one.wants]:
        found.append(f"its owner wants {one.wants}, and it is {state}")
    if one.wants == AWAY and not world.process_of(one, on=world.other):
        found.append("it was migrated away, and does not run there")
    if one.wants == SAVED and not world.virsh(
        *("list", "--all", "--with-managed-save", "--name")
    ).split().count(one.name):
        found.append("its saved image is gone")
    if one.job and one.guest.boots() != one.job_boots:
        found.append(f"a {one.job} was running on it, and it was restarted")
    elif one.job and not _has_job(world, one):
        found.append(f"its {one.job} was cut off")
    return found


def _has_job(world: World, one: Owned) -> bool:
    if one.job == "copy":
        return "Copy" in world.virsh("blockjob", one.name, "vda", "--raw", check=False)
    return "Backup" in world.virsh("domjobinfo", one.name, check=False)


def _stands(one: Owned, states: dict[str, str]) -> bool:
    return bool(one.job) or states.get(one.name) == "paused"


def has_standing(world: World) -> bool:
    """Tell whether a restart waits for an owner: a job runs, or the guest is paused."""
    states = world.states()
    return any(_stands(one, states) for one in world.owned)


def _kept(world: World, states: dict[str, str]) -> list[str]:
    """Say what is kept between runs and should not be."""
    found = []
    by_uuid = {one.uuid: one for one in world.owned}
    for path in sorted(world.state_dir.rglob("*")):
        if not path.is_file() or path.name == "lock":
            continue
        uuid, _dot, kind = path.name.partition(".")
        one = by_uuid.get(uuid)
        active = one is not None and states.get(one.name) in ("running", "paused")
        due = (
            one is not None
            and active
            and one.name in world.persistent()
            and managed_differ(parse(world.dump(one.name, live=True)), parse(world.dump(one.name)))
        )
        if not (kind in ("layout", "restart") and due and one is not None and _stands(one, states)):
            found.append(f"{path.name} is kept, and of no use")
    return found


def passwords_kept(world: World) -> list[str]:
    """Say where a password is kept between runs."""
    return [
        f"{path} has a password in it"
        for path in world.state_dir.rglob("*")
        if path.is_file() and PASSWORD[:5].encode() in path.read_bytes()
    ]
