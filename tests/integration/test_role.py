# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role and the playbooks: whole plays, on hosts whose guests really run, and what cuts in."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commands
import guestboot
import pytest
from adhoc import SYSTEM_PYTHON
from conftest import Libvirt
from guests import PASSWORD, RICH, anuma

ROLE = {"role": "kvm.vnuma.vnuma"}
_SECOND_PLAY = "PLAY [Bring guests to their layout, host after host]"


@dataclass
class Play:
    """What one run of ansible-playbook printed.

    Attributes:
        output: all of it.
        failed: whether it failed.
    """

    output: str
    failed: bool

    def recap(self, host: str) -> dict[str, int]:
        """Return the figures of a host in the recap."""
        (line,) = re.findall(rf"^{host} +: (.*)$", self.output, re.MULTILINE)
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, without handlers."""
        return re.findall(r"^TASK \[(.*)\]", self.output, re.MULTILINE)


class Hosts:
    """Hosts that are managed by whole plays.

    Args:
        libvirts: the hosts by their name in the inventory.
        folder: for inventory, plays, consoles and state.
    """

    def __init__(self, libvirts: dict[str, Libvirt], folder: Path) -> None:
        self.libvirts = libvirts
        self.folder = folder
        self._variables: dict[str, dict[str, Any]] = {name: {} for name in libvirts}

    def guests(self, host: str, *guests: str | dict[str, Any], **variables: Any) -> None:
        """Set a host's vnuma_guests, and other variables."""
        entries = [{"name": guest} if isinstance(guest, str) else guest for guest in guests]
        self._variables[host] = {"vnuma_guests": entries, **variables}

    def boot(self, host: str, name: str, **keys: Any) -> None:
        """Define a guest without NUMA on a host, start it, and wait until it is up."""
        xml = guestboot.domain_xml(name, 4, 320, self.console(name), **keys)
        self.libvirts[host].define(xml)
        self.libvirts[host].virsh("start", name)
        guestboot.wait_for_boots(self.console(name), 1)

    def console(self, name: str) -> Path:
        """Return the file with a guest's console."""
        return self.folder / f"{name}.log"

    def nodes_seen(self, name: str, boots: int = 2) -> int:
        """Return how many nodes the guest's own kernel sees after so many boots."""
        guestboot.wait_for_boots(self.console(name), boots)
        return len(guestboot.read_report(self.console(name)).nodes)

    def command(self, *plays: dict[str, Any] | str, flags: tuple[str, ...] = ()) -> list[str]:
        """Return the command that runs plays, or a playbook by its name."""
        inventory = self.folder / "inventory.json"
        hosts = {
            name: {"vnuma_uri": libvirt.uri, **self._variables[name]}
            for name, libvirt in self.libvirts.items()
        }
        variables = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": SYSTEM_PYTHON,
            "vnuma_state_dir": str(self.folder / "state"),
            "vnuma_restart_timeout": 60,
        }
        inventory.write_text(json.dumps({"kvm_hosts": {"hosts": hosts, "vars": variables}}))
        books = [play for play in plays if isinstance(play, str)]
        tasks = [play for play in plays if isinstance(play, dict)]
        if tasks:
            book = self.folder / f"play-{time.monotonic_ns()}.json"
            book.write_text(
                json.dumps([{"hosts": "all", "gather_facts": False, **play} for play in tasks])
            )
            books.append(str(book))
        return ["ansible-playbook", "--inventory", str(inventory), *flags, *books]

    def play(self, *plays: dict[str, Any] | str, flags: tuple[str, ...] = ()) -> Play:
        """Run plays, or a playbook by its name."""
        done = commands.run(self.command(*plays, flags=flags), self.folder)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return Play(done.stdout + done.stderr, done.returncode != 0)

    def dumps(self) -> dict[tuple[str, str, bool], str]:
        """Return every definition of every host, persistent and live."""
        found = {}
        for host, libvirt in self.libvirts.items():
            running = libvirt.virsh("list", "--name").split()
            for name in libvirt.virsh("list", "--all", "--name").split():
                found[host, name, False] = libvirt.dump(name)
                if name in running:
                    found[host, name, True] = libvirt.dump(name, live=True)
        return found


@pytest.fixture
def hosts(lab: Callable[..., Libvirt], ansible: None, tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts: one with four nodes, one with three."""
    libvirts = {"kvm1": lab("asymmetric-4n16c", shim=True), "kvm2": lab("asym-3n", shim=True)}
    for libvirt in libvirts.values():
        libvirt.clear()
    yield Hosts(libvirts, tmp_path)
    for libvirt in libvirts.values():
        libvirt.clear()


def test_one_host_without_a_plan_stops_them_all(hosts: Hosts) -> None:
    """Before the first change on any host, by the role and by the playbook."""
    hosts.libvirts["kvm1"].define(anuma("good"))
    hosts.libvirts["kvm2"].define(anuma("small", vcpus=2))
    hosts.guests("kvm1", "good")
    hosts.guests("kvm2", "small")
    before = hosts.dumps()
    for run in (
        hosts.play({"roles": [ROLE]}),
        hosts.play("kvm.vnuma.converge"),
        hosts.play("kvm.vnuma.converge", flags=("--check", "--diff")),
    ):
        assert run.failed
        assert "guest small: 2 vCPUs cannot fill 3 cells" in run.output
        assert "RUNNING HANDLER" not in run.output
        assert hosts.dumps() == before


def test_bad_values_are_refused_before_anything_is_asked(hosts: Hosts) -> None:
    """By the role's own argument specification."""
    hosts.guests("kvm1", "x", vnuma_pinning="thread")
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert run.failed
    assert (
        "value of vnuma_pinning must be one of: node, cache, core, cpu, none, keep, got: thread"
        in run.output
    )
    hosts.guests("kvm1", {"name": "x", "pining": "core"})
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert run.failed
    assert "pining" in run.output


def test_hosts_without_guests_are_left_alone(hosts: Hosts) -> None:
    """The playbook runs over a whole inventory, of which a part has guests."""
    hosts.libvirts["kvm1"].define(anuma())
    hosts.libvirts["kvm2"].define(anuma())
    hosts.guests("kvm1", "anuma")
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert hosts.libvirts["kvm1"].dump("anuma").count("<cell ") == 4
    assert "<cell " not in hosts.libvirts["kvm2"].dump("anuma")
    assert run.recap("kvm2")["changed"] == 0


def test_only_hosts_with_something_to_do_are_visited(hosts: Hosts) -> None:
    """Whoever is fine is planned beside the others, and that is all."""
    for libvirt in hosts.libvirts.values():
        libvirt.define(anuma("a"))
        libvirt.define(anuma("b"))
    hosts.guests("kvm1", "a")
    hosts.guests("kvm2", "a")
    assert not hosts.play("kvm.vnuma.converge", flags=("--limit", "kvm1")).failed
    assert "<cell " not in hosts.libvirts["kvm2"].dump("a")

    run = hosts.play("kvm.vnuma.converge", flags=("--check", "--diff"))
    assert not run.failed, run.output
    assert run.output.count("+++ after: a (persistent definition)") == 1
    planned, _heading, visited = run.output.partition(_SECOND_PLAY)
    assert "ok: [kvm1]" in planned
    assert "changed: [kvm2]" in planned
    assert "[kvm1]" not in visited
    assert "changed: [kvm2]" in visited

    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert "[kvm1]" not in run.output.partition(_SECOND_PLAY)[2]
    assert hosts.libvirts["kvm2"].dump("a").count("<cell ") == 3
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert "skipping: no hosts matched" in run.output.partition(_SECOND_PLAY)[2]
    assert [run.recap(host)["changed"] for host in hosts.libvirts] == [0, 0]

    # Two parts of a fleet in one playbook: the second part is not the first one's hosts as well.
    hosts.guests("kvm1", "*")
    hosts.guests("kvm2", "*")
    parts = [
        {
            "ansible.builtin.import_playbook": "kvm.vnuma.converge",
            "vars": {"vnuma_hosts": part},
        }
        for part in (["kvm1"], "kvm_hosts:!kvm1")
    ]
    book = hosts.folder / "parts.json"
    book.write_text(json.dumps(parts))
    run = hosts.play(str(book))
    assert not run.failed, run.output
    first, second = run.output.split(_SECOND_PLAY)[1:]
    assert "[kvm1]" in first
    assert "[kvm1]" not in second.partition("PLAY RECAP")[0]
    assert hosts.libvirts["kvm2"].dump("b").count("<cell ") == 3


def test_another_run_does_it_between_plan_and_redefine(hosts: Hosts) -> None:
    """What the other run has done is not to be done again, and is no error."""
    libvirt = hosts.libvirts["kvm1"]
    libvirt.define(anuma())
    hosts.guests("kvm1", "anuma")
    planned, go = hosts.folder / "planned", hosts.folder / "go"
    hold = [
        {"name": "Planned", "ansible.builtin.file": {"path": str(planned), "state": "touch"}},
        {"name": "Hold", "ansible.builtin.wait_for": {"path": str(go), "timeout": 600}},
    ]
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(
            hosts.play, {"roles": [ROLE], "tasks": hold, "hosts": "kvm1", "any_errors_fatal": True}
        )
        try:
            while not planned.exists():
                assert not slow.done(), slow.result().output
                time.sleep(0.1)
            other = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
            after = libvirt.dump("anuma")
        finally:
            go.touch()
    assert not other.failed, other.output
    assert after.count("<cell ") == 4
    assert not slow.result().failed, slow.result().output
    assert libvirt.dump("anuma") == after


def test_passwords_stay_and_stay_hidden(hosts: Hosts) -> None:
    """Through the playbook too, at its most talkative."""
    hosts.libvirts["kvm1"].define(RICH)
    before = hosts.dumps()
    hosts.guests("kvm1", "rich")
    for book in ("kvm.vnuma.converge", "kvm.vnuma.revert"):
        run = hosts.play(book, flags=("--diff", "-vvv"))
        assert not run.failed, run.output
        assert run.recap("kvm1")["changed"] > 0
        assert PASSWORD not in run.output
        assert PASSWORD in hosts.libvirts["kvm1"].dump("rich")
    assert hosts.dumps() == before


@pytest.mark.slow
def test_converge_check_hold_and_revert(hosts: Hosts) -> None:
    """Check mode touches nothing; one run does it all; the next does nothing; revert goes back."""
    hosts.boot("kvm1", "a")
    hosts.boot("kvm2", "b")
    hosts.libvirts["kvm1"].define(anuma("off"))
    hosts.guests("kvm1", "a", "off", vnuma_serial=1)
    hosts.guests("kvm2", {"name": "b*", "nodes": "0-1"})
    original = hosts.dumps()

    run = hosts.play("kvm.vnuma.converge", flags=("--check", "--diff"))
    assert not run.failed, run.output
    assert hosts.dumps() == original
    for name in ("a", "off", "b"):
        assert run.output.count(f"+++ after: {name} (persistent definition)") == 1
    assert "<memnode cellid=" in run.output
    checked = {host: run.recap(host) for host in hosts.libvirts}

    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert {host: run.recap(host) for host in hosts.libvirts} == checked
    # The whole fleet is planned at once, in no order; then hosts are rolled one after the other.
    rolled = run.output.partition(_SECOND_PLAY)[2]
    assert rolled.index("changed: [kvm1]") < rolled.index("changed: [kvm2]")
    assert (hosts.nodes_seen("a"), hosts.nodes_seen("b")) == (4, 2)
    assert hosts.libvirts["kvm1"].virsh("domstate", "off").strip() == "shut off"
    converged = hosts.dumps()

    run = hosts.play({"roles": [ROLE]})
    assert [run.recap(host)["changed"] for host in hosts.libvirts] == [0, 0]
    assert len(run.tasks) <= 5
    assert "RUNNING HANDLER" not in run.output
    assert hosts.dumps() == converged

    run = hosts.play("kvm.vnuma.revert")
    assert not run.failed, run.output
    persistent = {key: xml for key, xml in hosts.dumps().items() if not key[2]}
    assert persistent == {key: xml for key, xml in original.items() if not key[2]}
    assert (hosts.nodes_seen("a", 3), hosts.nodes_seen("b", 3)) == (1, 1)
    assert [hosts.play("kvm.vnuma.revert").recap(host)["changed"] for host in hosts.libvirts] == [
        0,
        0,
    ]


@pytest.mark.slow
def test_a_guest_that_was_grown_boots_with_its_new_cells(hosts: Hosts) -> None:
    """Its own kernel sees more vCPUs and more memory in each cell, once the role restarted it."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", {"name": "a", "nodes": "0-1", "vcpus": 2, "memory": "300 MiB"})
    assert not hosts.play({"roles": [ROLE], "hosts": "kvm1"}).failed
    assert hosts.nodes_seen("a") == 2
    small = guestboot.read_report(hosts.console("a"))
    hosts.guests("kvm1", {"name": "a", "nodes": "0-1", "vcpus": 4, "memory": "448 MiB"})
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert not run.failed, run.output
    assert hosts.nodes_seen("a", 3) == 2
    large = guestboot.read_report(hosts.console("a"))
    assert [node.cpus for node in small.nodes.values()] == ["0", "1"]
    assert [node.cpus for node in large.nodes.values()] == ["0-1", "2-3"]
    # 74 MiB more each; but a kernel leaves its own image (32 MiB) out of the node that it is on,
    # which with KASLR may be another one on each boot.
    for number, node in large.nodes.items():
        assert node.memory_kib > small.nodes[number].memory_kib + 32 * 1024
    assert hosts.play({"roles": [ROLE], "hosts": "kvm1"}).recap("kvm1")["changed"] == 0


@pytest.mark.slow
def test_never_reports_and_waits(hosts: Hosts) -> None:
    """The guests that wait are named on every run, and no run that has nothing to do is changed."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a", vnuma_restart_mode="never")
    for changed in (True, False):
        run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
        assert not run.failed, run.output
        assert (run.recap("kvm1")["changed"] > 0) is changed
        assert re.search(r"defined\s+with: a\b", run.output), run.output
    # On a host that is not visited, too.
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert "skipping: no hosts matched" in run.output
    assert (
        len(re.findall(r"kvm1: vnuma_restart_mode is 'never'.*defined\s+with: a\b", run.output))
        == 1
    )
    assert guestboot.boots(hosts.console("a")) == 1
    hosts.guests("kvm1", "a")
    assert not hosts.play({"roles": [ROLE], "hosts": "kvm1"}).failed
    assert hosts.nodes_seen("a") == 4


@pytest.mark.slow
def test_a_guest_that_waits_for_reasons_of_its_own(hosts: Hosts) -> None:
    """What others have changed, and mean to restart when it suits them, is not restarted."""
    hosts.boot("kvm1", "ours")
    hosts.boot("kvm1", "theirs")
    libvirt = hosts.libvirts["kvm1"]
    topology = "<topology sockets='1' cores='4' threads='1'/></cpu>"
    libvirt.define(libvirt.dump("theirs").replace("</cpu>", topology))
    hosts.guests("kvm1", "ours", {"name": "theirs", "state": "absent"})
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert not run.failed, run.output
    assert hosts.nodes_seen("ours") == 4
    assert guestboot.boots(hosts.console("theirs")) == 1


@pytest.mark.slow
def test_a_later_task_fails_before_the_handlers(hosts: Hosts) -> None:
    """Nothing was touched by then, and the next run does it all."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a")
    before = hosts.dumps()
    later = [{"name": "Fail", "ansible.builtin.fail": {"msg": "a later task"}}]
    run = hosts.play({"roles": [ROLE], "tasks": later, "hosts": "kvm1"})
    assert run.failed
    assert hosts.dumps() == before
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert not run.failed, run.output
    assert hosts.nodes_seen("a") == 4


@pytest.mark.slow
def test_a_definition_changed_between_plan_and_redefine(hosts: Hosts) -> None:
    """It is not written over; the sentence names the guest; it keeps running as it was."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a")
    theirs = hosts.folder / "theirs.xml"
    theirs.write_text(
        hosts.libvirts["kvm1"].dump("a").replace("<on_crash>destroy", "<on_crash>restart")
    )
    meanwhile = {
        "name": "Meanwhile",
        "ansible.builtin.command": {
            "argv": ["virsh", "-c", hosts.libvirts["kvm1"].uri, "define", str(theirs)]
        },
    }
    run = hosts.play({"roles": [ROLE], "tasks": [meanwhile], "hosts": "kvm1"})
    assert run.failed
    assert "guest a: someone else changed its definition after it was planned" in run.output
    assert "<on_crash>restart" in hosts.libvirts["kvm1"].dump("a")
    assert "<cell " not in hosts.libvirts["kvm1"].dump("a")
    assert guestboot.boots(hosts.console("a")) == 1
    assert not hosts.play({"roles": [ROLE], "hosts": "kvm1"}).failed
    assert hosts.nodes_seen("a") == 4
    assert "<on_crash>restart" in hosts.libvirts["kvm1"].dump("a")


def test_a_guest_defined_between_plan_and_redefine(hosts: Hosts) -> None:
    """Nodes were chosen without it: nothing is written, and the next run plans with it."""
    libvirt = hosts.libvirts["kvm1"]
    libvirt.define(anuma("a", vcpus=2, memory_kib=1 << 20))
    hosts.guests("kvm1", "a", vnuma_nodes="auto", vnuma_reserved_memory=0)
    theirs = hosts.folder / "theirs.xml"
    theirs.write_text(anuma("b", vcpus=4, memory_kib=1 << 20))
    meanwhile = {
        "name": "Meanwhile",
        "ansible.builtin.command": {"argv": ["virsh", "-c", libvirt.uri, "define", str(theirs)]},
    }
    run = hosts.play({"roles": [ROLE], "tasks": [meanwhile], "hosts": "kvm1"})
    assert run.failed
    assert "a guest of this host was defined, changed or removed after nodes were" in run.output
    assert "<vcpupin" not in libvirt.dump("a")
    assert not hosts.play({"roles": [ROLE], "hosts": "kvm1"}).failed
    assert "<vcpupin" in libvirt.dump("a")
    assert "<cell " not in libvirt.dump("a")
    assert "<vcpupin" not in libvirt.dump("b")
    assert "changed=0" in hosts.play({"roles": [ROLE], "hosts": "kvm1"}).output


@pytest.mark.slow
def test_the_controller_is_killed_in_the_middle(hosts: Hosts) -> None:
    """With its workers and its module: whatever they leave half done, the next run ends."""
    hosts.boot("kvm1", "a", cmdline="vnuma.slow_acpi=10")
    hosts.guests("kvm1", "a")
    with _restarting(hosts) as controller:
        commands.kill_tree(controller)
    assert guestboot.boots(hosts.console("a")) == 1
    # The guest goes down after all, since it was asked to.
    while hosts.libvirts["kvm1"].virsh("domstate", "a").strip() == "running":
        time.sleep(0.1)
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert not run.failed, run.output
    assert hosts.nodes_seen("a") == 4
    assert hosts.play({"roles": [ROLE], "hosts": "kvm1"}).recap("kvm1")["changed"] == 0
    assert guestboot.boots(hosts.console("a")) == 2


@pytest.mark.slow
def test_the_process_group_of_the_controller_is_killed(hosts: Hosts) -> None:
    """The module is not in that group: it ends its work, although its result goes nowhere."""
    hosts.boot("kvm1", "a", cmdline="vnuma.slow_acpi=10")
    hosts.guests("kvm1", "a")
    with _restarting(hosts) as controller:
        commands.kill_group(controller)
        assert guestboot.boots(hosts.console("a")) == 1
        while commands.processes_of(controller):
            time.sleep(0.1)
    assert hosts.nodes_seen("a") == 4
    assert hosts.play({"roles": [ROLE], "hosts": "kvm1"}).recap("kvm1")["changed"] == 0
    assert guestboot.boots(hosts.console("a")) == 2


@contextmanager
def _restarting(hosts: Hosts) -> Iterator[commands.Begun]:
    """Begin a run of the role, and go on once it has begun to restart a guest."""
    words = hosts.command({"roles": [ROLE], "hosts": "kvm1"})
    with commands.begin(words, hosts.folder) as controller:
        while not list((hosts.folder / "state").rglob("*.restart")):
            assert controller.poll() is None
            time.sleep(0.1)
        yield controller


@pytest.mark.slow
def test_a_killed_run_leaves_a_note_of_a_restart_that_ended(hosts: Hosts) -> None:
    """It is dropped by the next run, so that a guest shut down for good later is not started."""
    libvirt = hosts.libvirts["kvm1"]
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a")
    assert not hosts.play("kvm.vnuma.converge").failed
    assert hosts.nodes_seen("a") == 4
    (lock,) = (hosts.folder / "state").rglob("lock")
    note = lock.with_name(f"{libvirt.virsh('domuuid', 'a').strip()}.restart")
    note.write_text(json.dumps({"name": "a", "since": 0}))
    run = hosts.play("kvm.vnuma.converge", flags=("--check",))
    assert not run.failed, run.output
    assert note.exists()
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert not note.exists()
    libvirt.virsh("destroy", "a")
    assert hosts.play("kvm.vnuma.converge").recap("kvm1")["changed"] == 0
    assert libvirt.virsh("domstate", "a").strip() == "shut off"


@pytest.mark.slow
def test_libvirtd_is_killed_between_redefine_and_restart(hosts: Hosts) -> None:
    """The restart that is due is found by the next run."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a", vnuma_restart_mode="never")
    assert not hosts.play({"roles": [ROLE], "hosts": "kvm1"}).failed
    fake = hosts.libvirts["kvm1"].host
    fake.kill_daemon(hold=True)
    hosts.guests("kvm1", "a")
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert run.failed
    assert "start libvirtd (or virtqemud) there, or correct uri" in run.output
    fake.release_daemon()
    run = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
    assert not run.failed, run.output
    assert hosts.nodes_seen("a") == 4


@pytest.mark.slow
def test_two_plays_at_once(hosts: Hosts) -> None:
    """One of them does it, the other is told; the guest is power-cycled once."""
    hosts.boot("kvm1", "a", cmdline="vnuma.ignore_acpi")
    # Longer than a run waits for another one.
    hosts.guests("kvm1", "a", vnuma_restart_mode="force", vnuma_restart_timeout=30)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(hosts.play, {"roles": [ROLE], "hosts": "kvm1"})
        while not list((hosts.folder / "state").rglob("*.restart")):
            assert not first.done(), first.result().output
            time.sleep(0.1)
        second = hosts.play({"roles": [ROLE], "hosts": "kvm1"})
        assert not first.result().failed, first.result().output
    assert second.failed
    assert "another run of kvm.vnuma is working on this host's guests" in second.output
    assert hosts.nodes_seen("a") == 4
    assert hosts.play({"roles": [ROLE], "hosts": "kvm1"}).recap("kvm1")["changed"] == 0
    assert guestboot.boots(hosts.console("a")) == 2


@pytest.mark.slow
def test_a_guest_that_does_not_start_goes_back(
    lab: Callable[..., Libvirt], ansible: None, tmp_path: Path
) -> None:
    """This machine lacks the nodes that the host reports, so that a strict binding fails."""
    libvirt = lab("asymmetric-4n16c")
    libvirt.clear()
    hosts = Hosts({"kvm1": libvirt}, tmp_path)
    hosts.boot("kvm1", "a")
    before = libvirt.dump("a")
    hosts.guests("kvm1", "a", vnuma_pinning="none")
    run = hosts.play("kvm.vnuma.converge")
    assert run.failed
    assert "guest a: it did not start with its new layout, so the module rolled" in (run.output)
    assert libvirt.dump("a") == before
    guestboot.wait_for_boots(hosts.console("a"), 2)
    assert libvirt.virsh("domstate", "a").strip() == "running"
    libvirt.clear()


@pytest.mark.slow
def test_pins_change_without_a_restart(hosts: Hosts) -> None:
    """Design: what can change live does, by a play as by the module."""
    hosts.boot("kvm1", "a")
    hosts.guests("kvm1", "a")
    assert not hosts.play("kvm.vnuma.converge").failed
    assert hosts.nodes_seen("a") == 4
    hosts.guests("kvm1", "a", vnuma_pinning="cpu")
    run = hosts.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    assert run.recap("kvm1")["changed"] > 0
    live = hosts.libvirts["kvm1"].virsh("vcpupin", "a", "--live")
    assert [line.split()[1].isdigit() for line in live.splitlines()[-4:]] == [True] * 4
    assert guestboot.boots(hosts.console("a")) == 2
