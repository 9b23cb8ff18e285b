# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A document that is written back as it was, but for what was edited; knows nothing of domains.

Parsers do not tell quotes, entities and the order of attributes, and so whoever serialises a tree
rewrites all of the text. Here the text of every element that was not touched is taken from where it
came from: whoever compares the two texts sees the edit and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .xml import (
    Element,
    copied,
    etree,
)

# One piece of markup; quoted attribute values may hold what would end a tag.
_MARKUP = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<(?:[^<>\"']|\"[^\"]*\"|'[^']*')+>", re.DOTALL
)
_HEAD_ATTRIBUTE = re.compile(
    r"\s+(?P<name>[^\s=\"']+)\s*=\s*(?P<quoted>\"[^\"]*\"|'[^']*')", re.DOTALL
)
_ATTRIBUTE = re.compile(r'="([^"]*)"')


class _Span:
    """Where a node stands in the text.

    From start to end; its content is between inner and close, of which the part before its first
    child ends at lead; what follows the node, up to its next neighbour, ends at tail.
    """

    def __init__(self, start: int, inner: int, end: int) -> None:
        self.start, self.inner, self.lead, self.close = start, inner, inner, inner
        self.end = self.tail = end


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
        self._single = text.count("='") > text.count('="')
        # Parsers read every end of line as one character.
        self._newline = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"

    def rewritten(self) -> str:
        """Return the text with what was edited in `root`."""
        spans = _spans(self._text)
        pristine = list(self._parse(self._text).iter())
        known = dict(zip(self._nodes, zip(pristine, spans)))
        outer = spans[0]
        body = self._emit(self.root, known)
        return self._text[: outer.start] + body + self._text[outer.end :]

    def _emit(self, node: Element, known: dict[Element, tuple[Element, _Span]]) -> str:
        if node not in known:
            return self._written(_serialised(node, self._single))
        before, span = known[node]
        if _raw(node) == _raw(before):
            return self._text[span.start : span.end]
        head = self._text[span.start : span.inner]
        if dict(node.attrib) != dict(before.attrib):
            head = _head(head, node, before, "'" if self._single else '"')
        pieces = [self._between(node.text, before.text, span.inner, span.lead)]
        for child in node:
            pieces.append(self._emit(child, known))
            if child in known:
                old, place = known[child]
                pieces.append(self._between(child.tail, old.tail, place.end, place.tail))
            else:
                pieces.append(self._written(_escaped(child.tail or "")))
        content = "".join(pieces)
        bare = head.rstrip("/>").rstrip()
        if not content:
            return f"{bare}/>"
        name = re.split(r"[\s/>]", head[1:], maxsplit=1)[0]
        return f"{bare}>{content}</{name}>"

    def _between(self, text: str | None, before: str | None, start: int, end: int) -> str:
        """Return text between two pieces of markup: as it stood where it still says the same."""
        if text == before:
            return self._text[start:end]
        return self._written(_escaped(text or ""))

    def _written(self, text: str) -> str:
        return text.replace("\n", self._newline)


def _raw(node: Element) -> bytes:
    return bytes(etree.tostring(node, with_tail=False))


def _serialised(node: Element, single: bool) -> str:
    # A copy carries only the namespaces that it needs.
    text = str(etree.tostring(copied(node), encoding="unicode"))
    return _MARKUP.sub(_single_quoted, text) if single else text


def _head(head: str, node: Element, before: Element, quote: str) -> str:
    """Return a start tag with the attributes that its element has now, in their order."""
    start = head.rstrip("/>").rstrip()
    written = {found["name"]: found[0] for found in _HEAD_ATTRIBUTE.finditer(start)}
    attributes = [
        written[name]
        if name in written and value == before.get(name)
        else f" {name}={_quoted(value, quote)}"
        for name, value in node.attrib.items()
        if not name.startswith("{")
    ]
    # Namespaces, and what belongs to one, are others' and stay.
    attributes += [text for name, text in written.items() if ":" in name or name == "xmlns"]
    return "".join((_HEAD_ATTRIBUTE.sub("", start), *attributes, head[len(start) :]))


def _escaped(text: str) -> str:
    # The standard library's own is in a module that loads urllib and ssl, in every call of ours.
    return text.replace("&", "&amp;").replace(">", "&gt;").replace("<", "&lt;")


def _quoted(value: str, quote: str) -> str:
    other = {"'": "&apos;", '"': "&quot;"}[quote]
    text = _escaped(value).replace(quote, other).replace("\n", "&#10;").replace("\t", "&#9;")
    return f"{quote}{text}{quote}"


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
    # What is open, each with the last child that it had so far.
    opened: list[tuple[_Span, list[_Span]]] = []
    for found in _MARKUP.finditer(text):
        markup = found.group(0)
        if markup.startswith("<![CDATA["):
            continue
        if opened:
            parent, last = opened[-1]
            if last:
                last[0].tail = found.start()
            else:
                parent.lead = found.start()
        if markup.startswith("</"):
            span, _last = opened.pop()
            span.close, span.end, span.tail = found.start(), found.end(), found.end()
            continue
        is_node = not markup.startswith(("<!--", "<?"))
        if not is_node and not opened:
            # Before or after the root.
            continue
        span = _Span(found.start(), found.end(), found.end())
        spans.append(span)
        if opened:
            opened[-1][1][:] = [span]
        if is_node and not markup.endswith("/>"):
            opened.append((span, []))
    return spans
