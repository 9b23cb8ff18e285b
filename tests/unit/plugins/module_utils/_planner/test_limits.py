# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's kernel will not show is said beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError
from planning import GuestOf, HostOf, planned


@pytest.mark.parametrize(
    ("keys", "options", "hidden"),
    [
        ({"cpu_mode": "host-passthrough"}, {}, True),
        ({"cpu_mode": "maximum"}, {}, True),
        ({"cpu_mode": "host-passthrough"}, {"threads": 1}, False),
        ({"cpu_mode": "host-passthrough", "has_topoext": True}, {}, False),
        ({"cpu_mode": "host-passthrough", "kind": "kvm"}, {}, True),
        # Emulated CPUs have the vendor of their model, not the host's.
        ({"cpu_mode": "maximum", "kind": "qemu"}, {}, False),
        # libvirt makes it an EPYC, and QEMU's EPYC has topoext.
        ({"cpu_mode": "host-model"}, {}, False),
        ({"cpu_mode": "custom", "cpu_model": "EPYC-Rome"}, {}, False),
        ({"cpu_mode": "custom", "cpu_model": "Dhyana"}, {}, False),
        # On KVM every other model has the host's vendor, and no topoext.
        ({"cpu_mode": "custom", "cpu_model": "qemu64"}, {}, True),
        ({"cpu_mode": "custom", "cpu_model": "Haswell"}, {}, True),
        ({"cpu_mode": "custom", "cpu_model": "Haswell", "has_topoext": True}, {}, False),
        ({}, {}, True),
        ({"arch": "aarch64"}, {}, False),
    ],
)
def test_amd_guests_are_told_about_topoext(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any], hidden: bool
) -> None:
    """Only where the threads would really be hidden."""
    small = guest(8, 1 << 20, **keys)
    warnings = planned(small, host("edited-amd-2n16c-smt2"), **options).warnings
    assert len(warnings) == hidden
    assert all("does not see 2 threads a core on this AMD host" in one for one in warnings)
    assert planned(small, host("rfc-8n240c"), **options).warnings == ()


def test_cells_without_vcpus_at_boot_are_named(host: HostOf, guest: GuestOf) -> None:
    """vCPUs that are plugged later leave cells empty until then."""
    hotplug = guest(16, 1 << 20, online_vcpus=tuple(range(8)))
    (warning,) = planned(hotplug, host("all-ten-4n16c")).warnings
    assert warning.startswith(
        "cells 2-3 have no vCPU at boot, because only 8 of 16 vCPUs are online"
    )
    assert planned(hotplug, host("all-ten-4n16c"), distribution="interleave").warnings == ()
    most = guest(16, 1 << 20, online_vcpus=tuple(range(12)))
    (warning,) = planned(most, host("all-ten-4n16c")).warnings
    assert warning.startswith("cell 3 has no vCPU at boot, because only 12 of 16 vCPUs are online")


@pytest.mark.parametrize(
    ("keys", "cells", "warned"),
    [
        ({"has_acpi": False}, None, True),
        ({"has_acpi": False, "arch": "i686"}, None, True),
        ({"has_acpi": True}, None, False),
        ({"has_acpi": False}, 1, False),
        # Their device trees have cells and distances.
        ({"has_acpi": False, "arch": "aarch64"}, None, False),
        ({"has_acpi": False, "arch": "ppc64le"}, None, False),
    ],
)
def test_guests_without_acpi(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], cells: int | None, warned: bool
) -> None:
    """A PC's kernel learns of cells and distances from ACPI."""
    warnings = planned(guest(**keys), host("all-ten-4n16c"), cells=cells).warnings
    assert any("it has no ACPI" in one for one in warnings) is warned


@pytest.mark.parametrize(
    ("memory_kib", "options", "nodes"),
    [
        (8 << 20, {}, []),
        (32 << 20, {}, []),
        ((32 << 20) + 4096, {}, [0, 1, 2, 3]),
        ((32 << 20) + 4096, {"memory_mode": "restrictive"}, [0, 1, 2, 3]),
        ((32 << 20) + 4096, {"memory_mode": "preferred"}, []),
        ((32 << 20) + 4096, {"memory_mode": "none"}, []),
        # Two cells of one node want more than it has, though neither does.
        (20 << 20, {"nodes": "0-1", "cells": 4}, [0, 1]),
        (20 << 20, {"nodes": "0-1", "cells": 3}, [0]),
    ],
)
def test_cells_larger_than_their_node(
    host: HostOf, guest: GuestOf, memory_kib: int, options: dict[str, Any], nodes: list[int]
) -> None:
    """What is bound comes from that node or not at all."""
    roomy = host("asymmetric-4n16c")
    assert {node.memory_kib for node in roomy.nodes} == {8 << 20}
    warnings = [
        one
        for one in planned(guest(memory_kib=memory_kib), roomy, **options).warnings
        if "KiB of its memory would be bound to host node" in one
    ]
    assert [f"bound to host node {node}," in one for node, one in zip(nodes, warnings)] == [
        True for _node in nodes
    ]
    assert len(warnings) == len(nodes)


@pytest.mark.parametrize(
    ("vcpus", "options", "warned"),
    [
        (254, {"cells": 2}, False),
        (255, {"cells": 5, "distribution": "round_robin", "threads": 1}, True),
        (240, {"cells": 8, "distribution": "round_robin", "threads": 2}, False),
        # No division of the cores keeps three threads below.
        (255, {"cells": 5, "threads": 3}, True),
        # Over 255 vCPUs libvirt asks for an IOMMU anyway.
        (300, {"cells": 5, "threads": 1}, False),
    ],
)
def test_apic_ids_that_need_more(
    host: HostOf, guest: GuestOf, vcpus: int, options: dict[str, Any], warned: bool
) -> None:
    """Such a guest starts with x2APIC only."""
    warnings = planned(guest(vcpus, 512 << 20), host("rfc-8n240c"), **options).warnings
    assert any("APIC ids" in one for one in warnings) is warned
    elsewhere = guest(vcpus, 512 << 20, arch="aarch64")
    assert not any(
        "APIC" in one for one in planned(elsewhere, host("rfc-8n240c"), **options).warnings
    )


@pytest.mark.parametrize(
    ("keys", "options", "sentence"),
    [
        ({"arch": "s390x"}, {}, "guests of architecture s390x cannot have cells"),
        ({"arch": "mips64el"}, {"cells": 1}, "guests of architecture mips64el cannot have cells"),
        ({"kind": "lxc"}, {}, "it is of type 'lxc', and only QEMU's guests"),
        ({"kind": "xen"}, {}, "it is of type 'xen'"),
        ({"vcpus": 16385, "memory_kib": 1 << 30}, {}, "16385 vCPUs exceed the 16384"),
        (
            {"arch": "ppc64le", "vcpus": 12},
            {"threads": 3},
            "threads must be 'auto', 1, 2, 4 or 8 on ppc64le, not 3.",
        ),
        (
            {"arch": "ppc64", "vcpus": 64},
            {"threads": 16},
            "threads must be 'auto', 1, 2, 4 or 8 on ppc64, not 16.",
        ),
        (
            {"arch": "ppc64le", "vcpus": 16},
            {"nodes": "0-1"},
            "the distances between its host nodes differ by direction, which QEMU does not support "
            "for ppc64le guests",
        ),
    ],
)
def test_guests_that_cannot_have_it(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    """QEMU would not start them: one sentence, with the way out."""
    with pytest.raises(LayoutError) as raised:
        planned(guest(**keys), host("asymmetric-4n16c"), **options)
    assert str(raised.value).startswith(f"guest anuma: {sentence}")


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        *(({"arch": arch}, {}) for arch in ("", "i686", "x86_64", "aarch64", "riscv64")),
        *(({"kind": kind}, {}) for kind in ("", "kvm", "qemu", "hvf", "test")),
        ({"vcpus": 16384}, {"pinning": "none"}),
        ({"arch": "ppc64le", "vcpus": 12}, {"threads": 2, "distances": "none"}),
        ({"arch": "ppc64le", "vcpus": 64}, {"threads": 8, "nodes": "0", "pinning": "none"}),
        ({"arch": "x86_64", "vcpus": 12}, {"threads": 3}),
    ],
)
def test_guests_that_can(
    host: HostOf, guest: GuestOf, keys: dict[str, Any], options: dict[str, Any]
) -> None:
    """What QEMU starts is not refused."""
    keys = {"memory_kib": 4 << 20, **keys}
    warnings = planned(guest(**keys), host("asymmetric-4n16c"), **options).warnings
    assert [one for one in warnings if not one.startswith("threads ")] == []


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("asymmetric-4n16c", {"threads": 2}, "1"),
        ("asymmetric-4n16c", {"threads": 2, "pinning": "none"}, "1"),
        ("rfc-8n240c", {"threads": 4, "nodes": "0-1"}, "2"),
        ("rfc-8n240c", {"threads": 2}, None),
        ("rfc-8n240c", {}, None),
        ("edited-no-topology", {"threads": 2}, None),
    ],
)
def test_more_threads_than_the_hosts_cores_have(
    host: HostOf, guest: GuestOf, name: str, options: dict[str, Any], width: str | None
) -> None:
    """The guest's scheduler would take separate cores for siblings: a warning says so."""
    warnings = planned(guest(), host(name), **options).warnings
    said = [one for one in warnings if one.startswith("threads ")]
    assert len(said) == (width is not None)
    if width is not None:
        assert f"exceeds the host's SMT width of {width}" in said[0]
