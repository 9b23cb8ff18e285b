# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put odd numbers into an ordinary definition and into an ordinary host, one place after the other.

Run as a program, with an address space of its own that is small. Prints what did not end in an
answer or in a sentence, as JSON; and how many calls there were.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from ansible_collections.kvm.vnuma.plugins.module_utils._domain.capabilities import read_host
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.definition import (
    read_definition,
    read_guest,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._domain.edit import partitioned
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import VnumaError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.hypervisor import Hypervisor
from ansible_collections.kvm.vnuma.plugins.module_utils._model.devices import HostDevice
from ansible_collections.kvm.vnuma.plugins.module_utils._model.domain import Domain
from ansible_collections.kvm.vnuma.plugins.module_utils._model.host import Host, host_to_facts
from ansible_collections.kvm.vnuma.plugins.module_utils._module.common_shape import shape_for
from ansible_collections.kvm.vnuma.plugins.module_utils._module.info import (
    inspect_guests,
    report_to_result,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._module.partition import partition_guests
from ansible_collections.kvm.vnuma.plugins.module_utils._module.plan_host import plan_host
from ansible_collections.kvm.vnuma.plugins.module_utils._module.state_dir import StateDir
from ansible_collections.kvm.vnuma.plugins.module_utils._module.update import (
    Safeguards,
    update_to_diff,
    update_to_result,
)
from ansible_collections.kvm.vnuma.plugins.module_utils._planner.plan import plan
from ansible_collections.kvm.vnuma.plugins.module_utils._policy import policy_from_options
from doors import FakeCpuDrivers, FakeSchema

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
#: What a call may take, besides what is there once everything has been loaded.
ROOM = 256 << 20
ODD = (
    *("", "-1", "0", "16384", "65536", "300000000", "4294967296", "9007199254740992"),
    *("10000000000000000000", "18446744073709551616", "9" * 4500, "1e9", "1_0", "\u0663"),
    *("0-16383", "0-4294967295"),
)
#: Longest sentence that a terminal still shows.
LONGEST = 2000
#: Of each text that has several numbers replaced.
SEVERAL = 60
NUMBER = re.compile(r"(?<=[>'\"])[0-9][0-9,-]*(?=[<'\"])|0x[0-9a-f]+|(?<=: )[0-9]+")

PLAIN = """<domain type='kvm'>
  <name>odd</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <maxMemory slots='4' unit='KiB'>16777216</maxMemory>
  <memory unit='KiB'>9437184</memory>
  <currentMemory unit='KiB'>8388608</currentMemory>
  <memoryBacking>
    <hugepages>
      <page size='2048' unit='KiB' nodeset='0'/>
      <page size='2048' unit='KiB' nodeset='1'/>
    </hugepages>
  </memoryBacking>
  <vcpu placement='static' current='6'>8</vcpu>
  <vcpus>
    <vcpu id='0' enabled='yes' hotpluggable='no'/>
    <vcpu id='1' enabled='yes' hotpluggable='yes'/>
    <vcpu id='7' enabled='no' hotpluggable='yes'/>
  </vcpus>
  <iothreads>2</iothreads>
  <iothreadids>
    <iothread id='4'/>
  </iothreadids>
  <cputune>
    <vcpupin vcpu='0' cpuset='0-1'/>
    <emulatorpin cpuset='0-3'/>
    <iothreadpin iothread='4' cpuset='2'/>
    <vcpusched vcpus='0-1' scheduler='fifo' priority='1'/>
  </cputune>
  <numatune>
    <memory mode='strict' nodeset='0-1'/>
    <memnode cellid='0' mode='strict' nodeset='0'/>
  </numatune>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
  <features>
    <acpi/>
  </features>
  <cpu mode='host-passthrough'>
    <topology sockets='2' dies='2' cores='1' threads='2'/>
    <numa>
      <cell id='0' cpus='0-3' memory='4194304' unit='KiB'>
        <distances>
          <sibling id='0' value='10'/>
          <sibling id='1' value='21'/>
        </distances>
      </cell>
      <cell id='1' cpus='4-7' memory='4194304' unit='KiB'/>
    </numa>
  </cpu>
  <devices>
    <hostdev mode='subsystem' type='pci'>
      <source>
        <address domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/>
      </source>
    </hostdev>
    <memory model='dimm'>
      <target>
        <size unit='KiB'>1048576</size>
        <node>1</node>
      </target>
    </memory>
  </devices>
</domain>
"""
OTHER = PLAIN.replace("odd", "other").replace("11111111", "22222222")


class FakeHypervisor:
    """A host with one guest, which runs."""

    uri = "qemu+ssh://kvm7/system"

    def __init__(self, host: Host, text: str) -> None:
        self._host, self._text = host, text
        self.cpu_drivers, self.schema = FakeCpuDrivers(), FakeSchema()

    def host(self, with_free: bool = False) -> Host:
        """Its topology."""
        return self._host

    def domains(self) -> list[Domain]:
        """Its only guest."""
        return [Domain("odd", "uuid-odd", persistent=True, active=True)]

    def xml_without_secrets(self, _domain: Domain, live: bool) -> str:
        """Its definition; what it runs with is an ordinary one."""
        return PLAIN if live else self._text

    def persistent_xml(self, _domain: Domain) -> str:
        """Its definition."""
        return self._text

    def state(self, _domain: Domain) -> str:
        """In one word."""
        return "running"

    def affinities(self, _domain: Domain) -> dict[int, tuple[int, ...]]:
        """Where its threads may run."""
        return {0: (0, 1)}

    def saved_xml(self, _domain: Domain) -> str | None:
        """No managed-save image."""

    def pci_devices(self, devices: tuple[str, ...]) -> dict[str, HostDevice]:
        """Where its devices are."""
        return {device: HostDevice(0) for device in devices}


def calls(text: str, host: Host, folder: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what is done with a definition, by filters and by modules."""
    nothing_kept = StateDir(folder, "none")
    policy = policy_from_options({"memory_mode": "none"})

    def edit() -> None:
        definition = read_definition(text)
        layout = plan(read_guest(definition, 2048), host, policy)
        edited = partitioned(definition, layout, policy)
        assert read_definition(edited.definition.text).state

    def inspect() -> None:
        fake = cast(Hypervisor, FakeHypervisor(host, text))
        findings = inspect_guests(fake, None, nothing_kept, None)
        json.dumps([report_to_result(report, host) for report in findings.reports])

    def partition() -> None:
        fake = cast(Hypervisor, FakeHypervisor(host, text))
        found = partition_guests(fake, [{"name": "*"}], {}, None, False, Safeguards(nothing_kept))
        json.dumps([update_to_result(one) for one in found.updates])
        json.dumps([update_to_diff(one) for one in found.updates])

    yield "edit", edit
    yield "inspect", inspect
    yield "partition", partition
    yield "auto", lambda: plan_host([text, OTHER], host, [{"name": "*"}], {"nodes": "auto"})
    yield "beside", lambda: plan_host([text, OTHER], host, [{"name": "other"}], {"nodes": "auto"})
    yield "cache", lambda: plan_host([text], host, [{"name": "*"}], {"pinning": "cache"})
    yield "absent", lambda: plan_host([text], host, [{"name": "*"}], {"state": "absent"})
    yield "shape", lambda: shape_for(read_definition(text), {"a": host, "b": host}, policy)


def mutations(text: str, part: str = "") -> Iterator[tuple[str, str]]:
    """Yield a text with each of its numbers replaced by each odd one, and then with several.

    Args:
        text: where there are numbers.
        part: the element whose numbers are meant; '' for all.
    """
    start, end = (text.index(f"<{part}>"), text.index(f"</{part}>")) if part else (0, len(text))
    places = list(NUMBER.finditer(text, start, end))
    for place in places:
        for odd in ODD:
            where = text[max(0, place.start() - 40) : place.start()].replace("\n", " ")
            yield f"{where}{odd[:30]}", text[: place.start()] + odd + text[place.end() :]
    dice = random.Random(0)  # noqa: S311 - places, and no secrets
    for number in range(SEVERAL):
        mutated = text
        for place in sorted(dice.sample(places, 3), key=lambda one: -one.start()):
            mutated = mutated[: place.start()] + dice.choice(ODD) + mutated[place.end() :]
        yield f"several {number}", mutated


def hosts() -> Iterator[tuple[str, Callable[[], Host]]]:
    """Yield hosts with an odd number, as text of the capabilities and as facts."""
    text = (HOSTS / "hugepages-2n.xml").read_text(encoding="utf-8")
    facts = json.dumps(host_to_facts(read_host(text)), indent=1)
    for what, mutated in mutations(text):
        yield what, lambda mutated=mutated: read_host(mutated)  # type: ignore[misc]
    for what, mutated in mutations(facts):
        try:
            given = json.loads(mutated)
        except ValueError:
            continue
        yield what, lambda given=given: read_host(given)  # type: ignore[misc]


def main(folder: str) -> dict[str, Any]:
    """Try all of it, with an empty folder for what is kept between runs."""
    ordinary = read_host((HOSTS / "dies-2n16c.xml").read_text(encoding="utf-8"))
    policy = policy_from_options({"memory_mode": "none"})
    definition = read_definition(PLAIN)
    layout = plan(read_guest(definition, 2048), ordinary, policy)
    ours = partitioned(definition, layout, policy).definition.text
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) << 12
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    counted = {"calls": 0, "answered": 0}
    failed = []

    def attempt(what: str, call: Callable[[], object], of_guest: bool = True) -> object:
        counted["calls"] += 1
        try:
            answer = call()
        except VnumaError as error:
            if len(str(error)) > LONGEST or (of_guest and error.guest is None):
                failed.append([what, f"{len(str(error))} characters: {str(error)[:200]}"])
            return None
        except Exception as error:
            failed.append([what, f"{type(error).__name__}: {error}"[:300]])
            return None
        counted["answered"] += 1
        return answer

    for text, part in ((PLAIN, ""), (ours, "metadata")):
        for what, mutated in mutations(text, part):
            for name, call in calls(mutated, ordinary, folder):
                attempt(f"{name}: {what}", call)
    for what, make in hosts():
        host = attempt(f"host: {what}", make, of_guest=False)
        if isinstance(host, Host):
            found = dict(calls(PLAIN, host, folder))
            attempt(f"auto, host: {what}", found["auto"], of_guest=False)
    return {**counted, "failed": failed}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        sys.stdout.write(json.dumps(main(empty)))
