# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: a daemon to which a control group is delegated, with the controllers of memory and processes.

The first argument names the file for what happened, as JSON; the second is a guest's disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TREE = Path("/sys/fs/cgroup")
GROUP = TREE / "domwardd"
WORK = Path("/var/tmp/groups")
SECONDS = 240  # software emulation on a busy machine
FILES = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
SETTINGS = """
[control]
operator_group = "operator"
auditor_group = "adm"
[budgets]
kernel_bytes = 16777216
ramdisk_bytes = 67108864
helper_address_space = 134217728
"""
# More than all may have together, and each less than one may.
EATER = """#!/usr/bin/python3
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = b"x" * (80 << 20)
        time.sleep(600)
time.sleep(600)
"""


def until(condition: Any) -> Any:
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)
    return found


def bounds() -> dict[str, str]:
    """What the one operation's group is bounded by, once it has a process."""
    for group in GROUP.glob("domward-*"):
        if (group / "cgroup.procs").read_text():
            return {name: (group / name).read_text().strip() for name in FILES if (group / name).exists()}
    return {}


def main(result: str, disk: str) -> None:
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", TREE], check=True)
    (TREE / "cgroup.subtree_control").write_text("+memory +pids")
    GROUP.mkdir()
    os.setxattr(GROUP, "trusted.delegate", b"1")
    WORK.mkdir()
    (WORK / "domward.toml").write_text(SETTINGS)
    (WORK / "eater").write_text(EATER)
    (WORK / "eater").chmod(0o755)
    enter = f'echo 0 >{GROUP}/cgroup.procs; exec domwardd --config "$0"'
    with subprocess.Popen(["sh", "-c", enter, WORK / "domward.toml"]) as daemon:
        until(lambda: "no daemon" not in run("list")["said"] and run("list")["code"] == 0)
        command = ["domward", "run", "--daemon", "--bootloader", WORK / "eater", disk]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as eating:
            found: dict[str, Any] = {"bounds": until(bounds)}
            said = eating.communicate(timeout=SECONDS)[1]
        found["eater"] = {"code": eating.returncode, "said": said}
        found["after"] = run("run", "--daemon", disk)
        found["left"] = [group.name for group in GROUP.glob("domward-*")]
        found["handed on"] = (GROUP / "cgroup.subtree_control").read_text().split()
        daemon.terminate()
    (GROUP / "supervisor").rmdir()
    GROUP.rmdir()
    (TREE / "cgroup.subtree_control").write_text("-memory -pids")
    subprocess.run(["umount", TREE], check=True)
    Path(result).write_text(json.dumps(found))


def run(*words: str) -> dict[str, Any]:
    done = subprocess.run(["domward", *words], capture_output=True, text=True, check=False, timeout=SECONDS)
    return {"code": done.returncode, "said": done.stderr}


if __name__ == "__main__":
    main(*sys.argv[1:])
