# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of a host: every figure, and the text that Prometheus reads."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reports
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics

MONITORING = Path(__file__).resolve().parents[4] / "docs/examples/monitoring"
_SAMPLE = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)+)\})? (\S+)$')
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _read(text: str) -> Samples:
    """Read the text exposition format, without the code that writes it."""
    found: Samples = {}
    typed: set[str] = set()
    for line in text.splitlines():
        if line.startswith("#"):
            _hash, kind, name, about = line.split(" ", 3)
            assert kind in ("HELP", "TYPE")
            assert about == "gauge" if kind == "TYPE" else about[0].isupper()
            typed.add(name)
            continue
        match = _SAMPLE.match(line)
        assert match, line
        assert match[1] in typed
        labels = frozenset(
            (name, re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), value))
            for name, value in _LABEL.findall(match[2] or "")
        )
        assert (match[1], labels) not in found, line
        found[match[1], labels] = float(match[3])
    assert text.endswith("\n")
    return found


def _wanted(entry: reports.Entry) -> Samples:
    """Return every figure of the input."""
    found: Samples = {}

    def put(name: str, value: float | None, **labels: Any) -> None:
        if value is not None:
            text = frozenset((key, str(one)) for key, one in labels.items())
            found[name, text] = value

    resident: dict[int, int] = {}
    put("vnuma_errors", 0)
    for guest in entry["info"]["guests"]:
        name = guest["name"]
        put("vnuma_guest_drift", len(guest["drift"]), guest=name)
        put("vnuma_guest_restart_required", int(guest["restart_required"]), guest=name)
        for cell in (guest["actual"] or {}).get("cells") or ():
            labels = {"guest": name, "cell": "all" if cell["id"] is None else cell["id"]}
            put("vnuma_cell_resident_bytes", cell["resident_kib"] * 1024, **labels)
            put("vnuma_cell_local_ratio", cell["local_share"], **labels)
            for node, kib in cell["kib_by_node"].items():
                resident[int(node)] = resident.get(int(node), 0) + kib
    states = [guest["state"] for guest in entry["info"]["guests"]]
    for state in set(states):
        put("vnuma_guests", states.count(state), state=state)
    for node in entry["topology"]["nodes"]:
        labels = {"node": node["id"]}
        put("vnuma_node_memory_bytes", node["memory_kib"] * 1024, **labels)
        if node["free_kib"] is not None:
            put("vnuma_node_memory_free_bytes", node["free_kib"] * 1024, **labels)
        if node["id"] in resident:
            put("vnuma_node_memory_resident_bytes", resident[node["id"]] * 1024, **labels)
        put("vnuma_node_cores", len(node["cores"]), **labels)
        for pool in node["hugepages"]:
            sized = {**labels, "size_bytes": pool["size_kib"] * 1024}
            put("vnuma_node_hugepages", pool["total"], **sized)
            put("vnuma_node_hugepages_free", pool["free"], **sized)
    for one in entry["info"]["ledger"]["nodes"]:
        labels = {"node": one["node"]}
        put("vnuma_node_memory_available_bytes", one["memory_kib"] * 1024, **labels)
        put("vnuma_node_memory_taken_bytes", one["bound_kib"] * 1024, **labels)
        for kind in ("exclusive", "shared"):
            put("vnuma_node_cores_taken", one[f"{kind}_cores"], kind=kind, **labels)
        for pool in one["hugepages"]:
            sized = {**labels, "size_bytes": pool["size_kib"] * 1024}
            put("vnuma_node_hugepages_taken", pool["taken"], **sized)
    return found


def _hugepages() -> reports.Entry:
    return reports.in_effect("hugepages-2n", [("a", 2, 1, {"nodes": "all"})])


@pytest.mark.parametrize("make", [reports.odd_host, reports.large_host, _hugepages])
def test_every_figure(make: Callable[[], reports.Entry]) -> None:
    """In base units, and none besides."""
    entry = make()
    assert _read(metrics(entry)) == _wanted(entry)
    with_time = _read(metrics(entry, time="1764095847.5"))
    assert with_time.pop(("vnuma_last_success_timestamp_seconds", frozenset())) == 1764095847.5
    assert with_time == _wanted(entry)


def test_odd_names() -> None:
    """Quotes and backslashes are escaped, and line breaks are blanks."""
    entry = reports.odd_host()
    entry["info"]["guests"][0]["name"] = 'a"b\\c\nd'
    found = _read(metrics(entry))
    assert ("vnuma_guest_drift", frozenset({("guest", 'a"b\\c d')})) in found
    assert ("vnuma_guest_drift", frozenset({("guest", "x" * 200)})) in found


def test_the_same_bytes_and_no_secret() -> None:
    """Whatever the order of guests."""
    entry = {**reports.odd_host(), "password": reports.PASSWORD}
    turned = copy.deepcopy(entry)
    turned["info"]["guests"].reverse()
    assert metrics(turned, 1) == metrics(entry, 1)
    assert reports.PASSWORD not in metrics(entry)


def test_time_of_the_last_success() -> None:
    """A run with errors keeps the one of the run before, and says how many errors there are."""
    entry = reports.odd_host()
    before = metrics(entry, 1000)
    entry["info"]["errors"] = [{"name": "a", "msg": "x."}, {"name": "b", "msg": "y."}]
    found = _read(metrics(entry, 2000, previous=before))
    assert found["vnuma_errors", frozenset()] == 2
    assert found["vnuma_last_success_timestamp_seconds", frozenset()] == 1000
    assert "last_success" not in metrics(entry, 2000)
    assert metrics({"error": "cannot connect."}, 2000, before).splitlines()[2:3] == [
        "vnuma_errors 1"
    ]


@pytest.mark.parametrize(
    ("host", "options", "sentence"),
    [
        (
            [],
            {},
            "the host: its entry must be a dictionary as the modules return it, not list.",
        ),
        ({}, {"time": "now"}, "time must be a number of seconds since 1970, not 'now'."),
        ({}, {"time": "nan"}, "time must be a number of seconds since 1970, not 'nan'."),
        ({}, {"time": 10**400}, f"time must be a number of seconds since 1970, not 1{'0' * 400}."),
    ],
)
def test_one_sentence_for_bad_input(host: Any, options: dict[str, Any], sentence: str) -> None:
    """What is wrong."""
    with pytest.raises(AnsibleFilterError) as raised:
        metrics(host, **options)
    assert str(raised.value) == f"metrics: {sentence}"


def _expressions() -> dict[str, str]:
    """Return the expressions of the example's alerts and panels, by their title."""
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[panel["title"]] = target["expr"]
    return found


def test_examples_use_metrics_that_there_are() -> None:
    """Alerts and panels name no other metric and no other label, and most metrics are used."""
    entry = _hugepages()
    there = {name for name, _labels in _read(metrics(entry, 1))}
    there.add("vnuma_node_memory_free_bytes")
    expressions = _expressions()
    used = {name for text in expressions.values() for name in re.findall(r"\bvnuma_\w+", text)}
    assert len(expressions) > 8
    assert used <= there
    assert there - used <= {
        "vnuma_guests",
        "vnuma_node_memory_bytes",
        "vnuma_node_memory_free_bytes",
        "vnuma_node_hugepages_free",
        "vnuma_cell_resident_bytes",
    }


def test_dashboard() -> None:
    """What Grafana's model of a dashboard asks for: ids, places that do not overlap, variables."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= set(board)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
        assert panel["type"] in ("stat", "timeseries", "table")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"])))
    assert used == variables
