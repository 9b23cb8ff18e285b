# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the modules keep what must outlive a run."""

from __future__ import annotations


class ModuleDocFragment:
    """The folder for layouts that guests still run with, and for begun restarts."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Folder, on the host where the module runs, for the layouts that guests still run with until
        their next cold start, and for restarts and migrations that have begun. It holds no
        definition and no password.
      - The folder and its files must belong to the module's user or to root, and no other user may
        be able to write them.
      - By default C(/var/lib/kvm-vnuma) for root, and C(~/.local/state/kvm-vnuma) for others.
    type: path
"""
