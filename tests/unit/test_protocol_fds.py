# SPDX-License-Identifier: GPL-3.0-or-later
"""Ownership of fds: one owner, closed once, never used after."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from domward.protocol.errors import UsageError
from domward.protocol.fds import Fd, close_all


@pytest.fixture
def number() -> Iterator[int]:
    """The number of an open fd that the test must get closed."""
    number = os.open("/dev/null", os.O_RDONLY)
    yield number
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_an_fd_is_closed_at_the_end_of_its_block(number: int) -> None:
    with Fd(number, "the disk") as fd:
        assert fd.fileno() == number
        assert repr(fd) == f"<Fd the disk {number}>"
    assert fd.closed
    assert repr(fd) == "<Fd the disk closed>"


def test_closing_twice_does_not_close_somebody_elses_fd(number: int) -> None:
    fd = Fd(number, "the disk")
    fd.close()
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == number, "the lowest free number is used again"
    fd.close()
    os.fstat(other)
    os.close(other)


@pytest.mark.parametrize("use", [Fd.fileno, Fd.detach])
def test_a_stale_number_is_never_handed_out(number: int, use: object) -> None:
    fd = Fd(number, "the disk")
    fd.close()
    with pytest.raises(UsageError, match="the disk is closed already"):
        use(fd)  # type: ignore[operator]  # one of two methods


def test_a_detached_number_is_the_callers(number: int) -> None:
    fd = Fd(number, "the disk")
    assert fd.detach() == number
    assert fd.closed
    fd.close()
    os.fstat(number)
    os.close(number)


def test_a_number_that_somebody_else_closed_does_not_raise(number: int) -> None:
    fd = Fd(number, "the disk")
    os.close(number)
    fd.close()


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(UsageError, match="must be 0 or more"):
        Fd(-1, "the disk")


def test_a_forgotten_fd_is_closed_even_where_the_warning_raises(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ResourceWarning("as with -W error")

    monkeypatch.setattr("domward.protocol.fds.warnings.warn", refuse)
    fd = Fd(number, "the disk")
    with pytest.raises(ResourceWarning):
        fd.__del__()
    assert fd.closed


def test_a_forgotten_fd_warns_with_its_name(number: int) -> None:
    fd = Fd(number, "the disk")
    with pytest.warns(ResourceWarning, match=f"unclosed <Fd the disk {number}>"):
        fd.__del__()


def test_all_are_closed_last_first(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    numbers = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    close = os.close

    def noting(number: int) -> None:
        closed.append(number)
        close(number)

    monkeypatch.setattr(os, "close", noting)
    close_all(Fd(number, "one of three") for number in numbers)
    assert closed == numbers[::-1]
