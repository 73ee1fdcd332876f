# SPDX-License-Identifier: GPL-3.0-or-later
"""Each operation in a control group of its own, where this part of the tree is delegated; see `supervisor.cgroups`.

What the groups bound is seen under a kernel whose controllers are in the unified tree: tests/xen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.commands import domward
from support.daemons import daemon
from support.debian_kernel import DebianKernel
from support.delegated_group import delegated_group
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted
from support.programs import script

from domward.protocol.errors import ConfinementFailed, OperationCancelled
from domward.supervisor import BootRequest, Budgets, Config, Console, Supervisor
from domward.supervisor.cgroups import Group, Groups

WAITS = "sleep 600 & sleep 600 & echo started; wait"


@pytest.fixture
def delegated(tmp_path: Path) -> Iterator[Path]:
    """The group that is delegated to this process."""
    with delegated_group(tmp_path / "cgroups") as group:
        yield group


@pytest.fixture
def disk(disks: DiskFactory, kernel: DebianKernel) -> Path:
    """A guest's."""
    return disks.build(debian_disk("ext4", kernel=kernel))


def groups_in(folder: Path) -> list[Path]:
    return [*folder.glob("domward-*")]


def processes_in(group: Path) -> set[int]:
    return {int(pid) for pid in (group / "cgroup.procs").read_text().split()}


def test_an_operations_helpers_and_all_that_they_start_are_in_a_group_that_is_gone_with_it(
    delegated: Path, disk: Path, tmp_path: Path
) -> None:
    program = script(tmp_path / "loader", WAITS)
    screen, output = os.pipe()
    keys, typing = os.pipe()

    async def main() -> None:
        async with Supervisor() as supervisor:
            request = BootRequest(disk=disk, bootloader=program, console=Console(input=keys, output=output))
            operation = supervisor.bootloader_operation(request)
            operation.start()
            assert b"started" in await asyncio.to_thread(os.read, screen, 100)
            (group,) = groups_in(delegated)
            assert group.name == f"domward-{operation.id}"
            inside = processes_in(group)
            assert len(inside) == 5  # the relay, the collector, the script and what it started
            assert os.getpid() not in inside
            operation.cancel()
            with pytest.raises(OperationCancelled):
                await operation.wait()
            assert groups_in(delegated) == []
            assert not inside & {int(name) for name in os.listdir("/proc") if name.isdigit()}

    try:
        asyncio.run(main())
    finally:
        for number in (screen, output, keys, typing):
            os.close(number)


def test_results_of_several_at_once_come_as_without_groups(delegated: Path, disk: Path) -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            results = await asyncio.gather(*(supervisor.run_bootloader(BootRequest(disk=disk)) for _ in range(3)))
            assert len({result.kernel.sha256 for result in results}) == 1
            for result in results:
                result.close()

    asyncio.run(main())
    assert groups_in(delegated) == []


def test_what_is_left_in_a_group_is_killed_with_it(delegated: Path) -> None:
    group = new(delegated)
    if not (group.folder / "cgroup.kill").exists():
        pytest.skip("this kernel has no cgroup.kill")
    with subprocess.Popen(["sleep", "600"]) as sleeping:
        (group.folder / "cgroup.procs").write_text(str(sleeping.pid))
        assert group.holds(sleeping.pid)
        asyncio.run(group.close())
        assert sleeping.wait() == -signal.SIGKILL
    assert not group.folder.exists()


def test_a_helper_that_is_elsewhere_is_found_out(delegated: Path, disk: Path, tmp_path: Path) -> None:
    code = "real = kernel.clone_sibling\nkernel.clone_sibling = lambda namespaces, group=None: real(namespaces)"

    async def main() -> None:
        async with Supervisor(Config(python=planted(tmp_path, code))) as supervisor:
            with pytest.raises(ConfinementFailed, match="control group") as caught:
                await supervisor.inspect(disk)
            assert caught.value.step == "cgroup"

    asyncio.run(main())


def test_the_daemon_makes_room_for_groups_and_removes_those_of_a_killed_one(
    delegated: Path, disk: Path, tmp_path: Path
) -> None:
    lost = new(delegated)
    lost.fd.close()  # as with the death of its supervisor
    ours = new(delegated, "boot-ours")
    with ExitStack() as ending:
        sleeping = ending.enter_context(subprocess.Popen(["sleep", "600"]))
        ending.callback(sleeping.kill)
        (lost.folder / "cgroup.procs").write_text(str(sleeping.pid))
        with daemon(tmp_path) as running, running.client() as client:
            leaf = delegated / "supervisor"
            assert len(processes_in(leaf)) == 2  # the daemon and its launcher
            assert os.getpid() not in processes_in(leaf)
            if (ours.folder / "cgroup.kill").exists():
                assert sleeping.wait() == -signal.SIGKILL
            with disk.open("rb") as file:
                client.result(client.run(file.fileno())).close()
            left = {group.name for group in groups_in(delegated)} - {lost.folder.name}
            assert left == {ours.folder.name}
            assert lost.folder.exists() is not (ours.folder / "cgroup.kill").exists()
    asyncio.run(ours.close())


def test_a_group_that_nobody_delegated_is_left_alone(delegated: Path, disk: Path) -> None:
    os.removexattr(delegated, "trusted.delegate")
    assert Groups.delegated() is None
    assert domward("inspect", disk).code == 0
    assert [path for path in delegated.iterdir() if path.is_dir()] == []


def test_doctor_says_what_is_there(delegated: Path) -> None:
    def features() -> dict[str, bool]:
        return {one["feature"]: one["present"] for one in domward("doctor", "--json").json()["features"]}

    assert features()["cgroup-v2-delegated"] is True
    os.removexattr(delegated, "trusted.delegate")
    assert features()["cgroup-v2-delegated"] is False


def new(delegated: Path, name: str = "boot-test") -> Group:
    """A group without an operation."""
    groups = Groups.delegated()
    assert groups is not None
    assert groups.folder.samefile(delegated)
    return groups.new(name, Budgets())
