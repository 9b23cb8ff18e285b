# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback that keeps all that a callback is given, as a log service would."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorder
type: notification
short_description: Keeps everything
description:
  - Appends every result to the file RECORDER_FILE.
options: {}
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Keeps every result: host, task, delegated host, and all that is in it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorder"
    CALLBACK_NEEDS_ENABLED = True

    def v2_on_any(self, *arguments: Any, **_keys: Any) -> None:
        """Keep a result; events without one are passed over."""
        for one in arguments:
            if hasattr(one, "result") and hasattr(one, "task_fields"):
                with Path(os.environ["RECORDER_FILE"]).open("a") as file:
                    line = (one.host.name, one.task_name, one.result, one.task_fields)
                    print(json.dumps(line, default=repr), file=file)
