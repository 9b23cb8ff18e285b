# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners that go on working while their guests are restarted, and things that break meanwhile."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Libvirt, emptied
from faulted import ASKED_TWICE, Faulted, until
from tinyguest import NEVER, PASSWORD

pytestmark = pytest.mark.slow

Start = Callable[..., Libvirt]


@pytest.fixture
def faulted(lab: Start, call: Any, state_dir: Path, tmp_path: Path) -> Iterator[Faulted]:
    """A host with four nodes."""
    libvirt = lab("asymmetric-4n16c", shim=True)
    libvirt.clear()
    faulted = Faulted(libvirt, call, state_dir, tmp_path)
    yield faulted
    faulted.end()


@pytest.fixture
def bare(lab: Start, call: Any, state_dir: Path, tmp_path: Path) -> Iterator[Faulted]:
    """The same without the shim: a guest that is bound to its nodes does not start."""
    libvirt = lab("asymmetric-4n16c")
    libvirt.clear()
    faulted = Faulted(libvirt, call, state_dir, tmp_path)
    yield faulted
    faulted.end()


@pytest.fixture
def elsewhere(lab: Start) -> Iterator[Libvirt]:
    """Another host with as many nodes."""
    yield from emptied(lab("all-ten-4n16c", shim=True))


# What an owner changes while a restart is due.


def _retitle(faulted: Faulted, name: str) -> None:
    faulted.define(name, (f"{name} of payroll", "Tax"), (PASSWORD, "0therpwd"))


def _snapshot(faulted: Faulted, name: str) -> None:
    faulted.virsh("snapshot-create-as", name, "snap", "--disk-only", "--no-metadata")
    assert faulted.disk(name).endswith(".snap")


def _attach(faulted: Faulted, name: str) -> None:
    disk = faulted.folder / f"{name}-more.raw"
    disk.write_bytes(bytes(1 << 20))
    faulted.virsh("attach-disk", name, str(disk), "vdb", "--config")


def _pivot(faulted: Faulted, name: str) -> None:
    copy = str(faulted.folder / f"{name}-copy.qcow2")
    words = ("--transient-job", "--wait", "--pivot", "--format", "qcow2")
    faulted.virsh("blockcopy", name, "vda", copy, *words)
    assert faulted.disk(name) == copy


_CHANGES = {"snapped": _snapshot, "pivoted": _pivot, "titled": _retitle, "attached": _attach}


def _unmanaged(xml: str) -> str:
    """Return a definition without what the collection manages, and without the ids of a start."""
    for element in ("cputune", "numatune", "numa", "vnuma:partition"):
        xml = re.sub(rf"\s*<{element}\b.*?</{element}>", "", xml, flags=re.DOTALL)
    xml = re.sub(r"\s*<topology [^>]*/>", "", xml)
    return re.sub(r"<cpu ([^>]*)>\s*(<model[^>]*>kvm64</model>)\s*</cpu>", r"<cpu \1>\2</cpu>", xml)


@pytest.mark.parametrize("moment", ["before", "waiting", "going down"])
def test_a_rollback_keeps_what_owners_have_changed(bare: Faulted, moment: str) -> None:
    """Guests run on the disks that they had, and the data on those is theirs."""
    if moment == "waiting":
        bare.boot("a-first", delay_s=ASKED_TWICE)
    delay_s = ASKED_TWICE if moment == "going down" else 0
    bare.boot(*_CHANGES, kind="qcow2", delay_s=delay_s)
    before = {name: bare.cells(name, live=False) for name in bare.guests}
    assert not bare.partition(pinning="none").failed

    def change() -> dict[str, str]:
        for name, act in _CHANGES.items():
            act(bare, name)
        # Data on the disks that they have now.
        bare.wait_for_counts(*_CHANGES)
        return {name: _unmanaged(bare.libvirt.dump(name)) for name in _CHANGES}

    if moment == "before":
        changed = change()
        bare.check_writes_nothing(pinning="none")
        run = bare.restart()
    elif moment == "waiting":
        with bare.restarting("a-first") as future:
            changed = change()
            bare.go_down("a-first")
        run = future.result()
    else:
        with bare.restarting(at_once=len(_CHANGES)) as future:
            changed = change()
            bare.go_down(*_CHANGES)
        run = future.result()
    assert run.failed
    for name in _CHANGES:
        assert (
            f"guest {name}: it did not start with its new layout, so the module rolled" in run.msg
        )
        assert run.guest(name)["action"] == "rolled_back"
        assert bare.cells(name, live=False) == before[name] == 0
        assert bare.disk(name, live=True) == bare.disk(name)
        assert _unmanaged(bare.libvirt.dump(name)) == changed[name]
    bare.run_on(*_CHANGES, boots=2)
    assert "0therpwd" in bare.libvirt.dump("titled", live=True)
    bare.is_tidy()


def test_shut_down_by_its_owner_while_another_is_restarted(bare: Faulted) -> None:
    """It stays off, with the definition that it has; it is said."""
    bare.boot("g1", delay_s=ASKED_TWICE)
    bare.boot("g2")
    assert not bare.partition(pinning="none").failed
    planned = bare.libvirt.dump("g2")
    with bare.restarting("g1") as future:
        bare.virsh("shutdown", "g2")
        until(lambda: bare.state("g2") == "shut off", "g2 is off")
        bare.go_down("g1")
    run = future.result()
    assert run.guest("g2")["action"] == "none"
    assert "guest g2: it went off after this run began, and stays off." in run.output
    assert "guest g2" not in run.msg
    assert (bare.state("g2"), bare.libvirt.dump("g2")) == ("shut off", planned)
    bare.run_on("g1", boots=2, cells=0)
    bare.check_writes_nothing("g2", pinning="none")
    bare.settles("g2", pinning="none")
    assert (bare.state("g2"), bare.libvirt.dump("g2")) == ("shut off", planned)


def test_undefined_while_another_is_restarted(faulted: Faulted) -> None:
    """A guest that would be lost by its shutdown is not shut down."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.boot("g2")
    faulted.partition()
    with faulted.restarting("g1") as future:
        faulted.virsh("undefine", "g2")
        faulted.go_down("g1")
    run = future.result()
    assert not run.failed, run.msg
    assert run.guest("g2")["action"] == "none"
    assert "guest g2: someone else undefined it after this run began; it runs on" in run.output
    faulted.run_on("g2", boots=1)
    faulted.run_on("g1", boots=2, cells=4)
    faulted.is_tidy()
    faulted.check_writes_nothing("g1")
    faulted.settles("g1")
    faulted.run_on("g2", boots=1)


def test_undefined_while_it_shuts_down(faulted: Faulted) -> None:
    """Its owner has not turned it off, so it runs again, as transient as it was by then."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition()
    with faulted.restarting("g1") as future:
        faulted.virsh("undefine", "g1")
        faulted.go_down("g1")
    run = future.result()
    assert run.guest("g1")["action"] == "skipped"
    assert "guest g1: someone else undefined it while it was shutting down; the mod" in run.output
    faulted.run_on("g1", boots=2)
    assert PASSWORD in faulted.libvirt.dump("g1", live=True)
    assert faulted.virsh("list", "--transient", "--name") == "g1"
    faulted.is_tidy()
    before = faulted.definitions()
    assert not faulted.restart().result["changed"]
    assert faulted.definitions() == before


def test_deleted_while_another_is_restarted(faulted: Faulted) -> None:
    """It does not come back, and nothing is kept of it."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.boot("g2")
    faulted.partition()
    with faulted.restarting("g1") as future:
        faulted.virsh("destroy", "g2")
        faulted.virsh("undefine", "g2")
        faulted.go_down("g1")
    run = future.result()
    assert not run.failed, run.msg
    assert "guest g2: someone else undefined it after this run began." in run.output
    assert faulted.virsh("list", "--all", "--name") == "g1"
    faulted.run_on("g1", boots=2, cells=4)
    faulted.is_tidy()
    faulted.settles("g1")


@contextmanager
def _backup(faulted: Faulted, name: str) -> Iterator[None]:
    """Have a backup of a guest's disk taken, as backup programs do."""
    scratch = faulted.folder / f"{name}-backup.xml"
    scratch.write_text(
        "<domainbackup mode='pull'>"
        f"<server transport='unix' socket='{faulted.folder}/{name}.nbd'/>"
        f"<disks><disk name='vda' type='file'><scratch file='{faulted.folder}/{name}.scratch'/>"
        "</disk></disks></domainbackup>"
    )
    faulted.virsh("backup-begin", name, str(scratch))
    try:
        yield
        assert "Backup" in faulted.virsh("domjobinfo", name)
    finally:
        faulted.virsh("domjobabort", name, check=False)


@contextmanager
def _copy(faulted: Faulted, name: str) -> Iterator[None]:
    """Have a guest's disk copied to other storage."""
    copy = str(faulted.folder / f"{name}-copy.qcow2")
    faulted.virsh("blockcopy", name, "vda", copy, "--transient-job", "--format", "qcow2")
    try:
        yield
        assert "Block Copy" in faulted.virsh("blockjob", name, "vda", "--raw")
    finally:
        faulted.virsh("blockjob", name, "vda", "--abort", check=False)


def test_jobs_are_not_cut_off(faulted: Faulted) -> None:
    """Of whichever kind, and whenever they began; the next run restarts the guest."""
    faulted.boot("a-first", delay_s=ASKED_TWICE)
    faulted.boot("backup", "copied", "copied-before", kind="qcow2")
    faulted.partition()
    with _copy(faulted, "copied-before"):
        with (
            faulted.restarting("a-first") as future,
            _backup(faulted, "backup"),
            _copy(faulted, "copied"),
        ):
            faulted.go_down("a-first")
            run = future.result()
        assert not run.failed, run.msg
        for name in ("backup", "copied", "copied-before"):
            assert run.guest(name)["action"] == "skipped"
        faulted.run_on("backup", "copied", "copied-before", boots=1, cells=0)
        assert "a job such as a migration or a backup is running on it" in run.output
        assert run.output.count("a block job such as a copy or a commit is running on its d") >= 2
        _partition, check = faulted.check_writes_nothing()
        assert check.guest("copied-before")["action"] == "skipped"
    _partition, second = faulted.settles()
    assert second.result["restarted"] == ["backup", "copied", "copied-before"]
    faulted.run_on(*faulted.guests, boots=2, cells=4)


# What breaks.


def test_the_state_folder_becomes_unwritable_while_a_guest_shuts_down(faulted: Faulted) -> None:
    """The guest runs, and the sentence does not say that nothing was changed."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition()
    (folder,) = faulted.state_dir.iterdir()
    try:
        with faulted.restarting("g1") as future:
            subprocess.run(["chattr", "+i", str(folder)], check=True)
            faulted.go_down("g1")
        run = future.result()
        faulted.run_on("g1", boots=2, cells=4)
        assert run.failed
        assert "nothing was changed" not in run.msg
        assert str(folder) in run.msg
        assert run.guest("g1")["action"] == "restarted"
        faulted.check_writes_nothing()
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    faulted.settles()
    faulted.run_on("g1", boots=2, cells=4)


def test_a_note_of_a_guest_that_is_deleted_and_comes_back(faulted: Faulted) -> None:
    """A guest of the same UUID is another one, and is not started for what was begun once."""
    faulted.boot("g1", delay_s=NEVER)
    faulted.partition()
    faulted.killed_run()
    backup = faulted.libvirt.dump("g1")
    faulted.virsh("destroy", "g1")
    faulted.virsh("undefine", "g1")
    checked = faulted.restart(flags=("--check",))
    assert checked.result["changed"]
    assert faulted.restart().result["changed"]
    faulted.is_tidy()
    assert not faulted.restart().result["changed"]
    faulted.libvirt.define(backup)
    faulted.settles()
    assert faulted.state("g1") == "shut off"


def test_a_guest_that_comes_back_before_the_next_run(faulted: Faulted) -> None:
    """The note is still there; but its owner has forced it off since."""
    faulted.boot("g1", delay_s=NEVER)
    faulted.partition()
    faulted.killed_run()
    backup = faulted.libvirt.dump("g1")
    faulted.virsh("destroy", "g1")
    faulted.virsh("undefine", "g1")
    faulted.libvirt.define(backup)
    faulted.check_writes_nothing()
    faulted.settles()
    assert faulted.state("g1") == "shut off"


def test_the_daemon_dies_while_it_starts_a_guest_and_stays_away(faulted: Faulted) -> None:
    """It cannot be told whether the guest runs: nothing is rolled back, the next run sees to it."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition(daemon_timeout=5)
    planned = faulted.libvirt.dump("g1")
    with faulted.restarting("g1", timeout=20, daemon_timeout=5) as future:
        faulted.kill_daemon_when_it_starts("g1", after_s=0)
    run = future.result()
    faulted.libvirt.host.release_daemon()
    assert run.failed
    assert "whether it runs cannot be told" in run.msg or "ended during the start" in run.msg
    assert "rolled back" not in run.msg
    assert faulted.libvirt.dump("g1") == planned
    faulted.check_writes_nothing()
    again = faulted.restart()
    if again.failed:
        # libvirt 9.0 has a guest for ever then that has no process, and ends it for nobody.
        faulted.take_way_out(again.msg)
    faulted.settles()
    faulted.run_on("g1", cells=4)


@pytest.mark.parametrize("after_ms", [0, 80, 150])
def test_the_daemon_is_killed_while_it_starts_a_guest(faulted: Faulted, after_ms: int) -> None:
    """The run itself starts it again, or sees that it runs."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition()
    with faulted.restarting("g1") as future:
        faulted.kill_daemon_when_it_starts("g1", after_ms / 1000)
        time.sleep(1.5)
        faulted.libvirt.host.release_daemon()
    run = future.result()
    if run.failed:
        # libvirt 9.0 has a guest for ever then that has no process, and ends it for nobody.
        assert "guest g1: it is paused (starting up): libvirt at" in run.msg
        assert run.guest("g1")["action"] == "failed"
        faulted.check_writes_nothing()
        faulted.take_way_out(run.msg)
    else:
        assert run.guest("g1")["action"] == "restarted"
        faulted.run_on("g1", cells=4)
        faulted.check_writes_nothing()
    faulted.settles()
    faulted.run_on("g1", cells=4)
    assert PASSWORD in faulted.libvirt.dump("g1", live=True)


@pytest.mark.parametrize("held", ["by clients", "by a stop"])
def test_a_daemon_that_takes_no_connection(faulted: Faulted, held: str) -> None:
    """It is given up in the time that was given, with one sentence."""
    faulted.boot("g1")
    with faulted.daemon_full() if held == "by clients" else faulted.daemon_stopped():
        began = time.monotonic()
        run = faulted.partition(daemon_timeout=2)
        assert run.failed
        assert "the libvirt daemon there takes no connection; check whether it hangs" in run.msg
        # Not its own time, which depends on the machine: less than without an answer at all.
        assert time.monotonic() - began < 30
    assert not faulted.partition(daemon_timeout=2).failed


def test_the_daemon_falls_silent_while_a_guest_shuts_down(faulted: Faulted) -> None:
    """It is given up likewise, and the next run ends what was begun."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition()
    with faulted.restarting("g1", daemon_timeout=10) as future:
        with faulted.daemon_stopped():
            run = future.result(60)
        assert run.failed
        assert run.msg.count("guest g1: ") == 1
    faulted.check_writes_nothing()
    faulted.settles()
    faulted.run_on("g1", boots=2, cells=4)


# Who decides whether a guest runs.


def _migrate(faulted: Faulted, name: str, target: Libvirt) -> None:
    """Migrate a guest as others do: its definition stays behind."""
    faulted.virsh(
        *("migrate", "--live", "--p2p", "--persistent", "--unsafe"),
        *("--desturi", f"qemu+unix:///system?socket={target.socket}"),
        *("--migrateuri", f"unix://{faulted.folder}/migration", name),
    )
    assert target.virsh("domstate", name).strip() == "running"


def test_migrated_away_while_another_is_restarted(faulted: Faulted, elsewhere: Libvirt) -> None:
    """It runs there, and is not started here."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.boot("g2", shareable=True)
    faulted.partition()
    with faulted.restarting("g1") as future:
        _migrate(faulted, "g2", elsewhere)
        faulted.go_down("g1")
    run = future.result()
    assert not run.failed, run.msg
    assert run.guest("g2")["action"] == "none"
    _runs_there_alone(faulted, elsewhere)
    faulted.check_writes_nothing()
    faulted.settles()
    _runs_there_alone(faulted, elsewhere)


@pytest.mark.parametrize("daemon", ["the same", "another"])
def test_migrated_away_after_a_run_was_killed(
    faulted: Faulted, elsewhere: Libvirt, daemon: str
) -> None:
    """A daemon that has started since then knows no reason; the log has it."""
    faulted.boot("g2", shareable=True, delay_s=NEVER)
    faulted.partition()
    faulted.killed_run()
    _migrate(faulted, "g2", elsewhere)
    if daemon == "another":
        faulted.libvirt.host.renew_daemon()
    faulted.check_writes_nothing()
    faulted.settles()
    _runs_there_alone(faulted, elsewhere)


def _runs_there_alone(faulted: Faulted, elsewhere: Libvirt) -> None:
    assert faulted.state("g2") == "shut off"
    assert elsewhere.virsh("domstate", "g2").strip() == "running"
    faulted.wait_for_counts("g2")
    assert faulted.guests["g2"].boots() == 1


def test_a_guest_that_goes_down_late_but_while_the_run_lasts(faulted: Faulted) -> None:
    """It is started, since the run has asked it to go down."""
    faulted.boot("g1", "g2", delay_s=ASKED_TWICE)
    faulted.partition()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(faulted.restart, timeout=8)
        # The second is asked when the first is given up.
        until(lambda: len(faulted.kept_notes()) == 2 or future.done(), "both asked")
        assert not future.done(), future.result().output
        faulted.virsh("shutdown", "g1")
        until(lambda: faulted.guests["g1"].boots() == 2, "g1 started")
        faulted.virsh("shutdown", "g2")
        run = future.result()
    assert not run.failed, run.msg
    assert "guest g1: it took longer than 8 s to shut down; increase timeout" in run.output
    assert run.result["restarted"] == ["g1", "g2"]
    faulted.run_on(*faulted.guests, boots=2, cells=4)
    faulted.settles()


@pytest.mark.parametrize("turned_off_by", ["force", "itself"])
def test_a_guest_that_goes_off_after_the_run_has_given_up(
    faulted: Faulted, turned_off_by: str
) -> None:
    """One that its owner forces off stays off; one that goes down as it was asked to is started."""
    faulted.boot("g1", delay_s=ASKED_TWICE)
    faulted.partition()
    run = faulted.restart(timeout=1)
    assert run.failed
    given_up = run.msg
    faulted.run_on("g1", boots=1, cells=0)
    faulted.virsh("destroy" if turned_off_by == "force" else "shutdown", "g1")
    until(lambda: faulted.state("g1") == "shut off", "g1 is off")
    faulted.check_writes_nothing()
    run = faulted.restart()
    assert not run.failed, run.msg
    if turned_off_by == "force":
        assert "a restart of it was begun; since then it was forced off by someone" in run.output
        assert faulted.state("g1") == "shut off"
    else:
        assert run.result["restarted"] == ["g1"]
        faulted.run_on("g1", boots=2, cells=4)
    faulted.settles()
    assert "If it goes down within 1 h, the next run starts it." in given_up


def test_saved_while_it_shuts_down(faulted: Faulted) -> None:
    """Its owner has its memory kept, which a start would use up."""
    faulted.boot("g1", delay_s=NEVER)
    faulted.partition()
    with faulted.restarting() as future:
        faulted.virsh("managedsave", "g1")
        run = future.result()
    assert run.guest("g1")["action"] == "skipped"
    assert "while it was shutting down, it was saved by someone else; it stays off" in run.output
    assert faulted.state("g1") == "shut off"
    assert "g1" in faulted.virsh("list", "--all", "--with-managed-save", "--name")
    faulted.is_tidy()
    assert not faulted.restart().result["changed"]
