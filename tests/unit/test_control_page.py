# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/control-protocol.md says what the program does: its tables, its examples, its limits, who may call what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.message_tables import rows

from domward.protocol import control, limits, schema
from domward.protocol.control import Role
from domward.protocol.schema import Message
from domward.supervisor.control.calls import CALLS, may
from domward.supervisor.settings import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "control-protocol.md").read_text()
KINDS = {kind.NAME: kind for kind in (*control.REQUESTS, *control.ANSWERS)}


def sections(heading: str) -> dict[str, str]:
    part = PAGE[PAGE.index(f"## {heading}\n") :].split("\n## ", 1)[0]
    return dict(re.findall(r"^### `([a-z-]+)`\n(.*?)(?=^### |\Z)", part, re.MULTILINE | re.DOTALL))


def test_every_message_is_there_in_its_order() -> None:
    assert [*sections("What a client sends")] == [kind.NAME for kind in control.REQUESTS]
    assert [*sections("What the daemon sends")] == [kind.NAME for kind in control.ANSWERS]


@pytest.mark.parametrize("name", KINDS)
def test_the_fields_are_those_of_the_program(name: str) -> None:
    text = (sections("What a client sends") | sections("What the daemon sends"))[name]
    assert re.findall(r"^\| `([a-z0-9_]+)` \| (.*) \|$", text, re.MULTILINE) == rows(KINDS[name])


@pytest.mark.parametrize(("name", "data"), re.findall(r"^```hex ([a-z-]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_the_bytes_of_the_examples_are_such_messages(name: str, data: str) -> None:
    content = bytes.fromhex(data)
    message = schema.parse(content, (KINDS[name],))
    assert message.encode() == content


def test_there_are_examples() -> None:
    assert len(re.findall(r"^```hex", PAGE, re.MULTILINE)) >= 8


def test_last_messages_are_named_with_each_request() -> None:
    last = {kind.NAME for kind in control.LAST}
    for name, text in sections("What a client sends").items():
        if KINDS[name] not in control.UNANSWERED:
            said = re.search(r"Last(?: message)?:\s(.*?)(?:\n\n|\Z)", text, re.DOTALL)
            assert said is not None
            assert set(re.findall(r"`([a-z-]+)`", said[1])) & last, name


def test_the_table_of_roles_is_the_table_of_calls() -> None:
    table = PAGE[PAGE.index("| request | root |") : PAGE.index("Files of a result")]
    said: dict[str, list[str]] = {}
    for line in table.splitlines()[2:]:
        if line.startswith("|"):
            names, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            said |= dict.fromkeys(re.findall(r"`([a-z-]+)`", names), cells)
    assert set(said) == {kind.NAME for kind in control.REQUESTS}
    for kind, call in CALLS.items():
        for role, cell in zip((Role.ROOT, Role.OPERATOR, Role.AUDITOR), said[kind.NAME], strict=True):
            uid = 0 if role is Role.ROOT else 1000
            if kind in control.UNANSWERED:  # it names no operation: it belongs to an attach, which was let pass
                assert (cell != "no") == may(call, role, uid, None)
                continue
            owner = 2000 if "operation" in kind.FIELDS else None
            assert may(call, role, uid, owner) == (cell not in ("no", "those of the same uid")), (kind.NAME, role)
            assert may(call, role, uid, uid if owner else None) == (cell != "no"), (kind.NAME, role)


def test_every_call_has_its_row_and_every_request_its_call() -> None:
    assert tuple(CALLS) == control.REQUESTS


def test_the_limits_are_those_of_the_program() -> None:
    table = PAGE[PAGE.index("| what | limit |") : PAGE.index("No answer is ever dropped")]
    defaults = {key.name: key.default for key in KEYS if key.table in ("control", "operations")}
    for line in table.splitlines()[2:]:
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"\(`([a-z_]+)`\)", cells[0])
        numbers = [float(number) for number in re.findall(r"\d+", cells[1])]
        for name, number in zip(names, numbers, strict=bool(names)):
            assert defaults[name] == number, name
    for limit in (limits.CONTROL_REQUESTS, limits.CONTROL_QUEUE, limits.CONSOLE_BACKLOG_BYTES // limits.KIB):
        assert f"| {limit}" in table
    assert f"1 to {limits.MESSAGE_BYTES} bytes, and at most {limits.MESSAGE_FDS} file descriptors" in PAGE


def test_requests_carry_a_number_and_answers_too() -> None:
    def low(kind: type[Message]) -> str:
        return dict(rows(kind))["request"]

    assert all(low(kind).startswith("integer, 1 to") for kind in control.REQUESTS)
    assert {kind.NAME for kind in control.ANSWERS if low(kind).startswith("integer, 0 to")} == {"error"}
