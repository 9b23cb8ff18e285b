# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planning guests together with what the other guests of the host take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from .._cpuset import Ids
from .._domain.compare import looks_the_same
from .._domain.definition import Definition, read_definition, read_guest
from .._domain.record import recorded_policy
from .._errors import (
    DaemonLostError,
    GuestGoneError,
    LayoutError,
    RoomError,
    VnumaError,
)
from .._hypervisor.hypervisor import Hypervisor
from .._model.devices import HostDevice
from .._model.domain import Domain
from .._model.guest import Guest
from .._model.host import Host
from .._model.layout import Layout
from .._model.placement import Ledger, Load, Need, Placement, Share
from .._planner.books import make_ledger
from .._planner.cores import follows_domains
from .._planner.loads import load_by_definition, load_by_layout, owned_cpus
from .._planner.plan import plan_guests
from .._policy import AUTO, DEFAULTS, HOST, Policy


@dataclass
class Ask:
    """A guest that is to be planned, and what came of it.

    Attributes:
        guest: its figures, with the size that it is to have.
        policy: how it is to be partitioned.
        definition: its definition of now.
        now: its figures by that.
        devices: where its passed-through PCI devices are, by address, where that is asked for.
        layout: what the planner answered, None before that and where it cannot be planned.
        placement: which host nodes were chosen for it, None where they were not.
        error: why it cannot be planned, None where it can.
    """

    domain: Domain
    guest: Guest
    policy: Policy
    definition: Definition
    now: Guest
    devices: Mapping[str, HostDevice] = field(default_factory=dict)
    layout: Layout | None = None
    placement: Placement | None = None
    error: VnumaError | None = None

    def refuse(self, error: VnumaError) -> None:
        """Let it stay as it is defined."""
        self.layout, self.placement = None, None
        self.error = error.for_guest(self.domain.name)

    def under(self, policy: Policy) -> Ask:
        """Return it as it was asked, under other options."""
        return replace(self, policy=policy, layout=None, placement=None, error=None)

    def answered(self) -> Layout:
        """Return its layout.

        Raises:
            VnumaError: when it cannot be planned.
        """
        if self.layout is None:
            raise self.error or LayoutError("it was not planned; please report this with the play.")
        return self.layout

    @property
    def device_nodes(self) -> Ids:
        """The host nodes of its passed-through PCI devices, as far as these decide."""
        decides = self.policy.device_locality != "ignore"
        found = {one.node for one in self.devices.values() if decides and one.node is not None}
        return tuple(sorted(found))

    @property
    def nodes(self) -> set[int]:
        """The host nodes of its cells and its memory; none where it has no layout."""
        if self.layout is None:
            return set()
        return {*self.layout.nodeset, *(one for one in self.layout.host_nodes if one is not None)}

    def load_now(self, host: Host) -> Load:
        """Return what it takes by its definition of now; its figures have been read."""
        return _load(self.definition, self.now, host)

    def load(self, host: Host) -> Load:
        """Return what it takes once it has what it was answered."""
        if self.layout is None:
            return self.load_now(host)
        owned = owned_cpus(host, self.policy.pinning, self.layout.vcpu_pins)
        return load_by_layout(self.guest, self.layout, host, owned)


@dataclass(frozen=True)
class Planned:
    """What came of planning the guests of a call together.

    Attributes:
        ledger: what all guests of the host take once the plan is carried out; None where no nodes
            were chosen.
        moves: names of guests that a plan of all of them anew moves.
        gain: what that brings; '' where it brings nothing.
    """

    ledger: Ledger | None = None
    moves: tuple[str, ...] = ()
    gain: str = ""


@dataclass(frozen=True)
class Others:
    """The guests of the host that are not planned.

    Attributes:
        definitions: as they are, or as they will be once they are restored; by UUID.
        live: of those that run, by UUID.
        unread: why others could not be read, by UUID.
        repinned: UUIDs of running guests whose pins this very call changes.
    """

    definitions: Mapping[str, Definition]
    live: Mapping[str, Definition]
    unread: Mapping[str, VnumaError] = field(default_factory=dict)
    repinned: frozenset[str] = frozenset()

    def loads(self, host: Host) -> list[Load]:
        """Return what they take by their definitions.

        Raises:
            VnumaError: when one of them cannot be read.
        """
        return [load_of(definition, host) for definition in self.definitions.values()]

    def live_pins(self, host: Host) -> list[Load]:
        """Return what running guests are pinned to, where their definitions say otherwise.

        Raises:
            VnumaError: when one of them cannot be read.
        """
        found = []
        for uuid, live in self.live.items():
            defined = self.definitions.get(uuid)
            if uuid in self.repinned or defined is None:
                continue
            if not _are_pinned_alike(live, defined):
                load = load_of(live, host)
                threads = tuple(replace(one, cores=Fraction(0)) for one in load.threads)
                share = Share(Need(0, 0), owned=load.owned)
                found.append(Load(load.name, load.uuid, (share,), threads))
        return found


def load_of(definition: Definition, host: Host) -> Load:
    """Return what a guest takes of a host by its definition.

    Raises:
        VnumaError: when it cannot be read.
    """
    return _load(definition, read_guest(definition, host.hugepage_default_kib), host)


def _load(definition: Definition, guest: Guest, host: Host) -> Load:
    record = definition.record
    pinning = None
    if record is not None:
        pinning = str(recorded_policy(record).get("pinning", DEFAULTS["pinning"]))
    return load_by_definition(guest, definition.state, host, pinning)


def _are_pinned_alike(first: Definition, second: Definition) -> bool:
    one, other = first.state, second.state
    return (one.vcpu_pins, one.emulator_pins, one.iothread_pins) == (
        other.vcpu_pins,
        other.emulator_pins,
        other.iothread_pins,
    )


def plan_asks(
    asks: Sequence[Ask],
    others: Others,
    host: Host,
    rebalance: bool = False,
    with_ways_out: bool = False,
) -> Planned:
    """Plan guests together with all the others of the host, and give each its answer.

    A guest that cannot be planned stays as it is defined, and takes what it takes now. Where
    another guest cannot be read, each guest whose plan depends on it has that error, and the rest
    is planned.

    What the other guests of the host own is not given away. With *rebalance* nodes are chosen as if
    all guests were new, where that is better; *with_ways_out* names options in errors under which
    guests would fit, which takes its time.
    """
    known, errors = readable(others, host)
    if errors:
        unread = min(map(str, errors.values())).rstrip(".")
        for ask in asks:
            if depends_on_others(ask.policy):
                ask.refuse(
                    LayoutError(
                        "its nodes and pCPUs are chosen with regard to all guests of the host, and "
                        f"one of these cannot be read ({unread}); correct that one first."
                    )
                )
    chooses = _choose_nodes(asks)
    beside, pinned = known.loads(host), known.live_pins(host)
    planned = plan_beside(asks, beside, pinned, host, rebalance)
    if with_ways_out and any(isinstance(ask.error, RoomError) for ask in asks):
        from .remedies import add_ways_out

        add_ways_out(asks, beside, pinned, host, rebalance)
    if chooses:
        loads = [*beside, *(ask.load(host) for ask in asks)]
        planned = replace(planned, ledger=make_ledger(host, loads))
    return planned


def plan_beside(
    asks: Sequence[Ask],
    beside: Sequence[Load],
    pinned: Sequence[Load],
    host: Host,
    rebalance: bool,
) -> Planned:
    """Choose nodes where that is asked for, then lay all guests out; without the ledger of it.

    *beside* is what all other guests of the host take, *pinned* what they are pinned to besides
    that while they run.
    """
    planned = Planned()
    if _choose_nodes(asks):
        from .placing import choose_nodes

        planned = choose_nodes(asks, beside, host, rebalance)
    plan_layouts([ask for ask in asks if ask.error is None], asks, [*beside, *pinned], host)
    return planned


def _choose_nodes(asks: Sequence[Ask]) -> bool:
    return any(ask.error is None and ask.policy.nodes == AUTO for ask in asks)


def plan_layouts(
    planned: Sequence[Ask], asks: Sequence[Ask], beside: Sequence[Load], host: Host
) -> None:
    """Lay guests out together, so that nobody runs on pCPUs that another one owns.

    Guests of the call that are not laid out stay as they are; *beside* is what guests outside of it
    take.
    """
    staying = [ask.load_now(host) for ask in asks if ask.error is not None]
    placed = {
        index: ask.placement.nodes for index, ask in enumerate(planned) if ask.placement is not None
    }
    guests = [(ask.guest, ask.policy) for ask in planned]
    for ask, answer in zip(planned, plan_guests(guests, host, [*beside, *staying], placed)):
        try:
            if isinstance(answer, VnumaError):
                raise answer
            if ask.policy.devices == HOST:
                from .._planner.devices import place_devices

                tree = ask.definition.pci
                answer = place_devices(answer, ask.guest, ask.policy, tree, ask.devices)
            ask.layout = answer
        except VnumaError as error:
            ask.refuse(error)


def depends_on_others(policy: Policy) -> bool:
    """Tell whether nodes or pCPUs are chosen for a guest with regard to all others."""
    return policy.nodes == AUTO or follows_domains(policy)


def read_others(
    hypervisor: Hypervisor,
    domains: Sequence[Domain],
    planned: Sequence[Ask],
    restored: Mapping[str, Definition],
) -> Others:
    """Read the guests of the host that are not planned.

    One that is gone by its turn takes nothing of the host any more, and is left out. One that
    cannot be read is noted: guests that do not depend on it are planned all the same.

    *restored* has the definitions to be of guests that are restored in the same call, by UUID.

    Raises:
        DaemonLostError: when libvirt is lost on the way.
    """
    excluded = {ask.domain.uuid for ask in planned}
    definitions: dict[str, Definition] = {}
    live: dict[str, Definition] = {}
    unread: dict[str, VnumaError] = {}
    for domain in domains:
        if domain.uuid in excluded:
            continue
        try:
            definition = restored.get(domain.uuid) or read_definition(
                hypervisor.xml_without_secrets(domain, live=False)
            )
            if domain.active:
                live[domain.uuid] = read_definition(
                    hypervisor.xml_without_secrets(domain, live=True)
                )
            definitions[domain.uuid] = definition
        except GuestGoneError:
            continue
        except DaemonLostError:
            raise
        except VnumaError as error:
            unread[domain.uuid] = error.for_guest(domain.name)
    # Pins of a guest that is restored change while it runs, where its kernel sees no difference.
    repinned = frozenset(
        uuid for uuid in restored if uuid in live and looks_the_same(live[uuid], restored[uuid])
    )
    return Others(definitions, live, unread, repinned)


def readable(others: Others, host: Host) -> tuple[Others, dict[str, VnumaError]]:
    """Return the guests whose figures can be read, and the errors about the rest, by UUID.

    What the rest takes of the host cannot be known; who only reports goes on without them.
    """
    errors: dict[str, VnumaError] = dict(others.unread)
    for definitions in (others.definitions, others.live):
        for uuid, definition in definitions.items():
            try:
                read_guest(definition, host.hugepage_default_kib)
            except VnumaError as error:
                errors.setdefault(uuid, error)
    definitions, live = (
        {uuid: one for uuid, one in found.items() if uuid not in errors}
        for found in (others.definitions, others.live)
    )
    return replace(others, definitions=definitions, live=live, unread={}), errors
