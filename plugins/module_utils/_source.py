# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A parsed document that is written back as it was, but for what was edited.

Parsers do not tell quotes, entities and the order of attributes, and so whoever serialises a tree
rewrites all of the text. Here the text of every element that was not touched is taken from where it
came from: whoever compares the two texts sees the edit and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.sax.saxutils import escape

from ansible_collections.kvm.vnuma.plugins.module_utils._xml import (
    Element,
    copied,
    etree,
)

# One piece of markup; quoted attribute values may hold what would end a tag.
_MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<(?:[^<>\"']|\"[^\"]*\"|'[^']*')+>", re.DOTALL
)
_ATTRIBUTE = re.compile(r'="([^"]*)"')


class _Span:
    """Where a node stands in the text: from start to end, its content between inner and close."""

    def __init__(self, start: int, inner: int, end: int) -> None:
        self.start, self.inner, self.close, self.end = start, inner, end, end


class Source:
    """A document to edit.

    Args:
        text: the document.
        parse: returns its root element; called again for a tree that stays as it was.
    """

    def __init__(self, text: str, parse: Callable[[str], Element]) -> None:
        self._text = text
        self._parse = parse
        self.root = parse(text)
        # Held on to, since lxml makes a new object for a node that nobody holds.
        self._nodes = list(self.root.iter())

    def rewritten(self) -> str:
        """Return the text with what was edited in `root`."""
        spans = _spans(self._text)
        pristine = list(self._parse(self._text).iter())
        known = dict(zip(self._nodes, zip(pristine, spans)))
        single = self._text.count("='") > self._text.count('="')
        outer = spans[0]
        body = self._emit(self.root, known, single)
        return self._text[: outer.start] + body + self._text[outer.end :]

    def _emit(
        self, node: Element, known: dict[Element, tuple[Element, _Span]], single: bool
    ) -> str:
        if node not in known:
            return _serialised(node, single)
        before, span = known[node]
        if _raw(node) == _raw(before):
            return self._text[span.start : span.end]
        if dict(node.attrib) != dict(before.attrib):
            return _serialised(node, single)
        head = self._text[span.start : span.inner]
        content = escape(node.text or "") + "".join(
            self._emit(child, known, single) + escape(child.tail or "") for child in node
        )
        bare = head.rstrip("/>").rstrip()
        if not content:
            return f"{bare}/>"
        name = re.split(r"[\s/>]", head[1:], maxsplit=1)[0]
        return f"{bare}>{content}</{name}>"


def _raw(node: Element) -> bytes:
    return bytes(etree.tostring(node, with_tail=False))


def _serialised(node: Element, single: bool) -> str:
    # A copy carries only the namespaces that it needs.
    text = str(etree.tostring(copied(node), encoding="unicode"))
    return _MARKUP.sub(_single_quoted, text) if single else text


def _single_quoted(markup: re.Match[str]) -> str:
    tag = markup.group(0)
    if tag[1] in "!?":
        return tag
    return _ATTRIBUTE.sub(
        lambda found: "='{}'".format(found.group(1).replace("'", "&apos;").replace("&quot;", '"')),
        tag,
    )


def _spans(text: str) -> list[_Span]:
    """Return where the root and everything in it stands, in the order of the document."""
    spans: list[_Span] = []
    opened: list[_Span] = []
    for found in _MARKUP.finditer(text):
        markup = found.group(0)
        if markup.startswith("<![CDATA["):
            continue
        if markup.startswith("</"):
            span = opened.pop()
            span.close, span.end = found.start(), found.end()
            continue
        is_node = not markup.startswith(("<!--", "<?"))
        if not is_node and not opened:
            # Before or after the root.
            continue
        span = _Span(found.start(), found.end(), found.end())
        spans.append(span)
        if is_node and not markup.endswith("/>"):
            opened.append(span)
    return spans
