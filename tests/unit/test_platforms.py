# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What make test-platforms counts, and what it shows of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import platforms
from root import PLATFORMS, Versions

_REPORT = b"""\
<testsuites><testsuite>
<testcase name="a"/>
<testcase name="b"><properties><property name="not run" value="rule 'x' needs libvirt 9.9.0"/>
</properties></testcase>
<testcase name="c"><failure message="assert">...</failure></testcase>
<testcase name="d"><error message="fixture">...</error></testcase>
<testcase name="e"><skipped message="y needs libvirt 8.0.0"/></testcase>
<testcase name="f"><skipped message="y needs libvirt 8.0.0"/></testcase>
</testsuite></testsuites>
"""


def _row() -> platforms.Row:
    return platforms.read_results(
        "sid", "virtqemud", Versions(libvirt="7.0.0", qemu="5.2.0", python="3.9.2"), _REPORT
    )


def test_what_did_not_run_or_pass_is_not_counted_as_passed() -> None:
    """Failures and broken fixtures fail; what is left out has its reason."""
    row = _row()
    assert (row.passed, row.failed) == (2, 2)
    assert row.not_run == {"rule 'x' needs libvirt 9.9.0": 1, "y needs libvirt 8.0.0": 2}


def test_the_table_shows_every_figure() -> None:
    """Versions, counts, and each reason with how often."""
    table = platforms.table({"date": "2026-01-02", "platforms": [asdict(_row())]})
    assert "2026-01-02" in table
    assert table.splitlines()[-1] == (
        "| Debian sid, `virtqemud` | 7.0.0 | 5.2.0 | 3.9.2 | 2 | 2 "
        "| 1: rule 'x' needs libvirt 9.9.0; 2: y needs libvirt 8.0.0 |"
    )


def test_the_page_changes_between_the_marks_alone() -> None:
    """Run again, the new table takes the place of the old one."""
    page = f"before\n{platforms.BEGIN}old\n{platforms.END}after\n"
    record = {"date": "2026-01-02", "platforms": [asdict(_row())]}
    new = platforms.with_table(page, record)
    assert new == f"before\n{platforms.BEGIN}{platforms.table(record)}{platforms.END}after\n"
    assert platforms.with_table(new, record) == new
    assert platforms.PAGE.read_text().count(platforms.BEGIN) == 1


def test_every_platform_has_a_root_of_its_own() -> None:
    """No two share a folder; the machine itself is none of them."""
    folders = {platform.folder for platform in PLATFORMS.values()}
    assert None not in folders
    assert len(folders) == len(PLATFORMS) == 5


def test_the_page_shows_what_passed() -> None:
    """The table is that of the last run of all, on every platform, and nothing failed in it."""
    record = json.loads(platforms.RECORD.read_text())
    page = platforms.PAGE.read_text()
    assert platforms.with_table(page, record) == page
    assert [row["name"] for row in record["platforms"]] == list(PLATFORMS)
    for row in record["platforms"]:
        assert row["failed"] == 0, row["name"]
        assert row["passed"] > 90, row["name"]
        assert all(reason for reason in row["not_run"]), row["name"]
