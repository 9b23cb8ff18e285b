# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power-cycling guests that wait for it, so that whoever ran before runs after.

Knows how guests stop and start, and how to go back; nothing of layouts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .._domain.definition import read_definition, secrets
from .._domain.drift import needs_restart
from .._domain.record import find_record
from .._errors import HypervisorError, VnumaError
from .._hypervisor.hypervisor import Domain, Hypervisor
from .state_dir import Store

#: A shutdown request that a guest missed, say while it booted, is made again.
_ASK_AGAIN_S = 20.0


@dataclass(frozen=True)
class RestartPolicy:
    """How guests are power-cycled.

    Attributes:
        mode: ``graceful`` never pulls the plug, ``force`` does after the timeout.
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


def restart_guests(
    hypervisor: Hypervisor,
    restarts: Sequence[Restart],
    policy: RestartPolicy,
    store: Store,
    write: bool,
) -> list[VnumaError]:
    """Power-cycle those guests whose running layout is not the one they are defined with.

    Args:
        hypervisor: where they are.
        restarts: the candidates; what happened is noted in them.
        policy: how.
        store: where old definitions and begun restarts are kept.
        write: False only says what would happen (check mode).

    Returns:
        The errors, one for each guest that could not be brought to its new layout.
    """
    errors: list[VnumaError] = []
    waiting: list[tuple[Restart, Callable[[Restart], None]]] = []
    for restart in restarts:
        try:
            step = _decide(hypervisor, restart, store)
        except VnumaError as error:
            errors.append(error.for_guest(restart.domain.name))
            restart.action = "failed"
            continue
        if step is not None and write:
            waiting.append((restart, step(hypervisor, policy, store)))
    with ThreadPoolExecutor(max_workers=policy.at_once) as pool:
        futures = [(restart, pool.submit(step, restart)) for restart, step in waiting]
    for restart, future in futures:
        problem = future.exception()
        if isinstance(problem, VnumaError):
            errors.append(problem.for_guest(restart.domain.name))
            if restart.action != "rolled_back":
                restart.action = "failed"
        elif problem is not None:
            raise problem
    return errors


def _decide(hypervisor: Hypervisor, restart: Restart, store: Store) -> Any:
    """Say what a guest needs, without touching it; None for nothing."""
    domain = restart.domain
    if not domain.persistent:
        return None
    if not domain.active:
        if store.begun_restart(domain.uuid) is None:
            return None
        restart.action = "started"
        return _finish_begun
    live = read_definition(hypervisor.public_xml(domain, live=True))
    persistent = read_definition(hypervisor.public_xml(domain, live=False))
    ours = find_record(live.root) is not None or find_record(persistent.root) is not None
    if not needs_restart(live, persistent) or not (ours or restart.by_name):
        if store.begun_restart(domain.uuid) is not None and not needs_restart(live, persistent):
            # A restart that was cut short after its start: nothing is left to do.
            store.end_restart(domain.uuid)
            store.drop_old(domain.uuid)
        return None
    hindrance = hypervisor.hindrance(domain)
    if hindrance:
        restart.action = "skipped"
        restart.warnings.append(f"{hindrance}; it keeps its old layout until its next cold start.")
        return None
    restart.action = "restarted"
    return _cycle


def _finish_begun(
    hypervisor: Hypervisor, policy: RestartPolicy, store: Store
) -> Callable[[Restart], None]:
    def step(restart: Restart) -> None:
        _start(hypervisor, restart, policy, store, None)

    return step


def _cycle(
    hypervisor: Hypervisor, policy: RestartPolicy, store: Store
) -> Callable[[Restart], None]:
    def step(restart: Restart) -> None:
        domain = restart.domain
        running = hypervisor.running_xml(domain)
        if not _is_what_runs(store.old(domain.uuid), running):
            store.keep_old(domain.uuid, running)
        store.begin_restart(domain.uuid, domain.name)
        _stop(hypervisor, restart, policy)
        _start(hypervisor, restart, policy, store, time.monotonic())

    return step


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
    """Shut a guest down, and pull its power only if that is allowed."""
    domain = restart.domain
    deadline = time.monotonic() + policy.timeout_s
    while time.monotonic() < deadline:
        hypervisor.shut_down(domain)
        ask_again = min(time.monotonic() + _ASK_AGAIN_S, deadline)
        if hypervisor.wait(lambda: not hypervisor.is_active(domain), ask_again):
            return
    if policy.mode == "force":
        hypervisor.pull_power(domain)
        restart.forced = True
        if hypervisor.wait(lambda: not hypervisor.is_active(domain), time.monotonic() + 60):
            return
    raise HypervisorError(
        f"it did not shut down within {policy.timeout_s:g} s and keeps running with its old "
        "layout; see what holds it up, give it a longer timeout, or set mode to 'force'. Should it "
        "still go down, the next run starts it."
    )


def _start(
    hypervisor: Hypervisor,
    restart: Restart,
    policy: RestartPolicy,
    store: Store,
    stopped_at: float | None,
) -> None:
    """Start a guest; where that fails, put its old definition back and start it with that."""
    domain = restart.domain
    try:
        hypervisor.start(domain)
    except HypervisorError as reason:
        _roll_back(hypervisor, restart, store, reason, stopped_at)
    if stopped_at is not None:
        restart.downtime_s = round(time.monotonic() - stopped_at, 1)
    store.end_restart(domain.uuid)
    live = read_definition(hypervisor.public_xml(domain, live=True))
    persistent = read_definition(hypervisor.public_xml(domain, live=False))
    if needs_restart(live, persistent):
        raise HypervisorError(
            "it was started, and yet does not run with the layout it is defined with; see whether "
            "something else started it from a saved image."
        )
    store.drop_old(domain.uuid)
    if policy.agent_timeout_s and not hypervisor.wait(
        lambda: hypervisor.agent_answers(domain), time.monotonic() + policy.agent_timeout_s
    ):
        raise HypervisorError(
            f"it runs with its new layout, but its agent did not answer within "
            f"{policy.agent_timeout_s:g} s; see its console."
        )


def _roll_back(
    hypervisor: Hypervisor,
    restart: Restart,
    store: Store,
    reason: HypervisorError,
    stopped_at: float | None,
) -> None:
    domain = restart.domain
    old = store.old(domain.uuid)
    why = reason.message.rstrip(".")
    if old is None:
        raise HypervisorError(
            f"it does not start, and no older definition was kept: {why}; it is off, correct its "
            "definition and start it."
        ) from None
    try:
        hypervisor.define(domain.name, old, secrets(read_definition(old).root), validate=False)
        hypervisor.start(domain)
    except HypervisorError as second:
        raise HypervisorError(
            f"it starts neither with its new definition ({why}) nor with the old one "
            f"({second.message.rstrip('.')}); it is off, and its old definition is kept in "
            f"{store.folder / (domain.uuid + '.xml')}."
        ) from None
    restart.action = "rolled_back"
    if stopped_at is not None:
        restart.downtime_s = round(time.monotonic() - stopped_at, 1)
    store.end_restart(domain.uuid)
    store.drop_old(domain.uuid)
    raise HypervisorError(
        "it did not start with its new layout, so its old definition was put back and it runs with "
        f"that: {why}; change its options, or make room on the host, and run again."
    )
