# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every pin, cell, byte and distance of the input is taken out of the page again and compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import reading
import reports
from ansible_collections.kvm.vnuma.plugins.filter.report import report
from reading import Part, ids, kib, text

TITLES = {"live": "running", "persistent": "defined", "planned": "planned"}
#: What the pictures and tables of a host are of, the second one where there is a plan.
WHEN = ("now", "planned")
Make = Callable[[], reports.Entry]


def _changed() -> reports.Entry:
    """Return a host whose guests a plan would change, and one that it would restore."""
    entry = reports.odd_host()
    plan = reports.planned(
        "rfc-8n240c", [(name, 8, 8, {"nodes": "auto"}) for name in reports.ODD_NAMES]
    )["plan"]
    plan["guests"][0].update(changed=True, layout=None)
    plan["guests"][1].update(changed=False)
    return {**entry, "plan": plan}


def _hugepages() -> reports.Entry:
    return reports.in_effect(
        "hugepages-2n", [("a", 2, 1, {"nodes": "all"}), ("b", 2, 1, {"nodes": "auto"})]
    )


def _sparse() -> reports.Entry:
    return reports.in_effect("sparse-ids", [("a", 4, 2, {"nodes": "all"})])


def _memory_elsewhere() -> reports.Entry:
    """Return a host with a node without memory, and a guest with a cell there."""
    return reports.in_effect("memless-node", [("a", 4, 2, {"nodes": "0-1"})])


CASES: dict[str, Make] = {
    "elsewhere": _memory_elsewhere,
    "odd": reports.odd_host,
    "changed": _changed,
    "large": reports.large_host,
    "hugepages": _hugepages,
    "sparse": _sparse,
}


@pytest.fixture(scope="module", params=sorted(CASES))
def entry(request: pytest.FixtureRequest) -> reports.Entry:
    """A host."""
    return CASES[request.param]()


@pytest.fixture(scope="module")
def host(entry: reports.Entry) -> Part:
    """The same as it is on the page."""
    (part,) = reading.read(report({'<b>&"': entry})).hosts()
    assert part.name == '<b>&"'
    return part


def test_topology(entry: reports.Entry, host: Part) -> None:
    """Every core and pCPU of every node is in the tables and in the pictures."""
    for number, table in enumerate(host.tables("processors")):
        for node in entry["topology"]["nodes"]:
            rows = [row for row in table.dicts() if text(row["Node"]) == str(node["id"])]
            cpus = sorted(cpu for row in rows for cpu in ids(text(row["pCPUs"])))
            assert cpus == ids(node["cpus"])
            cores = [
                core
                for row in rows
                for core in text(row["Cores, as their threads"]).split("; ")
                if core
            ]
            assert sorted(cores) == sorted(node["cores"])
            sockets = {text(row["Socket"]) for row in rows}
            assert sockets <= {f"socket {one}" for one in node["socket_ids"]}
        shown = host.threads(WHEN[number])
        assert sorted(shown) == sorted(
            cpu for node in entry["topology"]["nodes"] for cpu in ids(node["cpus"])
        )


def _users(entry: reports.Entry, codes: dict[str, str], planned: bool) -> dict[int, set[str]]:
    """Return the guests of every pCPU, by the input alone."""
    plans = {one["name"]: one for one in entry.get("plan", {}).get("guests", [])}
    found: dict[int, set[str]] = {}
    for guest in entry["info"]["guests"]:
        layout = guest["live"] or guest["persistent"]
        if planned and plans.get(guest["name"], {}).get("changed"):
            layout = plans[guest["name"]]["layout"]
        for cpus in (layout or {}).get("vcpu_pins", ()):
            for cpu in ids(cpus):
                found.setdefault(cpu, set()).add(codes[guest["name"]])
    return found


def test_guests_of_every_thread(entry: reports.Entry, host: Part) -> None:
    """The picture, and the table under it, before and after."""
    codes = {guest.name: code for code, guest in host.guests().items()}
    tables = host.tables("processors")
    assert len(tables) == (2 if "plan" in entry else 1)
    for number, table in enumerate(tables):
        users = _users(entry, codes, number == 1)
        for cpu, shown in host.threads(WHEN[number]).items():
            there = users.get(cpu, set())
            wanted = "" if not there else f"×{len(there)}" if len(there) > 1 else min(there)  # noqa: RUF001
            assert shown == wanted, cpu
        for row in table.dicts():
            listed = set(text(row["Guests that are pinned to them"]).split()) - {"none"}
            cores = [ids(core) for core in text(row["Cores, as their threads"]).split("; ")]
            for core in cores:
                assert set().union(*(users.get(cpu, set()) for cpu in core)) == listed


def test_memory_of_nodes(entry: reports.Entry, host: Part) -> None:
    """Sizes, free memory, hugepages and the ledger, to the KiB."""
    ledger = {one["node"]: one for one in entry["info"]["ledger"]["nodes"]}
    resident: dict[int, int] = {}
    for guest in entry["info"]["guests"]:
        for cell in (guest["actual"] or {}).get("cells") or ():
            for node, amount in cell["kib_by_node"].items():
                resident[int(node)] = resident.get(int(node), 0) + amount
    rows = host.table("nodes").dicts()
    assert len(rows) == len(entry["topology"]["nodes"])
    for row, node in zip(rows, entry["topology"]["nodes"]):
        assert text(row["Node"]) == str(node["id"])
        assert kib(row["Memory"]) == node["memory_kib"]
        assert kib(row["Free"]) == node["free_kib"]
        assert kib(row["Resident"]) == resident.get(node["id"], 0)
        account = ledger.get(node["id"])
        assert kib(row["Bound to it"]) == (account and account["bound_kib"])
        assert text(row["Cores"]) == str(len(node["cores"]))
        if account:
            own = f"{account['exclusive_cores']}, {account['shared_cores']}"
            assert text(row["Cores of guests: own, shared"]) == own
        pools = row["Hugepages: taken, free, in the pool"].xpath("./div")
        assert len(pools) == len(node["hugepages"])
        for shown, pool in zip(pools, node["hugepages"]):
            assert kib(shown) == pool["size_kib"]
            free = "unknown" if pool["free"] is None else pool["free"]
            assert text(shown).endswith(f", {free}, {pool['total']}")


def test_distances(entry: reports.Entry, host: Part) -> None:
    """Every one of them, in its row and column; the nearest bare and the farthest darkest."""
    nodes = entry["topology"]["nodes"]
    every = [value for node in nodes for value in node["distances"].values()]
    shades = {min(every): None, max(every): "h5"}
    rows = host.table("distances").dicts()
    for row, node in zip(rows, nodes):
        assert text(row["From, to"]) == str(node["id"])
        assert {other: int(text(row[other])) for other in node["distances"]} == node["distances"]
        for other, value in node["distances"].items():
            shade = (row[other].get("class").split()[1:] or [None])[0]
            assert shade == shades.get(value, shade)


def test_layouts(entry: reports.Entry, host: Part) -> None:
    """Cells, their vCPUs, memory, nodes, pins and distances; CPU topology and other pins."""
    parts = {part.name: part for part in host.guests().values()}
    assert sorted(parts) == sorted(guest["name"] for guest in entry["info"]["guests"])
    plans = {one["name"]: one for one in entry.get("plan", {}).get("guests", [])}
    for guest in entry["info"]["guests"]:
        part = parts[guest["name"]]
        wanted = [(title, guest[key]) for key, title in TITLES.items() if guest[key] is not None]
        plan = plans.get(guest["name"], {})
        if plan.get("changed") and plan["layout"]:
            wanted.append(("after this run", plan["layout"]))
        if plan.get("changed") and not plan["layout"]:
            assert "as they were before its first partition" in part.text
        tables = part.tables("layout")
        assert {title for one in tables for title in one.caption.split(", ")} == {
            title for title, _layout in wanted
        }
        for title, layout in wanted:
            (number,) = [n for n, one in enumerate(tables) if title in one.caption.split(", ")]
            _compare_layout(tables[number], layout)
            assert _about(part)[number].startswith(f"{layout['vcpus']} vCPUs; ")
            (line,) = part.element.xpath(f"(.//figure)[{number + 1}]/p")
            assert kib(line) == layout["memory_kib"]
            assert f"; {_topology(layout['topology'])}" in _about(part)[number]
            assert f"memory binding {layout['memory_mode']}" in _about(part)[number]
            if layout["emulator_pins"]:
                assert f"emulator on {layout['emulator_pins']}" in _about(part)[number]
            for iothread, cpus in (layout["iothread_pins"] or {}).items():
                assert f"iothreads {iothread} on {cpus}" in _about(part)[number]


def _about(part: Part) -> list[str]:
    """Return the line under each table of a layout."""
    return [text(one) for one in part.element.xpath(".//figure/p")]


def _topology(topology: dict[str, int] | None) -> str:
    if topology is None:
        return "CPU topology not set"
    return f"{topology['sockets']} socket"


def _compare_layout(table: reading.Table, layout: dict[str, Any]) -> None:
    rows, every = table.dicts(), layout["vcpu_pins"]
    if not layout["cells"]:
        (row,) = rows
        assert text(row["Cell"]) == "none"
        shown = reading.pins(text(row["Pins"]), ids(text(row["vCPUs"]).replace("all", "")))
        assert shown == {vcpu: ids(cpus) for vcpu, cpus in enumerate(every) if cpus}
        assert text(row["Host nodes"]) == (layout["nodeset"] or "any")
        assert kib(row["Memory"]) == layout["memory_kib"]
        return
    assert len(rows) == len(layout["cells"])
    for row, cell in zip(rows, layout["cells"]):
        assert text(row["Cell"]) == str(cell["id"])
        assert text(row["vCPUs"]) == cell["vcpus"]
        assert kib(row["Memory"]) == cell["memory_kib"]
        backing = str(cell["host_node"])
        if "memory_node" in cell:
            backing += f", memory {cell['memory_node']}"
        assert text(row["Host nodes"]) == backing
        assert [int(one) for one in text(row["Distances"]).split()] == cell["distances"]
        vcpus = ids(cell["vcpus"])
        shown = reading.pins(text(row["Pins"]), vcpus)
        assert shown == {vcpu: ids(every[vcpu]) for vcpu in vcpus if every and every[vcpu]}


def test_where_it_really_is(entry: reports.Entry, host: Part) -> None:
    """The threads of vCPUs, and the memory of cells by node, to the KiB."""
    parts = {part.name: part for part in host.guests().values()}
    codes = {guest.name: code for code, guest in host.guests().items()}
    shown = {(text(row["Guest"]), text(row["Cell"])): row for row in host.table("memory").dicts()}
    seen = 0
    for guest in entry["info"]["guests"]:
        placement = guest["actual"]
        if placement is None:
            continue
        (line,) = parts[guest["name"]].element.xpath("./p[@class='affinity']")
        where = text(line).partition("may run: ")[2]
        actual = {int(vcpu): ids(cpus) for vcpu, cpus in placement["vcpus"].items() if cpus}
        if where == "as they are pinned":
            assert actual == {
                vcpu: ids(cpus) for vcpu, cpus in enumerate(guest["live"]["vcpu_pins"])
            }
        else:
            assert where == "nowhere" if not actual else reading.pins(where, []) == actual
        for cell in placement["cells"]:
            cell_name = "all" if cell["id"] is None else str(cell["id"])
            row = shown[codes[guest["name"]], cell_name]
            seen += 1
            for node in entry["topology"]["nodes"]:
                name = str(node["id"])
                shown_kib = text(row[name]).lstrip("! ").replace(",", "")
                assert shown_kib == str(cell["kib_by_node"].get(name, "")), guest["name"]
                away = "!" in text(row[name])
                home = ids(cell["nodes"])
                assert away is (
                    name in cell["kib_by_node"] and bool(home) and node["id"] not in home
                )
            share = cell["local_share"]
            assert text(row["Local"]) == ("unknown" if share is None else f"{share * 100:.2f} %")
            assert text(row["Belongs to"]) == (cell["nodes"] or "any")
    assert seen == len(shown)


def test_drift_and_notes(entry: reports.Entry, host: Part) -> None:
    """Every sentence is with its guest."""
    parts = {part.name: part for part in host.guests().values()}
    for guest in entry["info"]["guests"]:
        part = parts[guest["name"]]
        for one in guest["drift"]:
            assert f"{one['between']}, {one['what']}: {one['msg']}" in part.text
        for note in guest["notes"]:
            assert note in part.text
        assert ("waits for a restart" in part.text) is guest["restart_required"]
