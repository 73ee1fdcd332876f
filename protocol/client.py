# SPDX-License-Identifier: GPL-3.0-or-later
"""The client's side of the control protocol, for domward's own commands and for other tools.

Synchronous, one thread, one connection, any number of requests at once::

    from domward.protocol.client import Client

    with Client("/run/domward/control.sock") as client, open("guest.img", "rb") as disk:
        submitted = client.run(disk.fileno(), label="db")
        with client.result(submitted, on_step=print) as booted:
            use(booted.kernel, booted.ramdisk, booted.args)     # Fd, Fd or None, bytes

    for operation in client.list():
        print(operation.operation, operation.state.value, operation.outcome)

The disk is opened by the caller, for reading: the daemon reads what its client could have read, and nothing else. Root
may give a path instead. With a console::

    submitted = client.run(disk.fileno(), console=Screen(columns=80, rows=25))
    console = client.attach(submitted.operation)
    client.keys(console, b"\\r")
    for output in client.messages(console.request):     # Output messages, until the console has ended
        sys.stdout.buffer.write(output.content)

To wait for other things at the same time, call `next_of(request, 0)` until it gives None, and then poll
`client.fileno()`.

Errors of the daemon's are raised as those of protocol/errors, with the daemon's code, sentence and exit code.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from types import TracebackType

from . import control, limits
from .channel import Channel, Received
from .control import (
    ANSWERS,
    LAST,
    Attached,
    CallFailed,
    Completed,
    ControlMessage,
    Created,
    DiskInspected,
    GuestEnded,
    LogFile,
    MetricsText,
    OperationInfo,
    Started,
    Step,
    Welcome,
)
from .errors import (
    ConfinementUnavailable,
    DiskError,
    DiskReason,
    DomwardError,
    HelperError,
    OperationCancelled,
    OperationFailed,
    OperationTimedOut,
    ProtocolViolation,
    RefusedError,
    UsageError,
    printable,
)
from .fds import Fd, close_all
from .guests import Action, GuestType
from .records import frozen
from .schema import Message
from .typed import TypeVar

_BY_EXIT_CODE: dict[int, type[DomwardError]] = {
    kind.exit_code: kind
    for kind in (
        OperationFailed, UsageError, RefusedError, ConfinementUnavailable, OperationTimedOut, HelperError,
        OperationCancelled,
    )
}  # fmt: skip
_CONNECT_SECONDS = 10.0

MessageT = TypeVar("MessageT", bound=Message)


class DaemonGone(OperationFailed):
    """The daemon cannot be reached, or closed the connection."""

    code = "daemon-gone"


@frozen
class Screen:
    """A console's size in characters, 1 to 1000 each; `menu_timeout` is in seconds, None takes the disk's own.

    With `may_skip_menu` none is shown where the disk says so.
    """

    columns: int = 80
    rows: int = 24
    menu_timeout: int | None = None
    may_skip_menu: bool = False


@frozen
class Submitted:
    """An operation that the daemon has taken on: the number of the request, and the operation's id."""

    request: int
    operation: str


@frozen
class Booted:
    """What boots, as `Completed` says; the receiver owns the fds. Both are None for who may not have the files."""

    completed: Completed
    kernel: Fd | None
    ramdisk: Fd | None

    @property
    def args(self) -> bytes:
        """The kernel's command line."""
        return self.completed.args

    def close(self) -> None:
        """Closes the fds."""
        close_all(fd for fd in (self.kernel, self.ramdisk) if fd is not None)

    def __enter__(self) -> Booted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """A connection to the daemon. States: open -> closed. Raises DaemonGone where there is no daemon at `path`.

    Not for several threads at once.
    """

    def __init__(self, path: str | PathLike[str], name: str = "client") -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.settimeout(_CONNECT_SECONDS)
            end.connect(str(path))
            end.setblocking(False)
        except (OSError, ValueError) as error:
            end.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise DaemonGone(
                f"The daemon cannot be reached at {printable(str(path))}: {printable(reason)}.",
                advice="Is domwardd running?",
            ) from None
        self._channel = Channel(end, "the daemon's socket", max_fds=limits.MESSAGE_FDS)
        self._next = 1
        self._early: dict[int, deque[Received]] = {}
        try:
            self.welcome = self._only(
                self.send(control.Hello(request=1, version=limits.CONTROL_VERSION, client=name)), Welcome
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The connection's number, for poll: readable when there is something that no call has read yet."""
        return self._channel.fileno()

    def close(self) -> None:
        """Ends the connection, and with it the operations of it that are not detached. Idempotent."""
        self._channel.close()
        for received in self._early.values():
            for message in received:
                message.close()
        self._early.clear()

    # --- what there is to ask for -------------------------------------------------------------------------------

    def run(
        self,
        disk: int | bytes,
        *,
        entry: bytes | None = None,
        args: bytes | None = None,
        extra: bytes | None = None,
        kernel: bytes | None = None,
        ramdisk: bytes | None = None,
        offset: int | None = None,
        image_format: str | None = None,
        bootloader: str = "builtin",
        bootloader_args: tuple[bytes, ...] = (),
        seconds: int = 0,
        console: Screen | None = None,
        label: str = "",
        domid: int | None = None,
        uuid: str | None = None,
        detached: bool = False,
    ) -> Submitted:
        """Has the daemon read what boots from `disk`: the number of an fd opened for reading, or, for root, a path.

        `seconds` 0 takes the daemon's time-out. See `control.Run` for the rest. Returns once the daemon has taken it
        on; `result` waits for the end.
        """
        screen = console or Screen()
        message = control.Run(
            request=self._number(),
            path=disk if isinstance(disk, bytes) else None,
            entry=entry,
            args=args,
            extra=extra,
            kernel=kernel,
            ramdisk=ramdisk,
            offset=-1 if offset is None else offset,
            image_format=image_format,
            bootloader=bootloader,
            bootloader_args=bootloader_args,
            seconds=seconds,
            console=console is not None,
            columns=screen.columns,
            rows=screen.rows,
            menu_timeout=-1 if screen.menu_timeout is None else screen.menu_timeout,
            may_skip_menu=screen.may_skip_menu,
            label=label,
            domid=-1 if domid is None else domid,
            uuid=uuid,
            detached=detached,
        )
        return self._submit(message, disk)

    def inspect(
        self,
        disk: int | bytes,
        *,
        image_format: str | None = None,
        seconds: int = 0,
        label: str = "",
        detached: bool = False,
    ) -> Submitted:
        """Has the daemon list what could boot from `disk`. As `run`; `inspected` waits for the end."""
        message = control.Inspect(
            request=self._number(),
            path=disk if isinstance(disk, bytes) else None,
            image_format=image_format,
            seconds=seconds,
            label=label,
            detached=detached,
        )
        return self._submit(message, disk)

    def create(
        self,
        fds: Sequence[int],
        *,
        label: str,
        uuid: str,
        memory_mib: int,
        disks: Sequence[bytes],
        vcpus: int = 1,
        guest_type: GuestType = GuestType.PVH,
        bootloader: str = "builtin",
        bootloader_args: tuple[bytes, ...] = (),
        entry: bytes | None = None,
        args: bytes | None = None,
        kernel: bytes | None = None,
        ramdisk: bytes | None = None,
        offset: int | None = None,
        on_poweroff: Action = Action.DESTROY,
        on_reboot: Action = Action.RESTART,
        on_crash: Action = Action.DESTROY,
        screen: Screen | None = None,
    ) -> Submitted:
        """Has the daemon create a guest; `created` waits until it runs, `wait` and `ended` for its end.

        `fds` are the numbers of the first disk's fd, for reading, and of each disk's, as `control.Create` says of them
        and of the rest. With a `screen` a menu is shown to who attaches.
        """
        size = screen or Screen()
        message = control.Create(
            request=self._number(),
            label=label,
            uuid=uuid,
            guest_type=guest_type,
            memory_mib=memory_mib,
            vcpus=vcpus,
            disks=tuple(disks),
            bootloader=bootloader,
            bootloader_args=bootloader_args,
            entry=entry,
            args=args,
            kernel=kernel,
            ramdisk=ramdisk,
            offset=-1 if offset is None else offset,
            on_poweroff=on_poweroff,
            on_reboot=on_reboot,
            on_crash=on_crash,
            menu=screen is not None,
            columns=size.columns,
            rows=size.rows,
        )
        number = self.send(message, fds)
        return Submitted(number, self._first(number, Started).operation)

    def created(self, submitted: Submitted, on_step: Callable[[str], None] | None = None) -> Created:
        """Waits until the guest that `create` asked for runs. Raises the operation's error."""
        received = self._last(submitted.request, Created, on_step)
        assert isinstance(received.message, Created)
        return received.message

    def ended(self, submitted: Submitted) -> GuestEnded:
        """Waits for the end of the guest of what `wait` gave. Raises the operation's error."""
        received = self._last(submitted.request, GuestEnded, None)
        assert isinstance(received.message, GuestEnded)
        return received.message

    def result(self, submitted: Submitted, on_step: Callable[[str], None] | None = None) -> Booted:
        """Waits for the end of what `run` (or `wait`) gave. Raises the operation's error."""
        received = self._last(submitted.request, Completed, on_step)
        assert isinstance(received.message, Completed)
        files = list(received.fds)
        return Booted(received.message, files[0] if files else None, files[1] if len(files) > 1 else None)

    def inspected(self, submitted: Submitted, on_step: Callable[[str], None] | None = None) -> Fd | None:
        """Waits for the end of what `inspect` (or `wait`) gave: a file with the object of `domward inspect --json`."""
        received = self._last(submitted.request, DiskInspected, on_step)
        return received.fds[0] if received.fds else None

    def wait(self, operation: str) -> Submitted:
        """Asks for the end of any operation; then `result`, or `inspected` for one that inspects."""
        return Submitted(self.send(control.Wait(request=self._number(), operation=operation)), operation)

    def list(self, *, finished: bool = False) -> list[OperationInfo]:
        """All operations; with `finished` those too that are over and still known."""
        number = self.send(control.List(request=self._number(), finished=finished))
        return [message for message in self.messages(number) if isinstance(message, OperationInfo)]

    def show(self, operation: str) -> tuple[OperationInfo, tuple[Step, ...]]:
        """One operation and the steps that it took."""
        found = [*self.messages(self.send(control.Show(request=self._number(), operation=operation)))]
        (info,) = (message for message in found if isinstance(message, OperationInfo))
        return info, tuple(message for message in found if isinstance(message, Step))

    def cancel(self, operation: str) -> None:
        """Has it end. Returns at once; who waits for it learns when it has ended."""
        self._only(self.send(control.Cancel(request=self._number(), operation=operation)), control.End)

    def log(self, operation: str) -> Fd:
        """Its console log, opened for reading: every byte as it came, so not for a terminal."""
        received = self._last(self.send(control.Log(request=self._number(), operation=operation)), LogFile, None)
        return received.fds[0]

    def metrics(self) -> str:
        """The counters in OpenMetrics form."""
        return self._only(self.send(control.Metrics(request=self._number())), MetricsText).content

    def reload(self) -> None:
        """Has the settings read again."""
        self._only(self.send(control.Reload(request=self._number())), control.End)

    def attach(self, operation: str) -> Attached:
        """The operation's console: then `messages(attached.request)` gives what it shows, and `keys` types on it."""
        number = self.send(control.Attach(request=self._number(), operation=operation))
        return self._first(number, Attached)

    def keys(self, attached: Attached, content: bytes) -> None:
        """Types `content`, at most limits.CONSOLE_KEYS_BYTES, on an attached console."""
        self.send(control.Keys(request=attached.request, content=content))

    def resize(self, attached: Attached, columns: int, rows: int) -> None:
        """Says that what shows an attached console has so many `columns` and `rows`, 1 to limits.SCREEN each.

        The console gets the size that fits everybody who said theirs.
        """
        self.send(control.Resize(request=attached.request, columns=columns, rows=rows))

    def watch(self) -> int:
        """Asks for every operation and every change; returns the number for `messages`, which do not end."""
        return self.send(control.Watch(request=self._number()))

    def stop(self, target: int) -> None:
        """Ends the attach, watch or wait with the number `target`."""
        self._only(self.send(control.Stop(request=self._number(), target=target)), control.End)

    # --- messages -----------------------------------------------------------------------------------------------

    def send(self, message: ControlMessage, fds: Sequence[int] = ()) -> int:
        """Sends a request with copies of `fds` and returns its number; waits while the daemon does not read.

        Raises DaemonGone.
        """
        while True:
            try:
                self._channel.send(message, fds)
                break
            except BlockingIOError:
                self._keep(self._receive(None, sending=True))
            except OperationFailed as error:
                raise self._why_gone() or DaemonGone(error.sentence) from None
        return message.request

    def messages(self, request: int) -> Iterator[Message]:
        """What comes for `request`, its last message excluded unless it says something. Raises what it failed with.

        Fds that come with a message are closed: see `result`, `inspected` and `log` for those that have any.
        """
        while True:
            received = self.next_of(request, None)
            assert received is not None
            received.close()
            message = received.message
            if isinstance(message, CallFailed):
                raise error_of(message)
            if not isinstance(message, control.End):
                yield message
            if type(message) in LAST:
                return

    def next_of(self, request: int, seconds: float | None) -> Received | None:
        """The next message for `request`, the caller's with its fds; None where none comes within `seconds`."""
        while not self._early.get(request):
            received = self._receive(seconds)
            if received is None:
                return None
            self._keep(received)
        found = self._early[request].popleft()
        if not self._early[request]:
            del self._early[request]
        return found

    def waiting(self) -> bool:
        """Whether a message is there already, for whichever request."""
        return any(self._early.values()) or bool(self._poll(0, select.POLLIN))

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _submit(self, message: ControlMessage, disk: int | bytes) -> Submitted:
        number = self.send(message, () if isinstance(disk, bytes) else (disk,))
        return Submitted(number, self._first(number, Started).operation)

    def _first(self, request: int, kind: type[MessageT]) -> MessageT:
        received = self.next_of(request, None)
        assert received is not None
        received.close()
        return self._of(received.message, kind)

    def _only(self, request: int, kind: type[MessageT]) -> MessageT:
        return self._of(self._last(request, kind, None).message, kind)

    def _of(self, message: Message, kind: type[MessageT]) -> MessageT:
        if isinstance(message, CallFailed):
            raise error_of(message)
        if not isinstance(message, kind):
            raise ProtocolViolation(f"The daemon sent {message.NAME} in place of {kind.NAME}.")
        return message

    def _last(self, request: int, kind: type[Message], on_step: Callable[[str], None] | None) -> Received:
        while True:
            received = self.next_of(request, None)
            assert received is not None
            message = received.message
            if type(message) in LAST:
                if not isinstance(message, kind):
                    received.close()
                    self._of(message, kind)
                return received
            received.close()
            if isinstance(message, Step) and on_step is not None:
                on_step(message.step)

    def _keep(self, received: Received | None) -> None:
        if received is not None:
            assert isinstance(received.message, ControlMessage)  # as all of ANSWERS are
            self._early.setdefault(received.message.request, deque()).append(received)

    def _receive(self, seconds: float | None, *, sending: bool = False) -> Received | None:
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                received = self._channel.receive(ANSWERS)
            except BlockingIOError:
                left = None if end is None else max(0.0, end - time.monotonic())
                found = self._poll(left, select.POLLIN | (select.POLLOUT if sending else 0))
                if found & select.POLLOUT or (not found and left is not None):
                    return None
                continue
            if received is None:
                raise DaemonGone("The daemon closed the connection.", advice="See its log for the reason.")
            if isinstance(received.message, CallFailed) and received.message.request == 0:
                raise error_of(received.message)
            return received

    def _poll(self, seconds: float | None, events: int) -> int:
        waiting = select.poll()
        waiting.register(self._channel.fileno(), events)
        found = waiting.poll(None if seconds is None else seconds * 1000)
        return found[0][1] if found else 0

    def _why_gone(self) -> DomwardError | None:
        """What the daemon said before it closed the connection, if it did."""
        try:
            while (received := self._channel.receive(ANSWERS)) is not None:
                received.close()
                if isinstance(received.message, CallFailed) and received.message.request == 0:
                    return error_of(received.message)
        except (DomwardError, BlockingIOError):
            return None
        return None


def error_of(message: CallFailed) -> DomwardError:
    """The error that `message` tells of."""
    about = {"advice": message.advice, "operation": message.operation, "helper": printable(message.helper)}
    known = {reason.value: reason for reason in DiskReason}
    if message.code in known:
        return DiskError(known[message.code], message.sentence, **about)
    kind = _BY_EXIT_CODE.get(message.exit_code, OperationFailed)
    return kind(message.sentence, code=message.code, **about)


__all__ = ["Booted", "Client", "DaemonGone", "Screen", "Submitted", "error_of"]
