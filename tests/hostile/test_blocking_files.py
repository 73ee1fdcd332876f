# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk on a file server that lets nobody go: the supervisor goes on with everything else.

A helper that was taken over may make such a file stand in the supervisor's way: send it where no fd is due or a pty is,
or hold with it, in the kernel, what the supervisor asks for next. Where the event loop waited for one of these, even
the time-outs here would never come: the tests would not end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.flaky_disk import flaky_disk
from support.planted import planted

from domward.protocol import limits
from domward.protocol.errors import DomwardError, OperationTimedOut, ProtocolViolation
from domward.protocol.layers import Layer
from domward.supervisor import BootRequest, BootResult, Budgets, Config, Console, Operation, Supervisor, verification
from domward.supervisor.children import ChildStuck

BUDGETS = Budgets(wall_seconds=1.5, term_grace_seconds=0.1)
PATIENT = Budgets(wall_seconds=60, term_grace_seconds=0.1)  # for what does not end by the clock
PAGE = 4096
LAST = 2 * PAGE  # a read from here on is the last that is answered

# In a reader's place: `order` gives its fds; `quiet` has the file server fall silent.
READER = """
def order(channel):
    return [fd.detach() for fd in channel.receive((ReadBoot,)).fds]

def quiet(disk):
    os.pread(disk, 1, {last})

def work(channel):
{body}
    return 0

launcher._RUN[HelperKind.BOOTLOADER] = work
"""

# The fd comes with a message that may have none. A violation, and the supervisor is left with the fd to close.
SENDS_THE_DISK = """
    disk, *_sinks = order(channel)
    quiet(disk)
    fields = wire.encode(dict(type="progress", step="image"))
    channel._socket.sendmsg([fields], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", disk))])
    time.sleep(60)
"""

# As many as the channel holds, which nobody reads any more.
LEAVES_THE_DISK = """
    disk, *_sinks = order(channel)
    quiet(disk)
    fields = wire.encode(dict(type="log", level="info", line="x"))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", disk))]
    try:
        while True:
            channel._socket.sendmsg([fields], rights, socket.MSG_DONTWAIT)
    except OSError:
        time.sleep(60)
"""

# write(2) holds the sink's lock while it waits for the page that it shall copy from. The supervisor, kept busy by
# messages that came before, is told that the kernel is whole when that has begun.
HOLDS_THE_SINK = """
    disk, kernel, _ramdisk = order(channel)
    page = memoryview(mmap.mmap(disk, {page}, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    quiet(disk)
    channel.send(Progress(step=ReadStep.KERNEL))
    for _ in range(500):
        channel.send(Log(level=LogLevel.DEBUG, line="x"))
    channel.send(Progress(step=ReadStep.RAMDISK))
    os.write(kernel, page)
"""

# In the place of the helper that opens ptys, which has no such file: its launcher kept one for it.
PASSES_IT_OFF_AS_A_PTY = """
disk = os.open({path!r}, os.O_RDONLY)
kernel.close_from = lambda first: None

def work(channel):
    channel.receive((OpenPtys,))
    os.pread(disk, 1, {last})
    fields = wire.encode(dict(type="ptys-opened", count=1))
    channel._socket.sendmsg([fields], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("2i", disk, disk))])
    channel._socket.recv(1)

launcher._RUN[HelperKind.PTY] = work
"""


@pytest.fixture(autouse=True)
def _soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file server holds is not waited for long."""
    monkeypatch.setattr(limits, "KILL_SECONDS", 0.2)


def silent_from_the_last_read(silence: threading.Event) -> Callable[[int, int, bytes], bytes]:
    """The server answers a read from LAST on, and nothing after it."""

    def read(offset: int, _size: int, content: bytes) -> bytes:
        if offset >= LAST:
            silence.set()
        return content

    return read


async def speaks_again(disk: Path, silence: threading.Event, supervisor: Supervisor) -> None:
    """The server answers from now on, also those whom it held: whoever could not end does."""
    silence.clear()
    await asyncio.to_thread(disk.stat)
    await asyncio.gather(*(child.death for child in (await supervisor.host()).stuck))


async def goes_on(operation: Operation[BootResult], supervisor: Supervisor, image: Path) -> DomwardError:
    """The error with which `operation` ends, while others begin and end."""
    end = asyncio.ensure_future(operation.wait())
    while not end.done():  # an event loop that waits in a system call would never come here again
        await asyncio.wait([end], timeout=0.3)
        with pytest.raises(DomwardError):
            await supervisor.inspect(image)
    error = end.exception()
    assert isinstance(error, DomwardError)
    return error


@pytest.mark.parametrize(
    ("body", "seccomp", "error"),
    [
        pytest.param(SENDS_THE_DISK, True, ProtocolViolation, id="sent-where-none-is-due"),
        pytest.param(LEAVES_THE_DISK, True, ProtocolViolation, id="sent-more-often-than-it-is-read"),
        pytest.param(HOLDS_THE_SINK, False, OperationTimedOut, id="what-a-result-is-written-from"),
    ],
)
def test_a_file_that_blocks_is_no_way_to_hold_the_supervisor_up(
    body: str, seccomp: bool, error: type[DomwardError], tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(65_536))
    silence = threading.Event()
    code = READER.format(last=LAST, body=body.format(page=PAGE))
    without = frozenset() if seccomp else frozenset({Layer.SECCOMP})
    budgets = BUDGETS if error is OperationTimedOut else PATIENT
    hostile = Config(python=planted(tmp_path, code), budgets=budgets, optional_layers=without, absent_layers=without)

    async def main() -> DomwardError:
        async with Supervisor(hostile) as attacked, Supervisor(Config(budgets=BUDGETS)) as other:
            with flaky_disk(tmp_path, image, silent_from_the_last_read(silence), silence=silence) as disk:
                operation = attacked.bootloader_operation(BootRequest(disk=disk))
                operation.start()
                error = await goes_on(operation, other, image)
                await speaks_again(disk, silence, attacked)
                return error

    assert isinstance(asyncio.run(main()), error)


def test_a_file_that_blocks_in_the_place_of_a_pty_holds_up_nothing_but_its_own_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_unexpected_fds", lambda _pid: [])  # it would be found there
    image = tmp_path / "image"
    image.write_bytes(bytes(65_536))
    silence = threading.Event()
    without = frozenset({Layer.SECCOMP})

    async def main() -> DomwardError:
        served = flaky_disk(tmp_path, image, silent_from_the_last_read(silence), silence=silence)
        with served as disk, open_console() as console:
            code = PASSES_IT_OFF_AS_A_PTY.format(path=str(disk), last=LAST)
            hostile = Config(
                python=planted(tmp_path, code), budgets=BUDGETS, optional_layers=without, absent_layers=without
            )
            async with Supervisor(hostile) as attacked, Supervisor(Config(budgets=BUDGETS)) as other:
                operation = attacked.bootloader_operation(BootRequest(disk=image, console=console))
                operation.start()
                error = await goes_on(operation, other, image)
                await speaks_again(disk, silence, attacked)
                return error

    assert isinstance(asyncio.run(main()), OperationTimedOut | ChildStuck)  # the file server holds its exit, too


@contextmanager
def open_console() -> Iterator[Console]:
    """A console at which nobody is."""
    near, far = os.pipe()
    try:
        yield Console(input=near, output=far)
    finally:
        os.close(near)
        os.close(far)


def test_a_disk_whose_closing_is_not_answered_holds_up_nothing_but_its_own_operation(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(65_536))
    silence = threading.Event()

    def read(_offset: int, _size: int, content: bytes) -> bytes:
        silence.set()  # this is the last answer
        return content

    async def main() -> None:
        async with Supervisor(Config(budgets=BUDGETS)) as supervisor:
            with flaky_disk(tmp_path, image, read, silence=silence) as disk:
                stuck = supervisor.bootloader_operation(BootRequest(disk=disk))
                stuck.start()
                await goes_on(stuck, supervisor, image)
                await speaks_again(disk, silence, supervisor)

    asyncio.run(main())
