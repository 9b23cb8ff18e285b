# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the two copies that a migration leaves is the guest.

While a guest migrates, there are a copy on its source and one on its target. libvirt ends one of
them; where a daemon or the module dies in between, both may be left. The one that has run on is the
guest: the other one's memory is older, and what its disks hold is newer than it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .._model.domain import Condition

#: Why a copy on the source is paused that was running, and that libvirt has left so.
_BY_MIGRATION = frozenset({"migration", "unknown", "api_error"})
_POST_COPY = frozenset({"post_copy", "post_copy_failed"})


class Verdict(Enum):
    """What becomes of the two copies."""

    #: The source's is the guest; the target's has not run, and is ended.
    STAYS = "stays"
    #: The target's is the guest; the source's is over, or has stood still since, and is ended.
    ARRIVED = "arrived"
    #: Neither is alive.
    OFF = "off"
    #: Both run; which ought not to is what the note says.
    TWICE = "twice"
    #: Each has a part of the guest's memory.
    POST_COPY = "post copy"
    #: The target's may have run, and the source's was started since by someone else.
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Copies:
    """What both hosts say of a guest, once each knows.

    Attributes:
        here: on the source.
        there: on the target.
    """

    here: Condition
    there: Condition

    @property
    def run_both(self) -> bool:
        """Whether both may execute."""
        return runs(self.here) and runs(self.there)

    def verdict(self, phase: str) -> Verdict:
        """Say which of them is the guest.

        *phase* is that of the note: ``moving`` as long as the target's has not been told to run.
        """
        here, there = self.here, self.there
        if _splits_memory(here) or _splits_memory(there):
            return Verdict.POST_COPY
        if not is_alive(here):
            return Verdict.ARRIVED if is_alive(there) else Verdict.OFF
        if not is_alive(there):
            return Verdict.STAYS
        if self.run_both:
            return Verdict.TWICE
        if phase == "there":
            return Verdict.UNCLEAR
        # One that runs while the other one stands still was told to, by post-copy or by someone.
        return Verdict.ARRIVED if runs(there) else Verdict.STAYS


def is_alive(condition: Condition) -> bool:
    """Tell whether a copy has a process."""
    return condition.state not in ("off", "gone")


def runs(condition: Condition) -> bool:
    """Tell whether a copy executes, or may do so without being told to."""
    return is_alive(condition) and condition.state != "paused"


def stopped_by_migration(condition: Condition) -> bool:
    """Tell whether a copy on the source is paused because a migration has left it so."""
    return condition.state == "paused" and condition.reason in _BY_MIGRATION


def _splits_memory(condition: Condition) -> bool:
    return is_alive(condition) and condition.reason in _POST_COPY
