# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of a supervisor, complete and checked when it is made."""

from __future__ import annotations

import enum
from collections.abc import Collection
from pathlib import Path
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import UsageError
from domward.protocol.layers import Layer
from domward.protocol.records import field, frozen, names_of

from . import paths

_LARGEST = 2**62


class Hypervisor(enum.Enum):
    """What guests are created with, as in the settings."""

    NONE = "none"
    QEMU = "qemu"
    XEN = "xen"


class Accelerator(enum.Enum):
    """What executes the instructions of a guest in qemu, as in the settings. AUTO is KVM where it works, else TCG."""

    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


# What the messages and the kernel take; the others are above 0 and up to _LARGEST.
_RANGES = {"helper_address_space": (limits.MIB, _LARGEST), "helper_cpu_seconds": (1, 86_400)}


@frozen(kw_only=True)
class Budgets:
    """What one operation may use. Sizes in bytes, times in seconds; every number must be above 0."""

    kernel_bytes: int = limits.KERNEL_BYTES
    ramdisk_bytes: int = limits.RAMDISK_BYTES
    helper_address_space: int = limits.HELPER_ADDRESS_SPACE
    helper_cpu_seconds: int = limits.HELPER_CPU
    wall_seconds: float = limits.WALL_SECONDS
    term_grace_seconds: float = limits.TERM_GRACE_SECONDS
    start_seconds: float = limits.START_SECONDS
    log_bytes: int = limits.LOG_BYTES

    def __post_init__(self) -> None:
        for name in names_of(self):
            value = getattr(self, name)
            whole = not name.endswith(("wall_seconds", "grace_seconds", "start_seconds"))
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise UsageError(f"The budget {name} must be a number, not {type(value).__name__}.")
            least, largest = _RANGES.get(name, (0, _LARGEST))
            if not (value > 0 and least <= value <= largest):
                raise UsageError(f"The budget {name} must be above 0 and from {least} to {largest}, not {value}.")


@frozen(kw_only=True)
class Config:
    """What a supervisor is allowed and told.

    `uid_base` and `uid_count` give the range of uids (and gids of the same numbers) for helpers, one per live
    helper; nothing else on the host may use it. `optional_layers` are the layers of confinement that may be missing
    here: without one of them that is not named, an operation is refused. `absent_layers` are treated as if this
    kernel lacked them: they are not put on, so each must be optional as well for anything to run.
    `identify_by_pidfd` False does without SO_PASSPIDFD, and `exit_info_from_pidfd` False without PIDFD_GET_INFO, as on
    kernels before 6.5 and 6.15. `log_directory` is where what consoles showed is kept (see `logs`), the
    newest `logs_kept` of it; None keeps nothing.
    `audit_log` is the audit log (see `audit.trail`); None keeps none, for programs that have a record of their own.
    With `audit_alone`, as a daemon wants it, opening is refused while another daemon has the same log.
    `xenstore` is where xenstored listens, /run/xenstored/socket, or the device /dev/xen/xenbus where it runs in another
    domain: an operation that is for a domain then ends with the domain; with None nobody looks.
    `backend` is what guests are created with, and `accelerator` what executes their instructions in qemu.
    """

    uid_base: int = 1_900_000_000
    uid_count: int = 65_536
    budgets: Budgets = field(default_factory=Budgets)
    optional_layers: frozenset[Layer] = frozenset()
    absent_layers: frozenset[Layer] = frozenset()
    identify_by_pidfd: bool = True
    exit_info_from_pidfd: bool = True
    log_directory: Path | None = None
    audit_log: Path | None = None
    audit_alone: bool = False
    xenstore: Path | None = None
    backend: Hypervisor = Hypervisor.NONE
    accelerator: Accelerator = Accelerator.AUTO
    logs_kept: int = limits.LOGS_KEPT
    state_directory: Path = paths.STATE_DIRECTORY
    python: Path = paths.PYTHON

    def __post_init__(self) -> None:
        for name in ("uid_base", "uid_count", "logs_kept"):
            if type(getattr(self, name)) is not int:
                raise UsageError(f"{name} must be an integer, not {type(getattr(self, name)).__name__}.")
        if self.uid_base < 1 or self.uid_count < 1 or self.uid_base + self.uid_count > 2**32 - 2:
            raise UsageError("uid_base and uid_count must give a range of uids within 1 to 4294967293.")
        if self.logs_kept < 1:
            raise UsageError(f"logs_kept must be 1 or more, not {self.logs_kept}.")
        if not isinstance(self.budgets, Budgets):
            raise UsageError(f"budgets must be Budgets, not {type(self.budgets).__name__}.")
        for name in ("optional_layers", "absent_layers"):
            layers = getattr(self, name)
            if not isinstance(layers, Collection) or not all(isinstance(layer, Layer) for layer in layers):
                raise UsageError(f"{name} must hold members of Layer.")
            object.__setattr__(self, name, frozenset(getattr(self, name)))  # a set of the caller's could change later
        if type(self.audit_alone) is not bool:
            raise UsageError(f"audit_alone must be True or False, not {self.audit_alone!r}.")
        for name, kind in (("backend", Hypervisor), ("accelerator", Accelerator)):
            if not isinstance(getattr(self, name), kind):
                raise UsageError(f"{name} must be a member of {kind.__name__}, not {getattr(self, name)!r}.")
        for name in ("log_directory", "audit_log", "xenstore", "state_directory", "python"):
            value = getattr(self, name)
            if value is None and name in ("log_directory", "audit_log", "xenstore"):
                continue
            if not isinstance(value, Path) or not value.is_absolute():
                raise UsageError(f"{name} must be an absolute Path.")

    def completed(self) -> dict[str, Any]:
        """Every setting as operations use it, in plain values for a record or for JSON."""
        found: dict[str, Any] = {}
        for setting in names_of(self):
            value = getattr(self, setting)
            if isinstance(value, Budgets):
                value = {budget: getattr(value, budget) for budget in names_of(value)}
            elif isinstance(value, frozenset):
                value = sorted(layer.value for layer in value)
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, enum.Enum):
                value = value.value
            found[setting] = value
        return found
