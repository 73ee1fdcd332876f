# SPDX-License-Identifier: GPL-3.0-or-later
"""What of `typing` our modules name: the real thing for type checkers, and next to nothing when running.

Loading `typing` takes a tenth of what the interpreter takes to start, and every run starts two or three of them.
Annotations are never evaluated here, so what stands in for it has only to be there.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for true

if TYPE_CHECKING:
    from typing import Any, ClassVar, NoReturn, Protocol, TypedDict, TypeVar, dataclass_transform
else:

    class Protocol:
        """A base class without anything."""

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class TypedDict(dict):
        """A dictionary of anything."""

        def __init_subclass__(cls, **_options: object) -> None:
            super().__init_subclass__()

    class TypeVar:
        """A name."""

        def __init__(self, name: str, **_options: object) -> None:
            self.__name__ = name

    def dataclass_transform(**_options: object) -> object:
        """A decorator that leaves everything as it is."""
        return lambda decorator: decorator

    Any = ClassVar = NoReturn = object

__all__ = ["Any", "ClassVar", "NoReturn", "Protocol", "TypeVar", "TypedDict", "dataclass_transform"]
