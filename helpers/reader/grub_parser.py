# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds statements from the tokens of GRUB script.

As GRUB does, a statement with a syntax error is dropped whole and the next one is read; what an unclosed quote,
brace or `if` swallows is lost. Nesting is bounded, so hostile depth ends in DiskError(BUDGET), not in our stack.
"""

from __future__ import annotations

from collections.abc import Iterator

from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason
from domward.protocol.records import frozen

from .config_budget import ConfigBudget
from .grub_lexer import PartKind, Token, TokenKind, Word, tokens


@frozen
class Command:
    """A command with its words; `block` is the `{ ... }` after them, as menuentry has."""

    words: tuple[Word, ...]
    block: Block | None = None


@frozen
class If:
    """`branches` pairs of condition and body in order, then what `else` holds."""

    branches: tuple[tuple[Block, Block], ...]
    otherwise: Block


@frozen
class While:
    """`while`, or `until` where `negated`."""

    condition: Block
    body: Block
    negated: bool


@frozen
class For:
    """`for name in words; do body; done`."""

    name: bytes
    words: tuple[Word, ...]
    body: Block


@frozen
class Function:
    """`function name { body }`."""

    name: bytes
    body: Block


Statement = Command | If | While | For | Function
Block = tuple[Statement, ...]

_CLOSERS = frozenset((b"then", b"elif", b"else", b"fi", b"do", b"done"))
_END = Token(TokenKind.UNFINISHED)


class _SyntaxFault(Exception):
    """This statement is no GRUB script."""


def statements(text: bytes, budget: ConfigBudget) -> Iterator[Statement]:
    """The statements of `text` in order, without those that GRUB would refuse. DiskError(BUDGET)."""
    parser = _Parser(tokens(text, budget))
    while not parser.at_end():
        try:
            parser.skip_separators()
            if not parser.at_end():
                statement = parser.statement(0)
                parser.end_of_statement()
                yield statement
        except _SyntaxFault:
            parser.recover()


class _Parser:
    """One token of look-ahead over the tokens of a file."""

    def __init__(self, source: Iterator[Token]) -> None:
        self._source = source
        self._next = next(source, _END)
        self._braces = 0

    def _kind(self) -> TokenKind:
        return self._next.kind

    def at_end(self) -> bool:
        return self._kind() is TokenKind.UNFINISHED

    def skip_separators(self) -> None:
        while self._kind() in (TokenKind.NEWLINE, TokenKind.END_OF_COMMAND):
            self._advance()

    def end_of_statement(self) -> None:
        if self._kind() not in (TokenKind.NEWLINE, TokenKind.END_OF_COMMAND) and not self.at_end():
            raise _SyntaxFault

    def recover(self) -> None:
        """Go to the end of the line on which the outermost open brace closes."""
        while not self.at_end():
            if self._braces <= 0 and self._kind() is TokenKind.NEWLINE:
                break
            self._advance()
        self._braces = 0

    def statement(self, depth: int) -> Statement:
        """The statement at hand, which is not a separator."""
        if depth > limits.CONFIG_NESTING:
            raise DiskError(DiskReason.BUDGET, "the boot configuration nests its blocks too deeply")
        keyword = self._keyword()
        if keyword in _CLOSERS:
            raise _SyntaxFault
        if keyword == b"if":
            return self._if(depth)
        if keyword in (b"while", b"until"):
            self._advance()
            condition = self._until((b"do",), depth)
            return While(condition, self._loop_body(depth), keyword == b"until")
        if keyword == b"for":
            return self._for(depth)
        if keyword == b"function":
            self._advance()
            name = self._name()
            self.skip_separators()
            return Function(name, self._braced(depth))
        return self._command(depth)

    def _advance(self) -> None:
        if self._kind() is TokenKind.OPEN:
            self._braces += 1
        elif self._kind() is TokenKind.CLOSE:
            self._braces -= 1
        self._next = next(self._source, _END)

    def _keyword(self) -> bytes:
        """The word at hand where it is one plain literal, so that it may be a keyword; else empty."""
        word = self._next.word
        return word[0].text if len(word) == 1 and word[0].kind is PartKind.LITERAL else b""

    def _expect(self, keyword: bytes) -> None:
        if self._keyword() != keyword:
            raise _SyntaxFault
        self._advance()

    def _name(self) -> bytes:
        name = self._keyword()
        if not name:
            raise _SyntaxFault
        self._advance()
        return name

    def _until(self, closers: tuple[bytes, ...], depth: int) -> Block:
        """Statements up to, and without, the first of `closers`."""
        body: list[Statement] = []
        self.skip_separators()
        while self._keyword() not in closers:
            if self._kind() is not TokenKind.WORD:
                raise _SyntaxFault
            body.append(self.statement(depth + 1))
            if self._keyword() not in closers and self._kind() not in (
                TokenKind.NEWLINE,
                TokenKind.END_OF_COMMAND,
            ):
                raise _SyntaxFault
            self.skip_separators()
        return tuple(body)

    def _braced(self, depth: int) -> Block:
        """`{ ... }` at hand."""
        if self._kind() is not TokenKind.OPEN:
            raise _SyntaxFault
        self._advance()
        body: list[Statement] = []
        self.skip_separators()
        while self._kind() is not TokenKind.CLOSE:
            if self._kind() is not TokenKind.WORD:
                raise _SyntaxFault
            body.append(self.statement(depth + 1))
            if self._kind() is not TokenKind.CLOSE:
                self.end_of_statement()
            self.skip_separators()
        self._advance()
        return tuple(body)

    def _if(self, depth: int) -> If:
        branches: list[tuple[Block, Block]] = []
        keyword = b"if"
        while keyword != b"else":
            self._expect(keyword)
            condition = self._until((b"then",), depth)
            self._expect(b"then")
            branches.append((condition, self._until((b"elif", b"else", b"fi"), depth)))
            keyword = self._keyword()
            if keyword == b"fi":
                self._advance()
                return If(tuple(branches), ())
        self._expect(b"else")
        otherwise = self._until((b"fi",), depth)
        self._expect(b"fi")
        return If(tuple(branches), otherwise)

    def _for(self, depth: int) -> For:
        self._advance()
        name = self._name()
        self._expect(b"in")
        words = self._words()
        self.skip_separators()
        return For(name, words, self._loop_body(depth))

    def _loop_body(self, depth: int) -> Block:
        self._expect(b"do")
        body = self._until((b"done",), depth)
        self._expect(b"done")
        return body

    def _words(self) -> tuple[Word, ...]:
        words: list[Word] = []
        while self._kind() is TokenKind.WORD:
            words.append(self._next.word)
            self._advance()
        return tuple(words)

    def _command(self, depth: int) -> Command:
        words = self._words()
        if not words or self._kind() is TokenKind.OPERATOR:
            raise _SyntaxFault
        if self._kind() is TokenKind.OPEN:
            return Command(words, self._braced(depth))
        return Command(words)
