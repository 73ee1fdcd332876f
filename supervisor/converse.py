# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at a terminal and a console of the daemon's: keys one way, what it shows the other."""

from __future__ import annotations

import os
import select

from domward.protocol import limits
from domward.protocol.client import Client, error_of
from domward.protocol.control import Attached, CallFailed, End, Output
from domward.protocol.schema import Message

DETACH_KEY = b"\x1d"  # Ctrl-], as in telnet(1) and virsh(1): no menu uses it


def converse(client: Client, attached: Attached, keys: int, screen: int, detach: bytes | None = DETACH_KEY) -> bool:
    """Until the console ends (True), or the keys end or `detach` comes (False). Raises the daemon's errors, OSError.

    `keys` and `screen` are fds: of a terminal in raw mode, or of anything else. What the daemon sends for other
    requests of `client` meanwhile stays there.
    """
    ready = select.poll()
    ready.register(keys, select.POLLIN)
    ready.register(client.fileno(), select.POLLIN)
    while True:
        while (received := client.next_of(attached.request, 0)) is not None:
            received.close()
            if not _shown(received.message, screen):
                return True
        for number, _conditions in ready.poll():
            if number == keys and not _typed(client, attached, keys, detach):
                client.stop(attached.request)
                return False


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
