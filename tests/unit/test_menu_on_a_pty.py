# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot menu on a real pty: keys are typed at the master, and what is written there is shown on a model screen.

`Console` is the person at the terminal: its `wait` is the menu's own, so whenever the menu has nothing left to read,
the console looks at the screen and types the next keys. No time passes and no thread runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import tty
from collections.abc import Callable, Iterator

import pytest
from support.vt100_screen import Vt100Screen

from domward.helpers.menu import Choice, run_menu
from domward.helpers.reader.interface import BootEntry, BootMenu, FileRef
from domward.helpers.terminal import RESIZED, Key, Terminal
from domward.helpers.terminal_filter import TerminalFilter
from domward.protocol import limits
from domward.protocol.errors import DiskError, DiskReason, OperationCancelled
from domward.protocol.records import replaced

UP, DOWN, RIGHT, LEFT, HOME, END = (b"\x1b[" + final for final in (b"A", b"B", b"C", b"D", b"H", b"F"))
PAGE_UP, PAGE_DOWN, DELETE = b"\x1b[5~", b"\x1b[6~", b"\x1b[3~"
ENTER, ESCAPE, BACKSPACE = b"\r", b"\x1b", b"\x7f"
PAUSE = b""  # nothing is typed until the menu gives up waiting

KERNEL = FileRef(0, b"/vmlinuz", 1)
ENTRIES = (
    BootEntry(b"Debian", KERNEL, args=b"root=/dev/xvda1 ro"),
    BootEntry(b"Old kernel", KERNEL, args=b"root=/dev/xvda1", path=(b"Advanced",)),
    BootEntry(b"Broken", None, problem="there is no /vmlinuz-9"),
    BootEntry(b"Rescue", KERNEL, args=b"single"),
)
MENU = BootMenu(ENTRIES, 0, None, "test")


class Console:
    """A person at the master of a pty, with a screen and a clock of their own."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.screen = Vt100Screen(columns, rows)
        self.filter = TerminalFilter()
        self.now = 1000.0
        self.read = 0  # bytes
        self.keys: list[bytes | Callable[[], None]] = []
        self.open = {self.master, self.slave}
        self.resized = False

    def resize(self, columns: int, rows: int) -> Callable[[], None]:
        """A step that gives the person another screen, which is empty."""

        def step() -> None:
            self.screen = Vt100Screen(columns, rows)
            self.resized = True

        return step

    def close(self, fd: int) -> None:
        self.open.discard(fd)
        os.close(fd)

    def look(self) -> None:
        """Show on the screen what was written."""
        while True:
            try:
                data = os.read(self.master, 65536)
            except BlockingIOError:
                return
            self.read += len(data)
            assert self.filter.feed(data) == data, "the datacopier would not pass this"
            self.screen.feed(data)

    def wait(self, fd: int, events: int, seconds: float | None) -> int:
        """The menu waits: look at the screen, then type the next keys or let the time pass."""
        self.look()
        if not self._ready(fd, events):
            if not self.keys:
                assert seconds is not None, "the menu waits for ever: " + "\n".join(self.screen.rows)
                self.now += seconds
                return 0
            step = self.keys.pop(0)
            if callable(step):
                step()
                if self.resized:
                    self.resized = False
                    return RESIZED
                return self.wait(fd, events, seconds)
            if step == PAUSE:
                assert seconds is not None
                self.now += seconds
                return 0
            os.write(self.master, step)
        return self._ready(fd, events, 5000)

    def run(self, menu: BootMenu, *keys: bytes | Callable[[], None]) -> Choice:
        """Run the menu while `keys` are typed; a function among them is called with the screen up to date."""
        self.keys = list(keys)
        try:
            return run_menu(
                self.slave,
                self.slave,
                menu,
                columns=self.screen.columns,
                rows=self.screen.row_count,
                clock=lambda: self.now,
                wait=self.wait,
                size=lambda: (self.screen.columns, self.screen.row_count),
            )
        finally:
            if self.master in self.open:
                self.look()

    @staticmethod
    def _ready(fd: int, events: int, milliseconds: int = 0) -> int:
        poller = select.poll()
        poller.register(fd, events)
        ready = poller.poll(milliseconds)
        return ready[0][1] if ready else 0


@pytest.fixture
def console() -> Iterator[Console]:
    console = Console()
    yield console
    for fd in list(console.open):
        console.close(fd)


@pytest.fixture
def small() -> Iterator[Console]:
    console = Console(columns=40, rows=10)
    yield console
    for fd in list(console.open):
        console.close(fd)


def menu_of(count: int) -> BootMenu:
    return BootMenu(tuple(BootEntry(b"entry %d" % index, KERNEL) for index in range(count)), 0, None, "test")


class TestChoosing:
    def test_the_menu_shows_every_entry_and_the_default_reversed(self, console: Console) -> None:
        seen: list[list[str]] = []
        console.run(replaced(MENU, default=1), lambda: seen.append(console.screen.rows), ENTER)
        (rows,) = seen
        assert rows[0] == "Boot menu (2 of 4)"
        assert rows[2:6] == [
            "  Debian",
            "  Advanced > Old kernel",
            "  (Broken: there is no /vmlinuz-9)",
            "  Rescue",
        ]
        assert rows[21] == "arguments: root=/dev/xvda1"
        assert rows[23] == "Up/Down: select  Enter: boot  e: edit arguments  q: cancel"

    def test_a_title_too_long_for_its_row_is_shown_without_its_submenus(self, console: Console) -> None:
        versions = (b"Debian GNU/Linux, with Linux 6.1", b"Debian GNU/Linux, with Linux 6.1 (recovery mode)")
        submenu = (b"Advanced options for Debian GNU/Linux",)
        entries = tuple(BootEntry(title, KERNEL, path=submenu) for title in versions)
        seen: list[list[str]] = []
        console.run(BootMenu(entries, 0, None, "test"), lambda: seen.append(console.screen.rows), ENTER)
        assert seen[0][2:4] == [
            "  Advanced options for Debian GNU/Linux > Debian GNU/Linux, with Linux 6.1",
            "  ... > Debian GNU/Linux, with Linux 6.1 (recovery mode)",
        ]

    def test_the_selected_entry_is_in_reverse_video(self, console: Console) -> None:
        seen: list[list[str]] = []
        console.run(MENU, DOWN, lambda: seen.append(console.screen.reversed_rows), ENTER)
        assert seen == [["  Advanced > Old kernel"]]

    @pytest.mark.parametrize(
        ("keys", "title"),
        [
            ((), b"Debian"),
            ((DOWN,), b"Old kernel"),
            ((b"\x1bOB",), b"Old kernel"),
            ((b"\x0e",), b"Old kernel"),
            ((DOWN, DOWN, DOWN, DOWN, DOWN), b"Rescue"),
            ((DOWN, UP, UP, b"\x1bOA"), b"Debian"),
            ((END,), b"Rescue"),
            ((END, HOME), b"Debian"),
            ((b"\x1b[4~", b"\x1b[1~", PAGE_DOWN), b"Rescue"),
            ((PAGE_DOWN, PAGE_UP), b"Debian"),
            ((b"\x1b[B\x1b[B\x1b[B",), b"Rescue"),
            ((b"\x1b", b"[", b"B"), b"Old kernel"),
            ((b"\x1b[1;5B",), b"Old kernel"),
            ((b"\x00\xff\x1b[99~\x1b[Z\x1b[?1;2cxyz", ESCAPE, PAUSE), b"Debian"),
        ],
    )
    def test_by_key(self, console: Console, keys: tuple[bytes, ...], title: bytes) -> None:
        choice = console.run(MENU, *keys, ENTER)
        assert choice.entry.title == title
        assert choice.args == choice.entry.args

    def test_the_screen_is_left_empty_with_its_cursor(self, console: Console) -> None:
        console.run(MENU, ENTER)
        assert console.screen.rows == [""] * 24
        assert console.screen.cursor == (1, 1)
        assert console.screen.cursor_shown

    def test_an_entry_that_cannot_boot_is_not_chosen(self, console: Console) -> None:
        seen: list[str] = []
        choice = console.run(MENU, DOWN, DOWN, ENTER, b"e", lambda: seen.append(console.screen.rows[21]), DOWN, ENTER)
        assert seen == ["cannot boot: there is no /vmlinuz-9"]
        assert choice.entry.title == b"Rescue"

    def test_arguments_that_xen_does_not_take_are_not_chosen_until_shortened(self, console: Console) -> None:
        menu = BootMenu((BootEntry(b"long", KERNEL, args=b"x" * (limits.CMDLINE_BYTES + 2)),), 0, None, "test")
        seen: list[str] = []
        keys = (b"e", BACKSPACE, b"y", BACKSPACE, ENTER)
        choice = console.run(menu, ENTER, lambda: seen.append(console.screen.rows[22]), *keys, ENTER)
        assert seen == ["the kernel's arguments are 1025 bytes; Xen takes at most 1023"]
        assert len(choice.args) == limits.CMDLINE_BYTES

    @pytest.mark.parametrize("key", [b"q", b"\x03"])
    def test_leaving_is_a_cancellation(self, console: Console, key: bytes) -> None:
        with pytest.raises(OperationCancelled):
            console.run(MENU, DOWN, key)
        assert console.screen.rows == [""] * 24

    def test_without_an_entry_that_can_boot_nothing_is_shown(self, console: Console) -> None:
        with pytest.raises(DiskError) as caught:
            console.run(replaced(MENU, entries=(ENTRIES[2],)))
        assert caught.value.reason is DiskReason.NO_BOOTABLE_ENTRY


class TestEditing:
    @pytest.mark.parametrize(
        ("typed", "args"),
        [
            (b" quiet", b"root=/dev/xvda1 ro quiet"),
            (BACKSPACE * 3 + b"\x08", b"root=/dev/xvda"),
            (LEFT + LEFT + b"x", b"root=/dev/xvda1 xro"),
            (LEFT * 99 + b"a" + RIGHT + b"b", b"arboot=/dev/xvda1 ro"),
            (HOME + b"<" + END + b">", b"<root=/dev/xvda1 ro>"),
            (b"\x01<\x05>", b"<root=/dev/xvda1 ro>"),
            (LEFT * 3 + b"\x0b", b"root=/dev/xvda1"),
            (LEFT * 2 + b"\x15", b"ro"),
            (HOME + DELETE + b"\x04", b"ot=/dev/xvda1 ro"),
            (HOME + BACKSPACE + END + DELETE, b"root=/dev/xvda1 ro"),
            (b"\x15qe\x1b[A\x1b[5~", b"qe"),
            (b"\x00\x07\x80\xc3\xa9", b"root=/dev/xvda1 ro"),
            (b"y" * 3000, b"root=/dev/xvda1 ro" + b"y" * (limits.CMDLINE_BYTES - 18)),
        ],
    )
    def test_changes_the_arguments(self, console: Console, typed: bytes, args: bytes) -> None:
        pieces = [typed[at : at + 100] for at in range(0, len(typed), 100)]
        choice = console.run(MENU, b"e", *pieces, ENTER, ENTER)
        assert choice.args == args
        assert choice.entry is ENTRIES[0]

    def test_is_undone_by_escape(self, console: Console) -> None:
        assert console.run(MENU, b"e", b" more", ENTER, b"e", b" lost", ESCAPE, PAUSE, ENTER).args == (
            b"root=/dev/xvda1 ro more"
        )

    def test_belongs_to_the_entry_that_was_edited(self, console: Console) -> None:
        assert console.run(MENU, b"e", b" more", ENTER, DOWN, ENTER).args == b"root=/dev/xvda1"

    def test_shows_the_cursor_where_text_goes_and_scrolls_a_long_line(self, console: Console) -> None:
        seen: list[object] = []

        def look() -> None:
            seen.append((console.screen.rows[21], console.screen.cursor, console.screen.cursor_shown))

        console.run(MENU, b"e", look, LEFT, look, END, b"z" * 90, look, ENTER, ENTER)
        assert seen[0] == ("arguments: root=/dev/xvda1 ro", (22, 30), True)
        assert seen[1] == ("arguments: root=/dev/xvda1 ro", (22, 29), True)
        assert seen[2] == ("arguments: " + "z" * 67, (22, 79), True)

    def test_can_be_cancelled(self, console: Console) -> None:
        with pytest.raises(OperationCancelled):
            console.run(MENU, b"e", b"q\x03")


class TestTimeOut:
    def test_starts_the_default_and_counts_down(self, console: Console) -> None:
        seen: list[str] = []

        def look() -> None:
            seen.append(console.screen.rows[22])

        choice = console.run(replaced(MENU, default=2, timeout=3.0), look, PAUSE, look, PAUSE, look)
        assert choice.entry.title == b"Rescue"  # the default cannot boot: the next
        assert console.now == 1003.0
        assert [text.split(";")[0] for text in seen] == [f"The selected entry starts in {left} s" for left in (3, 2, 1)]

    def test_stops_at_the_first_key(self, console: Console) -> None:
        choice = console.run(replaced(MENU, timeout=3.0), PAUSE, DOWN, lambda: None, ENTER)
        assert choice.entry.title == b"Old kernel"
        assert console.now == 1001.0

    def test_of_nothing_shows_nothing(self, console: Console) -> None:
        assert console.run(replaced(MENU, timeout=0.0)).entry is ENTRIES[0]
        console.look()
        assert console.read == 0

    def test_refuses_arguments_that_xen_does_not_take(self, console: Console) -> None:
        entry = BootEntry(b"long", KERNEL, args=b"x" * 2000)
        with pytest.raises(DiskError) as caught:
            console.run(BootMenu((entry,), 0, 1.0, "test"))
        assert caught.value.reason is DiskReason.ARGS_INVALID


class TestScrolling:
    def test_keeps_the_selected_entry_on_the_screen(self, small: Console) -> None:
        seen: list[tuple[list[str], list[str]]] = []

        def look() -> None:
            seen.append((small.screen.rows[2:7], small.screen.reversed_rows))

        choice = small.run(
            menu_of(20), look, DOWN * 7, look, UP, look, END, look, PAGE_UP, look, HOME, look, PAGE_DOWN, ENTER
        )
        tops = [rows[0] for rows, _ in seen]
        assert tops == ["  entry 0", "  entry 3", "  entry 3", "  entry 15", "  entry 14", "  entry 0"]
        assert [selected for _, (selected,) in seen] == [f"  entry {index}" for index in (0, 7, 6, 19, 14, 0)]
        assert choice.entry.title == b"entry 5"

    def test_every_entry_of_a_large_menu_can_be_reached(self, small: Console) -> None:
        assert small.run(menu_of(limits.ENTRIES), DOWN * 600, ENTER).entry.title == b"entry 511"

    @pytest.mark.parametrize(("columns", "rows"), [(1, 1), (0, 0), (-5, 9999), (20, 6)])
    def test_sizes_beyond_reason_become_the_nearest(self, columns: int, rows: int) -> None:
        console = Console(columns=max(20, columns), rows=min(256, max(6, rows)))
        try:
            choice = run_menu(
                console.slave,
                console.slave,
                replaced(menu_of(9), timeout=1.0),
                columns=columns,
                rows=rows,
                clock=lambda: console.now,
                wait=console.wait,
            )
            console.look()
        finally:
            for fd in list(console.open):
                console.close(fd)
        assert choice.entry.title == b"entry 0"


class TestResizing:
    def test_draws_anew_for_the_new_size_and_keeps_what_is_selected(self, console: Console) -> None:
        def large() -> None:
            assert console.screen.rows[0] == "Boot menu (2 of 4)"
            assert console.screen.rows[42].startswith("Up/Down")

        def small() -> None:
            assert console.screen.rows[0] == "Boot menu (2 of 4)"
            assert console.screen.rows[7].startswith("Up/Down")

        choice = console.run(MENU, DOWN, console.resize(132, 43), large, console.resize(40, 8), small, ENTER)
        assert choice.entry.title == b"Old kernel"

    def test_does_not_stop_the_count(self, console: Console) -> None:
        choice = console.run(replaced(MENU, timeout=5.0), PAUSE, console.resize(60, 20), PAUSE, PAUSE)
        assert (choice.entry.title, console.now) == (b"Debian", 1005.0)

    def test_in_the_middle_of_a_key_keeps_the_key(self, console: Console) -> None:
        assert console.run(MENU, b"\x1b", console.resize(60, 20), b"[B", ENTER).entry.title == b"Old kernel"

    def test_while_the_terminal_takes_nothing_is_not_forgotten(self, console: Console) -> None:
        os.set_blocking(console.slave, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(console.slave, b" " * 100)

        def wait(_fd: int, events: int, _seconds: float | None) -> int:
            if not events & select.POLLOUT:
                return 0
            os.read(console.master, 65536)
            return select.POLLOUT | RESIZED

        terminal = Terminal(console.slave, console.slave, wait)
        terminal.write(b"text")
        assert terminal.key(0) is Key.RESIZED
        assert terminal.key(0) is None


class TestHostileText:
    def test_never_drives_the_terminal(self, console: Console) -> None:
        hostile = bytes(range(256)) + b"\x1b]0;title\x07\x1b[6n\x1bP$q\x1b\\\r\n\x9b31m"
        entries = (
            BootEntry(hostile, KERNEL, args=b"\xff\xfe a", path=(hostile,)),
            BootEntry(hostile, None, problem="x\\x1b" * 50),
            BootEntry(b"\x1b[2J", KERNEL),
        )
        menu = BootMenu(entries, 0, 2.0, "test")
        console.run(menu, PAUSE, b"e", LEFT, b"x", ENTER, DOWN, DOWN, ENTER)  # the model screen refuses anything else
        assert console.screen.rows == [""] * 24

    def test_arguments_keep_bytes_that_cannot_be_shown(self, console: Console) -> None:
        menu = BootMenu((BootEntry(b"a", KERNEL, args=b"n=h\xc3\xb6he"),), 0, None, "test")
        assert console.run(menu, b"e", b"!", ENTER, ENTER).args == b"n=h\xc3\xb6he!"


class TestHangUp:
    def test_while_waiting_is_a_cancellation(self, console: Console) -> None:
        with pytest.raises(OperationCancelled):
            console.run(MENU, DOWN, lambda: hang_up(console))

    def test_before_anything_is_shown_is_a_cancellation(self, console: Console) -> None:
        console.close(console.master)
        with pytest.raises(OperationCancelled):
            run_menu(console.slave, console.slave, MENU)

    def test_is_seen_by_the_real_poll_too(self, console: Console) -> None:
        os.write(console.master, DOWN + b"\x1b[A" + ENTER)
        assert run_menu(console.slave, console.slave, MENU).entry is ENTRIES[0]
        os.write(console.master, b"q")
        with pytest.raises(OperationCancelled):
            run_menu(console.slave, console.slave, MENU)

    def test_the_end_of_a_pipe_is_a_cancellation(self, console: Console) -> None:
        reader, writer = os.pipe()
        os.close(writer)
        try:
            with pytest.raises(OperationCancelled):
                run_menu(reader, console.slave, MENU)
        finally:
            os.close(reader)


def hang_up(console: Console) -> None:
    """Close the master; from now on the real poll answers the menu."""
    console.close(console.master)
    console.look = lambda: None  # type: ignore[method-assign]  # nobody looks any more
