# SPDX-License-Identifier: GPL-3.0-or-later
"""An asyncio loop that never waits by itself: one fd tells when it has work, and `pump` does that work and returns.

The loop's own epoll instance is that fd. Where the loop would wait, its selector sets a timer among its fds to the time
for which it would have waited, and stops the loop instead: so deadlines make the same fd readable.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from domward.protocol.errors import UsageError

from .forks import keep_from_children
from .kernel import Alarm

ResultT = TypeVar("ResultT")

_MOST_ROUNDS = 100  # of the loop in one `pump`: an application's other work gets its turn after some milliseconds


class _StoppingSelector(selectors.EpollSelector):
    """Stops the loop instead of waiting, while `pumping`."""

    def __init__(self) -> None:
        super().__init__()
        self.alarm = Alarm()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pumping = False
        self.rounds = 0
        keep_from_children(self)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.pumping:
            return super().select(timeout)
        assert self.loop is not None
        ready = super().select(0)
        self.rounds += 1
        if not ready and timeout != 0:
            self.alarm.set(timeout)
            self.loop.stop()
        elif self.rounds >= _MOST_ROUNDS:
            self.alarm.set(0)
            self.loop.stop()
        return ready

    def close(self) -> None:
        super().close()
        self.alarm.close()


class PumpedLoop:
    """Owns the asyncio loop and its fds. States: open -> closed."""

    def __init__(self) -> None:
        """Raises OperationFailed."""
        self._selector = _StoppingSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self._selector.loop = self.loop
        # What the alarm is about is seen to by the round of the loop that it brings about.
        self.loop.add_reader(self._selector.alarm.fileno(), lambda: None)

    def fileno(self) -> int:
        """An fd that is readable whenever `pump` has something to do."""
        return self._selector.fileno()

    def pump(self) -> None:
        """Does what there is to do, at most _MOST_ROUNDS rounds of it, and returns without waiting."""
        self._require_idle()
        self._selector.alarm.set(None)
        self._selector.pumping, self._selector.rounds = True, 0
        try:
            self.loop.run_forever()
        finally:
            self._selector.pumping = False

    def finish(self, make_work: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Waits until what `make_work` makes is done, doing all else meanwhile."""
        self._require_idle()
        self._selector.alarm.set(None)
        try:
            return self.loop.run_until_complete(make_work())
        finally:
            self._selector.alarm.set(0)  # what else there is to do, the next `pump` finds out

    def _require_idle(self) -> None:
        if self.loop.is_running():
            raise UsageError("A callback must return before this is called.")
        with contextlib.suppress(RuntimeError):  # as it should be: no loop runs
            asyncio.get_running_loop()
            raise UsageError("An asyncio loop runs in this thread: use Supervisor in it.")

    def close(self) -> None:
        """Closes the loop and its fds. Idempotent."""
        self.loop.close()
