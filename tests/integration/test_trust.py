# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host answers decides nothing about other hosts or the controller, by whole plays.

The host is one whose root adds to every module's answer. It cannot have anything written, run or
reached that the inventory does not name, and what it breaks are its own figures alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import liar
import pytest
import yaml
from conftest import PROJECT, Libvirt
from guests import anuma
from roads import firmware_guest
from test_role import Hosts, Play

SECRET = "only-the-inventory-knows-this"
BOOKS: dict[str, dict[str, Any]] = {
    "converge": {"vnuma_hosts": "kvm1,kvm2"},
    "revert": {"vnuma_hosts": "kvm1,kvm2"},
    "report": {"vnuma_hosts": "kvm1,kvm2"},
    "migrate": {"vnuma_migrate_from": "kvm2", "vnuma_migrate_to": "kvm1"},
    "drain": {"vnuma_drain": "kvm2", "vnuma_drain_to": ["kvm1"]},
}
#: What any play runs on the controller, where it writes its page.
ON_CONTROLLER = {"ansible.builtin.stat", "ansible.builtin.copy"}


class Liar:
    """Three hosts: the first answers what it likes, the second is sound, the third is not asked.

    Attributes:
        hosts: of whole plays.
        canary: a program that leaves a file where it is run.
        ran: that file.
        written: a file that no play is to write.
        settings: of Ansible's, by the names of their variables.
    """

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        folder = hosts.folder
        self.ran, self.written = folder / "ran", folder / "written"
        self.canary = folder / "canary"
        self.canary.write_text(f"#!/bin/sh\necho x >> {self.ran}\n")
        self.canary.chmod(0o755)
        self.settings: dict[str, str] = {}
        self._own: dict[str, dict[str, Any]] = {}
        self.tell({})
        for name in hosts.libvirts:
            self.set(name)

    def set(self, name: str, **variables: Any) -> None:
        """Set variables of a host in the inventory."""
        self._own[name] = {**self._own.get(name, {}), **variables}
        guests = self._own[name].get("vnuma_guests", [{"name": "*"}])
        self.hosts.guests(
            name,
            *guests,
            **{
                "ansible_python_interpreter": str(self.hosts.folder / f"{name}-python"),
                "ansible_become_password": SECRET,
                "vnuma_migrate_uri": self.hosts.libvirts[name].uri,
                **{key: one for key, one in self._own[name].items() if key != "vnuma_guests"},
            },
        )

    def tell(self, lies: dict[str, Any]) -> None:
        """Have the first host answer this from now on."""
        for name in self.hosts.libvirts:
            liar.interpreter(self.hosts.folder, name, lies if name == "kvm1" else {})

    def facts(self, **facts: Any) -> None:
        """Have it add facts to every answer."""
        self.tell({"*": {"merge": {"ansible_facts": facts}}})

    def play(self, book: str, *flags: str, **variables: Any) -> Play:
        """Run a playbook as programs do, with a callback that keeps everything."""
        given = {**BOOKS[book], **variables}
        command = self.hosts.command(
            f"kvm.vnuma.{book}", flags=("--extra-vars", json.dumps(given), *flags)
        )
        done = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            check=False,
            cwd=self.hosts.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "tests/lab/callbacks"),
                "ANSIBLE_CALLBACKS_ENABLED": "recorder",
                "RECORDER_FILE": str(self.hosts.folder / "recorded"),
                **self.settings,
            },
        )
        return Play(done.stdout + done.stderr, done.returncode != 0)

    def recorded(self) -> list[list[Any]]:
        """Return what the callback was given: host, task, result, and the task's own words."""
        text = (self.hosts.folder / "recorded").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def held(self, play: Play) -> None:
        """Fail unless nothing was written, run, reached or shown."""
        said = play.output
        assert not self.ran.exists(), said
        assert not self.written.exists(), said
        assert liar.visits(self.hosts.folder, "kvm3") == [], said
        assert SECRET not in said
        text = (self.hosts.folder / "recorded").read_text()
        assert SECRET not in text
        for host, task, result, fields in self.recorded():
            # In loops the one is a template, and elsewhere a result may lack the other.
            told = (result.get("_ansible_delegated_vars") or {}).get("ansible_delegated_host")
            asked = fields.get("delegate_to") or host
            where = told or (host if "{{" in asked else asked)
            assert host in ("kvm1", "kvm2"), (host, task)
            assert where in ("kvm1", "kvm2", "localhost"), (where, task)
            if where == "localhost":
                assert fields["action"] in ON_CONTROLLER | {"ansible.builtin.fail"}, (task, result)


@pytest.fixture
def liars(lab: Callable[..., Libvirt], ansible: None, tmp_path: Path) -> Iterator[Liar]:
    """The hosts, each with a guest that is to be partitioned."""
    two, three = lab("asymmetric-4n16c", shim=True), lab("asym-3n", shim=True)
    libvirts = {"kvm1": two, "kvm2": three, "kvm3": three}
    for libvirt in (two, three):
        libvirt.clear()
        libvirt.define(anuma(vcpus=4, memory_kib=1 << 20))
    yield Liar(Hosts(libvirts, tmp_path))
    for libvirt in (two, three):
        libvirt.clear()


def _steering(liars: Liar) -> dict[str, Any]:
    """Return facts of the names that say where something is written, run, or reached."""
    program = f"qemu+ssh://kvm2/system?command={liars.canary}"
    return {
        "vnuma_report": str(liars.written),
        "vnuma_textfile": str(liars.written),
        "vnuma_migrate_uri": program,
        "vnuma_migrate_data_uri": "tcp://192.0.2.1",
        "vnuma_migrate_trust_uris": True,
        "vnuma_migrate_to": "kvm3",
        "vnuma_drain_to": ["kvm3"],
        "vnuma_migration_group": ["kvm1", "kvm3"],
        "vnuma_serial": "{{ lookup('pipe', 'touch " + str(liars.ran) + "') }}",
        "vnuma_hosts": "all",
        "inventory_hostname": "kvm3",
        "inventory_hostname_short": "kvm3",
        "inventory_dir": str(liars.hosts.folder),
        "group_names": ["kvm_hosts"],
        "groups": {"all": ["kvm3", "localhost"], "kvm_hosts": ["kvm3"]},
        "hostvars": {
            name: {
                "vnuma_uri": program,
                "vnuma_migrate_uri": program,
                "inventory_hostname": "kvm3",
                "ansible_facts": {},
            }
            for name in ("kvm1", "kvm2", "kvm3", "localhost")
        },
        "role_path": str(liars.hosts.folder),
        "playbook_dir": str(liars.hosts.folder),
        "ansible_host": "kvm3",
        "ansible_connection": "ssh",
        "ansible_check_mode": False,
        "ansible_become": True,
        "ansible_become_exe": str(liars.canary),
        "ansible_python_interpreter": str(liars.canary),
        "ansible_shell_executable": str(liars.canary),
        "ansible_ssh_executable": str(liars.canary),
        "ansible_delegated_vars": {"localhost": {"ansible_connection": "ssh"}},
        "ansible_play_hosts": ["kvm3"],
        "ansible_play_hosts_all": ["kvm3"],
        "ansible_facts": {},
        "item": "kvm3",
        "omit": str(liars.written),
    }


def _everything(liars: Liar) -> dict[str, Any]:
    """Return facts of every variable's name: of the role's with sound values, but for those."""
    defaults = yaml.safe_load((PROJECT / "roles/vnuma/defaults/main.yml").read_text())
    own = (
        *("vnuma_plan", "vnuma_redefined", "vnuma_restarted", "vnuma_topology", "vnuma_seen"),
        *("vnuma_steering", "vnuma_steered", "vnuma_steered_by", "vnuma_asked_hosts"),
        *("vnuma_asked_host", "vnuma_page", "vnuma_page_there", "vnuma_metrics_before"),
        *("vnuma_migrate_names", "vnuma_migrate_targets", "vnuma_migrate_index"),
    )
    return {**defaults, **dict.fromkeys(own, "sound"), **_steering(liars)}


@pytest.mark.parametrize("flags", [(), ("--check", "--diff")], ids=["real", "check"])
@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("kind", [_steering, _everything])
def test_facts_of_every_name(
    liars: Liar, kind: Callable[[Liar], dict[str, Any]], book: str, flags: tuple[str, ...]
) -> None:
    """Whatever they are called: the host is named and refused, and nothing follows from them.

    With facts of the names that results are registered by, newer ansible-core fails at its own task
    before that is looked at.
    """
    before = liars.hosts.dumps()
    liars.facts(**kind(liars))
    play = liars.play(book, *flags)
    liars.held(play)
    assert play.failed
    if kind is _steering:
        said = "host kvm1 has facts with names that this play reads as variables:"
        assert said in play.output, play.output
    assert "host kvm2 has" not in play.output
    assert "host kvm3 has" not in play.output
    assert liars.hosts.dumps() == before


#: Those that each open a way of their own where nothing checks them.
ALONE = ("vnuma_report", "vnuma_migrate_uri", "inventory_hostname", "hostvars", "vnuma_textfile")


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("book", ["converge", "report", "migrate"])
def test_one_fact(liars: Liar, name: str, book: str) -> None:
    """One alone, in check mode: no other gets in its way."""
    before = liars.hosts.dumps()
    liars.facts(**{name: _steering(liars)[name]})
    liars.held(liars.play(book, "--check", "--diff"))
    assert liars.hosts.dumps() == before


def test_hosts_that_were_not_selected_are_not_visited(liars: Liar) -> None:
    """The controller neither: which hosts the second play is for is asked of no host."""
    for name in ("kvm3", "localhost"):
        liars.facts(inventory_hostname=name)
        play = liars.play("converge", "--check", vnuma_hosts="kvm1")
        liars.held(play)
        assert {record[0] for record in liars.recorded()} == {"kvm1"}


def test_one_answer_says_nothing_about_the_next_host(liars: Liar) -> None:
    """Of several hosts that are asked in turn, the first does not choose the next one's URI."""
    liars.facts(hostvars=_steering(liars)["hostvars"])
    for name in ("group", "targets"):
        if name == "group":
            liars.set("kvm2", vnuma_migration_group=["kvm1", "kvm3", "kvm2"])
            liars.play("converge", "--check", vnuma_hosts="kvm2")
        else:
            liars.play("migrate", "--check", vnuma_migrate_to=["kvm1", "kvm3"])
        assert not liars.ran.exists(), name


def test_a_host_that_waits_for_a_restart_is_named_without_its_variables(liars: Liar) -> None:
    """A callback is given names, and none of the inventory's secrets, at its most talkative."""
    libvirt = liars.hosts.libvirts["kvm1"]
    libvirt.clear()
    libvirt.define(firmware_guest("waits", vcpus=4, memory_mib=64))
    libvirt.virsh("start", "waits")
    liars.set("kvm1", vnuma_restart_mode="never")
    for _run in range(2):
        play = liars.play("converge", "--diff", "-vvvv", vnuma_hosts="kvm1")
        assert not play.failed, play.output
        liars.held(play)
    assert "kvm1: vnuma_restart_mode is 'never'; until their next cold start" in play.output
    assert "with: waits" in play.output


def test_the_page_names_a_host_that_lies_and_shows_the_others(liars: Liar) -> None:
    """Its facts are its own error; the second host is looked at, and writes the page."""
    page = liars.hosts.folder / "page.html"
    for name in ("kvm1", "kvm2"):
        liars.set(name, vnuma_report=str(page))
    liars.facts(vnuma_report=str(liars.written), dict="x", now="x", query="x")
    play = liars.play("report")
    assert play.failed
    liars.held(play)
    assert play.recap("kvm1")["failed"] == 1
    assert play.recap("kvm2")["failed"] == 0
    text = page.read_text()
    assert "host kvm1 has facts with names" in text
    assert text.count("anuma") > 1


@pytest.mark.parametrize("lies", [False, True], ids=["honest", "liar"])
def test_without_facts_as_variables(liars: Liar, *, lies: bool) -> None:
    """As docs/security.md advises: a setting of Ansible's, without which the collection works."""
    liars.settings["ANSIBLE_INJECT_FACT_VARS"] = "False"
    if lies:
        liars.facts(**_steering(liars))
    liars.set("kvm1", vnuma_migration_group=["kvm2", "kvm1"])
    for book in ("converge", "report"):
        play = liars.play(book)
        assert play.failed is lies, play.output
        liars.held(play)


#: Answers that are no answers of the modules.
BROKEN: dict[str, dict[str, Any]] = {
    "guests": {"vnuma_info": {"merge": {"guests": [{}]}}},
    "a number": {"vnuma_info": {"merge": {"guests": 5, "ledger": 7}}},
    "infinity": {"vnuma_info": {"merge": {"guests": [{"name": "x", "local_share": 1e999}]}}},
    "text": {"vnuma_facts": {"merge": {"ansible_facts": {"vnuma_host": "<capabilities>"}}}},
    "nodes": {
        "vnuma_facts": {
            "merge": {"ansible_facts": {"vnuma_host": {"nodes": [{"id": n} for n in range(9999)]}}}
        }
    },
    "vcpus": {
        "vnuma_info": {
            "merge": {
                "guests": [
                    {"name": "x", "live": {"cells": [], "vcpus": 10**10, "memory_mode": "strict"}}
                ]
            }
        }
    },
    "deep": {
        "vnuma_info": {"merge": {"guests": [json.loads("[" * 300 + "]" * 300)]}},
    },
    "no JSON": {"vnuma_info": {"instead": "\x1b[2J{{ 7 * 7 }}"}},
    "long": {"vnuma_info": {"merge": {"guests": [{"name": "x" * 5_000_000}]}}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_are_errors_of_their_host(liars: Liar, name: str) -> None:
    """The page has the other host's guest, and says of this one what is wrong."""
    page = liars.hosts.folder / "page.html"
    for host in ("kvm1", "kvm2"):
        textfile = liars.hosts.folder / f"{host}.prom"
        liars.set(host, vnuma_report=str(page), vnuma_textfile=str(textfile))
    liars.tell(BROKEN[name])
    play = liars.play("report")
    liars.held(play)
    text = page.read_text()
    assert "kvm1" in text, play.output
    assert "anuma" in text
    assert len(text) < 1_000_000
    assert "\x1b" not in text
    assert "vnuma_guests" in (liars.hosts.folder / "kvm2.prom").read_text()
