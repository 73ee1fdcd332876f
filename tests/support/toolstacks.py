# SPDX-License-Identifier: GPL-3.0-or-later
"""Toolstacks as `domward-bootloader` meets them: libxl with its ptys and files, xenopsd with pipes, xend with a FIFO.

`Libxl` does what tools/libs/light/libxl_bootloader.c does, in the same order: an output directory and an empty file,
made beforehand; the program as leader of a session on a pty that does not know its size; what it shows read and logged
until the pty hangs up or the program ends, whereupon the rest is thrown away; SIGTERM after a hang-up, which is nothing
to a program in its exit, and when the domain dies; then the answer, parsed item by item, each file mapped and unlinked.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support.menu_terminal import screen_of
from support.vt100_screen import Vt100Screen

FRONT_END = (sys.executable, "-I", "-c", "from domward.supervisor.front_end import main; raise SystemExit(main())")
SECONDS = 100  # for a machine that is busy
ITEM_BYTES = 8192  # PATH_MAX * 2
_SPACE = b" \t\n\v\f\r"


@dataclass
class Booted:
    """How it ended for libxl. `status` is as wait() gives it; `left` names what the program left in the directory."""

    status: int
    log: bytes
    kernel: bytes | None = None
    ramdisk: bytes | None = None
    args: bytes | None = None
    modes: set[int] = field(default_factory=set)
    dropped: list[bytes] = field(default_factory=list)
    answer: bytes = b""
    left: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        """The exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(self.status)


class Libxl:
    """One bootloader run. `extra` are words between the output's options and the disk, `before` those before them."""

    def __init__(
        self, work: Path, disk: str | Path, *, before: Sequence[str] = (), bootloader_args: Sequence[str] = ()
    ) -> None:
        self.directory = work / "bootloader.7.d"
        self.output = work / "bootloader.7.out"
        self.directory.mkdir(mode=0o600)
        os.close(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        self.log = b""
        self.master, slave = os.openpty()
        words = [
            *before,
            f"--output={self.output}",
            "--output-format=simple0",
            f"--output-directory={self.directory}",
            *bootloader_args,
            str(disk),
        ]
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.master)
            os.login_tty(slave)
            os.execve(FRONT_END[0], [*FRONT_END, *words], dict(os.environ, TERM="vt100"))
        os.close(slave)
        with contextlib.suppress(termios.error):
            tty.setraw(self.master, termios.TCSANOW)
        self._status: int | None = None
        self._pidfd = os.pidfd_open(self.pid)

    def screen(self) -> Vt100Screen:
        """What the menu shows; AssertionError where anything was written that a menu may not write."""
        return screen_of(self.log, 80, 24)

    def until(self, condition: Callable[[Vt100Screen], bool]) -> Vt100Screen:
        """Waits until the screen fulfils `condition`."""
        while not condition(self.screen()):
            assert not self._step(), f"the program ended: {self.log!r}"
        return self.screen()

    def until_shown(self, text: str) -> Vt100Screen:
        """Waits until a row of the screen holds `text`."""
        return self.until(lambda screen: any(text in row for row in screen.rows))

    def press(self, keys: bytes) -> None:
        """Types at the console."""
        os.write(self.master, keys)

    def domain_dies(self) -> None:
        """What libxl does when it is told so."""
        os.kill(self.pid, signal.SIGTERM)

    def hang_up(self) -> None:
        """Closes the master, as the death of the toolstack does."""
        os.close(self.master)
        self.master = -1

    def _step(self) -> bool:
        """Handles what comes next, output before death as libxl does; whether that was the program's end."""
        poller = select.poll()
        if self.master >= 0:
            poller.register(self.master, select.POLLIN)
        poller.register(self._pidfd, select.POLLIN)
        ready = dict(poller.poll(SECONDS * 1000))
        assert ready, f"nothing happens: {self.log!r}"
        events = ready.get(self.master, 0)
        if events & select.POLLHUP:
            os.kill(self.pid, signal.SIGTERM)
            os.close(self.master)
            self.master = -1
        elif events & select.POLLIN:
            self.log += os.read(self.master, 4096)
        if self._pidfd in ready:
            self._status = os.waitpid(self.pid, 0)[1]
        return self._status is not None

    def finish(self) -> Booted:
        """Waits for the end and takes the result, if it is one."""
        while self._status is None:
            self._step()
        booted = Booted(self._status, self.log)
        booted.answer = self.output.read_bytes()
        if self._status == 0:
            self._take(booted)
        booted.left = sorted(os.listdir(self.directory))
        return booted

    def _take(self, booted: Booted) -> None:
        for item in booted.answer.split(b"\0"):
            if len(item) >= ITEM_BYTES:
                booted.dropped.append(item)
            elif (rest := _command(item, b"args")) is not None:
                booted.args = rest
            elif (rest := _command(item, b"kernel")) is not None:
                booted.kernel = self._file(rest, booted)
            elif (rest := _command(item, b"ramdisk")) is not None:
                booted.ramdisk = self._file(rest, booted)
            elif item:
                booted.dropped.append(item)

    def _file(self, path: bytes, booted: Booted) -> bytes:
        assert Path(os.fsdecode(path)).parent == self.directory
        booted.modes.add(os.lstat(path).st_mode)
        content = Path(os.fsdecode(path)).read_bytes()
        os.unlink(path)
        return content

    def close(self) -> None:
        """Ends what is left, and removes file and directory."""
        if self._status is None:
            os.kill(self.pid, signal.SIGTERM)
            while not self._step():
                pass
        if self.master >= 0:
            os.close(self.master)
        os.close(self._pidfd)
        with contextlib.suppress(FileNotFoundError):
            self.output.unlink()
        shutil.rmtree(self.directory)


def _command(item: bytes, name: bytes) -> bytes | None:
    """What follows the name and white space; None where this is something else."""
    rest = item.removeprefix(name)
    return rest.lstrip(_SPACE) if item.startswith(name) and rest[:1] and rest[:1] in _SPACE else None


@contextlib.contextmanager
def libxl(
    work: Path, disk: str | Path, *, before: Sequence[str] = (), bootloader_args: Sequence[str] = ()
) -> Iterator[Libxl]:
    """A bootloader run of libxl's, in a folder below `work` that is made if it is missing."""
    work.mkdir(exist_ok=True)
    run = Libxl(work, disk, before=before, bootloader_args=bootloader_args)
    try:
        yield run
    finally:
        run.close()


def xenopsd(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """A run as xenopsd's Forkhelpers do it: standard input empty, output and error each a pipe, no terminal."""
    return subprocess.run(
        [*FRONT_END, "--output-format=simple", "-q", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        check=False,
        start_new_session=True,
    )


def parse_simple(answer: bytes) -> dict[str, str]:
    """The lines of the form `simple` as xenopsd parses them: each name once, no name that it does not know."""
    found: dict[str, str] = {}
    for line in answer.decode().split("\n"):
        if " " in line:
            name, _, value = line.partition(" ")
            assert name in ("kernel", "ramdisk", "args"), line
            assert name not in found, line
            found[name] = value
    return found


def parse_sxp(answer: bytes) -> list[object]:
    """The form `sxp` as xend's parser reads it: atoms, strings in either quote with its escapes, and lists."""
    escapes = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
    text = answer.decode("latin-1")
    stack: list[list[object]] = [[]]
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if character in "'\"":
            value = ""
            while text[at] != character:
                if text[at] == "\\":
                    at += 1
                    value += escapes.get(text[at], text[at])
                else:
                    value += text[at]
                at += 1
            at += 1
            stack[-1].append(value)
        elif character == "(":
            stack.append([])
        elif character == ")":
            stack[-2].append(stack.pop())
        elif not character.isspace():
            end = at
            while end < len(text) and not text[end].isspace() and text[end] not in "()":
                end += 1
            stack[-1].append(text[at - 1 : end])
            at = end
    assert len(stack) == 1, "a list has no end"
    return stack[0]
