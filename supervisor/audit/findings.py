# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verification finds: problems, which name a file, a line and a record, and notes on what is no problem."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from pathlib import Path

from domward.protocol.records import field, frozen, mutable

from .record import Place

_MOST_PROBLEMS = 1000  # of one file that are told in full; the others are counted


class Kind(enum.Enum):
    """What is wrong."""

    CHANGED = "changed"
    MISSING = "missing"
    REPEATED = "repeated"
    OUT_OF_PLACE = "out-of-place"
    NOT_LINKED = "not-linked"
    NO_BEGINNING = "no-beginning"
    CUT_OFF = "cut-off"
    CONTRADICTED = "contradicted"
    CLOCK = "clock"
    DAMAGED = "damaged"


@frozen
class Problem:
    """One thing that is wrong; `line` and `seq` are 0 where none is concerned."""

    kind: Kind
    file: Path | None
    line: int
    seq: int
    what: str


@mutable
class FileReport:
    """What was seen of one file. `first` and `last` are the places of its first and last good records."""

    path: Path
    chain: str = ""
    host: str = ""
    machine: str = ""
    records: int = 0
    first: Place | None = None
    last: Place | None = None
    begun: str = ""
    ended: str = ""
    boots: int = 0
    rotated: bool = False
    torn: bool = False
    problems: list[Problem] = field(default_factory=list)
    untold: int = 0
    notes: list[str] = field(default_factory=list)

    def problem(self, kind: Kind, line: int, seq: int, what: str) -> None:
        """Takes note of a problem; of very many, only of their number."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(kind, self.path, line, seq, what))
        else:
            self.untold += 1


@mutable
class Verdict:
    """What was seen of all files. `problems` are those between files; each file has its own besides."""

    files: list[FileReport]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoints: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(file.problems for file in self.files)

    def all_problems(self) -> Iterator[Problem]:
        """Those of each file, then those between files."""
        for file in self.files:
            yield from file.problems
        yield from self.problems

    @property
    def count(self) -> int:
        """How many things are wrong."""
        return len(self.problems) + sum(len(file.problems) + file.untold for file in self.files)
