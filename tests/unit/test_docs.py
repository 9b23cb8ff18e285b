# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation says what the code says: sentences, rules, options, links and plays."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import DEFAULTS
from rules import RULES
from sentences import documentation, literals, modules, sentences

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"

#: Words that operators do not write, each with what to write for it.
PRIVATE_WORDS = {
    r"besides?": "together with, next to, given, in addition",
    r"anew": "again, from scratch",
    r"at once": "immediately, together",
    r"nobody": "no one; or name what there is none of: no guest, no run",
    r"somebody": "someone",
    r"whoever": "name the one who acts",
    r"who (?:is|are)": "name them: guests that are placed",
    r"of theirs": "of their own",
    r"heed(?:s|ed)?": "apply, use",
    r"kin": "similar ones",
    r"stand(?:s|ing)? against": "conflict with, be an obstacle",
    r"(?:found|finds?|has|have) (?:a |no )?place": "has room",
    r"sits well": "already fits",
    r"in effect": "in use, running",
    r"for no such hint": "to silence this warning",
}


def _texts() -> dict[str, str]:
    """Return every text that users read, by where it is."""
    files = [
        *_pages(),
        PROJECT / "roles/vnuma/README.md",
        *(PROJECT / "roles").rglob("*.yml"),
        *(PROJECT / "playbooks").glob("*.yml"),
        *(DOCS / "examples").rglob("*.yml"),
    ]
    texts = {str(path.relative_to(PROJECT)): path.read_text() for path in files}
    for folder in ("modules", "filter", "doc_fragments"):
        for path in (PROJECT / "plugins" / folder).glob("*.py"):
            texts[str(path.relative_to(PROJECT))] = "\n".join(documentation(path))
    for module in modules():
        for node, text in literals(module):
            if " " in text:
                where = f"{module.path.relative_to(PROJECT)}:{getattr(node, 'lineno', 0)}"
                texts[where] = text
    return texts


def test_words_are_those_of_operators() -> None:
    """No text has a word that its readers would have to learn here."""
    found = [
        f"{where}: {match[0]!r}; write: {better}"
        for where, text in _texts().items()
        for word, better in PRIVATE_WORDS.items()
        # A sentence may go on in the next line, in a comment too.
        for match in re.finditer(rf"\b{word}\b", re.sub(r"\s*\n[\s#]*", " ", text), re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def _rows() -> dict[str, str]:
    """Return the rows of the page of rules by name."""
    rows = re.findall(r"^\| ([^|]+) \| (.+) \|$", (DOCS / "rules.md").read_text(), re.MULTILINE)
    return {name: text for name, text in rows if not name.startswith(("---", "In the", "State"))}


def test_every_rule_is_held() -> None:
    """A row is run by name, or says which test holds it; and it has the sentence that is said."""
    rows = _rows()
    for rule in RULES:
        assert rule.name in rows, rule.name
        for sentence in (rule.refused, rule.warns):
            assert sentence in rows[rule.name], rule.name
        assert ("Refused" in rows[rule.name]) is bool(rule.refused), rule.name
    by_name = {rule.name for rule in RULES}
    unheld = [name for name, text in rows.items() if name not in by_name and "::test_" not in text]
    assert not unheld


def test_tests_that_are_named_exist() -> None:
    """No page refers to a test that was renamed or taken out."""
    named = {
        found
        for page in _pages()
        for found in re.findall(r"`(tests/[\w./-]+?)(?:::(\w+))?`", page.read_text())
    }
    assert len(named) > 20
    for path, function in named:
        if path.endswith(("NAME.json", "NAME.xml")):
            continue
        assert (PROJECT / path).exists(), path
        assert f"def {function}" in (PROJECT / path).read_text() if function else True, function


def test_sentences_of_the_rules_are_the_codes_own() -> None:
    """What the page quotes can be printed."""
    quoted = {text for row in _rows().values() for text in re.findall(r"`([^`]+\.)`", row)}
    assert len(quoted) > 10
    assert [
        text for text in quoted if not any(one.pattern.fullmatch(text) for one in sentences())
    ] == []


def _pages() -> list[Path]:
    return [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def test_links_lead_somewhere() -> None:
    """Every relative link has its file, and its heading where it names one."""
    seen = 0
    for page in _pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            name, _hash, anchor = target.partition("#")
            other = (page.parent / name) if name else page
            assert other.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in anchors, (page.name, target)
    assert seen > 5


def test_plays_are_examples() -> None:
    """Every play of a page is a piece of a file that the tests run."""
    texts = [
        path.read_text()
        for folder in (DOCS / "examples", PROJECT / "roles", PROJECT / "playbooks")
        for path in folder.rglob("*")
        if path.suffix in (".yml", ".md")
    ]
    seen = 0
    for page in DOCS.glob("*.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            seen += 1
            assert any(block in text for text in texts), (page.name, block)
    assert seen > 5


def test_recipes_are_shown_whole() -> None:
    """The page of recipes has every play of its folder, and each begins with what it is for."""
    page = (DOCS / "recipes.md").read_text()
    recipes = sorted((DOCS / "examples/recipes").glob("*.yml"))
    assert len(recipes) > 9
    for path in recipes:
        text = path.read_text()
        assert "\n# Recipe: " in text, path.name
        assert f"```yaml\n{text[text.index('- name: ') :]}```" in page, path.name
    parts = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    plays = [part for part in parts if "```yaml" in part]
    assert len(plays) == len(recipes)
    for part in plays:
        assert "**What else has to be so.**" in part, part[:40]
        assert "**To see that it worked.**" in part, part[:40]


def _yaml_of(path: Path) -> list[str]:
    """Return a file of YAML, or what a page shows of it."""
    if path.suffix == ".yml":
        return [path.read_text()]
    return re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def test_plays_become_root() -> None:
    """Who follows an example may not be root on the hosts; the tests that run them are."""
    seen = 0
    for path in (
        *(DOCS / "examples").rglob("*.yml"),
        *(PROJECT / "playbooks").glob("*.yml"),
        *(PROJECT / "roles").rglob("README.md"),
        PROJECT / "README.md",
    ):
        for text in _yaml_of(path):
            content = yaml.safe_load(text)
            for play in content if isinstance(content, list) else []:
                if play.get("hosts", "localhost") != "localhost":
                    seen += 1
                    assert play.get("become") is True, (path, play["name"])
    assert seen > 12


def _sections(page: str) -> list[str]:
    """Return the text of a page under each of its headings; code may have lines like these."""
    return re.split(r"^#+ (?=.*\n\n)", page, flags=re.MULTILINE)


def test_restarts_are_told_where_they_begin() -> None:
    """Where a page first names a playbook that restarts guests it says so, and how to say no."""
    never = re.compile(r"restart.*vnuma_restart_mode[`:= is]*never", re.DOTALL | re.IGNORECASE)
    seen = 0
    for page in (*_pages(), PROJECT / "roles/vnuma/README.md"):
        for name in ("kvm.vnuma.converge", "kvm.vnuma.revert"):
            first = next((one for one in _sections(page.read_text()) if name in one), None)
            if first is not None:
                seen += 1
                assert never.search(first), (page.name, name)
    for path in (*(DOCS / "examples").rglob("*.yml"), *(PROJECT / "playbooks").glob("*.yml")):
        text = path.read_text()
        if path.stem in ("converge", "revert") or "import_playbook" in text:
            seen += 1
            assert never.search(re.sub(r"\n# ", " ", text)), path
    assert seen > 10


def test_forced_off_is_explained() -> None:
    """Nobody is offered to force a guest off without the price of it."""
    texts = [
        (PROJECT / "plugins/modules/vnuma_restart.py").read_text(),
        *(PROJECT / "roles/vnuma/meta/argument_specs.yml").read_text().split("\n\n"),
    ]
    for page in (*_pages(), PROJECT / "roles/vnuma/README.md"):
        texts += _sections(page.read_text())
    offers = re.compile(r"V\(force\)|`force`|vnuma_restart_mode: force|mode to 'force'")
    offered = [text for text in texts if offers.search(text)]
    assert len(offered) > 4
    told = re.compile(r"unsaved\s+data\s+is\s+lost")
    assert [text[:80] for text in offered if not told.search(text)] == []


def test_every_option_is_written_about() -> None:
    """No policy option without a word on when to use it."""
    page = (DOCS / "options.md").read_text()
    assert [option for option in DEFAULTS if option != "state" and f"`{option}" not in page] == []


def _groups() -> dict[str, set[str]]:
    """Return the policy options by group, as the module's documentation has them."""
    text = (PROJECT / "plugins/modules/vnuma_partition.py").read_text()
    groups = {
        name.lower(): set(re.findall(r"O\((\w+)\)", sentence)) & set(DEFAULTS)
        for name, sentence in re.findall(r"B\((Basic|Common) options\)(.*?)\.", text, re.DOTALL)
    }
    return {**groups, "advanced": set(DEFAULTS) - set().union(*groups.values())}


def test_options_are_in_three_groups_everywhere() -> None:
    """The same ones in the module's documentation and in the tables of options and variables."""
    groups = _groups()
    assert [len(groups[name]) for name in ("basic", "common")] == [8, 8]
    for page, prefix in ((DOCS / "options.md", ""), (PROJECT / "roles/vnuma/README.md", "vnuma_")):
        tables = dict(
            re.findall(
                r"^\| (Basic|Common|Advanced) \w+ \|(.*?)\n\n", page.read_text(), re.M | re.S
            )
        )
        for name, options in groups.items():
            rows = tables[name.capitalize()].splitlines()
            first = " ".join(row.split("|")[1] for row in rows[2:])
            shown = set(re.findall(rf"`{prefix}(\w+)`", first)) & set(DEFAULTS)
            assert shown == options, (page.name, name)


def test_the_first_half_of_the_guide_needs_basic_options_alone() -> None:
    """README and the first half of the guide: what else there is comes later."""
    guide = (DOCS / "guide.md").read_text()
    others = set(DEFAULTS) - _groups()["basic"]
    for text in ((PROJECT / "README.md").read_text(), guide[: len(guide) // 2]):
        blocks = "".join(re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
        used = set(re.findall(r"\b(?:vnuma_)?(\w+): ", blocks))
        assert used & others == set()


def test_every_file_is_on_the_map() -> None:
    """The map has every file there is, and no other."""
    page = (DOCS / "architecture.md").read_text()
    there = {
        str(path.relative_to(folder))
        for folder in (PROJECT / "plugins/module_utils", PROJECT / "plugins/plugin_utils")
        for path in folder.rglob("*.py")
    }
    assert set(re.findall(r"`(_[\w/]+\.py)`", page)) == there
    for folder in re.findall(r"^\| `(tests/\w+)` \|", page, re.MULTILINE):
        assert (PROJECT / folder).is_dir(), folder


def test_the_docsite_lists_everything() -> None:
    """Every plugin, the role, every playbook and every guide, each by its own name."""
    page = (DOCS / "docsite/rst/guides.rst").read_text()
    names = {
        *(f"kvm.vnuma.{path.stem}#module" for path in PROJECT.glob("plugins/modules/*.py")),
        *(f"kvm.vnuma.{path.stem}#filter" for path in PROJECT.glob("plugins/filter/*.py")),
        *(f"kvm.vnuma.{path.name}#role" for path in PROJECT.glob("roles/*")),
        *(f"``{path.stem}``" for path in PROJECT.glob("playbooks/*.yml")),
        *(f"/docs/{path.name}>" for path in DOCS.glob("*.md")),
    }
    assert len(names) > 20
    assert {name for name in names if name not in page} == set()


def test_commands_are_targets() -> None:
    """Whoever is told to run make finds the target."""
    makefile = (PROJECT / "Makefile").read_text()
    told = {
        target
        for page in _pages()
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert len(told) > 3
    assert {target for target in told if f"\n{target}:" not in makefile} == set()


def test_versions_are_those_that_run() -> None:
    """docs/platforms.md names the ansible-core that each environment pins."""
    page = (DOCS / "platforms.md").read_text()
    for path in (PROJECT / "tests/tools/requirements").glob("controller-*.txt"):
        pinned = re.search(r"^ansible-core==(\S+)$", path.read_text(), re.MULTILINE)
        assert pinned is not None
        assert f" {pinned[1]} on Python" in page, path.name
