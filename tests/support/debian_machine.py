# SPDX-License-Identifier: GPL-3.0-or-later
"""A clean Debian with systemd as process 1, in namespaces of this machine: packages are installed and removed there.

    with DebianMachine(debian_tree(), share) as machine:      # `share` is /mnt in it
        machine.run("dpkg", "--install", "/mnt/domward.deb")
        assert machine.path("/etc/domward/domward.toml").exists()

The tree is of this host's own release, or of another one, made once with mmdebstrap and kept in the cache folder; a
machine writes into memory and forgets all with its end. Needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from support.debian_kernel import cache_folder

#: All that domward's package depends on, and an init system: nothing can be fetched in the machine.
PACKAGES = ("systemd", "systemd-sysv", "python3", "python3-msgpack", "python3-psutil", "python3-prctl",
    "python3-setproctitle", "python3-zstandard", "dash", "e2fsprogs")  # fmt: skip
BOOT_SECONDS = 120  # for a machine that is busy; it takes two otherwise
RUN_SECONDS = 120


def debian_tree(release: str | None = None) -> Path:
    """The folder of the clean tree of `release`, which nobody may change; a machine's first call takes 40 to 80 s."""
    release = release or _own_release()
    digest = hashlib.sha256(" ".join((release, *PACKAGES)).encode()).hexdigest()[:12]
    folder = cache_folder() / f"debian-tree-{digest}"
    with (cache_folder() / ".debian-tree.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="making-") as making:
                _make(Path(making, "tree"), release)
                shutil.move(Path(making, "tree"), folder)
    return folder


def _own_release() -> str:
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _make(tree: Path, release: str) -> None:
    """Runs mmdebstrap with those of this host's sources that are Debian's own, for `release` in place of its own."""
    own = _own_release()
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    suites = {own, f"{own}-updates", f"{own}-security"}
    found = (line.split() for line in targets.splitlines())
    sources = sorted(
        {f"deb {site} {suite.replace(own, release)} {part}" for site, suite, part in found if suite in suites}
    )
    command: list[str | Path] = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root",
        f"--include={','.join(PACKAGES)}", "--aptopt=Apt::Install-Recommends false",
        "--dpkgopt=path-exclude=/usr/share/locale/*", release, tree, "-"]  # fmt: skip
    done = subprocess.run(command, input="\n".join(sources), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class DebianMachine:
    """One such machine, booted by `with` and gone with its end, whatever state it is in then."""

    def __init__(self, tree: Path, share: Path) -> None:
        self._tree = tree
        self.share = share
        self._pid = 0
        self._ending = contextlib.ExitStack()

    def __enter__(self) -> DebianMachine:
        with contextlib.ExitStack() as ending:
            notified = ending.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            notified.bind(str(self.share / "notify"))
            ending.callback((self.share / "notify").unlink)
            notified.settimeout(BOOT_SECONDS)
            script = Path(__file__).with_name("boot_debian.sh")
            started = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    "TERM",
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    script,
                    self._tree,
                    self.share,
                ],
                stdin=subprocess.DEVNULL,
            )
            ending.callback(started.wait)
            ending.callback(self._kill, started.pid)
            while b"READY=1" not in notified.recv(4096).split(b"\n"):
                pass
            self._pid = _init_below(started.pid)
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.run("journalctl", "--no-pager", "--lines=60", check=False).stdout)
        self._ending.close()

    @staticmethod
    def _kill(script: int) -> None:
        """Ends process 1, and with it all others; the script then cleans up after it."""
        with contextlib.suppress(LookupError, ProcessLookupError):
            os.kill(_init_below(script), 9)

    def run(self, *command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine, as root, with nothing in its environment but PATH and `environment`."""
        settings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
        done = subprocess.run(
            ["nsenter", "--target", str(self._pid), "--all", "env", "-i",
             *(f"{name}={value}" for name, value in (settings | environment).items()), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def path(self, inside: str) -> Path:
        """A path of the machine as this process can use it."""
        return Path(f"/proc/{self._pid}/root", inside.lstrip("/"))


def _init_below(pid: int) -> int:
    """The process 1 of the namespace that a descendant of `pid` made."""
    for child in _descendants(pid):
        status = Path("/proc", str(child), "status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if len(numbers) > 2 and numbers[-1] == "1":
            return child
    message = f"no process 1 below {pid}"
    raise LookupError(message)


def _descendants(pid: int) -> Iterator[int]:
    for child in Path("/proc", str(pid), "task", str(pid), "children").read_text().split():
        yield int(child)
        yield from _descendants(int(child))
