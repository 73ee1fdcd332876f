# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log on a disk: its chain, what a crash leaves, several writers, rotation, what is done underneath."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.audit_logs import ACTOR, entry, events, opened, operation, records, written_log

from domward.protocol import limits
from domward.protocol.errors import AuditUnavailable
from domward.protocol.fds import Fd
from domward.supervisor.audit import record as record_module
from domward.supervisor.audit.head import Checkpoint
from domward.supervisor.audit.log import AuditLog
from domward.supervisor.audit.record import Event
from domward.supervisor.audit.verify import verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir(mode=0o750)
    return tmp_path / "log" / "audit.log"


def test_records_form_one_chain_which_hashes_of_the_lines_show(path: Path) -> None:
    with opened(path) as log:
        log.append([entry(Event.REQUEST, disk="/guest.img"), entry(Event.COMPLETION)])
        log.append([entry(Event.REQUEST, disk="/other.img")])
    lines = path.read_bytes().splitlines()
    found = records(path)
    assert [record["seq"] for record in found] == [1, 2, 3, 4]
    assert events(path) == ["log-opened", "request", "completion", "request"]
    before = "0" * 64
    for line, record in zip(lines, found, strict=True):
        assert record["prev"] == before
        before = record["hash"]
        assert hashlib.sha256(line[: line.rindex(b',"hash":"')]).hexdigest() == before
    assert verify([path]).whole
    assert path.stat().st_mode & 0o7777 == 0o640


def test_a_record_is_printable_ascii_whatever_a_guest_put_into_it(path: Path) -> None:
    every_byte, hostile = bytes(range(256)), "\x1b[2J</script>\u202e\ud800\U0001f600\n"
    with opened(path) as log:
        log.append([entry(Event.RESULT, title=every_byte, args=hostile, inner={hostile: [every_byte]})])
    content = path.read_bytes()
    assert content.count(b"\n") == 2
    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in content)
    assert records(path)[1]["detail"]["title"].startswith("\\x00\\x01")
    assert verify([path]).whole


def test_a_record_that_is_too_large_says_so_and_keeps_its_place(path: Path) -> None:
    with opened(path) as log:
        log.append([entry(Event.RESULT, parts=["x" * limits.AUDIT_TEXT] * 20)])
    assert records(path)[1]["detail"]["left_out_bytes"] > limits.AUDIT_RECORD_BYTES
    assert verify([path]).whole


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [1, 8, 40, 300, -1])
def test_a_record_that_a_crash_tore_is_kept_and_told_of(path: Path, left: int) -> None:
    written_log(path, 2)
    whole = path.read_bytes()
    with opened(path) as log:
        log.append([entry(Event.REQUEST, "boot-torn", disk="/guest.img")])
    line = path.read_bytes()[len(whole) :]
    torn = line[: left if left > 0 else len(line) - 2]
    path.write_bytes(whole + torn)
    path.with_name("audit.log.head").unlink()
    report = verify([path])
    assert report.whole
    assert report.files[0].torn
    with opened(path) as log:
        log.append([entry(Event.REQUEST, "boot-after", disk="/guest.img")])
    content = path.read_bytes()
    assert content.startswith(whole + torn + b"\n")
    assert events(path)[-2:] == ["log-recovered", "request"]
    assert records(path)[-2]["detail"] == {
        "offset": len(whole),
        "bytes": len(torn) + 1,
        "sha256": hashlib.sha256(torn + b"\n").hexdigest(),
    }
    report = verify([path])
    assert report.whole
    assert not report.files[0].torn


def test_several_crashes_in_a_row_and_unwritten_blocks_are_kept(path: Path) -> None:
    written_log(path, 1)
    whole = path.read_bytes()
    seq = len(whole.splitlines()) + 1
    torn = b'{"seq":%d,"time":"20\n{"seq":%d,"ti' % (seq, seq) + b"\0" * 4096
    path.write_bytes(whole + torn)
    with opened(path) as log:
        log.append(operation(1))
    assert path.read_bytes().startswith(whole + torn)
    assert verify([path]).whole


def test_a_crash_in_the_first_record_of_all_is_survived(path: Path) -> None:
    path.write_bytes(b'{"seq":1,"time":"2026-1')
    path.chmod(0o640)
    with opened(path) as log:
        log.append(operation(1))
    assert events(path)[:2] == ["log-opened", "log-recovered"]
    assert verify([path]).whole


def test_a_last_record_that_lacks_only_its_line_feed_counts(path: Path) -> None:
    written_log(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert verify([path]).files[0].torn
    with opened(path) as log:
        log.append(operation(2))
    assert path.read_bytes().startswith(whole)
    assert "log-recovered" not in events(path)
    assert verify([path]).whole


DAMAGED_ENDS: dict[str, Callable[[bytes], bytes]] = {
    "another hash": lambda line: line[:-7] + b'cafe"}\n',
    "other text": lambda line: b"x" * len(line),
    "bytes after it": lambda line: line + b"\xff\xfe",
    "an empty line": lambda line: line[:0] + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGED_ENDS.values(), ids=DAMAGED_ENDS)
def test_an_end_that_no_crash_leaves_is_not_written_to(path: Path, damage: Callable[[bytes], bytes]) -> None:
    written_log(path, 2)
    lines = path.read_bytes().splitlines(keepends=True)
    content = b"".join(lines[:-1]) + damage(lines[-1])
    path.write_bytes(content)
    with opened(path) as log, pytest.raises(AuditUnavailable, match="does not end with a record"):
        log.append(operation(2))
    assert path.read_bytes() == content
    assert not verify([path]).whole


WRITER = """
import sys
from pathlib import Path
from support.audit_logs import opened, operation
with opened(Path(sys.argv[1])) as log:
    for number in range(int(sys.argv[2])):
        log.append(operation(number))
        print(number, flush=True)
"""


def start_writer(path: Path, count: int) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", WRITER, str(path), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": tests})


def test_writers_that_are_killed_leave_a_log_that_others_go_on_with(path: Path) -> None:
    confirmed = 0
    for round_ in range(6):
        with start_writer(path, 100_000) as writer:
            assert writer.stdout is not None
            for _ in range(20 + round_):
                assert writer.stdout.readline()
                confirmed += 1
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.read()
    with opened(path) as log:
        log.append(operation(0))
    assert verify([path]).whole
    assert events(path).count("request") > confirmed


# --- several writers ------------------------------------------------------------------------------------------------


def test_processes_that_write_at_once_make_one_chain(path: Path) -> None:
    writers = [start_writer(path, 25) for _ in range(4)]
    for writer in writers:
        with writer:
            writer.communicate()
        assert writer.returncode == 0
    report = verify([path])
    assert report.whole
    assert events(path).count("request") == 4 * 25


def test_a_second_daemon_is_refused_and_a_single_run_is_not(path: Path) -> None:
    with opened(path, alone=True) as daemon:
        daemon.append(operation(0))
        with opened(path, alone=True) as second, pytest.raises(AuditUnavailable, match="Another daemon writes"):
            second.append(operation(1))
        with opened(path) as run:
            run.append(operation(2))
        daemon.append(operation(3))
    with opened(path, alone=True) as next_one:
        next_one.append(operation(4))
    assert verify([path]).whole


def test_a_lock_file_that_was_removed_does_not_let_two_write_at_once(path: Path) -> None:
    with opened(path) as one, opened(path) as other:
        one.append(operation(0))
        path.with_name("audit.log.lock").unlink()
        other.append(operation(1))
        one.append(operation(2))
        other.append(operation(3))
    assert verify([path]).whole


def test_a_lock_that_nobody_gives_back_is_an_error_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUDIT_LOCK_SECONDS", 0.01)
    with opened(path) as one, opened(path) as other:
        one.append(operation(0))
        assert one._lock is not None
        with one._lock.held(), pytest.raises(AuditUnavailable, match="keeps the audit log locked"):
            other.append(operation(1))
        other.append(operation(1))


# --- rotation -------------------------------------------------------------------------------------------------------


def rotated(path: Path) -> list[Path]:
    return [*sorted(one for one in path.parent.iterdir() if one.name[10:].count(".") == 1), path]


def test_a_full_file_is_followed_by_one_that_names_its_end(path: Path) -> None:
    written_log(path, 30, file_bytes=8192)
    files = rotated(path)
    assert len(files) > 3
    for before, after in pairwise(files):
        last, first = records(before)[-1], records(after)[0]
        assert (last["event"], first["event"]) == ("log-rotated", "log-opened")
        assert last["detail"]["name"] == before.name
        assert first["detail"]["former"] == {"seq": last["seq"], "hash": last["hash"]}
        assert (first["seq"], first["prev"]) == (last["seq"] + 1, last["hash"])
    verdict = verify([*reversed(files)])
    assert verdict.whole
    assert sum(file.records for file in verdict.files) == records(path)[-1]["seq"]


def test_a_writer_goes_on_in_the_file_that_another_began(path: Path) -> None:
    with opened(path) as one, opened(path, file_bytes=1024) as other:
        one.append(operation(0))
        other.append(operation(1))
        other.append(operation(2))
        one.append(operation(3))
    assert len(rotated(path)) > 2
    assert verify(rotated(path)).whole


@pytest.mark.parametrize("left", [None, b"", b'{"seq":7,"ti'])
def test_a_writer_goes_on_after_another_was_killed_as_it_rotated(path: Path, left: bytes | None) -> None:
    with opened(path) as one:
        one.append(operation(0))
        with opened(path, file_bytes=1024) as other:
            other.append(operation(1))
        one.append(operation(2))
        with opened(path, file_bytes=1024) as other:
            other.append(operation(3))
        last = rotated(path)[-2]
        end = records(last)[-1]
        path.unlink()
        known = Checkpoint(records(last)[0]["detail"]["chain"], end["seq"], end["hash"], "2026-11-23T00:00:00.000000Z")
        path.with_name("audit.log.head").write_text(known.text())
        if left is not None:
            path.write_bytes(left)
            path.chmod(0o640)
        one.append(operation(4))
    assert verify(rotated(path)).whole
    assert "log-damaged" not in events(path)


def test_a_rotation_that_was_interrupted_is_finished(path: Path) -> None:
    written_log(path, 30, file_bytes=8192)
    last = rotated(path)[-2]
    end = records(last)[-1]
    path.unlink()
    head = path.with_name("audit.log.head")
    known = Checkpoint.parse(head.read_text())
    assert known is not None
    head.write_text(Checkpoint(known.chain, end["seq"], end["hash"], known.time).text())
    with opened(path) as log:
        log.append(operation(1))
    assert "log-damaged" not in events(path)
    assert verify(rotated(path)).whole


# --- what is done to it underneath ----------------------------------------------------------------------------------


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o640)
    copy.rename(path)


UNDERNEATH: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "was deleted"),
    "replaced": (replaced, "was replaced"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 10), "was cut short"),
    "emptied": (lambda path: os.truncate(path, 0), "was cut short"),
    "linked": (lambda path: os.link(path, path.with_name("link")), "was given another name"),
    "moved": (lambda path: path.rename(path.with_name("moved")), "was deleted"),
    "changed": (lambda path: path.write_bytes(path.read_bytes()[:-5] + b'x"}\n\n'), "was changed"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNDERNEATH)
def test_a_log_that_is_tampered_with_under_its_writer_is_refused_from_then_on(path: Path, what: str) -> None:
    act, sentence = UNDERNEATH[what]
    with opened(path) as log:
        log.append(operation(0))
        act(path)
        for number in (1, 2):
            with pytest.raises(AuditUnavailable, match=sentence):
                log.append(operation(number))


def refused_until_resumed(path: Path) -> None:
    """The log is not gone on with, and nothing is written, until somebody wants it."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with opened(path) as log:
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="ended with record 16 of chain") as caught:
                log.append(operation(0))
            assert "domward audit resume" in caught.value.advice
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    with opened(path) as log:
        assert "log-damaged" in [one.event.value for one in log.resume()]
    with opened(path) as log:
        assert log.resume() == []
    written_log(path, 1)


def test_a_log_that_was_deleted_between_runs_is_refused_until_it_is_resumed(path: Path) -> None:
    written_log(path, 3)
    last = records(path)[-1]
    path.unlink()
    refused_until_resumed(path)
    assert events(path)[:2] == ["log-opened", "log-damaged"]
    first, damaged = records(path)[:2]
    assert (first["seq"], first["prev"]) == (last["seq"] + 1, last["hash"])
    assert damaged["detail"] == {"expected": {"seq": last["seq"], "hash": last["hash"]}, "found": None}
    assert damaged["actor"]["uid"] == 0
    assert "damaged" in [problem.kind.value for problem in verify([path]).all_problems()]


def test_a_tail_that_was_cut_between_runs_is_refused_until_it_is_resumed(path: Path) -> None:
    written_log(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]))
    assert [problem.kind.value for problem in verify([path]).all_problems()] == ["cut-off"]
    refused_until_resumed(path)
    assert "log-damaged" in events(path)
    assert not verify([path]).whole


def test_a_log_that_was_emptied_between_runs_is_refused_until_it_is_resumed(path: Path) -> None:
    written_log(path, 3)
    path.write_bytes(b"")
    refused_until_resumed(path)
    assert events(path)[:2] == ["log-opened", "log-damaged"]


def test_a_position_that_was_kept_elsewhere_finds_a_log_that_was_replaced_with_its_head(path: Path) -> None:
    with Fd(os.memfd_create("position"), "position") as position:

        def log() -> AuditLog:
            return AuditLog(path, ACTOR, position=position)

        path.parent.mkdir(mode=0o750, exist_ok=True)
        for number in range(2):
            with contextlib.closing(log()) as first:
                first.append(operation(number))
        written_log(path, 1)  # somebody else's records, after which it goes on
        with contextlib.closing(log()) as again:
            again.append(operation(3))
        for file in path.parent.iterdir():
            file.unlink()
        with contextlib.closing(log()) as gone, pytest.raises(AuditUnavailable, match="and now it is gone"):
            gone.append(operation(4))
        written_log(path, 30)
        with contextlib.closing(log()) as other, pytest.raises(AuditUnavailable, match="now it ends with") as caught:
            other.append(operation(4))
        assert "systemctl stop" in caught.value.advice  # nothing else knows of it


@pytest.mark.parametrize("kind", ["link", "folder", "fifo", "writable", "hard-link"])
def test_what_is_no_file_of_ours_is_not_written_to(path: Path, kind: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o640)
    match kind:
        case "link":
            path.symlink_to(other)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path, 0o640)
        case "writable":
            path.write_text("")
            path.chmod(0o666)
        case "hard-link":
            path.hardlink_to(other)
    with opened(path) as log, pytest.raises(AuditUnavailable):
        log.append(operation(0))
    assert other.read_text() == ""


def test_a_folder_that_others_can_write_to_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with opened(path) as log, pytest.raises(AuditUnavailable, match="can be written by others"):
        log.append(operation(0))
    assert [*path.parent.iterdir()] == []


# --- the disk and the clock -----------------------------------------------------------------------------------------


def test_a_disk_that_does_not_confirm_ends_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as log:
        log.append(operation(0))
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", failing)
            with pytest.raises(AuditUnavailable, match=r"\(EIO\)"):
                log.append(operation(1))
        with pytest.raises(AuditUnavailable, match=r"\(EIO\)"):  # nobody knows what the disk holds
            log.append(operation(2))


def failing(_fd: int) -> Any:
    raise OSError(5, os.strerror(5))


def test_a_clock_that_goes_back_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = record_module.time.time_ns()
    with opened(path) as log:
        log.append([entry(Event.REQUEST)])
        with monkeypatch.context() as earlier:
            earlier.setattr(record_module.time, "time_ns", lambda: now - 3600 * 10**9)
            log.append([entry(Event.COMPLETION)])
    assert events(path) == ["log-opened", "request", "clock-stepped-back", "completion"]
    assert verify([path]).whole


def test_a_clock_that_went_back_over_a_restart_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_log(path, 1)
    now = record_module.time.time_ns()
    with monkeypatch.context() as earlier, opened(path) as log:
        earlier.setattr(record_module.time, "time_ns", lambda: now - 86_400 * 10**9)
        log.append([entry(Event.REQUEST)])
    assert events(path)[-2:] == ["clock-stepped-back", "request"]
    assert verify([path]).whole
