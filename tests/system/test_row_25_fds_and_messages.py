# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 25: fds and their message arrive together or not at all, over the channel of a confined helper.

Each wrong datagram comes from a helper that was planted; the leak check after each test sees every fd that stays.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from support.leaks import let_closings_end
from support.planted import planted

from domward.protocol import limits
from domward.protocol.channel import Channel, ChannelClosed
from domward.protocol.errors import DomwardError, HelperDied, OperationFailed, ProtocolViolation, UsageError
from domward.protocol.fds import Fd
from domward.protocol.messages import HelperKind, OpenPtys, PtysOpened, StopCopy
from domward.supervisor import Budgets, Config, Supervisor
from domward.supervisor.helper import Helper
from domward.supervisor.helper_states import HelperState
from domward.supervisor.ptys import open_ptys

# What the pty helper answers: the answer's own words, or none, with these fds.
WRONG: dict[str, tuple[str, type[DomwardError]]] = {
    "truncated": ("raw(channel, b'x' * 70_000, fds(2))", ProtocolViolation),
    "truncated with more fds than a message may have": ("raw(channel, b'x' * 70_000, fds(12))", ProtocolViolation),
    "surplus by one": ("raw(channel, ANSWER, fds(3))", ProtocolViolation),
    "surplus beyond the buffer": ("raw(channel, ANSWER, fds(20))", ProtocolViolation),
    "too few": ("raw(channel, ANSWER, fds(1))", ProtocolViolation),
    "none": ("raw(channel, ANSWER, [])", ProtocolViolation),
    "fds alone": ("raw(channel, b'', fds(2))", ProtocolViolation),
    "with a message that takes none": ("raw(channel, LOG, fds(2))", ProtocolViolation),
    "with a message that is none": ("raw(channel, b'nonsense', fds(2))", ProtocolViolation),
    "a socket for the slave": ("raw(channel, ANSWER, [*fds(1), channel.fileno()])", ProtocolViolation),
    "sockets": ("raw(channel, ANSWER, [channel.fileno()] * 2)", ProtocolViolation),
    "null devices": ("raw(channel, ANSWER, [0, 0])", ProtocolViolation),
    "masters alone": ("raw(channel, ANSWER, fds(2))", ProtocolViolation),
    "and then the end": ("raw(channel, LOG, []); os._exit(0)", HelperDied),
    "in two messages": ("raw(channel, ANSWER, fds(1)); raw(channel, ANSWER, fds(1))", ProtocolViolation),
}
TOOLS = """
ANSWER = wire.encode({"type": "ptys-opened", "count": 1})
LOG = wire.encode({"type": "log", "level": "info", "line": "x"})

def fds(count):
    return [os.open("/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(count)]

def raw(channel, data, numbers):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(numbers)}i", *numbers))] if numbers else []
    channel._socket.sendmsg([data], rights)

def work(channel):
    channel.receive((OpenPtys,))
    {body}
    return 0

launcher._RUN[HelperKind.PTY] = work
"""


def speaking(folder: Path, body: str) -> Config:
    code = TOOLS.replace("{body}", body)
    return Config(python=planted(folder, code), budgets=Budgets(term_grace_seconds=0.3))


@pytest.mark.parametrize("name", WRONG)
def test_row_25_fds_that_do_not_go_with_their_message_are_a_typed_error_and_all_closed(
    name: str, tmp_path: Path
) -> None:
    body, kind = WRONG[name]

    async def main() -> None:
        async with Supervisor(speaking(tmp_path, body)) as supervisor:
            host = await supervisor.host()
            with pytest.raises(kind):
                await open_ptys(host, "test", 1, 80, 24)
            let_closings_end()
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(kind):
                await open_ptys(host, "test", 1, 80, 24)
            let_closings_end()
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def fill(helper: Helper) -> None:
    while True:
        helper.send(StopCopy())


def test_row_25_a_peer_that_does_not_read_gives_eagain_as_a_violation_and_no_fd_is_lost(tmp_path: Path) -> None:
    config = speaking(tmp_path, "while True: pass")

    async def main() -> None:
        async with Supervisor(config) as supervisor:
            deaf = Helper(HelperKind.PTY, "test", await supervisor.host())
            await deaf.start()
            try:
                await deaf.order(HelperState.OPENING, OpenPtys(count=1, columns=80, rows=24))
                with pytest.raises(ProtocolViolation, match="does not read"):
                    fill(deaf)
            finally:
                await deaf.close()

    asyncio.run(main())


def test_row_25_a_peer_that_is_gone_takes_no_fd_along() -> None:
    near, far = Channel.pair("test", max_fds=limits.MESSAGE_FDS)
    read_end, write_end = os.pipe()
    with near, Fd(read_end, "read end"), Fd(write_end, "write end"):
        far.close()
        with pytest.raises(ChannelClosed):
            near.send(PtysOpened(count=1), [read_end, write_end])
        os.fstat(read_end)
        os.fstat(write_end)


def test_row_25_eagain_in_the_middle_of_many_leaves_each_message_with_its_own_fds() -> None:
    near, far_end = Channel.pair("near", max_fds=limits.MESSAGE_FDS)
    far = Channel(socket.socket(fileno=far_end.detach()), "far", max_fds=limits.MESSAGE_FDS)
    sent = 0
    with near, far:
        try:
            while True:
                read_end, write_end = os.pipe()
                with Fd(read_end, "read end") as reading, Fd(write_end, "write end") as writing:
                    os.write(writing.fileno(), sent.to_bytes(4, "big"))
                    near.send(PtysOpened(count=1), [reading, writing])
                    sent += 1
        except (BlockingIOError, OperationFailed):  # the channel's room, or the kernel's count of fds in flight
            pass
        assert sent > 0
        for number in range(sent):
            received = far.receive((PtysOpened,))
            assert received is not None
            assert int.from_bytes(os.read(received.fds[0].fileno(), 4), "big") == number
            received.close()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_row_25_a_sender_is_held_to_the_same_count(count: int) -> None:
    near, far = Channel.pair("test", max_fds=limits.MESSAGE_FDS)
    with near, far, pytest.raises(UsageError, match="goes with 2 fds"):
        near.send(PtysOpened(count=1), [0] * count)


def test_row_25_a_good_answer_brings_both_fds(tmp_path: Path) -> None:
    config = speaking(tmp_path, "kept = []; pty._open_pty(b'/ptmx', OpenPtys(count=1, columns=80, rows=24), kept); "
        "raw(channel, ANSWER, [fd.fileno() for fd in kept])")  # fmt: skip

    async def main() -> None:
        async with Supervisor(config) as supervisor:
            (pty,) = await open_ptys(await supervisor.host(), "test", 1, 80, 24)
            pty.close()

    asyncio.run(main())
