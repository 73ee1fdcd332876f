# SPDX-License-Identifier: GPL-3.0-or-later
"""The leak check sees each kind of thing that a test may leave behind."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.leaks import Snapshot, leaks, settle


@contextmanager
def an_open_pipe() -> Iterator[None]:
    reader, writer = os.pipe()
    yield
    os.close(reader)
    os.close(writer)


@contextmanager
def a_zombie() -> Iterator[None]:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield
    os.waitpid(pid, 0)


@contextmanager
def a_thread() -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-over")
    thread.start()
    yield
    stop.set()
    thread.join()


@contextmanager
def a_blocked_signal() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    yield
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])


@contextmanager
def a_file_of_the_program() -> Iterator[None]:
    path = Path(f"/tmp/domward-leak-check-{os.getpid()}")
    path.touch()
    yield
    path.unlink()


@pytest.mark.parametrize(
    ("leave", "line"),
    [
        (an_open_pipe, "fds: left behind: "),
        (a_zombie, "(state Z)"),
        (a_thread, "python threads: left behind: "),
        (a_blocked_signal, "process: changed: SigBlk"),
        (a_file_of_the_program, "files: left behind: /tmp/domward-leak-check"),
    ],
)
def test_what_is_left_behind_is_listed(leave: Callable[[], ExitStack], line: str, tmp_path: Path) -> None:
    before = Snapshot.take(tmp_path)
    with leave():
        found = leaks(before, Snapshot.take(tmp_path))
    assert any(line in entry for entry in found), found
    assert settle(before, tmp_path) == []


def test_an_fd_closed_by_somebody_else_is_listed(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    before = Snapshot.take(tmp_path)
    os.close(fd)
    assert leaks(before, Snapshot.take(tmp_path)) == [f"fds: gone: {fd} was /dev/null"]


def test_an_fd_that_became_another_is_listed(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    before = Snapshot.take(tmp_path)
    os.close(fd)
    assert os.open("/dev/zero", os.O_RDONLY) == fd, "the lowest free number is used again"
    found = leaks(before, Snapshot.take(tmp_path))
    os.close(fd)
    assert found == [f"fds: changed: {fd} was /dev/null, is /dev/zero"]
