# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host reports may be broken; the page of a fleet says which host it was."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator

import pytest
import reading
import reports
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics
from ansible_collections.kvm.vnuma.plugins.filter.report import report
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.read import read_fleet

ODD = (
    *('"x"', "-1", "300000000", "18446744073709551616", "1e400", "null", "[]", "[3]", "{}"),
    *('"0-4294967295"', f'"{"9" * 4500}"', "NaN", "true"),
)
#: A value in JSON that is neither a list nor a dictionary.
VALUE = re.compile(r'(?<=[ \[:])(-?\d+(?:\.\d+)?|null|true|false|"[^"]*")(?=[,\]}])')


def _entry() -> reports.Entry:
    return reports.in_effect(
        "hugepages-2n", [("a", 4, 4, {}), ("b", 2, 2, {"pinning": "core", "nodes": "0"})]
    )


def _mutations() -> Iterator[reports.Entry]:
    text = json.dumps(_entry())
    for place in VALUE.finditer(text):
        for odd in ODD:
            yield json.loads(text[: place.start()] + odd + text[place.end() :])


def test_an_odd_value_is_told_of_with_its_host() -> None:
    """In a sentence of a decent length, and never by a traceback."""
    answered = refused = 0
    for entry in _mutations():
        (host,) = read_fleet({"kvm1": entry})
        page, figures = report({"kvm1": entry}), metrics(entry)
        answered += not host.errors
        refused += bool(host.errors)
        for _guest, said in host.errors:
            assert said.startswith("host kvm1: "), said[:300]
            assert len(said) < 2000
            assert "host kvm1: " in page
        assert f"\nvnuma_errors {len(host.errors)}\n" in figures
        assert "cannot be drawn" not in page
    assert answered > 500
    assert refused > 500


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("cache_domains", [[0, 99]], "host node 0: cache_domains name pCPU 99 twice, or it is not"),
        ("cache_domains", ["x"], "host node 0: cache_domains: 'x' is not a set of numbers"),
        ("cores", ["0-"], "host node 0: cores: '0-' is not a set of numbers"),
    ],
)
def test_broken_facts(key: str, value: object, sentence: str) -> None:
    """The facts are read in one place, for the planner and for the page."""
    entry = _entry()
    entry["topology"]["nodes"][0][key] = value
    assert f"host kvm1: {sentence}" in html.unescape(report({"kvm1": entry}))


def test_broken_capabilities() -> None:
    """Given as text they are no different."""
    page = report({"kvm0": _entry(), "kvm1": {**_entry(), "topology": "<capabilities>"}})
    assert "host kvm1: the capabilities document is" in page
    kvm0, kvm1 = reading.read(page).hosts()
    assert len(kvm0.guests()) == 2
    assert kvm1.guests() == {}


def test_lists_as_the_planner_takes_them() -> None:
    """Sets may be written as lists; the page is the same."""
    texts, lists = _entry(), _entry()
    texts["topology"]["isolated_cpus"], lists["topology"]["isolated_cpus"] = "0-1", [1, 0]
    for entry, domains in ((texts, ["0-3"]), (lists, [[3, 2, 1, 0]])):
        entry["topology"]["nodes"][0]["cache_domains"] = domains
    assert report({"kvm1": texts}) == report({"kvm1": lists})
