# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's operations: how many there may be, whose turn it is, and what is known of those that are over.

Whose turn it is: of the uids with operations that wait, the one with the fewest running, and of several such the one
whose last turn is longest ago; within a uid, first come, first served. No uid but root's has more than
`running_per_uid` running, so that none can keep the others waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator

from domward.protocol.control import State
from domward.protocol.errors import DomwardError, OperationFailed, RefusedError

from .. import report
from ..bootloader import BootResult, InspectResult
from ..guests import GuestResult
from ..life_cycle import OperationState
from ..opening import close_in_thread, in_thread
from ..settings import Settings
from ..sinks import freeze, open_sink
from .in_flight import InFlight
from .tracked import DONE, LOST, AnyOperation, Inspection, Tracked, now_ms

_LOG = logging.getLogger("domward.operations")
_ROOT = 0


class OperationTable:
    """All operations, by id. `on_change` is called with each that changed, `on_end` once with each that is over,
    and `on_forget` once with each of which nothing is known any more.
    """

    def __init__(
        self,
        settings: Settings,
        in_flight: InFlight,
        on_change: Callable[[Tracked], None],
        on_end: Callable[[Tracked], None],
        on_forget: Callable[[Tracked], None],
    ) -> None:
        self.settings = settings
        self.stopping = False
        self._in_flight = in_flight
        self._on_change = on_change
        self._on_end = on_end
        self._on_forget = on_forget
        self._live: dict[str, Tracked] = {}
        self._over: dict[str, Tracked] = {}
        self._waiting: dict[int, deque[Tracked]] = {}
        self._running: Counter[int] = Counter()
        self._live_of: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._turn: asyncio.Handle | None = None

    # --- looking ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Tracked]:
        """Those that are over, oldest first, and then the live ones."""
        yield from [*self._over.values(), *self._live.values()]

    def find(self, operation: str) -> Tracked | None:
        """The one with this id."""
        return self._live.get(operation) or self._over.get(operation)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def guests(self) -> int:
        """How many guests run."""
        return sum(tracked.started > 0 and not tracked.has_turn for tracked in self._live.values())

    @property
    def running(self) -> int:
        """How many have had their turn and are not over."""
        return self._running.total()

    # --- taking on ----------------------------------------------------------------------------------------------

    def require_room(self, uid: int) -> None:
        """Raises RefusedError where `uid` may not have another operation now."""
        if self.stopping:
            raise RefusedError("The daemon is stopping.", code="stopping", advice="Try again once it is back.")
        most = self.settings.of("operations", "live")
        if len(self._live) >= most:
            raise RefusedError(f"There are {most} operations already.", code="too-many", advice="Try again later.")
        most = self.settings.of("operations", "live_per_uid")
        if uid != _ROOT and self._live_of[uid] >= most:
            raise RefusedError(
                f"User {uid} has {most} operations already.", code="too-many", advice="Wait for some of them to end."
            )

    def take(self, tracked: Tracked, operation: AnyOperation) -> None:
        """Takes `tracked` on; it begins when its turn comes, at the earliest in the next round of the loop.

        Raises OperationFailed where it cannot be recorded; `tracked` is the caller's then.
        """
        self._in_flight.add(tracked)
        tracked.operation = operation
        tracked.on_change = self._on_change
        operation.on_progress(tracked.step)
        self._live[tracked.id] = tracked
        self._live_of[tracked.uid] += 1
        self._waiting.setdefault(tracked.uid, deque()).append(tracked)
        self._on_change(tracked)
        self._take_turns_soon()

    def note_lost(self) -> list[Tracked]:
        """Finishes what a daemon before this one left: each such operation is over, with the outcome LOST."""
        lost = []
        for record in self._in_flight.left():
            tracked = Tracked(
                record.operation, record.kind or "unknown", max(0, record.uid), max(0, record.pid), record.label, True
            )
            tracked.submitted = record.submitted
            tracked.started = now_ms()  # nobody knows how long it ran
            error = OperationFailed("The daemon died while this operation was under way.", code=LOST)
            tracked.finish(LOST, error, None)
            self._remember(tracked)
            self._on_end(tracked)
            self._in_flight.remove(record.operation)
            lost.append(tracked)
        return lost

    def add_over(self, tracked: Tracked) -> None:
        """Remembers an operation that a daemon before this one brought to its end."""
        self._remember(tracked)

    def cancel(self, tracked: Tracked) -> None:
        """Has it end; does nothing for one that is over."""
        if tracked.operation is None or tracked.over:
            return
        waiting = self._waiting.get(tracked.uid, deque())
        if tracked in waiting:
            waiting.remove(tracked)
            self._begin(tracked)
        tracked.operation.cancel()

    async def stop(self) -> None:
        """Takes no more on, cancels all there are, waits for their completions and lets every result go."""
        self.stopping = True
        for tracked in [*self._live.values()]:
            self.cancel(tracked)
        while self._tasks:
            await asyncio.wait([*self._tasks])
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._turn is not None:
            self._turn.cancel()
        for tracked in self._over.values():
            tracked.forget()

    # --- turns --------------------------------------------------------------------------------------------------

    def _take_turns_soon(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._turn = None
        most = self.settings.of("operations", "running")
        while self._running.total() < most and (uid := self._next_uid()) is not None:
            queue = self._waiting.pop(uid)
            tracked = queue.popleft()
            if queue:
                self._waiting[uid] = queue  # at the end: its next turn comes after the others'
            self._begin(tracked)

    def _next_uid(self) -> int | None:
        most = self.settings.of("operations", "running_per_uid")
        ready = [uid for uid, queue in self._waiting.items() if queue and (uid == _ROOT or self._running[uid] < most)]
        return min(ready, key=lambda uid: self._running[uid], default=None)

    def give_turn_back(self, tracked: Tracked) -> None:
        """Lets another take the turn of one that is over, or whose guest runs. Idempotent."""
        if tracked.has_turn:
            tracked.has_turn = False
            self._running[tracked.uid] -= 1
            self._take_turns_soon()

    def _begin(self, tracked: Tracked) -> None:
        self._running[tracked.uid] += 1
        tracked.has_turn = True
        tracked.started = now_ms()
        task = asyncio.get_running_loop().create_task(self._run(tracked), name=f"{tracked.id} of the daemon")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, tracked: Tracked) -> None:
        """From its turn to its completion; never raises."""
        error: DomwardError | None = None
        result: BootResult | Inspection | GuestResult | None = None
        try:
            result = await self._complete(tracked)
        except DomwardError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - a defect of ours: in the log, and the operation completes all the same
            _LOG.exception("%s: unexpected error", tracked.id)
            error = OperationFailed(f"domward has a defect: an unexpected {type(caught).__name__}.")
        self.give_turn_back(tracked)
        self._live_of[tracked.uid] -= 1
        for disk in tracked.disks:
            close_in_thread(disk)
        if tracked.console is not None:
            tracked.console.end()
        del self._live[tracked.id]
        tracked.operation = None
        tracked.finish(error.code if error else DONE, error, result)
        self._remember(tracked)
        self._on_end(tracked)
        self._in_flight.remove(tracked.id)
        self._take_turns_soon()

    async def _complete(self, tracked: Tracked) -> BootResult | Inspection | GuestResult:
        operation = tracked.operation
        assert operation is not None
        tracked.enter(State.RUNNING)
        if operation.state is OperationState.NEW:  # one that was cancelled meanwhile has begun to end
            operation.start()
        found = await operation.wait()
        tracked.enter(State.ENDING)
        if isinstance(found, BootResult | GuestResult):
            return found
        return await in_thread(lambda: _document(found), Inspection.close)

    def _remember(self, tracked: Tracked) -> None:
        """Keeps what is over: a detached operation's files for a while, its description until others push it out."""
        self._over[tracked.id] = tracked
        seconds = self.settings.of("operations", "result_seconds")
        if tracked.detached and tracked.result is not None and seconds and not self.stopping:
            loop = asyncio.get_running_loop()
            self._timers[tracked.id] = loop.call_later(seconds, self._let_go, tracked)
        else:
            tracked.let_go()
        while len(self._over) > self.settings.of("operations", "finished"):
            oldest = next(iter(self._over))
            forgotten = self._over.pop(oldest)
            forgotten.forget()
            self._on_forget(forgotten)

    def _let_go(self, tracked: Tracked) -> None:
        self._timers.pop(tracked.id, None)
        tracked.let_go()


def _document(found: InspectResult) -> Inspection:
    """What `domward inspect --json` prints, in a sealed memfd; several MiB from a disk that means ill."""
    document = open_sink("inspection")
    try:
        content = memoryview(report.to_json(report.inspect_json(found)).encode("ascii"))
        with open(document.fileno(), "wb", closefd=False) as file:
            file.write(content)
        freeze(document, "")
    except OSError as error:
        document.close()
        raise OperationFailed(f"The inspection could not be kept: {error.strerror}.") from error
    return Inspection(document, len(found.entries))
