# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run ansible-test sanity without its download site.

ansible-test bootstraps pip by a script from a site of its own. It takes the script from its cache
if it is there; what is put there installs pip from PyPI's wheel, and does nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import trees
from venvs import ToolError, cache

#: ansible-test has over twenty sanity tests; a run with none of them is no success.
_FEWEST = 20

_SCRIPT = """\
# Stands in for get-pip.py {version}: runs the pip of the wheel beside it.
import os
import sys

wheel = os.path.join(os.path.dirname(os.path.abspath(__file__)), "{wheel}")
sys.path.insert(0, wheel)
sys.argv[1:] = ["install", "--no-index", "--find-links", os.path.dirname(wheel), "pip=={version}"]

from pip._internal.cli.main import main

sys.exit(main())
"""


def run(environment: Path, python: Path) -> int:
    """Run every sanity test with the ansible-core of an environment."""
    home = cache() / f"ansible-test-{_core_version(environment)}"
    _seed(environment, home)
    asked = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Inside the checkout ansible-test would ask git for the files, which knows of none in build/.
    with tempfile.TemporaryDirectory(prefix="vnuma-sanity-") as folder:
        done = subprocess.run(
            [
                *(
                    str(environment / "bin/ansible-test"),
                    "sanity",
                    "--python",
                    asked.stdout.strip(),
                ),
                *("--requirements", "--color", "no", "--truncate", "0"),
            ],
            check=False,
            cwd=trees.copy(Path(folder) / "tree"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "HOME": str(home),
                "LC_ALL": "C.UTF-8",
                "PATH": f"{environment / 'bin'}:{python.parent}:/usr/bin:/bin",
                "PIP_CACHE_DIR": str(cache() / "pip"),
            },
        )
    print(done.stdout)
    ran = re.findall(r"^Running sanity test \"(.+?)\"", done.stdout, re.MULTILINE)
    print(f"{len(ran)} sanity tests ran")
    if len(ran) < _FEWEST:
        print(f"these are fewer than {_FEWEST}: ansible-test did not see the collection")
        return 1
    return done.returncode


def _core_version(environment: Path) -> str:
    done = subprocess.run(
        [
            environment / "bin/python",
            "-c",
            "import ansible.release; print(ansible.release.__version__)",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def _seed(environment: Path, home: Path) -> None:
    """Put pip's wheel and the script that runs it where ansible-test looks."""
    asked = subprocess.run(
        [
            environment / "bin/python",
            "-c",
            "from ansible_test._internal import python_requirements as p\n"
            "import types\n"
            "print(p.get_venv_packages(types.SimpleNamespace(version='3.11'))['pip'])",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        raise ToolError(f"ansible-test does not say which pip it wants: {asked.stderr[-500:]}")
    version = asked.stdout.strip()
    folder = home / ".ansible/test/cache"
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"get_pip_{version.replace('.', '_')}.py"
    wheel = f"pip-{version}-py3-none-any.whl"
    if not (folder / wheel).exists():
        subprocess.run(
            [
                *(environment / "bin/pip", "download", "--quiet", "--no-deps"),
                *("--dest", folder, f"pip=={version}"),
            ],
            check=True,
        )
    script.write_text(_SCRIPT.format(version=version, wheel=wheel), encoding="utf-8")
