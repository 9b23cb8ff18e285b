# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a connection URI makes libvirt run and read.

Parameters and transports are those of libvirt's remote driver (libvirt.org/uri.html,
src/remote/remote_driver.c).
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from .._errors import PolicyError

#: Those that name a program to run, here or on the other host, or a file to read or write. The
#: others (proxy and sshauth among them) choose one of libvirt's own ways by a word, and socket is
#: connected to.
_PARAMETERS = frozenset({"command", "netcat", "keyfile", "known_hosts", "pkipath"})


def refuse_programs(uri: str, name: str) -> None:
    """Refuse a URI that makes libvirt run programs or read files which the URI names.

    Raises:
        PolicyError: when it does.
    """
    found = sorted(_asked(uri))
    if found:
        raise PolicyError(
            f"target {name}: its URI has {', '.join(found)}, by which libvirt runs programs or "
            "reads files that the URI names; if the URI is the one you gave, set trust_uris (in "
            "the role, vnuma_migrate_trust_uris)."
        )


def _asked(uri: str) -> set[str]:
    """Return what of it runs programs or reads files.

    Case does not matter to libvirt, it takes & and ; between parameters, and decodes their names
    (virURIParseParams). A fragment is taken for parameters too, since parsers differ on it.
    """
    scheme, _colon, rest = uri.partition(":")
    parts = re.split(r"[?&;#]", rest)[1:]
    names = {unquote(part.partition("=")[0]).strip().casefold() for part in parts}
    found = {f"{one}=" for one in names & _PARAMETERS}
    if scheme.strip().casefold().rpartition("+")[2] == "ext":
        found.add("transport ext")
    return found
