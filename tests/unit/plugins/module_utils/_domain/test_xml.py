# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parsing what others wrote: nothing is resolved, nothing is quoted, nothing takes long."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import (
    copied,
    elements,
    etree,
    insert_after,
    parse_xml,
    remove,
    to_text,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import DomainError

SECRET = "hunter2hunter2"


def _parse(text: str) -> object:
    return parse_xml(text, "domain", DomainError, "domain definition")


def _refusal(text: str) -> str:
    with pytest.raises(DomainError) as raised:
        _parse(text)
    said = str(raised.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    "text",
    [
        "<domain/>",
        "\ufeff<domain/>",
        "  \n<domain/>\n",
        "<?xml version='1.0'?><domain/>",
        "<?xml version='1.0' encoding='ISO-8859-1'?><domain/>",
        "<?xml version='1.0' encoding='UTF-16'?><domain/>",
        "<!-- <!DOCTYPE domain [<!ENTITY x 'y'>]> --><domain/>",
        "<domain><!-- <!DOCTYPE domain> --></domain>",
        "<domain><![CDATA[<!DOCTYPE domain>]]></domain>",
        "<domain/><!-- after --><?pi after?>",
        "<domain title='&lt;!DOCTYPE domain>'/>",
    ],
)
def test_takes(text: str) -> None:
    """A declaration, a byte order mark, comments; a doctype only in what is no markup."""
    assert _parse(text) is not None


@pytest.mark.parametrize("before", ["", "\ufeff", "\n ", "<!-- a -->", "<?p q?><!----> <!-- - -->"])
@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE domain>",
        "<!DOCTYPE domain SYSTEM 'file:///etc/hostname'>",
        "<!DOCTYPE domain PUBLIC '-//x' 'http://192.0.2.1/x.dtd'>",
        f"<!DOCTYPE domain [<!ENTITY x '{SECRET}'>]>",
        "<!DOCTYPE domain [<!ENTITY % x SYSTEM 'http://192.0.2.1/x'> %x;]>",
        # libxml2 passes over a second byte order mark, after the declaration.
        "<?xml version='1.0'?>\ufeff<!DOCTYPE domain [<!ENTITY x 'y'>]>",
        "<?xml version='1.0'?>\ufeff<!DOCTYPE domain SYSTEM 'file:///etc/hostname'>",
    ],
)
def test_doctypes_are_refused(before: str, doctype: str) -> None:
    """Wherever XML allows one, and whatever is in it."""
    if doctype.startswith("<?xml") and before.strip("\ufeff"):
        before = ""  # A declaration stands first.
    assert _refusal(f"{before}{doctype}<domain><name>&x;</name></domain>") == (
        "the domain definition has a document type declaration, which is not accepted; remove it."
    )


@pytest.mark.parametrize(
    "text",
    [
        f"<domain passwd='{SECRET}'",
        f"<domain passwd={SECRET}/>",
        f"<domain><{SECRET}></domain>",
        f"<domain>&{SECRET};</domain>",
        f"<domain>{SECRET}</network>",
        f"<domain a='{SECRET}' a='{SECRET}'/>",
        f"<domain {SECRET}:a='x'/>",
        f"{SECRET}<domain/>",
        f"<domain/>{SECRET}",
        f"<domain><!DOCTYPE {SECRET}></domain>",
        f"<!doctype {SECRET}><domain/>",
        f"<domain>{SECRET}\0</domain>",
        f"<domain>{SECRET}\ud800</domain>",
        f"<?xml version='1.0'?>{SECRET}<?xml version='1.0'?><domain/>",
        "<domain>" + "<a>" * 300 + SECRET + "</a>" * 300 + "</domain>",
        "",
        " ",
        "\ufeff",
    ],
)
def test_what_is_not_well_formed(text: str) -> None:
    """One sentence about where, that quotes nothing."""
    said = _refusal(text)
    assert said.startswith("the domain definition is not well-formed XML")
    assert SECRET not in said


def test_inclusions_are_left_alone(tmp_path: Path) -> None:
    """An XInclude is an element like another; the file is not read."""
    (tmp_path / "a").write_text(SECRET)
    xinclude = "http://www.w3.org/2001/XInclude"
    text = f"<domain><i:include xmlns:i='{xinclude}' parse='text' href='{tmp_path}/a'/></domain>"
    assert SECRET not in etree.tostring(_parse(text), encoding="unicode")


@pytest.mark.parametrize("root", ["network", "domainsnapshot", "Domain"])
def test_other_roots_are_named(root: str) -> None:
    """What begins with something else is said so."""
    assert f"must start with <domain>, not <{root}>." in _refusal(f"<{root}/>")


def _try(text: str) -> None:
    try:
        _parse(text)
    except DomainError:
        return


@pytest.mark.parametrize(
    "text",
    [
        "<!-- a line of a header -->\n" * 60 + "<domain/>",
        "<?a b?>" * 60 + "<domain/>",
        "<?a ?><!-- b -->" * 60 + "<!-- ",
        "<!-- " * 5000,
        "<?a" * 5000,
        " " * 100000 + "<domain",
    ],
    ids=["comments", "instructions", "both", "unclosed comments", "unclosed", "blanks"],
)
def test_nothing_takes_long(text: str) -> None:
    """A header of comments is looked through once, however long it is."""
    # Another process, so that a pattern that never ends fails here and does not hang the suite.
    process = multiprocessing.get_context("fork").Process(target=_try, args=(text,))
    process.start()
    process.join(10)
    done = not process.is_alive()
    process.kill()
    process.join()
    assert done
    assert process.exitcode == 0


def test_elements_passes_over_comments() -> None:
    """Comments and instructions are no elements, and no parent has none."""
    root = etree.fromstring("<a><!-- c --><b/><?p?><c/><b/></a>")
    assert [child.tag for child in elements(root)] == ["b", "c", "b"]
    assert [child.tag for child in elements(root, "b")] == ["b", "b"]
    assert list(elements(None, "b")) == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("<a>\n  <b/>\n  <c/>\n</a>", "<a>\n  <b/>\n  <new/>\n  <c/>\n</a>"),
        ("<a>\n  <c/>\n</a>", "<a>\n  <new/>\n  <c/>\n</a>"),
        ("<a>\n  <b/>\n</a>", "<a>\n  <b/>\n  <new/>\n</a>"),
        ("<a/>", "<a>\n  <new/>\n</a>"),
        ("<a>\n  <b/>\n  <c/>\n  <b/>\n</a>", "<a>\n  <b/>\n  <c/>\n  <b/>\n  <new/>\n</a>"),
    ],
)
def test_insert_and_remove(text: str, after: str) -> None:
    """After the last of those that stand before it, indented; and gone without a trace."""
    root = etree.fromstring(text)
    new = etree.Element("new")
    insert_after(root, ("b",), new)
    assert etree.tostring(root, encoding="unicode") == after
    remove(new)
    assert etree.tostring(root, encoding="unicode") == text
    several = [etree.Element("new") for _each in range(3)]
    insert_after(root, ("b",), *several)
    lines = after.split("\n")
    at = lines.index("  <new/>")
    assert etree.tostring(root, encoding="unicode").split("\n") == [
        *lines[:at],
        *("  <new/>", "  <new/>"),
        *lines[at:],
    ]
    for one in several[::-1]:
        remove(one)
    insert_after(root, ("b",))
    assert etree.tostring(root, encoding="unicode") == text


def test_copies_belong_to_nobody() -> None:
    """A copy has neither the text that follows, nor namespaces that it does not use."""
    root = etree.fromstring("<a xmlns:x='urn:x' xmlns:y='urn:y'><x:b/> tail</a>")
    copy = copied(root[0])
    assert etree.tostring(copy) == b'<x:b xmlns:x="urn:x"/>'
    assert copy.getparent() is None


def test_names_that_are_not_ascii_can_be_copied() -> None:
    """As in metadata of others, and where a byte order mark was pasted into a name."""
    for name in ("größe", "名", "cpus\ufeff"):
        text = f'<{name} {name}="ü">ß</{name}>'
        assert etree.tostring(copied(etree.fromstring(text)), encoding="unicode") == text


@pytest.mark.parametrize(
    "text",
    [
        "<a b='1'>\n  <c d='x \"y\"'/>\n</a>\n",
        '<a b="1">\n  <c d="it\'s"/>\n</a>',
        "<?xml version='1.0'?>\n<a c='1' b='2'><d e='&apos;'/><!-- f=\"1\" --><?g h=\"1\"?></a>\n",
        "<!-- x -->\n<a b='1' xmlns:x='urn:x'>&lt;&amp;<c d='>'/><![CDATA[ f='1' ]]></a>\n",
        "<a b='1'><c d='1'/></a>\n<!-- \"</a>\" -->\n<?x </a> ?>\n",
        "<!-- x -->\n" * 9 + "<a b='1'/>\n" + "<!-- y='1' -->\n" * 9,
    ],
)
def test_as_it_was_spelled(text: str) -> None:
    """What libvirt dumps comes back to the byte; comments and CDATA are nobody's markup."""
    again = to_text(parse_xml(text, "a", DomainError, "document"), text)
    assert again.replace("'&gt;'", "'>'") == text


def test_comments_outside_are_not_written_anew() -> None:
    """libxml2 takes a time for that which grows with the square of their number."""
    text = "<!-- x -->" * 100_000 + "<a><c/></a>"

    def edit() -> None:
        root = parse_xml(text, "a", DomainError, "document")
        assert to_text(root, text) == text

    process = multiprocessing.get_context("fork").Process(target=edit)
    process.start()
    process.join(20)
    done = not process.is_alive()
    process.kill()
    process.join()
    assert done
    assert process.exitcode == 0
