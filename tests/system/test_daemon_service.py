# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon as a service: what it tells systemd and takes from it, its settings, its signals, its end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.daemons import SECONDS, daemon, settings_text, shown_by

from domward.protocol import control
from domward.protocol.client import Screen
from domward.protocol.errors import OperationCancelled, UsageError


def domwardd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "domward.supervisor.daemon", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)


def test_ready_watchdog_reload_and_stop_are_told(folder: Path) -> None:
    with daemon(folder, environment={"WATCHDOG_USEC": "200000"}) as running:
        for _ in range(3):
            assert running.notices.until("WATCHDOG") == {"WATCHDOG": "1"}
        running.process.send_signal(signal.SIGHUP)
        assert int(running.notices.until("RELOADING")["MONOTONIC_USEC"]) > 0
        running.notices.until("READY")
        running.process.send_signal(signal.SIGTERM)
        running.notices.until("STOPPING")
        assert running.process.wait(SECONDS) == 0


def test_a_watchdog_that_is_another_processs_is_none_of_ours(folder: Path) -> None:
    with daemon(folder, environment={"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}) as running:
        running.process.send_signal(signal.SIGTERM)
        assert set(running.notices.next()) == {"STOPPING", "STATUS"}


def test_nothing_of_the_environment_reaches_the_launcher(folder: Path) -> None:
    with daemon(folder, environment={"WATCHDOG_USEC": "60000000", "SECRET": "x"}) as running:
        (launcher,) = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        assert b"NOTIFY_SOCKET" not in Path("/proc", launcher, "environ").read_bytes()
        assert b"SECRET" not in Path("/proc", launcher, "environ").read_bytes()


def activated(number: int, *names: str) -> dict[str, Any]:
    """Arguments for `daemon`: fd `number` and those that follow are 3 and those that follow, as systemd has it."""
    moves = " ".join(f"{3 + place}<&{number + place}" for place in range(len(names)))
    script = f'exec env LISTEN_PID=$$ LISTEN_FDS={len(names)} LISTEN_FDNAMES={":".join(names)} "$@" {moves}'
    return {
        "before": ("/bin/bash", "-c", script, "bash"),
        "pass_fds": tuple(range(number, number + len(names))),
        "environment": {"ACTIVATED": "1"},
    }


def high_number(fd: int) -> int:
    """A copy of `fd` far from the numbers that systemd's fds get."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50)


def test_a_socket_of_systemds_is_served_and_not_removed(folder: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(str(folder / "control.sock"))
        (folder / "control.sock").chmod(0o666)
        listener.listen()
        early = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a client that connects before there is a daemon
        early.connect(str(folder / "control.sock"))
        number = high_number(listener.fileno())
        try:
            with daemon(folder, **activated(number, "domwardd.socket")) as running:
                early.send(b"\xc1")
                early.settimeout(SECONDS)
                assert b"protocol-violation" in early.recv(65536)
                with running.client() as client:
                    assert client.list() == []
        finally:
            os.close(number)
            early.close()
        assert (folder / "control.sock").is_socket()
    finally:
        listener.close()


def test_what_a_console_showed_is_there_after_a_restart(folder: Path, disk: Path) -> None:
    with disk.open("rb") as opened:
        with daemon(folder) as running, running.client() as client:
            operation = client.run(opened.fileno(), console=Screen(menu_timeout=600), label="kept").operation
            shown_by(client, operation, b"Debian GNU/Linux")
            assert running.notices.until("FDSTORE")["FDNAME"] == f"console-{operation}"
            kept = high_number(running.notices.stored[f"console-{operation}"])
        try:
            with (
                daemon(folder, **activated(kept, f"console-{operation}")) as running,
                running.client() as client,
            ):
                info, _steps = client.show(operation)
                assert (info.label, info.outcome, info.console) == ("kept", "cancelled", True)
                shown_by(client, operation, b"Debian GNU/Linux")
        finally:
            os.close(kept)


def test_a_console_outlives_a_daemon_that_is_killed(folder: Path, disk: Path) -> None:
    with disk.open("rb") as opened:
        with daemon(folder) as running, running.client() as client:
            operation = client.run(opened.fileno(), console=Screen(menu_timeout=600)).operation
            shown_by(client, operation, b"Debian GNU/Linux")
            running.notices.until("FDSTORE")
            kept = high_number(running.notices.stored[f"console-{operation}"])
            running.process.kill()
            running.process.wait()
        try:
            with (
                daemon(folder, **activated(kept, f"console-{operation}")) as running,
                running.client() as client,
            ):
                assert client.show(operation)[0].outcome == "lost"
                shown_by(client, operation, b"Debian GNU/Linux")
        finally:
            os.close(kept)


def test_the_position_in_the_audit_log_outlives_a_restart(folder: Path) -> None:
    log = folder / "audit" / "audit.log"
    settings = {"files": {"audit_log": str(log)}}
    kept = -1
    try:
        with daemon(folder, settings) as running:
            ((name, number),) = running.notices.stored.items()
            assert name.startswith("audit-")
            kept = high_number(number)
        restarted = activated(kept, name)
        with daemon(folder, settings, **restarted):
            pass
        last = json.loads(log.read_bytes().splitlines()[-1])
        position = json.loads(os.pread(kept, 256, 0))
        assert (position["seq"], position["hash"]) == (last["seq"], last["hash"])
        for file in log.parent.iterdir():  # the log and all that is beside it
            file.unlink()
        command = (*restarted["before"], sys.executable, "-I", "-m", "domward.supervisor.daemon", "--config")
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with notified:
            notified.bind(str(folder / "manager"))
            done = subprocess.run(
                (*command, folder / "domward.toml"), capture_output=True, text=True, pass_fds=(kept,), check=False,
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "manager")}, timeout=SECONDS,
            )  # fmt: skip
        assert done.returncode == 1
        assert f"domwardd: audit-unavailable: The audit log {log} ended with record {last['seq']} " in done.stderr
        assert not log.exists()
    finally:
        os.close(kept)


def test_a_stored_fd_that_holds_nonsense_is_let_go(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "nonsense").write_bytes(b"\xff" * 9000)
    with (tmp_path / "nonsense").open("rb") as file:
        number = high_number(file.fileno())
    try:
        with (
            daemon(folder, **activated(number, "console-boot-000000000000")) as running,
            running.client() as client,
        ):
            assert client.list(finished=True) == []
    finally:
        os.close(number)


def test_operations_end_with_a_typed_completion_when_the_daemon_stops(folder: Path, disk: Path) -> None:
    with disk.open("rb") as opened, daemon(folder) as running, running.client() as client:
        waiting = [client.run(opened.fileno(), console=Screen(menu_timeout=600)) for _ in range(3)]
        running.process.send_signal(signal.SIGTERM)
        for submitted in waiting:
            with pytest.raises(OperationCancelled) as caught:
                client.result(submitted)
            assert caught.value.operation == submitted.operation
        assert running.process.wait(SECONDS) == 0


def test_reloaded_settings_hold_for_what_begins_afterwards_and_wrong_ones_are_refused(folder: Path) -> None:
    with daemon(folder) as running, running.client() as client:
        (folder / "domward.toml").write_text(
            settings_text(folder, {"operations": {"live": 7}}) + "\n[budgets]\nx = 1\n"
        )
        with pytest.raises(UsageError, match=r"domward\.toml:\d+: There is no key x in \[budgets\]"):
            client.reload()
        running.process.send_signal(signal.SIGHUP)
        running.notices.until("READY")
        assert "the settings stay as they were" in running.log.read_text()
        (folder / "domward.toml").write_text(settings_text(folder, {"budgets": {"wall_seconds": 0.001}}))
        client.reload()
        submitted = client.inspect(os.fsencode(sys.executable))
        received = client.next_of(submitted.request, None)
        while received is not None and not isinstance(received.message, control.CallFailed):
            received = client.next_of(submitted.request, None)
        assert received is not None
        assert received.message.code == "timed-out"


def test_check_config_says_where_it_is_wrong(folder: Path) -> None:
    (folder / "domward.toml").write_text(settings_text(folder))
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "1.toml").write_text("[operations]\nrunning = 3\n")
    done = domwardd("--config", folder / "domward.toml", "--check-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.toml" in done.stdout
    (folder / "conf.d" / "1.toml").write_text("\n[operations]\nrunnin = 3\n")
    done = domwardd("--config", folder / "domward.toml", "--check-config")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"domwardd: settings: {folder}/conf.d/1.toml:3: There is no key runnin in [operations]. "
        "The nearest one is running; domward.toml(5) has all.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--config", "/none/x.toml"), "There is no /none/x.toml."), (("--nonsense",), "Unrecognized arguments")],
)
def test_wrong_arguments(arguments: tuple[str, ...], said: str) -> None:
    done = domwardd(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"domwardd: usage: {said}")


def test_a_socket_that_cannot_be_made_is_said(folder: Path) -> None:
    (folder / "control.sock").write_text("not a socket")
    (folder / "domward.toml").write_text(settings_text(folder))
    done = domwardd("--config", folder / "domward.toml")
    assert done.returncode == 1
    assert "domwardd: failed: The control socket " in done.stderr
    assert (folder / "control.sock").read_text() == "not a socket"


def test_counters_are_written_to_a_file_and_at_the_end_once_more(folder: Path, disk: Path) -> None:
    path = folder / "domward.prom"
    settings = {"metrics": {"file": str(path), "seconds": 3600}}
    with disk.open("rb") as opened, daemon(folder, settings) as running, running.client() as client:
        client.result(client.run(opened.fileno())).close()
        assert 'domward_operations_total{kind="boot",outcome="done"} 1' in client.metrics()
    assert 'domward_operations_total{kind="boot",outcome="done"} 1' in path.read_text()
    assert "domward_helpers_alive 0" in path.read_text()


def test_a_file_of_counters_that_cannot_be_written_is_logged_and_no_more(folder: Path) -> None:
    with daemon(folder, {"metrics": {"file": str(folder / "none" / "x.prom")}}) as running, running.client() as client:
        assert client.list() == []
    assert "cannot be written" in running.log.read_text()
