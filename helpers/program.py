# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper that runs a bootloader program: the collector, first process of a pid namespace that ends with it.

It gives the program a session with the pty as its controlling terminal, an output file and a folder, as libxl does,
and reaps whatever the program leaves without a parent. By cases, once the program has ended:

======================  ===============================================================================
all its other processes  are killed and reaped first, so that nothing changes any more
exit code 0              the output file is parsed and the results are copied to the sinks: ProgramRan
anything else            ProgramFailed with the exit code or the signal, whatever the program has left
======================  ===============================================================================

A supervisor that closes the channel, or says anything meanwhile, ends it all at once. The program can do nothing to the
collector but end it: they share a uid, so it is not dumpable, and its channel is closed in the program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat
import struct
import termios

from domward.protocol import limits
from domward.protocol.channel import Channel
from domward.protocol.errors import ProgramReason
from domward.protocol.fds import Fd, close_all
from domward.protocol.messages import ProgramFailed, ProgramRan, RunProgram
from domward.protocol.schema import Message
from domward.protocol.typed import NoReturn

from . import paths
from .program_output import OutputError, parse_output
from .pty import set_sane

#: What a program gets of an environment: nothing of the caller's. C, because curses draws lines in it with a
#: character set of the terminal's, which the relay's filter knows, and not with UTF-8.
ENVIRONMENT = {
    "HOME": paths.TEMPORARY,
    "LC_ALL": "C",
    "PATH": paths.COMMANDS,
    "TERM": "vt100",
    "TMPDIR": paths.TEMPORARY,
}
_NOT_EXECUTED = 127
_CHUNK = limits.GIB
_STATUS = struct.Struct("i")


class _GoneError(Exception):
    """The supervisor is gone, or said what it may not say now."""


class _FailedError(Exception):
    """The answer is ProgramFailed."""

    def __init__(self, reason: ProgramReason, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.answer = ProgramFailed(reason=reason, status=status, what=what[: limits.TEXT_BYTES])


def run(channel: Channel) -> int:
    """Serves one order on `channel`; returns the exit code, 0."""
    received = channel.receive((RunProgram,))
    if received is None:
        return 0
    order = received.message
    assert isinstance(order, RunProgram)
    kernel, ramdisk, terminal = received.fds
    try:
        try:
            _prepare_output()
            _require_success(_ran(channel, order, terminal))
            answer: Message = _collect(order, kernel, ramdisk)
        except _FailedError as error:
            answer = error.answer
        channel.send(answer)
    except _GoneError:
        pass
    finally:
        close_all(received.fds)
    return 0


def _prepare_output() -> None:
    """The output file has to be there when the program starts: pygrub opens it and does not make it."""
    os.umask(0o077)
    os.mkdir(paths.OUTPUT_FOLDER)
    os.close(os.open(paths.OUTPUT_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _ran(channel: Channel, order: RunProgram, terminal: Fd) -> int:
    """Runs the program to its end, and everything that it started; returns its wait status."""
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # it only has to be caught: that wakes poll
    program = _started(order, terminal)
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    waiting.register(wake, select.POLLIN)
    while (status := _reaped(program)) is None:
        if channel.fileno() in dict(waiting.poll()):
            raise _GoneError
        with contextlib.suppress(BlockingIOError):
            os.read(wake, limits.KIB)
    _end_the_rest()
    return status


def _started(order: RunProgram, terminal: Fd) -> int:
    """The pid of the program, once it was executed."""
    told, teller = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become_program(order, terminal.fileno(), teller)
    os.close(teller)
    try:
        untrusted_error = os.read(told, _STATUS.size)
    finally:
        os.close(told)
    if len(untrusted_error) == _STATUS.size:
        os.waitpid(pid, 0)
        (number,) = _STATUS.unpack(untrusted_error)
        raise _FailedError(ProgramReason.NOT_STARTED, _why_not(number), status=_NOT_EXECUTED)
    return pid


def _become_program(order: RunProgram, terminal: int, teller: int) -> NoReturn:
    """In the child: session, terminal, execve. Reports the error that came instead, and ends."""
    try:
        for caught in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(caught, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        set_sane(terminal)
        for number in (0, 1, 2):
            os.dup2(terminal, number)
        os.chdir(paths.TEMPORARY)
        arguments = [
            order.name,
            *order.options,
            os.fsencode(f"--output={paths.OUTPUT_FILE}"),
            b"--output-format=simple0",
            os.fsencode(f"--output-directory={paths.OUTPUT_FOLDER}"),
            *order.arguments,
            os.fsencode(paths.PROGRAM_DISK),
        ]
        os.execve(order.path, arguments, ENVIRONMENT)  # noqa: S606 - what this helper is for; no shell is wanted
    except OSError as error:
        os.write(teller, _STATUS.pack(error.errno or errno.EPROTO))
    finally:
        os._exit(_NOT_EXECUTED)


def _why_not(number: int) -> str:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return (
            "Its interpreter is not there: that must lie below the folders that a program sees, as its libraries must"
        )
    if number == errno.EACCES:
        return "It may not be executed: it needs a mode and a mount that allow it to its owner"
    if number == errno.ENOEXEC:
        return "It is neither a binary of this machine nor a script that begins with #! and an interpreter"
    return f"It could not be executed: {os.strerror(number)}"


def _reaped(program: int) -> int | None:
    """Reaps whoever has ended; the wait status of `program` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                status = ended[1]
    return status


def _end_the_rest() -> None:
    """Kills and reaps every other process of the namespace: those that the program made and did not wait for."""
    with contextlib.suppress(ChildProcessError):
        while True:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            os.waitpid(-1, 0)


def _require_success(status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
        forbidden = ": it made a system call that bootloader programs may not make" * (-code == signal.SIGSYS)
        raise _FailedError(ProgramReason.FAILED, f"It was ended by {name}{forbidden}", code)
    if code > 0:
        raise _FailedError(ProgramReason.FAILED, f"It ended with exit status {code}", code)


def _collect(order: RunProgram, kernel: Fd, ramdisk: Fd) -> ProgramRan:
    """Copies what the program left to the sinks. Nothing else runs in this namespace any more."""
    try:
        output = parse_output(_read_output(), os.fsencode(paths.OUTPUT_FOLDER))
    except OutputError as error:
        raise _FailedError(ProgramReason.OUTPUT_INVALID, str(error)) from None
    kernel_bytes = _copy(output.kernel, kernel, order.kernel_bytes, "kernel")
    if kernel_bytes == 0:
        raise _FailedError(ProgramReason.RESULT_INVALID, "Its kernel is empty")
    ramdisk_bytes = 0
    if output.ramdisk is not None:
        ramdisk_bytes = _copy(output.ramdisk, ramdisk, order.ramdisk_bytes, "ramdisk")
    return ProgramRan(args=output.args, kernel_bytes=kernel_bytes, ramdisk_bytes=ramdisk_bytes)


def _read_output() -> bytes:
    with _opened(paths.OUTPUT_FILE, "output", ProgramReason.OUTPUT_INVALID) as file:
        untrusted = os.read(file.fileno(), limits.PROGRAM_OUTPUT_BYTES + 1)
    if not untrusted:
        raise _FailedError(ProgramReason.OUTPUT_MISSING, "It ended with exit status 0, but left no output")
    return untrusted


def _copy(untrusted_name: bytes, sink: Fd, limit: int, what: str) -> int:
    path = os.path.join(os.fsencode(paths.OUTPUT_FOLDER), untrusted_name)
    with _opened(path, what, ProgramReason.RESULT_INVALID) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _FailedError(ProgramReason.RESULT_INVALID, f"Its {what} has {size} bytes; {limit} are allowed")
        left = size
        while left:
            sent = os.sendfile(sink.fileno(), file.fileno(), None, min(left, _CHUNK))
            if sent == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            left -= sent
        return size


def _opened(path: bytes | str, what: str, reason: ProgramReason) -> Fd:
    """A regular file of the program's. Neither a link is followed nor a FIFO's writer waited for."""
    try:
        file = Fd(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), what)
    except OSError as error:
        linked = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        raise _FailedError(reason, f"Its {what} {linked}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _FailedError(reason, f"Its {what} is no regular file")
    return file
