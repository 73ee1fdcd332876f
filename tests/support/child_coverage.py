# SPDX-License-Identifier: GPL-3.0-or-later
"""Coverage of launchers and helpers: processes that take nothing from the environment and cannot open a file.

`installed(folder)` puts a .pth file into this interpreter's site-packages while tests run; through it every launcher
calls `start(folder)` before its own first line. That measures into memory shared with a file of `folder`: the mapping
outlives the closing of all fds, the empty root and the seccomp filter, and is written to without a system call. A
helper leaves what it ran there as it ends. `collected(folder)` gives it all as coverage's data.

Nothing of this is in the program, and nothing of it happens unless coverage is being measured. Each launcher has room
for its first SLOTS - 1 helpers; those after them are not measured, nor is a process that is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import secrets
import struct
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage

SLOTS, SLOT_BYTES = 64, 256 * 1024
LENGTH = struct.Struct("I")
_measured: list[str] = []
PTH = (
    "import sys; exec(\"if sys.orig_argv[-1].endswith('/helpers/start_launcher.py'):\\n sys.path.append({tests!r})\\n"
    ' from support import child_coverage\\n sys.path.pop()\\n child_coverage.start({folder!r})")\n'
)


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Has launchers that start meanwhile measured. A measured run within a measured run has a file of its own."""
    pth = Path(sysconfig.get_path("purelib")) / f"domward_child_coverage_{secrets.token_hex(8)}.pth"
    pth.write_text(PTH.format(tests=str(Path(__file__).parents[1]), folder=str(folder)))
    try:
        yield
    finally:
        pth.unlink()


def start(folder: str) -> None:
    """Runs in a launcher: measures it and the helpers that it forks. A .pth file may be run twice; this acts once."""
    if _measured:
        return
    _measured.append(folder)
    with Path(folder, f"{os.getpid()}.map").open("w+b") as file:
        file.truncate(SLOTS * SLOT_BYTES)
        shared = mmap.mmap(file.fileno(), SLOTS * SLOT_BYTES)
    measuring = coverage.Coverage(data_file=None, config_file=False, branch=True, source_pkgs=["domward"])
    measuring.start()
    # There is no public way to the collected arcs but through a data base, which a confined helper cannot open.
    collector: Any = measuring._collector
    launcher_ran: dict[str, frozenset[int]] = {}
    forks, slot = 0, 0  # slot 0 is the launcher's own

    def leave_behind() -> None:
        known = launcher_ran if slot else {}
        arcs = {name: list(ran - known.get(name, frozenset())) for name, ran in collector.data.items()}
        packed = zlib.compress(json.dumps(arcs).encode())
        if slot < SLOTS and len(packed) <= SLOT_BYTES - LENGTH.size:
            at = slot * SLOT_BYTES
            shared[at : at + LENGTH.size + len(packed)] = LENGTH.pack(len(packed)) + packed

    def before_fork() -> None:
        nonlocal forks
        if forks == 0:
            leave_behind()
            launcher_ran.update((name, frozenset(ran)) for name, ran in collector.data.items())
            # Whether a file is measured is found out with lstat, which a helper may not call: so for all files now.
            for module in [*sys.modules.values()]:
                name = getattr(module, "__file__", None)
                if name and name not in collector.should_trace_cache:
                    collector.should_trace_cache[name] = measuring._should_trace(name, None)  # type: ignore[arg-type]
        forks += 1

    def in_helper() -> None:
        nonlocal slot
        slot = forks

    def at_end(code: int) -> None:
        try:
            leave_behind()
        finally:  # out of memory, say: the end is the end all the same
            really_exit(code)

    really_exit = os._exit
    os._exit = at_end  # type: ignore[assignment]  # it never returns, as the real one
    os.register_at_fork(before=before_fork, after_in_child=in_helper)
    atexit.register(leave_behind)


def collected(folder: Path, data_file: Path) -> None:
    """Writes all that launchers and helpers ran to `data_file`, for `coverage combine`."""
    data = coverage.CoverageData(basename=str(data_file))
    for path in sorted(folder.glob("*.map")):
        content = path.read_bytes()
        for at in range(0, len(content), SLOT_BYTES):
            (length,) = LENGTH.unpack_from(content, at)
            if length:
                packed = content[at + LENGTH.size : at + LENGTH.size + length]
                arcs = json.loads(zlib.decompress(packed))
                data.add_arcs({name: [_arc(number) for number in numbers] for name, numbers in arcs.items()})
    data.write()


def _arc(packed: int) -> tuple[int, int]:
    """Two line numbers from one number, as coverage's C tracer packs them: 28 bits each, then their signs."""
    first, second = packed & 0xFFFFFFF, packed >> 28 & 0xFFFFFFF
    return (-first if packed & 1 << 56 else first, -second if packed & 1 << 57 else second)
