# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest, two hosts, and rounds in which something is killed while it migrates."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import guestboot
from adhoc import SYSTEM_PYTHON, Adhoc
from errors import LabError
from fakehost import FakeHost
from guests import PASSWORD
from highway import Highway
from lxml import etree
from twocopies import Watcher, monitors, wait_for_handover, went_back, with_monitor

GUEST = "db1"
HOSTS = ("east", "west")
_VNC = (
    f"<graphics type='vnc' port='-1' autoport='yes' passwd='{PASSWORD}'/>"
    "<video><model type='none'/></video>"
)
_PATIENCE_S = 300.0
#: A booted guest has a hundred MiB to send.
_BANDWIDTH_MIB = 24
_TITLE = "<title>changed by its owner</title>"


@dataclass
class Call:
    """What one call of the module came to.

    Attributes:
        result: what it answered, None where it was killed.
        output: all that it printed.
        seconds: how long it took.
    """

    result: dict[str, Any] | None
    output: str
    seconds: float

    @property
    def said(self) -> str:
        """The sentence of a failure, '' where there was none."""
        return "" if self.result is None else str(self.result.get("msg", ""))

    @property
    def end(self) -> str:
        """How it ended, in one word."""
        if self.result is None:
            return "killed"
        if self.result.get("failed"):
            return "failed"
        return "changed" if self.result["changed"] else "nothing to do"


@dataclass
class Round:
    """One round.

    Attributes:
        act: what is killed, with + between, or what the owner does on the source.
        peer_to_peer: whether the daemons carry the migration out.
        share: when, as the share of a run's time; None for after_stop_s.
        after_stop_s: when, in seconds after the source has stopped the guest.
        away_s: how long a daemon stays away.
        calls: of the module, in order.
        violations: what was wrong.
        was_defined: whether the owner's change of its definition was taken.
    """

    act: str
    peer_to_peer: bool
    share: float = 0.0
    after_stop_s: float | None = None
    away_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    was_defined: bool = False

    @property
    def first(self) -> str:
        """How the call that was disturbed ended."""
        return self.calls[0].end if self.calls else "none"

    def __str__(self) -> str:
        """Return a line about it."""
        when = (
            f"at {self.share:.0%}"
            if self.after_stop_s is None
            else f"{self.after_stop_s * 1000:.0f} ms after the stop"
        )
        how = "p2p" if self.peer_to_peer else "direct"
        ends = ", ".join(f"{call.end} in {call.seconds:.1f} s" for call in self.calls)
        return f"{self.act} {when}, {how}: {ends}"


class Module:
    """vnuma_migrate as Ansible brings it to a host, which is called there without Ansible.

    Args:
        host: where it runs.
        path: the file.
    """

    def __init__(self, host: FakeHost, path: Path) -> None:
        self._host = host
        self._path = path

    def begin(self) -> subprocess.Popen[str]:
        """Begin a call."""
        return subprocess.Popen(
            self._host.exec_argv([SYSTEM_PYTHON, str(self._path)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill(self) -> None:
        """Kill the call that runs."""
        self._host.kill_now("-f", self._path.name)


def ended(process: subprocess.Popen[str], began: float) -> Call:
    """Wait for the end of a call and return what it came to."""
    try:
        output, _none = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return Call({"failed": True, "msg": "it never ended"}, "it never ended", _PATIENCE_S)
    result: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):
        result = json.loads(output[output.index("{") :])
    return Call(result, output, time.monotonic() - began)


class Bed(Highway):
    """Two hosts and a guest that migrates between them.

    Attributes:
        modules: vnuma_migrate on each host, for each way of carrying a migration out.
        samples: how often the watcher has looked.
    """

    def __init__(
        self, name: str, network: str, folder: Path, bandwidth_mib: int = _BANDWIDTH_MIB
    ) -> None:
        super().__init__(name, network)
        self._bandwidth_mib = bandwidth_mib
        self._adhoc = Adhoc(folder)
        self._console = folder / "console.log"
        self.modules: dict[tuple[str, bool], Module] = {}
        self._definition, self._rest = "", b""
        self._run_s = 8.0
        self.samples = 0

    def open(self) -> None:
        """Start the hosts and the guest."""
        self.build(HOSTS)
        for on, to in (HOSTS, HOSTS[::-1]):
            for peer_to_peer in (True, False):
                self.modules[on, peer_to_peer] = self._module(on, to, peer_to_peer)
        xml = guestboot.domain_xml(GUEST, 2, 224, self._console, cmdline="vnuma.watch")
        xml = with_monitor(xml.replace("<memballoon", f"{_VNC}<memballoon"), GUEST)
        self._define("east", xml)
        facts = {name: self._facts(name) for name in HOSTS}
        done = self._adhoc.call(
            "vnuma_partition",
            {"guests": [{"name": GUEST}], "migration_group": list(facts), "topologies": facts},
            variables=self.variables("east"),
        )
        if done.failed:
            raise LabError(done.msg)
        self._start("east")
        self._definition = self._dump("east")
        self._rest = _rest(self._definition)

    def _start(self, name: str) -> None:
        boots = guestboot.boots(self._console)
        self.virsh(name, "start", GUEST)
        guestboot.wait_for_boots(self._console, boots + 1)

    def _facts(self, name: str) -> Any:
        arguments = {"uri": "qemu:///system"}
        run = self._adhoc.call("vnuma_facts", arguments, variables=self.variables(name))
        return run.result["ansible_facts"]["vnuma_host"]

    def _module(self, on: str, to: str, peer_to_peer: bool) -> Module:
        """Have Ansible bring the module to a host, before there is a guest to migrate."""
        arguments = {
            "guests": [GUEST],
            "targets": [self.target(to)],
            "trust_uris": True,
            "options": {
                "peer_to_peer": peer_to_peer,
                "bandwidth": f"{self._bandwidth_mib} MiB",
            },
            "daemon_timeout": 30,
        }
        folder = self._adhoc.folder / f"{on}-{peer_to_peer}"
        folder.mkdir()
        reached = {**self.variables(on), "ansible_remote_tmp": str(folder)}
        self._adhoc.call("vnuma_migrate", arguments, variables=reached)
        (path,) = folder.rglob("AnsiballZ_vnuma_migrate.py")
        return Module(self.host(on), path)

    def virsh(self, name: str, *words: str, check: bool = True) -> str:
        """Run virsh against the daemon of a host."""
        done = subprocess.run(
            ["virsh", "--quiet", "--connect", self.host(name).uri, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
        )
        if check and done.returncode:
            raise LabError(f"virsh {' '.join(words)} on {name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _dump(self, name: str) -> str:
        return self.virsh(name, "dumpxml", "--security-info", "--inactive", GUEST)

    def _has(self, name: str) -> bool:
        return GUEST in self.virsh(name, "list", "--all", "--name").split()

    def _state(self, name: str) -> str:
        """Return ``running`` and the like with the reason, '' where it is not there."""
        return self.virsh(name, "domstate", GUEST, "--reason") if self._has(name) else ""

    def play(self, this: Round) -> None:
        """Play a round from where the guest is, and put it in order again where that was wrong."""
        source = next(name for name in HOSTS if self._state(name).startswith("running"))
        target = next(name for name in HOSTS if name != source)
        module = self.modules[source, this.peer_to_peer]
        boots, before = guestboot.boots(self._console), self._dump(source)
        roots = {name: self.host(name).root for name in HOSTS}
        with Watcher(monitors(roots, GUEST)) as watcher:
            began = time.monotonic()
            process = module.begin()
            disturber = threading.Thread(
                target=self._disturb, args=(this, source, target, module, process, began)
            )
            disturber.start()
            this.calls.append(ended(process, began))
            disturber.join()
            for name in HOSTS:
                self.host(name).release_daemon()
            for _again in range(2):
                began = time.monotonic()
                this.calls.append(ended(module.begin(), began))
            self._act_for_owner(this, source, target, module, before)
            time.sleep(1.2)
        self.samples += watcher.samples
        if watcher.twice:
            this.violations.append(f"two copies ran at {len(watcher.twice)} looks")
        whole = [call.seconds for call in this.calls[1:3] if call.end == "changed"]
        self._run_s = max([self._run_s * 0.8, *whole])
        self._judge(this, boots)
        self._put_in_order()

    def _disturb(
        self,
        this: Round,
        source: str,
        target: str,
        module: Module,
        process: subprocess.Popen[str],
        began: float,
    ) -> None:
        """Do what the round is about, when its time has come."""
        if this.after_stop_s is None:
            time.sleep(max(0.0, this.share * self._run_s - (time.monotonic() - began)))
        else:
            if wait_for_handover(self.host(source).root, GUEST, lambda: process.poll() is not None):
                time.sleep(this.after_stop_s)
        ends = {"source": source, "target": target}
        parts = this.act.split("+")
        daemons = [ends[one] for one in parts if one in ends]
        for name in daemons:
            self.host(name).kill_daemon_now()
        if "module" in parts:
            module.kill()
        if not daemons and "module" not in parts:
            self._owner(this, source)
        time.sleep(this.away_s if daemons else 0)
        for name in daemons:
            self.host(name).release_daemon()

    def _owner(self, this: Round, name: str) -> None:
        """Do what the owner does on the source, if it still has the guest."""
        if this.act == "define":
            this.was_defined = self._has(name) and self._retitle(name)
            return
        command = {"abort": "domjobabort"}.get(this.act, this.act)
        self.virsh(name, command, GUEST, check=False)

    def _retitle(self, name: str) -> bool:
        with contextlib.suppress(LabError):
            self._define(name, self._dump(name).replace("</name>", f"</name>{_TITLE}", 1))
            return True
        return False

    def _define(self, name: str, text: str) -> None:
        path = self.host(name).root / "guest.xml"
        path.write_text(text)
        self.virsh(name, "define", str(path))

    def _act_for_owner(
        self, this: Round, source: str, target: str, module: Module, before: str
    ) -> None:
        """Do what the sentences of the last call ask of the owner, and call once more."""
        said = this.calls[-1].said
        if f"remove {GUEST}.xml" in said:
            self._clear_away(target)
            this.calls.append(ended(module.begin(), time.monotonic()))
            this.calls.append(ended(module.begin(), time.monotonic()))
        if this.act == "define" and "someone else changed its definition" in said:
            if not self._has(source) or not self._state(target).startswith("running"):
                this.violations.append(f"a change of its definition is nowhere: {said}")
                return
            self._retitle(target)
            self.virsh(source, "undefine", GUEST)
            this.calls.append(ended(module.begin(), time.monotonic()))
            this.calls.append(ended(module.begin(), time.monotonic()))
        if this.act == "undefine" and "it is transient" in said:
            self._define(source, before)
            this.calls.append(ended(module.begin(), time.monotonic()))
            this.calls.append(ended(module.begin(), time.monotonic()))

    def _clear_away(self, name: str) -> None:
        """Do what is to be done where libvirt holds on to a guest without a process."""
        host = self.host(name)
        host.kill_daemon_now()
        (host.root / f"run/libvirt/qemu/{GUEST}.xml").unlink()
        host.release_daemon()

    def _judge(self, this: Round, boots: int) -> None:
        """Say what is not as it has to be."""
        states = {name: self._state(name) for name in HOSTS}
        alive = [name for name, state in states.items() if state and "shut off" not in state]
        off = this.act == "destroy" and not alive
        wrong = this.violations
        if len(alive) != 1 - off or sum(map(bool, states.values())) != 1:
            wrong.append(f"not on one host alone: {states}")
        for name in (name for name, state in states.items() if state):
            if not off and not states[name].startswith("running") and this.act != "suspend":
                wrong.append(f"it does not run: {states}")
            wrong += self._wrong_definition(this, name)
        if guestboot.boots(self._console) != boots:
            wrong.append("it was booted again")
        wrong += [f"its time went back from {a} to {b}" for a, b in went_back(self._console)]
        wrong += [f"left in the state folder: {one}" for one in self._kept()]
        last = this.calls[-1]
        if not off and last.end != "nothing to do":
            wrong.append(f"the last call {last.end}: {last.said}")
        for call in this.calls:
            killed = call is this.calls[0] and "module" in this.act
            if "Traceback" in call.output or (call.result is None and not killed):
                wrong.append(f"no result: {call.output[-600:]}")
            if PASSWORD in call.output:
                wrong.append("the password is in an output")

    def _wrong_definition(self, this: Round, name: str) -> list[str]:
        persistent = self.virsh(name, "list", "--all", "--persistent", "--name").split()
        if GUEST not in persistent:
            return [f"it is not defined on {name}"]
        text = self._dump(name)
        found = []
        if _rest(text) != self._rest:
            found.append(f"its definition on {name} is another one")
        if this.was_defined and _TITLE not in text:
            found.append(f"its definition on {name} lacks what its owner changed")
        return found

    def _kept(self) -> list[str]:
        return [
            f"{name}: {path.name}"
            for name in HOSTS
            for path in (self.host(name).root / "state").rglob("*")
            if path.is_file() and path.name != "lock"
        ]

    def passwords_kept(self) -> list[str]:
        """Return files of the state folders in which the guest's password is."""
        return [
            str(path)
            for name in HOSTS
            for path in (self.host(name).root / "state").rglob("*")
            if path.is_file() and PASSWORD.encode() in path.read_bytes()
        ]

    def _put_in_order(self) -> None:
        """Have one copy that runs, and nothing of what was wrong."""
        states = {name: self._state(name) for name in HOSTS}
        running = [name for name, state in states.items() if state.startswith("running")]
        home = (running or [name for name, state in states.items() if state] or ["east"])[0]
        for name in HOSTS:
            # Not the folder itself, which is mounted in the host.
            for path in (self.host(name).root / "state").iterdir():
                shutil.rmtree(path)
            if name != home and states[name]:
                self.virsh(name, "destroy", GUEST, check=False)
                self.virsh(name, "undefine", GUEST, check=False)
        text = self._dump(home) if states[home] else self._definition
        self._define(home, text.replace(_TITLE, ""))
        if self._state(home).startswith("paused"):
            self.virsh(home, "resume", GUEST)
        elif not self._state(home).startswith("running"):
            self._start(home)


def longest(rounds: Sequence[Round]) -> str:
    """Return how long the slowest call took."""
    return f"{max((call.seconds for one in rounds for call in one.calls), default=0):.0f} s"


def _rest(xml: str) -> bytes:
    """Return all of a definition that does not depend on its host, nor on the owner's change."""
    root = etree.fromstring(xml, etree.XMLParser(remove_blank_text=True))
    for path in ("cputune", "numatune", "title"):
        for element in root.findall(path):
            root.remove(element)
    return bytes(etree.tostring(root, method="c14n"))
