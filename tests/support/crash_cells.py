# SPDX-License-Identifier: GPL-3.0-or-later
"""The cells of the crash matrix: at one moment of a life, one thing is done to one participant.

======================  ======================================================================================
helper, launcher: kill  SIGKILL
helper, launcher: stop  SIGSTOP, for good: what it should have done never comes
client: cancel          the task that awaits the result is cancelled
operation: cancel       `Operation.cancel`, as another waiter or the supervisor's end does it
======================  ======================================================================================

A helper takes part from "made" to "dead". Cells are made from the moments that an undisturbed life was seen to have.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domward.protocol.errors import DomwardError, HelperDied, OperationCancelled, OperationTimedOut, ProtocolViolation
from domward.protocol.messages import HelperKind
from domward.supervisor import Config, Supervisor
from support.crash_points import Life, Variant
from support.leaks import let_closings_end

STOPPED_SECONDS = 0.3  # from a stop to the time-out, which is what then comes
HASH_THREADS = "domward-hash"  # two at most, made when first needed
HANG_SECONDS = 60.0  # a cell that takes longer has missed every deadline there is
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux

CONDITIONS = [
    (participant, action)
    for participant in (*(kind.value for kind in HelperKind), "launcher")
    for action in ("kill", "stop")
] + [("client", "cancel"), ("operation", "cancel")]


@dataclass(frozen=True)
class Cell:
    variant: str
    moment: str
    participant: str
    action: str

    def __str__(self) -> str:
        return f"{self.variant} | {self.moment} | {self.action} {self.participant}"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: `ending` is the result or the error of the operation; `wrong` says what is not as it must."""

    cell: Cell
    ending: object
    wrong: str

    @property
    def name(self) -> str:
        return type(self.ending).__name__

    def __str__(self) -> str:
        return f"{self.cell}: {self.name}{f' ({self.ending})' if isinstance(self.ending, Exception) else ''}"


def cells_of(variant: Variant, moments: Sequence[str], own: Sequence[str], participant: str, action: str) -> list[Cell]:
    """One for each of `moments` that is among `own` and at which `participant` takes part."""
    if participant in {kind.value for kind in HelperKind}:
        made, dead = f"{participant} made", f"{participant} dead"
        if made not in moments:
            return []
        moments = moments[moments.index(made) : moments.index(dead)]
    return [Cell(variant.name, moment, participant, action) for moment in moments if moment in own]


async def run(supervisor: Supervisor, variant: Variant, cell: Cell, undisturbed: object, folder: Path) -> Outcome:
    """Lives through one cell; what the operation gives is closed."""
    life = Life(cell.moment, lambda now: _act(supervisor, now, cell))
    async with asyncio.timeout(HANG_SECONDS):
        with variant.operation(supervisor, folder) as operation:
            caller = asyncio.create_task(life.live(operation))
            await asyncio.wait([caller])
            cancelled = caller.cancelled()
            if not cancelled:
                caller.exception()  # looked at: it is the operation's
            (ending,) = await asyncio.gather(operation.wait(), return_exceptions=True)
    if hasattr(ending, "close"):
        ending.close()
    if cell.participant == "launcher":
        await _settle(supervisor, cell)
    return Outcome(cell, ending, _wrong(life, cell, cancelled, ending, undisturbed))


def _act(supervisor: Supervisor, life: Life, cell: Cell) -> None:
    if cell.participant == "client":
        life.caller.cancel()
    elif cell.participant == "operation":
        life.operation.cancel()
    else:
        number = signal.SIGKILL
        if cell.action == "stop":
            number = signal.SIGSTOP
            life.hasten(STOPPED_SECONDS)
        if cell.participant == "launcher":
            _signal_launcher(supervisor, number)
        else:
            life.helpers[HelperKind(cell.participant)].child.send_signal(number)


def _signal_launcher(supervisor: Supervisor, number: int) -> None:
    if supervisor._launcher is not None and supervisor._launcher.child is not None:
        supervisor._launcher.child.send_signal(number)


async def _settle(supervisor: Supervisor, cell: Cell) -> None:
    """A killed launcher's death is seen, so that what begins is none that it meets; a stopped one goes on."""
    launcher = supervisor._launcher
    assert launcher is not None
    assert launcher.child is not None
    if cell.action == "kill":
        await asyncio.wait([launcher.child.death], timeout=HANG_SECONDS)
    else:
        launcher.child.send_signal(signal.SIGCONT)


def _wrong(life: Life, cell: Cell, cancelled: bool, ending: object, undisturbed: object) -> str:
    if cell.moment not in life.seen:
        return f"never came to the moment; it saw {life.seen}"
    if life.completions != 1:
        return f"{life.completions} completions"
    if life.late_progress:
        return f"progress after the end: {life.late_progress}"
    if cancelled != (cell.participant == "client"):
        return "its caller was cancelled" if cancelled else "its caller was not cancelled"
    as_ever = type(ending) is type(undisturbed)
    if as_ever or isinstance(ending, _ALLOWED[cell.action]):
        if isinstance(ending, DomwardError) and ending.operation != life.operation.id:
            return "an error that does not name its operation"
        return ""
    return "not an ending that this can have"


#: The endings besides the undisturbed one. A helper that is stopped after its answer is one that does not end.
_ALLOWED: dict[str, tuple[type[DomwardError], ...]] = {
    "kill": (HelperDied,),
    "stop": (OperationTimedOut, HelperDied, ProtocolViolation),
    "cancel": (OperationCancelled,),
}


async def surroundings() -> dict[str, Any]:
    """What this process has, by kind and not by number, once the threads that open and close are done."""
    let_closings_end()
    await asyncio.sleep(0)
    fds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            fds[re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{number}"))] += 1
        except FileNotFoundError:  # the listing's own
            continue
    return {
        "fds": fds,
        "children": len(children()),
        "threads": sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith(HASH_THREADS)),
    }


def children() -> list[int]:
    """The children of this process, zombies included."""
    found: list[int] = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
            found += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
    return found


def lease_taken(config: Config) -> bool:
    """Whether any uid is leased by anybody, as the kernel knows it."""
    number = os.open(config.state_directory / "uid-leases", os.O_RDWR | os.O_CLOEXEC)
    try:
        answer = fcntl.fcntl(number, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    finally:
        os.close(number)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def table(outcomes: Sequence[Outcome]) -> str:
    """How many cells ended how."""
    rows = Counter(
        (outcome.cell.variant, f"{outcome.cell.action} {outcome.cell.participant}", outcome.name)
        for outcome in outcomes
    )
    return "\n".join(
        f"{count:5} {variant:45} {what:18} {name}" for (variant, what, name), count in sorted(rows.items())
    )
