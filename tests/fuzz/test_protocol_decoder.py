# SPDX-License-Identifier: GPL-3.0-or-later
"""The decoder on hostile bytes: a violation, or a message that means the same when it is sent on. Nothing else.

The corpus holds one message of each class (valid-*) and inputs that are refused, named by the reason (bad-*).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domward.protocol import limits, messages
from domward.protocol.errors import ProtocolViolation
from domward.protocol.schema import Message, parse

CORPUS = Path(__file__).parent / "corpus" / "protocol"
VALID = sorted(CORPUS.glob("valid-*.bin"))
BAD = sorted(CORPUS.glob("bad-*.bin"))
CLASSES = [
    kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message) and kind.NAME
]
SEEDS = [path.read_bytes() for path in VALID + BAD]
REPEATABLE = settings(deadline=None, derandomize=True, max_examples=500)


def stands(untrusted_data: bytes) -> bool:
    """Whether the bytes are a message, which then must survive being sent on; else they were refused."""
    try:
        message = parse(untrusted_data, CLASSES)
    except ProtocolViolation as error:
        sentence = str(error)
    else:
        assert parse(message.encode(), CLASSES) == message
        return True
    assert sentence.isprintable()
    assert len(sentence) < limits.TEXT_BYTES
    return False


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_message_of_the_corpus_is_taken(path: Path) -> None:
    assert stands(path.read_bytes())


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_message_of_the_corpus_is_refused(path: Path) -> None:
    assert not stands(path.read_bytes())


def test_the_corpus_has_every_class() -> None:
    assert {path.stem.removeprefix("valid-") for path in VALID} == {kind.NAME for kind in CLASSES}


@REPEATABLE
@given(st.binary(max_size=200))
def test_any_bytes(untrusted_data: bytes) -> None:
    stands(untrusted_data)


@REPEATABLE
@given(st.sampled_from(SEEDS), st.data())
def test_a_message_with_bytes_changed_cut_added_or_repeated(seed: bytes, draw: st.DataObject) -> None:
    data = bytearray(seed[: limits.MESSAGE_BYTES])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, min(len(data), 400)))
        match draw.draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw.draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + draw.draw(st.integers(1, 9))]
            case 2:
                data[at:at] = draw.draw(st.binary(min_size=1, max_size=9))
            case 3:
                data[at:at] = data[at : at + draw.draw(st.integers(1, 40))]
    stands(bytes(data))


@REPEATABLE
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.integers(0, 400), st.integers(0, 400))
def test_two_messages_spliced(first: bytes, second: bytes, end: int, start: int) -> None:
    stands(first[:end] + second[start:])
