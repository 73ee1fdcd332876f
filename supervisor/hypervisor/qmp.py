# SPDX-License-Identifier: GPL-3.0-or-later
"""QMP, the language in which qemu is asked and tells: lines of JSON (qemu's docs/interop/qmp-spec.rst).

What qemu says is not believed further than it must be: a guest may have taken it over. A line that is too long, no
JSON, no message of QMP, or an answer that nobody asked for ends the conversation with HypervisorError, and whoever
waits, or asks later, gets that. What comes is read at the pace of limits.QMP_BYTES_PER_SECOND.

States: new -> greeted -> broken; `close` in any. One command at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import HypervisorError, printable
from domward.protocol.fds import Fd

from ..events import Condition, Events

_CHUNK = 16 * limits.KIB
_NAME_CHARACTERS = 128  # of a name or a description that is shown: qemu's are shorter


class Qmp:
    """One conversation. Owns `fd`, which does not block. `on_event` gets each event's name and data.

    `helper` names the process in errors.
    """

    def __init__(self, events: Events, fd: Fd, helper: str, on_event: Callable[[str, dict[str, Any]], None]) -> None:
        self._fd = fd
        self._helper = helper
        self._on_event = on_event
        self._buffer = bytearray()
        self._numbers = itertools.count(1)
        self._asked: int | None = None
        loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[None] = loop.create_future()
        self._answer: asyncio.Future[Any] = loop.create_future()
        self.broken: asyncio.Future[HypervisorError] = loop.create_future()
        self._pause: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()
        self._watch = events.watch(fd.fileno(), Condition.IN, self._on_ready)

    async def greet(self) -> None:
        """Waits for the greeting and asks for no capability. Raises HypervisorError."""
        await self._settled(self._greeting)
        await self.execute("qmp_capabilities")

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """What `command` returns. Raises HypervisorError, also where there is no answer in limits.QMP_SECONDS."""
        async with self._turn:
            if self.broken.done():
                raise self.broken.result()
            self._asked = number = next(self._numbers)
            self._answer = asyncio.get_running_loop().create_future()
            message: dict[str, Any] = {"execute": command, "id": number}
            if arguments is not None:
                message["arguments"] = arguments
            line = json.dumps(message).encode("ascii") + b"\n"
            try:
                sent = os.write(self._fd.fileno(), line)
            except OSError as error:
                raise self._break(f"cannot be asked: {error.strerror}") from None
            if sent != len(line):
                raise self._break("does not read what it is asked")
            return await self._settled(self._answer)

    async def _settled(self, future: asyncio.Future[Any]) -> Any:
        await asyncio.wait([future, self.broken], timeout=limits.QMP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise self.broken.result() if self.broken.done() else self._break("does not answer")

    def close(self) -> None:
        """Ends the conversation; who waits gets HypervisorError. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
        self._watch.cancel()
        self._fd.close()
        if not self.broken.done():
            self.broken.set_result(self._error("is gone"))

    def _error(self, what: str) -> HypervisorError:
        return HypervisorError(f"The guest's emulator {what}.", helper=self._helper)

    def _break(self, what: str) -> HypervisorError:
        if not self.broken.done():
            self.broken.set_result(self._error(what))
            self._watch.cancel()
            if self._pause is not None:
                self._pause.cancel()
        return self.broken.result()

    # --- reading ------------------------------------------------------------------------------------------------

    def _on_ready(self, _found: Condition) -> None:
        try:
            data = os.read(self._fd.fileno(), _CHUNK)
        except BlockingIOError:
            self._watch.resume()
            return
        except OSError as error:
            self._break(f"cannot be heard: {error.strerror}")
            return
        if not data:
            self._break("closed its monitor")
            return
        self._buffer += data
        self._take_lines()
        if not self.broken.done():
            self._watch.change(Condition.NONE)
            delay = len(data) / limits.QMP_BYTES_PER_SECOND
            self._pause = asyncio.get_running_loop().call_later(delay, self._watch.change, Condition.IN)

    def _take_lines(self) -> None:
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if any(len(line) > limits.QMP_LINE_BYTES for line in (*lines, rest)):
            self._break(f"said more than {limits.QMP_LINE_BYTES} bytes in one line")
            return
        for line in lines:
            if line.strip() and not self.broken.done():
                self._take(line)

    def _take(self, untrusted_line: bytearray) -> None:
        try:
            untrusted = json.loads(untrusted_line)
        except (ValueError, RecursionError):
            self._break("said what is no JSON")
            return
        match untrusted:
            case {"QMP": dict()} if not self._greeting.done():
                self._greeting.set_result(None)
            case {"event": str(name)} if len(name) <= _NAME_CHARACTERS:
                data = untrusted.get("data", {})
                self._on_event(name, data if isinstance(data, dict) else {})
            case {"return": result, "id": int(number)} if self._is_asked(number):
                self._answer.set_result(result)
            case {"error": {"desc": str(description)}, "id": int(number)} if self._is_asked(number):
                shown = printable(description[:_NAME_CHARACTERS])
                self._answer.set_exception(self._error(f"refuses a command: {shown}"))
                self._answer.exception()  # looked at: who asked may have been cancelled
            case _:
                self._break("said what is no message of QMP, or an answer that nobody asked for")

    def _is_asked(self, number: int) -> bool:
        asked, self._asked = self._asked, None
        return type(number) is int and number == asked and not self._answer.done()
