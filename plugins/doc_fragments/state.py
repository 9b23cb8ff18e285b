# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the modules keep what must outlive a run."""

from __future__ import annotations


class ModuleDocFragment:
    """The folder for old definitions and begun restarts."""

    DOCUMENTATION = r"""
options:
  state_dir:
    description:
      - Folder, on the host where the module runs, for the definitions that were replaced and for
        restarts that have begun. Its files can be read by the module's user alone, since
        definitions hold passwords.
      - By default C(/var/lib/kvm-vnuma) for root, and C(~/.local/state/kvm-vnuma) for others.
    type: path
"""
