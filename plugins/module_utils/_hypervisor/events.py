# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for something to happen, without missing it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class EventWaiter:
    """Wakes those who wait whenever something happens to a guest."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def wake(self, *_event: object) -> None:
        """Let every waiter look again; a callback for libvirt's events."""
        with self._condition:
            self._condition.notify_all()

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
