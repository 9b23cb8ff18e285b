# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order definitions reach a daemon that may have just started."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    GuestGoneError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import (
    connection as _connection,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor import (
    hypervisor as _hypervisor,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain


class LibvirtError(Exception):
    """libvirt's own error; its code means nothing here unless it is given."""

    code = 1

    def get_error_message(self) -> str:
        """What it says."""
        return str(self)

    def get_error_code(self) -> int:
        """What kind of error it is."""
        return self.code


class Daemon:
    """A connection to a daemon, which sees who is defined together with whom.

    Args:
        lingers: how many defines, from the first on, leave others time to come in.
        together: how many the defines after those wait for.
        refuses: who is refused.
    """

    def __init__(self, lingers: int = 1, together: int = 1, refuses: str = "") -> None:
        self.is_gone = False
        self.company: dict[str, set[str]] = {}
        self._lingers = lingers
        self._together = together
        self._refuses = refuses
        self._inside: set[str] = set()
        self._came = threading.Condition()

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        """Whether it is there."""
        if self.is_gone:
            raise LibvirtError("gone")
        return 9000000

    def setKeepAlive(self, interval: int, count: int) -> None:  # noqa: N802 - libvirt's name
        """Whether it is still there is asked now and then."""

    def defineXMLFlags(self, xml: str, flags: int) -> None:  # noqa: N802 - libvirt's name
        """Define a guest, which is its name here."""
        self.getLibVersion()
        with self._came:
            self._inside.add(xml)
            for name in self._inside:
                self.company[name] = self.company.get(name, set()) | self._inside
            self._came.notify_all()
            lingers = len(self.company) <= self._lingers
            enough = 2 if lingers else self._together
            met = self._came.wait_for(
                lambda: len(self.company[xml]) >= enough, 0.3 if lingers else 60
            )
            self._inside.remove(xml)
        assert met or lingers, f"{xml} was left alone"
        if xml == self._refuses:
            raise LibvirtError("no")


Open = Callable[..., Hypervisor]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a hypervisor on daemons, each in the place of the one before."""

    def hypervisor(*daemons: Daemon) -> Hypervisor:
        waiting = iter(daemons)
        fake = SimpleNamespace(
            libvirtError=LibvirtError,
            VIR_DOMAIN_DEFINE_VALIDATE=4,
            VIR_ERR_OPERATION_DENIED=29,
            VIR_ERR_NO_DOMAIN=42,
            VIR_DOMAIN_XML_INACTIVE=2,
            VIR_DOMAIN_XML_SECURE=1,
            registerErrorHandler=lambda _handler, _context: None,
            open=lambda _uri: next(waiting),
        )
        monkeypatch.setattr(_connection, "libvirt", fake)
        monkeypatch.setattr(_connection, "_start_event_loop", lambda: None)
        monkeypatch.setattr(_hypervisor, "libvirt", fake)
        return Hypervisor("qemu:///system")

    return hypervisor


def _define(hypervisor: Hypervisor, *names: str) -> list[str]:
    """Define guests at once, and return what was said of each."""

    def define(name: str) -> str:
        try:
            hypervisor.define(name, name, set())
        except HypervisorError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(define, names))


def test_the_first_alone_then_all_at_once(connect: Open) -> None:
    """Nobody overtakes the first validated define of a connection; the others go together."""
    daemon = Daemon(together=3)
    assert _define(connect(daemon), "a", "b", "c", "d") == [""] * 4
    first, *others = daemon.company
    assert daemon.company[first] == {first}
    assert all(daemon.company[name] == set(others) for name in others)


def test_after_a_refused_one_the_next_goes_alone(connect: Open) -> None:
    """A guest that is refused may not have come as far as the schema."""
    daemon = Daemon(lingers=2, refuses="a")
    hypervisor = connect(daemon)
    assert "no" in _define(hypervisor, "a")[0]
    assert _define(hypervisor, "b", "c") == ["", ""]
    assert daemon.company == {name: {name} for name in "abc"}


def test_alone_again_on_the_next_daemon(connect: Open) -> None:
    """The daemon went away in between: the one in its place has its types to read."""
    old, new = Daemon(), Daemon(together=2)
    hypervisor = connect(old, new)
    assert _define(hypervisor, "a") == [""]
    old.is_gone = True
    assert _define(hypervisor, "b", "c", "d") == [""] * 3
    first, *others = new.company
    assert new.company[first] == {first}
    assert all(new.company[name] == set(others) for name in others)


@pytest.mark.parametrize(("code", "is_gone"), [(42, True), (29, False), (1, False)])
def test_a_guest_that_is_gone_is_told_apart(connect: Open, code: int, is_gone: bool) -> None:
    """By libvirt's code, and not by its words; every other error is none about a guest's end."""
    hypervisor = connect(Daemon())
    problem = LibvirtError("Domain not found: no domain with matching uuid")
    problem.code = code

    def look_up(_uuid: str) -> None:
        raise problem

    hypervisor._connection.raw.lookupByUUIDString = look_up
    domain = Domain("ci", "uuid-ci", persistent=False, active=True)
    reads: list[Callable[[], object]] = [
        lambda: hypervisor.xml_without_secrets(domain, live=True),
        lambda: hypervisor.persistent_xml(domain),
        lambda: hypervisor.saved_xml(domain),
    ]
    for read in reads:
        with pytest.raises(HypervisorError) as raised:
            read()
        assert isinstance(raised.value, GuestGoneError) is is_gone
        if is_gone:
            assert str(raised.value) == (
                "guest ci: it is no longer at qemu:///system: it was undefined, or it was "
                "transient and has ended; leave it out, or define it and run again."
            )


def test_without_validation_nobody_waits(connect: Open) -> None:
    """It reads no schema, and brings a guest back."""
    daemon = Daemon(lingers=0, together=2)
    hypervisor = connect(daemon)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(_define, hypervisor, "a")
        hypervisor.define("old", "old", set(), validate=False)
        assert first.result() == [""]
    assert daemon.company["a"] == {"a", "old"}


def test_a_virtual_function_is_where_its_physical_function_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Node devices as libvirt 9.0 describes them; this machine has none that is split."""
    function = "<address domain='0x0000' bus='0x3b' slot='0x00' function='0x0'/>"
    texts = {
        "pci_0000_3b_00_0": "<device><path>/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0</path>"
        "<capability type='pci'><numa node='3'/></capability></device>",
        "pci_0000_3b_10_1": "<device><path>/sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:10.1</path>"
        "<capability type='pci'><capability type='phys_function'>"
        f"{function}</capability></capability></device>",
        "pci_0000_00_01_0": "<device><capability type='pci'/></device>",
    }

    def look_up(name: str) -> SimpleNamespace:
        if name not in texts:
            raise LibvirtError("no node device with matching name")
        return SimpleNamespace(XMLDesc=lambda _flags: texts[name])

    monkeypatch.setattr(_hypervisor, "libvirt", SimpleNamespace(libvirtError=LibvirtError))
    hypervisor = Hypervisor.__new__(Hypervisor)
    raw = SimpleNamespace(nodeDeviceLookupByName=look_up)
    monkeypatch.setattr(hypervisor, "_connection", SimpleNamespace(raw=raw), raising=False)
    known = hypervisor.pci_devices(["0000:3b:10.1", "0000:00:01.0", "0000:00:02.0"])
    assert known == {
        "0000:3b:10.1": HostDevice(3, "pci0000:3a"),
        "0000:00:01.0": HostDevice(None),
        "0000:00:02.0": HostDevice(None),
    }
