# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at a terminal and a console of the daemon's: keys and the size one way, what it shows the other."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.client import Client, error_of
from domward.protocol.control import Attached, CallFailed, End, Output
from domward.protocol.fds import Fd
from domward.protocol.schema import Message

from .console import Console

DETACH_KEY = b"\x1d"  # Ctrl-], as in telnet(1) and virsh(1): no menu uses it


def converse(client: Client, attached: Attached, terminal: Console, detach: bytes | None = DETACH_KEY) -> bool:
    """Until the console ends (True), or the keys end or `detach` comes (False). Raises the daemon's errors, OSError.

    What the daemon sends for other requests of `client` meanwhile stays there.
    """
    ready = select.poll()
    ready.register(terminal.input, select.POLLIN)
    ready.register(client.fileno(), select.POLLIN)
    with _changes_of(terminal) as changes:
        ready.register(changes.fileno(), select.POLLIN)
        if (terminal.columns, terminal.rows) != (attached.columns, attached.rows):
            client.resize(attached, terminal.columns, terminal.rows)
        while True:
            while (received := client.next_of(attached.request, 0)) is not None:
                received.close()
                if not _shown(received.message, terminal.output):
                    return True
            for number, _conditions in ready.poll():
                if number == changes.fileno():
                    os.eventfd_read(number)
                    client.resize(attached, terminal.columns, terminal.rows)
                elif number == terminal.input and not _typed(client, attached, number, detach):
                    client.stop(attached.request)
                    return False


@contextlib.contextmanager
def _changes_of(terminal: Console) -> Iterator[Fd]:
    """Readable when the size of `terminal` has changed: a signal handler says so, and poll goes on after one."""
    with Fd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "changes of the terminal's size") as changes:
        stop_watching = terminal.watch(lambda: os.eventfd_write(changes.fileno(), 1))
        try:
            yield changes
        finally:
            stop_watching()


def _shown(message: Message, screen: int) -> bool:
    """Shows what the console showed. False once it has ended."""
    if isinstance(message, CallFailed):
        raise error_of(message)
    if isinstance(message, Output):
        content = memoryview(message.content)
        while content:
            content = content[os.write(screen, content) :]
    return not isinstance(message, End)


def _typed(client: Client, attached: Attached, keys: int, detach: bytes | None) -> bool:
    """Types what was typed. False at the end of the keys or at `detach`, which goes nowhere."""
    try:
        typed = os.read(keys, limits.CONSOLE_KEYS_BYTES)
    except OSError:  # the terminal hung up
        return False
    before, found, _after = typed.partition(detach) if detach else (typed, b"", b"")
    if before:
        client.keys(attached, before)
    return bool(typed) and not found
