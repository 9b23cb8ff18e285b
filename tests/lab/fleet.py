# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several fake KVM hosts side by side, each at an address of its own behind a real ssh daemon.

    python tests/lab/fleet.py up NAME [--network 10.77.0] HOST=SPEC.json...
    python tests/lab/fleet.py down NAME | inventory NAME

Every host is a fake host (fakehost.py) in a network namespace, on one bridge that only this machine
reaches. Left in the fleet's folder below VNUMA_LAB: inventory.json for Ansible, and ``ssh``, a
command that knows the hosts' names and keys.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import LabError
from fakehost import FakeHost, lab_root

_PATIENCE_S = 60.0
_FIRST_ADDRESS = 11

_SSH = """\
#!/bin/sh
exec ssh -F {folder}/ssh_config "$@"
"""

_SSH_CONFIG = """\
Host *
  User root
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  BatchMode yes
"""


class Fleet:
    """Fake hosts on one bridge.

    Args:
        name: its name; its folder, bridge and namespaces are called after it.
        network: first three numbers of its addresses.
    """

    def __init__(self, name: str, network: str = "10.77.0") -> None:
        self.name = name
        self.network = network
        self.folder = lab_root() / f"fleet-{name}"

    def up(self, specs: Mapping[str, Path]) -> None:
        """Start the hosts; what is left of an earlier fleet of that name is removed first.

        Args:
            specs: the hosts' files by name.

        Raises:
            LabError: when a host does not come up.
        """
        self.down()
        self.folder.mkdir(parents=True)
        key = self.folder / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(key))
        (self.folder / "hosts.json").write_text(json.dumps(sorted(specs)))
        bridge = self._link("br")
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "addr", "add", f"{self.network}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        addresses = {
            host: f"{self.network}.{_FIRST_ADDRESS + index}" for index, host in enumerate(specs)
        }
        for index, (host, spec) in enumerate(specs.items()):
            self._attach(host, index, addresses[host], bridge)
            FakeHost(
                f"{self.name}-{host}",
                spec,
                shim=True,
                sshd=(addresses[host], 22),
                key=key.with_suffix(".pub"),
                netns=f"{self.name}-{host}",
            ).start()
        self._write_access(addresses)
        for host in specs:
            self._wait_for_ssh(host)

    def down(self) -> None:
        """End the hosts and remove what belongs to them."""
        for index, host in enumerate(self.hosts()):
            FakeHost(f"{self.name}-{host}").stop()
            shutil.rmtree(lab_root() / f"{self.name}-{host}", ignore_errors=True)
            # Now, and not when the kernel gets round to the namespace.
            _run("ip", "link", "del", self._link(str(index)), check=False)
            _run("ip", "netns", "del", f"{self.name}-{host}", check=False)
        _run("ip", "link", "del", self._link("br"), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def hosts(self) -> list[str]:
        """Return the names of the hosts that were started."""
        try:
            names: list[str] = json.loads((self.folder / "hosts.json").read_text())
        except FileNotFoundError:
            return []
        return names

    def host(self, name: str) -> FakeHost:
        """Return one of its hosts."""
        return FakeHost(f"{self.name}-{name}")

    @property
    def inventory(self) -> Path:
        """The inventory with every host in group kvm_hosts."""
        return self.folder / "inventory.json"

    def _link(self, suffix: str) -> str:
        # Names of network links have 15 characters at most (Linux, IFNAMSIZ).
        return f"{self.name[:11]}-{suffix}"

    def _attach(self, host: str, index: int, address: str, bridge: str) -> None:
        space, link = f"{self.name}-{host}", self._link(str(index))
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "link", "set", link, "master", bridge, "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")

    def _write_access(self, addresses: Mapping[str, str]) -> None:
        known, config = [], [_SSH_CONFIG.format(folder=self.folder)]
        for host, address in addresses.items():
            kind, key, _comment = (
                (lab_root() / f"{self.name}-{host}/ssh/hostkey.pub").read_text().split()
            )
            known.append(f"{address},{host} {kind} {key}\n")
            config.append(f"Host {host}\n  HostName {address}\n  HostKeyAlias {host}\n")
        (self.folder / "known_hosts").write_text("".join(known))
        # The first value that ssh reads counts, so that the hosts' own come first.
        (self.folder / "ssh_config").write_text("".join(reversed(config)))
        command = self.folder / "ssh"
        command.write_text(_SSH.format(folder=self.folder))
        command.chmod(0o700)
        variables: dict[str, Any] = {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": f"-F {self.folder}/ssh_config",
            # Ansible names its connections by the host, and another fleet may have one called so.
            "ansible_control_path_dir": str(self.folder / "control"),
            "fleet_ssh": str(command),
        }
        inventory = {
            "kvm_hosts": {"hosts": {host: {} for host in sorted(addresses)}, "vars": variables}
        }
        self.inventory.write_text(json.dumps(inventory, indent=2) + "\n")

    def _wait_for_ssh(self, host: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            done = subprocess.run(
                [str(self.folder / "ssh"), host, "true"],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if not done.returncode:
                return
            if time.monotonic() > deadline:
                raise LabError(f"ssh to {host} does not answer: {done.stderr.strip()}")
            time.sleep(0.1)


def _run(*command: str, check: bool = True) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Fake KVM hosts behind real ssh.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("name")
    up.add_argument("--network", default="10.77.0")
    up.add_argument("hosts", nargs="+", metavar="HOST=SPEC.json")
    for command in ("down", "inventory"):
        commands.add_parser(command).add_argument("name")
    options = parser.parse_args()
    try:
        if options.command == "up":
            fleet = Fleet(options.name, options.network)
            pairs = (word.partition("=") for word in options.hosts)
            fleet.up({host: Path(spec) for host, _equals, spec in pairs})
            print(fleet.inventory)
        elif options.command == "down":
            Fleet(options.name).down()
        else:
            print(Fleet(options.name).inventory)
    except LabError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
