# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture in the README is what the command that it names draws."""

from __future__ import annotations

import re
from pathlib import Path

import picture
from lxml import etree

PROJECT = Path(__file__).resolve().parents[2]


def test_it_is_current() -> None:
    """Byte for byte; after a change to what draws it, draw it again."""
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.draw(), "run make picture"


def test_it_is_in_the_readme() -> None:
    """With the command that draws it."""
    readme = (PROJECT / "README.md").read_text()
    assert re.search(r"!\[[^\]]{20,}\]\(docs/picture\.svg\)", readme)
    assert "`make picture`" in readme


def test_it_is_a_document() -> None:
    """Well-formed, with a title, and nothing in it that is loaded or run."""
    root = etree.fromstring(picture.PICTURE.read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findtext("{*}title")) > 10
    assert {etree.QName(one).localname for one in root.iter(etree.Element)} == {
        *("svg", "title", "style", "path", "g", "text")
    }
    threads = {
        one.text
        for group in root.iterfind("{*}g")
        if (group.get("class") or "").startswith("m") and " b" not in group.get("class")
        for one in group
    }
    assert threads == {str(cpu) for cpu in range(240)}
