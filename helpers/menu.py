# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot menu on a terminal: arrow keys choose, Enter boots, `e` edits the kernel's arguments, `q` leaves.

The terminal is the slave side of a pty in raw mode; it is only read, written and polled, so the menu runs under the
bootloader helper's system call policy. What is written stays within the sequences that `terminal_filter` passes.
Guest text is shown made printable only, so no title can drive the terminal.

============  ==========================================  ===================================================
mode          keys                                        leaves it
============  ==========================================  ===================================================
choosing      Up Down PgUp PgDn Home End, Ctrl-P Ctrl-N   Enter: chosen; e: editing; q, Ctrl-C: cancelled
editing       text, Left Right Home End, Backspace,       Enter: choosing, with the arguments as edited;
              Delete, Ctrl-A B D E F K U                  Esc: choosing, with those before; Ctrl-C: cancelled
============  ==========================================  ===================================================
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from domward.protocol import limits
from domward.protocol.errors import DiskError, OperationCancelled, printable
from domward.protocol.records import frozen

from .line_editor import LineEditor
from .reader.interface import BootEntry, BootMenu
from .reader.selection import check_args, choose, default_index
from .terminal import Key, Terminal, Wait, wait_with_poll

COLUMNS = range(20, 513)  # columns of a terminal that the menu is laid out for
ROWS = range(6, 257)  # rows likewise
_FIRST_ROW = 3  # of the list: a heading and an empty row come before it
_OTHER_ROWS = 5  # the heading, the empty row, the arguments, the message, the keys
_MARGIN = 2  # columns left of a title
_PROMPT = "arguments: "
_KEYS = "Up/Down: select  Enter: boot  e: edit arguments  q: cancel"
_EDITING_KEYS = "Enter: keep  Esc: discard  Ctrl-A/E: start/end  Ctrl-K/U: erase"


@frozen
class Choice:
    """What was chosen: an entry that can boot, and its arguments as edited, which fit Xen's limit."""

    entry: BootEntry
    args: bytes


def run_menu(
    fd_in: int,
    fd_out: int,
    menu: BootMenu,
    *,
    columns: int = 80,
    rows: int = 24,
    clock: Callable[[], float] = time.monotonic,
    wait: Wait = wait_with_poll,
    size: Callable[[], tuple[int, int]] | None = None,
) -> Choice:
    """Show `menu` on a terminal and return what is chosen there.

    `fd_in` and `fd_out` are the terminal, in raw mode, perhaps one fd; both stay open. `columns` and `rows` are its
    size; beyond COLUMNS and ROWS the nearest is taken. The menu's time-out starts the default entry unless a key comes
    first. With a time-out of 0 nothing is shown: to show it all the same, pass a menu without time-out. `clock`
    counts seconds and `wait` waits for the terminal; where it says RESIZED, `size` gives the new columns and rows.

    OperationCancelled: `q`, Ctrl-C, or the terminal hung up. DiskError as `selection.choose` raises it where no
    entry at all can boot, or where the time-out ran out on an entry whose arguments Xen does not take.
    """
    default = default_index(menu)
    if menu.timeout == 0:
        entry = choose(menu)
        return Choice(entry, entry.args)
    with Terminal(fd_in, fd_out, wait) as terminal:
        shown = _Menu(menu, default, terminal, columns, rows)
        return shown.run(clock, size or (lambda: (columns, rows)))


class _Menu:
    """The menu on the screen. `_editor` is there while editing; `_args` holds what was edited, by entry."""

    def __init__(self, menu: BootMenu, selected: int, terminal: Terminal, columns: int, rows: int) -> None:
        self._menu = menu
        self._selected = selected
        self._terminal = terminal
        self._fit(columns, rows)
        self._top = 0
        self._message = ""
        self._args: dict[int, bytes] = {}
        self._editor: LineEditor | None = None

    def _fit(self, columns: int, rows: int) -> None:
        self._columns = _nearest(columns, COLUMNS) - 1  # the last column would make some terminals wrap
        self._rows = _nearest(rows, ROWS)
        self._page = self._rows - _OTHER_ROWS

    def run(self, clock: Callable[[], float], size: Callable[[], tuple[int, int]]) -> Choice:
        """Handle keys until one decides, or the time-out does."""
        timeout = self._menu.timeout
        deadline = None if timeout is None else clock() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - clock())
            if left is not None:
                self._message = f"The selected entry starts in {math.ceil(left)} s; any key stops the count."
            if not self._terminal.typed_ahead:  # a burst of keys is shown once
                self._draw()
            # wake up when the count that is shown changes
            key = self._terminal.key(None if left is None else left - math.ceil(left) + 1)
            if key is Key.RESIZED:
                self._fit(*size())
                self._terminal.clear()
            elif key is not None:
                deadline, self._message = None, ""
                if self._editor is not None:
                    self._editing(key, self._editor)
                elif choice := self._choosing(key):
                    return choice
            elif deadline is not None and clock() >= deadline:
                entry = self._menu.entries[self._selected]
                check_args(entry.args)
                return Choice(entry, entry.args)

    def _choosing(self, key: Key | int) -> Choice | None:
        last = len(self._menu.entries) - 1
        match key:
            case Key.UP:
                self._selected = max(0, self._selected - 1)
            case Key.DOWN:
                self._selected = min(last, self._selected + 1)
            case Key.PAGE_UP:
                self._selected = max(0, self._selected - self._page)
            case Key.PAGE_DOWN:
                self._selected = min(last, self._selected + self._page)
            case Key.HOME:
                self._selected = 0
            case Key.END:
                self._selected = last
            case Key.ENTER:
                return self._chosen()
            case Key.INTERRUPT:
                raise _cancelled()
            case int() if key == ord("q"):
                raise _cancelled()
            case int() if key == ord("e") and not self._entry().problem:
                self._editor = LineEditor(self._current_args(), limits.CMDLINE_BYTES)
        return None

    def _editing(self, key: Key | int, editor: LineEditor) -> None:
        if isinstance(key, int):
            if not editor.type(key):
                self._message = f"At most {limits.CMDLINE_BYTES} bytes."
        elif key is Key.INTERRUPT:
            raise _cancelled()
        elif key in (Key.ENTER, Key.ESCAPE):
            if key is Key.ENTER:
                self._args[self._selected] = editor.text
            self._editor = None
        else:
            editor.press(key)

    def _chosen(self) -> Choice | None:
        """The selected entry; None, with the reason on the screen, where it cannot start."""
        entry, args = self._entry(), self._current_args()
        if entry.problem:
            return None  # the reason is shown while it is selected
        try:
            check_args(args)
        except DiskError as error:
            self._message = error.sentence
            return None
        return Choice(entry, args)

    def _entry(self) -> BootEntry:
        return self._menu.entries[self._selected]

    def _current_args(self) -> bytes:
        return self._args.get(self._selected, self._entry().args)

    def _draw(self) -> None:
        """Show everything anew; each row is overwritten in place, so nothing flickers."""
        line, last = self._terminal.line, len(self._menu.entries) - 1
        self._top = min(max(self._top, self._selected - self._page + 1), self._selected)
        out = [b"\x1b[?25l", line(1, f"Boot menu ({self._selected + 1} of {last + 1})", self._columns)]
        out.append(line(2, "", 0))
        for offset in range(self._page):
            index = self._top + offset
            text = self._title(index) if index <= last else ""
            selected = index == self._selected
            out.append(line(_FIRST_ROW + offset, text, self._columns, reversed_video=selected))
        out.append(line(self._rows - 2, self._arguments(), self._columns))
        out.append(line(self._rows - 1, self._message, self._columns))
        out.append(line(self._rows, _KEYS if self._editor is None else _EDITING_KEYS, self._columns))
        if self._editor is not None:
            _, column = self._editor.window(self._columns - len(_PROMPT))
            out.append(b"\x1b[%d;%dH\x1b[?25h" % (self._rows - 2, len(_PROMPT) + column + 1))
        self._terminal.write(b"".join(out))

    def _title(self, index: int) -> str:
        entry = self._menu.entries[index]
        title = " > ".join(printable(part) for part in (*entry.path, entry.title))
        if entry.path and len(title) + _MARGIN > self._columns:
            title = f"... > {printable(entry.title)}"  # what tells it from its neighbours stands at its end
        return f"  ({title}: {entry.problem})" if entry.problem else f"  {title}"

    def _arguments(self) -> str:
        if self._editor is not None:
            return _PROMPT + self._editor.window(self._columns - len(_PROMPT))[0]
        if self._entry().problem:
            return f"cannot boot: {self._entry().problem}"
        return _PROMPT + printable(self._current_args())


def _nearest(value: int, allowed: range) -> int:
    return min(max(value, allowed.start), allowed.stop - 1)


def _cancelled() -> OperationCancelled:
    return OperationCancelled("the boot menu was left without a choice")
