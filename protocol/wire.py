# SPDX-License-Identifier: GPL-3.0-or-later
"""msgpack with every limit set: one map per message, text keys, no duplicates, no extension types.

msgpack decodes the last of duplicate keys and, unasked, timestamps; both are refused here.
"""

from __future__ import annotations

import msgpack

from . import limits
from .errors import ProtocolViolation
from .typed import Any

type_key = "type"


def encode(fields: dict[str, Any]) -> bytes:
    """`fields` as one message of at most limits.MESSAGE_BYTES. Raises ProtocolViolation where it would be longer."""
    data: bytes = msgpack.packb(fields, use_bin_type=True, strict_types=True)
    if len(data) > limits.MESSAGE_BYTES:
        raise ProtocolViolation(f"A message of {len(data)} bytes is longer than {limits.MESSAGE_BYTES} bytes.")
    return data


def decode(untrusted_data: bytes) -> dict[str, Any]:
    """The map that `untrusted_data` holds. Raises ProtocolViolation for anything else, whatever the bytes."""
    if not 0 < len(untrusted_data) <= limits.MESSAGE_BYTES:
        raise ProtocolViolation(f"A message has 1 to {limits.MESSAGE_BYTES} bytes, not {len(untrusted_data)}.")
    try:
        value = msgpack.unpackb(
            untrusted_data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_map_of,
            ext_hook=_refuse_extension,
            max_str_len=limits.MESSAGE_BYTES,
            max_bin_len=limits.MESSAGE_BYTES,
            max_array_len=limits.MESSAGE_ITEMS,
            max_map_len=limits.MESSAGE_ITEMS,
            max_ext_len=0,
        )
    except ProtocolViolation:
        raise
    # msgpack documents ValueError and its own classes below it, and has raised OverflowError, RecursionError and
    # UnicodeError besides: for hostile bytes they all mean the same.
    except Exception as error:  # noqa: BLE001 - the one guard around a third-party decoder
        raise ProtocolViolation(f"A message is not valid msgpack ({type(error).__name__}).") from None
    if not isinstance(value, dict):
        raise ProtocolViolation(f"A message is a map, not {type(value).__name__}.")
    return value


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise ProtocolViolation(f"A message has a key of type {type(key).__name__}; keys are text.")
        if key in result:
            raise ProtocolViolation(f"A message has the key {key[:64]!r} twice.")
        result[key] = value
    return result


def _refuse_extension(code: int, _data: bytes) -> None:
    raise ProtocolViolation(f"A message has a msgpack extension of type {code}; none is allowed.")
