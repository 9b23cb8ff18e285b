# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The floor: the least that libvirt has to be asked, in one process and without any Ansible.

    /usr/bin/python3 tests/bench/bare.py read URI
    /usr/bin/python3 tests/bench/bare.py define URI FOLDER

``read`` lists the guests and reads every definition; ``define`` then defines every FOLDER/*.xml as
well, validated as the collection does it. Prints the seconds from the first call to the last.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libvirt


def main(action: str, uri: str, *folders: str) -> None:
    """Do it, and print what it took."""
    texts = [path.read_text() for folder in folders for path in sorted(Path(folder).glob("*.xml"))]
    started = time.perf_counter()
    connection = libvirt.open(uri)
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    read = [domain.XMLDesc(flags) for domain in connection.listAllDomains(0)]
    if action == "define":
        for text in texts:
            connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    connection.close()
    print(time.perf_counter() - started, len(read), len(texts))


if __name__ == "__main__":
    main(*sys.argv[1:])
