# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a run: private, durable, and safe against another run."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._module import state_dir as _store
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import (
    StateDir,
    StateDirError,
)


def test_keeps_and_forgets(tmp_path: Path) -> None:
    """Definitions and begun restarts, each by the guest's UUID."""
    store = StateDir(str(tmp_path / "deep" / "state"), "host")
    assert store.old("a") is None
    assert store.begun_restart("a") is None
    store.keep_old("a", "<domain/>")
    store.begin_restart("a", "anuma")
    assert StateDir(str(tmp_path / "deep" / "state"), "host").old("a") == "<domain/>"
    note = store.begun_restart("a")
    assert note is not None
    assert note["name"] == "anuma"
    assert StateDir(str(tmp_path / "deep" / "state"), "other").old("a") is None
    store.end_restart("a")
    store.drop_old("a")
    store.drop_old("a")
    assert (store.old("a"), store.begun_restart("a")) == (None, None)


def test_private(tmp_path: Path) -> None:
    """Definitions hold passwords: nobody else may read them, whatever the umask."""
    umask = os.umask(0)
    try:
        store = StateDir(str(tmp_path / "state"), "host")
        store.keep_old("a", "<domain/>")
        with store.locked():
            pass
    finally:
        os.umask(umask)
    for path in (tmp_path / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_what_cannot_be_written_leaves_no_draft(tmp_path: Path) -> None:
    """A folder that is a file is said so, and nothing is left behind."""
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StateDirError) as raised:
        StateDir(str(tmp_path / "state"), "host").keep_old("a", "<domain/>")
    assert "its old definition cannot be saved in" in str(raised.value)
    assert "nothing was changed, free space there or set state_dir" in str(raised.value)


def test_a_damaged_note_still_counts(tmp_path: Path) -> None:
    """A restart that was begun is one, even if its note cannot be read."""
    store = StateDir(str(tmp_path), "host")
    store.begin_restart("a", "anuma")
    (tmp_path / "host" / "a.restart").write_text("{")
    assert store.begun_restart("a") == {}


def _hold(folder: str, taken: Event, go: Event) -> None:
    with StateDir(folder, "host").locked():
        taken.set()
        go.wait()


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run is told to wait, and can go on when the first has ended."""
    monkeypatch.setattr(_store, "_LOCK_PATIENCE_S", 0.2)
    context = multiprocessing.get_context("fork")
    taken, go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), taken, go))
    other.start()
    taken.wait()
    with pytest.raises(StateDirError) as raised, StateDir(str(tmp_path), "host").locked():
        pass
    assert "another run of kvm.vnuma is working on this host's guests" in str(raised.value)
    go.set()
    other.join()
    with StateDir(str(tmp_path), "host").locked():
        pass
