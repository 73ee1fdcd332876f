# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon that is killed: no helper stays, and the next one knows what was lost."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path

import pytest
from support.daemons import RunningDaemon, daemon, helpers, shown_by, until_dead
from support.leaks import HELPER_UIDS

from domward.protocol.client import Client, DaemonGone, Screen
from domward.protocol.errors import OperationFailed, RefusedError

MENU = Screen(menu_timeout=600)
SECONDS = 30


def menu(client: Client, opened: int) -> str:
    """An operation that shows its menu and waits."""
    submitted = client.run(opened, console=MENU, label="menu")
    shown_by(client, submitted.operation, b"Debian")
    return submitted.operation


def killed(running: RunningDaemon) -> None:
    """Kills it; its launcher and every helper, one that was just being made included, end by themselves."""
    own = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    running.process.kill()
    running.process.wait()
    until_dead([int(pid) for pid in own])
    while left := helpers():
        until_dead(left)


def test_a_killed_daemon_leaves_no_helper_and_its_successor_knows_what_was_lost(folder: Path, disk: Path) -> None:
    with disk.open("rb") as opened:
        with daemon(folder) as running:
            client = running.client()
            operations = sorted(menu(client, opened.fileno()) for _ in range(3))
            assert len(helpers()) >= 6
            assert running.records() == operations
            killed(running)
            with pytest.raises(DaemonGone):
                client.list()
            client.close()
        with daemon(folder) as running, running.client() as client:
            assert running.records() == []
            assert sorted(info.operation for info in client.list(finished=True)) == operations
            for name in operations:
                info, _steps = client.show(name)
                assert (info.outcome, info.label, info.uid) == ("lost", "menu", 0)
                with pytest.raises(OperationFailed, match="died while") as caught:
                    client.result(client.wait(name))
                assert caught.value.code == "lost"
            assert 'domward_operations_total{kind="boot",outcome="lost"} 3' in client.metrics()
            client.result(client.run(opened.fileno())).close()
        with daemon(folder) as running, running.client() as client:
            assert client.list(finished=True) == []  # lost once, and told once


def test_the_audit_log_tells_what_was_lost(folder: Path, disk: Path) -> None:
    settings = {"files": {"audit_log": str(folder / "audit.log")}}
    with disk.open("rb") as opened:
        with daemon(folder, settings) as running, running.client() as client:
            operation = menu(client, opened.fileno())
            killed(running)
        with daemon(folder, settings):
            pass
    lost = [line for line in (folder / "audit.log").read_text().splitlines() if '"lost"' in line]
    assert len(lost) == 1
    assert operation in lost[0]


@pytest.mark.parametrize("delay_ms", [0, 5, 15, 30, 60])
def test_killed_at_any_moment_of_an_operation(folder: Path, disk: Path, delay_ms: int) -> None:
    with disk.open("rb") as opened:
        with daemon(folder) as running, running.client() as client:
            client.run(opened.fileno())
            select.select([], [], [], delay_ms / 1000)  # the moment is what varies here
            killed(running)
        with daemon(folder) as running, running.client() as client:
            assert {info.outcome for info in client.list(finished=True)} <= {"lost"}
            client.result(client.run(opened.fileno())).close()


def test_a_record_that_was_cut_short_still_names_its_operation(folder: Path) -> None:
    (folder / "state" / "operations").mkdir(parents=True)
    (folder / "state" / "operations" / "boot-0123456789ab").write_text('{"kind": "bo')
    (folder / "state" / "operations" / "boot-ba9876543210").write_text('{"kind": 7, "uid": -3, "label": "\x1b[2J"}')
    (folder / "state" / "operations" / "Not an id").write_text("")
    with daemon(folder) as running:
        with running.client() as client:
            found = client.list(finished=True)
            assert [info.operation for info in found] == ["boot-0123456789ab", "boot-ba9876543210"]
            assert {info.outcome for info in found} == {"lost"}
        (folder / "state" / "operations" / "Not an id").unlink()


def orphan(uid: int) -> int:
    """A process of a helper's uid that has lost its parent, and would live on."""
    near, far = os.pipe()
    if (child := os.fork()) == 0:
        pid = os.fork()
        if pid == 0:
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            os.write(far, b"%d\n" % os.getpid())
            signal.pause()
        os._exit(0)
    os.waitpid(child, 0)
    pid = int(os.read(near, 32))
    os.close(near)
    os.close(far)
    return pid


def test_a_helper_that_outlived_its_supervisor_is_ended_and_one_of_another_supervisor_is_not(
    folder: Path, disk: Path
) -> None:
    with disk.open("rb") as opened, daemon(folder) as other, other.client() as client:
        operation = menu(client, opened.fileno())
        theirs = helpers()
        lost = orphan(HELPER_UIDS[-1])
        number = os.pidfd_open(lost)
        second = folder / "second"
        second.mkdir()
        try:
            # The same leases, as all supervisors of a host have; a daemon of its own otherwise.
            (second / "state").mkdir()
            os.link(folder / "state" / "uid-leases", second / "state" / "uid-leases")
            with daemon(second) as running:
                assert select.select([number], [], [], SECONDS)[0]
                assert f"helper {lost} had outlived its supervisor" in running.log.read_text()
                assert helpers() == theirs
        finally:
            os.close(number)
        assert [info.operation for info in client.list()] == [operation]
        client.cancel(operation)
        client.next_of(client.wait(operation).request, None)


def test_there_is_one_daemon(folder: Path) -> None:
    with daemon(folder) as running:
        done = subprocess.run(running.process.args, check=False, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == RefusedError.exit_code
        assert done.stderr.startswith("domwardd: refused: Another domwardd uses ")
        with running.client() as client:
            assert client.list() == []


def test_a_socket_that_a_killed_daemon_left_is_replaced(folder: Path) -> None:
    with daemon(folder) as running:
        killed(running)
    assert (folder / "control.sock").is_socket()
    with daemon(folder) as running, running.client() as client:
        assert client.list() == []
