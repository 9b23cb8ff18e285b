# Copyright (c) 2026, The kvm.vnuma authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether libvirt's schema takes a definition, without anything being stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from .._domain.definition import Definition, secrets
from .._domain.xml import Element, etree
from .._errors import DaemonLostError, HypervisorError
from .connection import Connection, libvirt

#: The schema of domain definitions where libvirt is built with the usual prefix.
LOCAL_SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
#: No name of a guest may have a slash in it ("name %s cannot contain '/'", src/conf/
#: domain_postparse.c in libvirt).
_NO_NAME = "{}/checked"


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
