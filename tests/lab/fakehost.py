# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private libvirt daemon that reports any host: real libvirtd, real QEMU driver, made-up /sys.

    python tests/lab/fakehost.py check
    python tests/lab/fakehost.py start NAME HOST.json [--shim]
    python tests/lab/fakehost.py uri NAME | pid NAME | exec NAME COMMAND... | stop NAME | list

A host lives in mount, pid and uts namespaces of its own, and in a folder below VNUMA_LAB (by
default /tmp/vnuma-lab). It needs root; neither systemd, nor KVM, nor the machine's libvirt. What it
runs, its libvirt, QEMU and Python, is this machine's own or that of a root (root.py).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import door
import pids
import root
import sysfs
from errors import LabError

_HERE = Path(__file__).resolve().parent
_PATIENCE_S = 60.0
#: For a daemon that knows none of QEMU's programs yet, while other tests run.
_PROBES_S = 240.0

_LIBVIRTD_CONF = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
host_uuid = "{host_uuid}"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""

# Labels, users, cgroups and the log daemon belong to a machine's own libvirt, not to this one.
_QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
stdio_handler = "file"
seccomp_sandbox = 0
cgroup_controllers = []
"""


def lab_root() -> Path:
    """Return the folder that all fake hosts live in."""
    return Path(os.environ.get("VNUMA_LAB", "/tmp/vnuma-lab"))


def check() -> None:
    """See whether fake hosts can run here.

    Raises:
        LabError: when they cannot.
    """
    if os.geteuid() != 0:
        raise LabError("a private libvirt daemon needs root, and this is not; use sudo.")
    for program in ("/usr/sbin/libvirtd", "/usr/bin/virsh", "/usr/bin/unshare", "/usr/bin/nsenter"):
        if not Path(program).exists():
            raise LabError(
                f"{program} is missing; run tests/tools/bootstrap.sh, which installs it."
            )
    done = subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LabError(
            f"namespaces cannot be made here ({done.stderr.strip()}); use a real machine."
        )


class FakeHost:
    """One fake host.

    Args:
        name: its name, also its host name.
        spec: the host's file; None for one that is running already.
        shim: let guests really start that are pinned to pCPUs and nodes this machine lacks.
        slow_types: let its daemon take long over libxml2's schema types, see slowtypes.c.
        sshd: address and port of an ssh daemon inside.
        key: public key that the ssh daemon lets in as root.
        netns: an existing network namespace to live in.
    """

    def __init__(
        self,
        name: str,
        spec: Path | None = None,
        *,
        shim: bool = False,
        slow_types: bool = False,
        sshd: tuple[str, int] | None = None,
        key: Path | None = None,
        netns: str | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self.shim = shim
        self.slow_types = slow_types
        self.sshd = sshd
        self.key = key
        self.netns = netns
        self.root = lab_root() / name
        self.platform = root.chosen()

    @property
    def uri(self) -> str:
        """URI that reaches its daemon from outside."""
        return f"qemu:///system?socket={self.socket}"

    @property
    def socket(self) -> Path:
        """The daemon's read-write socket, from outside."""
        return self.root / "run/libvirt" / self.platform.socket

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        try:
            return self.pid > 0
        except LabError:
            return False

    @property
    def pid(self) -> int:
        """Process id of its init, from outside.

        Raises:
            LabError: when it does not run.
        """
        try:
            return pids.read(self.root / "pid")
        except ProcessLookupError:
            raise LabError(f"fake host {self.name} does not run.") from None

    def start(self) -> None:
        """Start it; what is left of an earlier one of that name is removed first.

        Raises:
            LabError: when it does not come up.
        """
        check()
        assert self.spec is not None
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)
        for folder in (
            *("run/libvirt", "run/sshd", "run/lock", "etc-libvirt/qemu", "state", "ssh", "home"),
            *("lib/images", "lib/qemu", "cache/qemu", "log/qemu"),
        ):
            (self.root / folder).mkdir(parents=True)
        if self._known_capabilities.is_dir():
            shutil.copytree(self._known_capabilities, self._capabilities)
        sysfs.write_tree(sysfs.load(self.spec), self.root / "tree")
        host_uuid = uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.vnuma-lab")
        etc = self.root / "etc-libvirt"
        (etc / f"{self.platform.daemon}.conf").write_text(
            _LIBVIRTD_CONF.format(host_uuid=host_uuid)
        )
        (etc / "qemu.conf").write_text(_QEMU_CONF)
        (etc / "libvirt.conf").write_text('uri_default = "qemu:///system"\n')
        if self.sshd is not None:
            door.write_sshd(self.root, self.name, self.sshd, self.key)
        else:
            door.write(self.root, self.name)
        enter = ["ip", "netns", "exec", self.netns] if self.netns else []
        shims = [("fakenuma", self.shim), ("slowtypes", self.slow_types)]
        preload = ":".join(str(build_shim(name)) for name, wanted in shims if wanted)
        # Its init appends to it as well, by itself.
        with (self.root / "init.log").open("a") as log:
            launcher = subprocess.Popen(
                [
                    *enter,
                    *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"),
                    *("--propagation", "private", str(_HERE / "fakehost_init.sh")),
                    *(self.name, str(self.root), preload),
                    *(self.platform.daemon, self.platform.socket, str(self.platform.folder or "")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not (self.root / "ready").exists():
            if launcher.poll() is not None or time.monotonic() > deadline:
                launcher.kill()
                said = (self.root / "init.log").read_text().strip()
                raise LabError(f"fake host {self.name} did not come up: {said or 'no socket'}")
            time.sleep(0.05)
        pids.write(self.root / "pid", _only_child(launcher.pid))
        self._wait_for_daemon()

    def stop(self) -> None:
        """End it with everything in it: the kernel ends a pid namespace with its init."""
        try:
            pid = self.pid
        except LabError:
            return
        self._keep_capabilities()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE_S
        while not pids.is_gone(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        (self.root / "pid").unlink(missing_ok=True)

    def exec_argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs *argv* inside."""
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-p", "-n", "--", *argv]

    def exec(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what came of it."""
        check = options.pop("check", True)
        options = {"capture_output": True, "text": True, **options}
        return subprocess.run(self.exec_argv(argv), check=check, **options)

    def kill_now(self, *words: str) -> None:
        """Kill what pgrep finds of these words inside, from outside: entering takes 20 ms."""
        found = subprocess.run(
            ["pgrep", "--ns", str(self.pid), "--nslist", "pid", *words],
            check=False,
            capture_output=True,
            text=True,
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def kill_daemon_now(self) -> None:
        """Kill the daemon outright, and hold it down."""
        (self.root / "held").touch()
        self.kill_now("-x", self.platform.daemon)

    def kill_daemon(self, *, hold: bool = False) -> None:
        """Kill the daemon outright; it comes back by itself unless it is held down."""
        if hold:
            (self.root / "held").touch()
        doomed = self._daemons()
        while doomed:
            self.exec(["kill", "-KILL", *doomed], check=False)
            time.sleep(0.05)
            # The next one may be there already; it is no business of this call.
            doomed &= self._daemons()

    def release_daemon(self) -> None:
        """Let the daemon come back, and wait until it answers."""
        (self.root / "held").unlink(missing_ok=True)
        self._wait_for_daemon()

    def renew_daemon(self) -> None:
        """Have another daemon in the place of this one, and wait until it answers."""
        self.kill_daemon()
        self._wait_for_daemon()

    def said(self) -> str:
        """Return the last lines that its init and its daemon wrote, for a failure to show."""
        logs = (self.root / "init.log", self.root / "log/libvirtd.log")
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()[-5:]]
        return "\n".join([f"fake host {self.name}:", *lines])

    @property
    def _capabilities(self) -> Path:
        """Where the daemon keeps what it has learnt of QEMU's programs by starting them."""
        return self.root / "cache/qemu/capabilities"

    @property
    def _known_capabilities(self) -> Path:
        """The same from an earlier host, to start with; libvirt checks that it is still true."""
        return lab_root() / f"capabilities-{self.platform.name}"

    def _keep_capabilities(self) -> None:
        if self._known_capabilities.exists() or not self._capabilities.is_dir():
            return
        draft = Path(tempfile.mkdtemp(dir=lab_root()))
        shutil.copytree(self._capabilities, draft / "kept")
        with contextlib.suppress(OSError):
            # Another host may have been faster.
            (draft / "kept").rename(self._known_capabilities)
        shutil.rmtree(draft)

    def _daemons(self) -> set[str]:
        """Return the process ids of the daemon, from inside."""
        return set(self.exec(["pgrep", "-x", self.platform.daemon], check=False).stdout.split())

    def _wait_for_daemon(self) -> None:
        # Its first answer takes long: it starts each of QEMU's programs to learn what that can do.
        # One of them was seen to hang (7.2, qemu-system-m68k): the thread of its monitor had taken
        # the connection that its main thread went on to accept. libvirt waits for that for ever.
        deadline = time.monotonic() + _PATIENCE_S
        words = ["virsh", "--quiet", "--connect", self.uri, "version"]
        while True:
            try:
                done = subprocess.run(words, check=False, capture_output=True, timeout=_PROBES_S)
            except subprocess.TimeoutExpired:
                probes = self.exec(["pgrep", "-af", "machine none"], check=False).stdout
                raise LabError(
                    f"the libvirt daemon of fake host {self.name} did not answer within "
                    f"{_PROBES_S:.0f} s; it waits for: {probes}"
                ) from None
            if not done.returncode:
                return
            if time.monotonic() > deadline:
                raise LabError(f"the libvirt daemon of fake host {self.name} does not answer.")
            time.sleep(0.1)

    def __enter__(self) -> FakeHost:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.stop()


def _only_child(pid: int) -> int:
    """Return the first process of the pid namespace: the innermost only child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if Path(f"/proc/{pid}/comm").read_text().strip() != "unshare":
        return _only_child(int(children[0]))
    return int(children[0])


def build_shim(name: str) -> Path:
    """Build a shim of this folder, unless that is done, and return it."""
    source = _HERE / f"{name}.c"
    built = lab_root() / f"{name}.so"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        built.parent.mkdir(parents=True, exist_ok=True)
        # Whoever else builds it meanwhile, in this process or another, has a draft of its own.
        with tempfile.TemporaryDirectory(dir=built.parent, prefix=f"{name}-") as folder:
            draft = Path(folder) / built.name
            subprocess.run(
                ["gcc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(draft), str(source), "-ldl"],
                check=True,
            )
            draft.replace(built)
    return built


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Private libvirt daemons that report any host.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check")
    commands.add_parser("list")
    start = commands.add_parser("start")
    start.add_argument("name")
    start.add_argument("spec", type=Path)
    start.add_argument("--shim", action="store_true")
    for command in ("uri", "pid", "stop"):
        commands.add_parser(command).add_argument("name")
    execute = commands.add_parser("exec")
    execute.add_argument("name")
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        return _run(options)
    except LabError as error:
        print(f"fakehost: {error}", file=sys.stderr)
        return 3


def _run(options: argparse.Namespace) -> int:
    if options.command == "check":
        check()
        return 0
    if options.command == "list":
        for folder in sorted(lab_root().glob("*/pid")):
            print(folder.parent.name, FakeHost(folder.parent.name).uri)
        return 0
    host = FakeHost(options.name)
    if options.command == "start":
        host = FakeHost(options.name, options.spec, shim=options.shim)
        host.start()
        print(host.uri)
    elif options.command == "uri":
        print(host.uri)
    elif options.command == "pid":
        print(host.pid)
    elif options.command == "stop":
        host.stop()
    else:
        return host.exec(options.argv, check=False, capture_output=False).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
