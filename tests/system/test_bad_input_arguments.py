# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments that cannot mean anything: exit code 2 before anything is started."""

from __future__ import annotations

import pytest
from support.commands import domward

WRONG = {
    "nothing": (),
    "unknown command": ("fly",),
    "unknown option": ("run", "disk", "--fast"),
    "abbreviated option": ("run", "disk", "--time", "3"),
    "no disk": ("run",),
    "two disks": ("run", "disk", "disk"),
    "option of another command": ("inspect", "disk", "--entry", "1"),
    "unknown format": ("run", "disk", "--format", "vmdk"),
    "unknown bootloader": ("run", "disk", "--bootloader", "grub3"),
    "option without its value": ("run", "disk", "--args"),
    "arguments beyond Xen's limit": ("run", "disk", "--args", "a" * 1024),
    "arguments with a line feed": ("run", "disk", "--args", "a\nb"),
    "arguments with an escape": ("run", "disk", "--args", "a\x1b[2J"),
    "entry beyond a title's length": ("run", "disk", "--entry", "e" * 1025),
    "time-out 0": ("run", "disk", "--timeout", "0"),
    "time-out -1": ("run", "disk", "--timeout", "-1"),
    "time-out nan": ("run", "disk", "--timeout", "nan"),
    "time-out inf": ("run", "disk", "--timeout", "inf"),
    "time-out 1e99": ("run", "disk", "--timeout", "1e99"),
    "time-out of a day and a bit": ("run", "disk", "--timeout", "86400.1"),
    "time-out as text": ("run", "disk", "--timeout", "\x1b[2Jsoon"),
    "time-out as nothing": ("inspect", "disk", "--timeout", ""),
    "menu without a terminal": ("run", "disk", "--interactive"),
    "doctor with a disk": ("doctor", "disk"),
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    ran = domward(*arguments)
    ran.error("usage")
    assert ran.out == ""


def test_json_where_the_arguments_are_wrong() -> None:
    ran = domward("run", "disk", "--json", "--timeout", "never")
    assert "never is not a number of seconds" in ran.error("usage")
    error = ran.json()["error"]
    assert error["code"] == "usage"
    assert "--help" in error["advice"]


def test_a_disk_called_json_asks_for_no_json() -> None:
    ran = domward("run", "--", "--json")
    ran.error("disk-not-found")
    assert ran.out == ""
