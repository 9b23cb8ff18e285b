# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that every module of the collection shares."""

from __future__ import annotations


class ModuleDocFragment:
    """The connection to libvirt, and what the modules need on the managed host."""

    DOCUMENTATION = r"""
options:
  uri:
    description:
      - Connection URI of the libvirt daemon, as C(virsh --connect) takes it.
      - The module opens it as it is given, as the module's user, with the programs and files that
        it names (C(command=), C(keyfile=)). Never take it from what a host has answered.
    type: str
    default: qemu:///system
  daemon_timeout:
    description:
      - How long to wait for a libvirt daemon that is away, accepts no connection or falls silent,
        in seconds.
    type: float
    default: 60
    version_added: 2.0.0
requirements:
  - libvirt-python (the distribution's package C(python3-libvirt))
  - lxml (the distribution's package C(python3-lxml))
notes:
  - The bindings of libvirt are most often installed for the distribution's own interpreter only.
    Under another interpreter, the module looks for one that has them, and continues under that.
"""
