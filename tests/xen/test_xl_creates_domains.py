# SPDX-License-Identifier: GPL-3.0-or-later
"""An unmodified `xl create` whose bootloader is domward-bootloader: domains boot, failures are told, nothing stays.

What dom0 did is in xl_in_dom0.py; each test here looks at one check of it.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.xen


def failed(done: dict[str, Any], code: str) -> None:
    """xl failed, and its log has our sentence."""
    assert done["code"] != 0
    assert f"domward: {code}: " in done["log"], done


@pytest.mark.check("menu")
def test_the_menu_is_on_the_domains_console_and_obeys_keys(done: dict[str, Any]) -> None:
    assert done["console"] == "GUEST-MARKER-OK cmdline=console=hvc0 quiet lab=second typed=yes"
    assert "Boot menu (2 of 2)" in done["log"]


@pytest.mark.check("restricted")
def test_libxls_restricted_mode_with_a_block_device_an_entry_and_more_arguments(done: dict[str, Any]) -> None:
    assert done["code"] == 0, done
    assert done["console"] == "GUEST-MARKER-OK cmdline=console=hvc0 quiet lab=second extra=yes"
    assert "Boot menu" not in done["log"]


@pytest.mark.check("pvh")
def test_a_pvh_guest_with_kernel_ramdisk_and_command_line_of_its_configuration(done: dict[str, Any]) -> None:
    assert done["code"] == 0, done
    assert done["console"] == "GUEST-MARKER-OK cmdline=console=hvc0 quiet given=yes"


@pytest.mark.check("with_daemon", "several")
def test_several_creates_at_once_with_the_daemon_that_comes_after_one_that_was_killed(done: dict[str, Any]) -> None:
    assert done["codes"] == [0, 0]
    assert done["consoles"] == ["GUEST-MARKER-OK tiny xen"] * 2


@pytest.mark.check("destroyed")
def test_a_domain_is_destroyed_while_its_menu_waits(done: dict[str, Any]) -> None:
    assert done["destroy"] == 0
    assert done["code"] != 0
    assert "bootloader failed" in done["said"]


@pytest.mark.check("with_daemon", "timed_out")
def test_a_menu_that_waits_longer_than_the_operation_may_take(done: dict[str, Any]) -> None:
    failed(done, "timed-out")


@pytest.mark.check("with_daemon", "killed")
def test_the_daemon_is_killed_while_a_menu_waits(done: dict[str, Any]) -> None:
    failed(done, "daemon-gone")


@pytest.mark.check("with_daemon", "libvirt")
def test_libvirt_creates_a_domain(done: dict[str, Any]) -> None:
    assert (done["code"], done["console"]) == (0, "GUEST-MARKER-OK tiny xen"), done


@pytest.mark.check("with_daemon", "served")
def test_the_daemon_does_the_work_and_sees_a_domain_die(done: dict[str, Any]) -> None:
    assert done["code"] == 0, done
    assert done["client"] == f"menu Domain {done['domid']} is gone. done cancelled"


@pytest.mark.check("with_daemon", "unbootable")
def test_a_disk_that_is_empty(done: dict[str, Any]) -> None:
    failed(done, "disk-no-filesystem")


@pytest.mark.check("with_daemon", "hostile")
def test_a_disk_that_is_damaged(done: dict[str, Any]) -> None:
    assert done["code"] != 0
    assert "domward: disk-" in done["log"], done
