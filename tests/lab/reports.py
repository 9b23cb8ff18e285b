# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts and guests as vnuma_facts and vnuma_info return them, for the page and the metrics.

Layouts are the planner's own, for definitions that are made up; where memory is, what has drifted
and who waits for a restart is made up too, the same on every run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.kvm.vnuma.plugins.filter.plan_host import plan_host
from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import (
    parse_capabilities,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import host_to_facts

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
#: In every definition, and nowhere in a page.
PASSWORD = "s3cr3tvn"
#: Names that are no words of HTML, nor of anything else.
ODD_NAMES = ('<b>&"', "x" * 200, "{{ 7 * 7 }}", "a'b;--", "</details><script>", "Ünïcode 日本")

Entry = dict[str, Any]


def definition(name: str, vcpus: int, gib: int) -> str:
    """Return the definition of a guest."""
    escaped = name.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f"<domain type='kvm'><name>{escaped}</name><memory unit='GiB'>{gib}</memory>"
        f"<vcpu>{vcpus}</vcpu><os><type arch='x86_64'>hvm</type></os>"
        f"<devices><graphics type='vnc' passwd='{PASSWORD}'/></devices></domain>"
    )


def capabilities(host: str) -> str:
    """Return the capabilities of a host in tests/hosts."""
    return (HOSTS / f"{host}.xml").read_text(encoding="utf-8")


def facts(host: str) -> dict[str, Any]:
    """Return what vnuma_facts returns for a host in tests/hosts."""
    return host_to_facts(parse_capabilities(capabilities(host)))


def planned(host: str, guests: Sequence[tuple[str, int, int, dict[str, Any]]]) -> Entry:
    """Return a host with a plan alone.

    Args:
        host: name in tests/hosts.
        guests: name, vCPUs, GiB and options of each.
    """
    texts = [definition(name, vcpus, gib) for name, vcpus, gib, _options in guests]
    entries = [{"name": name, **options} for name, _vcpus, _gib, options in guests]
    return {"topology": facts(host), "plan": plan_host(texts, capabilities(host), entries)}


def in_effect(host: str, guests: Sequence[tuple[str, int, int, dict[str, Any]]]) -> Entry:
    """Return a host whose guests have the layouts of their plan; see `planned`."""
    entry = planned(host, guests)
    plan = entry.pop("plan")
    assert not plan["errors"], plan["errors"]
    options = {name: mine for name, _vcpus, _gib, mine in guests}
    sizes = {name: gib << 20 for name, _vcpus, gib, _options in guests}
    nodes = [node["id"] for node in entry["topology"]["nodes"] if node["memory_kib"]]
    reports = [
        _report(number, one, options[one["name"]], sizes[one["name"]], nodes)
        for number, one in enumerate(plan["guests"])
    ]
    entry["info"] = {
        "changed": False,
        "guests": reports,
        "drifted": [one["name"] for one in reports if one["drift"]],
        "restart_required": [one["name"] for one in reports if one["restart_required"]],
        "ledger": plan["ledger"] or _ledger(entry["topology"]),
        "rebalance": {"moves": [], "gain": ""},
    }
    return entry


def large_host(guests: int = 100, **options: Any) -> Entry:
    """Return the RFC's host, 8 nodes and 240 pCPUs, with guests that mirror all of it."""
    options = {"nodes": "all", **options}
    return in_effect(
        "rfc-8n240c", [(f"guest{number:03}", 16, 8, options) for number in range(guests)]
    )


def odd_host() -> Entry:
    """Return a host whose guests have every kind of layout, and names that hurt."""
    kinds: list[dict[str, Any]] = [
        {"nodes": "all"},
        {"nodes": "0-1", "pinning": "core"},
        {"nodes": "auto"},
        {"nodes": "2-3", "pinning": "cpu", "emulator_pinning": "nodes"},
        {"nodes": "4", "distances": "none", "memory_mode": "none"},
        {"nodes": "5-6", "pinning": "none", "memory_mode": "preferred"},
    ]
    return in_effect("rfc-8n240c", [(name, 8, 8, kind) for name, kind in zip(ODD_NAMES, kinds)])


def fleet(hosts: int = 200, guests: int = 50) -> dict[str, Entry]:
    """Return many hosts with guests of one and of two nodes."""
    options = {"nodes": "auto", "cpu_overcommit": 4}
    one = in_effect(
        "rfc-8n240c",
        [
            (f"HOST-{number:03}", 20 if number % 10 == 0 else 4, 16, options)
            for number in range(guests)
        ],
    )
    text = json.dumps(one)
    return {f"kvm{n:03}": json.loads(text.replace("HOST", f"kvm{n:03}")) for n in range(hosts)}


def _report(
    number: int, plan: dict[str, Any], options: dict[str, Any], kib: int, nodes: Sequence[int]
) -> dict[str, Any]:
    layout = json.loads(json.dumps(plan["layout"]))
    runs, waits, strays = number % 5 != 4, number % 20 == 7, number % 20 == 3
    live = json.loads(json.dumps(layout)) if runs else None
    if live is not None and waits and live["cells"]:
        live["cells"][0]["distances"] = live["cells"][0]["distances"][::-1]
        live["emulator_pins"] = "0-1"
        live["iothread_pins"] = {"1": "0-14", "2": "15-29"}
    memory = None if live is None else _memory(number, live, kib, nodes, strays)
    drift = []
    if waits and live is not None:
        drift.append(("persistent-live", "distances", "the distances differ; run vnuma_restart."))
    if strays and live is not None:
        drift.append(("live-actual", "memory", "cell 0 has memory on host node 1; restart it."))
    return {
        "name": plan["name"],
        "uuid": f"00000000-0000-4000-8000-{number:012}",
        "state": "running" if runs else "off",
        "transient": False,
        "partitioned": True,
        "policy": {key: str(value) for key, value in options.items()},
        "planned": layout,
        "persistent": layout,
        "live": live,
        "actual": memory
        and {"pid": 1000 + number, "vcpus": _affinity(layout, live), "cells": memory},
        "drift": [{"between": one[0], "what": one[1], "msg": one[2]} for one in drift],
        "restart_required": waits and live is not None,
        "notes": ["its memory is counted with that of its devices."] if number % 9 == 1 else [],
    }


def _affinity(layout: dict[str, Any], live: dict[str, Any] | None) -> dict[str, str] | None:
    if live is None:
        return None
    return {str(vcpu): cpus for vcpu, cpus in enumerate(layout["vcpu_pins"])}


def _memory(
    number: int, live: dict[str, Any], kib: int, nodes: Sequence[int], strays: bool
) -> list[dict[str, Any]]:
    cells = live["cells"] or [{"id": None, "memory_kib": kib, "host_node": None}]
    found = []
    for cell in cells:
        home = parse_cpuset(live["nodeset"]) if live["nodeset"] else ()
        backing = cell.get("memory_node", cell["host_node"])
        home = home if backing is None else (backing,)
        # Odd figures, so that rounding would be seen.
        resident = cell["memory_kib"] * (50 + (number * 7) % 50) // 100 - number
        pages = {home[0] if home else nodes[0]: resident}
        if strays and cell["id"] in (0, None):
            pages[nodes[1]] = pages.get(nodes[1], 0) + 40961 + number
        away = sum(value for node, value in pages.items() if home and node not in home)
        total = sum(pages.values())
        found.append(
            {
                "id": cell["id"],
                "nodes": live["nodeset"] if backing is None else str(backing),
                "kib_by_node": {str(node): value for node, value in sorted(pages.items())},
                "resident_kib": total,
                "local_share": (total - away) * 10000 // total / 10000 if home else None,
            }
        )
    return found


def _ledger(host: dict[str, Any]) -> dict[str, Any]:
    """Return a ledger with figures of its own for each node; plan_host has none without auto."""
    return {
        "nodes": [
            {
                "node": node["id"],
                "cores": len(node["cores"]),
                "exclusive_cores": 1 + number,
                "shared_cores": 3,
                "memory_kib": node["memory_kib"],
                "bound_kib": node["memory_kib"] // 3 + number,
                "hugepages": [
                    {
                        "size_kib": pool["size_kib"],
                        "total": pool["total"],
                        "taken": pool["total"] and 1,
                    }
                    for pool in node["hugepages"]
                ],
                "guests": [],
            }
            for number, node in enumerate(host["nodes"])
            if node["cpus"] and node["memory_kib"]
        ],
        "floating": [],
    }
