# SPDX-License-Identifier: GPL-3.0-or-later
"""Many clients at once, the bad ones among them: nothing is lost, everybody is answered, memory is bounded."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from support.daemons import OPERATORS, SECONDS, RunningDaemon, daemon, shown_by
from support.debian_kernel import DebianKernel
from support.flaky_disk import failing_from, flaky_disk
from support.load import crowd

from domward.protocol import control, limits, wire
from domward.protocol.client import Client, Screen
from domward.protocol.errors import OperationCancelled

MENU = Screen(menu_timeout=600)


def test_a_crowd_with_bad_ones_in_it_is_served(folder: Path, disk: Path, kernel: DebianKernel) -> None:
    sha256 = hashlib.sha256(kernel.vmlinuz.read_bytes()).hexdigest()
    with daemon(folder, {"operations": {"live_per_uid": 8}}) as running:
        found = crowd(running, disk, clients=10, operations=8, messages=300, sha256=sha256, quota=8)
        assert (found.completed, found.answered, found.refused) == (80, 3000, 20)
        assert found.violations > 0
        assert found.daemon_bytes < 200 * limits.MIB


def sending(end: socket.socket, count: int) -> int:
    """Sends `count` requests without reading, until the daemon takes no more; how many it took."""
    end.setblocking(False)
    for number in range(2, count + 2):
        try:
            end.send(wire.encode({"type": "list", "request": number, "finished": True}))
        except BlockingIOError:
            return number - 2
    return count


def connected(running: RunningDaemon) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.settimeout(SECONDS)
    end.connect(str(running.socket))
    end.send(wire.encode({"type": "hello", "request": 1, "version": 1, "client": "raw"}))
    assert wire.decode(end.recv(65536))["type"] == "welcome"
    return end


def test_a_client_that_does_not_read_is_read_no_more_and_then_disconnected(folder: Path) -> None:
    with daemon(folder, {"control": {"stuck_seconds": 1.0}}) as running, connected(running) as end:
        taken = 0
        with running.client() as other:
            while True:
                more = sending(end, 5000)
                taken += more
                assert other.list() == []  # the others are answered meanwhile
                if more == 0:
                    break
        assert taken < 5000
        end.settimeout(SECONDS)
        assert b"does not read: closed" in until_logged(running, b"does not read: closed")
        answers = 0
        with contextlib.suppress(ConnectionResetError):  # the daemon closed with requests of ours unread
            while end.recv(65536):
                answers += 1
        assert answers < taken


def until_logged(running: RunningDaemon, what: bytes) -> bytes:
    """The daemon's log once it has `what`."""
    with running.client() as client:
        while what not in (log := running.log.read_bytes()):
            client.list()
    return log


def test_requests_faster_than_the_rate_wait_and_are_all_answered(folder: Path) -> None:
    with daemon(folder, {"control": {"messages_per_second": 200}}) as running, running.client() as client:
        numbers = [client.send(control.List(request=number, finished=True)) for number in range(10, 250)]
        for number in numbers:
            received = client.next_of(number, SECONDS)
            assert received is not None
            assert isinstance(received.message, control.End)


def test_too_many_requests_at_once_are_refused_one_by_one(folder: Path, disk: Path) -> None:
    with daemon(folder) as running, running.client() as client, disk.open("rb") as opened:
        operation = client.run(opened.fileno(), console=MENU).operation
        first = 1000
        for number in range(first, first + limits.CONTROL_REQUESTS + 10):
            client.send(control.Wait(request=number, operation=operation))
        refused = client.next_of(first + limits.CONTROL_REQUESTS + 9, SECONDS)
        assert refused is not None
        assert isinstance(refused.message, control.CallFailed)
        assert refused.message.code == "too-many-requests"


def test_connections_of_one_user_are_limited_and_another_user_still_gets_in(folder: Path) -> None:
    with daemon(folder, {"control": {"clients_per_uid": 3}}) as running:

        def many(first: Client) -> str:
            others = [running.client() for _ in range(2)]
            try:
                running.client()
            except Exception as error:  # noqa: BLE001 - told to the test
                return str(error)
            finally:
                for other in others:
                    other.close()
            return first.welcome.server

        assert "3 connections already" in running.as_user(61_001, OPERATORS[1], many)
        assert running.as_user(61_002, OPERATORS[1], lambda client: client.list()) == []


def test_a_viewer_that_does_not_read_holds_nobody_up(folder: Path, disk: Path) -> None:
    """It gets nothing, the console goes on for the other viewer, and the operation ends as it would."""
    with daemon(folder) as running, disk.open("rb") as opened, running.client() as client, connected(running) as stuck:
        submitted = client.run(opened.fileno(), console=MENU)
        stuck.send(wire.encode({"type": "attach", "request": 2, "operation": submitted.operation}))
        console, _shown = shown_by(client, submitted.operation, b"Debian")
        for _ in range(300):
            client.keys(console, b"\x1b[B\x1b[A")
        client.keys(console, b"\r")
        with client.result(submitted) as booted:
            assert booted.kernel is not None


def test_turns_go_round_by_user(folder: Path, disk: Path) -> None:
    """One user's many operations do not come before another's one: no user has all places."""
    places = {"running": 2, "running_per_uid": 1, "live_per_uid": 64}
    with daemon(folder, {"operations": places}) as running, disk.open("rb") as opened:

        def greedy(client: Client) -> str:
            mine = [client.run(opened.fileno(), console=MENU, detached=True) for _ in range(30)]
            shown_by(client, mine[0].operation, b"Debian")
            return mine[0].operation

        first = running.as_user(61_001, OPERATORS[1], greedy)
        with running.client() as root:
            states = {info.operation: info.state for info in root.list()}
            assert states.pop(first) is control.State.RUNNING
            assert [*states.values()] == [control.State.WAITING] * 29
            running.as_user(61_002, OPERATORS[1], lambda client: client.result(client.run(opened.fileno())).close())
            root.result(root.run(opened.fileno())).close()
            assert root.show(first)[0].state is control.State.RUNNING


def test_a_disk_whose_file_server_falls_silent_holds_nobody_else_up(folder: Path, disk: Path, tmp_path: Path) -> None:
    """Neither looking at it, nor reading it, nor closing it is done where others wait for that."""
    silence = threading.Event()
    settings = {"files": {"audit_log": str(folder / "audit.log")}}
    with (
        flaky_disk(tmp_path, disk, failing_from(1 << 40), silence=silence) as silent,
        daemon(folder, settings) as running,
        running.client() as client,
        running.client() as other,
    ):
        number = os.open(silent, os.O_RDONLY)
        silence.set()
        stuck = [client.run(number) for _ in range(4)]
        with disk.open("rb") as opened:
            for _ in range(3):
                other.result(other.run(opened.fileno())).close()
            for submitted in stuck:
                client.cancel(submitted.operation)
            for submitted in stuck:
                with pytest.raises(OperationCancelled):
                    client.result(submitted)
            other.result(other.run(opened.fileno())).close()
        closing = threading.Thread(target=close, args=(number,))
        closing.start()
        silence.clear()
    closing.join()


def close(number: int) -> None:
    with contextlib.suppress(OSError):  # EIO where the file server is gone before it answers
        os.close(number)
