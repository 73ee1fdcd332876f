# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on the supervisor through the channel: what a helper may not say, and fds that it may not send.

How these end shows outside, as the operation's error: "protocol-violation", "helper-died", "timed-out".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .attacker import Stopped
from .syscalls import AT_FDCWD, O_DIRECTORY, O_PATH, PTY_FLAGS
from .table import SECCOMP, Stop, add, stop

if TYPE_CHECKING:  # it needs domward, which the peers' interpreters do not have
    from .helper_attacker import HelperAttacker

REFUSED = stop("protocol check", "protocol-violation")
READER = ("bootloader",)
KINDS = ("pty", "datacopier", "bootloader")
IMAGE = {"type": "progress", "step": "image"}
LINE = {"type": "log", "level": "info", "line": "x"}

Says = Callable[["HelperAttacker"], object]


def _says(name: str, wants: str, work: Says, kinds: tuple[str, ...] = READER, by: Stop = REFUSED) -> None:
    add(work, name, wants, None, by, kinds, peers=False)


def _fields(name: str, wants: str, fields: dict[str, Any], kinds: tuple[str, ...] = READER) -> None:
    _says(name, wants, lambda attacker: attacker.say(fields), kinds)


def _bytes(name: str, wants: str, data: bytes) -> None:
    _says(name, wants, lambda attacker: attacker.raw(data), KINDS)


# --- messages ---------------------------------------------------------------------------------------------------

_fields("say-the-unknown", "Have the supervisor run a command.", {"type": "run-command", "command": "sh"}, KINDS)
_fields(
    "say-what-the-launcher-says", "Name another process as a new helper.", {"type": "spawned", "request": 1, "pid": 1}
)
_fields("order-a-helper", "Order a helper itself.", {"type": "spawn"}, KINDS)
_fields("answer-with-a-path", "Name a file of the host as the kernel.", {"type": "boot-read", "path": "/etc/shadow"})
_fields("leave-a-field-out", "Answer by halves.", {"type": "boot-read", "title": b""})
_fields("be-no-message", "Send a message without a name.", {"step": "image"}, KINDS)
_fields("step-unknown", "Begin a step that there is not.", {"type": "progress", "step": "reboot"})
_fields("log-as-critical", "Write to the log at a level that wakes people.", {**LINE, "level": "critical"}, KINDS)
_fields("log-what-is-no-text", "Write bytes to the log.", {**LINE, "line": b"\x1b[2J"}, KINDS)
_fields("log-a-long-line", "Write a line to the log that fills it.", {**LINE, "line": "x" * 5000}, KINDS)
_bytes("send-no-msgpack", "Crash the decoder with what is not its format.", b"\xc1")
_bytes("send-no-map", "Crash the decoder with an array.", b"\x93\x01\x02\x03")
_bytes("send-half-a-message", "Have the supervisor wait for the other half.", b"\x82\xa4type\xa8prog")
_bytes("send-two-in-one", "Hide a second message behind the first.", b"\x81\xa4type\xa1a\x81\xa4type\xa1b")
_bytes("name-a-key-twice", "Be understood in two ways.", b"\x82\xa4type\xa3log\xa4type\xa8progress")
_bytes("name-a-key-by-a-number", "Use a key that is no text.", b"\x81\x01\xa1a")
_bytes("name-a-key-nan", "Use a key that is not equal to itself.", b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa1a")
_bytes("nest-deeply", "Exhaust the decoder's stack.", b"\x81\xa4type" + b"\x91" * 60_000 + b"\xc0")
_bytes("nest-maps-deeply", "Exhaust the decoder's stack with maps.", b"\x81\xa1a" * 15_000 + b"\xc0")
_bytes("claim-a-long-text", "Have the decoder take 4 GiB of memory for a text.", b"\x81\xa4type\xdb\xff\xff\xff\xff")
_bytes("claim-long-data", "Have the decoder take 4 GiB of memory for bytes.", b"\x81\xa4type\xc6\xff\xff\xff\xff")
_bytes("claim-a-long-array", "Have the decoder take memory for 4 billion items.", b"\x81\xa4type\xdd\xff\xff\xff\xff")
_bytes("claim-a-large-map", "Have the decoder take memory for 4 billion keys.", b"\xdf\xff\xff\xff\xff")
_bytes("send-an-extension", "Reach the code for msgpack's extensions.", b"\x81\xa4type\xc7\x04\xff\x00\x00\x00\x00")
_bytes("send-a-timestamp", "Have the decoder make an object of a class.", b"\x81\xa4type\xd6\xff\x00\x00\x00\x00")
_bytes("send-a-bad-text", "Have the decoder fail on UTF-8.", b"\x81\xa4type\xa2\xff\xfe")
_bytes("send-one-byte-too-many", "Overflow the receiver's buffer.", b"x" * (64 * 1024 + 1))
_bytes("send-a-huge-message", "Overflow the receiver's buffer by far.", b"x" * 200_000)


def _ill_typed(name: str, wants: str, **changes: object) -> None:
    _says(name, wants, lambda attacker: attacker.say(attacker.boot_read(**changes)))


_ill_typed("size-as-text", "Have a size compared with a text.", kernel_bytes="4")
_ill_typed("size-as-boolean", "Pass true for 1.", kernel_bytes=True)
_ill_typed("size-as-float", "Pass infinity for a size.", kernel_bytes=float("inf"))
_ill_typed("size-negative", "Have a size below nothing.", kernel_bytes=-1)
_ill_typed("size-beyond-64-bits", "Overflow a size.", kernel_bytes=2**64 - 1)
_ill_typed("kernel-of-no-bytes", "Have an empty kernel booted.", kernel_bytes=0)
_ill_typed("title-as-list", "Nest where a text belongs.", title=[[[b"t"]]])
_ill_typed("args-too-long", "Overflow Xen's command line.", args=b"a" * 1024)


def _every(most: int, fields: dict[str, Any]) -> Says:
    def work(attacker: HelperAttacker) -> None:
        for _ in range(most):
            attacker.say(fields)

    return work


_says("say-it-again", "Repeat a message until something breaks.", _every(6, IMAGE))
_says("flood-the-log", "Fill the host's log.", _every(2000, {**LINE, "line": "x" * 4000}), KINDS)
_says("answer-twice", "Have a second answer counted.", lambda attacker: (attacker.answer(), attacker.answer()))
_says("speak-after-the-answer", "Go on after the end.", lambda attacker: (attacker.answer(), attacker.say(IMAGE)))
_says("live-after-the-answer", "Hold a result while it is used.", lambda attacker: (attacker.answer(), attacker.idle()))
_says(
    "end-without-an-answer",
    "Have an end counted as an answer.",
    lambda _: None,
    KINDS,
    stop("protocol check", "helper-died"),
)
_says(
    "close-the-channel-and-live-on",
    "Live on unwatched.",
    lambda attacker: (attacker.channel.close(), attacker.idle()),
    KINDS,
    stop("reaping", "helper-died"),
)
_says(
    "copied-more-than-there-is",
    "Have the supervisor read beyond the end of the log.",
    lambda attacker: attacker.say(attacker.copied(logged=1 << 20)),
    ("datacopier",),
)
_says(
    "opened-more-than-asked-for",
    "Hand over ptys that nobody asked for.",
    lambda attacker: attacker.say({"type": "ptys-opened", "count": 2}, [0, 1, 0, 1]),
    ("pty",),
)


# --- fds --------------------------------------------------------------------------------------------------------

_says("send-the-disk-back", "Have the supervisor keep an fd open.", lambda a: a.say(IMAGE, [a.fd("disk")]))
_says(
    "send-a-sink-back", "Have the supervisor take its own sink for another.", lambda a: a.say(IMAGE, [a.fd("kernel")])
)
_says(
    "send-the-channel",
    "Make a channel that holds itself, in a circle.",
    lambda a: a.say(LINE, [a.fd("channel")]),
    KINDS,
)
_says("send-nine-fds", "Overflow the receiver's room for fds.", lambda a: a.say(LINE, [0] * 9), KINDS)
_says("send-253-fds", "Fill the supervisor's table of fds.", lambda a: a.say(LINE, [0] * 253), KINDS)
_says("send-fds-without-a-message", "Have fds arrive that no message owns.", lambda a: a.raw(b"", [0, 1]), KINDS)
_says("send-fds-with-rubbish", "Have fds leak where a message is refused.", lambda a: a.raw(b"\xc1", [0, 1, 2]), KINDS)


def _as_pty(name: str, wants: str, open_fds: Callable[[HelperAttacker], list[int]], by: Stop = REFUSED) -> None:
    """Hands over what `open_fds` gives as master and slave; where that takes calls, they are seccomp's to stop."""

    def work(attacker: HelperAttacker) -> None:
        attacker.say({"type": "ptys-opened", "count": 1}, open_fds(attacker))

    add(work, name, wants, REFUSED if by is SECCOMP else None, by, ("pty",), peers=False)


def _open_pty(attacker: HelperAttacker) -> list[int]:
    master = attacker.call("openat", AT_FDCWD, b"/ptmx", PTY_FLAGS)
    attacker.call("ioctl", master, 0x40045431, struct.pack("i", 0))
    slave = attacker.call("ioctl", master, 0x5441, PTY_FLAGS)
    return [master, slave]


def _pipe(attacker: HelperAttacker) -> list[int]:
    ends = attacker.buffer(8)
    attacker.call("pipe", ends)
    return list(struct.unpack("2i", ends.raw))


_as_pty("hand-over-null-devices", "Pass /dev/null off as a pty.", lambda _: [0, 1])
_as_pty("hand-over-the-channel", "Pass its own channel off as a pty.", lambda a: [a.fd("channel")] * 2)
_as_pty("hand-over-one-fd", "Hand over half a pty.", lambda _: [0])
_as_pty("hand-over-a-cooked-pty", "Hand over a pty that interprets what passes.", _open_pty)
_as_pty("hand-over-swapped-ends", "Hand over master and slave the other way round.", lambda a: _open_pty(a)[::-1])
_as_pty(
    "hand-over-ends-of-two-ptys",
    "Hand over a slave whose master it keeps.",
    lambda a: [_open_pty(a)[0], _open_pty(a)[1]],
)
_as_pty(
    "hand-over-a-folder",
    "Pass a folder off as a pty.",
    lambda a: [a.call("openat", AT_FDCWD, b"/", O_PATH | O_DIRECTORY)] * 2,
    SECCOMP,
)
_as_pty("hand-over-a-socket", "Pass a socket off as a pty.", lambda a: [a.call("socket", 1, 1, 0)] * 2, SECCOMP)
_as_pty("hand-over-a-pipe", "Pass a pipe off as a pty.", _pipe, SECCOMP)
_as_pty("hand-over-an-epoll", "Pass an epoll off as a pty.", lambda a: [a.call("epoll_create1", 0)] * 2, SECCOMP)
_as_pty("hand-over-a-memfd", "Pass a memfd off as a pty.", lambda a: [a.call("memfd_create", b"x", 0)] * 2, SECCOMP)
_as_pty("hand-over-itself", "Pass its own pidfd off as a pty.", lambda a: [a.call("pidfd_open", 1, 0)] * 2, SECCOMP)
_as_pty("hand-over-an-inotify", "Pass an inotify off as a pty.", lambda a: [a.call("inotify_init1", 0)] * 2, SECCOMP)
_as_pty("hand-over-a-userfault", "Pass a userfaultfd off as a pty.", lambda a: [a.call("userfaultfd", 1)] * 2, SECCOMP)


def _io_uring(attacker: HelperAttacker) -> list[int]:
    try:
        return [attacker.call("io_uring_setup", 1, attacker.buffer(120))] * 2
    except Stopped:  # RLIMIT_MEMLOCK leaves no room for one: then the attempt is made with what it has
        return [0, 0]


_as_pty("hand-over-an-io-uring", "Pass an io_uring off as a pty.", _io_uring, SECCOMP)
