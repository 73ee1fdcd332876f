# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 10: memory that runs out is one typed failure: of its operation in a helper, of the command in the parent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import SECONDS, EarlierOutput, Ran
from support.planted import planted

from domward.protocol.errors import OperationFailed
from domward.supervisor import BootRequest, Budgets, Config, Supervisor

# Where the parent's memory runs out: each is called by it in the course of a run.
PLACES = {
    "before the launcher is asked": "supervisor.Supervisor.host",
    "opening the sinks": "bootloader.open_sink",
    "making a helper": "helper.Helper.start",
    "looking at a helper": "helper.verify",
    "receiving": "helper.Helper.receive",
    "sealing": "bootloader.seal",
    "delivering": "cli.deliver",
    "reporting": "report.run_text",
}


def test_row_10_a_helper_without_memory_is_one_typed_failure_of_its_operation_alone(disk: Path, tmp_path: Path) -> None:
    code = """
reader, spawn, made = bootloader.run, launcher._spawn, []

def counted(*arguments):
    made.append(1)
    spawn(*arguments)

def work(channel):
    if len(made) % 2:  # every other helper
        kept = [bytearray(1 << 20)]
        while True:
            kept.append(bytearray(len(kept[-1]) * 2))
    return reader(channel)

launcher._spawn = counted
launcher._RUN[HelperKind.BOOTLOADER] = work
"""
    config = Config(python=planted(tmp_path, code), budgets=Budgets(helper_address_space=1 << 28))

    async def main() -> None:
        async with Supervisor(config) as supervisor:
            runs = [supervisor.run_bootloader(BootRequest(disk=disk)) for _ in range(6)]
            outcomes = await asyncio.gather(*runs, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            for outcome in outcomes:
                if not isinstance(outcome, BaseException):
                    outcome.close()
            assert len(failed) == len(outcomes) // 2
            for error in failed:
                assert isinstance(error, OperationFailed)
                assert "out of memory" in error.sentence
                assert error.operation.startswith("boot-")
                assert error.helper.startswith("bootloader ")

    asyncio.run(main())


@pytest.mark.parametrize("place", PLACES)
def test_row_10_a_parent_without_memory_stops_with_a_reason_and_ends_its_children(
    place: str, disk: Path, tmp_path: Path
) -> None:
    # A request that no machine can grant, so malloc fails for real and nothing else on the machine suffers.
    *owner, name = PLACES[place].split(".")
    code = f"""
import sys
from domward.supervisor import bootloader, cli, helper, report, supervisor

def starved(*arguments, **named):
    bytearray(1 << 60)

setattr({".".join(owner)}, {name!r}, starved)
sys.exit(cli.main(sys.argv[1:]))
"""
    earlier = EarlierOutput.made(tmp_path / "out")
    before = earlier.state()
    command = (sys.executable, "-I", "-c", code, "run", disk, "--output-dir", earlier.folder)
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL, check=False)
    ran = Ran(done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii"))
    assert "out of memory" in ran.error("out-of-memory")
    if place != "reporting":  # what was delivered by then stays
        assert earlier.state() == before
