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
    from .operations import Operation, OperationState
    from .relay import Console
    from .supervisor import Supervisor

# Loaded when first asked for: the command starts the launcher before it loads anything large.
_HOMES = {
    "BootRequest": "bootloader",
    "BootResult": "bootloader",
    "Budgets": "config",
    "Config": "config",
    "Console": "relay",
    "InspectResult": "bootloader",
    "Operation": "operations",
    "OperationState": "operations",
    "Supervisor": "supervisor",
}

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


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
