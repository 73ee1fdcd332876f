# SPDX-License-Identifier: GPL-3.0-or-later
"""Row 26: a configuration is completed once, before any effect, and what operations use is what is shown."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.commands import domward
from support.planted import planted

from domward.protocol.errors import HelperDied, UsageError
from domward.protocol.layers import Layer
from domward.protocol.records import names_of
from domward.supervisor import BootRequest, Budgets, Config, Supervisor


def test_row_26_the_completed_form_has_every_setting_in_plain_values() -> None:
    completed = Config(optional_layers=frozenset({Layer.LANDLOCK}), log_directory=Path("/var/log/domward")).completed()
    assert completed.keys() == set(names_of(Config))
    assert completed["budgets"].keys() == set(names_of(Budgets))
    assert completed["optional_layers"] == ["landlock"]
    assert completed["log_directory"] == "/var/log/domward"
    assert None not in completed["budgets"].values()
    assert json.loads(json.dumps(completed)) == completed


def test_row_26_it_does_not_change_with_what_it_was_made_from() -> None:
    given: Any = {Layer.LANDLOCK}
    config = Config(optional_layers=given)
    before = config.completed()
    given.add(Layer.SECCOMP)
    assert config.completed() == before
    with pytest.raises(AttributeError):
        config.uid_base = 5  # type: ignore[misc] # the very point
    with pytest.raises(AttributeError):
        config.budgets.log_bytes = 5  # type: ignore[misc] # the very point


def test_row_26_operations_use_the_completed_form(tmp_path: Path) -> None:
    code = f"""
import json

note = os.open({str(tmp_path / "requests")!r}, os.O_WRONLY | os.O_CREAT)
kernel.close_from = lambda lowest: None  # it would close the note
spawn = launcher._spawn

def noted(channel, received, host):
    asked = received.message
    os.write(note, json.dumps([asked.address_space, asked.cpu_seconds, asked.uid, asked.file_bytes]).encode())
    return spawn(channel, received, host)

launcher._spawn = noted
launcher._RUN[HelperKind.BOOTLOADER] = lambda channel: os._exit(9)
"""
    budgets = Budgets(helper_address_space=1 << 29, helper_cpu_seconds=7, kernel_bytes=1 << 20, ramdisk_bytes=3 << 20)
    config = Config(uid_base=1_900_000_000, uid_count=1000, budgets=budgets, python=planted(tmp_path, code))
    completed = config.completed()

    async def main() -> None:
        disk = tmp_path / "disk"
        disk.write_bytes(bytes(4096))
        async with Supervisor(config) as supervisor:
            assert supervisor.config.completed() == completed
            with pytest.raises(HelperDied):
                await supervisor.run_bootloader(BootRequest(disk=disk))

    asyncio.run(main())
    address_space, cpu_seconds, uid, file_bytes = json.loads((tmp_path / "requests").read_text())
    assert address_space == completed["budgets"]["helper_address_space"]
    assert cpu_seconds == completed["budgets"]["helper_cpu_seconds"]
    assert uid in range(completed["uid_base"], completed["uid_base"] + completed["uid_count"])
    assert file_bytes == max(completed["budgets"]["kernel_bytes"], completed["budgets"]["ramdisk_bytes"])


BAD: dict[str, dict[str, Any]] = {
    "uid_base": {"uid_base": 0},
    "uid_count": {"uid_count": 2**33},
    "state_directory": {"state_directory": Path("relative")},
    "log_directory": {"log_directory": "/var/log"},
    "python": {"python": "python3"},
    "optional_layers": {"optional_layers": frozenset({"landlock"})},
}


@pytest.mark.parametrize("name", BAD)
def test_row_26_a_bad_value_has_no_effect_at_all(name: str, tmp_path: Path) -> None:
    given = {"state_directory": tmp_path / "state", "log_directory": tmp_path / "logs"} | BAD[name]
    with pytest.raises(UsageError, match=name):
        Supervisor(Config(**given))
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_row_26_a_bad_word_of_a_command_has_no_effect_at_all(tmp_path: Path) -> None:
    words = ("--output-dir", tmp_path / "out", "--interactive", "--log-dir", tmp_path / "logs")
    for bad in (("--timeout", "0"), ("--args", "a\nb"), ("--entry", "e" * 1025), ("--format", "vhd")):
        domward("run", "disk", *words, *bad).error("usage")
    assert [*tmp_path.iterdir()] == []


def test_row_26_the_doctor_shows_the_form_that_it_used() -> None:
    shown = domward("doctor", "--json").json()["config"]
    assert shown == Config().completed()
