# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the documentation site in build/docs: the guides, and a page for every plugin and role.

python tests/tools/docs.py ENVIRONMENT

A warning is a failure. Needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import trees
from venvs import PROJECT

SITE = trees.BUILD / "docs"
_TEMPLATE = Path(__file__).resolve().parent / "site"


def build(environment: Path) -> int:
    """Build the site with the tools of an environment; return an exit code."""
    shutil.rmtree(SITE, ignore_errors=True)
    source = SITE / "source"
    collection = source / "collection"
    collection.mkdir(parents=True, mode=0o755)
    for page in (*_TEMPLATE.iterdir(), *(PROJECT / "docs").glob("*.md")):
        shutil.copy2(page, source)
    tool = environment / "bin"
    commands = [
        [
            *(tool / "antsibull-docs", "collection", "--use-current", "--squash-hierarchy"),
            *("--no-add-antsibull-docs-version", "--fail-on-error", "--dest-dir", collection),
            "kvm.vnuma",
        ],
        [
            *(tool / "sphinx-build", "--builder", "html", "--fail-on-warning", "--keep-going"),
            *("--quiet", source, SITE / "html"),
        ],
    ]
    for command in commands:
        done = subprocess.run(
            [str(word) for word in command],
            check=False,
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(trees.link()),
                "PATH": f"{tool}:{os.environ['PATH']}",
            },
        )
        if done.returncode:
            return done.returncode
    pages = list((SITE / "html").rglob("*.html"))
    print(f"{len(pages)} pages: {SITE / 'html' / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
