# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that users see.

Every message is one sentence, or two, that names the guest (where there is one), the value, and
the remedy. Whoever raises may not know the guest's name; `for_guest` adds it once.
"""

from __future__ import annotations

import re
from typing import TypeVar

T = TypeVar("T", bound="VnumaError")

#: Controls of terminals and lines (C0 and C1), separators of lines, marks that turn the direction
#: of writing, and halves of characters. XML takes nearly all of them.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return a text for sentences and pages: with blanks for what would steer a terminal."""
    return str(text) if text.isprintable() else _CONTROLS.sub(" ", text)


#: Longest word of a sentence: who is given a million digits as a number need not see them all.
_LONGEST_WORD = 500


class VnumaError(Exception):
    """Something a user can read and act upon.

    Args:
        message: what is wrong and what to do, without the guest's name.
        guest: name of the guest it is about, None where it is about the whole call.

    Attributes:
        stored: whether a new definition stands all the same, and what came after it failed.
    """

    stored = False

    def __init__(self, message: str, guest: str | None = None) -> None:
        super().__init__(message)
        # Values are quoted as they were given, and may have line breaks.
        self.message = " ".join(map(_shortened, printable(message).split()))
        self.guest = guest

    def __str__(self) -> str:
        """Return the sentence, led by the guest's name where it is known."""
        return (
            self.message if self.guest is None else f"guest {printable(self.guest)}: {self.message}"
        )

    def for_guest(self, guest: str) -> VnumaError:
        """Return self, now known to be about *guest* unless it already named one."""
        if self.guest is None:
            self.guest = guest
        return self

    def about(self: T, guest: str) -> T:
        """Return a copy that is about a guest: guests of one size are refused in one."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.args, copy.guest = self.args, guest
        return copy


class CpusetError(VnumaError):
    """A cpuset or nodeset that cannot be read."""


class HostError(VnumaError):
    """A host topology that cannot be read or planned for."""


class PolicyError(VnumaError):
    """An option with a value that means nothing."""


class LayoutError(VnumaError):
    """The guest does not fit the host under the policy asked for."""


class RoomError(LayoutError):
    """The guest does not fit, and under other options it may.

    Args:
        problem: what is wrong, with the figures; no full stop.
        ways: what else could be done, where no other option helps.
    """

    def __init__(self, problem: str, ways: str) -> None:
        super().__init__(f"{problem}; {ways}.")
        self.problem = problem

    def solved(self, way: str) -> RoomError:
        """Return it with a way out that was tried."""
        return RoomError(self.problem, way).about(self.guest or "")


class DomainError(VnumaError):
    """A domain definition that cannot be read, or that must not be edited."""


class HypervisorError(VnumaError):
    """libvirt refused, failed, or cannot be reached."""


class DaemonLostError(HypervisorError):
    """The daemon ended or went silent on the way, so that what came of the request is unknown."""


class UnsettledError(HypervisorError):
    """Whether a guest runs cannot be told; what was noted about it must stay."""


class ChangedMeanwhileError(HypervisorError):
    """A definition is no longer the one that was planned or edited."""

    def __init__(self) -> None:
        super().__init__(
            "someone else changed its definition after it was planned; nothing was written; run "
            "again."
        )


class GuestGoneError(HypervisorError):
    """A guest that was listed is no longer there: it was undefined, or transient and has ended."""


def _shortened(word: str) -> str:
    # With its end: the quote that closes, and the semicolon after it.
    return word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}...{word[-2:]}"
