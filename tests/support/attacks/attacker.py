# SPDX-License-Identifier: GPL-3.0-or-later
"""What an attack runs on: raw system calls, the fds at hand, and a notebook that the test outside reads.

The notebook is a file mapped as shared memory before the process was confined. Writing into it takes no system call,
so the note "trying X" stands there when the very next system call, X, ends the process. An attack ends in exactly one
of: a note "stopped X ERRNO" or "prevented REASON", a note "succeeded", or the process's death after "trying X".
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from .syscalls import NUMBERS

NOTEBOOK_BYTES = 64 * 1024
_REPORT_AT = 32 * 1024
_LENGTH = struct.Struct("I")


class Notebook:
    """The shared page: the test writes an order (any JSON) and reads the report, the attacker the other way round."""

    def __init__(self, path: Path | str) -> None:
        with open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), NOTEBOOK_BYTES)

    def order(self, what: Any) -> None:
        """Empties the report and writes what is wanted next."""
        text = json.dumps(what).encode()
        assert _LENGTH.size + len(text) < _REPORT_AT
        self._page[: _LENGTH.size + len(text)] = _LENGTH.pack(len(text)) + text
        _LENGTH.pack_into(self._page, _REPORT_AT, 0)

    def wanted(self) -> Any:
        """What the test ordered."""
        (length,) = _LENGTH.unpack_from(self._page)
        return json.loads(self._page[_LENGTH.size : _LENGTH.size + length])

    def note(self, line: str) -> None:
        """Appends a line to the report; what no longer fits is dropped."""
        (length,) = _LENGTH.unpack_from(self._page, _REPORT_AT)
        at = _REPORT_AT + _LENGTH.size + length
        data = line.encode() + b"\n"
        if at + len(data) <= NOTEBOOK_BYTES:
            self._page[at : at + len(data)] = data
            _LENGTH.pack_into(self._page, _REPORT_AT, length + len(data))

    def report(self) -> list[str]:
        """The lines noted so far."""
        (length,) = _LENGTH.unpack_from(self._page, _REPORT_AT)
        return self._page[_REPORT_AT + _LENGTH.size : _REPORT_AT + _LENGTH.size + length].decode().splitlines()

    def close(self) -> None:
        """Lets the page go."""
        self._page.close()


class Notes(Protocol):
    """What an attack needs of a notebook."""

    def note(self, line: str) -> None:
        """Adds a line to the report."""


class Stopped(Exception):
    """The kernel refused a system call."""

    def __init__(self, call: str, number: int) -> None:
        super().__init__(call, number)
        self.call = call
        self.errno = number


class Prevented(Exception):
    """Every call was let through, and the attacker has not what he wanted all the same; the text says why."""


class Attacker:
    """A process that a guest has taken over.

    `targets` are what lies outside: see `support.hostile_host`. `fds` are what the process was given, by name: disk,
    kernel, ramdisk, terminal, console, keys, master, log; those that this kind of process has.
    """

    def __init__(self, notebook: Notes, targets: dict[str, Any], fds: dict[str, int]) -> None:
        self._notebook = notebook
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self.targets = targets
        self.fds = fds

    def call(self, name: str, *arguments: object) -> int:
        """Makes the system call and returns its result; notes both. Raises Stopped."""
        ready = [ctypes.c_long(NUMBERS[name]), *(_plain(argument) for argument in arguments)]
        ctypes.set_errno(0)
        self._notebook.note(f"trying {name}")
        return self._noted(name, self._libc.syscall(*ready))

    def _noted(self, name: str, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            self._notebook.note(f"refused {name} {errno.errorcode.get(number, str(number))}")
            raise Stopped(name, number)
        self._notebook.note(f"done {name} {result}")
        return result

    def fork(self, name: str, *arguments: object, then: str = "exit_group") -> int:
        """As `call`, for one that makes a process, which makes the call `then` and nothing else."""
        ready = [ctypes.c_long(NUMBERS[name]), *(_plain(argument) for argument in arguments)]
        after = ctypes.c_long(NUMBERS[then])
        ctypes.set_errno(0)
        self._notebook.note(f"trying {name}")
        result: int = self._libc.syscall(*ready)
        while result == 0:
            self._libc.syscall(after, ctypes.c_long(0))
        return self._noted(name, result)

    def again(self, name: str, *arguments: object) -> int:
        """As `call`, without a note: for floods, and in forked children. Raises Stopped."""
        ctypes.set_errno(0)
        result: int = self._libc.syscall(ctypes.c_long(NUMBERS[name]), *(_plain(argument) for argument in arguments))
        if result < 0:
            raise Stopped(name, ctypes.get_errno())
        return result

    def repeat(self, most: int, name: str, *arguments: object) -> None:
        """The same call `most` times over. Raises Stopped at the first refusal."""
        self.call(name, *arguments)
        for _ in range(most - 1):
            self.again(name, *arguments)

    def expect_end(self, code: int) -> None:
        """Says that an end of the process with this exit code, from here on, means that the attack succeeded."""
        self._notebook.note(f"expects {code}")

    def buffer(self, content: bytes | int) -> ctypes.Array[ctypes.c_char]:
        """Memory with this content, or of so many bytes."""
        if isinstance(content, bytes):
            return ctypes.create_string_buffer(content, len(content))
        return ctypes.create_string_buffer(content)

    def address(self, buffer: ctypes.Array[ctypes.c_char]) -> int:
        """Where `buffer` lies."""
        return ctypes.addressof(buffer)

    def prevented(self, why: str) -> None:
        """Says that everything was let through, and nothing was won. Raises Prevented."""
        raise Prevented(why)

    def path(self, name: str) -> bytes:
        """The path of one of the canary files."""
        return f"{self.targets['canaries']}/{name}".encode()

    def fd(self, name: str) -> int:
        """An fd that this process has. Raises Prevented where it has none of that name."""
        if name not in self.fds:
            raise Prevented(f"it holds no {name}")
        return self.fds[name]


def perform(work: Callable[[Attacker], None], attacker: Attacker, notebook: Notes) -> None:
    """Runs one attack and notes how it ended, if it did."""
    try:
        work(attacker)
    except Stopped as stopped:
        notebook.note(f"stopped {stopped.call} {errno.errorcode.get(stopped.errno, str(stopped.errno))}")
    except Prevented as prevented:
        notebook.note(f"prevented {prevented}")
    except Exception as error:  # noqa: BLE001 - a defect of the attack's: the test outside shows it
        notebook.note(f"defect {type(error).__name__}: {error}")
    else:
        notebook.note("succeeded")


def _plain(argument: object) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return argument
