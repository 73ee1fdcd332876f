# SPDX-License-Identifier: GPL-3.0-or-later
"""The channel on real sockets: a message and its fds arrive together or not at all, and nothing is left open."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import msgpack
import pytest

from domward.protocol import limits
from domward.protocol.channel import Channel, ChannelClosed, Sender
from domward.protocol.errors import OperationFailed, ProtocolViolation, UsageError
from domward.protocol.fds import Fd
from domward.protocol.messages import (
    Confined,
    InspectBoot,
    Log,
    LogLevel,
    OpenPtys,
    PtysOpened,
    Spawned,
    StopCopy,
)

SPAWNED = Spawned(request=1, pid=2)  # goes with one fd


class Ends:
    """A channel, a raw socket at its other end that may send anything, and some fds to send."""

    def __init__(self, stack: ExitStack, **options: bool | int) -> None:
        self.channel, far = Channel.pair("the helper", **{"max_fds": 8, **options})  # type: ignore[arg-type]
        stack.enter_context(self.channel)
        self.raw = stack.enter_context(socket.socket(fileno=far.detach()))
        read, write = os.pipe()
        self.read = stack.enter_context(Fd(read, "the pipe's read end"))
        self.write = stack.enter_context(Fd(write, "the pipe's write end"))

    def send_raw(self, data: bytes, count: int = 0) -> None:
        """Sends `data` with `count` copies of the pipe's write end."""
        numbers = array.array("i", [self.write.fileno()] * count)
        self.raw.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if count else [])

    def nobody_holds_a_copy(self) -> bool:
        """Whether the one write end left is the test's own; closes it."""
        self.write.close()
        waiting = select.poll()
        waiting.register(self.read, select.POLLIN)
        return waiting.poll(0) == [(self.read.fileno(), select.POLLHUP)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ends(stack: ExitStack) -> Ends:
    return Ends(stack)


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# --- what arrives ----------------------------------------------------------------------------------------------------


def test_a_message_and_its_fds_arrive_together(stack: ExitStack, ends: Ends) -> None:
    helper = stack.enter_context(Channel(ends.raw, "the supervisor"))
    helper.send(PtysOpened(count=1), [ends.read, ends.write.fileno()])
    received = ends.channel.receive((PtysOpened, Log))
    assert received is not None
    assert received.message == PtysOpened(count=1)
    assert (received.sender, received.pidfd) == (None, None)
    read, write = received.fds
    assert not os.get_inheritable(read.fileno())
    assert not os.get_inheritable(write.fileno())
    os.write(write.fileno(), b"through the copies")
    assert os.read(read.fileno(), 100) == b"through the copies"
    received.close()
    assert read.closed
    assert write.closed
    assert ends.nobody_holds_a_copy()


def test_messages_arrive_one_by_one_in_order(ends: Ends) -> None:
    for count in (1, 2, 3):
        ends.raw.send(OpenPtys(count=count, columns=80, rows=24).encode())
    for count in (1, 2, 3):
        received = ends.channel.receive((OpenPtys,))
        assert received is not None
        assert received.message == OpenPtys(count=count, columns=80, rows=24)


def test_the_largest_message_with_the_most_fds_arrives(stack: ExitStack, ends: Ends) -> None:
    message = PtysOpened(count=limits.MESSAGE_FDS // 2)
    ends.channel.send(message, [ends.write] * limits.MESSAGE_FDS)
    other = stack.enter_context(Channel(ends.raw, "the supervisor", max_fds=limits.MESSAGE_FDS))
    received = other.receive((PtysOpened,))
    assert received is not None
    assert len({fd.fileno() for fd in received.fds}) == limits.MESSAGE_FDS, "one fd sent eight times is eight"
    received.close()


def test_a_longest_message_that_is_no_map_is_refused_for_that(ends: Ends) -> None:
    ends.send_raw(msgpack.packb(b"x" * (limits.MESSAGE_BYTES - 5)))
    with pytest.raises(ProtocolViolation, match="a map, not bytes"):
        ends.channel.receive((Log,))


def test_nothing_there_is_said_so(ends: Ends) -> None:
    with pytest.raises(BlockingIOError):
        ends.channel.receive((Log,))


def test_the_other_ends_close_is_the_end(ends: Ends) -> None:
    ends.raw.close()
    assert ends.channel.receive((Log,)) is None
    with pytest.raises(ChannelClosed, match=r"The other end of the helper is gone; stop-copy was not sent"):
        ends.channel.send(StopCopy())


def test_an_answer_sent_before_the_close_arrives_although_a_message_was_left_unread(ends: Ends) -> None:
    ends.channel.send(StopCopy())  # crosses the answer, and is never read
    ends.send_raw(SPAWNED.encode(), 1)
    ends.raw.close()
    received = ends.channel.receive((Spawned,))
    assert received is not None
    assert received.message == SPAWNED
    received.close()
    assert ends.channel.receive((Spawned,)) is None


def test_a_close_with_a_message_left_unread_is_the_end(ends: Ends) -> None:
    ends.channel.send(StopCopy())
    ends.raw.close()
    assert ends.channel.receive((Log,)) is None
    assert ends.channel.receive((Log,)) is None


def test_an_empty_message_is_the_end(ends: Ends) -> None:
    ends.raw.send(b"")
    assert ends.channel.receive((Log,)) is None


# --- what is refused, with every fd closed ---------------------------------------------------------------------------


@pytest.mark.parametrize("identify", [False, True])
@pytest.mark.parametrize(
    ("data", "count", "reason"),
    [
        (SPAWNED.encode(), 0, "came with 0 fds instead of 1"),
        (SPAWNED.encode(), 2, "came with 2 fds instead of 1"),
        (SPAWNED.encode(), 8, "came with 8 fds instead of 1"),
        (SPAWNED.encode(), 9, "more control data than it may|9 fds came"),
        (SPAWNED.encode(), 14, "more control data than it may|14 fds came"),
        (SPAWNED.encode(), 253, "more control data than it may"),
        (StopCopy().encode(), 1, "stop-copy' came where only spawned"),
        (b"\xc1", 1, "not valid msgpack"),
        (b"", 1, "without a message"),
        (b"x" * (limits.MESSAGE_BYTES + 1), 1, "1 to 65536 bytes, not 65537"),
        (b"x" * (limits.MESSAGE_BYTES + 2), 1, "longer than 65536 bytes"),
        (b"x" * 150_000, 8, "longer than 65536 bytes"),
        (b"x" * 150_000, 100, "more control data than it may"),
    ],
)
def test_a_bad_message_is_refused_with_its_fds(
    stack: ExitStack, data: bytes, count: int, reason: str, identify: bool
) -> None:
    ends = Ends(stack, identify=identify)
    ends.send_raw(data, count)
    before = open_fds()
    with pytest.raises(ProtocolViolation, match=reason):
        ends.channel.receive((Spawned,))
    assert open_fds() == before
    assert ends.nobody_holds_a_copy()


@pytest.mark.parametrize("accepted", [0, 1])
def test_a_channel_takes_no_more_fds_than_it_was_made_for(stack: ExitStack, accepted: int) -> None:
    ends = Ends(stack, max_fds=accepted)
    ends.send_raw(PtysOpened(count=1).encode(), 2)
    with pytest.raises(ProtocolViolation, match=f"2 fds came on the helper, which accepts {accepted}"):
        ends.channel.receive((PtysOpened,))
    assert ends.nobody_holds_a_copy()


def test_fds_that_do_not_fit_below_the_rlimit_are_no_message(ends: Ends) -> None:
    ends.send_raw(PtysOpened(count=2).encode(), 4)
    before = open_fds()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
        with pytest.raises(ProtocolViolation, match="more control data than it may"):
            ends.channel.receive((PtysOpened,))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_fds() == before
    assert ends.nobody_holds_a_copy()


def test_a_refused_message_does_not_spoil_the_next(ends: Ends) -> None:
    ends.send_raw(b"\xc1", 3)
    ends.send_raw(SPAWNED.encode(), 1)
    with pytest.raises(ProtocolViolation):
        ends.channel.receive((Spawned,))
    received = ends.channel.receive((Spawned,))
    assert received is not None
    received.close()


# --- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "count"), [(StopCopy(), 1), (SPAWNED, 0), (SPAWNED, 2)])
def test_a_wrong_number_of_fds_is_not_sent(ends: Ends, message: StopCopy | Spawned, count: int) -> None:
    with pytest.raises(UsageError, match="goes with"):
        ends.channel.send(message, [ends.write] * count)
    ends.raw.setblocking(False)
    with pytest.raises(BlockingIOError):
        ends.raw.recv(1)


def test_a_closed_fd_is_not_sent(ends: Ends) -> None:
    ends.write.close()
    with pytest.raises(UsageError, match="the pipe's write end is closed already"):
        ends.channel.send(SPAWNED, [ends.write])


def test_a_number_that_is_no_fd_is_not_sent(ends: Ends) -> None:
    with pytest.raises(OperationFailed, match="Sending spawned on the helper failed: Bad file descriptor"):
        ends.channel.send(SPAWNED, [999_999])


def test_a_reader_that_does_not_read_stops_its_sender_and_nothing_is_lost_or_kept(ends: Ends) -> None:
    before = open_fds()
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            ends.channel.send(SPAWNED, [ends.write])
            sent += 1
    assert sent > 0
    with pytest.raises(BlockingIOError):
        ends.channel.send(SPAWNED, [ends.write])
    assert open_fds() == before
    with Channel(ends.raw, "the supervisor", max_fds=1) as reader:
        for _ in range(sent - 1):
            received = reader.receive((Spawned,))
            assert received is not None
            received.close()
    # the last one is still on its way when its reader goes; the kernel closes it with the socket
    assert ends.nobody_holds_a_copy()


def test_a_socket_that_is_not_connected_fails_both_ways() -> None:
    with Channel(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "nobody") as channel:
        with pytest.raises(OperationFailed, match="Receiving on nobody failed"):
            channel.receive((Log,))
        with pytest.raises(OperationFailed, match="Sending stop-copy on nobody failed"):
            channel.send(StopCopy())


# --- the channel's life ----------------------------------------------------------------------------------------------


def test_a_closed_channel_refuses_everything_but_another_close(ends: Ends) -> None:
    ends.channel.close()
    ends.channel.close()
    assert ends.channel.closed
    for use in (ends.channel.fileno, lambda: ends.channel.send(StopCopy()), lambda: ends.channel.receive((Log,))):
        with pytest.raises(UsageError, match="The channel the helper is closed already"):
            use()


@pytest.mark.parametrize("most", [-1, limits.MESSAGE_FDS + 1])
def test_a_pair_that_cannot_be_made_leaves_nothing(most: int) -> None:
    before = open_fds()
    with pytest.raises(UsageError, match="accepts 0 to 8 fds"):
        Channel.pair("the helper", max_fds=most)
    assert open_fds() == before


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_DGRAM)]
)
def test_another_kind_of_socket_is_refused(family: int, kind: int) -> None:
    with socket.socket(family, kind) as other, pytest.raises(UsageError, match="SEQPACKET"):
        Channel(other, "the helper")


def test_the_far_end_blocks_and_the_near_one_does_not(ends: Ends) -> None:
    assert not os.get_blocking(ends.channel.fileno())
    assert os.get_blocking(ends.raw.fileno())


# --- who sent it -----------------------------------------------------------------------------------------------------


def send_from_a_child(ends: Ends, message: Log | Confined) -> int:
    """Has a child send `message` and end; returns its pid, which nobody has waited for."""
    child = os.fork()
    if child == 0:
        ends.raw.send(message.encode())
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return child


def test_the_kernel_names_the_sender_even_after_its_death(stack: ExitStack) -> None:
    ends = Ends(stack, identify=True)
    if not ends.channel.passes_pidfd:
        pytest.skip("this kernel has no SO_PASSPIDFD")
    child = send_from_a_child(ends, Confined(layers=()))
    received = ends.channel.receive((Confined,))
    assert received is not None
    assert received.sender == Sender(child, os.getuid(), os.getgid())
    assert received.pidfd is not None
    assert not os.get_inheritable(received.pidfd.fileno())
    status = os.waitid(os.P_PIDFD, received.pidfd.fileno(), os.WEXITED)
    assert status is not None
    assert status.si_pid == child
    received.close()
    assert received.pidfd.closed


def test_without_pidfds_as_before_linux_6_5_the_sender_is_still_named(stack: ExitStack) -> None:
    ends = Ends(stack, identify=True, pidfds=False)
    assert not ends.channel.passes_pidfd
    child = send_from_a_child(ends, Log(level=LogLevel.INFO, line="here"))
    received = ends.channel.receive((Log,))
    os.waitpid(child, 0)
    assert received is not None
    assert received.sender == Sender(child, os.getuid(), os.getgid())
    assert received.pidfd is None


def test_a_kernel_that_refuses_pidfds_is_served_without(monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
    monkeypatch.setattr("domward.protocol.channel.SO_PASSPIDFD", 12345)
    ends = Ends(stack, identify=True)
    assert not ends.channel.passes_pidfd


def test_an_identified_message_may_carry_the_most_fds(stack: ExitStack) -> None:
    ends = Ends(stack, identify=True)
    ends.send_raw(PtysOpened(count=4).encode(), 8)
    received = ends.channel.receive((PtysOpened,))
    assert received is not None
    assert len(received.fds) == 8
    assert received.sender == Sender(os.getpid(), os.getuid(), os.getgid())
    received.close()
    assert ends.nobody_holds_a_copy()


def test_the_end_of_an_identified_channel_is_the_end(stack: ExitStack) -> None:
    ends = Ends(stack, identify=True)
    ends.raw.send(b"")
    before = open_fds()
    assert ends.channel.receive((InspectBoot,)) is None
    assert open_fds() == before
    ends.raw.close()
    assert ends.channel.receive((InspectBoot,)) is None
