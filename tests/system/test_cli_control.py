# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that go through the daemon, as people and programs use them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import COMMAND, domward
from support.daemons import SECONDS, RunningDaemon, daemon, public_folder, shown_by
from support.menu_terminal import DOWN, ENTER, MenuTerminal

from domward.protocol import limits
from domward.protocol.client import Screen
from domward.protocol.control import Resize
from domward.protocol.errors import OperationCancelled, ProtocolViolation

DETACH = b"\x1d"
MENU = Screen(menu_timeout=600)


@pytest.fixture
def running() -> Iterator[RunningDaemon]:
    with public_folder() as folder, daemon(folder) as started:
        yield started


@contextlib.contextmanager
def terminal(running: RunningDaemon, *words: str | Path) -> Iterator[MenuTerminal]:
    found = MenuTerminal((*COMMAND, *words, "--socket", running.socket), 80, 24)
    try:
        yield found
    finally:
        found.close()
        for number in (found.master, found.slave):
            if number >= 0:
                os.close(number)


def test_run_and_inspect_give_what_they_give_without_the_daemon(
    running: RunningDaemon, disk: Path, tmp_path: Path
) -> None:
    by_daemon = ("--daemon", "--socket", running.socket)
    assert domward("inspect", disk, *by_daemon).out == domward("inspect", disk, "--no-audit").out
    ours = domward("run", disk, "--json", "--output-dir", tmp_path / "ours", "--no-audit").json()
    theirs = domward("run", disk, "--json", "--output-dir", tmp_path / "theirs", *by_daemon).json()
    for name in ("kernel", "ramdisk", "args"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert {key: ours[key] for key in ("title", "args", "source")} == {
        key: theirs[key] for key in ("title", "args", "source")
    }
    assert ours["kernel"]["sha256"] == theirs["kernel"]["sha256"]


def test_lists_and_shows_for_people_and_for_programs(running: RunningDaemon, disk: Path) -> None:
    socket = ("--socket", running.socket)
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=MENU, label="db \x1b[2J")
        shown_by(client, submitted.operation, b"Debian")
        heading, row = domward("list", *socket).out.splitlines()
        assert heading.split() == ["OPERATION", "STATE", "STEP", "USER", "SINCE", "SECONDS", "OUTCOME", "LABEL"]
        assert row.split()[:4] == [submitted.operation, "running", "menu", "root"]
        assert row.endswith(r"db \x1b[2J")
        (found,) = domward("list", "--json", *socket).json()["operations"]
        assert (found["operation"], found["state"], found["console"]) == (submitted.operation, "running", True)
        assert submitted.operation in domward("show", submitted.operation[-6:], *socket).out
        domward("show", "", *socket).error("usage")
        ran = domward("cancel", submitted.operation, *socket)
        assert (ran.code, ran.out) == (0, f"{submitted.operation} is over.\n")
        with pytest.raises(OperationCancelled):
            client.result(submitted)
    shown = domward("show", submitted.operation, "--json", *socket).json()
    assert (shown["outcome"], shown["steps"][0]["step"]) == ("cancelled", "disk")
    assert domward("list", *socket).out.count("\n") == 1
    assert "cancelled" in domward("list", "--all", *socket).out


def test_attach_shows_types_detaches_and_gives_the_terminal_back(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=MENU)
        with terminal(running, "attach", submitted.operation) as first:
            first.until_shown("Boot menu (1 of 5)")
            assert first.modes() != first.modes_before
            first.press(DOWN)
            first.until_shown("Boot menu (2 of 5)")
            with terminal(running, "attach", submitted.operation) as second:  # which sees what was shown before
                second.until_shown("Boot menu (2 of 5)")
                first.press(DETACH)
                ran = first.finish()
                assert (ran.code, ran.out) == (0, f"{submitted.operation}: detached; it goes on.\n")
                assert first.modes() == first.modes_before
                second.press(ENTER)
                ran = second.finish()
                assert (ran.code, ran.out) == (0, f"{submitted.operation}: the console has ended.\n")
                assert second.modes() == second.modes_before
        with client.result(submitted) as booted:
            assert booted.kernel is not None


def test_a_console_has_the_size_that_all_who_are_attached_can_show(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=MENU)
        with terminal(running, "attach", submitted.operation) as first:
            first.until_shown("Enter: boot")
            first.resize(132, 43)
            assert "Enter: boot" in first.until_shown("Enter: boot").rows[42]
            mark = len(first.seen)
            with terminal(running, "attach", submitted.operation) as second:  # 80 columns, 24 rows
                first.cleared(mark, 132, 43)
                assert "Enter: boot" in first.until_shown("Enter: boot").rows[23]
                mark = len(first.seen)
                second.press(DETACH)
                assert second.process.wait(SECONDS) == 0
            first.cleared(mark, 132, 43)
            assert "Enter: boot" in first.until_shown("Enter: boot").rows[42]
            first.press(ENTER)
            assert first.finish().code == 0
        client.result(submitted).close()


def test_a_size_of_no_attach_or_beyond_reason(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=MENU)
        console, _shown = shown_by(client, submitted.operation, b"Debian")
        client.send(Resize(request=4000, columns=10, rows=10))  # as one that crosses the end of its attach
        client.resize(console, 1000, 1)
        client.keys(console, ENTER)
        client.result(submitted).close()
        with pytest.raises(ProtocolViolation, match="columns must be an integer from 1 to 1000"):
            client.resize(console, 1001, 24)


def test_attach_without_a_terminal_or_to_what_has_no_console(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno())
        client.result(submitted).close()
        sentence = domward("attach", submitted.operation, "--socket", running.socket).error("usage")
        assert "attach needs a terminal" in sentence
        with terminal(running, "attach", submitted.operation) as without:
            without.finish().error("usage")
            assert without.modes() == without.modes_before


def test_a_menu_through_the_daemon(running: RunningDaemon, disk: Path, tmp_path: Path) -> None:
    with terminal(running, "run", disk, "--daemon", "--interactive", "--output-dir", tmp_path / "out") as menu:
        menu.until_shown("Boot menu (1 of 5)")
        menu.press(DOWN + DOWN)
        menu.until_shown("Boot menu (3 of 5)")
        menu.press(ENTER)
        ran = menu.finish()
        assert menu.modes() == menu.modes_before
    assert ran.code == 0
    assert b"single" in (tmp_path / "out" / "args").read_bytes()


def test_a_run_that_is_detached_is_attached_to_and_waited_for_later(
    running: RunningDaemon, disk: Path, tmp_path: Path
) -> None:
    socket = ("--socket", running.socket)
    ran = domward("run", disk, "--detach", "--interactive", "--entry", "2", *socket)
    assert (ran.code, ran.err) == (0, "")
    name = ran.out.strip()
    with running.client() as client:
        info, _steps = client.show(name)
        assert (info.detached, info.console, info.outcome) == (True, True, "")
    with terminal(running, "attach", name) as attached:
        attached.until_shown("Boot menu (3 of 5)")
        attached.press(ENTER)
        assert attached.finish().code == 0
    waited = domward("wait", name, "--output-dir", tmp_path / "out", "--json", *socket)
    assert waited.code == 0
    assert waited.json()["operation"] == name
    assert (tmp_path / "out" / "args").read_bytes() == waited.json()["args"].encode()
    assert domward("wait", name[-6:], *socket).out.startswith("entry ")  # its files wait for a while


def test_an_inspection_is_detached_and_failures_are_told_by_wait(
    running: RunningDaemon, disk: Path, tmp_path: Path
) -> None:
    socket = ("--socket", running.socket)
    name = domward("inspect", disk, "--detach", "--json", *socket).json()["operation"]
    assert domward("wait", name, *socket).out == domward("inspect", disk, "--no-audit").out
    domward("wait", name, "--output-dir", tmp_path / "out", *socket).error("usage")
    domward("run", disk, "--detach", "--output-dir", tmp_path / "out", *socket).error("usage")
    (tmp_path / "blank").write_bytes(bytes(limits.MIB))
    name = domward("run", tmp_path / "blank", "--detach", *socket).out.strip()
    domward("wait", name, *socket).error("disk-no-filesystem")


def test_a_result_that_is_anothers_or_gone_is_said(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, disk.open("rb") as opened:
        client.result(client.run(opened.fileno())).close()
        (info,) = client.list(finished=True)
    sentence = domward("wait", info.operation, "--socket", running.socket).error("failed")
    assert "is done, and its result is not to be had" in sentence


def test_a_log_is_cleaned_unless_it_is_asked_for_raw(running: RunningDaemon, disk: Path) -> None:
    socket = ("--socket", running.socket)
    with running.client() as client, disk.open("rb") as opened:
        submitted = client.run(opened.fileno(), console=MENU)
        console, _shown = shown_by(client, submitted.operation, b"Debian")
        client.keys(console, ENTER)
        client.result(submitted).close()
    cleaned = domward("log", submitted.operation, *socket)
    assert "Boot menu (1 of 5)" in cleaned.out
    assert "\x1b" not in cleaned.out
    assert "\x1b[" in domward("log", submitted.operation, "--raw", *socket).out
    (kept,) = (running.folder / "logs" / "console").iterdir()
    assert domward("log", kept).out == cleaned.out


def test_watch_prints_a_line_a_change_on_a_pipe_and_a_table_on_a_terminal(running: RunningDaemon, disk: Path) -> None:
    command = (*COMMAND, "watch", "--socket", running.socket)
    with (
        running.client() as client,
        disk.open("rb") as opened,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as piped,
        terminal(running, "watch") as table,
    ):
        table.until_written(b"0 operations")
        submitted = client.run(opened.fileno(), console=MENU, label="watched")
        table.until_written(submitted.operation.encode())
        table.until_written(b"menu")
        client.cancel(submitted.operation)
        with pytest.raises(OperationCancelled):
            client.result(submitted)
        table.until_written(b"cancelled")
        table.press(b"\x03")
        assert table.process.wait(SECONDS) == 0
        assert piped.stdout is not None
        lines = []
        while not lines or b"cancelled" not in lines[-1]:
            lines.append(piped.stdout.readline())
        piped.send_signal(signal.SIGINT)
        assert piped.wait(SECONDS) == 0
        assert lines[-1].split()[0] == submitted.operation.encode()
        assert b"\x1b" not in b"".join(lines)


def test_metrics_are_printed(running: RunningDaemon) -> None:
    printed = domward("metrics", "--socket", running.socket).out
    assert printed.endswith("# EOF\n")
    for process in ("daemon", "launcher"):
        assert f'domward_process_resident_memory_bytes{{process="{process}"}} ' in printed


def test_a_command_that_is_interrupted_takes_its_operation_with_it(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client, terminal(running, "run", disk, "--daemon", "--interactive") as menu:
        menu.until_shown("Boot menu")
        (info,) = client.list()
        waiting = client.wait(info.operation)
        menu.send_signal(signal.SIGTERM)
        menu.finish().error("cancelled")
        with pytest.raises(OperationCancelled):
            client.result(waiting)


@pytest.mark.parametrize(
    "words",
    [("list",), ("show", "x"), ("wait", "x"), ("cancel", "x"), ("watch",), ("metrics",), ("log", "boot-000000000000")],
)
def test_without_a_daemon_each_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    ran = domward(*words, "--socket", tmp_path / "none")
    assert ran.code == 1
    assert ran.err.startswith("domward: daemon-gone: The daemon cannot be reached at ")
    assert ran.err.endswith("Is domwardd running?\n")


def test_errors_are_the_daemons_own(running: RunningDaemon, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    domward("run", tmp_path / "empty", "--daemon", "--socket", running.socket).error("disk-empty")
    ran = domward("run", tmp_path / "empty", "--daemon", "--socket", running.socket, "--json")
    assert json.loads(ran.out)["error"]["code"] == "disk-empty"
    ran = domward("cancel", "boot-000000000000", "--socket", running.socket)
    assert (ran.code, ran.err.split(":")[1]) == (2, " no-such-operation")
