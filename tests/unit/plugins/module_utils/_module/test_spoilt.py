# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a definition that libvirt stored otherwise than it was given."""

from __future__ import annotations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.define import spoilt


def _definition(devices: str) -> Definition:
    return read_definition(
        f"<domain><name>db</name><vcpu>2</vcpu><devices>{devices}</devices></domain>"
    )


SHARED = "<shmem name='s'><size unit='M'>{}</size></shmem>"
TABLET, VNC = "<input type='tablet'/>", "<graphics type='vnc' passwd='{}'/>"


@pytest.mark.parametrize(
    ("before", "stored", "again", "what"),
    [
        (
            SHARED.format(0),
            SHARED.format(4),
            SHARED.format(4),
            "devices/shmem/size from '0' to '4'",
        ),
        (TABLET, "", "", "devices/input from '' to nothing, devices/input@type from 'tablet' to"),
        (VNC.format("abc"), "", VNC.format("xyz"), "devices/graphics@passwd from ******** to ****"),
        # Order is libvirt's own, and no loss; nor is what it adds.
        (TABLET + SHARED.format(1), TABLET, SHARED.format(1) + TABLET, ""),
        (TABLET, "", TABLET + SHARED.format(1), ""),
    ],
)
def test_what_libvirt_did(before: str, stored: str, again: str, what: str) -> None:
    """Its own doing is named with both values; the layout's loss is taken back as before."""
    said = spoilt(_definition(before), _definition(stored), _definition(again)).message
    if what:
        assert said.startswith(f"libvirt changed {what}")
        assert said.endswith("; the guest has no new layout; run again.")
        assert "restored" not in said
    else:
        assert said.startswith("libvirt dropped devices/")
        assert "so the module put the old definition back;" in said
    assert "abc" not in said
    assert "xyz" not in said
