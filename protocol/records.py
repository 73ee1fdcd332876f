# SPDX-License-Identifier: GPL-3.0-or-later
"""Classes that only hold named values, made at a small part of what `dataclasses` takes to make them.

`dataclasses` compiles source text for each class and loads `inspect`; both sides of every run make some sixty such
classes before anything of a disk is read, and would spend a third of their start on that. Type checkers take these for
frozen dataclasses, and they behave as `dataclass(frozen=True, slots=True)` makes them::

    @frozen
    class Extent:
        offset: int
        length: int
        holes: list[int] = field(default_factory=list)

A method `__post_init__` runs at the end of construction. What is not needed is not there: inheritance from another
record, class variables, fields that are not parameters, comparison by order.
"""

from __future__ import annotations

from collections.abc import Callable

from .typed import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")


class _Made:
    """A default that is made anew for each record."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """A field whose value, where none is given, is what `default_factory` returns, called for each record."""
    made: Any = _Made(default_factory)
    return made  # type: ignore[no-any-return]  # for type checkers what the factory makes, as in dataclasses


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(kind: Any = None, *, kw_only: bool = False) -> Any:
    """Makes a class a record, with its annotations as fields, that does not change. `kw_only`: values go by name."""
    if kind is None:
        return lambda kind: _record(kind, True, True, kw_only)
    return _record(kind, True, True, kw_only)


@dataclass_transform(field_specifiers=(field,))
def mutable(kind: Any = None, *, eq: bool = True) -> Any:
    """As `frozen`, but its fields can be set, and it has no hash; without `eq` it has one and equals itself alone."""
    if kind is None:
        return lambda kind: _record(kind, False, eq, False)
    return _record(kind, False, eq, False)


def _record(kind: Any, fixed: bool, eq: bool, kw_only: bool) -> Any:
    names = tuple(kind.__annotations__)
    body = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    defaults = {name: body.pop(name) for name in names if name in body}
    methods: dict[str, Any] = {"__repr__": _repr, "__reduce__": _reduce}
    if eq:
        methods |= {"__eq__": _eq, "__hash__": _hash if fixed else None}
    if fixed:
        methods |= {"__setattr__": _unchanged, "__delattr__": _unchanged}
    slotted = {"__slots__": names, "__match_args__": () if kw_only else names, "__qualname__": kind.__qualname__}
    # Slots are made with a class, so this is another one; like that of dataclasses it knows no bare super().
    made = type(kind)(kind.__name__, kind.__bases__, methods | body | slotted)
    made.__init__ = _constructor(made, names, defaults, kw_only)
    return made


def _constructor(made: Any, names: tuple[str, ...], defaults: dict[str, Any], kw_only: bool) -> Callable[..., None]:
    setters = [getattr(made, name).__set__ for name in names]  # what a slot's own descriptor does is never refused
    count = -1 if kw_only else len(names)
    finish = getattr(made, "__post_init__", None)

    def bound(given: tuple[Any, ...], by_name: dict[str, Any]) -> list[Any]:
        if (given and kw_only) or len(given) > len(names):
            raise TypeError(f"{made.__name__} takes {0 if kw_only else len(names)} values, not {len(given)}")
        values = dict(zip(names, given, strict=False))
        if odd := by_name.keys() & values.keys() or by_name.keys() - set(names):
            raise TypeError(f"{made.__name__}: {min(odd)} is given twice or unknown")
        values |= by_name
        if missing := [name for name in names if name not in values and name not in defaults]:
            raise TypeError(f"{made.__name__}: {', '.join(missing)} is missing")
        return [values[name] if name in values else _default(defaults[name]) for name in names]

    def __init__(self: Any, *given: Any, **by_name: Any) -> None:  # noqa: N807 - it becomes the class's
        for put, value in zip(setters, bound(given, by_name) if by_name or len(given) != count else given, strict=True):
            put(self, value)
        if finish is not None:
            finish(self)

    return __init__


def _default(value: Any) -> Any:
    return value.make() if type(value) is _Made else value


def names_of(kind: Any) -> tuple[str, ...]:
    """The names of the fields of a record, or of its class, in their order."""
    return tuple(kind.__slots__)


def replaced(old: T, **changes: Any) -> T:
    """A record like `old` with other values of some fields; it is constructed, so its `__post_init__` runs."""
    kind: Any = type(old)
    return kind(**({name: getattr(old, name) for name in kind.__slots__} | changes))  # type: ignore[no-any-return]  # a class makes its own


def _values(one: Any) -> tuple[Any, ...]:
    return tuple(getattr(one, name) for name in one.__slots__)


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: object) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _unchanged(self: Any, name: str, *_value: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} does not change: {name}")


def _reduce(self: Any) -> Any:
    """For pickle and copy, which would otherwise set attributes."""
    return _restored, (type(self), {name: getattr(self, name) for name in self.__slots__})


def _restored(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**values)
