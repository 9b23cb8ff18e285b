# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What test guests boot: a kernel of this machine, and a file system with guest_init.sh in it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from errors import LabError
from fakehost import lab_root

_HERE = Path(__file__).resolve().parent
#: Modules that the guest needs for its power button, for its agent's channel, and for network
#: interfaces that stand in for passed-through devices.
_MODULES = (
    *("button", "evdev", "virtio_pci", "virtio_console", "pvpanic-mmio", "pvpanic"),
    *("virtio_net", "e1000e"),
)


def kernel() -> Path:
    """Return the newest kernel of this machine that a guest can boot.

    Raises:
        LabError: when there is none.
    """
    found = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    small = [path for path in found if "cloud" in path.name]
    if not found:
        raise LabError("there is no kernel in /boot for guests to boot; install linux-image-amd64.")
    return (small or found)[-1]


def initramfs(image: Path) -> Path:
    """Build the guest's file system for a kernel, and return it.

    The kernel is in the ``boot`` of this machine, or of a folder that has its modules and a busybox
    of its architecture besides, see debs.py; such a guest has no lscpu.
    """
    root = image.parent.parent
    version = image.name.removeprefix("vmlinuz-")
    init = _HERE / "guest_init.sh"
    # Several checkouts may share the folder: each has a file system of its own making.
    sources = hashlib.sha256(init.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    out = lab_root() / f"guest-{version}-{sources}.cpio"
    if out.exists():
        return out
    folder = lab_root() / f"guest-{version}.{os.getpid()}"
    for name in ("bin", "modules", "proc", "sys", "dev", "etc", "fill"):
        (folder / name).mkdir(parents=True)
    shutil.copy2(root / "bin/busybox", folder / "bin/busybox")
    (folder / "bin/sh").symlink_to("busybox")
    if root == Path("/"):
        _copy_with_libraries(Path("/usr/bin/lscpu"), folder)
    shutil.copy2(init, folder / "init")
    modules = _with_dependencies(root / "lib/modules" / version)
    for module in modules:
        shutil.copy2(module, folder / "modules" / module.name)
    (folder / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    files = subprocess.run(
        ["find", ".", "-print0"], check=True, cwd=folder, capture_output=True
    ).stdout
    archive = subprocess.run(
        ["cpio", "--null", "--create", "--format=newc", "--quiet"],
        check=True,
        cwd=folder,
        input=files,
        capture_output=True,
    ).stdout
    draft = out.with_name(f"{out.name}.{os.getpid()}")
    draft.write_bytes(archive)
    draft.replace(out)
    shutil.rmtree(folder)
    return out


def put_files(folder: Path) -> None:
    """Put a kernel and its file system into a folder, as ``vmlinuz`` and ``initrd``."""
    folder.mkdir(parents=True, exist_ok=True)
    image = kernel()
    for name, source in (("vmlinuz", image), ("initrd", initramfs(image))):
        shutil.copyfile(source, folder / name)


def _copy_with_libraries(program: Path, root: Path) -> None:
    """Copy a program, and the libraries that it is linked with, to the same places below root."""
    said = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    for path in (program, *map(Path, re.findall(r"(/\S+) \(0x", said))):
        copy = root / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


def _with_dependencies(folder: Path) -> list[Path]:
    """Return the modules with what they need, in the order to load them in."""
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _colon, others = line.partition(":")
        needs[Path(module).name.split(".")[0]] = (module, others.split())
    ordered: list[Path] = []
    for name in _MODULES:
        if name not in needs:
            # Built into this kernel.
            continue
        itself, its_needs = needs[name]
        for path in (*reversed(its_needs), itself):
            if folder / path not in ordered:
                ordered.append(folder / path)
    return ordered
