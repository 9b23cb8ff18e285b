# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Any host, any guest, any policy: the rules of planning and editing hold, or it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import Field, fields, replace
from typing import Any

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.compare import is_up_to_date
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    Definition,
    read_definition,
    read_guest,
    wanted_of,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import (
    lost_elements,
    partitioned,
    restored,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.state import (
    read_state,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.xml import to_text
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import LayoutError, VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Binding
from ansible_collections.kvm.vnuma.plugins.module_utils._model.guest import Guest, HugepageUse
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import (
    Host,
    HugepagePool,
    Node,
    host_from_facts,
    host_to_facts,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.layout import (
    Layout,
    layout_to_result,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._model.placement import Placement
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.candidates import Applicant
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.nodes import resized
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.placement import place_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import (
    CHOICES,
    Policy,
    policy_from_options,
)
from hypothesis import event, given
from hypothesis import strategies as st
from planning import owned_by, partitioned_text, restored_text, topology_of


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Hosts with sparse ids, odd cores, missing memory, pCPUs and distances."""
    count = draw(st.sampled_from([0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 6, 8, 8]))
    ids = sorted(draw(st.sets(st.integers(0, 90), min_size=count, max_size=count)))
    smt = draw(st.sampled_from([1, 1, 2, 2, 3, 4, 8]))
    nodes, next_cpu = [], 0
    for node_id in ids:
        cores = []
        for _core in range(draw(st.sampled_from([0, 1, 2, 3, 4, 4, 6, 6, 8, 8, 12, 16]))):
            online = smt if draw(st.integers(0, 9)) else draw(st.integers(1, smt))
            cores.append(tuple(range(next_cpu, next_cpu + online)))
            next_cpu += smt
        distances = tuple(
            (other, draw(st.sampled_from([0, 10, 11, 16, 21, 31, 254, 255])))
            for other in ids
            if draw(st.integers(0, 9))
        )
        pools = draw(st.sampled_from([(), (HugepagePool(2048, 4096, 10),)]))
        nodes.append(
            Node(
                id=node_id,
                cpus=tuple(sorted(cpu for core in cores for cpu in core)),
                memory_kib=draw(st.sampled_from([0, *[1 << 20, 1 << 24, 12345677] * 3])),
                hugepages=pools,
                distances=distances,
                cores=tuple(cores),
                socket_ids=(0,),
            )
        )
    if len(nodes) > 1 and nodes[0].cores and not draw(st.integers(0, 7)):
        # A core that two nodes claim, whole or in part: kernels are told such things.
        claimed = nodes[0].cores[-1][: draw(st.integers(1, smt))]
        nodes[1] = replace(
            nodes[1],
            cpus=tuple(sorted((*nodes[1].cpus, *claimed))),
            cores=tuple(sorted((*nodes[1].cores, claimed))),
        )
    return Host(
        tuple(nodes),
        arch="x86_64",
        cpu_vendor=draw(st.sampled_from(["AMD", ""])),
        isolated_cpus=draw(st.sampled_from([None, (), (), (2, 3), tuple(range(4, 99))])),
        cpu_kinds=draw(st.sampled_from([(), (), (), (tuple(range(8)), tuple(range(8, 999)))])),
    )


@st.composite
def guests(draw: st.DrawFn, name: str = "anuma") -> Guest:
    """Guests of any size, some with hugepages, pins and iothreads."""
    vcpus = draw(st.one_of(st.sampled_from([8, 12, 16, 18, 24, 32, 40]), st.integers(1, 40)))
    hugepages = draw(st.sampled_from([(), (), (), (HugepageUse(2048),)]))
    memory_kib = draw(st.sampled_from([1 << 22, 1 << 23, 1 << 24, 3 << 22]))
    if not hugepages or not draw(st.integers(0, 5)):
        memory_kib += draw(st.sampled_from([0, 0, 1, 1023, 1024, 999999]))
    if not draw(st.integers(0, 15)):
        memory_kib = draw(st.integers(1, 1 << 14))
    pins = draw(st.dictionaries(st.integers(0, vcpus - 1), st.integers(0, 60), max_size=5))
    return Guest(
        name=name,
        uuid="",
        arch=draw(st.sampled_from(["x86_64", "x86_64", "", "aarch64", "ppc64le"])),
        vcpus=vcpus,
        memory_kib=memory_kib,
        hugepages=hugepages,
        iothread_ids=tuple(range(1, draw(st.integers(0, 3)) + 1)),
        vcpu_pins=tuple((vcpu, (cpu,)) for vcpu, cpu in sorted(pins.items())),
        kind=draw(st.sampled_from(["", "kvm", "qemu"])),
        cpu_mode=draw(st.sampled_from(["", "host-passthrough", "host-model", "custom"])),
        has_acpi=bool(draw(st.integers(0, 5))),
        online_vcpus=draw(st.sampled_from([None, None, (0,), tuple(range(vcpus))])),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Every option, most of them as they are by default."""
    options: dict[str, Any] = {
        option: draw(st.sampled_from(values))
        for option, values in CHOICES.items()
        if option != "state"
    }
    options["cells"] = draw(st.sampled_from([None, None, None, None, 1, 2, 3, 5, 8]))
    options["threads"] = draw(st.sampled_from(["auto", "auto", "auto", "auto", 1, 2]))
    options["dies"] = draw(st.sampled_from([*["none"] * 7, "host"]))
    options["sockets"] = draw(st.sampled_from([*["auto"] * 5, "cells", 1, 2]))
    if options["distribution"] != "contiguous" and draw(st.integers(0, 5)):
        options["sockets"] = "auto"
    if options["distribution"] == "interleave" and draw(st.integers(0, 5)):
        options["threads"] = "auto"
    options["emulator_pinning"] = draw(st.sampled_from(["keep", "none", "nodes", "0"]))
    options["iothread_pinning"] = draw(st.sampled_from(["keep", "none", "nodes", "0"]))
    options["reserved_cpus"] = draw(st.sampled_from([None, None, "0", "1-3", "isolated"]))
    options["split"] = draw(st.sampled_from([*["even"] * 5, "equal", "proportional"]))
    if options["distribution"] != "contiguous" and draw(st.integers(0, 5)):
        options["split"] = "even"
    options["vcpus"] = draw(st.sampled_from([*[None] * 5, 1, 6, 16, 20]))
    options["memory"] = draw(st.sampled_from([*[None] * 5, "1 GiB", "6 GiB", "7001 MiB"]))
    return policy_from_options(options)


def _planned(host: Host, pairs: list[tuple[Guest, Policy]]) -> list[Layout | LayoutError]:
    answers: list[Layout | LayoutError] = []
    for answer in plan_guests(pairs, host):
        assert isinstance(answer, (Layout, LayoutError))
        answers.append(answer)
        if isinstance(answer, LayoutError):
            said = str(answer)
            assert "\n" not in said
            assert said.startswith("guest ")
            assert said.endswith(".")
        event("refused" if isinstance(answer, LayoutError) else "planned")
        if isinstance(answer, Layout) and len(answer.cells) > 1:
            event("planned with several cells")
    return answers


@given(hosts(), guests(), policies())
def test_vcpus_and_topology(
    count_example: Callable[[], None], host: Host, guest: Guest, policy: Policy
) -> None:
    """Every vCPU in one cell, balanced; the topology has as many; nothing straddles cells."""
    count_example()
    (layout,) = _planned(host, [(guest, policy)])
    if isinstance(layout, LayoutError):
        return
    cells, shape = layout.cells, topology_of(layout)
    assert sorted(v for cell in cells for v in cell.vcpus) == list(range(guest.vcpus))
    assert shape.sockets * shape.dies * shape.cores * shape.threads == guest.vcpus
    sizes = [len(cell.vcpus) for cell in cells]
    step = shape.threads if policy.distribution == "contiguous" else 1
    if policy.split == "even":
        assert max(sizes) - min(sizes) <= step
    if policy.distribution == "contiguous":
        assert policy.split != "even" or sizes == sorted(sizes, reverse=True)
        socket = shape.dies * shape.cores * shape.threads
        for first in range(0, guest.vcpus, socket):
            whole = set(range(first, first + socket))
            inside = [set(cell.vcpus) for cell in cells if whole & set(cell.vcpus)]
            assert len(inside) == 1 or all(cell <= whole for cell in inside)
            assert len(inside) == 1 or isinstance(policy.sockets, int)
        assert policy.sockets in ("auto", "cells", shape.sockets)
    if policy.split == "equal":
        assert len(set(sizes)) == 1
    eligible = [node.id for node in host.eligible]
    assert list(layout.host_nodes) == (
        [eligible[cell.id % len(eligible)] for cell in cells] if eligible else [None]
    )


@given(hosts(), guests(), policies())
def test_memory_and_distances(
    count_example: Callable[[], None], host: Host, guest: Guest, policy: Policy
) -> None:
    """The total to the KiB, cells a granule apart at most; the full matrix, 10 on the diagonal."""
    count_example()
    (layout,) = _planned(host, [(guest, policy)])
    if isinstance(layout, LayoutError):
        return
    sizes = [cell.memory_kib for cell in layout.cells]
    granule = 262144 if guest.arch == "ppc64le" else 2048 if guest.hugepages else 1024
    assert sum(sizes) == guest.memory_kib
    if policy.split == "even":
        assert max(sizes) - min(sizes) <= granule
    assert all(size % granule == 0 for size in sizes[:-1])
    assert all(size >= granule for size in sizes)
    for cell in layout.cells:
        if policy.distances == "none":
            assert cell.distances == ()
            continue
        assert len(cell.distances) == len(layout.cells)
        nodes = layout.host_nodes
        for other, value in enumerate(cell.distances):
            if other == cell.id:
                assert value == 10
            else:
                assert 11 <= value <= 254
                assert (value == 11) or nodes[cell.id] != nodes[other]


@given(hosts(), guests(), policies())
def test_in_proportion(
    count_example: Callable[[], None], host: Host, guest: Guest, policy: Policy
) -> None:
    """No node is given more cores or memory than it has where the guest as a whole fits."""
    count_example()
    policy = replace(policy, split="proportional", distribution="contiguous", cells=None)
    policy = replace(policy, reserved_cpus=(), reserves_isolated=False)
    guest = replace(guest, hugepages=())
    (layout,) = _planned(host, [(guest, policy)])
    if isinstance(layout, LayoutError) or not host.eligible:
        return
    nodes, granule = host.eligible, 262144 if guest.arch == "ppc64le" else 1024
    threads = topology_of(layout).threads
    width = threads if policy.pinning in ("core", "cpu") else 1
    has = [sum(len(core) >= width for core in node.cores) for node in nodes]
    cores = [len(cell.vcpus) // threads for cell in layout.cells]
    if sum(cores) <= sum(has):
        assert all(one <= max(1, most) for one, most in zip(cores, has))
    memory = [cell.memory_kib // granule for cell in layout.cells]
    room = [node.memory_kib // granule for node in nodes]
    if sum(memory) <= sum(room):
        event("fits")
        assert all(one <= max(1, most) for one, most in zip(memory, room))


@given(hosts(), st.lists(st.integers(0, 3), min_size=1, max_size=4), st.data())
def test_pins(
    count_example: Callable[[], None], host: Host, names: list[int], data: st.DataObject
) -> None:
    """Pins are online, unreserved and local; exclusive ones are shared by no two guest cores."""
    count_example()
    policy = data.draw(policies())
    pairs = [(data.draw(guests(name=f"guest{name}-{i}")), policy) for i, name in enumerate(names)]
    cpus = {node.id: set(node.cpus) for node in host.nodes}
    taken: dict[int, tuple[str, int]] = {}
    answers = _planned(host, pairs)
    # A guest that cannot be planned stays on what it owns.
    owned = {
        cpu
        for one, answer in zip(pairs, answers)
        if isinstance(answer, LayoutError)
        for cpu in owned_by(one[0], host)
    }
    for (guest, _policy), layout in zip(pairs, answers):
        if isinstance(layout, LayoutError):
            continue
        node_of = {
            v: node for cell, node in zip(layout.cells, layout.host_nodes) for v in cell.vcpus
        }
        assert len(layout.vcpu_pins) in (0, guest.vcpus)
        if policy.pinning == "keep":
            now = {vcpu: cpus for vcpu, cpus in guest.vcpu_pins if vcpu < guest.vcpus}
            assert {v: cpus for v, cpus in enumerate(layout.vcpu_pins) if cpus} == now
            continue
        width = 1 if policy.distribution == "round_robin" else topology_of(layout).threads
        for vcpu, pins in enumerate(layout.vcpu_pins):
            node = node_of[vcpu]
            assert node is not None
            assert pins
            isolated = set(host.isolated_cpus or ())
            opened = cpus[node] - set(policy.reserved_cpus)
            if policy.reserves_isolated:
                opened -= isolated
            assert set(pins) <= opened
            if policy.pinning in ("node", "cache"):
                # None of these hosts lists its caches.
                assert set(pins) == opened - isolated - owned
            elif policy.pinning == "cpu":
                assert len(pins) == 1
                assert taken.setdefault(pins[0], (guest.name, vcpu)) == (guest.name, vcpu)
            else:
                core = (guest.name, vcpu // width)
                assert all(taken.setdefault(cpu, core) == core for cpu in pins)


@given(hosts(), st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True), st.data())
def test_order_does_not_matter(
    count_example: Callable[[], None], host: Host, names: list[int], data: st.DataObject
) -> None:
    """The same input gives the same layout, whatever the order; facts are as good as the host."""
    count_example()
    pairs = [(data.draw(guests(name=f"guest{name}")), data.draw(policies())) for name in names]
    again = host_from_facts(json.loads(json.dumps(host_to_facts(host))))
    assert again == host
    shown = [
        str(answer) if isinstance(answer, LayoutError) else json.dumps(layout_to_result(answer))
        for answer in _planned(host, pairs)
    ]
    turned = [
        str(answer) if isinstance(answer, LayoutError) else json.dumps(layout_to_result(answer))
        for answer in _planned(again, pairs[::-1])
    ]
    assert shown == turned[::-1]


def _xml(draw: st.DrawFn) -> str:
    vcpus = draw(st.one_of(st.sampled_from([8, 16, 24]), st.integers(1, 24)))
    memory = draw(st.sampled_from([1 << 22, 1 << 23, 1000001]))
    parts = {
        "metadata": ["", "<metadata><a:b xmlns:a='urn:a'>x</a:b></metadata>"],
        "memoryBacking": [
            *(
                "",
                "",
                "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
            ),
            "<memoryBacking><hugepages><page size='4'/></hugepages></memoryBacking>",
            "<memoryBacking><hugepages><page size='2048' nodeset='0'/></hugepages></memoryBacking>",
        ],
        "iothreads": ["", "<iothreads>2</iothreads>"],
        "cputune": [
            "",
            "<cputune><shares>5</shares></cputune>",
            "<cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='2-3'/></cputune>",
            "<cputune><!-- mine --><vcpusched vcpus='0' scheduler='batch'/></cputune>",
        ],
        "numatune": [
            "",
            "<numatune><memory mode='interleave' nodeset='0'/></numatune>",
            "<numatune><memory mode='strict' placement='auto'/></numatune>",
        ],
        "cpu": [
            "",
            "<cpu mode='host-passthrough' check='none'/>",
            f"<cpu mode='custom'><model>Haswell</model><topology sockets='{vcpus}' cores='1' "
            "threads='1'/><feature name='vmx' policy='disable'/></cpu>",
            f"<cpu><numa><cell id='0' cpus='0-{vcpus - 1}' memory='{memory}' unit='KiB'/></numa>"
            "</cpu>",
            f"<cpu><numa><cell cpus='0' memory='{memory // 2}' memAccess='shared'/><cell "
            f"memory='{memory - memory // 2}' memAccess='shared'/></numa></cpu>",
        ],
    }
    chosen = {name: draw(st.sampled_from(texts)) for name, texts in parts.items()}
    placement = draw(
        st.sampled_from(["", " placement='static'", " placement='auto'", " current='1'"])
    )
    return (
        f"<domain type='kvm'><name>anuma</name>{chosen['metadata']}<memory>{memory}</memory>"
        f"{chosen['memoryBacking']}"
        f"<vcpu{placement}>{vcpus}</vcpu>{chosen['iothreads']}{chosen['cputune']}"
        f"{chosen['numatune']}<os><type arch='x86_64'>hvm</type></os>{chosen['cpu']}"
        "<devices><graphics type='vnc' passwd='x'/></devices></domain>"
    )


definitions = st.composite(_xml)


def _guest(definition: Definition, policy: Policy) -> Guest:
    """Return the guest with the size that its policy asks for."""
    try:
        return resized(read_guest(definition, 2048), policy)
    except LayoutError as error:
        raise error.for_guest(definition.name) from None


def _edited(definition: Definition, host: Host, policy: Policy) -> tuple[str, Layout | None]:
    """Return the text and the layout, or the sentence and None."""
    try:
        (layout,) = _planned(host, [(_guest(definition, policy), policy)])
        if isinstance(layout, LayoutError):
            raise layout
        return partitioned_text(definition, layout, policy), layout
    except VnumaError as error:
        return str(error), None


@given(hosts(), definitions(), st.lists(policies(), min_size=1, max_size=3))
def test_editing(
    count_example: Callable[[], None], host: Host, text: str, sequence: list[Policy]
) -> None:
    """Editing twice is editing once; the rest stays; absent is the identity."""
    count_example()
    original = read_definition(text)
    current = original
    for policy in sequence:
        edited, layout = _edited(current, host, policy)
        if layout is None:
            assert edited.startswith("guest anuma: ")
            continue
        current = read_definition(edited)
        (again,) = _planned(host, [(_guest(current, policy), policy)])
        if not isinstance(again, LayoutError):
            # Exclusive pins count as seats the second time, and must be kept.
            assert again.vcpu_pins == layout.vcpu_pins
            assert partitioned_text(current, again, policy) == edited
        assert _same_besides(current, original)
    back = restored(current).definition
    assert back.state == original.state
    assert _same_besides(back, original)


def _same_besides(one: Definition, other: Definition) -> bool:
    return lost_elements(one, other) == lost_elements(other, one) == []


@given(hosts(), definitions(), policies(), policies(), st.sampled_from(fields(Policy)))
def test_settled_means_that_an_edit_changes_nothing(
    count_example: Callable[[], None],
    host: Host,
    text: str,
    policy: Policy,
    other: Policy,
    option: Field[Any],
) -> None:
    """The short cut never says so where the edit would change something, nor misses the rest."""
    count_example()
    first, _layout = _edited(read_definition(text), host, policy)
    changed = replace(policy, **{option.name: getattr(other, option.name)})
    if not first.startswith("<domain"):
        return
    definition = read_definition(first)
    for asked in (policy, changed):
        try:
            (layout,) = _planned(host, [(_guest(definition, asked), asked)])
        except LayoutError:
            continue
        if isinstance(layout, LayoutError):
            continue
        wanted = wanted_of(definition, layout, asked)
        settled = is_up_to_date(definition, wanted, asked)
        edit = partitioned(definition, layout, asked)
        assert edit.changed == (edit.definition.text != first)
        assert not (settled and edit.changed)
        if {asked.emulator_pinning, asked.iothread_pinning} <= {"keep", "none"}:
            # Helpers that are to be pinned, and cannot be, are left to the edit.
            assert settled == (not edit.changed)
        event(f"settled: {settled}")


@given(hosts(), definitions(), policies())
def test_what_is_written_is_what_was_planned(
    count_example: Callable[[], None], host: Host, text: str, policy: Policy
) -> None:
    """Read again, the definition says what the layout says, and nothing else."""
    count_example()
    definition = read_definition(text)
    edited, layout = _edited(definition, host, policy)
    if layout is None:
        return
    says = read_definition(edited).state
    assert says == read_state(read_definition(edited.replace("\n", "\r\n")).root)
    assert says.topology == layout.topology
    assert says.cells == layout.cells
    if policy.pinning == "keep":
        stays = {vcpu for cell in layout.cells for vcpu in cell.vcpus}
        before = definition.state.vcpu_pins
        assert says.vcpu_pins == {vcpu: before[vcpu] for vcpu in before if vcpu in stays}
    else:
        assert says.vcpu_pins == dict(enumerate(layout.vcpu_pins))
    mode = layout.memory_mode
    assert says.cell_bindings == {
        cell.id: Binding(mode, (node,))
        for cell, node in zip(layout.cells, layout.memory_nodes)
        if mode != "none" and node is not None
    }
    assert says.vcpus is not None
    assert says.memory is not None
    assert policy.vcpus in (None, says.vcpus.most)
    assert policy.memory_kib in (None, says.memory.total_kib, sum(c.memory_kib for c in says.cells))
    bound = mode not in ("none", "preferred")
    assert says.memory_binding == (Binding(mode, layout.nodeset) if bound else None)
    assert says.vcpu_placement == "static"
    if layout.emulator_pins is not None:
        assert says.emulator_pins == {0: layout.emulator_pins}
    if layout.iothread_pins is not None:
        assert says.iothread_pins == layout.iothread_pins
    assert policy.emulator_pinning != "none" or not says.emulator_pins
    assert policy.iothread_pinning != "none" or not says.iothread_pins


def _pieces(text: str) -> list[str]:
    """Return the markup and text that is not managed, piece by piece, without containers."""
    rest = re.sub(r"<(vnuma:partition|numa)\b.*?</\1>", "", text, flags=re.DOTALL)
    gone = r"<(vcpupin|emulatorpin|iothreadpin|memnode|topology|memory mode|memory nodeset)\b[^>]*>"
    rest = re.sub(gone, "", rest)
    rest = re.sub(r"</?(metadata|cputune|numatune|cpu)\b[^>]*>|<vcpu\b[^>]*>", "", rest)
    return [piece.strip() for piece in re.split(r"(?<=>)|(?=<)", rest) if piece.strip()]


@given(hosts(), definitions(), policies(), st.data())
def test_every_other_piece_of_text_stays(
    count_example: Callable[[], None], host: Host, text: str, policy: Policy, data: st.DataObject
) -> None:
    """Comments, CDATA, entities and either quotes, as a parser hands them on."""
    count_example()
    extras = ["<!-- <x> 'a' -->", "<?p <x>?>", '<e a="b\'c" />', "<t>&lt;&#65;é<![CDATA[<&]]></t>"]
    for place in ("</name>", "</os>", "<devices>", "</devices>"):
        extra = data.draw(st.sampled_from(["", "", *extras]))
        text = text.replace(place, place + extra, 1)
    definition = read_definition(text)
    policy = replace(policy, vcpus=None, memory_kib=None)
    edited, layout = _edited(definition, host, policy)
    if layout is not None:
        parsed = _pieces(to_text(definition.root, text))
        assert _pieces(edited) == parsed
        assert _pieces(restored_text(read_definition(edited))) == parsed


@given(hosts(), st.integers(1, 4), st.data())
def test_a_newcomer_moves_nobody(
    count_example: Callable[[], None], host: Host, count: int, data: st.DataObject
) -> None:
    """With mixed policies exclusive pins never collide, and who sits well stays."""
    count_example()
    policy = st.builds(replace, policies(), pinning=st.sampled_from(["core", "cpu", "cpu"]))
    pairs = []
    for index in range(count):
        guest = replace(data.draw(guests(name=f"m{index}")), vcpu_pins=(), hugepages=())
        pairs.append((replace(guest, vcpus=data.draw(st.integers(1, 8))), data.draw(policy)))
    answers = _planned(host, pairs)
    seated = [
        (replace(guest, vcpu_pins=tuple(enumerate(answer.vcpu_pins))), asked)
        for (guest, asked), answer in zip(pairs, answers)
        if isinstance(answer, Layout)
    ]
    layouts = [answer for answer in answers if isinstance(answer, Layout)]
    _assert_exclusive(list(zip(seated, layouts)))
    newcomer = replace(data.draw(guests(name=data.draw(st.sampled_from("az")))), vcpu_pins=())
    whole = [*seated, (newcomer, data.draw(policy))]
    again = _planned(host, whole)
    # What is left for iothreads and the emulator shrinks, and it may be told of the newcomer's.
    assert list(map(_vcpus_alone, again[:-1])) == list(map(_vcpus_alone, layouts))
    _assert_exclusive([(p, one) for p, one in zip(whole, again) if isinstance(one, Layout)])


@given(hosts(), st.integers(1, 5), st.data())
def test_chosen_nodes_hold_what_is_planned_there(
    count_example: Callable[[], None], host: Host, count: int, data: st.DataObject
) -> None:
    """On any host, a guest has nodes and a plan on them, or a sentence; never anything else."""
    count_example()
    applicants = []
    for number in range(count):
        policy = replace(data.draw(policies()), nodes="auto", reserved_memory_kib=0)
        applicants.append(Applicant(data.draw(guests(name=f"guest{number}")), policy))
    answers = place_guests(applicants, host, ()).answers
    placed = {index: one.nodes for index, one in enumerate(answers) if isinstance(one, Placement)}
    for answer in answers:
        if isinstance(answer, LayoutError):
            assert str(answer).startswith("guest guest")
            assert str(answer).endswith(".")
            assert ", ;" not in str(answer)
    pairs = [(one.guest, one.policy) for one in applicants]
    for index, layout in enumerate(plan_guests(pairs, host, placed=placed)):
        event("placed" if index in placed else "not placed")
        if isinstance(layout, Layout):
            assert set(layout.nodeset) <= set(placed[index])
            usable = {cpu for node in host.nodes if node.id in placed[index] for cpu in node.cpus}
            pins = () if pairs[index][1].pinning == "keep" else layout.vcpu_pins
            assert all(usable.issuperset(cpus) for cpus in pins)


def _vcpus_alone(answer: Layout | LayoutError) -> Layout | LayoutError:
    if isinstance(answer, Layout):
        return replace(answer, iothread_pins=None, emulator_pins=None, warnings=())
    return answer


def _assert_exclusive(planned: list[tuple[tuple[Guest, Policy], Layout]]) -> None:
    owner: dict[int, tuple[str, int]] = {}
    for (guest, policy), layout in planned:
        width = 1 if policy.distribution == "round_robin" else topology_of(layout).threads
        for vcpu, pins in enumerate(layout.vcpu_pins):
            mine = (guest.name, vcpu // width if policy.pinning == "core" else vcpu)
            assert all(owner.setdefault(cpu, mine) == mine for cpu in pins)


@given(
    st.text(alphabet="0123456789-,^ a", max_size=12), st.sampled_from(["nodes", "reserved_cpus"])
)
def test_sets_by_hand(count_example: Callable[[], None], text: str, option: str) -> None:
    """Whatever is typed is a set or one sentence."""
    count_example()
    said = _refusal({option: text})
    if said is not None:
        assert option in said
        assert "\n" not in said
        return
    value = getattr(policy_from_options({option: text}), option)
    assert value is None or list(value) == sorted(set(value))


def _refusal(options: dict[str, Any]) -> str | None:
    try:
        policy_from_options(options)
    except VnumaError as error:
        return str(error)
    return None
