# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd tells a service and what the service tells it, without any of its libraries: sd_notify(3),
sd_listen_fds(3), sd_watchdog_enabled(3).

This is the one place of the privileged side that looks into the environment, for these variables and no other; each
is read once, when the daemon starts, and removed. Without them (no systemd) every call here does nothing.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
import time
from collections.abc import MutableMapping, Sequence

from domward.protocol.fds import Fd, close_all
from domward.protocol.records import field, mutable

_LOG = logging.getLogger("domward.service")
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_MOST_FDS = 4096
_TELL_SECONDS = 1.0  # how long systemd may keep the loop waiting, for what it must be told
_MICROSECONDS = 1_000_000


@mutable
class Service:
    """The service manager's side. `given` are the fds that it passed, by name; `watchdog_seconds` None is none.

    Owns the fds until they are taken.
    """

    address: str = ""
    watchdog_seconds: float | None = None
    given: dict[str, list[Fd]] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, variables: MutableMapping[str, str]) -> Service:
        """Reads and removes the variables that systemd sets in `variables`."""
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
        found = {name: variables.pop(name, "") for name in names}
        service = cls(address=found["NOTIFY_SOCKET"])
        mine = str(os.getpid())
        if found["WATCHDOG_USEC"].isdecimal() and found["WATCHDOG_PID"] in ("", mine):
            service.watchdog_seconds = int(found["WATCHDOG_USEC"]) / _MICROSECONDS or None
        if found["LISTEN_PID"] == mine and found["LISTEN_FDS"].isdecimal():
            fd_names = found["LISTEN_FDNAMES"].split(":")
            for place in range(min(int(found["LISTEN_FDS"]), _MOST_FDS)):
                name = fd_names[place] if place < len(fd_names) and fd_names[place] else "unknown"
                number = _FIRST_FD + place
                os.set_inheritable(number, False)
                service.given.setdefault(name, []).append(Fd(number, f"systemd's {name}"))
        return service

    def listener(self) -> socket.socket | None:
        """The listening SEQPACKET socket that was passed, the caller's from now on; None where there is none."""
        for fds in self.given.values():
            for fd in fds:
                with contextlib.suppress(OSError):
                    end = socket.socket(fileno=os.dup(fd.fileno()))
                    fits = end.family == socket.AF_UNIX and end.type == socket.SOCK_SEQPACKET
                    if fits and end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        fds.remove(fd)
                        fd.close()
                        return end
                    end.close()
        return None

    def take(self, prefix: str) -> dict[str, Fd]:
        """The stored fds whose names begin with `prefix`, by the rest of the name; the caller's from now on."""
        taken: dict[str, Fd] = {}
        for name in [name for name in self.given if name.startswith(prefix)]:
            fds = self.given.pop(name)
            taken[name.removeprefix(prefix)] = fds[0]
            close_all(fds[1:])
        return taken

    def close(self) -> None:
        """Closes what was passed and nobody took."""
        for fds in self.given.values():
            close_all(fds)
        self.given.clear()

    # --- telling ------------------------------------------------------------------------------------------------

    def ready(self, status: str) -> None:
        """The service is up, or has read its settings again."""
        self._tell([f"READY=1\nSTATUS={status}"])

    def reloading(self) -> None:
        """The service reads its settings again; `ready` follows."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell([f"RELOADING=1\nMONOTONIC_USEC={now}"])

    def stopping(self) -> None:
        """The service ends."""
        self._tell(["STOPPING=1\nSTATUS=Ending operations"])

    def alive(self) -> None:
        """The event loop turns."""
        self._tell(["WATCHDOG=1"])

    def store(self, name: str, fd: Fd) -> None:
        """Has systemd keep a copy of `fd` over a restart of the service."""
        self._tell([f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"], [fd], seconds=0)

    def forget(self, name: str) -> None:
        """Has systemd let go of what was stored under `name`."""
        self._tell([f"FDSTOREREMOVE=1\nFDNAME={name}"], seconds=0)

    def _tell(self, lines: Sequence[str], fds: Sequence[Fd] = (), seconds: float = _TELL_SECONDS) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        numbers = array.array("i", [fd.fileno() for fd in fds])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(seconds)
                end.connect(address)
                end.sendmsg(["\n".join(lines).encode()], rights)
        except OSError as error:
            _LOG.warning("the service manager could not be told: %s", error.strerror)
