# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to a libvirt daemon that may go away and come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .._errors import HypervisorError
from .events import EventWaiter

try:
    import libvirt

    LIBVIRT_IMPORT_ERROR: str | None = None
except ImportError as error:  # the caller says which package is missing, in one sentence
    libvirt = None
    LIBVIRT_IMPORT_ERROR = str(error)

__all__ = ["LIBVIRT_IMPORT_ERROR", "Connection", "libvirt"]

#: How long a daemon that went away is waited for: a service manager has it back in seconds.
_PATIENCE_S = 60.0
#: As libvirt's daemons have it (keepalive_interval and keepalive_count in libvirtd.conf).
_KEEPALIVE_S = 5
_KEEPALIVE_COUNT = 5
_starting = threading.Lock()
_started: list[bool] = []


class Connection:
    """One connection to a libvirt daemon.

    A daemon that goes away is waited for, up to a minute, by everything that is needed to bring
    a guest back; the rest fails at once.

    Attributes:
        uri: without a password, for sentences.
        raw: libvirt's own object, another one after the daemon was away.

    Args:
        uri: libvirt's connection URI, such as ``qemu:///system``.
        watch: listen to the guests' events, so that `wait` returns as soon as something happens.

    Raises:
        HypervisorError: when there is no connection to be had; the sentence has the remedy.
    """

    def __init__(self, uri: str, watch: bool = False) -> None:
        self.uri = _without_password(uri)
        self._full_uri = uri
        self._watch = watch
        self._events = EventWaiter()
        self._reconnecting = threading.Lock()
        # Otherwise libvirt's C library prints every error to stderr, besides raising it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        if watch:
            _start_event_loop()
        try:
            self.raw = self._open()
        except libvirt.libvirtError as error:
            raise HypervisorError(_no_connection(self.uri, error)) from None

    def close(self) -> None:
        """Close it; one that is broken already is let go."""
        with suppress(libvirt.libvirtError):
            self.raw.close()

    def wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Return whether it is done before the deadline, a time of the monotonic clock."""
        return self._events.wait(is_done, deadline)

    def with_reconnect(self, ask: Callable[[], Any]) -> Any:
        """Ask, and ask again over a new connection should the daemon have gone away."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            connection = self.raw
            try:
                return ask()
            except libvirt.libvirtError:
                if _answers(connection) or time.monotonic() > deadline:
                    raise
            with self._reconnecting:
                while self.raw is connection and time.monotonic() < deadline:
                    try:
                        self.raw = self._open()
                    except libvirt.libvirtError:
                        time.sleep(0.2)

    @contextmanager
    def errors(
        self, doing: str, guest: str | None = None, secrets: set[str] | None = None
    ) -> Iterator[None]:
        """Turn libvirt's exceptions into one sentence.

        Args:
            doing: what could not be done then, as in "could not define it".
            guest: whom it is about.
            secrets: what must not appear in the sentence, should libvirt quote it.

        Raises:
            HypervisorError: with that sentence.
        """
        try:
            yield
        except libvirt.libvirtError as error:
            message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
            for secret in secrets or ():
                message = message.replace(secret, "********")
            # libvirt forbids an operation as such only to a read-only connection.
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED:
                raise HypervisorError(
                    f"the connection to {self.uri} is read-only, and cannot {doing}; connect as a "
                    "user who may manage guests, through the read-write socket."
                ) from None
            raise HypervisorError(
                f"libvirt at {self.uri} could not {doing}: {message}.", guest=guest
            ) from None

    def _open(self) -> Any:
        connection = libvirt.open(self._full_uri)
        if self._watch:
            connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._events.wake, None
            )
            # A daemon that is cut off is noticed in half a minute; drivers without one lack it.
            with suppress(libvirt.libvirtError):
                connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
        return connection


def _answers(connection: Any) -> bool:
    try:
        connection.getLibVersion()
    except libvirt.libvirtError:
        return False
    return True


def _start_event_loop() -> None:
    """Run libvirt's event loop in the background; it has to be there before the connection.

    All connections of a process share it: libvirt takes one implementation, and without one that
    runs a connection answers no keepalive of its daemon (virConnectSetKeepAlive).
    """
    with _starting:
        if _started:
            return
        _started.append(True)
    libvirt.virEventRegisterDefaultImpl()

    def loop() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=loop, name="libvirt-events", daemon=True).start()


def _no_connection(uri: str, error: Any) -> str:
    message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
    if "Permission denied" in message or "authentication" in message.lower():
        way_out = "use become, or a user who may manage guests (group libvirt on most systems)"
    elif "No such file" in message or "Connection refused" in message:
        way_out = "start libvirtd (or virtqemud) there, or correct uri"
    else:
        way_out = "correct uri, or check that the libvirt daemon there is reachable"
    return f"cannot connect to {uri}: {message}; {way_out}."


def _without_password(uri: str) -> str:
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:********@", uri)
