# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scripts that run in dom0 share: domains' configurations, the real xl, terminals, and what a check leaves."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORK = Path("/var/tmp")
LOGS = Path("/var/log/xen")
DOMWARD = "/usr/bin/domward"
DAEMON = "/usr/sbin/domwardd"
FRONT_END = "/usr/bin/domward-bootloader"
CONTROL_SOCKET = Path("/run/domward/control.sock")
MARKER = "GUEST-MARKER-OK"
SECONDS = 240  # software emulation on a busy machine
FIRST_HELPER_UID = 1_900_000_000
DAEMON_SETTINGS = """[control]
operator_group = "operator"
auditor_group = "adm"
[hypervisor]
xenstore = "/run/xenstored/socket"
"""

Check = Callable[[], dict[str, Any]]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Decorator: `function` is one check of those that `run_checks` runs, under its own name."""
    CHECKS[function.__name__] = function
    return function


def configuration(name: str, disk: str, memory: int = 64, **settings: object) -> Path:
    """A domain's configuration."""
    lines: dict[str, object] = {
        "name": name,
        "type": "pv",
        "memory": memory,
        "vcpus": 1,
        "bootloader": FRONT_END,
        "disk": [disk],
        "on_crash": "destroy",
    }
    path = WORK / f"{name}.cfg"
    path.write_text("".join(f"{key}={json.dumps(value)}\n" for key, value in (lines | settings).items()))
    return path


def raw(image: str) -> str:
    return f"{WORK}/{image},raw,xvda,w"


def run(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, **environment),
    )


def xl(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("xl", *words, **environment)


def until(what: str, condition: Callable[[], Any]) -> Any:
    """What `condition` gives, as soon as it gives something."""
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)
    return found


def console_says(name: str) -> str:
    """The line with the marker on the guest's console."""
    log = LOGS / "console" / f"guest-{name}.log"

    def line() -> str | None:
        found = re.search(rf"{MARKER}[^\r\n]*", log.read_text(errors="replace")) if log.exists() else None
        return found[0] if found else None

    return str(until(f"{MARKER} of {name}", line))


def newest_bootloader_log() -> str:
    logs = sorted(LOGS.glob("bootloader.*.log"), key=lambda path: path.stat().st_mtime)
    return logs[-1].read_text(errors="replace") if logs else ""


def forget_console_log(name: str) -> None:
    """So that what it shows from now on is all there is; xenconsoled has it open only while there is the domain."""
    (LOGS / "console" / f"guest-{name}.log").unlink(missing_ok=True)


def forget_bootloader_logs() -> None:
    """So that the newest is the next check's own."""
    for log in LOGS.glob("bootloader.*"):
        log.unlink()


def result(done: subprocess.CompletedProcess[str], seconds: float) -> dict[str, Any]:
    return {"code": done.returncode, "said": done.stdout + done.stderr, "seconds": round(seconds, 1)}


def create(path: Path, *words: str, **environment: str) -> dict[str, Any]:
    began = time.monotonic()
    done = xl("create", *words, path, **environment)
    return result(done, time.monotonic() - began) | {"log": newest_bootloader_log()}


def booted(path: Path, name: str, **environment: str) -> dict[str, Any]:
    """Creates it, waits for its marker, and destroys it."""
    found = create(path, **environment)
    if found["code"] == 0:
        found["console"] = console_says(name)
    xl("destroy", name)
    return found


def answers(path: Path) -> bool:
    """Whether somebody listens there: a daemon that was killed leaves its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def daemon(settings: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """domwardd with `settings` as well, answering; ends it where it was not ended, and then it must end well."""
    Path("/etc/domward").mkdir(exist_ok=True)
    Path("/etc/domward/domward.toml").write_text(DAEMON_SETTINGS + settings)
    with subprocess.Popen([DAEMON], stdin=subprocess.DEVNULL) as serving:
        try:
            until("the daemon", lambda: serving.poll() is not None or answers(CONTROL_SOCKET))
            yield serving
        finally:
            if serving.poll() is None:
                serving.terminate()
    if serving.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"domwardd ended with {serving.returncode}")


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *words: str | Path) -> None:
        self.seen = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(str(words[0]), [str(word) for word in words])

    def until(self, text: bytes) -> None:
        end = time.monotonic() + SECONDS
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{text!r} in {self.seen!r}")
            self.seen += os.read(self.master, 65536)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def close(self) -> None:
        os.close(self.master)  # which hangs up
        os.waitpid(self.pid, 0)


def state() -> dict[str, list[str]]:
    """What a create could leave behind in dom0."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                uid = int(re.findall(r"^Uid:\s+(\d+)", (entry / "status").read_text(), re.MULTILINE)[0])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("ascii", "replace")
            except (OSError, IndexError):
                continue
            if uid >= FIRST_HELPER_UID or "domward" in command or command.startswith("xl "):
                processes.append(command)
    domains = subprocess.run(["xenstore-list", "/local/domain"], capture_output=True, text=True, check=True)
    loops = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return {
        "processes": sorted(command for command in processes if "_in_dom0" not in command),
        "domains": domains.stdout.split(),
        "loops": loops,
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
        "files": sorted(str(path) for path in Path("/var/lib/xen").rglob("*boot*")),
        "guests": sorted(str(path) for path in Path("/run/domward/guests").glob("*")),
        "run": sorted(str(path) for path in Path("/run/xen").glob("pygrub*")),
    }


def settled(before: dict[str, list[str]]) -> list[str]:
    """What is there that was not, once the kernel had its time for loop devices and dying domains."""
    end = time.monotonic() + 20
    while True:
        after = state()
        new = [f"{kind}: {item}" for kind in after for item in after[kind] if item not in before[kind]]
        if not new or time.monotonic() > end:
            return new
        time.sleep(0.5)


def run_checks(file: Path, *names: str) -> None:
    """Runs each check that has no result yet in `file`, and writes the results there."""
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    before = state()
    for name in names or CHECKS:
        if name in results:
            continue
        forget_bootloader_logs()
        began = time.monotonic()
        try:
            found = CHECKS[name]()
        except Exception:  # noqa: BLE001 - a check that fails tells the test why, and the next one runs
            found = {"error": traceback.format_exc()}
            xl("destroy", name.replace("_", "-"))
        results[name] = found | {"left": settled(before), "all_seconds": round(time.monotonic() - began, 1)}
        file.write_text(json.dumps(results, indent=1))
