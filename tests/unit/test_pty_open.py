# SPDX-License-Identifier: GPL-3.0-or-later
"""The pty helper, unconfined and within the test's process, on the host's own ptmx."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import struct
import termios
from collections.abc import Iterator

import pytest

from domward.helpers import pty
from domward.protocol.channel import Channel, Received
from domward.protocol.errors import ProtocolViolation
from domward.protocol.limits import PTYS
from domward.protocol.messages import Failed, OpenPtys, PtysOpened, StopCopy

TIOCGPTN = 0x80045430  # <asm-generic/ioctls.h>


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The supervisor's end and the helper's."""
    near, far = Channel.pair("the pty helper", max_fds=2 * PTYS)
    with near, Channel(socket.socket(fileno=far.detach()), "the supervisor") as helper:
        yield near, helper


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def opened(supervisor: Channel) -> Received:
    received = supervisor.receive((PtysOpened, Failed))
    assert received is not None
    return received


@pytest.mark.parametrize("count", [1, PTYS])
def test_master_and_slave_of_each_pty_arrive_raw_and_sized(ends: tuple[Channel, Channel], count: int) -> None:
    supervisor, helper = ends
    supervisor.send(OpenPtys(count=count, columns=132, rows=43))
    assert pty.run(helper, ptmx=b"/dev/ptmx") == 0
    received = opened(supervisor)
    assert received.message == PtysOpened(count=count)
    assert len(received.fds) == 2 * count
    for master, slave in zip(received.fds[::2], received.fds[1::2], strict=True):
        number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        status = os.fstat(slave.fileno())
        assert stat.S_ISCHR(status.st_mode)
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (136 + number // 256, number % 256)
        assert struct.unpack("4H", fcntl.ioctl(slave, termios.TIOCGWINSZ, bytes(8))) == (43, 132, 0, 0)
        every_byte = bytes(range(256))
        for source, sink in ((master, slave), (slave, master)):
            assert os.write(source.fileno(), every_byte) == 256
            assert os.read(sink.fileno(), 1000) == every_byte
        waiting = select.poll()
        waiting.register(master, select.POLLIN)
        assert not waiting.poll(0), "nothing is echoed"
    received.close()


def test_a_pty_opened_so_never_becomes_a_controlling_terminal(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    child = os.fork()
    if child == 0:
        os.setsid()
        status = pty.run(helper, ptmx=b"/dev/ptmx")
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
        except OSError as error:
            os._exit(status if error.errno == errno.ENXIO else 3)
        os._exit(4)
    supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    opened(supervisor).close()


def test_nothing_is_kept_when_one_of_several_cannot_be_opened(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor, helper = ends
    supervisor.send(OpenPtys(count=3, columns=80, rows=24))
    before = open_fds()
    sizes = []
    ioctl = fcntl.ioctl

    def failing_third(fd: int, request: int, argument: int | bytes) -> int | bytes:
        if request == termios.TIOCSWINSZ:
            sizes.append(argument)
            if len(sizes) == 3:
                raise OSError(errno.ENOSPC, "no more")
        return ioctl(fd, request, argument)

    monkeypatch.setattr(fcntl, "ioctl", failing_third)
    assert pty.run(helper, ptmx=b"/dev/ptmx") == 1
    assert open_fds() == before
    assert opened(supervisor).message == Failed(what="Opening a pty failed.", errno=errno.ENOSPC)


def test_a_missing_ptmx_is_a_failure_with_its_errno(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    assert pty.run(helper, ptmx=b"/nowhere/ptmx") == 1
    assert opened(supervisor).message == Failed(what="Opening a pty failed.", errno=errno.ENOENT)


def test_a_ptmx_that_is_no_terminal_is_a_failure_with_its_errno(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    assert pty.run(helper, ptmx=b"/dev/null") == 1
    assert opened(supervisor).message == Failed(what="Opening a pty failed.", errno=errno.ENOTTY)


def test_a_failing_terminal_call_is_a_failure_with_its_errno(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise termios.error(errno.EIO, "no")

    supervisor, helper = ends
    supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    monkeypatch.setattr(termios, "tcsetattr", refuse)
    assert pty.run(helper, ptmx=b"/dev/ptmx") == 1
    assert opened(supervisor).message == Failed(what="Opening a pty failed.", errno=errno.EIO)


def test_the_end_of_the_channel_before_a_request_ends_the_helper(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    supervisor.close()
    assert pty.run(helper) == 0


def test_a_supervisor_that_is_gone_when_the_answer_is_ready_gets_none(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    supervisor.close()
    before = open_fds()
    assert pty.run(helper, ptmx=b"/dev/ptmx") == 0
    assert open_fds() == before


def test_another_request_is_a_violation(ends: tuple[Channel, Channel]) -> None:
    supervisor, helper = ends
    supervisor.send(StopCopy())
    with pytest.raises(ProtocolViolation):
        pty.run(helper)
