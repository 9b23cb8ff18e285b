# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition four guests in one call on each of many libvirt daemons that have just started.

    "$(/usr/bin/python3 tests/tools/run.py --install)/bin/python" tests/lab/freshdaemons.py \
        [--daemons N] [--slow-types]

Says how many defines failed, and what was said of them; ends with 1 where any did. Every daemon
gets one call of vnuma_partition, in turn present and absent, so that each of the four guests is
defined with validation every time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS / "tools"), str(_TESTS / "integration")]

import commands
import trees
from adhoc import SYSTEM_PYTHON, Adhoc
from errors import LabError
from fakehost import FakeHost
from guests import anuma

GUESTS = ("guest1", "guest2", "guest3", "guest4")
_SPEC = _TESTS / "hosts/rfc-8n240c.json"


class Payload:
    """The module as Ansible brings it to a managed host, its arguments in it.

    Ansible itself would take longer over each call than the daemon takes to start.

    Args:
        adhoc: calls it once, to have it made.
        arguments: of the module.
    """

    def __init__(self, adhoc: Adhoc, arguments: Mapping[str, object]) -> None:
        folder = Path(tempfile.mkdtemp(dir=adhoc.folder))
        here = {"ansible_connection": "local", "ansible_remote_tmp": str(folder)}
        adhoc.call("vnuma_partition", arguments, variables=here)
        (self._path,) = folder.rglob("AnsiballZ_vnuma_partition.py")

    def call(self) -> dict[str, Any]:
        """Run it and return the module's result.

        Raises:
            LabError: when it gave none.
        """
        done = subprocess.run(
            [SYSTEM_PYTHON, str(self._path)], check=False, capture_output=True, text=True
        )
        try:
            result = json.loads(done.stdout)
        except ValueError:
            raise LabError(f"no result: {done.stdout}{done.stderr}") from None
        assert isinstance(result, dict)
        return result


def measure(host: FakeHost, adhoc: Adhoc, daemons: int) -> Counter[str]:
    """Return how often each sentence was said of a guest.

    Raises:
        LabError: when a call neither changed a guest nor said why.
    """
    for name in GUESTS:
        path = host.root / f"{name}.xml"
        path.write_text(anuma(name))
        # Without validation: that reads no schema.
        host.exec(["virsh", "--quiet", "define", str(path)])
    common = {
        "uri": host.uri,
        "guests": [{"name": name} for name in GUESTS],
        "state_dir": str(adhoc.folder / "state"),
    }
    payloads = [Payload(adhoc, {**common, "state": state}) for state in ("present", "absent")]
    said: Counter[str] = Counter()
    for number in range(1, daemons + 1):
        host.renew_daemon()
        payload = payloads[(number - 1) % 2]
        result = payload.call()
        failed = {error["name"]: error["msg"] for error in result.get("errors", ())}
        changed = {guest["name"] for guest in result["guests"] if guest["changed"]}
        if len(failed) + len(changed) != len(GUESTS):
            raise LabError(f"daemon {number}: not every guest was defined: {result}")
        for name, sentence in failed.items():
            said[sentence] += 1
            print(f"daemon {number}: {name}: {sentence}", flush=True)
        if failed and "errors" in payload.call():
            # The next daemon is to have four guests to define again.
            raise LabError(f"daemon {number}: a guest failed on a daemon that was no longer fresh")
        if number % 50 == 0:
            print(f"{number} daemons, {said.total()} defines failed", flush=True)
    return said


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Partition guests on daemons just started.")
    parser.add_argument("--daemons", type=int, default=300)
    parser.add_argument(
        "--slow-types", action="store_true", help="hold the race for libxml2's types open"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vnuma-fresh-"))
    commands.configure(trees.INSTALLED, folder / "ansible", ANSIBLE_KEEP_REMOTE_FILES="1")
    host = FakeHost(f"fresh-{os.getpid()}", _SPEC, slow_types=options.slow_types)
    adhoc = Adhoc(folder)
    try:
        with host:
            said = measure(host, adhoc, options.daemons)
    except LabError as error:
        print(f"freshdaemons: {error}", file=sys.stderr)
        return 3
    finally:
        shutil.rmtree(host.root, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{options.daemons} daemons that had just started, {options.daemons * len(GUESTS)} "
        f"defines, {said.total()} failed"
    )
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
