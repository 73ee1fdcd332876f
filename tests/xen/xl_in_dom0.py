# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in dom0: domains made with the real xl and libvirt, whose bootloader is domward-bootloader.

Each check is a function that returns what the test on the other side looks at; one that fails disturbs no other. After
each, everything that is not as it was before is part of its result, which is written as JSON.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dom0 import (
    FRONT_END,
    MARKER,
    SECONDS,
    WORK,
    Terminal,
    booted,
    check,
    configuration,
    console_says,
    create,
    daemon,
    forget_bootloader_logs,
    newest_bootloader_log,
    raw,
    run,
    run_checks,
    settled,
    state,
    until,
    xl,
)


@contextlib.contextmanager
def loop_device(image: str) -> Iterator[str]:
    device = subprocess.run(["losetup", "-f", "--show", f"{WORK}/{image}"], capture_output=True, text=True, check=True)
    yield device.stdout.strip()
    subprocess.run(["losetup", "-d", device.stdout.strip()], check=True)


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
def pvh() -> dict[str, Any]:
    """A PVH guest, whose kernel=, ramdisk= and cmdline= name files of its disk."""
    files = {"kernel": "/boot/vmlinuz", "ramdisk": "boot/initrd.img", "cmdline": "console=hvc0 quiet given=yes"}
    return booted(configuration("pvh", raw("menu.img"), 128, type="pvh", **files), "pvh")


@contextlib.contextmanager
def menu_waits(name: str) -> Iterator[subprocess.Popen[str]]:
    """The `xl create` of a domain whose menu is up and waits."""
    path = configuration(name, raw("menu.img"), bootloader_args=["--timeout=200"])
    with subprocess.Popen(
        ["xl", "create", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    ) as process:
        until("the menu", lambda: "Boot menu" in newest_bootloader_log())
        yield process


@check
def destroyed() -> dict[str, Any]:
    """The domain is destroyed while its menu waits."""
    with menu_waits("destroyed") as process:
        destroying = xl("destroy", "destroyed")
        said, _ = process.communicate(timeout=SECONDS)
    return {"code": process.returncode, "said": said, "destroy": destroying.returncode}


# Asks for a menu on behalf of a domain, says when it is there, and how it ended.
DAEMON_CLIENT = """
import os, sys
sys.path.insert(0, "/usr/lib/domward")
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


def served() -> dict[str, Any]:
    """domwardd does the front end's work, and sees a domain die that it works for."""
    found = create(configuration("served", raw("tiny.img")), "-p")
    domid = xl("domid", "served").stdout.strip()
    words = ["/usr/bin/python3", "-I", "-c", DAEMON_CLIENT, WORK / "menu.img", domid]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        said = client.stdout.read(len("menu "))
        xl("destroy", "served")
        said += client.stdout.read()
    return found | {"domid": domid, "client": said.decode()}


def timed_out() -> dict[str, Any]:
    """The menu waits longer than the operation may take."""
    return create(configuration("timed-out", raw("menu.img"), bootloader_args=["--timeout=8"]))


def unbootable() -> dict[str, Any]:
    with (WORK / "zero.img").open("wb") as image:
        image.truncate(1 << 20)
    return create(configuration("unbootable", raw("zero.img")))


def hostile() -> dict[str, Any]:
    """A damaged file system: every block of the first MiB behind the superblock is noise."""
    image = bytearray((WORK / "tiny.img").read_bytes())
    image[4096 : 1 << 20] = os.urandom((1 << 20) - 4096)
    (WORK / "hostile.img").write_bytes(image)
    return create(configuration("hostile", raw("hostile.img")))


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
    consoles = [console_says(name) for name, code in zip(names, codes, strict=True) if code == 0]
    for name in names:
        xl("destroy", name)
        (WORK / f"{name}.img").unlink()
    return {"codes": codes, "consoles": consoles, "seconds": round(seconds, 1)}


LIBVIRT_DOMAIN = f"""<domain type='xen'>
<name>libvirt</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<bootloader>{FRONT_END}</bootloader><bootloader_args>--entry=0</bootloader_args>
<os><type>linux</type></os>
<devices>
<disk type='file' device='disk'>
<driver name='file' type='raw'/><source file='{WORK}/tiny.img'/><target dev='xvda' bus='xen'/>
</disk>
<console type='pty'><target type='xen' port='0'/></console>
</devices>
</domain>"""


@contextlib.contextmanager
def libvirtd() -> Iterator[None]:
    """libvirt's daemon, its Xen driver working; in the lab that takes three changes to its installation.

    Its log folder is not made without an init system, its qemu driver must be out of the way, and it knows no AMD
    processor without SYSENTER, which Xen takes away from what a PV dom0 sees.
    """
    Path("/var/log/libvirt").mkdir(exist_ok=True)
    Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so").unlink(missing_ok=True)
    model = Path("/usr/share/libvirt/cpu_map/x86_Opteron_G1.xml")
    model.write_text(model.read_text().replace("<feature name='sep'/>", ""))
    with subprocess.Popen(["libvirtd"], stdin=subprocess.DEVNULL) as serving:
        try:
            until("libvirtd", lambda: serving.poll() is not None or virsh("uri").returncode == 0)
            yield
        finally:
            serving.terminate()


def virsh(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return run("virsh", "-c", "xen:///system", *words)


def libvirt() -> dict[str, Any]:
    path = WORK / "libvirt.xml"
    path.write_text(LIBVIRT_DOMAIN)
    with libvirtd():
        created = virsh("create", path)
        found: dict[str, Any] = {"code": created.returncode, "said": created.stdout + created.stderr}
        if created.returncode == 0:
            found["console"] = console_says("libvirt")
        virsh("destroy", "libvirt")
    return found | {"log": newest_bootloader_log()}


def killed(serving: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The daemon is killed while a menu waits."""
    with menu_waits("killed") as process:
        serving.kill()
        said, _ = process.communicate(timeout=SECONDS)
    return {"code": process.returncode, "said": said, "log": newest_bootloader_log()}


@check
def with_daemon() -> dict[str, Any]:
    """Each part is followed by a look at what it left. One daemon does them all, and the next clears up after it."""
    with daemon() as serving:
        before = state()
        found: dict[str, Any] = {}
        for part in (served, timed_out, unbootable, hostile, libvirt):
            forget_bootloader_logs()
            found[part.__name__] = part() | {"left": settled(before)}
        forget_bootloader_logs()
        found["killed"] = killed(serving)
    with daemon() as following:
        found["several"] = several()
    return found | {"daemon": following.returncode}


run_checks(Path(sys.argv[1]), *sys.argv[2:])
