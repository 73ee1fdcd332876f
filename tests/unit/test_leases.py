# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases of uids: never the same one twice at once, over objects and processes, and none left by a crash."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from domward.protocol.errors import OperationFailed
from domward.supervisor.leases import UidLeases

BASE = 700_000


@pytest.fixture
def leases(tmp_path: Path) -> Iterator[UidLeases]:
    with closing(UidLeases(tmp_path / "state", BASE, 8)) as made:
        yield made


def test_a_lease_is_of_the_range_and_can_be_taken_again_after_its_release(leases: UidLeases) -> None:
    taken = {leases.acquire() for _ in range(8)}
    assert taken == set(range(BASE, BASE + 8))
    with pytest.raises(OperationFailed, match="All 8 uids"):
        leases.acquire()
    leases.release(BASE + 3)
    assert leases.acquire() == BASE + 3


def test_two_supervisors_never_have_the_same_uid(tmp_path: Path, leases: UidLeases) -> None:
    with closing(UidLeases(tmp_path / "state", BASE, 8)) as others:
        ours = {leases.acquire() for _ in range(4)}
        theirs = {others.acquire() for _ in range(4)}
        assert not ours & theirs
        for both in (leases, others):
            with pytest.raises(OperationFailed):
                both.acquire()
        leases.release(min(ours))
        assert others.acquire() == min(ours)


def test_a_crash_releases_what_a_process_had(tmp_path: Path, leases: UidLeases) -> None:
    script = (
        "import sys, time; from pathlib import Path; from domward.supervisor.leases import UidLeases\n"
        f"leases = UidLeases(Path(sys.argv[1]), {BASE}, 8)\n"
        "print(*[leases.acquire() for _ in range(5)], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = {int(uid) for uid in process.stdout.readline().split()}
        assert len(theirs) == 5
        ours = {leases.acquire() for _ in range(3)}
        assert not ours & theirs
        with pytest.raises(OperationFailed):
            leases.acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {leases.acquire() for _ in range(5)} == theirs


def test_closing_releases_everything(tmp_path: Path, leases: UidLeases) -> None:
    for _ in range(8):
        leases.acquire()
    leases.close()
    leases.close()
    with closing(UidLeases(tmp_path / "state", BASE, 8)) as others:
        assert len({others.acquire() for _ in range(8)}) == 8


def test_the_file_is_for_its_owner_only_and_stays_empty(tmp_path: Path, leases: UidLeases) -> None:
    leases.acquire()
    found = (tmp_path / "state" / "uid-leases").stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()
    assert found.st_size == 0
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) & 0o022 == 0


def test_a_symbolic_link_in_its_place_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "uid-leases").symlink_to(target)
    with pytest.raises(OperationFailed, match="cannot be opened"):
        UidLeases(tmp_path, BASE, 8)
    assert target.read_text() == "kept"


def test_a_place_that_is_no_folder_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperationFailed, match="cannot be opened"):
        UidLeases(tmp_path / "file" / "state", BASE, 8)


def test_starting_points_differ_so_that_uids_are_not_used_again_at_once(tmp_path: Path) -> None:
    with closing(UidLeases(tmp_path, BASE, 65_536)) as leases:
        first = leases.acquire()
        leases.release(first)
        assert leases.acquire() != first
