# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the project's checks and tests, and say clearly what came of each.

    python3 tests/tools/run.py check | test | demo | STEP...
    python3 tests/tools/run.py --molecule WORD...

Steps run two at a time, but for some that run alone; what each printed is in build/logs. A step
that cannot run on this machine is NOT RUN, says why, and is never counted as passed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import trees
from venvs import NEWEST, OLDEST, PROJECT, ToolError, controller, interpreter, venv

LOGS = trees.BUILD / "logs"
#: What may depend on the version of Ansible; the rest depends on libvirt, and runs once.
LATEST = tuple(
    f"tests/integration/test_{name}.py"
    for name in ("partition", "facts_and_filter", "bad_input", "role", "trust")
)
#: The same of the unit tests: the planner and the texts it works on know no Ansible.
UNIT_LATEST = (
    *("tests/unit/plugins/filter", "tests/unit/plugins/module_utils/_module"),
    *("tests/unit/roles", "tests/unit/test_docs.py", "tests/unit/test_tools.py"),
)
#: Run apart from the other unit tests, side by side with them: its properties take longest.
PLANNER = "tests/unit/plugins/module_utils/_planner"
#: The same of the integration tests.
RESTARTS = ("tests/integration/test_restart.py", "tests/integration/test_role.py")
HOSTS = ("tests/integration/test_hosts.py",)
#: The same: whole plays, those of the documentation, and those about hosts that lie.
PLAYS = tuple(
    f"tests/integration/test_{name}.py"
    for name in ("examples", "recipes", "trust", "places", "migration_group")
)
#: Guests that migrate between hosts; apart from `make test`, which would take too long with them.
MIGRATION = tuple(
    f"tests/integration/test_{name}.py"
    for name in ("migrate", "migrate_faults", "migrate_plays", "migrate_refusals")
)
#: Owners that act while their guests are restarted, and modules that die at each step; a campaign
#: of random kills goes with them.
FAULTS = tuple(f"tests/integration/test_{name}.py" for name in ("faults", "fault_points"))
#: The README, followed on fresh machines.
README = ("tests/integration/test_readme.py",)
#: Guests with emulated devices in the place of passed-through ones; apart from `make test`, which
#: would take too long with them.
DEVICES = ("tests/integration/test_devices_boot.py",)
#: Devices that an emulated host passes through.
KVM_DEVICES = ("tests/integration/test_kvm_devices.py",)
#: What needs programs that a machine may lack, and that the other tests do not need.
PAGE = ("tests/integration/test_page.py",)
REPORT = ("tests/integration/test_report.py",)
#: What has a step of its own.
APART = (
    *(*RESTARTS, *FAULTS, *HOSTS, *PLAYS, *PAGE, *REPORT, *MIGRATION, *README),
    *(*DEVICES, *KVM_DEVICES),
)
_PRINTING = threading.Lock()
#: Steps at the same time, on two cores: those with real guests wait for them half of their time.
_AT_ONCE = 3


class CannotRunError(Exception):
    """A step that needs what this machine does not have; the message says what."""


@dataclass(frozen=True)
class Step:
    """One thing to run.

    Attributes:
        name: how it is called on the command line and in the verdict.
        what: what it shows, in a few words.
        commands: returns the commands to run, in the folder of the project.
        environment: what they need besides the usual.
        required: whether a machine that cannot run it fails the whole.
        telling: whether all that its last command printed is shown, not only how that ended.
        alone: whether it runs by itself, and not as part of `make test`: it takes both cores.
    """

    name: str
    what: str
    commands: Callable[[], list[list[str]]]
    environment: Callable[[], dict[str, str]] = dict
    required: bool = True
    telling: bool = False
    alone: bool = False


def _environment(name: str) -> Callable[[], Path]:
    """Where its requirements are, with the oldest ansible-core that there is a Python for."""

    def make() -> Path:
        chosen = controller()
        return venv(name, chosen.python, chosen.core)

    return make


#: What Ansible runs from, and the tests that run it.
ansible = _environment("controller")
#: The tools of the checks.
tools = _environment("tools")
#: What renders the documentation.
documentation = _environment("docs")
#: What publishes collections.
publishing = _environment("publish")


def newest() -> Path:
    """The environment with the newest ansible-core, where the other steps have an older one."""
    try:
        chosen = controller([NEWEST])
    except ToolError as error:
        raise CannotRunError(str(error)) from None
    if controller().core is NEWEST:
        raise CannotRunError(
            f"the other steps had ansible-core {NEWEST.version}, since this machine has no Python "
            f"for {OLDEST.version}"
        )
    return venv("controller", chosen.python, chosen.core)


def target() -> Path:
    """The environment with the oldest Python of managed hosts."""
    python = interpreter("3.9")
    if python is None:
        raise CannotRunError("this machine has no Python 3.9 with its venv module")
    return venv("target-3.9", python)


def _tool(name: str, *words: str) -> Callable[[], list[list[str]]]:
    return lambda: [[str(tools() / "bin" / name), *words]]


def _pytest(environment: Callable[[], Path], *words: str) -> Callable[[], list[list[str]]]:
    return lambda: [
        [str(environment() / "bin/python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    ]


def _linked() -> dict[str, str]:
    path = str(trees.link())
    return {
        "PYTHONPATH": path,
        "MYPYPATH": f"{path}:tests/lab:tests/tools:tests/bench:tests/integration:tests/unit",
        "ANSIBLE_COLLECTIONS_PATH": path,
    }


def _mypy() -> list[list[str]]:
    # What tests import is where they run.
    mypy = [str(tools() / "bin/mypy"), "--python-executable", str(ansible() / "bin/python")]
    return [
        [*mypy, "--package", "ansible_collections.kvm.vnuma.plugins"],
        [*mypy, *(f"tests/{part}" for part in ("lab", "tools", "bench", "integration", "publish"))],
        [*mypy, "tests/unit"],
    ]


def _sanity(environment: Callable[[], Path]) -> Callable[[], list[list[str]]]:
    def commands() -> list[list[str]]:
        folder = environment()
        code = (
            "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import sanity; "
            "sys.exit(sanity.run(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])))"
        )
        python = (folder / "bin/python").resolve()
        return [[sys.executable, "-c", code, str(Path(__file__).parent), str(folder), str(python)]]

    return commands


def _molecule_environment() -> dict[str, str]:
    return {
        "ANSIBLE_COLLECTIONS_PATH": str(trees.INSTALLED),
        "PATH": f"{tools() / 'bin'}:{os.environ['PATH']}",
    }


def _scenario(name: str) -> Callable[[], list[list[str]]]:
    return _tool("molecule", "test", "--scenario-name", name)


def _molecule(scenario: str) -> Step:
    what = f"molecule scenario {scenario}"
    return Step(f"molecule-{scenario}", what, _scenario(scenario), _molecule_environment)


def _on_emulated_hosts(
    commands: Callable[[], list[list[str]]], *also: list[str]
) -> Callable[[], list[list[str]]]:
    def able_commands() -> list[list[str]]:
        able = subprocess.run(
            ["/usr/bin/python3", "tests/lab/numahost.py", "check"],
            check=False,
            capture_output=True,
            text=True,
            cwd=PROJECT,
        )
        if able.returncode:
            raise CannotRunError(able.stderr.strip())
        return [*commands(), *also]

    return able_commands


def _browser() -> list[list[str]]:
    able = subprocess.run(
        ["/usr/bin/python3", "-c", "import browser; browser.find()"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "tests/lab")},
    )
    if able.returncode:
        raise CannotRunError(able.stderr.strip().rpartition("LabError: ")[2])
    return _pytest(ansible, *PAGE)()


def _report() -> list[list[str]]:
    if shutil.which("promtool") is None:
        raise CannotRunError("this machine has no promtool; on Debian, apt-get install prometheus")
    return _pytest(ansible, *REPORT)()


def _faults() -> list[list[str]]:
    # FAULTS_SEED and FAULTS_ROUNDS say which rounds, and how many.
    result = str(trees.BUILD / "faults.md")
    campaign = [str(ansible() / "bin/python"), "tests/lab/faults.py", "--result", result]
    return [*_pytest(ansible, *FAULTS)(), campaign, ["cat", result]]


def _docs() -> list[list[str]]:
    environment = documentation()
    return [
        [
            *(str(environment / "bin/antsibull-docs"), "lint-collection-docs", "--plugin-docs"),
            *("--validate-collection-refs=all", "--disallow-unknown-collection-refs"),
            *("--check-extra-docs-refs", "."),
        ],
        [sys.executable, str(Path(__file__).parent / "docs.py"), str(environment)],
    ]


STEPS = (
    Step(
        "ruff",
        "style and common mistakes",
        lambda: [
            [str(tools() / "bin/ruff"), "check", "."],
            [str(tools() / "bin/ruff"), "format", "--check", "."],
        ],
    ),
    Step("yamllint", "YAML", _tool("yamllint", "--strict", ".")),
    Step("mypy", "types, strict", _mypy, _linked),
    Step(
        "ansible-lint",
        "playbooks and roles, production profile",
        _tool("ansible-lint", "--offline", "--strict", "--profile=production"),
        lambda: {**_linked(), "PATH": f"{tools() / 'bin'}:{os.environ['PATH']}"},
    ),
    Step("changelog", "changelog fragments", _tool("antsibull-changelog", "lint")),
    Step(
        "docs",
        "plugin pages and guides, without a warning",
        _docs,
        lambda: {**_linked(), "PATH": f"{documentation() / 'bin'}:{os.environ['PATH']}"},
    ),
    Step(
        "publish",
        "the tarball, Galaxy's importer, execution environments",
        _pytest(publishing, "tests/publish"),
    ),
    Step("planner", "unit and property tests of the planner", _pytest(ansible, PLANNER), _linked),
    Step(
        "unit",
        "the other unit tests",
        _pytest(ansible, "tests/unit", f"--ignore={PLANNER}"),
        _linked,
    ),
    Step(
        "unit-3.9",
        "unit tests, Python 3.9",
        _pytest(target, "tests/unit", "--hypothesis-profile=few"),
        _linked,
        required=False,
    ),
    Step(
        "unit-latest",
        "unit tests, newest ansible-core",
        _pytest(newest, *UNIT_LATEST),
        _linked,
        required=False,
    ),
    Step(
        "molecule-kvm",
        "emulated KVM hosts with NUMA nodes",
        _on_emulated_hosts(_scenario("kvm"), ["/bin/sh", "-c", "cat build/evidence-kvm/*.txt"]),
        _molecule_environment,
        required=False,
        telling=True,
        alone=True,
    ),
    Step(
        "molecule-kvm-migration",
        "a KVM guest that migrates between emulated hosts, and comes back",
        _on_emulated_hosts(_scenario("kvm-migration")),
        _molecule_environment,
        required=False,
        alone=True,
    ),
    Step(
        "kvm-devices",
        "devices that an emulated host passes through to a KVM guest",
        _on_emulated_hosts(_pytest(ansible, *KVM_DEVICES)),
        required=False,
        alone=True,
    ),
    Step(
        "migration",
        "guests that migrate between hosts, and faults on the way",
        _pytest(ansible, *MIGRATION),
        alone=True,
    ),
    Step(
        "faults",
        "owners that act while their guests are restarted, and runs that are killed",
        _faults,
        telling=True,
        alone=True,
    ),
    Step(
        "migration-faults",
        "a guest that migrates while daemons and the module are killed at random",
        lambda: [[str(ansible() / "bin/python"), "tests/lab/migrationfaults.py"]],
        telling=True,
        alone=True,
    ),
    Step(
        "readme",
        "the README, followed on fresh machines",
        _pytest(ansible, *README),
        alone=True,
    ),
    Step(
        "devices",
        "guests that boot with devices on their cells",
        _pytest(ansible, *DEVICES),
        _linked,
        alone=True,
    ),
    Step(
        "integration",
        "real libvirt",
        _pytest(
            ansible,
            "tests/integration",
            *(f"--ignore={path}" for path in APART),
        ),
    ),
    Step(
        "restarts",
        "guests that run, and faults that happen",
        _pytest(ansible, *RESTARTS),
    ),
    Step("plays", "whole plays, those of the documentation among them", _pytest(ansible, *PLAYS)),
    Step("hosts", "a dozen guests on every made-up host", _pytest(ansible, *HOSTS)),
    Step(
        "integration-latest",
        "real libvirt, newest ansible-core",
        _pytest(newest, *LATEST, "-m", "not slow"),
        required=False,
    ),
    Step("report", "page and metrics by whole plays", _report, _linked, required=False),
    Step("browser", "the page in a browser", _browser, _linked, required=False),
    Step("sanity", "ansible-test sanity", _sanity(ansible)),
    Step(
        "sanity-latest", "ansible-test sanity, newest ansible-core", _sanity(newest), required=False
    ),
    # Last those that are short: both cores have something to do until the end.
    _molecule("fleet"),
    _molecule("default"),
)
GROUPS = {
    "check": ("ruff", "yamllint", "mypy", "ansible-lint", "changelog", "planner", "unit"),
    "test": tuple(step.name for step in STEPS if not step.alone),
}


@dataclass
class Answer:
    """What came of a step."""

    step: Step
    verdict: str
    seconds: float
    note: str


def run_step(step: Step) -> Answer:
    """Run one step, print how it ended, and return that."""
    log = LOGS / f"{step.name}.log"
    started = time.monotonic()
    verdict, note = "passed", ""
    try:
        with log.open("w") as out:
            for command in step.commands():
                print(f"$ {' '.join(command)}", file=out, flush=True)
                done = subprocess.run(
                    command,
                    check=False,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=PROJECT,
                    env={**os.environ, "NO_COLOR": "1", **step.environment()},
                )
                if done.returncode:
                    verdict, note = "FAILED", f"exit code {done.returncode}"
    except CannotRunError as reason:
        verdict, note = ("FAILED" if step.required else "NOT RUN"), str(reason)
    except ToolError as error:
        verdict, note = "FAILED", str(error)
    except Exception as error:
        verdict, note = "FAILED", str(error)
        with log.open("a") as out:
            traceback.print_exc(file=out)
    answer = Answer(step, verdict, time.monotonic() - started, note)
    with _PRINTING:
        text = log.read_text(errors="replace") if log.exists() else ""
        print(
            f"\n=== {step.name}: {step.what}: {verdict} in {answer.seconds:.0f} s {note}".rstrip()
        )
        lines = [line for line in text.splitlines() if line.strip()]
        if verdict == "FAILED":
            lines = lines[-120:]
        elif step.telling:
            lines = [line for line in text.rpartition("\n$ ")[2].splitlines() if line.strip()][1:]
        else:
            lines = lines[-2:]
        print("\n".join(lines), flush=True)
    return answer


def main(names: list[str]) -> int:
    """Run what the command line names; what the tools lack is one sentence."""
    try:
        return _main(names)
    except ToolError as error:
        print(f"run: {error}", file=sys.stderr)
        return 1


def _main(names: list[str]) -> int:
    if names == ["--install"]:
        # For scripts: install the collection, and say which environment has Ansible.
        environment = ansible()
        trees.install(environment / "bin/ansible-galaxy")
        print(environment)
        return 0
    if names[:1] == ["--molecule"]:
        # By hand: "--molecule converge -s kvm" leaves what that scenario makes to play with.
        trees.install(ansible() / "bin/ansible-galaxy")
        os.chdir(PROJECT)
        os.environ.update(_molecule_environment())
        os.execvp("molecule", ["molecule", *names[1:]])  # noqa: S606 - it becomes what was asked for
    wanted = [name for word in names for name in GROUPS.get(word, (word,))]
    steps = {step.name: step for step in STEPS}
    unknown = [name for name in wanted if name not in steps]
    if unknown or not wanted:
        print(f"run: steps are {', '.join(steps)}; groups are {', '.join(GROUPS)}")
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    taken = controller()
    print(f"run: ansible-core {taken.core.version} with {taken.python}", flush=True)
    tarball = (
        "integration",
        "devices",
        "plays",
        "hosts",
        "restarts",
        "faults",
        "migration",
        "report",
        "molecule",
        "publish",
        "kvm-devices",
    )
    if any(name.startswith(tarball) for name in wanted):
        trees.install(ansible() / "bin/ansible-galaxy")
    chosen = [steps[name] for name in wanted]
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        answers = list(pool.map(run_step, [step for step in chosen if not step.alone]))
    answers += [run_step(step) for step in chosen if step.alone]
    print(f"\n{'step':<20} {'verdict':<8} {'seconds':>7}")
    for answer in answers:
        print(f"{answer.step.name:<20} {answer.verdict:<8} {answer.seconds:>7.0f}  {answer.note}")
    failed = [answer for answer in answers if answer.verdict == "FAILED"]
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for answer in answers:
        log = LOGS / f"{answer.step.name}.log"
        for count, word in re.findall(
            r"(\d+) (passed|failed|skipped)",
            (log.read_text(errors="replace").splitlines() or [""])[-1],
        ):
            counts[word] += int(count)
    passed = sum(answer.verdict == "passed" for answer in answers)
    verdict = "FAILED" if failed else "PASSED" if passed else "NOT RUN"
    print(
        f"\nmake {' '.join(names)}: {verdict} ({passed} steps passed, {len(failed)} failed, "
        f"{sum(a.verdict == 'NOT RUN' for a in answers)} not run)"
    )
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
