# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of the documentation, run as it stands: against real libvirt, over real ssh."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import guestboot
import pytest
import yaml
from conftest import HOSTS, PROJECT, Libvirt
from fleet import Fleet
from guests import KIND, anuma

pytestmark = pytest.mark.slow

EXAMPLES = PROJECT / "docs/examples"
#: What the examples' inventory has, as hosts that are made up.
SPECS = {"kvm1": "rfc-8n240c", "kvm2": "asymmetric-4n16c"}
ON_KVM1 = ("anuma", "db1", "db2")

Play = Callable[..., str]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """The two hosts of the examples' inventory."""
    # The process tells two runs apart; names of links are short.
    hosts = Fleet(f"ex{os.getpid()}", f"10.79.{os.getpid() % 250}")
    hosts.up({name: HOSTS / f"{spec}.json" for name, spec in SPECS.items()})
    yield hosts
    hosts.down()


@pytest.fixture
def hosts(fleet: Fleet) -> Iterator[dict[str, Libvirt]]:
    """The hosts, with the guests that the examples speak of."""
    found = {name: Libvirt(fleet.host(name)) for name in SPECS}
    for libvirt in found.values():
        libvirt.clear()
    for name in ON_KVM1:
        found["kvm1"].define(anuma(name, vcpus=16 if name == "anuma" else 8))
    found["kvm2"].define(anuma("web", vcpus=8))
    yield found
    for libvirt in found.values():
        libvirt.clear()


@pytest.fixture
def play(fleet: Fleet, ansible: None, tmp_path: Path) -> Play:
    """Run a playbook with the examples' inventory and return what Ansible printed."""

    def run(playbook: Path, *flags: str, fails: bool = False) -> str:
        done = commands.run(
            [
                "ansible-playbook",
                *("--inventory", str(fleet.inventory)),
                *("--inventory", str(EXAMPLES / "inventory.yml")),
                # The users are root on these hosts, and have no sudo.
                *("--extra-vars", "ansible_become=false"),
                *("--extra-vars", f"domain_type={KIND}"),
                *flags,
                str(playbook),
            ],
            tmp_path,
        )
        output = done.stdout + done.stderr
        assert "Traceback" not in output
        assert bool(done.returncode) is fails, output
        return output

    return run


def _recap(output: str) -> dict[str, dict[str, int]]:
    """Return Ansible's figures by host."""
    return {
        host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", figures)}
        for host, figures in re.findall(r"^(\w+) +: (ok=.*)$", output, re.MULTILINE)
    }


def _changed(output: str) -> int:
    return sum(figures["changed"] for figures in _recap(output).values())


def _cells(xml: str) -> int:
    return xml.count("<cell ")


def _dumps(hosts: dict[str, Libvirt]) -> dict[tuple[str, str], str]:
    return {
        (host, guest): libvirt.dump(guest)
        for host, libvirt in hosts.items()
        for guest in libvirt.virsh("list", "--all", "--name").split()
    }


@pytest.mark.parametrize("name", ["one-guest.yml", "one-guest-restart.yml"])
def test_one_guest(hosts: dict[str, Libvirt], play: Play, name: str) -> None:
    """Shown, done, and done once."""
    limit = "--limit=kvm1"
    before = _dumps(hosts)
    shown = play(EXAMPLES / name, limit, "--check", "--diff")
    assert '+      <cell id="7" cpus="14-15"' in shown.replace("'", '"')
    assert _dumps(hosts) == before
    assert _changed(play(EXAMPLES / name, limit)) > 0
    assert _cells(hosts["kvm1"].dump("anuma")) == 8
    assert _cells(hosts["kvm1"].dump("db1")) == 0
    assert _changed(play(EXAMPLES / name, limit)) == 0


def test_fleet(hosts: dict[str, Libvirt], play: Play) -> None:
    """Both hosts, each guest as its entry says; from a controller's project too; and back."""
    before = _dumps(hosts)
    play(EXAMPLES / "fleet.yml", "--check", "--diff")
    assert _dumps(hosts) == before
    play(EXAMPLES / "fleet.yml")
    cells = {guest: _cells(xml) for (_host, guest), xml in _dumps(hosts).items()}
    assert cells == {"anuma": 8, "db1": 2, "db2": 2, "web": 4}
    pins = [
        re.findall(r"<vcpupin vcpu='\d+' cpuset='([^']+)'/>", hosts["kvm1"].dump(name))
        for name in ("db1", "db2")
    ]
    assert not set(pins[0]) & set(pins[1])
    assert not any(re.match(r"0\b", cpus) for cpus in pins[0] + pins[1])
    assert _changed(play(EXAMPLES / "controller/converge.yml")) == 0
    play(EXAMPLES / "revert.yml")
    assert _dumps(hosts) == before


def test_grow(hosts: dict[str, Libvirt], play: Play) -> None:
    """Larger, once; and as they were."""
    before = _dumps(hosts)
    play(EXAMPLES / "grow.yml", "--limit=kvm1")
    for name in ("db1", "db2"):
        text = hosts["kvm1"].dump(name)
        assert f"<memory unit='KiB'>{96 << 20}</memory>" in text
        assert "<vcpu placement='static'>24</vcpu>" in text
    assert _changed(play(EXAMPLES / "grow.yml", "--limit=kvm1")) == 0
    play(EXAMPLES / "revert.yml")
    assert _dumps(hosts) == before


def test_one_guest_that_does_not_fit_stops_the_fleet(hosts: dict[str, Libvirt], play: Play) -> None:
    """Nothing is written on any host before every guest of every host has a plan."""
    hosts["kvm2"].define(anuma("tiny", vcpus=1))
    before = _dumps(hosts)
    output = play(EXAMPLES / "fleet.yml", fails=True)
    assert "guest tiny: 1 vCPUs cannot fill 4 cells" in output
    assert _dumps(hosts) == before


def test_plan_only(hosts: dict[str, Libvirt], play: Play) -> None:
    """Who would be changed is named, and nobody is."""
    before = _dumps(hosts)
    output = play(EXAMPLES / "plan-only.yml")
    for names in ("anuma, db1, db2", "web"):
        assert f"change: {names}; restart:" in output
    assert _dumps(hosts) == before


def test_plan_host(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """A folder of definitions for a host that nobody asks; one too large is named."""
    folder = tmp_path / "guests"
    folder.mkdir()
    for name in ON_KVM1:
        (folder / f"{name}.xml").write_text(hosts["kvm1"].dump(name))
    variables = f"capabilities={HOSTS / 'rfc-8n240c.xml'} definitions={folder}"
    output = play(EXAMPLES / "plan-host.yml", "--extra-vars", variables)
    assert "db1: it needs 1 host node, and gets host node " in output
    assert "anuma: it needs 2 host nodes, and gets host nodes " in output
    (folder / "huge.xml").write_text(anuma("huge", vcpus=400))
    output = play(EXAMPLES / "plan-host.yml", "--extra-vars", variables, fails=True)
    assert "nodes 'auto' cannot hold it, even without other guests" in output


def test_report_and_restart_later(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """The guest that runs is named, keeps running, and has its layout after the night."""
    libvirt = hosts["kvm2"]
    console = tmp_path / "runs.log"
    libvirt.define(guestboot.domain_xml("runs", 4, 320, console))
    libvirt.virsh("start", "runs")
    guestboot.wait_for_boots(console, 1)
    output = play(EXAMPLES / "report-only.yml")
    assert re.search(r"vnuma_restart is 'never'.*: runs\b", output)
    assert _cells(libvirt.dump("runs")) == 4
    assert _cells(libvirt.dump("runs", live=True)) == 0
    assert re.search(r"vnuma_restart is 'never'.*: runs\b", play(EXAMPLES / "report-only.yml"))
    assert _changed(play(EXAMPLES / "restart-waiting.yml")) == 1
    guestboot.wait_for_boots(console, 2)
    assert len(guestboot.read_report(console).nodes) == 4
    assert _changed(play(EXAMPLES / "restart-waiting.yml")) == 0


def test_gitops(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """The template is defined partitioned, by another collection; ours has nothing to add."""
    hosts["kvm2"].clear()
    play(EXAMPLES / "gitops.yml")
    for libvirt in hosts.values():
        assert _cells(libvirt.dump("web")) == 2
    assert _changed(play(EXAMPLES / "gitops.yml")) == 0
    module = {"guests": [{"name": "web"}], "nodes": "0-1"}
    book = tmp_path / "book.yml"
    task = {"kvm.vnuma.vnuma_partition": module}
    book.write_text(json.dumps([{"hosts": "kvm_hosts", "gather_facts": False, "tasks": [task]}]))
    assert _changed(play(book)) == 0


def test_drift(hosts: dict[str, Libvirt], play: Play) -> None:
    """Nothing has drifted, until someone edits a definition."""
    play(EXAMPLES / "fleet.yml")
    play(EXAMPLES / "drift.yml")
    kvm2 = hosts["kvm2"]
    kvm2.define(
        kvm2.dump("web").replace("<vcpupin vcpu='0' cpuset='", "<vcpupin vcpu='0' cpuset='15,")
    )
    output = play(EXAMPLES / "drift.yml", fails=True)
    assert "vCPU 0 is pinned to" in output
    assert _recap(output)["kvm1"]["failed"] == 0


def test_every_playbook_is_run() -> None:
    """Whoever adds an example adds it here; test_migration_group.py runs migration-group.yml."""
    run = set(re.findall(r"[\w/-]+\.yml", Path(__file__).read_text()))
    playbooks = {
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*.yml")
        if "hosts:" in path.read_text() or "import_playbook" in path.read_text()
    }
    assert len(playbooks) > 6
    assert playbooks <= run


def _documented() -> dict[str, list[dict[str, Any]]]:
    """Return the EXAMPLES of every module and filter, by name."""
    found = {}
    for kind in ("modules", "filter"):
        for path in sorted((PROJECT / "plugins" / kind).glob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES":
                    found[path.stem] = yaml.safe_load(ast.literal_eval(node.value))
    return found


# Those of vnuma_migrate need hosts that reach one another: test_migrate_plays.py runs them.
@pytest.mark.parametrize("name", sorted({*_documented()} - {"vnuma_migrate"}))
def test_examples_of_the_plugins(
    hosts: dict[str, Libvirt], play: Play, tmp_path: Path, name: str
) -> None:
    """Task by task as they stand in the documentation."""
    tasks = _documented()[name]
    assert tasks
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/anuma.xml.j2").write_text(anuma())
    (tmp_path / "templates/web.xml.j2").write_text(anuma("web", vcpus=8, memory_kib=8 << 20))
    book = tmp_path / "book.yml"
    book.write_text(json.dumps([{"hosts": "kvm1", "gather_facts": False, "tasks": tasks}]))
    assert _recap(play(book))["kvm1"]["failed"] == 0


def _readmes() -> dict[str, str]:
    """Return the plays of the READMEs, by file."""
    found = {}
    for path in (PROJECT / "README.md", *PROJECT.glob("roles/*/README.md")):
        for number, block in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        ):
            found[f"{path.parent.name}-{number}"] = block
    return found


@pytest.mark.parametrize("name", sorted(_readmes()))
def test_plays_of_the_readmes(
    hosts: dict[str, Libvirt], play: Play, tmp_path: Path, name: str
) -> None:
    """As they stand, and once more without a change."""
    book = tmp_path / "book.yml"
    book.write_text(_readmes()[name])
    assert _changed(play(book, "--limit=kvm1")) > 0
    assert _changed(play(book, "--limit=kvm1")) == 0
