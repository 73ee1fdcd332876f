# SPDX-License-Identifier: GPL-3.0-or-later
"""Writers of one audit log that append, rotate, crash and come back in any order: the chain is whole afterwards."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support.audit_logs import ACTOR, operation, records

from domward.supervisor.audit.log import AuditLog
from domward.supervisor.audit.verify import verify

WRITERS = 3
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, WRITERS - 1)),
        st.tuples(st.just("close"), st.integers(0, WRITERS - 1)),
        st.tuples(st.just("tear"), st.integers(1, 900)),
        st.tuples(st.just("unwritten"), st.integers(1, 5000)),
    ),
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(STEPS, st.sampled_from([3000, 9000, 1 << 20]))
def test_whatever_writers_and_crashes_do_the_chain_is_whole(steps: list[tuple[str, int]], file_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="audit-fuzz-"))
    path = folder / "audit.log"
    writers = [AuditLog(path, ACTOR, file_bytes=file_bytes) for _ in range(WRITERS)]
    numbers = itertools.count()
    asked = 0
    try:
        for what, value in steps:
            match what:
                case "append":
                    writers[value].append(operation(next(numbers)))
                    asked += 1
                case "close":
                    writers[value].close()
                    writers[value] = AuditLog(path, ACTOR, file_bytes=file_bytes)
                case "tear" if path.exists():
                    tear(path, value)
                case "unwritten" if path.exists():
                    with path.open("ab") as file:
                        file.write(b"\0" * value)
        writers[0].append(operation(next(numbers)))
        files = [
            one for one in folder.iterdir() if one.name.startswith("audit.log") and one.suffix not in (".head", ".lock")
        ]
        verdict = verify(files)
        assert [problem.what for problem in verdict.all_problems()] == []
        assert not any(file.torn for file in verdict.files)
        events = [record["event"] for file in files for record in records(file)]
        assert events.count("request") == asked + 1
    finally:
        for writer in writers:
            writer.close()
        shutil.rmtree(folder)


def tear(path: Path, length: int) -> None:
    """Leaves the beginning of the next record, as a writer does that is killed."""
    with tempfile.TemporaryDirectory(prefix="audit-fuzz-") as other:
        copy = Path(other) / "audit.log"
        for end in ("", ".head"):
            shutil.copy(path.with_name(path.name + end), copy.with_name(copy.name + end))
        before = copy.stat().st_size
        log = AuditLog(copy, ACTOR)
        log.append(operation(0))
        log.close()
        grown = copy.read_bytes()[before:]
    # Where the copy's writer had to close or tell of an earlier crash first, that is what this one was killed in.
    first = grown if grown.startswith(b"\n") else grown[: grown.index(b"\n")]
    with path.open("ab") as file:
        file.write(first[: min(length, len(first) - 1)])
