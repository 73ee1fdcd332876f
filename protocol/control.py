# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message between the daemon and its clients; docs/control-protocol.md describes them byte by byte.

A client numbers its requests. Every message of the daemon's carries the number of the request that it belongs to, and
each request gets exactly one last message: its answer, or `error`. What may come before the last one is in the
request's docstring. `console-keys` and `console-size` belong to an `attach`, whose number
they have, and get no answer.
"""

from __future__ import annotations

import enum

from . import limits
from .guests import Action, Death, GuestType
from .schema import Message, boolean, choice, data, integer, optional_data, optional_text, several_data, text

_REQUEST = 2**31 - 1
_SIZE = 2**63 - 1
_ID = 2**32 - 1
_NAME = 64


class Role(enum.Enum):
    """What a client is to the daemon, by its uid and groups."""

    ROOT = "root"  # uid 0
    OPERATOR = "operator"  # in the operators' group
    AUDITOR = "auditor"  # in the auditors' group


class State(enum.Enum):
    """Where an operation is."""

    WAITING = "waiting"  # for its turn
    RUNNING = "running"
    ENDING = "ending"
    DONE = "done"


class ControlMessage(Message, name=""):
    """The base of all: `request` is the number that the client gave the request to which the message belongs."""

    request: int = integer(1, _REQUEST)


class AboutOperation(ControlMessage, name=""):
    """The base of the requests that are about one operation, by its id."""

    operation: str = text(_NAME)


# --- requests ---------------------------------------------------------------------------------------------------


class Hello(ControlMessage, name="hello"):
    """The first request on every connection. `version` is the newest that the client speaks. Last: `welcome`."""

    version: int = integer(1, 65_535)
    client: str = text(_NAME)


class Run(ControlMessage, name="run"):
    """Read what boots from a disk. Before the last: `started`, then `step`s. Last: `completed`.

    The fields are those of `supervisor.bootloader.BootRequest`, of which domward.1 tells as options of ``run``.
    Fds: the disk, opened for reading by the client; none where root gives a `path` instead. `seconds` 0 takes the
    daemon's own time-out; `offset` -1 looks at every partition. With a `console` a menu is shown to who attaches;
    `menu_timeout` -1 takes the disk's own. `bootloader` is "builtin", "pygrub" or, from root, a program's path; a
    program gets `bootloader_args` besides. `label` is for people: the guest's name, where there is one; `domid` (-1:
    not known) and `uuid` are the guest's, for the audit log. A `detached` operation goes on when its client goes away;
    any other is cancelled then.
    """

    path: bytes | None = optional_data(limits.PATH_BYTES)
    entry: bytes | None = optional_data(limits.TITLE_BYTES)
    args: bytes | None = optional_data(limits.CMDLINE_BYTES)
    extra: bytes | None = optional_data(limits.CMDLINE_BYTES)
    kernel: bytes | None = optional_data(limits.PATH_BYTES)
    ramdisk: bytes | None = optional_data(limits.PATH_BYTES)
    offset: int = integer(-1, _SIZE)
    image_format: str | None = optional_text(_NAME)
    bootloader: str = text(limits.PATH_BYTES)
    bootloader_args: tuple[bytes, ...] = several_data(limits.PROGRAM_ARGUMENT_BYTES, limits.PROGRAM_ARGUMENTS)
    seconds: int = integer(0, 86_400)
    console: bool = boolean()
    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)
    menu_timeout: int = integer(-1, 86_400)
    may_skip_menu: bool = boolean()
    label: str = text(limits.LABEL_BYTES)
    domid: int = integer(-1, 32_767)
    uuid: str | None = optional_text(_NAME)
    detached: bool = boolean()

    def fd_count(self) -> int:
        """The disk, unless a path names it."""
        return 0 if self.path is not None else 1


class Inspect(ControlMessage, name="inspect"):
    """List what could boot from a disk. Before the last: `started`, `step`s. Last: `inspected`. Fds as for `run`."""

    path: bytes | None = optional_data(limits.PATH_BYTES)
    image_format: str | None = optional_text(_NAME)
    seconds: int = integer(0, 86_400)
    label: str = text(limits.LABEL_BYTES)
    detached: bool = boolean()

    def fd_count(self) -> int:
        """The disk, unless a path names it."""
        return 0 if self.path is not None else 1


class Create(ControlMessage, name="create"):
    """Create a guest. Before the last: `started`, then `step`s. Last: `created`, once the guest runs.

    The fields are those of a guest's configuration, domward.1 under ``create``; `disks` are xl's disk settings, each
    with a ``target=``, which is only for people and for backends that open paths. Fds: the first disk, opened for
    reading, and then each disk, opened for reading, or for both where it is writable. With a `menu` one is shown to who
    attaches. The guest's client may go away once it runs; before, that cancels the operation. `args` are appended to
    the boot entry's; `offset` is as for `run`.
    """

    label: str = text(limits.GUEST_NAME_BYTES)
    uuid: str = text(_NAME)
    guest_type: GuestType = choice(GuestType)
    memory_mib: int = integer(1, limits.GUEST_MEMORY_MIB)
    vcpus: int = integer(1, limits.GUEST_VCPUS)
    disks: tuple[bytes, ...] = several_data(limits.PATH_BYTES, limits.GUEST_DISKS)
    bootloader: str = text(limits.PATH_BYTES)
    bootloader_args: tuple[bytes, ...] = several_data(limits.PROGRAM_ARGUMENT_BYTES, limits.PROGRAM_ARGUMENTS)
    entry: bytes | None = optional_data(limits.TITLE_BYTES)
    args: bytes | None = optional_data(limits.CMDLINE_BYTES)
    kernel: bytes | None = optional_data(limits.PATH_BYTES)
    ramdisk: bytes | None = optional_data(limits.PATH_BYTES)
    offset: int = integer(-1, _SIZE)
    on_poweroff: Action = choice(Action)
    on_reboot: Action = choice(Action)
    on_crash: Action = choice(Action)
    menu: bool = boolean()
    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)

    def fd_count(self) -> int:
        """The disk to boot from, and all disks."""
        return 1 + len(self.disks)


class List(ControlMessage, name="list"):
    """Tell all operations. Before the last: an `operation` for each. Last: `end`.

    `finished` includes those that are over.
    """

    finished: bool = boolean()


class Show(AboutOperation, name="show"):
    """Tell one operation. Before the last: its `operation`, then the `step`s it took. Last: `end`."""


class Wait(AboutOperation, name="wait"):
    """Wait until an operation is over.

    Last: `completed` or `inspected` as its own client gets it, `guest-ended`, or its `error`.
    """


class Cancel(AboutOperation, name="cancel"):
    """Have an operation end. Last: `end`, at once; whoever waits for the operation is told when it has ended."""


class Attach(AboutOperation, name="attach"):
    """See an operation's console and type on it. Before the last: `attached`, `console-output`s. Last: `end`.

    Output begins with what was shown before, up to limits.CONSOLE_REPLAY_BYTES.
    """


class Keys(ControlMessage, name="console-keys"):
    """Keys for the console of the `attach` with this number. No answer."""

    content: bytes = data(limits.CONSOLE_KEYS_BYTES)


class Resize(ControlMessage, name="console-size"):
    """The size of what shows the console of the `attach` with this number, in characters. No answer.

    The console gets as many columns and rows as everybody has who looks on and said so.
    """

    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)


class Log(AboutOperation, name="log"):
    """Give an operation's console log. Last: `log-file`."""


class Watch(ControlMessage, name="watch"):
    """Tell all operations, and from then on each change. Before the last: `operation`s, one `watching`, `operation`s.

    Last: `end`, after a `stop`. A client that reads slowly is told of an operation's latest state, not of each.
    """


class Stop(ControlMessage, name="stop"):
    """End the `attach`, `watch` or `wait` with the number `target`, which gets its `end` first. Last: `end`."""

    target: int = integer(1, _REQUEST)


class Metrics(ControlMessage, name="metrics"):
    """Give the counters in OpenMetrics form. Last: `metrics-text`."""


class Reload(ControlMessage, name="reload"):
    """Read the settings again. Last: `end`, or `error` where they cannot be used; then the old ones stay."""


# --- what the daemon sends --------------------------------------------------------------------------------------


class Welcome(ControlMessage, name="welcome"):
    """The answer to `hello`: the version to speak, the daemon's name and version, what the client may do."""

    version: int = integer(1, 65_535)
    server: str = text(_NAME)
    role: Role = choice(Role)


class CallFailed(ControlMessage, name="error"):
    """A request's last message where it failed; `request` 0 where the daemon closes the connection after it.

    `code`, `exit_code` and the texts are those of protocol/errors.
    """

    request: int = integer(0, _REQUEST)
    code: str = text(_NAME)
    exit_code: int = integer(1, 255)
    sentence: str = text(limits.TEXT_BYTES)
    advice: str = text(limits.TEXT_BYTES)
    operation: str = text(_NAME)
    helper: str = text(_NAME)


class End(ControlMessage, name="end"):
    """The last message of a request that was done and has nothing more to say."""


class Started(ControlMessage, name="started"):
    """The operation exists; `operation` is its id."""

    operation: str = text(_NAME)


class Step(ControlMessage, name="step"):
    """The operation begins `step`, `milliseconds` after it was asked for. `sequence` counts from 1."""

    operation: str = text(_NAME)
    sequence: int = integer(1, _SIZE)
    step: str = text(_NAME)
    milliseconds: int = integer(0, _SIZE)


class Completed(ControlMessage, name="completed"):
    """What boots. Fds, where `files`: kernel, and ramdisk where `ramdisk_bytes` is not 0: sealed memfds.

    Hashes are SHA-256 in hexadecimal. `files` is false for who may know the result and not have it.
    """

    operation: str = text(_NAME)
    title: bytes = data(limits.TITLE_BYTES)
    args: bytes = data(limits.CMDLINE_BYTES)
    source: str = text(2 * limits.PATH_BYTES)
    kernel_bytes: int = integer(1, _SIZE)
    kernel_sha256: str = text(_NAME)
    ramdisk_bytes: int = integer(0, _SIZE)
    ramdisk_sha256: str = text(_NAME)
    files: bool = boolean()

    def fd_count(self) -> int:
        """Kernel, ramdisk."""
        return (1 + (self.ramdisk_bytes > 0)) if self.files else 0


class DiskInspected(ControlMessage, name="inspected"):
    """What a disk holds. Fds, where `files`: a sealed memfd with the object of ``domward inspect --json``."""

    operation: str = text(_NAME)
    entries: int = integer(0, limits.ENTRIES)
    files: bool = boolean()

    def fd_count(self) -> int:
        """The object."""
        return int(self.files)


class Created(ControlMessage, name="created"):
    """The guest runs. `domid` is its domain's number, -1 where it has none."""

    operation: str = text(_NAME)
    label: str = text(limits.GUEST_NAME_BYTES)
    uuid: str = text(_NAME)
    domid: int = integer(-1, 32_767)


class GuestEnded(ControlMessage, name="guest-ended"):
    """A guest ended by itself, and is gone: how, and how often it was started."""

    operation: str = text(_NAME)
    label: str = text(limits.GUEST_NAME_BYTES)
    death: Death = choice(Death)
    starts: int = integer(1, _SIZE)


class OperationInfo(ControlMessage, name="operation"):
    """One operation as it is now. Times are milliseconds since 1970-01-01 UTC, 0 where it is not there yet.

    `outcome` is "" until it is over, then "done" or an error's code, with its `sentence`. `pid` is its client's.
    """

    operation: str = text(_NAME)
    kind: str = text(_NAME)
    label: str = text(limits.LABEL_BYTES)
    uid: int = integer(0, _ID)
    pid: int = integer(0, _ID)
    state: State = choice(State)
    step: str = text(_NAME)
    submitted: int = integer(0, _SIZE)
    started: int = integer(0, _SIZE)
    ended: int = integer(0, _SIZE)
    outcome: str = text(_NAME)
    sentence: str = text(limits.TEXT_BYTES)
    console: bool = boolean()
    viewers: int = integer(0, limits.CONSOLE_VIEWERS)
    detached: bool = boolean()


class Attached(ControlMessage, name="attached"):
    """The console's size in characters."""

    operation: str = text(_NAME)
    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)


class Output(ControlMessage, name="console-output"):
    """What the console showed, made safe for a terminal.

    `skipped` bytes before it are left out: this viewer read too slowly, or attached after they had been let go.
    """

    content: bytes = data(limits.CONSOLE_MESSAGE_BYTES)
    skipped: int = integer(0, _SIZE)


class LogFile(ControlMessage, name="log-file"):
    """A console log. Fds: the file, for reading: every byte as it came, so not for a terminal."""

    operation: str = text(_NAME)

    def fd_count(self) -> int:
        """The file."""
        return 1


class Watching(ControlMessage, name="watching"):
    """All operations that there were have been told; from now on each change."""


class MetricsText(ControlMessage, name="metrics-text"):
    """The counters, as the OpenMetrics text format 1.0 has them."""

    content: str = text(limits.MESSAGE_BYTES - limits.KIB)


#: What a client may send once it has said hello.
REQUESTS: tuple[type[ControlMessage], ...] = (
    Hello, Run, Inspect, Create, List, Show, Wait, Cancel, Attach, Keys, Resize, Log, Watch, Stop, Metrics, Reload,
)  # fmt: skip

#: What the daemon sends.
ANSWERS: tuple[type[ControlMessage], ...] = (
    Welcome, CallFailed, End, Started, Step, Completed, DiskInspected, Created, GuestEnded, OperationInfo, Attached,
    Output, LogFile, Watching, MetricsText,
)  # fmt: skip

#: What belongs to a request that is under way, and gets no answer.
UNANSWERED: frozenset[type[ControlMessage]] = frozenset({Keys, Resize})

#: The messages after which nothing more comes for a request.
LAST: frozenset[type[ControlMessage]] = frozenset(
    {Welcome, CallFailed, End, Completed, DiskInspected, Created, GuestEnded, LogFile, MetricsText}
)
