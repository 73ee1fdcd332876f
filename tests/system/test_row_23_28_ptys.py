# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 23 and 28: ptys opened in a confined helper: all that were asked for, checked and raw, or none."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import stat
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.planted import planted

from domward.protocol import limits
from domward.protocol.errors import DomwardError, OperationFailed
from domward.supervisor import Config, Supervisor
from domward.supervisor.ptys import Pty, open_ptys


@contextlib.contextmanager
def opened(count: int, config: Config | None = None) -> Iterator[list[Pty]]:
    async def main() -> list[Pty]:
        async with Supervisor(config) as supervisor:
            return await open_ptys(await supervisor.host(), "test", count, 132, 43)

    ptys = asyncio.run(main())
    try:
        yield ptys
    finally:
        for pty in ptys:
            pty.close()


def attributes(pty: Pty) -> list[int]:
    return [int(value) for value in termios.tcgetattr(pty.slave.fileno())[:4]]


@pytest.mark.parametrize("count", range(1, limits.PTYS + 1))
def test_row_23_as_many_as_asked_for_each_checked_raw_and_ours(count: int) -> None:
    with opened(count) as ptys:
        assert len({pty.number for pty in ptys}) == count
        for pty in ptys:
            found = os.fstat(pty.slave.fileno())
            assert stat.S_ISCHR(found.st_mode)
            assert (os.major(found.st_rdev) - 136) * 256 + os.minor(found.st_rdev) == pty.number
            assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
            size = fcntl.ioctl(pty.master.fileno(), termios.TIOCGWINSZ, bytes(8))
            assert struct.unpack("4H", size)[:2] == (43, 132)
            assert os.path.samestat(os.stat(f"/dev/pts/{pty.number}"), found)
            assert not os.get_inheritable(pty.master.fileno())
            assert not os.get_inheritable(pty.slave.fileno())
            inputs, outputs, controls, local = attributes(pty)
            assert not inputs & (termios.ICRNL | termios.IXON | termios.ISTRIP | termios.BRKINT)
            assert not outputs & termios.OPOST
            assert controls & termios.CSIZE == termios.CS8
            assert not local & (termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)


def test_row_23_every_byte_passes_each_pty_unchanged_both_ways() -> None:
    every_byte = bytes(range(256))
    with opened(2) as ptys:
        for pty in ptys:
            for source, target in ((pty.master, pty.slave), (pty.slave, pty.master)):
                os.write(source.fileno(), every_byte)
                seen = b""
                while len(seen) < len(every_byte):
                    seen += os.read(target.fileno(), 256)
                assert seen == every_byte


def test_row_28_none_of_them_becomes_the_controlling_terminal() -> None:
    before = terminal_of_this_process()
    with opened(limits.PTYS):
        assert terminal_of_this_process() == before


def terminal_of_this_process() -> str:
    return Path("/proc/self/stat").read_text().rpartition(")")[2].split()[4]


@pytest.mark.parametrize("possible", range(limits.PTYS))
def test_row_28_one_that_cannot_be_opened_means_none_at_all(possible: int, tmp_path: Path) -> None:
    # The helper may have limits.HELPER_FDS fds: it fills them but for those of `possible` ptys and a half.
    code = f"""
import select

def work(channel):
    order = select.poll()
    order.register(channel, select.POLLIN)
    order.poll()
    kept = []
    try:
        while True:
            kept.append(os.open("/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        for number in kept[:{2 * possible + 1}]:
            os.close(number)
    return pty.run(channel)

launcher._RUN[HelperKind.PTY] = work
"""
    with (
        pytest.raises(OperationFailed, match="Too many open files"),
        opened(limits.PTYS, Config(python=planted(tmp_path, code))),
    ):
        pass


@pytest.mark.parametrize("count", [0, limits.PTYS + 1, -1])
def test_row_28_a_number_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(DomwardError, match="count must be"), opened(count):
        pass


def reap_all(_number: int, _frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


@pytest.mark.parametrize("manner", [signal.SIG_DFL, signal.SIG_IGN, reap_all], ids=["default", "ignored", "reaped"])
def test_row_28_whatever_the_host_does_with_sigchld_its_ptys_come(manner: signal.Handlers) -> None:
    before = signal.signal(signal.SIGCHLD, manner)
    try:
        with opened(limits.PTYS) as ptys:
            assert len(ptys) == limits.PTYS
        assert signal.getsignal(signal.SIGCHLD) is manner
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_row_28_the_parent_has_no_child_but_launcher_and_helper_and_loses_none_of_its_own() -> None:
    own = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    try:
        with opened(limits.PTYS):
            assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # ours lives, and there is nobody else
    finally:
        os.kill(own, signal.SIGKILL)
        assert os.waitpid(own, 0)[1] == signal.SIGKILL
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
