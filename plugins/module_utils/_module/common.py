# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules share: their bindings, and how errors reach the user.

This is the one place that turns typed errors into ``fail_json``.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import (
    has_respawned,
    probe_interpreters_for_module,
    respawn_module,
)

from .._domain.xml import LXML_IMPORT_ERROR
from .._errors import PolicyError, VnumaError, printable
from .._hypervisor.connection import LIBVIRT_IMPORT_ERROR

#: The distribution's interpreters: its libvirt bindings are installed for these only.
_INTERPRETERS = (
    *("/usr/bin/python3", "/usr/libexec/platform-python"),
    *(f"/usr/bin/python3.{minor}" for minor in range(15, 8, -1)),
)


def run(module: AnsibleModule, work: Callable[[AnsibleModule], dict[str, Any]]) -> None:
    """Run a module's work and exit with its result.

    A result with ``failed`` is a failure.
    """
    _ensure_bindings(module)
    try:
        result = work(module)
    except VnumaError as error:
        module.fail_json(msg=str(error))
    # The process ends with its answer. Looking through all that it holds for what could be freed
    # would take as long as planning a hundred guests.
    gc.disable()
    gc.freeze()
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**result)


def _ensure_bindings(module: AnsibleModule) -> None:
    """Go on under an interpreter that has libvirt and lxml, or fail in one sentence."""
    missing = {
        package: reason
        for package, reason in (
            ("libvirt-python", LIBVIRT_IMPORT_ERROR),
            ("lxml", LXML_IMPORT_ERROR),
        )
        if reason is not None
    }
    if not missing:
        return
    if not has_respawned():
        # What is probed is put after "import", so that one list of names probes for them all.
        interpreter = probe_interpreters_for_module(list(_INTERPRETERS), "libvirt, lxml.etree")
        if interpreter:
            respawn_module(interpreter)
    module.fail_json(
        msg=f"{' and '.join(missing)} cannot be imported by {sys.executable} on the managed host; "
        "install the distribution's packages (python3-libvirt and python3-lxml), or set "
        "ansible_python_interpreter to an interpreter that has them.",
        missing=missing,
    )


def patience_s(module: AnsibleModule) -> float:
    """Return how long a libvirt daemon is waited for, in seconds.

    Raises:
        PolicyError: when that is no time.
    """
    seconds = float(module.params["daemon_timeout"])
    if math.isnan(seconds) or seconds <= 0:
        raise PolicyError(f"daemon_timeout must be more than 0 s, not {seconds:g} s.")
    return seconds


def errors_to_result(errors: Sequence[VnumaError]) -> dict[str, Any]:
    """Return what a result says of the guests that failed; nothing where none did."""
    if not errors:
        return {}
    ordered = sorted(errors, key=lambda error: error.guest or "")
    return {
        "failed": True,
        "msg": " ".join(str(error) for error in ordered),
        "errors": [{"name": error.guest, "msg": error.message} for error in ordered],
    }


def warn_once(
    module: AnsibleModule, general: Iterable[str], by_guest: Iterable[tuple[str, list[str]]]
) -> None:
    """Show each warning once, led by the guests it is about; a fleet shares most of them."""
    for sentence in general:
        module.warn(printable(sentence))
    guests: dict[str, list[str]] = {}
    for name, sentences in by_guest:
        for sentence in sentences:
            guests.setdefault(sentence, []).append(name)
    for sentence, names in guests.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        module.warn(printable(f"guest {', '.join(names[:3])}{more}: {sentence}"))
