# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's configuration: a strict subset of xl.cfg(5), read by whoever creates the guest, with that user's rights.

The syntax is xl's: settings ``key = value``, one a line or with ``;`` between; strings in either quotes, integers, and
lists in brackets, over several lines; comments from ``#``. `KEYS` is every key there is. What xl would take and this
does not is refused with a sentence, never ignored: a guest is what its file says, or it is not made. Errors begin with
the file and the line. Reading is linear in the file's size, which is at most limits.GUEST_CONFIG_BYTES.
"""

from __future__ import annotations

import difflib
import os
import re
import uuid as uuids
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from domward.protocol import limits
from domward.protocol.errors import UsageError, printable
from domward.protocol.guests import Action, GuestType
from domward.protocol.records import frozen, names_of

from . import arguments, front_end_arguments, paths, programs
from .guest_disks import DiskSpec, DiskSpecError, parse_disk
from .hypervisor.interface import is_guest_name, is_uuid

#: Every key, with what it is for people.
KEYS = {
    "name": "the guest's name",
    "uuid": "its UUID; made up where it is not given",
    "type": "pv or pvh",
    "memory": "MiB",
    "vcpus": "virtual processors",
    "disk": "its disks; it boots from the first",
    "bootloader": "builtin (the default), pygrub, or a program's path",
    "bootloader_args": "words for that",
    "kernel": "a kernel on the guest's disk, in place of its boot configuration",
    "ramdisk": "a ramdisk there, with kernel",
    "cmdline": "kernel arguments, appended to the entry's",
    "root": "the same, in place of cmdline: root=...",
    "extra": "the same, behind root",
    "on_poweroff": "destroy, restart or preserve",
    "on_reboot": "the same",
    "on_crash": "the same",
}
_OWN_NAMES = ("builtin", "domward", "domward-bootloader", paths.FRONT_END)
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*|\\\r?\n)
      | (?P<end>[\n;])
      | (?P<word>[A-Za-z_][A-Za-z0-9_]{0,63})
      | (?P<number>(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,19})(?![A-Za-z0-9_]))
      | (?P<text>"(?:[^"\\\n]|\\["'\\])*"|'(?:[^'\\\n]|\\["'\\])*')
      | (?P<mark>[=\[\],])
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)")

Value = str | int | list[str]
ValueT = TypeVar("ValueT")


class GuestConfigError(UsageError):
    """A configuration that cannot be used; the sentence begins with the file and, where there is one, the line."""

    code = "guest-config"


@frozen(kw_only=True)
class GuestConfig:
    """A configuration, complete and checked. `args` are appended to the entry's; `bootloader` as for BootRequest.

    `entry`, `offset` and `menu` are what bootloader_args say to the built-in reader; `bootloader_args` are a program's.
    """

    name: str
    uuid: str
    type: GuestType
    memory_mib: int
    vcpus: int
    disks: tuple[DiskSpec, ...]
    bootloader: str
    bootloader_args: tuple[bytes, ...]
    entry: bytes | None
    offset: int | None
    menu: bool
    kernel: bytes | None
    ramdisk: bytes | None
    args: bytes | None
    on_poweroff: Action
    on_reboot: Action
    on_crash: Action


def read_config(file: Path) -> GuestConfig:
    """The configuration in `file`. Raises GuestConfigError."""
    shown = printable(str(file))
    try:
        with open(file, "rb") as opened:
            content = opened.read(limits.GUEST_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path has a NUL byte"
        raise GuestConfigError(f"{shown} cannot be read: {reason}.", advice="Check the path.") from error
    return parse_config(content, shown)


def parse_config(content: bytes, file: str = "configuration") -> GuestConfig:
    """The configuration that `content` is; `file` is what errors call it. Raises GuestConfigError."""
    if len(content) > limits.GUEST_CONFIG_BYTES:
        raise GuestConfigError(f"{file} has more than {limits.GUEST_CONFIG_BYTES} bytes.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise GuestConfigError(f"{file}:{line}: This is not UTF-8.") from None
    return _Settings(file, dict(_settings(text, file))).config()


# --- syntax -----------------------------------------------------------------------------------------------------


@frozen
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str, file: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            what = f"{printable(text[at])!r} makes no sense here"
            if text[at] in "\"'":
                what = "A text lacks its closing quote, or has an escape that is none of \\\\, \\' and \\\""
            raise GuestConfigError(f"{file}:{line}: {what}.")
        kind = found.lastgroup
        assert kind is not None
        if kind != "space":
            yield _Token(kind, found[0], line)
        line += found[0].count("\n")
        at = found.end()
    yield _Token("end", "", line)


def _settings(text: str, file: str) -> Iterator[tuple[str, tuple[Value, int]]]:
    """Each key with its value and line, once."""
    tokens = _tokens(text, file)
    seen: dict[str, int] = {}

    def wrong(token: _Token, wanted: str) -> GuestConfigError:
        found = printable(token.text) if token.text.strip() else "the end of the line"
        return GuestConfigError(f"{file}:{token.line}: {wanted} is expected, not {found}.")

    for token in tokens:
        if token.kind == "end":
            continue
        if token.kind != "word":
            raise wrong(token, "A key")
        key = token.text
        if key not in KEYS:
            raise GuestConfigError(f"{file}:{token.line}: {_unknown(key)}")
        if key in seen:
            raise GuestConfigError(f"{file}:{token.line}: {key} is given in line {seen[key]} already.")
        seen[key] = token.line
        sign = next(tokens)
        if sign.text != "=":
            raise wrong(sign, "'='")
        value = next(tokens)
        if value.text == "[":
            yield key, (_list(tokens, wrong), token.line)
        elif value.kind == "text":
            yield key, (_unquoted(value.text), token.line)
        elif value.kind == "number":
            yield key, (int(value.text, 0 if value.text[:2].lower() == "0x" else 10), token.line)
        else:
            raise wrong(value, "A text in quotes, a number or a list")
        end = next(tokens)
        if end.kind != "end":
            raise wrong(end, "The end of the line")


def _list(tokens: Iterator[_Token], wrong: Callable[[_Token, str], GuestConfigError]) -> list[str]:
    items: list[str] = []
    more = True
    for token in tokens:
        if token.text == "\n":
            continue
        if token.text == "]":
            return items
        if more and token.kind == "text":
            items.append(_unquoted(token.text))
            more = False
            if len(items) > limits.GUEST_CONFIG_ITEMS:
                raise wrong(token, f"A list of at most {limits.GUEST_CONFIG_ITEMS} texts")
        elif not more and token.text == ",":
            more = True
        else:
            raise wrong(token, "A text in quotes" if more else "',' or ']'")
    raise AssertionError("the last token is no part of a list")


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(r"\1", text[1:-1])


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, KEYS, 1)
    meant = f" Is {close[0]} meant?" if close else ""
    return f"{key} is not in the subset of xl.cfg that domward knows: {', '.join(KEYS)}.{meant}"


# --- meaning ----------------------------------------------------------------------------------------------------


class _Settings:
    """The values by key, and the file for errors."""

    def __init__(self, file: str, values: dict[str, tuple[Value, int]]) -> None:
        self._file = file
        self._values = values

    def config(self) -> GuestConfig:
        """Everything, checked in the order of KEYS."""
        name = self._text("name", None)
        if not is_guest_name(name):
            longest = limits.GUEST_NAME_BYTES
            raise self._error("name", f"A guest's name has 1 to {longest} of the characters A-Z a-z 0-9 . _ + -")
        identity = self._uuid()
        kind = self._choice("type", {one.value: one for one in GuestType}, GuestType.PVH)
        memory = self._number("memory", 4, limits.GUEST_MEMORY_MIB)
        vcpus = self._number("vcpus", 1, limits.GUEST_VCPUS, 1)
        disks = self._disks()
        bootloader = self._bootloader()
        words = self._words("bootloader_args")
        kernel, ramdisk = (self._guest_path(key) for key in ("kernel", "ramdisk"))
        if kernel is not None and "bootloader" not in self._values:
            raise self._error(
                "kernel", 'xl means a file of the host by this; with bootloader="builtin" it is the guest\'s'
            )
        if ramdisk is not None and kernel is None:
            raise self._error("ramdisk", "A ramdisk is given with a kernel")
        entry, offset, menu = self._for_reader(words) if bootloader == programs.BUILTIN else (None, None, True)
        if entry is not None and kernel is not None:
            raise self._error("kernel", "There is either a kernel or an entry of the disk's boot configuration")
        actions = {one.value: one for one in Action}
        return GuestConfig(
            name=name,
            uuid=identity,
            type=kind,
            memory_mib=memory,
            vcpus=vcpus,
            disks=disks,
            bootloader=bootloader,
            bootloader_args=() if bootloader == programs.BUILTIN else self._for_program(words),
            entry=entry,
            offset=offset,
            menu=menu and kernel is None,
            kernel=kernel,
            ramdisk=ramdisk,
            args=self._arguments(),
            on_poweroff=self._choice("on_poweroff", actions, Action.DESTROY),
            on_reboot=self._choice("on_reboot", actions, Action.RESTART),
            on_crash=self._choice("on_crash", actions, Action.DESTROY),
        )

    def _error(self, key: str, sentence: str) -> GuestConfigError:
        line = f":{self._values[key][1]}" if key in self._values else ""
        return GuestConfigError(f"{self._file}{line}: {sentence}.")

    def _text(self, key: str, default: str | None) -> str:
        if key not in self._values:
            if default is None:
                raise self._error(key, f"{key} is missing: {KEYS[key]}")
            return default
        value = self._values[key][0]
        if not isinstance(value, str) or "\0" in value:
            raise self._error(key, f"{key} is a text in quotes: {KEYS[key]}")
        return value

    def _number(self, key: str, low: int, high: int, default: int | None = None) -> int:
        if key not in self._values and default is not None:
            return default
        value = self._values[key][0] if key in self._values else None
        if not isinstance(value, int) or not low <= value <= high:
            raise self._error(key, f"{key} must be a number from {low} to {high}: {KEYS[key]}")
        return value

    def _choice(self, key: str, known: dict[str, ValueT], default: ValueT) -> ValueT:
        if key not in self._values:
            return default
        value = self._text(key, "")
        if value not in known:
            raise self._error(key, f"{key} must be {', '.join(known)} here, not {printable(value)}")
        return known[value]

    def _uuid(self) -> str:
        given = self._text("uuid", str(uuids.uuid4()))
        if not is_uuid(given):
            raise self._error("uuid", "A UUID is 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12")
        return given.lower()

    def _disks(self) -> tuple[DiskSpec, ...]:
        given = self._values.get("disk", ([], 0))[0]
        if not isinstance(given, list) or not 1 <= len(given) <= limits.GUEST_DISKS:
            raise self._error("disk", f"disk must be a list of 1 to {limits.GUEST_DISKS} texts: {KEYS['disk']}")
        try:
            disks = tuple(parse_disk(text) for text in given)
        except DiskSpecError as error:
            raise self._error("disk", str(error)) from None
        names = [disk.vdev for disk in disks]
        if len({*names}) < len(names):
            raise self._error("disk", "Two disks have the same name in the guest")
        return disks

    def _bootloader(self) -> str:
        given = self._text("bootloader", programs.BUILTIN)
        if given in _OWN_NAMES:
            return programs.BUILTIN
        if given != programs.PYGRUB and not os.path.isabs(given):
            raise self._error(
                "bootloader", f"bootloader must be builtin, pygrub or an absolute path, not {printable(given)}"
            )
        return given

    def _words(self, key: str) -> tuple[str, ...]:
        given = self._values.get(key, ([], 0))[0]
        if isinstance(given, int):
            raise self._error(key, f"{key} is a list of texts: {KEYS[key]}")
        return tuple(given.split() if isinstance(given, str) else given)

    def _for_program(self, words: tuple[str, ...]) -> tuple[bytes, ...]:
        return tuple(self._checked("bootloader_args", partial(arguments.as_bytes, word)) for word in words)

    def _for_reader(self, words: tuple[str, ...]) -> tuple[bytes | None, int | None, bool]:
        """What domward-bootloader would take of its options: the entry, the offset, and whether there is a menu."""
        plain = front_end_arguments.parse([paths.SOME_DISK])
        found = self._checked("bootloader_args", lambda: front_end_arguments.parse([*words, paths.SOME_DISK]))
        for name in names_of(plain):
            if name not in ("entry", "offset", "interactive") and getattr(found, name) != getattr(plain, name):
                raise self._error("bootloader_args", "The built-in bootloader takes --entry, --offset and --quiet here")
        return found.entry, found.offset, found.interactive

    def _guest_path(self, key: str) -> bytes | None:
        if key not in self._values:
            return None
        return self._checked(key, lambda: arguments.guest_path(key, arguments.as_bytes(self._text(key, ""))))

    def _arguments(self) -> bytes | None:
        if "cmdline" in self._values:
            for key in ("root", "extra"):
                if key in self._values:
                    raise self._error(key, f"There is either cmdline or {key}")
            whole = self._text("cmdline", "")
        else:
            root, extra = self._text("root", ""), self._text("extra", "")
            whole = " ".join(part for part in (f"root={root}" if root else "", extra) if part)
        key = next((key for key in ("cmdline", "extra", "root") if key in self._values), "cmdline")
        return self._checked(key, lambda: arguments.kernel_arguments(arguments.as_bytes(whole))) if whole else None

    def _checked(self, key: str, check: Callable[[], ValueT]) -> ValueT:
        try:
            return check()
        except UsageError as error:
            raise self._error(key, error.sentence.rstrip(".")) from None
