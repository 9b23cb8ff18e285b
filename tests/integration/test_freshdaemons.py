# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons that have just started, and what of the lab is for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakehost
import pytest
from adhoc import Run
from conftest import HOSTS, Libvirt
from fakehost import FakeHost
from guests import anuma

GUESTS = ("a", "b", "c", "d")
REFUSED = "is not exported by"


@pytest.fixture(scope="module")
def slow() -> Iterator[Libvirt]:
    """A host with four guests, where the race for libxml2's schema types cannot be missed."""
    with FakeHost(f"slow-{os.getpid()}", HOSTS / "rfc-8n240c.json", slow_types=True) as host:
        libvirt = Libvirt(host)
        for name in GUESTS:
            # Without validation: that reads no schema.
            libvirt.define(anuma(name), validate=False)
        yield libvirt
    shutil.rmtree(host.root, ignore_errors=True)


def test_what_the_product_must_not_meet(slow: Libvirt) -> None:
    """Four validated defines at once on a fresh daemon: one at least is refused, for nothing."""
    slow.host.renew_daemon()
    mended = b"libxml2.so.2." not in _mapped(slow.host)
    dumps = [slow.dump(name) for name in GUESTS]
    with ThreadPoolExecutor(len(dumps)) as pool:
        said = list(pool.map(lambda xml: _complaint(slow, xml), dumps))
    refused = [text for text in said if REFUSED in text]
    # libxml2 2.15, whose library is called libxml2.so.16, has locks.
    assert bool(refused) is not mended, said
    assert all(text in ("", *refused) for text in said), said


@pytest.mark.parametrize("state", ["present", "absent"])
def test_four_guests_on_a_fresh_daemon(
    slow: Libvirt, call: Callable[..., Run], state_dir: Path, state: str
) -> None:
    """One define alone first, then the others at once: all of them are defined."""
    slow.host.renew_daemon()
    guests = [{"name": name} for name in GUESTS]
    run = call("vnuma_partition", {"uri": slow.uri, "guests": guests, "state": state})
    assert not run.failed, run.msg
    assert [guest["changed"] for guest in run.result["guests"]] == [True] * len(GUESTS)


def _complaint(libvirt: Libvirt, xml: str) -> str:
    try:
        libvirt.define(xml)
    except AssertionError as error:
        return str(error)
    return ""


def _mapped(host: FakeHost) -> bytes:
    pid = host.exec(["pgrep", "-x", host.platform.daemon]).stdout.strip()
    return host.exec(["cat", f"/proc/{pid}/maps"]).stdout.encode()


class Late(FakeHost):
    """A host whose daemon is back already whenever somebody looks for the one that was killed."""

    looks = 0

    def exec(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Wait, once something was killed, for another daemon before each look."""
        if "pgrep" in argv and self.looks:
            assert self.looks < 50, "it is looked for without end"
            self.looks += 1
            self._wait_for_daemon()
        done = super().exec(argv, **options)
        if any("kill" in word for word in argv):
            # Dead for sure: then whoever answers is another one.
            time.sleep(1)
            self.looks = 1
        return done


def test_a_daemon_that_is_back_before_it_is_looked_for(slow: Libvirt) -> None:
    """Killing one daemon does not wait for the end of the next."""
    before = slow.host.exec(["pgrep", "-x", slow.host.platform.daemon]).stdout
    Late(slow.host.name).kill_daemon()
    slow.host.release_daemon()
    assert slow.host.exec(["pgrep", "-x", slow.host.platform.daemon]).stdout != before


def test_four_threads_build_one_shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first four hosts of a new lab start at once, as record.py has it."""
    monkeypatch.setenv("VNUMA_LAB", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        built = set(pool.map(fakehost.build_shim, ["fakenuma"] * 4))
    assert built == {tmp_path / "fakenuma.so"}
    assert list(tmp_path.iterdir()) == list(built)
