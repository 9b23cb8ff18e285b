# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""vnuma_restart with guests that really run, and faults that really happen."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import guestboot
import pytest
from adhoc import Run
from conftest import Libvirt

pytestmark = pytest.mark.slow

Call = Callable[..., Run]


class Bench:
    """One host with running guests, and the modules to handle them."""

    def __init__(self, libvirt: Libvirt, call: Call, folder: Path) -> None:
        self.libvirt = libvirt
        self.call = call
        self.folder = folder

    def console(self, name: str) -> Path:
        """Return the file with a guest's console."""
        return self.folder / f"{name}.log"

    def boot(self, name: str = "guest", **keys: Any) -> None:
        """Define a guest without NUMA, start it, and wait until it is up."""
        edit = keys.pop("edit", None)
        xml = guestboot.domain_xml(name, 4, 320, self.console(name), **keys)
        self.libvirt.define(edit(xml) if edit else xml)
        self.libvirt.virsh("start", name)
        guestboot.wait_for_boots(self.console(name), 1)

    def partition(self, *names: str, **options: Any) -> Run:
        """Partition guests."""
        guests = [{"name": name} for name in names or ("guest",)]
        return self.call("vnuma_partition", {"uri": self.libvirt.uri, "guests": guests, **options})

    def restart(self, *names: str, **options: Any) -> Run:
        """Restart guests; without names, all that were partitioned."""
        flags = options.pop("flags", ())
        named = {"guests": list(names)} if names else {}
        arguments = {"uri": self.libvirt.uri, "timeout": 60, **named, **options}
        return self.call("vnuma_restart", arguments, *flags)

    def state(self, name: str = "guest") -> str:
        """Return a guest's state as virsh says it."""
        return self.libvirt.virsh("domstate", name).strip()

    def live_cells(self, name: str = "guest") -> int:
        """Return how many cells a running guest has."""
        return self.libvirt.dump(name, live=True).count("<cell ")

    def nodes_seen(self, name: str = "guest", boots: int = 2) -> int:
        """Return how many nodes the guest's own kernel sees after so many boots."""
        guestboot.wait_for_boots(self.console(name), boots)
        return len(guestboot.read_report(self.console(name)).nodes)


@pytest.fixture
def bench(lab: Callable[..., Libvirt], call: Call, tmp_path: Path) -> Iterator[Bench]:
    """A host with four nodes."""
    libvirt = lab("asymmetric-4n16c", shim=True)
    libvirt.clear()
    yield Bench(libvirt, call, tmp_path)
    libvirt.clear()


def _action(run: Run, name: str = "guest") -> dict[str, Any]:
    return run.guest(name)


def test_graceful(bench: Bench, state_dir: Path) -> None:
    """Shut down, started, and its kernel sees the new nodes; a second run has nothing to do."""
    bench.boot()
    first = bench.partition()
    assert first.result["restart_required"] == ["guest"]
    (kept,) = state_dir.rglob("*.layout")
    assert "<domain" not in kept.read_text()
    assert bench.restart(flags=("--check",)).result["restarted"] == ["guest"]
    assert bench.live_cells() == 0
    run = bench.restart()
    assert not run.failed, run.msg
    assert _action(run)["action"] == "restarted"
    assert not _action(run)["forced"]
    assert 0 < _action(run)["downtime_s"] < 60
    assert bench.nodes_seen() == 4
    assert bench.partition().result["restart_required"] == []
    again = bench.restart()
    assert not again.result["changed"]
    assert _action(again)["action"] == "none"
    assert [path.name for path in state_dir.rglob("*") if path.is_file()] == ["lock"]


def test_a_guest_that_ignores_acpi(bench: Bench) -> None:
    """Graceful never pulls the plug, force does."""
    bench.boot(cmdline="vnuma.ignore_acpi")
    bench.partition()
    run = bench.restart(timeout=2)
    assert run.failed
    assert "guest guest: it did not shut down within 2 s and keeps running with its old" in run.msg
    assert "set mode to 'force'" in run.msg
    assert bench.state() == "running"
    assert bench.live_cells() == 0
    run = bench.restart(timeout=2, mode="force")
    assert not run.failed, run.msg
    assert _action(run)["forced"]
    assert bench.nodes_seen() == 4


def test_start_fails_after_redefine(bench: Bench) -> None:
    """The old definition comes back, the guest runs with it, and one sentence has both facts."""
    bench.boot()
    before = bench.libvirt.dump("guest")
    node = {"cpus": "0-3", "memory_kib": 1 << 20}
    bench.partition(topology={"nodes": [{"id": 0, **node}, {"id": 77, **node}]}, pinning="none")
    assert "nodeset='77'" in bench.libvirt.dump("guest")
    run = bench.restart()
    assert run.failed
    assert "guest guest: it did not start with its new layout, so the module rolled" in run.msg
    assert "77" in run.msg
    assert _action(run)["action"] == "rolled_back"
    assert bench.state() == "running"
    assert bench.libvirt.dump("guest") == before
    guestboot.wait_for_boots(bench.console("guest"), 2)
    assert bench.restart().result["restarted"] == []


def test_goes_back_to_what_ran_and_not_to_what_was_kept_once(bench: Bench) -> None:
    """A definition that was kept before an earlier start is not what the guest ran with."""
    bench.boot()
    bench.libvirt.virsh("destroy", "guest")
    bench.partition()
    bench.libvirt.virsh("start", "guest")
    assert bench.nodes_seen() == 4
    broken = re.sub(
        r"(cellid='3' mode='strict' nodeset=)'3'", r"\1'77'", bench.libvirt.dump("guest")
    )
    assert "'77'" in broken
    bench.libvirt.define(broken)
    run = bench.restart("guest")
    assert run.failed
    assert _action(run)["action"] == "rolled_back"
    assert bench.nodes_seen(boots=3) == 4
    assert "'77'" not in bench.libvirt.dump("guest")


def test_a_note_that_is_out_of_date_starts_nothing(bench: Bench, state_dir: Path) -> None:
    """Who shuts a guest down for good does not want it back because of a restart long ago."""
    bench.boot(cmdline="vnuma.ignore_acpi")
    bench.partition()
    assert bench.restart(timeout=1).failed
    assert list(state_dir.rglob("*.restart"))
    bench.libvirt.virsh("destroy", "guest")
    bench.libvirt.virsh("start", "guest")
    run = bench.partition()
    # The note is all that was changed.
    assert run.result["changed"]
    assert not run.result["guests"][0]["changed"]
    assert not run.result["restart_required"]
    assert not bench.partition().result["changed"]
    bench.libvirt.virsh("destroy", "guest")
    assert bench.partition().result["restart_required"] == []
    assert bench.restart().result["restarted"] == []
    assert bench.state() == "shut off"


def test_guests_that_must_not_be_shut_down(bench: Bench) -> None:
    """Paused and off ones are left as they are, the former with a warning."""
    bench.boot("paused")
    bench.boot("off")
    bench.partition("paused", "off")
    bench.libvirt.virsh("destroy", "off")
    bench.libvirt.virsh("suspend", "paused")
    run = bench.restart()
    assert not run.failed
    assert _action(run, "paused")["action"] == "skipped"
    assert "guest paused: it is paused; it keeps its old layout until its next" in run.output
    assert _action(run, "off")["action"] == "none"
    assert (bench.state("paused"), bench.state("off")) == ("paused", "shut off")


def test_a_crashed_guest_is_kept_for_inspection(bench: Bench) -> None:
    """Whoever asked libvirt to preserve a crash wants to look at it."""

    def preserve(xml: str) -> str:
        return xml.replace("<on_crash>destroy", "<on_crash>preserve").replace(
            "<memballoon", "<panic model='isa'/><memballoon"
        )

    bench.boot(cmdline="vnuma.crash_on_power", edit=preserve)
    bench.partition()
    bench.libvirt.virsh("shutdown", "guest")
    for _second in range(200):
        if bench.state() == "crashed":
            break
        time.sleep(0.1)
    assert bench.state() == "crashed"
    run = bench.restart()
    assert _action(run)["action"] == "skipped"
    assert "it has crashed and is kept for inspection" in run.output
    assert bench.state() == "crashed"


def test_a_guest_in_the_middle_of_a_migration(
    bench: Bench, lab: Callable[..., Libvirt], tmp_path: Path
) -> None:
    """A migration, a dump or a backup is not cut short."""
    bench.boot()
    bench.partition()
    elsewhere = lab("two-socket-2n32c", shim=True)
    elsewhere.clear()
    with ThreadPoolExecutor() as pool:
        job = pool.submit(_migrate_slowly, bench.libvirt, elsewhere, tmp_path)
        while "Unbounded" not in bench.libvirt.virsh("domjobinfo", "guest", check=False):
            assert not job.done(), job.result()
            time.sleep(0.1)
        run = bench.restart()
        bench.libvirt.virsh("domjobabort", "guest")
        job.result()
    assert _action(run)["action"] == "skipped", run.output
    assert "a job such as a migration or a backup is running on it" in run.output
    assert bench.state() == "running"
    assert bench.restart().result["restarted"] == ["guest"]


def _migrate_slowly(origin: Libvirt, target: Libvirt, folder: Path) -> str:
    return origin.virsh(
        *("migrate", "--live", "--p2p", "--bandwidth", "1", "--unsafe"),
        *("--desturi", f"qemu+unix:///system?socket={target.socket}"),
        *("--migrateuri", f"unix://{folder}/migration", "guest"),
        check=False,
    )


def test_managed_save_is_not_brought_back_silently(bench: Bench) -> None:
    """Refused before anything changes, or dropped when told to."""
    bench.boot()
    bench.libvirt.virsh("managedsave", "guest")
    before = bench.libvirt.dump("guest")
    run = bench.partition()
    assert run.failed
    assert "guest guest: its managed-save image would restore its old layout" in run.msg
    assert bench.libvirt.dump("guest") == before
    assert "guest" in bench.libvirt.virsh("list", "--all", "--with-managed-save", "--name")
    run = bench.partition(managed_save="drop")
    assert not run.failed
    assert not bench.libvirt.virsh("list", "--all", "--with-managed-save", "--name").strip()
    bench.libvirt.virsh("start", "guest")
    assert bench.nodes_seen() == 4


def test_saved_after_the_redefine(bench: Bench) -> None:
    """An image that was made while the restart was due is found by the next run too."""
    bench.boot()
    bench.partition()
    bench.libvirt.virsh("managedsave", "guest")
    run = bench.partition()
    assert run.failed
    assert "its managed-save image would restore its old layout" in run.msg
    run = bench.partition(managed_save="drop")
    assert run.result["changed"]


def test_destroyed_by_someone_else_meanwhile(bench: Bench, state_dir: Path) -> None:
    """It is its owner's then, who may have a reason; the run says so, and so does the next one."""
    bench.boot(cmdline="vnuma.ignore_acpi")
    bench.partition()
    with ThreadPoolExecutor() as pool:
        restarting = pool.submit(bench.restart)
        _wait_until_begun(restarting, state_dir)
        bench.libvirt.virsh("destroy", "guest")
        run = restarting.result()
    assert not run.failed, run.msg
    assert _action(run)["action"] == "skipped"
    assert (
        "while it was shutting down, it was forced off by someone else; it stays off" in run.output
    )
    assert bench.state() == "shut off"
    assert bench.restart().result["restarted"] == []
    assert bench.state() == "shut off"


@pytest.mark.parametrize("moment", ["before the restart", "while it shuts down"])
def test_libvirtd_killed(bench: Bench, moment: str, state_dir: Path) -> None:
    """Guests outlive their daemon, and the restart waits for it to come back."""
    bench.boot(cmdline="vnuma.ignore_acpi")
    bench.partition()
    if moment == "before the restart":
        bench.libvirt.host.kill_daemon()
        bench.libvirt.host.release_daemon()
        run = bench.restart(timeout=2, mode="force")
    else:
        with ThreadPoolExecutor() as pool:
            restarting = pool.submit(bench.restart, timeout=8, mode="force")
            _wait_until_begun(restarting, state_dir)
            bench.libvirt.host.kill_daemon()
            run = restarting.result()
        bench.libvirt.host.release_daemon()
    assert not run.failed, run.msg
    assert _action(run)["action"] == "restarted"
    assert bench.nodes_seen() == 4


def test_killed_in_the_middle_and_run_again(bench: Bench, state_dir: Path) -> None:
    """A restart that was begun is finished by the next run, also if the guest went down since."""
    bench.boot(cmdline="vnuma.slow_acpi=10")
    bench.partition()
    with ThreadPoolExecutor() as pool:
        restarting = pool.submit(_failing, bench.restart)
        _wait_until_begun(restarting, state_dir)
        _kill_module(state_dir)
        restarting.result()
    assert bench.state() == "running"
    assert list(state_dir.rglob("*.restart"))
    _until(lambda: bench.state() == "shut off")
    assert bench.partition().result["restart_required"] == ["guest"]
    run = bench.restart()
    assert not run.failed, run.msg
    assert _action(run)["action"] == "started"
    assert bench.nodes_seen() == 4
    assert not list(state_dir.rglob("*.restart"))


def _until(is_true: Callable[[], bool]) -> None:
    while not is_true():
        time.sleep(0.1)


def _kill_module(state_dir: Path) -> None:
    # Only the one of this test: others may run beside it. It holds a lock in the state folder.
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held = [str(file.readlink()) for file in (folder / "fd").iterdir()]
            if any(path.startswith(f"{state_dir}/") for path in held):
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
    assert killed


def _wait_until_begun(restarting: Future[Any], state_dir: Path) -> None:
    while not list(state_dir.rglob("*.restart")):
        assert not restarting.done(), restarting.result().output
        time.sleep(0.1)


def _failing(step: Callable[[], Run]) -> None:
    # The killed module leaves no result that could be read.
    try:
        step()
    except AssertionError:
        return


def test_two_runs_at_once(bench: Bench, state_dir: Path) -> None:
    """The second is told to wait, and the guest is power-cycled once."""
    bench.boot(cmdline="vnuma.ignore_acpi")
    bench.partition()
    with ThreadPoolExecutor() as pool:
        # Longer than another run waits for the lock.
        first = pool.submit(bench.restart, timeout=20, mode="force")
        _wait_until_begun(first, state_dir)
        second = bench.restart()
        run = first.result()
    assert not run.failed, run.msg
    assert _action(run)["forced"]
    assert second.failed
    assert (
        "another run of kvm.vnuma is working on this host's guests; nothing was done" in second.msg
    )
    guestboot.wait_for_boots(bench.console("guest"), 2)
    assert bench.restart().result["restarted"] == []
    assert guestboot.boots(bench.console("guest")) == 2


def test_disk_full_where_the_old_definition_is_kept(bench: Bench, tmp_path: Path) -> None:
    """Nothing is redefined that could not be put back."""
    bench.boot()
    before = bench.libvirt.dump("guest")
    full = tmp_path / "full"
    full.mkdir()
    bench.libvirt.run("mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(full))
    try:
        seen = bench.libvirt.seen(full)
        (seen / "fill").write_bytes(b"x" * 16384)
        run = bench.partition(state_dir=str(full))
        left = [path for path in seen.rglob("*") if path.suffix == ".xml" or ".xml." in path.name]
    finally:
        bench.libvirt.run("umount", str(full))
    assert run.failed
    assert "No space left on device; nothing was changed; free space" in run.msg
    assert bench.libvirt.dump("guest") == before
    assert not left


def test_at_once_and_the_agent(bench: Bench) -> None:
    """Guests are down one by one unless told otherwise, and the agent is waited for if asked."""
    for name in ("a", "b", "c"):
        bench.boot(name, agent=True)
    bench.partition("a", "b", "c")
    down = []
    with ThreadPoolExecutor() as pool:
        restarting = pool.submit(bench.restart, agent_timeout=100)
        while not restarting.done():
            running = bench.libvirt.virsh("list", "--name", "--state-running").split()
            down.append(3 - len(running))
        run = restarting.result()
    assert not run.failed, run.msg
    assert max(down) == 1
    assert run.result["restarted"] == ["a", "b", "c"]
    bench.boot("mute")
    bench.partition("mute")
    run = bench.restart("mute", agent_timeout=1)
    assert "it runs with its new layout, but its agent did not answer within 1 s" in run.msg
    assert bench.state("mute") == "running"


def test_only_what_was_partitioned_unless_named(bench: Bench) -> None:
    """A pattern never restarts a guest that this collection has not touched."""
    bench.boot()
    dump = bench.libvirt.dump("guest")
    bench.libvirt.define(
        dump.replace("</cpu>", "<topology sockets='1' cores='4' threads='1'/></cpu>")
    )
    assert bench.restart().result["restarted"] == []
    assert bench.restart("g*").result["restarted"] == []
    assert bench.restart("guest").result["restarted"] == ["guest"]


def test_pins_change_while_it_runs(bench: Bench) -> None:
    """Cells that equal the plan need no restart for their pins."""
    bench.boot()
    bench.partition()
    bench.restart()
    bench.nodes_seen()
    run = bench.partition(pinning="core")
    assert run.result["changed"]
    assert run.result["restart_required"] == []
    live = [line.split() for line in bench.libvirt.virsh("vcpupin", "guest", "--live").splitlines()]
    pins = run.result["guests"][0]["layout"]["vcpu_pins"]
    assert [line[1] for line in live[-4:]] == pins
    assert guestboot.boots(bench.console("guest")) == 2
    bench.libvirt.virsh("vcpupin", "guest", "0", "0-15", "--live")
    run = bench.partition(pinning="core")
    assert run.result["changed"]
    assert not bench.partition(pinning="core").result["changed"]


def test_pins_by_hand_are_removed_while_it_runs(bench: Bench) -> None:
    """As pinning 'none' is described; so it is not for guests that something else pins."""
    bench.boot(
        edit=lambda xml: xml.replace(
            "<os>", "<cputune><vcpupin vcpu='1' cpuset='2'/></cputune><os>", 1
        )
    )
    bench.libvirt.virsh("vcpupin", "guest", "0", "3", "--live")
    run = bench.partition(nodes="auto", pinning="none", memory_mode="none")
    assert run.result["changed"]
    assert run.result["restart_required"] == []
    live = [line.split() for line in bench.libvirt.virsh("vcpupin", "guest", "--live").splitlines()]
    assert [line[1] for line in live[-4:]] == ["0-15"] * 4
    # Its record in the metadata has them, for state absent.
    defined = bench.libvirt.dump("guest")
    assert defined.count("<vcpupin ") == 1
    assert defined.index("<vcpupin ") < defined.index("</metadata>")
    assert guestboot.boots(bench.console("guest")) == 1


def test_bad_options(bench: Bench) -> None:
    """One sentence with the values."""
    for options in ({"at_once": 0}, {"timeout": 0}, {"agent_timeout": -1}):
        run = bench.restart(**options)
        assert "at_once must be at least 1, timeout more than 0 s" in run.msg
    run = bench.restart("nobody")
    assert run.msg.startswith("guest nobody: it does not exist on this host;")
