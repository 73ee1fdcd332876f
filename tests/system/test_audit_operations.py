# SPDX-License-Identifier: GPL-3.0-or-later
"""What real operations leave in the audit log, before its effect, and that nothing is done without it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.audit_logs import events, records
from support.audit_schema import faults_of
from support.commands import domward
from support.planted import planted

from domward.protocol.errors import (
    AuditUnavailable,
    ConfinementUnavailable,
    DiskError,
    DomwardError,
    OperationCancelled,
    OperationTimedOut,
    ProtocolViolation,
)
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.records import replaced
from domward.protocol.schema import Message
from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor, paths
from domward.supervisor.audit.record import Actor, Domain, Event
from domward.supervisor.audit.verify import verify
from domward.supervisor.helper import Helper
from domward.supervisor.launcher import Launcher

RUN = [
    "log-opened",
    "supervisor-opened",
    "request",
    "helper-started",
    "fds-passed",
    "result",
    "completion",
    "supervisor-closed",
]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """Where a log is to be; what was then written there has to agree with the schema."""
    (tmp_path / "log").mkdir(mode=0o750)
    path = tmp_path / "log" / "audit.log"
    yield path
    assert (faults_of(path) if path.exists() else []) == []


def run(config: Config, request: BootRequest) -> Any:
    """The result of one boot in a supervisor of its own, closed; or its error."""

    async def work() -> Any:
        async with Supervisor(config) as supervisor:
            result = await supervisor.run_bootloader(request)
            result.close()
            return result

    return asyncio.run(work())


def of(log: Path, event: str) -> dict[str, Any]:
    """The one record of `event`."""
    (found,) = (record for record in records(log) if record["event"] == event)
    return found


def test_a_run_is_recorded_from_the_request_to_its_end(disk: Path, log: Path) -> None:
    asked = Actor(1000, 1001, 4711, "/usr/bin/xl", "/user.slice", 1000)
    domain = Domain(7, "c0ffee00-0000-4000-8000-000000000007", "db-1")
    result = run(Config(audit_log=log), BootRequest(disk=disk, actor=asked, domain=domain))
    assert events(log) == RUN
    assert verify([log]).whole
    for record in records(log)[2:-1]:
        assert record["operation"] == result.operation
        assert record["actor"] == asked.members()
        assert record["domain"] == domain.members()
    assert of(log, "request")["detail"]["disk"] == str(disk)
    assert of(log, "supervisor-opened")["detail"]["config"] == Config(audit_log=log).completed()
    (helper,) = result.helpers
    started = of(log, "helper-started")["detail"]
    assert (started["pid"], started["uid"], started["without"]) == (helper.pid, helper.uid, [])
    assert started["layers"] == [layer.value for layer in Layer]
    assert started["verified"] == [layer.value for layer in helper.seen]
    given = {fd["name"]: fd for fd in of(log, "fds-passed")["detail"]["fds"]}
    assert [*given] == ["disk", "kernel sink", "ramdisk sink"]
    assert (given["disk"]["kind"], given["disk"]["access"]) == ("file", "read-only")
    assert (given["disk"]["inode"], given["disk"]["mode"]) == (disk.stat().st_ino, f"{disk.stat().st_mode:06o}")
    assert given["kernel sink"]["kind"] == "memory"
    told = of(log, "result")["detail"]
    assert told["kernel"] == {"bytes": result.kernel.size, "sha256": result.kernel.sha256}
    assert told["ramdisk"]["sha256"] == result.ramdisk.sha256
    assert of(log, "completion")["outcome"] == "ok"


def test_an_actor_is_what_the_kernel_says_of_a_process() -> None:
    actor = Actor.this_process()
    assert (actor.uid, actor.gid, actor.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert actor.exe == os.readlink("/proc/self/exe")
    assert actor.cgroup.startswith("/")
    assert Actor.of_process(2**22 + 1, 5, 6) == Actor(5, 6, 2**22 + 1, "", "", None)


def test_a_console_and_an_inspection_are_recorded(disk: Path, log: Path) -> None:
    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            await supervisor.inspect(disk)
            master, slave = os.openpty()
            with Fd(master, "terminal"), Fd(slave, "its slave"):
                request = BootRequest(disk=disk, console=Console(slave, slave), menu_timeout=0)
                (await supervisor.run_bootloader(request)).close()

    asyncio.run(work())
    inspection, boot = (record["operation"] for record in records(log) if record["event"] == "request")
    of_inspection = [record for record in records(log) if record["operation"] == inspection]
    assert [record["event"] for record in of_inspection] == ["request", *RUN[3:7]]
    assert of_inspection[3]["detail"]["entries"] == 5
    of_boot = [record["event"] for record in records(log) if record["operation"] == boot]
    for event in ("fds-received", "bootloader-output"):
        assert of_boot.count(event) == 1
    kinds = [record["detail"]["kind"] for record in records(log) if record["event"] == "helper-started"]
    assert kinds == ["bootloader", "pty", "datacopier", "bootloader"]


# --- the effect comes after the record -------------------------------------------------------------------------------


def test_each_record_is_on_the_disk_before_what_it_announces(
    disk: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    synced: list[bytes] = []
    sync, send, spawn = os.fdatasync, Helper.send, Launcher.spawn

    def fdatasync(number: int) -> None:
        sync(number)
        synced[:] = [log.read_bytes()]

    def on_disk() -> str:
        return synced[0].splitlines()[-1].split(b'"event":"')[1].split(b'"')[0].decode()

    async def spawned(self: Launcher, *arguments: Any) -> Any:
        seen.append(f"spawn after {on_disk()}")
        return await spawn(self, *arguments)

    def sent(self: Helper, message: Message, fds: Sequence[Fd] = ()) -> None:
        seen.append(f"{message.NAME} after {on_disk()}")
        send(self, message, fds)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    monkeypatch.setattr(Launcher, "spawn", spawned)
    monkeypatch.setattr(Helper, "send", sent)

    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            seen.append(f"open after {on_disk()}")
            (await supervisor.run_bootloader(BootRequest(disk=disk))).close()
            seen.append(f"result after {on_disk()}")

    asyncio.run(work())
    assert seen == [
        "open after supervisor-opened",
        "spawn after request",
        "read-boot after fds-passed",
        "result after completion",
    ]


def test_records_at_once_share_a_sync(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, at_once = os.fdatasync, 6
    batches: list[int] = []

    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            asked, held = threading.Event(), threading.Event()

            def fdatasync(number: int) -> None:
                if not batches:  # the first one waits until all have asked
                    held.set()
                    assert asked.wait(30)
                batches.append(log.read_bytes().count(b"\n"))
                sync(number)

            monkeypatch.setattr(os, "fdatasync", fdatasync)
            first, *others = [supervisor.trail.record(Event.CONTROL, {"call": "test"}) for _ in range(at_once)]
            waiting = [asyncio.create_task(first)]
            await asyncio.to_thread(held.wait, 30)
            waiting += [asyncio.create_task(one) for one in others]
            await asyncio.sleep(0)  # each task has made its record
            asked.set()
            await asyncio.gather(*waiting)

    asyncio.run(work())
    assert batches[1] - batches[0] == at_once - 1
    assert len(batches) == 3  # and that of the supervisor's end
    assert verify([log]).whole


# --- nothing without a record ----------------------------------------------------------------------------------------


def test_a_supervisor_whose_log_cannot_be_opened_does_not_open(tmp_path: Path) -> None:
    config = Config(audit_log=tmp_path / "missing" / "deeper" / "audit.log")
    with pytest.raises(AuditUnavailable, match="cannot be written"):
        run(config, BootRequest(disk=tmp_path / "guest.img"))


@pytest.mark.parametrize("step", ["before", "helper", "hash"])
def test_an_operation_whose_record_cannot_be_written_goes_no_further(disk: Path, log: Path, step: str) -> None:
    given: list[str] = []

    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            operation.on_progress(lambda now: log.unlink() if now == step else None)
            operation.on_progress(given.append)
            if step == "before":
                os.unlink(log)
            with pytest.raises(AuditUnavailable, match="was deleted"):
                await operation.complete()

    asyncio.run(work())
    steps = {"before": [], "helper": ["disk", "helper"], "hash": given}
    assert given == steps[step]


def test_the_result_of_an_operation_without_a_record_is_closed(disk: Path, log: Path) -> None:
    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            before = len(os.listdir("/proc/self/fd"))
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            operation.on_progress(lambda now: log.unlink() if now == "hash" else None)
            with pytest.raises(AuditUnavailable):
                await operation.complete()
            assert len(os.listdir("/proc/self/fd")) == before - 1  # the log itself is closed as well

    asyncio.run(work())


# --- failures --------------------------------------------------------------------------------------------------------


def failure(log: Path, event: str, code: str, outcome: str) -> dict[str, Any]:
    """The record of a failure, and that the operation's end says the same."""
    found = of(log, event)
    assert (found["detail"]["code"], found["outcome"]) == (code, outcome)
    end = of(log, "completion")
    assert (end["detail"]["code"], end["outcome"]) == (code, outcome)
    assert records(log).index(found) < records(log).index(end)
    assert verify([log]).whole
    return found


def test_a_failure_is_recorded_with_its_reason(log: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        run(Config(audit_log=log), BootRequest(disk=tmp_path / "\x1b[2Jnothing.img"))
    found = failure(log, "failure", "disk-not-found", "failed")
    assert "\\x1b[2Jnothing.img" in found["detail"]["sentence"]


HELPERS: dict[str, tuple[str, type[DomwardError], tuple[str, str, str]]] = {
    "violation": (
        "channel.receive((ReadBoot,)); channel._socket.sendmsg([b'nonsense'])",
        ProtocolViolation,
        ("protocol-violation", "protocol-violation", "failed"),
    ),
    "time-out": (
        "channel.receive((ReadBoot,)); channel.receive((ReadBoot,))",
        OperationTimedOut,
        ("failure", "timed-out", "timed-out"),
    ),
}


@pytest.mark.parametrize("what", HELPERS)
def test_what_a_helper_does_wrong_is_recorded(disk: Path, log: Path, tmp_path: Path, what: str) -> None:
    body, error, expected = HELPERS[what]
    code = f"def work(channel):\n    {body}\n    return 0\n\nlauncher._RUN[HelperKind.BOOTLOADER] = work\n"
    budgets = Budgets(wall_seconds=3, term_grace_seconds=0.3)
    config = Config(audit_log=log, python=planted(tmp_path, code), budgets=budgets)
    with pytest.raises(error):
        run(config, BootRequest(disk=disk))
    found = failure(log, *expected)
    if what == "violation":
        assert found["detail"]["helper"].startswith("bootloader ")


def test_a_cancelled_operation_is_recorded(disk: Path, log: Path) -> None:
    async def work() -> None:
        async with Supervisor(Config(audit_log=log)) as supervisor:
            operation = supervisor.bootloader_operation(BootRequest(disk=disk))
            operation.on_progress(lambda _step: operation.cancel())
            with pytest.raises(OperationCancelled):
                await operation.complete()

    asyncio.run(work())
    failure(log, "failure", "cancelled", "cancelled")


def test_a_layer_that_may_be_missing_is_recorded_and_one_that_may_not_is_a_refusal(disk: Path, log: Path) -> None:
    lacking = frozenset({Layer.LANDLOCK})
    run(Config(audit_log=log, absent_layers=lacking, optional_layers=lacking), BootRequest(disk=disk))
    assert of(log, "layers-missing")["detail"] == {"layers": ["landlock"]}
    assert of(log, "helper-started")["detail"]["without"] == ["landlock"]
    with pytest.raises(ConfinementUnavailable):
        run(Config(audit_log=log, absent_layers=lacking), BootRequest(disk=disk))
    refused = of(log, "refusal")
    assert (refused["detail"]["code"], refused["outcome"]) == ("confinement-unavailable", "refused")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_records_unless_it_is_told_not_to(disk: Path, log: Path) -> None:
    host = paths.AUDIT_LOG
    before = len(records(host)) if host.exists() else 0
    assert domward("inspect", disk, "--no-audit").code == 0
    assert domward("inspect", disk, "--audit-log", log).code == 0
    assert events(log) == RUN
    assert (len(records(host)) if host.exists() else 0) == before
    assert domward("inspect", disk).code == 0
    assert len(records(host)) - before in (len(RUN), len(RUN) - 1)  # with the file's first record or without
    assert domward("audit", "verify").code == 0


def test_the_command_is_refused_where_it_cannot_record(disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = domward("run", disk, "--output-dir", out, "--audit-log", tmp_path / "no" / "such" / "folder" / "audit.log")
    assert "cannot be written: No such file or directory (ENOENT)" in ran.error("audit-unavailable")
    assert not out.exists()


# --- mirrors ---------------------------------------------------------------------------------------------------------


def test_records_and_checkpoints_reach_journald_in_its_own_protocol(
    disk: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(paths, "JOURNAL_SOCKET", tmp_path / "journal")
        run(Config(audit_log=log), BootRequest(disk=disk, domain=Domain(name="db-1")))
        journal.setblocking(False)
        got = []
        while True:
            try:
                datagram = journal.recv(1 << 20).decode("ascii")
            except BlockingIOError:
                break
            got.append(dict(line.split("=", 1) for line in datagram.splitlines()))
    assert [fields.get("DOMWARD_RECORD") for fields in got[:-1]] == log.read_text().splitlines()
    assert [fields.get("DOMWARD_EVENT") for fields in got[:-1]] == RUN
    assert all(fields["SYSLOG_IDENTIFIER"] == "domward-audit" for fields in got)
    completion = got[RUN.index("completion")]
    assert (completion["DOMWARD_OUTCOME"], completion["DOMWARD_DOMAIN_NAME"], completion["PRIORITY"]) == (
        "ok",
        "db-1",
        "6",
    )
    last = records(log)[-1]
    assert (got[-1]["DOMWARD_SEQ"], got[-1]["DOMWARD_HASH"]) == (str(last["seq"]), last["hash"])


@pytest.mark.parametrize("what", ["full", "gone"])
def test_a_journal_that_takes_nothing_stops_nothing(
    disk: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(paths, "JOURNAL_SOCKET", tmp_path / "journal")
        if what == "gone":
            journal.close()
        else:
            fill(tmp_path / "journal")
        run(Config(audit_log=log), BootRequest(disk=disk))
    assert events(log) == RUN


def fill(path: Path) -> None:
    """Sends to the socket at `path` until it takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while True:
            try:
                sender.sendto(b"x" * 1000, str(path))
            except BlockingIOError:
                return


def test_requests_with_all_that_can_be_asked_for_can_be_recorded(disk: Path, log: Path) -> None:
    request = BootRequest(disk=disk, entry=b"\xff\x00title", args=b"root=\xfe")
    with pytest.raises(DiskError):
        run(Config(audit_log=log), request)
    asked = of(log, "request")["detail"]
    assert (asked["entry"], asked["args"]) == ("\\xff\\x00title", "root=\\xfe")
    assert [*asked] == list(request.described())
    assert replaced(request, console=Console(0, 1)).described()["console"] is True
