# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface to hypervisors: what a backend is given, and what it gives back.

A backend turns a `GuestDescription` and what its bootloader delivered into a guest. The operation (`supervisor/guests`)
decides everything else: when the bootloader runs, what is audited, what on_poweroff, on_reboot and on_crash mean. A
backend never parses guest bytes and never reads a path that a helper named.

A guest's states, which only the calls of `Guest` change:

========  =====================================  =====================================================
state     entered by                             what is true
========  =====================================  =====================================================
paused    `Backend.build` returned it            memory and devices are there, no instruction has run
running   `Guest.unpause`                        it runs
dead      by itself: `Guest.death` is done       no instruction runs any more; memory and devices may still be
                                                 there for who wants to look (on_crash="preserve")
gone      `Guest.destroy`, in any state          nothing is left: no process, domain, uid, fd, file, xenstore node
========  =====================================  =====================================================

How the backends fit:

- `none` refuses everything: bootloaders run, and their results go to who asked.
- `qemu` is a process of ours. It is given sealed memfds and the disks' fds; no path at all.
- `xen` executes xl(1), which takes paths. Kernel and ramdisk are given to it as /proc/self/fd/N of sealed memfds that
  it inherits; disks are paths (`GuestDisk.path`), which is why such a backend has `opens_paths` and only root may use
  it. xl is executed with on_*
  "preserve" and without its background monitor (-e), paused (-p), since domward watches the domain itself: by
  @releaseDomain and the domain's state (`hypervisor/xenstore`), so `death` is done as soon as the domain has shut down,
  and `destroy` is `xl destroy`. `Guest.console` is the pty that xenconsoled made, opened by the path in
  /local/domain/ID/console/tty, once its permissions say that the guest can only read. While the menu waits there is no
  domain yet: `domward attach` shows it, and no console of xl's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from domward.protocol import limits
from domward.protocol.errors import UsageError
from domward.protocol.fds import Fd
from domward.protocol.guests import Action, Death, GuestType
from domward.protocol.records import frozen, names_of

from ..audit.record import Detail
from ..helper import HelperHost
from ..sinks import SealedFile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def is_guest_name(text: str) -> bool:
    """Whether a guest can be called `text`: it goes into lists, file names and qemu's options."""
    return len(text) <= limits.GUEST_NAME_BYTES and _NAME.fullmatch(text) is not None


def is_uuid(text: str) -> bool:
    """Whether `text` is a UUID in the usual form."""
    return _UUID.fullmatch(text) is not None


@frozen(kw_only=True)
class GuestDisk:
    """One disk of a guest. `vdev` is its name in the guest, as "xvda"; `image_format` is "raw" or "qcow2".

    `fd` is open for reading, and for writing where `writable`; it stays the caller's and is open as long as the guest
    is there. None where only root's `path` was given: absolute, from root, for backends that open paths.
    `block_device` says whether the fd is one; it is looked at when the operation begins.
    """

    vdev: str
    image_format: str
    writable: bool
    block_device: bool = False
    fd: Fd | None = None
    path: Path | None = None


@frozen(kw_only=True)
class GuestDescription:
    """A guest as its configuration has it: complete, and checked by `guest_config`.

    `name` is at most limits.GUEST_NAME_BYTES of [A-Za-z0-9._+-], and one guest's at a time; `uuid` is in the usual
    36 characters; `memory_mib` is in MiB; `disks` are at most limits.GUEST_DISKS, the first is the one to boot from.
    """

    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    disks: tuple[GuestDisk, ...]
    type: GuestType = GuestType.PVH
    on_poweroff: Action = Action.DESTROY
    on_reboot: Action = Action.RESTART
    on_crash: Action = Action.DESTROY

    def __post_init__(self) -> None:
        if not is_guest_name(self.name):
            raise UsageError(
                f"A guest's name has 1 to {limits.GUEST_NAME_BYTES} of the characters A-Z a-z 0-9 . _ + -, "
                "and begins with a letter or a digit."
            )
        if not is_uuid(self.uuid):
            raise UsageError("A guest's uuid has 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.")
        if not 1 <= self.memory_mib <= limits.GUEST_MEMORY_MIB or not 1 <= self.vcpus <= limits.GUEST_VCPUS:
            raise UsageError("A guest's memory or its number of processors is out of range.")
        if not 1 <= len(self.disks) <= limits.GUEST_DISKS:
            raise UsageError(f"A guest has 1 to {limits.GUEST_DISKS} disks.")
        if len({disk.vdev for disk in self.disks}) < len(self.disks):
            raise UsageError("Two disks of a guest have the same name in it.")

    def after(self, death: Death) -> Action:
        """What is to be done after `death`."""
        asked = {
            Death.POWEROFF: self.on_poweroff,
            Death.REBOOT: self.on_reboot,
            Death.CRASH: self.on_crash,
            Death.DESTROYED: Action.DESTROY,
        }
        return asked[death]

    def described(self) -> Detail:
        """What the audit log holds of it: every member, by its name."""
        told = {name: getattr(self, name) for name in names_of(self) if name != "disks"}
        disks = [
            {
                "vdev": disk.vdev,
                "format": disk.image_format,
                "writable": disk.writable,
                "path": disk.path,
                "block_device": disk.block_device,
            }
            for disk in self.disks
        ]
        return told | {"disks": disks}


@frozen(kw_only=True)
class BootFiles:
    """What the guest is started with. The files are sealed memfds, hashed, and stay the caller's.

    They are open until `Backend.build` returns, not longer. `command_line` is at most limits.CMDLINE_BYTES, without NUL
    and control characters.
    """

    kernel: SealedFile
    ramdisk: SealedFile | None
    command_line: bytes


class Guest(Protocol):
    """One guest. Owns all that `Backend.build` made; who has it calls `destroy` in the end, whatever happened."""

    @property
    def domid(self) -> int | None:
        """The domain's number; None where the hypervisor has no such thing."""

    @property
    def described(self) -> Detail:
        """What the audit log holds of how it is kept: pid, uid, accelerator and the like."""

    @property
    def console(self) -> Fd:
        """Its console: read for what it shows, written for keys; raw. This object's, until `destroy` at the latest.

        Whoever relays it closes it once the relay has a copy, so that the guest notices where the relay ends.
        """

    async def unpause(self) -> None:
        """Lets it run. Once. Raises OperationFailed, HypervisorError."""

    async def death(self) -> Death:
        """Returns how it died once it did, the same to everybody, at once where it is dead already.

        One that is paused can only be DESTROYED. Raises HypervisorError where it ended in a way that tells nothing of
        the guest (the hypervisor's process was killed, or broke its protocol). Can be cancelled, which changes nothing.
        """

    async def destroy(self) -> None:
        """Takes it away, in whatever state, and returns when nothing is left of it. Idempotent; never hangs: each wait
        has a deadline. Raises OperationFailed, and HypervisorError for what cannot be ended.
        """


class Backend(Protocol):
    """A hypervisor; has no state. Made by `backends.backend_of`, which knows each by its name in the settings."""

    @property
    def name(self) -> str:
        """As in the settings."""

    @property
    def opens_paths(self) -> bool:
        """Whether its programs open the disks by their paths with root's rights: then guests are root's alone."""

    def check(self, description: GuestDescription) -> None:
        """Raises UsageError or RefusedError for what it cannot do, before anything is begun."""

    async def build(self, host: HelperHost, operation: str, description: GuestDescription, boot: BootFiles) -> Guest:
        """The guest, paused. Where it raises (OperationFailed, HypervisorError) or is cancelled, nothing is left.

        `host` has the configuration, the event layer, the uids and the audit trail of `operation`, its id.
        """
