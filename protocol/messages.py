# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message between supervisor, launcher and helpers, in the order in which a run meets them.

The fds that go with a message are named in its docstring, in order; `fd_count` says how many. Which message may come
in which state is the receiver's table: `supervisor/helper_states` for what helpers send.
"""

from __future__ import annotations

import enum

from . import limits
from .errors import DiskReason, ProgramReason
from .layers import Layer
from .schema import (
    Message,
    boolean,
    choice,
    data,
    integer,
    optional_data,
    optional_text,
    several_choices,
    several_data,
    text,
)

_UID = 2**32 - 2
_SIZE = 2**63 - 1
_PID = 2**22
_ERRNO = 4095
_REQUEST = 2**31 - 1
_NAME = 64


class HelperKind(enum.Enum):
    """The kinds of helper; the value names its module and its seccomp policy."""

    __hash__ = object.__hash__  # each member is one object; that of Enum is Python code that looks at its name

    PTY = "pty"
    DATACOPIER = "datacopier"
    BOOTLOADER = "bootloader"
    PROGRAM = "program"


# --- supervisor and launcher ------------------------------------------------------------------------------------


class LauncherReady(Message, name="launcher-ready"):
    """The launcher has imported everything and confined itself; `missing` are the layers that the kernel lacks."""

    landlock_abi: int = integer(0, 1024)
    missing: tuple[Layer, ...] = several_choices(Layer)


class Spawn(Message, name="spawn"):
    """Start one helper. Fds: the helper's end of its channel and, where it is `grouped`, its control group.

    `without` are layers not to be put on: the kernel lacks them and the configuration allows it.
    `uid` and `gid` are numbers of the configured range, in use by no other live helper.
    """

    request: int = integer(1, _REQUEST)
    kind: HelperKind = choice(HelperKind)
    operation: str = text(_NAME)
    uid: int = integer(1, _UID)
    gid: int = integer(1, _UID)
    address_space: int = integer(limits.MIB, _SIZE)  # bytes
    cpu_seconds: int = integer(1, 86_400)
    file_bytes: int = integer(0, _SIZE)
    without: tuple[Layer, ...] = several_choices(Layer)
    grouped: bool = boolean()

    @property
    def processes(self) -> int:
        """RLIMIT_NPROC: only a bootloader program may start others."""
        return limits.PROGRAM_PROCESSES if self.kind is HelperKind.PROGRAM else 0

    def fd_count(self) -> int:
        """The channel, and the group."""
        return 2 if self.grouped else 1


class HoldUserNamespace(Message, name="hold-user-namespace"):
    """Make a process in a user namespace of its own, which waits until its channel closes. Fds: its end of that."""

    request: int = integer(1, _REQUEST)

    def fd_count(self) -> int:
        """The channel."""
        return 1


class Spawned(Message, name="spawned"):
    """The process exists. Fds: its pidfd. `pid` is in the supervisor's pid namespace where the launcher shares it."""

    request: int = integer(1, _REQUEST)
    pid: int = integer(1, _PID)

    def fd_count(self) -> int:
        """The pidfd."""
        return 1


class SpawnFailed(Message, name="spawn-failed"):
    """No process was made and nothing was left behind."""

    request: int = integer(1, _REQUEST)
    step: str = text(_NAME)
    errno: int = integer(0, _ERRNO)


# --- every helper -----------------------------------------------------------------------------------------------


class Confined(Message, name="confined"):
    """A helper's first message: every layer of `layers` is on. The supervisor checks it from outside."""

    layers: tuple[Layer, ...] = several_choices(Layer)


class StepFailed(Message, name="step-failed"):
    """A helper's first and last message where a step of its confinement failed."""

    step: str = text(_NAME)
    errno: int = integer(0, _ERRNO)


class LogLevel(enum.Enum):
    """How much a log line matters."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"


class Log(Message, name="log"):
    """A line for the log, which the receiver tags, cuts and cleans. May come at any time after `confined`."""

    level: LogLevel = choice(LogLevel)
    line: str = text(limits.TEXT_BYTES)


class Failed(Message, name="failed"):
    """A helper's last message where the host let it down: out of memory, disk full, a failed system call."""

    what: str = text(limits.TEXT_BYTES)
    errno: int = integer(0, _ERRNO)


# --- pty --------------------------------------------------------------------------------------------------------


class OpenPtys(Message, name="open-ptys"):
    """Open `count` ptys of the host's devpts, each in raw mode and of the given size in characters."""

    count: int = integer(1, limits.PTYS)
    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)


class PtysOpened(Message, name="ptys-opened"):
    """All of them, or none. Fds: master and slave of each, in order."""

    count: int = integer(1, limits.PTYS)

    def fd_count(self) -> int:
        """Two a pty."""
        return 2 * self.count


# --- datacopier -------------------------------------------------------------------------------------------------


class CopyFilter(enum.Enum):
    """What happens to bytes on their way to the console. The log always gets them as they came."""

    NONE = "none"
    TERMINAL = "terminal"  # only what draws: printable ASCII, CR LF BS, cursor and erase sequences


class CopyOutcome(enum.Enum):
    """How a relay ended: exactly one of these."""

    EOF = "eof"
    READ_ERROR = "read-error"
    WRITE_ERROR = "write-error"
    HANGUP = "hangup"
    ABORTED = "aborted"
    LIMIT = "limit"


class CopySide(enum.Enum):
    """The side that an outcome concerns."""

    NONE = "none"
    CONSOLE = "console"
    BOOTLOADER = "bootloader"


class Copy(Message, name="copy"):
    """Relay between a bootloader and a console.

    Fds, in order: bootloader in, console out; where `both`, also console in, bootloader out; where `logged`, the log.
    `log_bytes` is the log's cap in bytes; `limit_bytes` ends the relay with `limit` after so many bytes toward the
    console, 0 for never. `prefix` is written to the console (and the log) before anything else.
    """

    both: bool = boolean()
    logged: bool = boolean()
    log_bytes: int = integer(0, _SIZE)
    limit_bytes: int = integer(0, _SIZE)
    prefix: bytes = data(limits.TEXT_BYTES)
    filter: CopyFilter = choice(CopyFilter)

    def fd_count(self) -> int:
        """Two, four with input from the console, one more with a log."""
        return 2 + 2 * self.both + self.logged


class StopCopy(Message, name="stop-copy"):
    """End the relay: write what is buffered if it can be written at once, then report `aborted`."""


class Copied(Message, name="copied"):
    """The relay's end, once. Counts are bytes: toward the console, toward the bootloader, into the log."""

    outcome: CopyOutcome = choice(CopyOutcome)
    side: CopySide = choice(CopySide)
    errno: int = integer(0, _ERRNO)
    to_console: int = integer(0, _SIZE)
    to_bootloader: int = integer(0, _SIZE)
    logged: int = integer(0, _SIZE)
    truncated: bool = boolean()


# --- bootloader -------------------------------------------------------------------------------------------------


class ReadStep(enum.Enum):
    """Where the reader is."""

    IMAGE = "image"
    CONFIGURATION = "configuration"
    MENU = "menu"
    KERNEL = "kernel"
    RAMDISK = "ramdisk"


class ReadBoot(Message, name="read-boot"):
    """Find what boots and copy it out.

    Fds: disk (read-only), kernel sink, ramdisk sink; where `interactive`, a pty slave.

    `entry` is a number, title, id or "submenu>title"; None takes the default. `args` replaces the entry's arguments,
    `extra` is appended to those of every entry. With `kernel`, a path on the disk, that file and `ramdisk` are taken
    instead of an entry's, and nothing of the disk's boot configuration. `offset` is the byte where the one file system
    to look at begins; -1 looks at all partitions. `image_format` is "raw" or "qcow2"; None probes. `menu_timeout` -1
    takes the configuration's own, in seconds, with which a menu of 0 seconds is shown only unless `may_skip_menu`.
    """

    entry: bytes | None = optional_data(limits.TITLE_BYTES)
    args: bytes | None = optional_data(limits.CMDLINE_BYTES)
    extra: bytes | None = optional_data(limits.CMDLINE_BYTES)
    kernel: bytes | None = optional_data(limits.PATH_BYTES)
    ramdisk: bytes | None = optional_data(limits.PATH_BYTES)
    offset: int = integer(-1, _SIZE)
    image_format: str | None = optional_text(_NAME)
    kernel_bytes: int = integer(1, _SIZE)
    ramdisk_bytes: int = integer(1, _SIZE)
    interactive: bool = boolean()
    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)
    menu_timeout: int = integer(-1, 86_400)
    may_skip_menu: bool = boolean()

    def fd_count(self) -> int:
        """Disk and two sinks, one more for a menu."""
        return 3 + self.interactive


class Resize(Message, name="resize"):
    """The menu's terminal has another size now, in characters. Only while the menu is shown."""

    columns: int = integer(1, limits.SCREEN)
    rows: int = integer(1, limits.SCREEN)


class InspectBoot(Message, name="inspect-boot"):
    """Report every volume and every entry, copy nothing. Fds: disk (read-only)."""

    image_format: str | None = optional_text(_NAME)

    def fd_count(self) -> int:
        """The disk."""
        return 1


class Progress(Message, name="progress"):
    """The reader begins `step`."""

    step: ReadStep = choice(ReadStep)


class VolumeFound(Message, name="volume-found"):
    """One volume of an inspected disk whose file system can be read. Offset and size are bytes within the image."""

    index: int = integer(0, _SIZE)
    scheme: str = text(_NAME)
    offset: int = integer(0, _SIZE)
    size: int = integer(0, _SIZE)
    filesystem: str = text(_NAME)
    uuid: str = text(_NAME)
    label: bytes = data(256)


class DiskRemark(Message, name="disk-remark"):
    """Something of an inspected disk that cannot be used, and why, as a sentence."""

    what: str = text(limits.TEXT_BYTES)


class EntryFound(Message, name="entry-found"):
    """One boot entry of an inspected disk. Paths and arguments may be cut to what a message holds."""

    index: int = integer(0, limits.ENTRIES)
    title: bytes = data(limits.TITLE_BYTES)
    submenus: tuple[bytes, ...] = several_data(limits.TITLE_BYTES, limits.SUBMENU_DEPTH)
    identifier: bytes = data(limits.TITLE_BYTES)
    kernel: bytes = data(limits.TITLE_BYTES)
    kernel_bytes: int = integer(0, _SIZE)
    initrds: tuple[bytes, ...] = several_data(limits.TITLE_BYTES, limits.INITRDS)
    ramdisk_bytes: int = integer(0, _SIZE)
    args: bytes = data(limits.TEXT_BYTES)
    problem: str = text(limits.TEXT_BYTES)


class Inspected(Message, name="inspected"):
    """The end of an inspection. `source` names the configuration; `problem` says why there are no entries."""

    image_format: str = text(_NAME)
    volumes: int = integer(0, 4096)
    entries: int = integer(0, limits.ENTRIES)
    default: int = integer(0, limits.ENTRIES)
    source: str = text(2 * limits.PATH_BYTES)
    reason: str = text(_NAME)
    problem: str = text(limits.TEXT_BYTES)


class BootRead(Message, name="boot-read"):
    """The reader's answer: both sinks are complete. `ramdisk_bytes` 0 means that the entry has none."""

    title: bytes = data(limits.TITLE_BYTES)
    args: bytes = data(limits.CMDLINE_BYTES)
    kernel_bytes: int = integer(1, _SIZE)
    ramdisk_bytes: int = integer(0, _SIZE)
    source: str = text(2 * limits.PATH_BYTES)


class DiskFailed(Message, name="disk-failed"):
    """The reader's answer where the disk cannot be used."""

    reason: DiskReason = choice(DiskReason)
    what: str = text(limits.TEXT_BYTES)
    advice: str = text(limits.TEXT_BYTES)


class MenuLeft(Message, name="menu-left"):
    """The reader's answer where the person at the menu left it without a choice."""


# --- program ----------------------------------------------------------------------------------------------------


class RunProgram(Message, name="run-program"):
    """Run a bootloader program as libxl does, and collect what it leaves.

    Fds: kernel sink, ramdisk sink, pty slave. `path` is where the program lies in the helper's own root and `name` its
    argv[0]; it is called with `options`, those that say where its output goes, `arguments`, and the path of the disk.
    """

    path: bytes = data(limits.PATH_BYTES)
    name: bytes = data(limits.PATH_BYTES)
    options: tuple[bytes, ...] = several_data(limits.PROGRAM_ARGUMENT_BYTES + _NAME, limits.PROGRAM_OPTIONS)
    arguments: tuple[bytes, ...] = several_data(limits.PROGRAM_ARGUMENT_BYTES, limits.PROGRAM_ARGUMENTS)
    kernel_bytes: int = integer(1, _SIZE)
    ramdisk_bytes: int = integer(1, _SIZE)

    def fd_count(self) -> int:
        """Two sinks and the terminal."""
        return 3


class ProgramRan(Message, name="program-ran"):
    """The program succeeded, and both sinks are complete. `ramdisk_bytes` 0 means that it left none."""

    args: bytes = data(limits.CMDLINE_BYTES)
    kernel_bytes: int = integer(1, _SIZE)
    ramdisk_bytes: int = integer(0, _SIZE)


class ProgramFailed(Message, name="program-failed"):
    """The program failed, or left nothing that can be used. `status` is its exit code, or minus its signal."""

    reason: ProgramReason = choice(ProgramReason)
    status: int = integer(-64, 255)
    what: str = text(limits.TEXT_BYTES)
