# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What disks and roots that are made from a distribution's packages have in common."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from errors import LabError

_MIRRORS = {
    "Debian": "http://deb.debian.org/debian",
    "Ubuntu": "http://archive.ubuntu.com/ubuntu",
}


def mirror(distribution: str = "Debian") -> str:
    """Return where this machine gets a distribution's packages, or else where everyone does.

    It is found by origin and label, which a mirror takes over from the archive. By the codename of
    a release it would not be: apt lists only this machine's own release, while roots are of others
    too, and whoever offers packages for a release gives them its codename. Only a release itself is
    looked at, not what is named after it, such as ``jammy-security``, which Ubuntu has elsewhere.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    for line in listed.splitlines():
        origin, label, codename, uri = line.split("|", 3)
        if (
            origin == label == distribution
            and "-" not in codename
            and uri.startswith(("http://", "https://"))
        ):
            return uri
    return _MIRRORS[distribution]


def cache() -> Path:
    """Return the folder that downloads, and what is made of them, are kept in."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
    import venvs

    return venvs.cache()


def run_logged(log: Path, *command: str | Path) -> None:
    """Run a command, and append to a log what it is and what it prints.

    Raises:
        LabError: when it fails, with the end of the log.
    """
    words = [str(word) for word in command]
    with log.open("a") as out:
        print(f"$ {' '.join(words)}", file=out, flush=True)
        done = subprocess.run(
            words,
            check=False,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={
                **{name: os.environ[name] for name in os.environ if "proxy" in name.lower()},
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND": "noninteractive",
                "LC_ALL": "C.UTF-8",
                "HOME": "/root",
            },
        )
    if done.returncode:
        said = log.read_text(errors="replace").splitlines()[-5:]
        raise LabError(f"{' '.join(words[:2])} failed; {log} ends: {said}")


def bootstrap(suite: str, folder: Path, log: Path, *include: str) -> None:
    """Make the root of a release with Debian's smallest set of packages, and some more.

    It reaches what this machine does, and starts no services.

    Raises:
        LabError: when it cannot be made.
    """
    packages = cache() / "roots/packages"
    packages.mkdir(parents=True, exist_ok=True)
    run_logged(
        log,
        *("debootstrap", "--variant=minbase", f"--cache-dir={packages}"),
        *(f"--include={','.join(('ca-certificates', *include))}", suite, folder, mirror()),
    )
    # What lets this machine reach its mirror lets the root.
    for name in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        if (Path("/") / name).exists():
            (folder / name).unlink(missing_ok=True)
            shutil.copyfile(Path("/") / name, folder / name)
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
