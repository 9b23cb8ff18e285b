# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of an emulated KVM host: Debian or Ubuntu with libvirt, QEMU and sshd, by debootstrap.

It is made of the same distribution that this machine runs, once, and kept in VNUMA_CACHE by the
content of what it is made from. Making it needs root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import debian
from errors import LabError

_HERE = Path(__file__).resolve().parent
_INIT = _HERE / "numahost_init.sh"

_PACKAGES = (
    *("udev", "kmod", "iproute2", "procps", "initramfs-tools", "busybox-static", "openssh-server"),
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "qemu-system-x86"),
    *("seabios", "python3", "python3-lxml", "python3-libvirt", "numactl"),
)
_KERNELS = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_COMPONENTS = {"debian": "main", "ubuntu": "main,universe"}

# Without a service manager there is no log daemon, and libvirt makes the guests' cgroups itself. Of
# the controllers only the one that moves a running guest's memory is wanted.
# A client that emulation keeps from answering for half a minute is no dead one.
_LIBVIRTD_CONF = """\
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
keepalive_interval = -1
"""
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = ["cpuset"]
"""


class Image:
    """A disk and the kernel that boots it.

    Args:
        suite: the distribution's release, such as ``bookworm``; by default this machine's own.
    """

    def __init__(self, suite: str | None = None) -> None:
        release = platform.freedesktop_os_release()
        self.distribution = release.get("ID", "")
        self.suite = suite or release.get("VERSION_CODENAME", "")
        if self.distribution not in _KERNELS or not self.suite:
            raise LabError(
                "an emulated KVM host is made from Debian or Ubuntu packages, and this machine is "
                f"{release.get('PRETTY_NAME', 'neither')}."
            )
        parts = (Path(__file__).read_bytes(), _INIT.read_bytes(), self.suite.encode())
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
        self.folder = debian.cache() / "numahosts" / f"{self.suite}-{key}"

    @property
    def disk(self) -> Path:
        """The root file system."""
        return self.folder / "disk.img"

    @property
    def kernel(self) -> Path:
        """Its kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """What its kernel loads first."""
        return self.folder / "initrd.img"

    @property
    def key(self) -> Path:
        """Private key that its root lets in."""
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """Public key that its sshd shows."""
        return (self.folder / "hostkey.pub").read_text().strip()

    def build(self) -> None:
        """Make it, unless it is there.

        Raises:
            LabError: when it cannot be made here.
        """
        if (self.folder / "ready").exists():
            return
        self.check()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # Two at once would undo each other's work; the second finds the disk there.
        with (self.folder.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.folder / "ready").exists():
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir()
                self._build()

    def check(self) -> None:
        """See whether it is there or can be made here.

        Raises:
            LabError: when neither.
        """
        if (self.folder / "ready").exists():
            return
        for program, package in (("debootstrap", "debootstrap"), ("mke2fs", "e2fsprogs")):
            if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
                raise LabError(
                    f"{program} is missing; run tests/tools/bootstrap.sh, which installs {package}."
                )
        if os.geteuid() != 0:
            raise LabError("the disk of an emulated KVM host is made by root; use sudo.")

    def _build(self) -> None:
        print(
            f"making the disk of an emulated KVM host from {self.distribution} {self.suite}",
            file=sys.stderr,
            flush=True,
        )
        root = self.folder / "root"
        packages = self.folder.parent / f"packages-{self.suite}"
        packages.mkdir(exist_ok=True)
        run = partial(debian.run_logged, self.folder / "build.log")
        run(
            *("debootstrap", "--variant=minbase", f"--cache-dir={packages}"),
            f"--components={_COMPONENTS[self.distribution]}",
            f"--include={','.join((*_PACKAGES, _KERNELS[self.distribution]))}",
            *(self.suite, root, debian.mirror(self.distribution.capitalize())),
        )
        self._furnish(root, run)
        for name, source in ((self.kernel, "vmlinuz-*"), (self.initrd, "initrd.img-*")):
            (found,) = (root / "boot").glob(source)
            shutil.copy2(found, name)
        run("mke2fs", "-q", "-t", "ext4", "-d", root, self.disk, "4G")
        shutil.rmtree(root)
        (self.folder / "ready").touch()

    def _furnish(self, root: Path, run: Callable[..., None]) -> None:
        """Let libvirt and sshd work in it without their services' own preparations."""
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "numahost", "-f", self.key)
        folder = root / "root/.ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copy2(self.key.with_suffix(".pub"), folder / "authorized_keys")
        shutil.copy2(root / "etc/ssh/ssh_host_ed25519_key.pub", self.folder / "hostkey.pub")
        for name in (
            *("var/log/libvirt/qemu", "var/lib/libvirt/images", "var/cache/libvirt"),
            *("etc/libvirt/qemu", "var/lib/guests"),
        ):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
        (root / "etc/libvirt/libvirtd.conf").write_text(_LIBVIRTD_CONF)
        # What libvirt-daemon-system would make; that package wants a service manager.
        for group in ("libvirt", "kvm"):
            run("chroot", root, "groupadd", "--system", "--force", group)
        run("chroot", root, "useradd", "--system", "--user-group", "-G", "kvm", "libvirt-qemu")
        target = root / "usr/sbin/numahost-init"
        shutil.copyfile(_INIT, target)
        target.chmod(0o755)
