# SPDX-License-Identifier: GPL-3.0-or-later
r"""What of a guest's output may reach a terminal: text, and the few sequences that draw a menu.

A terminal is a program driven by the bytes it shows: titles that end up on a command line, reports that come back
as typing, character sets that make text unreadable. So this filter is an allow-list. It passes:

============================================  =========================================================
0x20 to 0x7e                                  as they are
CR, LF, BS, TAB                               as they are; TAB only moves to a stop, and stops cannot be set
ESC [ up to 16 of 0-9 and ; then one of       as they are: cursor position and movement, erasing, colours
H J K m A B C D f
ESC [ ? 25 h and ESC [ ? 25 l                 as they are: show and hide the cursor
ESC [ ? 1 h and ESC [ ? 1 l                   as they are: which of two forms the arrow keys have
============================================  =========================================================

and of the rest:

============================================  =========================================================
0x80 to 0xff, C1 controls included            each becomes ``?``, so that a cut never joins what stood apart
ESC ( 0, ESC ) 0, SO and SI                   dropped; what stands in the set for line drawing that they choose is
                                              drawn with - | + and their like, as on a terminal without that set
other control characters and DEL              dropped
other CSI sequences                           dropped up to their last byte, or up to CSI_BYTES of them
OSC, DCS, APC, PM and SOS strings             dropped up to BEL, ST (7 or 8 bits), CAN, SUB or ESC, or up to
                                              STRING_BYTES of them: text after a string left open is seen again
other escape sequences                        dropped up to their last byte, or up to CSI_BYTES of them
============================================  =========================================================

A sequence is passed only when it is complete, so the output of any prefix of the input is of this form too, and
filtering it again changes nothing. How the input is cut into chunks makes no difference. Time is linear in the
input; what is held between chunks is at most CSI_BYTES.

Sequences as in ECMA-48, 5th edition, sections 5.4 and 5.6.
"""

from __future__ import annotations

import enum
import re

CSI_BYTES = 64  # bytes after "ESC [", or after ESC for other sequences, that are taken to belong to it
STRING_BYTES = 1024  # bytes of an OSC, DCS, APC, PM or SOS string that are dropped while its end does not come

_PASSED_CONTROLS = b"\b\t\n\r"
_DROPPED = bytes(byte for byte in range(0x20) if byte not in _PASSED_CONTROLS) + b"\x7f"
_SHOWN = bytes(byte if byte < 0x80 else ord("?") for byte in range(0x100))

# The special graphics of a VT100 from "_" to "~", as curses draws them on a terminal that has none.
_DRAWN = bytearray(_SHOWN)
_DRAWN[0x5F:0x7F] = b" *#????o+??+++++----_++++|<>*!fo"

_PASSED_SEQUENCE = re.compile(rb"\x1b\[(?:[0-9;]{0,16}[HJKmABCDf]|\?(?:1|25)[hl])")
_SHIFTS = re.compile(rb"([\x0e\x0f])")
_PARAMETERS = re.compile(rb"[\x20-\x3f]*")
_INTERMEDIATES = re.compile(rb"[\x20-\x2f]*")
_STRING_END = re.compile(rb"[\x07\x18\x1a\x1b\x9c]")

_ESC = 0x1B
_SO, _SI = b"\x0e", b"\x0f"
_STRING_STARTS = b"]P_^X"


class _State(enum.Enum):
    TEXT = enum.auto()
    ESCAPE = enum.auto()  # after ESC and any intermediates
    CSI = enum.auto()  # after "ESC ["
    STRING = enum.auto()  # inside an OSC, DCS, APC, PM or SOS string


class TerminalFilter:
    """One stream's filter. States as above; it never ends, and holds nothing that would have to be flushed."""

    def __init__(self) -> None:
        self._state = _State.TEXT
        self._sequence = b""  # the CSI sequence so far, from its ESC on; or the intermediates after an ESC
        self._line_drawing = [False, False]  # whether that set is what SI and what SO choose
        self._shifted = False  # by SO
        self._room = 0  # bytes that still belong to the open sequence or string

    def feed(self, untrusted_data: bytes) -> bytes:
        """What of the next chunk, after all chunks before it, may be shown now."""
        shown: list[bytes] = []
        at = 0
        while at < len(untrusted_data):
            match self._state:
                case _State.TEXT:
                    at = self._text(untrusted_data, at, shown)
                case _State.ESCAPE:
                    at = self._escape(untrusted_data, at)
                case _State.CSI:
                    at = self._csi(untrusted_data, at, shown)
                case _State.STRING:
                    at = self._string(untrusted_data, at)
        return b"".join(shown)

    def _text(self, data: bytes, at: int, shown: list[bytes]) -> int:
        end = data.find(_ESC, at)
        if end < 0:
            self._show(data[at:], shown)
            return len(data)
        self._show(data[at:end], shown)
        if passed := _PASSED_SEQUENCE.match(data, end):  # the common case without a change of state
            shown.append(passed.group())
            return passed.end()
        self._begin_escape()
        return end + 1

    def _show(self, text: bytes, shown: list[bytes]) -> None:
        for part in _SHIFTS.split(text):
            if part in (_SO, _SI):
                self._shifted = part == _SO
            else:
                shown.append(part.translate(_DRAWN if self._line_drawing[self._shifted] else _SHOWN, _DROPPED))

    def _begin_escape(self) -> None:
        self._state = _State.ESCAPE
        self._sequence = b""
        self._room = CSI_BYTES

    def _escape(self, data: bytes, at: int) -> int:
        end = _end(_INTERMEDIATES, data, at, self._room)
        first = self._room == CSI_BYTES and end == at
        self._sequence += data[at:end]
        self._room -= end - at
        if self._room == 0:
            self._state = _State.TEXT
            return end
        if end == len(data):
            return end
        byte = data[end]
        if byte == _ESC:
            self._begin_escape()
        elif first and byte == ord("["):
            self._state = _State.CSI
            self._sequence = b"\x1b["
            self._room = CSI_BYTES
        elif first and byte in _STRING_STARTS:
            self._state = _State.STRING
            self._room = STRING_BYTES
        else:
            self._state = _State.TEXT
            if byte < 0x20 or byte > 0x7E:
                return end
            self._choose_set(self._sequence, byte)
        return end + 1

    def _choose_set(self, intermediates: bytes, final: int) -> None:
        """Notes the sets that an escape sequence chooses: as G0, as G1, or those of a terminal that was reset."""
        if intermediates in (b"(", b")"):
            self._line_drawing[intermediates == b")"] = final == ord("0")
        elif not intermediates and final == ord("c"):
            self._line_drawing, self._shifted = [False, False], False

    def _csi(self, data: bytes, at: int, shown: list[bytes]) -> int:
        end = _end(_PARAMETERS, data, at, self._room)
        self._sequence += data[at:end]
        self._room -= end - at
        if self._room == 0:
            self._state = _State.TEXT
            return end
        if end == len(data):
            return end
        self._state = _State.TEXT
        if not 0x40 <= data[end] <= 0x7E:
            return end  # not a CSI sequence after all: the byte is looked at again, as text
        self._sequence += data[end : end + 1]
        if _PASSED_SEQUENCE.fullmatch(self._sequence):
            shown.append(self._sequence)
        return end + 1

    def _string(self, data: bytes, at: int) -> int:
        stop = min(len(data), at + self._room)
        if found := _STRING_END.search(data, at, stop):
            self._state = _State.TEXT
            # ESC begins the next sequence; in "ESC \", the string's own end, that is one without effect
            return found.start() if data[found.start()] == _ESC else found.end()
        self._room -= stop - at
        if self._room == 0:
            self._state = _State.TEXT
        return stop


def _end(pattern: re.Pattern[bytes], data: bytes, at: int, room: int) -> int:
    found = pattern.match(data, at, min(len(data), at + room))
    assert found is not None, "the patterns match the empty string too"
    return found.end()
