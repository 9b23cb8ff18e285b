# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file system a path is on, by the kernel's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.mounts import file_system

MOUNTS = """\
1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
2 1 0:40 / /srv/images rw shared:2 - nfs4 nas:/images rw
3 1 0:41 / /srv/a\\040b rw - xfs /dev/sdb rw
4 1 0:42 / /srv/images rw shared:3 - ceph mon:/ rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x.img", "ext4"),
        ("/srv/images/x.img", "ceph"),
        ("/srv/images", "ceph"),
        ("/srv/images2/x.img", "ext4"),
        ("/srv/a b/x.img", "xfs"),
    ],
)
def test_the_longest_and_last_mount_counts(tmp_path: Path, path: str, kind: str) -> None:
    """A name that only begins alike is another folder, and a later mount hides an earlier one."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system(path, mounts) == kind


def test_without_a_list(tmp_path: Path) -> None:
    """Nothing is known then."""
    assert file_system("/x", tmp_path / "absent") == ""
