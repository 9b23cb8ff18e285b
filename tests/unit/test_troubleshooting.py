# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page for troubleshooting has every sentence that can be printed, and what to do then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import PolicyError
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    DEFAULTS,
    policy_from_options,
)
from sentences import errors, modules, role_sentences, said, sentences

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True)
class _Entry:
    """One entry of the page for troubleshooting."""

    heading: str
    text: str

    @property
    def printed(self) -> list[str]:
        """The sentences that it is about, as they are printed."""
        return re.findall(r"^> `(.*)`$", self.text, re.MULTILINE)

    @property
    def what_now(self) -> str:
        """What it tells the reader to do."""
        return self.text.partition("**What now**:")[2]


def _entries(section: str = "") -> list[_Entry]:
    """Return the entries of the page, or of one of its sections."""
    page = (DOCS / "troubleshooting.md").read_text()
    found: list[_Entry] = []
    part = ""
    for level, heading, text in re.findall(
        r"^(##|###) (.*)\n((?s:.*?))(?=^###? |\Z)", page, re.MULTILINE
    ):
        if level == "##":
            part = heading
        elif section in ("", part):
            found.append(_Entry(heading, text))
    return found


def _printed() -> list[str]:
    return [sentence for entry in _entries() for sentence in entry.printed]


def test_every_sentence_is_explained() -> None:
    """What is printed can be looked up, and nothing else stands there."""
    printed = _printed()
    assert len(printed) == len(set(printed))
    closed = [one for one in (*sentences(), *role_sentences()) if not one.is_open]
    # What only a sentence without words of its own would match: one for each such sentence.
    spare = [text for text in printed if not any(one.pattern.fullmatch(text) for one in closed)]
    missing = [
        one.shown
        for one in (*sentences(), *role_sentences())
        if not any(one.pattern.fullmatch(text) for text in (spare if one.is_open else printed))
    ]
    assert not missing
    assert len(spare) == sum(one.is_open for one in sentences()), spare


def test_every_entry_says_what_to_do() -> None:
    """A reader in a hurry finds an entry by a short heading, and in it what to do now."""
    entries = _entries()
    assert len(entries) > 100
    for entry in entries:
        assert len(entry.heading) <= 70, entry.heading
        assert len(entry.what_now.split()) > 1, entry.heading
    headings = [entry.heading for entry in entries]
    assert len(headings) == len(set(headings))
    assert [sentence for sentence in _printed() if f"`{sentence}`" in headings] == []


def test_the_worst_nights_come_first() -> None:
    """Whoever is woken finds the four worst cases first, with commands; and the contents."""
    page = (DOCS / "troubleshooting.md").read_text()
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    contents = page.partition("\n## ")[0]
    for section in sections:
        assert f"[{section}](#" in contents, section
    assert sections.index("The four nights") <= 1
    nights = _entries("The four nights")
    assert len(nights) == 4
    for night in nights:
        (commands,) = re.findall(r"^```sh\n(.*?)^```", night.text, re.MULTILINE | re.DOTALL)
        assert len(commands.splitlines()) == 3, night.heading
        assert f"[{night.heading}](#" in contents


def test_values_of_options_are_listed_as_they_are() -> None:
    """A sentence about an option is what the code says of the value in it, to the last word."""
    seen = set()
    for sentence in _printed():
        found = re.match(r"unknown option '(\w+)'|(\w+)(?: must .*not '|: .* It takes )", sentence)
        name = (found[1] or found[2]) if found else ""
        if not found or (found[2] and name not in DEFAULTS):
            continue
        seen.add(name)
        values = re.findall(r"'([^']*)'", sentence)
        assert sentence in {
            _refusal(name, value) for text in values for value in (text, _of_yaml(text))
        }, sentence
    assert len(seen) > 10


def _of_yaml(text: str) -> object:
    """Return what YAML makes of a text without quotes."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _refusal(option: str, value: object) -> str:
    """Return what is said of an option with a value; '' where it is taken."""
    try:
        policy_from_options({option: value})
    except PolicyError as error:
        return error.message
    return ""


def test_every_error_is_a_sentence() -> None:
    """The tests above would not see an error that does not end as a sentence."""
    seen = 0
    for module in modules():
        for call in errors(module):
            text = said(call) or said(call.args[0])
            if text is not None:
                seen += 1
                # A value at the end is a sentence that was made elsewhere.
                assert text.endswith((".", "…")), (module.path.name, call.lineno, text)
    assert seen > 50
