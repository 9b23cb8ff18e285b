# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations that fail: each ends with the guest on one host, defined there, and one sentence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bootstate
import commands
import guestboot
import pytest
import twocopies
from adhoc import Run
from hugepages import more_hugepages
from roads import Roads, firmware_guest

pytestmark = pytest.mark.slow

#: So slow that there is time for every fault: a booted guest has tens of MiB to copy.
_SLOW: dict[str, Any] = {"bandwidth": "1 MiB"}
_PATIENCE_S = 240.0


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the guest says."""
    return tmp_path_factory.mktemp("faults") / "console.log"


@pytest.fixture
def guest(highway: Roads, console: Path) -> Iterator[str]:
    """A guest that has booted on the east; it runs on, and its time never goes back."""
    if not _is_on_one_host(highway, "db1", "east", "west"):
        highway.clear()
        highway.forget()
        console.unlink(missing_ok=True)
        east = highway.libvirts["east"]
        xml = guestboot.domain_xml("db1", 2, 224, console, cmdline="vnuma.watch")
        east.define(twocopies.with_monitor(xml, "db1"))
        highway.partition("east", "db1", group=("east", "west"))
        east.virsh("start", "db1")
        guestboot.wait_for_boots(console, 1)
    yield "db1"
    # No module of the collection starts a guest that it migrates: if this one came up twice, its
    # console says why.
    booted = guestboot.boots(console)
    assert booted == 1, f"it came up {booted} times; {bootstate.keep(console)}"
    assert twocopies.went_back(console) == [], bootstate.keep(console)


@contextmanager
def _migrating(roads: Roads, **options: Any) -> Iterator[Future[Run]]:
    """Begin a slow migration to the west, and go on once the guest has begun to arrive there."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(roads.migrate, "east", "west", "db1", **{**_SLOW, **options})
        west = roads.libvirts["west"]
        _until(lambda: future.done() or "db1" in west.virsh("list", "--all", "--name"))
        assert not future.done(), future.result().output
        yield future


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _is_on_one_host(roads: Roads, name: str, here: str, other: str) -> bool:
    """Tell whether a guest runs on a host, defined there, and is nowhere on another."""
    return (
        name in roads.libvirts[here].virsh("list", "--name", "--persistent").split()
        and roads.libvirts[here].virsh("domstate", name).strip() == "running"
        and name not in roads.libvirts[other].virsh("list", "--all", "--name").split()
    )


def test_one_that_does_not_finish_in_time(highway: Roads, guest: str) -> None:
    """It is ended, and what was left to do is said."""
    east = highway.libvirts["east"]
    before = east.dump(guest)
    run = highway.migrate("east", "west", guest, timeout=5, **_SLOW)
    assert run.failed
    assert not run.result["changed"]
    assert "it was not migrated to west: it did not finish within 5 s (sent " in run.msg
    assert "It is running on its source, as before, and nothing of it is left on west." in run.msg
    assert run.result["guests"][0]["action"] == "failed"
    assert east.dump(guest) == before
    assert _is_on_one_host(highway, guest, "east", "west")


def test_the_daemon_of_the_target_dies(highway: Roads, guest: str) -> None:
    """It comes back, and clears away what had begun to arrive."""
    with _migrating(highway) as future:
        highway.host("west").kill_daemon()
        run = future.result(_PATIENCE_S)
    assert run.failed
    assert "it was not migrated to west: " in run.msg
    assert "It is running on its source, as before, " in run.msg
    _until(lambda: _is_on_one_host(highway, guest, "east", "west"))


def test_the_daemon_of_the_source_dies(highway: Roads, guest: str) -> None:
    """It comes back, ends the migration, and the guest runs on."""
    with _migrating(highway) as future:
        highway.host("east").kill_daemon()
        run = future.result(_PATIENCE_S)
    assert run.failed
    assert "it was not migrated to west: a libvirt daemon ended its connection" in run.msg
    assert "It is running on its source, as before, " in run.msg
    _until(lambda: _is_on_one_host(highway, guest, "east", "west"))


def test_the_network_is_cut(highway: Roads, guest: str) -> None:
    """Both hosts notice by themselves, and each does its part."""
    with _migrating(highway) as future:
        with highway.cut("west"):
            run = future.result(_PATIENCE_S)
        assert run.failed
        assert "where it runs cannot be told, since west cannot be asked" in run.msg
        assert re.search(
            r"it is running \([a-z ]+\) on its source, and both copies are left", run.msg
        )
        _until(lambda: _is_on_one_host(highway, guest, "east", "west"))
    run = highway.migrate("east", "west", guest)
    assert not run.failed, run.msg
    _goes_home(highway, guest)


@pytest.mark.parametrize("peer_to_peer", [True, False])
def test_the_module_is_killed(highway: Roads, guest: str, peer_to_peer: bool) -> None:
    """The daemons go on by themselves, and the next run ends it; else that one begins again."""
    with _migrating(highway, peer_to_peer=peer_to_peer, bandwidth="4 MiB") as future:
        highway.host("east").kill_now("-f", "AnsiballZ_vnuma_migrate")
        assert future.result(_PATIENCE_S).failed
    # With nothing that it does not have to know of the migration that was begun.
    checked = highway.migrate("east", "west", guest, flags=("--check",))
    assert "a migration of it to west was begun and has not ended" in checked.output
    other = highway.migrate("east", "south", guest)
    assert other.failed
    assert "run again with west in targets" in other.msg
    run = highway.migrate("east", "west", guest, peer_to_peer=peer_to_peer)
    assert (run.failed, run.result["migrated"]) == (False, [guest]), run.output
    assert _is_on_one_host(highway, guest, "west", "east")
    _goes_home(highway, guest)


def _goes_home(roads: Roads, guest: str) -> None:
    """See that the next run has nothing to do, and bring the guest back."""
    run = roads.migrate("east", "west", guest)
    assert (run.failed, run.result["changed"]) == (False, False), run.output
    for name in ("east", "west"):
        notes = (roads.host(name).root / "state").rglob("*.migration")
        assert list(notes) == []
    run = roads.migrate("west", "east", guest)
    assert not run.failed, run.msg


@pytest.mark.parametrize(
    ("dies", "peer_to_peer", "after_ms"),
    [
        *(("west", True, after_ms) for after_ms in (0, 20, 60)),
        *(("west", peer_to_peer, None) for peer_to_peer in (True, False)),
        ("west", False, 20),
        ("east", True, 20),
        ("east", True, 60),
        *(("module", False, after_ms) for after_ms in (20, 60)),
        ("west module", False, 0),
        ("east west", True, 20),
    ],
)
def test_what_dies_at_the_handover(
    highway: Roads, guest: str, dies: str, peer_to_peer: bool, after_ms: int | None
) -> None:
    """Once the source has stopped it: there are never two that run, and the next run ends it.

    Without a time, it is when the target's daemon finishes the migration.
    """
    roots = {name: highway.host(name).root for name in ("east", "west")}
    with twocopies.Watcher(twocopies.monitors(roots, guest)) as watcher:
        with ThreadPoolExecutor(1) as pool:
            options: Any = {"peer_to_peer": peer_to_peer, "bandwidth": "16 MiB"}
            future = pool.submit(highway.migrate, "east", "west", guest, **options)
            assert twocopies.wait_for_handover(roots["east"], guest, future.done)
            if after_ms is None:
                twocopies.wait_for_finish(roots["west"], guest, future.done)
            else:
                time.sleep(after_ms / 1000)
            _die(highway, dies)
            run = future.result(_PATIENCE_S)
        assert "Traceback" not in run.output
        run = highway.migrate("east", "west", guest)
        assert not run.failed, run.msg
        assert _is_on_one_host(highway, guest, "west", "east")
        _goes_home(highway, guest)
    assert watcher.twice == []
    assert watcher.samples > 0


def _die(roads: Roads, dies: str) -> None:
    daemons = [name for name in dies.split() if name != "module"]
    for name in daemons:
        roads.host(name).kill_daemon_now()
    if "module" in dies:
        roads.host("east").kill_now("-f", "AnsiballZ_vnuma_migrate")
    time.sleep(1)
    for name in daemons:
        roads.host(name).release_daemon()


@pytest.mark.parametrize("with_module", [False, True])
def test_the_controller_is_killed(highway: Roads, guest: str, with_module: bool) -> None:
    """With its workers and connections: the module ends what it has begun, or the next run does."""
    words = highway.migrate_command("east", "west", guest, bandwidth="4 MiB")
    with commands.begin(words, highway.folder) as controller:
        west = highway.libvirts["west"]
        _until(lambda: guest in west.virsh("list", "--all", "--name"))
        assert controller.poll() is None
        commands.kill_tree(controller)
        if with_module:
            highway.host("east").kill_now("-f", "AnsiballZ_vnuma_migrate")
    if not with_module:
        _until(lambda: _is_on_one_host(highway, guest, "west", "east"))
    run = highway.migrate("east", "west", guest)
    assert (run.failed, run.result["changed"]) == (False, with_module), run.output
    assert _is_on_one_host(highway, guest, "west", "east")
    run = highway.migrate("west", "east", guest)
    assert not run.failed, run.msg


def test_post_copy_ends_what_is_late(highway: Roads, guest: str) -> None:
    """The guest runs on at the target before all of its memory is there, and loses none of it."""
    run = highway.migrate("east", "west", guest, post_copy=True, timeout=3, **_SLOW)
    assert not run.failed, run.msg
    assert _is_on_one_host(highway, guest, "west", "east")
    run = highway.migrate("west", "east", guest)
    assert not run.failed, run.msg


def test_hugepages_that_are_taken(roads: Roads) -> None:
    """Taken by a guest: refused. Taken by another program: QEMU finds none, and it stays."""
    pages = "<memoryBacking><hugepages/></memoryBacking><vcpu>"
    with more_hugepages(128):
        for name in ("east", "west"):
            roads.host(name).exec(["mkdir", "-p", "/dev/hugepages"])
            roads.host(name).exec(["mount", "-t", "hugetlbfs", "none", "/dev/hugepages"])
            # It looks for such mounts when it starts.
            roads.host(name).renew_daemon()
        east, west = roads.libvirts["east"], roads.libvirts["west"]
        for libvirt, name, mib in ((east, "comes", 16), (west, "holds", 120)):
            libvirt.define(firmware_guest(name, memory_mib=mib).replace("<vcpu>", pages, 1))
        roads.partition("east", "comes", group=("east", "west"))
        roads.partition("west", "holds")
        east.virsh("start", "comes")
        west.virsh("start", "holds")
        run = roads.migrate("east", "west", "comes", flags=("--check",))
        assert run.failed
        assert (
            "it needs 4 hugepages of 2048 KiB on host node 0, whose pool has 32, and guests that "
            "run there hold 30 (holds 30)"
        ) in run.msg
        west.virsh("destroy", "holds")
        # By the plan there is room again, and somebody else has it.
        Path("/proc/sys/vm/nr_hugepages").write_text("8")
        run = roads.migrate("east", "west", "comes", peer_to_peer=False)
        assert run.failed
        assert "it was not migrated to west: libvirt at " in run.msg
        assert "unable to map backing store for guest RAM" in run.msg
        assert _is_on_one_host(roads, "comes", "east", "west")
