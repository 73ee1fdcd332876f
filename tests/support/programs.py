# SPDX-License-Identifier: GPL-3.0-or-later
"""Bootloader programs for tests, and the words that a shell script needs to be one."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domward.protocol.errors import DomwardError
from domward.protocol.fds import Fd
from domward.supervisor import BootRequest, Config, Supervisor

# Finds $output, $dir and $disk among a bootloader's words, as libxl gives them.
WORDS = """
for word; do
  case "$word" in
    --output=*) output=${word#*=} ;;
    --output-directory=*) dir=${word#*=} ;;
  esac
  disk=$word
done
"""
# Copies the first 4096 bytes of the disk as the kernel, and the next as the ramdisk.
DELIVERS = """
dd if="$disk" of="$dir/kernel" bs=4096 count=1 2>/dev/null
dd if="$disk" of="$dir/ramdisk" bs=4096 skip=1 count=1 2>/dev/null
printf 'kernel %s\\0ramdisk %s\\0args from a script\\0\\0' "$dir/kernel" "$dir/ramdisk" > "$output"
"""


def script(path: Path, text: str) -> Path:
    """A shell script at `path` that finds its words and then does `text`."""
    path.write_text(f"#!/bin/sh\n{WORDS}{text}\n")
    path.chmod(0o755)
    return path


_REPORTS = """#!/usr/bin/python3
import ctypes, errno, fcntl, json, os, signal, socket, stat, subprocess, sys, termios, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith("--output"))
output, folder, disk = words["--output"], words["--output-directory"], sys.argv[-1]

def error(call, *arguments):
    "The name of the error that a call fails with, or its result."
    try:
        return call(*arguments)
    except OSError as caught:
        return errno.errorcode[caught.errno]

{code}
with open(folder + "/kernel", "w") as file:
    json.dump(found, file)
with open(output, "w") as file:
    file.write("kernel " + folder + "/kernel\\0\\0")
"""


def reporting(path: Path, code: str) -> Path:
    """A Python program at `path` that delivers, as JSON in place of a kernel, what `code` leaves in `found`."""
    path.write_text(_REPORTS.replace("{code}", code))
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Delivered:
    """What a run gave."""

    kernel: bytes
    ramdisk: bytes | None
    args: bytes
    log: bytes

    def report(self) -> Any:
        """What a `reporting` program found."""
        return json.loads(self.kernel)


async def deliver(supervisor: Supervisor, disk: Path | Fd, program: str | Path, **request: Any) -> Delivered:
    """Runs `program` on `disk`."""
    result = await supervisor.run_bootloader(BootRequest(disk=disk, bootloader=program, **request))
    try:
        ramdisk = result.ramdisk and os.pread(result.ramdisk.fd.fileno(), result.ramdisk.size, 0)
        return Delivered(os.pread(result.kernel.fd.fileno(), result.kernel.size, 0), ramdisk, result.args, result.log)
    finally:
        result.close()


def delivered(disk: Path | Fd, program: Path, config: Config | None = None, **request: Any) -> Delivered:
    """The same in a supervisor of its own."""

    async def main() -> Delivered:
        async with Supervisor(config or Config()) as supervisor:
            return await deliver(supervisor, disk, program, **request)

    return asyncio.run(main())


def refused(disk: Path | Fd, program: Path, config: Config | None = None, **request: Any) -> DomwardError:
    """The error that it ends with."""
    try:
        delivered(disk, program, config, **request)
    except DomwardError as error:
        return error
    message = f"{program} delivered"
    raise AssertionError(message)
