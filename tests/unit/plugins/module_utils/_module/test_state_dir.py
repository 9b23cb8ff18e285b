# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What outlives a run: durable, safe against another run, and never another user's."""

from __future__ import annotations

import json
import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._module import state_dir as _store
from ansible_collections.kvm.vnuma.plugins.module_utils._module.migration_notes import (
    MigrationNote,
    MigrationNotes,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import (
    RestartNote,
    StateDir,
    StateDirError,
)

NOTE = RestartNote("anuma", 1000.0, 1300.0, "late")
MOVING = MigrationNote("anuma", 1000.0, "kvm2", "uuid-kvm2", paused=True, phase="there")


def test_keeps_and_forgets(tmp_path: Path) -> None:
    """Layouts and notes, each by the guest's UUID."""
    store = MigrationNotes(str(tmp_path / "deep" / "state"), "host")
    assert (store.layout("a"), store.begun_restart("a"), store.kept()) == (None, None, ())
    store.keep_layout("a", "<layout/>")
    store.begin_restart("b", NOTE)
    store.begin_migration("c", MOVING)
    other = MigrationNotes(str(tmp_path / "deep" / "state"), "host")
    assert (other.layout("a"), other.begun_restart("b")) == ("<layout/>", NOTE)
    assert (other.begun_migration("c"), other.begun_migrations()) == (MOVING, ("c",))
    assert (other.kept(), other.leftovers()) == (("a", "b"), ())
    assert StateDir(str(tmp_path / "deep" / "state"), "other").layout("a") is None
    for _twice in range(2):
        store.drop_layout("a")
        store.end_restart("b")
        store.end_migration("c")
    assert list(store.folder.iterdir()) == []


def test_private(tmp_path: Path) -> None:
    """No other user may read or write any of it, whatever the umask."""
    umask = os.umask(0)
    try:
        store = StateDir(str(tmp_path / "state"), "host")
        store.keep_layout("a", "<layout/>")
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
        StateDir(str(tmp_path / "state"), "host").keep_layout("a", "<layout/>")
    assert "nothing was changed; free space there or set state_dir" in str(raised.value)


def test_leftovers(tmp_path: Path) -> None:
    """Drafts of runs that were killed, and definitions of earlier versions; nothing else."""
    store = StateDir(str(tmp_path), "host")
    store.keep_layout("a", "<layout/>")
    for name in (".a.layout.77", ".a.xml.12", "a.xml", "b.restart"):
        (store.folder / name).write_text("passwd='s3cr3t'")
    with store.locked():
        assert store.leftovers() == (".a.layout.77", ".a.xml.12", "a.xml")
        store.drop_leftovers()
    assert sorted(path.name for path in store.folder.iterdir()) == ["a.layout", "b.restart", "lock"]


@pytest.mark.parametrize("text", ["{", "[]", "", '{"since": "soon", "phase": 3, "x": 1}'])
def test_a_damaged_note_still_counts(tmp_path: Path, text: str) -> None:
    """A restart that was begun is one, even if its note cannot be read."""
    store = StateDir(str(tmp_path), "host")
    store.begin_restart("a", NOTE)
    (tmp_path / "host" / "a.restart").write_text(text)
    assert store.begun_restart("a") == RestartNote()


def test_a_whole_second_is_a_time(tmp_path: Path) -> None:
    """JSON knows one kind of number."""
    store = StateDir(str(tmp_path), "host")
    store.begin_restart("a", NOTE)
    path = tmp_path / "host" / "a.restart"
    path.write_text(json.dumps({**json.loads(path.read_text()), "since": 7}))
    assert store.begun_restart("a") == RestartNote("anuma", 7.0, 1300.0, "late")


def _lock(store: StateDir) -> None:
    with store.locked():
        pass


def _refusal(store: StateDir) -> str:
    """Return the sentence; reading, writing and locking say the same."""
    with pytest.raises(StateDirError) as reading:
        store.layout("a")
    with pytest.raises(StateDirError) as writing:
        store.keep_layout("a", "<layout/>")
    with pytest.raises(StateDirError) as locking:
        _lock(store)
    assert str(reading.value) == str(writing.value) == str(locking.value)
    return str(reading.value)


@pytest.mark.parametrize("which", [".", "host"])
def test_folders_that_others_may_write(tmp_path: Path, which: str) -> None:
    """What they could have put there is not believed, whoever owns the folder."""
    store = StateDir(str(tmp_path / "state"), "host")
    store.keep_layout("a", "<layout/>")
    (tmp_path / "state" / which).chmod(0o770)
    folder = (tmp_path / "state" / which).resolve()
    assert _refusal(store) == (
        f"the folder {folder} can be written by other users; run 'chmod go-w {folder}', or set "
        "state_dir to a folder that they cannot write."
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("which", [".", "host"])
def test_folders_of_others(tmp_path: Path, which: str) -> None:
    """Nor is what their owners put there."""
    store = StateDir(str(tmp_path / "state"), "host")
    store.keep_layout("a", "<layout/>")
    os.chown(tmp_path / "state" / which, 4711, 4711)
    assert "belongs to the user with id 4711, who could have written what is in it" in _refusal(
        store
    )


@pytest.mark.parametrize("which", ["state", "state/host"])
def test_folders_that_are_links(tmp_path: Path, which: str) -> None:
    """A link is not followed, wherever it leads."""
    store = StateDir(str(tmp_path / "state"), "host")
    store.keep_layout("a", "<layout/>")
    (tmp_path / which).rename(tmp_path / "elsewhere")
    (tmp_path / which).symlink_to(tmp_path / "elsewhere")
    assert _refusal(store).startswith(f"{tmp_path / which} is a link; set state_dir to")


@pytest.mark.parametrize("name", ["a.layout", "lock"])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "shared", "given away"])
def test_files_of_others(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe hangs nobody, a link is not followed, and what others may write is not believed."""
    if kind == "given away" and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    store = StateDir(str(tmp_path), "host")
    store.keep_layout("a", "<layout/>")
    path = store.folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "target").write_text("<layout/>")
        path.symlink_to(tmp_path / "target")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("<layout/>")
        path.chmod(0o622 if kind == "shared" else 0o600)
    if kind == "given away":
        os.chown(path, 4711, 4711)
    with pytest.raises(StateDirError) as raised:
        _lock(store) if name == "lock" else store.layout("a")
    assert str(path) in str(raised.value) or str(store.folder) in str(raised.value)


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
