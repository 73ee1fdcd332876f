# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests through the daemon and its commands: as an administrator creates them, looks at them and ends them."""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import COMMAND, Ran, domward
from support.daemons import OPERATORS, SECONDS, RunningDaemon, daemon, helpers, public_folder, shown_by, until_dead
from support.disks import DiskFactory
from support.menu_terminal import ENTER, MenuTerminal
from support.tiny_guests import UUID, tiny_disk

from domward.protocol.client import Client, Submitted
from domward.protocol.control import OperationInfo
from domward.protocol.errors import OperationCancelled, RefusedError, UsageError
from domward.protocol.guests import Action, Death

QEMU = {"hypervisor": {"backend": "qemu", "accelerator": "tcg"}}
DETACH = b"\x1d"
DISK = b"vdev=xvda,format=raw,access=r,target=/guest.raw"
USER = 60_123


@pytest.fixture(scope="module")
def disk(disks: DiskFactory, kernel_bytes: bytes) -> Path:
    return disks.build(tiny_disk(kernel_bytes))


@pytest.fixture
def running() -> Iterator[RunningDaemon]:
    with public_folder() as folder, daemon(folder, QEMU) as started:
        yield started


@pytest.fixture
def config(disk: Path, tmp_path: Path) -> Path:
    file = tmp_path / "web.cfg"
    file.write_text(f'name = "web"\nuuid = "{UUID}"\nmemory = 32\ndisk = ["{disk},raw,xvda,r"]\nextra = "more"\n')
    return file


def command(running: RunningDaemon, *words: str | Path) -> Ran:
    return domward(*words, "--socket", running.socket)


def create(client: Client, disk: Path, label: str = "web", **changes: object) -> Submitted:
    with disk.open("rb") as opened:
        number = opened.fileno()
        members = {"uuid": UUID, "memory_mib": 32, "disks": [DISK]} | changes
        return client.create([number, number], label=label, **members)  # type: ignore[arg-type]  # each by its name


def typed(client: Client, submitted: Submitted, line: bytes, *, after: bytes = b"ready") -> None:
    console, _shown = shown_by(client, submitted.operation, after)
    client.keys(console, line + b"\n")


def test_a_guest_from_its_configuration_to_its_end(running: RunningDaemon, config: Path) -> None:
    created = command(running, "create", config, "--json").json()
    assert created == {"operation": created["operation"], "name": "web", "uuid": UUID, "domid": None}
    (found,) = command(running, "list", "--json").json()["operations"]
    assert (found["kind"], found["label"], found["state"], found["step"]) == ("guest", "web", "running", "running")
    assert (found["console"], found["detached"]) == (True, True)
    assert "step       " in command(running, "show", "web").out
    command(running, "create", config).error("name-taken")
    with running.client() as client:
        console, shown = shown_by(client, created["operation"], b"\n")
        assert shown == b"ready 32 quiet more console=ttyS0\n"
        waiting = client.wait(created["operation"])
        client.keys(console, b"poweroff\n")
        ended = client.ended(waiting)
        assert (ended.label, ended.death, ended.starts) == ("web", Death.POWEROFF, 1)
    assert command(running, "wait", created["operation"]).out == "web ended: poweroff, after 1 start(s).\n"
    assert command(running, "log", created["operation"]).out.startswith("ready 32 quiet more console=ttyS0")
    assert helpers() == []
    assert command(running, "create", config).out.startswith("web runs: guest-")
    assert command(running, "destroy", "web").out == "web is gone.\n"
    assert helpers() == []
    assert 'domward_operations_total{kind="guest",outcome="cancelled"} 1' in command(running, "metrics").out


def test_the_console_on_a_terminal_from_the_menu_to_the_guest(running: RunningDaemon, config: Path) -> None:
    words = (*COMMAND, "create", config, "-c", "--socket", running.socket)
    with contextlib.closing(MenuTerminal(words, 80, 24)) as menu:
        menu.until_shown("tiny")
        menu.press(ENTER)
        menu.until_written(b"ready 32 quiet more console=ttyS0")
        menu.press(b"hello\n")
        menu.until_written(b"heard hello")
        menu.press(DETACH)
        ran = menu.finish()
        assert (ran.code, ran.err) == (0, "")
        assert "web runs: guest-" in ran.out
    (found,) = command(running, "list", "--json").json()["operations"]
    assert (found["label"], found["step"]) == ("web", "running")
    assert command(running, "destroy", found["operation"]).code == 0


def test_a_client_that_goes_away_takes_its_guest_along_only_before_it_runs(running: RunningDaemon, disk: Path) -> None:
    with running.client() as client:
        operation = create(client, disk).operation
    with running.client() as client:
        with pytest.raises(OperationCancelled):
            client.created(client.wait(operation))
        submitted = create(client, disk)
        assert client.created(submitted).uuid == UUID
    with running.client() as client:
        (found,) = client.list()
        assert (found.operation, found.step) == (submitted.operation, "running")
        client.cancel(submitted.operation)
        with pytest.raises(OperationCancelled):
            client.ended(client.wait(submitted.operation))


def test_guests_that_run_take_no_turns_from_others(disk: Path) -> None:
    with (
        public_folder() as folder,
        daemon(folder, QEMU | {"operations": {"running": 1}}) as running,
        running.client() as client,
    ):
        guests = [create(client, disk, f"web-{number}") for number in range(3)]
        for guest in guests:
            client.created(guest)
        with disk.open("rb") as opened:
            client.result(client.run(opened.fileno())).close()
        assert 'domward_operations_live{state="guest"} 3' in client.metrics()
        assert len(client.list()) == 3
    assert helpers() == []  # the daemon's orderly end is theirs


def test_an_operator_creates_guests_of_disks_that_are_the_operators(running: RunningDaemon, disk: Path) -> None:
    mine = running.folder / "guest.raw"
    mine.write_bytes(disk.read_bytes())
    os.chown(mine, USER, USER)
    mine.chmod(0o600)

    def as_operator(client: Client) -> str:
        submitted = create(client, mine)
        client.created(submitted)
        with pytest.raises(RefusedError, match="Only root may name a bootloader by its path"):
            create(client, mine, "other", bootloader="/bin/true")
        return submitted.operation

    operation = running.as_user(USER, USER, as_operator, (OPERATORS[1],))

    def as_another(client: Client) -> list[OperationInfo]:
        for call in (client.cancel, client.attach):
            with pytest.raises(RefusedError):
                call(operation)
        return client.list()

    assert [info.uid for info in running.as_user(USER + 1, USER, as_another, (OPERATORS[1],))] == [USER]
    assert command(running, "destroy", "web").code == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"disks": [b"vdev=xvda,format=raw,access=w,target=/d"]}, "must be opened for reading and writing"),
        ({"disks": [b"vdev=xvda,format=vhd,access=r,target=/d"]}, "A disk cannot be used: A disk's format"),
        ({"disks": [b"\xff"]}, "A disk cannot be used"),
        ({"uuid": "web"}, "A guest's uuid"),
        ({"label": "a,b"}, "A guest's name has"),
        ({"label": ""}, "A guest's name has"),
        ({"bootloader_args": (b"--entry=1",)}, "takes no bootloader_args"),
        ({"ramdisk": b"/initrd"}, "only together with a kernel"),
    ],
)
def test_what_is_no_guest_is_refused_to_a_client_that_checked_nothing(
    running: RunningDaemon, disk: Path, changes: dict[str, object], sentence: str
) -> None:
    with running.client() as client:
        with pytest.raises(UsageError) as caught:
            client.created(create(client, disk, **changes))  # type: ignore[arg-type]  # as in `create`
        assert sentence in caught.value.sentence
        assert client.list() == []


def test_a_guest_without_disks_is_none(running: RunningDaemon, disk: Path) -> None:
    refused = pytest.raises(UsageError, match="A guest has 1 to 6 disks")
    with running.client() as client, disk.open("rb") as opened, refused:
        client.create([opened.fileno()], label="web", uuid=UUID, memory_mib=32, disks=[])


def test_a_guest_that_cannot_boot_is_told_why(running: RunningDaemon, config: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.raw"
    empty.write_bytes(bytes(1 << 20))
    config.write_text(f'name = "web"\nmemory = 32\ndisk = ["{empty},raw,xvda,w"]\n')
    sentence = command(running, "create", config).error("disk-no-filesystem")
    assert "guest-" in sentence
    config.write_text('name = "web"\nmemory = 32\ndisk = ["/nowhere,raw,xvda,w"]\n')
    command(running, "create", config).error("disk-not-found")
    config.write_text("vif = 1\n")
    assert f"{config}:1: vif is not in the subset" in command(running, "create", config).error("guest-config")
    assert command(running, "list").out.count("\n") == 1


def test_without_a_hypervisor_it_says_what_to_set(config: Path) -> None:
    with public_folder() as folder, daemon(folder) as running:
        sentence = command(running, "create", config).error("no-hypervisor")
        assert 'Set backend of [hypervisor] to "qemu"' in sentence
        command(running, "destroy", "web").error("usage")


def test_a_killed_daemon_takes_its_guests_along(folder: Path, disk: Path) -> None:
    with daemon(folder, QEMU) as running:
        client = running.client()
        client.created(create(client, disk))
        left = helpers()
        assert len(left) >= 2  # qemu and the relay
        running.process.kill()
        running.process.wait()
        until_dead(left)
        while left := helpers():
            until_dead(left)
        client.close()
    with daemon(folder, QEMU) as running, running.client() as client:
        (found,) = client.list(finished=True)
        assert (found.label, found.outcome) == ("web", "lost")
        client.created(create(client, disk))
        client.cancel(client.list()[0].operation)


@pytest.mark.parametrize("delay_ms", [20, 60, 120, 250])
def test_a_daemon_killed_while_it_builds_leaves_nothing(folder: Path, disk: Path, delay_ms: int) -> None:
    with daemon(folder, QEMU) as running:
        client = running.client()
        create(client, disk)
        select.select([], [], [], delay_ms / 1000)  # the moment is any: what is asserted holds for all
        running.process.kill()
        running.process.wait()
        while left := helpers():
            until_dead(left)
        client.close()
    with daemon(folder, QEMU) as running, running.client() as client:
        assert client.list() == []


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as made:
        yield made


def test_row_26_the_audit_log_has_a_guest_in_its_completed_form(folder: Path, disk: Path) -> None:
    log = folder / "audit.log"
    with daemon(folder, QEMU | {"files": {"audit_log": str(log)}}) as running, running.client() as client:
        submitted = create(client, disk, on_reboot=Action.DESTROY)  # the rest is not given
        client.created(submitted)
        typed(client, submitted, b"reboot")
        assert client.ended(client.wait(submitted.operation)).death is Death.REBOOT
    records = [json.loads(line) for line in log.read_text().splitlines()]
    mine = [record for record in records if record["operation"] == submitted.operation]
    assert {record["actor"]["pid"] for record in mine} == {os.getpid()}
    (request,) = (record for record in mine if record["event"] == "request")
    assert request["detail"]["guest"] == {
        "name": "web",
        "uuid": UUID,
        "memory_mib": 32,
        "vcpus": 1,
        "type": "pvh",
        "on_poweroff": "destroy",
        "on_reboot": "destroy",
        "on_crash": "destroy",
        "disks": [{"vdev": "xvda", "format": "raw", "writable": False, "path": "/guest.raw", "block_device": False}],
    }
    assert next(record["event"] for record in mine) == "request"
    booting = {record["detail"]["boot"] for record in mine if record["event"] == "guest-build"}
    assert {record["domain"]["name"] for record in records if record["operation"] in booting} == {"web"}


def test_a_terminal_that_hangs_up_leaves_the_guest(running: RunningDaemon, config: Path) -> None:
    words = (*COMMAND, "create", config, "--attach", "--socket", running.socket)
    with contextlib.closing(MenuTerminal(words, 80, 24)) as menu:
        menu.until_shown("tiny")
        menu.press(ENTER)
        menu.until_written(b"ready")
        menu.hang_up()
        menu.process.wait(SECONDS)
    (found,) = command(running, "list", "--json").json()["operations"]
    assert found["step"] == "running"
    command(running, "destroy", "web")
