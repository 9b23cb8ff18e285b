# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers is bounded: no answer of one costs the page of the others."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

import pytest
import reading
import reports
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics
from ansible_collections.kvm.vnuma.plugins.filter.report import report
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report import page as page_module
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.drawing import draw_grid
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report.view import HostView

#: Answers by what is too much in them, made where they are read.
TOO_MUCH = {
    "nodes": "{'topology': {'nodes': [{'id': n, 'cpus': str(n)} for n in range(5000)]}}",
    "distances": "{'topology': {'nodes': [{'id': 0, "
    "'distances': {str(n): 9 for n in range(9**5)}}]}}",
    "cores": "{'topology': {'nodes': [{'id': 0, 'cpus': '0-16383', "
    "'cores': ['0-16383'] * 10**5}]}}",
    "caches": "{'topology': {'nodes': [{'id': 0, 'cpus': '0-16383', "
    "'cache_domains': [str(n) for n in range(16384)] * 3}]}}",
    "pools": "{'topology': {'nodes': [{'id': 0, 'hugepages': [{'size_kib': 4}] * 10**5}]}}",
    "vcpus": "guest({'cells': [], 'vcpus': 30_000_000, 'memory_mode': 'strict'})",
    "topology": "guest({'cells': [], 'topology': {'sockets': 10**10, 'cores': 10**10}, "
    "'memory_mode': 'strict'})",
    "cells": "guest({'cells': [{'id': 0, 'vcpus': '0', 'memory_kib': 1}] * 10**5, "
    "'memory_mode': 'strict'})",
    "digits": "guest({'cells': [], 'vcpus': '9' * 5000, 'memory_mode': 'strict'})",
    "a number": "guest({'cells': [], 'vcpus': 10**400, 'memory_mode': 'strict'})",
    "infinity": "{'info': {'guests': [{'name': 'x', 'placement': {'cells': "
    "[{'id': 0, 'local_share': float('inf')}]}}]}}",
    "guests": "{'info': {'guests': [{'name': str(n)} for n in range(10**5)]}}",
    "values": "{'info': {'guests': [{'name': 'x', 'notes': ['y'] * 10**6}]}}",
    "depth": "{'info': {'guests': json.loads('[' * 500 + ']' * 500)}}",
    "no topology": "{'topology': '<b>x'}",
    "no guests": "{'info': {'guests': [{}]}}",
    "no list": "{'info': {'guests': 5}}",
    "no set": "guest({'cells': [{'id': 0, 'vcpus': 'x', 'memory_kib': 1}], 'memory_mode': ''})",
}

_CHILD = """\
import json, sys
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics
from ansible_collections.kvm.vnuma.plugins.filter.report import report

def guest(live):
    return {'info': {'guests': [{'name': 'x', 'live': live}]}}

entry = eval(sys.argv[1])
print(json.dumps([report({'evil': entry, 'good': json.loads(sys.stdin.read())}),
                  metrics({**entry, 'topology': {}} if entry.get('topology') == '<b>x'
                          else entry)]))
"""
#: Ansible itself takes 150 MiB of address space, and a second to load.
_SECONDS, _BYTES = 5, 400 << 20


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_is_an_error_of_its_host(what: str) -> None:
    """In processor time and memory that are the page's own; the other host is drawn."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, TOO_MUCH[what]],
        check=False,
        input=json.dumps(reports.odd_host()),
        capture_output=True,
        text=True,
        preexec_fn=_limited,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    page, figures = json.loads(done.stdout)
    part = reading.read(page)
    rows = [[reading.text(cell) for cell in row] for row in part.table("attention").rows]
    (said,) = [row for row in rows if row[:2] == ["error", "evil"]]
    assert "host evil: " in said[3]
    assert len(said[3]) < 500
    there = {host.name: host for host in part.hosts()}
    assert len(there["good"].guests()) == len(reports.ODD_NAMES)
    assert "vnuma_errors 1" in figures or what == "no topology"


#: Of terminals, of lines, of the direction of writing, and what cannot be written at all.
CONTROLS = "\x00\x07\n\r\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\ud800"


def _with_controls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_controls(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_controls(one) for one in value]
    return f"{value}{CONTROLS}x" if isinstance(value, str) and value[:1].isalpha() else value


def test_no_control_characters_in_page_and_metrics() -> None:
    """Whatever text they are in: a host has no line of its own, and no word to a terminal."""
    entry = _with_controls(reports.odd_host())
    entry["topology"] = reports.odd_host()["topology"]
    entry["error"] = f"a{CONTROLS}b"
    clean = reports.odd_host()
    clean["error"] = "ab"
    name = f"kvm{CONTROLS}1"
    for text, same in (
        (report({name: entry}), report({"kvm1": clean})),
        (metrics(entry), metrics(clean)),
    ):
        assert set(text).isdisjoint(set(CONTROLS) - {"\n"})
        assert text.count("\n") == same.count("\n")


def test_what_cannot_be_drawn_is_an_error_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should reading ever let something pass that drawing cannot take."""

    def fail(host: HostView) -> object:
        if host.name == "evil" and host.guests:
            raise ValueError("no picture")
        return draw_grid(host)

    monkeypatch.setattr(page_module, "draw_grid", fail)
    page = reading.read(report({"evil": reports.odd_host(), "good": reports.odd_host()}))
    there = {host.name: host for host in page.hosts()}
    assert there["evil"].guests() == {}
    assert len(there["good"].guests()) == len(reports.ODD_NAMES)
    assert "cannot be drawn (ValueError: no picture)" in there["evil"].text
