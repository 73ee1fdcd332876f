# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten thousand mutations of an audit log, all found; and a long log, read in constant memory."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from support.audit_logs import opened, operation, written_log

from domward.supervisor.audit.verify import verify

MUTATIONS = 10_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written_log(tmp_path / "log" / "audit.log", 4)


def test_ten_thousand_mutations_are_all_found(log: Path, tmp_path: Path) -> None:
    chance = random.Random(20261123)  # the same every time
    whole = log.read_bytes()
    missed = []
    for number in range(MUTATIONS):
        mutated, what = mutation(whole, chance)
        if mutated == whole:
            continue
        log.write_bytes(mutated)
        verdict = verify([log])
        if verdict.whole and not verdict.files[0].torn:
            missed.append(f"{number}: {what}")
    assert missed == []


def mutation(whole: bytes, chance: random.Random) -> tuple[bytes, str]:
    at = chance.randrange(len(whole))
    lines = whole.splitlines(keepends=True)
    match chance.randrange(10):
        case 0:
            end = min(len(whole), at + chance.randrange(1, 2000))
            return whole[:at] + whole[end:], f"cut out {at}:{end}"
        case 1:
            return whole[:at] + chance.randbytes(chance.randrange(1, 50)) + whole[at:], f"put in at {at}"
        case 2:
            chance.shuffle(lines)
            return b"".join(lines), "shuffled"
        case 3:
            return whole[:at], f"cut off at {at}"
        case 4:
            one = chance.choice(lines)
            lines.insert(chance.randrange(len(lines) + 1), one)
            return b"".join(lines), "a line twice"
    changed = chance.choice([byte for byte in range(256) if byte != whole[at]])
    return whole[:at] + bytes([changed]) + whole[at + 1 :], f"byte {at} is {changed}"


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    path.parent.mkdir(mode=0o750)
    peaks = []
    with opened(path) as log:
        for operations in (200, 3800):
            log.append([one for number in range(operations) for one in operation(number)])
            verify([path])  # what is loaded once is loaded
            tracemalloc.start()
            try:
                assert verify([path]).whole
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert path.stat().st_size > 8 << 20
    assert peaks[1] < peaks[0] + (1 << 20)
