# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies audit logs: every record (`file_check`), every chain across rotations and boots, and every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import printable

from .checkpoints import Checkpoints
from .file_check import FileCheck, span
from .findings import FileReport, Kind, Problem, Verdict
from .head import Checkpoint


def verify(files: Sequence[Path], checkpoints: Checkpoints | None = None) -> Verdict:
    """Verifies `files`, which may be of several chains and hosts, in any order, against `checkpoints`.

    A file's own `FILE.head` counts as well, where it is there. Raises RefusedError or OperationFailed for a file that
    cannot be read.
    """
    checkpoints = checkpoints or Checkpoints()
    for path in files:  # before the logs: a writer moves its head on meanwhile
        _read_head(path, checkpoints)
    verdict = Verdict([FileCheck(path, checkpoints).run() for path in files])
    _check_chains(verdict, checkpoints)
    return verdict


def _read_head(path: Path, checkpoints: Checkpoints) -> None:
    try:
        text = path.with_name(path.name + ".head").read_bytes()[: limits.KIB]
    except OSError:
        return
    checkpoint = Checkpoint.parse(text.decode("ascii", "replace"))
    if checkpoint is not None:
        checkpoints.add(checkpoint)


def _check_chains(verdict: Verdict, checkpoints: Checkpoints) -> None:
    chains: dict[str, list[FileReport]] = {}
    for file in verdict.files:
        if file.first is not None and file.chain:
            chains.setdefault(file.chain, []).append(file)
    for chain, files in chains.items():
        files.sort(key=lambda file: file.first.seq if file.first else 0)
        _check_links(verdict, files)
        verdict.checkpoints += len(checkpoints.of(chain))
        if files[-1].rotated:
            verdict.notes.append(f"{printable(str(files[-1].path))} goes on in a file that was not given.")
        last = max(file.last.seq for file in files if file.last)
        if checkpoints.last(chain) > last:
            between = span(last + 1, checkpoints.last(chain))
            verdict.problems.append(
                Problem(
                    Kind.CUT_OFF, files[-1].path, 0, last + 1,
                    f"{between} missing at the end of host {files[-1].host}: a checkpoint knows of them.",
                )
            )  # fmt: skip
    for chain in checkpoints.chains():
        if chain not in chains:
            verdict.problems.append(
                Problem(Kind.MISSING, None, 0, 0, f"No file has chain {chain}, of which a checkpoint knows.")
            )
    for conflict in checkpoints.conflicts:
        verdict.problems.append(
            Problem(
                Kind.CONTRADICTED, None, 0, conflict.seq,
                f"Two checkpoints differ on record {conflict.seq} of chain {conflict.chain}.",
            )
        )  # fmt: skip


def _check_links(verdict: Verdict, files: list[FileReport]) -> None:
    """Whether each of the `files` of one chain, in order, goes on where the one before ended."""
    assert files[0].first is not None
    if files[0].first.seq > 1:
        verdict.notes.append(
            f"{printable(str(files[0].path))} begins with record {files[0].first.seq}: earlier files were not given."
        )
    for before, after in pairwise(files):
        assert before.last is not None
        assert after.first is not None
        expected = before.last.seq + 1
        if after.first.seq < expected:
            same = before.first == after.first and before.last == after.last
            what = f"The file holds the same records as {printable(str(before.path))}."
            if not same:
                what = (
                    f"The file begins with record {after.first.seq}, which is in {printable(str(before.path))} as well."
                )
            verdict.problems.append(Problem(Kind.REPEATED, after.path, 1, after.first.seq, what))
        elif after.first.seq > expected:
            between = span(expected, after.first.seq - 1)
            verdict.problems.append(
                Problem(
                    Kind.MISSING, after.path, 1, expected,
                    f"{between} missing between {printable(str(before.path))} and this file, of host {after.host}.",
                )
            )  # fmt: skip
        elif after.first.prev != before.last.hash:
            what = f"The file does not follow the last record of {printable(str(before.path))}."
            verdict.problems.append(Problem(Kind.NOT_LINKED, after.path, 1, after.first.seq, what))
