# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a daemon about its schema, and what it never stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    DaemonLostError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import (
    connection,
    daemon_limits,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.daemon_limits import Schema

DENIED, NO_DOMAIN, INVALID_SCHEMA, INVALID_NAME = 29, 42, 92, 27
SECRET = "s3cr3tvn"
#: Takes a <domain> with a name, a <good> or both, and a graphics device.
RNG = """\
<element name="domain" xmlns="http://relaxng.org/ns/structure/1.0">
  <element name="name"><text/></element>
  <optional><element name="good"><empty/></element></optional>
  <optional><element name="graphics"><attribute name="passwd"/></element></optional>
</element>
"""


class LibvirtError(Exception):
    """libvirt's own error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code

    def get_error_message(self) -> str:
        """What it says."""
        return str(self)

    def get_error_code(self) -> int:
        """Its number."""
        return self.code


class Daemon:
    """A daemon that stores a definition unless it is told to refuse what has an element.

    Args:
        refuses: an element that its schema does not have.
    """

    def __init__(self, refuses: str = "<bad/>") -> None:
        self.refuses = refuses
        self.asked: list[str] = []
        self.stored: list[str] = []

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        """It is there."""
        return 9000000

    def define(self, xml: str) -> None:
        """The schema's turn is first, then the name's."""
        self.asked.append(xml)
        if self.refuses in xml:
            raise LibvirtError(INVALID_SCHEMA, f"schema:\n no {self.refuses} beside {SECRET}.")
        if "/" in xml.partition("</name>")[0].partition("<name>")[2]:
            raise LibvirtError(INVALID_NAME, "name cannot contain '/'")
        self.stored.append(xml)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The bindings, as far as these rooms use them."""
    bindings = SimpleNamespace(
        libvirtError=LibvirtError,
        VIR_ERR_OPERATION_DENIED=DENIED,
        VIR_ERR_NO_DOMAIN=NO_DOMAIN,
        VIR_ERR_XML_INVALID_SCHEMA=INVALID_SCHEMA,
    )
    for module in (connection, daemon_limits):
        monkeypatch.setattr(module, "libvirt", bindings)
    return bindings


@pytest.fixture
def make(
    fake: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Schema]:
    """Return the schema of a daemon."""

    def of(daemon: Daemon, *, local: bool = True, copy: str = RNG) -> Schema:
        path = tmp_path / "domain.rng"
        if copy:
            path.write_text(copy)
        monkeypatch.setattr(daemon_limits, "LOCAL_SCHEMA", path)
        link = connection.Connection.__new__(connection.Connection)
        link.uri, link.raw = "qemu:///system", daemon
        return Schema(link, daemon.define, lambda: local)

    return of


def _definition(content: str) -> Definition:
    return read_definition(f"<domain><name>db</name>{content}</domain>")


SOUND = _definition("<good/>")
BAD = _definition(f"<bad/><graphics passwd='{SECRET}'/>")
AS_IT_STANDS = (
    "guest db: libvirt's schema refuses its definition as it stands, without a layout: schema: no "
    "<bad/> beside ********; correct it with 'virsh edit', or exclude the guest."
)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (SOUND, SOUND, ""),
        (BAD, BAD, AS_IT_STANDS),
        # What the layout replaces may have been all that was wrong.
        (BAD, SOUND, ""),
        (
            SOUND,
            BAD,
            "guest db: libvirt at qemu:///system could not define it: schema: no <bad/> beside "
            "********.",
        ),
    ],
)
def test_foretold(
    make: Callable[..., Schema], before: Definition, after: Definition, sentence: str
) -> None:
    """By the daemon itself, which stores nothing; and it is asked where there is a doubt alone."""
    daemon = Daemon()
    if sentence:
        with pytest.raises(HypervisorError) as raised:
            make(daemon).check(before, after)
        assert str(raised.value) == sentence
    else:
        make(daemon).check(before, after)
    assert bool(daemon.asked) is bool(sentence)
    assert daemon.stored == []


@pytest.mark.parametrize(
    ("refuses", "keys"),
    [
        # The daemon knows better than this machine's copy.
        ("<nothing/>", {}),
        ("<bad/>", {"local": False}),
        ("<bad/>", {"copy": ""}),
        ("<bad/>", {"copy": "<element"}),
        ("<bad/>", {"copy": "<element/>"}),
    ],
)
def test_not_foretold(make: Callable[..., Schema], refuses: str, keys: dict[str, object]) -> None:
    """No refusal without the daemon's word, and none of its words without a doubt."""
    daemon = Daemon(refuses)
    make(daemon, **keys).check(BAD, BAD)
    assert daemon.stored == []
    assert bool(daemon.asked) is (refuses != "<bad/>")


@pytest.mark.parametrize(("before", "sentence"), [(BAD, AS_IT_STANDS), (SOUND, "guest db: no")])
def test_explained(make: Callable[..., Schema], before: Definition, sentence: str) -> None:
    """A define that failed says so where it would have failed without a layout too."""
    daemon = Daemon()
    one = make(daemon, local=False)
    with pytest.raises(HypervisorError) as raised, one.explaining(before):
        raise HypervisorError("no", guest="db")
    assert str(raised.value) == sentence
    assert len(daemon.asked) == 1
    assert daemon.stored == []
    with one.explaining(before):
        pass
    assert len(daemon.asked) == 1


def test_a_daemon_that_is_gone_is_not_asked(make: Callable[..., Schema]) -> None:
    """What came of the define is unknown, and that is what is said."""
    daemon = Daemon()
    with pytest.raises(DaemonLostError), make(daemon).explaining(BAD):
        raise DaemonLostError("gone")
    assert daemon.asked == []
