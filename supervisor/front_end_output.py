# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the result of `domward-bootloader` goes: two files in the output directory, and the answer that names them.

The files are new, mode 0600, under names that nobody can foresee, and there under these names only when they are
complete. The answer is written last, so what it names is complete as well. By the kind of the output:

============================  =========================================================================================
a regular file (libxl's)      emptied and written; emptied again where that fails
no file yet                   made, mode 0600; removed again on any failure
a FIFO (xend's)               opened before any work, so that its reader sees the end of it whatever happens
standard output (xenopsd's)   written
============================  =========================================================================================
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from domward.protocol.errors import OperationFailed, RefusedError, UsageError, printable
from domward.protocol.fds import Fd
from domward.protocol.records import frozen

from . import interrupts, paths
from .files import remove_file
from .front_end_answer import AnswerFormat, answer
from .new_files import copy_new

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_FIFO_WAIT_SECONDS = 0.01  # between two looks whether somebody has opened a FIFO for reading
_STANDARD_OUTPUT = 1


@frozen
class SealedBytes:
    """A file that nobody can change any more: `fd`, with `size` bytes."""

    fd: Fd
    size: int


@frozen
class Bootable:
    """What boots; the arguments are the guest's."""

    kernel: SealedBytes
    ramdisk: SealedBytes | None
    untrusted_args: bytes


@contextlib.contextmanager
def output_directory(directory: Path) -> Iterator[Fd]:
    """The output directory, which must exist; pygrub's own place is made. Raises RefusedError, OperationFailed."""
    shown = printable(str(directory))
    try:
        if directory == paths.PYGRUB_OUTPUT:
            directory.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        raise RefusedError(f"The output directory {shown} may not be used by this user.") from None
    except OSError as error:
        raise OperationFailed(
            f"The output directory {shown} cannot be used: {error.strerror}.", advice="Name a folder that exists."
        ) from error
    with Fd(number, "output directory") as folder:
        yield folder


@contextlib.contextmanager
def answer_file(path: Path | None, seconds: float) -> Iterator[Fd | None]:
    """What the answer is written to, opened; None for standard output. A file that this made goes away on failure.

    `seconds` is how long it may take until somebody reads a FIFO. Raises RefusedError, OperationFailed, UsageError.
    """
    if path is None:
        if sys.stdout is None:  # Python found it closed when it started
            raise OperationFailed("The answer goes to standard output, which is closed.")
        yield None
        return
    with ExitStack() as undo:
        with _explained(path):
            file = _open_answer(path, time.monotonic() + seconds, undo)
        with file:
            yield file
        undo.pop_all()


def _open_answer(path: Path, deadline: float, undo: ExitStack) -> Fd:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    while True:
        try:
            file = Fd(os.open(path, flags), "answer")
            break
        except FileNotFoundError:
            file = Fd(os.open(path, flags | os.O_CREAT | os.O_EXCL, _FILE_MODE), "answer")
            undo.callback(_remove, path)
            break
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(_FIFO_WAIT_SECONDS)  # a FIFO that nobody reads yet
    kind = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
        file.close()
        raise UsageError(f"The output {printable(str(path))} is neither a file nor a FIFO.", advice="Name one, or '-'.")
    os.set_blocking(file.fileno(), True)
    return file


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise RefusedError(f"The output {printable(str(path))} may not be written by this user.") from None
    except OSError as error:
        reason = "nobody reads it" if error.errno == errno.ENXIO else error.strerror
        raise OperationFailed(f"The output {printable(str(path))} cannot be opened: {reason}.") from error


def deliver_answer(result: Bootable, form: AnswerFormat, folder: Fd, directory: Path, file: Fd | None) -> None:
    """Writes kernel and ramdisk into `folder`, known as `directory`, and then the answer into `file`.

    On any failure what was written is removed. Raises OperationFailed.
    """
    undo = ExitStack()
    place = Path.cwd() / directory
    try:
        kernel = _put(folder, "boot_kernel", result.kernel, undo)
        ramdisk = None if result.ramdisk is None else _put(folder, "boot_ramdisk", result.ramdisk, undo)
        ramdisk_path = None if ramdisk is None else str(place / ramdisk)
        text = answer(form, str(place / kernel), ramdisk_path, result.untrusted_args)
        _write_answer(text, file, undo)
    except BaseException as error:
        with interrupts.held_off(), contextlib.suppress(OSError):
            undo.close()
        if isinstance(error, OSError):
            raise OperationFailed(f"The result could not be written: {error.strerror}.") from error
        raise
    interrupts.refuse()  # what is told is told: the exit code must not say otherwise


def _put(folder: Fd, kind: str, content: SealedBytes, undo: ExitStack) -> str:
    name = f"{kind}.{os.urandom(8).hex()}"
    for written in (f".{name}", name):
        undo.callback(remove_file, folder, written)
    copy_new(folder, f".{name}", content.fd, content.size)
    os.rename(f".{name}", name, src_dir_fd=folder.fileno(), dst_dir_fd=folder.fileno())
    return name


def _write_answer(text: bytes, file: Fd | None, undo: ExitStack) -> None:
    number = _STANDARD_OUTPUT if file is None else file.fileno()
    if stat.S_ISREG(os.fstat(number).st_mode) and file is not None:
        os.ftruncate(number, 0)
        undo.callback(os.ftruncate, number, 0)
    view = memoryview(text)
    while view:
        view = view[os.write(number, view) :]
