# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation says what the code says: sentences, rules, options, links and plays."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import DEFAULTS
from rules import RULES

PROJECT = Path(__file__).resolve().parents[2]
DOCS = PROJECT / "docs"
#: What stands for a value in a sentence of the code.
VALUE = "\0"


def _text(node: ast.AST) -> str | None:
    """Return a literal's text, values in it replaced; None for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or VALUE for part in node.values)
    return None


def _of_room(node: ast.AST) -> str | None:
    """Return the sentence of an error that is given in two parts: the problem, and ways out."""
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "RoomError":
        return None
    parts = [_text(part) for part in node.args]
    if isinstance(node.args[1], ast.IfExp):
        parts[1] = VALUE
    return None if None in parts else f"{parts[0]}; {parts[1]}."


def _literals(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield every text in a module that is neither a docstring nor one of Ansible's documents."""
    passed_over: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) or (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) in ("DOCUMENTATION", "EXAMPLES", "RETURN")
        ):
            passed_over.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            passed_over.update(part for part in ast.walk(node) if part is not node)
    for node in ast.walk(tree):
        text = _of_room(node) or _text(node)
        if text is not None and node not in passed_over:
            yield node, text


def _modules() -> list[Path]:
    found = [
        path for path in (PROJECT / "plugins").rglob("*.py") if path.parent.name != "doc_fragments"
    ]
    assert len(found) > 20
    return found


def _sentences() -> set[str]:
    """Return what the code can say: every text in it that ends as a sentence does."""
    return {
        text
        for path in _modules()
        for _node, text in _literals(ast.parse(path.read_text()))
        if text.endswith(".") and len(text.split()) > 2
    }


def _as_pattern(sentence: str) -> re.Pattern[str]:
    return re.compile(".*?".join(map(re.escape, sentence.split(VALUE))), re.DOTALL)


def _explained() -> dict[str, str]:
    """Return the sentences of the page, each with what is said about it."""
    page = (DOCS / "troubleshooting.md").read_text()
    parts = re.split(r"^###? (.*)$", page, flags=re.MULTILINE)[1:]
    return {
        heading.strip("`"): about.strip()
        for heading, about in zip(parts[::2], parts[1::2])
        if heading.startswith("`")
    }


def _is_open(sentence: str) -> bool:
    """Tell whether a sentence is nearly all values, and would match anything."""
    return len(re.sub(r"[^a-z]", "", sentence.lower())) < 10


def test_every_sentence_is_explained() -> None:
    """What is printed can be looked up, and nothing else stands there."""
    explained = _explained()
    sentences = sorted(_sentences())
    assert len(sentences) > 80
    closed = [_as_pattern(sentence) for sentence in sentences if not _is_open(sentence)]
    spare = [entry for entry in explained if not any(p.fullmatch(entry) for p in closed)]
    missing = [
        sentence.replace(VALUE, "…")
        for sentence in sentences
        if not any(
            _as_pattern(sentence).fullmatch(entry)
            for entry in (spare if _is_open(sentence) else explained)
        )
    ]
    assert not missing
    # What only a sentence without words of its own would match: one entry for each such sentence.
    assert len(spare) == len(sentences) - len(closed), spare
    assert [entry for entry, about in explained.items() if len(about.split()) < 3] == []


def test_every_error_is_a_sentence() -> None:
    """The test above would not see an error that does not end as a sentence."""
    errors = 0
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            text = _of_room(node) or _text(node.args[0])
            if text is None or not (name.endswith("Error") or name in ("error", "fail_json")):
                continue
            errors += 1
            # A value at the end is a sentence that was made elsewhere.
            assert text.endswith((".", VALUE)), (path.name, node.lineno, text)
    assert errors > 50


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
    patterns = [_as_pattern(sentence) for sentence in _sentences()]
    quoted = {text for row in _rows().values() for text in re.findall(r"`([^`]+\.)`", row)}
    assert len(quoted) > 10
    assert [text for text in quoted if not any(p.fullmatch(text) for p in patterns)] == []


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
