# SPDX-License-Identifier: GPL-3.0-or-later
"""From what a configuration says about an entry to a `BootEntry` whose files exist, or that says why it cannot boot."""

from __future__ import annotations

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, printable
from domward.protocol.records import field, frozen, mutable
from domward.protocol.text import has_control

from .config_budget import ConfigBudget
from .interface import BootEntry, FileRef, Tree

PROBLEM_CHARACTERS = 256  # characters: longest `problem`, whatever paths it quotes


@frozen
class NamedFile:
    """A file as a configuration names it; `tree` is None where its device is not on this disk.

    `fallback` is a second path to try, for configurations whose paths are relative to a /boot of its own.
    """

    tree: Tree | None
    path: bytes
    fallback: bytes = b""

    def find(self, budget: ConfigBudget) -> FileRef:
        """The file. DiskError as Tree.file raises it, FILE_MISSING where the device is not here."""
        if self.tree is None:
            raise DiskError(DiskReason.FILE_MISSING, f"{printable(self.path)} is on a device that is not this disk")
        budget.look_up()
        try:
            return self.tree.file(self.path)
        except DiskError as error:
            if not self.fallback or error.reason is not DiskReason.FILE_MISSING:
                raise
            budget.look_up()
            return self.tree.file(self.fallback)


@mutable
class Draft:
    """An entry while its configuration is read."""

    kernel: NamedFile | None = None
    initrds: list[NamedFile] = field(default_factory=list)
    args: bytes = b""
    problem: str = ""

    def entry(self, title: bytes, path: tuple[bytes, ...], identifier: bytes, budget: ConfigBudget) -> BootEntry:
        """The finished entry, below the submenus `path`. DiskError(BUDGET) only; all else becomes its `problem`."""
        title, identifier = title[: limits.TITLE_BYTES], identifier[: limits.TITLE_BYTES]
        path = tuple(part[: limits.TITLE_BYTES] for part in path)
        problem = self.problem or self._fault()
        if not problem:
            assert self.kernel is not None  # or there were a fault
            try:
                kernel = _not_empty(self.kernel.find(budget))
                initrds = tuple(_not_empty(initrd.find(budget)) for initrd in self.initrds)
                return BootEntry(title, kernel, initrds, self.args, path, identifier)
            except DiskError as error:
                if error.reason is DiskReason.BUDGET:
                    raise
                problem = error.sentence
        return BootEntry(title, None, path=path, id=identifier, problem=printable(problem)[:PROBLEM_CHARACTERS])

    def _fault(self) -> str:
        """What is wrong before any file is looked for; empty where nothing is."""
        if self.kernel is None:
            return "it loads no kernel"
        if len(self.initrds) > limits.INITRDS:
            return f"it loads {len(self.initrds)} ramdisks, more than {limits.INITRDS}"
        return args_fault(self.args)


def args_fault(untrusted_args: bytes) -> str:
    """Why these bytes can be no kernel command line at all; empty where they can.

    A line that is merely longer than Xen takes is kept, so that it can be shown and shortened: `selection` refuses it.
    """
    if len(untrusted_args) > limits.TEXT_BYTES:
        return f"its arguments are {len(untrusted_args)} bytes, more than {limits.CMDLINE_BYTES}"
    if has_control(untrusted_args):
        return "its arguments hold control characters"
    return ""


def _not_empty(file: FileRef) -> FileRef:
    if file.size == 0:
        raise DiskError(DiskReason.FILE_EMPTY, f"{printable(file.path)} is empty")
    return file
