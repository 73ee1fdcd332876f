# SPDX-License-Identifier: GPL-3.0-or-later
"""Sinks: what is sealed can never change again, and what cannot be sealed or is not as said is refused."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from domward.protocol.errors import OperationFailed, ProtocolViolation
from domward.protocol.fds import Fd
from domward.supervisor.sinks import hash_sealed, open_sink, seal

CONTENT = bytes(range(256)) * 1000
LIMIT = 1 << 20


@pytest.fixture
def sink() -> Iterator[Fd]:
    with open_sink("kernel") as made:
        os.write(made.fileno(), CONTENT)
        yield made


def test_a_sink_is_sealed_and_hashed(sink: Fd) -> None:
    seal(sink, len(CONTENT), LIMIT, "bootloader 1")
    assert hash_sealed(sink, len(CONTENT)) == hashlib.sha256(CONTENT).hexdigest()


def test_an_empty_sink_has_the_hash_of_nothing() -> None:
    with open_sink("ramdisk") as sink:
        seal(sink, 0, LIMIT, "bootloader 1")
        assert hash_sealed(sink, 0) == hashlib.sha256(b"").hexdigest()


def _write(number: int) -> None:
    os.pwrite(number, b"x", 0)


def _write_through_a_new_open_file(number: int) -> None:
    again = os.open(f"/proc/self/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.write(again, b"x")
    finally:
        os.close(again)


def _truncate_through_a_new_open_file(number: int) -> None:
    os.close(os.open(f"/proc/self/fd/{number}", os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC))


def _map(number: int) -> None:
    mmap.mmap(number, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()


def _map_a_new_open_file(number: int) -> None:
    again = os.open(f"/proc/self/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    try:
        _map(again)
    finally:
        os.close(again)


def _unseal(number: int) -> None:
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, 0x20)  # F_SEAL_EXEC: even that is too much


ATTACKS: list[Callable[[int], None]] = [
    _write,
    _write_through_a_new_open_file,
    _truncate_through_a_new_open_file,
    _map,
    _map_a_new_open_file,
    _unseal,
    lambda number: os.ftruncate(number, 0),
    lambda number: os.ftruncate(number, len(CONTENT) + 1),
    lambda number: os.posix_fallocate(number, 0, len(CONTENT) + 1),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_sealed_sink_cannot_be_changed(sink: Fd, attack: Callable[[int], None]) -> None:
    with Fd(os.dup(sink.fileno()), "what a helper might have kept") as kept:
        seal(sink, len(CONTENT), LIMIT, "bootloader 1")
        with pytest.raises(PermissionError):
            attack(kept.fileno())
        assert os.pread(sink.fileno(), LIMIT, 0) == CONTENT


def test_a_writable_mapping_that_is_left_is_a_violation(sink: Fd) -> None:
    with (
        mmap.mmap(sink.fileno(), len(CONTENT)),
        pytest.raises(ProtocolViolation, match="could not be sealed") as caught,
    ):
        seal(sink, len(CONTENT), LIMIT, "bootloader 1")
    assert caught.value.helper == "bootloader 1"
    assert caught.value.exit_code == 6


def test_a_shared_mapping_for_reading_is_one_too_since_mprotect_could_make_it_writable(sink: Fd) -> None:
    with mmap.mmap(sink.fileno(), len(CONTENT), prot=mmap.PROT_READ), pytest.raises(ProtocolViolation):
        seal(sink, len(CONTENT), LIMIT, "bootloader 1")


def test_a_private_mapping_does_no_harm(sink: Fd) -> None:
    with mmap.mmap(sink.fileno(), len(CONTENT), mmap.MAP_PRIVATE) as reading:
        reading[0] = 255
        assert reading[0] == 255
        reading[0] = CONTENT[0]
        seal(sink, len(CONTENT), LIMIT, "bootloader 1")
        assert reading[:] == CONTENT


@pytest.mark.parametrize("claimed", [0, len(CONTENT) - 1, len(CONTENT) + 1, 2**62])
def test_another_size_than_the_helper_said_is_a_violation(sink: Fd, claimed: int) -> None:
    with pytest.raises(ProtocolViolation, match="its helper said"):
        seal(sink, claimed, LIMIT, "bootloader 1")


def test_more_than_is_allowed_is_a_violation_also_where_it_was_said(sink: Fd) -> None:
    with pytest.raises(ProtocolViolation, match="are allowed"):
        seal(sink, len(CONTENT), len(CONTENT) - 1, "bootloader 1")


def test_what_cannot_be_sealed_is_a_violation() -> None:
    reader, writer = os.pipe()
    with Fd(reader, "kernel sink") as sink, Fd(writer, "writer"), pytest.raises(ProtocolViolation):
        seal(sink, 0, LIMIT, "bootloader 1")


def test_a_sink_is_not_executable_where_the_kernel_has_that_seal(sink: Fd) -> None:
    seals = fcntl.fcntl(sink.fileno(), fcntl.F_GET_SEALS)
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 3):
        pytest.skip("this kernel has no MFD_NOEXEC_SEAL")
    assert seals == 0x20
    assert os.fstat(sink.fileno()).st_mode & 0o111 == 0


def test_before_that_kernel_it_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.memfd_create

    def older(name: str, flags: int) -> int:
        if flags & 0x8:
            raise OSError(22, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "memfd_create", older)
    with open_sink("kernel") as sink:
        os.write(sink.fileno(), CONTENT)
        seal(sink, len(CONTENT), LIMIT, "bootloader 1")
        with pytest.raises(PermissionError):
            _write(sink.fileno())


def test_no_room_for_a_sink_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_name: str, _flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(OperationFailed, match="kernel sink could not be made: Too many open files"):
        open_sink("kernel")
