# SPDX-License-Identifier: GPL-3.0-or-later
"""One helper from request to reaping: uid lease, channel, process, verified confinement, messages, end.

States are `helper_states.HelperState`, their changes the table life_cycle.HELPER; `start` moves STARTING -> IDLE,
`order` to the state of the work, the answer to ANSWERED, death to DEAD. By cases, while a message is awaited:

- an allowed message is returned; an answer moves to ANSWERED
- anything else is a ProtocolViolation, and the helper is killed
- end of file is awaited further as a death, which raises HelperDied with the status; a helper that closes its channel
  and lives on is killed

`close` ends the process (TERM, grace, KILL), waits until it is dead, and only then gives its uid back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial

from domward.protocol import limits
from domward.protocol.channel import Channel, ChannelClosed, Received
from domward.protocol.errors import (
    ConfinementFailed,
    DomwardError,
    HelperDied,
    OperationFailed,
    ProtocolViolation,
    UsageError,
    printable,
)
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.messages import Confined, Failed, HelperKind, Log, Spawn, StepFailed
from domward.protocol.records import field, mutable
from domward.protocol.schema import Message

from .audit.record import Event
from .audit.trail import OperationTrail
from .cgroups import Group
from .children import Child, ChildStuck
from .config import Config
from .endings import to_its_end
from .events import Condition, Events
from .helper_states import ALLOWED, ANSWERS, HelperState
from .launcher import Launcher, step_error
from .leases import UidLeases
from .life_cycle import HELPER, ORDERS, HelperEvent
from .opening import close_in_thread
from .paths import PROC
from .verification import Verified, verify

_LOG = logging.getLogger("domward.helper")
_LAST_LINES = 8
_REAPED = -1  # what a pidfd shows of a process that is gone: a helper that failed may be, before it is looked at
_DYING_SECONDS = 0.2


@mutable
class HelperHost:
    """What helpers need of their supervisor.

    `without` are the layers that this host lacks and may lack; `stuck` takes the processes that cannot be ended;
    `trail` is told what helpers there are and what they get; `group` is what they are born in, where there are groups.
    """

    config: Config
    events: Events
    leases: UidLeases
    launcher: Launcher
    without: frozenset[Layer]
    stuck: list[Child]
    trail: OperationTrail
    group: Group | None = None


@mutable(eq=False)
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
    _requested: bool = False
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
            await to_its_end(self.close())
            raise HelperDied(
                f"The {self.kind.value} helper was not confined in time.", status=None, operation=self.operation
            ) from None
        except BaseException:
            await to_its_end(self.close())
            raise

    async def _start(self, file_bytes: int) -> None:
        config = self.host.config
        self._uid = self.host.leases.acquire()
        self._channel, far = Channel.pair(
            f"{self.kind.value}'s channel",
            max_fds=limits.MESSAGE_FDS,
            identify=True,
            pidfds=config.identify_by_pidfd,
            discard=close_in_thread,
        )
        group = self.host.group
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
            grouped=group is not None,
        )
        self._requested = True
        with far:
            process = await self.host.launcher.spawn(request, [far] if group is None else [far, group.fd])
        self._child = Child(
            process.pid,
            process.pidfd,
            self.name,
            self.host.events,
            exit_info=config.exit_info_from_pidfd,
        )
        received = await self._next()
        message = received.message
        self._identify(received, confined=isinstance(message, Confined))
        if isinstance(message, StepFailed):
            raise step_error(message.step, message.errno, self.name)
        assert isinstance(message, Confined)
        required = frozenset(Layer) - self.host.without
        launcher = self.host.launcher.privileges
        assert launcher is not None
        try:
            if group is not None and not group.holds(process.pid):
                raise ConfinementFailed("A helper is not in its operation's control group.", step="cgroup")
            self.verified = verify(process.pid, request(request=1), message.layers, required, launcher.filters)
        except ConfinementFailed:
            # A process that has just been killed shows nothing any more: then its death is what went wrong.
            if (await asyncio.wait([self.child.death], timeout=_DYING_SECONDS))[0]:
                raise self._death() from None
            raise
        self._happened(HelperEvent.VERIFIED)
        self.host.trail.note(Event.HELPER_STARTED, self._description(self.verified))

    def _description(self, verified: Verified) -> dict[str, object]:
        return {
            "helper": self.name,
            "kind": self.kind,
            "pid": verified.pid,
            "uid": verified.uid,
            "layers": verified.layers,
            "verified": verified.seen,
            "without": sorted(layer.value for layer in self.host.without),
        }

    def _identify(self, received: Received, *, confined: bool) -> None:
        """The kernel's word on who sent the first message must agree with the launcher's on whom it made.

        One that failed before it was `confined` may still be root.
        """
        sender, pidfd = received.sender, received.pidfd
        expected = self.child.pid
        try:
            uid = self._uid if confined and Layer.USER not in self.host.without else None
            if sender is None or sender.pid != expected or uid not in (None, sender.uid):
                raise ProtocolViolation(
                    f"A helper's first message came from {sender} and not from process {expected}.", helper=self.name
                )
            if pidfd is not None and _pid_of(pidfd) not in ((expected,) if self.child.alive else (expected, _REAPED)):
                raise ProtocolViolation("A helper's pidfd names another process.", helper=self.name)
        finally:
            received.close()

    def _happened(self, event: HelperEvent) -> None:
        after = HELPER[self.state][event]
        if after is None:
            raise ProtocolViolation(f"{event.value!r} in state {self.state.value}.", helper=self.name)
        self.state = after

    async def order(self, state: HelperState, message: Message, fds: Sequence[Fd] = ()) -> None:
        """Gives an idle helper its work: `message` with copies of `fds`; `state` says what it may answer.

        That and the helper's confinement are on the audit log's disk before. Raises AuditUnavailable besides.
        """
        if HELPER[self.state][ORDERS[state]] is None:
            raise UsageError(f"A helper in state {self.state.value} cannot be given the work of {state.value}.")
        await self.host.trail.fds_passed(self.name, message.NAME, fds)
        await self._require_silence()
        try:
            self.send(message, fds)
        except ChannelClosed:
            await self.child.end(self.host.config.budgets.term_grace_seconds)
            raise self._death() from None
        self._happened(ORDERS[state])
        self._counts.clear()

    def send(self, message: Message, fds: Sequence[Fd] = ()) -> None:
        """Sends `message`. Raises ProtocolViolation if it does not read its few messages, ChannelClosed if it ended."""
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
                raise self._violated(error) from None
            if received.pidfd is not None:
                received.pidfd.close()
            message = received.message
            if isinstance(message, Log):
                self._log(message)
                continue
            if type(message) in ANSWERS:
                self._happened(HelperEvent.ANSWER)
            if isinstance(message, Failed):
                reason = f" ({os.strerror(message.errno)})" if message.errno else ""
                raise OperationFailed(
                    f"The {self.kind.value} helper failed: {message.what}{reason}",
                    operation=self.operation,
                    helper=self.name,
                )
            return received

    async def _require_silence(self) -> None:
        """Raises ProtocolViolation if the helper said anything that it was not asked for, HelperDied if it ended."""
        assert self._channel is not None
        try:
            received = self._channel.receive(())
        except BlockingIOError:
            return
        except ProtocolViolation as error:
            raise self._violated(error) from None
        assert received is None  # no message class is allowed
        if self.state is not HelperState.ANSWERED:
            await self.child.end(self.host.config.budgets.term_grace_seconds)
            raise self._death()

    async def ended(self) -> None:
        """Waits until a helper that has answered is dead, and checks that it said nothing more and exited with 0."""
        grace = self.host.config.budgets.term_grace_seconds
        if not (await asyncio.wait([self.child.death], timeout=grace))[0]:
            raise ProtocolViolation(
                f"The {self.kind.value} helper answered and did not end.", operation=self.operation, helper=self.name
            )
        await self._require_silence()
        self._happened(HelperEvent.DEATH)
        if self.child.death.result() not in (0, None):
            raise self._death()

    async def close(self) -> None:
        """Ends whatever is left of it. Idempotent.

        Raises ChildStuck for a process that cannot be ended: it keeps its uid until it is dead.
        """
        if self._requested and self._child is None:
            await self._find_lost()
        if self._channel is not None:
            self._channel.close()
        uid, self._uid = self._uid, None
        try:
            if self._child is not None:
                await self._child.end(self.host.config.budgets.term_grace_seconds)
        except ChildStuck:
            self.host.stuck.append(self.child)
            if uid is not None:
                self.child.death.add_done_callback(lambda _death: self.host.leases.release(uid))
            raise
        self._happened(HelperEvent.DEATH)
        if uid is not None:
            self.host.leases.release(uid)

    async def _find_lost(self) -> None:
        """Becomes the owner of a helper that the launcher made and died before it said so.

        Where there is none, the far end of the channel is closed; where there is one, its first message names it.
        """
        assert self._channel is not None
        self._requested = False
        config = self.host.config
        with contextlib.suppress(DomwardError, TimeoutError):
            async with asyncio.timeout(config.budgets.start_seconds):
                await self.host.events.wait(self._channel.fileno(), Condition.IN)
            received = self._channel.receive(ALLOWED[HelperState.STARTING])
            if received is not None and received.sender is not None:
                pid = received.sender.pid
                pidfd = received.pidfd or Fd(os.pidfd_open(pid), "pidfd of a lost helper")
                self._child = Child(pid, pidfd, self.name, self.host.events, exit_info=config.exit_info_from_pidfd)

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
                for fd in received.fds:
                    close_in_thread(fd)
                received.close()
                raise ProtocolViolation(f"{kind.NAME} came more often than it may.")
            return received

    def _violated(self, error: ProtocolViolation) -> ProtocolViolation:
        self.child.send_signal(signal.SIGKILL)
        error.operation, error.helper = self.operation, self.name
        return error

    def _log(self, message: Log) -> None:
        line = printable(message.line)
        self.last_lines = [*self.last_lines, line][-_LAST_LINES:]
        _LOG.log(getattr(logging, message.level.value.upper()), "%s %s: %s", self.operation, self.name, line)

    def _death(self) -> HelperDied:
        self._happened(HelperEvent.DEATH)
        last = f" Its last words: {self.last_lines[-1]}" if self.last_lines else ""
        return HelperDied(
            f"The {self.kind.value} helper {self.child.describe_death()} before its work was done.{last}",
            status=self.child.death.result(),
            operation=self.operation,
            helper=self.name,
        )


def _pid_of(pidfd: Fd) -> int:
    with open(f"{PROC}/self/fdinfo/{pidfd.fileno()}", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise ConfinementFailed("A pidfd of a helper does not show its pid.", step="identity")
