# SPDX-License-Identifier: GPL-3.0-or-later
"""One disk of a guest's configuration: xl-disk-configuration(5), as far as a guest of domward's has it.

``TARGET,FORMAT,VDEV,ACCESS`` by place, any of the last three left empty, and/or ``format=``, ``vdev=``, ``access=``
and, as the last, ``target=``, which takes all that follows. A target may begin with the old "phy:", "file:", "raw:" or
"qcow2:", and then there is no place for a format, as for xl: ``phy:TARGET,VDEV,ACCESS``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from domward.protocol import limits
from domward.protocol.errors import printable
from domward.protocol.records import frozen

from .arguments import IMAGE_FORMATS

_PLACES = ("target", "format", "vdev", "access")
_ACCESS = {"r": False, "ro": False, "w": True, "rw": True}
_PREFIXES = {"phy:": "raw", "file:": "raw", "raw:": "raw", "qcow2:": "qcow2"}
_VDEV = re.compile(r"(?:xvd|vd|sd|hd)[a-z]", re.ASCII)


class DiskSpecError(Exception):
    """A disk that cannot be used; the text says what is wrong, as a sentence without its full stop."""


@frozen
class DiskSpec:
    """A disk: `target` is an absolute path of the host's, `vdev` its name in the guest."""

    target: Path
    image_format: str
    vdev: str
    writable: bool

    def text(self) -> str:
        """As a setting that `parse_disk` takes."""
        access = "w" if self.writable else "r"
        return f"vdev={self.vdev},format={self.image_format},access={access},target={self.target}"


def parse_disk(text: str) -> DiskSpec:
    """The disk that `text` says. Raises DiskSpecError."""
    if len(text) > limits.PATH_BYTES or "\0" in text:
        raise DiskSpecError(f"A disk is given in at most {limits.PATH_BYTES} characters, without NUL")
    found = _parts(text)
    target = found.get("target", "")
    image_format = found.get("format") or IMAGE_FORMATS[0]
    prefix = _prefix_of(target)
    if prefix:
        if found.get("format") not in (None, "", _PREFIXES[prefix]):
            raise DiskSpecError(f"{prefix} and the format {printable(image_format)} contradict each other")
        target, image_format = target.removeprefix(prefix), _PREFIXES[prefix]
    if not os.path.isabs(target):
        raise DiskSpecError(f"A disk's target must be an absolute path, not {printable(target) or 'nothing'}")
    if image_format not in IMAGE_FORMATS:
        raise DiskSpecError(f"A disk's format must be {' or '.join(IMAGE_FORMATS)} here, not {printable(image_format)}")
    if not _VDEV.fullmatch(found.get("vdev", "")):
        raise DiskSpecError(
            f"A whole disk's name in the guest is one like xvda, not {printable(found.get('vdev', ''))!r}"
        )
    access = found.get("access") or "rw"
    if access not in _ACCESS:
        raise DiskSpecError(f"A disk's access must be r or w, not {printable(access)}")
    return DiskSpec(Path(target), image_format, found["vdev"], _ACCESS[access])


def _prefix_of(target: str) -> str:
    return next((prefix for prefix in _PREFIXES if target.startswith(prefix)), "")


def _parts(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    rest, place = text, 0
    places = tuple(name for name in _PLACES if not (name == "format" and _prefix_of(text.lstrip())))
    while rest:
        if rest.lstrip().startswith("target="):
            part, rest = rest, ""
        else:
            part, _, rest = rest.partition(",")
        part = part.strip()
        name, sign, value = part.partition("=")
        # A path may have "=" in it: what has a place is taken by its place.
        if not sign or name not in _PLACES:
            if sign and place != 0:
                raise DiskSpecError(f"{printable(name)}= is not in the subset of disk settings that domward knows")
            if place >= len(places):
                raise DiskSpecError(f"There is no place for {printable(part)!r}")
            name, value = places[place], part
            place += 1
        if value and found.get(name):
            raise DiskSpecError(f"The {name} of a disk is given twice")
        found[name] = found.get(name) or value.strip()
    return found
