# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs on which pCPUs: guests that own theirs, and all threads that share the rest.

What is owned leaves the shared pool of its node for everyone: vCPUs, emulators, iothreads. So
those who own are given theirs first, and whoever shares gets what is left. Where that would leave
somebody nothing, the guest that wants to own it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._cpuset import Ids, format_cpuset, show_cpuset
from .._errors import LayoutError, RoomError, VnumaError
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Layout
from .._model.placement import Load, Threads
from .._policy import KEEP, MAX_VCPUS, Policy
from .caches import CacheLoad, pin_by_cache
from .cores import EXCLUSIVE, balanced_cpus, open_threads
from .draft import Draft
from .loads import exclusive_cpus, hotplug_text, owned_cpus, shared_threads
from .pinning import CpuAllocator, Spared


@dataclass
class Sharing:
    """One guest while pCPUs are shared out.

    Attributes:
        policy: how it is planned, with what it says of the host resolved.
        draft: its layout without what depends on others, or why there is none.
        error: why it cannot have its pCPUs, None where it can.
    """

    guest: Guest
    policy: Policy
    draft: Draft | LayoutError
    error: LayoutError | None = None
    vcpu_pins: tuple[Ids, ...] = ()
    emulator_pins: Ids | None = None
    iothread_pins: Mapping[int, Ids] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def planned(self) -> Draft | None:
        """Its draft, None where it stays as it is."""
        return None if self.error or isinstance(self.draft, LayoutError) else self.draft

    def answer(self) -> Layout | VnumaError:
        """Return its layout, or the error that names it."""
        if isinstance(self.draft, LayoutError):
            return self.draft.about(self.guest.name)
        if self.error is not None:
            return self.error.about(self.guest.name)
        layout = self.draft.layout
        same = (
            self.vcpu_pins == layout.vcpu_pins
            and self.emulator_pins == layout.emulator_pins
            and self.iothread_pins == layout.iothread_pins
            and not self.warnings
        )
        if same:
            return layout
        return replace(
            layout,
            vcpu_pins=self.vcpu_pins,
            emulator_pins=self.emulator_pins,
            iothread_pins=self.iothread_pins,
            warnings=(*layout.warnings, *self.warnings),
        )


@dataclass(frozen=True)
class _Claim:
    """Threads that own no pCPU, and need one at least.

    Attributes:
        cpus: any of these.
    """

    cpus: frozenset[int]
    spared: Spared


def pin_together(guests: Sequence[Sharing], host: Host, others: Sequence[Load]) -> None:
    """Give every guest its pins, or its error."""
    for one in guests:
        if one.planned is not None:
            layout = one.planned.layout
            one.vcpu_pins = layout.vcpu_pins
            if one.policy.pinning == KEEP:
                pins = dict(one.guest.vcpu_pins)
                kept = tuple(pins.get(vcpu, ()) for vcpu in range(one.guest.vcpus))
                one.vcpu_pins = kept if any(kept) else ()
            one.emulator_pins = layout.emulator_pins
            one.iothread_pins = layout.iothread_pins
    owners = {cpu: load.name for load in others for cpu in load.owned}
    if any(one.planned is not None and one.planned.demands for one in guests):
        _pin_exclusively(guests, host, others)
    for one in guests:
        owners.update(dict.fromkeys(_owned(one, host), one.guest.name))
    if owners:
        for one in guests:
            if one.planned is not None:
                _share_the_rest(one, one.planned, host, owners)
    if any(one.planned is not None and one.planned.cache_cells for one in guests):
        _pin_by_cache(guests, host, others, owners)
    _say_what_is_shared(guests, host, others, owners)
    for one in guests:
        if one.planned is not None and one.policy.pinning != KEEP:
            one.warnings += _tuning_warnings(one, one.policy.pinning)


def _tuning_warnings(one: Sharing, pinning: str) -> Iterator[str]:
    """Yield what is kept of ``<cputune>``, and had its sense from pins that are replaced."""
    guest, owns = one.guest, pinning in EXCLUSIVE
    before, now = dict(guest.vcpu_pins), dict(enumerate(one.vcpu_pins))
    moved = {
        vcpu for vcpu in range(guest.vcpus) if before.get(vcpu, guest.cpuset) != now.get(vcpu, ())
    }
    tuned = moved.intersection(guest.cachetune_vcpus)
    if tuned:
        yield (
            f"its <cachetune> gives vCPUs {format_cpuset(sorted(tuned))} a part of a cache, and "
            "these get other pCPUs; see whether it names the caches of those, and correct or "
            "remove it."
        )
    if guest.has_shares and owns and moved:
        yield (
            "its <shares> weigh it against other guests on the same pCPUs, and with pinning "
            f"'{pinning}' it has pCPUs of its own, where they have no effect; remove them, or set "
            "pinning to 'node'."
        )
    if owns or not guest.realtime_vcpus:
        return
    yield (
        f"its vCPUs {format_cpuset(one.guest.realtime_vcpus)} have a real-time scheduler "
        f"(<vcpusched>), and pinning '{pinning}' lets them share pCPUs with other threads, which "
        "wait for as long as they run; set pinning to 'core' or 'cpu', or to 'keep' for the pins "
        "that it has."
    )


def _owned(one: Sharing, host: Host) -> frozenset[int]:
    """Return the pCPUs that a guest owns; one that stays as it is owns what it did."""
    if one.planned is None:
        return _owned_now(one, host)
    return owned_cpus(host, one.policy.pinning, one.vcpu_pins)


def _pin_exclusively(guests: Sequence[Sharing], host: Host, others: Sequence[Load]) -> None:
    """Give guests pCPUs of their own, or their errors.

    A guest that cannot be planned stays where it is, so what it owns now is in use for the others.
    Where somebody was given that before it was known, or the last pCPU that threads share, all is
    done over without it.
    """
    taken = frozenset[int]().union(*(load.owned for load in others))
    stuck: set[int] = set()
    spared: dict[int, Spared] = {}
    held = _held(guests, others, host)
    claims = _claims(guests, others)
    order = sorted(
        (index for index, one in enumerate(guests) if one.planned and one.planned.demands),
        key=lambda index: _turn(guests[index]),
    )
    while True:
        waiting = [index for index in order if index not in stuck]
        for index in waiting:
            guests[index].error = None
        rest = set(range(len(guests))).difference(waiting)
        in_use = taken.union(*(_owned(guests[index], host) for index in rest))
        allocator = CpuAllocator(host, in_use, held, spared)
        kept = _reserved(guests, waiting, allocator)
        lost = _allocated(guests, waiting, allocator, host)
        if lost is not None:
            stuck.add(lost)
            continue
        more = _spare(claims, kept, spared, allocator, host)
        if not more:
            return
        spared.update(more)


def _turn(one: Sharing) -> tuple[int, str, str]:
    """Return what orders guests that own pCPUs: those that need whole cores come first.

    A guest of single threads finds room on cores that others own a part of; the reverse is not so.
    """
    demands = one.planned.demands if one.planned is not None else ()
    width = max((len(demand.vcpus) for demand in demands), default=1)
    return (-MAX_VCPUS if one.policy.pinning == "core" else -width, one.guest.name, one.guest.uuid)


def _owned_now(one: Sharing, host: Host) -> frozenset[int]:
    return exclusive_cpus(host, (cpus for _vcpu, cpus in one.guest.vcpu_pins))


def _reserved(
    guests: Sequence[Sharing], waiting: Sequence[int], allocator: CpuAllocator
) -> frozenset[int]:
    """Let guests keep what they have; return all that is in use then."""
    for index in waiting:
        one = guests[index]
        if one.planned is not None:
            allocator.reserve_current(index, one.guest.vcpu_pins, one.planned.demands, one.policy)
    return allocator.in_use


def _allocated(
    guests: Sequence[Sharing], waiting: Sequence[int], allocator: CpuAllocator, host: Host
) -> int | None:
    """Give guests their pins or their errors; return one whose pCPUs others were given already."""
    for index in waiting:
        one = guests[index]
        if one.planned is None:
            continue
        try:
            remark = hotplug_text(one.guest)
            pins = allocator.allocate(index, one.planned.demands, one.policy, remark)
        except LayoutError as error:
            one.error = error
            if not allocator.hold(index, _owned_now(one, host)):
                return index
        else:
            one.vcpu_pins, one.warnings = pins.vcpu_pins, list(pins.warnings)
    return None


def _held(guests: Sequence[Sharing], others: Sequence[Load], host: Host) -> frozenset[int]:
    """Return the pCPUs that somebody holds threads to, where these leave others of their node."""
    pinned = [one.cpus for load in others for one in load.threads if one.is_held]
    for one in guests:
        pinned += [threads.cpus for threads in _own_threads(one)]
        if one.planned is None or one.policy.pinning == KEEP:
            pinned += [cpus for _vcpu, cpus in one.guest.vcpu_pins]
    nodes = {node.id: frozenset(node.cpus) for node in host.nodes}
    found: set[int] = set()
    for cpus in set(pinned):
        for node_id in host.nodes_of(cpus):
            here = nodes[node_id].intersection(cpus)
            if here != nodes[node_id]:
                found |= here
    return frozenset(found)


def _own_threads(one: Sharing) -> Iterator[Threads]:
    """Yield threads of a guest of the call that are held to pCPUs, by hand or by name."""
    policy, stays = one.policy, one.planned is None
    for what, cpus in one.guest.thread_pins:
        is_emulator = what == "its emulator"
        option = policy.emulator_pinning if is_emulator else policy.iothread_pinning
        if stays or option == KEEP:
            yield Threads(what, cpus, is_held=True)
    if stays:
        return
    if isinstance(policy.emulator_pinning, tuple):
        yield Threads("its emulator", policy.emulator_pinning, is_held=True)
    if isinstance(policy.iothread_pinning, tuple) and one.guest.iothread_ids:
        yield Threads("its iothreads", policy.iothread_pinning, is_held=True)


def _claims(guests: Sequence[Sharing], others: Sequence[Load]) -> list[_Claim]:
    """Return which threads share pCPUs, and need one at least."""
    found = [
        _Claim(frozenset(threads.cpus), Spared(threads.what, load.name))
        for load in others
        for threads in load.threads
        if threads.cpus
    ]
    for index, one in enumerate(guests):
        name = one.guest.name
        for threads in _own_threads(one):
            spared = Spared(threads.what, name, index, is_for_own=True)
            found.append(_Claim(frozenset(threads.cpus), spared))
        if one.planned is None:
            continue
        layout = one.planned.layout
        if not one.planned.demands:
            pools = {*layout.vcpu_pins, *(cell.cpus for cell in one.planned.cache_cells)}
            spared = Spared("its vCPUs", name, index)
            found += [_Claim(frozenset(cpus), spared) for cpus in pools]
        if one.policy.emulator_pinning == "nodes" and layout.emulator_pins:
            spared = Spared("its emulator", name, index, is_for_own=True)
            found.append(_Claim(frozenset(layout.emulator_pins), spared))
        if one.policy.iothread_pinning == "nodes" and layout.iothread_pins:
            spared = Spared("its iothreads", name, index)
            found.append(_Claim(_for_iothreads(one.planned), spared))
    return [one for one in found if one.cpus]


def _for_iothreads(draft: Draft) -> frozenset[int]:
    """Return where iothreads may run: with exclusive pins on reserved pCPUs too."""
    pins = draft.layout.iothread_pins or {}
    cpus = {cpu for one in pins.values() for cpu in one}
    if draft.demands:
        cpus |= {cpu for node in draft.nodes for cpu in node.cpus}
    return frozenset(cpus)


def _spare(
    claims: Sequence[_Claim],
    kept: frozenset[int],
    spared: Mapping[int, Spared],
    allocator: CpuAllocator,
    host: Host,
) -> dict[int, Spared]:
    """Return pCPUs to be spared so that all threads have one that no guest owns.

    *kept* are pCPUs that guests owned already, which nobody is asked to give up. *spared* were
    spared before: threads that have one need no other, whoever took it.
    """
    found: dict[int, Spared] = {}
    for claim in sorted(claims, key=lambda one: (one.spared.guest, sorted(one.cpus))):
        own = allocator.owned_by(claim.spared.owner) if claim.spared.is_for_own else frozenset()
        left, free = claim.cpus - allocator.in_use, claim.cpus - kept
        has_one = not free.isdisjoint(found) or any(cpu in spared for cpu in free)
        if left or free <= own or has_one:
            continue
        balanced = frozenset(balanced_cpus(host, tuple(sorted(free)))) or free
        broken = [cpu for cpu in balanced if not kept.isdisjoint(host.core(cpu))]
        found[max(broken or balanced)] = claim.spared
    return found


def _share_the_rest(one: Sharing, draft: Draft, host: Host, owners: Mapping[int, str]) -> None:
    """Take what others own out of a guest's shared pins."""
    owned = frozenset(owners)
    if one.policy.pinning == "node":
        left = {cpus: open_threads(cpus, owned) for cpus in set(one.vcpu_pins)}
        for cpus, rest in left.items():
            if cpus and not rest:
                one.error = _nothing_left(f"pinning '{one.policy.pinning}'", cpus, host, owners)
                return
        one.vcpu_pins = tuple(left[cpus] for cpus in one.vcpu_pins)
    if one.policy.emulator_pinning == "nodes" and one.emulator_pins:
        mine = {cpu for cpu, name in owners.items() if name == one.guest.name}
        pins = open_threads(one.emulator_pins, owned)
        one.emulator_pins = pins or open_threads(one.emulator_pins, owned - mine) or None
        if one.emulator_pins is None:
            cpus = draft.layout.emulator_pins or ()
            one.error = _nothing_left("emulator_pinning 'nodes'", cpus, host, owners)
            return
    if one.policy.iothread_pinning == "nodes" and one.iothread_pins:
        one.iothread_pins = _iothread_pins(one, draft, host, owned)
        if not one.iothread_pins:
            cpus = tuple(sorted(_for_iothreads(draft)))
            one.error = _nothing_left("iothread_pinning 'nodes'", cpus, host, owners)


def _iothread_pins(one: Sharing, draft: Draft, host: Host, owned: frozenset[int]) -> dict[int, Ids]:
    """Return what iothreads are pinned to in turn, {} where nothing is left for them."""
    if draft.demands:
        pools = [open_threads(node.cpus, owned) for node in draft.nodes]
        pools = [balanced_cpus(host, cpus) or cpus for cpus in pools if cpus]
        turns = dict(enumerate(pools))
        return {
            iothread: turns[turn % len(pools)]
            for turn, iothread in enumerate(one.guest.iothread_ids if pools else ())
        }
    left = {
        iothread: open_threads(cpus, owned) for iothread, cpus in (one.iothread_pins or {}).items()
    }
    together = tuple(sorted({cpu for cpus in left.values() for cpu in cpus}))
    return {iothread: cpus or together for iothread, cpus in left.items()} if together else {}


def _nothing_left(option: str, cpus: Ids, host: Host, owners: Mapping[int, str]) -> RoomError:
    nodes = format_cpuset(host.nodes_of(cpus))
    names = sorted({owners[cpu] for cpu in cpus if cpu in owners})
    return RoomError(
        f"{option} finds no pCPU on host node {nodes} that no guest owns: {show_cpuset(cpus)} "
        f"belong to {', '.join(names)}",
        "use other nodes, or give these guests fewer pCPUs",
    )


def _pin_by_cache(
    guests: Sequence[Sharing], host: Host, others: Sequence[Load], owners: Mapping[int, str]
) -> None:
    """Pin guests to cache domains together with all that have other pins."""
    load = CacheLoad(host, [threads for one in others for threads in one.threads])
    waiting = {}
    for index, one in enumerate(guests):
        draft = one.planned
        if draft is not None and draft.cache_cells:
            cells = tuple(cell.without(frozenset(owners), host) for cell in draft.cache_cells)
            bare = next((cell for cell in cells if not cell.cpus), None)
            if bare is not None:
                cpus = draft.cache_cells[cells.index(bare)].cpus
                one.error = _nothing_left("pinning 'cache'", cpus, host, owners)
                continue
            waiting[index] = (one.guest, cells)
        else:
            for threads in _shared_vcpus(one, host):
                load.add(threads.cpus, threads.cores)
    for index, vcpu_pins in pin_by_cache(waiting, load).items():
        guests[index].vcpu_pins = vcpu_pins


def _shared_vcpus(one: Sharing, host: Host) -> list[Threads]:
    """Return the vCPUs of a guest that share pCPUs, by these."""
    guest, topology = one.guest, None
    pins = dict(guest.vcpu_pins)
    if one.planned is not None:
        layout = one.planned.layout
        topology = None if layout.leaves_cells else layout.topology
        if one.planned.demands:
            return []
        pins = dict(enumerate(one.vcpu_pins))
    threads = guest.own_threads if topology is None else topology.threads
    every = [pins.get(vcpu, ()) for vcpu in guest.online]
    return shared_threads(every, threads, host, exclusive_cpus(host, every))


def _say_what_is_shared(
    guests: Sequence[Sharing], host: Host, others: Sequence[Load], owners: Mapping[int, str]
) -> None:
    """Say by name where threads may run on pCPUs that another guest, or their own vCPUs, own."""
    pinned: dict[tuple[str, str, bool], set[int]] = {}
    for load in others:
        for threads in load.threads:
            key = (load.name, threads.what, threads.is_held)
            pinned.setdefault(key, set()).update(threads.cpus)
    in_call = {one.guest.name: one for one in guests}
    for one in guests:
        stays = [
            Threads("its vCPUs", cpus)
            for _vcpu, cpus in one.guest.vcpu_pins
            if one.planned is None and not set(cpus) <= exclusive_cpus(host, [cpus])
        ]
        for threads in (*stays, *_own_threads(one)):
            pinned.setdefault((one.guest.name, threads.what, True), set()).update(threads.cpus)
    for (name, what, is_held), cpus in sorted(pinned.items()):
        for owner in sorted({owners[cpu] for cpu in cpus if cpu in owners}):
            both = format_cpuset(cpu for cpu in cpus if owners.get(cpu) == owner)
            teller = in_call.get(owner)
            if teller is not None and teller.planned is not None:
                whose = what if name == owner else f"guest {name} ({what})"
                remedy = (
                    "change the pins of those threads"
                    if is_held
                    else "include that guest in the call, which takes them out of its pins"
                )
                teller.warnings.append(
                    f"it owns pCPUs {both}, and {whose} may run there too; {remedy}, or use other "
                    "nodes."
                )
            elif (thread_of := in_call.get(name)) is not None and thread_of.planned is not None:
                thread_of.warnings.append(
                    f"{what} may run on pCPUs {both}, which guest {owner} owns; change those pins."
                )
