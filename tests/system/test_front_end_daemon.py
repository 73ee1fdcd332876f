# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward-bootloader` where domwardd runs: the daemon does the work, and libxl sees no difference."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemons import RunningDaemon, daemon, helpers, public_folder, until_dead
from support.debian_kernel import DebianKernel
from support.guests import debian_disk, expected
from support.menu_terminal import DOWN, ENTER
from support.toolstacks import SECONDS, libxl

from domward.protocol.client import Client
from domward.protocol.control import OperationInfo
from domward.protocol.errors import OperationCancelled
from domward.supervisor import paths

QUIET = ("--runas=65535", "--quiet")


@contextlib.contextmanager
def the_hosts_daemon() -> Iterator[RunningDaemon]:
    """A daemon that listens where the front end looks."""
    with public_folder() as folder, daemon(folder, {"control": {"socket": paths.CONTROL_SOCKET}}) as running:
        yield running


def operations() -> list[OperationInfo]:
    with Client(paths.CONTROL_SOCKET) as client:
        return client.list(finished=True)


def test_the_daemon_does_the_work(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    with the_hosts_daemon(), libxl(tmp_path, disk, before=(*QUIET, "--args=more")) as run:
        booted = run.finish()
        (operation,) = operations()
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    assert (booted.code, booted.log, booted.left) == (0, b"", [])
    assert (booted.kernel, booted.ramdisk, booted.args) == (
        wanted.kernel,
        wanted.ramdisk,
        f"{wanted.args} more".encode(),
    )
    assert (operation.outcome, operation.console, operation.label) == ("done", False, str(disk))


def test_the_daemon_runs_a_program_as_well(disk: Path, kernel: DebianKernel, tmp_path: Path) -> None:
    with the_hosts_daemon(), libxl(tmp_path, disk, before=QUIET, bootloader_args=("--bootloader=pygrub",)) as run:
        booted = run.finish()
        (operation,) = operations()
    wanted = expected(debian_disk("ext4", kernel=kernel), kernel)
    assert (booted.code, booted.left) == (0, [])
    assert (booted.kernel, booted.ramdisk) == (wanted.kernel, wanted.ramdisk)
    assert operation.outcome == "done"


def test_the_menu_is_on_the_console(disk: Path, tmp_path: Path) -> None:
    with the_hosts_daemon(), libxl(tmp_path, disk) as run:
        run.until_shown("any key stops the count")
        run.press(DOWN)
        run.until(lambda screen: any("6.1.0-99" in row for row in screen.reversed_rows))
        run.press(ENTER)
        booted = run.finish()
        assert [operation.outcome for operation in operations()] == ["done"]
    assert (booted.code, booted.left) == (0, [])


def test_a_failure_is_told_as_without_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"\0" * 65536)
    with the_hosts_daemon(), libxl(tmp_path, tmp_path / "disk") as run:
        booted = run.finish()
    assert (booted.code, booted.answer, booted.left) == (7, b"", [])
    assert b"domward: disk-no-filesystem: " in booted.log


@pytest.mark.parametrize("how", ["domain_dies", "hang_up"])
def test_the_domain_or_the_toolstack_dies_while_the_menu_waits(how: str, disk: Path, tmp_path: Path) -> None:
    with the_hosts_daemon(), libxl(tmp_path, disk) as run:
        run.until_shown("Boot menu")
        getattr(run, how)()
        booted = run.finish()
        with Client(paths.CONTROL_SOCKET) as client, contextlib.suppress(OperationCancelled):
            client.result(client.wait(operations()[0].operation))
        assert [operation.outcome for operation in operations()] == ["cancelled"]
    assert (booted.code, booted.answer, booted.left) == (130, b"", [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_dies_while_the_menu_waits(number: signal.Signals, disk: Path, tmp_path: Path) -> None:
    with the_hosts_daemon() as running, libxl(tmp_path, disk) as run:
        run.until_shown("Boot menu")
        working = helpers()
        running.process.send_signal(number)
        booted = run.finish()  # which reads what is said, as libxl does: nobody waits for the daemon meanwhile
        running.process.wait(SECONDS)
        until_dead(working)
    paths.CONTROL_SOCKET.unlink(missing_ok=True)
    assert booted.code > 0
    assert (booted.answer, booted.left) == (b"", [])
    assert b"domward: " in booted.log


def test_a_socket_on_which_nobody_listens(disk: Path, tmp_path: Path) -> None:
    paths.CONTROL_SOCKET.parent.mkdir(exist_ok=True)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(paths.CONTROL_SOCKET))
    left.close()
    try:
        with libxl(tmp_path, disk, before=QUIET) as run:
            booted = run.finish()
    finally:
        paths.CONTROL_SOCKET.unlink()
    assert (booted.code, booted.left) == (0, [])
    assert booted.kernel
