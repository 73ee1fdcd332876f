# SPDX-License-Identifier: GPL-3.0-or-later
"""What a helper may send, by kind and state: the closed message set of the supervisor's side.

A message that its row does not name, or that comes more often than its row allows, is a protocol violation.
"""

from __future__ import annotations

import enum

from domward.protocol import limits
from domward.protocol.messages import (
    BootRead,
    Confined,
    Copied,
    DiskFailed,
    DiskRemark,
    EntryFound,
    Failed,
    Inspected,
    Log,
    MenuLeft,
    ProgramFailed,
    ProgramRan,
    Progress,
    PtysOpened,
    ReadStep,
    StepFailed,
    VolumeFound,
)
from domward.protocol.schema import Message


class HelperState(enum.Enum):
    """A helper's life, as the supervisor sees it."""

    __hash__ = object.__hash__  # each member is one object; that of Enum is Python code that looks at its name

    STARTING = "starting"  # spawned; its first message is awaited
    IDLE = "idle"  # confined and verified; has no work yet
    OPENING = "opening"  # pty: has its order
    COPYING = "copying"  # datacopier: has its fds
    READING = "reading"  # bootloader: has a disk and sinks
    INSPECTING = "inspecting"  # bootloader: has a disk
    RUNNING = "running"  # program: has sinks and a terminal, and a disk in its root
    ANSWERED = "answered"  # gave its one answer; its end is awaited
    DEAD = "dead"


#: state -> message -> how often it may come in that state.
ALLOWED: dict[HelperState, dict[type[Message], int]] = {
    HelperState.STARTING: {Confined: 1, StepFailed: 1},
    HelperState.IDLE: {},
    HelperState.OPENING: {PtysOpened: 1, Failed: 1, Log: 64},
    HelperState.COPYING: {Copied: 1, Failed: 1, Log: 64},
    HelperState.READING: {
        Progress: len(ReadStep),
        BootRead: 1,
        MenuLeft: 1,
        DiskFailed: 1,
        Failed: 1,
        Log: 1024,
    },
    HelperState.INSPECTING: {
        Progress: len(ReadStep),
        VolumeFound: limits.PARTITIONS + 1,
        DiskRemark: limits.PARTITIONS + 1,
        EntryFound: limits.ENTRIES,
        Inspected: 1,
        DiskFailed: 1,
        Failed: 1,
        Log: 1024,
    },
    HelperState.RUNNING: {ProgramRan: 1, ProgramFailed: 1, Failed: 1, Log: 64},
    HelperState.ANSWERED: {},
    HelperState.DEAD: {},
}

#: Messages after which nothing else may come.
ANSWERS: frozenset[type[Message]] = frozenset(
    {StepFailed, PtysOpened, Copied, BootRead, MenuLeft, DiskFailed, Inspected, ProgramRan, ProgramFailed, Failed}
)
