# SPDX-License-Identifier: GPL-3.0-or-later
"""The datacopier on real fds, unconfined and within the test's process: every outcome, every byte accounted for.

`Relay` is how it is used: send Copy with the fds, let go of them, wait for the one report.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import tty
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest

from domward.helpers import datacopier
from domward.protocol.channel import Channel
from domward.protocol.errors import DomwardError, ProtocolViolation
from domward.protocol.fds import Fd, close_all
from domward.protocol.messages import Copied, Copy, CopyFilter, CopyOutcome, CopySide, Failed, OpenPtys, StopCopy
from domward.protocol.schema import Message

PATIENCE = 20_000  # ms: only ever waited for in full by a test that fails


class Relay:
    """A datacopier with its request and, where given, further messages before it; and the supervisor's end."""

    def __init__(self, fds: list[Fd], *more: Message, **request: Any) -> None:
        self.supervisor, far = Channel.pair("the datacopier")
        self._helper = Channel(socket.socket(fileno=far.detach()), "the supervisor", max_fds=8)
        fields: dict[str, Any] = {
            "both": False, "logged": False, "log_bytes": 0, "limit_bytes": 0, "prefix": b"", "filter": CopyFilter.NONE,
        }  # fmt: skip
        self.supervisor.send(Copy(**(fields | request)), fds)
        for message in more:
            self.supervisor.send(message)
        close_all(fds)
        self.exit_code: int | None = None
        self.raised: DomwardError | None = None
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Runs the helper to its end, here."""
        try:
            self.exit_code = datacopier.run(self._helper)
        except DomwardError as error:
            self.raised = error
        finally:
            self._helper.close()

    def start(self) -> Relay:
        """Runs the helper in a thread."""
        self._thread = threading.Thread(target=self.run)
        self._thread.start()
        return self

    def finish(self) -> None:
        """Waits until the helper has returned."""
        if self._thread is not None:
            self._thread.join(PATIENCE / 1000)
            assert not self._thread.is_alive(), "the relay did not end"

    def report(self) -> Copied:
        """The one report, after which comes the end of the channel."""
        self.finish()
        if self.raised is not None:
            raise self.raised
        received = self.supervisor.receive((Copied, Failed))
        assert received is not None
        assert isinstance(received.message, Copied), received.message
        assert self.exit_code == 0
        assert self.supervisor.receive((Copied, Failed)) is None
        return received.message

    def close(self) -> None:
        """Lets the helper go, if it still runs, and waits for it."""
        self.supervisor.close()
        self.finish()
        self._helper.close()


class Bench:
    """Fds for one test, all closed at its end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def own(self, number: int, name: str) -> Fd:
        return self._stack.enter_context(Fd(number, name))

    def pipe(self, name: str) -> tuple[Fd, Fd]:
        read, write = os.pipe()
        return self.own(read, f"{name}, read end"), self.own(write, f"{name}, write end")

    def pty(self, name: str) -> tuple[Fd, Fd]:
        master, slave = os.openpty()
        tty.setraw(slave)
        return self.own(master, f"{name} master"), self.own(slave, f"{name} slave")

    def sockets(self, name: str) -> tuple[Fd, Fd]:
        near, far = socket.socketpair()
        return self.own(near.detach(), f"{name}, near"), self.own(far.detach(), f"{name}, far")

    def file(self, path: Path | str, flags: int = os.O_RDWR | os.O_CREAT) -> Fd:
        return self.own(os.open(path, flags, 0o600), str(path))

    def again(self, fd: Fd) -> Fd:
        return self.own(os.dup(fd.fileno()), fd.name)

    def waiting_relay(self, *fds: Fd, more: tuple[Message, ...] = (), **request: Any) -> Relay:
        relay = Relay(list(fds), *more, **request)
        self._stack.callback(relay.close)
        return relay

    def relay(self, *fds: Fd, **request: Any) -> Relay:
        return self.waiting_relay(*fds, **request).start()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def ready(fd: Fd, events: int = select.POLLIN, timeout: int = PATIENCE) -> bool:
    waiting = select.poll()
    waiting.register(fd, events)
    return bool(waiting.poll(timeout))


def read_exactly(fd: Fd, count: int) -> bytes:
    data = b""
    while len(data) < count:
        assert ready(fd), f"only {len(data)} of {count} bytes came on {fd.name}"
        part = os.read(fd.fileno(), count - len(data))
        assert part, f"{fd.name} ended after {len(data)} of {count} bytes"
        data += part
    return data


def read_to_end(fd: Fd) -> bytes:
    data = b""
    while True:
        assert ready(fd), f"{fd.name} did not end"
        part = os.read(fd.fileno(), 1 << 20)
        if not part:
            return data
        data += part


def write_all(fd: Fd, data: bytes) -> None:
    while data:
        data = data[os.write(fd.fileno(), data) :]


def write_and_close(fd: Fd, data: bytes) -> None:
    write_all(fd, data)
    fd.close()


def fill(fd: Fd) -> int:
    """Fills a pipe whose reader does not read; returns the number of bytes."""
    count = 0
    while ready(fd, select.POLLOUT, 0):
        count += os.write(fd.fileno(), b"x" * select.PIPE_BUF)
    return count


def ended(report: Copied) -> tuple[CopyOutcome, CopySide, int]:
    return report.outcome, report.side, report.errno


# --- how it is used ------------------------------------------------------------------------------------------------


def test_a_console_and_a_bootloader_talk_until_the_bootloader_hangs_up(bench: Bench, tmp_path: Path) -> None:
    bootloader, program = bench.pty("bootloader")
    console, person = bench.pty("console")
    _kept = bench.again(console)  # as the supervisor does: with its last master a pty loses what was not read yet
    log = tmp_path / "log"
    relay = bench.relay(
        bootloader, console, bench.again(console), bench.again(bootloader), bench.file(log),
        both=True, logged=True, log_bytes=1000, prefix=b"domward: starting\r\n",
    )  # fmt: skip
    write_all(program, b"Choose: ")
    assert read_exactly(person, 27) == b"domward: starting\r\nChoose: "
    write_all(person, b"2\r")
    assert read_exactly(program, 2) == b"2\r"
    write_all(program, b"booting 2\r\n")
    program.close()
    report = relay.report()
    assert ended(report) == (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0)
    assert read_exactly(person, 11) == b"booting 2\r\n"
    assert (report.to_console, report.to_bootloader, report.logged, report.truncated) == (38, 2, 38, False)
    assert log.read_bytes() == b"domward: starting\r\nChoose: booting 2\r\n"


# --- the outcomes, as in the table of the module ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "sockets"])
def test_the_bootloaders_end_of_file_is_eof_and_everything_is_written(bench: Bench, kind: str) -> None:
    source, program = getattr(bench, kind)("bootloader")
    person, console = getattr(bench, kind)("console")
    relay = bench.relay(source, console)
    text = bytes(range(256)) * 4000
    writer = threading.Thread(target=write_and_close, args=(program, text))
    writer.start()
    assert read_to_end(person) == text
    writer.join()
    report = relay.report()
    assert ended(report) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)
    assert (report.to_console, report.to_bootloader, report.logged) == (len(text), 0, 0)


def test_a_file_is_relayed_to_a_file(bench: Bench, tmp_path: Path) -> None:
    text = os.urandom(300_001)
    (tmp_path / "in").write_bytes(text)
    relay = bench.relay(bench.file(tmp_path / "in", os.O_RDONLY), bench.file(tmp_path / "out"))
    assert ended(relay.report()) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)
    assert (tmp_path / "out").read_bytes() == text


def test_last_words_before_a_hang_up_reach_a_slow_console(bench: Bench) -> None:
    bootloader, program = bench.pty("bootloader")
    console, person = bench.pty("console")
    _kept = bench.again(console)
    text = b"".join(b"line %06d\r\n" % n for n in range(5000))
    relay = bench.relay(bootloader, console)
    writer = threading.Thread(target=write_and_close, args=(program, text))
    writer.start()
    assert read_exactly(person, len(text)) == text
    writer.join()
    report = relay.report()
    assert ended(report) == (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0)
    assert report.to_console == len(text)


def test_a_read_error_of_the_bootloader_is_reported_after_everything_was_written(bench: Bench, tmp_path: Path) -> None:
    person, console = bench.pipe("console")
    relay = bench.relay(bench.file(tmp_path, os.O_RDONLY), console, prefix=b"before")
    assert ended(relay.report()) == (CopyOutcome.READ_ERROR, CopySide.BOOTLOADER, errno.EISDIR)
    assert read_to_end(person) == b"before"


def test_a_bootloader_pty_that_takes_no_input_any_more_is_a_hang_up_after_its_last_words(bench: Bench) -> None:
    bootloader, program = bench.pty("bootloader")
    keyboard, typed = bench.pipe("keyboard")
    person, console = bench.pipe("console")
    write_all(program, b"last words")
    program.close()
    write_all(typed, b"too late")
    relay = bench.relay(bootloader, console, keyboard, bench.again(bootloader), both=True)
    report = relay.report()
    assert ended(report) == (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0)
    assert read_to_end(person) == b"last words"
    assert report.to_bootloader == 0


def test_a_bootloader_that_closed_its_input_is_a_write_error_after_its_last_words(bench: Bench) -> None:
    source, program = bench.pipe("bootloader out")
    stdin, sink = bench.pipe("bootloader in")
    keyboard, typed = bench.pipe("keyboard")
    person, console = bench.pipe("console")
    stdin.close()
    relay = bench.relay(source, console, keyboard, sink, both=True)
    write_all(program, b"no input, please")
    assert read_exactly(person, 16) == b"no input, please"
    write_all(typed, b"key")
    assert ended(relay.report()) == (CopyOutcome.WRITE_ERROR, CopySide.BOOTLOADER, errno.EPIPE)
    assert read_to_end(person) == b""


@pytest.mark.parametrize("kind", ["pipe", "sockets", "pty"])
def test_a_console_that_ends_is_a_hang_up_of_the_console(bench: Bench, kind: str) -> None:
    source, _program = bench.pipe("bootloader out")
    stdin, sink = bench.pipe("bootloader in")
    keyboard, typed = getattr(bench, kind)("keyboard")
    person, console = bench.pipe("console")
    relay = bench.relay(source, console, keyboard, sink, both=True)
    write_all(typed, b"bye")
    assert read_exactly(stdin, 3) == b"bye"
    typed.close()
    report = relay.report()
    assert ended(report) == (CopyOutcome.HANGUP, CopySide.CONSOLE, 0)
    assert report.to_bootloader == 3
    assert read_to_end(person) == b""


def test_a_read_error_of_the_console(bench: Bench, tmp_path: Path) -> None:
    source, _program = bench.pipe("bootloader out")
    _stdin, sink = bench.pipe("bootloader in")
    _person, console = bench.pipe("console")
    relay = bench.relay(source, console, bench.file(tmp_path, os.O_RDONLY), sink, both=True)
    assert ended(relay.report()) == (CopyOutcome.READ_ERROR, CopySide.CONSOLE, errno.EISDIR)


@pytest.mark.parametrize("kind", ["pipe", "sockets"])
def test_a_console_without_a_reader_is_a_write_error(bench: Bench, kind: str) -> None:
    source, program = bench.pipe("bootloader")
    person, console = getattr(bench, kind)("console")
    person.close()
    relay = bench.relay(source, console)
    write_all(program, b"anybody?")
    report = relay.report()
    assert ended(report) == (CopyOutcome.WRITE_ERROR, CopySide.CONSOLE, errno.EPIPE)
    assert report.to_console == 0


def test_a_console_pty_without_a_slave_is_a_hang_up_of_the_console(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    console, person = bench.pty("console")
    person.close()
    relay = bench.relay(source, console)
    write_all(program, b"anybody?")
    assert ended(relay.report()) == (CopyOutcome.HANGUP, CopySide.CONSOLE, 0)


def test_a_full_disk_below_the_console_is_a_write_error(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    relay = bench.relay(source, bench.file("/dev/full", os.O_WRONLY))
    write_all(program, b"text")
    assert ended(relay.report()) == (CopyOutcome.WRITE_ERROR, CopySide.CONSOLE, errno.ENOSPC)


def test_a_full_disk_below_the_log_is_a_write_error_of_neither_side_and_the_console_is_served(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    relay = bench.relay(source, console, bench.file("/dev/full", os.O_WRONLY), logged=True, log_bytes=100)
    write_all(program, b"text")
    report = relay.report()
    assert ended(report) == (CopyOutcome.WRITE_ERROR, CopySide.NONE, errno.ENOSPC)
    assert read_to_end(person) == b"text"
    assert (report.to_console, report.logged, report.truncated) == (4, 0, False)


def test_a_write_error_replaces_an_end_that_still_waits(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    filled = fill(console)
    relay = bench.relay(source, console)
    write_all(program, b"never seen")
    program.close()
    person.close()
    assert filled
    assert ended(relay.report()) == (CopyOutcome.WRITE_ERROR, CopySide.CONSOLE, errno.EPIPE)


# --- stopping ------------------------------------------------------------------------------------------------------


def test_stop_reads_what_the_bootloader_still_holds(bench: Bench, tmp_path: Path) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    write_all(program, b"last words")
    relay = bench.waiting_relay(
        source, console, bench.file(tmp_path / "log"), more=(StopCopy(),), logged=True, log_bytes=100
    )
    relay.run()
    report = relay.report()
    assert ended(report) == (CopyOutcome.ABORTED, CopySide.NONE, 0)
    assert read_to_end(person) == b"last words"
    assert (tmp_path / "log").read_bytes() == b"last words"
    assert (report.to_console, report.logged) == (10, 10)


def test_stop_does_not_wait_for_a_console_that_does_not_read_but_completes_the_log(
    bench: Bench, tmp_path: Path
) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    filled = fill(console)
    relay = bench.relay(source, console, bench.file(tmp_path / "log"), logged=True, log_bytes=1_000_000)
    text = bytes(range(256)) * 200
    write_all(program, text)
    relay.supervisor.send(StopCopy())
    report = relay.report()
    assert ended(report) == (CopyOutcome.ABORTED, CopySide.NONE, 0)
    assert report.to_console == 0
    assert (tmp_path / "log").read_bytes() == text
    assert len(read_to_end(person)) == filled


def test_stop_while_the_bootloaders_end_waits_for_the_console_is_aborted(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    fill(console)
    relay = bench.relay(source, console)
    write_all(program, b"never seen")
    program.close()
    relay.supervisor.send(StopCopy())
    assert ended(relay.report()) == (CopyOutcome.ABORTED, CopySide.NONE, 0)


def test_a_log_that_fails_while_stopping_is_told_of(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    write_all(program, b"last words")
    relay = bench.waiting_relay(
        source, console, bench.file("/dev/full", os.O_WRONLY), more=(StopCopy(),), logged=True, log_bytes=100
    )
    relay.run()
    assert ended(relay.report()) == (CopyOutcome.WRITE_ERROR, CopySide.NONE, errno.ENOSPC)


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [(True, (CopyOutcome.ABORTED, CopySide.NONE, 0)), (False, (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0))],
)
def test_a_source_that_is_ready_but_gives_nothing_is_no_busy_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stop: bool, outcome: tuple[CopyOutcome, CopySide, int]
) -> None:
    def nothing(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "somebody else read it")

    monkeypatch.setattr(datacopier, "os", types.SimpleNamespace(**(vars(os) | {"readv": nothing})))
    source, program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    relay = bench.waiting_relay(source, console, more=(StopCopy(),) if stop else ())
    program.close()
    relay.run()
    assert ended(relay.report()) == outcome


def test_the_drain_after_stop_is_bounded(bench: Bench, tmp_path: Path) -> None:
    person, console = bench.pipe("console")
    log = tmp_path / "log"
    relay = bench.relay(
        bench.file("/dev/zero", os.O_RDONLY), console, bench.file(log), logged=True, log_bytes=1 << 30
    )  # a source that never ends, a console that is not read
    assert ready(person)
    relay.supervisor.send(StopCopy())
    report = relay.report()
    assert ended(report) == (CopyOutcome.ABORTED, CopySide.NONE, 0)
    bound = report.to_console + 2 * datacopier.CHUNK_BYTES + datacopier.DRAIN_BYTES
    assert report.logged == log.stat().st_size <= bound


def test_the_end_of_the_channel_ends_the_helper_without_a_report(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    relay = bench.relay(source, console)
    write_all(program, b"text")
    assert read_exactly(person, 4) == b"text"
    relay.supervisor.close()
    relay.finish()
    assert relay.exit_code == 0
    assert relay.raised is None


def test_the_end_of_the_channel_before_a_request_ends_the_helper(bench: Bench) -> None:
    near, far = Channel.pair("the datacopier")
    near.close()
    with Channel(socket.socket(fileno=far.detach()), "the supervisor", max_fds=8) as helper:
        assert datacopier.run(helper) == 0


def test_a_second_request_is_a_violation(bench: Bench) -> None:
    source, _program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    relay = bench.relay(source, console)
    relay.supervisor.send(OpenPtys(count=1, columns=80, rows=24))
    relay.finish()
    assert isinstance(relay.raised, ProtocolViolation)


# --- limits and the log ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [b"", b"123", b"0123456789", b"0123456789abc"])
def test_the_limit_ends_the_relay_at_exactly_that_many_bytes(bench: Bench, tmp_path: Path, prefix: bytes) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    log = tmp_path / "log"
    relay = bench.waiting_relay(
        source, console, bench.file(log), logged=True, log_bytes=100, limit_bytes=10, prefix=prefix
    )
    write_all(program, b"abcdefghijklmnop")
    relay.run()
    report = relay.report()
    assert ended(report) == (CopyOutcome.LIMIT, CopySide.CONSOLE, 0)
    assert read_to_end(person) == (prefix + b"abcdefghijklmnop")[:10]
    assert report.to_console == 10
    assert log.read_bytes() == prefix + b"abcdefghijklmnop"[: max(0, 10 - len(prefix))]


def test_fewer_bytes_than_the_limit_are_an_eof(bench: Bench) -> None:
    source, program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    relay = bench.relay(source, console, limit_bytes=10)
    write_all(program, b"123456789")
    program.close()
    assert ended(relay.report()) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)


@pytest.mark.parametrize(("cap", "kept", "mark"), [(0, 0, True), (7, 7, True), (20, 20, False), (21, 20, False)])
def test_the_log_gets_every_byte_up_to_its_cap_then_one_mark(
    bench: Bench, tmp_path: Path, cap: int, kept: int, mark: bool
) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    log = tmp_path / "log"
    relay = bench.relay(source, console, bench.file(log), logged=True, log_bytes=cap)
    text = b"\x1b]0;x\x07\xff\x00 0123456789"[:20].ljust(20, b".")
    for part in (text[:5], text[5:12], text[12:]):
        write_all(program, part)
        assert read_exactly(person, len(part)) == part
    program.close()
    report = relay.report()
    assert ended(report) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)
    assert log.read_bytes() == text[:kept] + (datacopier.truncation_mark(cap) if mark else b"")
    assert (report.logged, report.truncated, report.to_console) == (kept, mark, 20)


def test_the_filter_guards_the_console_and_not_the_log(bench: Bench, tmp_path: Path) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    log = tmp_path / "log"
    relay = bench.relay(
        source, console, bench.file(log),
        logged=True, log_bytes=100, filter=CopyFilter.TERMINAL, prefix=b"\x1b[0;39;49m",
    )  # fmt: skip
    text = b"\x1b]0;title\x07\x1b[1mmenu\x1b[6n\xff\r\n"
    write_all(program, text)
    program.close()
    report = relay.report()
    assert read_to_end(person) == b"\x1b[0;39;49m\x1b[1mmenu?\r\n"
    assert log.read_bytes() == b"\x1b[0;39;49m" + text
    assert (report.to_console, report.logged) == (21, 10 + len(text))


# --- what it costs ---------------------------------------------------------------------------------------------------


class ScriptedPoll:
    """select.poll, but instead of sleeping it takes the next step of the test's script; counts the times it woke."""

    script: ClassVar[list[Callable[[], object]]] = []
    wakeups = 0

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.unregister = self._poll.unregister

    def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
        while True:
            found = self._poll.poll(0)
            if found or timeout is not None:
                ScriptedPoll.wakeups += 1
                assert ScriptedPoll.wakeups < 1000, "a busy loop"
                return found
            self.script.pop(0)()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    steps: list[Callable[[], object]] = []
    monkeypatch.setattr(ScriptedPoll, "script", steps)
    monkeypatch.setattr(ScriptedPoll, "wakeups", 0)
    scripted = types.SimpleNamespace(**(vars(select) | {"poll": ScriptedPoll}))
    monkeypatch.setattr(datacopier, "select", scripted)
    return steps


@pytest.mark.parametrize("kind", ["pipe", "sockets", "pty"])
def test_a_console_that_does_not_read_lets_the_relay_sleep_and_the_bootloader_wait(
    bench: Bench, script: list[Callable[[], object]], kind: str
) -> None:
    source, program = bench.pipe("bootloader")
    near, far = getattr(bench, kind)("console")
    person, console = (near, far) if kind == "pipe" else (far, near)
    _kept = bench.again(console)
    relay = bench.waiting_relay(source, console)
    written: list[int] = []
    script.extend([lambda: written.append(fill(program))] * 40)  # each time that the relay sleeps
    script.append(program.close)  # from now on poll would report POLLHUP for the source at once, every time
    script.append(lambda: relay.supervisor.send(StopCopy()))
    relay.run()
    report = relay.report()
    assert ended(report) == (CopyOutcome.ABORTED, CopySide.NONE, 0)
    assert written[-1] == 0, "the bootloader was never stopped"
    held = sum(written) - report.to_console
    assert held <= datacopier.CHUNK_BYTES + 65536, "more is held than one buffer and the pipe"
    assert read_exactly(person, report.to_console) == b"x" * report.to_console


def test_a_bootloader_that_does_not_read_lets_the_relay_sleep(bench: Bench, script: list[Callable[[], object]]) -> None:
    bootloader, program = bench.pty("bootloader")
    keyboard, typed = bench.pipe("keyboard")
    person, console = bench.pipe("console")
    relay = bench.waiting_relay(bootloader, console, keyboard, bench.again(bootloader), both=True)
    written: list[int] = []
    script.extend([lambda: written.append(fill(typed))] * 10)
    script.append(lambda: write_all(program, b"still alive"))
    script.append(typed.close)
    script.append(program.close)
    relay.run()
    report = relay.report()
    assert ended(report) == (CopyOutcome.HANGUP, CopySide.BOOTLOADER, 0)
    assert written[-1] == 0
    assert read_to_end(person) == b"still alive"


def test_an_idle_relay_sleeps_and_each_line_wakes_it_once_or_twice(
    bench: Bench, script: list[Callable[[], object]]
) -> None:
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    relay = bench.waiting_relay(source, console)
    script.extend([lambda: write_all(program, b"line\n")] * 100)
    script.append(program.close)
    relay.run()
    assert ended(relay.report()) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)
    assert ScriptedPoll.wakeups <= 2 * 100 + 2
    assert read_to_end(person) == b"line\n" * 100


# --- on a kernel before Linux 6.4 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_pipes_without_nowait_get_what_poll_promises(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "not here")

    sizes: list[int] = []
    write = os.write

    def noting(fd: int, data: memoryview) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(datacopier, "os", types.SimpleNamespace(**(vars(os) | {"pwritev": refuse, "write": noting})))
    source, program = bench.pipe("bootloader")
    person, console = bench.pipe("console")
    relay = bench.relay(source, console)
    text = os.urandom(200_000)
    writer = threading.Thread(target=write_and_close, args=(program, text))
    writer.start()
    assert read_to_end(person) == text
    writer.join()
    assert ended(relay.report()) == (CopyOutcome.EOF, CopySide.BOOTLOADER, 0)
    assert max(sizes) == select.PIPE_BUF


def test_a_failure_to_set_up_is_told_as_such(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> os.stat_result:
        raise OSError(errno.EIO, "no")

    source, _program = bench.pipe("bootloader")
    _person, console = bench.pipe("console")
    relay = bench.waiting_relay(source, console)
    monkeypatch.setattr(datacopier, "os", types.SimpleNamespace(**(vars(os) | {"fstat": refuse})))
    relay.run()
    assert relay.exit_code == 1
    received = relay.supervisor.receive((Copied, Failed))
    assert received is not None
    assert received.message == Failed(what="Setting up the relay failed.", errno=errno.EIO)
