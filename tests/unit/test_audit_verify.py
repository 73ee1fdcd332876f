# SPDX-License-Identifier: GPL-3.0-or-later
"""What `domward audit verify` finds: whatever was done to a log, named by file, line and record."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.audit_logs import records, written_log

from domward.supervisor.audit.checkpoints import Checkpoints
from domward.supervisor.audit.findings import Kind, Verdict
from domward.supervisor.audit.head import Checkpoint
from domward.supervisor.audit.journal import checkpoint_fields, datagram, record_fields
from domward.supervisor.audit.kernel_audit import checkpoint_text
from domward.supervisor.audit.record import place_of
from domward.supervisor.audit.verify import verify


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written_log(tmp_path / "log" / "audit.log", 4)


def found(verdict: Verdict) -> list[tuple[str, int, int]]:
    return [(problem.kind.value, problem.line, problem.seq) for problem in verdict.all_problems()]


def test_a_whole_log_is_whole(log: Path) -> None:
    verdict = verify([log])
    assert verdict.whole
    (file,) = verdict.files
    assert (file.records, file.boots, file.torn, file.notes) == (len(records(log)), 2, False, [])
    assert verdict.checkpoints == 1  # the head file


LINES = list[bytes]
STRUCTURAL: dict[str, tuple[Callable[[LINES], LINES], list[tuple[str, int, int]]]] = {
    "one removed": (lambda x: x[:4] + x[5:], [("missing", 5, 5)]),
    "three removed": (lambda x: x[:4] + x[7:], [("missing", 5, 5)]),
    "the first removed": (lambda x: x[1:], [("no-beginning", 1, 2), ("missing", 0, 0)]),
    "the last removed": (lambda x: x[:-1], [("cut-off", 0, 21)]),
    "ten removed at the end": (lambda x: x[:-10], [("cut-off", 0, 12)]),
    "two swapped": (lambda x: [*x[:4], x[5], x[4], *x[6:]], [("missing", 5, 5), ("out-of-place", 6, 5)]),
    "one twice": (lambda x: [*x[:5], x[4], *x[5:]], [("repeated", 6, 5)]),
    "an old one again": (lambda x: [*x[:8], x[4], *x[8:]], [("out-of-place", 9, 5)]),
    "a line put in": (lambda x: [*x[:5], b"{}\n", *x[5:]], [("changed", 6, 0)]),
    "an empty line put in": (lambda x: [*x[:5], b"\n", *x[5:]], [("changed", 6, 0)]),
    "one changed": (lambda x: [*x[:5], x[5].replace(b'"uid":0', b'"uid":9'), *x[6:]], [("changed", 6, 6)]),
    "two changed": (
        lambda x: [*x[:5], *(one.replace(b'"uid":0', b'"uid":9') for one in x[5:7]), *x[7:]],
        [("changed", 6, 6), ("changed", 7, 7)],
    ),
    "two joined": (lambda x: [*x[:5], x[5][:-1], *x[6:]], [("changed", 6, 6), ("missing", 7, 7)]),
    "all removed": (lambda _x: [], [("no-beginning", 0, 0), ("missing", 0, 0)]),
}  # fmt: skip


@pytest.mark.parametrize("what", STRUCTURAL)
def test_what_was_done_to_a_log_is_named(log: Path, what: str) -> None:
    change, expected = STRUCTURAL[what]
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 21
    log.write_bytes(b"".join(change(lines)))
    assert found(verify([log])) == expected


def forged(lines: LINES, number: int, change: Callable[[bytes], bytes]) -> LINES:
    """Changes a line and gives it and all after it right hashes again, as who knows the format can."""
    from hashlib import sha256

    made: LINES = []
    before = b""
    for place, line in enumerate(lines):
        if place == number:
            line = change(line)
        head = line[: line.rindex(b',"prev":"')] + b',"prev":"'
        old = line[len(head) : len(head) + 64]
        content = head + (before or old) + b'"'
        before = sha256(content).hexdigest().encode()
        made.append(content + b',"hash":"' + before + b'"}\n')
    return made


def test_a_chain_that_was_computed_anew_is_contradicted_by_the_checkpoints(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(forged(lines, 6, lambda line: line.replace(b'"uid":0', b'"uid":9'))))
    assert found(verify([log])) == [("contradicted", 21, 21)]
    log.with_name("audit.log.head").unlink()
    assert verify([log]).whole  # nothing but a checkpoint can tell


def test_a_record_of_another_log_that_was_put_in_is_found(log: Path, tmp_path: Path) -> None:
    other = written_log(tmp_path / "other" / "audit.log", 4).read_bytes().splitlines(keepends=True)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:6], other[6], *lines[7:]]))
    assert found(verify([log])) == [("not-linked", 7, 7), ("not-linked", 8, 8)]


# --- several files --------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five files of one chain, oldest first."""
    path = written_log(tmp_path / "log" / "audit.log", 20, file_bytes=12_000)
    rotated = sorted(one for one in path.parent.iterdir() if one.name[10:].count(".") == 1)
    assert len(rotated) >= 4
    return [*rotated, path]


def test_files_of_one_chain_are_whole_in_any_order(files: list[Path]) -> None:
    random.Random(5).shuffle(files)
    assert verify(files).whole


def test_a_file_that_is_missing_between_others_is_named(files: list[Path]) -> None:
    first, last = (records(files[2])[place]["seq"] for place in (0, -1))
    verdict = verify([*files[:2], *files[3:]])
    assert found(verdict) == [("missing", 1, first)]
    (problem,) = verdict.problems
    assert problem.file == files[3]
    assert f"Records {first} to {last} are missing" in problem.what


def test_the_oldest_files_may_be_gone_and_the_newest_may_not(files: list[Path]) -> None:
    verdict = verify(files[1:])
    assert verdict.whole
    assert any("earlier files were not given" in note for note in verdict.notes)
    verdict = verify(files[:-1])
    assert any("goes on in a file that was not given" in note for note in verdict.notes)
    checkpoints = Checkpoints()
    checkpoints.add_lines([files[-1].with_name("audit.log.head").read_text()])
    assert [kind for kind, _, _ in found(verify(files[:-1], checkpoints))] == ["cut-off"]


def test_a_file_that_is_there_twice_is_named(files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(files[1].read_bytes())
    assert [kind for kind, _, _ in found(verify([*files, copy]))] == ["repeated"]


def test_a_file_whose_end_was_cut_at_a_record_is_named_by_the_next(files: list[Path]) -> None:
    lines = files[1].read_bytes().splitlines(keepends=True)
    files[1].write_bytes(b"".join(lines[:-2]))
    assert [kind for kind, _, _ in found(verify(files))] == ["missing"]


def test_logs_of_several_hosts_are_told_apart(log: Path, tmp_path: Path) -> None:
    other = written_log(tmp_path / "other" / "audit.log", 3)
    lines = other.read_bytes().splitlines(keepends=True)
    other.write_bytes(b"".join(lines[:-1]))
    verdict = verify([log, other])
    assert not verdict.files[0].problems
    assert found(verdict) == [("cut-off", 0, len(lines))]
    assert verdict.problems[0].file == other


# --- checkpoints ----------------------------------------------------------------------------------------------------


def exported(log: Path) -> dict[str, str]:
    """The last record of `log` as a checkpoint, in each form that is taken."""
    lines = log.read_bytes().splitlines(keepends=True)
    chain, place = records(log)[0]["detail"]["chain"], place_of(lines[-1])
    assert place is not None
    checkpoint = Checkpoint(chain, place.seq, place.hash, "2026-11-23T00:00:00.000000Z")
    fields = checkpoint_fields(checkpoint)
    return {
        "own": checkpoint.text() + "\n",
        "journal json": json.dumps(fields) + "\n",
        "journal export": datagram(fields).decode() + "\n",
        "journal record": json.dumps(record_fields(lines[-1], chain)) + "\n",
        "kernel": f"type=VIRT_CONTROL msg=audit(1795.1:7): pid=1 msg='{checkpoint_text(checkpoint)}'\n",
    }


@pytest.mark.parametrize("form", ["own", "journal json", "journal export", "journal record", "kernel"])
def test_a_cut_is_found_by_a_checkpoint_of_each_form(log: Path, form: str) -> None:
    text = exported(log)[form]
    log.with_name("audit.log.head").unlink()
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert verify([log]).whole
    checkpoints = Checkpoints()
    assert checkpoints.add_lines(["-- some other line --\n", *text.splitlines(keepends=True)]) == 1
    assert found(verify([log], checkpoints)) == [("cut-off", 0, 21)]


def test_checkpoints_that_differ_and_chains_that_nobody_has_are_told_of(log: Path) -> None:
    checkpoints = Checkpoints()
    chain = records(log)[0]["detail"]["chain"]
    for digest in ("aa" * 32, "bb" * 32):
        checkpoints.add(Checkpoint(chain, 3, digest, "-"))
    checkpoints.add(Checkpoint("cc" * 16, 3, "aa" * 32, "-"))
    kinds = [kind for kind, _, _ in found(verify([log], checkpoints))]
    assert kinds == [Kind.CONTRADICTED.value, Kind.MISSING.value, Kind.CONTRADICTED.value]


def test_very_many_checkpoints_are_thinned_out_and_the_last_one_stays() -> None:
    checkpoints = Checkpoints()
    for seq in range(1, 70_001):
        checkpoints.add(Checkpoint("ab" * 16, seq, f"{seq:064x}", "-"))
    assert len(checkpoints.of("ab" * 16)) < 66_000
    assert checkpoints.last("ab" * 16) == 70_000
    assert 70_000 in checkpoints.of("ab" * 16)


# --- hostile files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 300_000,
        b"x" * 300_000,
        b"[" * 100_000,
        b"\xff\n" * 5000,
        b'{"seq":' + b"9" * 5000 + b"}\n",
        b'{"seq":1,"time":"x"}\n' * 2000,
    ],
)
def test_a_file_that_is_no_log_is_told_of_and_never_an_exception(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "audit.log"
    path.write_bytes(content)
    assert not verify([path]).whole


@pytest.mark.parametrize(
    ("name", "value"),
    [("time", "x"), ("time", 5), ("detail", []), ("actor", None), ("event", {}), ("monotonic", "x"), ("domain", 1)],
)
def test_a_record_with_members_of_wrong_types_and_a_right_hash_is_no_record(
    log: Path, name: str, value: object
) -> None:
    def change(line: bytes) -> bytes:
        record = json.loads(line)
        return json.dumps(record | {name: value}, separators=(",", ":")).encode() + b"\n"

    lines = forged(log.read_bytes().splitlines(keepends=True), 6, change)
    log.with_name("audit.log.head").unlink()
    log.write_bytes(b"".join(lines))
    assert ("changed", 7, 7) in found(verify([log]))
