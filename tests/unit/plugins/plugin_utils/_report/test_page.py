# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page as a whole: names, secrets, bytes, size, colours, and what needs attention."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import reading
import reports
from ansible.errors import AnsibleFilterError
from ansible_collections.kvm.vnuma.plugins.filter import report as report_module
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics
from ansible_collections.kvm.vnuma.plugins.filter.report import report
from ansible_collections.kvm.vnuma.plugins.plugin_utils._report import page as page_module
from reading import text

TEMPLATES = Path(page_module.__file__).parent / "templates"
#: What the page of one large host may be, in bytes.
LARGEST = 400_000


def _attention(page: str) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in reading.read(page).table("attention").rows]


def _shuffled(value: Any) -> Any:
    """Return the same with every dictionary the other way round."""
    if isinstance(value, dict):
        return {key: _shuffled(value[key]) for key in reversed(list(value))}
    return [_shuffled(one) for one in value] if isinstance(value, list) else value


def test_names_survive_as_text() -> None:
    """Whatever they are, and however long; nothing of them becomes an element."""
    entry = reports.odd_host()
    page = report({'<b>&"': entry, "y" * 200: entry})
    part = reading.read(page)
    assert [host.name for host in part.hosts()] == ['<b>&"', "y" * 200]
    for host in part.hosts():
        assert sorted(one.name for one in host.guests().values()) == sorted(reports.ODD_NAMES)
    for element in ("script", "b", "img", "iframe", "form", "object"):
        assert part.element.xpath(f"//{element}") == []
    title = reading.read(report({}, title='</title><b>&"'))
    assert title.element.xpath("string(//h1)") == '</title><b>&"'


def test_the_same_bytes() -> None:
    """Whatever the order of hosts and keys, and of guests."""
    hosts = {"b": reports.odd_host(), "a": reports.large_host(5)}
    page = report(hosts)
    assert report(_shuffled(copy.deepcopy(hosts))) == page
    turned = copy.deepcopy(hosts)
    turned["b"]["info"]["guests"].reverse()
    assert report(turned) == page
    assert report(json.loads(json.dumps(hosts))) == page


def test_no_secret_is_in_it() -> None:
    """Neither of a definition, nor of any key that the page does not know."""
    guests = [(name, 8, 8, {"nodes": "auto"}) for name in reports.ODD_NAMES]
    plan = reports.planned("rfc-8n240c", guests)
    assert reports.PASSWORD in json.dumps(plan)
    entry = {**reports.odd_host(), "plan": plan["plan"]}
    entry["password"] = entry["info"]["invocation"] = reports.PASSWORD
    for guest in entry["info"]["guests"]:
        guest["xml"] = guest["persistent"]["passwd"] = reports.PASSWORD
    assert reports.PASSWORD not in report({"a": entry, "b": plan})


def test_nothing_is_loaded() -> None:
    """No address outside the page, no script, and a policy that forbids both."""
    page = report({"a": reports.odd_host()})
    element = reading.read(page).element
    addresses = element.xpath(
        "//@href|//@src|//@srcset|//@action|//@data|//@xlink:href",
        namespaces={"xlink": "http://www.w3.org/1999/xlink"},
    )
    assert {one for one in addresses if not one.startswith("#")} == {"data:,"}
    assert "url(" not in page
    assert "@import" not in page
    assert element.xpath("//script|//@onclick|//@onload|//iframe|//img") == []
    (policy,) = element.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'")


def test_links_lead_somewhere() -> None:
    """Every place is there once."""
    element = reading.read(report({"a": reports.odd_host(), "b": reports.large_host(9)})).element
    places = element.xpath("//@id")
    assert len(places) == len(set(places))
    linked = {one[1:] for one in element.xpath("//@href") if one.startswith("#")}
    assert len(linked) > 15
    assert linked <= set(places)


def test_every_table_and_picture_has_a_name() -> None:
    """For who cannot see them; and headers are headers."""
    element = reading.read(report({"a": reports.odd_host()})).element
    for picture in element.xpath("//svg[not(@aria-hidden)]"):
        assert picture.get("role") == "img"
        assert len(picture.get("aria-label")) > 1
    for table in element.xpath("//table"):
        assert table.xpath("boolean(./caption|parent::figure/figcaption)")
        assert table.xpath("boolean(./thead/tr/th)")
        assert len({len(row.xpath("./th|./td")) for row in table.xpath(".//tr")}) == 1
    assert element.xpath("string(/html/@lang)") == "en"


@pytest.mark.parametrize("pinning", ["node", "none"])
def test_a_large_host_is_small(pinning: str) -> None:
    """8 nodes, 240 pCPUs and 100 guests; also before its guests are partitioned."""
    entry = reports.large_host(pinning=pinning)
    assert len(report({"a": entry}).encode()) < LARGEST
    plan = reports.planned(
        "rfc-8n240c", [(f"guest{n:03}", 16, 8, {"nodes": "all"}) for n in range(100)]
    )["plan"]
    for guest in entry["info"]["guests"]:
        guest.update(planned=None, policy=None, live=None, actual=None, drift=[])
        guest["persistent"] = {
            **guest["persistent"],
            **{"cells": [], "topology": None, "vcpu_pins": [], "memory_mode": "none"},
        }
    assert len(report({"a": {**entry, "plan": plan}}).encode()) < LARGEST


def test_a_fleet_folds() -> None:
    """One or two hosts are open, more are not."""
    entry = reports.in_effect("two-socket-2n32c", [("a", 4, 4, {})])
    for count, opened in ((1, 1), (2, 2), (3, 0)):
        element = reading.read(report({f"kvm{n}": entry for n in range(count)})).element
        assert len(element.xpath("//details[@class='host'][@open]")) == opened
        rows = element.xpath("//table[@class='fleet']/tbody/tr")
        assert len(rows) == (count if count == 1 else count + 1)


def test_what_needs_attention_comes_first() -> None:
    """Errors, memory off its node, drift, restarts, overfull nodes, in that order."""
    entry = reports.large_host(12)
    account = entry["info"]["ledger"]["nodes"][2]
    account.update(shared_cores=17, exclusive_cores=2, bound_kib=134217729)
    account["hugepages"] = [{"size_kib": 2048, "total": 5, "taken": 6}]
    full = entry["info"]["ledger"]["nodes"][3]
    full.update(shared_cores=15, exclusive_cores=0, bound_kib=full["memory_kib"])
    full["hugepages"] = [{"size_kib": 2048, "total": 5, "taken": 5}]
    entry["info"]["errors"] = [{"name": "gone", "msg": "it has gone; look again."}]
    entry["info"]["rebalance"] = {"moves": ["guest001"], "gain": "fewer nodes"}
    page = report({"a": entry, "b": {"error": "it cannot be reached; look."}})
    found = _attention(page)
    assert found == [
        ["error", "a", "gone", "it has gone; look again."],
        ["error", "b", "", "it cannot be reached; look."],
        [
            *("memory off its node", "a", "g4 guest003"),
            "cell 0 has memory on host node 1; restart it.",
        ],
        ["drift", "a", "g8 guest007", "the distances differ; run vnuma_restart."],
        [
            *("restart", "a", "g8 guest007"),
            "it runs with another layout than it is defined with, until its next cold start.",
        ],
        [
            *("node overfull", "a", ""),
            "host node 2: guests take 19 cores and it has 15; move some to other nodes, or let "
            "them share.",
        ],
        [
            *("node overfull", "a", ""),
            "host node 2: guests take 128.0 GiB of memory and it has 128 GiB without its "
            "hugepages; move some to other nodes.",
        ],
        [
            *("node overfull", "a", ""),
            "host node 2: guests take 6 hugepages of 2 MiB and its pool has 5; enlarge the pool, "
            "or move some to other nodes.",
        ],
        [
            *("better placement", "a", ""),
            "a fresh plan would move guest001: fewer nodes; run once with rebalance, first with "
            "--check.",
        ],
    ]
    assert page.index("What needs attention") < page.index("The fleet") < page.index("processors")
    row = reading.read(page).table("fleet").dicts()[0]
    assert [text(row[key]) for key in ("Drifted", "Wait for a restart", "Errors")] == [
        "2",
        "1",
        "1",
    ]


def test_much_that_needs_attention_folds() -> None:
    """A line with the counts by kind is always there, and the table one click away."""
    for hosts, opened in ((2, True), (5, False)):
        element = reading.read(
            report({f"kvm{n}": reports.large_host() for n in range(hosts)})
        ).element
        (folded,) = element.xpath("//details[.//table[@class='attention']]")
        assert (folded.get("open") is not None) is opened
        assert text(folded.find("summary")) == (
            f"memory off its node: {5 * hosts}; drift: {5 * hosts}; restart: {5 * hosts}"
        )


def test_nothing_needs_attention() -> None:
    """It says so."""
    page = report({"a": reports.in_effect("two-socket-2n32c", [("a", 4, 4, {})])})
    assert "Nothing: every guest is as planned" in page
    assert reading.read(page).tables("attention") == []


def test_caches_and_isolated_cpus() -> None:
    """Drawn where the facts have them, and the cores are the same."""
    entry = reports.in_effect("two-socket-2n32c", [("a", 4, 4, {})])
    for node in entry["topology"]["nodes"]:
        node["cache_domains"] = []
    bare = reading.read(report({"a": entry}))
    for node in entry["topology"]["nodes"]:
        cores = node["cores"]
        half = len(cores) // 2
        node["cache_domains"] = [",".join(cores[:half]), ",".join(cores[half:])]
    entry["topology"]["isolated_cpus"] = "2-3"
    page = report({"a": entry})
    part = reading.read(page)
    rows = part.table("processors").dicts()
    assert {text(row["Cache domain"]) for row in rows} == {"0", "1"}
    assert {text(row["Cache domain"]) for row in bare.table("processors").dicts()} == {"not known"}
    assert part.threads("now") == bare.threads("now")
    assert "isolated from the kernel's scheduler: 2-3." in part.text
    assert len(part.element.xpath("//path[contains(@class, 'iso')]")) > 0
    for picture in part.element.xpath("//svg[contains(@aria-label, 'socket')]"):
        drawn = [path.get("class")[0] for path in picture.iter("path")]
        # What is drawn later hides what it is drawn on.
        assert drawn == sorted(drawn, key="snlct".index)


def test_passed_through_devices() -> None:
    """Each is drawn on its node and under its guest's cells, and is in a table."""
    entry = reports.in_effect("two-socket-2n32c", [("a", 4, 4, {}), ("b", 4, 4, {})])
    bare = report({"host": entry})
    assert "Passed-through devices" not in bare
    devices = [
        {"device": "0000:3b:00.0", "host_node": 0, "root_complex": "pci0000:3a", "cell": 0},
        {"device": "0001:af:00.1", "host_node": 1, "root_complex": None, "cell": None},
        {"device": "0000:d8:00.0", "host_node": None, "root_complex": None, "cell": None},
    ]
    entry["info"]["guests"][0]["devices"] = devices
    page = report({"host": entry})
    part = reading.read(page)
    rows = [[text(cell) for cell in row] for row in part.table("devices").rows]
    code = rows[0][0]
    assert rows == [
        [code, "0000:3b:00.0", "pci0000:3a", "0", "0"],
        [code, "0001:af:00.1", "not known", "1", "none"],
        [code, "0000:d8:00.0", "not known", "not known", "none"],
    ]
    drawn = [
        [text(words) for words in picture.iter("text")]
        for picture in part.element.xpath("//svg[contains(@aria-label, 'socket')]")
    ]
    assert [[one for one in words if "0.0 " in one or "0.1 " in one] for words in drawn] == [
        [f"3b:00.0 {code}:0"],
        [f"0001:af:00.1 {code}:-"],
    ]
    assert {"0: 1 PCI", "-: 1 PCI"} <= {text(words) for words in part.element.iter("text")}
    entry["info"]["guests"][0]["devices"] = [{"device": "<b>"}]
    assert "<b>" not in report({"host": entry})
    entry["info"]["guests"][0]["devices"] = devices * 1000
    assert "devices: 3000" in reading.read(report({"host": entry})).text


def test_hosts_without_anything() -> None:
    """No hosts, one without facts, one without topology, and one with memory alone."""
    assert "0 hosts, 0 guests" in reading.read(report({})).text
    entries: tuple[reports.Entry, ...] = (
        {},
        {"topology": {}},
        {"topology": {"nodes": []}},
        {"topology": reports.facts("cpuless-pmem")},
        {"topology": reports.facts("edited-no-topology")},
        {"info": {"guests": []}},
    )
    for entry in entries:
        assert [one.name for one in reading.read(report({"a": entry})).hosts()] == ["a"]


def test_a_host_from_its_capabilities() -> None:
    """Without libvirt: the text gives the same page as the facts, lxml provided."""
    plan = reports.planned("two-socket-2n32c", [("a", 4, 4, {})])
    text_ = reports.capabilities("two-socket-2n32c")
    assert report({"x": {**plan, "topology": text_}}) == report({"x": plan})


def test_capabilities_need_lxml(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence; facts do not."""
    monkeypatch.setattr(report_module, "LXML_IMPORT_ERROR", "no lxml")
    assert report({"x": {"topology": reports.facts("two-socket-2n32c")}})
    with pytest.raises(AnsibleFilterError, match="install it for the Python that runs Ansible"):
        report({"x": {"topology": reports.capabilities("two-socket-2n32c")}})


@pytest.mark.parametrize("name", sorted(path.stem for path in reports.HOSTS.glob("*.xml")))
def test_every_host_can_be_drawn(name: str) -> None:
    """Each pCPU once, whatever the machine."""
    facts = reports.facts(name)
    part = reading.read(report({"a": {"topology": facts}}))
    shown = part.threads("now")
    there = {cpu for node in facts["nodes"] for cpu in reading.ids(node["cpus"])}
    assert set(shown) == there


@pytest.mark.parametrize(
    ("hosts", "sentence"),
    [
        ([], "report takes a dictionary of hosts by name, not list."),
        (
            {"a": 5},
            "host a: its entry must be a dictionary as the modules return it, not int.",
        ),
        (
            {"a": {"info": []}},
            None,
        ),
        (
            {"a": {"info": "x"}},
            "host a: info must be a dictionary as the modules return it, not str.",
        ),
    ],
)
def test_one_sentence_for_bad_input(hosts: Any, sentence: str | None) -> None:
    """Which host, and what is wrong with it."""
    if sentence is None:
        assert report(hosts)
        return
    with pytest.raises(AnsibleFilterError) as raised:
        report(hosts)
    assert str(raised.value) == f"report: {sentence}"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (
            {"topology": {"nodes": 5}},
            "host a: host.nodes must be a list as vnuma_facts returns it, not 5.",
        ),
        (
            {"info": {"guests": [{"name": "x", "persistent": {"cells": [{}]}}]}},
            "host a: info and plan must be what vnuma_info and vnuma_partition returned "
            "(KeyError: 'vcpus'); register their results and pass them as they are.",
        ),
        (
            {"info": {"ledger": {"nodes": [5]}}},
            "host a: info and plan must be what vnuma_info and vnuma_partition returned "
            "(TypeError: 'int' object is not subscriptable); register their results and pass them "
            "as they are.",
        ),
    ],
)
def test_one_sentence_for_bad_answers(entry: Any, sentence: str) -> None:
    """An answer that cannot be read is an error of its host, and hides no other."""
    page = report({"a": entry, "b": reports.odd_host()})
    assert ["error", "a", "", sentence] in _attention(page)
    there = {host.name: host for host in reading.read(page).hosts()}
    assert there["a"].guests() == {}
    assert len(there["b"].guests()) == len(reports.ODD_NAMES)
    assert "vnuma_errors 1" in metrics(entry)


def _luminance(colour: str) -> float:
    """Return the relative luminance of a colour (WCAG 2.1)."""
    digits = colour.lstrip("#")
    digits = "".join(one * 2 for one in digits) if len(digits) == 3 else digits
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _colours(style: str, selector: str, dark: bool) -> dict[str, str]:
    found = re.findall(rf"{selector}{{([^}}]*)}}", style)
    chosen = {**dict(re.findall(r"--(\w+):(#\w+)", found[0]))}
    if dark:
        chosen.update(re.findall(r"--(\w+):(#\w+)", found[1]))
    return chosen


@pytest.mark.parametrize("dark", [False, True])
def test_contrast(dark: bool) -> None:
    """Text is 4.5 to 1 at least on whatever it stands on, and lines are 3 to 1 (WCAG AA)."""
    picture = (TEMPLATES / "picture.css").read_text()
    page = (TEMPLATES / "page.css").read_text()
    drawn = _colours(picture, "svg", dark)
    paper = _colours(page, ":root", dark)
    for ground in ("s", "n", "l", "c", "t"):
        assert _contrast(drawn["ink"], drawn[ground]) >= 4.5, ground
    for ground in ("paper", "band"):
        for ink in ("ink", "quiet", "link", "alarm"):
            assert _contrast(paper[ink], paper[ground]) >= 4.5, (ink, ground)
    assert _contrast(drawn["quiet"], paper["paper"]) >= 4.5
    assert _contrast(drawn["line"], paper["paper"]) >= 3
    guests = dict(re.findall(r"\.(g\d)\{fill:(#\w+)\}", picture))
    assert len(guests) == 8
    assert guests == dict(re.findall(r"\.code\.(g\d)\{background:(#\w+)\}", page))
    for ground in (*guests.values(), drawn["many"]):
        assert _contrast(drawn["dark"], ground) >= 4.5
    for shade in range(1, 6):
        assert _contrast(paper["heat"], paper[f"h{shade}"]) >= 4.5, shade


def _seen(colour: str, kind: str) -> tuple[float, float, float]:
    """Return a colour as one without a kind of cone sees it (Viénot, Brettel, Mollon 1999)."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (one**2.2 for one in (red, green, blue))
    long = 17.8824 * red + 43.5161 * green + 4.11935 * blue
    middle = 3.45565 * red + 27.1554 * green + 3.86714 * blue
    short = 0.0299566 * red + 0.184309 * green + 1.46709 * blue
    if kind == "protanopia":
        long = 2.02344 * middle - 2.52581 * short
    if kind == "deuteranopia":
        middle = 0.494207 * long + 1.24827 * short
    return (
        0.0809444479 * long - 0.130504409 * middle + 0.116721066 * short,
        -0.0102485335 * long + 0.0540193266 * middle - 0.113614708 * short,
        -0.000365296938 * long - 0.00412161469 * middle + 0.693511405 * short,
    )


@pytest.mark.parametrize("kind", ["all cones", "protanopia", "deuteranopia"])
def test_colours_are_told_apart(kind: str) -> None:
    """Guests that follow each other have colours that differ, also for the colour-blind."""
    picture = (TEMPLATES / "picture.css").read_text()
    guests = [colour for _name, colour in sorted(re.findall(r"\.(g\d)\{fill:(#\w+)\}", picture))]
    for one, other in zip(guests, [*guests[1:], guests[0]]):
        seen = zip(_seen(one, kind), _seen(other, kind))
        difference = sum((a - b) ** 2 for a, b in seen) ** 0.5
        assert difference > 0.1, (one, other, difference)
