# SPDX-License-Identifier: GPL-3.0-or-later
"""What xl is given of a guest: the text of an xl.cfg(5), and what `xl list -v` says of domains.

The kernel's command line is the guest's own, and is in that text. Inside quotes, every byte that is not plainly
harmless is written as \\xHH, which xl's reader takes back (libxlu_cfg_l.l, libxlu_cfg.c): nothing of it can end the
quotes, and none of it is a setting.
"""

from __future__ import annotations

import os
import re
import string

from domward.protocol.errors import HypervisorError, printable
from domward.protocol.guests import Action, Death
from domward.protocol.records import frozen

from .interface import BootFiles, GuestDescription, GuestDisk

_HARMLESS = frozenset((string.ascii_letters + string.digits + " _=.,:/+-").encode("ascii"))
# Name, ID, Mem, VCPUs, State, Time(s), UUID, Reason-Code, and more; a name may have blanks. The fifth letter of a state
# is one for the reason.
_ROW = re.compile(
    r"\s(?P<domid>[0-9]{1,5})\s+[0-9]+\s+[0-9]+\s+[r-][b-][p-](?P<shut>[s-])\S(?P<dying>[d-])\s+[0-9.]+"
    r"\s+(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\s+(?P<reason>[0-9a-f]{1,8}|-)(?:\s|$)",
    re.ASCII,
)
#: LIBXL_SHUTDOWN_REASON_*: to suspend itself and to be loaded anew by its own wish, nobody here helps a guest.
_REASONS = {0: Death.POWEROFF, 1: Death.REBOOT}


@frozen
class Seen:
    """A domain as the hypervisor has it. `death` is None while it is neither shut down nor being taken away."""

    domid: int
    death: Death | None


def quoted(text: bytes) -> str:
    """`text` as a string of xl.cfg."""
    return '"' + "".join(chr(byte) if byte in _HARMLESS else "\\x" + f"{byte:02x}" for byte in text) + '"'


def configuration(description: GuestDescription, boot: BootFiles, kernel: str, ramdisk: str | None) -> bytes:
    """The configuration for `xl create`; `kernel` and `ramdisk` are what it opens them as.

    Nothing is to be done when the guest dies: domward sees to that.
    """
    disks = ", ".join(quoted(_disk(disk)) for disk in description.disks)
    settings = {
        "name": quoted(description.name.encode("ascii")),
        "uuid": quoted(description.uuid.encode("ascii")),
        "type": quoted(description.type.value.encode("ascii")),
        "memory": str(description.memory_mib),
        "vcpus": str(description.vcpus),
        "kernel": quoted(kernel.encode("ascii")),
        "cmdline": quoted(boot.command_line),
        "disk": f"[{disks}]",
    }
    if ramdisk is not None:
        settings["ramdisk"] = quoted(ramdisk.encode("ascii"))
    settings |= {
        f"on_{event}": quoted(Action.PRESERVE.value.encode("ascii")) for event in ("poweroff", "reboot", "crash")
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items()).encode("ascii")


def _disk(disk: GuestDisk) -> bytes:
    """A disk as xl-disk-configuration(5) has it: what follows "target=" is the path, whatever is in it."""
    assert disk.path is not None
    access = "rw" if disk.writable else "ro"
    return f"format={disk.image_format}, vdev={disk.vdev}, access={access}, target=".encode("ascii") + os.fsencode(
        disk.path
    )


def find_domain(listing: bytes, uuid: str) -> Seen | None:
    """The domain with `uuid` in the output of `xl list -v`; None where there is none.

    Raises HypervisorError where it is there in a form that is not known: what is there must not be taken for gone.
    """
    for line in listing.decode("ascii", "replace").splitlines():
        row = _ROW.search(line)
        if uuid in line and row is None:
            raise HypervisorError(f"xl lists domains in a form that is not known: {printable(line)}.", helper="xl")
        if row is not None and row["uuid"] == uuid:
            death = None
            if row["dying"] == "d":
                death = Death.DESTROYED
            elif row["shut"] == "s":
                reason = -1 if row["reason"] == "-" else int(row["reason"], 16)
                death = _REASONS.get(reason, Death.CRASH)
            return Seen(int(row["domid"]), death)
    return None
