# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's counters, and their text in the OpenMetrics format (version 1.0.0, section "Text format").

==========================================  =========  =========================================================
family                                      type       what it counts; labels
==========================================  =========  =========================================================
domward_operations                          counter    operations that are over; kind, outcome ("done" or a code)
domward_operation_duration_seconds          histogram  from an operation's turn to its completion; kind
domward_operations_live                     gauge      operations by state: waiting, running, guest (that runs)
domward_helpers_alive                       gauge      helper processes
domward_clients                             gauge      connections
domward_refusals                            counter    calls that were refused; code
domward_violations                          counter    what broke a protocol; source: helper or client
domward_process_resident_memory_bytes       gauge      of the daemon and its launcher; process
domward_process_cpu_seconds                 counter    of both, and of all helpers that have ended; process
domward_process_open_fds                    gauge      of both; process
domward_event_loop_delay_seconds            histogram  how late the event loop came to a timer
domward_build                               info       version
==========================================  =========  =========================================================
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import domward
from domward.protocol.errors import OperationFailed, printable
from domward.protocol.fds import Fd

from .files import remove_file
from .usage import Usage

_DURATIONS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
_DELAYS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5)  # seconds
_FILE_MODE = 0o644


class Histogram:
    """Counts of values up to each of `bounds`, which rise."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts `value`, 0 or more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, family: str, labels: Mapping[str, str]) -> Iterator[str]:
        """The samples."""
        total = 0
        for bound, count in zip((*map(repr, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield _sample(f"{family}_bucket", {**labels, "le": bound}, total)
        yield _sample(f"{family}_count", labels, total)
        yield _sample(f"{family}_sum", labels, self._sum)


class Metrics:
    """All counters of one daemon. What is a state rather than a count is given when the text is made."""

    def __init__(self) -> None:
        self._operations: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, Histogram] = {}
        self._refusals: Counter[str] = Counter()
        self._violations: Counter[str] = Counter({"client": 0, "helper": 0})
        self.loop_delay = Histogram(_DELAYS)

    def operation_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """An operation is over, `seconds` after its turn came."""
        self._operations[kind, outcome] += 1
        self._durations.setdefault(kind, Histogram(_DURATIONS)).observe(max(0.0, seconds))

    def refused(self, code: str) -> None:
        """A call was refused."""
        self._refusals[code] += 1

    def violated(self, source: str) -> None:
        """A "client" or a "helper" broke the protocol."""
        self._violations[source] += 1

    def text(self, *, live: Mapping[str, int], helpers: int, clients: int, usage: Mapping[str, Usage]) -> str:
        """Everything; `live` has the operations by state, `usage` what processes take by their names."""
        lines = [
            *_family("domward_operations", "counter", "Operations that are over."),
            *(
                _sample("domward_operations_total", {"kind": kind, "outcome": outcome}, count)
                for (kind, outcome), count in sorted(self._operations.items())
            ),
            *_family("domward_operation_duration_seconds", "histogram", "From turn to completion.", "seconds"),
            *(
                line
                for kind, histogram in sorted(self._durations.items())
                for line in histogram.lines("domward_operation_duration_seconds", {"kind": kind})
            ),
            *_family("domward_operations_live", "gauge", "Operations that are not over."),
            *(_sample("domward_operations_live", {"state": state}, count) for state, count in live.items()),
            *_family("domward_helpers_alive", "gauge", "Helper processes."),
            _sample("domward_helpers_alive", {}, helpers),
            *_family("domward_clients", "gauge", "Connections to the control socket."),
            _sample("domward_clients", {}, clients),
            *_family("domward_refusals", "counter", "Calls that were refused."),
            *_counts("domward_refusals_total", "code", self._refusals.items()),
            *_family("domward_violations", "counter", "Messages that broke a protocol."),
            *_counts("domward_violations_total", "source", self._violations.items()),
            *_family("domward_process_resident_memory_bytes", "gauge", "Memory that is in RAM.", "bytes"),
            *_counts(
                "domward_process_resident_memory_bytes",
                "process",
                ((name, use.memory) for name, use in usage.items() if use.memory is not None),
            ),
            *_family("domward_process_cpu_seconds", "counter", "Processor time.", "seconds"),
            *_counts(
                "domward_process_cpu_seconds_total", "process", ((name, use.seconds) for name, use in usage.items())
            ),
            *_family("domward_process_open_fds", "gauge", "Descriptors."),
            *_counts(
                "domward_process_open_fds",
                "process",
                ((name, use.fds) for name, use in usage.items() if use.fds is not None),
            ),
            *_family("domward_event_loop_delay_seconds", "histogram", "Lateness of timers.", "seconds"),
            *self.loop_delay.lines("domward_event_loop_delay_seconds", {}),
            *_family("domward_build", "info", "The version that runs."),
            _sample("domward_build_info", {"version": domward.__version__}, 1),
            "# EOF",
        ]
        return "\n".join(lines) + "\n"


def _family(name: str, kind: str, what: str, unit: str = "") -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {what}"


def _counts(name: str, label: str, counts: Iterable[tuple[str, float]]) -> Iterator[str]:
    return (_sample(name, {label: value}, count) for value, count in sorted(counts))


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inner}}} {value}" if inner else f"{name} {value}"


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')


def write_textfile(path: Path, text: str) -> None:
    """Puts `text` into the file at `path`, whole or not at all: who reads it meanwhile gets the one before.

    For node_exporter's textfile collector, which wants names that end in ".prom". Raises OperationFailed.
    """
    temporary = f".domward-{secrets.token_hex(8)}"
    try:
        with Fd(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), "folder of metrics") as folder:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with Fd(os.open(temporary, flags, _FILE_MODE, dir_fd=folder.fileno()), "metrics") as file:
                    os.fchmod(file.fileno(), _FILE_MODE)  # whatever the umask: another user reads it
                    os.write(file.fileno(), text.encode("ascii"))
                os.rename(temporary, path.name, src_dir_fd=folder.fileno(), dst_dir_fd=folder.fileno())
            except BaseException:
                remove_file(folder, temporary)
                raise
    except OSError as error:
        raise OperationFailed(f"{printable(str(path))} cannot be written: {error.strerror}.") from error
