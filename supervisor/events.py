# SPDX-License-Identifier: GPL-3.0-or-later
"""Fd events: several independent watches on one fd, on an epoll instance of the supervisor's own.

asyncio allows one reader per fd and folds errors and hang-ups into readiness; here each watch has its own interest, and
POLLERR, POLLHUP and POLLNVAL reach every watch of the fd under their names. The instance's fd is readable whenever
there is work, so one `add_reader` puts all of it into an asyncio loop.

A watch's states: armed -> suspended -> armed ... -> cancelled. By cases:

- A condition within the watch's interest calls it for as long as the condition lasts (level-triggered).
- An error condition calls it once, whatever its interest, and suspends it: an unread hang-up is never a busy loop.
  `resume` arms it again; a reader that got data does so and is called until it has drained everything.
- A cancelled watch is never called again, also when it was cancelled by a callback of the same round.
- A regular file, which epoll refuses, is always ready, as poll(2) has it. A number that is not open gives INVALID once.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import select
from collections.abc import Callable

from domward.protocol.errors import UsageError

from .forks import keep_from_children


class Condition(enum.Flag):
    """What can be the case with an fd; IN and OUT may be watched for, the others always are."""

    NONE = 0
    IN = select.EPOLLIN
    OUT = select.EPOLLOUT
    ERROR = select.EPOLLERR
    HANGUP = select.EPOLLHUP
    INVALID = select.POLLNVAL


_ERRORS = Condition.ERROR | Condition.HANGUP | Condition.INVALID
_KNOWN = Condition.IN | Condition.OUT | _ERRORS


class Watch:
    """One interest in one fd; made by `Events.watch`. The fd stays its owner's, who cancels before closing it."""

    def __init__(self, events: Events, number: int, interest: Condition, callback: Callable[[Condition], None]) -> None:
        self._events = events
        self._callback = callback
        self.number = number
        self.interest = interest
        self.suspended = False
        self.cancelled = False

    def change(self, interest: Condition) -> None:
        """Watches for `interest` (IN, OUT, both or NONE) from now on, and arms the watch."""
        if interest & _ERRORS:
            raise UsageError("A watch's interest is IN, OUT, both or none; errors are always watched for.")
        if self.cancelled:
            raise UsageError("This watch was cancelled.")
        self.interest = interest
        self.suspended = False
        self._events.update(self.number)

    def resume(self) -> None:
        """Arms a suspended watch again; does nothing for one that is armed or cancelled."""
        if self.suspended and not self.cancelled:
            self.suspended = False
            self._events.update(self.number)

    def cancel(self) -> None:
        """Ends the watch. Idempotent."""
        if not self.cancelled:
            self.cancelled = True
            self._events.remove(self)

    def deliver(self, conditions: Condition) -> None:
        """Calls the callback if the watch is armed and `conditions` concern it."""
        relevant = conditions & (self.interest | _ERRORS)
        if self.cancelled or self.suspended or not relevant:
            return
        if conditions & _ERRORS:
            self.suspended = True
            self._events.update(self.number)
        self._callback(relevant)


class Events:
    """All watches of one supervisor. States: open -> closed; `close` cancels every watch."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watches: dict[int, list[Watch]] = {}
        self._registered: dict[int, int] = {}
        self._always_ready: set[int] = set()
        self._invalid: set[int] = set()
        self._round: asyncio.Handle | None = None
        keep_from_children(self)
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def fileno(self) -> int:
        """An fd that is readable whenever a watch has something to deliver."""
        return self._epoll.fileno()

    def watch(self, number: int, interest: Condition, callback: Callable[[Condition], None]) -> Watch:
        """Calls `callback` with what is the case with fd `number`, from the next round of the loop on."""
        if interest & _ERRORS:
            raise UsageError("A watch's interest is IN, OUT, both or none; errors are always watched for.")
        if self._epoll.closed:
            raise UsageError("The supervisor is closed.")
        watch = Watch(self, number, interest, callback)
        self._watches.setdefault(number, []).append(watch)
        self.update(number)
        return watch

    async def wait(self, number: int, interest: Condition) -> Condition:
        """Waits until a condition within `interest`, or an error, is the case with fd `number`, and returns it."""
        future: asyncio.Future[Condition] = self._loop.create_future()
        watch = self.watch(number, interest, lambda found: None if future.done() else future.set_result(found))
        try:
            return await future
        finally:
            watch.cancel()

    def remove(self, watch: Watch) -> None:
        """Forgets a cancelled watch."""
        watches = self._watches.get(watch.number, [])
        if watch in watches:
            watches.remove(watch)
            if not watches:
                del self._watches[watch.number]
            self.update(watch.number)

    def update(self, number: int) -> None:
        """Makes the kernel's registration of `number` fit its armed watches."""
        armed = [watch for watch in self._watches.get(number, []) if not watch.suspended]
        wanted = 0
        for watch in armed:
            wanted |= watch.interest.value
        if not armed:
            self._unregister(number)
        elif number in self._registered:
            if self._registered[number] != wanted:
                self._modify(number, wanted)
        elif number in self._always_ready | self._invalid:
            self._soon()
        else:
            self._register(number, wanted)

    def close(self) -> None:
        """Cancels every watch and closes the instance. Idempotent."""
        if self._epoll.closed:
            return
        for watches in list(self._watches.values()):
            for watch in list(watches):
                watch.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        if self._round is not None:
            self._round.cancel()
        self._epoll.close()

    def _register(self, number: int, wanted: int) -> None:
        try:
            self._epoll.register(number, wanted)
        except OSError as error:
            if error.errno == errno.EPERM:
                self._always_ready.add(number)
            elif error.errno == errno.EBADF:
                self._invalid.add(number)
            else:
                raise
            self._soon()
        else:
            self._registered[number] = wanted

    def _modify(self, number: int, wanted: int) -> None:
        try:
            self._epoll.modify(number, wanted)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBADF):
                raise
            # Closed by its owner under a watch; the number may name something else by now, or nothing.
            del self._registered[number]
            self._register(number, wanted)
        else:
            self._registered[number] = wanted

    def _unregister(self, number: int) -> None:
        self._always_ready.discard(number)
        self._invalid.discard(number)
        if self._registered.pop(number, None) is not None:
            try:
                self._epoll.unregister(number)
            except (OSError, ValueError):
                return  # closed by its owner before the watch was cancelled: the kernel has forgotten it already

    def _soon(self) -> None:
        if self._round is None:
            self._round = self._loop.call_soon(self._deliver_without_kernel)

    def _deliver_without_kernel(self) -> None:
        self._round = None
        found = [(number, Condition.IN | Condition.OUT) for number in self._always_ready]
        found += [(number, Condition.INVALID) for number in self._invalid]
        self._deliver(found)
        if any(watch.interest for number in self._always_ready for watch in self._watches.get(number, [])):
            self._soon()

    def _dispatch(self) -> None:
        self._deliver([(number, Condition(mask & _KNOWN.value)) for number, mask in self._epoll.poll(0)])

    def _deliver(self, found: list[tuple[int, Condition]]) -> None:
        """Tells the watches that there were when the conditions were found.

        A callback may cancel a watch, close its fd and watch another one that gets the same number: what was found
        is not about that one.
        """
        concerned = [(watch, conditions) for number, conditions in found for watch in self._watches.get(number, [])]
        for watch, conditions in concerned:
            watch.deliver(conditions)
