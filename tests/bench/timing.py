# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measuring contestants side by side, so that what else the machine does falls on all of them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


class BenchError(Exception):
    """Something that is to be measured did not do its job; the message says what."""


@dataclass(frozen=True)
class Run:
    """One run of a contestant.

    Attributes:
        wall_s: seconds from start to end.
        cpu_s: seconds of processor time of the process and of those it waited for; what a daemon
            does for it is not in there.
        output: what it printed.
    """

    wall_s: float
    cpu_s: float
    output: str = ""


@dataclass(frozen=True)
class Contestant:
    """What is measured, and what has to be done before and after it, off the clock.

    Attributes:
        act: does it, and returns what it took.
        prepare: brings the machine into the state that it starts from.
        verify: raises where it has not done its job.
    """

    act: Callable[[], Run]
    prepare: Callable[[], None] = lambda: None
    verify: Callable[[Run], None] = lambda _run: None


def command(
    argv: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Run:
    """Run a command and return what it took.

    Raises:
        BenchError: when it fails, with the end of what it printed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
        )
        _pid, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        output = out.read()
    if process.returncode:
        raise BenchError(f"{argv[0]} ended with {process.returncode}: {output[-2000:]}")
    return Run(wall_s, usage.ru_utime + usage.ru_stime, output)


def alternate(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[Run]]:
    """Let the contestants take turns, A B C A B C, and return the runs of each."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, contestant in contestants.items():
            contestant.prepare()
            run = contestant.act()
            contestant.verify(run)
            runs[name].append(run)
        seen = ", ".join(f"{name} {ran[-1].wall_s:.2f} s" for name, ran in runs.items())
        print(f"bench:   turn {turn + 1} of {rounds}: {seen}", flush=True)
    return runs


def wall(runs: Sequence[Run]) -> float:
    """Return the median of the seconds that runs took."""
    return median(run.wall_s for run in runs)


def cpu(runs: Sequence[Run]) -> float:
    """Return the median of the processor seconds that runs took."""
    return median(run.cpu_s for run in runs)


def together(*runs: Sequence[Run]) -> list[Run]:
    """Return runs of several contestants added up, turn by turn."""
    return [
        Run(sum(run.wall_s for run in turn), sum(run.cpu_s for run in turn)) for turn in zip(*runs)
    ]


def ratio(runs: Sequence[Run], against: Sequence[Run]) -> float:
    """Return how many times as long as another's runs took: the median of the turns' ratios."""
    return median(one.wall_s / other.wall_s for one, other in zip(runs, against))


def cpu_ratio(runs: Sequence[Run], against: Sequence[Run]) -> float:
    """Return the same of processor seconds."""
    return median(one.cpu_s / other.cpu_s for one, other in zip(runs, against))


def spread(runs: Sequence[Run], against: Sequence[Run]) -> tuple[float, float]:
    """Return the lowest and the highest of the turns' ratios."""
    ratios = [one.wall_s / other.wall_s for one, other in zip(runs, against)]
    return min(ratios), max(ratios)
