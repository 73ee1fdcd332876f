# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: many creates with the real xl, and the time of one with pygrub and with domward-bootloader, in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dom0 import (
    DOMWARD,
    FRONT_END,
    SECONDS,
    WORK,
    check,
    configuration,
    daemon,
    raw,
    run,
    run_checks,
    settled,
    state,
    xl,
)

ONE_AFTER_ANOTHER, AT_ONCE, ROUNDS = 20, 5, 3


def seconds_of(name: str, bootloader: str) -> float:
    """`xl create -p` of the tiny guest; the domain is destroyed afterwards."""
    path = configuration(name, raw("tiny.img"), bootloader=bootloader)
    began = time.monotonic()
    done = xl("create", "-p", path)
    taken = time.monotonic() - began
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    xl("destroy", name)
    return round(taken, 2)


@check
def one_after_another() -> dict[str, Any]:
    """What each left is looked at before the next begins."""
    with daemon():
        before = state()
        left = []
        for number in range(ONE_AFTER_ANOTHER):
            seconds_of(f"turn{number}", FRONT_END)
            left += settled(before)
    return {"created": ONE_AFTER_ANOTHER, "left_after_each": left}


@check
def at_once() -> dict[str, Any]:
    """Their bootloaders' outcomes count: libxl gives its own block scripts 10 seconds, which here may be too few."""
    with daemon():
        before = state()
        names = [f"once{number}" for number in range(AT_ONCE)]
        running = []
        for name in names:
            subprocess.run(["cp", "--sparse=always", WORK / "tiny.img", WORK / f"{name}.img"], check=True)
            path = configuration(name, raw(f"{name}.img"))
            running.append(subprocess.Popen(["xl", "create", "-p", path], stdin=subprocess.DEVNULL))
        began = time.monotonic()
        codes = [process.wait(SECONDS) for process in running]
        taken = time.monotonic() - began
        operations = json.loads(run(DOMWARD, "list", "--all", "--json").stdout)["operations"]
        for name in names:
            xl("destroy", name)
        left = settled(before)
    outcomes = [operation["outcome"] for operation in operations]
    return {"codes": codes, "bootloaders": outcomes, "seconds": round(taken, 1), "left_after": left}


@check
def in_turn() -> dict[str, Any]:
    found: dict[str, list[float]] = {"pygrub": [], "domward-bootloader": [], "domward-bootloader, daemon": []}
    for number in range(ROUNDS):
        found["pygrub"].append(seconds_of(f"peer{number}", "pygrub"))
        found["domward-bootloader"].append(seconds_of(f"alone{number}", FRONT_END))
        with daemon():
            found["domward-bootloader, daemon"].append(seconds_of(f"served{number}", FRONT_END))
    return {"seconds": found}


if __name__ == "__main__":
    run_checks(Path(sys.argv[1]), *sys.argv[2:])
