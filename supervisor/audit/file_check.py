# SPDX-License-Identifier: GPL-3.0-or-later
"""The verification of one file: read once, line by line, in constant memory.

What is wrong is told of once, and what follows it is looked at as if it were whole. By cases, for a line that is
expected to be record N:

- record N, and its `prev` is the hash of record N-1: good
- record N with another `prev`: the record before was replaced (`not-linked`)
- a later record: those between are `missing`; an earlier one is `out-of-place` or `repeated`
- no record, or one whose hash is not its own: `changed`, unless a `log-recovered` record tells of it, or it is the end
  of the file and could be what a crash left
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from domward.protocol.errors import OperationFailed, printable

from .checkpoints import Checkpoints
from .findings import FileReport, Kind
from .log import STEP_BACK
from .reading import lines_of, open_log_file
from .record import Event, Place, place_of
from .tail import is_torn, wall_of

MEMBERS = (
    "seq", "time", "monotonic", "boot", "operation", "actor", "event", "domain", "outcome", "errno", "detail", "prev",
    "hash",
)  # fmt: skip
_TEXT_OR_NONE = (str, type(None))
_TYPES: tuple[tuple[str, type | tuple[type, ...]], ...] = (
    ("time", str),
    ("monotonic", int),
    ("boot", str),
    ("operation", _TEXT_OR_NONE),
    ("actor", dict),
    ("event", str),
    ("domain", (dict, type(None))),
    ("outcome", str),
    ("errno", _TEXT_OR_NONE),
    ("detail", dict),
)
_SEQ = re.compile(rb'\{"seq":([0-9]{1,19})[,"]')
_ROUNDING = 1000  # nanoseconds: times in records are of whole microseconds


def parsed(line: bytes) -> dict[str, Any] | None:
    """The record in `line`, its members of the right types; None where it is none."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or tuple(record) != MEMBERS:
            return None
        for name, kind in _TYPES:
            if not isinstance(record[name], kind):
                return None
        wall_of(record["time"])
        return record
    except (ValueError, RecursionError, OverflowError):
        return None


class FileCheck:
    """The verification of one file, line by line."""

    def __init__(self, path: Path, checkpoints: Checkpoints) -> None:
        self.report = FileReport(path)
        self._checkpoints = checkpoints
        self._known: dict[int, str] = {}
        self._expected: int | None = None  # the number that comes next; None before the first record
        self._hash: str | None = None  # of the record before; None where it is not known
        self._blob: list[tuple[int, int, bytes]] = []  # (line, offset, content) of what may be torn
        self._offset = 0
        self._boot = ""
        self._wall = 0
        self._monotonic = 0
        self._stepped = False

    def run(self) -> FileReport:
        """Reads the file and returns what was seen."""
        line = 0
        with open_log_file(self.report.path) as fd:
            try:
                for content in lines_of(fd):
                    line += 1
                    self._line(line, content)
                    self._offset += len(content)
            except OSError as error:
                name = printable(str(self.report.path))
                raise OperationFailed(f"{name} cannot be read: {error.strerror}.") from error
        self._end(line)
        return self.report

    def _line(self, line: int, content: bytes) -> None:
        place = place_of(content)
        if place is None:
            if content.endswith(b"\n") or place_of(content + b"\n") is None:
                self._blob.append((line, self._offset, content))
                return
            place = place_of(content + b"\n")
            assert place is not None
            self.report.torn = True
            self.report.notes.append(f"Record {place.seq}, the last one, lacks its line feed: a crash, or a cut.")
        record = parsed(content)
        if record is None:
            self.report.problem(Kind.CHANGED, line, place.seq, "The hash is right and the line is no record.")
            return
        event = record["event"]
        recovered = event == Event.LOG_RECOVERED.value
        if self._blob and not (event == Event.LOG_OPENED.value and self._blob[0][1] == 0):
            self._settle_blob(record["detail"] if recovered else None, place)
        elif recovered and not self._blob:
            self.report.problem(
                Kind.MISSING, line, place.seq, "What a crash left, of which this record tells, is not there any more."
            )
        if not self._in_order(line, place):
            return
        self._opening(line, place, record)
        self._meaning(line, place, record)

    def _settle_blob(self, recovery: dict[str, Any] | None, place: Place) -> None:
        """What came before record `place` and is no record: torn as `recovery` tells, or changed."""
        blob, self._blob = self._blob, []
        content = b"".join(piece for _, _, piece in blob)
        if recovery is not None and recovery == {
            "offset": blob[0][1],
            "bytes": len(content),
            "sha256": sha256(content).hexdigest(),
        }:
            return
        if recovery is not None:
            self.report.problem(
                Kind.CHANGED, blob[0][0], 0, f"What a crash left is not what record {place.seq} tells of it."
            )
            return
        for line, _offset, piece in blob:
            if self._expected is None:
                self._expected = max(1, place.seq - len(blob))
            seq = self._seq_in(piece)
            self.report.problem(Kind.CHANGED, line, seq, "The line is not what was written: its hash is another one.")
            # Taken for the record that was expected, so that one changed line is one problem.
            if seq in (0, self._expected) and self._expected < place.seq:
                self._expected += 1
            self._hash = None

    def _seq_in(self, piece: bytes) -> int:
        found = _SEQ.match(piece)
        return int(found[1]) if found else 0

    def _in_order(self, line: int, place: Place) -> bool:
        """Whether this record goes on from the last one, at once or after a gap; notes what is wrong."""
        report = self.report
        if self._expected is None:
            report.first = place
        elif place.seq < self._expected:
            kind, what = Kind.OUT_OF_PLACE, f"Record {place.seq} comes after record {self._expected - 1}."
            if report.last is not None and report.last == place:
                kind, what = Kind.REPEATED, f"Record {place.seq} is there twice."
            report.problem(kind, line, place.seq, what)
            return False
        elif place.seq > self._expected:
            between = span(self._expected, place.seq - 1)
            report.problem(Kind.MISSING, line, self._expected, f"{between} missing before this line.")
        elif self._hash is not None and place.prev != self._hash:
            report.problem(
                Kind.NOT_LINKED, line, place.seq, f"Record {place.seq} follows another record than the one before it."
            )
        if report.first is None:
            report.first = place
        report.last = place
        report.records += 1
        self._expected, self._hash = place.seq + 1, place.hash
        return True

    def _opening(self, line: int, place: Place, record: dict[str, Any]) -> None:
        opened = record["event"] == Event.LOG_OPENED.value
        if self.report.records > 1:
            if opened:
                self.report.problem(Kind.OUT_OF_PLACE, line, place.seq, "The file begins anew within itself.")
            return
        self.report.begun = record["time"]
        if not opened:
            self.report.problem(
                Kind.NO_BEGINNING, line, place.seq, f"The file begins with record {place.seq}: what was before is gone."
            )
            return
        detail = record["detail"]
        self.report.chain = str(detail.get("chain", ""))
        self.report.host = printable(detail.get("host", ""))
        self.report.machine = printable(detail.get("machine") or "")
        self._known = self._checkpoints.of(self.report.chain)

    def _meaning(self, line: int, place: Place, record: dict[str, Any]) -> None:
        report, event = self.report, record["event"]
        if report.rotated:
            report.problem(Kind.OUT_OF_PLACE, line, place.seq, "The file goes on after its last record.")
        report.rotated = event == Event.LOG_ROTATED.value
        report.ended = record["time"]
        self._clock(line, place, record)
        if event == Event.LOG_DAMAGED.value:
            report.problem(
                Kind.DAMAGED, line, place.seq, "When it went on, domward found that records before this were gone."
            )
        known = self._known.get(place.seq)
        if known is not None and known != place.hash:
            report.problem(Kind.CONTRADICTED, line, place.seq, f"A checkpoint has another hash of record {place.seq}.")

    def _clock(self, line: int, place: Place, record: dict[str, Any]) -> None:
        wall, monotonic, boot = wall_of(record["time"]), record["monotonic"], record["boot"]
        if boot != self._boot:
            self.report.boots += 1
        passed = monotonic - self._monotonic if boot == self._boot else 0
        told, self._stepped = self._stepped, record["event"] == Event.CLOCK_STEPPED_BACK.value
        back = bool(self._wall) and wall - self._wall - passed < -STEP_BACK - _ROUNDING
        if back and not (told or self._stepped):
            self.report.problem(
                Kind.CLOCK, line, place.seq, "The time went back, and no record before says that the clock did."
            )
        self._wall, self._monotonic, self._boot = wall, monotonic, boot

    def _end(self, line: int) -> None:
        report = self.report
        if self._blob:
            expected = self._expected if self._expected is not None else 1
            last = self._blob[-1][2]
            torn = all(is_torn(piece, expected) for _, _, piece in self._blob)
            if torn and not last.endswith(b"\n"):
                report.torn = True
                report.notes.append(f"The file ends within record {expected}: a crash while it was written, or a cut.")
            else:
                for number, _offset, piece in self._blob:
                    report.problem(Kind.CHANGED, number, self._seq_in(piece), "The line is not what was written.")
        if report.records == 0 and not report.problems:
            report.problem(Kind.NO_BEGINNING, line, 0, "The file holds no record.")


def span(first: int, last: int) -> str:
    """The records `first` to `last`, to begin a sentence."""
    return f"Record {first} is" if first == last else f"Records {first} to {last} are"
