# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor's end of the launcher: starts it, asks it for helpers, notices its death.

States: new -> starting -> ready -> dead. A request is answered exactly once: with the helper, with the step that
failed, or, where the launcher dies or breaks the protocol, with `HelperDied` or `ProtocolViolation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Sequence
from functools import partial

from domward.protocol.channel import Channel, ChannelClosed, Received
from domward.protocol.errors import ConfinementFailed, DomwardError, HelperDied, OperationFailed, ProtocolViolation
from domward.protocol.fds import Fd
from domward.protocol.layers import Layer
from domward.protocol.messages import HoldUserNamespace, LauncherReady, Spawn, Spawned, SpawnFailed, StepFailed
from domward.protocol.records import frozen

from .children import Child
from .config import Config
from .endings import to_its_end
from .events import Condition, Events, Watch
from .launcher_process import LauncherProcess
from .opening import close_in_thread
from .verification import Privileges, verify_launcher

_MOST_PENDING = 64  # requests: some 278 small messages fit into the channel unread, so sending never waits


@frozen
class NewProcess:
    """A process that the launcher has just made; the caller owns the pidfd."""

    pid: int
    pidfd: Fd


class Launcher:
    """One launcher process. Owns its channel and its child; `privileges` is what was seen of it when it was ready."""

    def __init__(self, config: Config, events: Events) -> None:
        self._config = config
        self._events = events
        self._requests = itertools.count(1)
        self._pending: dict[int, asyncio.Future[NewProcess]] = {}
        self._answered = 0
        self._places = asyncio.Semaphore(_MOST_PENDING)
        self._ready: asyncio.Future[LauncherReady] = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._watch: Watch | None = None
        self.child: Child | None = None
        self.privileges: Privileges | None = None

    @property
    def alive(self) -> bool:
        """Whether it was started and has not died."""
        return self.child is not None and not self.child.has_ended() and self._watch is not None

    async def start(self, process: LauncherProcess | None = None) -> LauncherReady:
        """Starts it, or takes over a `process` started before, and waits until it is ready.

        Raises ConfinementFailed, HelperDied, OperationFailed.
        """
        if process is None:
            try:
                process = LauncherProcess(os.fspath(self._config.python))
            except OSError as error:
                raise OperationFailed(f"The launcher could not be started: {error.strerror}.") from error
        pid, near = process.take()
        self._channel = Channel(
            near,
            "the launcher's channel",
            max_fds=1,
            identify=True,
            pidfds=self._config.identify_by_pidfd,
            discard=close_in_thread,
        )
        self.child = Child(
            pid,
            _pidfd_of(pid),
            f"launcher {pid}",
            self._events,
            exit_info=self._config.exit_info_from_pidfd,
        )
        self._watch = self._events.watch(self._channel.fileno(), Condition.IN, self._on_readable)
        return await self.ready()

    async def ready(self) -> LauncherReady:
        """What the launcher said when it was ready."""
        try:
            async with asyncio.timeout(self._config.budgets.start_seconds):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise HelperDied("The launcher did not become ready in time.", status=None) from None

    async def spawn(self, make_request: partial[Spawn] | partial[HoldUserNamespace], fds: Sequence[Fd]) -> NewProcess:
        """Asks for a helper, or a holder, with the `fds` that go with that, which stay the caller's."""
        async with self._places:
            answer = self._request(make_request, fds)
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:
                await to_its_end(self._end_unwanted(answer))
                raise

    def _request(
        self, make_request: partial[Spawn] | partial[HoldUserNamespace], fds: Sequence[Fd]
    ) -> asyncio.Future[NewProcess]:
        if not self.alive or self._channel is None:
            raise HelperDied("The launcher is gone.", status=None)
        number = next(self._requests)
        try:
            self._channel.send(make_request(request=number), fds)
        except (BlockingIOError, ChannelClosed):
            raise HelperDied("The launcher does not take requests any more.", status=None) from None
        answer: asyncio.Future[NewProcess] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        return answer

    async def _end_unwanted(self, answer: asyncio.Future[NewProcess]) -> None:
        """Waits until it is known whether there is a helper, and ends it.

        A launcher that answers nobody for `start_seconds` is killed; one that is only busy with the requests of others
        is not, because they would fail with it.
        """
        while not answer.done():
            before = self._answered
            await asyncio.wait([answer], timeout=self._config.budgets.start_seconds)
            if self._answered == before and not answer.done():
                assert self.child is not None
                self.child.send_signal(signal.SIGKILL)
                await asyncio.wait([answer])  # its end of file fails every request
        if answer.exception() is None:
            process = answer.result()
            exit_info = self._config.exit_info_from_pidfd
            await Child(process.pid, process.pidfd, "unwanted helper", self._events, exit_info=exit_info).kill()

    async def close(self) -> None:
        """Ends the launcher and waits for its death. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._channel is not None:
            self._channel.close()
        self._fail(HelperDied("The launcher was ended.", status=None))
        if self.child is not None:
            await asyncio.wait([self.child.death], timeout=self._config.budgets.term_grace_seconds)
            await self.child.kill()

    def _on_readable(self, _conditions: Condition) -> None:
        assert self._channel is not None
        assert self._watch is not None
        try:
            allowed = (Spawned, SpawnFailed) if self._ready.done() else (LauncherReady, StepFailed)
            received = self._channel.receive(allowed)
            if received is not None:
                self._take(received)
                self._watch.resume()
                return
            error: DomwardError = HelperDied("The launcher ended.", status=None)
        except BlockingIOError:
            self._watch.resume()
            return
        except DomwardError as found:
            error = found
        self._watch.cancel()
        self._watch = None
        self._fail(error)
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)

    def _take(self, received: Received) -> None:
        message = received.message
        self._answered += 1
        if received.pidfd is not None:
            received.pidfd.close()
        if isinstance(message, LauncherReady):
            assert self.child is not None
            self.privileges = verify_launcher(self.child.pid, seccomp=Layer.SECCOMP not in message.missing)
            self._ready.set_result(message)
        elif isinstance(message, StepFailed):
            self._fail(step_error(message.step, message.errno, "launcher"))
        elif isinstance(message, Spawned):
            answer = self._pending.pop(message.request, None)
            if answer is None:
                close_in_thread(received.fds[0])
                raise ProtocolViolation("The launcher answered a request that was not made.", helper="launcher")
            answer.set_result(NewProcess(message.pid, received.fds[0]))
        elif isinstance(message, SpawnFailed):
            answer = self._pending.pop(message.request, None)
            if answer is None:
                raise ProtocolViolation("The launcher answered a request that was not made.", helper="launcher")
            answer.set_exception(step_error(message.step, message.errno, "launcher"))

    def _fail(self, error: DomwardError) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # looked at: nobody need be waiting
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()


def step_error(step: str, errno: int, helper: str) -> ConfinementFailed:
    """The error for a step of confinement that the kernel refused with `errno`."""
    known = step in {layer.value for layer in Layer}
    return ConfinementFailed(
        f"Confining a helper failed at step {step!r}: {os.strerror(errno)}.",
        step=step,
        helper=helper,
        advice="Run 'domward doctor' to see what this host lacks." if known else "",
    )


def _pidfd_of(pid: int) -> Fd:
    """The pidfd of a child that has just been started; without one, the child is ended before OperationFailed."""
    try:
        return Fd(os.pidfd_open(pid), "the launcher's pidfd")
    except OSError as error:
        with contextlib.suppress(OSError):
            # Still our child, dead or alive? Where SIGCHLD is ignored, the number may be somebody else's by now.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise OperationFailed(f"The launcher could not be watched: {error.strerror}.") from error
