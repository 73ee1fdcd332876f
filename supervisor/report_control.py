# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands that go through the daemon print: text for people, one object for programs."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Iterator
from typing import Any

from domward.protocol import limits
from domward.protocol.control import Created, GuestEnded, OperationInfo, Step
from domward.protocol.errors import printable
from domward.protocol.messages import EntryFound, VolumeFound
from domward.protocol.text import encoded

from .bootloader import InspectResult

_COLUMNS = ("OPERATION", "STATE", "STEP", "USER", "SINCE", "SECONDS", "OUTCOME", "LABEL")


def table(found: Iterable[OperationInfo]) -> Iterator[str]:
    """The lines of `domward list`: a heading, and one line an operation."""
    rows = [_COLUMNS, *(_row(info) for info in found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def line(info: OperationInfo) -> str:
    """One line of `domward watch` where it is read by a program: the same columns, one space apart, "-" for nothing."""
    return " ".join(cell.replace(" ", "_") or "-" for cell in _row(info)[:-1]) + f" {_row(info)[-1] or '-'}"


def _row(info: OperationInfo) -> tuple[str, ...]:
    return (
        printable(info.operation),
        info.state.value,
        printable(info.step),
        _user(info.uid),
        _clock(info.submitted),
        f"{_seconds(info):.1f}",
        printable(info.outcome),
        printable(info.label),
    )


def _user(uid: int) -> str:
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _clock(milliseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000)) if milliseconds else "-"


def _seconds(info: OperationInfo) -> float:
    """How long it has been there, or was."""
    return max(0, (info.ended or time.time_ns() // 1_000_000) - info.submitted) / 1000


def show_text(info: OperationInfo, steps: Iterable[Step]) -> Iterator[str]:
    """The lines of `domward show`."""
    yield f"operation  {printable(info.operation)}"
    yield f"kind       {printable(info.kind)}"
    if info.label:
        yield f"label      {printable(info.label)}"
    yield f"user       {_user(info.uid)}, process {info.pid}"
    yield f"state      {info.state.value}" + (f": {printable(info.outcome)}" if info.outcome else "")
    if info.sentence:
        yield f"reason     {printable(info.sentence)}"
    yield f"submitted  {_clock(info.submitted)}"
    yield f"seconds    {_seconds(info):.3f}"
    if info.console:
        yield f"console    {info.viewers} look at it"
    for step in steps:
        yield f"step       {step.milliseconds / 1000:.3f} {printable(step.step)}"


def operation_json(info: OperationInfo) -> dict[str, Any]:
    """One operation of `domward list --json`: the fields of the message, its request's number aside."""
    found = {key: getattr(info, key) for key in info.FIELDS if key != "request"}
    return found | {"state": info.state.value}


def show_json(info: OperationInfo, steps: Iterable[Step]) -> dict[str, Any]:
    """The object of `domward show --json`."""
    return operation_json(info) | {"steps": [{"step": step.step, "milliseconds": step.milliseconds} for step in steps]}


def inspection_of(found: dict[str, Any]) -> InspectResult:
    """What an object of `domward inspect --json` says, for the lines of `domward inspect`."""
    entries = tuple(
        EntryFound(
            index=entry["index"],
            title=encoded(entry["title"]),
            submenus=tuple(encoded(title) for title in entry["submenus"]),
            identifier=encoded(entry["id"]),
            kernel=encoded(entry["kernel"] or ""),
            kernel_bytes=entry["kernel_bytes"],
            initrds=tuple(encoded(path) for path in entry["initrds"]),
            ramdisk_bytes=entry["ramdisk_bytes"],
            args=encoded(entry["args"]),
            problem=entry["problem"] or "",
        )
        for entry in found["entries"]
    )
    volumes = tuple(VolumeFound(**volume | {"label": encoded(volume["label"])}) for volume in found["volumes"])
    return InspectResult(
        operation=found["operation"],
        image_format=found["format"],
        volumes=volumes,
        remarks=tuple(found["remarks"]),
        entries=entries,
        default=len(entries) if found["default"] is None else found["default"],
        source=found["source"],
        reason=found["reason"] or "",
        problem=found["problem"] or "",
    )


def created_json(created: Created) -> dict[str, Any]:
    """The object of `domward create --json`."""
    return {
        "operation": created.operation,
        "name": created.label,
        "uuid": created.uuid,
        "domid": None if created.domid < 0 else created.domid,
    }


def ended_json(ended: GuestEnded) -> dict[str, Any]:
    """The object of `domward wait --json` for a guest."""
    return {
        "operation": ended.operation,
        "name": ended.label,
        "death": ended.death.value,
        "starts": ended.starts,
    }


def fitting_label(text: str) -> str:
    """`text` as a label: what of it is printable, and no longer than a label may be."""
    return printable(os.fsencode(text))[: limits.LABEL_BYTES]
