# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for something to happen to a guest, without missing it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .connection import PATIENCE_S, Connection, libvirt


class WatchedConnection(Connection):
    """A connection that wakes those who wait whenever something happens to a guest.

    Where *watch* is False it listens to no events, for a run that waits for nothing.
    """

    def __init__(self, uri: str, patience_s: float = PATIENCE_S, watch: bool = True) -> None:
        self._watch = watch
        self._condition = threading.Condition()
        super().__init__(uri, patience_s)

    def wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        """Return whether it is done before the deadline (of the monotonic clock).

        Events are missed when the daemon dies, so there is a look every second as well.
        """
        while not is_done():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            with self._condition:
                self._condition.wait(min(left, 1.0))
        return True

    def _open(self, deadline: float) -> Any:
        connection = super()._open(deadline)
        if self._watch:
            connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._wake, None
            )
        return connection

    def _wake(self, *_event: object) -> None:
        """Let every waiter look again; a callback for libvirt's events."""
        with self._condition:
            self._condition.notify_all()
