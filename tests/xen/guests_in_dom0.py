# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: guests that `domward create` makes on Xen, and the daemon watches, starts anew and takes away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dom0 import (
    DOMWARD,
    LOGS,
    MARKER,
    SECONDS,
    WORK,
    Terminal,
    check,
    daemon,
    forget_console_log,
    run,
    run_checks,
    settled,
    state,
    until,
    xl,
)

AUDIT_LOG = Path("/var/log/domward/audit.log")
# What is on record, in this order, before it happens, from the wish for a guest to the moment it runs.
RECORDS = ("request", "helper-started", "fds-passed", "result", "guest-build", "guest-unpause")
BACKEND = 'backend = "xen"\n'  # the settings end with [hypervisor]


def configuration(name: str, image: str, memory: int, **settings: object) -> Path:
    forget_console_log(name)
    lines = {
        "name": name,
        "type": "pv",
        "memory": memory,
        "disk": [f"{WORK}/{image},raw,xvda,w"],
        "bootloader_args": ["--quiet"],
    }
    path = WORK / f"{name}.cfg"
    path.write_text("".join(f"{key}={json.dumps(value)}\n" for key, value in (lines | settings).items()))
    return path


def shown(name: str, times: int = 1) -> str:
    """The newest line with the marker on the guest's console, once there are so many."""
    log = LOGS / "console" / f"guest-{name}.log"

    def lines() -> list[str]:
        text = log.read_text(errors="replace") if log.exists() else ""
        found = [MARKER + part.splitlines()[0] for part in text.split(MARKER)[1:] if "\n" in part]
        return found if len(found) >= times else []

    return str(until(f"{MARKER} of {name}", lines)[-1])


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return {"code": done.returncode, "said": done.stdout + done.stderr}


def listed(name: str) -> dict[str, Any]:
    """The guest's operation, as `domward list --json` has it."""
    operations = json.loads(run(DOMWARD, "list", "--json", "--all").stdout)["operations"]
    return next((one for one in operations if one["label"] == name), {})


def domid_of(name: str) -> str:
    return xl("domid", name).stdout.strip()


def halts() -> dict[str, Any]:
    """A guest that switches itself off."""
    found = told(run(DOMWARD, "create", configuration("halts", "tiny.img", 64)))
    if found["code"] == 0:
        found["line"] = shown("halts")
        found["operation"] = until("the guest's end", lambda: ended("halts"))
    return found


def ended(name: str) -> dict[str, Any] | None:
    one = listed(name)
    return one if one.get("outcome") else None


def lives() -> dict[str, Any]:
    """A guest that is looked at, rebooted and destroyed."""
    found = told(run(DOMWARD, "create", configuration("lives", "menu.img", 160)))
    if found["code"]:
        return found
    found["first"] = shown("lives")
    found["operation"] = listed("lives")
    domid = domid_of("lives")
    found["nodes"] = run("xenstore-ls", "-p", f"/local/domain/{domid}/console").stdout
    xl("reboot", "lives")
    found["second"] = shown("lives", 2)
    found["domids"] = [domid, domid_of("lives")]
    terminal = Terminal(DOMWARD, "attach", found["operation"]["operation"])
    try:
        terminal.until(MARKER.encode())
    finally:
        terminal.close()
    found["attached"] = terminal.seen.decode(errors="replace")[-200:]
    found["destroyed"] = told(run(DOMWARD, "destroy", "lives"))
    found["after"] = domid_of("lives")
    return found


def fails() -> dict[str, Any]:
    """xl cannot build it: the host has not that much memory."""
    return told(run(DOMWARD, "create", configuration("fails", "tiny.img", 100_000)))


def orphaned(serving: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The daemon is killed while a guest runs, and while xl builds one."""
    found: dict[str, Any] = {"create": told(run(DOMWARD, "create", configuration("runs", "menu.img", 160)))}
    found["domids"] = [domid_of("runs")]
    words = [DOMWARD, "create", configuration("built", "tiny.img", 64)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as creating:
        until("the domain", lambda: domid_of("built"))
        serving.kill()
        found["said"] = creating.communicate(timeout=SECONDS)[1]
    return found


@check
def created() -> dict[str, Any]:
    """Each part is followed by a look at what it left. The next daemon takes away what a killed one left."""
    found: dict[str, Any] = {}
    with daemon(BACKEND) as serving:
        before = state()
        for part in (halts, lives, fails):
            found[part.__name__] = part() | {"left": settled(before)}
        found["orphaned"] = orphaned(serving)
    with daemon(BACKEND):
        found["orphaned"] |= {"after": [domid_of("runs"), domid_of("built")], "operation": listed("runs")}
    return found


def killed_at(record: str) -> dict[str, Any]:
    """The daemon is killed as soon as `record` is on the disk, and another one starts."""
    with daemon(BACKEND) as serving:
        before = state()
        words = [DOMWARD, "create", configuration("killed", "tiny.img", 64)]
        with AUDIT_LOG.open("rb") as log:
            log.seek(0, 2)
            with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as creating:
                seen, end = b"", time.monotonic() + SECONDS
                while f'"event":"{record}"'.encode() not in seen and time.monotonic() < end:
                    seen += log.read()
                    time.sleep(0.001)
                serving.kill()
                said = creating.communicate(timeout=SECONDS)[1]
    with daemon(BACKEND):
        return {"said": said, "left": settled(before), "operation": listed("killed"), "domid": domid_of("killed")}


@check
def killed() -> dict[str, Any]:
    """Between any two records of a guest's beginning."""
    return {record: killed_at(record) for record in RECORDS}


if __name__ == "__main__":
    run_checks(Path(sys.argv[1]), *sys.argv[2:])
