# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample of the definitions that no one would write; ``make fuzz`` tries many more."""

from __future__ import annotations

import sys
import time

import pytest

pytest.importorskip("ansible.errors")
if sys.platform != "linux":
    pytest.skip("limits of processes are Linux'", allow_module_level=True)

import fuzz
from ansible.errors import AnsibleFilterError

SEED = "2026"


def test_a_sentence_or_an_answer() -> None:
    """Soon, and in little memory; and never a traceback."""
    verdicts: dict[str, int] = {}
    found = list(fuzz.findings(SEED, range(400), fuzz.WORDS, verdicts))
    assert found == []
    assert verdicts["answer"] > 50
    assert verdicts["sentence"] > 50


def test_a_case_is_made_again_from_its_number() -> None:
    """What failed once can be looked at."""
    for number in range(20):
        (text, _call), (again, _other) = (fuzz.case(SEED, number, fuzz.WORDS) for _time in range(2))
        assert text == again


def _spin() -> None:
    while True:
        time.monotonic()


def _hoard() -> None:
    bytearray(2 * fuzz.BYTES)


def _say(text: str) -> None:
    raise AnsibleFilterError(text)


def test_what_is_wrong_is_noticed() -> None:
    """Time, memory, tracebacks, and sentences that are none."""
    assert fuzz.tried(lambda: None) == "answer"
    assert fuzz.tried(lambda: _say("It is wrong.")) == "sentence"
    assert fuzz.tried(lambda: _say("two\nlines.")).startswith("no sentence: ")
    assert fuzz.tried(lambda: _say("no end")).startswith("no sentence: ")
    assert fuzz.tried(lambda: next(iter(()), []).pop()).endswith(
        "IndexError: pop from empty list\n"
    )
    assert fuzz.tried(_hoard).endswith("MemoryError\n")
    assert fuzz.tried(_spin) == "it was killed by signal 24"
