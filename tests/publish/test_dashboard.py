# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example's dashboard against the schema that Grafana generates its libraries from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

BOARD = Path(__file__).resolve().parents[2] / "docs/examples/monitoring/dashboard.json"


def _read(text: str) -> dict[str, Any]:
    """Return a dashboard as Grafana's library writes it, once it has read it."""
    register_default_plugins()
    board = Dashboard.from_json(json.loads(text))
    found: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(board))
    return found


def _lost(mine: Any, read: Any, where: str = "") -> Iterator[str]:
    """Yield what the library has no place for, or reads as something else."""
    if isinstance(mine, dict):
        for key, value in mine.items():
            if not isinstance(read, dict) or key not in read:
                if value not in (None, {}, []):
                    yield f"{where}.{key}"
            else:
                yield from _lost(value, read[key], f"{where}.{key}")
    elif isinstance(mine, list):
        if not isinstance(read, list) or len(mine) != len(read):
            yield where
        else:
            for number, (one, other) in enumerate(zip(mine, read)):
                yield from _lost(one, other, f"{where}[{number}]")
    elif mine != read:
        yield where


def test_nothing_is_lost() -> None:
    """Every key is one that the schema has, with a value that it takes."""
    text = BOARD.read_text()
    assert list(_lost(json.loads(text), _read(text))) == []


def test_a_wrong_key_is_seen() -> None:
    """What the test above is for."""
    board = json.loads(BOARD.read_text())
    board["panels"][0]["gridPos"]["width"] = 5
    board["templating"]["lists"] = [1]
    lost = set(_lost(board, _read(json.dumps(board))))
    assert lost == {".panels[0].gridPos.width", ".templating.lists"}
