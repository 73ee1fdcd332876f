# SPDX-License-Identifier: GPL-3.0-or-later
"""`domward create` on a real Xen: guests are built, shown, started anew, taken away; and none outlives its daemon.

What dom0 did is in guests_in_dom0.py; each test here looks at one part of it.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.xen


@pytest.mark.check("created", "halts")
def test_a_guest_that_switches_itself_off_ends_its_operation(done: dict[str, Any]) -> None:
    assert done["code"] == 0, done
    assert done["line"] == "GUEST-MARKER-OK tiny xen"
    assert (done["operation"]["kind"], done["operation"]["outcome"]) == ("guest", "done")


@pytest.mark.check("created", "lives")
def test_a_guest_is_listed_attached_to_rebooted_and_destroyed(done: dict[str, Any]) -> None:
    assert done["code"] == 0, done
    first, second = done["domids"]
    assert done["operation"]["step"] == "running"
    assert done["first"] == done["second"] == "GUEST-MARKER-OK cmdline=console=hvc0 quiet lab=first"
    assert first != second
    assert "GUEST-MARKER-OK" in done["attached"]
    assert (done["destroyed"]["code"], done["after"]) == (0, ""), done


@pytest.mark.check("created", "lives")
def test_the_guest_cannot_say_where_its_console_is(done: dict[str, Any]) -> None:
    (node,) = (line for line in done["nodes"].splitlines() if line.startswith("tty ="))
    assert node.endswith(f"(n0,r{done['domids'][0]})"), done["nodes"]


@pytest.mark.check("created", "fails")
def test_a_guest_that_xl_cannot_build(done: dict[str, Any]) -> None:
    assert done["code"] == 1
    assert "domward: failed: xl could not build the guest: " in done["said"], done


@pytest.mark.check("created", "orphaned")
def test_no_guest_outlives_a_daemon_that_was_killed_and_the_next_one(done: dict[str, Any]) -> None:
    assert done["create"]["code"] == 0, done
    assert done["domids"] != [""]
    assert "domward: daemon-gone: " in done["said"]
    assert done["after"] == ["", ""]
    assert done["operation"]["outcome"] == "lost"


@pytest.mark.check("killed")
def test_a_daemon_killed_between_any_two_records_of_a_guests_beginning_leaves_nothing(done: dict[str, Any]) -> None:
    moments = {moment: seen for moment, seen in done.items() if isinstance(seen, dict)}
    assert len(moments) == 6
    for moment, seen in moments.items():
        assert (seen["left"], seen["domid"]) == ([], ""), (moment, seen)
        assert "domward: daemon-gone: " in seen["said"], (moment, seen)
        assert seen["operation"]["outcome"] == "lost", (moment, seen)
