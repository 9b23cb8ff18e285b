# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying a planned migration out, and finding out what came of it.

libvirt's answer alone does not say where a guest is: a connection may break after the guest has
arrived. So both hosts are asked afterwards, whatever the answer was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from .._domain.definition import read_definition, secrets
from .._domain.state import differences
from .._errors import HypervisorError, VnumaError
from .._hypervisor.ends import Source
from .._hypervisor.migration import Migration, Progress, Transfer, lost_its_reason
from .._model.domain import Domain
from .._size import show_size
from .destination import Arrival, Destination, MovingGuest
from .location import locate_guest

_LOOK_EVERY_S = 0.5
_SAY_EVERY_S = 5.0
#: How long a target may take to clear away what a migration that failed has left: its daemon
#: notices within half a minute that the other one is gone (keepalive_interval, keepalive_count).
_CLEARING_S = 60.0
_AGENT_PATIENCE_S = 30.0


@dataclass
class Move:
    """One guest on its way.

    Attributes:
        moving: the guest.
        destination: where it is to go, None where it cannot go anywhere.
        arrival: what it is to be there.
        reasons: why it cannot go, sentences by target.
        action: ``none``, ``migrated``, ``refused`` or ``failed``; in check mode, what would be.
        seconds: how long it took, None where it did not go.
        progress: how it went, None where that is not known.
        warnings: sentences about it.
    """

    moving: MovingGuest
    destination: Destination | None = None
    arrival: Arrival | None = None
    reasons: list[str] = field(default_factory=list)
    action: str = "none"
    seconds: float | None = None
    progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)


def carry_out(
    source: Source,
    move: Move,
    destination: Destination,
    arrival: Arrival,
    transfer: Transfer,
    say: Callable[[str], None],
) -> None:
    """Migrate a guest, and verify it where it is then.

    Args:
        source: where it runs.
        move: the guest; what happened is noted in it.
        destination: where it goes.
        arrival: what it is to be there.
        transfer: how.
        say: takes a line about how far it is.

    Raises:
        HypervisorError: when it was not migrated, or is not what it was to be.
    """
    moving = move.moving
    domain, began = moving.domain, time.monotonic()
    had_agent = source.agent_answers(domain)
    migration = Migration(source.full_uri, domain)
    try:
        _check_unchanged(source, moving)
        watch = _Watch(migration, domain, transfer, say)
        problem: HypervisorError | None = None
        with watch:
            try:
                migration.run(
                    destination.hypervisor.full_uri,
                    destination.migrate_uri,
                    (arrival.live.text, arrival.persistent.text),
                    transfer,
                    secrets(arrival.live.root) | secrets(arrival.persistent.root),
                )
            except HypervisorError as error:
                problem = error
        move.progress = watch.progress
    finally:
        migration.close()
    if problem is not None and not _has_arrived(source, destination, domain):
        raise _not_migrated(source, destination, domain, problem, watch, transfer)
    if problem is not None:
        move.warnings.append(
            f"libvirt reported an error, and it has arrived all the same: {problem.message}"
        )
    move.seconds = round(time.monotonic() - began, 1)
    move.action = "migrated"
    _verify(move, destination, arrival, had_agent)
    _check_source(source, domain, transfer)


class _Watch:
    """Looks at a migration while it runs: says how far it is, and ends it when its time is up."""

    def __init__(
        self,
        migration: Migration,
        domain: Domain,
        transfer: Transfer,
        say: Callable[[str], None],
    ) -> None:
        self.progress: Progress | None = None
        self.timed_out = False
        self._migration, self._domain, self._transfer = migration, domain, transfer
        self._say = say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        now = time.monotonic()
        deadline, next_word, heard = now + self._transfer.timeout_s, now + _SAY_EVERY_S, False
        while not self._over.wait(_LOOK_EVERY_S):
            self.progress = self._migration.progress() or self.progress
            now = time.monotonic()
            if now >= next_word and self.progress is not None:
                next_word = now + _SAY_EVERY_S
                self._say(f"guest {self._domain.name}: {progress_text(self.progress)}")
            if now >= deadline and not heard:
                self.timed_out = True
                late = self._transfer.post_copy
                heard = self._migration.finish_there() if late else self._migration.abort()


def progress_text(progress: Progress) -> str:
    """Return ``sent 12 MiB, 20 MiB of 32 MiB remain``."""
    sent, left, total = (
        show_size(kib) for kib in (progress.sent_kib, progress.remaining_kib, progress.total_kib)
    )
    return f"sent {sent}, {left} of {total} remain"


def _check_unchanged(source: Source, moving: MovingGuest) -> None:
    """Refuse to migrate what is no longer what was planned.

    Raises:
        HypervisorError: when its definition has changed, or it does not run any more.
    """
    domain = moving.domain
    if (
        source.persistent_xml(domain) != moving.persistent.text
        or read_definition(source.migratable_xml(domain)).state != moving.live.state
    ):
        raise HypervisorError(
            "someone else changed its definition after it was planned; it was not migrated, run "
            "again."
        )


def _has_arrived(source: Source, destination: Destination, domain: Domain) -> bool:
    """Tell whether a guest runs at the target, and no longer at the source."""
    try:
        here = source.find(domain)
        there = destination.hypervisor.find(domain)
    except VnumaError:
        return False
    return (
        there is not None
        and there.active
        and not (here is not None and here.active)
        and destination.hypervisor.state(there) == "running"
    )


def _not_migrated(
    source: Source,
    destination: Destination,
    domain: Domain,
    problem: HypervisorError,
    watch: _Watch,
    transfer: Transfer,
) -> HypervisorError:
    """Return the error for a guest that did not arrive: why, and where it is."""
    if watch.timed_out:
        far = "" if watch.progress is None else f" ({progress_text(watch.progress)})"
        why = (
            f"it did not finish within {transfer.timeout_s:g} s{far}; raise timeout or bandwidth, "
            "set auto_converge or post_copy, or migrate it when it has less to do"
        )
    elif lost_its_reason(problem):
        why = (
            "a libvirt daemon ended its connection and gave no reason; its log on the target and "
            "on the source has one"
        )
    else:
        why = problem.message.rstrip(".")
    return HypervisorError(
        f"it was not migrated to {destination.name}: {why}. "
        f"{_whereabouts(source, destination, domain)}"
    )


def _whereabouts(source: Source, destination: Destination, domain: Domain) -> str:
    """Say where a guest is after a migration that failed."""
    try:
        here = source.find(domain)
        state = "gone" if here is None else source.state(here) if here.active else "off"
    except VnumaError as error:
        return f"Where it is cannot be told: {error.message}"
    said = f"It is {state} on its source" + (", as before" if state == "running" else "")
    deadline = time.monotonic() + _CLEARING_S
    known = domain.uuid in destination.domains
    while True:
        try:
            there = destination.hypervisor.find(domain)
        except VnumaError:
            return f"{said}; {destination.name} cannot be asked, look there when it is back."
        if there is None or (known and not there.active):
            return f"{said}, and nothing of it is left on {destination.name}."
        if time.monotonic() > deadline:
            is_now = destination.hypervisor.state(there)
            return (
                f"{said}, and also defined on {destination.name}, where it is {is_now}; check "
                "both, and undefine it where it is not to be."
            )
        time.sleep(1.0)


def _verify(move: Move, destination: Destination, arrival: Arrival, had_agent: bool) -> None:
    """Compare what runs at the target with what was to run there.

    Raises:
        HypervisorError: when it is another; the guest stays there.
    """
    target, domain = destination.hypervisor, move.moving.domain
    there = target.find(domain)
    if there is None or not there.active or not there.persistent:
        raise HypervisorError(
            f"it left for {destination.name} and does not run there as a persistent guest; look "
            "at both hosts at once."
        )
    move.progress = target.last_progress(there) or move.progress
    found = []
    for live, wanted in ((True, arrival.live), (False, arrival.persistent)):
        now = read_definition(target.xml_without_secrets(there, live))
        kind = "live" if live else "persistent"
        found += [
            f"in its {kind} definition {one.subject} {one.second}, not {one.first}"
            for one in differences(wanted.state, now.state)
        ]
        if live:
            location = locate_guest(there, now, destination.host, target, None, with_memory=False)
            found += [drift.message.rstrip(".") for drift in location.drift]
    if found:
        raise HypervisorError(
            f"it runs on {destination.name}, and not as planned: {'; '.join(found)}; run "
            "vnuma_partition there."
        )
    if had_agent and not target.wait(
        lambda: target.agent_answers(there), time.monotonic() + _AGENT_PATIENCE_S
    ):
        move.warnings.append(
            f"its agent answered before, and has not done so on {destination.name} within "
            f"{_AGENT_PATIENCE_S:g} s; check the guest."
        )


def _check_source(source: Source, domain: Domain, transfer: Transfer) -> None:
    """Make sure that a guest which has arrived is not on its source too.

    Raises:
        HypervisorError: when it is.
    """
    here = None
    with suppress(VnumaError):
        here = source.find(domain)
    if here is not None and (here.active or transfer.undefine_source):
        raise HypervisorError(
            "it runs on its target, and its source still has it; check both hosts, and undefine "
            "it on the source."
        )
