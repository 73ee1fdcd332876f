# SPDX-License-Identifier: GPL-3.0-or-later
"""One helper from request to reaping: uid lease, channel, process, verified confinement, messages, end.

States are `helper_states.HelperState`; `start` moves STARTING -> IDLE, `order` to the state of the work, the answer to
ANSWERED, death to DEAD. By cases, while a message is awaited:

- an allowed message is returned; an answer moves to ANSWERED
- anything else is a ProtocolViolation, and the helper is killed
- end of file is awaited further as a death, which raises HelperDied with the status; a helper that closes its channel
  and lives on is killed

`close` ends the process (TERM, grace, KILL), waits until it is dead, and only then gives its uid back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from domward.protocol import limits
from domward.protocol.channel import Channel, Received
from domward.protocol.errors import (
    ConfinementFailed,
    HelperDied,
    OperationFailed,
    ProtocolViolation,
    printable,
)
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.messages import Confined, Failed, HelperKind, Log, Spawn, StepFailed
from domward.protocol.schema import Message

from .children import Child
from .config import Config
from .events import Condition, Events
from .helper_states import ALLOWED, ANSWERS, HelperState
from .launcher import Launcher, step_error
from .leases import UidLeases
from .paths import PROC
from .verification import Verified, verify

_LOG = logging.getLogger("domward.helper")
_LAST_LINES = 8
_DYING_SECONDS = 0.2


@dataclass(slots=True)
class HelperHost:
    """What helpers need of their supervisor. `without` are the layers that this host lacks and may lack."""

    config: Config
    events: Events
    leases: UidLeases
    launcher: Launcher
    without: frozenset[Layer]


@dataclass(slots=True, eq=False)
class Helper:
    """One helper process. Owns its channel, its child and its uid."""

    kind: HelperKind
    operation: str
    host: HelperHost
    state: HelperState = HelperState.STARTING
    verified: Verified | None = None
    last_lines: list[str] = field(default_factory=list)
    _child: Child | None = None
    _channel: Channel | None = None
    _uid: int | None = None
    _counts: Counter[type[Message]] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The kind and, once there is one, the pid."""
        return f"{self.kind.value} {self._child.pid}" if self._child else self.kind.value

    @property
    def child(self) -> Child:
        """The process; only after `start`."""
        assert self._child is not None
        return self._child

    async def start(self, file_bytes: int = 0) -> None:
        """Makes the process and verifies its confinement; `file_bytes` is its RLIMIT_FSIZE.

        On failure everything is undone before ConfinementFailed, HelperDied, ProtocolViolation or OperationFailed is
        raised.
        """
        try:
            async with asyncio.timeout(self.host.config.budgets.start_seconds):
                await self._start(file_bytes)
        except TimeoutError:
            await self.close()
            raise HelperDied(
                f"The {self.kind.value} helper was not confined in time.", status=None, operation=self.operation
            ) from None
        except BaseException:
            await asyncio.shield(self.close())
            raise

    async def _start(self, file_bytes: int) -> None:
        config = self.host.config
        self._uid = self.host.leases.acquire()
        self._channel, far = Channel.pair(
            f"{self.kind.value}'s channel",
            max_fds=limits.MESSAGE_FDS,
            identify=True,
            pidfds=config.identify_by_pidfd,
        )
        request = partial(
            Spawn,
            kind=self.kind,
            operation=self.operation,
            uid=self._uid,
            gid=self._uid,
            address_space=config.budgets.helper_address_space,
            cpu_seconds=config.budgets.helper_cpu_seconds,
            file_bytes=file_bytes,
            without=tuple(self.host.without),
        )
        with far:
            process = await self.host.launcher.spawn(request, far)
        self._child = Child(
            process.pid,
            process.pidfd,
            self.name,
            self.host.events,
            exit_info=config.exit_info_from_pidfd,
        )
        received = await self._next()
        self._identify(received)
        message = received.message
        if isinstance(message, StepFailed):
            raise step_error(message.step, message.errno, self.name)
        assert isinstance(message, Confined)
        required = frozenset(Layer) - self.host.without
        try:
            self.verified = verify(process.pid, request(request=1), message.layers, required)
        except ConfinementFailed:
            # A process that has just been killed shows nothing any more: then its death is what went wrong.
            if (await asyncio.wait([self.child.death], timeout=_DYING_SECONDS))[0]:
                raise self._death() from None
            raise
        self.state = HelperState.IDLE

    def _identify(self, received: Received) -> None:
        """The kernel's word on who sent the first message must agree with the launcher's on whom it made."""
        sender, pidfd = received.sender, received.pidfd
        expected = self.child.pid
        try:
            if sender is None or sender.pid != expected or sender.uid != self._uid:
                raise ProtocolViolation(
                    f"A helper's first message came from {sender} and not from process {expected}.", helper=self.name
                )
            if pidfd is not None and _pid_of(pidfd) != expected:
                raise ProtocolViolation("A helper's pidfd names another process.", helper=self.name)
        finally:
            received.close()

    def order(self, state: HelperState, message: Message, fds: Sequence[Fd] = ()) -> None:
        """Gives an idle helper its work: `message` with copies of `fds`; `state` says what it may answer."""
        if self.state is not HelperState.IDLE:
            raise ProtocolViolation(f"A helper in state {self.state.value} was given work.", helper=self.name)
        self.require_silence()
        self.send(message, fds)
        self.state = state
        self._counts.clear()

    def send(self, message: Message, fds: Sequence[Fd] = ()) -> None:
        """Sends `message`. A helper that does not read its few messages is broken: HelperDied."""
        assert self._channel is not None
        try:
            self._channel.send(message, fds)
        except BlockingIOError:
            raise ProtocolViolation("A helper does not read its messages.", helper=self.name) from None

    async def receive(self) -> Received:
        """The next message that is not a log line. Raises ProtocolViolation, HelperDied or OperationFailed."""
        while True:
            try:
                received = await self._next()
            except ProtocolViolation as error:
                self.child.send_signal(9)
                error.operation, error.helper = self.operation, self.name
                raise
            if received.pidfd is not None:
                received.pidfd.close()
            message = received.message
            if isinstance(message, Log):
                self._log(message)
                continue
            if type(message) in ANSWERS:
                self.state = HelperState.ANSWERED
            if isinstance(message, Failed):
                raise OperationFailed(
                    f"The {self.kind.value} helper failed: {message.what}", operation=self.operation, helper=self.name
                )
            return received

    def require_silence(self) -> None:
        """Raises ProtocolViolation if the helper said anything that it was not asked for."""
        assert self._channel is not None
        try:
            received = self._channel.receive(())
        except BlockingIOError:
            return
        assert received is None  # no message class is allowed
        if self.state is not HelperState.ANSWERED:
            raise HelperDied(
                f"The {self.kind.value} helper ended early.", status=None, operation=self.operation, helper=self.name
            )

    async def ended(self) -> None:
        """Waits until a helper that has answered is dead, and checks that it said nothing more and exited with 0."""
        grace = self.host.config.budgets.term_grace_seconds
        if not (await asyncio.wait([self.child.death], timeout=grace))[0]:
            raise ProtocolViolation(
                f"The {self.kind.value} helper answered and did not end.", operation=self.operation, helper=self.name
            )
        self.require_silence()
        self.state = HelperState.DEAD
        if self.child.death.result() not in (0, None):
            raise self._death()

    async def close(self) -> None:
        """Ends whatever is left of it. Idempotent."""
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            await self._child.end(self.host.config.budgets.term_grace_seconds)
        self.state = HelperState.DEAD
        if self._uid is not None:
            self.host.leases.release(self._uid)
            self._uid = None

    async def _next(self) -> Received:
        assert self._channel is not None
        while True:
            try:
                received = self._channel.receive(ALLOWED[self.state])
            except BlockingIOError:
                await self.host.events.wait(self._channel.fileno(), Condition.IN)
                continue
            if received is None:
                await self.child.end(self.host.config.budgets.term_grace_seconds)
                raise self._death()
            kind = type(received.message)
            self._counts[kind] += 1
            if self._counts[kind] > ALLOWED[self.state][kind]:
                received.close()
                raise ProtocolViolation(f"{kind.NAME} came more often than it may.")
            return received

    def _log(self, message: Log) -> None:
        line = printable(message.line)
        self.last_lines = [*self.last_lines, line][-_LAST_LINES:]
        _LOG.log(getattr(logging, message.level.value.upper()), "%s %s: %s", self.operation, self.name, line)

    def _death(self) -> HelperDied:
        self.state = HelperState.DEAD
        last = f" Its last words: {self.last_lines[-1]}" if self.last_lines else ""
        return HelperDied(
            f"The {self.kind.value} helper {self.child.describe_death()} before its work was done.{last}",
            status=self.child.death.result(),
            operation=self.operation,
            helper=self.name,
        )


def _pid_of(pidfd: Fd) -> int:
    with open(PROC / "self" / "fdinfo" / str(pidfd.fileno()), encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise ConfinementFailed("A pidfd of a helper does not show its pid.", step="identity")
