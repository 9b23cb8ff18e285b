# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page in a real browser, from disk; its screenshots are kept in build/report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import reports
from ansible_collections.kvm.vnuma.plugins.filter.report import report
from browser import Browser, Seen

PROJECT = Path(__file__).resolve().parents[2]
PICTURES = PROJECT / "build/report"
WINDOWS = {"wide": (1440, 900), "narrow": (390, 844)}

#: Unfold everything, then return pairs of words that lie on each other, by their boxes.
_OVERLAPS = """
(() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest('.skip, symbol')) continue;
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width > 0 && box.height > 0) {
        found.push({node, left: box.left, right: box.right, top: box.top, bottom: box.bottom});
      }
    }
  }
  found.sort((a, b) => a.top - b.top);
  const pairs = [];
  for (let i = 0; i < found.length; i++) {
    const one = found[i];
    for (let j = i + 1; j < found.length && found[j].top < one.bottom; j++) {
      const other = found[j];
      if (other.node === one.node) continue;
      const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const tall = Math.min(one.bottom, other.bottom) - other.top;
      const smaller = Math.min(one.bottom - one.top, other.bottom - other.top);
      if (wide > 0.5 && tall > 0.3 * smaller) pairs.push([one.node.data, other.node.data]);
    }
  }
  return {words: found.length, pairs: pairs.slice(0, 20)};
})()
"""
#: Words of pictures that are not wholly inside theirs.
_OUTSIDE = """
[...document.querySelectorAll('svg.pic text')].filter(one => {
  const box = one.getBoundingClientRect(), all = one.closest('svg').getBoundingClientRect();
  return box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1
    || box.bottom > all.bottom + 2;
}).map(one => one.textContent)
"""
_WIDER_THAN_THE_WINDOW = (
    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
)


def _plan() -> reports.Entry:
    """Return a host whose guests a plan would change."""
    entry = reports.in_effect(
        "rfc-8n240c", [("anuma", 16, 64, {"nodes": "all"}), ("db1", 16, 32, {"nodes": "0-1"})]
    )
    guests = [
        ("anuma", 16, 64, {"nodes": "0-3"}),
        ("db1", 16, 32, {"nodes": "0-1", "pinning": "core"}),
    ]
    return {**entry, "plan": reports.planned("rfc-8n240c", guests)["plan"]}


def _caches() -> reports.Entry:
    """Return a host with cache domains and isolated pCPUs, and guests with cores of their own."""
    guests = [(f"db{n}", 8, 16, {"nodes": str(n % 4), "pinning": "core"}) for n in range(8)]
    entry = reports.in_effect("nps2-4n64c-smt2", guests)
    for node in entry["topology"]["nodes"]:
        cores = node["cores"]
        node["cache_domains"] = [",".join(cores[at : at + 4]) for at in range(0, len(cores), 4)]
    entry["topology"]["isolated_cpus"] = entry["topology"]["nodes"][3]["cpus"]
    return entry


#: Pages by name.
PAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "odd": lambda: {'<b>&"': reports.odd_host()},
    "large": lambda: {"kvm1": reports.large_host()},
    "plan": lambda: {"kvm1": _plan()},
    "caches": lambda: {"kvm1": _caches()},
    "hosts": lambda: {
        name: {"topology": reports.facts(name)}
        for name in ("smt8-4n128c", "cpuless-pmem", "hybrid-1n12c", "gpu-nodes-0-8-252")
    },
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all pages."""
    with Browser() as found:
        yield found


def _write(folder: Path, hosts: dict[str, Any], name: str = "page") -> Path:
    path = folder / f"{name}.html"
    path.write_text(report(hosts, gathered="2026-11-25 18:00 UTC"), encoding="utf-8")
    return path


def _quiet(seen: Seen, page: Path) -> None:
    """Nothing was asked of anyone, and nothing was complained about."""
    assert [one for one in seen.requests if not one.startswith("data:")] == [page.as_uri()]
    assert seen.messages == []


@pytest.mark.parametrize("window", sorted(WINDOWS))
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", sorted(PAGES))
def test_page(browser: Browser, tmp_path: Path, name: str, dark: bool, window: str) -> None:
    """Quiet, as wide as the window, and no word lies on another."""
    page = _write(PICTURES if name == "plan" else tmp_path, PAGES[name](), name)
    browser.look(*WINDOWS[window], dark=dark)
    seen = browser.open(page)
    browser.picture(PICTURES / f"{name}-{'dark' if dark else 'light'}-{window}.png")
    found = browser.run(_OVERLAPS)
    assert found["words"] > 100
    assert found["pairs"] == []
    assert browser.run(_OUTSIDE) == []
    assert browser.run(_WIDER_THAN_THE_WINDOW) <= 0
    _quiet(seen, page)
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_overlaps_are_found(browser: Browser, tmp_path: Path) -> None:
    """The check above sees what it is for."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><body><p>One word<p style='margin-top:-2.2em'>and another"
        "<svg class=pic width=20 height=20><text x=2 y=15>far too long</text></svg>"
        "<div style='width:3000px'>wide</div>"
    )
    browser.look(800, 600, dark=False)
    browser.open(page)
    assert ["One word", "and another"] in browser.run(_OVERLAPS)["pairs"]
    assert browser.run(_OUTSIDE) == ["far too long"]
    assert browser.run(_WIDER_THAN_THE_WINDOW) > 0


def test_requests_and_errors_are_seen(browser: Browser, tmp_path: Path) -> None:
    """The same of those."""
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><img src='other.png'><script>console.error('x')</script>")
    seen = browser.open(page)
    assert len(seen.requests) == 2
    assert any("error" in one for one in seen.messages)


def test_keyboard(browser: Browser, tmp_path: Path) -> None:
    """The first key leads past what comes first; hosts fold and unfold without a mouse."""
    entry = reports.in_effect("two-socket-2n32c", [("a", 4, 4, {})])
    page = _write(tmp_path, {f"kvm{n}": entry for n in range(5)})
    browser.look(1000, 800, dark=False)
    browser.open(page)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    for _turn in range(60):
        browser.press("Tab")
        if browser.run("document.activeElement.tagName") == "SUMMARY":
            break
    assert browser.run("document.activeElement.parentElement.open") is False
    browser.press("Enter")
    assert browser.run("document.activeElement.parentElement.open") is True


def test_links_unfold(browser: Browser, tmp_path: Path) -> None:
    """Who follows a link into what is folded sees it."""
    page = _write(tmp_path, {f"kvm{n}": reports.large_host(8) for n in range(3)})
    browser.look(1000, 800, dark=False)
    browser.open(page)
    browser.run("document.querySelector('.attention a.code').click()")
    guest = "document.querySelector(document.querySelector('.attention a.code').hash)"
    assert browser.run(f"{guest}.closest('.host').open") is True


def test_printed(browser: Browser, tmp_path: Path) -> None:
    """Everything is on paper, also what is folded."""
    page = _write(tmp_path, {f"kvm{n}": reports.large_host(4) for n in range(3)})
    browser.look(1000, 800, dark=True)
    browser.open(page)
    folded = PICTURES / "folded.pdf"
    browser.printed(folded)
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    unfolded = PICTURES / "unfolded.pdf"
    browser.printed(unfolded)
    sizes = [path.read_bytes().count(b"/Type /Page\n") for path in (folded, unfolded)]
    assert sizes[0] > 3
    assert sizes[0] == sizes[1]


def test_a_fleet_opens(browser: Browser, tmp_path: Path) -> None:
    """200 hosts with 50 guests each; one is unfolded, and drawn."""
    page = _write(tmp_path, reports.fleet())
    browser.look(1440, 900, dark=False)
    seen = browser.open(page)
    assert browser.run("document.querySelectorAll('details.host').length") == 200
    assert browser.run("document.querySelectorAll('details.host[open]').length") == 0
    browser.picture(PICTURES / "fleet-light-wide.png", whole=False)
    browser.run("document.querySelector('#h150').open = true")
    height = browser.run("document.querySelector('#h150 svg').getBoundingClientRect().height")
    assert height > 100
    _quiet(seen, page)


def test_the_picture_of_the_readme(browser: Browser) -> None:
    """It is drawn, no word lies on another, and its colours follow the reader's choice."""
    page = PROJECT / "docs/picture.svg"
    for dark in (False, True):
        browser.look(800, 900, dark=dark)
        seen = browser.open(page)
        browser.picture(PICTURES / f"picture-{'dark' if dark else 'light'}.png")
        found = browser.run(_OVERLAPS.replace("document.body", "document.documentElement"))
        assert found["words"] > 240
        assert found["pairs"] == []
        _quiet(seen, page)
