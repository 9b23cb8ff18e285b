# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Record what a real libvirtd says of the hosts in tests/hosts, for tests that run without one.

    python tests/lab/record.py [--check] [HOST...]

Files whose name begins with "edited-" are made by hand, and left alone.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fakehost import FakeHost

HOSTS = Path(__file__).resolve().parents[1] / "hosts"


def capabilities(spec: Path) -> str:
    """Return the <host> of a host's capabilities, without what depends on this machine."""
    with FakeHost(f"record-{spec.stem}", spec, shim=True) as host:
        text = subprocess.run(
            ["virsh", "--quiet", "--connect", host.uri, "capabilities"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found = re.search(r"<host>.*?</host>", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{spec.stem}: libvirtd reports no host")
    kept = found.group(0)
    for pattern in (
        r"\s*<(?:model|microcode|signature|counter|maxphysaddr|feature|vendor)\b[^>]*/>",
        r"\s*<(?:model|vendor)>[^<]*</(?:model|vendor)>",
        r"\s*<(power_management|migration_features|iommu|secmodel|interconnects)\b.*?</\1>",
        r"\s*<(?:power_management|iommu)\b[^>]*/>",
        r"\s*<uuid>[^<]*</uuid>",
        # Newer libvirt writes it; the made-up hosts have no clusters.
        r" cluster_id='[^']*'",
    ):
        kept = re.sub(pattern, "", kept, flags=re.DOTALL)
    return f"<capabilities>\n\n  {kept}\n\n</capabilities>\n"


def main() -> int:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description="Record the hosts' capabilities.")
    parser.add_argument("--check", action="store_true", help="say what differs, write nothing")
    parser.add_argument("hosts", nargs="*")
    options = parser.parse_args()
    specs = [HOSTS / f"{name}.json" for name in options.hosts] or sorted(HOSTS.glob("*.json"))
    with ThreadPoolExecutor(max_workers=4) as pool:
        recorded = dict(zip(specs, pool.map(capabilities, specs), strict=True))
    different = 0
    for spec, text in recorded.items():
        path = spec.with_suffix(".xml")
        if options.check:
            if not path.exists() or path.read_text() != text:
                different += 1
                print(f"{spec.stem} differs")
        else:
            path.write_text(text)
    print(f"{len(specs)} hosts {'compared' if options.check else 'recorded'}, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
