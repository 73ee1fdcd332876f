# SPDX-License-Identifier: GPL-3.0-or-later
"""What a message's fields are, in the words of docs/control-protocol.md, from the very checks that receive them."""

from __future__ import annotations

import inspect

from domward.protocol.schema import Check, Message


def rows(kind: type[Message]) -> list[tuple[str, str]]:
    """(field, type) of each field, in order."""
    return [(name, described(check)) for name, check in kind.FIELDS.items()]


def described(check: Check) -> str:
    """One field's type."""
    around = inspect.getclosurevars(check).nonlocals
    match check.__qualname__.split(".")[0]:
        case "_integer":
            return f"integer, {_number(around['low'])} to {_number(around['high'])}"
        case "_text":
            return f"str, at most {around['longest']} bytes"
        case "_data":
            return f"bin, at most {around['longest']} bytes"
        case "_boolean":
            return "bool"
        case "_one_of":
            return "str, one of " + ", ".join(around["values"])
        case "_several":
            return f"array of at most {around['most']}: {described(around['item'])}"
        case "_optional":
            return described(around["inner"]) + "; or nil"
        case other:
            raise AssertionError(f"docs/control-protocol.md has no word for {other}")


def _number(value: int) -> str:
    power = (value + 1).bit_length() - 1
    return f"2^{power}-1" if value > 2**20 and value + 1 == 2**power else str(value)
