# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootloader programs: which one, with which words, and what it means that one failed.

A program is called as libxl calls one (libxl_bootloader.c): the options that were asked for, where its output goes, its
own arguments, the disk. It runs in a helper of its own (`helpers/program`), which sees it below /usr, or as one file.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import ProgramError, ProgramReason, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.messages import ProgramFailed, RunProgram
from domward.protocol.records import frozen
from domward.protocol.text import readable_rows

from . import arguments, paths
from .config import Budgets

#: The names that stand for no path.
BUILTIN, PYGRUB = "builtin", "pygrub"

_ADVICE = {
    ProgramReason.OUTPUT_MISSING: "See what the bootloader showed; its output goes to the file named by --output.",
    ProgramReason.OUTPUT_INVALID: "A bootloader must write libxl's output format simple0.",
}


@frozen
class Program:
    """A program to run: `name` is what it is called by, `path` where it lies in its helper's root.

    `file` is the program itself, to be put there, where the helper does not see it below /usr.
    """

    name: bytes
    path: bytes
    file: Fd | None

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()


def is_program(bootloader: object) -> bool:
    """Whether `bootloader` names a program and not the built-in reader. Raises UsageError where it names neither."""
    if isinstance(bootloader, Path) or bootloader == PYGRUB:
        return True
    if bootloader == BUILTIN:
        return False
    raise UsageError(
        f"There is no bootloader {printable(bootloader)}.", advice="Use 'builtin', 'pygrub', or the path of a program."
    )


def check_request(words: object, entry: bytes | None) -> None:
    """Whether a program can be given `words` and `entry`. Raises UsageError."""
    if not isinstance(words, tuple) or len(words) > limits.PROGRAM_ARGUMENTS:
        raise UsageError(f"bootloader_args must be a tuple of at most {limits.PROGRAM_ARGUMENTS} words.")
    for word in words:
        arguments.program_word("a word of bootloader_args", word)
    if entry is not None:
        arguments.program_word("entry", entry)


def find_program(bootloader: str | Path) -> Program:
    """The program that `bootloader` names: PYGRUB or a path. May wait for a file server. Raises UsageError."""
    path = _pygrub() if bootloader == PYGRUB else Path(bootloader)
    shown = printable(str(path))
    try:
        real = os.path.realpath(path, strict=True)
        file = Fd(os.open(real, os.O_PATH | os.O_CLOEXEC), "bootloader")
    except ValueError:
        raise UsageError("A bootloader's path must not contain a NUL byte.") from None
    except OSError as error:
        raise UsageError(
            f"There is no bootloader {shown}: {error.strerror}.", advice="Use 'builtin', 'pygrub' or a path."
        ) from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
        file.close()
        raise UsageError(f"{shown} is no program.", advice="Name an executable file.")
    below = real.startswith(f"{paths.PROGRAMS}/") and found.st_dev == os.stat(paths.PROGRAMS).st_dev
    if below and found.st_mode & 0o005:
        file.close()
        return Program(os.fsencode(path), os.fsencode(real), None)
    return Program(os.fsencode(path), os.fsencode(paths.PROGRAM_FILE), file)


def _pygrub() -> Path:
    for pattern in paths.PYGRUB:
        if found := sorted(glob.glob(pattern), key=_version):
            return Path(found[-1])
    raise UsageError("There is no pygrub on this host.", advice="Install Debian's xen-utils, or name its path.")


def _version(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", path)]


def run_order(
    program: Program,
    budgets: Budgets,
    options: Iterable[tuple[str, bytes | None]],
    arguments: tuple[bytes, ...],
) -> RunProgram:
    """What the helper is told; of `options`, those that are None are left out."""
    return RunProgram(
        path=program.path,
        name=program.name,
        options=tuple(b"--%s=%s" % (name.encode(), value) for name, value in options if value is not None),
        arguments=arguments,
        kernel_bytes=budgets.kernel_bytes,
        ramdisk_bytes=budgets.ramdisk_bytes,
    )


def failure(failed: ProgramFailed, program: Program, log: bytes) -> ProgramError:
    """The error for a program that failed, with the last rows of what it showed."""
    said = f"The bootloader {printable(program.name)} failed. {printable(failed.what).rstrip('.')}."
    if rows := [*_last_rows(log)]:
        said += f" Last it showed: {' / '.join(rows)}"
    status = None if failed.reason is ProgramReason.NOT_STARTED else failed.status
    return ProgramError(failed.reason, said, status=status, advice=_ADVICE.get(failed.reason, ""))


def _last_rows(log: bytes) -> Iterator[str]:
    rows = [row.strip() for row in readable_rows([log])]
    for row in [row for row in rows if row][-limits.PROGRAM_LAST_ROWS :]:
        yield row[: limits.PROGRAM_ROW_BYTES]
