# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and editing XML that others wrote, safely.

No entity is ever resolved and nothing is fetched: a document with a DTD is refused as a whole,
since neither libvirt's dumps nor definitions have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from .._errors import VnumaError

try:
    from lxml import etree

    LXML_IMPORT_ERROR: str | None = None
except ImportError as error:  # the caller says which package is missing, in one sentence
    etree = None
    LXML_IMPORT_ERROR = str(error)

__all__ = [
    "LXML_IMPORT_ERROR",
    "Element",
    "copied",
    "elements",
    "etree",
    "insert_after",
    "parse_xml",
    "remove",
    "to_text",
]

#: An element; lxml's own type is private.
Element = Any

# A document type declaration may stand only here: before the root, among comments and PIs.
# Each of those ends where it first can: otherwise thirty comments would take minutes to try.
_DOCTYPE = re.compile(
    r"\A\ufeff?(?:\s|<\?(?:(?!\?>).)*\?>|<!--(?:(?!-->).)*-->)*<!DOCTYPE", re.DOTALL
)
_DECLARATION = re.compile(r"\A\ufeff?\s*<\?xml\s.*?\?>\s*", re.DOTALL)
# One piece of markup; quoted attribute values may hold what would end a tag.
_MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<(?:[^<>\"']|\"[^\"]*\"|'[^']*')+>", re.DOTALL
)
_ATTRIBUTE = re.compile(r'="([^"]*)"')
_INDENT = "  "


def parse_xml(text: str, root_tag: str, error: type[VnumaError], what: str) -> Element:
    """Parse a document and return its root element.

    *what* is what the text is meant to be, for the sentence, such as ``domain definition``.

    Raises:
        VnumaError: of the type given, when the text is not well-formed, has another root, or has
            a document type declaration.
    """
    has_dtd = error(
        f"the {what} has a document type declaration, which is not accepted; remove it."
    )
    if _DOCTYPE.match(text):
        raise has_dtd
    declaration = _DECLARATION.match(text)
    document = text[declaration.end() :] if declaration else text
    try:
        root = etree.fromstring(document.encode("utf-8", "strict"), _parser())
    except (etree.XMLSyntaxError, UnicodeEncodeError) as problem:
        # libxml2 may quote the line it stumbled over, which can hold a password: only say where.
        line = getattr(problem, "lineno", None)
        where = f" (line {line})" if line else ""
        raise error(f"the {what} is not well-formed XML{where}; check its source.") from None
    # One that stands where the expression does not look for it, as after a second byte order mark.
    if root.getroottree().docinfo.internalDTD is not None:
        raise has_dtd
    if root.tag != root_tag:
        raise error(f"the {what} must start with <{root_tag}>, not <{root.tag}>.")
    return root


@lru_cache(maxsize=1)
def _parser() -> Any:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        strip_cdata=False,
        encoding="utf-8",
    )


def elements(parent: Element | None, *tags: str) -> Iterator[Element]:
    """Return the child elements, those with one of *tags* where given; comments are passed over."""
    if parent is None:
        return iter(())
    found: Iterator[Element] = parent.iterchildren(*(tags or (etree.Element,)))
    return found


def insert_after(parent: Element, predecessors: Sequence[str], *new: Element) -> None:
    """Insert children after the last child that has one of the tags, first where there is none.

    Indentation follows two blanks a level, as in libvirt's dumps; the rest of the text is kept.
    """
    if not new:
        return
    index = 0
    for position, child in enumerate(parent):
        if child.tag in predecessors:
            index = position + 1
    previous = parent[index - 1] if index else None
    level = len(list(parent.iterancestors())) + 1
    line = "\n" + _INDENT * level
    for element in new:
        etree.indent(element, space=_INDENT, level=level)
        element.tail = line
    if index == len(parent):
        new[-1].tail = "\n" + _INDENT * (level - 1) if previous is None else previous.tail
    if previous is None:
        parent.text = line
    else:
        previous.tail = line
    # All at once: lxml looks for the place from the first child on, each time.
    parent[index:index] = new


def remove(element: Element) -> None:
    """Take an element out of its parent, and the white space that led to it."""
    parent, previous = element.getparent(), element.getprevious()
    if previous is not None:
        previous.tail = element.tail
    elif element.getnext() is None:
        parent.text = None
    else:
        parent.text = element.tail
    parent.remove(element)


def in_bytes(element: Element) -> bytes:
    """Return an element as it can be parsed again, without the text that follows it.

    Without an encoding, libxml2 writes references for what is not ASCII: in names too, where no
    parser takes them.
    """
    text: bytes = etree.tostring(element, encoding="utf-8", with_tail=False)
    return text


def copied(element: Element) -> Element:
    """Return a copy that belongs to no tree, without the text that follows the element."""
    copy = etree.fromstring(in_bytes(element), _parser())
    etree.cleanup_namespaces(copy)
    return copy


def to_text(root: Element, like: str) -> str:
    """Return an edited document as text, in the spelling of the one that it was read from.

    libvirt quotes attributes by ', and whoever keeps definitions in files wants to see the edit
    and little else. What stands before and after the root element is not written anew: libxml2
    takes a time for that which grows with the square of the number of comments there. The root's
    own attributes are as they were read.
    """
    text = str(etree.tostring(root, encoding="unicode", with_tail=False))
    if like.count("='") > like.count('="'):
        text = _MARKUP.sub(_single_quoted, text)
    return like[: _end_of_start_tag(like)] + text[_end_of_start_tag(text) :] + _after_root(like)


def _end_of_start_tag(text: str) -> int:
    """Return where the start tag of the root ends."""
    return next(found.end() for found in _MARKUP.finditer(text) if found[0][1] not in "!?")


def _after_root(text: str) -> str:
    """Return what follows the root element."""
    # Nearly always a line break, or nothing.
    last = text.rfind(">") + 1
    if text[:last].endswith(("-->", "?>")):
        last = max(found.end() for found in _MARKUP.finditer(text) if found[0][1] not in "!?")
    return text[last:]


def _single_quoted(markup: re.Match[str]) -> str:
    tag = markup.group(0)
    if tag[1] in "!?":
        return tag
    if "'" not in tag and "&quot;" not in tag:
        # Nearly every tag: a fleet has tens of thousands of attributes.
        return tag.replace('"', "'")
    return _ATTRIBUTE.sub(
        lambda found: "='{}'".format(found.group(1).replace("'", "&apos;").replace("&quot;", '"')),
        tag,
    )
