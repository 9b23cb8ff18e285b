# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the tests of managed hosts on other Debian releases, and write down what came of it.

    python3 tests/tools/platforms.py [NAME...]

Each is a root (tests/lab/root.py) with the libvirt, QEMU and Python of the managed host; the
controller is this machine, and reaches it by ssh. What each printed is in build/platforms. A run of
all of them writes tests/platforms.json, and its table into docs/platforms.md.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import run
import trees
from lxml import etree
from venvs import PROJECT, ToolError

sys.path.insert(0, str(PROJECT / "tests/lab"))
from errors import LabError
from root import PLATFORMS, Platform, Versions

LOGS = trees.BUILD / "platforms"
RECORD = PROJECT / "tests/platforms.json"
PAGE = PROJECT / "docs/platforms.md"
#: Between these, the page has what the last run of all of them wrote.
BEGIN, END = "<!-- platforms: begin -->\n", "<!-- platforms: end -->\n"
TESTS = (
    *("facts_and_filter", "partition", "restart", "info", "hosts", "rules"),
    *("usual_uri", "dies", "caches", "machine_types"),
)


@dataclass(frozen=True)
class Row:
    """What came of one platform.

    Attributes:
        name: of the platform.
        daemon: its libvirt daemon.
        libvirt: version, as the others.
        passed: how many tests passed.
        failed: how many failed, or broke off.
        not_run: how many tests, and rules in tests/integration/rules.py, were not run, by reason.
    """

    name: str
    daemon: str
    libvirt: str
    qemu: str
    python: str
    passed: int
    failed: int
    not_run: dict[str, int] = field(default_factory=dict)


def run_platform(platform: Platform) -> Row | None:
    """Run the tests on one platform, and return what came of them; None where they did not run."""
    try:
        platform.make()
        return _run(platform)
    except LabError as error:
        print(f"{platform.name}: {error}", flush=True)
        return None


def _run(platform: Platform) -> Row:
    results = LOGS / f"{platform.name}.xml"
    results.unlink(missing_ok=True)
    started = time.monotonic()
    with (LOGS / f"{platform.name}.log").open("w") as log:
        done = subprocess.run(
            [
                *(
                    str(run.ansible() / "bin/python"),
                    "-m",
                    "pytest",
                    "-v",
                    "-p",
                    "no:cacheprovider",
                ),
                *(f"--junitxml={results}", f"--basetemp=/tmp/vnuma-{platform.name}"),
                *(f"tests/integration/test_{name}.py" for name in TESTS),
            ],
            check=False,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=PROJECT,
            env={**os.environ, "NO_COLOR": "1", "VNUMA_PLATFORM": platform.name},
        )
    # Tests ran to their end, whether they passed or not (pytest, ExitCode).
    if done.returncode not in (0, 1):
        raise LabError(f"pytest ended with {done.returncode} on {platform.name}, see {log.name}.")
    row = read_results(platform.name, platform.daemon, platform.versions, results.read_bytes())
    print(
        f"{platform.name}: {row.passed} passed, {row.failed} failed, "
        f"{sum(row.not_run.values())} not run in {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return row


def read_results(name: str, daemon: str, versions: Versions, report: bytes) -> Row:
    """Return what pytest's report in the form of JUnit says of a platform."""
    passed = failed = 0
    not_run: Counter[str] = Counter()
    for case in etree.fromstring(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skipped is not None:
            not_run[skipped.get("message", "")] += 1
        else:
            passed += 1
        for one in case.iter("property"):
            if one.get("name") == "not run":
                not_run[one.get("value", "")] += 1
    reasons = dict(sorted(not_run.items()))
    return Row(name, daemon, **asdict(versions), passed=passed, failed=failed, not_run=reasons)


def table(record: dict[str, Any]) -> str:
    """Return what the page shows of a run."""
    lines = [
        f"By `make test-platforms` on {record['date']}, each host reached over ssh:",
        "",
        "| managed host | libvirt | QEMU | Python | passed | failed | not run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["platforms"]:
        daemon = "" if row["daemon"] == "libvirtd" else f", `{row['daemon']}`"
        reasons = "; ".join(f"{count}: {why}" for why, count in row["not_run"].items())
        lines.append(
            f"| Debian {row['name'].partition('-')[0]}{daemon} | {row['libvirt']} | {row['qemu']} "
            f"| {row['python']} | {row['passed']} | {row['failed']} | {reasons or '0'} |"
        )
    return "\n".join(lines) + "\n"


def with_table(page: str, record: dict[str, Any]) -> str:
    """Return the page with the table of a run in its place."""
    before, _begin, rest = page.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}{table(record)}{END}{after}"


def main(names: list[str]) -> int:
    """Run platforms by name, all of them by default, and print the table."""
    unknown = [name for name in names if name not in PLATFORMS]
    if unknown:
        print(f"platforms: there is {', '.join(PLATFORMS)}, and no {', '.join(unknown)}.")
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    try:
        trees.install(run.ansible() / "bin/ansible-galaxy")
        with ThreadPoolExecutor(max_workers=2) as pool:
            chosen = [PLATFORMS[name] for name in names or PLATFORMS]
            answers = list(pool.map(run_platform, chosen))
    except ToolError as error:
        print(f"platforms: {error}")
        return 1
    rows = [row for row in answers if row is not None]
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    record = {"date": today, "platforms": [asdict(row) for row in rows]}
    if names or None in answers:
        place = LOGS / "platforms.json"
    else:
        place = RECORD
        PAGE.write_text(with_table(PAGE.read_text(), record))
    place.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{table(record)}\nwritten to {place.relative_to(PROJECT)}")
    return 1 if None in answers or any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
