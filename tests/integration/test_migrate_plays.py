# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations by whole plays: one guest by name, and all guests of a host to the others."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml
from conftest import PROJECT
from roads import Roads, firmware_guest

pytestmark = pytest.mark.slow

#: vCPUs and memory in MiB of the guests of a host that is drained.
FLEET = {
    f"db{number:02}": (2 if number % 2 else 4, 16 + 4 * (number % 4)) for number in range(1, 13)
}


@dataclass
class Play:
    """What came of a play."""

    output: str
    failed: bool


@pytest.fixture
def play(roads: Roads, tmp_path: Path) -> Callable[..., Play]:
    """Run a playbook of the collection on the hosts."""

    def run(book: str, *flags: str, **variables: Any) -> Play:
        names = ("east", "west", "south")
        hosts = {
            name: {
                **roads.variables(name),
                "vnuma_migrate_uri": roads.target(name)["uri"],
                "vnuma_migrate_trust_uris": True,
                "vnuma_migrate_data_uri": roads.target(name)["data_uri"],
            }
            for name in names
        }
        inventory = {"all": {"hosts": hosts, "vars": {"vnuma_migration_group": list(names)}}}
        (tmp_path / "hosts.json").write_text(json.dumps(inventory))
        done = commands.run(
            [
                "ansible-playbook",
                f"kvm.vnuma.{book}",
                f"--inventory={tmp_path / 'hosts.json'}",
                f"--extra-vars={json.dumps(variables)}",
                *flags,
            ],
            tmp_path,
        )
        assert "Traceback" not in done.stdout + done.stderr
        return Play(done.stdout + done.stderr, failed=done.returncode != 0)

    return run


def _where(roads: Roads) -> dict[str, set[str]]:
    """Return who runs where; nobody is defined anywhere else."""
    found = {}
    for name, libvirt in roads.libvirts.items():
        found[name] = set(libvirt.virsh("list", "--name").split())
        assert set(libvirt.virsh("list", "--all", "--name").split()) == found[name]
    return found


def _examples() -> list[dict[str, Any]]:
    """Return the tasks in the documentation of the module."""
    source = (PROJECT / "plugins/modules/vnuma_migrate.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES":
            tasks: list[dict[str, Any]] = yaml.safe_load(ast.literal_eval(node.value))
            return tasks
    raise AssertionError("vnuma_migrate has no EXAMPLES")


def test_the_examples_of_the_module(roads: Roads) -> None:
    """As they stand in its documentation, but for the addresses of the hosts."""
    roads.clear()
    for name in ("db1", "web"):
        roads.libvirts["east"].define(firmware_guest(name))
        roads.libvirts["east"].virsh("start", name)
    called = {"kvm2": "west", "kvm3": "south"}
    answers = []
    for task in _examples():
        arguments = task["kvm.vnuma.vnuma_migrate"]
        targets = [roads.target(called[one["name"]]) for one in arguments["targets"]]
        flags = ("--check",) if task.get("check_mode") else ()
        given = {**arguments, "targets": targets, "trust_uris": True}
        run = roads.call("east", "vnuma_migrate", given, *flags)
        assert not run.failed, run.msg
        answers.append((run.result["migrated"], bool(flags)))
    assert answers == [(["db1"], False), (["web"], True)]
    assert roads.libvirts["west"].virsh("list", "--name").split() == ["db1"]
    assert roads.libvirts["east"].virsh("list", "--name").split() == ["web"]


def test_a_guest_by_name(roads: Roads, play: Callable[..., Play]) -> None:
    """The playbook for one guest: first in check mode, then for real, and once more."""
    east = roads.libvirts["east"]
    east.define(firmware_guest("db1"))
    east.define(firmware_guest("stays"))
    roads.partition("east", "db1", "stays", group=("east", "west"))
    for name in ("db1", "stays"):
        east.virsh("start", name)
    asked = {"vnuma_migrate_from": "east", "vnuma_migrate_guests": "db1"}
    checked = play("migrate", "--check", "--diff", vnuma_migrate_to="west", **asked)
    assert not checked.failed, checked.output
    assert "after: db1 (persistent definition on west)" in checked.output
    assert _where(roads)["east"] == {"db1", "stays"}
    run = play("migrate", vnuma_migrate_to="west", **asked)
    assert not run.failed, run.output
    assert _where(roads) == {"east": {"stays"}, "west": {"db1"}, "south": set()}
    again = play("migrate", vnuma_migrate_to="west", **asked)
    assert not again.failed, again.output
    assert "changed=0" in again.output
    wrong = play("migrate", vnuma_migrate_to="east", **asked)
    assert wrong.failed
    assert "vnuma_migrate_to must be hosts of the inventory, other than east" in wrong.output


def test_a_host_is_drained(roads: Roads, play: Callable[..., Play]) -> None:
    """Twelve guests go to two hosts, three at a time; nobody is lost, and all is as planned."""
    east = roads.libvirts["east"]
    for name, (vcpus, memory_mib) in FLEET.items():
        east.define(firmware_guest(name, vcpus=vcpus, memory_mib=memory_mib))
    group = tuple(roads.libvirts)
    roads.partition("east", *FLEET, group=group)
    east.script(f"start {name}" for name in FLEET)
    planned = play("drain", "--check", vnuma_drain="east")
    assert not planned.failed, planned.output
    assert _where(roads)["east"] == set(FLEET)
    run = play("drain", vnuma_drain="east", vnuma_migrate_at_once=3)
    assert not run.failed, run.output
    where = _where(roads)
    assert where["east"] == set()
    assert where["west"] | where["south"] == set(FLEET)
    assert where["west"]
    assert where["south"]
    for host in ("west", "south"):
        again = roads.partition(host, *where[host], group=group)
        assert not again.result["changed"], again.output


def test_a_host_that_the_others_have_no_room_for(roads: Roads, play: Callable[..., Play]) -> None:
    """Who stays is said before anything moves, with the reasons in the group's order; others go."""
    east, west = roads.libvirts["east"], roads.libvirts["west"]
    large, small = ("large1", "large2"), ("small1", "small2")
    for name in large:
        east.define(firmware_guest(name, vcpus=12))
    for name in small:
        east.define(firmware_guest(name))
    own = {"pinning": "core", "nodes": "auto"}
    roads.partition("east", *large, *small, group=("east", "west"), **own)
    # Of the other host's cores half are owned; the rest has room for one of the large guests.
    west.define(firmware_guest("owner", vcpus=16))
    roads.partition("west", "owner", pinning="core", nodes="8")
    west.virsh("start", "--paused", "owner")
    east.script(f"start {name}" for name in (*large, *small))
    words = "it cannot migrate to west, south and stays as it is: "
    planned = play("drain", "--check", vnuma_drain="east")
    assert planned.failed
    assert f"guest large2: {words}" in planned.output
    assert "guest large1: " not in planned.output
    assert _where(roads)["east"] == {*large, *small}
    run = play("drain", vnuma_drain="east")
    assert run.failed
    assert f"guest large2: {words}" in run.output
    where = _where(roads)
    assert where["east"] == {"large2"}
    assert where["west"] >= {"large1", "owner"}
    assert where["west"] | where["south"] == {"large1", "owner", *small}
