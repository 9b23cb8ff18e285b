# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a migration to its end, by what both hosts say of the guest.

What libvirt answered does not decide: a connection may break after the guest has arrived, and a run
that was killed has heard no answer at all. At no time are both copies told to run: the target's is
resumed when the source's is seen to be over, the source's when the target's is seen to be over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from .._domain.definition import read_definition
from .._errors import HypervisorError, UnsettledError, VnumaError
from .._hypervisor.ends import End, Source, Target, remedy
from .._model.domain import Condition, Domain
from .copies import Copies, Verdict, is_alive, runs, stopped_by_migration
from .migration_notes import MigrationNote, MigrationNotes, digest
from .state_dir import StateDirError

T = TypeVar("T")

#: A process that does not end when it is killed waits for its storage.
_ENDING_S = 30.0
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """Where a guest is, now that its migration is over.

    Attributes:
        place: ``source``, ``target`` or ``nowhere``.
        sentence: what each host has of it, where it is not at the target.
        resumed_at: when it was resumed at the target, of the monotonic clock; None if it was not.
    """

    place: str
    sentence: str
    changed: bool
    resumed_at: float | None = None


class Ending:
    """Ends the migration of one guest.

    Args:
        name: of the target, for sentences.
        state_dir: of the source.
        undefine_source: whether the source forgets it once it runs at the target.
        say: takes a line that must not wait for the result.
    """

    def __init__(
        self,
        source: Source,
        target: Target,
        name: str,
        domain: Domain,
        state_dir: MigrationNotes,
        undefine_source: bool,
        say: Callable[[str], None],
    ) -> None:
        self._source, self._target, self._name = source, target, name
        self._domain = domain
        self._state_dir = state_dir
        self._undefine_source = undefine_source
        self._say = say

    def end(self, note: MigrationNote, over_by: float) -> Outcome:
        """See which copy is the guest, let it run, and end the other one.

        libvirt may go on with the migration until *over_by*, of the monotonic clock.

        Returns:
            Where it is; the note is gone then.

        Raises:
            UnsettledError: when that cannot be told or done now; the note stays.
        """
        copies = self._look(note, over_by)
        verdict = copies.verdict(note.phase)
        if verdict is Verdict.TWICE:
            self._stop_one_of_two(note, copies)
        if verdict is Verdict.STAYS:
            return self._stay(note, copies)
        if verdict is Verdict.ARRIVED:
            return self._arrive(note, copies)
        if verdict is Verdict.OFF:
            return self._off(note, copies)
        raise UnsettledError(self._undecided(verdict, copies))

    def hand_over(self, note: MigrationNote) -> Outcome | None:
        """Let it run at the target, where libvirt says that it has arrived there.

        The guest stands still meanwhile, so that nothing is asked but whether the source is over.

        Returns:
            Where it is; None where the source still has a process of it, see `end`.

        Raises:
            UnsettledError: as `end`.
        """
        here = self._ask(self._source, lambda end: _settled(end, self._domain), None)
        if is_alive(here):
            return None
        return self._arrive(note, Copies(here, Condition("paused", "user")))

    def _look(self, note: MigrationNote, over_by: float) -> Copies:
        """Ask both hosts, and wait until libvirt itself has ended what it was doing."""
        copies = self._copies(_condition)
        is_over = not any(self._is_busy(end, copies) for end in (self._source, self._target))
        if copies.run_both and is_over:
            copies = self._copies(_settled)
            if copies.run_both:
                self._stop_one_of_two(note, copies)
        self._wait_for_libvirt(copies, over_by)
        return self._copies(_settled)

    def _wait_for_libvirt(self, copies: Copies, over_by: float) -> None:
        """Wait until neither daemon migrates it; the source's decides for how long that may be."""
        given_up, aborted = over_by + self._source.patience_s, False
        while self._is_busy(self._source, copies):
            now = time.monotonic()
            if now > given_up:
                raise UnsettledError(
                    f"its migration to {self._name} is still going on: {self._words(copies)}; run "
                    "again when 'virsh domjobinfo' on its source says that it is over."
                )
            if now > over_by and not aborted:
                aborted = True
                self._source.abort_job(self._domain)
            self._source.wait(lambda: False, now + _LOOK_EVERY_S)
        given_up = time.monotonic() + self._target.patience_s
        while self._is_busy(self._target, copies):
            if time.monotonic() > given_up:
                raise UnsettledError(self._stuck())
            self._target.wait(lambda: False, time.monotonic() + _LOOK_EVERY_S)

    def _stuck(self) -> str:
        """Say what is to be done where the target's daemon does not clear away its copy."""
        words = self._words(self._copies(_condition))
        return (
            f"{words}, and libvirt on {self._name} does not end what it began to take in; it may "
            f"have been killed while it started the copy. {remedy(self._domain.name)}"
        )

    def _is_busy(self, end: End, copies: Copies) -> bool:
        """Tell whether libvirt is migrating it, on a host."""
        return self._ask(end, lambda one: one.has_job(self._domain), copies.here)

    def _copies(self, how: Callable[[End, Domain], Condition]) -> Copies:
        here = self._ask(self._source, lambda end: how(end, self._domain), None)
        return Copies(here, self._ask(self._target, lambda end: how(end, self._domain), here))

    def _ask(self, end: End, ask: Callable[[End], T], here: Condition | None) -> T:
        """Ask a host; say what is known of both copies where it does not answer."""
        try:
            return ask(end)
        except HypervisorError as error:
            why = error.message.rstrip(".")
        if end is self._target:
            which, known = self._name, f"it is {here} on its source"
        else:
            which, known = "its source", self._what_target_says()
        raise UnsettledError(
            f"where it runs cannot be told, since {which} cannot be asked ({why}); {known}, and "
            "both copies are left as they are. Run again when both daemons answer."
        )

    def _what_target_says(self) -> str:
        try:
            return f"it is {self._target.condition(self._domain)} on {self._name}"
        except VnumaError:
            return f"{self._name} cannot be asked either"

    def _stay(self, note: MigrationNote, copies: Copies) -> Outcome:
        """End what the target has, and let it run on at its source."""
        changed = False
        with self._telling(copies):
            if is_alive(copies.there):
                self._end_copy(self._target)
                changed = True
            changed |= self._forget_there(note)
            if stopped_by_migration(copies.here) and not note.paused:
                self._run(self._source)
                changed = True
        here = self._ask(self._source, lambda end: _settled(end, self._domain), None)
        as_before = here.state == ("paused" if note.paused else "running")
        if not is_alive(here):
            return self._off(note, Copies(here, Condition("gone")))
        self._state_dir.end_migration(self._domain.uuid)
        left = (
            f"its definition is left on {self._name}, since someone undefined it on its source"
            if self._is_defined(self._target) and not note.known_there
            else f"nothing of it is left on {self._name}"
        )
        state, before = here.state.replace("_", " "), ", as before" if as_before else ""
        return Outcome("source", f"It is {state} on its source{before}, and {left}.", changed)

    def _arrive(self, note: MigrationNote, copies: Copies) -> Outcome:
        """End what the source has, and let it run at the target."""
        domain, resumed_at = self._domain, None
        with self._telling(copies):
            if note.phase != "there":
                # From here on the source's is not the guest any more, whatever happens.
                # Where that cannot be noted, the source is over all the same.
                note = replace(note, phase="there")
                with suppress(StateDirError):
                    self._state_dir.begin_migration(domain.uuid, note)
            changed = is_alive(copies.here)
            if changed:
                self._end_copy(self._source)
            if not note.paused and not runs(copies.there):
                self._run(self._target)
                changed, resumed_at = True, time.monotonic()
        there = self._ask(self._target, lambda end: _settled(end, self._domain), copies.here)
        if not is_alive(there):
            return self._off(note, Copies(Condition("off"), there))
        if not note.paused and not runs(there):
            raise UnsettledError(
                f"it has arrived on {self._name} and is {there} there; find out why in its log "
                f"there, and run again, or 'virsh resume {domain.name}' there."
            )
        with self._telling(Copies(copies.here, there)):
            changed |= self._forget_here(note)
        self._state_dir.end_migration(domain.uuid)
        return Outcome("target", "", changed, resumed_at)

    def _off(self, note: MigrationNote, copies: Copies) -> Outcome:
        """Leave a guest off that was turned off, or crashed, with one definition."""
        changed = False
        with self._telling(copies):
            went = note.phase == "there" or copies.here.reason == "migrated"
            if went and self._is_defined(self._target):
                changed = self._forget_here(note)
            elif not went:
                changed = self._forget_there(note)
        self._state_dir.end_migration(self._domain.uuid)
        return Outcome("nowhere", f"I{self._words(copies)[1:]}.", changed)

    def _stop_one_of_two(self, note: MigrationNote, copies: Copies) -> None:
        """Pause the copy that must not run, and say so before anything else.

        Raises:
            UnsettledError: always.
        """
        domain, on_source = self._domain, note.phase == "there"
        end: End = self._source if on_source else self._target
        which = "its source" if on_source else self._name
        try:
            end.pause(domain)
            done = f"the module paused the copy on {which}"
        except VnumaError as error:
            done = (
                f"the copy on {which} could not be paused ({error.message.rstrip('.')}), so run "
                f"'virsh suspend {domain.name}' there now"
            )
        after = (
            f"end it with 'virsh destroy {domain.name}' there"
            if on_source
            else f"the next run ends it. If that one is to stay, run 'virsh destroy {domain.name}' "
            "on the source first"
        )
        sentence = (
            f"two copies of it were running, one on its source and one on {self._name}, because "
            f"someone else resumed one or a daemon ended; {done}; {after}. Check its disks."
        )
        self._say(f"guest {domain.name}: {sentence}")
        raise UnsettledError(sentence)

    def _undecided(self, verdict: Verdict, copies: Copies) -> str:
        words, name = self._words(copies), self._domain.name
        if verdict is Verdict.POST_COPY:
            return (
                f"post-copy was cut off: {words}, and each has a part of its memory; find out "
                "whether 'virsh migrate --postcopy --postcopy-resume' on its source can end it, "
                "and run again."
            )
        return (
            f"{words}, and the copy on {self._name} may have run after the one on its source was "
            "over, so that both are left as they are; end the one that is not to stay with 'virsh "
            f"destroy {name}', and run again."
        )

    def _run(self, end: End) -> None:
        """Let a paused copy run, the other one being over."""
        try:
            end.resume(self._domain)
        except HypervisorError:
            # It may have been heard before its daemon ended.
            if not runs(_settled(end, self._domain)):
                raise

    def _end_copy(self, end: End) -> None:
        end.force_off(self._domain, time.monotonic() + _ENDING_S)
        after = _settled(end, self._domain)
        if is_alive(after):
            raise HypervisorError(f"libvirt at {end.uri} has not ended it: it is {after}.")

    def _is_defined(self, end: End) -> bool:
        found = end.find(self._domain)
        return found is not None and found.persistent

    def _forget_there(self, note: MigrationNote) -> bool:
        """Undefine it on the target, if the migration defined it and another definition is left."""
        undefines = (
            not note.known_there
            and self._is_defined(self._target)
            and self._is_defined(self._source)
        )
        if undefines:
            self._target.undefine(self._domain)
        return undefines

    def _forget_here(self, note: MigrationNote) -> bool:
        """Undefine it on the source, if that was asked for and the target has all of it."""
        if not self._is_defined(self._target):
            raise UnsettledError(
                f"it is not defined on {self._name}, and would be lost there when it is shut down; "
                "define it there, and run again."
            )
        if not self._undefine_source or not self._is_defined(self._source):
            return False
        now = digest(read_definition(self._source.persistent_xml(self._domain)))
        if note.definition not in ("", now):
            raise UnsettledError(
                f"it is on {self._name}, and someone else changed its definition on its source "
                "while it migrated, so that this one is kept; make the same change on "
                f"{self._name}, run 'virsh undefine {self._domain.name}' on the source, and run "
                "again."
            )
        self._source.undefine(self._domain)
        return True

    @contextmanager
    def _telling(self, copies: Copies) -> Iterator[None]:
        """Say what is known of both copies, where a step fails."""
        try:
            yield
        except UnsettledError:
            raise
        except HypervisorError as error:
            raise UnsettledError(
                f"its migration cannot be ended now: {error.message} When last asked, "
                f"{self._words(copies)}; run again."
            ) from None

    def _words(self, copies: Copies) -> str:
        return f"it is {copies.here} on its source and {copies.there} on {self._name}"


def _condition(end: End, domain: Domain) -> Condition:
    return end.condition(domain)


def _settled(end: End, domain: Domain) -> Condition:
    return end.settled(domain, time.monotonic() + end.patience_s)
