# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill runs of the role at random, while owners do what they like, and see what is left of it.

    python tests/lab/faults.py [ROUNDS] [--seed SEED] [--result FILE]

Without a seed, FAULTS_SEED is taken, or one is drawn; it is printed. In each round six guests, of
which four run, are to have another layout. Something is killed at a random moment of the run, and
owners act at others. It is judged then, after the next run, and after a third, which has nothing
left to do. The exit code is 1 where anything is not as it has to be.

libvirt 9.0 whose daemon is killed in the moment in which it starts a guest has that guest as
"paused (starting up)" for good, without a process, and ends it for nobody. A run that fails and
says so is taken at its word: what its sentence names is done, is counted in the table, and has to
help.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import commands
from adhoc import SYSTEM_PYTHON
from errors import LabError
from faultacts import act, put_in_order
from faultguests import SLOWEST_S, World
from faultverdict import after_kill, after_run, has_standing, passwords_kept

KILLS = ("tree", "group", "module", "daemon", "daemon+module", "daemon+tree")
#: After so many rounds, how long a run takes is measured again: other work on the machine counts.
_MEASURED_EVERY = 5
_INSTALLED = Path(__file__).resolve().parents[2] / "build/installed"
#: The guest of whom a run says that libvirt holds it half started, and what is to be removed.
_HELD = re.compile(
    r"it is paused \(starting up\): libvirt at \S+ ended while it started it, and cannot force it "
    r"off now .*? stop the libvirt daemon, remove /run/libvirt/qemu/(\w+)\.xml, start the daemon"
)
_LAYOUTS: tuple[dict[str, Any], ...] = (
    {"vnuma_nodes": "all"},
    {"vnuma_nodes": "0-1", "vnuma_iothread_pinning": "nodes"},
    {"vnuma_nodes": "2-3", "vnuma_distribution": "interleave"},
    {"vnuma_nodes": "all", "vnuma_pinning": "none", "vnuma_emulator_pinning": "nodes"},
    {"vnuma_nodes": "auto", "vnuma_cells": 2, "vnuma_cpu_overcommit": 4.0},
    {"vnuma_state": "absent"},
)
_BARE_LAYOUTS: tuple[dict[str, Any], ...] = (
    {"vnuma_nodes": "all", "vnuma_pinning": "none"},
    {"vnuma_nodes": "1-2", "vnuma_pinning": "none"},
)


@dataclass
class Tally:
    """What came of the rounds so far.

    Attributes:
        kills: by kind, those that hit a run.
        late: by kind, those that came when it had ended.
        acts: by kind, those that libvirt did not refuse.
        violations: by kind of kill, rounds with any.
        ways_out: by kind of kill, guests that libvirt ended for nobody, and a sentence helped.
        said: a sentence for each violation.
    """

    kills: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    ways_out: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return the figures as a table."""
        lines = [
            "| kill | hit a run | after its end | held by libvirt | rounds with violations |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {kind} | {self.kills[kind]} | {self.late[kind]} | {self.ways_out[kind]} "
            f"| {self.violations[kind]} |"
            for kind in KILLS
        ]
        acts = ", ".join(f"{name} {count}" for name, count in sorted(self.acts.items()))
        return "\n".join([*lines, f"{self.acts.total()} acts of owners: {acts}"])


@dataclass(frozen=True)
class Plan:
    """What a round is to be.

    Attributes:
        kill: one of KILLS.
        at: when, as a share of what a run takes.
        away_s: how long the daemon is down.
        acts: when owners act, likewise as shares; from 1 on before the next run.
        variables: of the role.
        next_at_once: whether the next run begins before guests that were asked go down.
    """

    kill: str
    at: float
    away_s: float
    acts: tuple[float, ...]
    variables: dict[str, Any]
    next_at_once: bool


def plan(choice: random.Random, number: int, bare: bool) -> Plan:
    """Return what a round is to be."""
    force = choice.random() < 0.4
    # Another one than the round before has left, so that there is something to do.
    layouts = _BARE_LAYOUTS if bare else _LAYOUTS
    layout = layouts[(number * 5 + choice.choice((0, 1, 1))) % len(layouts)]
    return Plan(
        kill=KILLS[number % len(KILLS)],
        at=choice.random(),
        away_s=1 + 2 * choice.random(),
        acts=tuple(
            sorted(choice.uniform(0.2, 1.2) for _act in range(choice.choice((0, 1, 1, 2, 2))))
        ),
        variables={
            **layout,
            "vnuma_restart_mode": "force" if force else "graceful",
            # So that the slow ones are forced off.
            "vnuma_restart_timeout": 30 if not force else max(1, SLOWEST_S - 1) + 4,
            "vnuma_restart_at_once": choice.randint(1, 4),
        },
        next_at_once=choice.random() < 0.5,
    )


class Campaign:
    """Rounds on one world.

    Args:
        world: the hosts and the guests.
        seed: of all that is random.
        tally: what came of the rounds.
    """

    def __init__(self, world: World, seed: int, tally: Tally) -> None:
        self._world = world
        self._random = random.Random(seed)  # noqa: S311 - moments and acts, and no secrets
        self._tally = tally
        self._took_s = 0.0

    def rounds(self, count: int) -> None:
        """Do so many."""
        self._world.start()
        for number in range(count):
            if number % _MEASURED_EVERY == 0:
                self._measure(number)
            one = plan(self._random, number, self._world.bare)
            try:
                found = self._round(number, one)
            except LabError as error:
                found = [f"the laboratory: {error}"]
            if found:
                self._tally.violations[one.kill] += 1
                for sentence in found:
                    self._say(f"round {number}, {one}: {sentence}")
                # What one round has left must not be found by the next.
                self._keep(number)
                self._world.stop()
                shutil.rmtree(self._world.state_dir, ignore_errors=True)
                self._world.start()
            if number % 10 == 9:
                print(f"{number + 1} rounds: {self._tally.table()}", flush=True)
        self._world.stop()

    def _measure(self, number: int) -> None:
        """Do a run that restarts every guest that runs, as a program, and see how long it takes."""
        cells = 1 + number // _MEASURED_EVERY % 2
        variables = {"vnuma_nodes": "3", "vnuma_cells": cells, "vnuma_pinning": "none"}
        words = self._command({**variables, "vnuma_restart_at_once": 2})
        began = time.monotonic()
        with commands.begin(words, self._world.folder, self._world.folder / "measured"):
            pass
        self._took_s = time.monotonic() - began

    def _say(self, sentence: str) -> None:
        self._tally.said.append(sentence)
        print(sentence, flush=True)

    def _keep(self, number: int) -> None:
        kept = Path(tempfile.gettempdir()) / f"faults-{os.getpid()}-{number}"
        shutil.copytree(self._world.folder, kept, ignore=shutil.ignore_patterns("*.raw", "*.nbd"))
        for name in ("log", "lib/qemu"):
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(self._world.host.root / name, kept / "host" / name)
        print(f"what was left is in {kept}", flush=True)

    def _round(self, number: int, one: Plan) -> list[str]:
        world = self._world
        boots = {owned.uuid: owned.guest.boots() for owned in world.owned}
        hit, done = self._killed_run(one)
        (self._tally.kills if hit else self._tally.late)[one.kill] += 1
        found = after_kill(world)
        for at in one.acts:
            if at >= 1:
                done.append(self._act())
        if not one.next_at_once:
            time.sleep(SLOWEST_S + 1)
        print(
            f"{number}: {one.kill} at {one.at:.2f}{'' if hit else ' (late)'}; "
            f"{', '.join(filter(None, done)) or '-'}; {one.variables}",
            flush=True,
        )
        # A host on which nothing starts goes back to what it had.
        variables = {**one.variables, **({"vnuma_state": "absent"} if world.bare else {})}
        code, said = self._play(variables)
        if code and self._takes_way_out(one, said):
            code, said = self._play(variables)
        if code:
            found.append(f"the next run failed: {_errors(said)}")
        found += after_run(world)
        third, said = self._play(variables)
        if third:
            found.append(f"the third run failed: {_errors(said)}")
        # A restart that waits for an owner is planned on every run, and made on none.
        elif _changed(said) > has_standing(world):
            found.append(f"the third run changed something: {said[-3000:]}")
        found += after_run(world)
        if found:
            found.append(f"boots before: {boots}; acts: {done}")
            return found
        put_in_order(world)
        return []

    def _takes_way_out(self, one: Plan, said: str) -> bool:
        """Do what a run says of guests that libvirt ends for nobody; tell whether it says so."""
        held = {name for sentence in _sentences(said) for name in _HELD.findall(sentence)}
        if not held:
            return False
        print(f"   held by libvirt: {', '.join(sorted(held))}", flush=True)
        self._tally.ways_out[one.kill] += len(held)
        self._world.end_held(held)
        return True

    def _killed_run(self, one: Plan) -> tuple[bool, list[str]]:
        """Begin a run, kill at its moment, let owners act at theirs; return whether it was hit."""
        world, done = self._world, []
        begun = commands.begin(self._command(one.variables), world.folder, world.folder / "first")
        began = time.monotonic()
        events = sorted([(one.at, "kill"), *((at, "act") for at in one.acts if at < 1)])
        hit = False
        daemon: threading.Thread | None = None
        for at, what in events:
            time.sleep(max(0.0, began + at * self._took_s - time.monotonic()))
            if what == "act":
                done.append(self._act())
            else:
                hit = bool(commands.processes_of(begun))
                daemon = self._kill(one, begun)
        begun.wait()
        while commands.processes_of(begun):
            time.sleep(0.05)
        if daemon is not None:
            daemon.join()
        return hit, done

    def _kill(self, one: Plan, begun: commands.Begun) -> threading.Thread | None:
        world, kinds = self._world, one.kill.split("+")
        daemon: threading.Thread | None = None
        if "daemon" in kinds:
            world.host.kill_daemon(hold=True)

            def back() -> None:
                time.sleep(one.away_s)
                world.host.release_daemon()

            daemon = threading.Thread(target=back)
            daemon.start()
        if "tree" in kinds:
            commands.kill_tree(begun)
        elif "group" in kinds:
            commands.kill_group(begun)
        elif "module" in kinds:
            # Where none runs just now, the next one is meant.
            deadline = time.monotonic() + 2
            while not commands.kill_module(begun) and begun.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
        return daemon

    def _act(self) -> str:
        done = act(self._world, self._random)
        if done:
            self._tally.acts[done.split()[0]] += 1
        return done

    def _command(self, variables: dict[str, Any]) -> list[str]:
        world = self._world
        states = world.states()
        # As an operator does who was told that one of them cannot be had.
        names = [
            one.name
            for one in world.owned
            if one.name in world.persistent() and one.wants not in ("saved", "transient", "gone")
        ]
        assert states
        host = {
            "vnuma_uri": world.host.uri,
            "vnuma_state_dir": str(world.state_dir),
            "vnuma_guests": [{"name": name} for name in names],
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": SYSTEM_PYTHON,
            **variables,
        }
        inventory = world.folder / "inventory.json"
        inventory.write_text(json.dumps({"all": {"hosts": {"kvm": host}}}))
        book = world.folder / "play.json"
        roles = [{"role": "kvm.vnuma.vnuma"}]
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": roles}]))
        return ["ansible-playbook", "--inventory", str(inventory), str(book)]

    def _play(self, variables: dict[str, Any]) -> tuple[int, str]:
        done = commands.run(self._command(variables), self._world.folder)
        said = done.stdout + done.stderr
        return done.returncode or ("Traceback" in said), said


def _changed(said: str) -> int:
    found = re.search(r"^kvm .* changed=(\d+) ", said, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _sentences(said: str) -> list[str]:
    found = re.findall(r'"msg": "(.*?)"[,\n}]|\[ERROR\]: (.*)', said)
    return ["".join(one) for one in found]


def _errors(said: str) -> str:
    return "; ".join(_sentences(said)) or said[-2000:]


def _rounds(folder: Path, seed: int, rounds: int, tally: Tally) -> None:
    """Do the rounds; on one host in five, no guest starts that has its new layout."""
    bare = rounds // 5
    for kind, count in (("shim", rounds - bare), ("bare", bare)):
        (folder / kind).mkdir()
        world = World(folder / kind, f"faults-{kind}-{os.getpid()}", bare=kind == "bare")
        try:
            Campaign(world, seed, tally).rounds(count)
            tally.said += passwords_kept(world)
        finally:
            world.stop()
            for host in (world.host, world.other):
                shutil.rmtree(host.root, ignore_errors=True)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Random kills of runs, and owners that act.")
    rounds = int(os.environ.get("FAULTS_ROUNDS", "200"))
    parser.add_argument("rounds", nargs="?", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=os.environ.get("FAULTS_SEED"))
    parser.add_argument("--result", type=Path, help="a file for the table and the verdict")
    parser.add_argument("--collections", type=Path, default=_INSTALLED)
    options = parser.parse_args()
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().randrange(10**6)
    tally = Tally()
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        commands.configure(options.collections, Path(folder) / "ansible")
        _rounds(Path(folder), seed, options.rounds, tally)
    verdict = f"{options.rounds} rounds, {len(tally.said)} violations (seed {seed})"
    text = "\n".join([tally.table(), *tally.said, verdict]) + "\n"
    print(text)
    if options.result is not None:
        options.result.write_text(text)
    return 1 if tally.said else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, subprocess.CalledProcessError) as error:
        print(f"faults: {error}", file=sys.stderr)
        sys.exit(3)
