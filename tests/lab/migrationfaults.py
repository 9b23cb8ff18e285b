# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill what migrates a guest, at every moment, and see that it is never there twice, nor lost.

    "$(/usr/bin/python3 tests/tools/run.py --install)/bin/python" tests/lab/migrationfaults.py \
        [--rounds N] [--seed N] [--only WORD]

A guest goes to and fro between two hosts. In each round the module, a daemon, both, or one of them
and the module are killed while it does, or the guest's owner does something; the same call is made
again, and then a third time. Says what came of each round; ends with 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / "tools"), str(_TESTS / "integration")]

import commands
import faultbed
import trees
from errors import LabError
from faultbed import Bed, Round

#: What is killed, and how often it is drawn.
KILLS = {
    "module": 3,
    "source": 3,
    "target": 3,
    "source+target": 2,
    "module+source": 2,
    "module+target": 2,
}
#: What the guest's owner does on the source.
OWNERS = ("destroy", "suspend", "abort", "define", "undefine")
_OWNERS_SHARE = 0.2
_AIMED_SHARE = 0.6
#: Longest time after the source has stopped the guest, in seconds.
_AFTER_STOP_S = 0.1


def drawn(choose: random.Random) -> Round:
    """Return a round at random."""
    peer_to_peer = choose.random() < 0.6
    if choose.random() < _OWNERS_SHARE:
        return Round(choose.choice(OWNERS), peer_to_peer, share=choose.random())
    act = choose.choices(list(KILLS), list(KILLS.values()))[0]
    away_s = choose.uniform(0.3, 3.0)
    if choose.random() < _AIMED_SHARE:
        after_s = choose.uniform(0, _AFTER_STOP_S)
        return Round(act, peer_to_peer, after_stop_s=after_s, away_s=away_s)
    return Round(act, peer_to_peer, share=choose.random(), away_s=away_s)


def table(rounds: list[Round]) -> str:
    """Return how the rounds ended, by what was done when."""
    lines = [f"{'what was done':<16} {'when':<12} {'how':<7} {'rounds':>6} {'wrong':>6}  ended"]
    groups: dict[tuple[str, str, str], list[Round]] = {}
    for one in rounds:
        when = "in its run" if one.after_stop_s is None else "handover"
        how = "p2p" if one.peer_to_peer else "direct"
        groups.setdefault((one.act, when, how), []).append(one)
    for (act, when, how), some in sorted(groups.items()):
        ends = Counter(one.first for one in some)
        said = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        wrong = sum(bool(one.violations) for one in some)
        lines.append(f"{act:<16} {when:<12} {how:<7} {len(some):>6} {wrong:>6}  {said}")
    return "\n".join(lines)


def run(bed: Bed, options: argparse.Namespace) -> list[Round]:
    """Run the rounds and print each."""
    choose = random.Random(options.seed)  # noqa: S311 - faults, not secrets
    rounds: list[Round] = []
    while len(rounds) < options.rounds:
        one = drawn(choose)
        if options.only and options.only != one.act:
            continue
        bed.play(one)
        rounds.append(one)
        print(f"{len(rounds):>3} {one}", flush=True)
        for number, call in enumerate(one.calls, 1):
            if call.said:
                print(f"      call {number}: {call.said}", flush=True)
        for violation in one.violations:
            print(f"      VIOLATION: {violation}", flush=True)
    return rounds


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Faults in migrations, at every moment.")
    given = os.environ
    parser.add_argument("--rounds", type=int, default=int(given.get("FAULTS_ROUNDS", "80")))
    seed = int(given.get("FAULTS_SEED", "0")) or time.time_ns() % 10**6
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--only", choices=[*KILLS, *OWNERS], help="one kind of fault")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="vnuma-faults-"))
    commands.configure(trees.INSTALLED, folder / "ansible", ANSIBLE_KEEP_REMOTE_FILES="1")
    bed = Bed(f"mf{os.getpid() % 100000}", f"10.81.{os.getpid() % 250}", folder)
    try:
        bed.open()
        rounds = run(bed, options)
        kept = bed.passwords_kept()
    except LabError as error:
        print(f"migrationfaults: {error}", file=sys.stderr)
        return 3
    finally:
        bed.close()
        shutil.rmtree(folder, ignore_errors=True)
    wrong = sum(len(one.violations) for one in rounds) + len(kept)
    print(table(rounds))
    print(f"the password of the guest is in {', '.join(kept) if kept else 'no state folder'}")
    print(f"looked {bed.samples} times; the slowest call took {faultbed.longest(rounds)}")
    print(f"{len(rounds)} rounds, {wrong} violations")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
