# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power-cycling guests that wait for it, so that a guest that ran before runs after."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .._errors import PolicyError, UnsettledError, VnumaError
from .._hypervisor.power import Power
from .common import errors_to_result, patience_s, warn_once
from .cycle import Cycle, LateError, RestartPolicy
from .decide import ACTIONS, Restart, decide
from .migration_notes import MigrationNotes
from .select import select_guests
from .state_dir import default_state_dir
from .turn import is_untidy, tidy


def foresee_restarts(
    power: Power, restarts: Sequence[Restart], state_dir: MigrationNotes
) -> list[VnumaError]:
    """Say what a run would do with each guest, and write nothing.

    What would happen is noted in *restarts*; the errors are each about one guest.
    """
    errors: list[VnumaError] = []
    for restart in restarts:
        try:
            decision = decide(power, state_dir, restart)
            restart.action = ACTIONS[decision.action]
            if decision.action == "unknown":
                raise UnsettledError(decision.why)
            restart.warnings.extend([decision.why] if decision.why else [])
        except VnumaError as error:
            restart.action = "failed"
            errors.append(error.for_guest(restart.domain.name))
    return errors


def restart_guests(
    power: Power, restarts: Sequence[Restart], policy: RestartPolicy, state_dir: MigrationNotes
) -> list[VnumaError]:
    """Power-cycle those guests whose running layout is not the one they are defined with.

    A guest that is too slow to shut down gives its place to the next one, and is watched for as
    long as the others take.

    What happened is noted in *restarts*; there is an error for each guest that could not be brought
    to its new layout.
    """
    cycle = Cycle(power, policy, state_dir)
    over = threading.Event()
    errors: dict[str, VnumaError] = {}
    watching: list[tuple[Restart, Future[bool]]] = []
    with ThreadPoolExecutor(max_workers=max(1, len(restarts))) as watchers:
        with ThreadPoolExecutor(max_workers=policy.at_once) as pool:

            def in_turn(restart: Restart) -> None:
                try:
                    cycle.carry_out(restart)
                except LateError as late:
                    errors[restart.domain.uuid] = late
                    watching.append((restart, watchers.submit(cycle.finish_late, restart, over)))
                except VnumaError as error:
                    errors[restart.domain.uuid] = error

            list(pool.map(in_turn, restarts))
        over.set()
        for restart, watched in watching:
            try:
                if watched.result():
                    del errors[restart.domain.uuid]
            except VnumaError as error:
                errors[restart.domain.uuid] = error
    for restart in restarts:
        if restart.domain.uuid in errors and restart.action != "rolled_back":
            restart.action = "failed"
    names = {restart.domain.uuid: restart.domain.name for restart in restarts}
    return [error.for_guest(names[uuid]) for uuid, error in errors.items()]


def policy_from(options: dict[str, Any]) -> RestartPolicy:
    """Return how guests are power-cycled.

    Raises:
        PolicyError: when an option means nothing.
    """
    policy = RestartPolicy(
        mode=options["mode"],
        timeout_s=options["timeout"],
        at_once=options["at_once"],
        agent_timeout_s=options["agent_timeout"],
    )
    if policy.at_once < 1 or policy.timeout_s <= 0 or policy.agent_timeout_s < 0:
        raise PolicyError(
            "at_once must be at least 1, timeout more than 0 s and agent_timeout at least 0 s, not "
            f"{policy.at_once}, {policy.timeout_s:g} s and {policy.agent_timeout_s:g} s (in the "
            "role, vnuma_restart_at_once, vnuma_restart_timeout and vnuma_restart_agent_timeout)."
        )
    return policy


def restart(module: AnsibleModule) -> dict[str, Any]:
    """Power-cycle the guests and return what came of it."""
    policy, write = policy_from(module.params), not module.check_mode
    power = Power(module.params["uri"], watch=write, patience_s=patience_s(module))
    untidy = False
    try:
        state_dir = MigrationNotes(
            module.params["state_dir"] or default_state_dir(), power.host_uuid()
        )
        named = module.params["guests"]
        entries = [{"name": "*"}] if named is None else [{"name": name} for name in named]
        with state_dir.locked() if write else nullcontext():
            domains = power.domains()
            selection = select_guests(domains, entries)
            errors: list[VnumaError] = list(selection.errors)
            restarts = [Restart(match.domain, match.by_name) for match in selection.matches]
            untidy = is_untidy(power, domains, state_dir)
            if write:
                errors += restart_guests(power, restarts, policy, state_dir)
                errors += _tidied(power, state_dir)
            else:
                errors += foresee_restarts(power, restarts, state_dir)
    finally:
        power.close()
    warn_once(
        module,
        selection.warnings if named is not None else (),
        [(restart.domain.name, restart.warnings) for restart in restarts],
    )
    return _result(restarts, errors, untidy)


def _tidied(power: Power, state_dir: MigrationNotes) -> list[VnumaError]:
    try:
        tidy(power, state_dir)
    except VnumaError as error:
        return [error]
    return []


def _result(
    restarts: Sequence[Restart], errors: Sequence[VnumaError], untidy: bool
) -> dict[str, Any]:
    touched = any(one.action in ("restarted", "started", "rolled_back") for one in restarts)
    return {
        "changed": touched or untidy,
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
        "restarted": [
            one.domain.name for one in restarts if one.action in ("restarted", "started")
        ],
        **errors_to_result(errors),
    }
