# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape that hosts have in common, as the filter of that name returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._cpuset import format_cpuset
from .._domain.definition import Definition
from .._model.host import Host
from .._planner.shape import Shape, ShapeError, common_shape
from .._policy import Policy
from .._size import show_size
from .shapes import members_of


def shape_for(definition: Definition, hosts: Mapping[str, Host], policy: Policy) -> dict[str, Any]:
    """Return the shape that hosts have in common, as the filter returns it: JSON types only."""
    try:
        shape = common_shape(members_of(definition, hosts, policy), policy)
    except ShapeError as error:
        reasons = sorted(error.reasons.items())
        return {
            "shape": None,
            "nodes": {},
            "msg": error.message,
            "errors": [{"name": name, "msg": why} for name, why in reasons],
        }
    return {"shape": _shape_to_result(shape), "nodes": _node_texts(shape), "msg": "", "errors": []}


def _shape_to_result(shape: Shape) -> dict[str, Any]:
    distances = shape.distances
    options = {
        "cells": shape.cells,
        "threads": shape.threads,
        "granule": shape.granule_kib and show_size(shape.granule_kib),
        "distances": distances if isinstance(distances, str) else [list(row) for row in distances],
        "migration_group": sorted(shape.nodes),
    }
    return {option: value for option, value in options.items() if value is not None}


def _node_texts(shape: Shape) -> dict[str, str]:
    return {name: format_cpuset(nodes) for name, nodes in sorted(shape.nodes.items())}
