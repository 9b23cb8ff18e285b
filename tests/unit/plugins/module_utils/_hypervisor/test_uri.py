# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""URIs that run programs or read files are told from those that only connect."""

from __future__ import annotations

import pytest
from ansible_collections.kvm.vnuma.plugins.module_utils._errors import PolicyError
from ansible_collections.kvm.vnuma.plugins.module_utils._hypervisor.uri import refuse_programs


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu+ssh://root@kvm2/system",
        "qemu+tls://kvm2/system?no_verify=1",
        "qemu+ssh://kvm2/system?mode=direct&no_tty=1;sshauth=agent&proxy=netcat",
        "qemu+unix:///system?socket=/run/command=/libvirt-sock",
        "qemu+tcp://command/system",
        "qemu+ssh://root:keyfile=x@kvm2/system",
    ],
)
def test_what_only_connects_is_taken(uri: str) -> None:
    """Words that mean something in a query mean nothing elsewhere."""
    refuse_programs(uri, "kvm2")


@pytest.mark.parametrize("parameter", ["command", "netcat", "keyfile", "known_hosts", "pkipath"])
@pytest.mark.parametrize(
    "form",
    [
        "qemu+ssh://kvm2/system?{}=/x",
        "qemu+ssh://kvm2/system?no_tty=1&{}=/x",
        "qemu+ssh://kvm2/system?no_tty=1;{}=/x",
        "qemu+ssh://kvm2/system?{}",
        "qemu+ssh://kvm2/system?a#&{}=/x",
    ],
)
def test_what_names_a_program_or_a_file_is_refused(form: str, parameter: str) -> None:
    """In any case of letters, and however its name is encoded, as libvirt reads it."""
    encoded = "".join(f"%{ord(letter):02x}" for letter in parameter)
    for written in (parameter, parameter.upper(), encoded, f"{parameter[0]}{encoded[3:]}"):
        with pytest.raises(PolicyError) as caught:
            refuse_programs(form.format(written), "kvm2")
        assert f"target kvm2: its URI has {parameter}=, by which" in str(caught.value)


@pytest.mark.parametrize("scheme", ["qemu+ext", "QEMU+Ext", "test+ext"])
def test_the_transport_that_runs_a_command_is_refused(scheme: str) -> None:
    """It runs a program whatever its parameters are."""
    with pytest.raises(PolicyError, match="transport ext"):
        refuse_programs(f"{scheme}:///system", "kvm2")
