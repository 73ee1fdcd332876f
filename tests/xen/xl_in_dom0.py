# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: domains made with the real xl, whose bootloader is domward-bootloader. Writes what happened as JSON.

Each check is a function that returns what the test on the other side looks at; one that fails disturbs no other. After
each, everything that is not as it was before is part of its result.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORK = Path("/var/tmp")
LOGS = Path("/var/log/xen")
FRONT_END = "/usr/bin/domward-bootloader"
MARKER = "GUEST-MARKER-OK"
SECONDS = 240  # software emulation on a busy machine
FIRST_HELPER_UID = 1_900_000_000
CHECKS: dict[str, Callable[[], dict[str, Any]]] = {}


def check(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    CHECKS[function.__name__] = function
    return function


def configuration(name: str, disk: str, memory: int = 64, **settings: object) -> Path:
    """A domain's configuration; an empty disk name has none of its own."""
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


def xl(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["xl", *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env=dict(os.environ, **environment),
    )


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


@contextmanager
def loop_device(image: str) -> Iterator[str]:
    device = subprocess.run(["losetup", "-f", "--show", f"{WORK}/{image}"], capture_output=True, text=True, check=True)
    yield device.stdout.strip()
    subprocess.run(["losetup", "-d", device.stdout.strip()], check=True)


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


@check
def tiny() -> dict[str, Any]:
    return booted(configuration("tiny", raw("tiny.img")), "tiny")


@check
def menu() -> dict[str, Any]:
    """`xl create -c`: the menu on the console, an edit, and then the guest on the same console."""
    path = configuration("menu", raw("menu.img"), 192)
    terminal = Terminal("xl", "create", "-c", path)
    try:
        terminal.until(b"any key stops the count")
        terminal.press(b"\x1b[B")  # down
        terminal.until(b"lab=second")
        terminal.press(b"e")
        terminal.until(b"Enter: keep")
        terminal.press(b"\x05 typed=yes\r")  # to its end, and more
        terminal.until(b"typed=yes\x1b[K")
        terminal.press(b"\r")
        terminal.until(MARKER.encode())
        terminal.until(b"typed=yes\r")
        line = re.findall(rb"GUEST-MARKER-OK[^\r\n]*", terminal.seen)[-1]
        xl("destroy", "menu")
    finally:
        terminal.close()
    return {"console": line.decode("ascii", "replace"), "log": newest_bootloader_log()[-2000:]}


@check
def restricted() -> dict[str, Any]:
    """A block device, an entry and more arguments, with libxl's --runas and --quiet."""
    with loop_device("menu.img") as device:
        settings = {"bootloader_args": ["--entry=1", "--timeout=90"], "extra": "extra=yes"}
        path = configuration("restricted", f"phy:{device},xvda,w", 192, **settings)
        return booted(path, "restricted", LIBXL_BOOTLOADER_RESTRICT="1", LIBXL_BOOTLOADER_USER="nobody")


@check
def given() -> dict[str, Any]:
    """kernel=, ramdisk= and cmdline= name files of the guest."""
    settings = {"kernel": "/boot/vmlinuz", "ramdisk": "boot/initrd.img", "cmdline": "console=hvc0 quiet given=yes"}
    return booted(configuration("given", raw("menu.img"), 192, **settings), "given")


@check
def several() -> dict[str, Any]:
    names = [f"several{number}" for number in range(2)]
    began = time.monotonic()
    running = []
    for name in names:
        subprocess.run(["cp", "--sparse=always", WORK / "tiny.img", WORK / f"{name}.img"], check=True)
        running.append(
            subprocess.Popen(["xl", "create", configuration(name, raw(f"{name}.img"))], stdin=subprocess.DEVNULL)
        )
    codes = [process.wait(SECONDS) for process in running]
    seconds = time.monotonic() - began
    consoles = [console_says(name) for name in names]
    for name in names:
        xl("destroy", name)
        (WORK / f"{name}.img").unlink()
    return {"codes": codes, "consoles": consoles, "seconds": round(seconds, 1)}


@check
def destroyed() -> dict[str, Any]:
    """The domain is destroyed while its menu waits."""
    path = configuration("destroyed", raw("menu.img"), bootloader_args=["--timeout=200"])
    with subprocess.Popen(
        ["xl", "create", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    ) as process:
        until("the menu", lambda: "Boot menu" in newest_bootloader_log())
        destroying = xl("destroy", "destroyed")
        said, _ = process.communicate(timeout=SECONDS)
    return {"code": process.returncode, "said": said, "destroy": destroying.returncode}


DAEMON_SETTINGS = """[control]
operator_group = "operator"
auditor_group = "adm"
[hypervisor]
xenstore = "/run/xenstored/socket"
"""
# Asks for a menu on behalf of a domain, says when it is there, and how it ended.
DAEMON_CLIENT = """
import os, sys
from domward.protocol.client import Client, Screen
from domward.protocol.errors import DomwardError
with Client("/run/domward/control.sock") as client, open(sys.argv[1], "rb") as disk:
    asked = client.run(disk.fileno(), console=Screen(menu_timeout=600), domid=int(sys.argv[2]))
    try:
        client.result(asked, lambda step: step == "menu" and os.write(1, b"menu "))
    except DomwardError as error:
        os.write(1, str(error.sentence).encode())
    for operation in client.list(finished=True):
        os.write(1, f" {operation.outcome}".encode())
"""


@check
def daemon() -> dict[str, Any]:
    """domwardd does the front end's work, and sees a domain die that it works for."""
    python = "/opt/domward/bin/python"
    Path("/etc/domward").mkdir(exist_ok=True)
    Path("/etc/domward/domward.toml").write_text(DAEMON_SETTINGS)
    serving = subprocess.Popen([python, "-I", "-m", "domward.supervisor.daemon"], stdin=subprocess.DEVNULL)
    try:
        until("the daemon", Path("/run/domward/control.sock").exists)
        found = create(configuration("daemon", raw("tiny.img")), "-p")
        domid = xl("domid", "daemon").stdout.strip()
        words = [python, "-I", "-c", DAEMON_CLIENT, WORK / "menu.img", domid]
        with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            said = client.stdout.read(len("menu "))
            xl("destroy", "daemon")
            said += client.stdout.read()
    finally:
        serving.terminate()
        code = serving.wait(SECONDS)
    return found | {"daemon": code, "domid": domid, "client": said.decode()}


@check
def unbootable() -> dict[str, Any]:
    with (WORK / "zero.img").open("wb") as image:
        image.truncate(1 << 20)
    return create(configuration("unbootable", raw("zero.img")))


@check
def hostile() -> dict[str, Any]:
    """A damaged file system: every block of the first MiB behind the superblock is noise."""
    image = bytearray((WORK / "tiny.img").read_bytes())
    image[4096 : 1 << 20] = os.urandom((1 << 20) - 4096)
    (WORK / "hostile.img").write_bytes(image)
    return create(configuration("hostile", raw("hostile.img")))


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
        "processes": sorted(command for command in processes if "xl_in_dom0" not in command),
        "domains": domains.stdout.split(),
        "loops": loops,
        "mounts": Path("/proc/self/mounts").read_text().splitlines(),
        "files": sorted(str(path) for path in Path("/var/lib/xen").rglob("*boot*")),
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


def main() -> None:
    """Runs each check that has no result yet."""
    file = Path(sys.argv[1])
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    before = state()
    for name in sys.argv[2:] or CHECKS:
        if name in results:
            continue
        began = time.monotonic()
        try:
            found = CHECKS[name]()
        except Exception:  # noqa: BLE001 - a check that fails tells the test why, and the next one runs
            found = {"error": traceback.format_exc()}
            xl("destroy", name.replace("_", "-"))
        results[name] = found | {"left": settled(before), "all_seconds": round(time.monotonic() - began, 1)}
        file.write_text(json.dumps(results, indent=1))


main()
