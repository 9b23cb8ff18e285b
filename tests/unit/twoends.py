# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two made-up hosts, each with one copy of a guest at the most, that do what libvirt would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    DaemonLostError,
    HypervisorError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Condition, Domain

GUEST = Domain("db1", "uuid-db1", True, True)
XML = "<domain type='kvm'>\n  <name>db1</name>\n  <uuid>uuid-db1</uuid>\n</domain>\n"
GONE, OFF = Condition("gone"), Condition("off", "migrated")
DESTROYED = Condition("off", "destroyed")
RUNNING = Condition("running", "booted")
USER = Condition("paused", "user")
MIGRATION = Condition("paused", "migration")


@dataclass
class CopyEnd:
    """One of the two hosts.

    Attributes:
        name: in what is done.
        condition_now: of its copy.
        persistent: whether it has a definition of it.
        jobs: how often it says that a migration goes on.
        is_silent: whether it answers nothing.
        fails: what it refuses to do.
        ignores: what it says it has done, and has not.
        done: what both hosts did, in order.
        look: called after each act.
    """

    name: str
    condition_now: Condition
    persistent: bool = True
    jobs: int = 0
    is_silent: bool = False
    fails: set[str] = field(default_factory=set)
    ignores: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    look: Callable[[], None] = lambda: None
    xml: str = XML
    patience_s: float = 0.0
    uri: str = "qemu:///system"

    def host_uuid(self) -> str:
        """The host."""
        return f"uuid-{self.name}"

    def settled(self, _domain: Domain, _deadline: float) -> Condition:
        """What the copy does."""
        if self.is_silent:
            raise DaemonLostError(f"the daemon on the {self.name} is away.")
        return self.condition_now

    def condition(self, domain: Domain) -> Condition:
        """The same."""
        return self.settled(domain, 0.0)

    def has_job(self, domain: Domain) -> bool:
        """Whether a migration goes on."""
        self.settled(domain, 0.0)
        self.jobs -= 1
        return self.jobs >= 0

    def abort_job(self, _domain: Domain) -> None:
        """End the migration."""
        self._did("abort")

    def wait(self, is_done: Callable[[], bool], _deadline: float) -> bool:
        """Return whether it is done."""
        return is_done()

    def find(self, domain: Domain) -> Domain | None:
        """The guest, where it is here."""
        if self.condition(domain) == GONE:
            return None
        active = self.condition_now.state != "off"
        return Domain(domain.name or "db1", domain.uuid, self.persistent, active)

    def persistent_xml(self, _domain: Domain) -> str:
        """The persistent definition."""
        return self.xml

    def resume(self, domain: Domain) -> None:
        """Let it run."""
        if self.condition(domain).state != "paused":
            raise HypervisorError("domain is already running")
        self._act("resume", Condition("running", "unpaused"))

    def pause(self, _domain: Domain) -> None:
        """Keep it from running."""
        self._act("pause", USER)

    def force_off(self, _domain: Domain, _deadline: float) -> None:
        """End it."""
        self._act("force off", Condition("off", "destroyed") if self.persistent else GONE)

    def undefine(self, domain: Domain) -> None:
        """Forget it."""
        if self.condition(domain).state != "off":
            raise HypervisorError("it is alive")
        self._act("undefine", GONE)
        self.persistent = False

    def _act(self, what: str, condition: Condition) -> None:
        if self.is_silent or what in self.fails:
            raise HypervisorError(f"libvirt could not {what}.")
        if what not in self.ignores:
            self.condition_now = condition
        self._did(what)

    def _did(self, what: str) -> None:
        self.done.append(f"{self.name}: {what}")
        self.look()
