# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot the laboratory's guests again and again, and say how many of the boots did not end.

    python tests/lab/bootloop.py [BOOTS] [--at-once GUESTS] [--vcpus COUNT] [--edit OLD=NEW ...]

Guests are booted as tests boot them: defined on a private libvirt daemon, without cells and with a
cell for each vCPU in turn; started, reset once, and ended. Evidence of a boot that hangs is kept,
and the guest is ended; its turn is not taken again. The exit code is 1 where one hung.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import guestboot
from errors import LabError
from fakehost import FakeHost

_HOST = Path(__file__).resolve().parents[1] / "hosts/asymmetric-4n16c.json"
_MEMORY_MIB = 320


@dataclass
class Tally:
    """What came of the boots so far; guests share it.

    Attributes:
        wanted: how many boots are asked for.
        begun: how many were begun.
        seconds: how long each took that ended.
        hangs: what was said of each that did not.
    """

    wanted: int
    begun: int = 0
    seconds: list[float] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> int | None:
        """Return the number of the next boot, None where all were begun."""
        with self._lock:
            if self.begun == self.wanted:
                return None
            self.begun += 1
            return self.begun

    def verdict(self) -> str:
        """Say in a line what came of it all."""
        took = f"; median {median(self.seconds):.1f} s, longest {max(self.seconds):.1f} s"
        return (
            f"{len(self.hangs)} of {len(self.hangs) + len(self.seconds)} boots hung"
            f"{took if self.seconds else ''}"
        )


def cells_xml(definition: str, vcpus: int, memory_mib: int) -> str:
    """Return a guest's definition with a cell, and a socket, for each of its vCPUs."""
    each = memory_mib // vcpus * 1024
    cells = "".join(
        f"<cell id='{cell}' cpus='{cell}' memory='{each}' unit='KiB'/>" for cell in range(vcpus)
    )
    topology = f"<topology sockets='{vcpus}' cores='1' threads='1'/>"
    return definition.replace("</model></cpu>", f"</model>{topology}<numa>{cells}</numa></cpu>")


class Guest:
    """A guest that is booted again and again.

    Args:
        host: the host that it runs on.
        name: its name.
        folder: for its console and its definitions.
        vcpus: its vCPUs.
        edits: texts in its definition that are to be others.
        tally: where it says what came of a boot.
    """

    def __init__(
        self,
        host: FakeHost,
        name: str,
        folder: Path,
        vcpus: int,
        edits: list[tuple[str, str]],
        tally: Tally,
    ) -> None:
        self._host = host
        self._name = name
        self._console = folder / f"{name}.log"
        self._tally = tally
        plain = guestboot.domain_xml(name, vcpus, _MEMORY_MIB, self._console)
        for old, new in edits:
            if old not in plain:
                raise LabError(f"the definition has no {old!r} to edit.")
            plain = plain.replace(old, new)
        self._definitions = []
        for word, text in (("plain", plain), ("cells", cells_xml(plain, vcpus, _MEMORY_MIB))):
            path = folder / f"{name}-{word}.xml"
            path.write_text(text)
            self._definitions.append(path)

    def run(self) -> None:
        """Boot until there are enough boots: started, reset, and ended, with each definition."""
        turn = 0
        while (number := self._tally.begin()) is not None:
            self._console.unlink(missing_ok=True)
            self._virsh("define", str(self._definitions[turn % len(self._definitions)]))
            self._virsh("start", self._name)
            if self._came_up(number, 1) and (number := self._tally.begin()) is not None:
                self._virsh("reset", self._name)
                self._came_up(number, 2)
            self._virsh("destroy", self._name)
            self._virsh("undefine", self._name)
            turn += 1

    def _came_up(self, number: int, boots: int) -> bool:
        begun = time.monotonic()
        try:
            guestboot.wait_for_boots(self._console, boots)
        except TimeoutError as error:
            said = (
                f"boot {number}, {'a reset' if boots > 1 else 'a start'} of {self._name}: {error}"
            )
            self._tally.hangs.append(said)
            print(said, flush=True)
            return False
        self._tally.seconds.append(time.monotonic() - begun)
        if number % 20 == 0:
            print(f"{self._tally.verdict()}; load {os.getloadavg()[0]:.1f}", flush=True)
        return True

    def _virsh(self, *words: str) -> None:
        subprocess.run(
            ["virsh", "--quiet", "--connect", self._host.uri, *words],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def _busy() -> tuple[int, int]:
    """Return the ticks that this machine's CPUs have worked, and all ticks (proc_stat(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def loop(boots: int, at_once: int, vcpus: int, edits: list[tuple[str, str]]) -> Tally:
    """Boot guests so many times, some at once, and return what came of it.

    Raises:
        LabError: where this machine cannot.
    """
    tally = Tally(boots)
    host = FakeHost(f"bootloop-{os.getpid()}", _HOST)
    folder = Path(tempfile.mkdtemp(prefix="bootloop-"))
    host.start()
    try:
        guests = [
            Guest(host, f"guest{number}", folder, vcpus, edits, tally) for number in range(at_once)
        ]
        threads = [threading.Thread(target=guest.run, daemon=True) for guest in guests]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        host.stop()
        shutil.rmtree(host.root, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Boot test guests again and again.")
    parser.add_argument("boots", type=int, nargs="?", default=400)
    parser.add_argument("--at-once", type=int, default=2, help="guests at once")
    parser.add_argument("--vcpus", type=int, default=4)
    parser.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar="OLD=>NEW",
        help="boot with another definition: a text in it, and what stands there instead",
    )
    options = parser.parse_args()
    edits = [(edit.partition("=>")[0], edit.partition("=>")[2]) for edit in options.edit]
    worked, ticks = _busy()
    try:
        tally = loop(options.boots, options.at_once, options.vcpus, edits)
    except LabError as error:
        print(f"bootloop: {error}", file=sys.stderr)
        return 3
    worked_then, ticks_then = _busy()
    share = 100 * (worked_then - worked) / max(ticks_then - ticks, 1)
    print(f"{tally.verdict()}; {options.at_once} at once, {os.cpu_count()} CPUs {share:.0f} % busy")
    return 1 if tally.hangs or len(tally.seconds) < options.boots else 0


if __name__ == "__main__":
    sys.exit(main())
