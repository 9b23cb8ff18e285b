# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where page and metrics go, another user may have been first: nothing of that user is followed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
from conftest import Libvirt
from test_role import Hosts, Play

NOBODY = 65534
BOOK = "kvm.vnuma.report"


class Place:
    """A host, a file that is not to be touched, and a folder where another user may write."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.victim = hosts.folder / "victim"
        self.victim.write_text("untouched")
        self.victim.chmod(0o600)
        self.open = hosts.folder / "open"
        self.open.mkdir()
        self.open.chmod(0o1777)
        # The folders of the test are root's alone.
        for folder in (hosts.folder, *hosts.folder.parents):
            if folder.owner() == "root" and folder.is_relative_to("/tmp/pytest-of-root"):
                folder.chmod(0o755)

    def play(self, programs: Path | None = None, **variables: object) -> Play:
        """Look at the guests, and write what the variables say; *programs* come first in PATH."""
        page = self.hosts.folder / "page.html"
        self.hosts.guests("kvm1", **{"vnuma_report": str(page), **variables})
        more = {} if programs is None else {"PATH": f"{programs}:{os.environ['PATH']}"}
        done = commands.run(self.hosts.command(BOOK), self.hosts.folder, more)
        play = Play(done.stdout + done.stderr, done.returncode != 0)
        assert "Traceback" not in play.output, play.output
        assert self.victim.read_text() == "untouched"
        assert self.victim.stat().st_mode & 0o7777 == 0o600
        return play


@pytest.fixture
def place(lab: Callable[..., Libvirt], ansible: None, tmp_path: Path) -> Place:
    """A host without guests."""
    libvirt = lab("asym-3n")
    libvirt.clear()
    return Place(Hosts({"kvm1": libvirt}, tmp_path))


def _names(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir()]


def _inode(path: Path) -> tuple[int, int, int]:
    there = os.lstat(path)
    return there.st_ino, there.st_mode, there.st_uid


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target)
    os.lchown(path, NOBODY, NOBODY)


def _fifo(path: Path, _target: Path) -> None:
    os.mkfifo(path)
    os.chown(path, NOBODY, NOBODY)


def _folder(path: Path, _target: Path) -> None:
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)


def _dangling(path: Path, target: Path) -> None:
    _link(path, target.with_name("made"))


def _link_to_folder(path: Path, target: Path) -> None:
    _link(path, target.parent)


TRICKS = (_link, _dangling, _link_to_folder, _fifo, _folder)


def _of_another(path: Path, _target: Path) -> None:
    path.write_text("")
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("trick", [*TRICKS, _of_another])
def test_page_where_another_user_was_first(place: Place, trick: Callable[..., None]) -> None:
    """Refused with a sentence, and what is there stays as it is."""
    path = place.open / "report.html"
    trick(path, place.victim)
    before = _inode(path)
    play = place.play(vnuma_report=str(path))
    assert play.failed
    assert f"The page cannot be written to {path}: a link, a folder or something else" in " ".join(
        play.output.split()
    )
    assert _inode(path) == before
    assert _names(place.open) == ["report.html"]
    assert not (place.hosts.folder / "made").exists()


def test_page_in_a_folder_that_others_may_change(place: Place) -> None:
    """Of another user's own, open to every user without the sticky bit, or behind a link."""
    theirs, loose, link = (place.hosts.folder / name for name in ("theirs", "loose", "link"))
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    loose.mkdir()
    loose.chmod(0o777)
    _link(link, place.open)
    for folder in (theirs, loose, link):
        play = place.play(vnuma_report=str(folder / "report.html"))
        assert play.failed, folder
        assert "every user may change that folder" in " ".join(play.output.split())
        assert list(folder.iterdir()) == []


def test_page_where_no_other_user_was(place: Place) -> None:
    """In a folder like /tmp, in one of one's own, by a relative path, and over the page before."""
    for path in (place.open / "report.html", place.hosts.folder / "page.html", Path("own.html")):
        for _run in range(2):
            play = place.play(vnuma_report=str(path))
            assert not play.failed, play.output
        file = place.hosts.folder / path
        assert file.read_text().startswith("<!DOCTYPE")
        assert file.stat().st_mode & 0o7777 == 0o644


@pytest.mark.parametrize("suffix", ["", ".new"])
@pytest.mark.parametrize("trick", TRICKS)
def test_metrics_where_another_user_was_first(
    place: Place, trick: Callable[..., None], suffix: str
) -> None:
    """The folder is the other user's, as that of node_exporter: refused, and nothing is read."""
    os.chown(place.open, NOBODY, NOBODY)
    path = place.open / f"vnuma.prom{suffix}"
    trick(path, place.victim)
    before = _inode(path)
    play = place.play(vnuma_textfile=str(place.open / "vnuma.prom"))
    assert play.failed
    assert (
        f"The metrics cannot be written to {place.open / 'vnuma.prom'}: that name, or"
        in " ".join(play.output.split())
    )
    assert "untouched" not in play.output
    assert _inode(path) == before
    assert _names(place.open) == [path.name]
    assert not (place.hosts.folder / "made").exists()


def test_metrics_in_the_folder_of_another_user(place: Place) -> None:
    """As root, into what is node_exporter's; what a run left that was cut off is replaced."""
    os.chown(place.open, NOBODY, NOBODY)
    path = place.open / "vnuma.prom"
    for _run in range(2):
        path.with_name("vnuma.prom.new").write_text("half")
        play = place.play(vnuma_textfile=str(path))
        assert not play.failed, play.output
        assert "vnuma_errors 0\n" in path.read_text()
        assert path.stat().st_mode & 0o7777 == 0o644
        assert path.stat().st_uid == 0
        assert _names(place.open) == [path.name]


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("at", ["read", "write"])
def test_metrics_where_another_user_is_faster(
    place: Place, trick: Callable[..., None], at: str
) -> None:
    """After it was looked what is there: still nothing is followed, read or waited for.

    The user acts within the command itself, which is as late as can be.
    """
    os.chown(place.open, NOBODY, NOBODY)
    path = place.open / "vnuma.prom"
    name = path if at == "read" else path.with_name("vnuma.prom.new")
    programs = place.hosts.folder / "programs"
    programs.mkdir()
    command = programs / "dd"
    target = {
        _link: f"ln -sfT {place.victim} {name}",
        _dangling: f"ln -sfT {place.victim.with_name('made')} {name}",
        _link_to_folder: f"ln -sfT {place.victim.parent} {name}",
        _fifo: f"rm -f {name}; mkfifo {name}",
        _folder: f"rm -f {name}; mkdir {name}",
    }[trick]
    which = "if=" if at == "read" else "of="
    command.write_text(
        f'#!/bin/sh\ncase "$1" in {which}*) touch {programs}/was; {target};; esac\n'
        'exec /usr/bin/dd "$@"\n'
    )
    command.chmod(0o755)
    path.write_text("")
    before = set(place.hosts.folder.iterdir())
    play = place.play(programs, vnuma_textfile=str(path))
    assert "untouched" not in play.output
    assert (programs / "was").exists()
    assert not (place.hosts.folder / "made").exists()
    made = {one.name for one in set(place.hosts.folder.iterdir()) - before}
    assert made == {"page.html", "inventory.json"}
