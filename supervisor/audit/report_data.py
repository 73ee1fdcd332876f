# SPDX-License-Identifier: GPL-3.0-or-later
"""What a report tells, gathered from the records: operations, who asked, what booted, with which confinement.

Of many records, the newest limits.AUDIT_REPORT_OPERATIONS operations are kept in full; the counts are of all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from domward.protocol import limits
from domward.protocol.records import field, mutable

from .record import Event, Outcome
from .selection import Selected
from .summary import named

UNFINISHED = "unfinished"
OUTCOMES = (*(outcome.value for outcome in Outcome), UNFINISHED)
#: What a reviewer looks at first, by its event; operations that failed or were refused are there as well.
GRAVE = (
    Event.PROTOCOL_VIOLATION.value,
    Event.REFUSAL.value,
    Event.LAYERS_MISSING.value,
    Event.LOG_DAMAGED.value,
    Event.LOG_RECOVERED.value,
    Event.CLOCK_STEPPED_BACK.value,
    Event.FAILURE.value,
)


@mutable
class OperationSeen:
    """One operation as its records tell it."""

    id: str
    host: str
    records: list[dict[str, Any]] = field(default_factory=list)

    def detail(self, event: Event) -> dict[str, Any]:
        """The detail of its first record of `event`; empty where there is none."""
        return next((one["detail"] for one in self.records if one["event"] == event.value), {})

    @property
    def outcome(self) -> str:
        """How it came out."""
        ended = (one["outcome"] for one in self.records if one["event"] == Event.COMPLETION.value)
        return next(ended, UNFINISHED)


@mutable
class Gathered:
    """All that the page shows."""

    records: int = 0
    first: str = ""
    last: str = ""
    hosts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    actors: dict[tuple[Any, ...], Counter[str]] = field(default_factory=dict)
    booted: dict[str, dict[str, Any]] = field(default_factory=dict)
    confinement: Counter[tuple[str, int, int, tuple[str, ...]]] = field(default_factory=Counter)
    operations: deque[OperationSeen] = field(default_factory=deque)
    grave: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)
    others: deque[tuple[str, dict[str, Any]]] = field(default_factory=deque)
    ends: list[tuple[str, str]] = field(default_factory=list)
    left_out: int = 0


def gather(selected: Iterable[Selected]) -> Gathered:
    """Reads all of `selected`, in the order in which they come."""
    found = Gathered(
        grave=deque(maxlen=limits.AUDIT_REPORT_OPERATIONS), others=deque(maxlen=limits.AUDIT_REPORT_OPERATIONS)
    )
    open_ones: dict[tuple[str, str], OperationSeen] = {}
    for one in selected:
        record, host = one.record, one.origin.host
        found.records += 1
        found.first = min(found.first or record["time"], record["time"])
        found.last = max(found.last, record["time"])
        found.hosts[host] += 1
        found.events[str(record["event"])] += 1
        if record["event"] in GRAVE:
            found.grave.append((host, record))
        if record["operation"] is None:
            found.others.append((host, record))
            continue
        key = (one.origin.chain, record["operation"])
        operation = open_ones.get(key)
        if operation is None:
            operation = open_ones[key] = OperationSeen(record["operation"], host)
        if len(operation.records) < limits.AUDIT_REPORT_RECORDS:
            operation.records.append(record)
        _count(found, host, record)
        if record["event"] == Event.COMPLETION.value:
            found.ends.append((record["time"], record["outcome"]))
            _keep(found, open_ones.pop(key))
    for operation in open_ones.values():
        found.ends.append((operation.records[-1]["time"], UNFINISHED))
        found.outcomes[UNFINISHED] += 1
        _keep(found, operation)
    return found


def _keep(found: Gathered, operation: OperationSeen) -> None:
    found.operations.append(operation)
    if len(found.operations) > limits.AUDIT_REPORT_OPERATIONS:
        found.operations.popleft()
        found.left_out += 1


def _count(found: Gathered, host: str, record: dict[str, Any]) -> None:
    event, detail = record["event"], record["detail"]
    if event == Event.COMPLETION.value:
        found.outcomes[record["outcome"]] += 1
        actor = record["actor"]
        who = tuple(actor.get(name) for name in ("uid", "loginuid", "exe"))
        if all(isinstance(value, str | int | None) for value in who):
            found.actors.setdefault((host, *who), Counter())[record["outcome"]] += 1
    elif event == Event.RESULT.value and isinstance(detail.get("kernel"), dict):
        digest = str(detail["kernel"].get("sha256", ""))
        seen = found.booted.setdefault(digest, {"times": 0, "domains": set(), "detail": detail, "last": ""})
        seen["times"] += 1
        seen["last"] = record["time"]
        if len(seen["domains"]) < limits.AUDIT_REPORT_RECORDS:
            seen["domains"].add(named(record["domain"]))
    elif event == Event.HELPER_STARTED.value:
        found.confinement[
            str(detail.get("kind")),
            len(_texts(detail.get("layers"))),
            len(_texts(detail.get("verified"))),
            tuple(_texts(detail.get("without"))),
        ] += 1


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def buckets(ends: list[tuple[str, str]], most: int = 60) -> Iterator[tuple[str, Counter[str]]]:
    """`ends` (time, outcome) in at most `most` equal spans of time, each with its beginning; empty ones as well."""
    if not ends:
        return
    times = sorted(ends)
    begin, end = (datetime.fromisoformat(times[place][0]) for place in (0, -1))
    span = max((end - begin) / most, timedelta(seconds=1))
    counts: dict[int, Counter[str]] = {}
    for time, outcome in times:
        place = min(int((datetime.fromisoformat(time) - begin) / span), most - 1)
        counts.setdefault(place, Counter())[outcome] += 1
    for place in range(min(most, max(counts) + 1)):
        yield (begin + place * span).strftime("%Y-%m-%d %H:%M:%S"), counts.get(place, Counter())


def worst_first(found: Gathered) -> list[tuple[str, dict[str, Any]]]:
    """The grave records: the gravest kind first, of each the newest first."""
    order = {event: place for place, event in enumerate(GRAVE)}
    newest = list(reversed(found.grave))
    return sorted(newest, key=lambda one: order[one[1]["event"]])
