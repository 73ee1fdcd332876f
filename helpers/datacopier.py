# SPDX-License-Identifier: GPL-3.0-or-later
"""The helper that relays between a bootloader and a console, keeps a log, and reports once how it ended.

Two directions, each with one buffer of CHUNK_BYTES that is filled only when it is empty: a reader that does not read
stops its writer (back-pressure), and costs neither memory nor wakeups, since a fd is watched only for what can be
done with it. System calls decide, not poll: POLLHUP and POLLERR lead to the read or write that says what happened.
Only a terminal's POLLHUP is believed before a write, since a pty master without a slave takes bytes and loses them.

How a relay ends. The first case that is met counts; of several at once, StopCopy, then what writing and then what
reading meets, toward the console before toward the bootloader. "Waits" means that everything read from the bootloader
is written to the console first, however long that takes; "at once" means what can be written without waiting, no more.

=====================================  ========================  ==============================================
what happens                           outcome, side             before the report
=====================================  ========================  ==============================================
bootloader in: end of file             eof, bootloader           waits
bootloader in: EIO on a terminal,      hangup, bootloader        waits
which is the last slave's close
bootloader in: any other error         read-error, bootloader    waits
bootloader out: a hung-up terminal     hangup, bootloader        what it still holds is read, up to DRAIN_BYTES;
                                                                 waits
bootloader out: any other error        write-error, bootloader   the same
console in: end of file                hangup, console           at once
console in: EIO on a terminal          hangup, console           at once
console in: any other error            read-error, console       at once
console out: a hung-up terminal        hangup, console           toward the bootloader at once
console out: any other error, EPIPE    write-error, console      toward the bootloader at once
log: any error, a short disk included  write-error, none         at once
`limit_bytes` written to the console   limit, console            toward the bootloader at once
StopCopy                               aborted, none             what the bootloader still holds is read, up to
                                                                 DRAIN_BYTES: logged all, shown at once
the channel's end of file              no report, exit 0         nothing: nobody is there to care
=====================================  ========================  ==============================================

A case that is met while another one waits replaces it, so that eof and hangup of the bootloader promise that the
console got everything. A console is noticed to be gone by what is read from it or written to it: an idle one that
is only written to may be gone unnoticed, and a full buffer toward the bootloader keeps the console from being read.

Bytes. The log gets every byte of the prefix and of the bootloader as it came, up to `log_bytes`; then, if there is
more, `truncation_mark` once, which counts neither against the cap nor in `Copied.logged`. It is a regular file.
`to_console` counts what was written there, the prefix included, and `limit_bytes` is measured against it; the filter
does not see the prefix, which is the supervisor's own. With a limit and no filter all that is read is shown.

Never blocking. O_NONBLOCK belongs to the open file, which others share (a person's shell, say): it is left as it is.
Sockets are written to with MSG_DONTWAIT, pipes with RWF_NOWAIT (Linux 6.4) or else, after POLLOUT, PIPE_BUF bytes,
which it promises, and terminals, after POLLOUT, TERMINAL_BYTES: a raw pty takes any piece of up to 1792 bytes whole,
since its buffer's limit is checked only when another piece is begun. A terminal with output processing (OPOST) that
somebody holds up may still keep a write waiting; SIGTERM ends the helper then. Reads follow POLLIN and do not wait
unless somebody else reads from the same open file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import sys

from domward.protocol.channel import Channel, ChannelClosed
from domward.protocol.errors import OperationFailed
from domward.protocol.limits import KIB, MIB
from domward.protocol.messages import Copied, Copy, CopyFilter, CopyOutcome, CopySide, Failed, StopCopy

from .terminal_filter import TerminalFilter

CHUNK_BYTES = 64 * KIB  # bytes: one read, and one direction's buffer
DRAIN_BYTES = 1 * MIB  # bytes: read from a bootloader after the relay's end was decided; a pty holds about 20 KiB
TERMINAL_BYTES = 1 * KIB  # bytes: one write to a terminal after POLLOUT


def truncation_mark(log_bytes: int) -> bytes:
    """The line that stands in the log where bytes are missing from there on."""
    return b"\n[domward: log truncated at %d bytes]\n" % log_bytes


def run(channel: Channel) -> int:
    """Serves one Copy. Returns the exit code: 0, also where the supervisor is gone; 1 after a Failed."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    waiting.poll()
    received = channel.receive((Copy,))
    if received is None:
        return 0
    try:
        request = received.message
        assert isinstance(request, Copy), "nothing else was allowed"
        relay = _Relay(channel, request, [fd.fileno() for fd in received.fds])
        channel.send(relay.run())
    except (_SupervisorGone, ChannelClosed):
        return 0
    except OSError as error:
        with contextlib.suppress(OperationFailed):  # the exit code says it too
            channel.send(Failed(what="Setting up the relay failed.", errno=error.errno or 0))
        return 1
    finally:
        received.close()
    return 0


class _SupervisorGone(Exception):
    """The channel is at its end."""


class _Ended(Exception):
    """The relay has ended so."""

    def __init__(self, outcome: CopyOutcome, side: CopySide = CopySide.NONE, number: int = 0) -> None:
        super().__init__(outcome, side, number)
        self.outcome = outcome
        self.side = side
        self.errno = number


def _failed(outcome: CopyOutcome, side: CopySide, terminal: bool, error: OSError) -> _Ended:
    """How a relay ends after a failed read or write; EIO on a terminal says that its other side is closed."""
    if terminal and error.errno == errno.EIO:
        return _Ended(CopyOutcome.HANGUP, side)
    return _Ended(outcome, side, error.errno or 0)


class _Sink:
    """Where one direction's bytes go. `eager` says that a write never waits, so it may be tried without asking poll."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.eager = True
        self._most = CHUNK_BYTES
        self._socket: socket.socket | None = None
        mode = os.fstat(number).st_mode
        self._nowait = stat.S_ISFIFO(mode)
        self.terminal = stat.S_ISCHR(mode)
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(number))
        elif self.terminal:
            self._ask_poll(TERMINAL_BYTES)

    def _ask_poll(self, most: int) -> None:
        self.eager = False
        if os.get_blocking(self.number):
            self._most = most

    def write(self, data: memoryview) -> int:
        """Writes some of `data` without waiting. Returns how many bytes. Raises OSError; BlockingIOError for none."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._nowait:
            try:
                return os.pwritev(self.number, [data], -1, os.RWF_NOWAIT)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                self._nowait = False  # before Linux 6.4
                self._ask_poll(select.PIPE_BUF)
                raise BlockingIOError(errno.EAGAIN, "asking poll first from now on") from None
        return os.write(self.number, data[: self._most])

    def close(self) -> None:
        """Closes what belongs to this object; the number itself is the caller's."""
        if self._socket is not None:
            self._socket.close()


class _Flow:
    """One direction. `pending` is what is still to be written: the prefix, or a part of the one buffer.

    The source is open -> at its end, and is read only while nothing is pending.
    """

    def __init__(self, source: int, sink: _Sink, side: CopySide, sink_side: CopySide) -> None:
        self.source = source
        self.source_open = True
        self.side = side
        self.sink = sink
        self.sink_side = sink_side
        self.pending = _NOTHING
        self.taken = 0
        self.written = 0
        self._terminal = stat.S_ISCHR(os.fstat(source).st_mode)
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def read(self, most: int) -> memoryview:
        """Up to `most` bytes of the source, 1 at least, in the buffer. Raises _Ended, or BlockingIOError for none."""
        part = self._buffer[:most]
        try:
            count = os.readv(self.source, [part])
        except BlockingIOError:
            raise
        except OSError as error:
            self.source_open = False
            raise _failed(CopyOutcome.READ_ERROR, self.side, self._terminal, error) from None
        if not count:
            self.source_open = False
            raise _Ended(CopyOutcome.EOF if self.side is CopySide.BOOTLOADER else CopyOutcome.HANGUP, self.side)
        self.taken += count
        return part[:count]

    def write(self) -> None:
        """Writes some of what is pending. Raises _Ended, or BlockingIOError where nothing can be written now."""
        try:
            count = self.sink.write(self.pending)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _failed(CopyOutcome.WRITE_ERROR, self.sink_side, self.sink.terminal, error) from None
        self.written += count
        self.pending = self.pending[count:]

    def write_at_once(self) -> None:
        """Writes what the sink takes without waiting. Errors no longer matter: it is decided how the relay ended."""
        ready = select.poll()
        ready.register(self.sink.number, select.POLLOUT)
        with contextlib.suppress(_Ended, BlockingIOError):
            while self.pending and (self.sink.eager or ready.poll(0) == [(self.sink.number, select.POLLOUT)]):
                self.write()


_NOTHING = memoryview(b"")


class _Log:
    """The log: what came, up to `cap` bytes, then the mark. Without a number it drops everything."""

    def __init__(self, number: int | None, cap: int) -> None:
        self._number = number
        self._cap = cap
        self.written = 0
        self.truncated = False

    def add(self, data: memoryview) -> None:
        """Appends `data`, or what fits. Raises _Ended where the log cannot be written."""
        if self._number is None or self.truncated:
            return
        fitting = data[: self._cap - self.written]
        self.truncated = len(fitting) < len(data)
        try:
            while fitting:
                count = os.write(self._number, fitting)
                self.written += count
                fitting = fitting[count:]
            mark = truncation_mark(self._cap) if self.truncated else b""
            while mark:
                mark = mark[os.write(self._number, mark) :]
        except OSError as error:
            raise _Ended(CopyOutcome.WRITE_ERROR, CopySide.NONE, error.errno or 0) from None


class _Relay:
    """One relay, from its request to its report. The fds stay the caller's."""

    def __init__(self, channel: Channel, request: Copy, numbers: list[int]) -> None:
        self._channel = channel
        self._limit = request.limit_bytes or sys.maxsize
        self._filter = TerminalFilter() if request.filter is CopyFilter.TERMINAL else None
        self._log = _Log(numbers[-1] if request.logged else None, request.log_bytes)
        self._prefix = memoryview(request.prefix)
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._console = _Flow(numbers[0], _Sink(numbers[1]), CopySide.BOOTLOADER, CopySide.CONSOLE)
        self._flows = [self._console]
        if request.both:
            self._flows.append(_Flow(numbers[2], _Sink(numbers[3]), CopySide.CONSOLE, CopySide.BOOTLOADER))

    def run(self) -> Copied:
        """Relays until an end is met. Raises _SupervisorGone."""
        try:
            ended = self._relay()
            for flow in self._flows:
                flow.write_at_once()
        finally:
            for flow in self._flows:
                flow.sink.close()
        return Copied(
            outcome=ended.outcome,
            side=ended.side,
            errno=ended.errno,
            to_console=self._console.written,
            to_bootloader=sum(flow.written for flow in self._flows[1:]),
            logged=self._log.written,
            truncated=self._log.truncated,
        )

    def _relay(self) -> _Ended:
        try:
            self._console.pending = self._prefix[: self._limit]
            self._log.add(self._prefix)
            while True:
                self._step(self._flows, None)
        except _Ended as first:
            ended = first
        try:
            if ended.side is CopySide.BOOTLOADER:
                self._deliver()
        except _Ended as later:
            ended = later
        try:
            if ended.outcome is CopyOutcome.ABORTED:
                self._drain()
        except _Ended as later:
            # only the log's failure replaces the supervisor's wish, since nothing else tells of it
            return later if later.side is CopySide.NONE else ended
        return ended

    def _step(self, flows: list[_Flow], timeout: int | None) -> bool:
        """Waits up to `timeout` ms for something to do in `flows`, and does it. Returns whether there was anything."""
        self._watch(flows)
        ready = dict(self._poll.poll(timeout))
        if self._channel.fileno() in ready:
            if self._channel.receive((StopCopy,)) is None:
                raise _SupervisorGone
            raise _Ended(CopyOutcome.ABORTED)
        for flow in flows:
            if flow.sink.number in ready:
                self._write(flow, ready[flow.sink.number])
        for flow in flows:
            if flow.source in ready:
                self._read(flow, ready[flow.source])
        return bool(ready)

    def _watch(self, flows: list[_Flow]) -> None:
        """Has poll watch each fd for what can be done with it now, and no other fd: those would wake it for nothing."""
        wanted = {self._channel.fileno(): select.POLLIN}
        for flow in flows:
            if flow.pending:
                wanted[flow.sink.number] = select.POLLOUT
            elif flow.source_open:
                wanted[flow.source] = select.POLLIN
        for number in self._watched.keys() - wanted.keys():
            self._poll.unregister(number)
        for number in wanted.keys() - self._watched.keys():
            self._poll.register(number, wanted[number])
        self._watched = wanted

    def _read(self, flow: _Flow, events: int) -> None:
        try:
            data = flow.read(self._room(flow))
        except BlockingIOError:
            if events & (select.POLLERR | select.POLLHUP):  # poll would say so again and again
                flow.source_open = False
                raise _Ended(CopyOutcome.HANGUP, flow.side) from None
            return
        if flow is self._console:
            self._take(data)
        else:
            flow.pending = data
        if flow.pending and flow.sink.eager:
            self._write(flow, 0)

    def _room(self, flow: _Flow) -> int:
        return min(CHUNK_BYTES, self._limit - flow.written) if flow is self._console else CHUNK_BYTES

    def _take(self, data: memoryview) -> None:
        """Logs what came from the bootloader and has what may be shown of it pending."""
        shown = memoryview(self._filter.feed(bytes(data))) if self._filter else data
        self._console.pending = shown[: self._limit - self._console.written]
        self._log.add(data)

    def _write(self, flow: _Flow, events: int) -> None:
        if flow.sink.terminal and events & select.POLLHUP:
            raise _Ended(CopyOutcome.HANGUP, flow.sink_side)
        try:
            flow.write()
        except BlockingIOError:
            if events & (select.POLLERR | select.POLLHUP):  # poll would say so again and again
                raise _Ended(CopyOutcome.HANGUP, flow.sink_side) from None
            return
        if flow is self._console and flow.written == self._limit:
            raise _Ended(CopyOutcome.LIMIT, CopySide.CONSOLE)

    def _deliver(self) -> None:
        """Writes to the console all that was read and, where the source is not at its end, what it still holds."""
        flow = self._console
        enough = flow.taken + DRAIN_BYTES
        while flow.pending or flow.source_open:
            try:
                found = self._step([flow], None if flow.pending else 0)
            except _Ended as later:
                if later.side is not CopySide.BOOTLOADER:
                    raise
                continue  # the source's end, which was to be expected
            flow.source_open = flow.source_open and found and flow.taken < enough

    def _drain(self) -> None:
        """Logs what the bootloader still holds, and shows it as long as the console takes everything at once."""
        flow = self._console
        enough = flow.taken + DRAIN_BYTES
        ready = select.poll()
        ready.register(flow.source, select.POLLIN)
        flow.write_at_once()
        stuck = bool(flow.pending)
        try:
            while flow.source_open and flow.taken < enough and flow.written < self._limit and ready.poll(0):
                self._take(flow.read(self._room(flow)))
                if not stuck:
                    flow.write_at_once()
                    stuck = bool(flow.pending)
        except BlockingIOError:
            return  # somebody else read it
        finally:
            if stuck:
                flow.pending = _NOTHING  # it had its chance; writing what came later would leave a gap
