# SPDX-License-Identifier: GPL-3.0-or-later
"""How a message is checked: one small check per field, exact keys, nothing converted silently.

A message class derives from `Message`, and its fields are made by the functions here; type checkers take it for a
frozen dataclass with keyword arguments. It is none, because making thirty of them takes longer than reading a disk's
boot configuration, and both sides of every run would pay for it::

    class OpenPtys(Message, name="open-ptys"):
        count: int = integer(1, limits.PTYS)

`parse` turns untrusted bytes into one of the classes that the receiver's state allows, or raises ProtocolViolation.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Collection

from . import wire
from .errors import ProtocolViolation
from .typed import Any, ClassVar, NoReturn, dataclass_transform

Check = Callable[[Any], Any]


class _MismatchError(Exception):
    """A value does not fit its field; the text says what was expected."""


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _MismatchError(f"an integer from {low} to {high}")
        return value

    return check


def _text(longest: int) -> Check:
    def check(value: Any) -> str:
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, as os.fsdecode makes them, cannot be sent
            if type(value) is str and len(value.encode()) <= longest:
                return value
        raise _MismatchError(f"text of at most {longest} bytes")

    return check


def _data(longest: int) -> Check:
    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) > longest:
            raise _MismatchError(f"at most {longest} bytes")
        return value

    return check


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _MismatchError("true or false")
    return value


def _one_of(kind: type[enum.Enum]) -> Check:
    values = {member.value: member for member in kind}

    def check(value: Any) -> enum.Enum:
        if isinstance(value, kind):
            return value
        if type(value) is not str or value not in values:
            raise _MismatchError("one of " + ", ".join(sorted(values)))
        return values[value]

    return check


def _several(item: Check, most: int) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if type(value) not in (list, tuple) or len(value) > most:
            raise _MismatchError(f"a list of at most {most} items")
        return tuple(item(part) for part in value)

    return check


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


class _Field:
    """What a field function leaves in the class body, for `Message` to collect."""

    def __init__(self, check: Check) -> None:
        self.check = check


def _field(check: Check) -> Any:
    return _Field(check)


def integer(low: int, high: int) -> Any:
    """A field that holds an integer from `low` to `high`, both included."""
    return _field(_integer(low, high))


def text(longest: int) -> Any:
    """A field that holds text of at most `longest` bytes in UTF-8."""
    return _field(_text(longest))


def data(longest: int) -> Any:
    """A field that holds at most `longest` bytes."""
    return _field(_data(longest))


def optional_data(longest: int) -> Any:
    """A field that holds at most `longest` bytes, or None."""
    return _field(_optional(_data(longest)))


def optional_text(longest: int) -> Any:
    """A field that holds text of at most `longest` bytes in UTF-8, or None."""
    return _field(_optional(_text(longest)))


def boolean() -> Any:
    """A field that holds true or false."""
    return _field(_boolean)


def choice(kind: type[enum.Enum]) -> Any:
    """A field that holds a member of `kind`, sent as its value."""
    return _field(_one_of(kind))


def several_choices(kind: type[enum.Enum]) -> Any:
    """A field that holds members of `kind`, at most as many as it has."""
    return _field(_several(_one_of(kind), len(kind)))


def several_data(longest: int, most: int) -> Any:
    """A field that holds at most `most` byte strings of at most `longest` bytes each."""
    return _field(_several(_data(longest), most))


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(
        boolean,
        choice,
        data,
        integer,
        optional_data,
        optional_text,
        several_choices,
        several_data,
        text,
    ),
)
class Message:
    """The base of every message. Construction checks the fields as receipt does, so nothing ill-typed is ever sent.

    `FIELDS` maps each field's name to its check, in the order of the class body, after those of a base class.
    """

    NAME: ClassVar[str] = ""
    FIELDS: ClassVar[dict[str, Check]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        super().__init_subclass__()
        cls.NAME = name
        own = {key: value.check for key, value in vars(cls).items() if isinstance(value, _Field)}
        cls.FIELDS = {**cls.FIELDS, **own}
        for key in own:
            delattr(cls, key)

    def __init__(self, **values: Any) -> None:
        if values.keys() != self.FIELDS.keys():
            odd = min(values.keys() ^ self.FIELDS.keys())
            raise TypeError(f"{type(self).__name__}: the field {odd} is missing or unknown")
        for key, check in self.FIELDS.items():
            try:
                self.__dict__[key] = check(values[key])
            except _MismatchError as error:
                raise ProtocolViolation(f"{self.NAME}: {key} must be {error}.") from None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"A message does not change: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"A message does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.__dict__.items())})"

    def fd_count(self) -> int:
        """How many fds belong to this message: none, unless the class says otherwise."""
        return 0

    def encode(self) -> bytes:
        """The bytes to send."""
        values: dict[str, Any] = {wire.type_key: self.NAME}
        values.update((key, _plain(value)) for key, value in self.__dict__.items())
        return wire.encode(values)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


def parse(untrusted_data: bytes, allowed: Collection[type[Message]]) -> Message:
    """The message in `untrusted_data`, of one of the `allowed` classes. Raises ProtocolViolation."""
    untrusted_fields = wire.decode(untrusted_data)
    untrusted_name = untrusted_fields.pop(wire.type_key, None)
    for kind in allowed:
        if untrusted_name == kind.NAME:
            break
    else:
        expected = ", ".join(sorted(kind.NAME for kind in allowed)) or "nothing"
        # Only text is shown: the repr of something nested deeply enough raises RecursionError.
        shown = repr(untrusted_name[:64]) if isinstance(untrusted_name, str) else "without a name"
        raise ProtocolViolation(f"Message {shown} came where only {expected} may come.")
    if untrusted_fields.keys() != kind.FIELDS.keys():
        odd = min(untrusted_fields.keys() ^ kind.FIELDS.keys())
        raise ProtocolViolation(f"{kind.NAME}: the field {odd[:64]!r} is missing or unknown.")
    return kind(**untrusted_fields)
