# SPDX-License-Identifier: GPL-3.0-or-later
"""The crash matrix: at every moment of every kind of operation, every participant is killed or stopped, or the caller
or the operation is cancelled; and the supervisor itself is killed. Each cell ends in exactly one typed completion and
leaves nothing.

The rows are the moments that an undisturbed life is seen to have (`support.crash_points`), so a step that is added to
an operation gets its cells by itself; a state, a helper kind, a read step or a message that no life comes to fails
`test_every_state_step_and_message_has_its_row`. `pytest -rP` shows how the cells ended.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import prctl
import pytest
from support.crash_cells import (
    CONDITIONS,
    HANG_SECONDS,
    Cell,
    Outcome,
    cells_of,
    children,
    lease_taken,
    run,
    surroundings,
    table,
)
from support.crash_points import LIVES, VARIANTS, Variant, recorded, watched
from support.debian_kernel import DebianKernel
from support.disks import DiskFactory
from support.guests import debian_disk
from support.planted import planted
from support.programs import DELIVERS, script

from domward.protocol import limits
from domward.protocol.messages import HelperKind, ReadStep
from domward.supervisor import Budgets, Config, OperationState, Supervisor
from domward.supervisor.helper_states import ALLOWED, HelperState
from domward.supervisor.life_cycle import ORDERS

# Only what is stopped ends by time-out, which comes soon after it; another one shows a hang.
BUDGETS = Budgets(wall_seconds=30, term_grace_seconds=0.2)
# Cells that are lived through together: what is stopped waits.
AT_ONCE = {"kill": 8, "stop": 12, "cancel": 1}
VICTIMS_AT_ONCE = 4

# The moments that each variant has in its own way, also one that is like another one.
ENDINGS = {f"operation {state.value}" for state in (OperationState.ENDING, OperationState.DONE)}

# In which state a helper of each kind does its work; with the others every kind's life is complete.
WORK = {
    HelperKind.PTY: {HelperState.OPENING},
    HelperKind.DATACOPIER: {HelperState.COPYING},
    HelperKind.BOOTLOADER: {HelperState.READING, HelperState.INSPECTING},
    HelperKind.PROGRAM: {HelperState.RUNNING},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, disks: DiskFactory, kernel: DebianKernel) -> Path:
    """A disk that boots and one that does not; a bootloader program that does its work and one that does not."""
    made = tmp_path_factory.mktemp("crash")
    (made / "good").symlink_to(disks.build(debian_disk(kernel=kernel)))
    (made / "bad").write_bytes(bytes(65536))
    script(made / "program", DELIVERS)
    script(made / "program-that-fails", "exit 3")
    return made


@pytest.fixture(autouse=True)
def watching() -> Iterator[None]:
    with watched():
        yield


def configured(variant: Variant, tmp_path: Path) -> Config:
    """A supervisor's configuration, with leases of its own, so that what it holds can be told from others'."""
    places = {"state_directory": tmp_path / "state", "log_directory": tmp_path / "logs"}
    if variant.planted:
        places["python"] = planted(tmp_path, variant.planted)
    return Config(budgets=BUDGETS, **places)


Recorded = tuple[list[str], object]


@pytest.fixture(scope="module")
def lives() -> dict[str, Recorded]:
    """The undisturbed life of each variant, once it was lived: its moments and its ending."""
    return {}


async def undisturbed_life(lives: dict[str, Recorded], name: str, tmp_path: Path, folder: Path) -> Recorded:
    if name not in lives:
        variant = VARIANTS[name]
        lives[name] = await recorded(variant, configured(variant, tmp_path), folder)
    return lives[name]


async def own_moments(variant: Variant, lives: dict[str, Recorded], tmp_path: Path, folder: Path) -> list[str]:
    """The moments of a life that the one that it is like does not have, and those in which each ends in its own way."""
    seen, _ending = await undisturbed_life(lives, variant.name, tmp_path, folder)
    if not variant.like:
        return seen
    others, _ending = await undisturbed_life(lives, variant.like, tmp_path, folder)
    return [moment for moment in seen if moment in ENDINGS or moment not in others]


def test_every_state_step_and_message_has_its_row(lives: dict[str, Recorded], tmp_path: Path, folder: Path) -> None:
    async def main() -> set[str]:
        found: set[str] = set()
        for name in VARIANTS:
            seen, _ending = await undisturbed_life(lives, name, tmp_path, folder)
            found.update(seen)
        return found

    rows = asyncio.run(main())
    wanted = {f"operation {state.value}" for state in OperationState} | {f"step {step.value}" for step in ReadStep}
    life = {HelperState.STARTING, HelperState.IDLE, HelperState.ANSWERED, HelperState.DEAD}
    assert life.union(*WORK.values()) == set(HelperState), "a state that is nobody's"
    assert set(WORK) == set(HelperKind), "a kind without work"
    assert set().union(*WORK.values()) == set(ORDERS), "work that no kind has"
    for kind, work in WORK.items():
        for state in life | work:
            wanted.add(f"{kind.value} {state.value}")
            for message in ALLOWED[state]:
                steps = [f" {step.value}" for step in ReadStep] if message.NAME == "progress" else [""]
                wanted |= {f"{kind.value} sent {message.NAME}{step}" for step in steps}
    assert wanted - rows == set()


@pytest.mark.parametrize(
    ("name", "participant", "action"),
    [
        (name, *condition)
        for name, variant in VARIANTS.items()
        for condition in CONDITIONS
        if (variant.has_console or condition[0] not in ("pty", "datacopier"))
        and (variant.program or condition[0] != "program")
    ],
)
def test_each_cell_has_one_completion_and_leaves_nothing(
    name: str, participant: str, action: str, lives: dict[str, Recorded], tmp_path: Path, folder: Path
) -> None:
    async def main() -> list[Outcome]:
        variant = VARIANTS[name]
        moments, undisturbed = await undisturbed_life(lives, name, tmp_path, folder)
        own = await own_moments(variant, lives, tmp_path, folder)
        cells = cells_of(variant, moments, own, participant, action)
        config = configured(variant, tmp_path)
        lived = with_few_deaths_of_launchers if participant == "launcher" else in_one_supervisor
        return await lived(config, variant, cells, undisturbed, folder)

    outcomes = asyncio.run(main())
    print(table(outcomes))
    wrong = [f"{outcome}: {outcome.wrong}" for outcome in outcomes if outcome.wrong]
    assert not wrong, "\n".join(wrong)


def chunks(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    left = iter(cells)
    while chunk := list(islice(left, AT_ONCE[cells[0].action] if cells else 0)):
        yield chunk


async def in_one_supervisor(
    config: Config, variant: Variant, cells: Sequence[Cell], undisturbed: object, folder: Path
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    async with Supervisor(config) as supervisor:
        before = await surroundings()
        for chunk in chunks(cells):
            outcomes += await asyncio.gather(*(run(supervisor, variant, cell, undisturbed, folder) for cell in chunk))
            assert await surroundings() == before, [str(outcome) for outcome in outcomes[-len(chunk) :]]
            assert not lease_taken(config), [str(outcome) for outcome in outcomes[-len(chunk) :]]
        await works_as_ever(supervisor, variant, undisturbed, folder)
    return outcomes


async def with_few_deaths_of_launchers(
    config: Config, variant: Variant, cells: Sequence[Cell], undisturbed: object, folder: Path
) -> list[Outcome]:
    async def lived(group: Sequence[Cell]) -> list[Outcome]:
        async with Supervisor(config) as supervisor:
            found = []
            for cell in group:
                found.append(await run(supervisor, variant, cell, undisturbed, folder))
                await works_as_ever(supervisor, variant, undisturbed, folder)
            return found

    outcomes: list[Outcome] = []
    before = await surroundings()
    for chunk in chunks(cells):
        # One death less than a supervisor gives up at; what is stopped waits for its time-out at the same time.
        size = limits.LAUNCHER_DEATHS - 1 if chunk[0].action == "kill" else 1
        groups = [chunk[at : at + size] for at in range(0, len(chunk), size)]
        found = [outcome for group in await asyncio.gather(*map(lived, groups)) for outcome in group]
        outcomes += found
        assert await surroundings() == before, [str(outcome) for outcome in found]
        assert not lease_taken(config), [str(outcome) for outcome in found]
    return outcomes


async def works_as_ever(supervisor: Supervisor, variant: Variant, undisturbed: object, folder: Path) -> None:
    with variant.operation(supervisor, folder) as operation:
        (ending,) = await asyncio.gather(operation.complete(), return_exceptions=True)
    if hasattr(ending, "close"):
        ending.close()
    assert type(ending) is type(undisturbed), ending


# --- the supervisor's own death ---------------------------------------------------------------------------------


@pytest.fixture
def heir() -> Iterator[None]:
    """Makes this process the parent of whatever outlives a supervisor, so that all of it is seen."""
    prctl.set_child_subreaper(1)
    yield
    prctl.set_child_subreaper(0)


@pytest.mark.parametrize("name", LIVES)
def test_a_supervisor_that_is_killed_takes_everything_with_it(
    name: str, heir: None, lives: dict[str, Recorded], tmp_path: Path, folder: Path
) -> None:
    variant = VARIANTS[name]
    left = iter(asyncio.run(own_moments(variant, lives, tmp_path, folder)))
    while moments := list(islice(left, VICTIMS_AT_ONCE)):
        configs = [configured(variant, tmp_path / str(place)) for place in range(len(moments))]
        victims = [victim(variant, *pair, folder) for pair in zip(moments, configs, strict=True)]
        for process, moment in zip(victims, moments, strict=True):
            with process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"here\n", f"never came to {moment}"
                process.kill()
        reap(moments)
        assert [moment for moment, config in zip(moments, configs, strict=True) if lease_taken(config)] == []
        # The next victim with the same state directory is a fresh supervisor after a crash.
    asyncio.run(works_after(configs[0], variant, folder))


def victim(variant: Variant, moment: str, config: Config, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "support.crash_victim", variant.name, moment]
    tests = Path(__file__).parents[1]
    return subprocess.Popen(
        [*command, str(folder), str(config.state_directory)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )


def reap(moments: Sequence[str]) -> None:
    """Waits for every launcher and helper that the dead supervisors had: they end by themselves."""
    while left := children():
        pidfd = os.pidfd_open(left[0])
        try:
            ended = select.select([pidfd], [], [], HANG_SECONDS)[0]
            what = Path(f"/proc/{left[0]}/cmdline").read_bytes().decode().strip("\0")
            if not ended:
                os.kill(left[0], signal.SIGKILL)
            os.waitpid(left[0], 0)
        finally:
            os.close(pidfd)
        assert ended, f"{what} outlived its supervisor, which died at one of {moments}"


async def works_after(config: Config, variant: Variant, folder: Path) -> None:
    async with Supervisor(config) as supervisor:
        with variant.operation(supervisor, folder) as operation:
            result = await operation.complete()
            if hasattr(result, "close"):
                result.close()
