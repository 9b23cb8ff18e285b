# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A managed host whose root adds to what modules answer, as an interpreter of Ansible's.

    python3 tests/lab/liar.py LIES.json AnsiballZ_MODULE.py

LIES.json has, by module name or ``*``, what its answer is merged with (``merge``) or replaced by
(``instead``, as text). Every module that was run is a line of LIES.json.log.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_PYTHON = "/usr/bin/python3"


def interpreter(folder: Path, name: str, lies: dict[str, Any]) -> str:
    """Write an interpreter that tells these lies; return its path."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(lies))
    script = folder / f"{name}-python"
    script.write_text(f'#!/bin/sh\nexec {_PYTHON} {Path(__file__).resolve()} {path} "$@"\n')
    script.chmod(0o755)
    return str(script)


def visits(folder: Path, name: str) -> list[str]:
    """Return the modules that were run by the interpreter of that name."""
    log = folder / f"{name}.json.log"
    return log.read_text().split() if log.exists() else []


def merged(answer: Any, more: Any) -> Any:
    """Return an answer with more in it; dictionaries are merged at every level."""
    if isinstance(answer, dict) and isinstance(more, dict):
        return {**answer, **{key: merged(answer.get(key), more[key]) for key in more}}
    return more


def main() -> int:
    """Run the module, and answer otherwise."""
    lies, *words = sys.argv[1:]
    found = re.search(r"AnsiballZ_(\w+)\.py", " ".join(words))
    done = subprocess.run([_PYTHON, *words], check=False, stdout=subprocess.PIPE)
    output = done.stdout.decode()
    if found is None:
        sys.stdout.write(output)
        return done.returncode
    with Path(f"{lies}.log").open("a") as log:
        print(found[1], file=log)
    told = json.loads(Path(lies).read_text())
    lie = told.get(found[1], told.get("*", {}))
    if "instead" in lie:
        output = lie["instead"]
    elif lie:
        output = json.dumps(merged(json.loads(output), lie.get("merge", {})))
    sys.stdout.write(output)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
