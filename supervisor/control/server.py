# SPDX-License-Identifier: GPL-3.0-or-later
"""The control server: accepts clients, tells who they are, and calls what the table (`calls`) lets them call.

States: new -> serving -> stopping -> closed. `open` takes a listening socket or makes one; `stop` ends the operations
with a typed completion each, sends it, and closes everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from domward.protocol import limits
from domward.protocol.channel import Channel
from domward.protocol.control import AboutOperation, ControlMessage
from domward.protocol.errors import (
    DomwardError,
    OperationFailed,
    ProtocolViolation,
    RefusedError,
    UsageError,
    printable,
)
from domward.protocol.fds import Fd

from ..audit.record import Actor, Event, Outcome
from ..endings import to_its_end
from ..events import Condition, Events, Watch
from ..measuring import Measuring
from ..metrics import Metrics
from ..opening import close_in_thread
from ..service import Service
from ..settings import Settings, group_id
from ..supervisor import Supervisor
from ..usage import usage_of
from .calls import CALLS, About, may
from .connection import Connection
from .console import ConsoleHub
from .in_flight import InFlight
from .operations import OperationTable
from .peers import Peer, peer_of, role_of
from .replay import Replay, restored
from .tracked import Tracked, failure, tracked_before

_LOG = logging.getLogger("domward.control")
_SOCKET_MODE = 0o666  # who may do what is decided by who it is, not by who can connect
_BACKLOG = 1024
_ACCEPTED_AT_ONCE = 32
_TICKS = 8  # looks at whether clients are stuck, in the time after which they are
_FAREWELL_SECONDS = 2.0  # for clients to read their operations' completions when the daemon stops
_ROOT = 0
_CONSOLE = "console-"  # and an operation's id: the name of a stored fd


class ControlServer:
    """Serves clients for one supervisor. `service` keeps consoles over a restart.

    `on_reload` reads the settings again, or raises SettingsError.
    """

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        service: Service | None = None,
        on_reload: Callable[[], Settings] | None = None,
    ) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.events = Events(asyncio.get_running_loop())
        self._on_reload = on_reload
        self._service = service or Service()
        self._trail = supervisor.trail
        self.metrics = Metrics()
        self._measuring = Measuring(self.metrics, lambda: self.settings, self.metrics_text)
        self._in_flight = InFlight(settings.config.state_directory)
        self.operations = OperationTable(
            settings, self._in_flight, self.operation_changed, self._ended, self._forgotten
        )
        self._connections: dict[int, Connection] = {}
        self._of_uid: Counter[int] = Counter()
        self._next = 0
        self._listener: socket.socket | None = None
        self._watch: Watch | None = None
        self._made: tuple[Path, tuple[int, int]] | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._groups: tuple[int | None, int | None] = (None, None)
        self._quieter = asyncio.Event()
        self._look_up_groups()

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self, listener: socket.socket | None = None) -> None:
        """Begins to serve, on `listener` or on a socket that it makes where the settings say. Raises OperationFailed.

        What a daemon before this one left unfinished is finished first, as lost.
        """
        for tracked in self.operations.note_lost():
            self._trail.note(Event.COMPLETION, {"code": tracked.outcome}, outcome=Outcome.FAILED, operation=tracked.id)
            _LOG.warning("%s (uid %d) was lost with the daemon before this one", tracked.id, tracked.uid)
        self._restore_consoles()
        self._listener = listener or self._listen(self.settings.of("control", "socket"))
        self._listener.setblocking(False)
        self._watch = self.events.watch(self._listener.fileno(), Condition.IN, self._accept)
        self._look_for_stuck()
        self._measuring.start()

    async def stop(self) -> None:
        """No new operations; those there are end, their clients are told, and everything is closed. Idempotent."""
        await to_its_end(self._stop())

    async def _stop(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self.operations.stop()
        await self._measuring.stop()
        await self._say_farewell()
        for connection in [*self._connections.values()]:
            connection.close()
        if self._tick is not None:
            self._tick.cancel()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._remove_socket()
        self._in_flight.close()
        self.events.close()

    async def _say_farewell(self) -> None:
        """Waits until every client has read how its operations ended, or had time to."""
        for connection in [*self._connections.values()]:
            connection.flush_soon()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while any(connection.pending for connection in self._connections.values()):
                    self._quieter.clear()
                    await self._quieter.wait()

    def drained(self) -> None:
        """Nothing waits any more for some client."""
        self._quieter.set()

    def _listen(self, path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                # Ours alone is the lock (daemon.SingleInstance), so whoever made this socket is gone.
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()
            listener.bind(str(path))
            os.chmod(path, _SOCKET_MODE)
            listener.listen(_BACKLOG)
            found = path.lstat()
            self._made = (path, (found.st_dev, found.st_ino))
        except (OSError, ValueError) as error:
            listener.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise OperationFailed(f"The control socket {printable(str(path))} cannot be made: {reason}.") from error
        return listener

    def _remove_socket(self) -> None:
        if self._made is not None:
            path, identity = self._made
            with contextlib.suppress(OSError):
                found = path.lstat()
                if (found.st_dev, found.st_ino) == identity:
                    path.unlink()

    def _look_up_groups(self) -> None:
        operators, auditors = (self.settings.of("control", f"{role}_group") for role in ("operator", "auditor"))
        self._groups = (group_id(operators), group_id(auditors))

    def apply(self, settings: Settings) -> None:
        """Uses `settings` from now on, for what begins from now on."""
        self.settings = self.operations.settings = settings
        self._look_up_groups()

    # --- clients ------------------------------------------------------------------------------------------------

    def _accept(self, _found: Condition) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                end, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no fds are left: those who wait are served when some are
                _LOG.warning("a client could not be accepted: %s", error.strerror)
                return
            try:
                self._welcome(end)
            except DomwardError as error:
                end.close()
                _LOG.warning("a client was turned away: %s", error)

    def _welcome(self, end: socket.socket) -> None:
        end.setblocking(False)
        peer = peer_of(end)
        role = role_of(peer, *self._groups)
        channel = Channel(end, "a client's connection", max_fds=limits.MESSAGE_FDS, discard=close_in_thread)
        refusal = (
            self._reason_to_refuse(peer)
            if role is not None
            else RefusedError(
                f"User {peer.uid} may not use this daemon.",
                advice=f"Its members of the group {self.settings.of('control', 'operator_group')} may.",
            )
        )
        if refusal is not None or role is None:
            assert refusal is not None
            self.refused(peer, Actor.of_process(peer.pid, peer.uid, peer.gid), "connect", refusal)
            with contextlib.suppress(BlockingIOError, OperationFailed):
                channel.send(failure(0, refusal))
            channel.close()
            peer.close()
            return
        self._next += 1
        self._of_uid[peer.uid] += 1
        self._connections[self._next] = Connection(self._next, channel, peer, role, self.events, self)

    def _reason_to_refuse(self, peer: Peer) -> RefusedError | None:
        most = self.settings.of("control", "clients")
        if len(self._connections) >= most:
            return RefusedError(f"{most} clients are connected already.", code="too-many", advice="Try again later.")
        most = self.settings.of("control", "clients_per_uid")
        if peer.uid != _ROOT and self._of_uid[peer.uid] >= most:
            return RefusedError(f"User {peer.uid} has {most} connections already.", code="too-many")
        return None

    def call(self, connection: Connection, message: ControlMessage, fds: Sequence[Fd]) -> None:
        """What the table says of `message`. Raises DomwardError."""
        call = CALLS[type(message)]
        owner = None
        if call.about is not About.NONE:
            assert isinstance(message, AboutOperation)
            owner = self.operation(message.operation).uid
        if not may(call, connection.role, connection.peer.uid, owner):
            error = RefusedError(
                f"{message.NAME!r} is not for {connection.role.value}s"
                + ("." if owner is None or connection.role not in call.roles else f" about operations of user {owner}.")
            )
            self.refused(connection.peer, connection.actor, message.NAME, error)
            raise error
        try:
            call.handler(self, connection, message, fds)
        except RefusedError as error:
            self.refused(connection.peer, connection.actor, message.NAME, error)
            raise

    def operation(self, name: str) -> Tracked:
        """The operation with the id `name`. Raises UsageError."""
        found = self.operations.find(name)
        if found is None:
            raise UsageError(
                f"There is no operation {printable(name)}.", code="no-such-operation", advice="See 'domward list'."
            )
        return found

    def closed(self, connection: Connection) -> None:
        """Forgets a connection; its operations that are not detached end with it."""
        self._connections.pop(connection.number, None)
        self._of_uid[connection.peer.uid] -= 1
        if not self._of_uid[connection.peer.uid]:
            del self._of_uid[connection.peer.uid]
        self._quieter.set()
        for tracked in connection.mine:
            self.operations.cancel(tracked)
        connection.mine.clear()

    def messages_per_second(self) -> int:
        """What one client may send."""
        rate: int = self.settings.of("control", "messages_per_second")
        return rate

    def _look_for_stuck(self) -> None:
        loop = asyncio.get_running_loop()
        seconds: float = self.settings.of("control", "stuck_seconds")
        for connection in [*self._connections.values()]:
            connection.check_stuck(loop.time(), seconds)
        self._tick = loop.call_later(seconds / _TICKS, self._look_for_stuck)

    # --- what happens -------------------------------------------------------------------------------------------

    def operation_changed(self, tracked: Tracked) -> None:
        """Tells everybody who watches."""
        for connection in self._connections.values():
            connection.operation_changed(tracked)

    def console_changed(self, hub: ConsoleHub) -> None:
        """Tells everybody who watches that a viewer came or went."""
        for tracked in self.operations:
            if tracked.console is hub:
                self.operation_changed(tracked)

    def keep_without_client(self, tracked: Tracked) -> None:
        """From now on it goes on when its client goes away."""
        for connection in self._connections.values():
            connection.mine.discard(tracked)
        self.operation_changed(tracked)

    def new_console(self, columns: int, rows: int) -> ConsoleHub:
        """A console for a new operation."""
        return ConsoleHub(self.events, columns, rows, Replay(kept=bool(self._service.address)))

    def _restore_consoles(self) -> None:
        """The consoles that systemd kept: what they showed can be seen again."""
        for name, fd in self._service.take(_CONSOLE).items():
            with fd:
                found = restored(fd)
            tracked = self.operations.find(name) or (tracked_before(name, found[0]) if found else None)
            if found is None or tracked is None:
                self._service.forget(_CONSOLE + name)
                continue
            tracked.console = ConsoleHub.of_before(self.events, 80, 24, found[1])
            if self.operations.find(name) is None:
                self.operations.add_over(tracked)

    def _keep_console(self, tracked: Tracked) -> None:
        if tracked.console is not None:
            tracked.console.replay.describe(tracked.description())

    def _forgotten(self, tracked: Tracked) -> None:
        if tracked.console is not None:
            self._service.forget(_CONSOLE + tracked.id)

    def submitted(self, connection: Connection, tracked: Tracked) -> None:
        """Notes a new operation."""
        self._keep_console(tracked)
        if tracked.console is not None and tracked.console.replay.fd is not None:
            self._service.store(_CONSOLE + tracked.id, tracked.console.replay.fd)
        _LOG.info(
            "%s of uid %d, pid %d: %s", tracked.id, tracked.uid, connection.peer.pid, printable(tracked.label) or "-"
        )

    def told(self, connection: Connection, call: str, operation: str | None) -> None:
        """Notes that a client makes a call that changes something."""
        self._trail.note(Event.CONTROL, {"call": call}, operation=operation, actor=connection.actor)

    def refused(self, peer: Peer, actor: Actor, call: str, error: DomwardError) -> None:
        """Notes that somebody asked for what they may not have."""
        self.metrics.refused(error.code)
        detail = {"call": call, "code": error.code, "reason": error.sentence}
        self._trail.note(Event.REFUSAL, detail, outcome=Outcome.REFUSED, actor=actor)
        _LOG.warning("uid %d, pid %d: %s refused: %s", peer.uid, peer.pid, call, error)

    def violated(self, connection: Connection, error: DomwardError) -> None:
        """Notes that a client sent what nobody may send."""
        peer = connection.peer
        self.metrics.violated("client")
        detail = {"code": error.code, "reason": error.sentence}
        self._trail.note(Event.PROTOCOL_VIOLATION, detail, outcome=Outcome.FAILED, actor=connection.actor)
        _LOG.warning("client %d (uid %d, pid %d): %s", connection.number, peer.uid, peer.pid, error)

    def _ended(self, tracked: Tracked) -> None:
        for connection in self._connections.values():
            connection.mine.discard(tracked)
        self.metrics.operation_ended(tracked.kind, tracked.outcome, (tracked.ended - tracked.started) / 1000)
        if tracked.outcome == ProtocolViolation.code:
            self.metrics.violated("helper")
        self._keep_console(tracked)
        _LOG.info("%s: %s", tracked.id, tracked.outcome)

    def metrics_text(self) -> str:
        """The counters, in OpenMetrics form."""
        launcher = self.supervisor.launcher_pid
        return self.metrics.text(
            live={
                "waiting": self.operations.waiting,
                "running": self.operations.running,
                "guest": self.operations.guests,
            },
            helpers=self.supervisor.helpers_alive,
            clients=len(self._connections),
            usage=usage_of("daemon", {} if launcher is None else {"launcher": launcher}),
        )

    def reload(self) -> None:
        """Reads the settings again. Raises SettingsError."""
        if self._on_reload is not None:
            self.apply(self._on_reload())
