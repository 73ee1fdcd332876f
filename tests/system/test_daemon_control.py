# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon and its clients: what there is to ask for, who may, and that every request gets one last answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemons import AUDITORS, OPERATORS, RunningDaemon, daemon, public_folder, shown_by
from support.debian_kernel import DebianKernel
from support.guests import debian_disk, expected
from support.programs import DELIVERS, script

from domward.protocol import control, limits, wire
from domward.protocol.client import Client, DaemonGone, Screen
from domward.protocol.control import State
from domward.protocol.errors import DiskError, OperationCancelled, RefusedError, UsageError

ALICE, BOB = 61_001, 61_002
NOBODYS_GROUP = 65_534


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


@pytest.fixture
def running(folder: Path) -> Iterator[RunningDaemon]:
    with daemon(folder) as started:
        yield started


def content(fd: Any) -> bytes:
    return os.pread(fd.fileno(), 1 << 24, 0)


def test_how_a_client_gets_a_kernel(running: RunningDaemon, disk: Path, kernel: DebianKernel) -> None:
    with running.client() as client, disk.open("rb") as opened:
        steps: list[str] = []
        submitted = client.run(opened.fileno(), label="db")
        with client.result(submitted, steps.append) as booted:
            assert booted.kernel is not None
            assert booted.ramdisk is not None
            assert content(booted.kernel) == kernel.vmlinuz.read_bytes()
            assert content(booted.ramdisk) == kernel.initrd.read_bytes()
            assert booted.args == expected(debian_disk("ext4", kernel=kernel), kernel).args.encode()
        assert steps[0] == "disk"
        assert steps[-1] == "hash"
        (info,) = client.list(finished=True)
        assert (info.operation, info.label, info.uid, info.state) == (submitted.operation, "db", 0, State.DONE)
        assert info.outcome == "done"
        assert client.list() == []
        shown, taken = client.show(submitted.operation)
        assert shown.operation == info.operation
        assert [step.step for step in taken] == steps
        assert [step.sequence for step in taken] == [*range(1, len(steps) + 1)]


def test_results_cannot_be_changed_by_who_gets_them(running: RunningDaemon, disk: Path) -> None:
    with (
        running.client() as client,
        disk.open("rb") as opened,
        client.result(client.run(opened.fileno())) as booted,
    ):
        assert booted.kernel is not None
        with pytest.raises(PermissionError):
            os.pwrite(booted.kernel.fileno(), b"x", 0)


def test_inspection_gives_the_object_of_the_command(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        document = client.inspected(client.inspect(opened.fileno()))
        assert document is not None
        with document:
            found = json.loads(content(document))
        assert found["format"] == "raw"
        assert len(found["entries"]) == 5


def test_a_bad_disk_is_a_typed_failure(running: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with running.client() as client, (tmp_path / "empty").open("rb") as opened:
        submitted = client.run(opened.fileno())
        with pytest.raises(DiskError) as caught:
            client.result(submitted)
        assert caught.value.code == "disk-empty"
        assert caught.value.operation == submitted.operation


def test_a_disk_opened_for_writing_or_by_path_alone_is_refused(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client:
        for flags in (os.O_RDWR, os.O_PATH):
            number = os.open(disk, flags)
            try:
                with pytest.raises(UsageError, match="opened for reading only"):
                    client.result(client.run(number))
            finally:
                os.close(number)


def test_root_may_name_a_disk_by_its_path_and_nobody_else(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client:
        client.result(client.run(os.fsencode(disk))).close()
        with pytest.raises(UsageError, match="absolute"):
            client.run(b"relative")
    with pytest.raises(RefusedError, match="Only root"):
        running.as_user(ALICE, OPERATORS[1], lambda client: client.run(os.fsencode(disk)))


def test_an_operator_submits_with_what_the_operator_could_open(running: RunningDaemon, disk: Path) -> None:
    with disk.open("rb") as opened:

        def work(client: Client) -> tuple[str, int]:
            assert client.welcome.role is control.Role.OPERATOR
            with client.result(client.run(opened.fileno())) as booted:
                assert booted.kernel is not None
                return booted.completed.operation, len(content(booted.kernel))

        operation, size = running.as_user(ALICE, NOBODYS_GROUP, work, groups=(OPERATORS[1],))
    with running.client() as client:
        info, _steps = client.show(operation)
        assert info.uid == ALICE
    assert size == 64 * limits.KIB


def test_who_is_in_no_group_is_turned_away_unread(running: RunningDaemon) -> None:
    with pytest.raises(RefusedError, match="may not use this daemon"):
        running.as_user(ALICE, NOBODYS_GROUP, lambda client: client.list())


def test_an_auditor_sees_everything_and_changes_nothing(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=Screen(menu_timeout=600))

        def work(other: Client) -> None:
            assert other.welcome.role is control.Role.AUDITOR
            assert [info.operation for info in other.list()] == [submitted.operation]
            assert other.metrics().endswith("# EOF\n")
            other.show(submitted.operation)
            for call in (other.cancel, other.attach):
                with pytest.raises(RefusedError, match="not for auditors"):
                    call(submitted.operation)
            with pytest.raises(RefusedError, match="not for auditors"):
                other.run(opened.fileno())
            with pytest.raises(RefusedError, match="not for auditors"):
                other.reload()

        running.as_user(BOB, AUDITORS[1], work)
        client.cancel(submitted.operation)
        with pytest.raises(OperationCancelled):
            client.result(submitted)


def test_an_operator_sees_the_operations_of_others_and_cannot_touch_them(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=Screen(menu_timeout=600))

        def work(other: Client) -> str:
            assert [info.operation for info in other.list()] == [submitted.operation]
            for call in (other.cancel, other.attach, other.log):
                with pytest.raises(RefusedError, match="operations of user 0"):
                    call(submitted.operation)
            mine = other.run(opened.fileno(), console=Screen(menu_timeout=600))
            other.cancel(mine.operation)
            with pytest.raises(OperationCancelled):
                other.result(mine)
            return mine.operation

        theirs = running.as_user(ALICE, OPERATORS[1], work)
        assert client.show(theirs)[0].outcome == "cancelled"
        client.cancel(submitted.operation)
        with pytest.raises(OperationCancelled):
            client.result(submitted)


def test_row_05_several_clients_wait_and_each_owner_gets_the_files(running: RunningDaemon, disk: Path) -> None:
    with running.client() as first, running.client() as second, disk.open("rb") as opened:
        submitted = first.run(opened.fileno(), console=Screen(menu_timeout=600))
        waiting = second.wait(submitted.operation)
        leaving = running.client()
        leaving.wait(submitted.operation)
        leaving.close()
        console, _shown = shown_by(first, submitted.operation, b"Debian")
        first.keys(console, b"\r")
        for client, which in ((first, submitted), (second, waiting)):
            with client.result(which) as booted:
                assert booted.kernel is not None
        late = first.wait(submitted.operation)
        with first.result(late) as booted:
            assert booted.kernel is None
            assert booted.completed.kernel_bytes == 64 * limits.KIB


def test_an_operation_ends_with_its_client_unless_it_is_detached(running: RunningDaemon, disk: Path) -> None:
    with running.client() as watcher, disk.open("rb") as opened:
        leaving = running.client()
        attached = leaving.run(opened.fileno(), console=Screen(menu_timeout=600))
        detached = leaving.run(opened.fileno(), console=Screen(menu_timeout=600), detached=True)
        waiting = watcher.wait(attached.operation)
        leaving.close()
        with pytest.raises(OperationCancelled):
            watcher.result(waiting)
        assert [info.operation for info in watcher.list()] == [detached.operation]
        console = watcher.attach(detached.operation)
        watcher.keys(console, b"\r")
        with watcher.result(watcher.wait(detached.operation)) as booted:
            assert booted.kernel is not None
        with watcher.result(watcher.wait(detached.operation)) as again:
            assert again.kernel is not None


def test_operations_beyond_the_limit_of_a_user_are_refused_and_others_are_not(folder: Path, disk: Path) -> None:
    with daemon(folder, {"operations": {"live_per_uid": 2}}) as running, disk.open("rb") as opened:

        def greedy(client: Client) -> int:
            mine = [client.run(opened.fileno(), console=Screen(menu_timeout=600)) for _ in range(2)]
            with pytest.raises(RefusedError, match="2 operations already"):
                client.run(opened.fileno())
            # The same user's: the limit is the user's, not the connection's.
            with running.client() as other, pytest.raises(RefusedError):
                other.run(opened.fileno())
            client.cancel(mine[0].operation)
            with pytest.raises(OperationCancelled):
                client.result(mine[0])
            client.result(client.run(opened.fileno())).close()
            return len(mine)

        assert running.as_user(ALICE, OPERATORS[1], greedy) == 2
        running.as_user(BOB, OPERATORS[1], lambda client: client.result(client.run(opened.fileno())).close())


def raw(running: RunningDaemon) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.settimeout(30)
    end.connect(str(running.socket))
    return end


def hello(end: socket.socket, version: int = 1) -> None:
    end.send(wire.encode({"type": "hello", "request": 1, "version": version, "client": "raw"}))
    welcome = wire.decode(end.recv(65536))
    assert (welcome["type"], welcome["version"]) == ("welcome", 1)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"x" * 65_537,
        wire.encode({"type": "nonsense", "request": 1}),
        wire.encode({"type": "list", "request": 1}),
        wire.encode({"type": "list", "request": "1", "finished": True}),
        wire.encode({"type": "list", "request": 0, "finished": True}),
        wire.encode({"type": "welcome", "request": 1, "version": 1, "server": "", "role": "root"}),
        wire.encode({"type": "inspect", "request": 1, "path": None, "image_format": None, "seconds": 0, "label": "",
                     "detached": False}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("greeted", [False, True])
def test_what_nobody_may_send_ends_the_connection_with_a_reason(
    running: RunningDaemon, data: bytes, greeted: bool
) -> None:
    with raw(running) as end:
        if greeted:
            hello(end)
        end.send(data)
        answer = wire.decode(end.recv(65536))
        assert (answer["type"], answer["request"], answer["code"]) == ("error", 0, "protocol-violation")
        assert end.recv(65536) == b""
    with running.client() as client:
        assert 'domward_violations_total{source="client"} 1' in client.metrics()


def test_a_client_of_a_later_version_is_spoken_to_in_this_one_and_greets_once(running: RunningDaemon) -> None:
    with raw(running) as end:
        hello(end, version=7)
        end.send(wire.encode({"type": "hello", "request": 2, "version": 1, "client": "raw"}))
        assert wire.decode(end.recv(65536))["code"] == "usage"


def test_fds_that_do_not_belong_to_a_message_end_the_connection(running: RunningDaemon, disk: Path) -> None:
    with raw(running) as end, disk.open("rb") as opened:
        hello(end)
        data = wire.encode({"type": "list", "request": 2, "finished": False})
        socket.send_fds(end, [data], [opened.fileno()])
        assert wire.decode(end.recv(65536))["code"] == "protocol-violation"


def test_a_request_number_is_free_again_after_its_last_answer(running: RunningDaemon) -> None:
    with raw(running) as end:
        hello(end)
        for _ in range(3):
            end.send(wire.encode({"type": "list", "request": 7, "finished": False}))
            assert wire.decode(end.recv(65536)) == {"type": "end", "request": 7}
        end.send(wire.encode({"type": "watch", "request": 7}))
        assert wire.decode(end.recv(65536)) == {"type": "watching", "request": 7}
        end.send(wire.encode({"type": "list", "request": 7, "finished": False}))
        assert wire.decode(end.recv(65536))["code"] == "protocol-violation"


def test_there_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonGone, match="cannot be reached"):
        Client(tmp_path / "none")


def test_bootloader_programs_are_run_for_operators_by_name_and_for_root_by_path(
    running: RunningDaemon, disk: Path, tmp_path: Path
) -> None:
    program = script(tmp_path / "boot", DELIVERS)
    with running.client() as client, disk.open("rb") as opened:
        with client.result(client.run(opened.fileno(), bootloader=str(program))) as booted:
            assert booted.args == b"from a script"
            assert booted.kernel is not None
            assert content(booted.kernel) == disk.read_bytes()[:4096]
        with pytest.raises(UsageError, match="There is no bootloader nonsense"):
            client.result(client.run(opened.fileno(), bootloader="nonsense"))

        def work(other: Client) -> bytes:
            with pytest.raises(RefusedError, match="Only root may name a bootloader by its path"):
                other.run(opened.fileno(), bootloader=str(program))
            submitted = other.run(opened.fileno(), bootloader="pygrub", bootloader_args=(b"-q",))
            with other.result(submitted) as booted:
                return booted.args

        assert running.as_user(ALICE, OPERATORS[1], work).startswith(b"root=UUID=")
