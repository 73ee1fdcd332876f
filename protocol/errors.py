# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree of errors that domward raises, one class per exit code and culprit.

::

    DomwardError
    |-- UsageError                exit 2    the caller's: arguments that cannot mean anything
    |-- RefusedError              exit 3    the caller's: permission or policy says no
    |-- ConfinementUnavailable    exit 4    the host's: a layer is missing and is not optional
    |   `-- ConfinementFailed               one step of it failed, or did not verify from outside
    |-- OperationFailed           exit 1    the host's: a resource is missing, a call to the kernel failed
    |   |-- AuditUnavailable                the audit log cannot be written, so nothing is done
    |   `-- AuditBroken                     an audit log is not what was once written
    |-- OperationTimedOut         exit 5    nobody's: the wall-clock budget ran out
    |-- HelperError               exit 6    a helper's (so, perhaps, the guest's)
    |   |-- ProtocolViolation               it sent what it may not send
    |   |-- HelperDied                      it ended before its answer
    |   |-- HypervisorError                     a program of a hypervisor's did; perhaps the guest's doing
    |   `-- ProgramError                    a bootloader program failed, or what it left is wrong; `reason` says which
    |-- DiskError                 exit 7    the guest's: a bad or unbootable disk; `reason` says which
    `-- OperationCancelled        exit 130  the caller's wish

Every error has a code (kebab-case, stable), a sentence for a person, and, where they are known, the
operation, the helper and what to do. Only `str(error)` is ever shown; it holds no control characters.
"""

from __future__ import annotations

import enum

from .text import printable as printable  # who raises errors gets it from here as well


class DomwardError(Exception):
    """The root. `code` and `exit_code` are stable; `sentence` is for people.

    `advice` says what to do, `operation` is the operation's id and `helper` the kind and pid of the helper
    concerned, each empty where it is not known.
    """

    code = "failed"
    exit_code = 1

    def __init__(
        self, sentence: str, *, advice: str = "", operation: str = "", helper: str = "", code: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.sentence = printable(sentence)
        self.advice = printable(advice)
        self.operation = operation
        self.helper = helper
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.operation, self.helper) if part)
        return self.sentence + (f" [{where}]" if where else "") + (f" {self.advice}" if self.advice else "")


class UsageError(DomwardError):
    """Arguments that cannot mean anything: unknown, ill-typed, out of range, or a call on a closed object."""

    code = "usage"
    exit_code = 2


class RefusedError(DomwardError):
    """Permission or policy says no."""

    code = "refused"
    exit_code = 3


class ConfinementUnavailable(DomwardError):
    """A layer of confinement cannot be had here and is not named optional in the configuration."""

    code = "confinement-unavailable"
    exit_code = 4


class ConfinementFailed(ConfinementUnavailable):
    """A step of a helper's confinement failed or did not verify from outside. `step` names it."""

    code = "confinement-failed"

    def __init__(self, sentence: str, *, step: str, advice: str = "", operation: str = "", helper: str = "") -> None:
        super().__init__(sentence, advice=advice, operation=operation, helper=helper)
        self.step = step


class OperationFailed(DomwardError):
    """The host could not do it: a resource is missing or a call to the kernel failed."""

    code = "failed"
    exit_code = 1


class AuditUnavailable(OperationFailed):
    """The audit log cannot be written or is not as it was left, so what it should tell of is not done."""

    code = "audit-unavailable"


class AuditBroken(OperationFailed):
    """An audit log that was looked at is not what was once written; what is wrong was said before."""

    code = "audit-broken"


class OperationTimedOut(DomwardError):
    """The wall-clock budget of the operation ran out."""

    code = "timed-out"
    exit_code = 5


class HelperError(DomwardError):
    """A helper misbehaved; since helpers parse guest bytes, the guest may be the cause."""

    code = "helper-failed"
    exit_code = 6


class ProtocolViolation(HelperError):
    """A helper sent a message that is unknown, early, repeated, oversized, ill-typed or with the wrong fds."""

    code = "protocol-violation"


class HelperDied(HelperError):
    """A helper ended before its answer. `status` is its exit code, or minus its signal; None where unknown."""

    code = "helper-died"

    def __init__(self, sentence: str, *, status: int | None, operation: str = "", helper: str = "") -> None:
        super().__init__(sentence, operation=operation, helper=helper)
        self.status = status


class HypervisorError(HelperError):
    """A hypervisor's program died, did not answer, or said what it may not."""

    code = "hypervisor-failed"


class ProgramReason(enum.Enum):
    """Why a bootloader program delivered nothing; the value is the stable code that commands print."""

    NOT_STARTED = "program-not-started"
    FAILED = "program-failed"
    OUTPUT_MISSING = "program-output-missing"
    OUTPUT_INVALID = "program-output-invalid"
    RESULT_INVALID = "program-result-invalid"


class ProgramError(HelperError):
    """A bootloader program failed. `reason` is one of :class:`ProgramReason` and gives the code.

    `status` is its exit code, or minus the signal that ended it; None where it was never started.
    """

    def __init__(
        self, reason: ProgramReason, sentence: str, *, status: int | None, advice: str = "", helper: str = ""
    ) -> None:
        super().__init__(sentence, advice=advice, helper=helper, code=reason.value)
        self.reason = reason
        self.status = status


class DiskReason(enum.Enum):
    """Why a disk could not be used; the value is the stable code that commands print."""

    NOT_FOUND = "disk-not-found"
    EMPTY = "disk-empty"
    NOT_A_DISK = "disk-not-a-disk"
    READ_ERROR = "disk-read-error"
    TRUNCATED = "disk-truncated"
    UNSUPPORTED_IMAGE = "disk-unsupported-image"
    NO_FILESYSTEM = "disk-no-filesystem"
    NO_BOOT_CONFIG = "disk-no-boot-configuration"
    NO_BOOTABLE_ENTRY = "disk-no-bootable-entry"
    NO_SUCH_ENTRY = "disk-no-such-entry"
    FILE_MISSING = "disk-file-missing"
    FILE_EMPTY = "disk-file-empty"
    FILE_TOO_BIG = "disk-file-too-big"
    NOT_A_FILE = "disk-not-a-file"
    SYMLINK_LOOP = "disk-symlink-loop"
    CORRUPT = "disk-corrupt"
    CONFIG_INVALID = "disk-configuration-invalid"
    ARGS_INVALID = "disk-arguments-invalid"
    BUDGET = "disk-budget-exceeded"


class DiskError(DomwardError):
    """A bad or unbootable disk. `reason` is one of :class:`DiskReason` and gives the code."""

    exit_code = 7

    def __init__(
        self, reason: DiskReason, sentence: str, *, advice: str = "", operation: str = "", helper: str = ""
    ) -> None:
        super().__init__(sentence, advice=advice, operation=operation, helper=helper, code=reason.value)
        self.reason = reason


class OperationCancelled(DomwardError):
    """Somebody asked for the operation to stop."""

    code = "cancelled"
    exit_code = 130
