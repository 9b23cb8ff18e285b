# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power-cycling guests that wait for it, so that whoever ran before runs after."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .._domain.compare import needs_restart
from .._domain.definition import is_ours, read_definition, secrets
from .._errors import HypervisorError, PolicyError, VnumaError
from .._hypervisor.hypervisor import Hypervisor
from .._model.domain import Domain
from .common import errors_to_result, warn_once
from .select import select_guests
from .state_dir import StateDir, default_state_dir

#: A shutdown request that a guest missed, say while it booted, is made again.
_ASK_AGAIN_S = 20.0


@dataclass(frozen=True)
class RestartPolicy:
    """How guests are power-cycled.

    Attributes:
        mode: ``graceful`` never forces a guest off, ``force`` does after the timeout.
        timeout_s: how long a guest may take to shut down, in seconds.
        at_once: how many guests may be down together.
        agent_timeout_s: how long to wait for the guest's agent after the start, 0 not to.
    """

    mode: str = "graceful"
    timeout_s: float = 300.0
    at_once: int = 1
    agent_timeout_s: float = 0.0


@dataclass
class Restart:
    """One guest on its way through a power cycle.

    Attributes:
        domain: as libvirt lists it.
        by_name: whether it was named, not matched by a pattern.
        action: what happened: ``none``, ``restarted``, ``started``, ``skipped``, ``rolled_back`` or
            ``failed``; in check mode, what would.
        forced: whether its power was pulled.
        downtime_s: how long it was off, None where it was not.
        warnings: sentences about it.
    """

    domain: Domain
    by_name: bool = True
    action: str = "none"
    forced: bool = False
    downtime_s: float | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Decision:
    """What a guest needs.

    Attributes:
        action: ``none``; ``start``, after a restart that was cut short while it was off; ``cycle``;
            ``forget``, after a restart that was cut short once it ran again; or ``skip``.
        why: for ``skip``, a sentence.
    """

    action: str
    why: str = ""


#: What a decision comes to in the result, where it is carried out without an error.
_ACTIONS = {
    "none": "none",
    "start": "started",
    "cycle": "restarted",
    "forget": "none",
    "skip": "skipped",
}


def restart_guests(
    hypervisor: Hypervisor,
    restarts: Sequence[Restart],
    policy: RestartPolicy,
    state_dir: StateDir,
    write: bool,
) -> list[VnumaError]:
    """Power-cycle those guests whose running layout is not the one they are defined with.

    Args:
        hypervisor: where they are.
        restarts: the candidates; what happened is noted in them.
        policy: how.
        state_dir: where old definitions and begun restarts are kept.
        write: False only says what would happen (check mode), and writes nothing.

    Returns:
        The errors, one for each guest that could not be brought to its new layout.
    """
    errors: list[VnumaError] = []
    decisions: list[tuple[Restart, Decision]] = []
    for restart in restarts:
        try:
            decision = _decide(hypervisor, restart, state_dir)
        except VnumaError as error:
            errors.append(error.for_guest(restart.domain.name))
            restart.action = "failed"
            continue
        restart.action = _ACTIONS[decision.action]
        restart.warnings.extend([decision.why] if decision.why else [])
        decisions.append((restart, decision))
    if not write:
        return errors
    with ThreadPoolExecutor(max_workers=policy.at_once) as pool:
        futures = [
            (restart, pool.submit(_carry_out, hypervisor, restart, decision, policy, state_dir))
            for restart, decision in decisions
            if decision.action in ("start", "cycle", "forget")
        ]
    for restart, future in futures:
        problem = future.exception()
        if isinstance(problem, VnumaError):
            errors.append(problem.for_guest(restart.domain.name))
            if restart.action != "rolled_back":
                restart.action = "failed"
        elif problem is not None:
            raise problem
    return errors


def _decide(hypervisor: Hypervisor, restart: Restart, state_dir: StateDir) -> Decision:
    """Say what a guest needs, without touching it or the state folder."""
    domain = restart.domain
    if not domain.persistent:
        return Decision("none")
    begun = state_dir.begun_restart(domain.uuid) is not None
    if not domain.active:
        return Decision("start" if begun else "none")
    live = read_definition(hypervisor.xml_without_secrets(domain, live=True))
    persistent = read_definition(hypervisor.xml_without_secrets(domain, live=False))
    if not needs_restart(live, persistent):
        return Decision("forget" if begun else "none")
    if not (is_ours(live, persistent) or restart.by_name):
        return Decision("none")
    blocker = hypervisor.restart_blocker(domain)
    if blocker:
        return Decision("skip", f"{blocker}; it keeps its old layout until its next cold start.")
    return Decision("cycle")


def _carry_out(
    hypervisor: Hypervisor,
    restart: Restart,
    decision: Decision,
    policy: RestartPolicy,
    state_dir: StateDir,
) -> None:
    domain = restart.domain
    if decision.action == "forget":
        state_dir.end_restart(domain.uuid)
        state_dir.drop_old(domain.uuid)
        return
    stopped_at = None
    if decision.action == "cycle":
        running = hypervisor.running_xml(domain)
        if not _is_what_runs(state_dir.old(domain.uuid), running):
            state_dir.keep_old(domain.uuid, running)
        state_dir.begin_restart(domain.uuid, domain.name)
        _stop(hypervisor, restart, policy)
        stopped_at = time.monotonic()
    _start(hypervisor, restart, policy, state_dir, stopped_at)


def _is_what_runs(kept: str | None, running: str) -> bool:
    """Tell whether a definition that was kept is the one that a guest runs with.

    It is not where nobody kept one, or where the guest was started anew since with another. A kept
    one is the better of two that are alike: it has nothing in it that belongs to this run alone.
    """
    if kept is None:
        return False
    old, live = read_definition(kept), read_definition(running)
    return not needs_restart(live, old) and all(
        (old.root.findtext(tag) or "").strip() == (live.root.findtext(tag) or "").strip()
        for tag in ("vcpu", "memory")
    )


def _stop(hypervisor: Hypervisor, restart: Restart, policy: RestartPolicy) -> None:
    """Shut a guest down, and force it off only if that is allowed."""
    domain = restart.domain
    deadline = time.monotonic() + policy.timeout_s
    while time.monotonic() < deadline:
        hypervisor.shut_down(domain)
        ask_again = min(time.monotonic() + _ASK_AGAIN_S, deadline)
        if hypervisor.wait(lambda: not hypervisor.is_active(domain), ask_again):
            return
    if policy.mode == "force":
        hypervisor.force_off(domain)
        restart.forced = True
        if hypervisor.wait(lambda: not hypervisor.is_active(domain), time.monotonic() + 60):
            return
    raise HypervisorError(
        f"it did not shut down within {policy.timeout_s:g} s and keeps running with its old "
        "layout; check why in the guest, increase timeout, or set mode to 'force'. If it shuts "
        "down later, the next run starts it."
    )


def _start(
    hypervisor: Hypervisor,
    restart: Restart,
    policy: RestartPolicy,
    state_dir: StateDir,
    stopped_at: float | None,
) -> None:
    """Start a guest; where that fails, put its old definition back and start it with that."""
    domain = restart.domain
    try:
        hypervisor.start(domain)
    except HypervisorError as reason:
        _roll_back(hypervisor, restart, state_dir, reason, stopped_at)
    if stopped_at is not None:
        restart.downtime_s = round(time.monotonic() - stopped_at, 1)
    state_dir.end_restart(domain.uuid)
    live = read_definition(hypervisor.xml_without_secrets(domain, live=True))
    persistent = read_definition(hypervisor.xml_without_secrets(domain, live=False))
    if needs_restart(live, persistent):
        raise HypervisorError(
            "it was started but does not run with its defined layout; check whether something else "
            "started it from a saved image."
        )
    state_dir.drop_old(domain.uuid)
    if policy.agent_timeout_s and not hypervisor.wait(
        lambda: hypervisor.agent_answers(domain), time.monotonic() + policy.agent_timeout_s
    ):
        raise HypervisorError(
            f"it runs with its new layout, but its agent did not answer within "
            f"{policy.agent_timeout_s:g} s; check its console."
        )


def _roll_back(
    hypervisor: Hypervisor,
    restart: Restart,
    state_dir: StateDir,
    reason: HypervisorError,
    stopped_at: float | None,
) -> None:
    domain = restart.domain
    old = state_dir.old(domain.uuid)
    why = reason.message.rstrip(".")
    if old is None:
        raise HypervisorError(
            f"it does not start, and no older definition was saved: {why}; it is off, correct its "
            "definition and start it."
        ) from None
    try:
        hypervisor.define(domain.name, old, secrets(read_definition(old).root), validate=False)
        hypervisor.start(domain)
    except HypervisorError as second:
        raise HypervisorError(
            f"it starts neither with its new definition ({why}) nor with the old one "
            f"({second.message.rstrip('.')}); it is off, fix the cause and start it; its old "
            "definition is in "
            f"{state_dir.folder / (domain.uuid + '.xml')}."
        ) from None
    restart.action = "rolled_back"
    if stopped_at is not None:
        restart.downtime_s = round(time.monotonic() - stopped_at, 1)
    state_dir.end_restart(domain.uuid)
    state_dir.drop_old(domain.uuid)
    raise HypervisorError(
        "it did not start with its new layout, so it was rolled back and runs with its old "
        f"definition: {why}; change its options, or free memory on the host, and run again."
    )


def restart(module: AnsibleModule) -> dict[str, Any]:
    """Power-cycle the guests and return what came of it."""
    policy = RestartPolicy(
        mode=module.params["mode"],
        timeout_s=module.params["timeout"],
        at_once=module.params["at_once"],
        agent_timeout_s=module.params["agent_timeout"],
    )
    if policy.at_once < 1 or policy.timeout_s <= 0 or policy.agent_timeout_s < 0:
        raise PolicyError(
            "at_once must be at least 1, timeout more than 0 s and agent_timeout at least 0 s, not "
            f"{policy.at_once}, {policy.timeout_s:g} s and {policy.agent_timeout_s:g} s."
        )
    write = not module.check_mode
    hypervisor = Hypervisor(module.params["uri"], watch=write)
    try:
        state_dir = StateDir(
            module.params["state_dir"] or default_state_dir(), hypervisor.host_uuid()
        )
        named = module.params["guests"]
        entries = [{"name": "*"}] if named is None else [{"name": name} for name in named]
        with state_dir.locked() if write else nullcontext():
            selection = select_guests(hypervisor.domains(), entries)
            errors: list[VnumaError] = list(selection.errors)
            restarts = [Restart(match.domain, match.by_name) for match in selection.matches]
            errors += restart_guests(hypervisor, restarts, policy, state_dir, write)
    finally:
        hypervisor.close()
    warn_once(
        module,
        selection.warnings if named is not None else (),
        [(restart.domain.name, restart.warnings) for restart in restarts],
    )
    restarted = [one.domain.name for one in restarts if one.action in ("restarted", "started")]
    touched = any(one.action in ("restarted", "started", "rolled_back") for one in restarts)
    return {
        "changed": touched,
        "guests": [
            {
                "name": restart.domain.name,
                "uuid": restart.domain.uuid,
                "action": restart.action,
                "forced": restart.forced,
                "downtime_s": restart.downtime_s,
                "warnings": restart.warnings,
            }
            for restart in restarts
        ],
        "restarted": restarted,
        **errors_to_result(errors),
    }
