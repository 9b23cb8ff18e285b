# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a running guest differs from a definition in what is managed; knows no libvirt connection."""

from __future__ import annotations

from typing import Any

from .._model.host import Host
from .._planner.distribution import (
    GRANULE_KIB,
    GRANULE_PPC64_KIB,
)
from .definition import Definition
from .record import (
    find_record,
    recorded_policy,
)

_PIN_KINDS = ("vcpupin", "emulatorpin", "iothreadpin")
#: Pins that are managed only while the policy has this option.
_OPTIONAL = {"emulatorpin": "emulator_pinning", "iothreadpin": "iothread_pinning"}


def needs_restart(live: Definition, persistent: Definition) -> bool:
    """Tell whether only a cold start can make the running guest equal to the definition.

    Pins are left out: they can be changed while it runs, see `live_pins`.

    Args:
        live: of the running guest.
        persistent: what it would be started with.
    """
    return fixed_at_start(live) != fixed_at_start(persistent)


def live_pins(
    live: Definition, persistent: Definition, host: Host
) -> list[tuple[str, int, tuple[int, ...]]]:
    """Return the pins to set so that the running guest has those of the definition.

    Returns:
        (element, number, pCPUs): ``vcpupin``, ``emulatorpin`` or ``iothreadpin``, which vCPU or
        iothread, and where it belongs. What the definition leaves free belongs on every pCPU.
    """
    everywhere = tuple(sorted({cpu for node in host.nodes for cpu in node.cpus}))
    now, then = live.meaning, persistent.meaning
    options: set[str] = set()
    for record in (find_record(live.root), find_record(persistent.root)):
        options.update(() if record is None else recorded_policy(record))
    changes = []
    for kind in _PIN_KINDS:
        if _OPTIONAL.get(kind, "") not in ("", *options):
            continue
        for number in sorted({*now[kind], *then[kind]}):
            wanted = then[kind].get(number, everywhere)
            if wanted and now[kind].get(number, everywhere) != wanted:
                changes.append((kind, number, wanted))
    return changes


def fixed_at_start(definition: Definition) -> dict[str, Any]:
    """Return what a process keeps for its life, as the definition would read once started.

    Args:
        definition: of a guest, running or not.

    Returns:
        The part of its meaning that no change of a running guest reaches.
    """
    meaning, root = definition.meaning, definition.root
    kind = root.find("os/type")
    arch = "" if kind is None else kind.get("arch", "")
    # libvirt rounds cells up when it starts the guest, and shows the rounded size from then on.
    granule = GRANULE_PPC64_KIB if arch.startswith("ppc64") else GRANULE_KIB
    fixed = {
        key: value
        for key, value in meaning.items()
        if key not in (*_PIN_KINDS, "record", "cpu_mode", "placement")
    }
    fixed["cells"] = [
        {**cell, "memory_kib": -(-cell["memory_kib"] // granule) * granule}
        for cell in meaning["cells"]
    ]
    binding = meaning["memory"]
    if binding is not None and binding[1] == "auto":
        # A running guest shows numad's answer for this run.
        fixed["memory"] = (binding[0], binding[1], ())
    if root.find("cpu") is not None and meaning["cpu_mode"] in ("host-passthrough", "maximum"):
        # Other modes are expanded in a running guest, and cannot be compared.
        fixed["cpu_mode"] = meaning["cpu_mode"]
    return fixed
