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

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # what type checkers take for true, without the cost of loading `typing`

if TYPE_CHECKING:
    from .bootloader import BootRequest, BootResult, InspectResult
    from .config import Budgets, Config
    from .console import Console
    from .hosted_operations import HostedOperation
    from .hosting import HostedSupervisor
    from .life_cycle import OperationState
    from .operations import Operation
    from .supervisor import Supervisor
    from .threaded import ThreadedSupervisor

# Loaded when first asked for: the command starts the launcher before it loads anything large.
_HOMES = {
    "BootRequest": "bootloader",
    "BootResult": "bootloader",
    "Budgets": "config",
    "Config": "config",
    "Console": "console",
    "HostedOperation": "hosted_operations",
    "HostedSupervisor": "hosting",
    "InspectResult": "bootloader",
    "Operation": "operations",
    "OperationState": "life_cycle",
    "Supervisor": "supervisor",
    "ThreadedSupervisor": "threaded",
}

__all__ = [
    "BootRequest",
    "BootResult",
    "Budgets",
    "Config",
    "Console",
    "HostedOperation",
    "HostedSupervisor",
    "InspectResult",
    "Operation",
    "OperationState",
    "Supervisor",
    "ThreadedSupervisor",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
