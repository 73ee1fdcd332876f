# SPDX-License-Identifier: GPL-3.0-or-later
"""Splits GRUB script into tokens, as the GRUB manual's chapter "Writing full configuration files directly" has it.

A word keeps its parts apart, because an unquoted variable is split at blanks after expansion and a quoted one is
not. Linear: no byte is looked at more than twice, and each token and part is paid for from the budget.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

from domward.protocol.records import frozen

from .config_budget import ConfigBudget


class PartKind(enum.Enum):
    """How a part of a word expands."""

    LITERAL = enum.auto()  # as it stands, unquoted
    QUOTED = enum.auto()  # as it stands, and makes a word even where it is empty
    VARIABLE = enum.auto()  # the variable's value, split at blanks
    QUOTED_VARIABLE = enum.auto()  # the variable's value, whole


@frozen
class Part:
    """A part of a word: literal text, or the name of a variable."""

    kind: PartKind
    text: bytes


Word = tuple[Part, ...]


class TokenKind(enum.Enum):
    """What the grammar tells apart."""

    WORD = enum.auto()
    END_OF_COMMAND = enum.auto()  # `;`
    NEWLINE = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    OPERATOR = enum.auto()  # `|` and `&`, which GRUB reserves and its grammar refuses
    UNFINISHED = enum.auto()  # a quote that nothing closes: the rest of the file is lost, as in GRUB


@frozen
class Token:
    """One token; `word` is empty unless `kind` is WORD."""

    kind: TokenKind
    word: Word = ()


_BLANK = re.compile(rb"(?:[ \t\r\f\v]|\\\r?\n)*+")
_COMMENT = re.compile(rb"[^\n]*+")
_LITERAL = re.compile(rb"[^ \t\r\f\v\n{}|&;$'\"\\]++")
_PLAIN = re.compile(rb"([^ \t\r\f\v\n{}|&;$'\"\\#][^ \t\r\f\v\n{}|&;$'\"\\]*+)(?=[ \t\n;])")
_SINGLE = re.compile(rb"'([^']*+)'")
_DOUBLE_LITERAL = re.compile(rb"(?:[^\"$\\]|\\[^\"$\\\r\n])++")
_VARIABLE = re.compile(rb"\$(?:([A-Za-z_][A-Za-z0-9_]*+|[0-9]++|[?@*#])|\{([A-Za-z_][A-Za-z0-9_]*+|[0-9]++|[?@*#])\})")

_PUNCTUATION = {
    b"\n": Token(TokenKind.NEWLINE),
    b";": Token(TokenKind.END_OF_COMMAND),
    b"{": Token(TokenKind.OPEN),
    b"}": Token(TokenKind.CLOSE),
    b"|": Token(TokenKind.OPERATOR),
    b"&": Token(TokenKind.OPERATOR),
}


class _Unfinished(Exception):
    """A quote reaches the end of the text."""


def tokens(text: bytes, budget: ConfigBudget) -> Iterator[Token]:
    """The tokens of `text` in order. DiskError(BUDGET) where there are too many."""
    position = 0
    while True:
        blank = _BLANK.match(text, position)
        assert blank is not None  # it matches the empty string
        position = blank.end()
        first = text[position : position + 1]
        if not first:
            return
        budget.step()
        if plain := _PLAIN.match(text, position):  # the common case
            yield Token(TokenKind.WORD, (Part(PartKind.LITERAL, plain[1]),))
            position = plain.end()
        elif first == b"#":
            comment = _COMMENT.match(text, position)
            assert comment is not None
            position = comment.end()
        elif first in _PUNCTUATION:
            yield _PUNCTUATION[first]
            position += 1
        else:
            try:
                word, position = _word(text, position, budget)
            except _Unfinished:
                yield Token(TokenKind.UNFINISHED)
                return
            yield Token(TokenKind.WORD, word)


def _word(text: bytes, position: int, budget: ConfigBudget) -> tuple[Word, int]:
    """The word that starts at `position`, and where it ends."""
    parts: list[Part] = []
    while True:
        budget.step()
        if literal := _LITERAL.match(text, position):
            parts.append(Part(PartKind.LITERAL, literal.group()))
            position = literal.end()
            continue
        first = text[position : position + 1]
        if first == b"\\":
            position = _escaped(text, position, parts)
        elif first == b"'":
            single = _SINGLE.match(text, position)
            if single is None:
                raise _Unfinished
            parts.append(Part(PartKind.QUOTED, single[1]))
            position = single.end()
        elif first == b'"' or text[position : position + 2] == b'$"':  # $"..." asks for a translation
            position = _double_quoted(text, position + (2 if first == b"$" else 1), parts, budget)
        elif first == b"$":
            position = _variable(text, position, parts, PartKind.VARIABLE, PartKind.LITERAL)
        else:
            return tuple(parts), position


def _escaped(text: bytes, position: int, parts: list[Part]) -> int:
    """The backslash at `position` outside quotes: it quotes what follows, and a newline not at all."""
    following = text[position + 1 : position + 2]
    if following != b"\n":
        parts.append(Part(PartKind.QUOTED, following or b"\\"))
    return position + 2


def _double_quoted(text: bytes, position: int, parts: list[Part], budget: ConfigBudget) -> int:
    """The parts from `position`, just inside a double quote; a backslash quotes only `$`, `"`, itself and newline."""
    before = len(parts)
    while True:
        budget.step()
        if literal := _DOUBLE_LITERAL.match(text, position):
            parts.append(Part(PartKind.QUOTED, literal.group()))
            position = literal.end()
        first = text[position : position + 1]
        if first == b'"':
            if len(parts) == before:
                parts.append(Part(PartKind.QUOTED, b""))
            return position + 1
        if first == b"$":
            position = _variable(text, position, parts, PartKind.QUOTED_VARIABLE, PartKind.QUOTED)
        elif first == b"\\" and position + 1 < len(text):
            following = text[position + 1 : position + 2]
            if following == b"\r":
                parts.append(Part(PartKind.QUOTED, b"\\\r"))
            elif following != b"\n":
                parts.append(Part(PartKind.QUOTED, following))
            position += 2
        else:
            raise _Unfinished


def _variable(text: bytes, position: int, parts: list[Part], kind: PartKind, otherwise: PartKind) -> int:
    """The variable at the `$` at `position`; a `$` that names none stands for itself."""
    match = _VARIABLE.match(text, position)
    if match is None:
        parts.append(Part(otherwise, b"$"))
        return position + 1
    parts.append(Part(kind, match[1] or match[2]))
    return match.end()
