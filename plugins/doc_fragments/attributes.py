# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that the modules of the collection share."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes; each module adds its own support for check mode and diff mode."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the predicted changes without making them.
  diff_mode:
    description: Returns what has changed, or would change, in C(--diff) mode.
  platform:
    description: Target hosts that the module can run on.
    platforms: posix
    support: full
"""

    ACTION_GROUP = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/kvm.vnuma.vnuma) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - kvm.vnuma.vnuma
"""

    FACTS = r"""
options: {}
attributes:
  facts:
    description: Returns an C(ansible_facts) dictionary that is merged into the host's facts.
    support: full
"""
