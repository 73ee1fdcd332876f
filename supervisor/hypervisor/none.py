# SPDX-License-Identifier: GPL-3.0-or-later
"""No hypervisor: bootloaders run, and what they deliver goes to who asked. The default."""

from __future__ import annotations

from typing import NoReturn

from domward.protocol.errors import RefusedError

from ..helper import HelperHost
from .interface import BootFiles, Guest, GuestDescription


class NoHypervisor:
    """The backend; see `interface.Backend`."""

    name = "none"
    opens_paths = False

    def check(self, description: GuestDescription) -> None:
        """Always raises RefusedError."""
        del description
        _refuse()

    async def build(self, host: HelperHost, operation: str, description: GuestDescription, boot: BootFiles) -> Guest:
        """Always raises RefusedError."""
        del host, operation, description, boot
        _refuse()


def _refuse() -> NoReturn:
    raise RefusedError(
        "No hypervisor is set, so no guest can be created.",
        code="no-hypervisor",
        advice='Set backend of [hypervisor] to "qemu" or "xen" in domward.toml, and start domwardd anew.',
    )
