# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways into a fake host by ssh: a daemon that listens, or one for each connection."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_SSHD_CONFIG = """\
HostKey {folder}/ssh/hostkey
PidFile /run/sshd.pid
AuthorizedKeysFile {authorized_keys}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PrintMotd no
Subsystem sftp internal-sftp
"""

# The client starts the daemon itself, in the host's namespaces: no address, no port, no waiting.
_SSH_CONFIG = """\
Host {name}
  User root
  IdentityFile {folder}/ssh/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/ssh/known_hosts
  BatchMode yes
  ProxyCommand nsenter -t $(cut -d' ' -f1 {folder}/pid) -m -u -p -- \
/usr/sbin/sshd -i -f {folder}/ssh/inetd_config
"""


def write_sshd(folder: Path, name: str, address: tuple[str, int], key: Path | None) -> None:
    """Write what a host's init starts an ssh daemon with.

    Args:
        folder: the host's folder.
        name: the host's name.
        address: address and port to listen on.
        key: public key that is let in as root.
    """
    _make_key(folder / "ssh/hostkey", name)
    (folder / "ssh/sshd_config").write_text(
        f"ListenAddress {address[0]}\nPort {address[1]}\n"
        + _SSHD_CONFIG.format(folder=folder, authorized_keys=key)
    )


def write(folder: Path, name: str) -> None:
    """Write what a client needs to come in without a daemon that listens."""
    _make_key(folder / "ssh/hostkey", name)
    _make_key(folder / "ssh/key", name)
    authorized_keys = folder / "ssh/key.pub"
    (folder / "ssh/inetd_config").write_text(
        _SSHD_CONFIG.format(folder=folder, authorized_keys=authorized_keys)
    )
    (folder / "ssh/config").write_text(_SSH_CONFIG.format(folder=folder, name=name))
    host_key = (folder / "ssh/hostkey.pub").read_text()
    (folder / "ssh/known_hosts").write_text(f"{name} {host_key}")


def variables(folder: Path, name: str) -> dict[str, Any]:
    """Return the variables by which Ansible comes in so."""
    return {
        "ansible_connection": "ssh",
        "ansible_host": name,
        "ansible_ssh_common_args": f"-F {folder}/ssh/config",
        "ansible_control_path": f"{folder}/ssh/control",
    }


def _make_key(path: Path, comment: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
    )
