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
#: The guests there are, by host; vCPUs and memory in GiB of each. The inventory has all but anuma.
GUESTS = {
    "kvm1": {"anuma": (16, 64), "db1": (8, 64), "db2": (8, 64), "erp": (24, 96)},
    # Fewer vCPUs than the host has nodes, as most guests have.
    "kvm2": {"mail": (1, 1), "web": (2, 2)},
}
INVENTORY = EXAMPLES / "inventory.yml"

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
    for host, guests in GUESTS.items():
        for name, (vcpus, gib) in guests.items():
            found[host].define(anuma(name, vcpus, gib << 20))
    yield found
    for libvirt in found.values():
        libvirt.clear()


@pytest.fixture
def play(fleet: Fleet, ansible: None, tmp_path: Path) -> Play:
    """Run a playbook with the examples' inventory and return what Ansible printed."""

    def run(
        playbook: Path | str, *flags: str, fails: bool = False, inventory: Path = INVENTORY
    ) -> str:
        done = commands.run(
            [
                "ansible-playbook",
                *("--inventory", str(fleet.inventory)),
                *("--inventory", str(inventory)),
                # These hosts have no sudo.
                *("--extra-vars", "ansible_become_method=ansible.builtin.su"),
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


def _pins(xml: str) -> list[set[int]]:
    """Return the pCPUs that each vCPU of a guest is pinned to."""
    return [_numbers(text) for text in re.findall(r"<vcpupin vcpu='\d+' cpuset='([^']+)'/>", xml)]


def _numbers(cpuset: str) -> set[int]:
    ends = [[int(end) for end in part.split("-")] for part in cpuset.split(",")]
    return {number for part in ends for number in range(part[0], part[-1] + 1)}


def _without_metadata(xml: str) -> str:
    return re.sub(r"<metadata>.*</metadata>", "", xml, flags=re.DOTALL)


def _files() -> list[Path]:
    """Return the examples; test_recipes.py runs the recipes, which are for hosts of their own."""
    return [path for path in sorted(EXAMPLES.rglob("*.yml")) if path.parent.name != "recipes"]


def _plays() -> list[str]:
    """Return the examples that are playbooks; inventories and other files are no lists."""
    found = []
    for path in _files():
        content = yaml.safe_load(path.read_text())
        if isinstance(content, list):
            found.append(str(path.relative_to(EXAMPLES)))
    return found


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
    hosts["kvm2"].define(anuma("batch", vcpus=6, memory_kib=6 << 20))
    before = _dumps(hosts)
    play(EXAMPLES / "fleet.yml", "--check", "--diff")
    assert _dumps(hosts) == before
    play(EXAMPLES / "fleet.yml")
    after = _dumps(hosts)
    cells = {guest: _cells(xml) for (_host, guest), xml in after.items()}
    on_kvm2 = {"mail": 0, "web": 0, "batch": 2}
    assert cells == {"anuma": 0, "db1": 2, "db2": 2, "erp": 6, **on_kvm2}
    assert all(_pins(after["kvm2", guest]) for guest in on_kvm2)
    pins = {guest: set[int]().union(*_pins(xml)) for (_host, guest), xml in after.items()}
    for name, others in (("db1", ("db2", "erp")), ("db2", ("db1", "erp"))):
        assert len(_pins(after["kvm1", name])) == 8
        assert not any(pins[name] & pins[other] for other in others)
    for (host, guest), _xml in after.items():
        assert not pins[guest] & _reserved(host)
    assert _changed(play(EXAMPLES / "controller/converge.yml")) == 0
    play(EXAMPLES / "revert.yml")
    assert _dumps(hosts) == before


def _reserved(host: str) -> set[int]:
    variables = yaml.safe_load(INVENTORY.read_text())["kvm_hosts"]["hosts"][host]
    return _numbers(variables["vnuma_reserved_cpus"])


def test_reserved_are_whole_cores(hosts: dict[str, Libvirt]) -> None:
    """One core of each node is left to each host, with all its threads."""
    for host, libvirt in hosts.items():
        nodes = re.findall(r"<cell id='\d+'>(.*?)</cell>", libvirt.virsh("capabilities"), re.DOTALL)
        assert len(nodes) > 3
        for node in nodes:
            cores = {
                int(cpu): frozenset(_numbers(siblings))
                for cpu, siblings in re.findall(r"<cpu id='(\d+)'.*?siblings='([^']+)'", node)
            }
            assert _reserved(host).intersection(cores) in set(cores.values()), host


def test_no_example_takes_away_what_the_inventory_gave(
    hosts: dict[str, Libvirt], play: Play
) -> None:
    """Once the fleet has its layout, no other example moves a guest that the inventory has."""
    play(EXAMPLES / "fleet.yml")
    before = _dumps(hosts)
    meant_to = {"revert.yml", "revert-one.yml"}
    # It asks no host.
    others = set(_plays()) - meant_to - {"plan-host.yml"}
    assert len(others) > 8
    for name in sorted(others):
        play(EXAMPLES / name, *(["--limit=kvm1"] if name.startswith("one-guest") else []))
        after = _dumps(hosts)
        moved = [guest for guest in before if guest[1] != "anuma" and after[guest] != before[guest]]
        assert not moved, (name, moved)


def test_grow(hosts: dict[str, Libvirt], play: Play) -> None:
    """Larger, once, on cores that are theirs alone; and as they were."""
    grown = EXAMPLES / "inventory-grown.yml"
    before = _dumps(hosts)
    play(EXAMPLES / "fleet.yml")
    small = _dumps(hosts)
    play(EXAMPLES / "fleet.yml", inventory=grown)
    pins: dict[str, list[set[int]]] = {}
    for name in ("db1", "db2"):
        text = hosts["kvm1"].dump(name)
        assert f"<memory unit='KiB'>{96 << 20}</memory>" in text
        assert "<vcpu placement='static'>24</vcpu>" in text
        pins[name] = _pins(text)
        # Two vCPUs on both threads of a core.
        assert {len(cpus) for cpus in pins[name]} == {2}
        assert len(set[int]().union(*pins[name])) == 24
    assert not set[int]().union(*pins["db1"]) & set[int]().union(*pins["db2"])
    larger = _dumps(hosts)
    moved = {guest for guest, xml in larger.items() if xml != small[guest]}
    assert moved == {("kvm1", "db1"), ("kvm1", "db2")}
    assert _changed(play(EXAMPLES / "fleet.yml", inventory=grown)) == 0
    # Their size stays theirs without the options; only the record of what was asked changes.
    play(EXAMPLES / "fleet.yml")
    for name in ("db1", "db2"):
        first, second = larger["kvm1", name], hosts["kvm1"].dump(name)
        assert _without_metadata(first) == _without_metadata(second)
    play(EXAMPLES / "revert.yml")
    assert _dumps(hosts) == before


def test_a_guest_leaves_the_list(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """It stays partitioned, and revert passes it over; revert-one.yml takes it back."""
    before = _dumps(hosts)
    play(EXAMPLES / "fleet.yml")
    after = _dumps(hosts)
    databases = [("kvm1", "db1"), ("kvm1", "db2")]
    content = yaml.safe_load(INVENTORY.read_text())
    kvm1 = content["kvm_hosts"]["hosts"]["kvm1"]
    kvm1["vnuma_guests"] = [one for one in kvm1["vnuma_guests"] if one["name"] != "db*"]
    shorter = tmp_path / "shorter.yml"
    shorter.write_text(json.dumps(content))
    assert _changed(play(EXAMPLES / "fleet.yml", inventory=shorter)) == 0
    play(EXAMPLES / "revert.yml", inventory=shorter)
    now = _dumps(hosts)
    assert {guest for guest in before if now[guest] != before[guest]} == set(databases)
    assert all(now[guest] == after[guest] for guest in databases)
    play(EXAMPLES / "revert-one.yml", "--limit=kvm1")
    now = _dumps(hosts)
    assert {guest for guest in before if now[guest] != before[guest]} == {databases[1]}
    # Unless its entry is gone too, it is partitioned again.
    play(EXAMPLES / "fleet.yml")
    assert _cells(hosts["kvm1"].dump("db1")) == 2


def test_one_guest_that_does_not_fit_stops_the_fleet(hosts: dict[str, Libvirt], play: Play) -> None:
    """Nothing is written on any host before every guest of every host has a plan."""
    hosts["kvm2"].define(anuma("large", vcpus=64, memory_kib=8 << 20))
    before = _dumps(hosts)
    output = play(EXAMPLES / "fleet.yml", fails=True)
    assert "guest large: nodes 'auto' cannot hold it, even without other guests" in output
    assert _dumps(hosts) == before


def test_plan_only(hosts: dict[str, Libvirt], play: Play) -> None:
    """Who would be changed is named, and nobody is."""
    before = _dumps(hosts)
    output = play(EXAMPLES / "plan-only.yml")
    for names in ("db1, db2, erp", "mail, web"):
        assert f"change: {names}; restart:" in output
    assert _dumps(hosts) == before


def test_plan_host(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """A folder of definitions for a host that nobody asks; one too large is named."""
    folder = tmp_path / "guests"
    folder.mkdir()
    for name in GUESTS["kvm1"]:
        (folder / f"{name}.xml").write_text(hosts["kvm1"].dump(name))
    variables = f"capabilities={HOSTS / 'rfc-8n240c.xml'} definitions={folder}"
    output = play(EXAMPLES / "plan-host.yml", "--extra-vars", variables)
    assert "db1: it needs 1 host node, and gets host node " in output
    assert "anuma: it needs 2 host nodes, and gets host nodes " in output
    (folder / "huge.xml").write_text(anuma("huge", vcpus=400))
    output = play(EXAMPLES / "plan-host.yml", "--extra-vars", variables, fails=True)
    assert "nodes 'auto' cannot hold it, even without other guests" in output


def test_a_guest_that_runs(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """It is named before, keeps running where no restart is wanted, and is restarted otherwise."""
    libvirt = hosts["kvm2"]
    console = tmp_path / "runs.log"
    libvirt.define(guestboot.domain_xml("runs", 4, 320, console))
    libvirt.virsh("start", "runs")
    guestboot.wait_for_boots(console, 1)
    assert re.search(r"change: mail, runs, web; restart: runs\b", play(EXAMPLES / "plan-only.yml"))
    never = ("--extra-vars", "vnuma_restart_mode=never")
    play(EXAMPLES / "fleet.yml", *never)
    for _run in range(2):
        output = play(EXAMPLES / "report-only.yml")
        assert re.search(r"vnuma_restart_mode is 'never'.*: runs\b", output)
    assert _cells(libvirt.dump("runs")) == 2
    assert _cells(libvirt.dump("runs", live=True)) == 0
    assert guestboot.boots(console) == 1
    assert _changed(play(EXAMPLES / "restart-waiting.yml")) == 1
    guestboot.wait_for_boots(console, 2)
    assert len(guestboot.read_report(console).nodes) == 2
    assert _changed(play(EXAMPLES / "restart-waiting.yml")) == 0
    play(EXAMPLES / "revert.yml", *never)
    assert _cells(libvirt.dump("runs")) == 0
    assert _cells(libvirt.dump("runs", live=True)) == 2
    play(EXAMPLES / "revert.yml")
    guestboot.wait_for_boots(console, 3)
    assert _cells(libvirt.dump("runs", live=True)) == 0


def test_gitops(hosts: dict[str, Libvirt], play: Play, tmp_path: Path) -> None:
    """The template is defined partitioned, by another collection; ours has nothing to add."""
    play(EXAMPLES / "gitops.yml")
    assert [_cells(xml) for (_host, guest), xml in _dumps(hosts).items() if guest == "app"] == [2]
    assert _changed(play(EXAMPLES / "gitops.yml")) == 0
    module = {
        "guests": [{"name": "app"}],
        "nodes": "2-3",
        "reserved_cpus": "{{ vnuma_reserved_cpus }}",
    }
    book = tmp_path / "book.yml"
    task = {"kvm.vnuma.vnuma_partition": module}
    book.write_text(json.dumps([{"hosts": "kvm1", "gather_facts": False, "tasks": [task]}]))
    assert _changed(play(book)) == 0


def test_drift(hosts: dict[str, Libvirt], play: Play) -> None:
    """Nothing has drifted, until someone edits a definition."""
    play(EXAMPLES / "fleet.yml")
    play(EXAMPLES / "drift.yml")
    kvm2 = hosts["kvm2"]
    kvm2.define(re.sub(r"(<vcpupin vcpu='0' cpuset=)'[^']+'", r"\1'0-15'", kvm2.dump("web")))
    output = play(EXAMPLES / "drift.yml", fails=True)
    assert "vCPU 0 is pinned to" in output
    assert _recap(output)["kvm1"]["failed"] == 0


def test_every_playbook_is_run() -> None:
    """Whoever adds an example adds it here; test_migration_group.py runs migration-group.yml."""
    run = set(re.findall(r"[\w/-]+\.yml", Path(__file__).read_text()))
    examples = {
        str(path.relative_to(EXAMPLES))
        for path in _files()
        if "hosts:" in path.read_text() or "import_playbook" in path.read_text()
    }
    assert examples > set(_plays())
    assert examples <= run


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
            # Others are inventories and requirements.
            if block.startswith("- "):
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
