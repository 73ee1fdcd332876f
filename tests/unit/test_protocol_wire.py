# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire format: one bounded map with text keys, and nothing that msgpack would let pass beside it."""

from __future__ import annotations

import msgpack
import pytest

from domward.protocol import limits, wire
from domward.protocol.errors import ProtocolViolation


def test_a_map_comes_back_as_it_was() -> None:
    fields = {
        "type": "x",
        "none": None,
        "yes": True,
        "int": -(2**63),
        "big": 2**64 - 1,
        "b": b"\xff",
        "l": [1, "\u00e9"],
    }
    assert wire.decode(wire.encode(fields)) == fields


@pytest.mark.parametrize(
    ("untrusted_data", "reason"),
    [
        (b"", "1 to 65536 bytes, not 0"),
        (b"\x80" + b"\x00" * limits.MESSAGE_BYTES, "1 to 65536 bytes, not 65537"),
        (b"\x81\xa1a", "not valid msgpack"),
        (b"\x81\xa1a\x01\x01", "not valid msgpack"),
        (b"\xc1", "not valid msgpack"),
        (b"\x82\xa1a\x01\xa1a\x02", "key 'a' twice"),
        (b"\x81\xa1m\x82\xa1a\x01\xa1a\x02", "key 'a' twice"),
        (b"\x81\x01\x01", "not valid msgpack|key of type int"),
        (b"\x81\xc4\x01a\x01", "key of type bytes"),
        (b"\x81\xa1a\xa1\xff", "not valid msgpack"),
        (b"\x81\xa1\xff\x01", "not valid msgpack"),
        (b"\x81\xa1a\xa3\xed\xa0\x80", "not valid msgpack"),
        (b"\x81\xa1a\xc7\x00\x05", "extension of type 5"),
        (b"\x81\xa1a\xd4\x05\x00", "not valid msgpack|extension"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x01", "not valid msgpack"),
        (b"\x81\xa1a\xd7\xff" + b"\x00" * 8, "not valid msgpack"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not valid msgpack"),
        (b"\xdf\xff\xff\xff\xff", "not valid msgpack"),
        (b"\x81\xa1a\xdc\x01\x01" + b"\x00" * 257, "not valid msgpack"),
        (b"\x81\xa1a" + b"\x91" * 60000 + b"\x00", "not valid msgpack"),
        (b"\x90", "a map, not list"),
        (b"\x01", "a map, not int"),
        (b"\xc0", "a map, not NoneType"),
    ],
)
def test_anything_else_is_a_violation(untrusted_data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        wire.decode(untrusted_data)


def test_arrays_and_maps_go_up_to_the_limit() -> None:
    fields = {"l": list(range(limits.MESSAGE_ITEMS)), "m": {str(n): n for n in range(limits.MESSAGE_ITEMS)}}
    assert wire.decode(msgpack.packb(fields)) == fields


def test_a_message_too_long_to_send_is_refused_by_its_sender() -> None:
    wire.encode({"a": b"x" * (limits.MESSAGE_BYTES - 6)})
    with pytest.raises(ProtocolViolation, match="longer than 65536 bytes"):
        wire.encode({"a": b"x" * (limits.MESSAGE_BYTES - 5)})
