# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx configuration of the documentation site; tests/tools/docs.py lays out its sources."""

from __future__ import annotations

from typing import Any

from docutils import nodes

project = "kvm.vnuma"
author = "The kvm.vnuma authors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx reads it by this name
extensions = ["myst_parser", "sphinx_antsibull_ext"]
html_theme = "sphinx_ansible_theme"
html_title = "kvm.vnuma"
html_short_title = "kvm.vnuma"
html_copy_source = False
html_show_sphinx = False
html_use_index = False
pygments_style = "ansible"
highlight_language = "YAML+Jinja"
default_role = "any"
nitpicky = True
myst_heading_anchors = 4

#: Labels of Ansible's own documentation that the plugin pages refer to. An inventory of them all
#: would have to be fetched, and a build needs no network.
_ANSIBLE = "https://docs.ansible.com/ansible/latest/reference_appendices"
_LABELS = {
    "ansible_configuration_settings": f"{_ANSIBLE}/config.html",
    "common_return_values": f"{_ANSIBLE}/common_return_values.html",
}


def _resolve(
    _app: Any, _environment: Any, node: nodes.Element, content: nodes.Element
) -> nodes.reference | None:
    url = _LABELS.get(node.get("reftarget", ""))
    return None if url is None else nodes.reference("", "", content, refuri=url)


def setup(app: Any) -> None:
    """Let Sphinx ask here for what it cannot resolve."""
    app.connect("missing-reference", _resolve)
