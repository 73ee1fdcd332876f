# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message class: what it declares arrives as it was sent, and nothing else is taken.

The valid and the wrong values are made from the checks that the classes declare, so a new class is covered at once.
"""

from __future__ import annotations

import enum
import inspect
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domward.protocol import limits, messages, schema, wire
from domward.protocol.errors import ProtocolViolation
from domward.protocol.schema import Message, parse

CLASSES = sorted(
    {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)} - {Message},
    key=lambda kind: kind.NAME,
)
FIELDS = [(kind, name) for kind in CLASSES for name in kind.FIELDS]


def declared(check: schema.Check) -> tuple[str, dict[str, Any]]:
    """The name of the function in `schema` that made a check, and the bounds it was given."""
    return check.__qualname__.split(".")[0], dict(inspect.getclosurevars(check).nonlocals)


def values(check: schema.Check) -> st.SearchStrategy[Any]:
    """Values that the check takes, the longest and the extreme ones among them."""
    maker, bounds = declared(check)
    match maker:
        case "_integer":
            ends = st.sampled_from([bounds["low"], bounds["high"]])
            return ends | st.integers(bounds["low"], bounds["high"])
        case "_text":
            return st.just("x" * bounds["longest"]) | st.text(max_size=min(bounds["longest"] // 4, 100))
        case "_data":
            return st.just(b"\xff" * bounds["longest"]) | st.binary(max_size=min(bounds["longest"], 100))
        case "_boolean":
            return st.booleans()
        case "_one_of":
            return st.sampled_from(bounds["kind"])
        case "_several":
            return st.lists(values(bounds["item"]), max_size=bounds["most"]).map(tuple)
        case "_optional":
            return st.none() | values(bounds["inner"])
    raise AssertionError(f"the tests do not know the check {maker}")


ALIEN = [None, True, 1, 1.5, "x", b"x", [1.5], {"x": 1}]
KINDS = {"_integer": (1,), "_text": ("x",), "_data": (b"x",), "_boolean": (True,), "_one_of": (), "_several": ()}


def wrong(check: schema.Check) -> list[Any]:
    """Values, as they come off the wire, that the check must refuse."""
    maker, bounds = declared(check)
    if maker == "_optional":
        return [value for value in wrong(bounds["inner"]) if value is not None]
    alien = [value for value in ALIEN if not any(value is known for known in KINDS[maker])]
    match maker:
        case "_integer":
            return [*alien, bounds["low"] - 1, bounds["high"] + 1]
        case "_text":
            return [*alien, "x" * (bounds["longest"] + 1), "\u00e9" * (bounds["longest"] // 2 + 1)]
        case "_data":
            return [*alien, b"x" * (bounds["longest"] + 1)]
        case "_one_of":
            return [*alien, "", next(iter(bounds["kind"])).name + "?"]
        case "_several":
            one = plain(least(bounds["item"]))
            return [*alien, [one] * (bounds["most"] + 1), *([item] for item in wrong(bounds["item"]))]
    return alien


def least(check: schema.Check) -> Any:
    """The smallest value that the check takes."""
    maker, bounds = declared(check)
    if maker == "_integer":
        return bounds["low"]
    if maker == "_one_of":
        return next(iter(bounds["kind"]))
    return {"_text": "", "_data": b"", "_boolean": False, "_several": (), "_optional": None}[maker]


def plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def smallest(kind: type[Message]) -> dict[str, Any]:
    return {name: least(check) for name, check in kind.FIELDS.items()}


def packed(kind: type[Message], fields: dict[str, Any]) -> bytes:
    """What a sender without checks would send."""
    data: bytes = msgpack.packb({wire.type_key: kind.NAME} | {name: plain(value) for name, value in fields.items()})
    return data


@st.composite
def any_message(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(CLASSES))
    return kind(**{name: draw(values(check)) for name, check in kind.FIELDS.items()})


def test_names_are_unique_and_there_are_messages() -> None:
    assert len({kind.NAME for kind in CLASSES}) == len(CLASSES) > 20
    assert all(kind.NAME for kind in CLASSES)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(any_message())
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    data = message.encode()
    assert len(data) <= limits.MESSAGE_BYTES
    assert parse(data, CLASSES) == message
    assert 0 <= message.fd_count() <= limits.MESSAGE_FDS


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.NAME)
def test_the_largest_message_of_each_class_can_be_sent(kind: type[Message]) -> None:
    def most(check: schema.Check) -> Any:
        maker, bounds = declared(check)
        match maker:
            case "_integer":
                return bounds["high"]
            case "_text":
                return "x" * bounds["longest"]
            case "_data":
                return b"x" * bounds["longest"]
            case "_several":
                return (most(bounds["item"]),) * bounds["most"]
            case "_optional":
                return most(bounds["inner"])
        return least(check)

    message = kind(**{name: most(check) for name, check in kind.FIELDS.items()})
    assert parse(message.encode(), [kind]) == message


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "NAME", value))
def test_a_wrong_value_is_refused_in_every_field_on_both_sides(kind: type[Message], field: str) -> None:
    fields = smallest(kind)
    assert parse(packed(kind, fields), [kind]) == kind(**fields)
    check = kind.FIELDS[field]
    for value in wrong(check):
        with pytest.raises(ProtocolViolation, match=field):
            parse(packed(kind, fields | {field: value}), [kind])
        with pytest.raises(ProtocolViolation, match=field):
            kind(**fields | {field: value})


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=lambda value: getattr(value, "NAME", value))
def test_a_missing_field_is_refused(kind: type[Message], field: str) -> None:
    fields = smallest(kind)
    del fields[field]
    with pytest.raises(ProtocolViolation, match=f"'{field}' is missing or unknown"):
        parse(packed(kind, fields), [kind])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.NAME)
def test_an_unknown_field_is_refused(kind: type[Message]) -> None:
    with pytest.raises(ProtocolViolation, match="'more' is missing or unknown"):
        parse(packed(kind, smallest(kind) | {"more": 1}), [kind])


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.NAME)
def test_a_message_is_refused_where_another_is_due(kind: type[Message]) -> None:
    data = packed(kind, smallest(kind))
    with pytest.raises(ProtocolViolation, match="where only nothing may come"):
        parse(data, [])
    with pytest.raises(ProtocolViolation, match=f"'{kind.NAME}' came where only"):
        parse(data, [other for other in CLASSES if other is not kind])


@pytest.mark.parametrize("name", [None, 1, True, b"stop-copy", "stop-copy ", "Stop-Copy", "", ["stop-copy"], {}])
def test_a_message_without_a_known_name_is_refused(name: object) -> None:
    with pytest.raises(ProtocolViolation, match="came where only"):
        parse(msgpack.packb({wire.type_key: name}), CLASSES)


def test_a_name_nested_too_deeply_to_be_shown_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="without a name"):
        parse(b"\x81\xa4type" + b"\x91" * 1000 + b"\xc0", CLASSES)


def test_text_that_cannot_be_sent_is_refused_when_the_message_is_made() -> None:
    with pytest.raises(ProtocolViolation, match="line must be text"):
        messages.Log(level=messages.LogLevel.INFO, line="\udc80")


def test_text_is_measured_in_bytes() -> None:
    messages.Spawned(request=1, pid=1)
    longest = "\u00e9" * (limits.TEXT_BYTES // 2)
    assert messages.Log(level=messages.LogLevel.INFO, line=longest).line == longest


def test_fds_are_counted_by_what_a_message_asks_for() -> None:
    def copy(both: bool, logged: bool) -> int:
        return messages.Copy(**smallest(messages.Copy) | {"both": both, "logged": logged}).fd_count()

    assert [copy(False, False), copy(False, True), copy(True, False), copy(True, True)] == [2, 3, 4, 5]
    assert [messages.PtysOpened(count=count).fd_count() for count in (1, limits.PTYS)] == [2, 2 * limits.PTYS]
    boot = smallest(messages.ReadBoot)
    assert messages.ReadBoot(**boot).fd_count() == 3
    assert messages.ReadBoot(**boot | {"interactive": True}).fd_count() == 4


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        messages.PtysOpened(count=1).count = 2  # type: ignore[misc]  # what is tested
