# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log of a daemon: its clients are the actors, and runs beside it write the same log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.audit_logs import events, records
from support.audit_schema import faults_of
from support.commands import domward
from support.daemons import daemon
from support.programs import DELIVERS, script

from domward.protocol.errors import RefusedError

STRANGER = 64_123


def test_clients_are_the_actors_of_what_the_daemon_does(folder: Path, disk: Path) -> None:
    log = folder / "audit.log"
    program = script(folder / "boot", DELIVERS)
    with daemon(folder, {"files": {"audit_log": str(log)}}) as running:
        with running.client() as client, disk.open("rb") as opened:
            submitted = client.run(opened.fileno())
            client.result(submitted).close()
        with pytest.raises(RefusedError, match="may not use this daemon"):
            running.as_user(STRANGER, STRANGER, lambda client: client.list())
        assert domward("run", disk, "--audit-log", log, "--bootloader", program).code == 0
    assert domward("audit", "verify", log).code == 0
    assert faults_of(log) == []
    of_client = [record for record in records(log) if record["operation"] == submitted.operation]
    assert [record["event"] for record in of_client if record["event"] != "control"] == [
        "request",
        "helper-started",
        "fds-passed",
        "result",
        "completion",
    ]
    for record in of_client:
        assert (record["actor"]["pid"], record["actor"]["uid"]) == (os.getpid(), 0)
    ran = [record["operation"] for record in records(log) if record["event"] == "request"][1]
    of_program = [record for record in records(log) if record["operation"] == ran]
    orders = [record["detail"]["order"] for record in of_program if record["event"] == "fds-passed"]
    assert orders == ["open-ptys", "copy", "attach", "run-program"]
    placed = next(record["detail"]["fds"] for record in of_program if record["detail"].get("order") == "attach")
    assert [(fd["name"], fd["inode"]) for fd in placed] == [
        ("disk", disk.stat().st_ino),
        ("bootloader", program.stat().st_ino),
    ]
    assert [record["event"] for record in of_program][-3:] == ["bootloader-output", "result", "completion"]
    strangers = [record for record in records(log) if record["actor"]["uid"] == STRANGER]
    assert strangers
    assert {record["outcome"] for record in strangers} == {"refused"}
    assert events(log).count("supervisor-opened") == 2
    assert events(log)[-1] == "supervisor-closed"
