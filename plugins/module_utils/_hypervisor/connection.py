# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to a libvirt daemon that may go away and come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from .._errors import DaemonLostError, GuestGoneError, HypervisorError

try:
    import libvirt

    LIBVIRT_IMPORT_ERROR: str | None = None
except ImportError as error:  # the caller says which package is missing, in one sentence
    libvirt = None
    LIBVIRT_IMPORT_ERROR = str(error)

__all__ = ["LIBVIRT_IMPORT_ERROR", "PATIENCE_S", "Connection", "libvirt"]

T = TypeVar("T")

#: How long a daemon that is away is waited for: a service manager has it back in seconds.
PATIENCE_S = 60.0
#: As libvirt's daemons have it (keepalive_interval in libvirtd.conf).
_KEEPALIVE_S = 5
#: And keepalive_count: one that is cut off is noticed in half a minute.
_KEEPALIVE_COUNT = 5
_STARS = "********"
_starting = threading.Lock()
_started: list[bool] = []


class Connection:
    """One connection to a libvirt daemon.

    A daemon that goes away is waited for by everything that is needed to bring a guest back; the
    rest fails. One that takes no connections, or falls silent, is given up in the same time.

    Attributes:
        uri: without a password, for sentences.
        raw: libvirt's own object, another one after the daemon was away.

    Raises:
        HypervisorError: when there is no connection to be had; the sentence has the remedy.
    """

    def __init__(self, uri: str, patience_s: float = PATIENCE_S) -> None:
        self.uri = _without_password(uri)
        self.patience_s = patience_s
        self._full_uri = uri
        self._reconnecting = threading.Lock()
        # Otherwise libvirt's C library prints every error to stderr, besides raising it.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        _start_event_loop()
        try:
            self.raw = self._open(time.monotonic() + patience_s)
        except libvirt.libvirtError as error:
            raise HypervisorError(_no_connection(self.uri, uri, error)) from None

    def close(self) -> None:
        """Close it; one that is broken already is let go."""
        with suppress(libvirt.libvirtError):
            self.raw.close()

    def with_reconnect(self, ask: Callable[[], Any], deadline: float | None = None) -> Any:
        """Ask, and ask again over a new connection should the daemon have gone away.

        The daemon is waited for until *deadline*, of the monotonic clock; by default as long as
        this connection has patience.
        """
        until = time.monotonic() + self.patience_s if deadline is None else deadline
        while True:
            connection = self.raw
            try:
                return ask()
            except libvirt.libvirtError:
                if self.answers(connection) or time.monotonic() > until:
                    raise
            with self._reconnecting:
                while self.raw is connection and time.monotonic() < until:
                    try:
                        self.raw = self._open(until)
                    except (libvirt.libvirtError, HypervisorError):
                        time.sleep(0.2)

    def answers(self, connection: Any) -> bool:
        """Tell whether the daemon at the end of a connection is there."""
        try:
            connection.getLibVersion()
        except libvirt.libvirtError:
            return False
        return True

    @contextmanager
    def errors(
        self, doing: str, guest: str | None = None, secrets: set[str] | None = None
    ) -> Iterator[None]:
        """Turn libvirt's exceptions into one sentence.

        *doing* is as in "could not define it"; *secrets* must not appear in the sentence, should
        libvirt quote them.

        Raises:
            GuestGoneError: when there is no such guest any more.
            HypervisorError: with that sentence, for everything else.
        """
        try:
            yield
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise GuestGoneError(
                    f"it is no longer at {self.uri}: it was undefined, or it was transient and has "
                    "ended; leave it out, or define it and run again.",
                    guest=guest,
                ) from None
            message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
            # The longest first: one may be a part of another.
            for secret in sorted(secrets or (), key=len, reverse=True):
                message = message.replace(secret, _STARS)
            # libvirt forbids an operation as such only to a read-only connection.
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED:
                raise HypervisorError(
                    f"the connection to {self.uri} is read-only, and cannot {doing}; connect as a "
                    "user who may manage guests, through the read-write socket."
                ) from None
            kind = HypervisorError if self.answers(self.raw) else DaemonLostError
            raise kind(
                f"libvirt at {self.uri} could not {doing}: {message}.", guest=guest
            ) from None

    def _open(self, deadline: float) -> Any:
        connection = within(
            deadline,
            lambda: libvirt.open(self._full_uri),
            f"cannot connect to {self.uri}: the libvirt daemon there takes no connection; check "
            "whether it hangs, or has too many clients (max_clients in its configuration).",
        )
        # Drivers without a daemon lack it.
        with suppress(libvirt.libvirtError):
            most = max(1, int(self.patience_s / _KEEPALIVE_S) - 1)
            connection.setKeepAlive(_KEEPALIVE_S, min(most, _KEEPALIVE_COUNT))
        return connection


def within(deadline: float, ask: Callable[[], T], otherwise: str) -> T:
    """Ask what libvirt may never answer, and give up when the time is up.

    A request has no limit of its own: a daemon that takes no more clients leaves virConnectOpen
    waiting, and one that lost a guest's process half way leaves virDomainDestroy waiting (seen
    with libvirt 9.0). The thread that waits is left behind, and ends with the module.

    *deadline* is of the monotonic clock; *otherwise* is the sentence where it was given up.

    Raises:
        DaemonLostError: when it was given up.
    """
    answers: list[T] = []
    problems: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, name="libvirt-request", daemon=True)
    thread.start()
    thread.join(max(0.1, deadline - time.monotonic()))
    for problem in problems:
        raise problem
    if not answers:
        raise DaemonLostError(otherwise)
    return answers[0]


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


def _no_connection(uri: str, full_uri: str, error: Any) -> str:
    message = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
    for secret in _passwords(full_uri):
        message = message.replace(secret, _STARS)
    if "Permission denied" in message or "authentication" in message.lower():
        way_out = "use become, or a user who may manage guests (group libvirt on most systems)"
    elif "No such file" in message or "Connection refused" in message:
        way_out = "start libvirtd (or virtqemud) there, or correct uri"
    else:
        way_out = "correct uri, or check that the libvirt daemon there is reachable"
    return f"cannot connect to {uri}: {message}; {way_out}."


def _passwords(uri: str) -> list[str]:
    """Return what may be a password in a URI: all from the user's colon to the last @."""
    found = re.search(r"//[^/:]*?:([^/]*)@", uri)
    return [found.group(1)] if found and found.group(1) else []


def _without_password(uri: str) -> str:
    return re.sub(r"(//[^/:]*?):[^/]*@", rf"\1:{_STARS}@", uri)
