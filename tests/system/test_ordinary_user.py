# SPDX-License-Identifier: GPL-3.0-or-later
"""domward without root: every layer where the user has a range of uids, and a refusal that says why where not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import SECONDS, domward
from support.debian_kernel import DebianKernel
from support.delegated_group import delegated_group
from support.disks import DiskFactory
from support.flaky_disk import blocking_from, flaky_disk
from support.guests import debian_disk, extlinux_disk
from support.installation import ORDINARY, Installation
from support.menu_terminal import ENTER, menu_terminal
from support.ordinary_user import FIRST_SUBUID, SUBUIDS, OrdinaryUser

from domward.protocol.layers import LOST_WITHOUT, Layer

ALL = {layer.value for layer in Layer}
OF_THE_RANGE = range(FIRST_SUBUID, FIRST_SUBUID + SUBUIDS)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter, as pytest's own are not; `mine` in it is the ordinary user's."""
    with tempfile.TemporaryDirectory(prefix="ordinary-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "mine").mkdir(mode=0o700)
        os.chown(folder / "mine", ORDINARY, ORDINARY)
        yield folder


@pytest.fixture
def disk(open_folder: Path, disks: DiskFactory, kernel: DebianKernel) -> Path:
    """A disk image of the ordinary user's own."""
    path = disks.copy(debian_disk("ext4", kernel=kernel), open_folder / "mine" / "guest.img")
    os.chown(path, ORDINARY, ORDINARY)
    path.chmod(0o600)
    return path


def test_a_run_by_an_ordinary_user_has_every_layer_and_gives_the_same_bytes(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    output, log = disk.parent / "out", disk.parent / "audit.log"
    words = ("--json", "--output-dir", output, "--audit-log", log)
    found = everybodys.domward("run", disk, *words, uid=0, before=user.words).json()
    for helper in found["helpers"]:
        assert set(helper["layers"]) == ALL
    of_root = domward("run", disk, "--json", "--no-audit").json()
    assert [found[name]["sha256"] for name in ("kernel", "ramdisk")] == [
        of_root[name]["sha256"] for name in ("kernel", "ramdisk")
    ]
    for path in (output, *output.iterdir()):
        assert path.stat().st_uid == ORDINARY
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    # The record names the user, and not the root that the process is inside its namespace.
    actors = [json.loads(line)["actor"] for line in log.read_bytes().splitlines()]
    assert {(actor["uid"], actor["gid"]) for actor in actors} == {(ORDINARY, ORDINARY)}


def test_the_record_of_an_ordinary_users_runs_is_below_the_home_folder(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc", home=open_folder / "mine")
    ran = everybodys.domward("run", disk, uid=0, before=user.words)
    assert (ran.code, ran.err) == (0, "")
    log = open_folder / "mine" / ".local" / "state" / "domward" / "audit.log"
    assert log.stat().st_uid == ORDINARY
    assert json.loads(log.read_bytes().splitlines()[0])["actor"]["uid"] == ORDINARY


def test_a_run_by_an_ordinary_user_in_a_control_group_that_is_delegated_to_them(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    log = disk.parent / "audit.log"
    with delegated_group(open_folder / "cgroups", ORDINARY) as group:
        ran = everybodys.domward("run", disk, "--audit-log", log, uid=0, before=user.words)
        assert (ran.code, ran.err) == (0, "")
        assert not [path for path in group.iterdir() if path.is_dir()]
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    (opened,) = (record["detail"] for record in records if record["event"] == "supervisor-opened")
    assert opened["groups"] is not None


def test_inspecting_as_an_ordinary_user(everybodys: Installation, open_folder: Path, disk: Path) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    found = everybodys.domward("inspect", disk, "--json", "--no-audit", uid=0, before=user.words).json()
    assert found["entries"] == domward("inspect", disk, "--json", "--no-audit").json()["entries"]


def test_the_helpers_of_an_ordinary_user_seen_by_the_host(
    everybodys: Installation, open_folder: Path, disks: DiskFactory, kernel: DebianKernel
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    reached = threading.Event()
    image = disks.build(extlinux_disk(kernel=kernel))
    with (
        flaky_disk(open_folder, image, blocking_from(0, reached)) as flaky,
        subprocess.Popen([*user.words, *everybodys.command, "run", "--no-audit", flaky], stderr=subprocess.PIPE) as it,
    ):
        assert reached.wait(SECONDS)
        try:
            children = {child: status(child) for child in map(int, children_of(it.pid))}
            own = {child: seen for child, seen in children.items() if int(seen["Uid"].split()[0]) == ORDINARY}
            helpers = {child: seen for child, seen in children.items() if child not in own}
            (launcher,) = own.values()
            (helper,) = helpers.values()
            assert len(set(helper["Uid"].split())) == 1
            assert int(helper["Uid"].split()[0]) in OF_THE_RANGE
            assert int(helper["Gid"].split()[0]) in OF_THE_RANGE
            assert [helper[name] for name in ("Groups", "NoNewPrivs", "NSpid")] == [
                "", "1", f"{next(iter(helpers))}\t1"
            ]  # fmt: skip
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert int(helper[name], 16) == 0
            # What the privileged processes keep counts inside their user namespace alone.
            for process in (status(it.pid), launcher):
                assert process["NoNewPrivs"] == "1"
                assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) != 0
            ours = os.readlink("/proc/self/ns/user")
            assert all(os.readlink(f"/proc/{pid}/ns/user") != ours for pid in (it.pid, *children))
        finally:
            it.send_signal(signal.SIGTERM)
            assert it.wait(SECONDS) == 130


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_the_menu_of_an_ordinary_user(everybodys: Installation, open_folder: Path, disk: Path) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    command = (*user.words, *everybodys.command)
    with menu_terminal(disk, "--no-audit", "--json", command=command) as terminal:
        terminal.until_shown("Debian GNU/Linux")
        terminal.press(ENTER)
        ran = terminal.finish()
    assert (ran.code, ran.err) == (0, "")


def test_a_bootloader_program_is_refused_to_an_ordinary_user(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    words = ("--no-audit", "--bootloader", "/bin/true")
    ran = everybodys.domward("run", disk, *words, uid=0, before=user.words)
    assert "Only root can run a bootloader program" in ran.error("refused")


def test_a_disk_that_the_user_may_not_read_is_refused(
    everybodys: Installation, open_folder: Path, disk: Path, tmp_path: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    os.chown(disk, 0, 0)
    ran = everybodys.domward("run", disk, "--no-audit", uid=0, before=user.words)
    assert "may not be read by this user" in ran.error("refused")


# --- less than that ---------------------------------------------------------------------------------------------


def test_without_a_range_of_uids_a_run_is_refused_and_the_lost_layer_named(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc", with_range=False)
    sentence = everybodys.domward("run", disk, "--no-audit", uid=0, before=user.words).error("confinement-unavailable")
    assert f"lacks groups: {LOST_WITHOUT[Layer.GROUPS]}" in sentence
    assert "name groups, user as optional" in sentence


def test_without_a_range_of_uids_a_run_goes_on_where_that_is_named_as_optional(
    everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc", with_range=False)
    words = ("--no-audit", "--json", "--optional-layer", "user", "--optional-layer", "groups")
    found = everybodys.domward("run", disk, *words, uid=0, before=user.words).json()
    for helper in found["helpers"]:
        assert set(helper["layers"]) == ALL - {"user", "groups"}


@pytest.mark.parametrize(("with_range", "lost"), [(True, set()), (False, {"user", "groups"})])
def test_what_the_doctor_says_to_an_ordinary_user(
    with_range: bool, lost: set[str], everybodys: Installation, open_folder: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc", with_range=with_range)
    ran = everybodys.domward("doctor", "--json", uid=0, before=user.words)
    found = ran.json()
    assert {layer["layer"] for layer in found["layers"] if layer["state"] == "missing"} == lost
    assert found["usable"] is (not lost)
    assert ran.code == (4 if lost else 0)
    assert found["helpers"] == ["pty", "datacopier", "bootloader"]
    assert [process["state"] for process in found["processes"]] == ["cut", "cut"]
    assert found["config"]["state_directory"] == f"/run/user/{ORDINARY}/domward"


@pytest.mark.parametrize("command", ["run", "inspect", "doctor"])
def test_where_a_user_gets_no_user_namespace_everything_is_refused(
    command: str, everybodys: Installation, open_folder: Path, disk: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    words = () if command == "doctor" else (disk, "--no-audit", "--optional-layer", "user")
    ran = everybodys.domward(command, *words, uid=0, before=user.without("user"))
    sentence = ran.error("confinement-unavailable")
    assert "takes root, or a user namespace, and the kernel refuses it" in sentence
    assert "max_user_namespaces" in sentence


def test_where_a_user_gets_no_user_namespace_the_doctor_claims_nothing(
    everybodys: Installation, open_folder: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc")
    found = everybodys.domward("doctor", "--json", uid=0, before=user.without("user")).json()
    assert {layer["state"] for layer in found["layers"]} == {"unknown"}
    assert (found["usable"], found["helpers"]) == (False, [])
    assert found["problem"]["code"] == "confinement-unavailable"


# --- where it keeps its leases ----------------------------------------------------------------------------------


@pytest.fixture
def of_no_session() -> Iterator[Path]:
    """The folder of a user who has not logged in; it is gone afterwards."""
    folder = Path(f"/tmp/domward-{ORDINARY}")
    yield folder
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink()


def test_without_a_login_session_the_leases_are_in_a_folder_of_the_users_own(
    everybodys: Installation, open_folder: Path, disk: Path, of_no_session: Path
) -> None:
    user = OrdinaryUser.made(open_folder / "etc", logged_in=False)
    assert everybodys.domward("run", disk, "--no-audit", uid=0, before=user.words).code == 0
    found = of_no_session.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ORDINARY, 0o700)
    assert os.listdir(of_no_session) == ["uid-leases"]


@pytest.mark.parametrize("trap", ["another's folder", "a link", "open to all"])
def test_a_folder_that_somebody_else_put_there_is_refused(
    trap: str, everybodys: Installation, open_folder: Path, disk: Path, of_no_session: Path
) -> None:
    if trap == "a link":
        of_no_session.symlink_to(open_folder / "mine")
    else:
        of_no_session.mkdir()
        if trap == "open to all":
            os.chown(of_no_session, ORDINARY, ORDINARY)
            of_no_session.chmod(0o777)
    user = OrdinaryUser.made(open_folder / "etc", logged_in=False)
    ran = everybodys.domward("run", disk, "--no-audit", uid=0, before=user.words)
    assert "is not this user's alone" in ran.error("failed")
