# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module of the collection in this process, and kill it at one of its steps.

    python tests/lab/dying.py MODULE STEP < ARGUMENTS.json

A step is what outlives the process: a request to libvirt, which has one step before it and one
after it, or a change in a folder. The exit code is that of the module, or of a process that was
killed. It needs what a module needs, and the collection and Ansible on its path.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_FILES = ("fsync", "rename", "unlink")
_GUESTS = ("create", "destroyFlags", "shutdownFlags")
_HOSTS = ("createXML", "defineXMLFlags")


class Steps:
    """Counts steps, and kills this process at one of them."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._count = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        """Be one step further."""
        with self._lock:
            self._count += 1
            if self._count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str, after: bool) -> None:
        """Count calls of a function as steps."""
        function: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **keys: Any) -> Any:
            self.step()
            answer = function(*args, **keys)
            if after:
                self.step()
            return answer

        setattr(owner, name, watched)


def main() -> None:
    """Run the command line."""
    import libvirt

    module, step = sys.argv[1:]
    steps = Steps(int(step))
    for name in _FILES:
        steps.watch(os, name, after=False)
    for name in _GUESTS:
        steps.watch(libvirt.virDomain, name, after=True)
    for name in _HOSTS:
        steps.watch(libvirt.virConnect, name, after=True)
    sys.argv = [module]
    runpy.run_module(f"ansible_collections.kvm.vnuma.plugins.modules.{module}", run_name="__main__")


if __name__ == "__main__":
    main()
