# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball as it would be published: what is in it, and what Galaxy and ansible-builder say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import run
import yaml
from venvs import OLDEST

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

#: What a user gets: kinds of files by folder. Tests, molecule's scenarios (which stand on them) and
#: the tools of the checkout stay in the checkout.
WANTED = {
    # Galaxy's importer lints with the collection's own configuration.
    "": r"(README|CHANGELOG|SECURITY|CODE_OF_CONDUCT)\.md|CHANGELOG\.rst|COPYING|\.ansible-lint"
    r"|(MANIFEST|FILES)\.json",
    "changelogs": r"(changelog|config)\.yaml|fragments/\S+\.ya?ml",
    "docs": r"(\w+\.(md|svg)|docsite/([\w-]+\.yml|rst/\w+\.rst)|examples/[\w/.-]+\.(yml|j2|json))",
    "meta": r"(runtime|execution-environment)\.yml|ee-\w+\.txt",
    "playbooks": r"\w+\.yml",
    "plugins": r"(doc_fragments|filter|modules|(module|plugin)_utils(/_\w+)?)/\w+\.py"
    r"|plugin_utils/_report/templates/\w+\.(css|j2|html\.j2|svg\.j2)",
    "roles": r"vnuma/(README\.md|(defaults|handlers|meta|tasks|vars)/\w+\.yml)",
}
#: What has to be there, and would be missed first.
NEEDED = (
    *("COPYING", "README.md", "meta/runtime.yml", "meta/execution-environment.yml"),
    *("docs/docsite/links.yml", "docs/guide.md", "changelogs/changelog.yaml", "CHANGELOG.md"),
    *("roles/vnuma/vars/main.yml", "SECURITY.md", "docs/security.md"),
    *("roles/vnuma/meta/argument_specs.yml", "playbooks/converge.yml", "playbooks/revert.yml"),
    *("playbooks/report.yml", "plugins/plugin_utils/_report/templates/page.html.j2"),
)


@pytest.fixture(scope="module")
def tarball() -> Path:
    """The tarball that was built from this checkout."""
    found = list((PROJECT / "build/dist").glob("kvm-vnuma-*.tar.gz"))
    assert len(found) == 1, "build it first: python3 tests/tools/run.py --install"
    return found[0]


@pytest.fixture(scope="module")
def names(tarball: Path) -> list[str]:
    """The names of its files."""
    with tarfile.open(tarball) as archive:
        return [member.name for member in archive.getmembers() if member.isfile()]


@pytest.fixture(scope="module")
def manifest(tarball: Path) -> dict[str, Any]:
    """What it says about itself."""
    with tarfile.open(tarball) as archive:
        member = archive.extractfile("MANIFEST.json")
        assert member is not None
        found: dict[str, Any] = json.load(member)["collection_info"]
        return found


def test_nothing_else_is_in_it(names: list[str]) -> None:
    """Every file is of a kind that belongs there."""
    strange = []
    for name in names:
        folder, slash, rest = name.partition("/")
        pattern = WANTED.get(folder if slash else "", "")
        if not (pattern and re.fullmatch(pattern, rest if slash else name)):
            strange.append(name)
    assert not strange


def test_nothing_is_missing(names: list[str]) -> None:
    """Whatever is in the published folders of the checkout is in it."""
    listed = subprocess.run(
        [*("git", "ls-files", "--cached", "--others", "--exclude-standard"), *filter(None, WANTED)],
        check=True,
        capture_output=True,
        text=True,
        cwd=PROJECT,
    ).stdout.split()
    assert len(listed) > 40
    there = {name for name in listed if (PROJECT / name).exists()}
    assert sorted((there | set(NEEDED)) - set(names)) == []


def test_what_it_says_about_itself(manifest: dict[str, Any]) -> None:
    """Version, license, tags that Galaxy has, and links that lead to one place."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", manifest["version"])
    assert (manifest["namespace"], manifest["name"]) == ("kvm", "vnuma")
    assert manifest["license_file"] == "COPYING"
    assert manifest["dependencies"] == {}
    assert "infrastructure" in manifest["tags"]
    for link in ("repository", "documentation", "homepage", "issues"):
        assert manifest[link].startswith("https://github.com/kvm-vnuma/kvm.vnuma"), link
    changes = yaml.safe_load((PROJECT / "changelogs/changelog.yaml").read_text())
    assert manifest["version"] in changes["releases"]


def test_its_readme_has_no_dead_links(names: list[str]) -> None:
    """What it links to by a path is in it too: on Galaxy there is no checkout."""
    readme = (PROJECT / "README.md").read_text()
    paths = {
        target.partition("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", readme)
        if not re.match(r"https?:|#", target)
    }
    assert len(paths) > 20
    folders = {str(parent) for name in names for parent in Path(name).parents}
    assert {path for path in paths if path not in folders.union(names)} == set()


def test_runtime() -> None:
    """The oldest ansible-core is the one that is tested; the group has every module."""
    runtime = yaml.safe_load((PROJECT / "meta/runtime.yml").read_text())
    release = OLDEST.version.rpartition(".")[0]
    assert runtime["requires_ansible"] == f">={release}.0"
    modules = sorted(path.stem for path in (PROJECT / "plugins/modules").glob("*.py"))
    assert sorted(runtime["action_groups"]["vnuma"]) == modules


def test_the_importer_has_nothing_to_say(tarball: Path, tmp_path: Path) -> None:
    """Galaxy's own checks, its required tags included, end without an error or a warning."""
    # ansible-test, which it can run in a container, has a step of its own.
    done = subprocess.run(
        [sys.executable, "-m", "galaxy_importer.main", str(tarball)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "GALAXY_IMPORTER_CHECK_REQUIRED_TAGS": "true",
            "GALAXY_IMPORTER_RUN_ANSIBLE_TEST": "false",
        },
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Importer processing completed successfully" in output
    assert "ansible-lint run complete" in output
    said = re.findall(r"^.*(?:WARNING|ERROR).*$", output, re.MULTILINE)
    # The importer gives ansible-lint a collections path that ends in ansible_collections. Ansible
    # takes that, ansible-lint does not find playbooks by name in it.
    unfound = "WARNING: ERROR    Failed to find kvm.vnuma.{} playbook."
    own = {unfound.format(path.stem) for path in (PROJECT / "playbooks").glob("*.yml")}
    assert [line for line in said if line not in own] == []
    result = json.loads((tmp_path / "importer_result.json").read_text())
    found = {(one["content_type"], one["name"]) for one in result["contents"]}
    assert {
        ("filter", "partition_domain"),
        ("module", "vnuma_partition"),
        ("role", "vnuma"),
    } <= found
    documented = {
        (one["content_type"], one["content_name"])
        for one in result["docs_blob"]["contents"]
        if one["doc_strings"] or one["readme_html"]
    }
    for path in (PROJECT / "plugins/modules").glob("*.py"):
        assert ("module", path.stem) in documented


def test_execution_environment(tmp_path: Path) -> None:
    """The example's build context can be made, and the image gets what the collection needs."""
    example = PROJECT / "docs/examples/controller/execution-environment.yml"
    context = tmp_path / "context"
    builder = str(BIN / "ansible-builder")
    subprocess.run(
        [builder, "create", "--file", str(example), "--context", str(context)],
        check=True,
        capture_output=True,
        text=True,
    )
    wanted = yaml.safe_load((context / "_build/requirements.yml").read_text())
    assert [one["name"] for one in wanted["collections"]] == ["kvm.vnuma"]
    assert (context / "Dockerfile").exists() or (context / "Containerfile").exists()
    said = subprocess.run(
        [builder, "introspect", str(PROJECT / "build/installed")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    needs = yaml.safe_load(said)
    python = [re.split(r"[>\s]", line)[0] for line in needs["python"]]
    assert python == ["lxml", "libvirt-python"]
    for platform, package in (("dpkg", "libvirt-dev"), ("rpm", "libvirt-devel")):
        lines = [line for line in needs["system"] if line.startswith(f"{package} ")]
        assert len(lines) == 1
        assert f"platform:{platform}" in lines[0]


@pytest.mark.parametrize("name", ["config", "fault", "wish"])
def test_issue_forms(name: str) -> None:
    """The forge's schema is met."""
    schema = "vendor.github-issue-config" if name == "config" else "vendor.github-issue-forms"
    form = PROJECT / f".github/ISSUE_TEMPLATE/{name}.yml"
    checked = subprocess.run(
        [str(BIN / "check-jsonschema"), "--builtin-schema", schema, str(form)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_form_for_faults_asks_for_no_password(tmp_path: Path) -> None:
    """Its command takes them out of a definition, and nothing that a fault is about."""
    form = yaml.safe_load((PROJECT / ".github/ISSUE_TEMPLATE/fault.yml").read_text())
    (guest,) = (one for one in form["body"] if one.get("id") == "definition")
    (command,) = re.findall(r"```sh\n(.*?)```", guest["attributes"]["description"], re.DOTALL)
    source, _pipe, rest = command.partition("|")
    assert source.strip() == "virsh dumpxml --inactive my-guest"
    layout = "<vcpupin vcpu='0' cpuset='0-3'/><sibling id='1' value='21'/><secret uuid='4'/>"
    definition = tmp_path / "guest.xml"
    definition.write_text(
        f"<domain>{layout}<graphics type='vnc' passwd='hunter2'/>"
        '<graphics type="spice" passwd="hunter2" keymap="de"/>'
        "<q:arg value='user,password=hunter2,x=1'/><q:arg value='secret:hunter2'/>"
        "<q:env name='TOKEN' value='token=hunter2'/></domain>"
    )
    printed = subprocess.run(
        ["sh", "-c", f"cat {definition} | {rest}"], check=True, capture_output=True, text=True
    ).stdout
    assert "hunter2" not in printed
    assert layout in printed
    assert 'keymap="de"' in printed
    assert "x=1" in printed


def test_hooks_are_the_linters_of_make_check() -> None:
    """What is found before a commit is what make check finds."""
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    (hook,) = (one for repo in hooks["repos"] for one in repo["hooks"])
    asked = hook["entry"].split()[2:]
    assert set(asked) == set(run.GROUPS["check"]) - {"planner", "unit"}


def test_workflows() -> None:
    """The forge's schema is met, and what is called are targets that there are."""
    workflows = sorted((PROJECT / ".github/workflows").glob("*.yml"))
    assert workflows
    checked = subprocess.run(
        [
            *(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows"),
            *map(str, workflows),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    makefile = (PROJECT / "Makefile").read_text()
    called = set()
    for workflow in workflows:
        for job in yaml.safe_load(workflow.read_text())["jobs"].values():
            called.update(job.get("strategy", {}).get("matrix", {}).get("target", ()))
            for step in job["steps"]:
                called.update(re.findall(r"\bmake ([a-z-]+)", step.get("run", "")))
    assert len(called) > 4
    for target in called:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
