# SPDX-License-Identifier: GPL-3.0-or-later
"""Choosing records, showing them, and the forms that collectors take."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.audit_logs import entry, opened, operation, records, written_log
from support.audit_schema import SCHEMA, faults, faults_of

from domward.supervisor.audit import candidates, export, summary
from domward.supervisor.audit.record import Event, Outcome
from domward.supervisor.audit.selection import Filter, Selected, select

HOSTILE = "\x1b]0;owned\x07|a=b\\c\nCEF:0|x\r\t\u202e</title>"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written_log(tmp_path / "log" / "audit.log", 20)


FILTERS: dict[str, tuple[Filter, int]] = {
    "all": (Filter(), 97),
    "operation": (Filter(operation="boot-000000000003"), 5),
    "event": (Filter(event="refusal"), 2),
    "outcome": (Filter(outcome="refused"), 4),
    "domain by name": (Filter(domain="db-1"), 96),
    "domain by id": (Filter(domain="7"), 96),
    "domain by part of a name": (Filter(domain="db"), 0),
    "actor by uid": (Filter(actor="0"), 97),
    "actor by program": (Filter(actor="/usr/bin/domward"), 97),
    "actor by another uid": (Filter(actor="11"), 0),
    "a value that stands elsewhere": (Filter(operation="/guests/3.img"), 0),
    "several": (Filter(event="completion", outcome="refused", domain="db-1"), 2),
    "since long ago": (Filter(since="2020-01-01"), 97),
    "until long ago": (Filter(until="2020"), 0),
    "domain by uuid": (Filter(domain="c0ffee00-0000-4000-8000-000000000007"), 96),
    "domain by another id": (Filter(domain="77"), 0),
    "outcome and actor": (Filter(outcome="ok", actor="/usr/bin/domward"), 93),
    "domain and event": (Filter(domain="7", event="log-opened"), 0),
    "outcome long ago": (Filter(outcome="ok", until="2020"), 0),
    "event since long ago": (Filter(event="completion", since="2020", until="2999-12-31T"), 20),
    "after its own end": (Filter(since="2999", until="2020"), 0),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_gives_exactly_what_it_asks_for(log: Path, name: str) -> None:
    wanted, count = FILTERS[name]
    found = [one.record for one in select(log, wanted)]
    assert found == [record for record in records(log) if wanted.wants(record)]
    assert len(found) == count


def test_times_are_compared_as_far_as_they_are_given(log: Path) -> None:
    times = [record["time"] for record in records(log)]
    day = times[0][:10]
    assert len([*select(log, Filter(since=day, until=day))]) == len(times)
    middle = times[40]
    assert [one.record["time"] for one in select(log, Filter(since=middle))] == [
        time for time in times if time >= middle
    ]
    until = [one.record["time"] for one in select(log, Filter(until=middle))]
    assert until == [time for time in times if time <= middle]


TIMES = st.from_regex(r"\A20[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z\Z")
BOUNDS = st.none() | st.builds(lambda time, length: time[:length], TIMES, st.integers(4, 26))


@given(times=st.lists(TIMES, max_size=20), since=BOUNDS, until=BOUNDS, near=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=100)
def test_times_are_found_by_their_bytes_as_they_are_compared(
    times: list[str], since: str | None, until: str | None, near: bool
) -> None:
    if near and times:  # bounds that share much with a time
        since, until = since and times[0][: len(since)], until and times[-1][: len(until)]
    wanted = Filter(since=since, until=until)
    content = b"".join(b'\n{"seq":%d,"time":"%b","rest' % (number, time.encode()) for number, time in enumerate(times))
    found = [match.start() for match in wanted.wish().beginning().finditer(content)]
    assert len(found) == sum(wanted.wants({"time": time}) for time in times)


def test_lines_are_found_wherever_the_buffers_end(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    path.parent.mkdir(mode=0o750)
    with opened(path) as log:
        log.append([one for number in range(500) for one in operation(number)])
    lines = path.read_bytes().splitlines(keepends=True)
    assert path.stat().st_size > 2 * candidates.BUFFER_BYTES
    longer = b'{"seq":1,' + b"x" * 2 * candidates.BUFFER_BYTES + b"\n"  # than any record
    path.write_bytes(b"".join([*lines[:900], longer, *lines[900:]]).removesuffix(b"\n"))
    assert len([*select(path, Filter())]) == len(lines)
    for number in range(0, 500, 7):
        expected = len(operation(number))
        assert len([*select(path, Filter(operation=f"boot-{number:012x}"))]) == expected
    assert len([*select(path, Filter(since="20", event="completion"))]) == 500


def test_lines_that_are_no_records_are_passed_over(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b'{"event":"refusal"}\n', b"\xff\n", *lines[3:], b'{"seq":98,"ti']))
    assert len([*select(log, Filter())]) == 97
    assert len([*select(log, Filter(event="refusal"))]) == 2


@pytest.fixture
def hostile(tmp_path: Path) -> list[Selected]:
    path = tmp_path / "hostile" / "audit.log"
    path.parent.mkdir(mode=0o750)
    with opened(path) as log:
        log.append(
            [
                entry(Event.REQUEST, HOSTILE, disk=HOSTILE, entry=HOSTILE),
                entry(Event.FAILURE, HOSTILE, Outcome.FAILED, code=HOSTILE, sentence=HOSTILE, helper=HOSTILE),
                entry(Event.RESULT, HOSTILE, kernel=HOSTILE, title=HOSTILE),
                entry(Event.HELPER_STARTED, HOSTILE, layers=HOSTILE, without=[HOSTILE]),
                entry(Event.FDS_PASSED, HOSTILE, fds=[HOSTILE, {"name": HOSTILE}]),
            ]
        )
    return [*select(path, Filter())]


def test_rows_are_printable_whatever_a_record_holds(hostile: list[Selected]) -> None:
    for one in hostile:
        row = summary.row(one.record, one.origin.host)
        assert all(" " <= character <= "~" for character in row)
        assert len(row) < 4500
    assert "\\x1b]0;owned\\x07" in summary.row(hostile[1].record)


def test_rows_say_who_did_what(log: Path) -> None:
    rows = {record["event"]: summary.row(record) for record in records(log)}
    assert "disk /guests/19.img" in rows["request"]
    assert "refused: It may not be read by this user." in rows["refusal"]
    assert "bootloader 5018 uid 1900000018, 4 layers" in rows["helper-started"]
    assert rows["completion"].endswith("domain db-1 refused")
    assert all("uid 0 pid 4711" in row for row in rows.values())


CEF = re.compile(r"CEF:0\|domward\|domward\|[^|]+\|((?:[^|\\]|\\\\|\\\|)+)\|((?:[^|\\]|\\\\|\\\|)+)\|([0-9]|10)\|(.*)")


def extension(text: str) -> dict[str, str]:
    """The pairs of CEF's last part, with what was escaped given back."""
    parts = re.split(r"(?:^| )([A-Za-z0-9]+)=", text)
    return {name: re.sub(r"\\([\\=])", r"\1", value) for name, value in zip(parts[1::2], parts[2::2], strict=True)}


def test_cef_has_its_form_and_gives_values_back(log: Path, hostile: list[Selected]) -> None:
    for one in [*select(log, Filter()), *hostile]:
        line = export.cef_line(one)
        assert all(" " <= character <= "~" for character in line)
        found = CEF.fullmatch(line)
        assert found is not None, line
        assert found[1] == one.record["event"]
        pairs = extension(found[4])
        assert (pairs["externalId"], pairs["cs2"], pairs["cs2Label"]) == (
            str(one.record["seq"]),
            one.record["hash"],
            "hash",
        )
        if one.record["operation"] is not None:
            assert pairs["cs1"] == one.record["operation"]
    assert "msg=\\\\x1b]0;owned\\\\x07|a\\=b\\\\c" in export.cef_line(hostile[2])


# Of OCSF 1.3's class API Activity, what the schema requires and what is set besides.
OCSF_TYPES: dict[str, type] = {
    "activity_id": int, "category_uid": int, "class_uid": int, "type_uid": int, "time": int, "severity_id": int,
    "metadata": dict, "actor": dict, "api": dict, "src_endpoint": dict, "status_id": int, "raw_data": str,
}  # fmt: skip


def test_ocsf_events_have_what_their_class_requires(log: Path, hostile: list[Selected]) -> None:
    for one in [*select(log, Filter()), *hostile]:
        event: dict[str, Any] = json.loads(export.ocsf_line(one))
        for name, kind in OCSF_TYPES.items():
            assert type(event[name]) is kind, name
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert (event["class_uid"], event["category_uid"]) == (6003, 6)
        assert event["metadata"]["version"] == "1.3.0"
        assert event["metadata"]["product"]["name"] == "domward"
        assert json.loads(event["raw_data"]) == one.record
        assert event["status_id"] == (1 if one.record["outcome"] == "ok" else 2)
        assert event["actor"]["user"]["uid"] == "0"


def test_every_record_of_a_log_agrees_with_the_schema(log: Path) -> None:
    assert faults_of(log) == []


def test_the_schema_is_one_and_knows_every_event_and_outcome() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["event"]["enum"] == [event.value for event in Event]
    assert schema["properties"]["outcome"]["enum"] == [outcome.value for outcome in Outcome]
    ruled = [rule["if"]["properties"]["event"]["const"] for rule in schema["allOf"]]
    assert ruled == [event.value for event in Event]


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0}, {"time": "2026-11-23"}, {"event": "other"}, {"outcome": "good"}, {"prev": "00"}, {"detail": {}},
        {"actor": {}}, {"extra": 1}, {"domain": {"name": "x"}}, {"errno": "enospc"}, {"boot": "\x1b"},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_is_no_record(log: Path, change: dict[str, Any]) -> None:
    record = next(record for record in records(log) if record["event"] == "helper-started")
    assert faults(record) == []
    assert faults(record | change) != []


def test_the_manual_page_explains_every_event_and_member_and_no_other() -> None:
    page = (SCHEMA.parents[1] / "packaging" / "man" / "domward-audit.5").read_text().replace(r"\-", "-")
    members = page[page.index(".SH MEMBERS") : page.index(".SH EVENTS")]
    events = page[page.index(".SH EVENTS") : page.index(".SH FILES")]
    assert re.findall(r"^\.TP\n\.I (\w+)$", members, re.MULTILINE) == json.loads(SCHEMA.read_text())["required"]
    assert re.findall(r"^\.TP\n\.B ([a-z-]+)$", events, re.MULTILINE) == [event.value for event in Event]


def test_the_page_on_the_log_explains_every_event_and_member() -> None:
    page = (SCHEMA.parent / "audit.md").read_text()
    for event in Event:
        assert f"| `{event.value}` |" in page
    for name in json.loads(SCHEMA.read_text())["required"]:
        assert f"`{name}`" in page


def test_an_operation_for_nobody_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "log" / "audit.log"
    path.parent.mkdir(mode=0o750)
    with opened(path) as log:
        log.append(operation(1))
    (first,) = select(path, Filter(event="log-opened"))
    assert (first.origin.chain, first.record["operation"]) == (first.record["detail"]["chain"], None)
