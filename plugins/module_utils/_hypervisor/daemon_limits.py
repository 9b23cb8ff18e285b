# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a daemon does not store or start, found out beforehand and without anything being stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._domain.definition import Definition, secrets
from .._domain.xml import Element, etree
from .._errors import DaemonLostError, HypervisorError
from .._model.guest import Guest
from .connection import Connection, libvirt

#: The schema of domain definitions where libvirt is built with the usual prefix.
LOCAL_SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
#: No name of a guest may have a slash in it ("name %s cannot contain '/'", src/conf/
#: domain_postparse.c in libvirt).
_NO_NAME = "{}/checked"
#: An architecture that every libvirt knows the CPUs of.
_KNOWN = "x86_64"


class Schema:
    """libvirt's schema, which it holds a definition against where it is told to validate.

    libvirt stores what its schema does not take: 'virsh define' asks for no validation. Such a
    guest cannot be redefined with validation either, and that is not for its layout.

    The daemon is asked by a define that cannot succeed, since the name has a slash in it: the
    schema's turn is first (virXMLParse with a schema, src/util/virxml.c), the name's comes after it
    (libvirt 9.0 and 11.3). That takes as long as a define, 7 to 15 ms, and leaves a line in the
    daemon's log. So it is done only where a define has failed, or where this machine's own copy of
    the schema foretells that it will: that takes 8 ms to load, and 0.1 to 4 ms for a
    definition.
    """

    def __init__(
        self, connection: Connection, define: Callable[[str], None], is_local: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._define = define
        self._is_local = is_local
        self._local: Any = None

    def check(self, before: Definition, after: Definition) -> None:
        """Refuse a definition that the schema will refuse, as far as that can be foretold.

        Raises:
            HypervisorError: as the define would.
        """
        if not (self._is_local() and self._suspects(after.root)):
            return
        hidden = secrets(after.root)
        with self.explaining(before), self._connection.errors("define it", before.name, hidden):
            self._try(after)

    @contextmanager
    def explaining(self, before: Definition) -> Iterator[None]:
        """Have an error inside say so where the stored definition is what the schema refuses.

        Raises:
            HypervisorError: that error, or the one that says so.
        """
        try:
            yield
        except DaemonLostError:
            raise
        except HypervisorError:
            words = self._refusal(before)
            if words:
                raise HypervisorError(
                    f"libvirt's schema refuses its definition as it stands, without a layout: "
                    f"{words}; correct it with 'virsh edit', or exclude the guest.",
                    guest=before.name,
                ) from None
            raise

    def _refusal(self, definition: Definition) -> str:
        """Return the schema's words about a definition, '' where it takes it."""
        try:
            self._try(definition)
        except libvirt.libvirtError as error:
            words = " ".join(str(error.get_error_message() or error).split()).rstrip(".")
            for secret in sorted(secrets(definition.root), key=len, reverse=True):
                words = words.replace(secret, "********")
            return words
        return ""

    def _try(self, definition: Definition) -> None:
        """Have the daemon hold a definition against its schema.

        Raises:
            libvirt.libvirtError: where the schema refuses it; any other error says nothing of that.
        """
        root = deepcopy(definition.root)
        root.find("name").text = _NO_NAME.format(definition.name)
        try:
            self._define(etree.tostring(root, encoding="unicode"))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_XML_INVALID_SCHEMA:
                raise

    def _suspects(self, root: Element) -> bool:
        """Tell whether this machine's copy of the schema refuses a definition."""
        # Without a copy, or with one that lxml cannot read, nothing is foretold.
        with suppress(etree.LxmlError, OSError):
            if self._local is None:
                self._local = etree.RelaxNG(etree.parse(str(LOCAL_SCHEMA)))
            return not self._local.validate(root)
        return False


class CpuDrivers:
    """The architectures that libvirt has a CPU driver for, each asked about once.

    Where there is none, libvirt defines a guest with a ``<cpu>``, an empty one even, and does not
    start it: "'riscv64' architecture is not supported by CPU driver" (cpuGetSubDriver,
    src/cpu/cpu.c). The list of CPU models ends with the same error, changes nothing, and takes 0.2
    ms: libvirt 9.0 has no driver for riscv64 and riscv32, 11.3 none for riscv32. Domain
    capabilities are not as exact: for riscv32, 11.3 lists a CPU mode all the same.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[str, bool] = {}

    def has(self, arch: str) -> bool:
        """Tell whether there is one; where libvirt does not answer, there is taken to be."""
        if arch not in self._found:
            # An error's number only: its words are in the daemon's language. A libvirt that
            # cannot list models at all gives the same for every architecture.
            self._found[arch] = not self._lacks(arch) or self._lacks(_KNOWN)
        return self._found[arch]

    def told(self, guest: Guest | None, arch: str) -> Guest | None:
        """Return what the planner is told of a guest, with whether it may have a ``<cpu>``.

        *arch* is the host's, which a guest has that does not say.
        """
        if guest is None or self.has(guest.arch or arch):
            return guest
        return replace(guest, takes_cpu=False)

    def _lacks(self, arch: str) -> bool:
        try:
            self._connection.raw.getCPUModelNames(arch, 0)
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT)
        return False
