# SPDX-License-Identifier: GPL-3.0-or-later
"""The argument vector of `domward-bootloader`: pygrub's, with a few options more. By cases:

=======================================  ==============================================================================
--output=FILE                            where the answer goes; "-" or nothing: standard output
--output-format=simple0|simple|sxp       its form; sxp unless given
--output-directory=DIR                   where kernel and ramdisk go; pygrub's own place unless given
-q, --quiet; -i, --interactive           no menu; a menu where there is a terminal (the default)
--entry=N|TITLE                          that entry, without a menu
--kernel=PATH, --ramdisk=PATH            these files of the guest, without its boot configuration; the ramdisk alone
                                         is not used
--args=STRING                            appended to the entry's arguments; with --kernel all there is
--offset=N                               the byte where the one file system to look at begins
--runas=UID, --debug                     taken, without effect: helpers have a uid of their own, errors a reason
--bootloader=builtin|pygrub|PATH         ours: what reads the disk, as confined; a program gets the options above
--format=raw|qcow2, --timeout=S          ours: the image's format, raw unless given; the time for everything
=======================================  ==============================================================================

Options and the disk come in any order, as getopt's gnu_getopt takes them; pygrub uses it, so the same words may be
shortened. What pygrub would refuse is refused, and so are its options that only look at a disk.
"""

from __future__ import annotations

import getopt
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from domward.protocol.errors import UsageError, printable
from domward.protocol.records import frozen

from . import arguments, paths
from .front_end_answer import AnswerFormat

BUILTIN = "builtin"

_SHORT = "qiln"
_LONG = [
    "quiet", "interactive", "list-entries", "not-really", "isconfig", "debug",
    "output=", "output-format=", "output-directory=", "offset=", "runas=", "entry=", "kernel=", "ramdisk=", "args=",
    "bootloader=", "format=", "timeout=",
]  # fmt: skip
_LOOKING = frozenset({"-l", "--list-entries", "-n", "--not-really", "--isconfig"})
_LONGEST_NUMBER = 19  # digits: 2**63 has as many
_LAST_UID = 2**32 - 2
_OF_DOMAIN = re.compile(r"bootloader\.([0-9]{1,4})\.d", re.ASCII)


@frozen(kw_only=True)
class FrontEndOptions:
    """What the caller wants. Paths are of this host, but `kernel` and `ramdisk`, which are of the guest's disk."""

    disk: Path
    bootloader: str = BUILTIN
    output: Path | None = None
    output_format: AnswerFormat = AnswerFormat.SXP
    directory: Path = paths.PYGRUB_OUTPUT
    interactive: bool = True
    entry: bytes | None = None
    kernel: bytes | None = None
    ramdisk: bytes | None = None
    args: bytes = b""
    offset: int | None = None
    image_format: str = arguments.IMAGE_FORMATS[0]
    seconds: float | None = None

    @property
    def guest_ramdisk(self) -> bytes | None:
        """The ramdisk that is used: with a kernel only."""
        return self.ramdisk if self.kernel is not None else None

    @property
    def wants_menu(self) -> bool:
        """Whether a menu is wanted and there is a terminal for one."""
        return self.interactive and all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))

    @property
    def domid(self) -> int | None:
        """The domain, after which libxl names the output directory."""
        named = _OF_DOMAIN.fullmatch(self.directory.name)
        return None if named is None else int(named[1])


def parse(given: Sequence[str]) -> FrontEndOptions:
    """The options of an argument vector without the program's name. Raises UsageError."""
    try:
        options, words = getopt.gnu_getopt(list(given), _SHORT, _LONG)
    except getopt.GetoptError as error:
        raise _wrong(f"{error.msg[:1].upper()}{error.msg[1:]}.") from None
    if len(words) != 1 or not words[0]:
        raise _wrong(f"One disk must be named, not {len(words)}.")
    found: dict[str, object] = {"disk": Path(words[0])}
    for option, value in options:
        if option in _LOOKING:
            raise UsageError(f"{option} is not supported.", advice="'domward inspect' shows what a disk holds.")
        found |= _meaning(option, value)
    if found.get("entry") is not None or found.get("kernel") is not None:
        found["interactive"] = False
    if found.get("kernel") is not None:
        found["entry"] = None
    return FrontEndOptions(**found)  # type: ignore[arg-type]  # each of the type that _meaning gives it


def _meaning(option: str, value: str) -> dict[str, object]:
    match option:
        case "-q" | "--quiet":
            return {"interactive": False}
        case "-i" | "--interactive":
            return {"interactive": True}
        case "--output":
            return {"output": None if value == "-" else Path(value)}
        case "--output-format":
            return {"output_format": _format_of_answer(value)}
        case "--output-directory":
            return {"directory": Path(value)}
        case "--entry":
            return {"entry": arguments.entry(arguments.as_bytes(value))}
        case "--kernel" | "--ramdisk":
            return {option[2:]: _guest_path(option[2:], value)}
        case "--args":
            return {"args": arguments.kernel_arguments(arguments.as_bytes(value))}
        case "--offset":
            return {"offset": _number(option, value, 2**63 - 1)}
        case "--runas":
            _number(option, value, _LAST_UID)
            return {}
        case "--bootloader":
            return {"bootloader": value}
        case "--format":
            return {"image_format": _image_format(value)}
        case "--timeout":
            return {"seconds": _seconds(value)}
        case _:
            assert option == "--debug"
            return {}


def _guest_path(name: str, value: str) -> bytes | None:
    """libxl passes what the domain's configuration says; an empty one says nothing."""
    return arguments.guest_path(name, arguments.as_bytes(value)) if value else None


def _format_of_answer(value: str) -> AnswerFormat:
    try:
        return AnswerFormat(value)
    except ValueError:
        known = ", ".join(kind.value for kind in AnswerFormat)
        raise _wrong(f"The output format must be one of {known}, not {printable(value)}.") from None


def _image_format(value: str) -> str:
    if value not in arguments.IMAGE_FORMATS:
        raise _wrong(f"The image's format must be one of {', '.join(arguments.IMAGE_FORMATS)}, not {printable(value)}.")
    return value


def _number(option: str, value: str, largest: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= _LONGEST_NUMBER and int(value) <= largest):
        raise _wrong(f"{option} must be a number from 0 to {largest}, not {printable(value)}.")
    return int(value)


def _seconds(value: str) -> float:
    seconds = arguments.seconds(value)
    if seconds is None:
        raise _wrong(f"--timeout must be a number of seconds above 0, up to 86400, not {printable(value)}.")
    return seconds


def _wrong(sentence: str) -> UsageError:
    return UsageError(sentence, advice="domward-bootloader(1) lists what there is.")
