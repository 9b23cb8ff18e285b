# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the laboratory raises."""

from __future__ import annotations


class LabError(Exception):
    """This machine cannot run the laboratory; the message says why in one sentence."""
