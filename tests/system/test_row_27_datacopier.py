# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 27: every outcome of the datacopier's table, reached by a confined datacopier over real fds."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from domward.helpers.datacopier import truncation_mark
from domward.protocol.fds import Fd
from domward.protocol.messages import Copied, Copy, CopyFilter, CopyOutcome, CopySide, HelperKind, StopCopy
from domward.supervisor import Supervisor
from domward.supervisor.helper import Helper
from domward.supervisor.helper_states import HelperState


class Ends:
    """The outside of a relay. Owns what the test opens; `fds` are what the relay gets."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.fds: list[Fd] = []

    def close(self) -> None:
        self._stack.close()

    def own(self, number: int) -> Fd:
        return self._stack.enter_context(Fd(number, "test's"))

    def pipe(self) -> tuple[Fd, Fd]:
        read_end, write_end = os.pipe()
        return self.own(read_end), self.own(write_end)

    def terminal(self) -> tuple[Fd, Fd]:
        master, slave = os.openpty()
        return self.own(master), self.own(slave)

    def open(self, path: str | Path, flags: int) -> Fd:
        return self.own(os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY, 0o600))

    def file(self, name: str, content: bytes = b"") -> Fd:
        (self._folder / name).write_bytes(content)
        return self.open(self._folder / name, os.O_RDWR)

    def folder(self) -> Fd:
        return self.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)


def relayed(ends: Ends, fds: list[Fd], *then: Fd, stop: bool = False, **request: Any) -> Copied:
    """What a confined datacopier reports; `then` are closed once it has its fds."""
    fields: dict[str, Any] = {
        "both": len(fds) >= 4, "logged": False, "log_bytes": 0, "limit_bytes": 0, "prefix": b"",
        "filter": CopyFilter.NONE,
    }  # fmt: skip

    async def main() -> Copied:
        async with Supervisor() as supervisor:
            helper = Helper(HelperKind.DATACOPIER, "test", await supervisor.host())
            try:
                await helper.start(file_bytes=1 << 30)
                await helper.order(HelperState.COPYING, Copy(**(fields | request)), fds)
                for fd in then:
                    fd.close()
                if stop:
                    helper.send(StopCopy())
                message = (await helper.receive()).message
                await helper.ended()
                assert isinstance(message, Copied)
                return message
            finally:
                await helper.close()

    try:
        return asyncio.run(main())
    finally:
        ends.close()


def eof(ends: Ends) -> Copied:
    source, writer = ends.pipe()
    os.write(writer.fileno(), b"last words")
    return relayed(ends, [source, ends.file("console")], writer)


def hangup_of_the_bootloader(ends: Ends) -> Copied:
    master, slave = ends.terminal()
    return relayed(ends, [master, ends.file("console")], slave)


def read_error_of_the_bootloader(ends: Ends) -> Copied:
    return relayed(ends, [ends.folder(), ends.file("console")])


def write_error_of_the_bootloader(ends: Ends) -> Copied:
    source, _kept = ends.pipe()
    keys, typing = ends.pipe()
    reader, writer = ends.pipe()
    os.write(typing.fileno(), b"key")
    reader.close()
    return relayed(ends, [source, ends.file("console"), keys, writer])


def hangup_of_the_console(ends: Ends) -> Copied:
    source, _kept = ends.pipe()
    keys, typing = ends.pipe()
    return relayed(ends, [source, ends.file("console"), keys, ends.file("input")], typing)


def hangup_of_the_consoles_terminal(ends: Ends) -> Copied:
    source, _kept = ends.pipe()
    master, slave = ends.terminal()
    return relayed(ends, [source, ends.file("console"), slave, ends.file("input")], master)


def read_error_of_the_console(ends: Ends) -> Copied:
    source, _kept = ends.pipe()
    return relayed(ends, [source, ends.file("console"), ends.folder(), ends.file("input")])


def write_error_of_the_console(ends: Ends) -> Copied:
    reader, writer = ends.pipe()
    reader.close()
    return relayed(ends, [ends.file("source", b"words"), writer])


def full_disk_below_the_console(ends: Ends) -> Copied:
    return relayed(ends, [ends.file("source", b"words"), ends.open("/dev/full", os.O_WRONLY)])


def write_error_of_the_log(ends: Ends) -> Copied:
    fds = [ends.file("source", b"words"), ends.file("console"), ends.open("/dev/full", os.O_WRONLY)]
    return relayed(ends, fds, logged=True, log_bytes=100)


def limit(ends: Ends) -> Copied:
    return relayed(ends, [ends.file("source", b"words"), ends.file("console")], limit_bytes=3)


def aborted(ends: Ends) -> Copied:
    source, _kept = ends.pipe()
    return relayed(ends, [source, ends.file("console")], stop=True)


OUTCOMES: dict[Callable[[Ends], Copied], tuple[CopyOutcome, CopySide, int]] = {
    eof: (CopyOutcome.EOF, CopySide.BOOTLOADER, 0),
    hangup_of_the_bootloader: (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0),
    read_error_of_the_bootloader: (CopyOutcome.READ_ERROR, CopySide.BOOTLOADER, errno.EISDIR),
    write_error_of_the_bootloader: (CopyOutcome.WRITE_ERROR, CopySide.BOOTLOADER, errno.EPIPE),
    hangup_of_the_console: (CopyOutcome.HANGUP, CopySide.CONSOLE, 0),
    hangup_of_the_consoles_terminal: (CopyOutcome.HANGUP, CopySide.CONSOLE, 0),
    read_error_of_the_console: (CopyOutcome.READ_ERROR, CopySide.CONSOLE, errno.EISDIR),
    write_error_of_the_console: (CopyOutcome.WRITE_ERROR, CopySide.CONSOLE, errno.EPIPE),
    full_disk_below_the_console: (CopyOutcome.WRITE_ERROR, CopySide.CONSOLE, errno.ENOSPC),
    write_error_of_the_log: (CopyOutcome.WRITE_ERROR, CopySide.NONE, errno.ENOSPC),
    limit: (CopyOutcome.LIMIT, CopySide.CONSOLE, 0),
    aborted: (CopyOutcome.ABORTED, CopySide.NONE, 0),
}


@pytest.mark.parametrize("happening", OUTCOMES, ids=lambda happening: happening.__name__)
def test_row_27_each_outcome_is_reported_by_a_confined_datacopier(
    happening: Callable[[Ends], Copied], tmp_path: Path
) -> None:
    report = happening(Ends(tmp_path))
    assert (report.outcome, report.side, report.errno) == OUTCOMES[happening]


def test_row_27_every_outcome_there_is_has_its_case() -> None:
    assert {outcome for outcome, _side, _errno in OUTCOMES.values()} == set(CopyOutcome)


def test_row_27_every_byte_both_ways_with_prefix_counts_cap_and_mark(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    source, writer = ends.pipe()
    words = bytes(range(256)) * 10
    os.write(writer.fileno(), words)
    fds = [source, ends.file("console"), ends.file("log")]
    report = relayed(ends, fds, writer, logged=True, log_bytes=1000, prefix=b"prefix")
    assert (tmp_path / "console").read_bytes() == b"prefix" + words
    assert (tmp_path / "log").read_bytes() == (b"prefix" + words)[:1000] + truncation_mark(1000)
    assert (report.to_console, report.logged, report.truncated) == (6 + len(words), 1000, True)


def test_row_27_the_end_of_the_supervisors_channel_ends_it_without_a_report() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            helper = Helper(HelperKind.DATACOPIER, "test", await supervisor.host())
            await helper.start()
            assert helper._channel is not None
            helper._channel.close()
            await asyncio.shield(helper.child.death)
            assert helper.child.death.result() == 0
            await helper.close()

    asyncio.run(main())
