# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer of `domward-bootloader`: the bytes that tell the toolstack where kernel and ramdisk are, and the args.

Each form as its reader takes it: simple0 as libxl does, with "\\0" behind each item; simple as xenopsd does, with "\\n"
there; sxp as xend did. The paths are the caller's own folder and names of ours; the arguments are the guest's.
"""

from __future__ import annotations

import enum
import os

from domward.protocol import limits
from domward.protocol.errors import OperationFailed
from domward.protocol.text import has_control


class AnswerFormat(enum.Enum):
    """The forms, by the names that pygrub has for them."""

    SXP = "sxp"
    SIMPLE = "simple"
    SIMPLE0 = "simple0"


_ENDS = {AnswerFormat.SIMPLE: b"\n", AnswerFormat.SIMPLE0: b"\0"}


def answer(form: AnswerFormat, kernel: str, ramdisk: str | None, untrusted_args: bytes) -> bytes:
    """The whole answer. Raises OperationFailed where what it must say cannot be said in this form."""
    if has_control(untrusted_args) or len(untrusted_args) > limits.CMDLINE_BYTES:
        raise OperationFailed("The guest's command line holds control characters, or more than Xen takes.")
    items = [(b"kernel", os.fsencode(kernel))]
    if ramdisk is not None:
        items.append((b"ramdisk", os.fsencode(ramdisk)))
    if untrusted_args:
        items.append((b"args", untrusted_args))
    if form is AnswerFormat.SXP:
        return b"linux " + b"".join(b"(%s %s)" % (name, _quoted(value)) for name, value in items)
    end = _ENDS[form]
    for name, value in items:
        # libxl drops an item that does not fit its buffer, with a warning that few see.
        if len(name) + 1 + len(value) >= limits.ANSWER_ITEM_BYTES:
            raise OperationFailed(f"The {name.decode()} takes {len(value)} bytes, more than the toolstack accepts.")
        if end in value:
            raise OperationFailed(f"The {name.decode()}'s path cannot be told in the format {form.value}.")
    return b"".join(b"%s %s%s" % (name, value, end) for name, value in items) + end


def _quoted(value: bytes) -> bytes:
    return b"'" + value.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"
