# SPDX-License-Identifier: GPL-3.0-or-later
"""The privileged side: event loop, children, operations and the command line.

The library, in full::

    async with Supervisor(Config()) as supervisor:
        result = await supervisor.run_bootloader(BootRequest(disk=Path("guest.img")))
        try:
            use(result.kernel.fd, result.ramdisk, result.args)
        finally:
            result.close()
"""

from .bootloader import BootRequest, BootResult, InspectResult
from .config import Budgets, Config
from .operations import Operation, OperationState
from .relay import Console
from .supervisor import Supervisor

__all__ = [
    "BootRequest",
    "BootResult",
    "Budgets",
    "Config",
    "Console",
    "InspectResult",
    "Operation",
    "OperationState",
    "Supervisor",
]
