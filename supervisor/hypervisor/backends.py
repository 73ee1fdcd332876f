# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend that the configuration names. Each is loaded only where it is wanted."""

from __future__ import annotations

from ..config import Config, Hypervisor
from .interface import Backend
from .none import NoHypervisor


def backend_of(config: Config) -> Backend:
    """The backend; nothing is opened or started."""
    match config.backend:
        case Hypervisor.NONE:
            return NoHypervisor()
        case Hypervisor.QEMU:
            from .qemu import QemuBackend  # most supervisors have no guests

            return QemuBackend(config.accelerator)
        case Hypervisor.XEN:
            from .xen import XenBackend

            return XenBackend(config.xenstore)
