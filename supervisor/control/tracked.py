# SPDX-License-Identifier: GPL-3.0-or-later
"""One operation as clients see it: whose it is, where it is, how it ended, and who waits for that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from domward.protocol import limits
from domward.protocol.control import (
    CallFailed,
    Completed,
    ControlMessage,
    DiskInspected,
    GuestEnded,
    OperationInfo,
    Started,
    State,
    Step,
)
from domward.protocol.errors import DomwardError, OperationFailed, printable
from domward.protocol.fds import Fd
from domward.protocol.records import field, frozen, mutable

from ..bootloader import BootResult, InspectResult
from ..guests import GuestResult
from ..operations import Operation
from .console import ConsoleHub

DONE = "done"  # the outcome of an operation that has its result
LOST = "lost"  # the outcome of one that was under way when the daemon died


AnyOperation = Operation[BootResult] | Operation[InspectResult] | Operation[GuestResult]


def now_ms() -> int:
    """Milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


@frozen
class Inspection:
    """What an inspection found, as a sealed memfd with the object of `domward inspect --json`."""

    document: Fd
    entries: int

    def close(self) -> None:
        """Closes the memfd."""
        self.document.close()


class Waiter(Protocol):
    """Somebody who is told of an operation: a request of a client's."""

    request: int
    takes_files: bool
    takes_steps: bool

    def tell(self, message: ControlMessage, fds: tuple[Fd, ...] = ()) -> None:
        """Sends `message` with copies of `fds`."""


@mutable(eq=False)
class Tracked:
    """An operation and what is known of it. States as `State`; `outcome` is set exactly once, with DONE.

    Owns the disks that came from a client, the console and, until it is let go, the result. `has_turn` says whether it
    counts among those that run.
    """

    id: str
    kind: str
    uid: int
    pid: int
    label: str
    detached: bool
    operation: AnyOperation | None = None
    disks: tuple[Fd, ...] = ()
    has_turn: bool = False
    console: ConsoleHub | None = None
    state: State = State.WAITING
    steps: list[tuple[int, str]] = field(default_factory=list)
    submitted: int = field(default_factory=now_ms)
    started: int = 0
    ended: int = 0
    outcome: str = ""
    error: DomwardError | None = None
    summary: Completed | DiskInspected | GuestEnded | None = None
    result: BootResult | Inspection | None = None
    waiters: list[Waiter] = field(default_factory=list)
    on_change: Callable[[Tracked], None] = lambda _tracked: None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state is State.DONE

    def info(self, request: int) -> OperationInfo:
        """What there is to tell of it, for `request`."""
        return OperationInfo(
            request=request,
            operation=self.id,
            kind=self.kind,
            label=self.label,
            uid=self.uid,
            pid=self.pid,
            state=self.state,
            step=self.steps[-1][1] if self.steps else "",
            submitted=self.submitted,
            started=self.started,
            ended=self.ended,
            outcome=self.outcome,
            sentence=self.error.sentence[: limits.TEXT_BYTES] if self.error else "",
            console=self.console is not None,
            viewers=len(self.console.viewers) if self.console else 0,
            detached=self.detached,
        )

    def description(self) -> dict[str, Any]:
        """What `tracked_before` makes the operation from again."""
        return {
            "kind": self.kind,
            "uid": self.uid,
            "pid": self.pid,
            "label": self.label,
            "submitted": self.submitted,
            "started": self.started,
            "ended": self.ended,
            "outcome": self.outcome,
            "sentence": self.error.sentence if self.error else "",
        }

    def step(self, name: str) -> None:
        """Notes that step `name` begins, and tells it. Of more than limits.STEPS the last one takes the last place."""
        del self.steps[limits.STEPS - 1 :]
        self.steps.append((now_ms() - self.submitted, name))
        for waiter in [*self.waiters]:
            if waiter.takes_steps:
                waiter.tell(self.step_message(waiter.request, len(self.steps)))
        self.on_change(self)

    def step_message(self, request: int, sequence: int) -> Step:
        """The step number `sequence`, from 1, for `request`."""
        milliseconds, name = self.steps[sequence - 1]
        return Step(request=request, operation=self.id, sequence=sequence, step=name, milliseconds=max(0, milliseconds))

    def enter(self, state: State) -> None:
        """Goes on to `state` and tells it to who watches."""
        self.state = state
        self.on_change(self)

    def finish(
        self, outcome: str, error: DomwardError | None, result: BootResult | Inspection | GuestResult | None
    ) -> None:
        """It is over: everybody who waits gets the one completion."""
        self.ended = now_ms()
        self.outcome, self.error = outcome, error
        if isinstance(result, GuestResult):
            self.summary = GuestEnded(
                request=1, operation=self.id, label=self.label, death=result.death, starts=result.starts
            )
        else:
            self.result = result
        if isinstance(result, BootResult):
            self.summary = _completed(result)
        elif isinstance(result, Inspection):
            self.summary = DiskInspected(request=1, operation=self.id, entries=result.entries, files=False)
        self.enter(State.DONE)
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            self.answer(waiter)

    def answer(self, waiter: Waiter) -> None:
        """Gives `waiter` the completion of an operation that is over."""
        if self.summary is None:
            assert self.error is not None
            waiter.tell(failure(waiter.request, self.error, self.id))
            return
        with_files = waiter.takes_files and self.result is not None
        values = {key: getattr(self.summary, key) for key in self.summary.FIELDS}
        changed: dict[str, object] = {"request": waiter.request}
        if not isinstance(self.summary, GuestEnded):
            changed["files"] = with_files
        message = type(self.summary)(**values | changed)
        waiter.tell(message, self._files() if with_files else ())

    def forget(self) -> None:
        """Closes everything: nothing of it will be asked for any more."""
        self.let_go()
        if self.console is not None:
            self.console.let_go()

    def let_go(self) -> None:
        """Closes the result's files; what is known of it stays."""
        result, self.result = self.result, None
        if result is not None:
            result.close()

    def _files(self) -> tuple[Fd, ...]:
        match self.result:
            case BootResult(kernel=kernel, ramdisk=ramdisk):
                return (kernel.fd,) if ramdisk is None else (kernel.fd, ramdisk.fd)
            case Inspection(document=document):
                return (document,)
        return ()


def tracked_before(operation: str, values: dict[str, Any]) -> Tracked | None:
    """An operation that is over, from its `description` by a daemon before this one; None where that is none."""

    def number(key: str) -> int:
        value = values.get(key)
        return value if type(value) is int and 0 <= value < 2**48 else 0

    def text(key: str) -> str:
        return printable(values.get(key, ""))[: limits.LABEL_BYTES]

    tracked = Tracked(operation, text("kind")[:64], number("uid") % 2**32, number("pid") % 2**32, text("label"), True)
    tracked.submitted, tracked.started, tracked.ended = number("submitted"), number("started"), number("ended")
    tracked.outcome, tracked.state = text("outcome")[:64] or LOST, State.DONE
    tracked.error = OperationFailed(
        text("sentence") or "The daemon was started anew since, and has this operation's files no more.",
        code=LOST if tracked.outcome == DONE else tracked.outcome,
    )
    return tracked if len(operation) <= 64 else None


def started_message(request: int, tracked: Tracked) -> Started:
    """The answer to who asked for `tracked`."""
    return Started(request=request, operation=tracked.id)


def failure(request: int, error: DomwardError, operation: str = "") -> CallFailed:
    """`error` as a message."""
    return CallFailed(
        request=request,
        code=error.code[:64],
        exit_code=error.exit_code,
        sentence=error.sentence[: limits.TEXT_BYTES],
        advice=error.advice[: limits.TEXT_BYTES],
        operation=(error.operation or operation)[:64],
        helper=printable(error.helper)[:64],
    )


def _completed(result: BootResult) -> Completed:
    return Completed(
        request=1,
        operation=result.operation,
        title=result.title,
        args=result.args,
        source=result.source,
        kernel_bytes=result.kernel.size,
        kernel_sha256=result.kernel.sha256,
        ramdisk_bytes=result.ramdisk.size if result.ramdisk else 0,
        ramdisk_sha256=result.ramdisk.sha256 if result.ramdisk else "",
        files=False,
    )
