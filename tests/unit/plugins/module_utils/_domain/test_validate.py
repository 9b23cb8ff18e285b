# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names a guest cell, or cannot live with new ones, in a definition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options

_SOURCE = "<source><address domain='9' bus='1' slot='0' function='0'/></source>"


def _definition(devices: str, numa: str = "") -> str:
    return (
        "<domain type='kvm'><name>anuma</name><memory unit='GiB'>64</memory><vcpu>16</vcpu>"
        f"<cpu>{numa}</cpu><devices>{devices}</devices></domain>"
    )


@pytest.mark.parametrize(
    ("devices", "cells", "sentence"),
    [
        # libvirt 12: generic initiators, as GB200 needs them; nodes without vCPUs and memory.
        (
            f"<hostdev mode='subsystem' type='pci'>{_SOURCE}<acpi nodeset='8-15'/></hostdev>",
            None,
            "a <hostdev> has cells of its own, <acpi nodeset='8-15'>",
        ),
        (
            "<interface type='user'><acpi index='1' nodeset='1'/></interface>",
            2,
            "a <interface> has cells of its own, <acpi nodeset='1'>",
        ),
        ("<interface type='user'><acpi index='1'/></interface>", None, ""),
        (
            "<memory model='virtio-mem'><target><size>1024</size><node>8</node></target></memory>",
            None,
            "a memory device is in cell 8, and the guest will have cells 0 to 7",
        ),
        (
            "<memory model='sgx-epc'><target><size>1024</size><node>7</node></target></memory>",
            None,
            "",
        ),
        (
            "<controller type='pci' model='pcie-expander-bus'><target busNr='180'><node>4</node>"
            "</target></controller>",
            4,
            "a PCI expander bus is in cell 4, and the guest will have cells 0 to 3",
        ),
    ],
)
def test_what_names_a_cell(
    host: Callable[[str], Host], devices: str, cells: int | None, sentence: str
) -> None:
    """Refused where that cell would not be there, or would be another one."""
    guest = read_guest(read_definition(_definition(devices)), 2048)
    policy = policy_from_options({"cells": cells})
    if not sentence:
        assert plan(guest, host("rfc-8n240c"), policy)
        return
    with pytest.raises(LayoutError) as raised:
        plan(guest, host("rfc-8n240c"), policy)
    assert str(raised.value).startswith(f"guest anuma: {sentence}")


def test_cells_of_generic_initiators_stay(host: Callable[[str], Host]) -> None:
    """Cells without vCPUs and memory stand for a device: the guest stays as it is."""
    numa = (
        "<numa><cell id='0' cpus='0-15' memory='64' unit='GiB'/>"
        "<cell id='1' memory='0' unit='KiB'/></numa>"
    )
    device = f"<hostdev mode='subsystem' type='pci'>{_SOURCE}<acpi nodeset='1'/></hostdev>"
    guest = read_guest(read_definition(_definition(device, numa)), 2048)
    with pytest.raises(LayoutError, match="which new cells would replace"):
        plan(guest, host("rfc-8n240c"), policy_from_options({"nodes": "0-1"}))
