# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fake hosts that migrate guests to one another, over a network that can be cut."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet import Fleet

#: Unlike in everything that a guest's cells mirror: nodes, their ids, pCPUs, distances.
SPECS: Mapping[str, Mapping[str, Any]] = {
    "east": {
        "nodes": [
            {
                "id": node,
                "cpus": f"{4 * node}-{4 * node + 3}",
                "memory_kib": 8 << 20,
                "hugepages": {"2048": [32, 32]},
            }
            for node in range(8)
        ],
        "distances": [
            [10 if one == other else 20 if one // 4 == other // 4 else 30 for other in range(8)]
            for one in range(8)
        ],
    },
    "west": {
        "nodes": [
            {"id": 0, "cpus": "0-15", "memory_kib": 32 << 20, "hugepages": {"2048": [32, 32]}},
            {"id": 8, "cpus": "64-79", "memory_kib": 32 << 20, "hugepages": {"2048": [32, 32]}},
        ],
        "distances": [[10, 40], [40, 10]],
    },
    "south": {
        "nodes": [
            {"id": node, "cpus": f"{2 * node}-{2 * node + 1}", "memory_kib": 4 << 20}
            for node in range(2)
        ],
        "distances": [[10, 21], [21, 10]],
    },
}


class Highway(Fleet):
    """A fleet whose hosts reach one another by ssh, as libvirt's daemons do."""

    def build(self, names: tuple[str, ...]) -> None:
        """Start the hosts of these names.

        Raises:
            LabError: when one does not come up.
        """
        folder = self.folder.with_name(f"{self.folder.name}-specs")
        folder.mkdir(parents=True, exist_ok=True)
        specs = {}
        # In the order in which the fleet lists them, and gives them addresses.
        for name in sorted(names):
            spec = {"name": name, "about": "a host to migrate to", "threads": 1, **SPECS[name]}
            specs[name] = folder / f"{name}.json"
            specs[name].write_text(json.dumps(spec))
        self.up(specs)

    def close(self) -> None:
        """End the hosts and remove what belongs to them."""
        self.down()
        shutil.rmtree(self.folder.with_name(f"{self.folder.name}-specs"), ignore_errors=True)

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{self.network}.{11 + self.hosts().index(name)}"

    def target(self, name: str, **more: Any) -> dict[str, Any]:
        """Return a host as the option ``targets`` has it."""
        return {
            "name": name,
            "uri": f"qemu+ssh://root@{self.address(name)}/system"
            f"?keyfile={self.folder}/key&no_verify=1",
            "data_uri": f"tcp://{self.address(name)}",
            **more,
        }

    def variables(self, name: str) -> dict[str, Any]:
        """Return the variables by which Ansible reaches a host."""
        shared: dict[str, Any] = json.loads(self.inventory.read_text())["kvm_hosts"]["vars"]
        return {**shared, "ansible_host": name}

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Cut a host off from all others, and let it back in afterwards."""
        link = self._link(str(self.hosts().index(name)))
        subprocess.run(["ip", "link", "set", link, "nomaster"], check=True)
        try:
            yield
        finally:
            subprocess.run(
                ["ip", "link", "set", link, "master", self._link("br"), "up"], check=True
            )

    def requests(self, name: str) -> list[dict[str, Any]]:
        """Return what guests and the daemon of a host have asked its kernel for, in order."""
        log: Path = self.host(name).root / "log/fakenuma.log"
        if not log.exists():
            return []
        return [json.loads(line) for line in log.read_text().splitlines()]
