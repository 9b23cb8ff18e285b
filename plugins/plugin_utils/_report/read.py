# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the modules return to what the page shows.

Only the keys that are named here are taken; whatever else is in a result, a definition with its
passwords among it, never comes further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._cpuset import format_cpuset, parse_cpuset
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import (
    HostError,
    VnumaError,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    MAX_NODES,
    Host,
    host_from_facts,
)

from .bounds import plain
from .view import (
    Account,
    CellView,
    DeviceView,
    DriftView,
    Groups,
    GuestView,
    HostView,
    LayoutView,
    MemoryView,
)

#: Most vCPUs of a definition (countCPU, src/conf/schemas/domaincommon.rng in libvirt).
_MOST_VCPUS = 65535
#: As many as a guest has functions behind ports of its own, and more than a page shows.
_MAX_DEVICES = 2048
#: What is taken of a host's entry.
_KEYS = ("topology", "info", "plan", "error")
#: So many guests of a host are drawn.
_MAX_GUESTS = 10_000


def read_fleet(raw: object) -> list[HostView]:
    """Read all hosts, by name.

    Args:
        raw: by host name, dictionaries with ``topology``, ``info``, ``plan`` and ``error``.

    Raises:
        VnumaError: when it is no such dictionary. What is wrong with a host's own answers is an
            error of that host, and hides no other.
    """
    if not isinstance(raw, Mapping):
        raise HostError(f"report takes a dictionary of hosts by name, not {type(raw).__name__}.")
    return [read_or_say(str(name), raw[name]) for name in sorted(raw, key=str)]


def read_or_say(name: str, raw: object) -> HostView:
    """Read one host; what cannot be read is its error, and all that is known of it.

    Raises:
        VnumaError: when it is not a dictionary of what modules returned, whatever that is.
    """
    where = _where(name)
    entry = _mapping(raw, where, "its entry")
    for key in ("info", "plan"):
        _mapping(entry.get(key) or {}, where, key)
    try:
        return read_host(name, entry)
    except VnumaError as error:
        return HostView(name=_shown(name), errors=(("", error.message),))


def read_host(name: str, raw: object) -> HostView:
    """Read one host; its name is '' where there is no other.

    Raises:
        VnumaError: when it is not the shape that the modules return.
    """
    where = _where(name)
    given = _mapping(raw, where, "its entry")
    entry = plain({key: given[key] for key in _KEYS if key in given}, where)
    facts = entry.get("topology")
    info = _mapping(entry.get("info") or {}, where, "info")
    plan = _mapping(entry.get("plan") or {}, where, "plan")
    try:
        host = host_from_facts(facts) if facts else Host(nodes=())
    except VnumaError as error:
        raise HostError(f"{where}: {error.message}") from None
    ledger = _mapping(info.get("ledger") or {}, where, "info.ledger")
    planned = _mapping(plan.get("ledger") or {}, where, "plan.ledger")
    rebalance = info.get("rebalance") or {}
    try:
        return HostView(
            name=_shown(name),
            host=host,
            guests=_guests(info.get("guests") or (), plan.get("guests") or ()),
            accounts=_accounts(ledger or ({} if info else planned)),
            planned=_accounts(planned),
            floating=tuple(map(str, ledger.get("floating") or ())),
            errors=tuple(_errors(entry, info, plan)),
            moves=(
                tuple(map(str, rebalance.get("moves") or ())),
                str(rebalance.get("gain") or ""),
            ),
        )
    except VnumaError as error:
        raise HostError(f"{where}: {error.message}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise HostError(
            f"{where}: info and plan must be what vnuma_info and vnuma_partition returned "
            f"({type(error).__name__}: {error}); register their results and pass them as they are."
        ) from None


def _where(name: str) -> str:
    return f"host {_shown(name)}" if name else "the host"


def _shown(name: str) -> str:
    return str(plain(name, "the host"))


def _mapping(raw: object, where: str, what: str) -> Mapping[str, Any]:
    if isinstance(raw, Mapping):
        return raw
    raise HostError(
        f"{where}: {what} must be a dictionary as the modules return it, not {type(raw).__name__}."
    )


def _errors(*sources: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield what went wrong: guest by guest where that is known, else the message of the task."""
    entry, *results = sources
    seen: set[tuple[str, str]] = set()
    if entry.get("error"):
        yield "", str(entry["error"])
    for result in results:
        found = [(str(one["name"]), str(one["msg"])) for one in result.get("errors") or ()]
        if not found and result.get("failed", False) and result.get("msg"):
            found = [("", str(result["msg"]))]
        for one in found:
            if one not in seen:
                seen.add(one)
                yield one


def _guests(
    reported: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]
) -> tuple[GuestView, ...]:
    plans = {str(one["name"]): one for one in _few(planned, _MAX_GUESTS, "guests")}
    known = {str(one["name"]): one for one in _few(reported, _MAX_GUESTS, "guests")}
    names = sorted({*plans, *known})
    return tuple(
        _guest(f"g{number}", name, known.get(name), plans.get(name))
        for number, name in enumerate(names, 1)
    )


def _guest(
    code: str, name: str, info: Mapping[str, Any] | None, plan: Mapping[str, Any] | None
) -> GuestView:
    info, plan = info or {}, plan or {}
    policy = info.get("policy")
    layouts: dict[LayoutView, list[str]] = {}
    found = {}
    for key, title in (("live", "running"), ("persistent", "defined"), ("planned", "planned")):
        if info.get(key) is not None:
            found[key] = _layout(info[key])
            layouts.setdefault(found[key], []).append(title)
    after, changed = None, bool(plan.get("changed"))
    if plan.get("layout") is not None and (changed or not found):
        after = _layout(plan["layout"])
        layouts.setdefault(after, []).append("after this run" if changed and found else "planned")
    actual = info.get("actual") or {}
    affinity, memory = actual.get("vcpus"), actual.get("cells")
    return GuestView(
        code=code,
        name=name,
        state=str(info.get("state") or ""),
        transient=bool(info.get("transient")),
        policy=None
        if policy is None
        else tuple((str(key), str(value)) for key, value in sorted(policy.items())),
        layouts=tuple((tuple(titles), layout) for layout, titles in layouts.items()),
        effective=found.get("live") or found.get("persistent"),
        after=after if changed else None,
        restores=changed and plan.get("layout") is None,
        why=str((plan.get("placement") or {}).get("why") or ""),
        affinity=None
        if affinity is None
        else _grouped((int(vcpu), _set(cpus)) for vcpu, cpus in affinity.items()),
        memory=None if memory is None else tuple(map(_memory, memory)),
        drift=tuple(
            DriftView(str(one["between"]), str(one["what"]), str(one["msg"]))
            for one in info.get("drift") or ()
        ),
        restart_required=bool(info.get("restart_required")),
        devices=_devices(info.get("devices") or ()),
        notes=tuple(map(str, info.get("notes") or ())),
        warnings=tuple(map(str, plan.get("warnings") or ())),
    )


def _layout(raw: Mapping[str, Any]) -> LayoutView:
    pins = [_set(cpus) for cpus in raw.get("vcpu_pins") or ()]
    iothreads = raw.get("iothread_pins") or {}
    nodeset = _set(raw.get("nodeset") or "")
    topology = raw.get("topology")
    cells = [_cell(one, pins) for one in _few(raw["cells"], MAX_NODES, "cells")]
    vcpus, memory_kib = _number(raw.get("vcpus")), _number(raw.get("memory_kib"))
    if not cells:
        count = vcpus or len(pins) or _product(topology)
        if count > _MOST_VCPUS:
            raise HostError(
                f"a guest has {count} vCPUs, and libvirt takes {_MOST_VCPUS}; gather it again."
            )
        cells = [
            CellView(
                None,
                format_cpuset(range(count)),
                memory_kib,
                nodeset,
                _grouped(enumerate(pins)),
            )
        ]
    return LayoutView(
        cells=tuple(cells),
        vcpus=vcpus,
        memory_kib=memory_kib,
        topology="" if topology is None else _topology(topology),
        memory_mode=str(raw["memory_mode"]),
        nodeset=nodeset,
        emulator_pins=_set(raw.get("emulator_pins") or ""),
        iothread_pins=_grouped((int(number), _set(cpus)) for number, cpus in iothreads.items()),
        devices=_devices(raw.get("devices") or ()),
    )


def _devices(raw: Sequence[Mapping[str, Any]]) -> tuple[DeviceView, ...]:
    return tuple(
        DeviceView(
            str(one["device"]),
            _number(one.get("host_node")),
            str(one.get("root_complex") or ""),
            _number(one.get("cell")),
        )
        for one in _few(raw, _MAX_DEVICES, "devices")
    )


def _cell(raw: Mapping[str, Any], pins: Sequence[str]) -> CellView:
    vcpus = parse_cpuset(str(raw["vcpus"])) if raw["vcpus"] else ()
    if pins:
        groups = _grouped((vcpu, pins[vcpu]) for vcpu in vcpus)
    else:
        # Results of guests that do not change have the pins of whole cells alone.
        groups = ((_set(raw["vcpus"]), _set(raw["pins"])),) if raw.get("pins") else ()
    node = raw.get("host_node")
    return CellView(
        id=int(raw["id"]),
        vcpus=format_cpuset(vcpus),
        memory_kib=int(raw["memory_kib"]),
        host_nodes="" if node is None else _set(int(node)),
        pins=groups,
        distances=tuple(map(int, raw.get("distances") or ())),
        memory_node="" if raw.get("memory_node") is None else _set(int(raw["memory_node"])),
    )


def _set(value: object) -> str:
    """Return a set as it is written, once it is known to be one.

    Raises:
        CpusetError: when it is none.
    """
    text = str(value)
    if text:
        parse_cpuset(text)
    return text


def _share(value: object) -> float:
    share = float(str(value))
    if not 0 <= share <= 1:
        raise ValueError(f"local_share {value}")
    return share


def _few(items: Sequence[Any], most: int, what: str) -> Sequence[Any]:
    """Return what is few enough to be drawn."""
    if len(items) > most:
        raise ValueError(f"{what}: {len(items)}")
    return items


def _number(value: object) -> int | None:
    return None if value is None else int(str(value))


def _memory(raw: Mapping[str, Any]) -> MemoryView:
    pages, share = raw.get("kib_by_node"), raw.get("local_share")
    return MemoryView(
        cell=None if raw["id"] is None else int(raw["id"]),
        local=_set(raw.get("nodes") or ""),
        kib_by_node=None
        if pages is None
        else {
            int(node): int(kib) for node, kib in sorted(pages.items(), key=lambda one: int(one[0]))
        },
        share=None if share is None else _share(share),
    )


def _accounts(ledger: Mapping[str, Any]) -> dict[int, Account]:
    return {
        int(one["node"]): Account(
            cores=int(one["cores"]),
            exclusive_cores=int(one["exclusive_cores"]),
            shared_cores=int(one["shared_cores"]),
            memory_kib=int(one["memory_kib"]),
            bound_kib=int(one["bound_kib"]),
            hugepages=tuple(
                (int(pool["size_kib"]), int(pool["total"]), int(pool["taken"]))
                for pool in one["hugepages"]
            ),
            guests=tuple(map(str, one["guests"])),
        )
        for one in ledger.get("nodes") or ()
    }


def _grouped(pairs: Iterable[tuple[int, str]]) -> Groups:
    """Return numbers with the same set together; those without are left out."""
    groups: dict[str, list[int]] = {}
    for number, cpus in sorted(pairs):
        if cpus:
            groups.setdefault(cpus, []).append(number)
    return tuple((format_cpuset(numbers), cpus) for cpus, numbers in groups.items())


def _product(topology: Mapping[str, Any] | None) -> int:
    product = 1
    for value in (topology or {}).values():
        product *= int(value)
    return product if topology else 0


def _topology(raw: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{int(raw[part])} {part if int(raw[part]) != 1 else part[:-1]}"
        for part in ("sockets", "dies", "clusters", "cores", "threads")
        if part in raw
    )
