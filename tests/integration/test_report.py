# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page and metrics by whole plays, against real libvirt; and what promtool says of the metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import reports
import yaml
from ansible_collections.kvm.vnuma.plugins.filter.metrics import metrics
from conftest import Libvirt
from guests import PASSWORD, RICH, anuma
from reading import Part, read, text
from test_role import ROLE, Hosts, Play

MONITORING = Path(__file__).resolve().parents[2] / "docs/examples/monitoring"
BOOK = "kvm.vnuma.report"


class Written:
    """What a run wrote: the page on the controller, and metrics of each host."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.page = hosts.folder / "page.html"
        self.folder = hosts.folder / "textfile"
        self.folder.mkdir()

    def play(self, *plays: dict[str, Any] | str, flags: tuple[str, ...] = ()) -> Play:
        """Run plays that are to write both."""
        wanted = {
            "vnuma_report": str(self.page),
            "vnuma_textfile": f"{self.folder}/{{{{ inventory_hostname }}}}.prom",
        }
        return self.hosts.play(*plays, flags=(*flags, "--extra-vars", json.dumps(wanted)))

    def read(self) -> dict[str, Part]:
        """Return the hosts of the page by name."""
        return {host.name: host for host in read(self.page.read_text(encoding="utf-8")).hosts()}

    def attention(self) -> list[list[str]]:
        """Return what needs attention."""
        tables = read(self.page.read_text(encoding="utf-8")).tables("attention")
        return [[text(cell) for cell in row] for table in tables for row in table.rows]

    def metrics(self, host: str) -> str:
        """Return the metrics of a host."""
        return (self.folder / f"{host}.prom").read_text()


@pytest.fixture
def written(lab: Callable[..., Libvirt], ansible: None, tmp_path: Path) -> Iterator[Written]:
    """Two hosts: one with four nodes, one with three."""
    libvirts = {"kvm1": lab("asymmetric-4n16c"), "kvm2": lab("asym-3n")}
    for libvirt in libvirts.values():
        libvirt.clear()
    yield Written(Hosts(libvirts, tmp_path))
    for libvirt in libvirts.values():
        libvirt.clear()


def _small() -> str:
    """Return a guest that no node of these hosts is too small for."""
    return anuma(vcpus=4, memory_kib=1 << 20)


def _promtool(*words: str, given: str = "") -> str:
    """Run promtool, which has to accept what it is given without a word about it."""
    done = subprocess.run(
        ["promtool", *words], check=False, input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _accepted(text_: str) -> None:
    assert _promtool("check", "metrics", given=text_) == ""


def test_drift_by_hand_is_in_both(written: Written) -> None:
    """Within one run; nothing is changed by looking, and nothing is left beside the file."""
    hosts = written.hosts
    for libvirt in hosts.libvirts.values():
        libvirt.define(_small())
    hosts.guests("kvm1", "anuma")
    hosts.guests("kvm2", "anuma")
    assert not hosts.play({"roles": [ROLE]}).failed
    run = written.play(BOOK)
    assert not run.failed, run.output
    assert written.attention() == []
    assert 'vnuma_guest_drift{guest="anuma"} 0' in written.metrics("kvm1")

    kvm1 = hosts.libvirts["kvm1"]
    xml = kvm1.dump("anuma")
    kvm1.define(re.sub(r"(<vcpupin vcpu='0' cpuset=')[^']*", r"\g<1>3", xml))
    before = hosts.dumps()
    run = written.play(BOOK)
    assert not run.failed, run.output
    assert [run.recap(host)["changed"] for host in hosts.libvirts] == [0, 0]
    assert hosts.dumps() == before
    ((kind, host, guest, sentence),) = written.attention()
    assert (kind, host, guest) == ("drift", "kvm1", "g1 anuma")
    assert sentence.startswith("vCPU 0 is pinned to 3 as defined and pinned to")
    assert 'vnuma_guest_drift{guest="anuma"} 1' in written.metrics("kvm1")
    assert 'vnuma_guest_drift{guest="anuma"} 0' in written.metrics("kvm2")
    for name in hosts.libvirts:
        _accepted(written.metrics(name))
    assert sorted(path.name for path in written.folder.iterdir()) == ["kvm1.prom", "kvm2.prom"]
    assert (written.folder / "kvm1.prom").stat().st_mode & 0o777 == 0o644
    cells = [len(part.guests()["g1"].tables("layout")[0].rows) for part in written.read().values()]
    assert cells == [4, 3]


@pytest.mark.parametrize("book", [{"roles": [ROLE]}, "kvm.vnuma.converge"])
def test_check_mode_writes_the_page_of_the_plan_alone(
    written: Written, book: dict[str, Any] | str
) -> None:
    """Each guest before and after; no metrics, no state, no definition."""
    hosts = written.hosts
    for libvirt in hosts.libvirts.values():
        libvirt.define(_small())
    hosts.guests("kvm1", "anuma")
    hosts.guests("kvm2", "anuma")
    before = hosts.dumps()
    run = written.play(book, flags=("--check", "--diff"))
    assert not run.failed, run.output
    assert hosts.dumps() == before
    assert list(written.folder.iterdir()) == []
    assert not (hosts.folder / "state").exists()
    assert "<!DOCTYPE" not in run.output
    found = written.read()
    assert sorted(found) == ["kvm1", "kvm2"]
    for part, count in zip(found.values(), (4, 3)):
        now, then = part.guests()["g1"].tables("layout")
        assert [text(row[0]) for row in now.rows] == ["none"]
        assert then.caption == "after this run"
        assert [text(row[0]) for row in then.rows] == [str(cell) for cell in range(count)]
        assert part.threads("now").keys() == part.threads("planned").keys()
        assert set(part.threads("now").values()) == {""}
        assert set(part.threads("planned").values()) == {"g1"}


def test_looking_in_check_mode(written: Written) -> None:
    """The page is the same, and there are no metrics."""
    written.hosts.libvirts["kvm1"].define(_small())
    run = written.play(BOOK, flags=("--check",))
    assert not run.failed, run.output
    assert list(written.folder.iterdir()) == []
    (layout,) = written.read()["kvm1"].guests()["g1"].tables("layout")
    assert layout.caption == "defined"


def test_converge_writes_what_came_of_it(written: Written) -> None:
    """Of hosts that had something to do, and of those that had not."""
    hosts = written.hosts
    for libvirt in hosts.libvirts.values():
        libvirt.define(_small())
    hosts.guests("kvm1", "anuma")
    hosts.guests("kvm2", "anuma")
    assert not hosts.play("kvm.vnuma.converge", flags=("--limit", "kvm2")).failed
    run = written.play("kvm.vnuma.converge")
    assert not run.failed, run.output
    found = written.read()
    assert sorted(found) == ["kvm1", "kvm2"]
    for name, count in (("kvm1", 4), ("kvm2", 3)):
        (layout,) = found[name].guests()["g1"].tables("layout")
        assert layout.caption == "defined, planned"
        assert len(layout.rows) == count
        assert "would change" not in found[name].text
        _accepted(written.metrics(name))
        assert "vnuma_last_success_timestamp_seconds" in written.metrics(name)
    run = written.play("kvm.vnuma.converge")
    assert [run.recap(host)["changed"] for host in hosts.libvirts] == [0, 0]


def test_hosts_that_cannot_be_looked_at(written: Written) -> None:
    """The page names them, the run fails in the end, and the last success is kept."""
    hosts = written.hosts
    hosts.libvirts["kvm1"].define(_small())
    hosts.guests("kvm1", "anuma")
    run = written.play(BOOK)
    assert not run.failed, run.output
    success = re.findall(r"^vnuma_last_success.*", written.metrics("kvm2"), re.MULTILINE)
    hosts.guests("kvm2", vnuma_uri="qemu:///nowhere")
    run = written.play(BOOK)
    assert run.failed
    ((kind, host, _guest, sentence),) = written.attention()
    assert (kind, host) == ("error", "kvm2")
    assert "cannot connect" in sentence or "nowhere" in sentence
    assert sorted(written.read()) == ["kvm1", "kvm2"]
    assert "vnuma_errors 1" in written.metrics("kvm2")
    assert re.findall(r"^vnuma_last_success.*", written.metrics("kvm2"), re.MULTILINE) == success
    _accepted(written.metrics("kvm2"))

    hosts.guests("kvm2", ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
    run = written.play(BOOK)
    assert run.failed
    ((kind, host, _guest, sentence),) = written.attention()
    assert (kind, host) == ("error", "kvm2")
    assert "Connection refused" in sentence
    assert 'guest="anuma"' in written.metrics("kvm1")


def test_no_secret(written: Written) -> None:
    """Neither in page nor metrics nor output, at its most talkative."""
    written.hosts.libvirts["kvm1"].define(RICH)
    written.hosts.guests("kvm1", "rich")
    for flags in (("--check", "--diff", "-vvv"), ("--diff", "-vvv")):
        run = written.play({"roles": [ROLE], "hosts": "kvm1"}, flags=flags)
        assert not run.failed, run.output
        assert PASSWORD not in run.output
        assert PASSWORD not in written.page.read_text()
    assert PASSWORD not in written.metrics("kvm1")
    assert PASSWORD in written.hosts.libvirts["kvm1"].dump("rich")


@pytest.mark.parametrize("make", [reports.odd_host, reports.large_host])
def test_promtool_accepts_any_name(make: Callable[[], reports.Entry]) -> None:
    """And has no advice on names and units."""
    _accepted(metrics(make(), 1764095847.5))


def test_alerts_and_dashboard(tmp_path: Path) -> None:
    """promtool takes the alerts, and every expression of the dashboard as one."""
    assert "SUCCESS: 2 rules found" in _promtool("check", "rules", str(MONITORING / "alerts.yml"))
    board = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"dashboard:{number}", "expr": expr.replace("$instance", ".*")}
        for number, expr in enumerate(expressions)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in _promtool("check", "rules", str(path))


def test_alerts_fire(tmp_path: Path) -> None:
    """After an hour of drift, of errors, and two days after the last success; else they do not."""
    shutil.copy2(MONITORING / "alerts.yml", tmp_path)
    series = {
        'vnuma_guest_drift{guest="good",instance="kvm1"}': "0x5000",
        'vnuma_guest_drift{guest="bad",instance="kvm1"}': "2x5000",
        'vnuma_errors{instance="kvm1"}': "0x5000",
        'vnuma_errors{instance="kvm2"}': "1x5000",
        'vnuma_last_success_timestamp_seconds{instance="kvm1"}': "0x5000",
    }

    def alert(at: str, name: str, *labels: dict[str, str]) -> dict[str, object]:
        wanted = [{"exp_labels": {"severity": "warning", **one}} for one in labels]
        return {"eval_time": at, "alertname": name, "exp_alerts": wanted}

    bad, blind, old = (
        {"guest": "bad", "instance": "kvm1"},
        {"instance": "kvm2"},
        {"instance": "kvm1"},
    )
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            alert("30m", "VnumaDrift"),
            alert("2h", "VnumaDrift", bad),
            alert("30m", "VnumaBlind"),
            alert("2h", "VnumaBlind", blind),
            alert("50h", "VnumaBlind", old, blind),
        ],
    }
    rules = yaml.safe_load((tmp_path / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            # Their words are compared word for word; here only who fires counts.
            del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "tests": [test]}))
    assert "SUCCESS" in _promtool("test", "rules", str(path))
