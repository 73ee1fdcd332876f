# SPDX-License-Identifier: GPL-3.0-or-later
"""Where records and checkpoints go besides the log: journald and the kernel's audit, where this host has them.

What is sent is on the log's disk already. A mirror that is absent, full or gone stops nothing: the log is what counts,
and what a mirror missed is missing there alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from .journal import Journal
from .kernel_audit import KernelAudit
from .log import AuditLog, Written

_CHECKPOINT_EVERY = 1000  # records: a mirror tells a cut of the log to within this many, and each process's end besides


class Mirrors:
    """The mirrors of one writer, for its thread."""

    def __init__(self) -> None:
        self._journal = Journal()
        self._kernel = KernelAudit()
        self._since = 0

    def send(self, log: AuditLog, written: Sequence[Written]) -> None:
        """Sends on what was `written`, and a checkpoint when it is time; nothing `written` means the end."""
        for one in written:
            self._journal.record(one, log.chain)
            self._kernel.record(one)
        self._since += len(written)
        if self._since and (not written or self._since >= _CHECKPOINT_EVERY):
            self._journal.checkpoint(log.checkpoint)
            self._kernel.checkpoint(log.checkpoint)
            self._since = 0
        if not written:
            self._journal.close()
            self._kernel.close()
