# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands print: text for people, one object for programs (`--json`; the keys are in the man page).

Guest text is made printable for people. In JSON it is decoded as UTF-8, with bytes that are none as \\udcXX.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from domward.protocol import limits
from domward.protocol.errors import DomwardError, printable
from domward.protocol.messages import EntryFound
from domward.protocol.text import decoded

from .bootloader import BootResult, InspectResult
from .delivery import Delivered
from .doctor import Diagnosis
from .sinks import SealedFile


def to_json(value: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def error_json(error: DomwardError) -> dict[str, Any]:
    """The object of a command that failed."""
    return {
        "error": {
            "code": error.code,
            "exit_code": error.exit_code,
            "sentence": error.sentence,
            "advice": error.advice,
            "operation": error.operation,
            "helper": error.helper,
        }
    }


def run_json(result: BootResult, delivered: Delivered | None) -> dict[str, Any]:
    """The object of `domward run`."""
    return {
        "operation": result.operation,
        "title": decoded(result.title),
        "args": decoded(result.args),
        "source": result.source,
        "kernel": _file_json(result.kernel, delivered.kernel if delivered else None),
        "ramdisk": _file_json(result.ramdisk, delivered.ramdisk if delivered else None) if result.ramdisk else None,
        "log": None if result.log_path is None else str(result.log_path),
        "helpers": [
            {
                "pid": helper.pid,
                "uid": helper.uid,
                "layers": [layer.value for layer in helper.layers],
                "verified": [layer.value for layer in helper.seen],
            }
            for helper in result.helpers
        ],
    }


def run_text(result: BootResult, delivered: Delivered | None) -> Iterator[str]:
    """The lines of `domward run`."""
    if result.title:  # a bootloader program does not say which entry it took
        yield f"entry    {printable(result.title)}"
    yield f"kernel   {_file_text(result.kernel)}"
    yield f"ramdisk  {_file_text(result.ramdisk) if result.ramdisk else 'none'}"
    yield f"args     {printable(result.args)}"
    if result.log_path is not None:
        yield f"log      {printable(str(result.log_path))}"
    if delivered is not None:
        yield f"written  {printable(str(delivered.kernel.parent))}"


def inspect_json(result: InspectResult) -> dict[str, Any]:
    """The object of `domward inspect`."""
    return {
        "operation": result.operation,
        "format": result.image_format,
        "volumes": [
            {
                "index": volume.index,
                "scheme": volume.scheme,
                "offset": volume.offset,
                "size": volume.size,
                "filesystem": volume.filesystem,
                "uuid": volume.uuid,
                "label": decoded(volume.label),
            }
            for volume in result.volumes
        ],
        "remarks": list(result.remarks),
        "source": result.source,
        "default": result.default if result.default < len(result.entries) else None,
        "entries": [
            {
                "index": entry.index,
                "title": decoded(entry.title),
                "submenus": [decoded(title) for title in entry.submenus],
                "id": decoded(entry.identifier),
                "kernel": decoded(entry.kernel) if entry.kernel else None,
                "kernel_bytes": entry.kernel_bytes,
                "initrds": [decoded(path) for path in entry.initrds],
                "ramdisk_bytes": entry.ramdisk_bytes,
                "args": decoded(entry.args),
                "problem": entry.problem or None,
            }
            for entry in result.entries
        ],
        "reason": result.reason or None,
        "problem": result.problem or None,
    }


def inspect_text(result: InspectResult) -> Iterator[str]:
    """The lines of `domward inspect`."""
    yield f"image    {printable(result.image_format)}"
    for volume in result.volumes:
        name = f"{printable(volume.scheme)} {volume.index}" if volume.index else "whole disk"
        label = f" label {printable(volume.label)}" if volume.label else ""
        kind, uuid = printable(volume.filesystem), printable(volume.uuid)
        yield f"volume   {name}: {kind}, {_size(volume.size)}, uuid {uuid}{label}"
    for remark in result.remarks:
        yield f"note     {printable(remark)}"
    if result.source:
        yield f"config   {printable(result.source)}"
    for entry in result.entries:
        yield from _entry_text(entry, default=entry.index == result.default)
    if result.problem:
        yield f"problem  {printable(result.problem)}"


def _entry_text(entry: EntryFound, *, default: bool) -> Iterator[str]:
    title = printable(b" > ".join((*entry.submenus, entry.title)))
    yield f"entry {entry.index}{' (default)' if default else ''}: {title}"
    if entry.problem:
        yield f"         cannot boot: {printable(entry.problem)}"
        return
    yield f"         kernel {printable(entry.kernel)}, {_size(entry.kernel_bytes)}"
    if entry.initrds:
        names = " ".join(printable(path) for path in entry.initrds)
        yield f"         ramdisk {names}, {_size(entry.ramdisk_bytes)}"
    yield f"         args {printable(entry.args)}"


def doctor_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """The object of `domward doctor`."""
    return {
        "usable": diagnosis.usable,
        "kernel": diagnosis.kernel,
        "machine": diagnosis.machine,
        "layers": [
            {
                "layer": layer.layer.value,
                "state": layer.state,
                "needed": layer.needed,
                "lost_without": layer.lost,
            }
            for layer in diagnosis.layers
        ],
        "processes": [
            {
                "process": process.name,
                "state": process.state,
                "capabilities": list(process.capabilities),
                "no_new_privs": process.no_new_privs,
                "calls_refused": process.refused,
            }
            for process in diagnosis.processes
        ],
        "features": [
            {"feature": feature.name, "present": feature.present, "without": feature.without}
            for feature in diagnosis.features
        ],
        "helpers": list(diagnosis.helpers),
        "problem": error_json(diagnosis.problem)["error"] if diagnosis.problem else None,
        "config": diagnosis.config.completed(),
    }


def doctor_text(diagnosis: Diagnosis) -> Iterator[str]:
    """The lines of `domward doctor`."""
    yield f"Linux {printable(diagnosis.kernel)} on {printable(diagnosis.machine)}"
    for layer in diagnosis.layers:
        missing = f"  without it, {layer.lost}" if layer.state == "missing" else ""
        yield f"{layer.layer.value:20} {layer.state}{missing}"
    for process in diagnosis.processes:
        held = ": " + (" ".join(process.capabilities) or "no capabilities") if process.state != "unknown" else ""
        yield f"{process.name:20} {process.state}{held}"
    for feature in diagnosis.features:
        yield f"{feature.name:20} {'present' if feature.present else f'absent: {feature.without}'}"
    if diagnosis.problem is not None:
        yield f"problem: {diagnosis.problem}"
    yield "This host can confine helpers." if diagnosis.usable else "This host cannot confine helpers as configured."


def _file_json(file: SealedFile, path: object) -> dict[str, Any]:
    return {"path": None if path is None else str(path), "size": file.size, "sha256": file.sha256}


def _file_text(file: SealedFile) -> str:
    return f"{_size(file.size)}, sha256 {file.sha256}"


def _size(count: int) -> str:
    for unit, name in ((limits.GIB, "GiB"), (limits.MIB, "MiB"), (limits.KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
